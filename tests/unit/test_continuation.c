/* SPDX-License-Identifier: Apache-2.0 */
/* Which answers may be continued, and how their two parts are joined. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model/continuation.h"

static struct arena *arena;
static struct prompt asked;
static struct conf_provider conf = {.name = STR("p")};

static int setup(void **state)
{
    (void)state;
    arena = arena_new(MEM_REQUEST, 8 * CONTINUATION_MAX_BYTES);
    asked = (struct prompt){0};
    return arena ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    arena_free(arena);
    return 0;
}

static err_t expand(const struct chat_request *ask, struct arena *in, struct prompt *out)
{
    (void)ask;
    (void)in;
    *out = asked;
    return NULL;
}

static struct continuation begin(void)
{
    struct chat_request ask = {.protocol = PROTOCOL_CHAT, .is_stream = true, .expand = expand};
    struct continuation c;

    continuation_begin(&c, &ask, arena);
    return c;
}

/* Take a text as it comes; what of it goes to the caller. */
static struct str take(struct continuation *c, struct str text)
{
    struct delta delta = {.kind = DELTA_TEXT, .text = text};
    struct event event = {.kind = EVENT_CONTENT, .deltas = &delta, .delta_count = 1};

    assert_null(continuation_take(c, &event, arena));
    return event.deltas[0].text;
}

static void assert_text(struct str text, const char *expected)
{
    assert_true(str_eq(text, str_from(expected)));
}

static void only_plain_text_is_possible(void **state)
{
    struct continuation c = begin();

    (void)state;
    assert_true(c.is_possible);
    asked.tool_count = 1;
    assert_false(begin().is_possible);
    asked = (struct prompt){.format = FORMAT_JSON};
    assert_false(begin().is_possible);
    asked = (struct prompt){.thinking = true, .has_thinking = true};
    assert_false(begin().is_possible);
    asked = (struct prompt){.settings = {[SETTING_N] = STR("2")}};
    assert_false(begin().is_possible);
    asked = (struct prompt){.settings = {[SETTING_N] = STR("1"), [SETTING_LOGPROBS] = STR("null")}};
    assert_true(begin().is_possible);
}

static void other_deltas_end_it(void **state)
{
    static const enum delta_kind others[] = {DELTA_REASONING, DELTA_TOOL_CALL, DELTA_LOGPROBS,
                                             DELTA_REFUSAL,   DELTA_CITATION,  DELTA_FINISH};

    (void)state;
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++) {
        struct delta delta = {.kind = others[i], .text = STR("x")};
        struct event event = {.deltas = &delta, .delta_count = 1};
        struct continuation c = begin();
        assert_null(continuation_take(&c, &event, arena));
        assert_false(c.is_possible);
        continuation_fini(&c);
    }
}

static void too_long_a_text_is_let_go(void **state)
{
    static char page[CONTINUATION_MAX_BYTES / 2];
    struct continuation c = begin();

    (void)state;
    memset(page, 'x', sizeof(page));
    take(&c, (struct str){page, sizeof(page)});
    take(&c, (struct str){page, sizeof(page)});
    assert_true(c.is_possible);
    assert_text(take(&c, STR("y")), "y");
    assert_false(c.is_possible);
    continuation_fini(&c);
}

static void white_space_that_was_cut_is_not_said_twice(void **state)
{
    struct continuation c = begin();
    struct str prefill;

    (void)state;
    take(&c, STR("def f():"));
    take(&c, STR("\n    "));
    assert_null(continuation_prefill(&c, &conf, provider_anthropic, PROTOCOL_CHAT, &prefill));
    assert_text(prefill, "def f():");
    assert_text(take(&c, STR("\n")), "");
    assert_text(take(&c, STR("      return")), "  return");
    assert_text(take(&c, STR("\n    ")), "\n    ");
    assert_null(continuation_prefill(&c, &conf, provider_openai, PROTOCOL_CHAT, &prefill));
    assert_text(prefill, "def f():\n      return\n    ");
    assert_text(take(&c, STR("\n    ")), "\n    ");
    continuation_fini(&c);
}

static void other_white_space_is_kept(void **state)
{
    struct continuation c = begin();
    struct str prefill;

    (void)state;
    take(&c, STR("one\n"));
    assert_null(continuation_prefill(&c, &conf, provider_anthropic, PROTOCOL_CHAT, &prefill));
    assert_text(take(&c, STR(" two")), " two");
    assert_text(take(&c, STR("\n")), "\n");
    continuation_fini(&c);
}

static void blank_beginnings_are_asked_anew(void **state)
{
    struct continuation c = begin();
    struct str prefill;

    (void)state;
    take(&c, STR(" \n"));
    assert_null(continuation_prefill(&c, &conf, provider_anthropic, PROTOCOL_CHAT, &prefill));
    assert_int_equal(prefill.len, 0);
    assert_int_equal(continuation_prefill_tokens(&c, STR("claude")), 0);
    assert_text(take(&c, STR(" \nHello")), "Hello");
    continuation_fini(&c);
}

static void responses_are_joined_with_none(void **state)
{
    struct continuation c = begin();
    struct str prefill;

    (void)state;
    conf.speaks_responses = true;
    assert_true(continuation_wants_deltas(&c, PROTOCOL_CHAT));
    assert_false(continuation_wants_deltas(&c, PROTOCOL_RESPONSES));
    assert_true(
        err_is(continuation_prefill(&c, &conf, provider_openai, PROTOCOL_RESPONSES, &prefill),
               ERR_BAD_REQUEST));
    assert_null(continuation_prefill(&c, &conf, provider_anthropic, PROTOCOL_RESPONSES, &prefill));
    continuation_fini(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(only_plain_text_is_possible, setup, teardown),
        cmocka_unit_test_setup_teardown(other_deltas_end_it, setup, teardown),
        cmocka_unit_test_setup_teardown(too_long_a_text_is_let_go, setup, teardown),
        cmocka_unit_test_setup_teardown(white_space_that_was_cut_is_not_said_twice, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(other_white_space_is_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(blank_beginnings_are_asked_anew, setup, teardown),
        cmocka_unit_test_setup_teardown(responses_are_joined_with_none, setup, teardown),
    };

    return cmocka_run_group_tests_name("continuation", tests, NULL, NULL);
}
