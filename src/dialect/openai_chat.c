/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's chat completions as callers speak them (OpenAPI 2.3.0).
 *
 * A request is judged here only as far as every provider of this protocol would; what it means is
 * worked out in openai_chat_expand.c when somebody must translate it. Answers from providers of
 * other protocols are written in openai_chat_write.c. */
#include "dialect/openai_chat.h"

#include "dialect/body.h"
#include "dialect/openai_error.h"

#define MAX_MESSAGES 10000

static const struct body_rule rules[] = {
    BODY_RULE("stream", BOOL, 0, 0),
    BODY_RULE("stream_options", OBJECT, 0, 0),
    BODY_RULE("n", COUNT, 1, 128),
    BODY_RULE("max_tokens", COUNT, 0, 1e9),
    BODY_RULE("max_completion_tokens", COUNT, 0, 1e9),
    BODY_RULE("top_k", COUNT, -1, 1e9),
    BODY_RULE("top_logprobs", COUNT, 0, 1000),
    BODY_RULE("temperature", NUMBER, 0, 2),
    BODY_RULE("top_p", NUMBER, 0, 1),
    BODY_RULE("frequency_penalty", NUMBER, -2, 2),
    BODY_RULE("presence_penalty", NUMBER, -2, 2),
    BODY_RULE("logprobs", BOOL, 0, 0),
    BODY_RULE("stop", TEXTS, 0, 0),
    BODY_RULE("tools", LIST, 0, 0),
    BODY_RULE("response_format", OBJECT, 0, 0),
    BODY_RULE("user", TEXT, 0, 0),
    BODY_RULES_REFUSED,
};

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
    struct str role = {0}, content = {0}, text = {0};
    const char *param;

    for (size_t at = 0; json_object_next(message, &at, &m);) {
        if (json_key_is(&m, STR("role")))
            role = m.value;
        else if (json_key_is(&m, STR("content")))
            content = m.value;
    }
    if (json_kind(role) == JSON_STRING && !json_text(role, arena, &text))
        return arena_err(arena);
    if (is_role(text) && is_content(content))
        return NULL;
    param = arena_printf(arena, "messages[%zu]", index);
    if (!param)
        return arena_err(arena);
    if (json_kind(message) != JSON_OBJECT)
        return body_wrong_type(param, "an object", message);
    if (!is_role(text))
        return body_bad("invalid_value", param,
                        "Invalid '%s.role': expected one of 'system', 'developer', 'user', "
                        "'assistant', 'tool', 'function'.",
                        param);
    return body_bad("invalid_type", param,
                    "Invalid '%s.content': expected a string or an array of content parts.", param);
}

/* ---- the dialect ---- */

static err_t parse(struct str body, struct arena *arena, struct chat_request *out)
{
    struct str options;

    TRY(body_read(body, rules, sizeof(rules) / sizeof(*rules), arena, out));
    out->protocol = PROTOCOL_CHAT;
    out->expand = openai_chat_expand;
    options = body_get(out, STR("stream_options"));
    out->wants_usage = json_kind(json_get(options, STR("include_usage"))) == JSON_TRUE;
    out->wants_functions = json_kind(body_get(out, STR("functions"))) == JSON_ARRAY &&
                           json_kind(body_get(out, STR("tools"))) != JSON_ARRAY;
    TRY(body_read_model(arena, out));
    return body_check_messages(out, MAX_MESSAGES, check_message, arena);
}

static const struct dialect chat = {
    .name = "chat",
    .protocol = PROTOCOL_CHAT,
    .parse = parse,
    .forwards = openai_error_forwards,
    .error_status = openai_error_status,
    .print_error = openai_error_print,
    .write_error = openai_error_write,
    .write_event = openai_chat_write_event,
    .write_answer = openai_chat_write_answer,
    .heartbeat = {": keep-alive\n\n", 14},
    .heartbeat_with_ids = {": keep-alive\n", 13},
    .end_marker = {"data: [DONE]\n\n", 14},
};

const struct dialect *const dialect_chat = &chat;
