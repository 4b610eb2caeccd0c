/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's dialect: which bodies are taken, what is read from them, and how errors are told. */

#include "arena_scope.h"

#include "base/buf.h"
#include "dialect/dialect.h"

#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

static void reads_what_concerns_us(void **state)
{
    struct chat_request ask;
    struct str body =
        STR("{\"model\":\"a\\u002fb\"," MESSAGES
            ",\"stream\":true,\"stream_options\":{\"include_usage\":true},\"unknown\":[1]}");

    assert_null(dialect_chat->parse(body, arena, &ask));
    assert_true(str_eq(ask.model, STR("a/b")));
    assert_true(ask.is_stream);
    assert_true(ask.wants_usage);
    assert_int_equal(ask.member_count, 5);
    assert_ptr_equal(ask.body.ptr, body.ptr);
}

static void null_means_left_out(void **state)
{
    struct chat_request ask;

    assert_null(dialect_chat->parse(
        STR("{\"model\":\"m\"," MESSAGES ",\"stream\":null,\"n\":null,\"stop\":null,"
            "\"temperature\":null,\"max_tokens\":null,\"stream_options\":null}"),
        arena, &ask));
    assert_false(ask.is_stream);
    assert_false(ask.wants_usage);
}

/* Bodies that are refused, with the code and the field that is blamed. */
static const struct {
    const char *body, *code, *param;
} refused[] = {
    {"", "invalid_json", NULL},
    {"[]", "invalid_type", NULL},
    {"{\"model\":\"m\",}", "invalid_json", NULL},
    {"{" MESSAGES "}", "missing_required_parameter", "model"},
    {"{\"model\":\"m\"}", "missing_required_parameter", "messages"},
    {"{\"model\":7," MESSAGES "}", "invalid_type", "model"},
    {"{\"model\":\"\"," MESSAGES "}", "invalid_value", "model"},
    {"{\"model\":\"a\\u0000b\"," MESSAGES "}", "invalid_value", "model"},
    {"{\"model\":\"m\",\"model\":\"m\"," MESSAGES "}", "invalid_value", "model"},
    {"{\"model\":\"m\",\"x\":1,\"x\":1," MESSAGES "}", "invalid_value", "x"},
    {"{\"model\":\"m\",\"m\\u006fdel\":\"n\"," MESSAGES "}", "invalid_value", "model"},
    {"{\"model\":\"m\",\"messages\":{}}", "invalid_type", "messages"},
    {"{\"model\":\"m\",\"messages\":[]}", "invalid_value", "messages"},
    {"{\"model\":\"m\",\"messages\":[7]}", "invalid_type", "messages[0]"},
    {"{\"model\":\"m\",\"messages\":[{\"role\":\"king\",\"content\":\"x\"}]}", "invalid_value",
     "messages[0]"},
    {"{\"model\":\"m\",\"messages\":[{\"content\":\"x\"}]}", "invalid_value", "messages[0]"},
    {"{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":7}]}", "invalid_type",
     "messages[0]"},
    {"{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[\"x\"]}]}", "invalid_type",
     "messages[0]"},
    {"{\"model\":\"m\"," MESSAGES ",\"n\":0}", "invalid_value", "n"},
    {"{\"model\":\"m\"," MESSAGES ",\"n\":1.5}", "invalid_value", "n"},
    {"{\"model\":\"m\"," MESSAGES ",\"max_tokens\":-1}", "invalid_value", "max_tokens"},
    {"{\"model\":\"m\"," MESSAGES ",\"max_tokens\":1e400}", "invalid_json", NULL},
    {"{\"model\":\"m\"," MESSAGES ",\"max_tokens\":123456789012345678901234567890}",
     "invalid_value", "max_tokens"},
    {"{\"model\":\"m\"," MESSAGES ",\"max_completion_tokens\":\"9\"}", "invalid_type",
     "max_completion_tokens"},
    {"{\"model\":\"m\"," MESSAGES ",\"temperature\":\"hot\"}", "invalid_type", "temperature"},
    {"{\"model\":\"m\"," MESSAGES ",\"temperature\":-0.1}", "invalid_value", "temperature"},
    {"{\"model\":\"m\"," MESSAGES ",\"top_p\":2}", "invalid_value", "top_p"},
    {"{\"model\":\"m\"," MESSAGES ",\"top_k\":-2}", "invalid_value", "top_k"},
    {"{\"model\":\"m\"," MESSAGES ",\"stream\":\"yes\"}", "invalid_type", "stream"},
    {"{\"model\":\"m\"," MESSAGES ",\"stop\":[1]}", "invalid_type", "stop"},
    {"{\"model\":\"m\"," MESSAGES ",\"tools\":{}}", "invalid_type", "tools"},
    {"{\"model\":\"m\"," MESSAGES ",\"api_base\":\"http://evil\"}", "unsupported_parameter",
     "api_base"},
    {"{\"model\":\"m\"," MESSAGES ",\"base_url\":null}", "unsupported_parameter", "base_url"},
    {"{\"model\":\"m\"," MESSAGES ",\"api_key\":\"k\"}", "unsupported_parameter", "api_key"},
    {"{\"model\":\"m\"," MESSAGES ",\"extra_headers\":{}}", "unsupported_parameter",
     "extra_headers"},
};

static void refuses_by_name(void **state)
{
    for (size_t i = 0; i < sizeof(refused) / sizeof(*refused); i++) {
        struct chat_request ask;
        err_t err = dialect_chat->parse(str_from(refused[i].body), arena, &ask);
        if (!err || !err->code || strcmp(err->code, refused[i].code) != 0 ||
            !str_eq(str_from(err->param), str_from(refused[i].param)))
            fail_msg("%s: %s, %s", refused[i].body, err ? err->code : "accepted",
                     err ? err->param : "");
        assert_int_equal(err_status(err), 400);
    }
}

static void refuses_too_many_messages(void **state)
{
    struct buf body = buf_make(MEM_TOOL, 1024 * 1024);
    struct chat_request ask;
    err_t err;

    assert_null(buf_add(&body, STR("{\"model\":\"m\",\"messages\":[{\"role\":\"user\"}")));
    for (int i = 0; i < 10000; i++)
        assert_null(buf_add(&body, STR(",{\"role\":\"user\"}")));
    assert_null(buf_add(&body, STR("]}")));
    err = dialect_chat->parse(buf_str(&body), arena, &ask);
    assert_non_null(err);
    assert_string_equal(err->param, "messages");
    buf_fini(&body);
}

static void accepts_what_providers_judge(void **state)
{
    static const char *const bodies[] = {
        "{\"model\":\"m\",\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[]}"
        ","
        "{\"role\":\"tool\",\"content\":\"x\",\"tool_call_id\":\"c\"},{\"role\":\"developer\","
        "\"content\":\"y\"},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"z\"}]}]}",
        "{\"model\":\"m\"," MESSAGES ",\"temperature\":-0,\"max_tokens\":0,\"n\":128,\"top_k\":-1}",
        "{\"model\":\"m\"," MESSAGES
        ",\"stop\":[\"a\",\"b\",\"c\",\"d\",\"e\"],\"temperature\":1E+0}",
    };

    for (size_t i = 0; i < sizeof(bodies) / sizeof(*bodies); i++) {
        struct chat_request ask;
        err_t err = dialect_chat->parse(str_from(bodies[i]), arena, &ask);
        if (err)
            fail_msg("%s: %s", bodies[i], err->text);
    }
}

static void prints_errors_as_objects(void **state)
{
    err_t err = err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value", .param = "n"),
                               "say \"%s\"\n", "hi");

    assert_true(str_eq(
        dialect_chat->print_error(err, STR("r"), arena),
        STR("{\"error\":{\"message\":\"say \\\"hi\\\"\\n\",\"type\":\"invalid_request_error\","
            "\"param\":\"n\",\"code\":\"invalid_value\"}}")));
    assert_true(str_find(dialect_chat->print_error(err_no_memory(), STR(""), NULL),
                         STR("server_error")) < 60);
}

static void forwards_listed_headers_only(void **state)
{
    assert_true(dialect_chat->forwards(STR("OpenAI-Project")));
    assert_true(dialect_chat->forwards(STR("idempotency-key")));
    assert_false(dialect_chat->forwards(STR("Authorization")));
    assert_false(dialect_chat->forwards(STR("Cookie")));
    assert_false(dialect_chat->forwards(STR("openai-")));
}

/* Every allocation fails once: an error comes back and nothing is lost. */
static void survives_short_memory(void **state)
{
    for (uint64_t n = 1; n < 100; n++) {
        struct arena *small = arena_new(MEM_TOOL, 64 * 1024);
        struct chat_request ask;
        assert_non_null(small);
        err_scope_set(small);
        mem_fail_nth(n);
        err_t err =
            dialect_chat->parse(STR("{\"model\":\"m\\n\"," MESSAGES ",\"n\":-1}"), small, &ask);
        bool over = mem_fail_count() < n;
        mem_fail_nth(0);
        assert_non_null(err);
        err_scope_set(arena);
        arena_free(small);
        if (over)
            break;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_concerns_us),
        cmocka_unit_test(null_means_left_out),
        cmocka_unit_test(refuses_by_name),
        cmocka_unit_test(refuses_too_many_messages),
        cmocka_unit_test(accepts_what_providers_judge),
        cmocka_unit_test(prints_errors_as_objects),
        cmocka_unit_test(forwards_listed_headers_only),
        cmocka_unit_test(survives_short_memory),
    };

    return cmocka_run_group_tests(tests, begin_arena, end_arena);
}
