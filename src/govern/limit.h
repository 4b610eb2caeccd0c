/* SPDX-License-Identifier: Apache-2.0 */
/* Rate limits: requests, tokens and streams at once, per key, user, project and model.
 *
 * GCRA: a limit "N per W" lets a burst of N pass and refills N per W, so that in any span t at most N + N·t/W
 * pass. All limits that a call falls under are taken together or not at all. Kept in memory in shards, or in
 * Redis for several replicas (limit_redis.c); while Redis is away each replica enforces its share.
 *
 * Tokens are taken as estimated and corrected when the call ends. */
#ifndef GOVERN_LIMIT_H
#define GOVERN_LIMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "govern/subject.h"

enum limit_unit { LIMIT_REQUESTS, LIMIT_TOKENS, LIMIT_STREAMS };
enum limit_scope { LIMIT_KEY, LIMIT_USER, LIMIT_PROJECT, LIMIT_MODEL };

#define LIMIT_MAX_RULES 12

/* One limit that a call falls under. */
struct limit_rule {
    enum limit_scope scope;
    enum limit_unit unit;
    uint64_t id;           /* in this process: hash of tenant, scope, unit and owner */
    struct str owner;      /* within the tenant: id of the key or user, alias; of projects empty */
    struct conf_rate rate; /* STREAMS: count at once, window 0 */
    uint64_t cost;         /* taken: 1, or the estimated tokens */
    /* Told after limit_take, also when it refuses; without what was taken once that is given back: */
    uint64_t remaining;
    uint64_t reset_ms; /* until it is whole again */
    uint64_t reset_ns; /* the same, exactly */
};

struct limit_lease; /* streams held in Redis */

/* What a call has taken; lives in the call and stays where it is until it is settled. */
struct limit_ticket {
    struct limit_rule *rules; /* in the arena */
    size_t count;
    struct str tenant; /* project id: the hash tag of Redis keys */
    uint64_t seed;     /* of the rules' ids: a hash of it */
    struct limit_lease *lease;
    uint64_t taken_ns;        /* by the clock of whoever keeps the limits */
    bool is_taken, is_shared; /* by Redis */
    bool is_told;             /* what the rules say of remaining and reset is so */
    char limited_by[24];      /* which limit refused, for logs: "user requests" */
};

/* Find the rules for a subject that asks `model` (an alias as configured, or empty); count 0 if there are none.
 * The subject's texts must stay as long as the ticket. Errors: the arena's. */
err_t limit_find(struct limit_ticket *ticket, const struct conf *conf,
                 const struct subject *subject, struct str model,
                 struct arena *arena) ERR_MUST_CHECK;

/* Leave only the rules that count requests: for those that ask no provider for anything. Before limit_take. */
void limit_keep_requests(struct limit_ticket *ticket);

/* Whether one of the rules counts tokens, so that they must be estimated first. */
bool limit_wants_tokens(const struct limit_ticket *ticket);

/* PARKS if limits are shared: take all of it or nothing. Errors: LIMITED (429, code
 * rate_limit_exceeded) with a text that names the limit; *retry_ms then says when to come back. A
 * request for more tokens than a window holds is refused for good (code request_too_large, *retry_ms 0).
 * BUSY without memory; cancellation. When Redis is away, rates become this process's share. */
err_t limit_take(struct limit_ticket *ticket, uint64_t tokens, uint64_t *retry_ms) ERR_MUST_CHECK;

/* The call is over: give back streams, correct tokens to what was used (`is_void`: give back all, as
 * if it had never been asked for). PARKS not: shared ones are corrected by a message that is sent
 * without waiting. In the thread that took it. Harmless when nothing was taken. */
void limit_settle(struct limit_ticket *ticket, uint64_t used_tokens, bool is_void);

/* Where limits are kept, at start and at every reload: conf->limits and conf->redis. Blocks on
 * certificate files. Errors: CONFIG, BUSY. */
err_t limit_configure(const struct conf *conf) ERR_MUST_CHECK;

/* This thread's loop is about to close: end its connection to Redis. Outside fibers; no ticket may be
 * open in it. */
void limit_leave(void);

/* Forget all at the end of the process; and bytes held, for views. */
void limit_close(void);
size_t limit_bytes(void);

#endif
