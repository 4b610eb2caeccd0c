/* SPDX-License-Identifier: Apache-2.0 */
/* Money is moved in the store first and in memory when that is committed. Meanwhile a reload may change the budget, and of the lease less
 * may be there than was thought: what the transaction found is kept in between. */
#include "govern/budget_book.h"

#include "conf/quota.h"
#include "govern/budget_alert.h"
#include "govern/budget_doubt.h"
#include "govern/budget_lease.h"
#include "govern/budget_return.h"

err_t budget_book_open(struct db_tx *tx, const struct budget_account *a, uint64_t cap)
{
    struct db_ask ask = DB_ASK(
        "INSERT INTO budget_periods (account, scope, owner, project_id, unit, period, begins_s, "
        "ends_s, cap, "
        "spent, leased, opened_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 0, 0, {{now_ms}}) "
        "ON CONFLICT (account) DO UPDATE SET cap = excluded.cap",
        DB_OF_TEXT(str_from(a->name)), DB_OF_TEXT(str_from(budget_scope_name(a->scope))),
        DB_OF_TEXT(a->owner), DB_OF_TEXT(a->project),
        DB_OF_TEXT(str_from(budget_unit_name(a->unit))),
        DB_OF_TEXT(str_from(quota_period_name(a->period))), DB_OF_INT(a->begins_s),
        DB_OF_INT(a->ends_s == UINT64_MAX ? INT64_MAX : (int64_t)a->ends_s), DB_OF_INT(cap));

    return db_tx_run(tx, ask, NULL, NULL);
}

/* How much of a booking was never leased, and the cap, which a reload may change meanwhile. */
static uint64_t deficit_of(const struct budget_booking *b, uint64_t *cap, bool *is_lowered)
{
    struct budget_account *a = b->account;
    uint64_t deficit;

    budget_account_lock(a);
    deficit = a->credit < 0 ? (uint64_t)-a->credit : 0;
    if (deficit > b->amount)
        deficit = b->amount;
    a->booking = b->amount - deficit;
    *cap = a->booking_cap = a->cap;
    *is_lowered = a->cap < a->booked_cap;
    budget_account_unlock(a);
    return deficit;
}

static err_t book_one(struct db_tx *tx, const struct budget_booking *b,
                      struct budget_finding *finding, struct arena *arena)
{
    struct budget_account *a = b->account;
    const struct db_value account = DB_OF_TEXT(str_from(a->name));
    uint64_t cap, wanted, leased, spent;
    struct db_rows rows;
    bool is_lowered;

    *finding = (struct budget_finding){.deficit = deficit_of(b, &cap, &is_lowered)};
    if (b->amount == 0)
        return NULL;
    wanted = b->amount - finding->deficit;
    TRY(budget_book_open(tx, a, cap));
    TRY(budget_return_shrink_lease(tx, budget_lease_holder(), str_from(a->name), wanted, arena,
                                   &leased));
    if (leased < wanted)
        finding->missing = budget_doubt_missing(a, 0);
    TRY(db_tx_run(tx,
                  DB_ASK("UPDATE budget_periods SET spent = spent + $1, leased = leased - $2 "
                         "WHERE account = $3 RETURNING spent",
                         DB_OF_INT(b->amount), DB_OF_INT(leased), account),
                  arena, &rows));
    if (rows.count == 0)
        return NULL;
    spent = (uint64_t)db_int(&rows, 0, 0);
    return budget_alert_note(tx, &account, cap, is_lowered ? 0 : spent - b->amount, spent);
}

err_t budget_book_spend(struct db_tx *tx, const struct budget_booking *bookings, size_t count,
                        struct budget_finding *findings)
{
    struct arena *arena = arena_new(MEM_GOVERN, 16 * 1024 * 1024);
    err_t err = arena ? NULL : err_no_memory();

    for (size_t i = 0; !err && i < count; i++)
        err = book_one(tx, &bookings[i], &findings[i], arena);
    arena_free(arena);
    return err;
}

/* Of the lease less may be left than was taken from it: what was found missing meanwhile. */
void budget_book_settle(const struct budget_booking *bookings, size_t count,
                        const struct budget_finding *findings)
{
    size_t doubtful = 0;

    for (size_t i = 0; i < count; i++) {
        struct budget_account *a = bookings[i].account;
        uint64_t taken = bookings[i].amount - findings[i].deficit;
        budget_account_lock(a);
        if (taken > a->leased)
            taken = a->leased;
        a->booked_cap = a->booking_cap;
        a->booking = 0;
        a->unbooked -= bookings[i].amount;
        a->leased -= taken;
        a->credit += (int64_t)(bookings[i].amount - taken);
        budget_doubt_drop(a, findings[i].missing);
        budget_account_unlock(a);
        doubtful += findings[i].missing > 0;
    }
    budget_doubt_tell(doubtful);
}
