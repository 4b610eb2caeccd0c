/* SPDX-License-Identifier: Apache-2.0 */
/* Origins: URLs that are taken or refused, and the choice of a proxy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/mem.h"
#include "net/http_origin.h"

static struct arena *arena;

static int set_up(void **state)
{
    static const char *const names[] = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
                                        "http_proxy", "https_proxy", "all_proxy", "no_proxy"};

    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        unsetenv(names[i]);
    arena = arena_new(MEM_CONF, 1 << 20);
    err_scope_set(arena);
    return arena ? 0 : -1;
}

static int tear_down(void **state)
{
    err_scope_set(NULL);
    arena_free(arena);
    return mem_in_use(MEM_CONF) == 0 ? 0 : -1;
}

static void assert_str(struct str s, const char *expected)
{
    if (!str_eq(s, str_from(expected)))
        fail_msg("\"%.*s\" is not \"%s\"", STR_ARG(s), expected);
}

static void reads_urls(void **state)
{
    static const struct {
        const char *url, *host;
        unsigned port;
        bool is_tls;
        const char *host_header, *base_path;
    } rows[] = {
        {"http://gpu1:8000/v1", "gpu1", 8000, false, "gpu1:8000", "/v1"},
        {"https://api.openai.com/v1/", "api.openai.com", 443, true, "api.openai.com", "/v1"},
        {"http://Example.ORG", "example.org", 80, false, "example.org", ""},
        {"https://example.org:443///", "example.org", 443, true, "example.org", ""},
        {"https://example.org:80/a/b", "example.org", 80, true, "example.org:80", "/a/b"},
        {"http://127.0.0.1:1", "127.0.0.1", 1, false, "127.0.0.1:1", ""},
        {"http://[::1]:8080/v1", "::1", 8080, false, "[::1]:8080", "/v1"},
        {"https://[2001:DB8::1]", "2001:db8::1", 443, true, "[2001:db8::1]", ""},
        {"http://my_host-1.local:65535/x?", NULL, 0, false, NULL, NULL},
        {"http://host:0/", NULL, 0, false, NULL, NULL},
        {"http://host:65536/", NULL, 0, false, NULL, NULL},
        {"http://host:/", NULL, 0, false, NULL, NULL},
        {"http://host:+80/", NULL, 0, false, NULL, NULL},
        {"http://user:secret@host/", NULL, 0, false, NULL, NULL},
        {"http:///v1", NULL, 0, false, NULL, NULL},
        {"http://", NULL, 0, false, NULL, NULL},
        {"http://ho st/", NULL, 0, false, NULL, NULL},
        {"http://host/a b", NULL, 0, false, NULL, NULL},
        {"http://host/#x", NULL, 0, false, NULL, NULL},
        {"http://host\\x", NULL, 0, false, NULL, NULL},
        {"http://[::1", NULL, 0, false, NULL, NULL},
        {"http://[::1]x", NULL, 0, false, NULL, NULL},
        {"http://[localhost]", NULL, 0, false, NULL, NULL},
        {"http://::1/", NULL, 0, false, NULL, NULL},
        {"http://h%41/", NULL, 0, false, NULL, NULL},
        {"ftp://host", NULL, 0, false, NULL, NULL},
        {"host:8000", NULL, 0, false, NULL, NULL},
        {"", NULL, 0, false, NULL, NULL},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        struct http_origin origin;
        err_t err = http_origin_make(str_from(rows[i].url), STR("off"), arena, &origin);

        if (!rows[i].host) {
            if (!err_is(err, ERR_CONFIG))
                fail_msg("%s was taken", rows[i].url);
            assert_null(strstr(err->text, "secret"));
            continue;
        }
        assert_null(err);
        assert_str(origin.host, rows[i].host);
        assert_int_equal(origin.port, rows[i].port);
        assert_int_equal(origin.is_tls, rows[i].is_tls);
        assert_str(origin.host_header, rows[i].host_header);
        assert_str(origin.base_path, rows[i].base_path);
        assert_false(origin.is_unix);
        assert_int_equal(origin.proxy_host.len, 0);
    }
}

static void reads_unix_paths(void **state)
{
    struct http_origin origin;
    char text[256] = "unix:/";

    assert_null(http_origin_make(STR("unix:/run/llama.sock"), STR(""), arena, &origin));
    assert_true(origin.is_unix && !origin.is_tls);
    assert_str(origin.host, "/run/llama.sock");
    assert_str(origin.host_header, "localhost");
    assert_str(origin.base_path, "");
    assert_null(http_origin_make(STR("unix:/run/llama.sock:/v1/"), STR(""), arena, &origin));
    assert_str(origin.base_path, "/v1");
    assert_true(
        err_is(http_origin_make(STR("unix:relative"), STR(""), arena, &origin), ERR_CONFIG));
    assert_true(err_is(http_origin_make(STR("unix:/a:v1"), STR(""), arena, &origin), ERR_CONFIG));
    memset(text + 6, 'x', 200);
    assert_true(err_is(http_origin_make(str_from(text), STR(""), arena, &origin), ERR_CONFIG));
}

static void gives_every_origin_its_own_id(void **state)
{
    struct http_origin a, b;

    assert_null(http_origin_make(STR("http://a"), STR("off"), arena, &a));
    assert_null(http_origin_make(STR("http://a"), STR("off"), arena, &b));
    assert_true(a.id != 0 && a.id != b.id);
}

/* The proxy's host for a URL, or "". */
static const char *proxy_of(const char *url, const char *proxy)
{
    struct http_origin origin;
    err_t err = http_origin_make(str_from(url), str_from(proxy), arena, &origin);

    if (err)
        return err->text;
    return origin.proxy_host.len
               ? arena_printf(arena, "%.*s:%u", STR_ARG(origin.proxy_host), origin.proxy_port)
               : "";
}

static void takes_the_configured_proxy(void **state)
{
    struct http_origin origin;

    assert_string_equal(proxy_of("https://a.example", "http://p:3128"), "p:3128");
    assert_string_equal(proxy_of("https://a.example", "p:3128/"), "p:3128");
    assert_string_equal(proxy_of("https://a.example", "http://p"), "p:80");
    assert_string_equal(proxy_of("https://a.example", "off"), "");
    assert_string_equal(proxy_of("http://127.0.0.1:1", "http://p"), "");
    assert_string_equal(proxy_of("http://[::1]:1", "http://p"), "");
    assert_string_equal(proxy_of("http://localhost:1", "http://p"), "");
    assert_string_equal(proxy_of("unix:/a", "http://p"), "");
    assert_non_null(strstr(proxy_of("https://a.example", "socks5://p"), "not supported"));
    assert_non_null(strstr(proxy_of("https://a.example", "http://p/x"), "no path"));
    assert_null(
        http_origin_make(STR("https://a"), STR("http://Aladdin:open%20sesame@p"), arena, &origin));
    assert_str(origin.proxy_authorization, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
}

static void asks_the_environment_for_a_proxy(void **state)
{
    setenv("HTTPS_PROXY", "http://secure:1", 1);
    setenv("http_proxy", "plain:2", 1);
    assert_string_equal(proxy_of("https://a.example", ""), "secure:1");
    assert_string_equal(proxy_of("http://a.example", ""), "plain:2");
    assert_string_equal(proxy_of("http://a.example", "off"), "");
    assert_string_equal(proxy_of("http://a.example", "http://own:3"), "own:3");
    unsetenv("http_proxy");
    setenv("ALL_PROXY", "all:4", 1);
    assert_string_equal(proxy_of("http://a.example", ""), "all:4");
    setenv("no_proxy", "b.example, .example", 1);
    assert_string_equal(proxy_of("http://a.example", ""), "");
    assert_string_equal(proxy_of("http://a.other", ""), "all:4");
    setenv("HTTPS_PROXY", "socks5://user:secret@p", 1);
    const char *text = proxy_of("https://a.other", "");
    assert_non_null(strstr(text, "HTTPS_PROXY"));
    assert_null(strstr(text, "secret"));
}

static void matches_no_proxy(void **state)
{
    static const struct {
        const char *list, *host;
        bool is_excepted;
    } rows[] = {
        {"example.org", "example.org", true},
        {"example.org", "EXAMPLE.ORG", true},
        {"example.org", "a.example.org", true},
        {".example.org", "a.example.org", true},
        {".example.org", "example.org", true},
        {"example.org", "badexample.org", false},
        {"example.org", "example.org.evil", false},
        {"a,b , example.org", "example.org", true},
        {"*", "anything", true},
        {"", "example.org", false},
        {",,", "example.org", false},
        {".", "example.org", false},
        {"10.0.0.0/8", "10.1.2.3", true},
        {"10.0.0.0/8", "11.1.2.3", false},
        {"10.1.2.3", "10.1.2.3", true},
        {"2001:db8::/32", "2001:db8::1", true},
        {"2001:db8::/32", "2001:db9::1", false},
        {"10.0.0.0/8", "example.org", false},
        {"example.org:8000", "example.org", true},
        {"example.org:80", "example.org", false},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        if (http_origin_is_excepted(str_from(rows[i].list), str_from(rows[i].host), 8000) !=
            rows[i].is_excepted)
            fail_msg("\"%s\" and %s", rows[i].list, rows[i].host);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reads_urls, set_up, tear_down),
        cmocka_unit_test_setup_teardown(reads_unix_paths, set_up, tear_down),
        cmocka_unit_test_setup_teardown(gives_every_origin_its_own_id, set_up, tear_down),
        cmocka_unit_test_setup_teardown(takes_the_configured_proxy, set_up, tear_down),
        cmocka_unit_test_setup_teardown(asks_the_environment_for_a_proxy, set_up, tear_down),
        cmocka_unit_test_setup_teardown(matches_no_proxy, set_up, tear_down),
    };

    return cmocka_run_group_tests_name("http_origin", tests, NULL, NULL);
}
