/* SPDX-License-Identifier: Apache-2.0 */
/* Sums of a group's rows: a thousand calls of one key are one sum.
 *
 * A group's sums are left behind those of the groups before it (table usage_recent), by slots, for ledger_fold.h to
 * bring to the sums of their hours and days. */
#ifndef GOVERN_LEDGER_SUM_H
#define GOVERN_LEDGER_SUM_H

#include "govern/ledger_entry.h"

/* What end users are shared out by. Each group changes a page for each slot that it has users of. */
#define LEDGER_SLOTS 32

/* The columns of a sum in all three tables, but for those that it is found by. */
#define LEDGER_SUM_COUNTERS                                                                        \
    "calls, failed, unpriced, input, output, cached, cache_written, reasoning, cost_nano"

/* Add what was not inserted, as there is such a sum already, to that one. */
#define LEDGER_SUM_ADD(table)                                                                      \
    "DO UPDATE SET calls = " table ".calls + excluded.calls, "                                     \
    "failed = " table ".failed + excluded.failed, "                                                \
    "unpriced = " table ".unpriced + excluded.unpriced, "                                          \
    "input = " table ".input + excluded.input, output = " table ".output + excluded.output, "      \
    "cached = " table ".cached + excluded.cached, "                                                \
    "cache_written = " table ".cache_written + excluded.cache_written, "                           \
    "reasoning = " table ".reasoning + excluded.reasoning, "                                       \
    "cost_nano = " table ".cost_nano + excluded.cost_nano"

struct ledger_sum {
    const struct ledger_kind *kind;
    struct str user;
    uint64_t hour_ms; /* when it begins */
    unsigned slot;    /* the user's */
    uint64_t calls, failed, unpriced, input, output, cached, cache_written, reasoning, cost_nano;
};

/* A group's, and what their table knows them by. */
struct ledger_sums {
    struct ledger_sum *each;
    size_t count;
    uint64_t part;           /* rises from group to group, so that they lie as they came */
    const int64_t *kind_ids; /* numbers of kinds, by their places: the caller sets it */
    struct db_value *cells;  /* of the sums of one statement */
};

/* Add up rows by hour, kind and user, into the arena; each once, in the order of their slots. Errors: the arena's. */
err_t ledger_sum_rows(struct ledger_entry *const *entries, size_t count, struct arena *arena,
                      struct ledger_sums *sums) ERR_MUST_CHECK;

/* In a transaction: leave the sums for ledger_fold.h. */
err_t ledger_sum_write(struct db_tx *tx, const struct ledger_sums *sums) ERR_MUST_CHECK;

#endif
