/* SPDX-License-Identifier: Apache-2.0 */
/* All accounts are marked, those of which the store has a lease are compared with it, and what is marked then has none.
 *
 * What is booked meanwhile is taken from the lease first and from memory a moment later: so much may be missing there. */
#include "govern/budget_doubt.h"

#include "base/buf.h"
#include "observe/log.h"

#define PAGE 1024

static uint64_t missing_of(const struct budget_account *a, uint64_t known)
{
    return a->leased > known + a->booking ? a->leased - a->booking - known : 0;
}

uint64_t budget_doubt_missing(struct budget_account *a, uint64_t known)
{
    uint64_t missing;

    budget_account_lock(a);
    missing = missing_of(a, known);
    budget_account_unlock(a);
    return missing;
}

/* Less may be left by now than when it was looked for. */
void budget_doubt_drop(struct budget_account *a, uint64_t missing)
{
    uint64_t lost = missing < a->leased ? missing : a->leased;

    a->leased -= lost;
    a->credit -= (int64_t)lost;
}

void budget_doubt_tell(size_t count)
{
    if (count == 0)
        return;
    log_begin(LOG_WARN, "the store does not know credit that it had leased: it is not spent");
    log_u64("budgets", count);
    log_end();
}

/* ---- all of them ---- */

static bool mark(struct budget_account *a, void *arg)
{
    (void)arg;
    a->is_doubted = true;
    return false;
}

static bool compare(struct budget_account *a, uint64_t known)
{
    uint64_t missing = missing_of(a, known);

    a->is_doubted = false;
    budget_doubt_drop(a, missing);
    return missing > 0;
}

static bool compare_marked(struct budget_account *a, void *count)
{
    if (a->is_doubted)
        *(size_t *)count += compare(a, 0);
    return false;
}

static size_t compare_rows(const struct db_rows *rows)
{
    size_t count = 0;

    for (size_t i = 0; i < rows->count; i++) {
        struct budget_account *a =
            budget_account_peek_named(db_text(rows, i, 1), db_text(rows, i, 2), db_text(rows, i, 3),
                                      (uint64_t)db_int(rows, i, 4), db_text(rows, i, 5));
        if (!a)
            continue;
        count += compare(a, (uint64_t)db_int(rows, i, 6));
        budget_account_unlock(a);
    }
    return count;
}

/* Leases behind the one of `after`; the name of the last of them comes there. */
static err_t compare_page(struct db *db, const char *holder, struct arena *arena, struct buf *after,
                          bool *is_last, size_t *count)
{
    struct db_rows rows;

    TRY(db_run(db, DB_READ,
               DB_ASK("SELECT l.account, p.scope, p.unit, p.period, p.begins_s, p.owner, l.amount "
                      "FROM budget_leases l JOIN budget_periods p ON p.account = l.account "
                      "WHERE l.holder = $1 AND l.account > $2 ORDER BY l.account LIMIT $3",
                      DB_OF_TEXT(str_from(holder)), DB_OF_TEXT(buf_str(after)), DB_OF_INT(PAGE)),
               arena, &rows));
    *count += compare_rows(&rows);
    *is_last = rows.count < PAGE;
    if (*is_last)
        return NULL;
    after->len = 0;
    return buf_add(after, db_text(&rows, rows.count - 1, 0));
}

err_t budget_doubt_resolve(struct db *db, const char *holder, struct arena *arena)
{
    struct buf after = buf_make(MEM_GOVERN, (size_t)64 * 1024);
    bool is_last = false;
    size_t count = 0;
    err_t err = NULL;

    budget_account_each(mark, NULL);
    while (!err && !is_last) {
        err = compare_page(db, holder, arena, &after, &is_last, &count);
        arena_reset(arena);
    }
    buf_fini(&after);
    if (!err)
        budget_account_each(compare_marked, &count);
    budget_doubt_tell(count);
    return err;
}
