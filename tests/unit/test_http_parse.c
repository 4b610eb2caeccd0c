/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP/1.1 messages: every framing attack of RFC 9112's kind, whole and cut at every byte, with
 * one verdict. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "net/http_parse.h"

#define MORE 0 /* incomplete, neither good nor bad */
#define GOOD 200

#define TEXT(literal) literal, sizeof(literal) - 1
#define GET           "GET / HTTP/1.1\r\nHost: h\r\n"
#define POST          "POST / HTTP/1.1\r\nHost: h\r\n"
#define CHUNKED       POST "Transfer-Encoding: chunked\r\n\r\n"

struct row {
    int line; /* of the catalogue of bad inputs, section A; 0: an honest request */
    const char *bytes;
    size_t len;
    int verdict;
};

static const struct row rows[] = {
    {0, TEXT(GET "\r\n"), GOOD},
    {0, TEXT(POST "Content-Length: 3\r\n\r\nabc"), GOOD},
    {0, TEXT(POST "Content-Length: 0\r\n\r\n"), GOOD},
    {0, TEXT(CHUNKED "3\r\nabc\r\nA;x=y;z=\"q\"\r\n0123456789\r\n0\r\n\r\n"), GOOD},
    {0, TEXT(POST "TRANSFER-encoding:\tChunked \r\n\r\n0\r\n\r\n"), GOOD},
    {0, TEXT("GET /a?b=%20 HTTP/1.1\r\nHost: [::1]:80\r\nX:\r\nY: \t v \t\r\n\r\n"), GOOD},
    {0, TEXT("GET http://h:80/x HTTP/1.1\r\nHost: H:80\r\n\r\n"), GOOD},
    {0, TEXT(GET "Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"), GOOD},
    {0,
     TEXT(POST "Connection: Upgrade\r\nUpgrade: x\r\nTransfer-Encoding: "
               "chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"),
     GOOD},
    {0, TEXT(POST "Content-Length: 3\r\n\r\nab"), MORE},
    {1, TEXT(POST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400},
    {2, TEXT(POST "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"), 400},
    {3, TEXT("POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400},
    {4, TEXT(POST "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"), 400},
    {5, TEXT(POST "Transfer-Encoding: identity\r\n\r\n0\r\n\r\n"), 501},
    {6, TEXT(POST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), 501},
    {6, TEXT(POST "Transfer-Encoding: chunkedchunked\r\n\r\n0\r\n\r\n"), 501},
    {6, TEXT(POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), 501},
    {7, TEXT(POST "Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n"), 400},
    {8, TEXT(POST "Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n"), 400},
    {9, TEXT(POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
     400},
    {9, TEXT(POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
     400},
    {9, TEXT(POST "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
     400},
    {10, TEXT(POST "Transfer-Encoding:\r\n\r\n0\r\n\r\n"), 400},
    {10, TEXT(POST "Transfer-Encoding: \r\nContent-Length: 3\r\n\r\nabc"), 400},
    {11, TEXT(POST "Transfer-Encoding: \vchunked\r\n\r\n0\r\n\r\n"), 400},
    {11, TEXT(POST "Transfer-Encoding: chunked\v\r\n\r\n0\r\n\r\n"), 400},
    {11, TEXT(POST "Transfer-Encoding: \fchunked\r\n\r\n0\r\n\r\n"), 400},
    {11,
     TEXT(POST "Transfer-Encoding: \x85"
               "chunked\r\n\r\n0\r\n\r\n"),
     400},
    {11, TEXT(POST "Transfer-Encoding: chunked\xA0\r\n\r\n0\r\n\r\n"), 400},
    {11,
     TEXT(POST "Transfer-Encoding: \xff"
               "chunked\r\n\r\n0\r\n\r\n"),
     400},
    {12, TEXT(POST "Transfer_Encoding: chunked\r\n\r\n"), 400},
    {12, TEXT(POST "Content_Length: 3\r\n\r\n"), 400},
    {13, TEXT(POST "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"), 400},
    {13, TEXT(POST "Transfer-Encoding: chun\r\n ked\r\n\r\n0\r\n\r\n"), 400},
    {13, TEXT(POST "Transfer-\r\n Encoding: chunked\r\n\r\n0\r\n\r\n"), 400},
    {14, TEXT(POST "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"), 400},
    {15, TEXT(POST "Content-Length: 5\r\nContent-Length: 5\r\n\r\nabcde"), 400},
    {15, TEXT(POST "Content-Length: 5, 5\r\n\r\nabcde"), 400},
    {16, TEXT(POST "Content-Length: +5\r\n\r\nabcde"), 400},
    {16, TEXT(POST "Content-Length: -1\r\n\r\nabcde"), 400},
    {16, TEXT(POST "Content-Length: -0\r\n\r\nabcde"), 400},
    {16, TEXT(POST "Content-Length: 0x5\r\n\r\nabcde"), 400},
    {16, TEXT(POST "Content-Length: 0o5\r\n\r\nabcde"), 400},
    {16, TEXT(POST "Content-Length: 1_0\r\n\r\nabcde"), 400},
    {16, TEXT(POST "Content-Length: 5 5\r\n\r\nabcde"), 400},
    {16, TEXT(POST "Content-Length: 5Z\r\n\r\nabcde"), 400},
    {16, TEXT(POST "Content-Length:\r\n\r\nabcde"), 400},
    {17, TEXT(POST "Content-Length: 010\r\n\r\nabcdefgh"), 400},
    {18, TEXT(POST "Content-Length: 18446744073709551621\r\n\r\nabcde"), 400},
    {21, TEXT(POST "Content-Length: 0\r\n\r\n garbage"), GOOD},
    {22, TEXT(CHUNKED "0x5\r\nabcde\r\n0\r\n\r\n"), 400},
    {22, TEXT(CHUNKED "+5\r\nabcde\r\n0\r\n\r\n"), 400},
    {22, TEXT(CHUNKED "-5\r\nabcde\r\n0\r\n\r\n"), 400},
    {22, TEXT(CHUNKED "_5\r\nabcde\r\n0\r\n\r\n"), 400},
    {22, TEXT(CHUNKED " 5\r\nabcde\r\n0\r\n\r\n"), 400},
    {22, TEXT(CHUNKED "5 \r\nabcde\r\n0\r\n\r\n"), 400},
    {22, TEXT(CHUNKED "\r\nabcde\r\n0\r\n\r\n"), 400},
    {22, TEXT(CHUNKED "ffffffffffffffff1\r\nabcde\r\n0\r\n\r\n"), 400},
    {23, TEXT(CHUNKED "5\nabcde\r\n0\r\n\r\n"), 400},
    {24, TEXT(CHUNKED "5\rXabcde\r\n0\r\n\r\n"), 400},
    {25, TEXT(CHUNKED "5\r\nabcdefg\r\n0\r\n\r\n"), 400},
    {26, TEXT(CHUNKED "5\r\nabcde0\r\n\r\n"), 400},
    {26, TEXT(CHUNKED "5\r\nabcde\n0\r\n\r\n"), 400},
    {27, TEXT(CHUNKED "5\r\nabcde\r\n0\r\n\x01\x02"), 400},
    {29, TEXT(CHUNKED "5;a\0b\r\nabcde\r\n0\r\n\r\n"), 400},
    {29, TEXT(CHUNKED "5;a\rb\r\nabcde\r\n0\r\n\r\n"), 400},
    {29, TEXT(CHUNKED "5;\r\nabcde\r\n0\r\n\r\n"), 400},
    {31, TEXT(CHUNKED "1\r\na\r\n0\r\nContent-Length: 7\r\nHost: x\r\nAuthorization: y\r\n\r\n"),
     GOOD},
    {32, TEXT(CHUNKED "1\r\na\r\n"), MORE},
    {33, TEXT(GET "X : y\r\n\r\n"), 400},
    {34, TEXT(GET "X\ty: z\r\n\r\n"), 400},
    {34, TEXT(GET ": x\r\n\r\n"), 400},
    {34, TEXT(GET "nothing\r\n\r\n"), 400},
    {34, TEXT(GET "Content-Length 10\r\n\r\n"), 400},
    {35, TEXT(GET "X: a\r\n b\r\n\r\n"), 400},
    {35, TEXT(GET "X: a\r\n\tb\r\n\r\n"), 400},
    {36, TEXT("GET / HTTP/1.1\r\n Host: h\r\n\r\n"), 400},
    {37, TEXT(GET "X: a\rb\r\n\r\n"), 400},
    {37, TEXT(GET "X: a\n\r\n"), 400},
    {37, TEXT("GET / HTTP/1.1\nHost: h\r\n\r\n"), 400},
    {37, TEXT(GET "X: a\0b\r\n\r\n"), 400},
    {37, TEXT(GET "X: a\ab\r\n\r\n"), 400},
    {38, TEXT(GET "\rX"), 400},
    {38, TEXT(GET "\n"), 400},
    {41, TEXT("GET / HTTP/1.1\r\n\r\n"), 400},
    {41, TEXT(GET "Host: h\r\n\r\n"), 400},
    {41, TEXT("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n"), 400},
    {41, TEXT("GET / HTTP/1.1\r\nHost: u@h\r\n\r\n"), 400},
    {41, TEXT("GET / HTTP/1.1\r\nHost: h/p\r\n\r\n"), 400},
    {41, TEXT("GET / HTTP/1.1\r\nHost: h:99999\r\n\r\n"), 400},
    {41, TEXT("GET / HTTP/1.1\r\nHost: h:8x\r\n\r\n"), 400},
    {41, TEXT("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n"), 400},
    {41, TEXT("GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n"), 400},
    {41, TEXT("GET / HTTP/1.1\r\nHost:\r\n\r\n"), 400},
    {42, TEXT("GET / HTTP/1.0\r\n\r\n"), GOOD},
    {43, TEXT("GET http://other/ HTTP/1.1\r\nHost: h\r\n\r\n"), 400},
    {43, TEXT("GET http:///x HTTP/1.1\r\nHost: h\r\n\r\n"), 400},
    {44, TEXT("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n"), GOOD},
    {44, TEXT("GET * HTTP/1.1\r\nHost: h\r\n\r\n"), 400},
    {44, TEXT("CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n"), 405},
    {44, TEXT("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n"), 405},
    {44, TEXT("BREW / HTTP/1.1\r\nHost: h\r\n\r\n"), 501},
    {44, TEXT("PROPFIND / HTTP/1.1\r\nHost: h\r\n\r\n"), 501},
    {45, TEXT("GET  / HTTP/1.1\r\nHost: h\r\n\r\n"), 400},
    {45, TEXT("GET /  HTTP/1.1\r\nHost: h\r\n\r\n"), 400},
    {45, TEXT("GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n"), 400},
    {45, TEXT("GET /\tHTTP/1.1\r\nHost: h\r\n\r\n"), 400},
    {45, TEXT("GET HTTP/1.1\r\nHost: h\r\n\r\n"), 400},
    {46, TEXT("GET /\r\n"), 400},
    {46, TEXT("GET / HTTP/1\r\nHost: h\r\n\r\n"), 400},
    {46, TEXT("GET / http/1.1\r\nHost: h\r\n\r\n"), 400},
    {46, TEXT("GET / HTTP/1.1 x\r\nHost: h\r\n\r\n"), 400},
    {46, TEXT("GET / HTTP/9.9\r\nHost: h\r\n\r\n"), 505},
    {47, TEXT("GET / HTTP/1.2\r\nHost: h\r\n\r\n"), GOOD},
    {48, TEXT("GET /#x HTTP/1.1\r\nHost: h\r\n\r\n"), 400},
    {48, TEXT("GET /a b HTTP/1.1\r\nHost: h\r\n\r\n"), 400},
    {48, TEXT("GET /\x80 HTTP/1.1\r\nHost: h\r\n\r\n"), 400},
    {48, TEXT("GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n"), 400},
    {48, TEXT("GET /%00 HTTP/1.1\r\nHost: h\r\n\r\n"), 400},
    {48, TEXT("GET /?a=%0d%0a HTTP/1.1\r\nHost: h\r\n\r\n"), 400},
    {48, TEXT("GET /%c0%af HTTP/1.1\r\nHost: h\r\n\r\n"), 400},
    {48, TEXT("GET /..%2f HTTP/1.1\r\nHost: h\r\n\r\n"), 400},
    {48, TEXT("GET /a/%2e%2E/b HTTP/1.1\r\nHost: h\r\n\r\n"), 400},
    {48, TEXT("GET /%4 HTTP/1.1\r\nHost: h\r\n\r\n"), 400},
    {48, TEXT("GET \\x HTTP/1.1\r\nHost: h\r\n\r\n"), 400},
    {48, TEXT("GET /a\\b HTTP/1.1\r\nHost: h\r\n\r\n"), 400},
    {49, TEXT("\r\n\r\n" GET "\r\n"), 400},
    {49, TEXT("\r\n" GET "\r\n"), GOOD},
    {49, TEXT("\n" GET "\r\n"), 400},
    {50, TEXT("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505},
    {51, TEXT("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), 400},
    {59, TEXT(POST "Expect: 100-continue\r\nContent-Length: 1\r\n\r\na"), GOOD},
    {61, TEXT(POST "Expect: banana\r\nContent-Length: 1\r\n\r\na"), 417},
};

/* The verdict on `bytes` as a server comes to it that gets them in steps of `step` bytes; *rest
 * is what follows the message. */
static int judge(const char *bytes, size_t len, size_t step, size_t *rest)
{
    struct http_parser parser;
    struct http_head head;
    enum http_progress progress = HTTP_MORE;
    size_t have = 0, at = 0, used = 0;
    err_t err = NULL;

    while (progress == HTTP_MORE && have < len) {
        have = have + step < len ? have + step : len;
        err = http_parse_request(&parser, (struct str){bytes, have}, &head, &used, &progress);
        if (err)
            return err_status(err);
    }
    if (progress == HTTP_MORE)
        return MORE;
    at = used;
    while (!parser.is_done && at < len) {
        struct str piece;
        bool done;
        if (have == at)
            have = have + step < len ? have + step : len;
        err = http_parse_body(&parser, (struct str){bytes + at, have - at}, false, &used, &piece,
                              &done);
        if (err)
            return err_status(err);
        assert_true(used > 0);
        assert_true(piece.len == 0 || (piece.ptr >= bytes && piece.ptr + piece.len <= bytes + len));
        at += used;
    }
    *rest = len - at;
    return parser.is_done ? GOOD : MORE;
}

static void check_row(int line, const char *text, size_t len, int expected)
{
    /* An exact copy, so that the sanitizer sees every read beyond it. */
    char *bytes = malloc(len);
    size_t rest = 0, rest_whole = 0;
    int verdict;

    memcpy(bytes, text, len);
    verdict = judge(bytes, len, len, &rest_whole);
    if (verdict != expected)
        fail_msg("line %d, %.*s: %d instead of %d", line, (int)(len < 200 ? len : 200), text,
                 verdict, expected);
    for (size_t step = 1; step <= 3; step++) {
        verdict = judge(bytes, len, step, &rest);
        if (verdict != expected || rest != rest_whole)
            fail_msg("line %d, %.*s in steps of %zu: %d instead of %d", line,
                     (int)(len < 200 ? len : 200), text, step, verdict, expected);
    }
    for (size_t cut = 1; cut < len && len < 4096; cut++) {
        /* Two pieces: what was there at the cut must not change the verdict on the whole. */
        int early = judge(bytes, cut, cut, &rest);
        if (early != MORE && early != GOOD && early != expected)
            fail_msg("line %d, %.*s cut at %zu: %d instead of %d", line,
                     (int)(len < 200 ? len : 200), text, cut, early, expected);
    }
    free(bytes);
}

static void test_catalogue(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        check_row(rows[i].line, rows[i].bytes, rows[i].len, rows[i].verdict);
}

/* A request whose size matters: `head`, `count` times `filler`, `tail`. */
static void check_long(int line, const char *head, const char *filler, size_t count,
                       const char *tail, int expected)
{
    size_t cap = strlen(head) + count * strlen(filler) + strlen(tail) + 1, len;
    char *bytes = malloc(cap);

    len = (size_t)snprintf(bytes, cap, "%s", head);
    for (size_t i = 0; i < count; i++)
        len += (size_t)snprintf(bytes + len, cap - len, "%s", filler);
    len += (size_t)snprintf(bytes + len, cap - len, "%s", tail);
    size_t rest;
    int verdict = judge(bytes, len, len, &rest);
    if (verdict != expected)
        fail_msg("line %d: %d instead of %d", line, verdict, expected);
    for (size_t step = 997; step < 70000; step += 16411) {
        verdict = judge(bytes, len, step, &rest);
        if (verdict != expected)
            fail_msg("line %d in steps of %zu: %d instead of %d", line, step, verdict, expected);
    }
    free(bytes);
}

static void test_sizes(void **state)
{
    (void)state;
    check_long(28, CHUNKED "5;a=", "x", 65536, "\r\nabcde\r\n0\r\n\r\n", 400);
    check_long(28, CHUNKED "5;a=", "x", 1000, "\r\nabcde\r\n0\r\n\r\n", GOOD);
    check_long(30, CHUNKED, "1\r\nx\r\n", 100000, "0\r\n\r\n", GOOD);
    check_long(31, CHUNKED "0\r\n", "X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n", 400,
               "\r\n", 400);
    check_long(39, "GET / HTTP/1.1\r\nHost: h\r\n", "X: y\r\n", 99, "\r\n", GOOD);
    check_long(39, "GET / HTTP/1.1\r\nHost: h\r\n", "X: y\r\n", 100, "\r\n", 431);
    check_long(39, "GET / HTTP/1.1\r\nHost: h\r\n",
               "X: 3456789012345678901234567890123456789012345678901234567890\r\n", 95, "\r\n",
               GOOD);
    check_long(39, GET "X: ", "y", 9 * 1024, "\r\n\r\n", 431);
    check_long(39, GET "X: ", "y", 8 * 1024, "\r\n\r\n", GOOD);
    check_long(39, GET, "X", 64 * 1024, ": y\r\n\r\n", 431);
    check_long(40, "GET /", "x", 9000, " HTTP/1.1\r\nHost: h\r\n\r\n", 414);
    check_long(40, "GET /", "x", 7900, " HTTP/1.1\r\nHost: h\r\n\r\n", GOOD);
    check_long(40, "GET /", "x", 100000, " HTTP/1.1\r\nHost: h\r\n\r\n", 414);
    check_long(52, "", "\xfe\x01", 512 * 1024, "", 400);
    check_long(52, "", "A", 1024 * 1024, "", 400);
}

/* Heads of 33 KiB are too long, wherever they are cut. */
static void test_head_limit(void **state)
{
    char *bytes = malloc(40000);
    size_t len = (size_t)snprintf(bytes, 40000, "%s", GET), rest;

    (void)state;
    for (int i = 0; i < 6; i++) {
        len += (size_t)snprintf(bytes + len, 40000 - len, "X%d: ", i);
        memset(bytes + len, 'y', 5500);
        len += 5500;
        len += (size_t)snprintf(bytes + len, 40000 - len, "\r\n");
    }
    len += (size_t)snprintf(bytes + len, 40000 - len, "\r\n");
    assert_true(len > 33 * 1024 - 800);
    for (size_t step = 100; step < 40000; step += 3333)
        assert_int_equal(judge(bytes, len, step, &rest), 431);
    free(bytes);
}

/* What a parsed head says. */
static void test_head_content(void **state)
{
    static const char text[] =
        "\r\nPOST http://Example.org:81/a/b%20c?x=1&y=a+b%2Fc&y=2 HTTP/1.1\r\n"
        "hOST: example.ORG:81\r\nAccept:  text/html , x \r\nEmpty:\r\n"
        "connection: foo, Close\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 12\r\n\r\nrest";
    struct http_parser parser;
    struct http_head head;
    enum http_progress progress;
    size_t used;
    struct arena *arena = arena_new(MEM_REQUEST, 65536);
    struct str bytes = {text, sizeof text - 1}, value;
    char *copy;

    (void)state;
    assert_null(http_parse_request(&parser, bytes, &head, &used, &progress));
    assert_int_equal(progress, HTTP_READY);
    assert_int_equal(used, bytes.len - 4);
    copy = malloc(used);
    memcpy(copy, text, used);
    assert_null(http_parse_request(&parser, (struct str){copy, used}, &head, &used, &progress));
    assert_null(http_head_keep(&head, (struct str){copy, used}, arena));
    memset(copy, '?', used);
    free(copy);
    assert_int_equal(head.method, HTTP_POST_);
    assert_true(str_eq(head.method_text, STR("POST")));
    assert_true(str_eq(head.path, STR("/a/b%20c")));
    assert_true(str_eq(head.query, STR("x=1&y=a+b%2Fc&y=2")));
    assert_true(str_eq(head.host, STR("example.ORG:81")));
    assert_true(str_eq(head.host_name, STR("example.ORG")));
    assert_int_equal(head.header_count, 7);
    assert_true(head.has_length && head.length == 12 && !head.chunked && !head.keep_alive);
    assert_true(str_eq(http_header_get(&head, STR("accept")), STR("text/html , x")));
    assert_true(http_header_has_token(http_header_get(&head, STR("accept")), STR("X")));
    value = http_header_get(&head, STR("empty"));
    assert_int_equal(value.len, 0);
    assert_null(http_header_get(&head, STR("none")).ptr);
    assert_int_equal(http_header_count(&head, STR("X-a")), 2);
    assert_true(str_eq(http_query_get(head.query, STR("y"), arena), STR("a b/c")));
    assert_null(http_query_get(head.query, STR("z"), arena).ptr);
    assert_null(http_decode(head.path, false, arena, &value));
    assert_true(str_eq(value, STR("/a/b c")));
    assert_non_null(http_decode(STR("%zz"), false, arena, &value));
    assert_non_null(http_decode(STR("%00"), false, arena, &value));
    assert_non_null(http_decode(STR("%ff"), false, arena, &value));
    arena_free(arena);
}

/* Parse an answer and its body whole; returns its status or 0 for an error, and copies the body
 * to `out`. */
static int answer(const char *text, size_t len, enum http_method method, char *out,
                  struct http_head *head)
{
    struct http_parser parser;
    enum http_progress progress;
    size_t used, at = 0, total = 0;

    out[0] = '\0';
    if (http_parse_response(&parser, (struct str){text, len}, method, head, &used, &progress))
        return 0;
    assert_int_equal(progress, HTTP_READY);
    for (at = used; !parser.is_done; at += used) {
        struct str piece;
        bool done;
        if (http_parse_body(&parser, (struct str){text + at, len - at}, at == len, &used, &piece,
                            &done))
            return 0;
        if (piece.len)
            memcpy(out + total, piece.ptr, piece.len);
        total += piece.len;
        out[total] = '\0';
    }
    return head->status;
}

static void test_answers(void **state)
{
    static const struct {
        const char *bytes;
        size_t len;
        enum http_method method;
        int status;
        const char *body;
        bool keep_alive;
    } cases[] = {
        {TEXT("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"), HTTP_GET_, 200, "abc", true},
        {TEXT("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"), HTTP_HEAD_, 200, "", true},
        {TEXT("HTTP/1.1 204 No\r\n\r\n"), HTTP_GET_, 204, "", true},
        {TEXT("HTTP/1.1 304 \r\nContent-Length: 3\r\n\r\n"), HTTP_GET_, 304, "", true},
        {TEXT("HTTP/1.1 100 Continue\r\n\r\n"), HTTP_POST_, 100, "", true},
        {TEXT(
             "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"),
         HTTP_GET_, 200, "abc", true},
        {TEXT("HTTP/1.1 200 OK\r\n\r\nabc"), HTTP_GET_, 200, "abc", false},
        {TEXT("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na"), HTTP_GET_, 200, "a", false},
        {TEXT("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na"), HTTP_GET_,
         200, "a", true},
        {TEXT("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na"), HTTP_GET_, 200,
         "a", false},
        {TEXT("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"), HTTP_GET_, 0, "ab", false},
        {TEXT(
             "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
         HTTP_GET_, 0, "", false},
        {TEXT("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc"), HTTP_GET_, 0,
         "", false},
        {TEXT("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc"), HTTP_GET_, 0, "", false},
        {TEXT("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), HTTP_GET_, 0, "",
         false},
        {TEXT("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"), HTTP_GET_, 0,
         "ab", false},
        {TEXT("HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), HTTP_GET_, 0,
         "", false},
        {TEXT("<html>"), HTTP_GET_, 0, "", false},
    };
    struct http_head head;
    char body[64];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int status = answer(cases[i].bytes, cases[i].len, cases[i].method, body, &head);
        if (status != cases[i].status || strcmp(body, cases[i].body) != 0 ||
            (status && head.keep_alive != cases[i].keep_alive))
            fail_msg("%s: status %d, body %s", cases[i].bytes, status, body);
    }
}

static void test_small_texts(void **state)
{
    (void)state;
    assert_string_equal(http_reason(200), "OK");
    assert_string_equal(http_reason(599), "Status");
    assert_true(http_value_is_clean(STR("a\tb \xc3\xa9")));
    assert_false(http_value_is_clean(STR("a\r\nb")));
    assert_false(http_value_is_clean((struct str){"a\0b", 3}));
    assert_false(http_header_has_token((struct str){NULL, 0}, STR("x")));
}

/* Looking up names of all lengths, beside others as long. */
static void test_header_names(void **state)
{
    static char text[8192], name[101];
    struct http_parser parser;
    struct http_head head;
    enum http_progress progress;
    size_t len = (size_t)snprintf(text, sizeof text, "%s", GET), used;

    (void)state;
    memset(name, 'x', 100);
    for (int i = 2; i <= 100; i += 2)
        len += (size_t)snprintf(text + len, sizeof text - len, "%.*s: %d\r\n", i, name, i);
    len += (size_t)snprintf(text + len, sizeof text - len, "\r\n");
    assert_null(http_parse_request(&parser, (struct str){text, len}, &head, &used, &progress));
    assert_int_equal(progress, HTTP_READY);
    for (size_t i = 1; i <= 100; i++) {
        struct str wanted = {name, i};
        uint64_t value = 0;
        assert_int_equal(http_header_count(&head, wanted), i % 2 == 0);
        assert_true(str_to_u64(http_header_get(&head, wanted), &value) == (i % 2 == 0));
        assert_int_equal(value, i % 2 == 0 ? i : 0);
    }
    name[1] = 'y';
    assert_null(http_header_get(&head, (struct str){name, 2}).ptr);
    assert_null(http_header_get(&head, (struct str){name, 64}).ptr);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_catalogue),    cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_head_limit),   cmocka_unit_test(test_head_content),
        cmocka_unit_test(test_answers),      cmocka_unit_test(test_small_texts),
        cmocka_unit_test(test_header_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
