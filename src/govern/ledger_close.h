/* SPDX-License-Identifier: Apache-2.0 */
/* Hours that are over: their sums go from those that are added to, usage_open_sums, to those that are kept, and into their days.
 *
 * Rows come in the order of time but at random among end users, so to add them to days, too, would change a second
 * page for nearly each of them. An hour's sums are in order, and far fewer. */
#ifndef GOVERN_LEDGER_CLOSE_H
#define GOVERN_LEDGER_CLOSE_H

#include "store/db.h"

/* PARKS: close all hours that have been over for an hour. What comes later is closed the next time. Errors: STORE, BUSY, no
 * memory, the fiber's end: what was not moved is open still. */
err_t ledger_close_hours(struct db *db) ERR_MUST_CHECK;

#endif
