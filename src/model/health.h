/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a target is worth asking: breaker, health, how busy and how fast it is.
 *
 * One record per provider, model and key, for the whole process: it outlives reloads, is never
 * persisted, and is updated by all workers. Nothing here parks; the time is given, so that tests
 * can make it up.
 *
 * A record is CLOSED (asked as usual) until failures open it; then it is left alone for a while
 * that doubles with each failed probe; after three of those it is UNHEALTHY and probed seldom. A
 * rate limit or a refused key puts it OUT for a time without counting as failure. */
#ifndef MODEL_HEALTH_H
#define MODEL_HEALTH_H

#include "base/err.h"
#include "base/str.h"
#include "conf/conf.h"

struct health;

/* The record of a name ("provider/model" or "provider/model#key"), made at first use with the
 * options of that time (a later call updates them); counted. Any thread. When there are too many
 * records (names may come from callers) a shared one is given, which never opens. Errors: BUSY
 * without memory. */
err_t health_get(struct str name, const struct conf_breaker *breaker,
                 const struct conf_retry *retry, struct health **out) ERR_MUST_CHECK;

/* A record that nobody holds is kept for those who come later. */
void health_unref(struct health *health);

enum health_verdict {
    HEALTH_ASK,     /* closed */
    HEALTH_PROBE,   /* open, and this call is the one that finds out: it must be reported */
    HEALTH_AVOID,   /* open or unhealthy because of failed calls: only if there is no other */
    HEALTH_REFUSING /* it refuses connections, or our key, or has limited us: not worth a try */
};

/* May this target be asked now? `*until_ms`: when it may be again, for AVOID and REFUSING. Only one
 * caller at a time is told PROBE, until health_end; one who does not begin within breaker.open
 * after that loses the right to it. */
enum health_verdict health_admit(struct health *health, uint64_t now_ms, uint64_t *until_ms);

/* What health_admit would say, without taking the probe. */
enum health_verdict health_look(struct health *health, uint64_t now_ms, uint64_t *until_ms);

/* What a call taught about its target. */
enum health_sign {
    HEALTH_GOOD,        /* it answered */
    HEALTH_FAILED,      /* it failed: 5xx, time-out, cut off, nonsense */
    HEALTH_UNREACHABLE, /* it could not be connected to */
    HEALTH_LIMITED,     /* 429: leave it alone until `until_ms` (0: a second; an hour at most) */
    HEALTH_OUT,         /* it refuses our key or model: out for 5 minutes */
    HEALTH_UNKNOWN      /* nothing: the caller left, or the request itself was at fault */
};

/* A call begins, with the verdict under which it was made, and ends with what was learnt; `first_ms`
 * is how long the first event or answer took (0: none came). Between the two it counts as in
 * flight. The verdict tells a probe from calls that were under way when the breaker opened: those
 * teach nothing new. */
void health_begin(struct health *health, enum health_verdict verdict);
void health_end(struct health *health, enum health_verdict verdict, enum health_sign sign,
                uint64_t now_ms, uint64_t until_ms, uint64_t first_ms);

/* Pay for another try at the same target out of the retry budget; false: it is spent, or the
 * target's breaker has opened. */
bool health_take_retry(struct health *health, uint64_t now_ms);

/* For the router: calls in flight, and the usual time to the first event in ms. 0: not known, or
 * not seen for so long that it is worth another look. */
unsigned health_in_flight(const struct health *health);
uint64_t health_latency_ms(struct health *health, uint64_t now_ms);

/* The configuration was read anew: keys and models that were refused may be right now. */
void health_forgive(void);

/* Free the records that nobody holds: at exit, and for tests. */
void health_forget(void);

/* For views and metrics. Times are of the clock of now_ms; until_ms is 0 when there is no such
 * time. `see` is called under a lock: it must not park or call back. */
struct health_view {
    const char *name, *state; /* closed, open, half_open, unhealthy, out */
    uint64_t since_ms, until_ms;
    uint64_t failures_in_row, calls, failures; /* the latter two within breaker.window */
    unsigned in_flight;
    uint64_t latency_ms;
};
void health_each(uint64_t now_ms, void (*see)(const struct health_view *view, void *arg),
                 void *arg);

#endif
