/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's responses as callers speak them (OpenAPI 2.3.0).
 *
 * A request is judged here only as far as every provider of this protocol would; what it means is
 * worked out in openai_responses_prompt.c when somebody must translate it. Answers from providers
 * of other protocols are written in openai_responses_stream.c and openai_responses_object.c.
 *
 * To make a conversation shorter (/responses/compact) is asked in nearly the same words, and only relayed: what comes of
 * it is for its provider alone to read. */
#include "dialect/openai_responses.h"

#include "dialect/body.h"
#include "dialect/openai_error.h"

static const struct body_rule rules[] = {
    BODY_RULE("stream", BOOL, 0, 0),
    BODY_RULE("stream_options", OBJECT, 0, 0),
    BODY_RULE("store", BOOL, 0, 0),
    BODY_RULE("background", BOOL, 0, 0),
    BODY_RULE("parallel_tool_calls", BOOL, 0, 0),
    BODY_RULE("instructions", TEXT, 0, 0),
    BODY_RULE("previous_response_id", TEXT, 0, 0),
    BODY_RULE("max_output_tokens", COUNT, 1, 1e9),
    BODY_RULE("max_tool_calls", COUNT, 0, 1e9),
    BODY_RULE("top_logprobs", COUNT, 0, 1000),
    BODY_RULE("temperature", NUMBER, 0, 2),
    BODY_RULE("top_p", NUMBER, 0, 1),
    BODY_RULE("tools", LIST, 0, 0),
    BODY_RULE("include", LIST, 0, 0),
    BODY_RULE("reasoning", OBJECT, 0, 0),
    BODY_RULE("text", OBJECT, 0, 0),
    BODY_RULE("metadata", OBJECT, 0, 0),
    BODY_RULE("prompt", OBJECT, 0, 0),
    BODY_RULE("user", TEXT, 0, 0),
    BODY_RULE("safety_identifier", TEXT, 0, 0),
    BODY_RULE("prompt_cache_key", TEXT, 0, 0),
    BODY_RULE("service_tier", TEXT, 0, 0),
    BODY_RULE("truncation", TEXT, 0, 0),
    BODY_RULES_REFUSED,
};

static const struct body_rule compact_rules[] = {
    BODY_RULE("instructions", TEXT, 0, 0),
    BODY_RULE("previous_response_id", TEXT, 0, 0),
    BODY_RULE("prompt_cache_key", TEXT, 0, 0),
    BODY_RULE("service_tier", TEXT, 0, 0),
    BODY_RULES_REFUSED,
};

static bool is_given(struct str value)
{
    return json_kind(value) != JSON_NONE && json_kind(value) != JSON_NULL;
}

/* ---- items ---- */

/* An item has a type, or is a message that goes without, or names another item. */
static bool is_item(struct str item)
{
    struct json_member m;
    bool is_known = false;

    for (size_t at = 0; json_object_next(item, &at, &m);)
        if (json_key_is(&m, STR("type")) || json_key_is(&m, STR("role")) ||
            json_key_is(&m, STR("id"))) {
            if (json_kind(m.value) != JSON_STRING && json_kind(m.value) != JSON_NULL)
                return false;
            is_known |= json_kind(m.value) == JSON_STRING;
        }
    return is_known;
}

static err_t check_items(struct str input, struct arena *arena)
{
    struct str item;
    size_t count = 0;

    for (size_t at = 0; json_array_next(input, &at, &item); count++) {
        if (count == RESPONSES_MAX_ITEMS)
            return body_bad("invalid_value", "input", "Invalid 'input': more than %d items.",
                            RESPONSES_MAX_ITEMS);
        if (is_item(item))
            continue;
        const char *param = arena_printf(arena, "input[%zu]", count);
        if (!param)
            return arena_err(arena);
        if (json_kind(item) != JSON_OBJECT)
            return body_wrong_type(param, "an object", item);
        return body_bad("invalid_value", param, "Invalid '%s': expected an item with a type.",
                        param);
    }
    return NULL;
}

/* The input may be left out where there is something to go on. */
static err_t check_input(const struct chat_request *ask, struct arena *arena)
{
    struct str input = body_get(ask, STR("input"));

    switch (json_kind(input)) {
    case JSON_STRING:
        return NULL;
    case JSON_ARRAY:
        return check_items(input, arena);
    case JSON_NONE:
    case JSON_NULL:
        if (is_given(body_get(ask, STR("prompt"))) ||
            is_given(body_get(ask, STR("conversation"))) ||
            is_given(body_get(ask, STR("previous_response_id"))))
            return NULL;
        return body_bad("missing_required_parameter", "input",
                        "Missing required parameter: 'input'.");
    default:
        return body_wrong_type("input", "a string or an array of items", input);
    }
}

/* ---- the dialect ---- */

static err_t parse(struct str body, struct arena *arena, struct chat_request *out)
{
    TRY(body_read(body, rules, sizeof(rules) / sizeof(*rules), arena, out));
    out->protocol = PROTOCOL_RESPONSES;
    out->expand = responses_expand;
    out->wants_usage = true;
    TRY(body_read_model(arena, out));
    if (is_given(body_get(out, STR("previous_response_id"))) &&
        is_given(body_get(out, STR("conversation"))))
        return body_bad("mutually_exclusive_parameters", "previous_response_id",
                        "Mutually exclusive parameters: Ensure you are only providing one of: "
                        "'previous_response_id' or 'conversation'.");
    return check_input(out, arena);
}

static err_t write_answer(struct answer_writer *writer, const struct answer *answer)
{
    struct responses_state *state;
    struct output_item *item;
    const struct answer_choice *choice = answer_first(answer);

    TRY(responses_state_get(writer, &state));
    state->answer = *answer; /* its parts are in the arena: they outlive the caller's struct */
    state->is_begun = state->is_over = true;
    for (const struct answer_part *p = choice ? choice->parts : NULL; p; p = p->next)
        if (p->kind == ANSWER_CALL || p->text.len > 0 || p->signature.len > 0)
            TRY(responses_add_part(writer, p, &item));
    return responses_print_object(writer, responses_status(answer), NULL, &writer->out);
}

static err_t parse_compact(struct str body, struct arena *arena, struct chat_request *out)
{
    TRY(body_read(body, compact_rules, sizeof(compact_rules) / sizeof(*compact_rules), arena, out));
    out->protocol = PROTOCOL_COMPACT;
    TRY(body_read_model(arena, out));
    return check_input(out, arena);
}

static const struct dialect compact = {
    .name = "responses/compact",
    .protocol = PROTOCOL_COMPACT,
    .parse = parse_compact,
    .forwards = openai_error_forwards,
    .error_status = openai_error_status,
    .print_error = openai_error_print,
    .write_error = openai_error_write,
};

const struct dialect *const dialect_compact = &compact;

static const struct dialect responses = {
    .name = "responses",
    .protocol = PROTOCOL_RESPONSES,
    .parse = parse,
    .forwards = openai_error_forwards,
    .error_status = openai_error_status,
    .print_error = openai_error_print,
    .write_error = responses_write_error,
    .write_event = responses_write_event,
    .write_answer = write_answer,
    .heartbeat = {": keep-alive\n\n", 14},
    .heartbeat_with_ids = {": keep-alive\n", 13},
    .end_marker = {"", 0},
};

const struct dialect *const dialect_responses = &responses;
