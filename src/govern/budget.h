/* SPDX-License-Identifier: Apache-2.0 */
/* Budgets: tokens and money per day, month or in total, of keys, users and projects; reserved before, settled after.
 *
 * Spend and leases are rows of the store. A process leases credit (a few per cent of what is left, with an
 * expiry) in one transaction; a lease counts as spent until it is given back, so that a crash can only
 * under-use a budget. Calls reserve from leases in memory. A call is booked in the period in which it was
 * reserved.
 *
 * The hard thing is exactly once: a reservation is settled or void, whichever comes first, and its ledger row
 * is committed together with the spend that it stands for. */
#ifndef GOVERN_BUDGET_H
#define GOVERN_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "govern/identity.h"
#include "govern/subject.h"

struct budget_account;

enum budget_unit { BUDGET_TOKENS, BUDGET_MONEY };
enum budget_scope { BUDGET_KEY, BUDGET_USER, BUDGET_PROJECT };

#define BUDGET_MAX_CLAIMS 18 /* of three owners, in two units, per three periods */

/* One budget that a call falls under: an account says which. */
struct budget_claim {
    struct budget_account *account; /* with a reference */
    uint64_t cap;                   /* of the account, as configured for this call */
    uint64_t reserved;
    uint64_t kept; /* of what is reserved: stays when more is refused */
    uint64_t used; /* set by budget_settle: to be booked */
};

/* What a call has reserved; lives in the call. */
struct reservation {
    struct budget_claim *claims; /* in the arena */
    size_t count;
    const struct budget_claim *refused; /* the budget that did not suffice the last time, or NULL */
    bool is_open;
    bool is_dry_run;
    unsigned lease_percent;
    unsigned percent; /* of the budget that is nearest to its end, from 50 on; 0: none is so far */
    struct str
        warning; /* for the header x-sluice-budget: "project money 83% of 500/month"; or empty */
};

/* Find the claims of a subject, in the periods of `now_s` (wall clock); count 0 if no budget holds for it. Errors: memory. */
err_t budget_find(struct reservation *reservation, const struct conf *conf,
                  const struct subject *subject, uint64_t now_s,
                  struct arena *arena) ERR_MUST_CHECK;

/* Whether one of them is in money, so that the call needs a price; or in tokens. */
bool budget_wants_money(const struct reservation *reservation);
bool budget_wants_tokens(const struct reservation *reservation);

/* PARKS when a lease must be fetched: reserve tokens and nano-units from all claims or from none. Errors: LIMITED (429, code
 * budget_exceeded, naming the budget and when it begins anew: *retry_ms), BUSY (503, code budget_unavailable: the store is away and
 * the lease is spent). With budgets.dry_run it warns and passes. Again while it is open: so much more; what was reserved stays
 * if that is refused. */
err_t budget_reserve(struct reservation *reservation, uint64_t tokens, uint64_t nano,
                     uint64_t *retry_ms) ERR_MUST_CHECK;

/* The call is over; 0 and 0: as if it had not been. More than was reserved is recorded, too, and the next call is
 * refused. Spend goes to the store with the call's row: give the reservation to ledger_add. Harmless when nothing is
 * open. Never parks, never fails. */
void budget_settle(struct reservation *reservation, uint64_t tokens, uint64_t nano);

/* How much of the tightest money budget is left, in per cent; 100 if there is none. Costs nothing: for routing. */
unsigned budget_left_percent(const struct conf *conf, const struct subject *subject);

/* A budget in a period, in the words of the store. */
struct budget_words {
    struct str scope, owner, unit, period;
    uint64_t begins_s;
};

/* Whether calls fall under it now. The store also has those of periods that are over, and those that were taken away: what was spent
 * of them counts if they come back. Without an identity nobody has budgets of his own. */
bool budget_is_in_force(const struct conf *conf, const struct identity *identity,
                        const struct budget_words *budget);

#endif
