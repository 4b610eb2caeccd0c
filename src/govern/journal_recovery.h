/* SPDX-License-Identifier: Apache-2.0 */
/* What dead processes left in their journals becomes rows of the ledger, before anybody is served.
 *
 * It is a service (service.h) behind the ledger, of which only the beginning matters. A journal is a help: whatever is wrong with it
 * is logged, and the server starts. */
#ifndef GOVERN_JOURNAL_RECOVERY_H
#define GOVERN_JOURNAL_RECOVERY_H

#include "store/db.h"

struct journal_recovery {
    uint64_t killed;   /* streams that were open */
    uint64_t restored; /* that had ended, and whose rows were lost */
    uint64_t damaged;  /* places that cannot be read */
};

/* Enter the rows of a file that nobody else uses, each once however often this is tried. Blocks, or PARKS. Errors: STORE, BUSY, SYSTEM,
 * memory: the file must stay as it is, and be tried again. */
err_t journal_recovery_enter(struct db *db, int fd, struct journal_recovery *out) ERR_MUST_CHECK;

#endif
