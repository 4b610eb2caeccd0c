/* SPDX-License-Identifier: Apache-2.0 */
/* A prompt in the words of chat completions (OpenAI's OpenAPI 2.3.0), for requests that came in
 * another protocol.
 *
 * The hard thing is order. A tool's result stands in a message of its own right behind the calls,
 * and can be text only: images in it follow as a user's message, once all results have been
 * given. */
#include "base/buf.h"
#include "model/encode.h"
#include "model/provider_openai.h"

/* The longest body: a caller's 32 MiB with room for escapes. */
#define BODY_MAX_BYTES ((size_t)128 * 1024 * 1024)

/* The most stop sequences that OpenAI takes. */
#define MAX_STOPS 4

struct printer {
    struct encoding *encoding;
    const struct prompt *prompt;
    struct json_writer *w;
};

/* ---- parts ---- */

static void put_data_url(struct json_writer *w, const char *name, const struct part *part)
{
    json_name(w, name);
    json_open_text(w);
    json_more_text(w, STR("data:"));
    json_more_text(w, part->media_type);
    json_more_text(w, STR(";base64,"));
    json_more_text(w, part->data);
    json_close_text(w);
}

static void add_text_part(struct json_writer *w, struct str text)
{
    json_open_object(w);
    json_put_text(w, "type", STR("text"));
    json_put_text(w, "text", text);
    json_close_object(w);
}

static err_t add_image(struct printer *p, const struct part *part)
{
    struct json_writer *w = p->w;

    if (part->data.len == 0 && part->url.len == 0)
        return encode_refuse(p->encoding, STR("image"));
    json_open_object(w);
    json_put_text(w, "type", STR("image_url"));
    json_put_object(w, "image_url");
    if (part->data.len)
        put_data_url(w, "url", part);
    else
        json_put_text(w, "url", part->url);
    json_put_text_if(w, "detail", part->detail);
    json_close_object(w);
    json_close_object(w);
    return NULL;
}

/* Plain text needs no file; a file elsewhere has no word here. */
static err_t add_file(struct printer *p, const struct part *part)
{
    struct json_writer *w = p->w;

    if (part->text.len) {
        if (part->name.len)
            add_text_part(w, part->name);
        add_text_part(w, part->text);
        return NULL;
    }
    if (part->data.len == 0 && part->id.len == 0)
        return encode_refuse(p->encoding, STR("file_url"));
    json_open_object(w);
    json_put_text(w, "type", STR("file"));
    json_put_object(w, "file");
    if (part->data.len) {
        json_put_text(w, "filename", part->name.len ? part->name : STR("file"));
        put_data_url(w, "file_data", part);
    } else {
        json_put_text(w, "file_id", part->id);
    }
    json_close_object(w);
    json_close_object(w);
    return NULL;
}

static void add_audio(struct json_writer *w, const struct part *part)
{
    size_t slash = str_index(part->media_type, '/');

    json_open_object(w);
    json_put_text(w, "type", STR("input_audio"));
    json_put_object(w, "input_audio");
    json_put_text(w, "data", part->data);
    json_put_text(w, "format",
                  slash < part->media_type.len ? str_after(part->media_type, slash + 1)
                                               : part->media_type);
    json_close_object(w);
    json_close_object(w);
}

static err_t add_part(struct printer *p, const struct part *part)
{
    switch (part->kind) {
    case PART_TEXT:
    case PART_REFUSAL:
        add_text_part(p->w, part->text);
        return NULL;
    case PART_IMAGE:
        return add_image(p, part);
    case PART_FILE:
        return add_file(p, part);
    case PART_AUDIO:
        add_audio(p->w, part);
        return NULL;
    case PART_REASONING:
    case PART_REDACTED:
        return NULL;
    default:
        break;
    }
    if (p->encoding->ask->protocol == PROTOCOL_CHAT && part->raw.len) {
        json_add_raw(p->w, part->raw);
        return NULL;
    }
    return encode_refuse(p->encoding, part->name.len ? part->name : STR("content"));
}

/* How many of the parts are of a kind. */
static size_t count_kind(const struct part *parts, size_t count, enum part_kind kind)
{
    size_t found = 0;

    for (size_t i = 0; i < count; i++)
        found += parts[i].kind == kind;
    return found;
}

/* The texts among the parts as one string, `separator` between them. */
static void put_texts(struct printer *p, struct str prefix, const struct part *parts, size_t count,
                      struct str separator)
{
    struct str before = prefix;

    json_name(p->w, "content");
    json_open_text(p->w);
    for (size_t i = 0; i < count; i++) {
        if (parts[i].kind != PART_TEXT)
            continue;
        json_more_text(p->w, before);
        json_more_text(p->w, parts[i].text);
        before = separator;
    }
    json_close_text(p->w);
}

/* ---- messages ---- */

static void open_message(struct printer *p, const char *role, struct str name)
{
    json_open_object(p->w);
    json_put_text(p->w, "role", str_from(role));
    json_put_text_if(p->w, "name", name);
}

/* A single text, or only texts of the system, as a string, which every server takes; else parts. */
static err_t add_said(struct printer *p, const struct message *message)
{
    bool is_system = message->role == ROLE_SYSTEM;

    open_message(p, is_system ? "system" : "user", message->name);
    if (count_kind(message->parts, message->part_count, PART_TEXT) == message->part_count &&
        (is_system || message->part_count <= 1)) {
        put_texts(p, STR(""), message->parts, message->part_count, STR("\n"));
    } else {
        json_put_array(p->w, "content");
        for (size_t i = 0; i < message->part_count; i++)
            TRY(add_part(p, &message->parts[i]));
        json_close_array(p->w);
    }
    json_close_object(p->w);
    return NULL;
}

static void add_call(struct json_writer *w, const struct part *call)
{
    json_open_object(w);
    json_put_text(w, "id", call->id);
    json_put_text(w, "type", STR("function"));
    json_put_object(w, "function");
    json_put_text(w, "name", call->name);
    json_put_text(w, "arguments", call->arguments);
    json_close_object(w);
    json_close_object(w);
}

/* Reasoning goes back only to servers that are known to read it; elsewhere it is an unknown
 * member, and what was only thought is not part of the conversation. DeepSeek refuses calls without
 * it (api-docs.deepseek.com/guides/thinking_mode), and takes an empty one from whoever lost it. */
static void put_reasoning(struct printer *p, const struct message *message)
{
    const struct conf_provider *provider = p->encoding->provider;
    bool is_due = provider->reasoning_back == CONF_REASONING_CALLS &&
                  count_kind(message->parts, message->part_count, PART_TOOL_CALL) > 0;

    is_due |= provider->reasoning_back != CONF_REASONING_NEVER &&
              count_kind(message->parts, message->part_count, PART_REASONING) > 0;
    if (!is_due || provider->reasoning_field.len == 0)
        return;
    json_name(p->w, provider->reasoning_field.ptr);
    json_open_text(p->w);
    for (size_t i = 0; i < message->part_count; i++)
        if (message->parts[i].kind == PART_REASONING)
            json_more_text(p->w, message->parts[i].text);
    json_close_text(p->w);
}

static void put_refusals(struct printer *p, const struct message *message)
{
    if (count_kind(message->parts, message->part_count, PART_REFUSAL) == 0)
        return;
    json_name(p->w, "refusal");
    json_open_text(p->w);
    for (size_t i = 0; i < message->part_count; i++)
        if (message->parts[i].kind == PART_REFUSAL)
            json_more_text(p->w, message->parts[i].text);
    json_close_text(p->w);
}

/* Calls, and those that have no word of ours but came from a caller of this protocol: they have an id,
 * which parts of the content have not. */
static err_t put_calls(struct printer *p, const struct message *message)
{
    bool is_open = false;

    for (size_t i = 0; i < message->part_count; i++) {
        const struct part *part = &message->parts[i];
        bool is_raw = part->kind == PART_OTHER && part->id.len > 0 &&
                      p->encoding->ask->protocol == PROTOCOL_CHAT;
        if (part->kind != PART_TOOL_CALL && part->kind != PART_OTHER)
            continue;
        if (part->kind == PART_OTHER && !is_raw) {
            TRY(encode_refuse(p->encoding, part->name));
            continue;
        }
        if (!is_open)
            json_put_array(p->w, "tool_calls");
        is_open = true;
        if (is_raw)
            json_add_raw(p->w, part->raw);
        else
            add_call(p->w, part);
    }
    if (is_open)
        json_close_array(p->w);
    return NULL;
}

static err_t add_answered(struct printer *p, const struct message *message)
{
    const struct part *parts = message->parts;
    size_t count = message->part_count, texts = count_kind(parts, count, PART_TEXT);

    if (count_kind(parts, count, PART_REASONING) + count_kind(parts, count, PART_REDACTED) == count)
        return NULL; /* nothing but thoughts */
    open_message(p, "assistant", message->name);
    if (texts > 0)
        put_texts(p, STR(""), message->parts, message->part_count, STR(""));
    else
        json_put_null(p->w, "content");
    put_reasoning(p, message);
    put_refusals(p, message);
    TRY(put_calls(p, message));
    json_close_object(p->w);
    return NULL;
}

/* ---- results of tools ---- */

static void add_result(struct printer *p, const struct part *result)
{
    json_open_object(p->w);
    json_put_text(p->w, "role", STR("tool"));
    json_put_text(p->w, "tool_call_id", result->id);
    if (result->part_count > 0 && count_kind(result->parts, result->part_count, PART_TEXT) == 0)
        json_put_text(p->w, "content", STR("(see the next message of the user)"));
    else
        put_texts(p, result->is_error ? STR("Error: ") : STR(""), result->parts, result->part_count,
                  STR("\n"));
    json_close_object(p->w);
}

/* What the results of messages `from` to `to` hold besides text, as one message of the user. */
static err_t add_attachments(struct printer *p, size_t from, size_t to)
{
    bool is_open = false;

    for (size_t m = from; m < to; m++)
        for (size_t i = 0; i < p->prompt->messages[m].part_count; i++) {
            const struct part *result = &p->prompt->messages[m].parts[i];
            for (size_t k = 0; k < result->part_count; k++) {
                if (result->parts[k].kind == PART_TEXT)
                    continue;
                if (!is_open) {
                    open_message(p, "user", STR(""));
                    json_put_array(p->w, "content");
                }
                is_open = true;
                TRY(add_part(p, &result->parts[k]));
            }
        }
    if (is_open) {
        json_close_array(p->w);
        json_close_object(p->w);
    }
    return NULL;
}

/* A run of results, from message *at on, which becomes the message behind it. */
static err_t add_results(struct printer *p, size_t *at)
{
    size_t from = *at;

    for (; *at < p->prompt->message_count && p->prompt->messages[*at].role == ROLE_TOOL; ++*at) {
        const struct message *message = &p->prompt->messages[*at];
        for (size_t i = 0; i < message->part_count; i++)
            if (message->parts[i].kind == PART_TOOL_RESULT)
                add_result(p, &message->parts[i]);
    }
    return add_attachments(p, from, *at);
}

static err_t put_messages(struct printer *p)
{
    json_put_array(p->w, "messages");
    for (size_t i = 0; i < p->prompt->message_count;) {
        const struct message *message = &p->prompt->messages[i];
        if (message->role == ROLE_TOOL) {
            TRY(add_results(p, &i));
            continue;
        }
        TRY(message->role == ROLE_ASSISTANT ? add_answered(p, message) : add_said(p, message));
        i++;
    }
    if (p->encoding->prefill.len) {
        open_message(p, "assistant", STR(""));
        json_put_text(p->w, "content", p->encoding->prefill);
        json_close_object(p->w);
    }
    json_close_array(p->w);
    return NULL;
}

/* ---- tools ---- */

static err_t add_tool(struct printer *p, const struct tool *tool)
{
    struct json_writer *w = p->w;

    if (!tool->is_function && p->encoding->ask->protocol == PROTOCOL_CHAT) {
        json_add_raw(w, tool->raw);
        return NULL;
    }
    if (!tool->is_function)
        return encode_refuse(p->encoding, tool->name);
    json_open_object(w);
    json_put_text(w, "type", STR("function"));
    json_put_object(w, "function");
    json_put_text(w, "name", tool->name);
    json_put_text_if(w, "description", tool->description);
    json_put_raw(w, "parameters",
                 tool->parameters.len ? tool->parameters
                                      : STR("{\"type\":\"object\",\"properties\":{}}"));
    if (tool->strict.len)
        json_put_raw(w, "strict", tool->strict);
    json_close_object(w);
    json_close_object(w);
    return NULL;
}

static void put_tool_choice(struct json_writer *w, const struct prompt *prompt)
{
    static const char *const words[] = {
        [TOOL_AUTO] = "auto", [TOOL_NONE] = "none", [TOOL_REQUIRED] = "required"};

    if (prompt->tool_choice == TOOL_CHOICE_NONE_GIVEN)
        return;
    if (prompt->tool_choice != TOOL_NAMED) {
        json_put_text(w, "tool_choice", str_from(words[prompt->tool_choice]));
        return;
    }
    json_put_object(w, "tool_choice");
    json_put_text(w, "type", STR("function"));
    json_put_object(w, "function");
    json_put_text(w, "name", prompt->tool_name);
    json_close_object(w);
    json_close_object(w);
}

/* An empty list would be refused, and a choice makes sense only where there is one. */
static err_t put_tools(struct printer *p)
{
    size_t start = p->w->out->len;

    if (p->prompt->tool_count == 0)
        return NULL;
    json_put_array(p->w, "tools");
    for (size_t i = 0; i < p->prompt->tool_count; i++)
        TRY(add_tool(p, &p->prompt->tools[i]));
    if (!p->w->needs_comma) { /* all were dropped */
        p->w->out->len = start;
        p->w->needs_comma = true;
        return NULL;
    }
    json_close_array(p->w);
    put_tool_choice(p->w, p->prompt);
    if (p->prompt->is_one_tool_at_a_time)
        json_put_bool(p->w, "parallel_tool_calls", false);
    return NULL;
}

/* ---- what else is wanted ---- */

static void put_format(struct json_writer *w, const struct prompt *prompt)
{
    if (prompt->format == FORMAT_TEXT)
        return;
    json_put_object(w, "response_format");
    if (prompt->format == FORMAT_JSON) {
        json_put_text(w, "type", STR("json_object"));
    } else {
        json_put_text(w, "type", STR("json_schema"));
        json_put_object(w, "json_schema");
        json_put_text(w, "name", prompt->schema_name.len ? prompt->schema_name : STR("answer"));
        json_put_text_if(w, "description", prompt->schema_description);
        json_put_raw(w, "schema", prompt->schema);
        if (prompt->schema_strict.len)
            json_put_raw(w, "strict", prompt->schema_strict);
        json_close_object(w);
    }
    json_close_object(w);
}

static err_t put_stops(struct printer *p)
{
    size_t count = p->prompt->stop_count;

    if (count > MAX_STOPS && !p->encoding->provider->takes_extensions) {
        TRY(encode_refuse(p->encoding, STR("stop")));
        count = MAX_STOPS;
    }
    if (count == 0)
        return NULL;
    json_put_array(p->w, "stop");
    for (size_t i = 0; i < count; i++)
        json_add_text(p->w, p->prompt->stops[i]);
    json_close_array(p->w);
    return NULL;
}

/* The effort by name, or the one that a budget of tokens stands for. That thinking is switched off
 * is what most models assume anyway, and some refuse to hear it. */
static void put_effort(struct json_writer *w, const struct prompt *prompt)
{
    struct str effort = prompt->effort;

    if (effort.len == 0 && prompt->thinking_tokens > 0)
        effort = prompt->thinking_tokens <= 4096    ? STR("low")
                 : prompt->thinking_tokens <= 16384 ? STR("medium")
                                                    : STR("high");
    json_put_text_if(w, "reasoning_effort", effort);
}

/* Settings that need more than a name. */
static void put_made(struct printer *p)
{
    struct str limit = p->prompt->settings[SETTING_MAX_TOKENS];
    struct str tier = p->prompt->settings[SETTING_SERVICE_TIER];

    if (limit.ptr)
        json_put_raw(p->w,
                     p->encoding->provider->has_old_max_tokens ? "max_tokens"
                                                               : "max_completion_tokens",
                     limit);
    if (tier.ptr && !setting_is_default(SETTING_SERVICE_TIER, tier))
        json_put_raw(p->w, "service_tier",
                     str_eq(tier, STR("\"standard_only\"")) ? STR("\"default\"") : tier);
}

static err_t put_members(struct printer *p)
{
    struct json_writer *w = p->w;
    const struct chat_request *ask = p->encoding->ask;

    json_put_text(w, "model", p->encoding->model);
    TRY(put_messages(p));
    if (ask->is_stream) {
        json_put_bool(w, "stream", true);
        if (p->encoding->provider->stream_usage)
            json_put_raw(w, "stream_options", STR("{\"include_usage\":true}"));
    }
    put_made(p);
    TRY(encode_settings(p->encoding, p->prompt, PROTOCOL_CHAT, w));
    TRY(put_tools(p));
    put_format(w, p->prompt);
    TRY(put_stops(p));
    put_effort(w, p->prompt);
    return encode_extra(p->encoding, w);
}

err_t provider_openai_encode_prompt(struct encoding *encoding, const struct prompt *prompt)
{
    struct buf out = buf_make(MEM_REQUEST, BODY_MAX_BYTES);
    struct json_writer w = json_writer_make(&out);
    struct printer p = {encoding, prompt, &w};
    err_t err;

    json_open_object(&w);
    err = put_members(&p);
    json_close_object(&w);
    if (!err)
        err = encode_finish(encoding, &w, provider_openai_target(PROTOCOL_CHAT));
    buf_fini(&out);
    return err;
}
