/* SPDX-License-Identifier: Apache-2.0 */
/* Many rows into one table, several with each statement: most of what a statement costs does not depend on how many it has. */
#ifndef GOVERN_BATCH_H
#define GOVERN_BATCH_H

#include "store/db.h"

/* Rows of a statement; more gain little. */
#define BATCH_ROWS 16
/* Bytes that the statement for so many takes: of a row each ? grows to three digits behind a $, and has two characters
 * beside it. */
#define BATCH_BYTES(head, row, tail) (sizeof(head) + sizeof(tail) + (BATCH_ROWS * 2) * sizeof(row))

struct batch {
    const char *one, *many; /* statements for one row, and for BATCH_ROWS */
    size_t columns;
    /* Write the cells of row i. */
    void (*put)(const void *of, size_t i, struct db_value *cells);
    /* Read what the statement for `count` rows, from row i on, has returned; NULL: it returns nothing. */
    err_t (*take)(const void *of, size_t i, size_t count, const struct db_rows *rows);
};

/* Write head, `rows` times the row with each ? of it numbered ("($1, $2), ($3, $4)"), and tail, with a NUL, into a static text, as
 * statements are known by their address. */
void batch_make(struct str head, struct str row, struct str tail, size_t rows, char *out,
                size_t size);

/* In a transaction: `count` rows. There is room for the cells of BATCH_ROWS rows at `cells`; the arena is for what is returned, or
 * NULL. */
err_t batch_run(struct db_tx *tx, const struct batch *batch, const void *of, size_t count,
                struct db_value *cells, struct arena *arena) ERR_MUST_CHECK;

#endif
