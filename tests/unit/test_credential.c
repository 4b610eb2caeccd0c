/* SPDX-License-Identifier: Apache-2.0 */
/* How keys are shown, and what answers tell of their limits. */

#include "arena_scope.h"

#include "base/mem.h"
#include "base/sys.h"
#include "base/text.h"
#include "model/credential.h"

static struct credential *make(const struct conf_provider *provider, size_t expected)
{
    struct credential *all;
    size_t count;

    assert_null(credential_make_all(provider, arena, &all, &count));
    assert_int_equal(count, expected);
    return all;
}

static void assert_header(const struct credential *c, const char *name, const char *value)
{
    for (size_t i = 0; i < c->header_count; i++) {
        if (!str_eq_nocase(c->headers[i].name, str_from(name)))
            continue;
        if (!value || !str_eq(c->headers[i].value, str_from(value)))
            fail_msg("%s: %.*s", name, STR_ARG(c->headers[i].value));
        return;
    }
    if (value)
        fail_msg("there is no %s", name);
}

/* ---- headers ---- */

static void test_each_way_to_show_a_key(void **state)
{
    static const struct {
        enum conf_auth auth;
        const char *header, *value;
    } ways[] = {
        {CONF_AUTH_BEARER, "Authorization", "Bearer the-key"},
        {CONF_AUTH_API_KEY, "api-key", "the-key"},
        {CONF_AUTH_X_API_KEY, "x-api-key", "the-key"},
        {CONF_AUTH_X_GOOG_API_KEY, "x-goog-api-key", "the-key"},
    };

    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct conf_provider provider = {.auth = ways[i].auth, .key = STR("the-key")};
        const struct credential *c = make(&provider, 1);
        assert_int_equal(c->header_count, 2);
        assert_header(c, "Content-Type", "application/json");
        assert_header(c, ways[i].header, ways[i].value);
        provider.key = STR("");
        assert_int_equal(make(&provider, 1)->header_count, 1);
    }
    struct conf_provider none = {.auth = CONF_AUTH_NONE, .key = STR("the-key")};
    assert_int_equal(make(&none, 1)->header_count, 1);
}

static void test_several_keys(void **state)
{
    struct conf_provider_key keys[] = {{STR("a"), STR("key-a")}, {STR("b"), STR("key-b")}};
    struct conf_provider provider = {.keys = keys, .key_count = 2};
    const struct credential *all = make(&provider, 2);

    assert_true(str_eq(all[0].name, STR("a")));
    assert_header(&all[0], "Authorization", "Bearer key-a");
    assert_header(&all[1], "Authorization", "Bearer key-b");
}

static void test_configured_headers_and_version(void **state)
{
    struct conf_pair pairs[] = {{STR("x-team"), STR("search")}};
    struct conf_provider provider = {
        .kind = CONF_PROVIDER_ANTHROPIC, .auth = CONF_AUTH_X_API_KEY, .headers = {pairs, 1}};

    assert_header(make(&provider, 1), "x-team", "search");
    assert_header(make(&provider, 1), "anthropic-version", "2023-06-01");
    pairs[0] = (struct conf_pair){STR("Anthropic-Version"), STR("2030-01-01")};
    assert_header(make(&provider, 1), "anthropic-version", "2030-01-01");
    assert_int_equal(make(&provider, 1)->header_count, 2);
}

/* ---- limits ---- */

static const struct conf_provider plain = {.key = STR("k")};

/* Note an answer with these "name: value" headers, at time 1000. */
static void note(const struct credential *c, const char *lines)
{
    struct http_header headers[16];
    struct http_head head = {.headers = headers};
    struct str rest = str_from(lines), line;

    while (rest.ptr && str_split(&rest, '\n', &line)) {
        size_t colon = str_index(line, ':');
        headers[head.header_count++] =
            (struct http_header){{line.ptr, colon}, str_trim(str_after(line, colon + 1))};
    }
    credential_note(c, &head, 1000);
}

static void test_nothing_known_is_all(void **state)
{
    const struct credential *c = make(&plain, 1);

    assert_int_equal(credential_room(c, 1000), 1000);
    note(c, "content-type: text/html\nx-ratelimit-remaining-requests: many");
    assert_int_equal(credential_room(c, 1000), 1000);
}

static void test_the_nearest_limit_counts(void **state)
{
    const struct credential *c = make(&plain, 1);

    note(c, "x-ratelimit-limit-requests: 100\nX-RateLimit-Remaining-Requests: 50\n"
            "x-ratelimit-reset-requests: 6m0s\nx-ratelimit-limit-tokens: 1000\n"
            "x-ratelimit-remaining-tokens: 100\nx-ratelimit-reset-tokens: 1.5s");
    assert_int_equal(credential_room(c, 1000), 100);
    assert_int_equal(credential_room(c, 2499), 100);
    assert_int_equal(credential_room(c, 2500), 500); /* the tokens are new */
    assert_int_equal(credential_room(c, 360999), 500);
    assert_int_equal(credential_room(c, 361000), 1000);
}

static void test_limits_without_limit(void **state)
{
    const struct credential *c = make(&plain, 1);

    note(c, "x-ratelimit-remaining-requests: 200");
    assert_int_equal(credential_room(c, 1000), 1000);
    note(c, "x-ratelimit-remaining-requests: 20");
    assert_int_equal(credential_room(c, 1000), 100);
    note(c, "x-ratelimit-remaining-requests: 0");
    assert_int_equal(credential_room(c, 60999), 0);
    assert_int_equal(credential_room(c, 61000), 1000);
}

static void test_resets(void **state)
{
    static const struct {
        const char *text;
        uint64_t ms;
    } resets[] = {{"20ms", 20},         {"7.66s", 7660},   {"2m59.56s", 179560},
                  {"1h2m3s", 3723000},  {"12", 12000},     {"", 60000},
                  {"soon", 60000},      {"1.2.3s", 60000}, {"1x", 60000},
                  {"99999999h", 60000}, {"0s", 0}};

    for (size_t i = 0; i < sizeof resets / sizeof *resets; i++) {
        const struct credential *c = make(&plain, 1);
        const char *lines = arena_printf(arena,
                                         "x-ratelimit-limit-tokens: 10\n"
                                         "x-ratelimit-remaining-tokens: 1\n"
                                         "x-ratelimit-reset-tokens: %s",
                                         resets[i].text);
        note(c, lines);
        if (resets[i].ms)
            assert_int_equal(credential_room(c, 1000 + resets[i].ms - 1), 100);
        assert_int_equal(credential_room(c, 1000 + resets[i].ms), 1000);
    }
}

static void test_anthropic(void **state)
{
    const struct credential *c = make(&plain, 1);
    char date[25];

    sys_set_clock_ms(5000);
    text_iso_date(sys_wall_ms() / 1000 * 1000 + 30000, date);
    uint64_t wait = 30000 - sys_wall_ms() % 1000;
    memcpy(date + 19, "Z", 2);
    note(c, arena_printf(arena,
                         "anthropic-ratelimit-requests-limit: 50\n"
                         "anthropic-ratelimit-requests-remaining: 49\n"
                         "anthropic-ratelimit-requests-reset: %s\n"
                         "anthropic-ratelimit-output-tokens-limit: 8000\n"
                         "anthropic-ratelimit-output-tokens-remaining: 2000\n"
                         "anthropic-ratelimit-output-tokens-reset: %s",
                         date, date));
    assert_int_equal(credential_room(c, 1000 + wait - 1), 250);
    assert_int_equal(credential_room(c, 1000 + wait), 1000);
}

static void test_no_memory(void **state)
{
#ifdef SLUICE_FAULTS
    struct conf_pair pair = {STR("a"), STR("b")};
    struct conf_provider provider = {
        .kind = CONF_PROVIDER_ANTHROPIC, .key = STR("k"), .headers = {&pair, 1}};
    struct credential *all;
    size_t count;

    for (uint64_t n = 1;; n++) {
        struct arena *small = arena_new(MEM_TOOL, 1024 * 1024);
        mem_fail_nth(n);
        err_t err = credential_make_all(&provider, small, &all, &count);
        bool over = mem_fail_count() < n;
        mem_fail_nth(0);
        arena_free(small);
        assert_true(over ? !err : err_is(err, ERR_BUSY));
        if (over)
            break;
    }
#endif
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, begin_arena, end_arena)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_way_to_show_a_key),
        TEST(several_keys),
        TEST(configured_headers_and_version),
        TEST(nothing_known_is_all),
        TEST(the_nearest_limit_counts),
        TEST(limits_without_limit),
        TEST(resets),
        TEST(anthropic),
        TEST(no_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
