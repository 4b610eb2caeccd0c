/* SPDX-License-Identifier: Apache-2.0 */
/* The journal: which streams are open, so that one that a crash breaks off has its row in the ledger, too.
 *
 * A stream is written down before its provider is asked, in memory that lies over a file (journal_file.h). When it has ended,
 * the number of its row is noted there, and its place is free again when rows up to that number are committed. At the
 * next start what is left in the file is entered (journal_recovery.h).
 *
 * The hard thing is exactly one row for each: between a row's commit and the news of it the process may die. So whether a
 * row was committed is not noted in the file but asked of the store, which keeps each writer's last number. */
#ifndef GOVERN_JOURNAL_H
#define GOVERN_JOURNAL_H

#include "govern/journal_format.h"

struct conf;
struct db;
struct journal_slot; /* of a call's arena; good until it is sealed */

/* PARKS when the file must grow, which is seldom: write down a stream as the row that it would be if it were broken off; at_ms is
 * when it begins. `booked`: which of its charges are reserved of budgets (enum journal_booked), as lost leases are booked in
 * rows of their own. NULL: it is not written down, because there is no journal or no room; never an error. Any thread. */
struct journal_slot *journal_open(const struct ledger_row *row, unsigned booked,
                                  struct arena *arena);

/* Another target is asked. What does not fit is left out: then the one before it stays. Never parks. */
void journal_name_target(struct journal_slot *slot, const struct ledger_row *row);

/* The stream has ended, with this row; and, once that waits to be committed: as the row of this number (0: it is lost). Never
 * park. For ledger_add_stream, the second under the ledger's lock: a row is not committed before its number is noted. */
void journal_end(struct journal_slot *slot, const struct ledger_row *row);
void journal_seal(struct journal_slot *slot, uint64_t number);

/* Rows up to this number are committed. Any thread. */
void journal_note_committed(uint64_t number);

/* Empty a file, which is locked as `fd`, and note streams there from now on; the descriptor becomes the journal's, also on an
 * error. `writer` enters their rows. Blocks. Errors: SYSTEM: there is no journal. For journal_recovery.c. */
err_t journal_begin(const char *path, int fd, const char *writer) ERR_MUST_CHECK;

/* Streams are noted no more; the file stays as it is, for the next start. No thread may be using it. Harmless without one. */
void journal_close(void);

/* For tests: records in memory that are open or not yet committed. */
size_t journal_used(void);

#endif
