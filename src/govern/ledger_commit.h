/* SPDX-License-Identifier: Apache-2.0 */
/* A group of rows, what becomes of them in sums, and what they spent of budgets, in one transaction. */
#ifndef GOVERN_LEDGER_COMMIT_H
#define GOVERN_LEDGER_COMMIT_H

#include "govern/ledger_pending.h"

struct ledger_group {
    struct ledger_entry *entries[LEDGER_MAX_GROUP];
    size_t count;
    uint64_t number;    /* of its last row among its writer's, from 1 on */
    const char *writer; /* as long as the group */
    /* Kept from one try to the next; see ledger_group_end. */
    struct arena *arena;
    struct budget_booking *bookings; /* one for each account */
    struct budget_finding *findings; /* of each of them */
    size_t booking_count;
    struct ledger_kind **kinds; /* each once */
    int64_t *kind_ids;          /* their numbers, as the last try found them */
    size_t kind_count;
    struct ledger_pending pending;
    struct db_value *cells; /* of the rows of one statement */
};

/* PARKS: commit a group, whole or not at all and never twice, and bring memory's accounts up to date. Errors: STORE, BUSY: then
 * it may be tried again. */
err_t ledger_commit(struct db *db, struct ledger_group *group) ERR_MUST_CHECK;

/* Free what the tries of a group have left. Its entries are the caller's. */
void ledger_group_end(struct ledger_group *group);

/* In a transaction: note that `writer` commits here what it numbers `number`; numbers rise. *is_done: an earlier try was committed after all, although
 * nobody heard of it: then there is nothing left to do. */
err_t ledger_commit_begin(struct db_tx *tx, const char *writer, uint64_t number,
                          bool *is_done) ERR_MUST_CHECK;

enum ledger_begun { LEDGER_BEGUN, LEDGER_DONE, LEDGER_BEHIND };

/* The same for a writer who knows the number that he committed last (0: none). LEDGER_BEHIND: begun, but the store does not
 * know of that any more. A store that knows of less than was committed is an older one: a standby that was behind has taken
 * over. */
err_t ledger_commit_follow(struct db_tx *tx, const char *writer, uint64_t last, uint64_t number,
                           enum ledger_begun *out) ERR_MUST_CHECK;

/* Enter one row in somebody's transaction. */
err_t ledger_commit_row(struct db_tx *tx, const struct ledger_row *row,
                        struct arena *arena) ERR_MUST_CHECK;

#endif
