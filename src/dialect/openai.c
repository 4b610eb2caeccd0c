/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's dialect: chat completions requests, and error objects.
 *
 * The body is read without building a tree: one strict pass gives the top-level members, and of
 * those only what every provider of this protocol would refuse is judged, so that the caller learns
 * at once and by name what is wrong. What we do not know is relayed; what could turn us against the
 * operator (another address, another key) is refused.
 *
 * The hard thing is to be strict without being wrong: a limit that differs between providers is
 * theirs to enforce. */
#include "dialect/openai.h"

#include "base/buf.h"

#define MAX_MESSAGES 10000

/* Shorthand for the one kind of error made here. */
#define bad(error_code, field, ...)                                                                \
    err_new_detail(ERR_BAD_REQUEST, (.code = (error_code), .param = (field)), __VA_ARGS__)

/* ---- rules for single members ---- */

enum rule {
    RULE_TEXT, /* a string */
    RULE_BOOL,
    RULE_COUNT,  /* an integer of at least `least` and at most `most` */
    RULE_NUMBER, /* a number within least … most */
    RULE_OBJECT,
    RULE_LIST,
    RULE_STOP,    /* a string or a list of strings */
    RULE_REFUSED, /* never accepted from callers */
};

/* What every provider agrees on. null is accepted wherever a member may be left out. */
static const struct {
    struct str name;
    enum rule rule;
    double least, most;
} rules[] = {
#define RULE(name, rule, least, most) {{name, sizeof(name) - 1}, RULE_##rule, least, most}
    RULE("stream", BOOL, 0, 0),
    RULE("stream_options", OBJECT, 0, 0),
    RULE("n", COUNT, 1, 128),
    RULE("max_tokens", COUNT, 0, 1e9),
    RULE("max_completion_tokens", COUNT, 0, 1e9),
    RULE("top_k", COUNT, -1, 1e9),
    RULE("top_logprobs", COUNT, 0, 1000),
    RULE("temperature", NUMBER, 0, 2),
    RULE("top_p", NUMBER, 0, 1),
    RULE("frequency_penalty", NUMBER, -2, 2),
    RULE("presence_penalty", NUMBER, -2, 2),
    RULE("logprobs", BOOL, 0, 0),
    RULE("stop", STOP, 0, 0),
    RULE("tools", LIST, 0, 0),
    RULE("response_format", OBJECT, 0, 0),
    RULE("user", TEXT, 0, 0),
    RULE("api_base", REFUSED, 0, 0),
    RULE("base_url", REFUSED, 0, 0),
    RULE("api_key", REFUSED, 0, 0),
    RULE("extra_headers", REFUSED, 0, 0),
#undef RULE
};

static const char *kind_name(struct str value)
{
    static const char *const names[] = {
        [JSON_NONE] = "nothing",    [JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array",
        [JSON_STRING] = "a string", [JSON_NUMBER] = "a number",  [JSON_TRUE] = "a boolean",
        [JSON_FALSE] = "a boolean", [JSON_NULL] = "null",
    };

    return names[json_kind(value)];
}

static err_t wrong_type(const char *name, const char *expected, struct str value)
{
    return bad("invalid_type", name, "Invalid type for '%s': expected %s, but got %s instead.",
               name, expected, kind_name(value));
}

/* A number within bounds; a count must be written as an exact integer. */
static err_t check_number(const char *name, struct str value, bool is_count, double least,
                          double most)
{
    double number;
    uint64_t integer;
    struct str digits = value;

    if (json_kind(value) != JSON_NUMBER)
        return wrong_type(name, is_count ? "an integer" : "a number", value);
    if (is_count && digits.ptr[0] == '-')
        digits = str_after(digits, 1);
    if (!json_double(value, &number) || (is_count && !json_u64(digits, &integer)) ||
        number < least || number > most)
        return bad("invalid_value", name,
                   "Invalid value for '%s': expected %s from %g to %g, got %.*s.", name,
                   is_count ? "an integer" : "a number", least, most,
                   (int)(value.len < 40 ? value.len : 40), value.ptr);
    return NULL;
}

static err_t check_stop(const char *name, struct str value)
{
    struct str element;

    if (json_kind(value) == JSON_STRING)
        return NULL;
    if (json_kind(value) != JSON_ARRAY)
        return wrong_type(name, "a string or an array of strings", value);
    for (size_t at = 0; json_array_next(value, &at, &element);)
        if (json_kind(element) != JSON_STRING)
            return wrong_type(name, "an array of strings", element);
    return NULL;
}

static err_t check_member(size_t i, struct str value)
{
    const char *name = rules[i].name.ptr;
    enum json_kind kind = json_kind(value);

    if (rules[i].rule == RULE_REFUSED)
        return bad("unsupported_parameter", name,
                   "Unsupported parameter: '%s' is not taken from callers.", name);
    if (kind == JSON_NULL)
        return NULL;
    switch (rules[i].rule) {
    case RULE_TEXT:
        return kind == JSON_STRING ? NULL : wrong_type(name, "a string", value);
    case RULE_BOOL:
        return kind == JSON_TRUE || kind == JSON_FALSE ? NULL
                                                       : wrong_type(name, "a boolean", value);
    case RULE_OBJECT:
        return kind == JSON_OBJECT ? NULL : wrong_type(name, "an object", value);
    case RULE_LIST:
        return kind == JSON_ARRAY ? NULL : wrong_type(name, "an array", value);
    case RULE_STOP:
        return check_stop(name, value);
    default:
        return check_number(name, value, rules[i].rule == RULE_COUNT, rules[i].least,
                            rules[i].most);
    }
}

/* ---- messages ---- */

static bool is_role(struct str text)
{
    static const char *const roles[] = {"system",    "developer", "user",
                                        "assistant", "tool",      "function"};

    for (size_t i = 0; i < sizeof(roles) / sizeof(*roles); i++)
        if (str_eq(text, str_from(roles[i])))
            return true;
    return false;
}

/* Content is text, a list of parts that are objects with a type, or (of an assistant) null. */
static bool is_content(struct str value)
{
    struct str part;

    switch (json_kind(value)) {
    case JSON_NONE:
    case JSON_NULL:
    case JSON_STRING:
        return true;
    case JSON_ARRAY:
        for (size_t at = 0; json_array_next(value, &at, &part);)
            if (json_kind(json_get(part, STR("type"))) != JSON_STRING)
                return false;
        return true;
    default:
        return false;
    }
}

static err_t check_message(struct str message, size_t index, struct arena *arena)
{
    struct json_member m;
    struct str role = {0}, content = {0}, text;
    const char *param;

    for (size_t at = 0; json_object_next(message, &at, &m);) {
        if (json_key_is(&m, STR("role")))
            role = m.value;
        else if (json_key_is(&m, STR("content")))
            content = m.value;
    }
    if (json_text(role, arena, &text) && is_role(text) && is_content(content))
        return NULL;
    param = arena_printf(arena, "messages[%zu]", index);
    if (!param)
        return arena_err(arena);
    if (json_kind(message) != JSON_OBJECT)
        return wrong_type(param, "an object", message);
    if (json_kind(role) != JSON_STRING || !is_role(text))
        return bad("invalid_value", param,
                   "Invalid '%s.role': expected one of 'system', 'developer', 'user', 'assistant', "
                   "'tool', "
                   "'function'.",
                   param);
    return bad("invalid_type", param,
               "Invalid '%s.content': expected a string or an array of content parts.", param);
}

static err_t check_messages(struct str messages, struct arena *arena)
{
    struct str message;
    size_t count = 0;

    if (json_kind(messages) == JSON_NONE)
        return bad("missing_required_parameter", "messages",
                   "Missing required parameter: 'messages'.");
    if (json_kind(messages) != JSON_ARRAY)
        return wrong_type("messages", "an array of objects", messages);
    for (size_t at = 0; json_array_next(messages, &at, &message); count++) {
        if (count == MAX_MESSAGES)
            return bad("invalid_value", "messages", "Invalid 'messages': more than %d items.",
                       MAX_MESSAGES);
        TRY(check_message(message, count, arena));
    }
    if (count == 0)
        return bad("invalid_value", "messages",
                   "Invalid 'messages': empty array, at least one is needed.");
    return NULL;
}

/* ---- the body ---- */

static err_t read_model(struct str value, struct arena *arena, struct str *model)
{
    if (json_kind(value) == JSON_NONE)
        return bad("missing_required_parameter", "model", "Missing required parameter: 'model'.");
    if (!json_text(value, arena, model))
        return wrong_type("model", "a string", value);
    if (model->len == 0 || model->len > 512)
        return bad("invalid_value", "model", "Invalid 'model': expected 1 to 512 bytes.");
    for (size_t i = 0; i < model->len; i++)
        if ((unsigned char)model->ptr[i] < 0x20 || model->ptr[i] == 0x7f)
            return bad("invalid_value", "model", "Invalid 'model': it holds a control character.");
    *model = arena_copy(arena, *model); /* it is needed when the body has been given back */
    return model->ptr ? NULL : arena_err(arena);
}

/* A member given twice would be read one way here and another way upstream. Escapes do not hide
 * it. */
static err_t check_repeats(const struct json_member *members, size_t count, struct arena *arena)
{
    for (size_t i = 1; i < count; i++) {
        struct str name = members[i].key;
        if (members[i].key_has_escapes &&
            !json_text((struct str){name.ptr - 1, name.len + 2}, arena, &name))
            return arena_err(arena);
        for (size_t k = 0; k < i; k++) {
            if (!json_key_is(&members[k], name))
                continue;
            char *text = arena_cstr(arena, name);
            return bad("invalid_value", text, "The member '%s' is given twice.", text ? text : "");
        }
    }
    return NULL;
}

static err_t read_members(struct str body, struct arena *arena, struct json_member **members,
                          size_t *count)
{
    static _Thread_local struct json_member found[CHAT_MAX_MEMBERS];
    bool is_object;

    TRY(json_members_read(body, found, CHAT_MAX_MEMBERS, count, &is_object));
    if (!is_object)
        return bad("invalid_type", NULL, "The body must be a JSON object.");
    if (*count > CHAT_MAX_MEMBERS)
        return bad("invalid_value", NULL, "The body has more than %d members.", CHAT_MAX_MEMBERS);
    *members = arena_alloc_array(arena, *count, sizeof(**members));
    if (!*members)
        return arena_err(arena);
    memcpy(*members, found, *count * sizeof(*found));
    return check_repeats(*members, *count, arena);
}

err_t openai_parse_chat(struct str body, struct arena *arena, struct chat_request *out)
{
    struct json_member *members = NULL;
    struct str model = {0}, messages = {0};
    size_t count;

    TRY(read_members(body, arena, &members, &count));
    *out = (struct chat_request){.body = body, .members = members, .member_count = count};
    for (size_t i = 0; i < count; i++) {
        const struct json_member *m = &members[i];
        struct str value = m->value;
        if (json_key_is(m, STR("model")))
            model = value;
        else if (json_key_is(m, STR("messages")))
            messages = value;
        for (size_t r = 0; r < sizeof(rules) / sizeof(*rules); r++)
            if (json_key_is(m, rules[r].name))
                TRY(check_member(r, value));
        if (json_key_is(m, STR("stream")))
            out->is_stream = json_kind(value) == JSON_TRUE;
        if (json_key_is(m, STR("stream_options")))
            out->wants_usage = json_kind(json_get(value, STR("include_usage"))) == JSON_TRUE;
    }
    TRY(read_model(model, arena, &out->model));
    return check_messages(messages, arena);
}

err_t openai_forward_headers(const struct http_head *head, struct arena *arena,
                             struct http_header **out, size_t *count)
{
    *out = NULL;
    *count = 0;
    for (size_t i = 0; i < head->header_count; i++) {
        struct str name = head->headers[i].name;
        bool is_forwarded =
            str_eq_nocase(name, STR("idempotency-key")) ||
            (name.len > 7 && str_eq_nocase((struct str){name.ptr, 7}, STR("openai-")));
        if (!is_forwarded)
            continue;
        if (!*out)
            *out = arena_alloc_array(arena, head->header_count, sizeof(**out));
        if (!*out)
            return arena_err(arena);
        (*out)[(*count)++] = head->headers[i];
    }
    return NULL;
}

/* ---- errors ---- */

static const char *error_type(err_t err)
{
    int status = err_status(err);

    if (err->kind == ERR_LIMITED)
        return "requests";
    return status >= 500 ? "server_error" : "invalid_request_error";
}

static err_t print_error(err_t err, struct buf *out)
{
    TRY(buf_add(out, STR("{\"error\":{\"message\":")));
    TRY(buf_add_json(out, str_from(err->text)));
    TRY(buf_printf(out, ",\"type\":\"%s\",\"param\":", error_type(err)));
    TRY(err->param ? buf_add_json(out, str_from(err->param)) : buf_add(out, STR("null")));
    TRY(buf_add(out, STR(",\"code\":")));
    TRY(err->code ? buf_add_json(out, str_from(err->code)) : buf_add(out, STR("null")));
    return buf_add(out, STR("}}"));
}

struct str openai_print_error(err_t err, struct arena *arena)
{
    struct buf text = buf_make(MEM_REQUEST, 64 * 1024);
    err_t failed = print_error(err, &text);
    struct str copy = failed || !arena ? (struct str){0} : arena_copy(arena, buf_str(&text));

    buf_fini(&text);
    return copy.ptr ? copy
                    : STR("{\"error\":{\"message\":\"the server is out of "
                          "memory\",\"type\":\"server_error\","
                          "\"param\":null,\"code\":null}}");
}
