/* SPDX-License-Identifier: Apache-2.0 */
/* Bringing rows that wait to the sums of their hours, very many at a time.
 *
 * To add each group's to them would change, for random end users, a page for almost every row. What is asked meanwhile is
 * answered from both (view usage_recent), so it matters to nobody when this is done. */
#ifndef GOVERN_LEDGER_FOLD_H
#define GOVERN_LEDGER_FOLD_H

#include "govern/ledger_commit.h"

/* A group was committed, under the ledger's name; it is added up at once, in memory. */
void ledger_fold_note(const struct ledger_group *group);

/* PARKS: bring all rows to the sums that this process has committed, and those that others left behind; then ledger_close_hours.
 * Errors: STORE, BUSY, no memory, the fiber's end: what was not brought waits. */
err_t ledger_fold(struct db *db) ERR_MUST_CHECK;

#endif
