/* SPDX-License-Identifier: Apache-2.0 */
/* The meaning of a list of response items (wire names as in OpenAI's OpenAPI 2.3.0, InputItem).
 *
 * Items are smaller than messages: text, reasoning and each call of one turn of the model stand
 * side by side. What the model said in a row therefore becomes one message, as every other protocol
 * has it; results follow in messages of their own. An item that we have no word for is kept as it
 * is, and whoever cannot relay it refuses it by name.
 *
 * The hard thing is reasoning that another protocol's provider has signed. It goes out as an item's
 * encrypted_content behind a prefix of ours, and is taken apart here when it comes back, so that a
 * conversation may be continued by a caller who keeps it himself. */
#include "dialect/body.h"
#include "dialect/openai_custom.h"
#include "dialect/openai_messages.h"
#include "dialect/openai_responses.h"

struct reader {
    const struct chat_request *ask;
    struct arena *arena;
    struct message *messages;
    size_t count;
    size_t room;      /* parts that the last message can take */
    size_t item;      /* the item in hand is input[item] */
    const char *list; /* of its lists, the one in hand ("content"), or NULL */
    size_t element;
};

/* "input[3].content[0].text"; `member` may be empty. */
static const char *place(const struct reader *r, const char *member)
{
    const char *dot = *member ? "." : "";
    const char *text = r->list ? arena_printf(r->arena, "input[%zu].%s[%zu]%s%s", r->item, r->list,
                                              r->element, dot, member)
                               : arena_printf(r->arena, "input[%zu]%s%s", r->item, dot, member);

    return text ? text : "input";
}

static err_t bad_value(const struct reader *r, const char *member, const char *expected)
{
    const char *param = place(r, member);

    return body_bad("invalid_value", param, "Invalid '%s': expected %s.", param, expected);
}

static bool is_given(struct str value)
{
    return json_kind(value) != JSON_NONE && json_kind(value) != JSON_NULL;
}

/* A member that must be a string. */
static err_t read_text(const struct reader *r, struct str object, const char *member,
                       struct str *out)
{
    struct str value = json_get(object, str_from(member));

    if (json_kind(value) != JSON_STRING)
        return body_not_text(place(r, member), value);
    return json_text(value, r->arena, out) ? NULL : arena_err(r->arena);
}

/* A member that may be left out or null. */
static err_t read_text_if(const struct reader *r, struct str object, const char *member,
                          struct str *out)
{
    return is_given(json_get(object, str_from(member))) ? read_text(r, object, member, out) : NULL;
}

/* ---- messages under construction ---- */

static err_t begin_message(struct reader *r, enum message_role role, size_t room)
{
    struct message *m = &r->messages[r->count];

    m->role = role;
    m->parts = arena_alloc_array(r->arena, room ? room : 1, sizeof(*m->parts));
    if (!m->parts)
        return arena_err(r->arena);
    r->room = room;
    r->count++;
    return NULL;
}

/* Room for `more` parts of the assistant's: in his last message if nobody spoke since. */
static err_t continue_assistant(struct reader *r, size_t more, struct message **out)
{
    struct message *m = r->count ? &r->messages[r->count - 1] : NULL;
    struct part *parts;

    if (!m || m->role != ROLE_ASSISTANT) {
        TRY(begin_message(r, ROLE_ASSISTANT, more));
        *out = &r->messages[r->count - 1];
        return NULL;
    }
    *out = m;
    if (m->part_count + more <= r->room)
        return NULL;
    r->room = 2 * (m->part_count + more);
    parts = arena_alloc_array(r->arena, r->room, sizeof(*parts));
    if (!parts)
        return arena_err(r->arena);
    memcpy(parts, m->parts, m->part_count * sizeof(*parts));
    m->parts = parts;
    return NULL;
}

/* ---- parts of content ---- */

static err_t read_text_part(const struct reader *r, struct str value, struct part *out)
{
    out->kind = PART_TEXT;
    return read_text(r, value, "text", &out->text);
}

static err_t read_refusal_part(const struct reader *r, struct str value, struct part *out)
{
    out->kind = PART_REFUSAL;
    return read_text(r, value, "refusal", &out->text);
}

static err_t read_image_part(const struct reader *r, struct str value, struct part *out)
{
    struct str url = {0};

    TRY(read_text_if(r, value, "image_url", &url));
    TRY(read_text_if(r, value, "file_id", &out->id));
    TRY(read_text_if(r, value, "detail", &out->detail));
    if (url.len == 0 && out->id.len > 0) { /* a file that only one provider has */
        out->kind = PART_OTHER;
        out->name = STR("input_image.file_id");
        return NULL;
    }
    out->kind = PART_IMAGE;
    if (openai_messages_split_data(url, &out->media_type, &out->data))
        return NULL;
    if (!str_starts(url, STR("https://")) && !str_starts(url, STR("http://")))
        return bad_value(r, "image_url", "an http or https URL, or data:…;base64,…");
    out->url = url;
    return NULL;
}

/* A file's content is a data URL; bare base64 is taken for PDF, the one kind that all know. */
static err_t read_file_part(const struct reader *r, struct str value, struct part *out)
{
    struct str data = {0};

    out->kind = PART_FILE;
    TRY(read_text_if(r, value, "filename", &out->name));
    TRY(read_text_if(r, value, "file_id", &out->id));
    TRY(read_text_if(r, value, "file_url", &out->url));
    TRY(read_text_if(r, value, "file_data", &data));
    if (data.len == 0)
        return out->id.len || out->url.len
                   ? NULL
                   : bad_value(r, "file_data", "one of file_data, file_url and file_id");
    if (openai_messages_split_data(data, &out->media_type, &out->data))
        return NULL;
    if (str_starts(data, STR("data:")))
        return bad_value(r, "file_data", "data:…;base64,…");
    out->media_type = STR("application/pdf");
    out->data = data;
    return NULL;
}

static err_t read_audio_part(const struct reader *r, struct str value, struct part *out)
{
    struct str audio = json_get(value, STR("input_audio")), format;
    const char *media_type;

    out->kind = PART_AUDIO;
    TRY(read_text(r, audio, "data", &out->data));
    TRY(read_text(r, audio, "format", &format));
    media_type = arena_printf(r->arena, "audio/%.*s", STR_ARG(format));
    out->media_type = str_from(media_type);
    return media_type ? NULL : arena_err(r->arena);
}

static err_t read_part(const struct reader *r, struct str value, struct part *out)
{
    static const struct {
        const char *type;
        err_t (*read)(const struct reader *r, struct str value, struct part *out);
    } kinds[] = {
        {"input_text", read_text_part},   {"output_text", read_text_part},
        {"text", read_text_part},         {"input_image", read_image_part},
        {"input_file", read_file_part},   {"refusal", read_refusal_part},
        {"input_audio", read_audio_part},
    };
    struct str type;

    TRY(read_text(r, value, "type", &type));
    out->raw = value;
    if (json_kind(json_get(value, STR("prompt_cache_breakpoint"))) == JSON_OBJECT)
        out->cache_control = OPENAI_MESSAGES_BREAKPOINT;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
        if (str_eq(type, str_from(kinds[i].type)))
            return kinds[i].read(r, value, out);
    out->kind = PART_OTHER;
    out->name = type;
    return NULL;
}

/* How many parts a content or output has: text is one. */
static size_t count_parts(struct str content)
{
    struct str element;
    size_t count = 0;

    for (size_t at = 0; json_array_next(content, &at, &element);)
        count++;
    return json_kind(content) == JSON_STRING ? 1 : count;
}

/* Text or parts, appended to what `parts` has; there is room. */
static err_t read_content(struct reader *r, struct str item, const char *member, struct part *parts,
                          size_t *count)
{
    struct str content = json_get(item, str_from(member)), value;

    if (json_kind(content) == JSON_STRING) {
        parts[*count].kind = PART_TEXT;
        return read_text(r, item, member, &parts[(*count)++].text);
    }
    if (json_kind(content) != JSON_ARRAY)
        return body_wrong_type(place(r, member), "a string or an array of content parts", content);
    r->list = member;
    r->element = 0;
    for (size_t at = 0; json_array_next(content, &at, &value); r->element++)
        TRY(read_part(r, value, &parts[(*count)++]));
    r->list = NULL;
    return NULL;
}

/* ---- items ---- */

static err_t read_message(struct reader *r, struct str item)
{
    size_t count = count_parts(json_get(item, STR("content")));
    struct message *m;
    struct str role;

    TRY(read_text(r, item, "role", &role));
    if (str_eq(role, STR("assistant"))) {
        TRY(continue_assistant(r, count, &m));
        return read_content(r, item, "content", m->parts, &m->part_count);
    }
    if (!str_eq(role, STR("user")) && !str_eq(role, STR("system")) &&
        !str_eq(role, STR("developer")))
        return bad_value(r, "role", "'user', 'assistant', 'system' or 'developer'");
    TRY(begin_message(r, str_eq(role, STR("user")) ? ROLE_USER : ROLE_SYSTEM, count));
    m = &r->messages[r->count - 1];
    return read_content(r, item, "content", m->parts, &m->part_count);
}

/* What Gemini signed, which stands in its own place. */
static err_t read_signature(const struct reader *r, struct str item, struct part *part)
{
    struct str google = json_get(json_get(item, STR("extra_content")), STR("google"));

    return read_text_if(r, google, "thought_signature", &part->signature);
}

/* Arguments are JSON as text: of an object, or empty for none. A call that was cut off in an answer
 * was never made. */
static err_t read_call(struct reader *r, struct str item)
{
    struct message *m;
    struct part *part;

    if (str_eq(json_get(item, STR("status")), STR("\"incomplete\"")))
        return NULL;
    TRY(continue_assistant(r, 1, &m));
    part = &m->parts[m->part_count++];
    part->kind = PART_TOOL_CALL;
    part->raw = item;
    TRY(read_text(r, item, "call_id", &part->id));
    TRY(read_text(r, item, "name", &part->name));
    TRY(read_text_if(r, item, "arguments", &part->arguments));
    TRY(read_signature(r, item, part));
    part->arguments = str_trim(part->arguments);
    if (part->arguments.len == 0)
        part->arguments = STR("{}");
    return openai_messages_is_object(part->arguments)
               ? NULL
               : bad_value(r, "arguments", "the JSON text of an object");
}

/* A call of a tool whose input is a text. */
static err_t read_custom_call(struct reader *r, struct str item)
{
    struct message *m;
    struct part *part;
    struct str input;

    if (str_eq(json_get(item, STR("status")), STR("\"incomplete\"")))
        return NULL;
    TRY(continue_assistant(r, 1, &m));
    part = &m->parts[m->part_count++];
    part->kind = PART_TOOL_CALL;
    part->raw = item;
    TRY(read_text(r, item, "call_id", &part->id));
    TRY(read_text(r, item, "name", &part->name));
    TRY(read_text(r, item, "input", &input));
    TRY(read_signature(r, item, part));
    return openai_custom_arguments(input, r->arena, &part->arguments);
}

/* The name of the last call with this id, or an empty str. */
static struct str called_name(const struct reader *r, struct str id)
{
    for (size_t i = r->count; i-- > 0;)
        for (size_t k = r->messages[i].part_count; k-- > 0;) {
            const struct part *part = &r->messages[i].parts[k];
            if (part->kind == PART_TOOL_CALL && str_eq(part->id, id))
                return part->name;
        }
    return (struct str){0};
}

static err_t read_result(struct reader *r, struct str item)
{
    size_t count = count_parts(json_get(item, STR("output")));
    struct part *part;

    TRY(begin_message(r, ROLE_TOOL, count + 1));
    part = r->messages[r->count - 1].parts;
    r->messages[r->count - 1].part_count = 1;
    part->kind = PART_TOOL_RESULT;
    part->raw = item;
    part->parts = part + 1;
    TRY(read_text(r, item, "call_id", &part->id));
    part->name = called_name(r, part->id);
    return read_content(r, item, "output", part->parts, &part->part_count);
}

/* The texts of a list of parts, as paragraphs. */
static err_t join_texts(struct reader *r, struct str item, const char *member, struct str *out)
{
    struct str list = json_get(item, str_from(member)), value, text;
    char *joined = arena_alloc(r->arena, list.len); /* no text is longer than its JSON */
    size_t len = 0;

    if (!joined)
        return arena_err(r->arena);
    r->list = member;
    r->element = 0;
    for (size_t at = 0; json_array_next(list, &at, &value); r->element++) {
        TRY(read_text(r, value, "text", &text));
        memcpy(joined + len, len ? "\n\n" : "", len ? 2 : 0);
        len += len ? 2 : 0;
        memcpy(joined + len, text.ptr, text.len);
        len += text.len;
    }
    r->list = NULL;
    *out = (struct str){joined, len};
    return NULL;
}

/* What encrypted_content holds: a signature or hidden reasoning of another protocol behind our
 * prefix, or OpenAI's own, which goes with the item's id. */
static void read_secret(struct part *part, struct str secret)
{
    if (str_starts(secret, STR(RESPONSES_REDACTED))) {
        part->kind = PART_REDACTED;
        part->data = str_after(secret, sizeof(RESPONSES_REDACTED) - 1);
        part->id = (struct str){0};
    } else if (str_starts(secret, STR(RESPONSES_SIGNED))) {
        part->signature = str_after(secret, sizeof(RESPONSES_SIGNED) - 1);
        part->id = (struct str){0};
    } else {
        part->signature = secret;
    }
}

static err_t read_reasoning(struct reader *r, struct str item)
{
    struct str secret = {0};
    struct message *m;
    struct part *part;

    TRY(continue_assistant(r, 1, &m));
    part = &m->parts[m->part_count++];
    part->kind = PART_REASONING;
    part->raw = item;
    TRY(read_text_if(r, item, "id", &part->id));
    TRY(join_texts(r, item, "content", &part->text));
    if (part->text.len == 0)
        TRY(join_texts(r, item, "summary", &part->text));
    TRY(read_text_if(r, item, "encrypted_content", &secret));
    read_secret(part, secret);
    return NULL;
}

static err_t read_other(struct reader *r, struct str item, struct str type)
{
    struct message *m;
    struct part *part;

    TRY(continue_assistant(r, 1, &m));
    part = &m->parts[m->part_count++];
    part->kind = PART_OTHER;
    part->name = type;
    part->raw = item;
    return NULL;
}

static err_t read_item(struct reader *r, struct str item, bool is_reference);

/* An item that was kept: what the conversation has already is not repeated. */
static err_t read_reference(struct reader *r, struct str item)
{
    struct str id, found;

    TRY(read_text(r, item, "id", &id));
    if (responses_find_item(r->ask->history, id).ptr)
        return NULL;
    found = responses_find_item(r->ask->referenced, id);
    if (!found.ptr)
        return err_new_detail(ERR_BAD_REQUEST,
                              (.status = 404, .code = "item_not_found", .param = place(r, "id")),
                              "Item with id '%.*s' not found.", STR_ARG(id));
    return read_item(r, found, true);
}

static err_t read_item(struct reader *r, struct str item, bool is_reference)
{
    static const struct {
        const char *type;
        err_t (*read)(struct reader *r, struct str item);
    } kinds[] = {
        {"message", read_message},
        {"function_call", read_call},
        {"function_call_output", read_result},
        {"custom_tool_call", read_custom_call},
        {"custom_tool_call_output", read_result},
        {"reasoning", read_reasoning},
    };
    struct str type = STR("message");

    TRY(read_text_if(r, item, "type", &type));
    if (str_eq(type, STR("item_reference")) ||
        (!is_given(json_get(item, STR("type"))) && !is_given(json_get(item, STR("role")))))
        return is_reference ? bad_value(r, "type", "an item") : read_reference(r, item);
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
        if (str_eq(type, str_from(kinds[i].type)))
            return kinds[i].read(r, item);
    return read_other(r, item, type);
}

/* ---- the whole ---- */

struct str responses_find_item(struct str items, struct str id)
{
    struct str item, value;

    for (size_t at = 0; items.len && json_array_next(items, &at, &item);) {
        value = json_get(item, STR("id")); /* ids that we look for have nothing to escape */
        if (value.len == id.len + 2 && memcmp(value.ptr + 1, id.ptr, id.len) == 0)
            return item;
    }
    return (struct str){0};
}

/* A text in the place of a list of items. */
static err_t read_plain(struct reader *r, const char *member, enum message_role role)
{
    struct message *m;

    TRY(begin_message(r, role, 1));
    m = &r->messages[r->count - 1];
    m->part_count = 1;
    return json_text(body_get(r->ask, str_from(member)), r->arena, &m->parts[0].text)
               ? NULL
               : arena_err(r->arena);
}

err_t responses_read_items(const struct chat_request *ask, struct arena *arena, struct prompt *out)
{
    struct reader r = {.ask = ask, .arena = arena};
    struct str input = body_get(ask, STR("input")), item;

    r.messages = arena_alloc_array(arena, count_parts(ask->history) + count_parts(input) + 2,
                                   sizeof(*r.messages));
    if (!r.messages)
        return arena_err(arena);
    if (is_given(body_get(ask, STR("instructions"))))
        TRY(read_plain(&r, "instructions", ROLE_SYSTEM));
    for (size_t at = 0; ask->history.len && json_array_next(ask->history, &at, &item);)
        TRY(read_item(&r, item, true));
    if (json_kind(input) == JSON_STRING)
        TRY(read_plain(&r, "input", ROLE_USER));
    for (size_t at = 0; json_array_next(input, &at, &item); r.item++)
        TRY(read_item(&r, item, false));
    out->messages = r.messages;
    out->message_count = r.count;
    return NULL;
}
