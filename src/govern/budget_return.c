/* SPDX-License-Identifier: Apache-2.0 */
/* Giving credit back.
 *
 * A sweep takes the credit of accounts that nobody has used for the time of a lease, or whose cap
 * was lowered, out of memory, and then out of the store, in one transaction.
 *
 * The hard thing is a commit that nobody has heard of. The sweep is numbered as the ledger's groups
 * are, and is run again unchanged until it is known to have happened; until then its credit belongs
 * to nobody. */
#include "govern/budget_return.h"

#include "base/sys.h"
#include "govern/budget_doubt.h"
#include "govern/ledger_commit.h"

err_t budget_return_shrink_lease(struct db_tx *tx, const char *holder_name, struct str account,
                                 uint64_t amount, struct arena *arena, uint64_t *taken)
{
    struct str holder = str_from(holder_name);
    struct db_rows rows;

    *taken = amount;
    TRY(db_tx_run(tx,
                  DB_ASK("UPDATE budget_leases SET amount = amount - $1 "
                         "WHERE account = $2 AND holder = $3 AND amount >= $1",
                         DB_OF_INT(amount), DB_OF_TEXT(account), DB_OF_TEXT(holder)),
                  NULL, &rows));
    if (rows.changed > 0)
        return NULL;
    TRY(db_tx_run(tx,
                  DB_ASK("SELECT amount FROM budget_leases WHERE account = $1 AND holder = $2 "
                         "{{for_update}}",
                         DB_OF_TEXT(account), DB_OF_TEXT(holder)),
                  arena, &rows));
    *taken = rows.count > 0 ? (uint64_t)db_int(&rows, 0, 0) : 0;
    return db_tx_run(tx,
                     DB_ASK("UPDATE budget_leases SET amount = 0 "
                            "WHERE account = $1 AND holder = $2",
                            DB_OF_TEXT(account), DB_OF_TEXT(holder)),
                     NULL, NULL);
}

void budget_return_add(struct budget_sweep *s, struct budget_account *a, bool is_recalled)
{
    uint64_t amount = a->credit > 0 ? (uint64_t)a->credit : 0;

    if (s->count == BUDGET_SWEEP_MAX)
        return;
    s->idle[s->count++] = (struct budget_idle){
        .account = a, .amount = amount, .is_recalled = is_recalled, .is_lowered = a->gives_back};
    a->gives_back = false;
    a->leased -= amount;
    a->credit -= (int64_t)amount;
    a->references++;
}

static bool find_idle(struct budget_account *a, void *arg)
{
    struct budget_sweep *s = arg;
    bool is_unused = a->references == 0 && a->reserved == 0 && a->unbooked == 0;

    bool is_old = is_unused && (s->is_last || a->used_ms + s->ttl_ms <= s->now_ms);

    if (!is_old && !a->gives_back)
        return false;
    if (a->credit <= 0) { /* nothing is lost with it */
        a->gives_back = false;
        return is_old;
    }
    budget_return_add(s, a, false);
    return false;
}

static err_t unmark(struct db_tx *tx, const struct budget_sweep *s, struct str account)
{
    return db_tx_run(tx,
                     DB_ASK("UPDATE budget_leases SET recalled_ms = 0 "
                            "WHERE account = $1 AND holder = $2",
                            DB_OF_TEXT(account), DB_OF_TEXT(str_from(s->holder->name))),
                     NULL, NULL);
}

static err_t give_back_one(struct db_tx *tx, const struct budget_sweep *s, struct budget_idle *idle)
{
    struct str name = str_from(idle->account->name);
    uint64_t amount;

    if (idle->amount == 0)
        return unmark(tx, s, name);
    /* The account's row is locked first, as everywhere. */
    TRY(db_tx_run(
        tx,
        DB_ASK("UPDATE budget_periods SET leased = leased WHERE account = $1", DB_OF_TEXT(name)),
        NULL, NULL));
    TRY(budget_return_shrink_lease(tx, s->holder->name, name, idle->amount, s->arena, &amount));
    idle->missing = amount < idle->amount ? budget_doubt_missing(idle->account, 0) : 0;
    if (idle->is_recalled)
        TRY(unmark(tx, s, name));
    return db_tx_run(tx,
                     DB_ASK("UPDATE budget_periods SET leased = leased - $1 WHERE account = $2",
                            DB_OF_INT(amount), DB_OF_TEXT(name)),
                     NULL, NULL);
}

static err_t give_back_all(struct db_tx *tx, void *arg)
{
    struct budget_sweep *s = arg;
    bool is_done;

    TRY(ledger_commit_begin(tx, s->holder->returner, s->number, &is_done));
    if (is_done)
        return NULL;
    for (size_t i = 0; i < s->count; i++)
        TRY(give_back_one(tx, s, &s->idle[i]));
    return db_tx_run(tx,
                     DB_ASK("DELETE FROM budget_leases WHERE holder = $1 AND amount <= 0",
                            DB_OF_TEXT(str_from(s->holder->name))),
                     NULL, NULL);
}

void budget_return_end(struct budget_sweep *s, err_t err)
{
    size_t doubtful = 0;

    for (size_t i = 0; i < s->count; i++) {
        struct budget_account *a = s->idle[i].account;
        budget_account_lock(a);
        if (err) {
            a->leased += s->idle[i].amount;
            a->credit += (int64_t)s->idle[i].amount;
            a->gives_back |= s->idle[i].is_lowered;
        } else {
            a->left += s->idle[i].amount;
            budget_doubt_drop(a, s->idle[i].missing);
            doubtful += s->idle[i].missing > 0;
        }
        a->references--;
        budget_account_unlock(a);
    }
    budget_doubt_tell(doubtful);
}

void budget_return_begin(struct budget_sweep *s)
{
    s->count = 0;
    s->number = ++s->holder->number;
    s->now_ms = sys_now_ms();
    s->ttl_ms = atomic_load(&s->holder->ttl_ms);
}

err_t budget_return_give(struct budget_sweep *s)
{
    if (!s->is_in_doubt) {
        budget_return_begin(s);
        budget_account_each(find_idle, s);
    }
    return budget_return_commit(s);
}

err_t budget_return_commit(struct budget_sweep *s)
{
    err_t err;

    if (s->count == 0)
        return NULL;
    err = db_transact(s->holder->db, DB_WRITE, give_back_all, s);
    arena_reset(s->arena);
    s->is_in_doubt = err && (s->is_in_doubt || db_is_lost(err));
    if (!s->is_in_doubt)
        budget_return_end(s, err);
    return err;
}
