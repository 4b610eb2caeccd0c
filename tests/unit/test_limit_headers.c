/* SPDX-License-Identifier: Apache-2.0 */
/* What callers are told of their limits, in each dialect. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/sys.h"
#include "gateway/limit_headers.h"

static struct limit_rule rules[] = {
    {.unit = LIMIT_REQUESTS, .rate = {100, 60000}, .remaining = 7, .reset_ms = 93000},
    {.unit = LIMIT_TOKENS, .rate = {5000, 60000}, .remaining = 40, .reset_ms = 120},
    {.unit = LIMIT_STREAMS, .rate = {2, 0}, .remaining = 0},
    {.unit = LIMIT_REQUESTS, .rate = {9, 60000}, .remaining = 8, .reset_ms = 6000},
};
static struct limit_ticket ticket = {.rules = rules, .count = 4, .is_told = true};
static char room[1024];

static void assert_text(const struct http_pen *pen, const char *text)
{
    struct str written = http_pen_text(pen);

    assert_false(pen->is_full);
    assert_int_equal(written.len, strlen(text));
    assert_memory_equal(written.ptr, text, written.len);
}

static void test_the_tightest_is_told(void **state)
{
    struct dialect dialect = {.protocol = PROTOCOL_CHAT};
    struct http_pen pen = http_pen_at(room, sizeof room);

    (void)state;
    limit_headers_put(&ticket, &dialect, &pen);
    assert_text(&pen, "x-ratelimit-limit-requests: 100\r\n"
                      "x-ratelimit-remaining-requests: 7\r\n"
                      "x-ratelimit-reset-requests: 1m33s\r\n"
                      "x-ratelimit-limit-tokens: 5000\r\n"
                      "x-ratelimit-remaining-tokens: 40\r\n"
                      "x-ratelimit-reset-tokens: 120ms\r\n");
}

static void test_anthropic_is_told_dates(void **state)
{
    struct dialect dialect = {.protocol = PROTOCOL_MESSAGES};
    struct http_pen pen = http_pen_at(room, sizeof room);

    (void)state;
    sys_set_clock_ms(1000);
    limit_headers_put(&ticket, &dialect, &pen);
    sys_set_clock_ms(0);
    assert_text(&pen, "anthropic-ratelimit-requests-limit: 100\r\n"
                      "anthropic-ratelimit-requests-remaining: 7\r\n"
                      "anthropic-ratelimit-requests-reset: 2023-11-14T22:14:54.000Z\r\n"
                      "anthropic-ratelimit-tokens-limit: 5000\r\n"
                      "anthropic-ratelimit-tokens-remaining: 40\r\n"
                      "anthropic-ratelimit-tokens-reset: 2023-11-14T22:13:21.120Z\r\n");
}

static void test_nothing_is_told_before_it_is_known(void **state)
{
    struct dialect dialect = {.protocol = PROTOCOL_CHAT};
    struct http_pen pen = http_pen_at(room, sizeof room);

    (void)state;
    limit_headers_put(&(struct limit_ticket){.rules = rules, .count = 4}, &dialect, &pen);
    assert_text(&pen, "");
}

static void test_durations_are_openais(void **state)
{
    static const struct {
        uint64_t ms;
        const char *text;
    } cases[] = {{0, "0ms"},       {999, "999ms"},      {1000, "1s"},        {59001, "1m0s"},
                 {360000, "6m0s"}, {3599001, "1h0m0s"}, {3661000, "1h1m1s"}, {86400000, "24h0m0s"}};
    struct dialect dialect = {.protocol = PROTOCOL_CHAT};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct limit_rule rule = {.unit = LIMIT_REQUESTS, .reset_ms = cases[i].ms};
        struct http_pen pen = http_pen_at(room, sizeof room);
        char text[128];

        limit_headers_put(&(struct limit_ticket){.rules = &rule, .count = 1, .is_told = true},
                          &dialect, &pen);
        snprintf(text, sizeof text,
                 "x-ratelimit-limit-requests: 0\r\nx-ratelimit-remaining-requests: 0\r\n"
                 "x-ratelimit-reset-requests: %s\r\n",
                 cases[i].text);
        assert_text(&pen, text);
    }
}

static void test_when_to_come_back(void **state)
{
    struct http_pen pen = http_pen_at(room, sizeof room);

    (void)state;
    limit_headers_put_retry(0, &pen);
    assert_text(&pen, "");
    limit_headers_put_retry(1001, &pen);
    assert_text(&pen, "retry-after: 2\r\nretry-after-ms: 1001\r\n");
}

/* Whole lines or none, and from the first that does not fit no more. */
static void test_what_does_not_fit_is_left_out(void **state)
{
    struct http_pen pen = http_pen_at(room, sizeof "a: 1\r\n" - 1);

    (void)state;
    http_pen_line(&pen, HTTP_LINE("a"), STR("1"));
    assert_text(&pen, "a: 1\r\n");
    pen = http_pen_at(room, sizeof "a: 1\r\n" - 1);
    http_pen_line(&pen, HTTP_LINE("a"), STR("12"));
    http_pen_line(&pen, HTTP_LINE("a"), STR("1"));
    http_pen_line_u64(&pen, HTTP_LINE("a"), 1);
    assert_true(pen.is_full);
    assert_int_equal(http_pen_text(&pen).len, 0);
}

static void test_values_of_others_cannot_add_lines(void **state)
{
    struct http_pen pen = http_pen_at(room, sizeof room);

    (void)state;
    http_pen_line_of(&pen, HTTP_LINE("a"), STR("1\r\nb: 2"));
    http_pen_line_of(&pen, HTTP_LINE("c"), STR("3"));
    assert_text(&pen, "c: 3\r\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_tightest_is_told),
        cmocka_unit_test(test_anthropic_is_told_dates),
        cmocka_unit_test(test_nothing_is_told_before_it_is_known),
        cmocka_unit_test(test_durations_are_openais),
        cmocka_unit_test(test_when_to_come_back),
        cmocka_unit_test(test_what_does_not_fit_is_left_out),
        cmocka_unit_test(test_values_of_others_cannot_add_lines),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
