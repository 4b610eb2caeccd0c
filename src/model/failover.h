/* SPDX-License-Identifier: Apache-2.0 */
/* Who is tried next: a request's way through its plan.
 *
 * Each target is asked once, in order, as long as its breaker lets it; moving on is free and
 * immediate. Then those whose failure may pass are asked again, after a pause, as often as `retry`
 * allows and its budget pays. If every breaker is open, one target that merely failed is asked all
 * the same: a wrong breaker must not be an outage. Decides only; waits and asks nothing itself. */
#ifndef MODEL_FAILOVER_H
#define MODEL_FAILOVER_H

#include "model/attempt.h"
#include "model/router.h"

/* Targets of one list beyond these are not asked a second time. */
#define FAILOVER_MAX_REPEATED 64

struct failover {
    const struct plan *plan;
    struct target *const *targets; /* the list being gone through */
    size_t count, at;
    unsigned round;
    uint64_t deadline_ms;         /* no pause may reach beyond */
    const struct target *avoided; /* open, but may be asked if there is no other */
    bool has_asked, is_forced;
    uint64_t repeatable; /* targets of the list, bit by bit */
    uint64_t until_ms;   /* when the first of those that were skipped may be asked; 0: none was */
};

/* Who it is. */
struct candidate {
    const struct target *target;
    const struct credential *credential; /* NULL: skipped, its breaker is open */
    struct health *health;
    enum health_verdict verdict; /* under which it is asked */
    uint64_t pause_ms;           /* to wait first */
};

/* Begin with the plan's targets. */
struct failover failover_begin(const struct plan *plan, uint64_t deadline_ms);

/* The next one; false: there is none left. */
bool failover_next(struct failover *failover, uint64_t now_ms, struct candidate *out);

/* How the candidate given last ended: false if the caller is to be told now. */
bool failover_goes_on(struct failover *failover, enum attempt_result result);

/* Nobody is to be asked again: only targets whose turn has not come are left. */
void failover_move_on(struct failover *failover);

#endif
