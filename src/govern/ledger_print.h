/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of usage, of the ledger and of budgets as JSON or CSV.
 *
 * Money is printed exactly: whole nano-units as a decimal number. */
#ifndef GOVERN_LEDGER_PRINT_H
#define GOVERN_LEDGER_PRINT_H

#include "base/json_writer.h"
#include "store/db.h"

enum ledger_cell {
    LEDGER_TEXT,
    LEDGER_COUNT,
    LEDGER_MONEY,  /* NULL: not known */
    LEDGER_AMOUNT, /* tokens or money, as the row's column `unit` says */
    LEDGER_MS,     /* a moment */
    LEDGER_SECOND, /* a moment in seconds; INT64_MAX: never */
    LEDGER_FLAG,
    LEDGER_NUMBER /* NULL: not known */
};

struct ledger_column {
    const char *name;
    enum ledger_cell kind;
    bool is_left_out;
};

/* One row as an object in a list. `row` has as many cells as there are columns. */
void ledger_print_json(const struct ledger_column *columns, size_t count,
                       const struct db_value *row, struct json_writer *w);

/* The names of the columns, and one row, as lines of CSV (RFC 4180). A text that a spreadsheet would take for a formula gets an
 * apostrophe in front. */
err_t ledger_print_csv_head(const struct ledger_column *columns, size_t count,
                            struct buf *out) ERR_MUST_CHECK;
err_t ledger_print_csv(const struct ledger_column *columns, size_t count,
                       const struct db_value *row, struct buf *out) ERR_MUST_CHECK;

#endif
