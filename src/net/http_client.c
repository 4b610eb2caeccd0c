/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP/1.1 calls.
 *
 * A call costs two system calls besides the waits: head and body go out in one write, and one
 * recv brings what there is of the answer. The head of the request is composed in the loop's
 * scratch, which is good until the first park; only if the kernel does not take it at once, what is
 * left is copied.
 *
 * The answer is decoded where it lies. The payloads of several chunks are moved together over
 * the chunk lines between them, so that the caller gets one piece per recv. */
#include "net/http_client.h"

#include "base/buf.h"
#include "base/check.h"
#include "base/sys.h"
#include "net/http_dial.h"
#include "net/http_pen.h"

#define MAX_INFORMATIONAL  8 /* 1xx answers before the answer proper */
#define CODING_SHOWN_BYTES 32
#define YIELD_BYTES        (1024 * 1024) /* a fast upstream shall not keep the thread */

/* The head parsed last. Whoever needs more of it than the first look takes a copy. */
static _Thread_local struct http_head answer_head;

/* ---- composing the request's head ---- */

static bool is_plain_target(struct str target)
{
    for (size_t i = 0; i < target.len; i++) {
        if ((unsigned char)target.ptr[i] <= ' ' || target.ptr[i] == 0x7f)
            return false;
    }
    return true;
}

static void put_request_line(struct http_pen *pen, const struct http_ask *ask)
{
    const struct http_origin *origin = ask->origin;

    http_pen_put(pen, str_from(ask->method_text));
    http_pen_put(pen, STR(" "));
    if (origin->proxy_host.len > 0 &&
        !origin->is_tls) { /* absolute-form for proxies, RFC 9112 §3.2.2 */
        http_pen_put(pen, STR("http://"));
        http_pen_put(pen, origin->host_header);
    }
    http_pen_put(pen, origin->base_path);
    http_pen_put(pen, ask->target);
    if (origin->base_path.len + ask->target.len == 0)
        http_pen_put(pen, STR("/"));
    http_pen_put(pen, STR(" HTTP/1.1\r\n"));
}

static uint64_t body_length(const struct http_ask *ask)
{
    uint64_t length = 0;

    for (size_t i = 0; i < ask->body_count; i++)
        length += ask->body[i].len;
    return length;
}

static err_t put_headers(struct http_pen *pen, const struct http_header *headers, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct str name = headers[i].name, value = headers[i].value;

        if (!http_value_is_clean(name) || !http_value_is_clean(value))
            return err_new(ERR_BAD_REQUEST, "a header has bytes that cannot be sent");
        http_pen_put(pen, name);
        http_pen_line(pen, STR(": "), value);
    }
    return NULL;
}

/* Compose the head in the loop's scratch. */
static err_t compose_head(const struct http_ask *ask, struct str *head)
{
    struct http_pen pen = http_pen_at(loop_scratch(), HTTP_MAX_HEAD_BYTES);
    const struct http_origin *origin = ask->origin;
    bool expects_body =
        ask->method == HTTP_POST_ || ask->method == HTTP_PUT_ || ask->method == HTTP_PATCH_;

    if (!is_plain_target(ask->target))
        return err_new(ERR_BAD_REQUEST, "the target cannot be sent");
    put_request_line(&pen, ask);
    http_pen_line(&pen, HTTP_LINE("Host"), origin->host_header);
    http_pen_line(&pen, HTTP_LINE("Accept-Encoding"), STR("identity"));
    if (origin->proxy_authorization.len > 0 && !origin->is_tls)
        http_pen_line(&pen, HTTP_LINE("Proxy-Authorization"), origin->proxy_authorization);
    TRY(put_headers(&pen, ask->headers, ask->header_count));
    if (ask->body_count > 0 || expects_body)
        http_pen_line_u64(&pen, HTTP_LINE("Content-Length"), body_length(ask));
    http_pen_put(&pen, STR("\r\n"));
    if (pen.is_full)
        return err_new(ERR_BAD_REQUEST, "the request's headers are too large");
    *head = http_pen_text(&pen);
    return NULL;
}

/* ---- sending ---- */

/* Leave out the first `n` bytes of the pieces; returns how many pieces are used up whole. */
static int skip_sent(struct iovec *iov, int count, size_t n)
{
    int whole = 0;

    while (whole < count && n >= iov[whole].iov_len)
        n -= iov[whole++].iov_len;
    if (whole < count) {
        iov[whole].iov_base = (char *)iov[whole].iov_base + n;
        iov[whole].iov_len -= n;
    }
    return whole;
}

/* PARKS only if the kernel does not take everything at once. */
static err_t send_request(struct http_call *call, const struct http_ask *ask, struct arena *arena)
{
    struct iovec iov[1 + HTTP_ASK_MAX_PIECES];
    struct sock *sock = &call->connection->sock;
    int count = 1 + (int)ask->body_count, whole;
    uint64_t now_ms = loop_now_ms();
    struct str head = {0};
    size_t n;

    check(ask->body_count <= HTTP_ASK_MAX_PIECES);
    TRY(compose_head(ask, &head));
    iov[0] = (struct iovec){(char *)(uintptr_t)head.ptr, head.len};
    for (int i = 1; i < count; i++)
        iov[i] = (struct iovec){(char *)(uintptr_t)ask->body[i - 1].ptr, ask->body[i - 1].len};
    TRY(sock_try_write(sock, iov, count, &n));
    call->is_sent = true;
    whole = skip_sent(iov, count, n);
    if (whole == count)
        return NULL;
    if (whole == 0) { /* the scratch will be someone else's */
        iov[0].iov_base = arena_alloc(arena, iov[0].iov_len);
        if (!iov[0].iov_base)
            return arena_err(arena);
        memcpy(iov[0].iov_base, head.ptr + head.len - iov[0].iov_len, iov[0].iov_len);
    }
    return sock_write(sock, iov + whole, count - whole,
                      ask->head_at_ms > now_ms ? ask->head_at_ms - now_ms : 0);
}

/* ---- receiving ---- */

static void release_block(struct http_call *call)
{
    if (call->block)
        http_pool_give_block(call->pool, call->block);
    call->block = NULL;
    call->unread = (struct str){0};
}

/* Read what has come, behind what is unread already. *again: nothing has. Errors of the network
 * stay with the call. */
static err_t receive_now(struct http_call *call, size_t *n, bool *again)
{
    char *free_part;
    size_t room;

    if (!call->block)
        call->block = http_pool_take_block(call->pool);
    if (!call->block)
        return err_no_memory();
    if (call->unread.len == 0)
        call->unread.ptr = call->block;
    free_part = call->block + (call->unread.ptr - call->block) + call->unread.len;
    room = (size_t)(call->block + HTTP_BLOCK_BYTES - free_part);
    if (room == 0) /* only before the head's end: bodies are decoded at once */
        call->failure = err_new(ERR_UPSTREAM, "the answer's head is too long");
    else
        call->failure = sock_try_read(&call->connection->sock, free_part, room, n, again);
    return call->failure;
}

/* PARKS until bytes have come, which are added to call->unread; *n is 0 at the end of the
 * connection. Unlike with sock_read, nothing is held while it waits, unless it is the start of a
 * head. */
static err_t receive(struct http_call *call, uint64_t at_ms, size_t *n)
{
    struct sock *sock = &call->connection->sock;

    if (call->since_yield >= YIELD_BYTES) {
        call->since_yield = 0;
        TRY(fiber_yield());
    }
    for (;;) {
        bool again = true;

        if (sock_may_read(sock))
            TRY(receive_now(call, n, &again));
        if (!again)
            break;
        if (call->unread.len == 0)
            release_block(call);
        TRY(sock_wait(sock, at_ms));
    }
    call->unread.len += *n;
    call->bytes_in += *n;
    call->since_yield += *n;
    return NULL;
}

/* PARKS until a whole head, 1xx included, stands at the start of call->unread; *used is its
 * length. */
static err_t receive_head(struct http_call *call, const struct http_ask *ask, size_t *used)
{
    enum http_progress progress = HTTP_MORE;
    bool had_line_end = call->unread.len > 0;
    size_t n;

    for (;;) {
        if (had_line_end)
            TRY(http_parse_response(&call->parser, call->unread, ask->method, &answer_head, used,
                                    &progress));
        if (progress == HTTP_READY)
            return NULL;
        TRY(receive(call, ask->head_at_ms, &n));
        if (n == 0 && call->unread.len == 0)
            return err_new(ERR_UPSTREAM, "the connection was closed without an answer");
        if (n == 0)
            return err_new(ERR_UPSTREAM, "the connection was closed within the answer's head");
        had_line_end = memchr(call->unread.ptr + call->unread.len - n, '\n', n) != NULL ||
                       call->unread.len >= HTTP_MAX_HEAD_BYTES;
    }
}

/* Refuse what cannot be read: bodies in a coding, although we asked for none. */
static err_t check_coding(const struct http_call *call)
{
    struct str coding = http_header_get(call->head, STR("content-encoding"));

    if (call->parser.is_done || coding.len == 0 || str_eq_nocase(coding, STR("identity")))
        return NULL;
    if (coding.len > CODING_SHOWN_BYTES)
        coding.len = CODING_SHOWN_BYTES;
    return err_new(ERR_UPSTREAM, "the answer is compressed (%.*s), which was not asked for",
                   STR_ARG(coding));
}

/* PARKS: await the head of the answer proper. */
static err_t await_answer(struct http_call *call, const struct http_ask *ask)
{
    size_t used;

    for (int i = 0;; i++) {
        TRY(receive_head(call, ask, &used));
        if (answer_head.status >= 200)
            break;
        if (i == MAX_INFORMATIONAL)
            return err_new(ERR_UPSTREAM, "too many 1xx answers");
        call->unread = str_after(call->unread, used);
    }
    call->head = &answer_head;
    call->status = answer_head.status;
    TRY(check_coding(call));
    call->unread = str_after(call->unread, used);
    call->must_close |= !answer_head.keep_alive;
    call->is_done = call->parser.is_done;
    if (call->is_done && call->unread.len > 0)
        call->must_close = true; /* bytes that belong to no answer */
    if (call->is_done)
        call->unread.len = 0;
    return NULL;
}

/* PARKS: send the request on call->connection and await the answer's head. An upstream may
 * refuse a long body early and stop reading, which makes sending fail: its answer is then there
 * to be read. */
static err_t converse(struct http_call *call, const struct http_ask *ask, struct arena *arena)
{
    struct http_ask at_once = *ask;
    err_t err = send_request(call, ask, arena);

    if (!err)
        return await_answer(call, ask);
    if (!err_is(err, ERR_UPSTREAM))
        return err;
    call->must_close = true;
    call->connection->sock.watch.readable = true; /* look, whatever the last edge said */
    at_once.head_at_ms = 0;
    return await_answer(call, &at_once) ? err : NULL;
}

/* ---- opening ---- */

/* PARKS: dial a fresh connection for the call. */
static err_t dial(struct http_call *call, const struct http_ask *ask, struct http_group *group)
{
    uint64_t start_ns = sys_now_ns();
    err_t err;

    call->connection = http_pool_add(group);
    if (!call->connection)
        return err_no_memory();
    err = http_dial(call->connection, ask->origin, loop_now_ms() + ask->connect_ms);
    call->connect_us = (sys_now_ns() - start_ns) / 1000;
    return err;
}

/* PARKS: use an idle connection if there is one. *go_on: a fresh one is to be dialled. */
static err_t open_reused(struct http_call *call, const struct http_ask *ask,
                         struct http_group *group, struct arena *arena, bool *go_on)
{
    err_t err;

    *go_on = true;
    call->connection = http_pool_take(group);
    if (!call->connection)
        return NULL;
    *go_on = false;
    call->was_reused = true;
    err = converse(call, ask, arena);
    if (!err_is(err, ERR_UPSTREAM) || call->bytes_in > 0)
        return err;
    group->view.dead_on_reuse++;
    if (!ask->retry_dead)
        return err;
    *go_on = true;
    http_call_close(call);
    *call = (struct http_call){.pool = call->pool, .was_retried = true};
    return NULL;
}

err_t http_call_open(struct http_pool *pool, const struct http_ask *ask, struct arena *arena,
                     struct http_call *call)
{
    struct http_group *group;
    bool go_on;
    err_t err;

    *call = (struct http_call){.pool = pool};
    TRY(http_pool_group(pool, ask->origin, &group));
    err = open_reused(call, ask, group, arena, &go_on);
    if (go_on) {
        TRY(http_pool_group(pool, ask->origin,
                            &group)); /* it may have gone with a dead connection */
        err = dial(call, ask, group);
    }
    if (go_on && !err)
        err = converse(call, ask, arena);
    if (!err)
        return NULL;
    group->view.failed++;
    http_call_close(call); /* group may be gone now */
    if (err == &fiber_wait_over)
        return err_new(ERR_TIMED_OUT, "no answer in time");
    return err;
}

/* ---- reading ---- */

/* Add a decoded part to the piece, moving it over the framing between them. */
static void join(struct http_call *call, struct str *piece, struct str part)
{
    if (piece->len == 0) {
        *piece = part;
    } else if (part.len > 0) {
        memmove(call->block + (piece->ptr - call->block) + piece->len, part.ptr, part.len);
        piece->len += part.len;
    }
}

/* Decode everything unread into one piece. What goes wrong is kept in call->failure. */
static void decode(struct http_call *call, struct str *piece)
{
    struct str rest = call->unread, part;
    size_t used;

    while (rest.len > 0 && !call->is_done && !call->failure) {
        call->failure = http_parse_body(&call->parser, rest, false, &used, &part, &call->is_done);
        join(call, piece, part);
        rest = str_after(rest, used);
    }
    if (call->is_done && rest.len > 0)
        call->must_close = true; /* bytes that belong to no answer */
    call->unread = (struct str){0};
}

/* The connection has ended: the end of an answer without length, else a cut. */
static void decode_end(struct http_call *call)
{
    struct str none = {"", 0}, part;
    size_t used;

    call->must_close = true;
    call->failure = http_parse_body(&call->parser, none, true, &used, &part, &call->is_done);
}

err_t http_call_read(struct http_call *call, uint64_t at_ms, struct str *piece)
{
    size_t n;

    *piece = (struct str){0};
    call->head = NULL; /* its bytes are about to go */
    while (piece->len == 0) {
        if (call->unread.len == 0) {
            release_block(call); /* the caller is through with the last piece */
            if (call->failure || call->is_done)
                return call->failure;
            TRY(receive(call, at_ms, &n));
            if (n == 0) {
                decode_end(call);
                continue;
            }
        }
        decode(call, piece);
    }
    return NULL;
}

static err_t too_large(size_t limit_bytes)
{
    return err_new(ERR_UPSTREAM, "the answer is larger than %zu bytes", limit_bytes);
}

static void free_body(void *arg)
{
    buf_fini(arg);
}

/* PARKS: gather the rest of the body, which came in several pieces, behind the first one. */
static err_t gather(struct http_call *call, size_t limit_bytes, uint64_t at_ms, struct buf *all,
                    struct str first)
{
    struct str piece = first;

    if (call->parser.body == HTTP_BODY_LENGTH)
        TRY(buf_reserve(all, first.len + call->parser.left));
    while (piece.len > 0) {
        if (piece.len > limit_bytes - all->len)
            return too_large(limit_bytes);
        TRY(buf_add(all, piece));
        TRY(http_call_read(call, at_ms, &piece));
    }
    return NULL;
}

err_t http_call_read_all(struct http_call *call, size_t limit_bytes, uint64_t at_ms,
                         struct arena *arena, struct str *body)
{
    struct buf *all;
    err_t err;

    *body = STR("");
    if (call->parser.body == HTTP_BODY_LENGTH && call->parser.left > limit_bytes)
        return too_large(limit_bytes);
    TRY(http_call_read(call, at_ms, body));
    if (call->is_done) /* all of it, where it was received */
        return body->len > limit_bytes ? too_large(limit_bytes) : NULL;
    all = arena_new_struct(arena, struct buf);
    if (!all)
        return arena_err(arena);
    *all = buf_make(MEM_BODY, limit_bytes);
    TRY(arena_defer(arena, free_body, all));
    err = gather(call, limit_bytes, at_ms, all, *body);
    *body = buf_str(all);
    return err;
}

void http_call_close(struct http_call *call)
{
    struct upstream_connection *connection = call->connection;

    release_block(call);
    call->head = NULL;
    call->connection = NULL;
    if (!connection)
        return;
    if (call->is_done && !call->must_close)
        http_pool_give(connection);
    else
        http_pool_drop(connection);
}
