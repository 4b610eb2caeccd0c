/* SPDX-License-Identifier: Apache-2.0 */
/* Moving sums in the order of their key, some thousand in a transaction: each sum is open, or it is in its hour and its day, at
 * every moment and wherever this is broken off. A transaction has sums of one hour only, as two hours' may be of one day, and
 * PostgreSQL takes a row once in a statement. */
#include "govern/ledger_close.h"

#include "govern/ledger_sum.h"

/* Calls of an hour are added up within the next (ledger_fold.c), but for those of who was killed. */
#define OPEN_MS (INT64_C(2) * 3600 * 1000)
/* The store is busy with so many for some 50 ms. */
#define MOVE_SUMS 8192

struct closing {
    struct arena *arena;
    bool is_done;
};

/* The last of the first sums to be moved, if there are any. */
static err_t find_last(struct db_tx *tx, struct arena *arena, struct db_rows *last)
{
    return db_tx_run(tx,
                     DB_ASK("SELECT " LEDGER_SUM_KEY " FROM (SELECT " LEDGER_SUM_KEY " FROM "
                            "usage_open_sums WHERE begins_ms = (SELECT MIN(begins_ms) FROM "
                            "usage_open_sums WHERE begins_ms <= (SELECT {{now_ms}}) - $1) "
                            "ORDER BY slot, kind_id, user_id LIMIT $2) AS sums "
                            "ORDER BY slot DESC, kind_id DESC, user_id DESC LIMIT 1",
                            DB_OF_INT(OPEN_MS), DB_OF_INT(MOVE_SUMS)),
                     arena, last);
}

#define UP_TO_LAST                                                                                 \
    " FROM usage_open_sums WHERE begins_ms = $1 AND (slot, kind_id, user_id) <= ($2, $3, $4)"
#define HOURS "usage_hour_sums"
#define DAYS  "usage_day_sums"

static err_t move(struct db_tx *tx, void *arg)
{
    static const char *const statements[] = {
        LEDGER_SUM_INTO(HOURS) "SELECT " LEDGER_SUM_KEY
                               ", " LEDGER_SUM_COUNTERS UP_TO_LAST LEDGER_SUM_ADDING(HOURS),
        LEDGER_SUM_INTO(DAYS) "SELECT begins_ms - begins_ms % 86400000, slot, kind_id, "
                              "user_id, " LEDGER_SUM_COUNTERS UP_TO_LAST LEDGER_SUM_ADDING(DAYS),
        "DELETE" UP_TO_LAST};
    struct closing *c = arg;
    struct db_rows last;

    arena_reset(c->arena);
    TRY(db_tx_run(tx, DB_ASK_PLAIN("{{lock_sums}}"), NULL, NULL));
    TRY(find_last(tx, c->arena, &last));
    c->is_done = last.count == 0;
    for (size_t i = 0; !c->is_done && i < sizeof(statements) / sizeof(*statements); i++)
        TRY(db_tx_run(tx, (struct db_ask){statements[i], db_cell(&last, 0, 0), 4}, NULL, NULL));
    return NULL;
}

err_t ledger_close_hours(struct db *db)
{
    struct closing c = {.arena = arena_new(MEM_GOVERN, 64 * 1024)};
    err_t err = c.arena ? NULL : err_no_memory();

    while (!err && !c.is_done)
        err = db_transact(db, DB_WRITE, move, &c);
    arena_free(c.arena);
    return err;
}
