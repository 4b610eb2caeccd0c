/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the client of Redis: shared by its files, and nobody else's business.
 *
 * From bottom to top: link (a connection, its queue, dialling it anew), cluster (which link a key's commands go to, and where an
 * answer sends them), and in redis.c what is configured and what callers see. */
#ifndef STORE_REDIS_PRIVATE_H
#define STORE_REDIS_PRIVATE_H

#include "base/buf.h"
#include "base/list.h"
#include "fiber/fiber.h"
#include "net/sock.h"
#include "store/redis_dial.h"
#include "store/redis_reply.h"
#include "store/redis_url.h"

#define REDIS_MAX_FAILURES 5 /* in a row: then a server is left alone */
#define REDIS_SLOTS        16384

struct redis;

/* A fiber's wait for an answer; on its stack. */
struct redis_waiter {
    struct fiber *fiber;
    struct arena *arena;
    struct redis_link *link;       /* that owes the answer; held */
    struct redis_pending *pending; /* until it is done */
    struct redis_reply *reply; /* done without one: the connection is gone, or there is no memory */
    bool is_done;
};

/* An answer to come; of a cluster with its command, which may have to be sent elsewhere. */
struct redis_pending {
    struct list at;              /* in redis_link.pending */
    struct redis_waiter *waiter; /* NULL: nobody waits (any more) */
    unsigned redirects;
    size_t len;
    char command[];
};

/* A connection to one server. Counted: by the list of its loop, its dialling fiber, and waiters. */
struct redis_link {
    struct list at; /* in redis.links, or in none */
    struct redis *owner;
    unsigned holders;
    struct sock sock;
    struct redis_reader reader;
    struct buf out;      /* what is still to be sent */
    struct list pending; /* oldest first */
    struct fiber *dialler, *watcher;
    struct timer retry; /* while out */
    struct timer watch; /* of sentinels, while connected */
    struct timer soon;  /* set while there is something to send */
    unsigned failures;  /* in a row */
    bool is_ready, is_out;
    char reason[160];       /* why there is no connection */
    struct redis_host host; /* of a cluster, its name in `name`; else as the target says */
    char name[256];
    char master[REDIS_ADDRESS]; /* whom a sentinel has named */
};

/* What a loop has. */
struct redis {
    struct redis_target *target; /* NULL: none is configured */
    uint64_t version;            /* of the target */
    struct list links;           /* one; with a cluster those to the servers that were needed */
    struct redis_link **slots;   /* of a cluster: whose they are, as far as known */
    struct redis_link *answered; /* the last one, or NULL; held */
    unsigned fibers;             /* that dial or look */
    bool is_leaving;
};

/* ---- redis.c ---- */

/* Follow what is configured. True if that has changed; then links are gone. */
bool redis_follow(struct redis *r);

/* A server more, or less, that is left alone. */
void redis_count_out(int change);

/* An error came for a command whose answer nobody awaits: tell the log, once a minute. */
void redis_note_unheard(const struct redis_reply *reply);

/* ---- redis_link.c ---- */

/* A link, in its loop's list; `host` is copied, NULL for what the target says. Errors: BUSY. */
err_t redis_link_open(struct redis *r, const struct redis_host *host,
                      struct redis_link **out) ERR_MUST_CHECK;

/* Give the connection up and take the link out of its list; it is freed when nobody holds it any more. */
void redis_link_close(struct redis_link *link);
void redis_link_hold(struct redis_link *link);
void redis_link_release(struct redis_link *link);

/* Put a command into the queue, for `waiter` or nobody; of a cluster with a copy. It is sent when all fibers
 * that can run have run; if there is no connection, one is made. Errors: BUSY, STORE when too much waits to be sent. */
err_t redis_link_send(struct redis_link *link, const struct str *args, size_t count,
                      struct redis_waiter *waiter) ERR_MUST_CHECK;

/* Take over a record that another link has let go of; its command is sent here. Errors: BUSY, TOO_BIG; then it is the caller's. */
err_t redis_link_take_over(struct redis_link *link, struct redis_pending *pending) ERR_MUST_CHECK;

/* A record is done, with this answer or (NULL) without: wake who waits, and free it. */
void redis_link_finish(struct redis_pending *pending, const struct redis_reply *reply);

/* The connection is of no use; dropped with its reason. */
void redis_link_lose(struct redis_link *link, const char *why);

/* A call failed; it had no answer in time. */
void redis_link_note_failure(struct redis_link *link);
void redis_link_note_late(struct redis_link *link);

/* Send at once what the kernel takes. */
void redis_link_flush(struct redis_link *link);

/* ---- redis_cluster.c ---- */

/* The slot of a key (Redis Cluster specification, "Key distribution model"). */
unsigned redis_cluster_slot(struct str key);

/* The link for a key's commands: of its slot's owner, or of anybody who can tell who that is. Errors: STORE when all are left
 * alone, BUSY. */
err_t redis_cluster_choose(struct redis *r, struct str key, struct redis_link **out) ERR_MUST_CHECK;

/* An answer was taken out of the queue of `link`. True if it only said who is to be asked, and that one is being asked now. */
bool redis_cluster_redirect(struct redis_link *link, struct redis_pending *pending,
                            const struct redis_reply *reply);

/* Whether an answer is an error that says no more than that the key is not (all) here. */
bool redis_cluster_is_redirect(const struct redis_reply *reply);

/* A server is left alone: ask others whose its slots are. */
void redis_cluster_forget(struct redis_link *link);

/* A server is still away. True if the cluster has named it since it was forgotten last: then it is tried again. */
bool redis_cluster_needs(struct redis_link *link);

#endif
