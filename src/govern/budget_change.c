/* SPDX-License-Identifier: Apache-2.0 */
/* Two statements for sixteen accounts: one for their periods, which locks them and is first everywhere, one for the leases.
 *
 * The first takes for granted that leases have what is taken from them. The second tells where that was wrong: such a lease is
 * below zero then, or was not there at all, and both are put right before anybody can see them. */
#include "govern/budget_change.h"

#include <pthread.h>

#include "conf/quota.h"
#include "govern/batch.h"

/* ---- statements ---- */

#define PERIODS                                                                                    \
    "INSERT INTO budget_periods (account, scope, owner, project_id, unit, period, begins_s, "      \
    "ends_s, cap, spent, leased, opened_ms) VALUES "
#define PERIODS_ROW "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, {{now_ms}})"
#define PERIODS_ADDING                                                                             \
    " ON CONFLICT (account) DO UPDATE SET cap = excluded.cap, "                                    \
    "spent = budget_periods.spent + excluded.spent, "                                              \
    "leased = budget_periods.leased + excluded.leased RETURNING account, spent, leased"
#define PERIODS_CELLS 11

#define LEASES     "INSERT INTO budget_leases (account, holder, amount, expires_ms) VALUES "
#define LEASES_ROW "(?, ?, ?, {{now_ms}} + ?)"
#define LEASES_ADDING                                                                              \
    " ON CONFLICT (account, holder) DO UPDATE "                                                    \
    "SET amount = budget_leases.amount + excluded.amount RETURNING account, amount"
#define LEASES_CELLS 4

static char periods_one[BATCH_BYTES(PERIODS, PERIODS_ROW, PERIODS_ADDING)];
static char periods_many[BATCH_BYTES(PERIODS, PERIODS_ROW, PERIODS_ADDING)];
static char leases_one[BATCH_BYTES(LEASES, LEASES_ROW, LEASES_ADDING)];
static char leases_many[BATCH_BYTES(LEASES, LEASES_ROW, LEASES_ADDING)];

static void make_statements(void)
{
    const struct str periods = STR(PERIODS), periods_row = STR(PERIODS_ROW),
                     periods_adding = STR(PERIODS_ADDING), leases = STR(LEASES),
                     leases_row = STR(LEASES_ROW), leases_adding = STR(LEASES_ADDING);

    batch_make(periods, periods_row, periods_adding, 1, periods_one, sizeof(periods_one));
    batch_make(periods, periods_row, periods_adding, BATCH_ROWS, periods_many,
               sizeof(periods_many));
    batch_make(leases, leases_row, leases_adding, 1, leases_one, sizeof(leases_one));
    batch_make(leases, leases_row, leases_adding, BATCH_ROWS, leases_many, sizeof(leases_many));
}

/* ---- changes ---- */

struct changing {
    struct budget_change **each;
    struct str holder;
    uint64_t ttl_ms;
    bool is_opened_only; /* nothing is added yet */
};

static void put_period(const void *of, size_t i, struct db_value *cells)
{
    const struct changing *c = of;
    const struct budget_change *change = c->each[i];
    const struct budget_account *a = change->account;

    cells[0] = DB_OF_TEXT(str_from(a->name));
    cells[1] = DB_OF_TEXT(str_from(budget_scope_name(a->scope)));
    cells[2] = DB_OF_TEXT(a->owner);
    cells[3] = DB_OF_TEXT(a->project);
    cells[4] = DB_OF_TEXT(str_from(budget_unit_name(a->unit)));
    cells[5] = DB_OF_TEXT(str_from(quota_period_name(a->period)));
    cells[6] = DB_OF_INT(a->begins_s);
    cells[7] = DB_OF_INT(a->ends_s == UINT64_MAX ? INT64_MAX : (int64_t)a->ends_s);
    cells[8] = DB_OF_INT(change->cap);
    cells[9] = DB_OF_INT(c->is_opened_only ? 0 : change->spent);
    cells[10] = DB_OF_INT(c->is_opened_only ? 0 : change->leased);
}

static void put_lease(const void *of, size_t i, struct db_value *cells)
{
    const struct changing *c = of;
    const struct budget_change *change = c->each[i];

    cells[0] = DB_OF_TEXT(str_from(change->account->name));
    cells[1] = DB_OF_TEXT(c->holder);
    cells[2] = DB_OF_INT(change->leased);
    cells[3] = DB_OF_INT(c->ttl_ms);
}

/* Whose row it is: they come in the order of the statement, which no database promises. */
static struct budget_change *change_of(const struct changing *c, size_t first, size_t count,
                                       size_t likely, struct str name)
{
    for (size_t k = 0; k < count; k++) {
        struct budget_change *change = c->each[first + (likely + k) % count];
        if (str_eq(str_from(change->account->name), name))
            return change;
    }
    return NULL;
}

static err_t take_periods(const void *of, size_t first, size_t count, const struct db_rows *rows)
{
    for (size_t i = 0; i < rows->count; i++) {
        struct budget_change *change = change_of(of, first, count, i, db_text(rows, i, 0));
        if (!change)
            return err_new(ERR_BUG, "a budget was changed that was not to be");
        change->spent_now = (uint64_t)db_int(rows, i, 1);
        change->leased_now = (uint64_t)db_int(rows, i, 2);
    }
    return NULL;
}

static err_t take_leases(const void *of, size_t first, size_t count, const struct db_rows *rows)
{
    for (size_t i = 0; i < rows->count; i++) {
        struct budget_change *change = change_of(of, first, count, i, db_text(rows, i, 0));
        int64_t amount = db_int(rows, i, 1);
        if (!change)
            return err_new(ERR_BUG, "a lease was changed that was not to be");
        change->missing = amount < 0 ? (uint64_t)-amount : 0;
    }
    return NULL;
}

/* What the lease did not have was not leased in all, either. */
static err_t put_right(struct db_tx *tx, const struct changing *c, struct budget_change *change)
{
    const struct db_value account = DB_OF_TEXT(str_from(change->account->name));

    if (change->missing == 0)
        return NULL;
    TRY(db_tx_run(tx,
                  DB_ASK("UPDATE budget_leases SET amount = 0 WHERE account = $1 AND holder = $2",
                         account, DB_OF_TEXT(c->holder)),
                  NULL, NULL));
    change->leased_now += change->missing;
    return db_tx_run(tx,
                     DB_ASK("UPDATE budget_periods SET leased = leased + $1 WHERE account = $2",
                            DB_OF_INT(change->missing), account),
                     NULL, NULL);
}

static const struct batch periods = {.one = periods_one,
                                     .many = periods_many,
                                     .columns = PERIODS_CELLS,
                                     .put = put_period,
                                     .take = take_periods};
static const struct batch leases = {.one = leases_one,
                                    .many = leases_many,
                                    .columns = LEASES_CELLS,
                                    .put = put_lease,
                                    .take = take_leases};

/* Those that change a lease, or all. */
static size_t collect(struct changing *c, struct budget_change *changes, size_t count,
                      bool is_of_leases)
{
    size_t kept = 0;

    for (size_t i = 0; i < count; i++)
        if (!is_of_leases || changes[i].leased != 0)
            c->each[kept++] = &changes[i];
    return kept;
}

static err_t run(struct db_tx *tx, struct changing *c, struct budget_change *changes, size_t count,
                 struct arena *arena)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct db_value *cells =
        arena_alloc_array(arena, (size_t)BATCH_ROWS * PERIODS_CELLS, sizeof(*cells));

    c->each = arena_alloc_array(arena, count, sizeof(struct budget_change *));
    if (!cells || !c->each)
        return arena_err(arena);
    pthread_once(&once, make_statements);
    TRY(batch_run(tx, &periods, c, collect(c, changes, count, false), cells, arena));
    if (c->is_opened_only)
        return NULL;
    count = collect(c, changes, count, true);
    TRY(batch_run(tx, &leases, c, count, cells, arena));
    for (size_t i = 0; i < count; i++)
        TRY(put_right(tx, c, c->each[i]));
    return NULL;
}

err_t budget_change_open(struct db_tx *tx, struct budget_change *changes, size_t count,
                         struct arena *arena)
{
    struct changing c = {.is_opened_only = true};

    return run(tx, &c, changes, count, arena);
}

err_t budget_change_apply(struct db_tx *tx, const char *holder, uint64_t ttl_ms,
                          struct budget_change *changes, size_t count, struct arena *arena)
{
    struct changing c = {.holder = str_from(holder), .ttl_ms = ttl_ms};

    return run(tx, &c, changes, count, arena);
}
