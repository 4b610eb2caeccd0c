/* SPDX-License-Identifier: Apache-2.0 */
/* What callers are told of their limits, in each dialect. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "gateway/limit_headers.h"

static struct limit_rule rules[] = {
    {.unit = LIMIT_REQUESTS, .rate = {100, 60000}, .remaining = 7, .reset_ms = 93000},
    {.unit = LIMIT_TOKENS, .rate = {5000, 60000}, .remaining = 40, .reset_ms = 120},
    {.unit = LIMIT_STREAMS, .rate = {2, 0}, .remaining = 0},
    {.unit = LIMIT_REQUESTS, .rate = {9, 60000}, .remaining = 8, .reset_ms = 6000},
};
static struct limit_ticket ticket = {.rules = rules, .count = 4, .is_told = true};
static struct http_header headers[LIMIT_HEADERS_MAX];

static void assert_header(size_t i, const char *name, const char *value)
{
    assert_true(str_eq(headers[i].name, str_from(name)));
    assert_true(!value || str_eq(headers[i].value, str_from(value)));
}

static void test_the_tightest_is_told(void **state)
{
    struct arena *arena = arena_new(MEM_REQUEST, 64 * 1024);
    struct dialect dialect = {.protocol = PROTOCOL_CHAT};

    (void)state;
    assert_int_equal(limit_headers_make(&ticket, &dialect, arena, headers), 6);
    assert_header(0, "x-ratelimit-limit-requests", "100");
    assert_header(1, "x-ratelimit-remaining-requests", "7");
    assert_header(2, "x-ratelimit-reset-requests", "1m33s");
    assert_header(4, "x-ratelimit-remaining-tokens", "40");
    assert_header(5, "x-ratelimit-reset-tokens", "120ms");
    dialect.protocol = PROTOCOL_MESSAGES;
    assert_int_equal(limit_headers_make(&ticket, &dialect, arena, headers), 6);
    assert_header(0, "anthropic-ratelimit-requests-limit", "100");
    assert_header(2, "anthropic-ratelimit-requests-reset", NULL);
    assert_int_equal(headers[2].value.len, 24);
    assert_header(4, "anthropic-ratelimit-tokens-remaining", "40");
    assert_int_equal(limit_headers_make(&(struct limit_ticket){.rules = rules, .count = 4},
                                        &dialect, arena, headers),
                     0);
    arena_free(arena);
}

static void test_when_to_come_back(void **state)
{
    struct arena *arena = arena_new(MEM_REQUEST, 64 * 1024);

    (void)state;
    assert_int_equal(limit_headers_retry(0, arena, headers), 0);
    assert_int_equal(limit_headers_retry(1001, arena, headers), 2);
    assert_header(0, "retry-after", "2");
    assert_header(1, "retry-after-ms", "1001");
    arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_tightest_is_told),
        cmocka_unit_test(test_when_to_come_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
