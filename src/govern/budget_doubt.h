/* SPDX-License-Identifier: Apache-2.0 */
/* Credit that the store does not know of: it is not spent, and what was spent of it is a debt. For budget_lease.c.
 *
 * The store forgets leases when a standby that was behind takes over, and books those of a process that seemed dead. What is
 * missing is noticed where it should be taken from, by booking or giving back; and as a lease may cover what is booked of
 * another for long, all are compared when anything else shows that the store knows less than it did.
 *
 * The hard thing is what calls in progress have reserved: nobody can take it back from them. So it becomes a debt, which is
 * asked for with the next credit and counts as spent until then. */
#ifndef GOVERN_BUDGET_DOUBT_H
#define GOVERN_BUDGET_DOUBT_H

#include "govern/budget_account.h"
#include "store/db.h"

/* How much this process holds of an account that is more than `known`, which its lease has in the store. Locks it. */
uint64_t budget_doubt_missing(struct budget_account *account, uint64_t known);

/* So much of a lease is missing: it is leased no more. The account is locked. */
void budget_doubt_drop(struct budget_account *account, uint64_t missing);

/* Say that it was found missing in so many budgets; nothing if in none. Does not park. */
void budget_doubt_tell(size_t count);

/* PARKS: compare all that this process holds with its leases in the store, and drop what is missing. Not while credit is
 * fetched or given back. The arena is for rows. Errors: STORE, BUSY, memory, cancellation: to be done again. */
err_t budget_doubt_resolve(struct db *db, const char *holder, struct arena *arena) ERR_MUST_CHECK;

#endif
