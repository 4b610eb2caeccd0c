/* SPDX-License-Identifier: Apache-2.0 */
/* Asking credit back.
 *
 * Calls that wait lease what they may need, which is more than most of them use, and one process may so hold
 * what another lacks. Who lacks it marks the leases of the others, and a topic wakes them. They give back
 * what is idle, be it nothing, and take the mark off. Who asked looks again when all have answered, or after
 * WAIT_MS: who has not answered by then stands still or is dead, and is not waited for again.
 *
 * The hard thing is credit on its way to calls that wait for it: it looks idle, and if it were given away, two
 * processes could pass it to and fro for ever. So what was granted a moment ago stays until it is older. */
#include "govern/budget_recall.h"

#include "base/sys.h"
#include "observe/log.h"

/* Longer than a process that missed the notice takes to look by itself. */
#define WAIT_MS 1500
/* Calls look for their credit every few milliseconds. */
#define FRESH_MS 50

static const char topic[] = "budget_recall";

/* ---- asking ---- */

struct asking {
    struct str account, holder;
    bool is_first;
    struct arena *arena;
    uint64_t unanswered;
};

static err_t ask(struct db_tx *tx, void *arg)
{
    struct asking *q = arg;
    struct db_rows rows = {0};

    if (q->is_first) {
        TRY(db_tx_run(
            tx,
            DB_ASK("UPDATE budget_leases SET recalled_ms = {{now_ms}} "
                   "WHERE account = $1 AND holder <> $2 AND amount > 0 AND recalled_ms = 0",
                   DB_OF_TEXT(q->account), DB_OF_TEXT(q->holder)),
            NULL, &rows));
        if (rows.changed > 0)
            TRY(db_tx_notify(tx, topic));
    }
    TRY(db_tx_run(tx,
                  DB_ASK("SELECT count(*) FROM budget_leases WHERE account = $1 AND holder <> $2 "
                         "AND recalled_ms > {{now_ms}} - $3",
                         DB_OF_TEXT(q->account), DB_OF_TEXT(q->holder), DB_OF_INT(WAIT_MS)),
                  q->arena, &rows));
    q->unanswered = (uint64_t)db_int(&rows, 0, 0);
    return NULL;
}

bool budget_recall_ask(const struct budget_holder *holder, struct budget_account *a)
{
    struct asking q = {.account = str_from(a->name), .holder = str_from(holder->name)};
    bool is_under_way = a->recall != RECALL_NONE && sys_now_ms() <= a->recall_until_ms;
    err_t err;

    if (is_under_way && a->recall == RECALL_ANSWERED) { /* looked again, and it did not suffice */
        a->recall = RECALL_NONE;
        return false;
    }
    q.is_first = !is_under_way;
    if (q.is_first)
        a->recall_until_ms = sys_now_ms() + WAIT_MS;
    q.arena = arena_new(MEM_GOVERN, 64 * 1024);
    err = q.arena ? db_transact(holder->db, DB_WRITE, ask, &q) : err_no_memory();
    arena_free(q.arena);
    if (err && err->kind != ERR_KILLED)
        log_error("idle credit could not be asked back", err);
    if (err || (q.is_first && q.unanswered == 0))
        a->recall = RECALL_NONE;
    else
        a->recall = q.unanswered > 0 ? RECALL_ASKED : RECALL_ANSWERED;
    return a->recall != RECALL_NONE;
}

/* ---- answering ---- */

static const char select_recalled[] =
    "SELECT l.account, p.scope, p.unit, p.period, p.begins_s, p.owner FROM budget_leases l "
    "JOIN budget_periods p ON p.account = l.account "
    "WHERE l.holder = $1 AND l.recalled_ms > 0 ORDER BY l.account LIMIT 256";

/* Its account, locked; NULL: this process has forgotten it. */
static struct budget_account *account_of(const struct db_rows *rows, size_t i)
{
    return budget_account_peek_named(db_text(rows, i, 1), db_text(rows, i, 2), db_text(rows, i, 3),
                                     (uint64_t)db_int(rows, i, 4), db_text(rows, i, 5));
}

/* Nothing is known of that lease here, so there is nothing to give. */
static err_t answer_empty(const struct budget_holder *holder, struct str account)
{
    return db_run(holder->db, DB_WRITE,
                  DB_ASK("UPDATE budget_leases SET recalled_ms = 0 "
                         "WHERE account = $1 AND holder = $2",
                         DB_OF_TEXT(account), DB_OF_TEXT(str_from(holder->name))),
                  NULL, NULL);
}

bool budget_recall_is_asked(const struct budget_holder *holder)
{
    return db_topic_version(holder->db, topic) != holder->recalls_seen;
}

err_t budget_recall_answer(struct budget_sweep *s)
{
    struct budget_holder *holder = s->holder;
    uint64_t seen = db_topic_version(holder->db, topic);
    bool is_all = true;
    struct db_rows rows;
    err_t err = NULL, failed;

    if (s->is_in_doubt)
        return budget_return_give(s);
    TRY(db_run(holder->db, DB_READ, DB_ASK(select_recalled, DB_OF_TEXT(str_from(holder->name))),
               s->arena, &rows));
    budget_return_begin(s);
    for (size_t i = 0; i < rows.count && !err; i++) {
        struct budget_account *a = account_of(&rows, i);
        if (!a) {
            err = answer_empty(holder, db_text(&rows, i, 0));
            continue;
        }
        if (a->granted_ms + FRESH_MS > sys_now_ms())
            is_all = false;
        else
            budget_return_add(s, a, true);
        budget_account_unlock(a);
    }
    failed = budget_return_commit(s);
    arena_reset(s->arena);
    if (is_all && !err && !failed)
        holder->recalls_seen = seen;
    return err ? err : failed;
}
