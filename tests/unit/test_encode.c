/* SPDX-License-Identifier: Apache-2.0 */
/* Settings and what becomes of them, what is dropped or refused, extra members, and providers' words
 * about failures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model/encode.h"

static struct arena *arena;
static struct conf_provider provider;
static struct encoding encoding;
static struct prompt prompt;
static struct buf out;
static struct json_writer w;

static int begin(void **state)
{
    arena = arena_new(MEM_TOOL, 1024 * 1024);
    err_scope_set(arena);
    provider = (struct conf_provider){0};
    encoding = (struct encoding){.provider = &provider, .arena = arena};
    prompt = (struct prompt){0};
    out = buf_make(MEM_TOOL, 10000);
    w = json_writer_make(&out);
    json_open_object(&w);
    return 0;
}

static int end(void **state)
{
    buf_fini(&out);
    err_scope_set(NULL);
    arena_free(arena);
    return 0;
}

static void set(enum setting setting, const char *json)
{
    prompt.settings[setting] = str_from(json);
}

static void assert_text(struct str text, const char *expected)
{
    if (!str_eq(text, str_from(expected)))
        fail_msg("\"%.*s\" is not \"%s\"", STR_ARG(text), expected);
}

static void settings_are_found_by_name(void **state)
{
    assert_int_equal(setting_of(PROTOCOL_CHAT, STR("max_tokens")), SETTING_MAX_TOKENS);
    assert_int_equal(setting_of(PROTOCOL_CHAT, STR("max_completion_tokens")), SETTING_MAX_TOKENS);
    assert_int_equal(setting_of(PROTOCOL_RESPONSES, STR("max_output_tokens")), SETTING_MAX_TOKENS);
    assert_int_equal(setting_of(PROTOCOL_MESSAGES, STR("top_k")), SETTING_TOP_K);
    assert_int_equal(setting_of(PROTOCOL_CHAT, STR("metadata")), SETTING_METADATA);
    assert_int_equal(setting_of(PROTOCOL_MESSAGES, STR("metadata")), SETTING_COUNT);
    assert_int_equal(setting_of(PROTOCOL_RESPONSES, STR("text")), SETTING_COUNT);
    assert_int_equal(setting_of(PROTOCOL_CHAT, STR("")), SETTING_COUNT);
    assert_int_equal(setting_of(PROTOCOL_CHAT, STR("messages")), SETTING_COUNT);
    for (int i = 0; i < SETTING_COUNT; i++)
        assert_true(setting_name((enum setting)i).len > 0);
}

static void defaults_are_known(void **state)
{
    assert_true(setting_is_default(SETTING_N, STR("1")));
    assert_true(setting_is_default(SETTING_N, STR("1.0")));
    assert_true(setting_is_default(SETTING_N, STR("null")));
    assert_false(setting_is_default(SETTING_N, STR("2")));
    assert_false(setting_is_default(SETTING_N, STR("\"1\"")));
    assert_true(setting_is_default(SETTING_FREQUENCY_PENALTY, STR("0.0")));
    assert_true(setting_is_default(SETTING_FREQUENCY_PENALTY, STR("-0")));
    assert_true(setting_is_default(SETTING_LOGIT_BIAS, STR("{ }")));
    assert_false(setting_is_default(SETTING_LOGIT_BIAS, STR("{\"1\":2}")));
    assert_true(setting_is_default(SETTING_MODALITIES, STR("[ \"text\" ]")));
    assert_false(setting_is_default(SETTING_MODALITIES, STR("[\"text\",\"audio\"]")));
    assert_true(setting_is_default(SETTING_LOGPROBS, STR("false")));
    assert_false(setting_is_default(SETTING_LOGPROBS, STR("true")));
    assert_true(setting_is_default(SETTING_SERVICE_TIER, STR("\"auto\"")));
    assert_false(setting_is_default(SETTING_TEMPERATURE, STR("1")));
    assert_true(setting_is_default(SETTING_TEMPERATURE, STR("null")));
}

static void settings_get_other_names(void **state)
{
    set(SETTING_TOP_P, "0.50");
    set(SETTING_TOP_K, "40");
    set(SETTING_N, "2");
    set(SETTING_FREQUENCY_PENALTY, "0");
    set(SETTING_USER, "\"u\"");
    set(SETTING_MAX_TOKENS, "5");
    assert_null(encode_settings(&encoding, &prompt, PROTOCOL_GEMINI, &w));
    assert_text(buf_str(&out), "{\"topP\":0.50,\"topK\":40,\"candidateCount\":2");
    assert_text(encoding.dropped, "");
}

static void what_only_tunes_is_dropped(void **state)
{
    struct str unknown[] = {STR("new_thing"), STR("bad\r\nname,x"), STR("seed")};

    set(SETTING_TEMPERATURE, "1.5");
    set(SETTING_SEED, "7");
    set(SETTING_PRESENCE_PENALTY, "0.0");
    prompt.unknown = unknown;
    prompt.unknown_count = 3;
    assert_null(encode_settings(&encoding, &prompt, PROTOCOL_MESSAGES, &w));
    assert_text(buf_str(&out), "{\"temperature\":1");
    assert_text(encoding.dropped, "temperature, seed, new_thing, bad__name_x");
}

static void what_changes_the_answer_is_refused(void **state)
{
    err_t err;

    set(SETTING_N, "3");
    err = encode_settings(&encoding, &prompt, PROTOCOL_MESSAGES, &w);
    assert_true(err_is(err, ERR_BAD_REQUEST));
    assert_string_equal(err->code, "unsupported_parameter");
    assert_string_equal(err->param, "n");
    encoding.unsupported = CONF_UNSUPPORTED_DROP;
    assert_null(encode_settings(&encoding, &prompt, PROTOCOL_MESSAGES, &w));
    assert_text(encoding.dropped, "n");
}

static void everything_is_refused_on_demand(void **state)
{
    set(SETTING_SEED, "3");
    encoding.unsupported = CONF_UNSUPPORTED_ERROR;
    err_t err = encode_settings(&encoding, &prompt, PROTOCOL_MESSAGES, &w);
    assert_true(err_is(err, ERR_BAD_REQUEST));
    assert_string_equal(err->param, "seed");
}

static void extensions_need_a_provider_that_takes_them(void **state)
{
    set(SETTING_MIN_P, "0.1");
    assert_null(encode_settings(&encoding, &prompt, PROTOCOL_CHAT, &w));
    assert_text(encoding.dropped, "min_p");
    provider.takes_extensions = true;
    assert_null(encode_settings(&encoding, &prompt, PROTOCOL_CHAT, &w));
    assert_text(buf_str(&out), "{\"min_p\":0.1");
}

static void extra_members_come_last_and_yield(void **state)
{
    provider.extra_body = STR("{ \"model\" : \"x\", \"extra\" : {\"a\": 1}, \"b\":2 }");
    json_put_text(&w, "model", STR("m"));
    assert_null(encode_extra(&encoding, &w));
    json_close_object(&w);
    assert_text(buf_str(&out), "{\"model\":\"m\",\"extra\" : {\"a\": 1},\"b\":2}");
    assert_null(encode_finish(&encoding, &w, STR("/x")));
    assert_int_equal(encoding.body_count, 1);
    assert_text(encoding.body[0], "{\"model\":\"m\",\"extra\" : {\"a\": 1},\"b\":2}");
    assert_text(encoding.target, "/x");
}

static void refusals_are_understood(void **state)
{
    static const struct {
        const char *body, *message, *code;
    } cases[] = {
        {"{\"error\":{\"message\":\"m\",\"type\":\"t\",\"code\":\"c\"}}", "m", "c"},
        {"{\"error\":{\"message\":\"m\",\"type\":\"t\",\"code\":null}}", "m", "t"},
        {"{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"o\"}}", "o",
         "overloaded_error"},
        {"{\"error\":{\"code\":400,\"message\":\"a\\nb\",\"status\":\"INVALID_ARGUMENT\"}}", "a\nb",
         "INVALID_ARGUMENT"},
        {"[{\"error\":{\"code\":503,\"message\":\"m\",\"status\":\"UNAVAILABLE\"}}]\n", "m",
         "UNAVAILABLE"},
        {"{\"error\":\"plain\"}", "plain", ""},
        {"{\"detail\":\"Not Found\"}", "Not Found", ""},
        {"{\"object\":\"error\",\"message\":\"vllm\",\"code\":400}", "vllm", ""},
        {"{\"error\":{\"type\":\"invalid_request_error\",\"message\":"
         "\"prompt is too long: 3 tokens > 2 maximum\"}}",
         "prompt is too long: 3 tokens > 2 maximum", "context_length_exceeded"},
        {"<html>", "", ""},
        {"[]", "", ""},
        {"null", "", ""},
        {"", "", ""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct str message, code;
        assert_null(decode_refusal(str_from(cases[i].body), arena, &message, &code));
        assert_text(message, cases[i].message);
        assert_text(code, cases[i].code);
    }
}

static void deltas_gather(void **state)
{
    struct decoder decoder = {.scratch = arena};
    struct event event = {0};

    for (unsigned i = 0; i < 100; i++)
        decode_add(&decoder, &event, DELTA_TEXT)->index = i;
    assert_int_equal(event.delta_count, 100);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(event.deltas[i].index, i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(settings_are_found_by_name),
        cmocka_unit_test(defaults_are_known),
        cmocka_unit_test_setup_teardown(settings_get_other_names, begin, end),
        cmocka_unit_test_setup_teardown(what_only_tunes_is_dropped, begin, end),
        cmocka_unit_test_setup_teardown(what_changes_the_answer_is_refused, begin, end),
        cmocka_unit_test_setup_teardown(everything_is_refused_on_demand, begin, end),
        cmocka_unit_test_setup_teardown(extensions_need_a_provider_that_takes_them, begin, end),
        cmocka_unit_test_setup_teardown(extra_members_come_last_and_yield, begin, end),
        cmocka_unit_test_setup_teardown(refusals_are_understood, begin, end),
        cmocka_unit_test_setup_teardown(deltas_gather, begin, end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
