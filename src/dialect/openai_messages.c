/* SPDX-License-Identifier: Apache-2.0 */
/* The meaning of a list of OpenAI chat messages (wire names as in OpenAI's OpenAPI 2.3.0).
 *
 * One function per kind of part and one per role; a part that we have no word for is kept as it is,
 * and whoever cannot relay it refuses it by name. The hard thing is to name the place of a mistake
 * without paying for names while there is none: the reader remembers indexes only. */
#include "dialect/openai_messages.h"

#include "dialect/body.h"
#include "dialect/openai_custom.h"

struct reader {
    struct arena *arena;
    struct message *messages;
    size_t count;     /* messages read: the one in hand is messages[count] */
    const char *list; /* of its lists, the one in hand ("content"), or NULL */
    size_t item;
};

/* "messages[3].content[0].text"; `member` may be empty. */
static const char *place(const struct reader *r, const char *member)
{
    const char *dot = *member ? "." : "";
    const char *text = r->list ? arena_printf(r->arena, "messages[%zu].%s[%zu]%s%s", r->count,
                                              r->list, r->item, dot, member)
                               : arena_printf(r->arena, "messages[%zu]%s%s", r->count, dot, member);

    return text ? text : "messages";
}

static err_t bad_value(const struct reader *r, const char *member, const char *expected)
{
    const char *param = place(r, member);

    return body_bad("invalid_value", param, "Invalid '%s': expected %s.", param, expected);
}

static err_t missing(const struct reader *r, const char *member)
{
    const char *param = place(r, member);

    return body_bad("missing_required_parameter", param, "Missing required parameter: '%s'.",
                    param);
}

/* A member that must be a string. */
static err_t read_text(const struct reader *r, struct str value, const char *member,
                       struct str *out)
{
    if (json_kind(value) != JSON_STRING)
        return body_not_text(place(r, member), value);
    return json_text(value, r->arena, out) ? NULL : arena_err(r->arena);
}

/* A member that may be left out or null. */
static err_t read_text_if(const struct reader *r, struct str value, const char *member,
                          struct str *out)
{
    enum json_kind kind = json_kind(value);

    return kind == JSON_NONE || kind == JSON_NULL ? NULL : read_text(r, value, member, out);
}

static size_t count_items(struct str array)
{
    struct str item;
    size_t count = 0;

    for (size_t at = 0; json_array_next(array, &at, &item);)
        count++;
    return count;
}

/* ---- parts ---- */

bool openai_messages_split_data(struct str url, struct str *media_type, struct str *data)
{
    size_t comma = str_index(url, ',');
    struct str head = {url.ptr, comma};

    if (!str_starts(head, STR("data:")) || comma == url.len || !str_ends(head, STR(";base64")))
        return false;
    head = str_after(head, 5);
    *media_type = (struct str){head.ptr, str_index(head, ';')};
    *data = str_after(url, comma + 1);
    return true;
}

static err_t read_text_part(const struct reader *r, struct str value, struct part *out)
{
    out->kind = PART_TEXT;
    return read_text(r, json_get(value, STR("text")), "text", &out->text);
}

static err_t read_refusal_part(const struct reader *r, struct str value, struct part *out)
{
    out->kind = PART_REFUSAL;
    return read_text(r, json_get(value, STR("refusal")), "refusal", &out->text);
}

/* {"image_url":{"url","detail"}}; some callers write the URL in the object's place. */
static err_t read_image_part(const struct reader *r, struct str value, struct part *out)
{
    struct str image = json_get(value, STR("image_url")), url;

    out->kind = PART_IMAGE;
    if (json_kind(image) == JSON_OBJECT) {
        TRY(read_text_if(r, json_get(image, STR("detail")), "image_url.detail", &out->detail));
        TRY(read_text(r, json_get(image, STR("url")), "image_url.url", &url));
    } else {
        TRY(read_text(r, image, "image_url", &url));
    }
    if (openai_messages_split_data(url, &out->media_type, &out->data))
        return NULL;
    if (!str_starts(url, STR("https://")) && !str_starts(url, STR("http://")))
        return bad_value(r, "image_url", "an http or https URL, or data:…;base64,…");
    out->url = url;
    return NULL;
}

static err_t read_audio_part(const struct reader *r, struct str value, struct part *out)
{
    struct str audio = json_get(value, STR("input_audio")), format;
    const char *media_type;

    out->kind = PART_AUDIO;
    TRY(read_text(r, json_get(audio, STR("data")), "input_audio.data", &out->data));
    TRY(read_text(r, json_get(audio, STR("format")), "input_audio.format", &format));
    media_type = arena_printf(r->arena, "audio/%.*s", STR_ARG(format));
    out->media_type = str_from(media_type);
    return media_type ? NULL : arena_err(r->arena);
}

/* A file's content is a data URL; bare base64 is taken for PDF, the one kind that all know. */
static err_t read_file_part(const struct reader *r, struct str value, struct part *out)
{
    struct str file = json_get(value, STR("file")), data = {0};

    out->kind = PART_FILE;
    TRY(read_text_if(r, json_get(file, STR("filename")), "file.filename", &out->name));
    TRY(read_text_if(r, json_get(file, STR("file_id")), "file.file_id", &out->id));
    TRY(read_text_if(r, json_get(file, STR("file_data")), "file.file_data", &data));
    if (data.len == 0)
        return out->id.len ? NULL : missing(r, "file.file_data");
    if (openai_messages_split_data(data, &out->media_type, &out->data))
        return NULL;
    if (str_starts(data, STR("data:")))
        return bad_value(r, "file.file_data", "data:…;base64,…");
    out->media_type = STR("application/pdf");
    out->data = data;
    return NULL;
}

/* What may be kept in a provider's cache: an explicit breakpoint of OpenAI's, or, as an extension,
 * Anthropic's own word for it. */
static void read_cache_control(struct str value, struct part *out)
{
    struct str own = json_get(value, STR("cache_control"));

    if (json_kind(own) == JSON_OBJECT)
        out->cache_control = own;
    else if (json_kind(json_get(value, STR("prompt_cache_breakpoint"))) == JSON_OBJECT)
        out->cache_control = OPENAI_MESSAGES_BREAKPOINT;
}

void openai_messages_set_cache_ttl(struct prompt *prompt)
{
    struct str ttl = json_get(prompt->settings[SETTING_CACHE_OPTIONS], STR("ttl"));

    if (json_kind(ttl) != JSON_STRING || str_eq(ttl, STR("\"5m\"")))
        return;
    for (size_t i = 0; i < prompt->message_count; i++)
        for (size_t k = 0; k < prompt->messages[i].part_count; k++) {
            struct part *part = &prompt->messages[i].parts[k];
            if (str_eq(part->cache_control, OPENAI_MESSAGES_BREAKPOINT))
                part->cache_control = STR("{\"type\":\"ephemeral\",\"ttl\":\"1h\"}");
        }
}

static err_t read_part(const struct reader *r, struct str value, struct part *out)
{
    static const struct {
        const char *type;
        err_t (*read)(const struct reader *r, struct str value, struct part *out);
    } kinds[] = {
        {"text", read_text_part}, {"image_url", read_image_part},   {"refusal", read_refusal_part},
        {"file", read_file_part}, {"input_audio", read_audio_part},
    };
    struct str type;

    TRY(read_text(r, json_get(value, STR("type")), "type", &type));
    out->raw = value;
    read_cache_control(value, out);
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
        if (str_eq(type, str_from(kinds[i].type)))
            return kinds[i].read(r, value, out);
    out->kind = PART_OTHER;
    out->name = type;
    return NULL;
}

/* Text or parts, appended to what `parts` has; there is room. */
static err_t read_content(struct reader *r, struct str content, struct part *parts, size_t *count)
{
    struct str value;

    if (json_kind(content) == JSON_STRING) {
        parts[*count].kind = PART_TEXT;
        return read_text(r, content, "content", &parts[(*count)++].text);
    }
    r->list = "content";
    r->item = 0;
    for (size_t at = 0; json_array_next(content, &at, &value); r->item++)
        TRY(read_part(r, value, &parts[(*count)++]));
    r->list = NULL;
    return NULL;
}

/* ---- calls and their results ---- */

bool openai_messages_is_object(struct str text)
{
    struct json_member unused;
    size_t count;
    bool is_object;

    return !json_members_read(text, &unused, 1, &count, &is_object) && is_object;
}

/* Arguments are JSON as text: of an object, or empty for none. */
static err_t read_arguments(const struct reader *r, struct str value, const char *member,
                            struct str *out)
{
    TRY(read_text_if(r, value, member, out));
    *out = str_trim(*out);
    if (out->len == 0)
        *out = STR("{}");
    return openai_messages_is_object(*out) ? NULL
                                           : bad_value(r, member, "the JSON text of an object");
}

/* What Gemini signed, where its own OpenAI-compatible API has it. */
static err_t read_signature(const struct reader *r, struct str call, struct str *out)
{
    struct str google = json_get(json_get(call, STR("extra_content")), STR("google"));

    return read_text_if(r, json_get(google, STR("thought_signature")), "extra_content", out);
}

/* {"custom":{"name","input"}}: the input is a text. */
static err_t read_custom_call(const struct reader *r, struct str value, struct part *out)
{
    struct str custom = json_get(value, STR("custom")), input;

    out->kind = PART_TOOL_CALL;
    TRY(read_text(r, json_get(custom, STR("name")), "custom.name", &out->name));
    TRY(read_text(r, json_get(custom, STR("input")), "custom.input", &input));
    TRY(read_signature(r, value, &out->signature));
    return openai_custom_arguments(input, r->arena, &out->arguments);
}

static err_t read_tool_call(const struct reader *r, struct str value, struct part *out)
{
    struct str function = json_get(value, STR("function")), type = STR("function");

    TRY(read_text_if(r, json_get(value, STR("type")), "type", &type));
    out->raw = value;
    TRY(read_text(r, json_get(value, STR("id")), "id", &out->id));
    if (str_eq(type, STR("custom")))
        return read_custom_call(r, value, out);
    if (!str_eq(type, STR("function"))) {
        out->kind = PART_OTHER;
        out->name = type;
        return NULL;
    }
    out->kind = PART_TOOL_CALL;
    TRY(read_text(r, json_get(function, STR("name")), "function.name", &out->name));
    TRY(read_signature(r, value, &out->signature));
    return read_arguments(r, json_get(function, STR("arguments")), "function.arguments",
                          &out->arguments);
}

static err_t read_tool_calls(struct reader *r, struct str calls, struct part *parts, size_t *count)
{
    struct str value;

    if (json_kind(calls) == JSON_NONE || json_kind(calls) == JSON_NULL)
        return NULL;
    if (json_kind(calls) != JSON_ARRAY)
        return body_wrong_type(place(r, "tool_calls"), "an array", calls);
    r->list = "tool_calls";
    r->item = 0;
    for (size_t at = 0; json_array_next(calls, &at, &value); r->item++)
        TRY(read_tool_call(r, value, &parts[(*count)++]));
    r->list = NULL;
    return NULL;
}

/* The old form of one call, which has no id. */
static err_t read_function_call(const struct reader *r, struct str value, struct part *parts,
                                size_t *count)
{
    struct part *out = &parts[*count];
    const char *id;

    if (json_kind(value) == JSON_NONE || json_kind(value) == JSON_NULL)
        return NULL;
    (*count)++;
    out->kind = PART_TOOL_CALL;
    TRY(read_text(r, json_get(value, STR("name")), "function_call.name", &out->name));
    TRY(read_arguments(r, json_get(value, STR("arguments")), "function_call.arguments",
                       &out->arguments));
    id = arena_printf(r->arena, "call_%.*s_%zu", STR_ARG(out->name), r->count);
    out->id = str_from(id);
    return id ? NULL : arena_err(r->arena);
}

/* The last call before the message in hand that has this id, or, without one, this name. */
static const struct part *find_call(const struct reader *r, struct str id, struct str name)
{
    for (size_t i = r->count; i-- > 0;)
        for (size_t k = r->messages[i].part_count; k-- > 0;) {
            const struct part *part = &r->messages[i].parts[k];
            if (part->kind == PART_TOOL_CALL &&
                (id.len ? str_eq(part->id, id) : str_eq(part->name, name)))
                return part;
        }
    return NULL;
}

/* ---- messages ---- */

/* What a message is made of, before its role says what that means. */
struct fields {
    struct str role, content, name, refusal, tool_calls, tool_call_id, function_call, reasoning;
};

static struct fields read_fields(struct str message)
{
    struct fields f = {0};
    struct json_member m;
    const struct {
        struct str key;
        struct str *value;
    } known[] = {
        {STR("role"), &f.role},
        {STR("content"), &f.content},
        {STR("name"), &f.name},
        {STR("refusal"), &f.refusal},
        {STR("tool_calls"), &f.tool_calls},
        {STR("tool_call_id"), &f.tool_call_id},
        {STR("function_call"), &f.function_call},
        {STR("reasoning"), &f.reasoning},
        {STR("reasoning_content"), &f.reasoning},
    };

    for (size_t at = 0; json_object_next(message, &at, &m);)
        for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
            if (json_key_is(&m, known[i].key))
                *known[i].value = m.value;
    return f;
}

static bool is_given(struct str value)
{
    return json_kind(value) != JSON_NONE && json_kind(value) != JSON_NULL;
}

/* Reasoning (an extension of many servers), what was said, what was refused, what was called. */
static err_t read_assistant(struct reader *r, const struct fields *f, struct message *out)
{
    struct part *parts = out->parts;
    size_t *count = &out->part_count;

    if (json_kind(f->reasoning) == JSON_STRING && f->reasoning.len > 2) {
        parts[*count].kind = PART_REASONING;
        TRY(read_text(r, f->reasoning, "reasoning_content", &parts[(*count)++].text));
    }
    if (is_given(f->content))
        TRY(read_content(r, f->content, parts, count));
    if (is_given(f->refusal)) {
        parts[*count].kind = PART_REFUSAL;
        TRY(read_text(r, f->refusal, "refusal", &parts[(*count)++].text));
    }
    TRY(read_tool_calls(r, f->tool_calls, parts, count));
    return read_function_call(r, f->function_call, parts, count);
}

/* The result of a tool, or of a function in the old form, which goes by its name. */
static err_t read_result(struct reader *r, const struct fields *f, bool is_function,
                         struct message *out)
{
    struct part *result = &out->parts[0];
    const struct part *call;

    result->kind = PART_TOOL_RESULT;
    if (is_function)
        TRY(read_text(r, f->name, "name", &result->name));
    else
        TRY(read_text(r, f->tool_call_id, "tool_call_id", &result->id));
    call = find_call(r, result->id, result->name);
    if (call) {
        result->id = call->id;
        result->name = call->name;
    } else if (is_function) {
        result->id = result->name;
    }
    out->part_count = 1;
    result->parts = out->parts + 1;
    return is_given(f->content) ? read_content(r, f->content, result->parts, &result->part_count)
                                : missing(r, "content");
}

static err_t read_message(struct reader *r, struct str message, struct message *out)
{
    struct fields f = read_fields(message);
    bool is_function;
    struct str role;

    TRY(read_text(r, f.role, "role", &role));
    out->parts = arena_alloc_array(r->arena, count_items(f.content) + count_items(f.tool_calls) + 4,
                                   sizeof(*out->parts));
    if (!out->parts)
        return arena_err(r->arena);
    is_function = str_eq(role, STR("function"));
    if (is_function || str_eq(role, STR("tool"))) {
        out->role = ROLE_TOOL;
        return read_result(r, &f, is_function, out);
    }
    TRY(read_text_if(r, f.name, "name", &out->name));
    if (str_eq(role, STR("assistant"))) {
        out->role = ROLE_ASSISTANT;
        return read_assistant(r, &f, out);
    }
    if (!str_eq(role, STR("user")) && !str_eq(role, STR("system")) &&
        !str_eq(role, STR("developer")))
        return bad_value(r, "role", "'system', 'developer', 'user', 'assistant' or 'tool'");
    out->role = str_eq(role, STR("user")) ? ROLE_USER : ROLE_SYSTEM;
    return is_given(f.content) ? read_content(r, f.content, out->parts, &out->part_count)
                               : missing(r, "content");
}

err_t openai_messages_read(struct str messages, struct arena *arena, struct message **out,
                           size_t *count)
{
    struct reader r = {.arena = arena};
    struct str message;

    r.messages = arena_alloc_array(arena, count_items(messages) + 1, sizeof(*r.messages));
    if (!r.messages)
        return arena_err(arena);
    for (size_t at = 0; json_array_next(messages, &at, &message); r.count++) {
        r.list = NULL;
        TRY(read_message(&r, message, &r.messages[r.count]));
    }
    *out = r.messages;
    *count = r.count;
    return NULL;
}
