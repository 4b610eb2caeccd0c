/* SPDX-License-Identifier: Apache-2.0 */
/* Small text formats: tables of good and bad, and UTF-8 against a check of all sequences. */
#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include <cmocka.h>

#include "base/sys.h"
#include "base/text.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Encode a code point, surrogates too, without looking. */
static size_t encode(unsigned c, char out[4])
{
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned marks[] = {0, 0, 0xC0, 0xE0, 0xF0};

    for (size_t i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3F));
    out[0] = (char)(marks[n] | c);
    return n;
}

static void every_code_point(void **state)
{
    char text[4];

    for (unsigned c = 0; c < 0x120000; c++) {
        size_t n = encode(c, text);
        bool good = c < 0x110000 && (c < 0xD800 || c > 0xDFFF);

        if (text_is_utf8((struct str){text, n}) != good ||
            text_utf8_length((struct str){text, n}) != (good ? n : 0))
            fail_msg("U+%04X", c);
    }
}

static void broken_utf8(void **state)
{
    static const char *const bad[] = {
        "\x80",
        "\xBF",
        "\xC0\x80",
        "\xC1\xBF",
        "\xC3",
        "\xC3(",
        "\xE0\x80\x80",
        "\xE0\x9F\xBF",
        "\xED\xA0\x80",
        "\xF0\x8F\xBF\xBF",
        "\xF4\x90\x80\x80",
        "\xF5\x80\x80\x80",
        "\xFE",
        "\xFF",
        "\xE2\x82",
        "\xF0\x9F\x98",
        "ok\x80",
        "a long text of ASCII\xFF and more of it",
    };

    for (size_t i = 0; i < COUNT(bad); i++)
        assert_false(text_is_utf8(str_from(bad[i])));
    assert_true(text_is_utf8((struct str){0}));
    assert_true(text_is_utf8(STR("a long text of ASCII, größer 漢字 😀 and back")));
}

static void cut_characters_are_told_from_broken_ones(void **state)
{
    static const struct {
        const char *text;
        size_t valid_len;
        bool unfinished;
    } cases[] = {
        {"", 0, false},
        {"abc", 3, false},
        {"ab\xC3", 2, true},
        {"\xE2\x82", 0, true},
        {"x\xF0\x9F\x98", 1, true},
        {"x\xF0", 1, true},
        {"x\xE0\x80", 1, false},
        {"x\xED\xA0", 1, false},
        {"x\xF4\x90", 1, false},
        {"x\xC3(", 1, false},
        {"x\x80", 1, false},
        {"x\xFF", 1, false},
        {"\xE2\x82z", 0, false},
        {"12345678\xC3\xA4\xE2", 10, true},
    };

    for (size_t i = 0; i < COUNT(cases); i++) {
        size_t valid_len;

        assert_int_equal(text_utf8_prefix(str_from(cases[i].text), &valid_len),
                         cases[i].unfinished);
        assert_int_equal(valid_len, cases[i].valid_len);
    }
}

static void durations(void **state)
{
    static const struct {
        const char *text;
        uint64_t ms;
        const char *shortest;
    } cases[] = {
        {"10s", 10000, "10s"},
        {"250ms", 250, "250ms"},
        {"15m", 900000, "15m"},
        {"1h", 3600000, "1h"},
        {"7d", 604800000, "7d"},
        {"0", 0, "0"},
        {"0s", 0, "0"},
        {"90s", 90000, "90s"},
        {"60s", 60000, "1m"},
        {"24h", 86400000, "1d"},
        {"1001ms", 1001, "1001ms"},
        {"18446744073709551615ms", UINT64_MAX, "18446744073709551615ms"},
    };
    static const char *const bad[] = {
        "",    "10", "s",   "-1s", "1.5s",          "1 s",
        "10S", "1w", "1ss", "00x", "213503982335d", "18446744073709551616ms"};
    uint64_t ms;

    for (size_t i = 0; i < COUNT(cases); i++) {
        char out[32];

        assert_true(text_duration_ms(str_from(cases[i].text), &ms));
        assert_int_equal(ms, cases[i].ms);
        text_format_duration(ms, out);
        assert_string_equal(out, cases[i].shortest);
    }
    for (size_t i = 0; i < COUNT(bad); i++)
        assert_false(text_duration_ms(str_from(bad[i]), &ms));
}

static void sizes(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } cases[] = {
        {"512", 512},
        {"0", 0},
        {"64KiB", 65536},
        {"32MiB", 33554432},
        {"1GiB", 1073741824},
        {"10KB", 10000},
        {"2MB", 2000000},
        {"7B", 7},
        {"1TiB", UINT64_C(1099511627776)},
    };
    static const char *const bad[] = {"", "KiB", "1kib", "1K", "-1", "1 KiB", "16777216TiB"};
    uint64_t bytes;

    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_true(text_size_bytes(str_from(cases[i].text), &bytes));
        assert_int_equal(bytes, cases[i].bytes);
    }
    for (size_t i = 0; i < COUNT(bad); i++)
        assert_false(text_size_bytes(str_from(bad[i]), &bytes));
}

static void dates_agree_with_the_c_library(void **state)
{
    uint64_t parsed;

    const uint64_t year_10000 = UINT64_C(253402300800);

    for (uint64_t t = 0; t < year_10000; t += 86400 * 11 + 3607) {
        time_t seconds = (time_t)t;
        struct tm tm;
        char expected[64], out[30], iso[25];

        gmtime_r(&seconds, &tm);
        strftime(expected, sizeof(expected), "%a, %d %b %Y %H:%M:%S GMT", &tm);
        text_http_date(t, out);
        assert_string_equal(out, expected);
        assert_true(text_parse_http_date(str_from(out), &parsed));
        assert_int_equal(parsed, t);
        strftime(expected, sizeof(expected), "%Y-%m-%dT%H:%M:%S.007Z", &tm);
        text_iso_date(t * 1000 + 7, iso);
        assert_string_equal(iso, expected);
    }
}

static void http_dates_in_three_forms(void **state)
{
    static const char *const bad[] = {
        "",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Nov 1994 08:49:37 UTC",
        "Sun, 06 Nov 1994 08:49:37 GMT ",
        "Sun, 6 Nov 1994 08:49:37 GMT",
        "Sun, 31 Apr 1994 08:49:37 GMT",
        "Sun, 29 Feb 2023 08:49:37 GMT",
        "Sun, 06 Nov 1994 24:00:00 GMT",
        "Sun, 06 Nov 1994 08:60:37 GMT",
        "Sun, 00 Nov 1994 08:49:37 GMT",
        "Sun, 06 nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1969 08:49:37 GMT",
        "Sunday, 06 Nov 1994 08:49:37 GMT",
        "Sun Nov 06 08:49:37 1994 GMT",
        "06 Nov 1994 08:49:37 GMT",
    };
    uint64_t t;

    assert_true(text_parse_http_date(STR("Sun, 06 Nov 1994 08:49:37 GMT"), &t) && t == 784111777);
    assert_true(text_parse_http_date(STR("Sunday, 06-Nov-94 08:49:37 GMT"), &t) && t == 784111777);
    assert_true(text_parse_http_date(STR("Sun Nov  6 08:49:37 1994"), &t) && t == 784111777);
    assert_true(text_parse_http_date(STR("Wed Nov 16 08:49:37 1994"), &t) && t == 784975777);
    assert_true(text_parse_http_date(STR("Sat, 31 Dec 2016 23:59:60 GMT"), &t) && t == 1483228800);
    assert_true(text_parse_http_date(STR("Monday, 01-Jan-35 00:00:00 GMT"), &t) && t == 2051222400);
    for (size_t i = 0; i < COUNT(bad); i++)
        assert_false(text_parse_http_date(str_from(bad[i]), &t));
}

/* Every length, and both ends of each, as the C library prints them. */
static void numbers(void **state)
{
    char own[TEXT_U64_BYTES + 1], other[TEXT_U64_BYTES + 1];
    uint64_t power = 1;

    for (int digits = 1; digits <= 20; digits++, power *= 10) {
        const uint64_t near[] = {power - 1, power, power + 1, power * 7 + 3, UINT64_MAX - power};
        for (size_t i = 0; i < COUNT(near); i++) {
            size_t len = text_put_u64(near[i], own);
            own[len] = 0;
            snprintf(other, sizeof(other), "%llu", (unsigned long long)near[i]);
            assert_string_equal(own, other);
        }
    }
}

static void random_ids(void **state)
{
    static char ids[500][30];

    for (size_t i = 0; i < 500; i++) {
        text_random_id("req_", ids[i]);
        assert_int_equal(strlen(ids[i]), 26);
        assert_memory_equal(ids[i], "req_", 4);
        for (size_t k = 4; k < 26; k++)
            assert_true(isalnum((unsigned char)ids[i][k]));
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(ids[i], ids[k]);
    }
}

/* Flipping any bit of the text or seed flips about half of the hash's bits. */
static void hashes_are_mixed(void **state)
{
    char text[64];
    double flipped = 0, pairs = 0;

    memset(text, 'a', sizeof(text));
    for (size_t len = 1; len <= sizeof(text); len++) {
        uint64_t hash = text_hash((struct str){text, len}, 1);

        assert_int_not_equal(hash, text_hash((struct str){text, len - 1}, 1));
        assert_int_not_equal(hash, text_hash((struct str){text, len}, 2));
        for (size_t bit = 0; bit < len * 8; bit++) {
            text[bit / 8] = (char)(text[bit / 8] ^ 1 << bit % 8);
            flipped += __builtin_popcountll(hash ^ text_hash((struct str){text, len}, 1));
            pairs++;
            text[bit / 8] = (char)(text[bit / 8] ^ 1 << bit % 8);
        }
    }
    assert_true(flipped / pairs > 31.5 && flipped / pairs < 32.5);
}

static void hashes_spread_over_shards(void **state)
{
    unsigned counts[64] = {0};

    for (int i = 0; i < 64000; i++) {
        char key[16];
        int len = snprintf(key, sizeof(key), "key-%d", i);

        counts[text_hash((struct str){key, (size_t)len}, 7) % 64]++;
    }
    for (size_t i = 0; i < 64; i++)
        assert_in_range(counts[i], 850, 1150);
}

static void reads_iso_dates(void **state)
{
    static const struct {
        const char *text;
        uint64_t ms;
    } good[] = {{"1970-01-01", 0},
                {"2026-11-22", 1795305600000},
                {"2024-02-29T23:59:59Z", 1709251199000},
                {"2026-11-22T17:06:19.123Z", 1795367179123},
                {"9999-12-31", 253402214400000}};
    static const char *const bad[] = {"",
                                      "2026",
                                      "2026-13-01",
                                      "2026-00-10",
                                      "2026-02-29",
                                      "2026-11-31",
                                      "2026-11-00",
                                      "1969-12-31",
                                      "2026/11/22",
                                      "2026-11-22T17:06:19",
                                      "2026-11-22T24:00:00Z",
                                      "2026-11-22 17:06:19Z",
                                      "2026-11-22T17:06:19+01:00",
                                      "2026-11-22T17:06:19,123Z",
                                      "-026-11-22",
                                      "2026-1-022"};
    uint64_t ms;
    char text[25];

    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
        assert_true(text_parse_iso_date(str_from(good[i].text), &ms));
        assert_int_equal(ms, good[i].ms);
        text_iso_date(ms, text);
        assert_memory_equal(text, good[i].text,
                            strlen(good[i].text) - (strlen(good[i].text) == 20));
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_false(text_parse_iso_date(str_from(bad[i]), &ms));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_point),
        cmocka_unit_test(broken_utf8),
        cmocka_unit_test(cut_characters_are_told_from_broken_ones),
        cmocka_unit_test(durations),
        cmocka_unit_test(sizes),
        cmocka_unit_test(dates_agree_with_the_c_library),
        cmocka_unit_test(http_dates_in_three_forms),
        cmocka_unit_test(numbers),
        cmocka_unit_test(random_ids),
        cmocka_unit_test(hashes_are_mixed),
        cmocka_unit_test(hashes_spread_over_shards),
        cmocka_unit_test(reads_iso_dates),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
