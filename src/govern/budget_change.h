/* SPDX-License-Identifier: Apache-2.0 */
/* What the store knows of budgets, changed for many accounts at once: with a budget for each end user nearly every call has an
 * account of its own. */
#ifndef GOVERN_BUDGET_CHANGE_H
#define GOVERN_BUDGET_CHANGE_H

#include "govern/budget_account.h"
#include "store/db.h"

struct budget_change {
    const struct budget_account *account;
    uint64_t cap;   /* of its row from now on */
    uint64_t spent; /* to be added to what is spent */
    int64_t
        leased; /* to be added to what is leased, here and in all; negative: to be taken from it */
    /* Found: */
    uint64_t spent_now, leased_now; /* in all, after the change */
    uint64_t
        missing; /* of what was to be taken from the lease: the store knows only of so much less, and nothing is left of it */
};

/* In a transaction: the accounts' rows are there, have these caps, and are locked; no account twice. Rows are locked in the
 * order of `changes`, so that is to be the order of their names. The arena is for rows. Errors, of both: STORE, BUSY, the arena's. */
err_t budget_change_open(struct db_tx *tx, struct budget_change *changes, size_t count,
                         struct arena *arena) ERR_MUST_CHECK;

/* The same, and what is to be added is; leases are of `holder`, and a new one lasts for ttl_ms. */
err_t budget_change_apply(struct db_tx *tx, const char *holder, uint64_t ttl_ms,
                          struct budget_change *changes, size_t count,
                          struct arena *arena) ERR_MUST_CHECK;

#endif
