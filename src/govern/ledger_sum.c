/* SPDX-License-Identifier: Apache-2.0 */
/* Rows find their sum in an open table, which doubles when it is half full. */
#include "govern/ledger_sum.h"

#include <pthread.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/text.h"
#include "govern/batch.h"

#define FIRST_ROOM 1024
/* Sums of a slot are written together, long after they were made: so they lie together, some thirty in a block. */
#define BLOCK_BYTES 4096

/* ---- adding up ---- */

err_t ledger_sum_begin(struct arena *arena, struct ledger_sums *out)
{
    *out = (struct ledger_sums){
        .arena = arena,
        .table = arena_alloc_array(arena, FIRST_ROOM, sizeof(struct ledger_sum *)),
        .room = FIRST_ROOM,
    };
    return out->table ? NULL : arena_err(arena);
}

/* Where it is, or where it belongs. */
static struct ledger_sum **find(const struct ledger_sums *sums, const struct ledger_sum *s)
{
    for (size_t at = s->hash;; at++) {
        struct ledger_sum **place = &sums->table[at & (sums->room - 1)];
        if (!*place)
            return place;
        if ((*place)->hash == s->hash && (*place)->kind_id == s->kind_id &&
            (*place)->hour_ms == s->hour_ms && str_eq((*place)->user, s->user))
            return place;
    }
}

static err_t grow(struct ledger_sums *sums)
{
    struct ledger_sum **old = sums->table, **table;
    size_t old_room = sums->room;

    table = arena_alloc_array(sums->arena, 2 * old_room, sizeof(struct ledger_sum *));
    if (!table)
        return arena_err(sums->arena);
    sums->table = table;
    sums->room = 2 * old_room;
    for (size_t i = 0; i < old_room; i++)
        if (old[i])
            *find(sums, old[i]) = old[i];
    return NULL;
}

/* Room for a sum in its slot's block, or in the next one; NULL: the arena has none. */
static struct ledger_sum *take_room(struct ledger_sums *sums, struct ledger_slot *slot, size_t size)
{
    char *at;

    size = (size + alignof(struct ledger_sum) - 1) & ~(alignof(struct ledger_sum) - 1);
    if ((size_t)(slot->block_end - slot->block_at) < size) {
        size_t block = size > BLOCK_BYTES ? size : BLOCK_BYTES;
        at = arena_alloc(sums->arena, block);
        if (!at)
            return NULL;
        slot->block_at = at;
        slot->block_end = at + block;
    }
    at = slot->block_at;
    slot->block_at += size;
    return (struct ledger_sum *)(void *)at;
}

/* `looked`: its user's text will not last; the copy stands behind the sum. */
static err_t make(struct ledger_sums *sums, size_t slot, const struct ledger_sum *looked,
                  struct ledger_sum **out)
{
    struct ledger_slot *of = &sums->slots[slot % LEDGER_SLOTS];
    struct ledger_sum *s = take_room(sums, of, sizeof(*s) + looked->user.len);

    if (!s)
        return arena_err(sums->arena);
    *s = *looked;
    s->user = (struct str){(char *)(s + 1), looked->user.len};
    if (looked->user.len > 0)
        memcpy(s + 1, looked->user.ptr, looked->user.len);
    if (of->last)
        of->last->next = s;
    else
        of->first = s;
    of->last = s;
    of->count++;
    sums->count++;
    *out = s;
    return NULL;
}

static err_t get(struct ledger_sums *sums, size_t slot, struct ledger_sum *looked,
                 struct ledger_sum **out)
{
    struct ledger_sum **place;

    looked->hash = text_hash(looked->user, (uint64_t)(looked->kind_id ^ looked->hour_ms));
    if (2 * sums->count >= sums->room)
        TRY(grow(sums));
    place = find(sums, looked);
    if (!*place)
        TRY(make(sums, slot, looked, place));
    *out = *place;
    return NULL;
}

static err_t add_left(struct ledger_sums *sums, const struct ledger_left *left, int64_t kind_id)
{
    struct ledger_sum looked = {.hour_ms = (int64_t)left->hour_ms, .kind_id = kind_id}, *s;

    TRY(get(sums, 0, &looked, &s));
    for (size_t i = 0; i < LEDGER_COUNTERS; i++)
        s->counters[i] += left->counters[i];
    return NULL;
}

static err_t add_entry(struct ledger_sums *sums, const struct ledger_entry *e, int64_t kind_id,
                       size_t slot)
{
    struct ledger_sum looked = {.hour_ms = (int64_t)ledger_pending_hour(e),
                                .kind_id = kind_id,
                                .user = e->user},
                      *s;

    TRY(get(sums, slot, &looked, &s));
    ledger_pending_count(s->counters, e);
    return NULL;
}

err_t ledger_sum_add_group(struct ledger_sums *sums, const struct ledger_group *g)
{
    for (size_t i = 0; i < g->pending.left_count; i++) {
        const struct ledger_left *left = &g->pending.left[i];
        TRY(add_left(sums, left, g->kind_ids[left->kind->place]));
    }
    for (size_t i = 0; i < g->count; i++) {
        const struct ledger_entry *e = g->entries[i];
        struct db_value slot = ledger_pending_slot(&g->pending, e);
        if (slot.type == DB_INT)
            TRY(add_entry(sums, e, g->kind_ids[e->kind->place], (size_t)slot.number));
    }
    return NULL;
}

/* A row of the store: the slot, what tells sums apart, the counters. */
static err_t add_row(struct ledger_sums *sums, const struct db_value *row)
{
    struct ledger_sum looked = {
        .hour_ms = row[1].number, .kind_id = row[2].number, .user = row[3].bytes};
    struct ledger_sum *s;

    TRY(get(sums, (size_t)row[0].number, &looked, &s));
    for (size_t i = 0; i < LEDGER_COUNTERS; i++)
        s->counters[i] += (uint64_t)row[4 + i].number;
    return NULL;
}

err_t ledger_sum_add_rows(struct ledger_sums *sums, const struct db_rows *rows)
{
    for (size_t i = 0; i < rows->count; i++)
        TRY(add_row(sums, db_cell(rows, i, 0)));
    return NULL;
}

/* ---- in the store ---- */

#define CELLS (4 + LEDGER_COUNTERS) /* of a sum in the store */
#define HEAD  LEDGER_SUM_INTO("usage_open_sums") "VALUES "
#define TAIL  LEDGER_SUM_ADDING("usage_open_sums")

#define ROW "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

static char one[BATCH_BYTES(HEAD, ROW, TAIL)], many[BATCH_BYTES(HEAD, ROW, TAIL)];

static void make_statements(void)
{
    batch_make(STR(HEAD), STR(ROW), STR(TAIL), 1, one, sizeof(one));
    batch_make(STR(HEAD), STR(ROW), STR(TAIL), BATCH_ROWS, many, sizeof(many));
}

/* Sums of one slot in the order of the key, so that one after the other is found near the one before. */
struct writing {
    unsigned slot;
    struct db_value cells[BATCH_ROWS * CELLS];
    const struct ledger_sum *each[];
};

static int compare(const void *a, const void *b)
{
    const struct ledger_sum *x = *(const struct ledger_sum *const *)a,
                            *y = *(const struct ledger_sum *const *)b;

    if (x->hour_ms != y->hour_ms)
        return x->hour_ms < y->hour_ms ? -1 : 1;
    if (x->kind_id != y->kind_id)
        return x->kind_id < y->kind_id ? -1 : 1;
    return str_compare(x->user, y->user);
}

static void put_cells(const void *of, size_t i, struct db_value *cells)
{
    const struct writing *w = of;
    const struct ledger_sum *s = w->each[i];

    cells[0] = DB_OF_INT(s->hour_ms);
    cells[1] = DB_OF_INT(w->slot);
    cells[2] = DB_OF_INT(s->kind_id);
    cells[3] = DB_OF_TEXT(s->user);
    for (size_t k = 0; k < LEDGER_COUNTERS; k++)
        cells[4 + k] = DB_OF_INT(s->counters[k]);
}

err_t ledger_sum_write(struct db_tx *tx, const struct ledger_sums *sums, unsigned slot)
{
    static const struct batch batch = {
        .one = one, .many = many, .columns = CELLS, .put = put_cells};
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    const struct ledger_slot *of = &sums->slots[slot];
    size_t size = sizeof(struct writing) + of->count * sizeof(of->first), count = 0;
    struct writing *w = mem_alloc(MEM_GOVERN, size);
    err_t err;

    if (!w)
        return err_no_memory();
    pthread_once(&once, make_statements);
    w->slot = slot;
    for (const struct ledger_sum *s = of->first; s; s = s->next)
        w->each[count++] = s;
    qsort(w->each, count, sizeof(*w->each), compare);
    err = batch_run(tx, &batch, w, count, w->cells, NULL);
    mem_free(MEM_GOVERN, w, size);
    return err;
}
