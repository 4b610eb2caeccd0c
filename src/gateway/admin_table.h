/* SPDX-License-Identifier: Apache-2.0 */
/* The tables that admin views are made of: filled cell by cell, shown as JSON or as aligned text.
 *
 * Filling never fails in the face of who fills: the first error is kept and returned when the tables are
 * answered with. So rows can be added in any thread, while the fiber that asked waits. */
#ifndef GATEWAY_ADMIN_TABLE_H
#define GATEWAY_ADMIN_TABLE_H

#include "base/buf.h"
#include "base/err.h"

struct request;

#define ADMIN_MAX_COLUMNS 16

struct admin_table {
    const char *name;     /* static; the member of the JSON object */
    const char **columns; /* static */
    size_t column_count;
    size_t cell_count; /* a multiple of column_count once all rows are complete */
    struct buf cells;
    err_t err; /* static: cells are also added outside fibers */
};

/* An empty table; `columns` is an array of static texts, at most ADMIN_MAX_COLUMNS. */
#define admin_table_make(name, columns)                                                            \
    admin_table_new((name), (columns), sizeof(columns) / sizeof(*(columns)))
struct admin_table admin_table_new(const char *name, const char **columns, size_t column_count);

/* Add the next cell of the current row. Copies. */
void admin_table_text(struct admin_table *table, struct str text);
void admin_table_cstr(struct admin_table *table, const char *text); /* NULL: empty */
void admin_table_u64(struct admin_table *table, uint64_t number);
void admin_table_bool(struct admin_table *table, bool value);

/* Whether the caller wants JSON: it says so in Accept or by ?format=json; else people read it. */
bool admin_wants_json(const struct request *request);

/* PARKS: answer with the tables as the caller wants them, and free them, whatever comes of it. */
err_t admin_table_reply(struct request *request, struct admin_table *tables,
                        size_t count) ERR_MUST_CHECK;

#endif
