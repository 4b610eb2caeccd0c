/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP/1.1 calls to upstreams, read piece by piece.
 *
 * Connections are pooled per worker and origin (http_pool.h). The caller pulls (http_call_read
 * parks), so a slow client slows the upstream. A reused connection that turns out dead before any
 * byte of the answer is replaced once by a fresh one. Closing an unfinished call closes its
 * connection, which is how cancellation reaches the upstream.
 *
 * The hard thing is to hand out received bytes without copying them and without a buffer per
 * call: a block to read into is taken from the worker's pool only when there is something to
 * read, and belongs to the call as long as the caller uses what is in it. So pieces outlast
 * parks, and a call that waits holds nothing. */
#ifndef NET_HTTP_CLIENT_H
#define NET_HTTP_CLIENT_H

#include "base/arena.h"
#include "base/err.h"
#include "net/http_origin.h"
#include "net/http_parse.h"
#include "net/http_pool.h"

#define HTTP_ASK_MAX_PIECES 31

/* One request. */
struct http_ask {
    const struct http_origin *origin;
    enum http_method method;
    const char *method_text;
    struct str target; /* appended to base_path: "/chat/completions" */
    /* Without Host, Content-Length, Connection and Accept-Encoding. */
    const struct http_header *headers;
    size_t header_count;
    /* Pieces, sent as one body with Content-Length; they must stay until the answer's head. */
    const struct str *body;
    size_t body_count;   /* at most HTTP_ASK_MAX_PIECES */
    uint64_t connect_ms; /* for name lookup, connect and TLS together */
    uint64_t head_at_ms; /* when the answer's head must be complete (loop_now_ms scale) */
    bool retry_dead; /* a fresh try if a reused connection is dead before any byte of the answer */
};

struct http_call {
    /* The answer's head, good until the body is read or the fiber parks otherwise; then NULL. */
    const struct http_head *head;
    int status;          /* of the answer; 0: none has come */
    bool was_reused;     /* the connection had served another call before */
    bool was_retried;    /* a reused connection was dead, and a fresh one took its place */
    bool is_sent;        /* the request was handed to the kernel */
    bool is_done;        /* the body has come to its clean end */
    bool must_close;     /* private: the connection cannot be used again */
    uint64_t connect_us; /* 0 when reused */
    uint64_t bytes_in;   /* received, framing included */
    /* private: */
    struct http_pool *pool;
    struct upstream_connection *connection;
    struct http_parser parser;
    char *block;        /* what was received lies here; NULL while nothing is there */
    struct str unread;  /* in the block: not decoded yet */
    size_t since_yield; /* bytes received */
    err_t failure;      /* what http_call_read returns from now on */
};

/* PARKS: connect or reuse, send, await the answer's head (1xx skipped; redirects are answers
 * like others). On success `call` must be closed with http_call_close (use arena_defer); it must
 * not move. On failure there is nothing to close, and was_reused, was_retried and the numbers
 * tell how far it came. Errors: TIMED_OUT (connect or head), UPSTREAM (name lookup, refused, TLS,
 * reset, malformed or compressed answer …), BAD_REQUEST for a header that cannot be sent, BUSY,
 * cancellation. */
err_t http_call_open(struct http_pool *pool, const struct http_ask *ask, struct arena *arena,
                     struct http_call *call) ERR_MUST_CHECK;

/* PARKS until body data, the end or `at_ms`. *piece is everything that has come, decoded; it is
 * borrowed until the next call on this http_call, however often the fiber parks in between.
 * Empty at the clean end; is_done may be set with the last piece already. Errors: TIMED_OUT
 * (fiber_wait_over) at at_ms and cancellation leave the call usable; UPSTREAM when the body is
 * cut or malformed, after everything good before it was given out. */
err_t http_call_read(struct http_call *call, uint64_t at_ms, struct str *piece) ERR_MUST_CHECK;

/* PARKS: read the whole body. It is good until the next call on this http_call, http_call_close
 * included: a body that came at once is not copied. Errors: as http_call_read, and
 * UPSTREAM over `limit_bytes`; if several pieces came before it, *body has them. */
err_t http_call_read_all(struct http_call *call, size_t limit_bytes, uint64_t at_ms,
                         struct arena *arena, struct str *body) ERR_MUST_CHECK;

/* Give the connection back to the pool if the answer was read to its end and it may be kept,
 * else close it at once. The last piece is gone then. Harmless twice. */
void http_call_close(struct http_call *call);

#endif
