/* SPDX-License-Identifier: Apache-2.0 */
/* The ledger: one row for each call of a model, never changed; hourly and daily sums; retention.
 *
 * Rows gather in memory and are committed in groups, at most 50 ms after they came, by one fiber of the main
 * thread; sums are brought up to date in the same transaction, and so is what budgets spent. If the store is away,
 * rows wait (bounded; what does not fit is counted as lost and logged).
 *
 * The hard thing is exactly once: a commit may have happened although its answer was lost. So rows are
 * numbered, and the number of a group's last is committed with it. */
#ifndef GOVERN_LEDGER_H
#define GOVERN_LEDGER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/str.h"

struct ledger_row {
    uint64_t at_ms; /* wall clock, when the call ended */
    struct str request_id, org, project, key, user;
    struct str model;                    /* as asked for: an alias, or provider/model */
    struct str provider, upstream_model; /* who answered; empty: nobody */
    struct str route;                    /* "POST /v1/chat/completions" or the like */
    struct str outcome;                  /* "completed" …, "killed" */
    uint64_t status, ms, attempts;
    uint64_t input, output, cached, cache_written, reasoning;
    bool is_estimated, has_cost; /* without a price the cost is null, never zero */
    uint64_t cost_nano;
    struct str
        booked; /* the budgets it is booked on, as in the schema; ledger_add finds them itself */
};

struct reservation;
struct journal_slot;

/* Take a copy of the row, and what was spent of budgets (a reservation that was settled, or NULL), which is booked
 * in the same transaction. Never parks and never fails loudly. Any thread. */
void ledger_add(const struct ledger_row *row, const struct reservation *reservation);

/* The same for a stream that is noted in the journal (journal.h), which is told the row's number. NULL: it is not. */
void ledger_add_stream(const struct ledger_row *row, const struct reservation *reservation,
                       struct journal_slot *slot);

/* The name under which this process commits rows: as long as it lives, from the ledger's opening on. */
const char *ledger_writer(void);

/* Rows that wait, that were lost; and bytes held: for metrics, views and tests. */
uint64_t ledger_waiting(void);
uint64_t ledger_lost(void);
size_t ledger_bytes(void);

#endif
