/* SPDX-License-Identifier: Apache-2.0 */
/* Credit from the store: leases fetched, renewed, given back, and booked when their holder died.
 *
 * One fiber of the main thread serves all threads: what was asked for while a transaction ran goes into the next
 * one together. */
#ifndef GOVERN_BUDGET_LEASE_H
#define GOVERN_BUDGET_LEASE_H

#include "govern/budget_account.h"
#include "store/db.h"

/* Ask for more credit: at least what the account's `wanted` says, at most what is left. account->rounds rises when there is an
 * answer. Any thread. */
void budget_lease_ask(struct budget_account *account, unsigned lease_percent);

/* What calls spent of one account since it was last booked. */
struct budget_booking {
    struct budget_account *account;
    uint64_t amount;
};

/* What its transaction found of a booking. */
struct budget_finding {
    uint64_t deficit; /* so much of it was never leased */
    uint64_t missing; /* so much more of the lease the store does not know */
};

/* In the ledger's transaction: move spend from leases to what is spent, and note alerts that are due. `findings[i]` is of
 * bookings[i]. */
err_t budget_lease_book(struct db_tx *tx, const struct budget_booking *bookings, size_t count,
                        struct budget_finding *findings) ERR_MUST_CHECK;

/* After its commit: the same in memory. */
void budget_lease_booked(const struct budget_booking *bookings, size_t count,
                         const struct budget_finding *findings);

/* The store knows less than it did: whatever is leased is held against it soon. Any thread. */
void budget_lease_doubt(void);

/* The name under which this process holds leases. */
const char *budget_lease_holder(void);

#endif
