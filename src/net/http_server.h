/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP/1.1 server connections: requests in, answers out.
 *
 * A connection without a request holds no fiber. When a head is complete a fiber starts and runs
 * the handler with a struct exchange: one request and its answer. The handler reads the body if
 * it wants it, and answers once, whole or as a stream. Pipelined requests are answered in order;
 * framing errors are answered here, through the handler's error printer, and close the
 * connection.
 *
 * The hard thing is noticing that a client has left while its request waits elsewhere: the
 * hang-up edge cancels the request's fiber (reason http_client_gone) unless the exchange
 * tolerates half-closed clients. */
#ifndef NET_HTTP_SERVER_H
#define NET_HTTP_SERVER_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "fiber/loop.h"
#include "net/http_parse.h"
#include "net/http_pen.h"
#include "net/sock.h"
#include "net/tls.h"

/* What a fiber is cancelled with when its client leaves; the connection was shut down by us
 * (drain). */
extern const struct err http_client_gone;  /* CANCELLED */
extern const struct err http_server_stops; /* KILLED */

struct http_server;
struct http_connection;

/* One request and its answer. Lives in its own arena; everything public is for the handler to
 * read, what it may set is `owner`. */
struct exchange {
    struct http_head head;
    struct arena *arena; /* the request's memory; freed when the handler and its defers are over */
    struct http_connection *connection;
    struct http_server *server;
    const char *peer_ip; /* of the client; from X-Forwarded-For when the peer is a trusted proxy */
    const char *id;      /* the client's x-request-id if well-formed, else "req_…" of our own */
    uint64_t started_ns; /* when its last bytes were come for, in loop_recent_ns scale */
    void *owner;         /* the handler's */

    /* The answer, for logs: */
    uint64_t bytes_in, bytes_out; /* body bytes, as they travelled, without framing */
    int status;                   /* 0 until the head was sent (or prepared by exchange_stream) */
    bool head_sent;
    bool ends_connection; /* the connection will be closed after this exchange */

    bool peer_is_loopback; /* of the real peer */
    bool is_tls;           /* or X-Forwarded-Proto says so when the peer is a trusted proxy */

    /* private: */
    bool cancel_on_half_close, outlives_client, is_stream, is_chunked, is_ended, is_cut, has_body;
    err_t refusal; /* what the parser had to say, instead of a handler */
    struct http_parser parser;
    struct buf body;
    struct str pending_head; /* composed, goes out with the first write; memory of its own */
};

struct http_server_options {
    /* Runs in the exchange's fiber; must answer (what returns unanswered is answered 500). */
    void (*handle)(struct exchange *exchange, void *context);
    /* Compose the body of an error that the server itself answers (framing, limits, overload);
     * NULL: plain text. `body` is in the exchange's arena or static. `exchange` may lack head
     * fields. */
    void (*print_error)(struct exchange *exchange, err_t err, struct str *content_type,
                        struct str *body, void *context);
    void *context;
    /* Limits; 0 stands for the default of 10 s, 5 s, 1 KiB/s, 60 s, 30 s. A body must come at the
     * minimum rate on average once the grace is over; the write timeout is without any progress. */
    uint64_t head_timeout_ms, body_grace_ms, body_min_bytes_per_s;
    uint64_t idle_timeout_ms, write_timeout_ms;
    uint64_t max_connections; /* more are answered 503 and closed; 0: no limit */
    size_t arena_limit_bytes; /* per request, default 64 MiB */
    /* Ranges; the caller's, must stay until http_server_configure gives others. May be NULL. */
    const struct conf_strings *trusted_proxies;
    bool serve_half_closed; /* a client's FIN never cancels its request */
};

/* A server in the calling thread's loop. Copies the options. Errors: BUSY. */
err_t http_server_open(const struct http_server_options *options,
                       struct http_server **out) ERR_MUST_CHECK;

/* Accept on a listening descriptor (taken over, closed on error). `tls` may be NULL; it is
 * referenced. Errors: SYSTEM, BUSY. */
err_t http_server_listen(struct http_server *server, int fd,
                         struct tls_context *tls) ERR_MUST_CHECK;

/* Use new options and a new TLS context (NULL: unchanged) for requests and handshakes from now
 * on. */
void http_server_configure(struct http_server *server, const struct http_server_options *options,
                           struct tls_context *tls);

/* Drain: stop accepting, close idle connections, answer running exchanges with "Connection:
 * close". */
void http_server_drain(struct http_server *server);

/* Cancel every running exchange with http_server_stops; who asks from now on gets a 503. */
void http_server_kill(struct http_server *server);

/* Exchanges (and TLS handshakes) running, connections open. */
size_t http_server_active(const struct http_server *server);
size_t http_server_connections(const struct http_server *server);

/* Close everything; no exchange may be running. */
void http_server_close(struct http_server *server);

/* ---- in handlers ---- */

/* For handlers whose work costs money: from now on (and if it has happened before) a client that
 * ends its sending side counts as gone and cancels the fiber, unless the server's options say
 * serve_half_closed. A reset always does. */
void exchange_cancel_on_half_close(struct exchange *exchange);

/* For work that is worth it without its client: from now on nothing that he does cancels the fiber, only writing to him
 * fails when he has left. The connection ends with this exchange, and a head that is sent from now on says so. */
void exchange_outlive_client(struct exchange *exchange);

/* PARKS: read the whole request body, decoded (gzip, zstd), into memory of its own that lives as
 * long as the arena (or until exchange_release_body). Answers "100 Continue" first where
 * expected. Errors: TOO_BIG over `limit_bytes` (413; known lengths before reading), BAD_REQUEST
 * framing, 415 for other codings, TIMED_OUT (408) below the minimum rate, CANCELLED. */
err_t exchange_read_body(struct exchange *exchange, size_t limit_bytes,
                         struct str *body) ERR_MUST_CHECK;

/* Give the body's memory back early. */
void exchange_release_body(struct exchange *exchange);

/* Begin the lines that an answer's head is to have beside its own. They are in the loop's scratch: between this and what they
 * are given to, nothing may park or use that. Lines that do not fit (16 KiB) are left out. */
struct http_pen exchange_lines(void);

/* PARKS: answer whole, head and body in one write. `lines` (NULL: none) are added to Date, Content-Length,
 * Content-Type (unless empty), Connection and x-request-id. HEAD requests get no body. Errors: CANCELLED when the
 * client left, TIMED_OUT when it takes nothing for write_timeout, BUG when answered before or with too long a head. */
err_t exchange_reply(struct exchange *exchange, int status, struct str content_type,
                     const struct http_pen *lines, struct str body) ERR_MUST_CHECK;

/* Prepare a streamed answer: the head goes out together with the first write. Does not park.
 * Errors: BUG, the arena's. */
err_t exchange_stream(struct exchange *exchange, int status, struct str content_type,
                      const struct http_pen *lines) ERR_MUST_CHECK;

/* PARKS: write the pieces as one chunk, in one system call if the client keeps up. No pieces:
 * only the head. Errors as exchange_reply. */
err_t exchange_write(struct exchange *exchange, const struct str *pieces,
                     size_t count) ERR_MUST_CHECK;

/* Write a short piece of a stream, and the head before it, if the client has room for it: else nothing happens.
 * Does not park: for loop callbacks while the exchange's fiber waits for something else. */
void exchange_write_now(struct exchange *exchange, struct str piece);

/* PARKS: the same, and end the answer properly, in one write. Errors as exchange_reply. */
err_t exchange_finish(struct exchange *exchange, const struct str *pieces,
                      size_t count) ERR_MUST_CHECK;

/* PARKS: end a streamed answer properly. Harmless twice. Errors as exchange_reply. */
err_t exchange_end(struct exchange *exchange) ERR_MUST_CHECK;

/* Cut the connection (no proper end) when the handler returns: an answer that must not look
 * complete. */
void exchange_abort(struct exchange *exchange);

#endif
