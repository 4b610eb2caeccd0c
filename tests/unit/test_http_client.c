/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP calls against a scripted server: what is sent, every way an answer can be framed, cut or
 * broken, reuse of connections, and what a call holds while it waits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/sys.h"
#include "fiber/fiber.h"
#include "fiber/offload.h"
#include "net/http_client.h"
#include "net/resolve.h"
#include "peer.h"

static struct loop *loop;
static struct http_pool *pool;
static struct arena *arena;
static struct peer peer;
static struct http_origin origin;
static const struct err gone = {.kind = ERR_CANCELLED, .text = "the client has gone"};

/* ---- running a test's body in a fiber ---- */

static void run_body(void *arg)
{
    void (**body)(void) = arg;

    arena = arena_new(MEM_REQUEST, 64 * 1024 * 1024);
    fiber_set_arena(arena);
    (*body)();
    fiber_set_arena(NULL);
    arena_free(arena);
    loop_stop(loop);
}

/* Run `body` in a fiber with a loop and a pool of its own; afterwards nothing may be left. */
static void run(void (*body)(void))
{
    struct fiber *fiber;

    assert_null(loop_open(&loop));
    assert_null(http_pool_open(&pool));
    assert_null(fiber_start_later("test", run_body, &body, &fiber));
    loop_run(loop);
    http_pool_close(pool);
    resolve_close();
    loop_close(loop);
    assert_int_equal(mem_in_use(MEM_UPSTREAM), 0);
    assert_int_equal(mem_in_use(MEM_BODY), 0);
    assert_int_equal(mem_in_use(MEM_REQUEST), 0);
}

/* The peer's origin with a base path. */
static void set_origin(const char *scheme, const char *base)
{
    const char *url = arena_printf(arena, "%s://127.0.0.1:%u%s", scheme, peer.port, base);

    assert_null(http_origin_make(str_from(url), STR("off"), arena, &origin));
}

/* Serve the body of a test with `serve`. */
static void run_with(void (*serve)(struct peer *peer, int fd), void (*body)(void))
{
    peer_start(&peer, serve);
    run(body);
    peer_stop(&peer);
}

static struct http_ask ask_for(enum http_method method, const char *text)
{
    return (struct http_ask){.origin = &origin,
                             .method = method,
                             .method_text = text,
                             .target = STR("/chat"),
                             .connect_ms = 3000,
                             .head_at_ms = loop_now_ms() + 3000,
                             .retry_dead = true};
}

static err_t fetch(const struct http_ask *ask, struct http_call *call, struct str *body)
{
    err_t err;

    *body = (struct str){0};
    TRY(http_call_open(pool, ask, arena, call));
    err = http_call_read_all(call, 4 << 20, loop_now_ms() + 3000, arena, body);
    if (!err)
        *body = arena_copy(arena, *body); /* it goes with the call */
    http_call_close(call);
    return !err && !body->ptr ? arena_err(arena) : err;
}

/* Like assert_null, but says what went wrong. */
#define assert_works(call)                                                                         \
    do {                                                                                           \
        err_t err_ = (call);                                                                       \
        if (err_)                                                                                  \
            fail_msg("%s: %s", #call, err_->text);                                                 \
    } while (0)

static struct http_pool_view seen_view;

static void see(const struct http_pool_view *view, void *arg)
{
    seen_view = *view;
}

static struct http_pool_view view(void)
{
    seen_view = (struct http_pool_view){0};
    http_pool_each(pool, see, NULL);
    return seen_view;
}

/* ---- scripts ---- */

static const char small_answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

static void answer_always(struct peer *it, int fd)
{
    while (peer_read_request(it, fd) && peer_send(fd, small_answer, strlen(small_answer)))
        ;
}

/* Send peer->answer and close. */
static void answer_once(struct peer *it, int fd)
{
    if (peer_read_request(it, fd))
        peer_send(fd, it->answer, it->answer_len);
}

/* Send peer->answer and wait for the client to close. */
static void answer_and_wait(struct peer *it, int fd)
{
    if (peer_read_request(it, fd) && peer_send(fd, it->answer, it->answer_len))
        peer_await_end(it, fd);
}

/* Answer the first request of a connection and hang up on the second one. */
static void answer_first(struct peer *it, int fd)
{
    if (peer_read_request(it, fd) && peer_send(fd, small_answer, strlen(small_answer)))
        peer_read_request(it, fd);
}

/* Send peer->answer in two parts, cut at peer->cut. */
static void answer_in_parts(struct peer *it, int fd)
{
    if (!peer_read_request(it, fd) || !peer_send(fd, it->answer, it->cut))
        return;
    usleep(300);
    peer_send(fd, it->answer + it->cut, it->answer_len - it->cut);
    peer_await_end(it, fd);
}

static void never_answer(struct peer *it, int fd)
{
    if (peer_read_request(it, fd))
        peer_await_end(it, fd);
}

/* ---- requests ---- */

static void send_three_pieces(void)
{
    struct http_call call;
    struct str body, pieces[] = {STR("{\"model\":"), STR(""), STR("\"m\"}")};
    struct http_header headers[] = {{STR("Authorization"), STR("Bearer k")},
                                    {STR("x-a"), STR("1")}};
    struct http_ask ask = ask_for(HTTP_POST_, "POST");

    set_origin("http", "/v1/");
    ask.body = pieces;
    ask.body_count = 3;
    ask.headers = headers;
    ask.header_count = 2;
    assert_works(fetch(&ask, &call, &body));
    assert_int_equal(call.status, 200);
    assert_true(str_eq(body, STR("hi")));
    assert_true(call.is_sent && call.bytes_in == strlen(small_answer));
}

static void sends_head_and_pieces(void **state)
{
    char expected[256];

    run_with(answer_always, send_three_pieces);
    snprintf(expected, sizeof(expected),
             "POST /v1/chat HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nAccept-Encoding: identity\r\n"
             "Authorization: Bearer k\r\nx-a: 1\r\nContent-Length: 13\r\n\r\n",
             peer.port);
    assert_string_equal(peer.seen, expected);
}

static void send_bad_headers(void)
{
    struct http_call call;
    struct str body;
    struct http_header bad = {STR("x-a"), STR("1\r\nx-b: 2")};
    struct http_ask ask = ask_for(HTTP_GET_, "GET");

    set_origin("http", "");
    ask.headers = &bad;
    ask.header_count = 1;
    assert_true(err_is(fetch(&ask, &call, &body), ERR_BAD_REQUEST));
    ask.header_count = 0;
    ask.target = STR("/a b");
    assert_true(err_is(fetch(&ask, &call, &body), ERR_BAD_REQUEST));
    ask.target = STR("");
    assert_works(fetch(&ask, &call, &body));
}

static void sends_no_broken_lines(void **state)
{
    run_with(answer_always, send_bad_headers);
    assert_int_equal(peer.requests, 1);
    assert_memory_equal(peer.seen, "GET / HTTP/1.1\r\n", 16);
}

static void send_large_body(void)
{
    size_t len = (size_t)8 << 20;
    char *space = mem_alloc_zero(MEM_TOOL, len);
    struct str body, pieces[] = {{space, len / 2}, {space + len / 2, len / 2}};
    struct http_ask ask = ask_for(HTTP_PUT_, "PUT");
    struct http_call call;

    set_origin("http", "");
    ask.body = pieces;
    ask.body_count = 2;
    assert_works(fetch(&ask, &call, &body));
    assert_true(str_eq(body, STR("hi")));
    mem_free(MEM_TOOL, space, len);
}

static void sends_a_body_larger_than_the_socket_takes(void **state)
{
    run_with(answer_always, send_large_body);
}

/* Refuse by the head alone, as servers do with bodies over their limit. */
static void refuse_early(struct peer *it, int fd)
{
    char byte;

    if (recv(fd, &byte, 1, 0) == 1)
        peer_send(fd, it->answer, it->answer_len);
}

static void read_early_refusal(void)
{
    size_t len = (size_t)32 << 20;
    char *space = mem_alloc_zero(MEM_TOOL, len);
    struct str body, piece = {space, len};
    struct http_ask ask = ask_for(HTTP_POST_, "POST");
    struct http_call call;

    set_origin("http", "");
    ask.body = &piece;
    ask.body_count = 1;
    assert_works(fetch(&ask, &call, &body));
    assert_int_equal(call.status, 413);
    assert_int_equal(view().idle, 0);
    mem_free(MEM_TOOL, space, len);
}

static void reads_an_answer_that_comes_before_the_body_was_sent(void **state)
{
    peer_start(&peer, refuse_early);
    peer.answer = "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n";
    peer.answer_len = strlen(peer.answer);
    run(read_early_refusal);
    peer_stop(&peer);
}

/* ---- answers ---- */

#define HEAD "HTTP/1.1 200 OK\r\n"

static const struct row {
    const char *name, *answer;
    int status;       /* 0: UPSTREAM from http_call_open */
    const char *body; /* NULL: UPSTREAM when read */
    bool is_kept;
    enum http_method method;
} rows[] = {
    {"length", HEAD "Content-Length: 5\r\n\r\nhello", 200, "hello", true, HTTP_GET_},
    {"length 0", HEAD "Content-Length: 0\r\n\r\n", 200, "", true, HTTP_GET_},
    {"chunked",
     HEAD "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=1\r\nllo\r\n0\r\nx-t: 1\r\n\r\n", 200,
     "hello", true, HTTP_GET_},
    {"to the end", HEAD "\r\nhello", 200, "hello", false, HTTP_GET_},
    {"asked to close", HEAD "Content-Length: 2\r\nConnection: close\r\n\r\nhi", 200, "hi", false,
     HTTP_GET_},
    {"HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, "hi", false, HTTP_GET_},
    {"no content", "HTTP/1.1 204 No Content\r\n\r\n", 204, "", true, HTTP_GET_},
    {"HEAD", HEAD "Content-Length: 5\r\n\r\n", 200, "", true, HTTP_HEAD_},
    {"100 first",
     "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" HEAD
     "Content-Length: 2\r\n\r\nhi",
     200, "hi", true, HTTP_GET_},
    {"redirect",
     "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: "
     "0\r\n\r\n",
     307, "", true, HTTP_GET_},
    {"error", "HTTP/1.1 503 Unavailable\r\nRetry-After: 1\r\nContent-Length: 2\r\n\r\n{}", 503,
     "{}", true, HTTP_GET_},
    {"bytes after it", HEAD "Content-Length: 2\r\n\r\nhi!", 200, "hi", false, HTTP_GET_},
    {"bytes after chunks", HEAD "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n\r\n", 200,
     "x", false, HTTP_GET_},
    {"bytes after HEAD", HEAD "Content-Length: 2\r\n\r\nhi", 200, "", false, HTTP_HEAD_},
    {"identity", HEAD "Content-Encoding: identity\r\nContent-Length: 2\r\n\r\nhi", 200, "hi", true,
     HTTP_GET_},
    {"length and chunked", HEAD "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
     0, NULL, false, HTTP_GET_},
    {"two lengths", HEAD "Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi!", 0, NULL, false,
     HTTP_GET_},
    {"two equal lengths", HEAD "Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi", 0, NULL, false,
     HTTP_GET_},
    {"two codings", HEAD "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 0, NULL, false,
     HTTP_GET_},
    {"gzip", HEAD "Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi", 0, NULL, false,
     HTTP_GET_},
    {"101", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", 0, NULL, false, HTTP_GET_},
    {"nine times 100",
     "HTTP/1.1 100 C\r\n\r\nHTTP/1.1 100 C\r\n\r\nHTTP/1.1 100 C\r\n\r\nHTTP/1.1 100 C\r\n\r\n"
     "HTTP/1.1 100 C\r\n\r\nHTTP/1.1 100 C\r\n\r\nHTTP/1.1 100 C\r\n\r\nHTTP/1.1 100 C\r\n\r\n"
     "HTTP/1.1 100 C\r\n\r\n" HEAD "Content-Length: 0\r\n\r\n",
     0, NULL, false, HTTP_GET_},
    {"not HTTP", "SSH-2.0-OpenSSH_9.2\r\n", 0, NULL, false, HTTP_GET_},
    {"nothing", "", 0, NULL, false, HTTP_GET_},
    {"bad chunk size", HEAD "Transfer-Encoding: chunked\r\n\r\n0x2\r\nhi\r\n0\r\n\r\n", 200, NULL,
     false, HTTP_GET_},
    {"chunk too long", HEAD "Transfer-Encoding: chunked\r\n\r\n1\r\nhi\r\n0\r\n\r\n", 200, NULL,
     false, HTTP_GET_},
};

static const struct row *row;

/* Compare a call with its row. */
static void check_row(void)
{
    struct http_call call;
    struct str body;
    const char *text = row->method == HTTP_HEAD_ ? "HEAD" : "GET";
    struct http_ask ask = ask_for(row->method, text);
    err_t err;

    set_origin("http", "");
    err = fetch(&ask, &call, &body);
    if (row->body ? err != NULL : !err_is(err, ERR_UPSTREAM))
        fail_msg("%s: %s", row->name, err ? err->text : "no error");
    if (row->status)
        assert_int_equal(call.status, row->status);
    if (row->body && !str_eq(body, str_from(row->body)))
        fail_msg("%s: body %.*s", row->name, STR_ARG(body));
    if (view().idle != row->is_kept)
        fail_msg("%s: %s", row->name, row->is_kept ? "not kept" : "kept");
    assert_int_equal(view().busy, 0);
}

static void start_row(void (*serve)(struct peer *peer, int fd))
{
    peer_start(&peer, serve);
    peer.answer = row->answer;
    peer.answer_len = strlen(row->answer);
}

/* Whether the answer's end is that of the connection. */
static bool needs_close(void)
{
    return strcmp(row->name, "to the end") == 0 || strcmp(row->name, "nothing") == 0;
}

static void reads_every_kind_of_answer(void **state)
{
    for (row = rows; row < rows + sizeof(rows) / sizeof(*rows); row++) {
        start_row(needs_close() || row->status == 0 ? answer_once : answer_and_wait);
        run(check_row);
        peer_stop(&peer);
    }
}

static void reads_every_answer_however_cut(void **state)
{
    for (row = rows; row < rows + sizeof(rows) / sizeof(*rows); row++) {
        if (needs_close() || str_starts(str_from(row->name), STR("bytes after")))
            continue; /* what comes too late is a test of its own */
        start_row(answer_in_parts);
        for (peer.cut = 1; peer.cut < peer.answer_len; peer.cut++)
            run(check_row);
        peer_stop(&peer);
    }
}

/* Every answer with a length or chunks, ended by the server in the middle. */
static void read_truncated(void)
{
    struct http_call call;
    struct str body;
    struct http_ask ask = ask_for(HTTP_GET_, "GET");

    set_origin("http", "");
    for (size_t len = 0; len < strlen(row->answer); len++) {
        peer.answer_len = len;
        if (!err_is(fetch(&ask, &call, &body), ERR_UPSTREAM))
            fail_msg("%s cut at %zu was taken as complete", row->name, len);
    }
    assert_int_equal(view().idle, 0);
}

static void refuses_every_truncated_answer(void **state)
{
    for (row = rows; row < rows + 3; row++) {
        start_row(answer_once);
        run(read_truncated);
        peer_stop(&peer);
    }
}

static void read_pieces(void)
{
    struct http_call call;
    struct http_ask ask = ask_for(HTTP_GET_, "GET");
    struct str piece;

    set_origin("http", "");
    assert_works(http_call_open(pool, &ask, arena, &call));
    assert_works(http_call_read(&call, FIBER_FOREVER, &piece));
    assert_true(str_eq(piece, STR("abcdefgh")));
    assert_true(err_is(http_call_read(&call, FIBER_FOREVER, &piece), ERR_UPSTREAM));
    assert_int_equal(piece.len, 0);
    assert_true(err_is(http_call_read(&call, FIBER_FOREVER, &piece), ERR_UPSTREAM));
    http_call_close(&call);
    http_call_close(&call);
}

static void gives_chunks_as_one_piece_and_what_is_good_before_what_is_bad(void **state)
{
    peer_start(&peer, answer_and_wait);
    peer.answer =
        HEAD "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n3\r\nefg\r\n1\r\nh\r\nX\r\n";
    peer.answer_len = strlen(peer.answer);
    run(read_pieces);
    peer_stop(&peer);
}

static void read_too_much(void)
{
    struct http_call call;
    struct http_ask ask = ask_for(HTTP_GET_, "GET");
    struct str body;

    set_origin("http", "");
    for (int i = 0; i < 2; i++) {
        peer.answer = i ? HEAD "Content-Length: 5\r\n\r\nhello"
                        : HEAD "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        peer.answer_len = strlen(peer.answer);
        assert_works(http_call_open(pool, &ask, arena, &call));
        assert_true(
            err_is(http_call_read_all(&call, 4, FIBER_FOREVER, arena, &body), ERR_UPSTREAM));
        http_call_close(&call);
        assert_works(http_call_open(pool, &ask, arena, &call));
        assert_works(http_call_read_all(&call, 5, FIBER_FOREVER, arena, &body));
        assert_true(str_eq(body, STR("hello")));
        http_call_close(&call);
    }
}

static void refuses_a_body_over_the_limit(void **state)
{
    run_with(answer_once, read_too_much);
}

static void send_megabytes(struct peer *it, int fd)
{
    static char block[1 << 20];

    memset(block, 'x', sizeof(block));
    peer_read_request(it, fd);
    peer_send(fd, HEAD "\r\n", strlen(HEAD "\r\n"));
    for (int i = 0; i < 3; i++)
        peer_send(fd, block, sizeof(block));
}

static void read_megabytes(void)
{
    struct http_call call;
    struct http_ask ask = ask_for(HTTP_GET_, "GET");
    struct str body;

    set_origin("http", "");
    assert_works(fetch(&ask, &call, &body));
    assert_int_equal(body.len, 3 << 20);
}

static void reads_a_large_body(void **state)
{
    run_with(send_megabytes, read_megabytes);
}

/* ---- reuse ---- */

static void call_three_times(void)
{
    struct http_call call;
    struct http_ask ask = ask_for(HTTP_GET_, "GET");
    struct str body;

    set_origin("http", "");
    for (int i = 0; i < 3; i++) {
        assert_works(fetch(&ask, &call, &body));
        assert_int_equal(call.was_reused, i > 0);
        assert_int_equal(call.connect_us > 0, i == 0);
    }
    assert_int_equal(view().opened, 1);
    assert_int_equal(view().reused, 2);
    assert_int_equal(view().idle, 1);
}

static void reuses_a_connection(void **state)
{
    run_with(answer_always, call_three_times);
    assert_int_equal(peer.connections, 1);
}

static void count_system_calls(void)
{
    struct http_call call;
    struct http_ask ask = ask_for(HTTP_POST_, "POST");
    struct str body, pieces[] = {STR("{"), STR("}")};

    set_origin("http", "");
    ask.body = pieces;
    ask.body_count = 2;
    assert_works(fetch(&ask, &call, &body));
    sys_fail_nth(0);
    assert_works(fetch(&ask, &call, &body));
    assert_true(call.was_reused);
#ifdef SLUICE_FAULTS
    assert_int_equal(sys_fail_count(), 2); /* one send, one recv */
#endif
    assert_true(sizeof(struct upstream_connection) <= 200);
}

static void a_reused_call_costs_two_system_calls(void **state)
{
    run_with(answer_always, count_system_calls);
}

static void call_dead_connection(void)
{
    struct http_call call;
    struct http_ask ask = ask_for(HTTP_GET_, "GET");
    struct str body;

    set_origin("http", "");
    assert_works(fetch(&ask, &call, &body));
    assert_works(fetch(&ask, &call, &body)); /* dead on reuse: replaced by a fresh one */
    assert_true(call.was_retried && !call.was_reused);
    assert_int_equal(view().dead_on_reuse, 1);
    ask.retry_dead = false;
    assert_true(err_is(fetch(&ask, &call, &body), ERR_UPSTREAM));
    assert_true(call.was_reused && !call.was_retried);
    assert_int_equal(view().dead_on_reuse, 2);
    assert_int_equal(view().failed, 1);
}

static void replaces_a_dead_connection_once(void **state)
{
    run_with(answer_first, call_dead_connection);
    assert_int_equal(peer.connections, 2);
    assert_int_equal(peer.requests, 4);
}

static void wait_for_idle_end(void)
{
    struct http_call call;
    struct http_ask ask = ask_for(HTTP_GET_, "GET");
    struct str body;

    set_origin("http", "");
    assert_works(fetch(&ask, &call, &body));
    for (int i = 0; i < 200 && view().idle > 0; i++)
        assert_null(fiber_sleep(5));
    assert_int_equal(view().idle, 0);
}

static void answer_then_close(struct peer *it, int fd)
{
    if (peer_read_request(it, fd) && peer_send(fd, small_answer, strlen(small_answer)))
        usleep(20000);
}

static void answer_then_babble(struct peer *it, int fd)
{
    answer_then_close(it, fd);
    peer_send(fd, "more", 4);
    peer_await_end(it, fd);
}

static void closes_an_idle_connection_that_stirs(void **state)
{
    run_with(answer_then_close, wait_for_idle_end);
    run_with(answer_then_babble, wait_for_idle_end);
}

static bool keep_nothing(uint64_t origin_id, void *arg)
{
    return false;
}

static void sweep_busy_and_idle(void)
{
    struct http_call calls[2];
    struct http_ask ask = ask_for(HTTP_GET_, "GET");
    struct str body;

    set_origin("http", "");
    assert_works(fetch(&ask, &calls[0], &body));
    assert_works(http_call_open(pool, &ask, arena, &calls[0]));
    assert_works(fetch(&ask, &calls[1], &body));
    assert_int_equal(view().idle, 1);
    assert_int_equal(view().busy, 1);
    http_pool_sweep(pool, keep_nothing, NULL);
    assert_int_equal(view().idle, 0);
    assert_int_equal(view().busy, 1);
    assert_works(http_call_read_all(&calls[0], 10, FIBER_FOREVER, arena, &body));
    http_call_close(&calls[0]);
    assert_int_equal(view().opened, 0); /* the group is gone */
}

static void sweeps_origins_that_are_gone(void **state)
{
    run_with(answer_always, sweep_busy_and_idle);
}

/* ---- waiting ---- */

static void stream_slowly(struct peer *it, int fd)
{
    static const char head[] = HEAD "Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n";

    peer_read_request(it, fd);
    peer_send(fd, head, strlen(head));
    usleep(60000);
    peer_send(fd, "3\r\ntwo\r\n0\r\n\r\n", 13);
    peer_await_end(it, fd);
}

static void wait_over_and_go_on(void)
{
    struct http_call call;
    struct http_ask ask = ask_for(HTTP_GET_, "GET");
    struct str piece;
    size_t before;
    int waits = 0;
    err_t err;

    set_origin("http", "");
    assert_works(http_call_open(pool, &ask, arena, &call));
    assert_works(http_call_read(&call, FIBER_FOREVER, &piece));
    assert_true(str_eq(piece, STR("one")));
    before = mem_in_use(MEM_UPSTREAM);
    while ((err = http_call_read(&call, loop_now_ms() + 10, &piece)) == &fiber_wait_over) {
        waits++;
        assert_true(mem_in_use(MEM_UPSTREAM) <= before); /* no buffer while it waits */
    }
    assert_null(err);
    assert_true(waits > 1);
    assert_true(str_eq(piece, STR("two")));
    assert_true(call.is_done);
    http_call_close(&call);
    assert_int_equal(view().idle, 1);
}

static void goes_on_after_a_wait_is_over(void **state)
{
    run_with(stream_slowly, wait_over_and_go_on);
}

static void time_out_head(void)
{
    struct http_call call;
    struct http_ask ask = ask_for(HTTP_GET_, "GET");
    struct str body;

    set_origin("http", "");
    ask.head_at_ms = loop_now_ms() + 20;
    assert_true(err_is(fetch(&ask, &call, &body), ERR_TIMED_OUT));
    assert_int_equal(view().busy, 0);
}

static void gives_up_when_no_head_comes(void **state)
{
    run_with(never_answer, time_out_head);
    assert_int_equal(peer.hung_up, 1);
}

/* Cancelled from outside while it reads. */
static void read_until_cancelled(void *arg)
{
    struct arena *own = arena_new(MEM_REQUEST, 1 << 20);
    struct http_ask ask = ask_for(HTTP_GET_, "GET");
    struct http_call call;
    struct str piece;

    fiber_set_arena(own);
    assert_works(http_call_open(pool, &ask, own, &call));
    assert_works(http_call_read(&call, FIBER_FOREVER, &piece));
    assert_ptr_equal(http_call_read(&call, FIBER_FOREVER, &piece), &gone);
    http_call_close(&call);
    fiber_set_arena(NULL);
    arena_free(own);
    *(bool *)arg = true;
}

static void cancel_reader(void)
{
    struct fiber *reader;
    bool is_over = false;
    uint64_t start_ms;

    set_origin("http", "");
    assert_null(fiber_start("reader", read_until_cancelled, &is_over, &reader));
    while (peer.requests == 0)
        assert_null(fiber_sleep(5));
    assert_null(fiber_sleep(30));
    fiber_cancel(reader, &gone);
    start_ms = sys_now_ms();
    while (peer.hung_up == 0 && sys_now_ms() < start_ms + 10000)
        assert_null(fiber_sleep(1));
    assert_true(is_over);
    assert_int_equal(peer.hung_up, 1);
}

static void flood(struct peer *it, int fd)
{
    static const char block[65536];
    static const char head[] = "HTTP/1.1 200 OK\r\n\r\n";

    if (peer_read_request(it, fd) && peer_send(fd, head, strlen(head)))
        while (peer_send(fd, block, sizeof(block)))
            ;
}

static bool had_a_turn;

static void take_a_turn(void *arg)
{
    had_a_turn = true;
}

/* However much has come already: others run in between, and deadlines are noticed. */
static void read_a_flood(void)
{
    struct http_ask ask;
    struct http_call call;
    struct str piece;
    size_t total = 0;
    err_t err = NULL;

    set_origin("http", "");
    ask = ask_for(HTTP_GET_, "GET");
    assert_works(http_call_open(pool, &ask, arena, &call));
    assert_null(fiber_sleep(100)); /* buffers fill */
    had_a_turn = false;
    assert_null(fiber_start_later("other", take_a_turn, NULL, NULL));
    for (; total < 1500 * 1000; total += piece.len)
        assert_works(http_call_read(&call, loop_now_ms() + 3000, &piece));
    assert_true(had_a_turn);
    fiber_set_deadline(loop_now_ms() + 50, &gone);
    while (!err)
        err = http_call_read(&call, FIBER_FOREVER, &piece);
    assert_ptr_equal(err, &gone);
    fiber_set_deadline(FIBER_FOREVER, NULL);
    http_call_close(&call);
}

static void shares_the_thread_with_others(void **state)
{
    run_with(flood, read_a_flood);
}

static void closes_the_connection_when_cancelled(void **state)
{
    peer_start(&peer, answer_and_wait);
    peer.answer = HEAD "Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n";
    peer.answer_len = strlen(peer.answer);
    run(cancel_reader);
    peer_stop(&peer);
}

/* Holds a piece while others read in the same thread. */
static void hold_piece(void *arg)
{
    struct arena *own = arena_new(MEM_REQUEST, 1 << 20);
    struct http_ask ask = ask_for(HTTP_GET_, "GET");
    struct http_call call;
    struct str piece, copy;
    int *running = arg;

    fiber_set_arena(own);
    ask.target = str_from(arena_printf(own, "/%d", *running));
    assert_works(http_call_open(pool, &ask, own, &call));
    assert_works(http_call_read(&call, FIBER_FOREVER, &piece));
    copy = arena_copy(own, piece);
    assert_null(fiber_sleep(30));
    assert_true(str_eq(piece, copy));
    http_call_close(&call);
    fiber_set_arena(NULL);
    arena_free(own);
    --*running;
}

/* Answer with the target. */
static void echo_target(struct peer *it, int fd)
{
    char answer[128];

    peer_read_request(it, fd);
    snprintf(answer, sizeof(answer), HEAD "Content-Length: 1\r\n\r\n%c", peer_head[5]);
    peer_send(fd, answer, strlen(answer));
    peer_await_end(it, fd);
}

static void hold_pieces(void)
{
    struct fiber *fiber;
    int running = 0;

    set_origin("http", "");
    for (int i = 0; i < 8; i++) {
        running++;
        assert_null(fiber_start("holder", hold_piece, &running, &fiber));
    }
    while (running > 0)
        assert_null(fiber_sleep(5));
}

static void pieces_outlast_parks(void **state)
{
    run_with(echo_target, hold_pieces);
}

/* ---- faults ---- */

static void fail_each(void (*arm)(uint64_t n))
{
    struct http_ask ask = ask_for(HTTP_GET_, "GET");
    struct http_call call;
    struct str body;
    err_t err = &gone;

    set_origin("http", "");
    for (uint64_t n = 1; err; n++) {
        http_pool_sweep(pool, keep_nothing, NULL);
        arm(n);
        for (int i = 0; i < 2; i++) { /* dialled and reused */
            err = fetch(&ask, &call, &body);
            if (err)
                break;
            assert_true(str_eq(body, STR("hi")));
        }
        arm(0);
        assert_true(n < 200);
    }
}

static void fail_memory(void)
{
    fail_each(mem_fail_nth);
}

static void fail_system(void)
{
    fail_each(sys_fail_nth);
}

static void survives_every_failing_call(void **state)
{
    run_with(answer_always, fail_memory);
    run_with(answer_always, fail_system);
}

static int stop_threads(void **state)
{
    offload_stop_all();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sends_head_and_pieces),
        cmocka_unit_test(sends_no_broken_lines),
        cmocka_unit_test(sends_a_body_larger_than_the_socket_takes),
        cmocka_unit_test(reads_an_answer_that_comes_before_the_body_was_sent),
        cmocka_unit_test(reads_every_kind_of_answer),
        cmocka_unit_test(reads_every_answer_however_cut),
        cmocka_unit_test(refuses_every_truncated_answer),
        cmocka_unit_test(gives_chunks_as_one_piece_and_what_is_good_before_what_is_bad),
        cmocka_unit_test(refuses_a_body_over_the_limit),
        cmocka_unit_test(reads_a_large_body),
        cmocka_unit_test(reuses_a_connection),
        cmocka_unit_test(a_reused_call_costs_two_system_calls),
        cmocka_unit_test(replaces_a_dead_connection_once),
        cmocka_unit_test(closes_an_idle_connection_that_stirs),
        cmocka_unit_test(sweeps_origins_that_are_gone),
        cmocka_unit_test(goes_on_after_a_wait_is_over),
        cmocka_unit_test(gives_up_when_no_head_comes),
        cmocka_unit_test(shares_the_thread_with_others),
        cmocka_unit_test(closes_the_connection_when_cancelled),
        cmocka_unit_test(pieces_outlast_parks),
        cmocka_unit_test(survives_every_failing_call),
    };

    return cmocka_run_group_tests_name("http_client", tests, NULL, stop_threads);
}
