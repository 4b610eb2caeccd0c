/* SPDX-License-Identifier: Apache-2.0 */
/* As many statements as rows make full ones, then one for each row that is left. */
#include "govern/batch.h"

#include <stdio.h>

void batch_make(struct str head, struct str row, struct str tail, size_t rows, char *out,
                size_t size)
{
    size_t len = (size_t)snprintf(out, size, "%.*s", STR_ARG(head)), number = 1;

    for (size_t i = 0; i < rows; i++) {
        len += (size_t)snprintf(out + len, size - len, "%s", i > 0 ? ", " : "");
        for (size_t k = 0; k < row.len; k++) {
            if (row.ptr[k] == '?')
                len += (size_t)snprintf(out + len, size - len, "$%zu", number++);
            else
                out[len++] = row.ptr[k];
        }
    }
    snprintf(out + len, size - len, "%.*s", STR_ARG(tail));
}

static err_t run_one(struct db_tx *tx, const struct batch *batch, const void *of, size_t first,
                     size_t count, struct db_value *cells, struct arena *arena)
{
    struct db_rows rows;

    for (size_t i = 0; i < count; i++)
        batch->put(of, first + i, cells + i * batch->columns);
    TRY(db_tx_run(
        tx, (struct db_ask){count > 1 ? batch->many : batch->one, cells, count * batch->columns},
        arena, batch->take ? &rows : NULL));
    return batch->take ? batch->take(of, first, count, &rows) : NULL;
}

err_t batch_run(struct db_tx *tx, const struct batch *batch, const void *of, size_t count,
                struct db_value *cells, struct arena *arena)
{
    size_t i = 0;

    for (; count - i >= BATCH_ROWS; i += BATCH_ROWS)
        TRY(run_one(tx, batch, of, i, BATCH_ROWS, cells, arena));
    for (; i < count; i++)
        TRY(run_one(tx, batch, of, i, 1, cells, arena));
    return NULL;
}
