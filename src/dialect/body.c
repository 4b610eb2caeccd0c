/* SPDX-License-Identifier: Apache-2.0 */
/* What the bodies of all model requests have in common: members, their types, the model. */
#include "dialect/body.h"

static const char *kind_name(struct str value)
{
    static const char *const names[] = {
        [JSON_NONE] = "nothing",    [JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array",
        [JSON_STRING] = "a string", [JSON_NUMBER] = "a number",  [JSON_TRUE] = "a boolean",
        [JSON_FALSE] = "a boolean", [JSON_NULL] = "null",
    };

    return names[json_kind(value)];
}

err_t body_wrong_type(const char *name, const char *expected, struct str value)
{
    return body_bad("invalid_type", name, "Invalid type for '%s': expected %s, but got %s instead.",
                    name, expected, kind_name(value));
}

err_t body_not_text(const char *param, struct str value)
{
    if (json_kind(value) == JSON_NONE)
        return body_bad("missing_required_parameter", param, "Missing required parameter: '%s'.",
                        param);
    return body_wrong_type(param, "a string", value);
}

/* ---- rules for single members ---- */

/* A number within bounds; a count must be written as an exact integer. */
static err_t check_number(const struct body_rule *rule, struct str value)
{
    const char *name = rule->name.ptr;
    bool is_count = rule->type == BODY_COUNT;
    double number;
    uint64_t integer;
    struct str digits = value;

    if (json_kind(value) != JSON_NUMBER)
        return body_wrong_type(name, is_count ? "an integer" : "a number", value);
    if (is_count && digits.ptr[0] == '-')
        digits = str_after(digits, 1);
    if (!json_double(value, &number) || (is_count && !json_u64(digits, &integer)) ||
        number < rule->least || number > rule->most)
        return body_bad("invalid_value", name,
                        "Invalid value for '%s': expected %s from %g to %g, got %.*s.", name,
                        is_count ? "an integer" : "a number", rule->least, rule->most,
                        (int)(value.len < 40 ? value.len : 40), value.ptr);
    return NULL;
}

static err_t check_texts(const char *name, struct str value)
{
    struct str element;

    if (json_kind(value) == JSON_STRING)
        return NULL;
    if (json_kind(value) != JSON_ARRAY)
        return body_wrong_type(name, "a string or an array of strings", value);
    for (size_t at = 0; json_array_next(value, &at, &element);)
        if (json_kind(element) != JSON_STRING)
            return body_wrong_type(name, "an array of strings", element);
    return NULL;
}

static err_t check_member(const struct body_rule *rule, struct str value)
{
    const char *name = rule->name.ptr;
    enum json_kind kind = json_kind(value);

    if (rule->type == BODY_REFUSED)
        return body_bad("unsupported_parameter", name,
                        "Unsupported parameter: '%s' is not taken from callers.", name);
    if (kind == JSON_NULL)
        return NULL;
    switch (rule->type) {
    case BODY_TEXT:
        return kind == JSON_STRING ? NULL : body_wrong_type(name, "a string", value);
    case BODY_BOOL:
        return kind == JSON_TRUE || kind == JSON_FALSE ? NULL
                                                       : body_wrong_type(name, "a boolean", value);
    case BODY_OBJECT:
        return kind == JSON_OBJECT ? NULL : body_wrong_type(name, "an object", value);
    case BODY_LIST:
        return kind == JSON_ARRAY ? NULL : body_wrong_type(name, "an array", value);
    case BODY_TEXTS:
        return check_texts(name, value);
    default:
        return check_number(rule, value);
    }
}

/* ---- the members ---- */

struct str body_name(const struct json_member *member, struct arena *arena)
{
    struct str name = member->key;

    if (member->key_has_escapes &&
        !json_text((struct str){name.ptr - 1, name.len + 2}, arena, &name))
        return (struct str){0};
    return name;
}

/* A member given twice would be read one way here and another way upstream. Neither escapes nor
 * capitals hide it. */
static err_t check_repeats(const struct json_member *members, size_t count, struct arena *arena)
{
    static _Thread_local struct str names[CHAT_MAX_MEMBERS];

    for (size_t i = 0; i < count; i++) {
        names[i] = body_name(&members[i], arena);
        if (!names[i].ptr)
            return arena_err(arena);
        for (size_t k = 0; k < i; k++) {
            if (!str_eq_nocase(names[k], names[i]))
                continue;
            char *text = arena_cstr(arena, names[i]);
            return body_bad("invalid_value", text, "The member '%s' is given twice.",
                            text ? text : "");
        }
    }
    return NULL;
}

static err_t read_members(struct str body, struct arena *arena, struct chat_request *out)
{
    static _Thread_local struct json_member found[CHAT_MAX_MEMBERS];
    struct json_member *members;
    size_t count;
    bool is_object;

    TRY(json_members_read(body, found, CHAT_MAX_MEMBERS, &count, &is_object));
    if (!is_object)
        return body_bad("invalid_type", NULL, "The body must be a JSON object.");
    if (count > CHAT_MAX_MEMBERS)
        return body_bad("invalid_value", NULL, "The body has more than %d members.",
                        CHAT_MAX_MEMBERS);
    members = arena_alloc_array(arena, count, sizeof(*members));
    if (!members)
        return arena_err(arena);
    memcpy(members, found, count * sizeof(*found));
    *out = (struct chat_request){.body = body, .members = members, .member_count = count};
    return check_repeats(members, count, arena);
}

/* The rule for a member, in whatever case its name is, or NULL. */
static const struct body_rule *find_rule(struct str name, const struct body_rule *rules,
                                         size_t count)
{
    for (const struct body_rule *rule = rules; rule < rules + count; rule++)
        if (str_eq_nocase(name, rule->name))
            return rule;
    return NULL;
}

/* Whether it has an ſ (U+017F) or the sign K (U+212A), which are an s and a k to who does not mind cases. */
static bool has_odd_letter(struct str name)
{
    for (size_t i = 0; i < name.len; i++)
        if ((unsigned char)name.ptr[i] >= 0x80)
            return str_find(name, STR("\xc5\xbf")) < name.len ||
                   str_find(name, STR("\xe2\x84\xaa")) < name.len;
    return false;
}

/* There are servers that take names in any case, Go's among them. What has a meaning must have it for them and us. */
static err_t check_name(const struct body_rule *rule, struct str name, struct arena *arena)
{
    char *text;

    if (rule ? str_eq(name, rule->name) : !has_odd_letter(name))
        return NULL;
    text = arena_cstr(arena, name);
    return body_bad("unknown_parameter", text, "Unknown parameter: '%s'.", text ? text : "");
}

err_t body_read(struct str body, const struct body_rule *rules, size_t rule_count,
                struct arena *arena, struct chat_request *out)
{
    TRY(read_members(body, arena, out));
    for (size_t i = 0; i < out->member_count; i++) {
        struct str name = body_name(&out->members[i], arena), value = out->members[i].value;
        const struct body_rule *rule;
        if (!name.ptr)
            return arena_err(arena);
        rule = find_rule(name, rules, rule_count);
        TRY(check_name(rule, name, arena));
        if (rule)
            TRY(check_member(rule, value));
        if (str_eq(name, STR("stream")))
            out->is_stream = json_kind(value) == JSON_TRUE;
    }
    return NULL;
}

struct str body_get(const struct chat_request *ask, struct str name)
{
    for (size_t i = 0; i < ask->member_count; i++)
        if (json_key_is(&ask->members[i], name))
            return ask->members[i].value;
    return (struct str){0};
}

err_t body_read_model(struct arena *arena, struct chat_request *out)
{
    struct str value = body_get(out, STR("model")), model;

    if (json_kind(value) == JSON_NONE)
        return body_bad("missing_required_parameter", "model",
                        "Missing required parameter: 'model'.");
    if (json_kind(value) != JSON_STRING)
        return body_wrong_type("model", "a string", value);
    if (!json_text(value, arena, &model))
        return arena_err(arena);
    if (model.len == 0 || model.len > 512)
        return body_bad("invalid_value", "model", "Invalid 'model': expected 1 to 512 bytes.");
    for (size_t i = 0; i < model.len; i++)
        if ((unsigned char)model.ptr[i] < 0x20 || model.ptr[i] == 0x7f)
            return body_bad("invalid_value", "model",
                            "Invalid 'model': it holds a control character.");
    out->model = arena_copy(arena, model);
    return out->model.ptr ? NULL : arena_err(arena);
}

err_t body_check_messages(const struct chat_request *ask, size_t most,
                          err_t (*check)(struct str message, size_t index, struct arena *arena),
                          struct arena *arena)
{
    struct str messages = body_get(ask, STR("messages")), message;
    size_t count = 0;

    if (json_kind(messages) == JSON_NONE)
        return body_bad("missing_required_parameter", "messages",
                        "Missing required parameter: 'messages'.");
    if (json_kind(messages) != JSON_ARRAY)
        return body_wrong_type("messages", "an array of objects", messages);
    for (size_t at = 0; json_array_next(messages, &at, &message); count++) {
        if (count == most)
            return body_bad("invalid_value", "messages", "Invalid 'messages': more than %zu items.",
                            most);
        TRY(check(message, count, arena));
    }
    if (count == 0)
        return body_bad("invalid_value", "messages",
                        "Invalid 'messages': empty array, at least one is needed.");
    return NULL;
}

err_t body_read_settings(const struct chat_request *ask, bool (*is_handled)(struct str name),
                         struct arena *arena, struct prompt *out)
{
    out->unknown = arena_alloc_array(arena, ask->member_count, sizeof(*out->unknown));
    if (!out->unknown)
        return arena_err(arena);
    for (size_t i = 0; i < ask->member_count; i++) {
        const struct json_member *m = &ask->members[i];
        struct str name = body_name(m, arena);
        enum setting setting;
        if (!name.ptr)
            return arena_err(arena);
        if (json_kind(m->value) == JSON_NULL || is_handled(name))
            continue;
        setting = setting_of(ask->protocol, name);
        if (setting != SETTING_COUNT)
            out->settings[setting] = m->value;
        else
            out->unknown[out->unknown_count++] = name;
    }
    return NULL;
}
