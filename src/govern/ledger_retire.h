/* SPDX-License-Identifier: Apache-2.0 */
/* What of the ledger is kept for how long: rows, and periods of budgets beside them, sums of hours and of days, and kinds as long
 * as anything names them.
 *
 * The hard thing are kinds, whose numbers processes keep in memory and which rows and sums name by the million without
 * an index. So nobody looks whether a kind is named. Instead whoever uses one notes that from time to time
 * (LEDGER_KIND_SEEN_MS), and a kind that was noted before all that is kept began is named by nothing. */
#ifndef GOVERN_LEDGER_RETIRE_H
#define GOVERN_LEDGER_RETIRE_H

#include "conf/conf.h"
#include "store/db.h"

/* How long things are kept from now on. Any thread. */
void ledger_retire_adopt(const struct conf *conf);

/* PARKS: delete some of what is too old, in a fiber with an arena. *is_done: there was nothing (more). Errors: as db_run. */
err_t ledger_retire(struct db *db, bool *is_done) ERR_MUST_CHECK;

#endif
