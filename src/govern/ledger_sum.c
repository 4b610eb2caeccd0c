/* SPDX-License-Identifier: Apache-2.0 */
/* Rows find their sum in an open table of the arena. Two kinds in memory may be one in the store, as a text was mended in one of
 * them: their sums are made one, since PostgreSQL takes a row once in a statement. */
#include "govern/ledger_sum.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/sys.h"
#include "base/text.h"
#include "govern/ledger_batch.h"

#define HOUR_MS (UINT64_C(3600) * 1000)
#define CELLS   14 /* of a sum in the store */

/* ---- adding up ---- */

static bool is_of(const struct ledger_sum *s, const struct ledger_entry *e, uint64_t hour_ms)
{
    return s->kind == e->kind && s->hour_ms == hour_ms && str_eq(s->user, e->user);
}

static void add_entry(struct ledger_sum *s, const struct ledger_entry *e)
{
    s->calls++;
    s->failed += e->kind->of.status >= 400;
    s->unpriced += !e->has_cost;
    s->input += e->input;
    s->output += e->output;
    s->cached += e->cached;
    s->cache_written += e->cache_written;
    s->reasoning += e->reasoning;
    s->cost_nano += e->has_cost ? e->cost_nano : 0;
}

static void add_sum(struct ledger_sum *s, const struct ledger_sum *other)
{
    s->calls += other->calls;
    s->failed += other->failed;
    s->unpriced += other->unpriced;
    s->input += other->input;
    s->output += other->output;
    s->cached += other->cached;
    s->cache_written += other->cache_written;
    s->reasoning += other->reasoning;
    s->cost_nano += other->cost_nano;
}

/* In this order they lie in their table, and all processes write them. */
static int compare(const void *left, const void *right)
{
    const struct ledger_sum *a = left, *b = right;
    int order = (a->slot > b->slot) - (a->slot < b->slot);

    if (!order)
        order = (a->hour_ms > b->hour_ms) - (a->hour_ms < b->hour_ms);
    if (!order)
        order = ledger_kind_compare(&a->kind->of, &b->kind->of);
    return order ? order : str_compare(a->user, b->user);
}

static void sort(struct ledger_sums *sums)
{
    size_t kept = 0;

    if (sums->count < 2)
        return;
    qsort(sums->each, sums->count, sizeof(*sums->each), compare);
    for (size_t i = 1; i < sums->count; i++)
        if (compare(&sums->each[kept], &sums->each[i]) == 0)
            add_sum(&sums->each[kept], &sums->each[i]);
        else
            sums->each[++kept] = sums->each[i];
    sums->count = kept + 1;
}

err_t ledger_sum_rows(struct ledger_entry *const *entries, size_t count, struct arena *arena,
                      struct ledger_sums *sums)
{
    struct ledger_sum **slots;
    size_t slot_count = 2;

    while (slot_count < 2 * count)
        slot_count *= 2;
    slots = arena_alloc_array(arena, slot_count, sizeof(struct ledger_sum *));
    *sums = (struct ledger_sums){
        .each = arena_alloc_array(arena, count, sizeof(*sums->each)),
        .cells = arena_alloc_array(arena, LEDGER_BATCH_ROWS * CELLS, sizeof(*sums->cells)),
        .part = sys_wall_ms()};
    if (!slots || !sums->each || !sums->cells)
        return arena_err(arena);
    for (size_t i = 0; i < count; i++) {
        const struct ledger_entry *e = entries[i];
        uint64_t hour_ms = e->at_ms - e->at_ms % HOUR_MS;
        uint64_t user = e->user.len > 0 ? text_hash(e->user, 0) : 0;
        size_t at = user ^ (e->kind->hash + hour_ms / HOUR_MS);
        while (slots[at &= slot_count - 1] && !is_of(slots[at], e, hour_ms))
            at++;
        if (!slots[at]) {
            slots[at] = &sums->each[sums->count++];
            *slots[at] = (struct ledger_sum){.kind = e->kind,
                                             .user = e->user,
                                             .hour_ms = hour_ms,
                                             .slot = (unsigned)(user >> 32) % LEDGER_SLOTS};
        }
        add_entry(slots[at], e);
    }
    sort(sums);
    return NULL;
}

/* ---- in the store ---- */

#define HEAD                                                                                       \
    "{{insert}} INTO usage_recent (slot, part, begins_ms, kind_id, user_id, " LEDGER_SUM_COUNTERS  \
    ") VALUES "
/* The clock may show a moment twice: what has its place there is added up. */
#define TAIL                                                                                       \
    " ON CONFLICT (slot, part, begins_ms, kind_id, user_id) " LEDGER_SUM_ADD("usage_recent")

static char write_many[LEDGER_BATCH_BYTES(HEAD, CELLS, TAIL)];

static void make_write_many(void)
{
    ledger_batch_make(STR(HEAD), CELLS, STR(TAIL), write_many, sizeof(write_many));
}

static void put_cells(const void *of, size_t i, struct db_value *cells)
{
    const struct ledger_sums *sums = of;
    const struct ledger_sum *s = &sums->each[i];

    cells[0] = DB_OF_INT(s->slot);
    cells[1] = DB_OF_INT(sums->part);
    cells[2] = DB_OF_INT(s->hour_ms);
    cells[3] = DB_OF_INT(sums->kind_ids[s->kind->place]);
    cells[4] = DB_OF_TEXT(s->user);
    cells[5] = DB_OF_INT(s->calls);
    cells[6] = DB_OF_INT(s->failed);
    cells[7] = DB_OF_INT(s->unpriced);
    cells[8] = DB_OF_INT(s->input);
    cells[9] = DB_OF_INT(s->output);
    cells[10] = DB_OF_INT(s->cached);
    cells[11] = DB_OF_INT(s->cache_written);
    cells[12] = DB_OF_INT(s->reasoning);
    cells[13] = DB_OF_INT(s->cost_nano);
}

err_t ledger_sum_write(struct db_tx *tx, const struct ledger_sums *sums)
{
    static const struct ledger_batch batch = {
        HEAD "($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)" TAIL, write_many,
        CELLS, put_cells};
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, make_write_many);
    return ledger_batch_run(tx, &batch, sums, sums->count, sums->cells);
}
