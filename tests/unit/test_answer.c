/* SPDX-License-Identifier: Apache-2.0 */
/* An answer gathered from its deltas. */
#include "arena_scope.h"

#include <string.h>

#include "model/answer.h"

static void assert_part(const struct answer_part *part, enum answer_part_kind kind,
                        const char *text)
{
    assert_non_null(part);
    assert_int_equal(part->kind, kind);
    assert_true(str_eq(buf_str(&part->text), str_from(text)));
}

static void runs_of_a_kind_are_joined(void **state)
{
    struct answer answer = answer_make(arena);
    const struct delta deltas[] = {
        {.kind = DELTA_REASONING, .text = STR("hm")},
        {.kind = DELTA_REASONING, .text = STR("m")},
        {.kind = DELTA_SIGNATURE, .text = STR("sig")},
        {.kind = DELTA_TEXT, .text = STR("a")},
        {.kind = DELTA_CITATION, .text = STR("{}")},
        {.kind = DELTA_TEXT, .text = STR("b")},
        {.kind = DELTA_SIGNATURE, .text = STR("second")},
        {.kind = DELTA_FINISH, .stop = STOP_SEQUENCE, .text = STR("END")},
    };

    assert_null(answer_first(&answer));
    assert_null(answer_add(&answer, deltas, 3));
    assert_null(answer_add(&answer, deltas + 3, 5));
    const struct answer_choice *choice = answer_first(&answer);
    const struct answer_part *part = choice->parts;
    assert_part(part, ANSWER_REASONING, "hmm");
    assert_true(str_eq(part->signature, STR("sig")));
    part = part->next;
    assert_part(part, ANSWER_TEXT, "ab");
    assert_int_equal(part->citation_count, 1);
    part = part->next;
    assert_part(part, ANSWER_REASONING, "");
    assert_true(str_eq(part->signature, STR("second")));
    assert_null(part->next);
    assert_int_equal(choice->stop, STOP_SEQUENCE);
    assert_true(str_eq(choice->stop_text, STR("END")));
}

static void arguments_find_their_call(void **state)
{
    struct answer answer = answer_make(arena);
    const struct delta deltas[] = {
        {.kind = DELTA_TOOL_CALL, .index = 0, .id = STR("a"), .name = STR("f")},
        {.kind = DELTA_ARGUMENTS, .index = 0, .text = STR("{\"x\":")},
        {.kind = DELTA_TOOL_CALL, .index = 1, .id = STR("b"), .name = STR("g")},
        {.kind = DELTA_ARGUMENTS, .index = 1, .text = STR("{\"y\":2}")},
        {.kind = DELTA_ARGUMENTS, .index = 0, .text = STR("1}")},
        {.kind = DELTA_TOOL_CALL, .index = 2, .id = STR("c"), .name = STR("h")},
    };

    assert_null(answer_add(&answer, deltas, 6));
    const struct answer_part *call = answer_first(&answer)->parts;
    assert_part(call, ANSWER_CALL, "{\"x\":1}");
    assert_true(str_eq(call->id, STR("a")));
    assert_part(call->next, ANSWER_CALL, "{\"y\":2}");
    assert_true(str_eq(call->next->name, STR("g")));
    assert_true(str_eq(answer_arguments(call->next->next), STR("{}")));
}

static void choices_stand_in_order(void **state)
{
    struct answer answer = answer_make(arena);
    const struct delta deltas[] = {
        {.kind = DELTA_TEXT, .choice = 2, .text = STR("c")},
        {.kind = DELTA_TEXT, .choice = 0, .text = STR("a")},
        {.kind = DELTA_TEXT, .choice = 1, .text = STR("b")},
        {.kind = DELTA_LOGPROBS, .choice = 1, .text = STR("[]")},
        {.kind = DELTA_LOGPROBS, .choice = 1, .text = STR("[1,2]")},
        {.kind = DELTA_LOGPROBS, .choice = 1, .text = STR("[3]")},
    };

    assert_null(answer_add(&answer, deltas, 6));
    const struct answer_choice *choice = answer_first(&answer);
    assert_part(choice->parts, ANSWER_TEXT, "a");
    assert_part(choice->next->parts, ANSWER_TEXT, "b");
    assert_true(str_eq(choice->next->logprobs, STR("[1,2,3]")));
    assert_part(choice->next->next->parts, ANSWER_TEXT, "c");
    assert_null(choice->next->next->next);
}

static void endless_answers_are_refused(void **state)
{
    struct answer answer = answer_make(arena);
    static char megabyte[1024 * 1024];
    struct delta delta = {.kind = DELTA_TEXT, .text = {megabyte, sizeof megabyte}};

    memset(megabyte, 'x', sizeof megabyte);
    for (int i = 0; i < 16; i++)
        assert_null(answer_add(&answer, &delta, 1));
    assert_true(err_is(answer_add(&answer, &delta, 1), ERR_UPSTREAM));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(runs_of_a_kind_are_joined, begin_arena, end_arena),
        cmocka_unit_test_setup_teardown(arguments_find_their_call, begin_arena, end_arena),
        cmocka_unit_test_setup_teardown(choices_stand_in_order, begin_arena, end_arena),
        cmocka_unit_test_setup_teardown(endless_answers_are_refused, begin_arena, end_arena),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
