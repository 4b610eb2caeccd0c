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

#include <stdlib.h>
#include <string.h>

#include "base/sys.h"
#include "govern/budget_change.h"
#include "govern/budget_doubt.h"
#include "govern/ledger_commit.h"

void budget_return_add(struct budget_sweep *s, struct budget_account *a, bool is_recalled)
{
    uint64_t amount = a->credit > 0 ? (uint64_t)a->credit : 0;

    if (s->count == BUDGET_SWEEP_MAX)
        return;
    s->idle[s->count++] = (struct budget_idle){.account = a,
                                               .cap = a->cap,
                                               .amount = amount,
                                               .is_recalled = is_recalled,
                                               .is_lowered = a->gives_back};
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

static err_t unmark(struct db_tx *tx, const struct budget_sweep *s, const struct budget_idle *idle)
{
    if (!idle->is_recalled)
        return NULL;
    return db_tx_run(tx,
                     DB_ASK("UPDATE budget_leases SET recalled_ms = 0 "
                            "WHERE account = $1 AND holder = $2",
                            DB_OF_TEXT(str_from(idle->account->name)),
                            DB_OF_TEXT(str_from(s->holder->name))),
                     NULL, NULL);
}

/* Those that have something to give. */
static err_t give_back(struct db_tx *tx, struct budget_sweep *s)
{
    struct budget_change *changes = arena_alloc_array(s->arena, s->count, sizeof(*changes));
    struct budget_idle **of = arena_alloc_array(s->arena, s->count, sizeof(struct budget_idle *));
    size_t count = 0;

    if (!changes || !of)
        return arena_err(s->arena);
    for (size_t i = 0; i < s->count; i++) {
        struct budget_idle *idle = &s->idle[i];
        if (idle->amount == 0)
            continue;
        of[count] = idle;
        changes[count++] = (struct budget_change){
            .account = idle->account, .cap = idle->cap, .leased = -(int64_t)idle->amount};
    }
    TRY(budget_change_apply(tx, s->holder->name, s->ttl_ms, changes, count, s->arena));
    for (size_t i = 0; i < count; i++)
        of[i]->missing = changes[i].missing > 0 ? budget_doubt_missing(of[i]->account, 0) : 0;
    return NULL;
}

static int compare(const void *left, const void *right)
{
    const struct budget_idle *a = left, *b = right;

    return strcmp(a->account->name, b->account->name);
}

static err_t give_back_all(struct db_tx *tx, void *arg)
{
    struct budget_sweep *s = arg;
    bool is_done;

    TRY(ledger_commit_begin(tx, s->holder->returner, s->number, &is_done));
    if (is_done)
        return NULL;
    TRY(give_back(tx, s));
    for (size_t i = 0; i < s->count; i++)
        TRY(unmark(tx, s, &s->idle[i]));
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
    qsort(s->idle, s->count, sizeof(*s->idle), compare);
    err = db_transact(s->holder->db, DB_WRITE, give_back_all, s);
    arena_reset(s->arena);
    s->is_in_doubt = err && (s->is_in_doubt || db_is_lost(err));
    if (!s->is_in_doubt)
        budget_return_end(s, err);
    return err;
}
