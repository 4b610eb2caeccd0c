/* SPDX-License-Identifier: Apache-2.0 */
/* Connections to upstreams that stay open between calls: one pool per worker, one group in it per
 * origin.
 *
 * An idle connection costs its record and holds no fiber and no buffer. Whatever happens on it
 * while it is idle closes it: the upstream has hung up, or has sent bytes nobody asked for. The
 * newest is used first, so that what is not needed grows old; after HTTP_POOL_IDLE_MS it is
 * closed, before upstreams close it at their common limit of a minute. */
#ifndef NET_HTTP_POOL_H
#define NET_HTTP_POOL_H

#include "base/err.h"
#include "base/list.h"
#include "net/http_origin.h"
#include "net/sock.h"

#define HTTP_POOL_IDLE_MS  55000
#define HTTP_POOL_MAX_IDLE 256 /* per origin */

struct http_pool;

/* A pool for the calling thread's loop. Errors: BUSY without memory. */
err_t http_pool_open(struct http_pool **out) ERR_MUST_CHECK;

/* How long connections of this pool may be idle from now on, instead of HTTP_POOL_IDLE_MS. */
void http_pool_set_idle(struct http_pool *pool, uint64_t idle_ms);

/* Close the idle connections of origins for which keep(id) is false, and those in use when their
 * calls end: after a reload. */
void http_pool_sweep(struct http_pool *pool, bool (*keep)(uint64_t origin_id, void *arg),
                     void *arg);

/* Close everything; no call may be open. NULL is allowed. */
void http_pool_close(struct http_pool *pool);

struct http_pool_view {
    struct str host;
    uint16_t port;
    size_t idle, busy;
    /* Since the group is there: connections, then calls. */
    uint64_t opened, reused, dead_on_reuse, failed;
};

/* Call visit for each origin, for the admin view; in the pool's thread. */
void http_pool_each(struct http_pool *pool,
                    void (*visit)(const struct http_pool_view *view, void *arg), void *arg);

/* ---- for the client (http_client.c, http_dial.c) ---- */

/* The connections of one origin. Lives as long as it has any, and until a sweep. */
struct http_group {
    struct list link; /* in the pool */
    struct list idle; /* newest first */
    struct http_pool *pool;
    uint64_t origin_id;
    struct address last_good;   /* answered last, tried first next time; len 0: none */
    bool is_retired;            /* swept: goes with its last connection */
    struct http_pool_view view; /* counts; host in memory of its own */
};

struct upstream_connection {
    struct list link; /* in group->idle, or in none while a call uses it */
    struct http_group *group;
    struct sock sock;
    uint64_t idle_since_ms;
};

/* The group of an origin, made if there is none. Errors: BUSY without memory. */
err_t http_pool_group(struct http_pool *pool, const struct http_origin *origin,
                      struct http_group **out) ERR_MUST_CHECK;

/* The newest idle connection for a call, or NULL. */
struct upstream_connection *http_pool_take(struct http_group *group);

/* A record for a connection to be dialled, already in use; NULL without memory. */
struct upstream_connection *http_pool_add(struct http_group *group);

/* Keep a connection whose answer was read to its end for later calls, unless it must not be
 * kept. */
void http_pool_give(struct upstream_connection *connection);

/* Close a connection in use. */
void http_pool_drop(struct upstream_connection *connection);

/* A block of HTTP_BLOCK_BYTES to read into, or NULL. One is kept for the next taker when it is
 * given back. */
#define HTTP_BLOCK_BYTES ((size_t)64 * 1024)
char *http_pool_take_block(struct http_pool *pool);
void http_pool_give_block(struct http_pool *pool, char *block);

#endif
