/* SPDX-License-Identifier: Apache-2.0 */
/* Scores: what features see, and how often the score is right about labelled prompts.
 *
 * `test_complexity --features FILE` prints each prompt's label and counts instead, for
 * script/tune-complexity. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <time.h>

#include "base/mem.h"
#include "complexity_set.h"

/* A prompt is taken to be hard when it scores more than this: what docs/cost-routing.md advises for
 * max_complexity. */
#define THRESHOLD 30
/* What must be right at least, and by how much more than by length alone; in per cent. */
#define FLOOR_ACCURACY 80
#define FLOOR_MARGIN   15

static struct arena *arena;
static struct set tune, test;

static int set_up(void **state)
{
    arena = arena_new(MEM_TOOL, 256 * 1024 * 1024);
    return arena ? 0 : -1;
}

static int tear_down(void **state)
{
    arena_free(arena);
    assert_int_equal(mem_in_use(MEM_TOOL), 0);
    return 0;
}

static struct complexity of(const char *text)
{
    struct complexity complexity;

    complexity_measure_text(str_from(text), &complexity);
    return complexity;
}

static unsigned count_of(const char *text, enum complexity_feature feature)
{
    return of(text).counts[feature];
}

/* ---- features ---- */

static void test_words(void **state)
{
    assert_int_equal(count_of("Why? WHY, why!", COMPLEXITY_REASONING), 3);
    assert_int_equal(count_of("whyever anywhy", COMPLEXITY_REASONING), 0);
    assert_int_equal(count_of("Translating is translation", COMPLEXITY_EASY), 2);
    assert_int_equal(count_of("high hills", COMPLEXITY_EASY), 0);
    assert_int_equal(count_of("为什么是这样", COMPLEXITY_REASONING), 1);
    assert_int_equal(count_of("为什么是这样", COMPLEXITY_EASY), 0); /* 什么是 begins within */
    assert_int_equal(count_of("帮我翻译这句话", COMPLEXITY_EASY), 1);
    assert_int_equal(count_of("请证明这个定理", COMPLEXITY_MATHS), 1);
    assert_int_equal(count_of("Use Rust or C++11", COMPLEXITY_ENGINEERING), 2);
}

static void test_signs_and_numbers(void **state)
{
    assert_int_equal(count_of("12 or 3.5 of 40", COMPLEXITY_NUMBERS), 4);
    assert_int_equal(count_of("x² + y^2 = z", COMPLEXITY_MATHS_SIGNS), 3);
    assert_int_equal(count_of("√2 ≤ ∑", COMPLEXITY_MATHS_SIGNS), 3);
}

static void test_code(void **state)
{
    assert_int_equal(count_of("Just words.\nAnd more: words", COMPLEXITY_CODE), 0);
    assert_int_equal(count_of("int x;", COMPLEXITY_CODE), 1);
    assert_int_equal(count_of("def f():\n    return 1\n", COMPLEXITY_CODE), 2);
    assert_int_equal(count_of("f() {\n\ta();\n}  \n\nint y;", COMPLEXITY_CODE), 3);
}

/* What lies between the first and the last line does not count, except by its length. */
static void test_material_is_not_the_question(void **state)
{
    struct buf text = buf_make(MEM_TOOL, 64 * 1024);

    assert_null(buf_add(&text, STR("Summarise this:\n")));
    for (size_t i = 0; i < 50; i++)
        assert_null(buf_add(&text, STR("Nothing of interest was said that day.\n")));
    assert_null(buf_add(&text, STR("Prove the theorem, and analyse why it holds.\n")));
    for (size_t i = 0; i < 50; i++)
        assert_null(buf_add(&text, STR("Nothing of interest was said that day.\n")));
    assert_null(buf_add(&text, STR("In one sentence.\n\n")));
    struct complexity complexity;
    complexity_measure_text(buf_str(&text), &complexity);
    assert_int_equal(complexity.counts[COMPLEXITY_REASONING], 0);
    assert_int_equal(complexity.counts[COMPLEXITY_EASY], 2);
    assert_int_equal(complexity.counts[COMPLEXITY_MATERIAL], 5); /* 2 to 4 thousand bytes */
    buf_fini(&text);
}

static void test_what_is_around(void **state)
{
    struct part parts[] = {{.kind = PART_TEXT, .text = STR("You are helpful. Prove everything.")},
                           {.kind = PART_TEXT, .text = STR("Why?")},
                           {.kind = PART_TOOL_CALL},
                           {.kind = PART_TOOL_RESULT},
                           {.kind = PART_IMAGE},
                           {.kind = PART_FILE}};
    struct message messages[] = {{.role = ROLE_SYSTEM, .parts = &parts[0], .part_count = 1},
                                 {.role = ROLE_USER, .parts = &parts[1], .part_count = 1},
                                 {.role = ROLE_ASSISTANT, .parts = &parts[2], .part_count = 1},
                                 {.role = ROLE_TOOL, .parts = &parts[3], .part_count = 1},
                                 {.role = ROLE_USER, .parts = &parts[4], .part_count = 2}};
    struct tool tools[2] = {
        {.parameters = STR("{\"a\":{\"b\":{\"c\":\"}}}{{{{\",\"d\":{\"e\":[1]}}}}")}};
    struct prompt prompt = {.messages = messages,
                            .message_count = 5,
                            .tools = tools,
                            .tool_count = 2,
                            .format = FORMAT_SCHEMA,
                            .effort = STR("high")};
    struct complexity c;
    complexity_measure(&prompt, &c);
    assert_int_equal(c.counts[COMPLEXITY_TOOLS], 2);
    assert_int_equal(c.counts[COMPLEXITY_TOOL_DEPTH], 2);
    assert_int_equal(c.counts[COMPLEXITY_TURNS], 3);
    assert_int_equal(c.counts[COMPLEXITY_RESULTS], 1);
    assert_int_equal(c.counts[COMPLEXITY_ATTACHMENTS], 2);
    assert_int_equal(c.counts[COMPLEXITY_STRUCTURED], 1);
    assert_int_equal(c.counts[COMPLEXITY_EFFORT], 2);
    assert_int_equal(c.counts[COMPLEXITY_REASONING], 0); /* neither the system's nor an old one */
    prompt.message_count = 2;
    complexity_measure(&prompt, &c);
    assert_int_equal(c.counts[COMPLEXITY_REASONING], 1);
}

/* The parts add up to the score, as far as it is not beyond its ends. */
static void test_the_score_is_its_parts(void **state)
{
    const char *texts[] = {"", "Hello!", "Prove that 2^n > n for all n, 并分析原因。", "为什么?"};

    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        struct complexity c = of(texts[i]);
        int sum = complexity_base_points() + 50;
        for (int k = 0; k < COMPLEXITY_FEATURE_COUNT; k++)
            sum += complexity_feature_points(&c, (enum complexity_feature)k);
        assert_int_equal(c.score, sum < 0 ? 0 : sum / 100 > 100 ? 100 : sum / 100);
        assert_true(i == 0 || complexity_feature_name((enum complexity_feature)i)[0] != 0);
    }
}

/* Bytes that are no text, and a lot of them: 1 MiB takes no longer than its first 16 KiB. */
static void test_anything_can_be_measured(void **state)
{
    char *noise = arena_alloc(arena, 1024 * 1024);

    assert_non_null(noise);
    for (size_t i = 0; i < 1024 * 1024; i++)
        noise[i] = (char)(i * 2654435761U >> 13);
    for (size_t length = 0; length < 600; length++) {
        struct complexity c;
        struct str exact = arena_copy(arena, (struct str){noise + length, length});
        assert_non_null(exact.ptr);
        complexity_measure_text(exact, &c);
        assert_in_range(c.score, 0, 100);
    }
    clock_t before = clock(); /* our own work, however busy the machine is */
    for (size_t i = 0; i < 100; i++) {
        struct complexity c;
        complexity_measure_text((struct str){noise, 1024 * 1024}, &c);
    }
    assert_in_range(clock() - before, 0, 2 * CLOCKS_PER_SEC);
}

/* ---- labelled prompts ---- */

static bool is_in(const struct labelled *prompt, bool in_chinese)
{
    return str_eq(prompt->language, STR("en")) != in_chinese;
}

/* How many are right when what counts more than `threshold` is taken to be hard. */
static size_t right_by_length(const struct set *set, size_t threshold)
{
    size_t right = 0;

    for (size_t i = 0; i < set->count; i++)
        right += (set->prompts[i].tokens > threshold) == set->prompts[i].is_hard;
    return right;
}

static size_t right_by_score(const struct set *set, int in_chinese, size_t *of)
{
    size_t right = 0;

    *of = 0;
    for (size_t i = 0; i < set->count; i++) {
        const struct labelled *prompt = &set->prompts[i];
        if (in_chinese >= 0 && !is_in(prompt, in_chinese))
            continue;
        ++*of;
        right += (prompt->complexity.score > THRESHOLD) == prompt->is_hard;
    }
    return right;
}

/* The threshold that does best on a set. */
static size_t best_length(const struct set *set)
{
    size_t best = 0;

    for (size_t i = 0; i < set->count; i++)
        if (right_by_length(set, set->prompts[i].tokens) > right_by_length(set, best))
            best = set->prompts[i].tokens;
    return best;
}

static double percent(size_t part, size_t whole)
{
    return whole ? 100.0 * (double)part / (double)whole : 0;
}

static void test_labelled_prompts(void **state)
{
    size_t all, english, chinese, tuned, threshold, right, by_length;

    set_read(SET_FOLDER "tune.tsv", arena, &tune);
    set_read(SET_FOLDER "test.tsv", arena, &test);
    assert_in_range(tune.count, 100, SET_MAX_PROMPTS);
    assert_in_range(test.count, 150, SET_MAX_PROMPTS);
    threshold = best_length(&tune);
    by_length = right_by_length(&test, threshold);
    right = right_by_score(&test, -1, &all);
    print_message("complexity: %.1f %% of %zu prompts right; by length alone (over %zu tokens) "
                  "%.1f %%\n",
                  percent(right, all), all, threshold, percent(by_length, all));
    right = right_by_score(&test, 0, &english);
    print_message("complexity: English %.1f %% of %zu", percent(right, english), english);
    right = right_by_score(&test, 1, &chinese);
    print_message(", Chinese and mixed %.1f %% of %zu", percent(right, chinese), chinese);
    right = right_by_score(&tune, -1, &tuned);
    print_message("; of those tuned on %.1f %%, by length %.1f %%\n", percent(right, tuned),
                  percent(right_by_length(&tune, threshold), tuned));
    assert_true(2 * chinese >= all);
    right = right_by_score(&test, -1, &all);
    assert_true(right * 100 >= FLOOR_ACCURACY * all);
    assert_true(right * 100 >= by_length * 100 + FLOOR_MARGIN * all);
}

/* ---- for tuning ---- */

static int print_features(const char *path)
{
    static struct set set;

    arena = arena_new(MEM_TOOL, 256 * 1024 * 1024);
    set_read(path, arena, &set);
    for (size_t i = 0; i < set.count; i++) {
        const struct labelled *prompt = &set.prompts[i];
        printf("%d %u", prompt->is_hard, prompt->complexity.score);
        for (int k = 0; k < COMPLEXITY_FEATURE_COUNT; k++)
            printf(" %u", prompt->complexity.counts[k]);
        printf("\n");
    }
    arena_free(arena);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_signs_and_numbers),
        cmocka_unit_test(test_code),
        cmocka_unit_test(test_material_is_not_the_question),
        cmocka_unit_test(test_what_is_around),
        cmocka_unit_test(test_the_score_is_its_parts),
        cmocka_unit_test(test_anything_can_be_measured),
        cmocka_unit_test(test_labelled_prompts),
    };

    if (argc == 3 && strcmp(argv[1], "--features") == 0)
        return print_features(argv[2]);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
