/* SPDX-License-Identifier: Apache-2.0 */
/* Request bodies: read under a limit, at a minimum rate, decoded.
 *
 * Most bodies have come with their head and lie in the connection's buffer, which then simply
 * becomes the body. Else a plain body with a length is received straight to where it stays, and
 * chunked or coded ones go through a buffer. */
#include "net/coding.h"
#include "net/http_connection.h"
#include "net/http_target.h"

#define RESERVE_BYTES    (1024 * 1024) /* room made at once for a body that has not come yet */
#define CODED_READ_BYTES (16 * 1024)
#define YIELD_BYTES      (1024 * 1024) /* a fast client shall not keep the thread */

/* A body being read. */
struct reading {
    struct exchange *exchange;
    struct coding *coding; /* or NULL */
    char *input;           /* where bytes of chunked and coded bodies are received */
    size_t input_size;
    size_t since_yield; /* bytes received */
    uint64_t since_ms;
};

/* When the body must have grown, or it comes too slowly on average. */
static uint64_t due_ms(const struct reading *reading)
{
    const struct http_server_options *options = &reading->exchange->server->options;

    return reading->since_ms + options->body_grace_ms +
           reading->exchange->bytes_in * 1000 / options->body_min_bytes_per_s;
}

/* PARKS until bytes of the body come; the end of the connection is an error here. */
static err_t receive(struct reading *reading, void *ptr, size_t size, size_t *n)
{
    struct exchange *exchange = reading->exchange;
    err_t err;

    if (reading->since_yield >= YIELD_BYTES) {
        reading->since_yield = 0;
        TRY(fiber_yield());
    }
    err = sock_read(&exchange->connection->sock, ptr, size, due_ms(reading), n);
    if (err == &fiber_wait_over)
        return HTTP_REFUSAL(408, "the request's body comes too slowly");
    if (err_is(err, ERR_UPSTREAM) || (!err && *n == 0)) {
        exchange->is_cut = true;
        return &http_client_gone;
    }
    if (!err)
        reading->since_yield += *n;
    return err;
}

/* Add a piece of body data. */
static err_t add_data(struct reading *reading, struct str piece)
{
    struct buf *body = &reading->exchange->body;

    reading->exchange->bytes_in += piece.len;
    if (reading->coding)
        return piece.len > 0 ? coding_push(reading->coding, piece, body) : NULL;
    if (piece.len > body->limit - body->len)
        return err_new(ERR_TOO_BIG, "the body is larger than %zu bytes", (size_t)body->limit);
    return buf_add(body, piece);
}

/* Take body data out of `bytes` until they are used up or the message ends. */
static err_t take_bytes(struct reading *reading, struct str bytes, size_t *used)
{
    struct http_parser *parser = &reading->exchange->parser;
    bool done = false;

    *used = 0;
    while (!done && *used < bytes.len) {
        struct str piece;
        size_t n;
        TRY(http_parse_body(parser, str_after(bytes, *used), false, &n, &piece, &done));
        *used += n;
        TRY(add_data(reading, piece));
    }
    return NULL;
}

/* What has come behind the head. What the parser has seen goes also after an error: where the connection is kept, the next
 * request begins behind it. */
static err_t take_unread(struct reading *reading)
{
    struct buf *unread = &reading->exchange->connection->unread;
    size_t used;
    err_t err = take_bytes(reading, buf_str(unread), &used);

    buf_drop(unread, used);
    return err;
}

/* PARKS: receive the rest of a plain body with a length in its place. */
static err_t receive_in_place(struct reading *reading)
{
    struct exchange *exchange = reading->exchange;
    struct http_parser *parser = &exchange->parser;
    struct buf *body = &exchange->body;

    while (!parser->is_done) {
        size_t n, room = parser->left < RESERVE_BYTES ? (size_t)parser->left : RESERVE_BYTES;
        TRY(buf_reserve(body, room));
        room = body->cap - body->len;
        if (room > parser->left)
            room = (size_t)parser->left;
        TRY(receive(reading, body->ptr + body->len, room, &n));
        body->len += n;
        exchange->bytes_in += n;
        parser->left -= n;
        parser->is_done = parser->left == 0;
    }
    return NULL;
}

/* PARKS: receive the rest of any other body through the input buffer. */
static err_t receive_through_buffer(struct reading *reading)
{
    struct exchange *exchange = reading->exchange;
    struct buf *unread = &exchange->connection->unread;

    while (!exchange->parser.is_done) {
        size_t n, used;
        TRY(receive(reading, reading->input, reading->input_size, &n));
        err_t err = take_bytes(reading, (struct str){reading->input, n}, &used);
        if (buf_add(unread, (struct str){reading->input + used, n - used})) {
            exchange->ends_connection = true; /* a part of the next request is lost */
            return err_no_memory();
        }
        TRY(err);
    }
    return NULL;
}

/* PARKS: tell the client to send its body, if it waits for that (RFC 9110 §10.1.1). */
static err_t send_continue(struct exchange *exchange)
{
    struct str line = STR("HTTP/1.1 100 Continue\r\n\r\n");
    struct iovec iov = {.iov_base = (void *)(uintptr_t)line.ptr, .iov_len = line.len};

    if (!exchange->head.expects_continue || exchange->connection->unread.len > 0)
        return NULL;
    exchange->head.expects_continue = false;
    err_t err = sock_write(&exchange->connection->sock, &iov, 1,
                           exchange->server->options.write_timeout_ms);
    exchange->is_cut |= err != NULL;
    return err_is(err, ERR_UPSTREAM) ? &http_client_gone : err;
}

static err_t read_body(struct reading *reading)
{
    struct exchange *exchange = reading->exchange;

    TRY(take_unread(reading));
    if (exchange->parser.is_done)
        return NULL;
    TRY(send_continue(exchange));
    if (exchange->parser.body == HTTP_BODY_LENGTH && !reading->coding)
        return receive_in_place(reading);
    reading->input = loop_scratch();
    reading->input_size = LOOP_SCRATCH_BYTES;
    if (reading->coding) {
        /* The decoder may let others run, and they use the scratch. */
        reading->input_size = CODED_READ_BYTES;
        reading->input = arena_alloc(exchange->arena, reading->input_size);
        if (!reading->input)
            return arena_err(exchange->arena);
    }
    return receive_through_buffer(reading);
}

/* Whether exactly the body lies in the connection's buffer: then that becomes the body. */
static bool steal_body(struct exchange *exchange)
{
    struct buf *unread = &exchange->connection->unread;
    struct http_parser *parser = &exchange->parser;

    if (parser->is_done || parser->body != HTTP_BODY_LENGTH || unread->len != parser->left)
        return false;
    exchange->body = *unread;
    exchange->bytes_in = unread->len;
    *unread = buf_make(MEM_CONNECTION, CONNECTION_MAX_HELD_BYTES);
    parser->left = 0;
    parser->is_done = true;
    return true;
}

/* The one coding the client says it has applied, or nothing. */
static err_t open_coding(struct exchange *exchange, struct coding **out)
{
    struct str name = STR("content-encoding");

    if (http_header_count(&exchange->head, name) > 1)
        return HTTP_REFUSAL(415, "more than one Content-Encoding is not supported");
    return coding_open(http_header_get(&exchange->head, name), out);
}

err_t exchange_read_body(struct exchange *exchange, size_t limit_bytes, struct str *body)
{
    struct reading reading = {.exchange = exchange, .since_ms = loop_now_ms()};
    err_t err;

    *body = buf_str(&exchange->body);
    if (exchange->parser.is_done)
        return NULL;
    if (exchange->head.has_length && exchange->head.length > limit_bytes)
        return err_new(ERR_TOO_BIG, "the body is larger than %zu bytes", limit_bytes);
    TRY(open_coding(exchange, &reading.coding));
    if (reading.coding || !steal_body(exchange)) {
        exchange->body = buf_make(MEM_BODY, limit_bytes);
        err = read_body(&reading);
        if (!err && reading.coding && !coding_is_complete(reading.coding))
            err = HTTP_REFUSAL(400, "the body ends in the middle of its Content-Encoding");
        coding_close(reading.coding);
        if (err)
            return err;
    }
    *body = buf_str(&exchange->body);
    return NULL;
}

void exchange_release_body(struct exchange *exchange)
{
    buf_fini(&exchange->body);
}

bool exchange_skip_body(struct exchange *exchange)
{
    struct buf *unread = &exchange->connection->unread;
    struct http_parser *parser = &exchange->parser;
    bool done = parser->is_done;
    size_t at = 0;

    while (!done && at < unread->len) {
        struct str piece;
        size_t used;
        if (http_parse_body(parser, str_after(buf_str(unread), at), false, &used, &piece, &done))
            return false;
        at += used;
    }
    buf_drop(unread, at);
    return done;
}
