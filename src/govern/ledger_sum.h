/* SPDX-License-Identifier: Apache-2.0 */
/* Sums of a group's rows: a thousand calls of one key are one change of that key's sum. */
#ifndef GOVERN_LEDGER_SUM_H
#define GOVERN_LEDGER_SUM_H

#include "govern/ledger_entry.h"

struct ledger_sum {
    const struct ledger_row *of; /* a kind's: what its rows have in common */
    struct str user;
    uint64_t hour_ms; /* when it begins */
    uint64_t calls, failed, unpriced, input, output, cached, cache_written, reasoning, cost_nano;
};

/* Add up rows by hour, kind and user, into the arena; in the order of texts, in which all processes change sums, so that
 * no two wait for each other. Errors: the arena's. */
err_t ledger_sum_rows(struct ledger_entry *const *entries, size_t count, struct arena *arena,
                      struct ledger_sum **sums, size_t *sum_count) ERR_MUST_CHECK;

/* In a transaction: add a sum to its hour's and its day's. */
err_t ledger_sum_write(struct db_tx *tx, const struct ledger_sum *sum) ERR_MUST_CHECK;

#endif
