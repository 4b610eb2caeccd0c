/* SPDX-License-Identifier: Apache-2.0 */
/* As many statements as rows make full ones, then one for each row that is left. */
#include "govern/ledger_batch.h"

#include <stdio.h>

void ledger_batch_make(struct str head, int columns, struct str tail, char *out, size_t size)
{
    size_t len = (size_t)snprintf(out, size, "%.*s", STR_ARG(head));

    for (int n = 1; n <= LEDGER_BATCH_ROWS * columns; n++) {
        const char *before = n == 1 ? "(" : n % columns == 1 ? "), (" : ", ";
        len += (size_t)snprintf(out + len, size - len, "%s$%d", before, n);
    }
    snprintf(out + len, size - len, ")%.*s", STR_ARG(tail));
}

err_t ledger_batch_run(struct db_tx *tx, const struct ledger_batch *batch, const void *of,
                       size_t count, struct db_value *cells)
{
    size_t i = 0;

    while (count - i >= LEDGER_BATCH_ROWS) {
        for (size_t row = 0; row < LEDGER_BATCH_ROWS; row++, i++)
            batch->put(of, i, cells + row * batch->columns);
        TRY(db_tx_run(tx, (struct db_ask){batch->many, cells, LEDGER_BATCH_ROWS * batch->columns},
                      NULL, NULL));
    }
    for (; i < count; i++) {
        batch->put(of, i, cells);
        TRY(db_tx_run(tx, (struct db_ask){batch->one, cells, batch->columns}, NULL, NULL));
    }
    return NULL;
}
