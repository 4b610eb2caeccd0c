/* SPDX-License-Identifier: Apache-2.0 */
/* A request's meaning, worked out once and only if somebody asks. */
#include "model/message.h"

/* What the caller said goes before it. */
static void set_cap(struct chat_request *ask)
{
    struct str *setting = &ask->prompt->settings[SETTING_MAX_TOKENS];

    if (ask->cap.len > 0 && !setting->ptr)
        *setting = ask->cap;
}

err_t chat_prompt(struct chat_request *ask, struct arena *arena, const struct prompt **out)
{
    if (!ask->prompt) {
        if (!ask->expand)
            return err_new_detail(ERR_BAD_REQUEST, (.code = "unsupported_parameter"),
                                  "%s requests cannot be translated for another kind of provider",
                                  protocol_name(ask->protocol));
        struct prompt *prompt = arena_new_struct(arena, struct prompt);
        if (!prompt)
            return arena_err(arena);
        TRY(ask->expand(ask, arena, prompt));
        ask->prompt = prompt;
        set_cap(ask);
    }
    *out = ask->prompt;
    return NULL;
}

err_t chat_cap(struct chat_request *ask, uint64_t max_tokens, struct arena *arena)
{
    char digits[20];
    size_t at = sizeof(digits);

    do /* once a call, so without printf */
        digits[--at] = (char)('0' + max_tokens % 10);
    while (max_tokens /= 10);
    ask->cap = arena_copy(arena, (struct str){digits + at, sizeof(digits) - at});
    if (!ask->cap.ptr)
        return arena_err(arena);
    if (ask->prompt)
        set_cap(ask);
    return NULL;
}

const struct json_member *chat_member(const struct chat_request *ask, struct str name)
{
    for (size_t i = 0; i < ask->member_count; i++)
        if (json_key_is(&ask->members[i], name))
            return &ask->members[i];
    return NULL;
}

struct str chat_value(const struct chat_request *ask, struct str name)
{
    const struct json_member *member = chat_member(ask, name);

    return member ? member->value : (struct str){0};
}

bool chat_names_others(const struct chat_request *ask)
{
    for (size_t i = 0; i < ask->member_count; i++) {
        const struct json_member *m = &ask->members[i];
        enum json_kind kind = json_kind(m->value);
        if ((json_key_is(m, STR("models")) || json_key_is(m, STR("fallbacks"))) &&
            kind != JSON_NULL && !(kind == JSON_ARRAY && json_is_empty(m->value)))
            return true;
    }
    return false;
}

/* A text that says something, or nothing. */
static struct str told(struct str value)
{
    bool is_text = value.ptr && json_kind(value) == JSON_STRING && value.len > 2;

    return is_text ? value : (struct str){0};
}

struct str chat_end_user(const struct chat_request *ask)
{
    struct str user = told(chat_value(ask, STR("safety_identifier")));

    if (!user.ptr)
        user = told(chat_value(ask, STR("user")));
    if (!user.ptr && ask->protocol == PROTOCOL_MESSAGES)
        user = told(json_get(chat_value(ask, STR("metadata")), STR("user_id")));
    return user;
}
