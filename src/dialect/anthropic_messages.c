/* SPDX-License-Identifier: Apache-2.0 */
/* Anthropic's dialect: messages requests, and what belongs to them.
 *
 * A request is judged only as far as every provider of this protocol would: roles, the outer form
 * of contents, the types of what is known. Fields and blocks of betas are an open set and pass. The
 * deep look is anthropic_expand.c's, taken only where a request is to be translated.
 *
 * The hard thing is what clients of this API rely on beyond its description: the order of the
 * system blocks, the headers anthropic-version and -beta word by word, errors word by word. */
#include "dialect/anthropic_messages.h"

#include "dialect/body.h"

/* As the API's own limit. */
#define MAX_MESSAGES 100000

static const struct body_rule rules[] = {
    BODY_RULE("stream", BOOL, 0, 0),        BODY_RULE("max_tokens", COUNT, 0, 1e9),
    BODY_RULE("temperature", NUMBER, 0, 1), BODY_RULE("top_p", NUMBER, 0, 1),
    BODY_RULE("top_k", COUNT, 0, 1e9),      BODY_RULE("stop_sequences", LIST, 0, 0),
    BODY_RULE("tools", LIST, 0, 0),         BODY_RULE("tool_choice", OBJECT, 0, 0),
    BODY_RULE("thinking", OBJECT, 0, 0),    BODY_RULE("output_config", OBJECT, 0, 0),
    BODY_RULE("metadata", OBJECT, 0, 0),    BODY_RULE("cache_control", OBJECT, 0, 0),
    BODY_RULE("service_tier", TEXT, 0, 0),  BODY_RULES_REFUSED,
};

static bool is_role(struct str role)
{
    return str_eq(role, STR("user")) || str_eq(role, STR("assistant")) ||
           str_eq(role, STR("system"));
}

/* A text, or a list of blocks: objects with a type. */
static bool is_content(struct str value)
{
    struct str block;

    if (json_kind(value) == JSON_STRING)
        return true;
    if (json_kind(value) != JSON_ARRAY)
        return false;
    for (size_t at = 0; json_array_next(value, &at, &block);)
        if (json_kind(json_get(block, STR("type"))) != JSON_STRING)
            return false;
    return true;
}

static err_t check_message(struct str message, size_t index, struct arena *arena)
{
    struct str role = {0}, content = {0}, text = {0};
    struct json_member m;
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
                        "Invalid '%s.role': expected one of 'user', 'assistant', 'system'.", param);
    return body_bad("invalid_type", param,
                    "Invalid '%s.content': expected a string or an array of content blocks.",
                    param);
}

static err_t check_texts(const struct chat_request *ask)
{
    struct str system = body_get(ask, STR("system")), stop;

    for (size_t at = 0; json_array_next(body_get(ask, STR("stop_sequences")), &at, &stop);)
        if (json_kind(stop) != JSON_STRING)
            return body_wrong_type("stop_sequences", "an array of strings", stop);
    if (json_kind(system) == JSON_NONE || json_kind(system) == JSON_NULL || is_content(system))
        return NULL;
    return body_bad("invalid_type", "system",
                    "Invalid 'system': expected a string or an array of text blocks.");
}

err_t anthropic_parse_count(struct str body, struct arena *arena, struct chat_request *out)
{
    TRY(body_read(body, rules, sizeof(rules) / sizeof(*rules), arena, out));
    out->protocol = PROTOCOL_MESSAGES;
    out->expand = anthropic_expand;
    TRY(body_read_model(arena, out));
    TRY(check_texts(out));
    return body_check_messages(out, MAX_MESSAGES, check_message, arena);
}

static err_t parse(struct str body, struct arena *arena, struct chat_request *out)
{
    TRY(anthropic_parse_count(body, arena, out));
    if (json_kind(body_get(out, STR("max_tokens"))) != JSON_NUMBER)
        return body_bad("missing_required_parameter", "max_tokens",
                        "Missing required parameter: 'max_tokens'.");
    return NULL;
}

static bool forwards(struct str header)
{
    return str_eq_nocase(header, STR("anthropic-version")) ||
           str_eq_nocase(header, STR("anthropic-beta"));
}

#define PING "event: ping\ndata: {\"type\": \"ping\"}\n\n"
#define STOP "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"

static const struct dialect messages = {
    .name = "messages",
    .protocol = PROTOCOL_MESSAGES,
    .parse = parse,
    .forwards = forwards,
    .error_status = anthropic_error_status,
    .print_error = anthropic_error_print,
    .write_error = anthropic_error_write,
    .write_event = anthropic_writer_event,
    .write_answer = anthropic_writer_answer,
    .heartbeat = {PING, sizeof(PING) - 1},
    .heartbeat_with_ids = {PING, sizeof(PING) - 1},
    .end_marker = {STOP, sizeof(STOP) - 1},
    .request_id_line = {"request-id: ", 12},
};

const struct dialect *const dialect_messages = &messages;
