/* SPDX-License-Identifier: Apache-2.0 */
/* Holders that died.
 *
 * What they had leased and nobody will book any more is booked as spent, with a row `killed`.
 *
 * The hard thing is that nobody knows what they spent: so all of it, too much rather than too
 * little. A holder that only seemed dead finds its lease gone and takes no more from it. */
#include "govern/budget_recovery.h"

#include "base/sys.h"
#include "govern/budget_alert.h"
#include "govern/ledger_commit.h"
#include "observe/log.h"

static const char select_expired[] =
    "SELECT l.account, l.holder, l.amount, p.scope, p.owner, p.project_id, p.unit, "
    "coalesce((SELECT j.org_id FROM projects j WHERE j.id = p.project_id), '') "
    "FROM budget_leases l JOIN budget_periods p ON p.account = l.account "
    "WHERE l.expires_ms < {{now_ms}} AND l.holder <> $1 ORDER BY l.account LIMIT 256 "
    "{{for_update}}";
static const char select_others[] =
    "SELECT l.account, l.holder, l.amount, p.scope, p.owner, p.project_id, p.unit, "
    "coalesce((SELECT j.org_id FROM projects j WHERE j.id = p.project_id), '') "
    "FROM budget_leases l JOIN budget_periods p ON p.account = l.account "
    "WHERE l.holder <> $1 ORDER BY l.account LIMIT 256 {{for_update}}";

struct recovery {
    const char *select, *holder;
    struct arena *arena;
    size_t count;
};

/* Spend what was leased. Nobody else tells of the marks that this passes. */
static err_t spend(struct db_tx *tx, struct str account, uint64_t amount, struct arena *arena)
{
    const struct db_value name = DB_OF_TEXT(account);
    struct db_rows rows;
    uint64_t spent;

    TRY(db_tx_run(tx,
                  DB_ASK("UPDATE budget_periods SET spent = spent + $1, leased = leased - $1 "
                         "WHERE account = $2 RETURNING spent, cap",
                         DB_OF_INT(amount), name),
                  arena, &rows));
    if (rows.count == 0)
        return NULL;
    spent = (uint64_t)db_int(&rows, 0, 0);
    return budget_alert_note(tx, &name, (uint64_t)db_int(&rows, 0, 1), spent - amount, spent);
}

static err_t bury(struct db_tx *tx, const struct db_rows *rows, size_t i, struct arena *arena)
{
    struct str account = db_text(rows, i, 0), holder = db_text(rows, i, 1);
    struct str scope = db_text(rows, i, 3), owner = db_text(rows, i, 4);
    bool is_money = str_eq(db_text(rows, i, 6), STR("money"));
    uint64_t amount = (uint64_t)db_int(rows, i, 2);
    struct ledger_row row = {.at_ms = sys_wall_ms(),
                             .org = db_text(rows, i, 7),
                             .project = db_text(rows, i, 5),
                             .outcome = STR("killed"),
                             .booked = {account.ptr, account.len - owner.len - 1},
                             .is_estimated = true,
                             .has_cost = is_money,
                             .cost_nano = is_money ? amount : 0,
                             .input = is_money ? 0 : amount};

    if (str_eq(scope, STR("key")))
        row.key = owner;
    if (str_eq(scope, STR("user")))
        row.user = str_after(owner, row.project.len + 1);
    TRY(db_tx_run(tx,
                  DB_ASK("DELETE FROM budget_leases WHERE account = $1 AND holder = $2",
                         DB_OF_TEXT(account), DB_OF_TEXT(holder)),
                  NULL, NULL));
    if (amount == 0)
        return NULL;
    TRY(spend(tx, account, amount, arena));
    return ledger_commit_row(tx, &row, arena);
}

static err_t bury_all(struct db_tx *tx, void *arg)
{
    struct recovery *r = arg;
    struct db_rows rows;

    TRY(db_tx_run(tx, ((struct db_ask){r->select, &DB_OF_TEXT(str_from(r->holder)), 1}), r->arena,
                  &rows));
    r->count = rows.count;
    for (size_t i = 0; i < rows.count; i++)
        TRY(bury(tx, &rows, i, r->arena));
    return NULL;
}

/* Book what holders had that are no more. */
static err_t recover(struct db *db, const char *select, const char *holder)
{
    struct recovery r = {.select = select, .holder = holder};
    err_t err = NULL;

    do {
        r.count = 0;
        r.arena = arena_new(MEM_GOVERN, 1024 * 1024);
        err = r.arena ? db_transact(db, DB_WRITE, bury_all, &r) : err_no_memory();
        arena_free(r.arena);
        if (!err && r.count > 0) {
            log_begin(LOG_WARN, "credit of processes that died was booked as spent");
            log_u64("leases", r.count);
            log_end();
        }
    } while (!err && r.count == 256);
    return err;
}

err_t budget_recovery_book_expired(struct db *db, const char *holder)
{
    return recover(db, select_expired, holder);
}

err_t budget_recovery_book_others(struct db *db, const char *holder)
{
    return recover(db, select_others, holder);
}
