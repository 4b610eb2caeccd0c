/* SPDX-License-Identifier: Apache-2.0 */
/* What a server and its connections consist of: shared by http_server.c, http_connection.c,
 * exchange.c and exchange_body.c, and nobody else's business.
 *
 * A connection is in exactly one of the server's lists, named after its state, ordered by when
 * it came there. Time limits are the same for all members of a list, so its first is the first
 * to expire, and one timer per server watches them all. */
#ifndef NET_HTTP_CONNECTION_H
#define NET_HTTP_CONNECTION_H

#include "base/list.h"
#include "net/http_server.h"
#include "observe/metrics.h"

/* Bytes held for a connection without a fiber: a head, or what one read brought behind it. */
#define CONNECTION_MAX_HELD_BYTES (HTTP_MAX_HEAD_BYTES + LOOP_SCRATCH_BYTES)

/* Arenas kept for later exchanges, some 3 KiB each. */
#define SERVER_SPARE_ARENAS 64

/*    state     time limit       what it does */
#define CONNECTION_STATES(X)                                                                       \
    X(SHAKING, "its fiber's", "TLS handshake")                                                     \
    X(READING, "head_timeout", "a head is awaited")                                                \
    X(IDLE, "idle_timeout", "kept alive, nothing has come since the last answer")                  \
    X(BUSY, "its fiber's", "an exchange is running")                                               \
    X(LEAVING, "1 s", "turned away; may still read why")

enum connection_state {
#define X(name, limit, meaning) CONNECTION_##name,
    CONNECTION_STATES(X)
#undef X
        CONNECTION_STATE_COUNT
};

struct http_connection {
    struct sock sock;
    struct list item; /* in server->connections[state] */
    struct http_server *server;
    struct fiber *fiber;       /* SHAKING, BUSY */
    struct exchange *exchange; /* BUSY, until it is over */
    struct tls_context *tls;   /* SHAKING: referenced */
    uint64_t since_ms;         /* when it came to this state */
    struct buf unread;         /* bytes that came and are not yet used */
    enum connection_state state;
    union { /* as much of the peer's address as we need; unix sockets have none */
        sa_family_t family;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } peer;
};

struct http_server {
    struct http_server_options options;
    struct list listeners;
    struct list connections[CONNECTION_STATE_COUNT];
    size_t open, leaving, active; /* connections; of them LEAVING; of them with a fiber */
    struct timer sweep;           /* set for sweep_at_ms when that is not 0 */
    uint64_t sweep_at_ms;
    struct timer resume; /* while accepting is paused */
    uint64_t complained_ms;
    bool is_paused, is_draining;
    bool is_killed; /* no exchange starts any more */
    struct {
        struct metric_series *accepted, *turned_away, *refused, *pauses;
    } counts;
    struct arena
        *spare[SERVER_SPARE_ARENAS]; /* of exchanges that are over, empty, for those to come */
    size_t spare_count;
};

/* ---- http_connection.c ---- */

/* Begin a connection on an accepted descriptor (taken over). */
void connection_open(struct http_server *server, int fd, const struct sockaddr_storage *peer,
                     struct tls_context *tls);

/* Answer 503 to an accepted descriptor (taken over) without ado. */
void connection_turn_away(struct http_server *server, int fd, bool is_tls);

/* A READING or IDLE connection has stayed too long. */
void connection_expire(struct http_connection *connection);

/* Close and free. */
void connection_close(struct http_connection *connection);

/* ---- http_server.c ---- */

/* Note that a connection entered a state with a time limit. */
void server_watch_time(struct http_server *server, enum connection_state state, uint64_t since_ms);

/* An empty arena for an exchange, and one back: its clean-ups run, and what it holds is freed. NULL without
 * memory. */
struct arena *server_take_arena(struct http_server *server);
void server_give_arena(struct http_server *server, struct arena *arena);

/* A descriptor became free: accept again if that was the trouble. */
void server_resume(struct http_server *server);

/* ---- exchange.c ---- */

/* Answer with an error the server itself makes, closing the connection. */
void exchange_refuse(struct exchange *exchange, err_t err);

/* Give back the memory of a head that was sent, or never will be. */
void exchange_drop_head(struct exchange *exchange);

/* "Sun, 06 Nov 1994 08:49:37 GMT" for now, made once a second and thread. */
struct str exchange_date(void);

/* ---- exchange_body.c ---- */

/* Skip what is left of the request's body if it has already come. False: it has not, so the
 * connection must end. */
bool exchange_skip_body(struct exchange *exchange);

/* ---- forwarded.c ---- */

/* Fill in who the client is: the peer, or what a trusted proxy says about it. */
void exchange_identify_peer(struct exchange *exchange);

#endif
