/* SPDX-License-Identifier: Apache-2.0 */
/* How a group's rows come into the sums of their hours and days.
 *
 * Rows without an end user, when they are of few kinds, are added up with their group: one sum or two, left in the table
 * usage_left. All others get a slot, by their user or their kind, and wait in the ledger itself: the group is noted in
 * usage_pending. Later ledger_fold.h brings both to the sums. */
#ifndef GOVERN_LEDGER_PENDING_H
#define GOVERN_LEDGER_PENDING_H

#include "govern/ledger_entry.h"

/* What rows that wait are shared out by; the sums of a slot lie together. */
#define LEDGER_SLOTS 32

/* Ids that a group of rows has to itself (snippet ids_come_in_groups). */
#define LEDGER_MAX_GROUP 1024

/* The columns of a sum, in all tables that have some. */
#define LEDGER_SUM_COUNTERS                                                                        \
    "calls, failed, unpriced, input, output, cached, cache_written, reasoning, cost_nano"
#define LEDGER_COUNTERS 9

/* Rows of one kind and hour, without a user. */
struct ledger_left {
    const struct ledger_kind *kind;
    uint64_t hour_ms;                   /* when it begins */
    uint64_t counters[LEDGER_COUNTERS]; /* in the order of the columns */
};

struct ledger_pending {
    struct ledger_left *left;
    size_t left_count;
    bool is_left;     /* rows without a user are */
    int64_t first_id; /* of the rows */
};

/* Add a row to a sum. */
void ledger_pending_count(uint64_t counters[LEDGER_COUNTERS], const struct ledger_entry *entry);

/* When an entry's hour began. */
uint64_t ledger_pending_hour(const struct ledger_entry *entry);

/* Add up what needs not wait, into the arena. Errors: the arena's. */
err_t ledger_pending_collect(struct ledger_entry *const *entries, size_t count, size_t kind_count,
                             struct arena *arena, struct ledger_pending *out) ERR_MUST_CHECK;

/* A row's slot; NULL: it is in the sums that are left. */
struct db_value ledger_pending_slot(const struct ledger_pending *pending,
                                    const struct ledger_entry *entry);

/* In a transaction: take numbers for `count` rows, from first_id on, note the group as `writer`'s, and leave its sums.
 * kind_ids: by the places of kinds. */
err_t ledger_pending_write(struct db_tx *tx, struct ledger_pending *pending, const char *writer,
                           size_t count, const int64_t *kind_ids,
                           struct arena *arena) ERR_MUST_CHECK;

#endif
