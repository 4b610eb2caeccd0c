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

/* The store knows less than it did: whatever is leased is held against it soon. Any thread. */
void budget_lease_doubt(void);

/* The name under which this process holds leases, and how long they last if they are not renewed. */
const char *budget_lease_holder(void);
uint64_t budget_lease_ttl_ms(void);

#endif
