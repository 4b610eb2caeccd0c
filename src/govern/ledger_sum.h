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
    char *block_at, *block_end; /* what is free of its last block */
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

/* In a transaction: add a slot's to the open ones of their hours (table usage_open_sums). */
err_t ledger_sum_write(struct db_tx *tx, const struct ledger_sums *sums,
                       unsigned slot) ERR_MUST_CHECK;

/* What an INSERT into a table of sums begins and ends with: what is there already is added to. */
#define LEDGER_SUM_KEY "begins_ms, slot, kind_id, user_id"
#define LEDGER_SUM_INTO(table)                                                                     \
    "{{insert}} INTO " table " (" LEDGER_SUM_KEY ", " LEDGER_SUM_COUNTERS ") "
#define LEDGER_SUM_ADDING(table)                                                                   \
    " ON CONFLICT (" LEDGER_SUM_KEY ") DO UPDATE SET calls = " table ".calls + excluded.calls, "   \
    "failed = " table ".failed + excluded.failed, "                                                \
    "unpriced = " table ".unpriced + excluded.unpriced, "                                          \
    "input = " table ".input + excluded.input, output = " table ".output + excluded.output, "      \
    "cached = " table ".cached + excluded.cached, "                                                \
    "cache_written = " table ".cache_written + excluded.cache_written, "                           \
    "reasoning = " table ".reasoning + excluded.reasoning, "                                       \
    "cost_nano = " table ".cost_nano + excluded.cost_nano"

#endif
