/* SPDX-License-Identifier: Apache-2.0 */
/* Answers: heads, whole bodies, chunked streams.
 *
 * A head is composed by hand and travels with the first bytes of the body in one system call; then
 * its memory is given back, for a stream may stay open long. What fails to be sent marks the
 * exchange as cut: nothing more is written, and the connection is closed at its end.
 *
 * Whether the connection can be kept must be known when the head is composed: that is why the
 * rest of an unread request body is looked at there. */
#include "base/sys.h"
#include "base/text.h"
#include "net/http_connection.h"

#define MAX_PIECES  14 /* of one write, beside a head and the chunk's frame */
#define LINES_BYTES ((size_t)16 * 1024)
#define HEAD_BYTES  (LOOP_SCRATCH_BYTES - LINES_BYTES)

static const struct err client_stalls = {
    .kind = ERR_TIMED_OUT, .where = ERR_HERE, .text = "the client does not take its answer"};
static const struct err answered_twice = {
    .kind = ERR_BUG, .where = ERR_HERE, .text = "a request was answered twice"};

struct str exchange_date(void)
{
    static _Thread_local char text[30];
    static _Thread_local uint64_t made_for_s, looked_ms;
    uint64_t now_ms = loop_now_ms(), now_s;

    if (now_ms != looked_ms) { /* the clock is read once a round */
        looked_ms = now_ms;
        now_s = sys_wall_ms() / 1000;
        if (now_s != made_for_s)
            text_http_date(now_s, text);
        made_for_s = now_s;
    }
    return (struct str){text, 29};
}

/* ---- heads ---- */

struct http_pen exchange_lines(void)
{
    return http_pen_at(loop_scratch() + HEAD_BYTES, LINES_BYTES);
}

/* How the end of the body is told. */
enum body_frame { FRAME_NONE, FRAME_LENGTH, FRAME_CHUNKED, FRAME_CLOSE };

static void put_frame(struct http_pen *pen, enum body_frame frame, uint64_t length)
{
    if (frame == FRAME_CHUNKED)
        http_pen_put(pen, STR("Transfer-Encoding: chunked\r\n"));
    else if (frame == FRAME_LENGTH)
        http_pen_line_u64(pen, HTTP_LINE("Content-Length"), length);
}

/* "HTTP/1.1 200 OK" */
static void put_status(struct http_pen *pen, int status)
{
    char digits[TEXT_U64_BYTES];

    if (status == 200) { /* as nearly always */
        http_pen_put(pen, STR("HTTP/1.1 200 OK\r\n"));
        return;
    }
    http_pen_put(pen, STR("HTTP/1.1 "));
    http_pen_put(pen, (struct str){digits, text_put_u64((uint64_t)status, digits)});
    http_pen_line(pen, STR(" "), str_from(http_reason(status)));
}

/* Whether the connection must end with this answer. */
static bool must_end(struct exchange *exchange)
{
    return exchange->refusal || !exchange->head.keep_alive || exchange->server->is_draining ||
           !exchange_skip_body(exchange);
}

void exchange_drop_head(struct exchange *exchange)
{
    struct str head = exchange->pending_head;

    exchange->pending_head = (struct str){NULL, 0};
    mem_free(MEM_REQUEST, (char *)(uintptr_t)head.ptr, head.len);
}

/* Keep a composed head until it is sent. */
static err_t keep_head(struct exchange *exchange, struct str head)
{
    char *copy = mem_alloc(MEM_REQUEST, head.len);

    if (!copy)
        return err_no_memory();
    memcpy(copy, head.ptr, head.len);
    exchange_drop_head(exchange);
    exchange->pending_head = (struct str){copy, head.len};
    return NULL;
}

/* What a head says of its body. */
struct body_kind {
    struct str content_type;
    enum body_frame frame;
    uint64_t length;
};

/* Compose everything up to the empty line in the loop's scratch. Sets ends_connection and status. */
static err_t compose_head(struct exchange *exchange, int status, struct body_kind body,
                          const struct http_pen *lines, struct str *head)
{
    struct http_pen pen = http_pen_at(loop_scratch(), HEAD_BYTES);

    exchange->ends_connection |= body.frame == FRAME_CLOSE || must_end(exchange);
    exchange->status = status;
    put_status(&pen, status);
    http_pen_line(&pen, HTTP_LINE("Date"), exchange_date());
    if (body.content_type.len > 0)
        http_pen_line_of(&pen, HTTP_LINE("Content-Type"), body.content_type);
    put_frame(&pen, body.frame, body.length);
    if (exchange->ends_connection)
        http_pen_put(&pen, STR("Connection: close\r\n"));
    else if (exchange->head.minor == 0)
        http_pen_put(&pen, STR("Connection: keep-alive\r\n"));
    http_pen_line(&pen, HTTP_LINE("x-request-id"), str_from(exchange->id));
    if (lines)
        http_pen_put(&pen, http_pen_text(lines));
    http_pen_put(&pen, STR("\r\n"));
    if (pen.is_full)
        return err_new(ERR_BUG, "an answer's head of more than %zu bytes", HEAD_BYTES);
    *head = http_pen_text(&pen);
    return NULL;
}

/* ---- sending ---- */

/* Sending has failed: the exchange is cut. */
static err_t fail(struct exchange *exchange, err_t err)
{
    exchange->is_cut = true;
    if (err == &fiber_wait_over) {
        /* What the kernel still holds for this client would stay until it gives up, too. */
        sock_abort(&exchange->connection->sock);
        return &client_stalls;
    }
    return err_is(err, ERR_UPSTREAM) ? &http_client_gone : err;
}

/* PARKS: write the pieces. After a failure the exchange is cut. */
static err_t send_all(struct exchange *exchange, struct iovec *iov, int count)
{
    err_t err;

    if (exchange->is_cut)
        return &http_client_gone;
    exchange->head_sent |= exchange->pending_head.len > 0;
    err = sock_write(&exchange->connection->sock, iov, count,
                     exchange->server->options.write_timeout_ms);
    if (exchange->pending_head.len > 0)
        exchange_drop_head(exchange);
    return err ? fail(exchange, err) : NULL;
}

/* Put a text into a vector of pieces, leaving out empty ones. */
static int add_piece(struct iovec *iov, int count, struct str piece)
{
    if (piece.len == 0)
        return count;
    iov[count] = (struct iovec){.iov_base = (void *)(uintptr_t)piece.ptr, .iov_len = piece.len};
    return count + 1;
}

static bool has_no_body(const struct exchange *exchange, int status)
{
    return exchange->head.method == HTTP_HEAD_ || status == 204 || status == 304;
}

/* PARKS: write what the kernel has not taken at once. The head, of which `sent` bytes are out, leaves the
 * scratch, which will be someone else's. */
static err_t send_rest(struct exchange *exchange, struct str head, struct str body, size_t sent)
{
    struct iovec iov[2];
    int count = 0;

    if (sent < head.len) {
        err_t err = keep_head(exchange, str_after(head, sent));
        if (err)
            return sent > 0 ? fail(exchange, err) : err;
        count = add_piece(iov, count, exchange->pending_head);
    } else {
        body = str_after(body, sent - head.len);
    }
    return send_all(exchange, iov, add_piece(iov, count, body));
}

/* PARKS only if the kernel does not take everything at once. */
static err_t send_answer(struct exchange *exchange, struct str head, struct str body)
{
    struct sock *sock = &exchange->connection->sock;
    struct iovec iov[2];
    int count = add_piece(iov, add_piece(iov, 0, head), body);
    size_t sent = 0;
    err_t err = NULL;

    exchange_drop_head(exchange); /* of a stream that came to nothing */
    if (exchange->is_cut)
        return &http_client_gone;
    if (sock->watch.writable)
        err = sock_try_write(sock, iov, count, &sent);
    exchange->head_sent |= err || sent > 0;
    if (err)
        return fail(exchange, err);
    return sent == head.len + body.len ? NULL : send_rest(exchange, head, body, sent);
}

err_t exchange_reply(struct exchange *exchange, int status, struct str content_type,
                     const struct http_pen *lines, struct str body)
{
    struct body_kind kind = {content_type, FRAME_LENGTH, body.len};
    struct str head;

    if (exchange->head_sent || exchange->is_stream)
        return &answered_twice;
    if (status == 204 || status == 304)
        kind.frame = FRAME_NONE;
    TRY(compose_head(exchange, status, kind, lines, &head));
    if (has_no_body(exchange, status))
        body.len = 0;
    else
        exchange->bytes_out = body.len;
    return send_answer(exchange, head, body);
}

err_t exchange_stream(struct exchange *exchange, int status, struct str content_type,
                      const struct http_pen *lines)
{
    struct body_kind kind = {content_type, exchange->head.minor > 0 ? FRAME_CHUNKED : FRAME_CLOSE,
                             0};
    struct str head;

    if (exchange->head_sent || exchange->is_stream)
        return &answered_twice;
    if (status == 204 || status == 304)
        kind.frame = FRAME_NONE;
    TRY(compose_head(exchange, status, kind, lines, &head));
    TRY(keep_head(exchange, head));
    exchange->is_stream = true;
    exchange->is_chunked = kind.frame == FRAME_CHUNKED;
    exchange->has_body = !has_no_body(exchange, status);
    return NULL;
}

/* Write "1f" CR LF. */
static struct str chunk_line(char out[20], size_t size)
{
    static const char digits[] = "0123456789abcdef";
    size_t at = 18;

    out[18] = '\r';
    out[19] = '\n';
    do
        out[--at] = digits[size & 15];
    while ((size >>= 4) > 0);
    return (struct str){out + at, 20 - at};
}

/* At most MAX_PIECES pieces as one chunk, behind the head if that is still to be sent. `iov` has
 * room for three more, `line` holds the chunk's first line. Returns how many are used. */
static int put_chunk(struct exchange *exchange, const struct str *pieces, size_t count,
                     struct iovec *iov, char line[20])
{
    size_t total = 0;
    int n;

    for (size_t i = 0; i < count && exchange->has_body; i++)
        total += pieces[i].len;
    n = add_piece(iov, 0, exchange->pending_head);
    if (total > 0 && exchange->is_chunked)
        n = add_piece(iov, n, chunk_line(line, total));
    for (size_t i = 0; i < count && total > 0; i++)
        n = add_piece(iov, n, pieces[i]);
    if (total > 0 && exchange->is_chunked)
        n = add_piece(iov, n, STR("\r\n"));
    exchange->bytes_out += total;
    return n;
}

/* PARKS: write at most MAX_PIECES pieces as one chunk; behind the last one the body's end. */
static err_t write_chunk(struct exchange *exchange, const struct str *pieces, size_t count,
                         bool is_last)
{
    struct iovec iov[MAX_PIECES + 4];
    char line[20];
    int n = put_chunk(exchange, pieces, count, iov, line);

    if (is_last && exchange->has_body && exchange->is_chunked)
        n = add_piece(iov, n, STR("0\r\n\r\n"));
    exchange->is_ended = is_last;
    return n > 0 ? send_all(exchange, iov, n) : NULL;
}

/* PARKS: write the pieces, as many chunks as it takes. */
static err_t write_chunks(struct exchange *exchange, const struct str *pieces, size_t count,
                          bool is_last)
{
    if (!exchange->is_stream || exchange->is_ended)
        return &answered_twice;
    for (; count > MAX_PIECES; count -= MAX_PIECES, pieces += MAX_PIECES)
        TRY(write_chunk(exchange, pieces, MAX_PIECES, false));
    return write_chunk(exchange, pieces, count, is_last);
}

void exchange_write_now(struct exchange *exchange, struct str piece)
{
    struct sock *sock = &exchange->connection->sock;
    struct iovec iov[4];
    char line[20];
    size_t sent, size = 0;
    bool has_failed;
    int n;

    /* A TLS record that was begun must be sent, so the room is asked for before. */
    if (!exchange->is_stream || exchange->is_ended || exchange->is_cut || !sock_has_room(sock))
        return;
    n = put_chunk(exchange, &piece, 1, iov, line);
    for (int i = 0; i < n; i++)
        size += iov[i].iov_len;
    has_failed = sock_try_write(sock, iov, n, &sent) != NULL;
    exchange->head_sent = true;
    exchange_drop_head(exchange);
    /* a client whose socket has no room for a line has long stopped reading */
    if (has_failed || sent < size) {
        exchange->is_cut = true;
        fiber_cancel(exchange->connection->fiber, &http_client_gone);
    }
}

err_t exchange_write(struct exchange *exchange, const struct str *pieces, size_t count)
{
    return write_chunks(exchange, pieces, count, false);
}

err_t exchange_finish(struct exchange *exchange, const struct str *pieces, size_t count)
{
    return write_chunks(exchange, pieces, count, true);
}

err_t exchange_end(struct exchange *exchange)
{
    if (!exchange->is_stream || exchange->is_ended)
        return NULL;
    return exchange_finish(exchange, NULL, 0);
}

void exchange_abort(struct exchange *exchange)
{
    exchange->ends_connection = true;
    exchange->is_cut |= !exchange->head_sent; /* nothing is answered any more */
    exchange->is_stream = true;
    exchange->is_ended = false;
}

void exchange_cancel_on_half_close(struct exchange *exchange)
{
    exchange->cancel_on_half_close = true;
    if (exchange->connection->sock.watch.hung_up && !exchange->server->options.serve_half_closed)
        fiber_cancel(exchange->connection->fiber, &http_client_gone);
}

void exchange_outlive_client(struct exchange *exchange)
{
    exchange->outlives_client = true;
    exchange->ends_connection = true;
}

/* ---- errors of the server's own ---- */

void exchange_refuse(struct exchange *exchange, err_t err)
{
    const struct http_server_options *options = &exchange->server->options;
    int status = err_status(err);
    struct str type = STR("text/plain; charset=utf-8"), body = STR("");
    struct http_pen lines;
    const char *text;

    exchange->ends_connection = true;
    if (options->print_error) {
        options->print_error(exchange, err, &type, &body, options->context);
    } else {
        text = arena_printf(exchange->arena, "%s\n", err->text ? err->text : http_reason(status));
        body = str_from(text);
    }
    lines = exchange_lines();
    if (status == 405)
        http_pen_line(&lines, HTTP_LINE("Allow"),
                      STR("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    /* If even this cannot be sent, the connection is closed all the same. */
    if (exchange_reply(exchange, status, type, &lines, body))
        exchange->is_cut = true;
}
