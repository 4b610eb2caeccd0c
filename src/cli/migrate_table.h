/* SPDX-License-Identifier: Apache-2.0 */
/* One table of the store on its way from one database to another: what it looks like, reading it in order, writing it,
 * and its sum. The SQL is made from the schema's own names, never from anything else. */
#ifndef CLI_MIGRATE_TABLE_H
#define CLI_MIGRATE_TABLE_H

#include "store/db.h"

#define MIGRATE_BATCH 64 /* rows read, and written, at once */

struct migrate_table {
    struct str name;
    size_t column_count, key_count;
    struct str *columns;
    size_t *keys; /* the columns of the primary key, in its order */
    const char *select_first, *select_next, *insert_one, *insert_batch, *delete_all;
};

/* What a table holds. Two tables with equal sums hold the same rows, in whatever order. */
struct migrate_sum {
    uint64_t rows, hash;
};

/* List the tables, in the order of their making, so that rows that others refer to come first. They live as long as the
 * arena, which must outlive both databases: statements are found by their address. Errors: as db_tx_run, BUG for a table
 * without primary key. */
err_t migrate_list(struct db_tx *tx, struct arena *arena, struct migrate_table **out,
                   size_t *count) ERR_MUST_CHECK;

/* Read a whole table, and write what is read into `target` unless that is NULL. Errors: as db_tx_run. */
err_t migrate_read(const struct migrate_table *table, struct db_tx *source, struct db_tx *target,
                   struct migrate_sum *out) ERR_MUST_CHECK;

#endif
