/* SPDX-License-Identifier: Apache-2.0 */
/* Borrowed text, case by case; ends and empty texts first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/str.h"

static const struct str empty;

static void equality(void **state)
{
    assert_true(str_eq(empty, STR("")));
    assert_true(str_eq(STR("abc"), str_from("abc")));
    assert_false(str_eq(STR("abc"), STR("abd")));
    assert_false(str_eq(STR("abc"), STR("ab")));
    assert_true(str_eq_nocase(STR("Content-TYPE"), STR("content-type")));
    assert_false(str_eq_nocase(STR("a["), STR("a{")));
    assert_true(str_eq_nocase(STR("@[`{\xC1\xDAxYz"), STR("@[`{\xC1\xDAXyZ")));
    assert_false(str_eq_nocase(STR("\xC1...0...."), STR("\xE1...0....")));
    assert_false(str_eq_nocase(STR("[[[[[[[["), STR("{{{{{{{{")));
    assert_false(str_eq_nocase(STR("a"), STR("ab")));
    for (size_t len = 1; len <= 24; len++) /* each byte counts, at every length */
        for (size_t i = 0; i < len; i++) {
            char a[24], b[24];
            memset(a, 'x', sizeof(a));
            memset(b, 'X', sizeof(b));
            assert_true(str_same_nocase(a, b, len));
            b[i] = 'Y';
            assert_false(str_same_nocase(a, b, len));
            b[i] = 'x' ^ 0x40;
            assert_false(str_same_nocase(a, b, len));
        }
    assert_true(str_eq_secret(STR("key"), STR("key")));
    assert_true(str_eq_secret(empty, STR("")));
    assert_false(str_eq_secret(STR("key"), STR("kez")));
    assert_false(str_eq_secret(STR("key"), STR("ke")));
    assert_int_equal(str_from(NULL).len, 0);
}

static void beginnings_and_ends(void **state)
{
    assert_true(str_starts(STR("abc"), STR("ab")));
    assert_true(str_starts(empty, empty));
    assert_false(str_starts(STR("a"), STR("ab")));
    assert_true(str_ends(STR("abc"), STR("bc")));
    assert_true(str_ends(empty, empty));
    assert_false(str_ends(STR("c"), STR("bc")));
    assert_true(str_eq(str_after(STR("abc"), 3), empty));
}

static void finding(void **state)
{
    assert_int_equal(str_index(STR("abcb"), 'b'), 1);
    assert_int_equal(str_index(STR("abc"), 'x'), 3);
    assert_int_equal(str_index(empty, 'x'), 0);
    assert_int_equal(str_find(STR("aabaab"), STR("aab")), 0);
    assert_int_equal(str_find(STR("xaab"), STR("aab")), 1);
    assert_int_equal(str_find(STR("aa"), STR("aab")), 2);
    assert_int_equal(str_find(STR("aa"), empty), 0);
    assert_int_equal(str_find(empty, STR("a")), 0);
    assert_true(str_eq(str_trim(STR(" \t a b\t ")), STR("a b")));
    assert_true(str_eq(str_trim(STR(" \t ")), empty));
    assert_true(str_eq(str_trim(empty), empty));
}

static void splitting(void **state)
{
    struct str rest = STR("a,,b,"), part;
    const char *parts[] = {"a", "", "b", ""};

    for (size_t i = 0; i < 4; i++) {
        assert_true(str_split(&rest, ',', &part));
        assert_true(str_eq(part, str_from(parts[i])));
    }
    assert_false(str_split(&rest, ',', &part));
    rest = STR("");
    assert_true(str_split(&rest, ',', &part));
    assert_int_equal(part.len, 0);
    assert_false(str_split(&rest, ',', &part));
}

static void numbers(void **state)
{
    static const char *const bad[] = {"",
                                      "-1",
                                      "+1",
                                      " 1",
                                      "1 ",
                                      "0x1",
                                      "1.0",
                                      "18446744073709551616",
                                      "99999999999999999999999"};
    uint64_t n;

    assert_true(str_to_u64(STR("0"), &n) && n == 0);
    assert_true(str_to_u64(STR("007"), &n) && n == 7);
    assert_true(str_to_u64(STR("18446744073709551615"), &n) && n == UINT64_MAX);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(str_to_u64(str_from(bad[i]), &n));
}

static void distances(void **state)
{
    static const struct {
        const char *a, *b;
        size_t distance;
    } cases[] = {
        {"", "", 0},
        {"", "abc", 3},
        {"abc", "", 3},
        {"timeout", "timeout", 0},
        {"timeuot", "timeout", 1},
        {"timout", "timeout", 1},
        {"tineout", "timeout", 1},
        {"kitten", "sitting", 3},
        {"ca", "abc", 3},
        {"listen", "retry", 5},
    };
    char longer[200] = {0};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct str a = str_from(cases[i].a), b = str_from(cases[i].b);

        assert_int_equal(str_distance(a, b, 10), cases[i].distance);
        assert_int_equal(str_distance(b, a, 10), cases[i].distance);
        assert_int_equal(str_distance(a, b, 1), cases[i].distance > 1 ? 2 : cases[i].distance);
    }
    memset(longer, 'x', 199);
    assert_int_equal(str_distance(str_from(longer), STR("x"), 3), 4);
    assert_int_equal(str_distance(str_from(longer), str_from(longer), 3), 0);
    longer[64] = '\0';
    assert_int_equal(str_distance(str_from(longer), STR("y"), 200), 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equality), cmocka_unit_test(beginnings_and_ends),
        cmocka_unit_test(finding),  cmocka_unit_test(splitting),
        cmocka_unit_test(numbers),  cmocka_unit_test(distances),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
