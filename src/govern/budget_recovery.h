/* SPDX-License-Identifier: Apache-2.0 */
/* Leases whose holders died are booked as spent. For budget_lease.c, which knows when to look. */
#ifndef GOVERN_BUDGET_RECOVERY_H
#define GOVERN_BUDGET_RECOVERY_H

#include "store/db.h"

/* PARKS: book leases that have expired, but not those of `holder`, this process. Errors: STORE,
 * BUSY, memory, cancellation: what is left then is booked next time. */
err_t budget_recovery_book_expired(struct db *db, const char *holder) ERR_MUST_CHECK;

/* PARKS: the same for all leases that are not `holder`'s, expired or not: where a store has one
 * user at a time. */
err_t budget_recovery_book_others(struct db *db, const char *holder) ERR_MUST_CHECK;

#endif
