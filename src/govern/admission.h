/* SPDX-License-Identifier: Apache-2.0 */
/* May this call go ahead, and what did it come to: limits and budgets before, settlement and ledger after.
 *
 * Two steps, because a price is known only when the targets are: admission_limit before the route is chosen,
 * admission_reserve after. admission_settle undoes or corrects both, however the call ended. */
#ifndef GOVERN_ADMISSION_H
#define GOVERN_ADMISSION_H

#include "govern/budget.h"
#include "govern/ledger.h"
#include "govern/limit.h"
#include "govern/price.h"

struct admission {
    struct limit_ticket limits;
    struct reservation reservation;
    uint64_t retry_ms;  /* set when it is refused: when to come back; 0: never */
    uint64_t began_ms;  /* wall clock: prices are those of then */
    uint64_t cost_nano; /* set by admission_settle, if has_cost */
    /* Reserved, also when it is settled. */
    uint64_t reserved_tokens, reserved_nano;
    /* Parts of the answer whose targets broke off. */
    struct price_usage parts;
    uint64_t parts_nano;
    /* The price that was looked for last, and whose it is: see call_govern.c. */
    const struct price *price;
    const void *priced;
    bool is_final; /* it is refused for so long that nobody should wait for it */
    bool has_cost;
    bool has_parts, has_unpriced_part;
};

/* Find what the subject falls under, in the arena. Then the next four say whether tokens must be estimated, whether a
 * budget holds, whether it needs prices, and whether it only warns. Errors: memory. */
err_t admission_find(const struct conf *conf, const struct subject *subject, struct str model,
                     struct arena *arena, struct admission **out) ERR_MUST_CHECK;
bool admission_wants_tokens(const struct admission *admission);
bool admission_has_budget(const struct admission *admission);
bool admission_wants_price(const struct admission *admission);
bool admission_is_dry_run(const struct admission *admission);

/* PARK: as limit_take and budget_reserve; admission_settle gives back what the first took if the second refuses. */
err_t admission_limit(struct admission *admission, uint64_t tokens) ERR_MUST_CHECK;
err_t admission_reserve(struct admission *admission, uint64_t tokens, uint64_t nano) ERR_MUST_CHECK;

/* Somebody was asked who charges for it, and no answer came, or part of one: `used`, at its own price. The call's `used` in the
 * end has it, too. */
void admission_add(struct admission *admission, const struct price_usage *used,
                   const struct price *price);

/* PARKS: somebody else is asked, who may use so much. Reserve what is missing for that beside what was used so far. Errors: as
 * admission_reserve; what was reserved stays. */
err_t admission_renew(struct admission *admission, uint64_t tokens, uint64_t nano) ERR_MUST_CHECK;

/* The call is over. `used` NULL: nobody was asked, so nothing is charged. `price` NULL: it is not known. Never parks. */
void admission_settle(struct admission *admission, const struct price_usage *used,
                      const struct price *price);

#endif
