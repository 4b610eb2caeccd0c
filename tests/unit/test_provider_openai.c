/* SPDX-License-Identifier: Apache-2.0 */
/* The openai and local kinds: what goes out, and what is read from what comes back. */

#include "arena_scope.h"

#include "base/buf.h"
#include "dialect/dialect.h"
#include "model/provider_openai.h"

/* ---- requests ---- */

#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

static const struct {
    const char *name;
    bool is_local, stream_usage;
    const char *extra, *model, *body, *expected;
} encodings[] = {
    {"an unchanged request passes as it is", false, true, "", "m",
     "{ \"model\" : \"m\", " MESSAGES ", \"x\":1.0 }",
     "{ \"model\" : \"m\", " MESSAGES ", \"x\":1.0 }"},
    {"the model's name is replaced", false, true, "", "gpt-4",
     "{" MESSAGES ",\"model\":\"m\",\"big\":9007199254740993}",
     "{" MESSAGES ",\"model\":\"gpt-4\",\"big\":9007199254740993}"},
    {"a name that needs escapes", false, true, "", "a\"b", "{\"model\":\"m\"," MESSAGES "}",
     "{\"model\":\"a\\\"b\"," MESSAGES "}"},
    {"a stream asks for usage", false, true, "", "m",
     "{\"model\":\"m\",\"stream\":true," MESSAGES "}",
     "{\"stream_options\":{\"include_usage\":true},\"model\":\"m\",\"stream\":true," MESSAGES "}"},
    {"unless the provider must not be asked", false, false, "", "m",
     "{\"model\":\"m\",\"stream\":true," MESSAGES "}",
     "{\"model\":\"m\",\"stream\":true," MESSAGES "}"},
    {"other stream options stay", false, true, "", "m",
     "{\"model\":\"m\",\"stream\":true,\"stream_options\":{\"include_usage\":false,\"a\":1}"
     "," MESSAGES "}",
     "{\"model\":\"m\",\"stream\":true,\"stream_options\":{\"include_usage\":true,\"a\":1}"
     "," MESSAGES "}"},
    {"stream options of null", false, true, "", "m",
     "{\"model\":\"m\",\"stream\":true,\"stream_options\":null," MESSAGES "}",
     "{\"model\":\"m\",\"stream\":true,\"stream_options\":{\"include_usage\":true}," MESSAGES "}"},
    {"usage already asked for", false, true, "", "m",
     "{\"model\":\"m\",\"stream\":true,\"stream_options\":{\"include_usage\":true}," MESSAGES "}",
     "{\"model\":\"m\",\"stream\":true,\"stream_options\":{\"include_usage\":true}," MESSAGES "}"},
    {"extras are added, the caller's own win", false, true, "{\"top_k\":20,\"seed\":1}", "m",
     "{\"model\":\"m\"," MESSAGES ",\"seed\":7}",
     "{\"top_k\":20,\"model\":\"m\"," MESSAGES ",\"seed\":7}"},
    {"also those in capitals", false, true, "{\"min_p\":20,\"zz\":1}", "m",
     "{\"model\":\"m\"," MESSAGES ",\"M\\u0069n_P\":5,\"ZZ\":2}",
     "{\"model\":\"m\"," MESSAGES ",\"M\\u0069n_P\":5,\"ZZ\":2}"},
    {"a local model gets listed members only", true, true, "", "q",
     "{\"id_slot\":3,\"model\":\"m\",\"cache_prompt\":false," MESSAGES
     ",\"seed\":1,\"metadata\":{}}",
     "{\"model\":\"q\"," MESSAGES ",\"seed\":1}"},
};

static void requests_are_spliced(void **state)
{
    for (size_t i = 0; i < sizeof(encodings) / sizeof(*encodings); i++) {
        struct conf_provider provider = {.stream_usage = encodings[i].stream_usage,
                                         .extra_body = str_from(encodings[i].extra)};
        const struct provider_ops *ops =
            provider_ops_get(encodings[i].is_local ? CONF_PROVIDER_LOCAL : CONF_PROVIDER_OPENAI);
        struct chat_request ask;
        struct encoding out = {.provider = &provider, .ask = &ask, .arena = arena};
        struct buf sent = buf_make(MEM_TOOL, 4096);
        assert_null(dialect_chat->parse(str_from(encodings[i].body), arena, &ask));
        out.model = str_from(encodings[i].model);
        assert_null(ops->encode(&out));
        assert_true(str_eq(out.target, STR("/chat/completions")));
        for (size_t k = 0; k < out.body_count; k++)
            assert_null(buf_add(&sent, out.body[k]));
        if (!str_eq(buf_str(&sent), str_from(encodings[i].expected)))
            fail_msg("%s: %.*s", encodings[i].name, STR_ARG(buf_str(&sent)));
        assert_null(json_check(buf_str(&sent)));
        buf_fini(&sent);
    }
}

static void an_unchanged_request_is_not_copied(void **state)
{
    struct conf_provider provider = {.stream_usage = true};
    struct str body = STR("{\"model\":\"m\"," MESSAGES "}");
    struct chat_request ask;
    struct encoding out = {.provider = &provider, .ask = &ask, .model = STR("m"), .arena = arena};

    assert_null(dialect_chat->parse(body, arena, &ask));
    assert_null(provider_ops_get(CONF_PROVIDER_OPENAI)->encode(&out));
    assert_int_equal(out.body_count, 1);
    assert_ptr_equal(out.body[0].ptr, body.ptr);
}

static void many_pieces_are_joined(void **state)
{
    struct conf_provider provider = {.stream_usage = true};
    struct buf body = buf_make(MEM_TOOL, 64 * 1024);
    struct chat_request ask;
    struct encoding out = {.provider = &provider, .ask = &ask, .model = STR("a"), .arena = arena};

    assert_null(buf_add(&body, STR("{\"model\":\"m\"," MESSAGES ",\"seed\":1")));
    for (int i = 0; i < 60; i++)
        assert_null(buf_printf(&body, ",\"unlisted%d\":%d%s", i, i, i % 2 ? "" : " "));
    assert_null(buf_add(&body, STR(",\"top_p\":0.5,\"stop\":\"x\"}")));
    assert_null(dialect_chat->parse(buf_str(&body), arena, &ask));
    assert_null(provider_ops_get(CONF_PROVIDER_LOCAL)->encode(&out));
    assert_true(out.body_count <= PROVIDER_MAX_PIECES);
    buf_fini(&body);
}

/* ---- events ---- */

static err_t decode(struct decoder *decoder, const char *data, struct event *event)
{
    struct sse_event in = {.raw = STR("raw"), .data = str_from(data), .has_data = true};

    return provider_ops_get(CONF_PROVIDER_OPENAI)->decode(decoder, &in, event);
}

#define CHOICE(delta, finish)                                                                      \
    "{\"choices\":[{\"index\":0,\"delta\":" delta ",\"finish_reason\":" finish "}]}"

static const struct {
    const char *data;
    enum event_kind kind;
} kinds[] = {
    {CHOICE("{\"role\":\"assistant\",\"content\":\"\"}", "null"), EVENT_QUIET},
    {CHOICE("{\"role\":\"assistant\",\"content\":null,\"refusal\":null}", "null"), EVENT_QUIET},
    {CHOICE("{}", "null"), EVENT_QUIET},
    {CHOICE("{\"tool_calls\":[]}", "null"), EVENT_QUIET},
    {CHOICE("{\"role\":\"assistant\",\"content\":\"H\"}", "null"), EVENT_CONTENT},
    {CHOICE("{\"reasoning_content\":\"hm\"}", "null"), EVENT_CONTENT},
    {CHOICE("{\"refusal\":\"no\"}", "null"), EVENT_CONTENT},
    {CHOICE("{\"tool_calls\":[{\"index\":0}]}", "null"), EVENT_CONTENT},
    {CHOICE("{}", "\"stop\""), EVENT_CONTENT},
    {"{\"choices\":[]}", EVENT_QUIET},
    {"{\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}", EVENT_USAGE},
    {"{\"choices\":[],\"usage\":null}", EVENT_QUIET},
    {"{\"error\":null,\"choices\":[]}", EVENT_QUIET},
};

static void events_have_their_meaning(void **state)
{
    for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
        struct decoder decoder = {0};
        struct event event;
        err_t err = decode(&decoder, kinds[i].data, &event);
        if (err || event.kind != kinds[i].kind)
            fail_msg("%s: %s, %d", kinds[i].data, err ? err->text : "", event.kind);
        assert_true(str_eq(event.raw, STR("raw")));
    }
}

static void what_is_no_event_is_an_error(void **state)
{
    static const char *const broken[] = {
        "{\"choices\":[",
        "<html>",
        "[]",
        "7",
        "{\"choices\":[7]}",
        "{\"choices\":[{\"index\":-1,\"delta\":{}}]}",
        "{\"choices\":[{\"index\":128,\"delta\":{}}]}",
        "{\"error\":{\"message\":\"overloaded\"}}",
        "{\"error\":\"x\"}",
        "\xff",
        "{\"a\":\"\xc3\"}",
    };

    for (size_t i = 0; i < sizeof(broken) / sizeof(*broken); i++) {
        struct decoder decoder = {0};
        struct event event;
        err_t err = decode(&decoder, broken[i], &event);
        if (!err_is(err, ERR_UPSTREAM))
            fail_msg("%s was taken", broken[i]);
    }
}

static void a_stream_is_complete_when_every_choice_is(void **state)
{
    const struct provider_ops *ops = provider_ops_get(CONF_PROVIDER_OPENAI);
    struct decoder decoder = {0};
    struct event event;

    assert_non_null(ops->decode_end(&decoder, &event));
    assert_null(decode(&decoder, CHOICE("{\"content\":\"a\"}", "null"), &event));
    assert_null(
        decode(&decoder, "{\"choices\":[{\"index\":1,\"delta\":{\"content\":\"b\"}}]}", &event));
    assert_null(decode(&decoder, CHOICE("{}", "\"stop\""), &event));
    assert_non_null(ops->decode_end(&decoder, &event));
    assert_non_null(decode(&decoder, "[DONE]", &event));
    assert_null(decode(&decoder,
                       "{\"choices\":[{\"index\":1,\"delta\":{},\"finish_reason\":\"length\"}]}",
                       &event));
    assert_null(ops->decode_end(&decoder, &event));
    assert_null(decode(&decoder, " [DONE]", &event));
    assert_int_equal(event.kind, EVENT_END);
}

static void usage_is_read_wherever_it_comes(void **state)
{
    struct decoder decoder = {0};
    struct event event;

    assert_null(
        decode(&decoder,
               "{\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":"
               "{\"prompt_tokens\":9,\"completion_tokens\":3,\"prompt_tokens_details\":{\"cached_"
               "tokens\":4},"
               "\"completion_tokens_details\":{\"reasoning_tokens\":2}}}",
               &event));
    assert_int_equal(event.kind, EVENT_CONTENT);
    assert_true(decoder.usage.is_known);
    assert_int_equal(decoder.usage.input, 9);
    assert_int_equal(decoder.usage.output, 3);
    assert_int_equal(decoder.usage.cached, 4);
    assert_int_equal(decoder.usage.reasoning, 2);
}

static void absurd_usage_is_not_believed(void **state)
{
    static const char *const absurd[] = {
        "{\"choices\":[],\"usage\":{\"prompt_tokens\":-1,\"completion_tokens\":2}}",
        "{\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1000000000000}}",
        "{\"choices\":[],\"usage\":{}}",
    };

    for (size_t i = 0; i < sizeof(absurd) / sizeof(*absurd); i++) {
        struct decoder decoder = {0};
        struct event event;
        assert_null(decode(&decoder, absurd[i], &event));
        assert_false(decoder.usage.is_known);
    }
}

static err_t read_whole(const char *body, struct usage *usage)
{
    struct decoder decoder = {0};
    struct event event;
    err_t err =
        provider_ops_get(CONF_PROVIDER_OPENAI)->decode_whole(&decoder, str_from(body), &event);

    *usage = decoder.usage;
    return err;
}

static void absurd_counts_of_embeddings_are_not_believed(void **state)
{
    struct decoder decoder = {.protocol = PROTOCOL_EMBEDDINGS};
    struct event event;

    assert_null(provider_ops_get(CONF_PROVIDER_OPENAI)
                    ->decode_whole(&decoder,
                                   STR("{\"object\":\"list\",\"data\":[],\"usage\":{"
                                       "\"prompt_tokens\":1000000000000000}}"),
                                   &event));
    assert_false(decoder.usage.is_known);
    assert_int_equal(decoder.usage.input, 0);
}

static void whole_answers_are_checked(void **state)
{
    struct usage usage;

    assert_null(read_whole("{\"choices\":[{\"message\":{}}],\"usage\":{\"prompt_"
                           "tokens\":5,\"completion_tokens\":6}}",
                           &usage));
    assert_int_equal(usage.input + usage.output, 11);
    assert_non_null(read_whole("<html>", &usage));
    assert_non_null(read_whole("{\"choices\":[{\"mess", &usage));
    assert_non_null(read_whole("", &usage));
    assert_non_null(read_whole("{}", &usage));
    assert_non_null(read_whole("{\"choices\":[]}", &usage));
    assert_non_null(read_whole("{\"error\":{\"message\":\"m\"}}", &usage));
}

/* ---- short memory ---- */

#define LARGE                                                                                      \
    "{\"model\":\"m\",\"stream\":true,\"seed\":1,\"x\\u0078\":2,\"stop\":[\"\\n\"],\"messages\":[" \
    "{\"role\":\"system\",\"content\":\"Be\\nkind\"},{\"role\":\"user\",\"content\":[{\"type\":"   \
    "\"image_url\","                                                                               \
    "\"image_url\":{\"url\":\"data:image/"                                                         \
    "png;base64,AAAA\"}}]},{\"role\":\"assistant\",\"tool_calls\":"                                \
    "[{\"id\":\"a\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{"          \
    "\\\"a\\\":1}\"}}]},"                                                                          \
    "{\"role\":\"tool\",\"tool_call_id\":\"a\",\"content\":\"x\"}],\"tools\":[{\"type\":"          \
    "\"function\","                                                                                \
    "\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\"}}}]}"

/* A request is translated in both ways, and its answer read and written in both forms. */
static err_t translate(struct arena *own)
{
    struct conf_provider provider = {
        .stream_usage = true, .takes_extensions = true, .reasoning_back = CONF_REASONING_GIVEN};
    struct chat_request ask;
    struct encoding encoding = {
        .provider = &provider, .ask = &ask, .model = STR("m"), .arena = own};
    const struct prompt *prompt;
    struct decoder decoder = {.scratch = own, .arena = own, .must_translate = true};
    struct answer_writer writer = {
        .ask = &ask, .arena = own, .id = STR("ID"), .out = buf_make(MEM_TOOL, 64 * 1024)};
    struct answer answer = answer_make(own);
    struct sse_event in = {
        .data = STR(
            "{\"id\":\"chatcmpl-1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"{\\\"name"
            "\\\": \\\"f\\\", \\\"arguments\\\": {}}\",\"reasoning_content\":\"h\\nm\"},"
            "\"finish_reason\":\"stop\"}]}")};
    struct event event;
    err_t err = dialect_chat->parse(STR(LARGE), own, &ask);

    if (!err)
        err = chat_prompt(&ask, own, &prompt);
    if (!err)
        err = provider_openai_encode_prompt(&encoding, prompt);
    if (!err)
        err = provider_local->encode(&encoding);
    if (!err)
        err = provider_local->decode(&decoder, &in, &event);
    if (!err)
        err = answer_add(&answer, event.deltas, event.delta_count);
    if (!err)
        err = dialect_chat->write_event(&writer, &event);
    if (!err)
        err = dialect_chat->write_answer(&writer, &answer);
    buf_fini(&writer.out);
    return err;
}

/* Every allocation fails once: an error comes back and nothing is lost. */
static void translation_survives_short_memory(void **state)
{
    err_t err = NULL;
    bool over = false;

    for (uint64_t n = 1; n < 1000 && !over; n++) {
        struct arena *own = arena_new(MEM_TOOL, 1024 * 1024);
        size_t in_use = mem_in_use(MEM_REQUEST);
        assert_non_null(own);
        err_scope_set(own);
        mem_fail_nth(n);
        err = translate(own);
        over = mem_fail_count() < n;
        mem_fail_nth(0);
        if (!over && !err_is(err, ERR_BUSY))
            fail_msg("allocation %d: %s", (int)n, err ? err->text : "no error");
        err_scope_set(arena);
        arena_free(own);
        assert_int_equal(mem_in_use(MEM_REQUEST), in_use);
    }
    assert_null(err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_spliced),
        cmocka_unit_test(an_unchanged_request_is_not_copied),
        cmocka_unit_test(many_pieces_are_joined),
        cmocka_unit_test(events_have_their_meaning),
        cmocka_unit_test(what_is_no_event_is_an_error),
        cmocka_unit_test(a_stream_is_complete_when_every_choice_is),
        cmocka_unit_test(usage_is_read_wherever_it_comes),
        cmocka_unit_test(absurd_usage_is_not_believed),
        cmocka_unit_test(absurd_counts_of_embeddings_are_not_believed),
        cmocka_unit_test(whole_answers_are_checked),
        cmocka_unit_test(translation_survives_short_memory),
    };

    return cmocka_run_group_tests(tests, begin_arena, end_arena);
}
