/* SPDX-License-Identifier: Apache-2.0 */
/* What calls spent, on its way from leases to what is spent, in the transaction that commits their rows. */
#ifndef GOVERN_BUDGET_BOOK_H
#define GOVERN_BUDGET_BOOK_H

#include "govern/budget_account.h"
#include "store/db.h"

/* What calls spent of one account since it was last booked. */
struct budget_booking {
    struct budget_account *account;
    uint64_t amount;
};

/* What its transaction found of a booking. */
struct budget_finding {
    uint64_t deficit; /* so much of it was never leased */
    uint64_t missing; /* so much more of the lease the store does not know */
    bool is_lowered;  /* its cap, since it was last booked: all marks are looked at again */
};

/* In the ledger's transaction: move spend from leases to what is spent, and note alerts that are due. `findings[i]` is of
 * bookings[i]. */
err_t budget_book_spend(struct db_tx *tx, const struct budget_booking *bookings, size_t count,
                        struct budget_finding *findings) ERR_MUST_CHECK;

/* After its commit: the same in memory. */
void budget_book_settle(const struct budget_booking *bookings, size_t count,
                        const struct budget_finding *findings);

#endif
