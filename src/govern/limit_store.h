/* SPDX-License-Identifier: Apache-2.0 */
/* What keeps limits: the table in this process, or Redis. For limit.c and its tests.
 *
 * Both do the same sums in whole nanoseconds. A rate of N per W has a step of W/N, rounded up, and
 * holds N steps. Each thing taken adds its steps to a backlog that runs off as time goes by; what would
 * raise it above N steps is refused. Rounding up makes the refill slower by at most N parts of W in
 * nanoseconds, and never lets more pass than it should. */
#ifndef GOVERN_LIMIT_STORE_H
#define GOVERN_LIMIT_STORE_H

#include "govern/limit.h"

/* Longest backlog: whole numbers up to 2^53 are exact in Lua, too. 2^52 ns are 52 days. */
#define LIMIT_MAX_NS (UINT64_C(1) << 52)

/* What a debt (more used than was estimated) may grow to, in windows. */
#define LIMIT_MAX_DEBT 2

/* A rate as the sums need it; of streams step is 0 and span the count. */
struct limit_gcra {
    uint64_t step_ns, span_ns;
};

struct limit_verdict {
    size_t refused;   /* which rule, counted from 0; the number of rules if none is */
    uint64_t wait_ns; /* until the refused one lets this pass; of streams unknown: a second */
};

/* Steps and span of a rule; takes a division. */
struct limit_gcra limit_gcra_of(const struct limit_rule *rule);

/* The longest backlog that a rate can come to: all of it, of tokens with the debt. What is there of an earlier rate, which may
 * have taken days to run off, is no more than that. */
uint64_t limit_most(const struct limit_rule *rule, struct limit_gcra gcra);

/* A product that stops at LIMIT_MAX_NS. */
uint64_t limit_product(uint64_t a, uint64_t b);

/* Note in a rule (whose sums are `gcra`) what is left with this backlog (or so many streams). */
void limit_tell(struct limit_rule *rule, struct limit_gcra gcra, uint64_t backlog_ns);

/* What is to be added to (or, if negative, taken off) the backlog of a rule whose call is over. */
int64_t limit_correction(const struct limit_rule *rule, uint64_t used_tokens, bool is_void);

/* ---- the table in this process (limit_memory.c) ---- */

/* The id of a rule, by a hash of its owner: rules of one owner come under one lock, in places side by side. */
uint64_t limit_memory_id(uint64_t owner, enum limit_unit unit);

/* Take all or nothing at a time of the process's monotonic clock. Any thread. Errors: BUSY. */
err_t limit_memory_take(struct limit_ticket *ticket, uint64_t now_ns,
                        struct limit_verdict *out) ERR_MUST_CHECK;

/* Give back and correct. Any thread. */
void limit_memory_settle(const struct limit_ticket *ticket, uint64_t now_ns, uint64_t used_tokens,
                         bool is_void);

/* Forget all and free; bytes held now. */
void limit_memory_clear(void);
size_t limit_memory_bytes(void);

/* ---- Redis (limit_redis.c) ---- */

/* Once, before use. */
void limit_redis_init(void);

/* PARKS at most redis.timeout: the same in Redis, by its clock. Errors: STORE or BUSY when Redis is
 * not of use, cancellation; whether anything was taken there is not known then. */
err_t limit_redis_take(struct limit_ticket *ticket, struct limit_verdict *out) ERR_MUST_CHECK;

/* Give back and correct by a message. In the thread of the take. */
void limit_redis_settle(struct limit_ticket *ticket, uint64_t used_tokens, bool is_void);

struct redis_reply;

/* Read the script's answer to a take. False when it is none. */
bool limit_redis_read(struct limit_ticket *ticket, const struct redis_reply *reply,
                      struct limit_verdict *out);

/* A clock for tests instead of the server's, in microseconds; 0: the server's. */
void limit_redis_set_clock_us(uint64_t now_us);

#endif
