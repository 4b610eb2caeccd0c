/* SPDX-License-Identifier: Apache-2.0 */
/* A slot's sums are added to those of hours and days and deleted, in one transaction that sees one state of them all, so
 * none is lost or added twice whatever other processes leave meanwhile. Should two of them take the same slot, the
 * database refuses one, which is then run again and finds nothing. */
#include "govern/ledger_fold.h"

#include "observe/log.h"

/* So many sums change some three pages for ten of a million random users; and the store is busy for some 50 ms. */
#define FOLD_SUMS 8192

/* Sums that this process left in each slot since its last turn. Of the ledger's fiber. */
static size_t left[LEDGER_SLOTS];

void ledger_fold_open(void)
{
    for (unsigned slot = 0; slot < LEDGER_SLOTS; slot++)
        left[slot] = FOLD_SUMS;
}

void ledger_fold_note(const struct ledger_sums *sums)
{
    for (size_t i = 0; i < sums->count; i++)
        left[sums->each[i].slot]++;
}

/* ---- in the store ---- */

#define KEY "begins_ms, slot, kind_id, user_id"

/* SQLite adds up what comes more than once as fast as it would sort it; PostgreSQL must get each once. */
#define ADD_TO(table, begins_ms)                                                                   \
    "{{insert}} INTO " table " (" KEY ", " LEDGER_SUM_COUNTERS ") SELECT " begins_ms               \
    ", slot, kind_id, user_id, {{sum}}(calls), {{sum}}(failed), {{sum}}(unpriced), "               \
    "{{sum}}(input), {{sum}}(output), {{sum}}(cached), {{sum}}(cache_written), "                   \
    "{{sum}}(reasoning), {{sum}}(cost_nano) FROM usage_recent WHERE slot = $1 {{each_once}} "      \
    "ON CONFLICT (" KEY ") " LEDGER_SUM_ADD(table)

static err_t fold_slot(struct db_tx *tx, void *arg)
{
    struct db_value slot = DB_OF_INT(*(unsigned *)arg);

    TRY(db_tx_run(tx, DB_ASK_PLAIN("{{one_state}}"), NULL, NULL));
    TRY(db_tx_run(tx, DB_ASK(ADD_TO("usage_hour_sums", "begins_ms"), slot), NULL, NULL));
    TRY(db_tx_run(tx, DB_ASK(ADD_TO("usage_day_sums", "begins_ms - begins_ms % 86400000"), slot),
                  NULL, NULL));
    return db_tx_run(tx, DB_ASK("DELETE FROM usage_recent WHERE slot = $1", slot), NULL, NULL);
}

void ledger_fold(struct db *db)
{
    unsigned slot = 0;
    err_t err;

    for (unsigned i = 1; i < LEDGER_SLOTS; i++)
        if (left[i] > left[slot])
            slot = i;
    if (left[slot] < FOLD_SUMS)
        return;
    left[slot] = 0;
    err = db_transact(db, DB_WRITE, fold_slot, &slot);
    if (err && err->kind != ERR_KILLED)
        log_error("sums of usage could not be brought together", err);
}
