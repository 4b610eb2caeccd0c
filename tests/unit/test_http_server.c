/* SPDX-License-Identifier: Apache-2.0 */
/* The HTTP server over loopback: a loop with a small handler in one thread, plain blocking
 * clients in the other. Every test ends with the counters of memory back at zero. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "base/sys.h"
#include "conf/conf.h"
#include "net/http_server.h"

#define GET(path)           "GET " path " HTTP/1.1\r\nHost: h\r\n\r\n"
#define POST(path, headers) "POST " path " HTTP/1.1\r\nHost: h\r\n" headers "\r\n"
#define BODY_LIMIT          (1024 * 1024)
#define MAX_ANSWER          (4 * 1024 * 1024)

/* ---- the server's thread ---- */

static struct {
    struct loop *loop;
    struct http_server *server;
    struct http_server_options options;
    struct address address;
    pthread_t thread;
    sem_t ready;
    uint64_t drains_at_ms;
} fixture;

static atomic_int cancelled_as, handled;
static atomic_size_t body_bytes_seen, active_seen, open_seen;

static void reply_error(struct exchange *exchange, err_t err)
{
    const char *text = err->text ? err->text : "error";

    if (exchange_reply(exchange, err_status(err), STR("text/plain"), NULL, str_from(text)))
        return;
}

static err_t echo(struct exchange *exchange)
{
    struct str body;

    TRY(exchange_read_body(exchange, BODY_LIMIT, &body));
    body_bytes_seen = body.len;
    return exchange_reply(exchange, 200, STR("text/plain"), NULL, body);
}

static err_t stream(struct exchange *exchange)
{
    struct http_pen lines = exchange_lines();
    struct str many[40];

    http_pen_line(&lines, HTTP_LINE("X-Extra"), STR("1"));
    http_pen_line_of(&lines, HTTP_LINE("X-Bad"), STR("a\r\nb"));
    TRY(exchange_stream(exchange, 200, STR("text/event-stream"), &lines));
    TRY(exchange_write(exchange, (struct str[]){STR("one"), STR(" "), STR("two\n")}, 3));
    for (int i = 0; i < 40; i++)
        many[i] = STR("x");
    TRY(exchange_finish(exchange, many, 40));
    assert_true(err_is(exchange_write(exchange, many, 1), ERR_BUG));
    return exchange_end(exchange); /* harmless */
}

/* A megabyte at a time until the client has had enough. */
static err_t flood(struct exchange *exchange)
{
    char *piece = arena_alloc(exchange->arena, 65536);
    err_t err = NULL;

    memset(piece, 'x', 65536);
    TRY(exchange_stream(exchange, 200, STR("text/plain"), NULL));
    while (!err)
        err = exchange_write(exchange, &(struct str){piece, 65536}, 1);
    cancelled_as = err->kind;
    return NULL;
}

static err_t wait_for_long(struct exchange *exchange)
{
    exchange_cancel_on_half_close(exchange);
    err_t err = fiber_sleep(20000);
    cancelled_as = err ? (int)err->kind : -1;
    return err ? err : exchange_reply(exchange, 200, STR("text/plain"), NULL, STR("slept"));
}

static err_t describe(struct exchange *exchange)
{
    const char *text =
        arena_printf(exchange->arena, "ip=%s loopback=%d tls=%d id=%s", exchange->peer_ip,
                     exchange->peer_is_loopback, exchange->is_tls, exchange->id);
    return exchange_reply(exchange, 200, STR("text/plain"), NULL, str_from(text));
}

static err_t doze(struct exchange *exchange)
{
    TRY(fiber_sleep(150));
    return exchange_reply(exchange, 200, STR("text/plain"), NULL, STR("slept"));
}

static err_t cut_short(struct exchange *exchange)
{
    TRY(exchange_stream(exchange, 200, STR("text/plain"), NULL));
    TRY(exchange_write(exchange, &STR("begin"), 1));
    exchange_abort(exchange);
    return NULL;
}

static err_t deny(struct exchange *exchange)
{
    return exchange_reply(exchange, 401, STR("text/plain"), NULL, STR("no key"));
}

static err_t hello(struct exchange *exchange)
{
    return exchange_reply(exchange, 200, STR("text/plain"), NULL, STR("hello"));
}

static err_t say_nothing(struct exchange *exchange)
{
    return NULL;
}

static void handle(struct exchange *exchange, void *context)
{
    static const struct {
        const char *path;
        err_t (*fn)(struct exchange *exchange);
    } routes[] = {{"/hello", hello},        {"/echo", echo},          {"/stream", stream},
                  {"/flood", flood},        {"/wait", wait_for_long}, {"/describe", describe},
                  {"/doze", doze},          {"/cut", cut_short},      {"/deny", deny},
                  {"/nothing", say_nothing}};

    handled++;
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (!str_eq(exchange->head.path, str_from(routes[i].path)))
            continue;
        err_t err = routes[i].fn(exchange);
        if (err && !exchange->head_sent && err->kind != ERR_CANCELLED)
            reply_error(exchange, err);
        return;
    }
    if (exchange_reply(exchange, 404, STR("text/plain"), NULL, STR("not found")))
        return;
}

/* Stop once nothing runs any more. */
static void check_end(struct timer *timer)
{
    if (http_server_active(fixture.server) > 0) {
        if (timer_set(timer, loop_now_ms() + 5, check_end))
            abort();
        return;
    }
    timer_clear(timer);
    loop_stop(fixture.loop);
}

static void on_stop(struct loop_message *message)
{
    static struct timer timer;

    timer = (struct timer){0};
    http_server_drain(fixture.server);
    http_server_kill(fixture.server);
    check_end(&timer);
}

static void on_look(struct loop_message *message)
{
    active_seen = http_server_active(fixture.server);
    open_seen = http_server_connections(fixture.server);
    sem_post(&fixture.ready);
}

static void on_drain(struct loop_message *message)
{
    http_server_drain(fixture.server);
    sem_post(&fixture.ready);
}

static void post_and_wait(void (*fn)(struct loop_message *message))
{
    static struct loop_message message;

    message.fn = fn;
    loop_post(fixture.loop, &message);
    sem_wait(&fixture.ready);
}

static void *run_server(void *arg)
{
    struct address address;
    socklen_t len = sizeof fixture.address.u;
    int fd;

    if (loop_open(&fixture.loop) || http_server_open(&fixture.options, &fixture.server) ||
        address_parse(STR("127.0.0.1:0"), &address) || address_listen(&address, 128, &fd))
        abort();
    getsockname(fd, &fixture.address.u.any, &len);
    fixture.address.len = len;
    if (http_server_listen(fixture.server, fd, NULL))
        abort();
    sem_post(&fixture.ready);
    loop_run(fixture.loop);
    http_server_close(fixture.server);
    loop_close(fixture.loop);
    return NULL;
}

static int set_up(void **state)
{
    (void)state;
    if (!fixture.options.handle)
        fixture.options = (struct http_server_options){.handle = handle};
    cancelled_as = -2;
    handled = 0;
    sem_init(&fixture.ready, 0, 0);
    pthread_create(&fixture.thread, NULL, run_server, NULL);
    sem_wait(&fixture.ready);
    return 0;
}

static int set_up_impatient(void **state)
{
    fixture.options = (struct http_server_options){
        .handle = handle,
        .head_timeout_ms = 400,
        .body_grace_ms = 400,
        .idle_timeout_ms = 400,
        .write_timeout_ms = 400,
    };
    return set_up(state);
}

static int set_up_small(void **state)
{
    fixture.options = (struct http_server_options){.handle = handle, .max_connections = 2};
    return set_up(state);
}

static int set_up_proxied(void **state)
{
    static struct str items[] = {{"127.0.0.0/8", 11}, {"10.0.0.0/8", 10}};
    static const struct conf_strings trusted = {items, 2};

    fixture.options = (struct http_server_options){.handle = handle, .trusted_proxies = &trusted};
    return set_up(state);
}

static int set_up_tolerant(void **state)
{
    fixture.options = (struct http_server_options){.handle = handle, .serve_half_closed = true};
    return set_up(state);
}

static int tear_down(void **state)
{
    static struct loop_message message = {.fn = on_stop};

    (void)state;
    loop_post(fixture.loop, &message);
    pthread_join(fixture.thread, NULL);
    fixture.options = (struct http_server_options){0};
    static const enum mem_use uses[] = {MEM_CONNECTION, MEM_REQUEST, MEM_BODY, MEM_FIBER};
    for (size_t i = 0; i < sizeof uses / sizeof *uses; i++) {
        if (mem_in_use(uses[i]) != 0) {
            fprintf(stderr, "%s: %zu bytes left\n", mem_use_label(uses[i]), mem_in_use(uses[i]));
            return -1;
        }
    }
    return 0;
}

/* ---- the client's side ---- */

static int dial(void)
{
    struct timeval patience = {.tv_sec = 15};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert_int_equal(connect(fd, &fixture.address.u.any, fixture.address.len), 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
}

static void say(int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

static char answer[MAX_ANSWER];

/* Read into `answer` until `until` has come, or the end if NULL. Returns whether the
 * connection's end was seen. */
static bool listen_until(int fd, const char *until)
{
    size_t len = 0;

    answer[0] = '\0';
    while (!until || !strstr(answer, until)) {
        ssize_t n = recv(fd, answer + len, sizeof answer - 1 - len, 0);
        if (n < 0)
            fail_msg("recv: %s after %zu bytes: %.200s", strerror(errno), len, answer);
        if (n == 0 && until)
            fail_msg("the end instead of \"%s\": %s", until, answer);
        if (n == 0)
            return true;
        len += (size_t)n;
        answer[len] = '\0';
    }
    return false;
}

static void expect(const char *part)
{
    if (!strstr(answer, part))
        fail_msg("no \"%s\" in: %.500s", part, answer);
}

/* One request on a connection of its own, whose end is awaited. */
static void ask(const char *request)
{
    int fd = dial();

    say(fd, request);
    shutdown(fd, SHUT_WR);
    listen_until(fd, NULL);
    close(fd);
}

static int count(const char *part)
{
    int n = 0;

    for (const char *at = answer; (at = strstr(at, part)); at += strlen(part))
        n++;
    return n;
}

/* ---- answers ---- */

static void test_plain_answer(void **state)
{
    int fd = dial();

    (void)state;
    say(fd, GET("/hello"));
    listen_until(fd, "hello");
    assert_true(strncmp(answer, "HTTP/1.1 200 OK\r\nDate: ", 23) == 0);
    expect("\r\nContent-Length: 5\r\n");
    expect("\r\nx-request-id: req_");
    assert_null(strstr(answer, "Connection:"));
    say(fd, "HEAD /hello HTTP/1.1\r\nHost: h\r\nx-request-id: my.id-1_\r\n\r\n");
    listen_until(fd, "\r\n\r\n");
    expect("\r\nContent-Length: 5\r\n");
    expect("\r\nx-request-id: my.id-1_\r\n");
    assert_null(strstr(answer, "hello"));
    say(fd, "GET /hello HTTP/1.1\r\nHost: h\r\nx-request-id: bad id\r\nConnection: close, "
            "keep-alive\r\n\r\n");
    listen_until(fd, NULL);
    expect("Connection: close");
    expect("x-request-id: req_");
    close(fd);
}

static void test_old_clients(void **state)
{
    int fd = dial();

    (void)state;
    ask("GET /hello HTTP/1.0\r\n\r\n");
    expect("Connection: close");
    say(fd, "GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    listen_until(fd, "hello");
    expect("Connection: keep-alive");
    say(fd, "GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    listen_until(fd, NULL);
    assert_null(strstr(answer, "chunked"));
    expect("\r\n\r\none two\nxxxxxxxx");
    close(fd);
}

static void test_stream(void **state)
{
    int fd = dial();

    (void)state;
    say(fd, GET("/stream"));
    listen_until(fd, "\r\n0\r\n\r\n");
    expect("Transfer-Encoding: chunked\r\n");
    expect("X-Extra: 1\r\n");
    assert_null(strstr(answer, "X-Bad"));
    expect("\r\n\r\n8\r\none "
           "two\n\r\ne\r\nxxxxxxxxxxxxxx\r\ne\r\nxxxxxxxxxxxxxx\r\nc\r\nxxxxxxxxxxxx\r\n0\r\n\r\n");
    say(fd, GET("/cut"));
    listen_until(fd, NULL);
    expect("5\r\nbegin\r\n");
    assert_null(strstr(answer, "\r\n0\r\n\r\n"));
    close(fd);
    ask(GET("/nothing"));
    expect("HTTP/1.1 500 ");
}

/* ---- bodies ---- */

static void test_bodies(void **state)
{
    int fd = dial();

    (void)state;
    say(fd, POST("/echo", "Content-Length: 3\r\n") "abc");
    listen_until(fd, "\r\n\r\nabc");
    say(fd, POST("/echo", "Content-Length: 6\r\n") "abc");
    usleep(20000);
    say(fd, "def");
    listen_until(fd, "\r\n\r\nabcdef");
    say(fd, POST("/echo", "Transfer-Encoding: chunked\r\n") "3\r\nabc\r\n2");
    usleep(20000);
    say(fd, "\r\nde\r\n0\r\n\r\n" POST("/echo", "Content-Length: 2\r\n") "zz");
    listen_until(fd, "\r\n\r\nzz");
    expect("\r\n\r\nabcde");
    say(fd, POST("/echo", "Content-Length: 0\r\n") GET("/hello"));
    listen_until(fd, "hello");
    close(fd);
}

static void test_large_body(void **state)
{
    char *body = malloc(BODY_LIMIT + 1), head[128];
    int fd = dial();

    (void)state;
    memset(body, 'x', BODY_LIMIT);
    memcpy(body + BODY_LIMIT - 4, "END.", 5);
    say(fd, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1048576\r\n\r\n");
    say(fd, body);
    listen_until(fd, "END.");
    assert_int_equal(body_bytes_seen, BODY_LIMIT);
    snprintf(head, sizeof head,
             "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n",
             BODY_LIMIT);
    say(fd, head);
    say(fd, body);
    say(fd, "\r\n0\r\n\r\n");
    listen_until(fd, "END.");
    close(fd);
    free(body);
}

static void test_body_over_limit(void **state)
{
    static char piece[65536];
    int fd = dial();
    size_t sent = 0;

    (void)state;
    /* The refusal comes although the client goes on sending, and the client can read it. */
    say(fd, POST("/echo", "Content-Length: 52428800\r\n"));
    while (sent < 50 * 1024 * 1024) {
        ssize_t n = send(fd, piece, sizeof piece, MSG_NOSIGNAL);
        assert_true(n > 0);
        sent += (size_t)n;
    }
    listen_until(fd, NULL);
    expect("HTTP/1.1 413 ");
    expect("Connection: close");
    close(fd);
    fd = dial();
    say(fd, POST("/echo", "Transfer-Encoding: chunked\r\n") "200000\r\n");
    for (sent = 0; sent < 0x200000; sent += sizeof piece)
        assert_int_equal(send(fd, piece, sizeof piece, MSG_NOSIGNAL), sizeof piece);
    listen_until(fd, NULL);
    expect("HTTP/1.1 413 ");
    close(fd);
}

/* What a body is not read of is skipped if it is there, else the connection ends. */
static void test_unread_body(void **state)
{
    int fd = dial();

    (void)state;
    say(fd, POST("/deny", "Content-Length: 3\r\n") "abc" GET("/hello"));
    listen_until(fd, "hello");
    expect("401 Unauthorized");
    say(fd, POST("/deny", "Content-Length: 300\r\n") "abc");
    listen_until(fd, NULL);
    expect("401 Unauthorized");
    expect("Connection: close");
    close(fd);
}

static void test_expectations(void **state)
{
    int fd = dial();

    (void)state;
    say(fd, POST("/deny", "Expect: 100-continue\r\nContent-Length: 3\r\n"));
    listen_until(fd, NULL);
    assert_true(strncmp(answer, "HTTP/1.1 401", 12) == 0);
    close(fd);
    fd = dial();
    say(fd, POST("/echo", "Expect: 100-continue\r\nContent-Length: 3\r\n"));
    listen_until(fd, "HTTP/1.1 100 Continue\r\n\r\n");
    say(fd, "abc");
    listen_until(fd, "\r\n\r\nabc");
    say(fd, POST("/echo", "Expect: 100-continue\r\nContent-Length: 3\r\n") "abc");
    listen_until(fd, "\r\n\r\nabc");
    assert_null(strstr(answer, "100 Continue"));
    close(fd);
    fd = dial();
    say(fd, "POST /echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    usleep(20000);
    say(fd, "abc");
    listen_until(fd, NULL);
    assert_true(strncmp(answer, "HTTP/1.1 200", 12) == 0);
    close(fd);
    ask(POST("/echo", "Expect: banana\r\nContent-Length: 3\r\n") "abc");
    expect("HTTP/1.1 417 ");
}

/* Send a coded body and await the end of the answer. */
static void ask_coded(const char *coding, const void *body, size_t len)
{
    int fd = dial();
    char head[256];

    snprintf(head, sizeof head,
             "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Encoding: %s\r\nContent-Length: %zu\r\n"
             "Connection: close\r\n\r\n",
             coding, len);
    say(fd, head);
    assert_int_equal(send(fd, body, len, MSG_NOSIGNAL), len);
    listen_until(fd, NULL);
    close(fd);
}

static size_t gzip(const char *text, size_t len, void *out, size_t room)
{
    z_stream z = {.next_in = (Bytef *)(uintptr_t)text,
                  .avail_in = (unsigned)len,
                  .next_out = out,
                  .avail_out = (unsigned)room};

    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return room - z.avail_out;
}

static void test_coded_bodies(void **state)
{
    static char packed[65536], zeros[8 * 1024 * 1024];
    size_t len = gzip("hello gzip", 10, packed, sizeof packed);

    (void)state;
    ask_coded("gzip", packed, len);
    expect("\r\n\r\nhello gzip");
    len += gzip(" twice", 6, packed + len, sizeof packed - len);
    ask_coded("x-gzip", packed, len);
    expect("\r\n\r\nhello gzip twice");
    ask_coded("gzip", packed, len - 4);
    expect("HTTP/1.1 400 ");
    ask_coded("gzip", "not gzip at all", 15);
    expect("HTTP/1.1 400 ");
    len = gzip(zeros, sizeof zeros, packed, sizeof packed);
    ask_coded("gzip", packed, len);
    expect("HTTP/1.1 413 ");
    len = gzip(zeros, BODY_LIMIT, packed, sizeof packed);
    ask_coded("gzip", packed, len);
    expect("HTTP/1.1 200 ");
    assert_int_equal(body_bytes_seen, BODY_LIMIT);
    len = ZSTD_compress(packed, sizeof packed, "hello zstd", 10, 3);
    ask_coded("zstd", packed, len);
    expect("\r\n\r\nhello zstd");
    ask_coded("zstd", packed, len - 1);
    expect("HTTP/1.1 400 ");
    len = ZSTD_compress(packed, sizeof packed, zeros, sizeof zeros, 3);
    ask_coded("zstd", packed, len);
    expect("HTTP/1.1 413 ");
    ask_coded("gzip, gzip", packed, len);
    expect("HTTP/1.1 415 ");
    ask_coded("br", packed, len);
    expect("HTTP/1.1 415 ");
    ask_coded("identity", "plain", 5);
    expect("\r\n\r\nplain");
}

/* ---- many requests on one connection ---- */

static void test_pipelining(void **state)
{
    int fd = dial();

    (void)state;
    for (int i = 0; i < 40; i++)
        say(fd, i % 3 == 0   ? GET("/doze")
                : i % 3 == 1 ? POST("/echo", "Content-Length: 4\r\n") "body"
                             : GET("/hello"));
    shutdown(fd, SHUT_WR);
    listen_until(fd, NULL);
    assert_int_equal(count("HTTP/1.1 200 OK"), 40);
    assert_int_equal(count("slept"), 14);
    for (char *at = answer, *next; (next = strstr(at, "hello")); at = next + 5) {
        char *sleep = strstr(at, "slept"), *body = strstr(at, "\r\n\r\nbody");
        assert_true(sleep && body && sleep < body && body < next);
    }
    close(fd);
}

static void test_bad_after_good(void **state)
{
    int fd = dial();

    (void)state;
    say(fd, GET("/doze") "GET / HTTP/1.1\r\nHost: a b\r\n\r\n");
    listen_until(fd, NULL);
    expect("slept");
    expect("HTTP/1.1 400 ");
    assert_true(strstr(answer, "slept") < strstr(answer, "HTTP/1.1 400"));
    assert_int_equal(count("\r\nDate: "), 2);
    close(fd);
}

static void test_refusals(void **state)
{
    static char garbage[1024 * 1024];
    int fd = dial();

    (void)state;
    ask("BREW /pot HTTP/1.1\r\n\r\n");
    expect("HTTP/1.1 501 ");
    ask("TRACE / HTTP/1.1\r\n\r\n");
    expect("HTTP/1.1 405 ");
    expect("\r\nAllow: GET, ");
    ask("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    expect("HTTP/1.1 505 ");
    ask("\x16\x03\x01\x02");
    assert_string_equal(answer, "");
    ask(GET("/hello") "\x16\x03\x01\x02");
    expect("hello");
    memset(garbage, 0xfe, sizeof garbage);
    assert_int_equal(send(fd, garbage, sizeof garbage, MSG_NOSIGNAL), sizeof garbage);
    listen_until(fd, NULL);
    expect("HTTP/1.1 400 ");
    close(fd);
    /* Bytes of a head that come one by one lead to the same answer. */
    fd = dial();
    for (const char *p = "GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n"; *p; p++) {
        assert_int_equal(send(fd, p, 1, MSG_NOSIGNAL), 1);
        usleep(500);
    }
    listen_until(fd, NULL);
    expect("HTTP/1.1 400 ");
    close(fd);
}

/* ---- clients that leave ---- */

/* Say it, and wait until its handler runs. */
static void say_and_begin(int fd, const char *request)
{
    int before = handled;

    say(fd, request);
    for (int i = 0; i < 2000 && handled == before; i++)
        usleep(5000);
    assert_true(handled > before);
}

static void await_cancellation(int expected)
{
    for (int i = 0; i < 2000 && cancelled_as == -2; i++)
        usleep(5000);
    assert_int_equal(cancelled_as, expected);
}

static void test_half_close(void **state)
{
    int fd = dial();

    (void)state;
    ask(GET("/doze"));
    expect("slept");
    /* The request and the end of the stream come together. */
    ask(GET("/wait"));
    assert_string_equal(answer, "");
    await_cancellation(ERR_CANCELLED);
    cancelled_as = -2;
    say_and_begin(fd, GET("/wait"));
    shutdown(fd, SHUT_WR);
    listen_until(fd, NULL);
    await_cancellation(ERR_CANCELLED);
    close(fd);
}

static void reset(int fd)
{
    struct linger at_once = {.l_onoff = 1};

    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(fd);
}

static void test_reset(void **state)
{
    int fd = dial();

    (void)state;
    say_and_begin(fd, GET("/wait"));
    reset(fd);
    await_cancellation(ERR_CANCELLED);
    cancelled_as = -2;
    fd = dial();
    say(fd, GET("/flood"));
    listen_until(fd, "xxxx");
    reset(fd);
    await_cancellation(ERR_CANCELLED);
    /* A body that does not come whole has no effect. */
    body_bytes_seen = 4711;
    ask(POST("/echo", "Content-Length: 10\r\n") "abc");
    assert_string_equal(answer, "");
    assert_int_equal(body_bytes_seen, 4711);
}

static void test_half_close_tolerated(void **state)
{
    int fd = dial();

    (void)state;
    say_and_begin(fd, GET("/wait"));
    shutdown(fd, SHUT_WR);
    usleep(50000);
    assert_int_equal(cancelled_as, -2);
    reset(fd);
    await_cancellation(ERR_CANCELLED);
}

/* ---- time limits ---- */

static void test_slow_clients(void **state)
{
    int fd = dial(), silent = dial();

    (void)state;
    say(fd, "GET / HT");
    listen_until(fd, NULL);
    expect("HTTP/1.1 408 ");
    close(fd);
    listen_until(silent, NULL);
    assert_string_equal(answer, "");
    close(silent);
    fd = dial();
    say(fd, POST("/echo", "Content-Length: 100\r\n") "abc");
    listen_until(fd, NULL);
    expect("HTTP/1.1 408 ");
    close(fd);
    fd = dial();
    say(fd, POST("/echo", "Expect: 100-continue\r\nContent-Length: 100\r\n"));
    listen_until(fd, NULL);
    expect("HTTP/1.1 408 ");
    close(fd);
    fd = dial();
    say(fd, GET("/hello"));
    listen_until(fd, "hello");
    listen_until(fd, NULL);
    assert_string_equal(answer, "");
    close(fd);
    /* Takes nothing of an endless answer. */
    fd = dial();
    say(fd, GET("/flood"));
    await_cancellation(ERR_TIMED_OUT);
    close(fd);
}

/* ---- limits, drain, proxies ---- */

static void test_max_connections(void **state)
{
    int one = dial(), two = dial(), three;

    (void)state;
    say(one, GET("/hello"));
    listen_until(one, "hello");
    say(two, GET("/hello"));
    listen_until(two, "hello");
    three = dial();
    say(three, GET("/hello"));
    listen_until(three, NULL);
    expect("HTTP/1.1 503 ");
    expect("\r\nRetry-After: 1\r\n");
    expect("\r\nDate: ");
    close(three);
    say(one, GET("/hello"));
    listen_until(one, "hello");
    close(one);
    for (int i = 0; i < 500; i++) { /* until the server has seen it go */
        three = dial();
        say(three, GET("/hello"));
        listen_until(three, "\r\n\r\n");
        if (!strstr(answer, "HTTP/1.1 503 "))
            break;
        close(three);
        usleep(10000);
    }
    if (!strstr(answer, "hello"))
        listen_until(three, "hello");
    close(two);
    close(three);
}

static void test_no_descriptors(void **state)
{
    struct rlimit limit, low;
    int fds[3];

    (void)state;
    getrlimit(RLIMIT_NOFILE, &limit);
    for (int i = 0; i < 3; i++)
        fds[i] = dial();
    say(fds[0], GET("/hello"));
    listen_until(fds[0], "hello");
    int highest = dup(0);
    close(highest);
    low = (struct rlimit){(rlim_t)highest + 1, limit.rlim_max};
    int late = dial();
    setrlimit(RLIMIT_NOFILE, &low);
    say(late, GET("/hello"));
    usleep(100000);
    say(fds[0], GET("/hello"));
    listen_until(fds[0], "hello");
    setrlimit(RLIMIT_NOFILE, &limit);
    listen_until(late, "hello");
    close(late);
    for (int i = 0; i < 3; i++)
        close(fds[i]);
}

static void test_drain(void **state)
{
    int busy = dial(), idle = dial();

    (void)state;
    say(idle, GET("/hello"));
    listen_until(idle, "hello");
    say_and_begin(busy, GET("/doze"));
    post_and_wait(on_look);
    assert_int_equal(active_seen, 1);
    assert_int_equal(open_seen, 2);
    post_and_wait(on_drain);
    listen_until(idle, NULL);
    listen_until(busy, NULL);
    expect("slept");
    expect("Connection: close");
    close(idle);
    close(busy);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, &fixture.address.u.any, fixture.address.len), -1);
    close(fd);
}

/* Tearing down while an exchange runs cancels it with a last answer. */
static void test_kill(void **state)
{
    static struct loop_message message = {.fn = on_stop};
    int fd = dial();

    say_and_begin(fd, GET("/wait"));
    loop_post(fixture.loop, &message);
    listen_until(fd, NULL);
    expect("HTTP/1.1 503 ");
    assert_int_equal(cancelled_as, ERR_KILLED);
    close(fd);
    pthread_join(fixture.thread, NULL);
    set_up(state);
}

static void on_kill(struct loop_message *message)
{
    http_server_drain(fixture.server);
    http_server_kill(fixture.server);
    sem_post(&fixture.ready);
}

/* Whoever was in the middle of a head when the server was killed starts nothing that its close
 * would have to wait for. */
static void test_head_after_kill(void **state)
{
    int reading = dial(), silent = dial();

    (void)state;
    say(reading, "GET /wait HTTP/1.1\r\n");
    usleep(30000);
    post_and_wait(on_kill);
    say(reading, "Host: h\r\n\r\n");
    say(silent, GET("/wait"));
    listen_until(reading, NULL);
    expect("HTTP/1.1 503 ");
    listen_until(silent, NULL);
    expect("HTTP/1.1 503 ");
    assert_int_equal(cancelled_as, -2);
    close(reading);
    close(silent);
}

static void test_untrusted_forwarding(void **state)
{
    (void)state;
    ask("GET /describe HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: "
        "https\r\n\r\n");
    expect("ip=127.0.0.1 loopback=1 tls=0 id=req_");
}

static void test_trusted_forwarding(void **state)
{
    static const struct {
        const char *list, *ip;
    } cases[] = {{"1.2.3.4", "1.2.3.4"},
                 {"9.9.9.9, 1.2.3.4, 10.1.1.1", "1.2.3.4"},
                 {"9.9.9.9\r\nX-Forwarded-For: 1.2.3.4", "1.2.3.4"},
                 {"1.2.3.4:567, 10.1.1.1:80", "1.2.3.4"},
                 {"[2001:db8::1]:567", "2001:db8::1"},
                 {"2001:db8::1", "2001:db8::1"},
                 {"10.0.0.1", "10.0.0.1"},
                 {"1.2.3.4, nonsense, 10.1.1.1", "10.1.1.1"},
                 {"[", "127.0.0.1"},
                 {"", "127.0.0.1"}};
    char request[256], expected[64];

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(request, sizeof request,
                 "GET /describe HTTP/1.1\r\nHost: h\r\nX-Forwarded-Proto: "
                 "https\r\nX-Forwarded-For: %s\r\n\r\n",
                 cases[i].list);
        snprintf(expected, sizeof expected, "ip=%s loopback=1 tls=1 ", cases[i].ip);
        ask(request);
        expect(expected);
    }
}

/* Reads and writes of one byte change nothing. */
static void test_short_io(void **state)
{
    (void)state;
    sys_short_io(true);
    ask(POST("/echo", "Content-Length: 5\r\n") "abcde" POST(
        "/echo", "Transfer-Encoding: chunked\r\n") "3\r\nfgh\r\n0\r\n\r\n" GET("/stream"));
    sys_short_io(false);
    expect("\r\n\r\nabcde");
    expect("\r\n\r\nfgh");
    expect("\r\n0\r\n\r\n");
}

/* Ask without caring what comes of it. */
static void ask_in_vain(const char *request)
{
    struct timeval patience = {.tv_usec = 100000};
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, &fixture.address.u.any, fixture.address.len) == 0 &&
        send(fd, request, strlen(request), MSG_NOSIGNAL) > 0) {
        shutdown(fd, SHUT_WR);
        while (recv(fd, answer, sizeof answer, 0) > 0)
            ;
    }
    close(fd);
}

/* Each allocation and then each system call of a conversation fails once: the server lives, answers the next
 * request, and leaks nothing. */
static void test_torture(void **state)
{
    static const char talk[] = POST("/echo", "Content-Length: 3\r\n") "abc" GET("/stream")
        POST("/echo", "Transfer-Encoding: chunked\r\n") "3\r\nabc\r\n0\r\n\r\n" GET("/hello") "BAD";

    (void)state;
    for (uint64_t n = 1; n <= 40; n++) {
        mem_fail_nth(n);
        ask_in_vain(talk);
        mem_fail_nth(0);
    }
    for (uint64_t n = 1; n <= 40; n++) {
        sys_fail_nth(n);
        ask_in_vain(talk);
        sys_fail_nth(0);
    }
    ask(GET("/hello"));
    expect("hello");
}

int main(void)
{
#define TEST(name)           cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define TEST_WITH(name, how) cmocka_unit_test_setup_teardown(name, how, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_plain_answer),
        TEST(test_old_clients),
        TEST(test_stream),
        TEST(test_bodies),
        TEST(test_large_body),
        TEST(test_body_over_limit),
        TEST(test_unread_body),
        TEST(test_expectations),
        TEST(test_coded_bodies),
        TEST(test_pipelining),
        TEST(test_bad_after_good),
        TEST(test_refusals),
        TEST(test_half_close),
        TEST(test_reset),
        TEST_WITH(test_half_close_tolerated, set_up_tolerant),
        TEST_WITH(test_slow_clients, set_up_impatient),
        TEST_WITH(test_max_connections, set_up_small),
        TEST(test_no_descriptors),
        TEST(test_drain),
        TEST(test_kill),
        TEST(test_head_after_kill),
        TEST(test_untrusted_forwarding),
        TEST_WITH(test_trusted_forwarding, set_up_proxied),
        TEST(test_short_io),
        TEST(test_torture),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
