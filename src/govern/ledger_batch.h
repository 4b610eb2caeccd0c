/* SPDX-License-Identifier: Apache-2.0 */
/* Many rows into one table, several with each statement: most of what a statement costs does not depend on how many it has. */
#ifndef GOVERN_LEDGER_BATCH_H
#define GOVERN_LEDGER_BATCH_H

#include "store/db.h"

/* Rows of a statement; more gain little. */
#define LEDGER_BATCH_ROWS 16
/* Bytes that the statement for so many takes, its head and tail being literals. */
#define LEDGER_BATCH_BYTES(head, columns, tail)                                                    \
    (sizeof(head) + sizeof(tail) + LEDGER_BATCH_ROWS * (columns) * sizeof("($999, "))

struct ledger_batch {
    const char *one, *many; /* statements for one row, and for LEDGER_BATCH_ROWS */
    size_t columns;
    void (*put)(const void *of, size_t i, struct db_value *cells); /* write the cells of row i */
};

/* Write head, "($1, $2 …), ($9, …) …" and tail, with a NUL, into a static text, as statements are known by their address. */
void ledger_batch_make(struct str head, int columns, struct str tail, char *out, size_t size);

/* In a transaction: `count` rows. There is room for the cells of LEDGER_BATCH_ROWS rows at `cells`. */
err_t ledger_batch_run(struct db_tx *tx, const struct ledger_batch *batch, const void *of,
                       size_t count, struct db_value *cells) ERR_MUST_CHECK;

#endif
