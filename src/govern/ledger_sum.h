/* SPDX-License-Identifier: Apache-2.0 */
/* Sums of many rows, by hour, kind and end user, on their way to the store's. */
#ifndef GOVERN_LEDGER_SUM_H
#define GOVERN_LEDGER_SUM_H

#include "govern/ledger_commit.h"

struct ledger_sum {
    struct ledger_sum *next; /* of its slot, as they came */
    uint64_t hash;
    int64_t kind_id, hour_ms;
    struct str user;
    uint64_t counters[LEDGER_COUNTERS];
};

struct ledger_slot {
    struct ledger_sum *first, *last;
    size_t count;
};

struct ledger_sums {
    struct arena *arena; /* has all of it; the caller frees it */
    struct ledger_sum **table;
    size_t room, count;
    struct ledger_slot slots[LEDGER_SLOTS];
};

/* None yet. Errors: the arena's. */
err_t ledger_sum_begin(struct arena *arena, struct ledger_sums *out) ERR_MUST_CHECK;

/* Add a group that was committed. Errors, of this and the next: the arena's; then the sums are good for nothing more. */
err_t ledger_sum_add_group(struct ledger_sums *sums,
                           const struct ledger_group *group) ERR_MUST_CHECK;

/* Add rows of these columns. */
#define LEDGER_SUM_COLUMNS "slot, begins_ms, kind_id, user_id, " LEDGER_SUM_COUNTERS
err_t ledger_sum_add_rows(struct ledger_sums *sums, const struct db_rows *rows) ERR_MUST_CHECK;

/* In a transaction: add a slot's to those of their hours and days. */
err_t ledger_sum_write(struct db_tx *tx, const struct ledger_sums *sums,
                       unsigned slot) ERR_MUST_CHECK;

#endif
