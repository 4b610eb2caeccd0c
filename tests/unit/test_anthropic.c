/* SPDX-License-Identifier: Apache-2.0 */
/* Anthropic's messages, as a provider and as callers speak them: what recorded exchanges
 * (tests/wire) do not show. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dialect/anthropic_messages.h"
#include "model/provider_anthropic.h"

static struct arena *arena, *scratch;
static struct conf_provider provider;
static struct decoder decoder;
static struct event event;
static struct chat_request ask;

static int begin(void **state)
{
    arena = arena_new(MEM_TOOL, 64 * 1024 * 1024);
    scratch = arena_new(MEM_TOOL, 64 * 1024 * 1024);
    err_scope_set(arena);
    provider = (struct conf_provider){.max_tokens = 4096};
    decoder = (struct decoder){.protocol = PROTOCOL_MESSAGES, .scratch = scratch, .arena = arena};
    return 0;
}

static int end(void **state)
{
    err_scope_set(NULL);
    arena_free(arena);
    arena_free(scratch);
    return 0;
}

static void assert_text(struct str text, const char *expected)
{
    if (!str_eq(text, str_from(expected)))
        fail_msg("\"%.*s\" is not \"%s\"", STR_ARG(text), expected);
}

static void assert_holds(struct str text, const char *part)
{
    if (str_find(text, str_from(part)) == text.len)
        fail_msg("\"%.*s\" does not hold \"%s\"", STR_ARG(text), part);
}

static void assert_ok(err_t err)
{
    if (err)
        fail_msg("%s", err->text);
}

/* ---- names ---- */

static void names_are_rewritten_so_that_they_can_be_read(void **state)
{
    static const char *const names[] = {
        "get_weather", "a.b",    "mcp:server/tool", "_x2E_",   "_x5F_x2E_", "_xAB.",
        "_xAB",        "__x41_", "_x2E_x2E_",       "a_x",     "_x4",       "\xC3\xA9",
        " ",           "_xab_",  "_x5F__x5F_",      "._x2E_.", "-_",
    };

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct str written = provider_anthropic_name_write(str_from(names[i]), arena);
        for (size_t k = 0; k < written.len; k++)
            assert_non_null(
                strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-",
                       written.ptr[k]));
        assert_text(provider_anthropic_name_read(written, arena), names[i]);
    }
    assert_text(provider_anthropic_name_write(STR("get_weather"), arena), "get_weather");
    assert_text(provider_anthropic_name_write(STR("a.b"), arena), "a_x2E_b");
    assert_text(provider_anthropic_name_write(STR(""), arena), "_");
}

/* ---- reading answers ---- */

static err_t decode(const char *data)
{
    struct sse_event in = {.data = str_from(data), .has_data = true};

    in.raw = in.data;
    return provider_anthropic->decode(&decoder, &in, &event);
}

#define START                                                                                      \
    "{\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"model\":\"m\",\"usage\":{"        \
    "\"input_tokens\":3,\"output_tokens\":1}}}"
#define TEXT(text)                                                                                 \
    "{\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":"   \
    "\"" text "\"}}"
#define TOOL(index)                                                                                \
    "{\"type\":\"content_block_start\",\"index\":" index                                           \
    ",\"content_block\":{\"type\":\"tool_use\",\"id\":\"a\",\"name\":\"f\",\"input\":{}}}"
#define ARGUMENTS(index, text)                                                                     \
    "{\"type\":\"content_block_delta\",\"index\":" index                                           \
    ",\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"" text "\"}}"
#define STOP(reason)                                                                               \
    "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"" reason                             \
    "\"},\"usage\":{\"output_tokens\":5}}"

static void expect_kind(const char *data, enum event_kind kind)
{
    assert_ok(decode(data));
    assert_int_equal(event.kind, kind);
}

static void only_what_means_something_commits(void **state)
{
    decoder.scratch = NULL;
    expect_kind(START, EVENT_QUIET);
    expect_kind("{\"type\": \"ping\"}", EVENT_QUIET);
    expect_kind("{\"type\":\"of_later_years\"}", EVENT_QUIET);
    expect_kind(
        "{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\","
        "\"text\":\"\"}}",
        EVENT_QUIET);
    expect_kind(TEXT(""), EVENT_QUIET);
    expect_kind("{\"type\":\"content_block_stop\",\"index\":0}", EVENT_QUIET);
    expect_kind("{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":null}}", EVENT_QUIET);
    assert_false(decoder.has_content);
    expect_kind(TEXT("a"), EVENT_CONTENT);
    assert_true(decoder.has_content);
    expect_kind(TEXT(""), EVENT_CONTENT);
    expect_kind("{\"type\": \"ping\"}", EVENT_QUIET);
    expect_kind(STOP("end_turn"), EVENT_CONTENT);
    expect_kind("{\"type\":\"message_stop\"}", EVENT_END);
}

static void a_call_or_a_stop_reason_commits_too(void **state)
{
    decoder.scratch = NULL;
    expect_kind(START, EVENT_QUIET);
    expect_kind(TOOL("0"), EVENT_CONTENT);
    decoder = (struct decoder){.protocol = PROTOCOL_MESSAGES};
    expect_kind(STOP("refusal"), EVENT_CONTENT);
    assert_int_equal(decoder.stop, STOP_FILTERED);
}

static void an_answer_without_a_stop_reason_is_truncated(void **state)
{
    assert_ok(decode(START));
    assert_ok(decode(TEXT("a")));
    assert_string_equal(decode("{\"type\":\"message_stop\"}")->code, "upstream_truncated");
    assert_string_equal(provider_anthropic->decode_end(&decoder, &event)->code,
                        "upstream_truncated");
    assert_false(decoder.usage.is_known);
}

static void the_end_of_the_body_finishes_once(void **state)
{
    assert_ok(decode(STOP("end_turn")));
    event = (struct event){0};
    assert_ok(provider_anthropic->decode_end(&decoder, &event));
    assert_int_equal(event.kind, EVENT_END);
    assert_int_equal(event.delta_count, 1);
    assert_int_equal(event.deltas[0].kind, DELTA_FINISH);
    assert_int_equal(event.deltas[0].stop, STOP_END);
    assert_ok(decode("{\"type\":\"message_stop\"}"));
    event = (struct event){0};
    assert_ok(provider_anthropic->decode_end(&decoder, &event));
    assert_int_equal(event.delta_count, 0);
}

static void blocks_beyond_those_marked_still_find_their_call(void **state)
{
    assert_ok(decode(TOOL("2")));
    assert_int_equal(event.deltas[0].index, 0);
    assert_ok(decode(TOOL("63")));
    assert_ok(decode(TOOL("64")));
    assert_int_equal(event.deltas[0].index, 2);
    assert_ok(decode(ARGUMENTS("63", "x")));
    assert_int_equal(event.deltas[0].index, 1);
    assert_ok(decode(ARGUMENTS("64", "x")));
    assert_int_equal(event.deltas[0].index, 2);
    assert_ok(decode(TOOL("300")));
    assert_ok(decode(ARGUMENTS("300", "x")));
    assert_int_equal(event.deltas[0].index, 3);
    assert_ok(decode(ARGUMENTS("301", "x")));
    assert_int_equal(event.delta_count, 0);
    assert_ok(decode(ARGUMENTS("3", "x")));
    assert_int_equal(event.delta_count, 0);
}

static void what_cannot_be_told_anew_is_refused(void **state)
{
    assert_ok(decode(TOOL("5")));
    assert_string_equal(decode(TOOL("5"))->code, "upstream_invalid");
    assert_string_equal(decode(TOOL("4"))->code, "upstream_invalid");
    assert_string_equal(decode(START)->code, "upstream_invalid");
    assert_string_equal(decode("{\"a\":1}")->code, "upstream_invalid");
    assert_string_equal(decode("[]")->code, "upstream_invalid");
    assert_string_equal(decode("{")->code, "upstream_invalid");
}

static void input_given_at_once_is_not_given_twice(void **state)
{
    assert_ok(decode("{\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":"
                     "\"tool_use\",\"id\":\"a\",\"name\":\"f\",\"input\":{\"n\":1.0}}}"));
    assert_int_equal(event.delta_count, 2);
    assert_text(event.deltas[1].text, "{\"n\":1.0}");
    assert_ok(decode(ARGUMENTS("0", "{}")));
    assert_int_equal(event.delta_count, 0);
}

static void counts_that_cannot_be_are_not_believed(void **state)
{
    assert_ok(decode(START));
    assert_ok(decode("{\"type\":\"message_delta\",\"delta\":{},\"usage\":{\"input_tokens\":-1,"
                     "\"output_tokens\":99999999999,\"cache_read_input_tokens\":1.5}}"));
    assert_int_equal(decoder.usage.input, 3);
    assert_int_equal(decoder.usage.output, 1);
    assert_false(decoder.usage.is_known);
    assert_ok(decode(STOP("end_turn")));
    assert_true(decoder.usage.is_known);
}

static void a_whole_answer_may_begin_with_white_space(void **state)
{
    struct str body = STR("\n {\"content\":[{\"type\":\"text\",\"text\":\"a\"}],\"stop_reason\":"
                          "\"stop_sequence\",\"stop_sequence\":\"END\"}");

    assert_ok(provider_anthropic->decode_whole(&decoder, body, &event));
    assert_int_equal(event.delta_count, 2);
    assert_int_equal(event.deltas[1].stop, STOP_SEQUENCE);
    assert_text(event.deltas[1].text, "END");
}

/* ---- sending requests ---- */

static struct str encode(struct chat_request *request)
{
    struct encoding encoding = {
        .provider = &provider, .ask = request, .model = STR("claude"), .arena = arena};

    assert_ok(provider_anthropic->encode(&encoding));
    assert_int_equal(encoding.body_count, 1);
    assert_text(encoding.target, "/v1/messages");
    assert_ok(json_check(encoding.body[0]));
    return encoding.body[0];
}

/* A messages request as its meaning only, and back. */
static struct str translate(const char *body)
{
    const struct prompt *prompt;

    assert_ok(dialect_messages->parse(str_from(body), arena, &ask));
    assert_ok(chat_prompt(&ask, arena, &prompt));
    ask.protocol = PROTOCOL_CHAT;
    return encode(&ask);
}

static void other_protocols_are_asked_in_this_one(void **state)
{
    static const enum protocol translated[] = {PROTOCOL_CHAT, PROTOCOL_RESPONSES,
                                               PROTOCOL_COMPLETIONS, PROTOCOL_MESSAGES};

    for (size_t i = 0; i < 4; i++)
        assert_int_equal(provider_anthropic->choose(&provider, translated[i]), PROTOCOL_MESSAGES);
    assert_int_equal(provider_anthropic->choose(&provider, PROTOCOL_EMBEDDINGS), PROTOCOL_COUNT);
    assert_int_equal(provider_anthropic->choose(&provider, PROTOCOL_OTHER), PROTOCOL_COUNT);
}

static void a_conversation_goes_through_its_meaning_unharmed(void **state)
{
    static const char *const kept[] = {
        "{\"type\":\"thinking\",\"thinking\":\"Hm \\\"so\\\".\",\"signature\":\"EvQB+/==\"}",
        "{\"type\":\"redacted_thinking\",\"data\":\"EmwK+/aA==\"}",
        "{\"type\":\"text\",\"text\":\"Let me see.\",\"cache_control\":{\"type\":\"ephemeral\"}}",
        "{\"type\":\"tool_use\",\"id\":\"toolu_1\",\"name\":\"f\",\"input\":{\"n\": 1.50e+1, "
        "\"big\":12345678901234567890}}",
        "{\"type\":\"tool_result\",\"tool_use_id\":\"toolu_1\",\"content\":[{\"type\":\"text\","
        "\"text\":\"a\"},{\"type\":\"image\",\"source\":{\"type\":\"base64\",\"media_type\":"
        "\"image/png\",\"data\":\"iVBORw0KGgo=\"}}],\"is_error\":true}",
        "{\"type\":\"document\",\"source\":{\"type\":\"url\",\"url\":\"https://e.org/a.pdf\"}}",
        "\"stop_sequences\":[\"END\"]",
        "\"metadata\":{\"user_id\":\"u-1\"}",
        "\"service_tier\":\"standard_only\"",
        "\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":2048}",
        "\"temperature\":1.0",
        "\"tool_choice\":{\"type\":\"auto\",\"disable_parallel_tool_use\":true}",
        "\"system\":[{\"type\":\"text\",\"text\":\"One.\"},{\"type\":\"text\",\"text\":\"Two.\"}]",
        "\"input_schema\":{\"type\":\"object\",\"x\": 1e3}",
    };
    const char *body =
        arena_printf(arena,
                     "{\"model\":\"claude\",\"max_tokens\":9000,\"messages\":[{\"role\":\"user\","
                     "\"content\":\"a\"},"
                     "{\"role\":\"assistant\",\"content\":[%s,%s,%s,%s]},"
                     "{\"role\":\"user\",\"content\":[%s,%s]}],%s,%s,%s,%s,%s,%s,%s,"
                     "\"tools\":[{\"name\":\"f\",%s}]}",
                     kept[0], kept[1], kept[2], kept[3], kept[4], kept[5], kept[6], kept[7],
                     kept[8], kept[9], kept[10], kept[11], kept[12], kept[13]);
    struct str sent = translate(body);

    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        assert_holds(sent, kept[i]);
}

static const char *thinking(const char *more)
{
    return arena_printf(arena,
                        "{\"model\":\"m\",\"max_tokens\":2000,\"messages\":[{\"role\":\"user\","
                        "\"content\":\"a\"}%s}",
                        more);
}

static void assert_no_thinking(const char *body)
{
    struct str sent = translate(body);

    assert_int_equal(str_find(sent, STR("\"thinking\":{")), sent.len);
}

static void thinking_gives_way_where_it_may_not_be(void **state)
{
#define ON "\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":1500}"
    assert_holds(translate(thinking("]," ON)), ON);
    assert_holds(
        translate(thinking("],\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":5000}")),
        "\"budget_tokens\":1999");
    assert_holds(translate(thinking("],\"thinking\":{\"type\":\"adaptive\"}")),
                 "\"thinking\":{\"type\":\"adaptive\"}");
    assert_holds(translate(thinking("],\"thinking\":{\"type\":\"disabled\"}")),
                 "\"thinking\":{\"type\":\"disabled\"}");
    assert_no_thinking(thinking("],\"tools\":[{\"name\":\"f\",\"input_schema\":{}}],"
                                "\"tool_choice\":{\"type\":\"any\"}," ON));
    assert_no_thinking(thinking("],\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":1000}"));
    assert_no_thinking(
        thinking(",{\"role\":\"assistant\",\"content\":[{\"type\":\"tool_use\",\"id\":\"a\","
                 "\"name\":\"f\",\"input\":{}}]},{\"role\":\"user\",\"content\":[{\"type\":"
                 "\"tool_result\",\"tool_use_id\":\"a\",\"content\":\"x\"}]}]," ON));
#undef ON
}

static void the_default_limit_leaves_room_for_thinking(void **state)
{
    struct prompt prompt = {.has_thinking = true, .thinking = true, .thinking_tokens = 10000};
    struct chat_request request = {.protocol = PROTOCOL_CHAT, .prompt = &prompt};
    struct str sent = encode(&request);

    assert_holds(sent, "\"max_tokens\":14096");
    assert_holds(sent, "\"budget_tokens\":10000");
}

static void results_learn_the_names_of_their_tools(void **state)
{
    const struct prompt *prompt;

    assert_ok(dialect_messages->parse(
        STR("{\"model\":\"m\",\"max_tokens\":1,\"messages\":[{\"role\":\"user\",\"content\":\"a\"},"
            "{\"role\":\"assistant\",\"content\":[{\"type\":\"tool_use\",\"id\":\"1\",\"name\":"
            "\"f\","
            "\"input\":{}},{\"type\":\"tool_use\",\"id\":\"2\",\"name\":\"g\"}]},"
            "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"t\"},{\"type\":"
            "\"tool_result\",\"tool_use_id\":\"2\"},{\"type\":\"tool_result\",\"tool_use_id\":"
            "\"1\"},{\"type\":\"tool_result\",\"tool_use_id\":\"3\"}]}]}"),
        arena, &ask));
    assert_ok(chat_prompt(&ask, arena, &prompt));
    assert_int_equal(prompt->message_count, 6);
    assert_int_equal(prompt->messages[2].role, ROLE_TOOL);
    assert_text(prompt->messages[2].parts[0].name, "g");
    assert_text(prompt->messages[3].parts[0].name, "f");
    assert_text(prompt->messages[4].parts[0].name, "");
    assert_int_equal(prompt->messages[5].role, ROLE_USER);
    assert_text(prompt->messages[1].parts[1].arguments, "{}");
}

/* ---- callers ---- */

static void counting_needs_no_limit(void **state)
{
    struct str body = STR("{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}");
    err_t err = dialect_messages->parse(body, arena, &ask);

    assert_true(err_is(err, ERR_BAD_REQUEST));
    assert_string_equal(err->param, "max_tokens");
    assert_ok(anthropic_parse_count(body, arena, &ask));
    assert_int_equal(ask.protocol, PROTOCOL_MESSAGES);
    assert_text(ask.model, "m");
}

static void only_anthropics_headers_go_on(void **state)
{
    assert_true(dialect_messages->forwards(STR("anthropic-version")));
    assert_true(dialect_messages->forwards(STR("Anthropic-Beta")));
    assert_false(dialect_messages->forwards(STR("x-api-key")));
    assert_false(dialect_messages->forwards(STR("authorization")));
    assert_false(dialect_messages->forwards(STR("cookie")));
}

static void errors_have_anthropics_statuses_and_types(void **state)
{
    static const struct {
        enum err_kind kind;
        struct err_detail detail;
        int status;
        const char *type;
    } rows[] = {
        {ERR_BAD_REQUEST, {0}, 400, "invalid_request_error"},
        {ERR_BAD_REQUEST, {.status = 422}, 422, "invalid_request_error"},
        {ERR_DENIED, {0}, 401, "authentication_error"},
        {ERR_DENIED, {.status = 403}, 403, "permission_error"},
        {ERR_NOT_FOUND, {0}, 404, "not_found_error"},
        {ERR_NOT_FOUND, {.status = 405}, 405, "not_found_error"},
        {ERR_BAD_REQUEST, {.status = 409}, 409, "conflict_error"},
        {ERR_TOO_BIG, {0}, 413, "request_too_large"},
        {ERR_LIMITED, {0}, 429, "rate_limit_error"},
        {ERR_LIMITED, {.code = "insufficient_quota"}, 402, "billing_error"},
        {ERR_BUG, {0}, 500, "api_error"},
        {ERR_UPSTREAM, {0}, 500, "api_error"},
        {ERR_UPSTREAM, {.code = "overloaded"}, 529, "overloaded_error"},
        {ERR_UPSTREAM, {.status = 503}, 529, "overloaded_error"},
        {ERR_UPSTREAM, {.status = 529}, 529, "overloaded_error"},
        {ERR_TIMED_OUT, {0}, 504, "timeout_error"},
        {ERR_BUSY, {0}, 529, "overloaded_error"},
        {ERR_KILLED, {0}, 529, "overloaded_error"},
    };

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        err_t err = err_make(rows[i].kind, rows[i].detail, ERR_HERE, "so \"it\" is");
        struct str body = dialect_messages->print_error(err, STR("req_1"), arena);
        assert_int_equal(dialect_messages->error_status(err), rows[i].status);
        assert_text(body, arena_printf(arena,
                                       "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":"
                                       "\"so \\\"it\\\" is\"},\"request_id\":\"req_1\"}",
                                       rows[i].type));
    }
}

static void an_error_is_the_last_event_of_a_stream(void **state)
{
    struct buf out = buf_make(MEM_TOOL, 10000);
    err_t err = err_new_detail(ERR_UPSTREAM, (.code = "overloaded", .status = 503), "Overloaded");

    assert_ok(dialect_messages->write_error(NULL, err, arena, &out));
    assert_text(buf_str(&out), "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":"
                               "\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n");
    buf_fini(&out);
    assert_text(dialect_messages->heartbeat, "event: ping\ndata: {\"type\": \"ping\"}\n\n");
    assert_text(dialect_messages->end_marker,
                "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
    assert_true(str_eq(dialect_messages->request_id_line, STR("request-id: ")));
}

static void arguments_of_a_call_that_is_over_are_an_error(void **state)
{
    struct usage usage = {0};
    struct answer_writer writer = {.dialect = dialect_messages,
                                   .arena = arena,
                                   .id = STR("ID"),
                                   .model = STR("m"),
                                   .usage = &usage,
                                   .out = buf_make(MEM_TOOL, 100000)};
    struct delta deltas[] = {
        {.kind = DELTA_TOOL_CALL, .index = 0, .name = STR("f")},
        {.kind = DELTA_ARGUMENTS, .index = 0, .text = STR("{\"a\"")},
        {.kind = DELTA_TEXT, .text = STR("x")},
        {.kind = DELTA_ARGUMENTS, .index = 0, .text = STR(" \n")},
        {.kind = DELTA_ARGUMENTS, .index = 0, .text = STR(":1}")},
    };
    struct event content = {.kind = EVENT_CONTENT, .deltas = deltas, .delta_count = 4};

    assert_ok(dialect_messages->write_event(&writer, &content));
    assert_holds(buf_str(&writer.out), "\"id\":\"toolu_ID00\"");
    content = (struct event){.kind = EVENT_CONTENT, .deltas = &deltas[4], .delta_count = 1};
    assert_string_equal(dialect_messages->write_event(&writer, &content)->code, "upstream_invalid");
    buf_fini(&writer.out);
}

/* A request through its meaning, and an answer to it, both ways. */
static err_t exchange(struct arena *a)
{
    static const char *const events[] = {
        START,
        TEXT("Let me \\u00fc see."),
        TOOL("1"),
        ARGUMENTS("1", "{\\\"a\\\":1}"),
        STOP("tool_use"),
    };
    struct chat_request request;
    const struct prompt *prompt;
    struct encoding encoding = {
        .provider = &provider, .ask = &request, .model = STR("claude"), .arena = a};
    struct decoder reading = {.protocol = PROTOCOL_MESSAGES, .scratch = a, .arena = a};
    struct answer_writer writer = {.dialect = dialect_messages,
                                   .arena = a,
                                   .id = STR("ID"),
                                   .model = STR("m"),
                                   .usage = &reading.usage,
                                   .out = buf_make(MEM_TOOL, 100000)};
    err_t err;

    TRY(dialect_messages->parse(
        STR("{\"model\":\"m\",\"max_tokens\":9,\"system\":\"s\\n\",\"messages\":[{\"role\":"
            "\"user\","
            "\"content\":[{\"type\":\"text\",\"text\":\"a\\tb\"}]},{\"role\":\"assistant\","
            "\"content\":"
            "[{\"type\":\"tool_use\",\"id\":\"a.b\",\"name\":\"f\",\"input\":{}}]},{\"role\":"
            "\"user\","
            "\"content\":[{\"type\":\"tool_result\",\"tool_use_id\":\"a.b\",\"content\":\"x\"}]}],"
            "\"stop_sequences\":[\"E\"],\"tools\":[{\"name\":\"f\",\"input_schema\":{}}]}"),
        a, &request));
    TRY(provider_anthropic->encode(&encoding));
    TRY(chat_prompt(&request, a, &prompt));
    request.protocol = PROTOCOL_CHAT;
    TRY(provider_anthropic->encode(&encoding));
    err = NULL;
    for (size_t i = 0; !err && i < sizeof events / sizeof *events; i++) {
        struct sse_event in = {.data = str_from(events[i]), .has_data = true};
        struct event out;
        err = provider_anthropic->decode(&reading, &in, &out);
        err = err ? err : dialect_messages->write_event(&writer, &out);
    }
    buf_fini(&writer.out);
    return err;
}

static void every_allocation_may_fail(void **state)
{
    uint64_t n = 0, count;
    err_t err;

    do {
        struct arena *a = arena_new(MEM_TOOL, 1024 * 1024);
        mem_fail_nth(++n);
        err = exchange(a);
        count = mem_fail_count();
        mem_fail_nth(0);
        if (n <= count)
            assert_true(err && err_is(err, ERR_BUSY));
        arena_free(a);
    } while (n <= count);
    assert_null(err);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(names_are_rewritten_so_that_they_can_be_read),
        TEST(only_what_means_something_commits),
        TEST(a_call_or_a_stop_reason_commits_too),
        TEST(an_answer_without_a_stop_reason_is_truncated),
        TEST(the_end_of_the_body_finishes_once),
        TEST(blocks_beyond_those_marked_still_find_their_call),
        TEST(what_cannot_be_told_anew_is_refused),
        TEST(input_given_at_once_is_not_given_twice),
        TEST(counts_that_cannot_be_are_not_believed),
        TEST(a_whole_answer_may_begin_with_white_space),
        TEST(other_protocols_are_asked_in_this_one),
        TEST(a_conversation_goes_through_its_meaning_unharmed),
        TEST(thinking_gives_way_where_it_may_not_be),
        TEST(the_default_limit_leaves_room_for_thinking),
        TEST(results_learn_the_names_of_their_tools),
        TEST(counting_needs_no_limit),
        TEST(only_anthropics_headers_go_on),
        TEST(errors_have_anthropics_statuses_and_types),
        TEST(an_error_is_the_last_event_of_a_stream),
        TEST(arguments_of_a_call_that_is_over_are_an_error),
        TEST(every_allocation_may_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
