/* SPDX-License-Identifier: Apache-2.0 */
/* Money is moved in the store first and in memory when that is committed. Meanwhile a reload may change the budget, and of the lease less
 * may be there than was thought: what the transaction found is kept in between. */
#include "govern/budget_book.h"

#include "govern/budget_alert.h"
#include "govern/budget_change.h"
#include "govern/budget_doubt.h"
#include "govern/budget_lease.h"

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

/* What is to be changed for bookings of something; `of` tells which each is. */
static size_t collect(const struct budget_booking *bookings, size_t count,
                      struct budget_finding *findings, struct budget_change *changes, size_t *of)
{
    size_t kept = 0;

    for (size_t i = 0; i < count; i++) {
        const struct budget_booking *b = &bookings[i];
        uint64_t cap;
        findings[i] = (struct budget_finding){0};
        findings[i].deficit = deficit_of(b, &cap, &findings[i].is_lowered);
        if (b->amount == 0)
            continue;
        of[kept] = i;
        changes[kept++] =
            (struct budget_change){.account = b->account,
                                   .cap = cap,
                                   .spent = b->amount,
                                   .leased = -(int64_t)(b->amount - findings[i].deficit)};
    }
    return kept;
}

static err_t note(struct db_tx *tx, const struct budget_booking *b, struct budget_finding *finding,
                  const struct budget_change *change)
{
    const struct db_value account = DB_OF_TEXT(str_from(b->account->name));
    uint64_t before = finding->is_lowered ? 0 : change->spent_now - b->amount;

    if (change->missing > 0)
        finding->missing = budget_doubt_missing(b->account, 0);
    return budget_alert_note(tx, &account, change->cap, before, change->spent_now);
}

static err_t book(struct db_tx *tx, const struct budget_booking *bookings, size_t count,
                  struct budget_finding *findings, struct arena *arena)
{
    struct budget_change *changes = arena_alloc_array(arena, count, sizeof(*changes));
    size_t *of = arena_alloc_array(arena, count, sizeof(*of));

    if (!changes || !of)
        return arena_err(arena);
    count = collect(bookings, count, findings, changes, of);
    TRY(budget_change_apply(tx, budget_lease_holder(), budget_lease_ttl_ms(), changes, count,
                            arena));
    for (size_t i = 0; i < count; i++)
        TRY(note(tx, &bookings[of[i]], &findings[of[i]], &changes[i]));
    return NULL;
}

err_t budget_book_spend(struct db_tx *tx, const struct budget_booking *bookings, size_t count,
                        struct budget_finding *findings)
{
    struct arena *arena = arena_new(MEM_GOVERN, 16 * 1024 * 1024);
    err_t err = arena ? book(tx, bookings, count, findings, arena) : err_no_memory();

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
