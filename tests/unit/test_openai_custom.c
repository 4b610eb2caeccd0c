/* SPDX-License-Identifier: Apache-2.0 */
/* The text within the arguments of a custom tool's call: the same however the arguments are cut. */
#include "arena_scope.h"

#include <string.h>

#include "dialect/openai_custom.h"

static void assert_str(struct str s, const char *text)
{
    if (!str_eq(s, str_from(text)))
        fail_msg("%.*s instead of %s", STR_ARG(s), text);
}

/* Add the arguments in pieces of `step` bytes, the first of `first`. */
static struct str read_pieces(struct str arguments, size_t first, size_t step)
{
    struct openai_custom_input *input = arena_new_struct(arena, struct openai_custom_input);
    struct buf text = buf_make(MEM_REQUEST, 1024);
    struct str more, all;
    size_t len = first;

    assert_null(openai_custom_begin(input, arena));
    for (size_t at = 0; at < arguments.len; at += len, len = step) {
        len = len < arguments.len - at ? len : arguments.len - at;
        struct str piece = arena_copy(arena, (struct str){arguments.ptr + at, len});
        assert_null(openai_custom_add(input, piece, arena, &more));
        assert_null(buf_add(&text, more));
    }
    assert_null(openai_custom_end(input, arena, &more));
    assert_null(buf_add(&text, more));
    all = arena_copy(arena, buf_str(&text));
    buf_fini(&text);
    return all;
}

static void assert_reads(const char *arguments, const char *text)
{
    struct str given = str_from(arguments), whole;

    assert_null(openai_custom_whole(given, arena, &whole));
    assert_str(whole, text);
    assert_str(read_pieces(given, given.len, given.len), text);
    for (size_t i = 1; i < given.len; i++) {
        assert_str(read_pieces(given, i, given.len), text);
        assert_str(read_pieces(given, i, 1), text);
    }
}

static void the_input_is_the_text(void **state)
{
    assert_reads("{\"input\":\"a b\"}", "a b");
    assert_reads(" {\n\"input\"\t: \"\" } ", "");
    assert_reads("{\"input\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"}", "\"\\/\b\f\n\r\t");
    assert_reads("{\"input\":\"\\u00e9\\u20AC\\ud83d\\ude00é\"}", "é€😀é");
    assert_reads("{\"input\":\"a\",\"b\":\"c\"}", "a");
    assert_reads("{\"b\":\"\\\"\",\"input\":\"a\\n\"}", "a\n");
}

static void halves_of_pairs_are_no_characters(void **state)
{
    assert_reads("{\"input\":\"\\ud83d\"}", "\xEF\xBF\xBD");
    assert_reads("{\"input\":\"\\ud83d\\n\"}", "\xEF\xBF\xBD\n");
    assert_reads("{\"input\":\"\\ud83d\\u0041\"}", "\xEF\xBF\xBD"
                                                   "A");
    assert_reads("{\"input\":\"\\ude00x\"}", "\xEF\xBF\xBDx");
    assert_reads("{\"input\":\"\\uzzzz\\q\"}", "uzzzzq");
}

static void what_breaks_off_is_a_beginning(void **state)
{
    assert_reads("", "");
    assert_reads("{}", "");
    assert_reads("{\"inp", "");
    assert_reads("{\"input\":\"abc", "abc");
    assert_reads("{\"input\":\"abc\\", "abc");
    assert_reads("{\"input\":\"abc\\ud83d\\ude", "abc");
}

static void other_words_are_taken_as_they_are(void **state)
{
    assert_reads(" Begin Patch\nEnd Patch\n", " Begin Patch\nEnd Patch\n");
    assert_reads("{\"patch\":\"x\"}", "{\"patch\":\"x\"}");
    assert_reads("{\"input\":1}", "{\"input\":1}");
    assert_reads("{ not JSON", "{ not JSON");
    assert_reads("[\"input\"]", "[\"input\"]");
}

static void arguments_hold_the_input(void **state)
{
    struct str arguments;

    assert_null(openai_custom_arguments(STR("a\n\"b\"\\\x01é"), arena, &arguments));
    assert_str(arguments, "{\"input\":\"a\\n\\\"b\\\"\\\\\\u0001é\"}");
    assert_reads(arena_cstr(arena, arguments), "a\n\"b\"\\\x01é");
}

static void a_tool_becomes_a_function(void **state)
{
    struct prompt prompt = {0};
    struct tool tool = {.name = STR("patch")};
    struct chat_request ask = {0};

    assert_null(openai_custom_make((struct str){0}, arena, &tool));
    assert_true(tool.is_function && tool.is_custom && !tool.has_grammar);
    assert_str(tool.parameters,
               "{\"type\":\"object\",\"properties\":{\"input\":{\"type\":\"string\"}"
               "},\"required\":[\"input\"],\"additionalProperties\":false}");
    assert_false(openai_custom_is(&ask, STR("patch")));
    prompt.tools = &tool;
    prompt.tool_count = 1;
    ask.prompt = &prompt;
    assert_true(openai_custom_is(&ask, STR("patch")));
    assert_false(openai_custom_is(&ask, STR("other")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_input_is_the_text, begin_arena, end_arena),
        cmocka_unit_test_setup_teardown(halves_of_pairs_are_no_characters, begin_arena, end_arena),
        cmocka_unit_test_setup_teardown(what_breaks_off_is_a_beginning, begin_arena, end_arena),
        cmocka_unit_test_setup_teardown(other_words_are_taken_as_they_are, begin_arena, end_arena),
        cmocka_unit_test_setup_teardown(arguments_hold_the_input, begin_arena, end_arena),
        cmocka_unit_test_setup_teardown(a_tool_becomes_a_function, begin_arena, end_arena),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
