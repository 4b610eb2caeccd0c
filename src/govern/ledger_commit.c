/* SPDX-License-Identifier: Apache-2.0 */
/* Committing rows: their kinds, how they come into sums, the rows, what they spent; each in an order that all processes keep
 * to. */
#include "govern/ledger_commit.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/sys.h"
#include "govern/batch.h"
#include "govern/budget_lease.h"

/* ---- rows ---- */

#define INSERT_ROWS                                                                                \
    "{{insert}} INTO ledger_rows (id, at_ms, request_id, kind_id, user_id, duration_ms, "          \
    "attempts, input, output, cached, cache_written, reasoning, is_estimated, cost_nano, slot) "   \
    "VALUES "
#define CELLS 15 /* of a row */

#define ROW "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

static char insert_one[BATCH_BYTES(INSERT_ROWS, ROW, "")];
static char insert_many[BATCH_BYTES(INSERT_ROWS, ROW, "")];

static void make_statements(void)
{
    batch_make(STR(INSERT_ROWS), STR(ROW), STR(""), 1, insert_one, sizeof(insert_one));
    batch_make(STR(INSERT_ROWS), STR(ROW), STR(""), BATCH_ROWS, insert_many, sizeof(insert_many));
}

static void put_cells(const void *of, size_t i, struct db_value *cells)
{
    const struct ledger_group *g = of;
    const struct ledger_entry *e = g->entries[i];

    cells[0] = DB_OF_INT(g->pending.first_id + (int64_t)i);
    cells[1] = DB_OF_INT(e->at_ms);
    cells[2] = DB_OF_TEXT(e->request_id);
    cells[3] = DB_OF_INT(g->kind_ids[e->kind->place]);
    cells[4] = DB_OF_TEXT(e->user);
    cells[5] = DB_OF_INT(e->ms);
    cells[6] = DB_OF_INT(e->attempts);
    cells[7] = DB_OF_INT(e->input);
    cells[8] = DB_OF_INT(e->output);
    cells[9] = DB_OF_INT(e->cached);
    cells[10] = DB_OF_INT(e->cache_written);
    cells[11] = DB_OF_INT(e->reasoning);
    cells[12] = DB_OF_INT(e->is_estimated);
    cells[13] = e->has_cost ? DB_OF_INT(e->cost_nano) : DB_OF_NULL;
    cells[14] = ledger_pending_slot(&g->pending, e);
}

static err_t insert_rows(struct db_tx *tx, const struct ledger_group *g)
{
    static const struct batch batch = {
        .one = insert_one, .many = insert_many, .columns = CELLS, .put = put_cells};
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, make_statements);
    return batch_run(tx, &batch, g, g->count, g->cells, NULL);
}

/* ---- what a group comes to ---- */

static int compare_bookings(const void *left, const void *right)
{
    const struct budget_booking *a = left, *b = right;

    return strcmp(a->account->name, b->account->name);
}

/* Bookings of one account made one: it is found in an open table of the arena. */
static err_t add_bookings(struct ledger_group *g, size_t room)
{
    struct budget_booking **slots;
    size_t slot_count = 2;

    while (slot_count < 2 * room)
        slot_count *= 2;
    slots = arena_alloc_array(g->arena, slot_count, sizeof(struct budget_booking *));
    g->bookings = arena_alloc_array(g->arena, room, sizeof(*g->bookings));
    if (!slots || !g->bookings)
        return arena_err(g->arena);
    for (size_t i = 0; i < g->count; i++) {
        const struct ledger_entry *e = g->entries[i];
        for (size_t k = 0; k < e->booking_count; k++) {
            const struct budget_booking *booking = &e->bookings[k];
            size_t at = booking->account->hash >> 8;
            while (slots[at &= slot_count - 1] && slots[at]->account != booking->account)
                at++;
            if (!slots[at]) {
                slots[at] = &g->bookings[g->booking_count++];
                *slots[at] = (struct budget_booking){booking->account, 0};
            }
            slots[at]->amount += booking->amount;
        }
    }
    return NULL;
}

/* In the order of their names, in which rows are locked. */
static err_t collect_bookings(struct ledger_group *g)
{
    size_t room = 0;

    for (size_t i = 0; i < g->count; i++)
        room += g->entries[i]->booking_count;
    TRY(add_bookings(g, room));
    g->findings = arena_alloc_array(g->arena, g->booking_count, sizeof(*g->findings));
    if (!g->findings)
        return arena_err(g->arena);
    if (g->booking_count > 1)
        qsort(g->bookings, g->booking_count, sizeof(*g->bookings), compare_bookings);
    return NULL;
}

static int compare_kinds(const void *left, const void *right)
{
    const struct ledger_kind *const *a = left, *const *b = right;

    return ledger_kind_compare(&(*a)->of, &(*b)->of);
}

/* The group's kinds, each once, in the order of their texts; each knows its place. */
static err_t collect_kinds(struct ledger_group *g)
{
    g->kinds = arena_alloc_array(g->arena, g->count, sizeof(struct ledger_kind *));
    if (!g->kinds)
        return arena_err(g->arena);
    for (size_t i = 0; i < g->count; i++) {
        struct ledger_kind *kind = g->entries[i]->kind;
        if (kind->place != LEDGER_NOWHERE)
            continue;
        kind->place = 0;
        g->kinds[g->kind_count++] = kind;
    }
    if (g->kind_count > 1)
        qsort(g->kinds, g->kind_count, sizeof(struct ledger_kind *), compare_kinds);
    g->kind_ids = arena_alloc_array(g->arena, g->kind_count, sizeof(*g->kind_ids));
    if (!g->kind_ids)
        return arena_err(g->arena);
    for (size_t i = 0; i < g->kind_count; i++) {
        g->kinds[i]->place = i;
        g->kind_ids[i] = g->kinds[i]->id;
    }
    return NULL;
}

/* What the rows are written with, their kinds being collected. */
static err_t collect_pending(struct ledger_group *g)
{
    TRY(ledger_pending_collect(g->entries, g->count, g->kind_count, g->arena, &g->pending));
    g->cells = arena_alloc_array(g->arena, (size_t)BATCH_ROWS * CELLS, sizeof(*g->cells));
    return g->cells ? NULL : arena_err(g->arena);
}

static err_t collect(struct ledger_group *g)
{
    TRY(collect_kinds(g));
    TRY(collect_bookings(g));
    return collect_pending(g);
}

static err_t prepare(struct ledger_group *g)
{
    err_t err;

    if (g->arena)
        return NULL;
    g->arena = arena_new(MEM_GOVERN, 4 * 1024 * 1024);
    err = g->arena ? collect(g) : err_no_memory();
    if (err)
        ledger_group_end(g);
    return err;
}

/* ---- the transaction ---- */

/* The rows, their kinds being numbered, and how they come into the sums. */
static err_t write_rows(struct db_tx *tx, struct ledger_group *g)
{
    TRY(ledger_pending_write(tx, &g->pending, g->writer, g->count, g->kind_ids, g->arena));
    return insert_rows(tx, g);
}

err_t ledger_commit_begin(struct db_tx *tx, const char *writer, uint64_t number, bool *is_done)
{
    struct db_rows rows;

    TRY(db_tx_run(
        tx,
        DB_ASK("INSERT INTO ledger_writers (writer, last, at_ms) VALUES ($1, $2, {{now_ms}}) "
               "ON CONFLICT (writer) DO UPDATE SET last = excluded.last, at_ms = excluded.at_ms "
               "WHERE ledger_writers.last < excluded.last",
               DB_OF_TEXT(str_from(writer)), DB_OF_INT(number)),
        NULL, &rows));
    *is_done = rows.changed == 0;
    return NULL;
}

err_t ledger_commit_row(struct db_tx *tx, const struct ledger_row *row, struct arena *arena)
{
    struct ledger_kind kind = {.of = *row};
    struct ledger_entry entry = {.kind = &kind,
                                 .request_id = row->request_id,
                                 .user = row->user,
                                 .at_ms = row->at_ms,
                                 .ms = row->ms,
                                 .attempts = row->attempts,
                                 .input = row->input,
                                 .output = row->output,
                                 .cost_nano = row->cost_nano,
                                 .is_estimated = row->is_estimated,
                                 .has_cost = row->has_cost};
    struct ledger_group *g = arena_alloc_zero(arena, sizeof(*g));
    int64_t id;

    if (!g)
        return arena_err(arena);
    TRY(ledger_kind_number(tx, row, arena, &id));
    g->entries[g->count++] = &entry;
    g->kind_ids = &id;
    g->kind_count = 1;
    g->writer = "";
    g->arena = arena;
    TRY(collect_pending(g));
    return write_rows(tx, g);
}

err_t ledger_commit_follow(struct db_tx *tx, const char *writer, uint64_t last, uint64_t number,
                           enum ledger_begun *out)
{
    struct db_rows rows;
    bool is_done;

    *out = LEDGER_BEGUN;
    TRY(db_tx_run(tx,
                  DB_ASK("UPDATE ledger_writers SET last = $1, at_ms = {{now_ms}} "
                         "WHERE writer = $2 AND last = $3",
                         DB_OF_INT(number), DB_OF_TEXT(str_from(writer)), DB_OF_INT(last)),
                  NULL, &rows));
    if (rows.changed > 0)
        return NULL;
    TRY(ledger_commit_begin(tx, writer, number, &is_done));
    if (is_done)
        *out = LEDGER_DONE;
    else if (last > 0)
        *out = LEDGER_BEHIND;
    return NULL;
}

/* In an older store numbers of kinds may be nobody's, or another's, and credit that was leased may be others'. */
static err_t begin_group(struct db_tx *tx, const struct ledger_group *g, bool *is_done)
{
    enum ledger_begun begun;

    TRY(ledger_commit_follow(tx, g->writer, g->number - g->count, g->number, &begun));
    *is_done = begun == LEDGER_DONE;
    if (begun != LEDGER_BEHIND)
        return NULL;
    ledger_kind_distrust(sys_now_ms());
    budget_lease_doubt();
    return NULL;
}

static err_t number_kinds(struct db_tx *tx, struct ledger_group *g)
{
    uint64_t now_ms = sys_now_ms();

    for (size_t i = 0; i < g->kind_count; i++)
        if (!ledger_kind_is_known(g->kinds[i], now_ms))
            TRY(ledger_kind_number(tx, &g->kinds[i]->of, g->arena, &g->kind_ids[i]));
    return NULL;
}

/* Of a group that is done, numbers and findings are still those of the try that was committed. */
static err_t write_group(struct db_tx *tx, void *arg)
{
    struct ledger_group *g = arg;
    bool is_done;

    TRY(begin_group(tx, g, &is_done));
    if (is_done)
        return NULL;
    TRY(number_kinds(tx, g));
    TRY(write_rows(tx, g));
    return budget_book_spend(tx, g->bookings, g->booking_count, g->findings);
}

err_t ledger_commit(struct db *db, struct ledger_group *g)
{
    TRY(prepare(g));
    uint64_t now_ms = sys_now_ms();

    TRY(db_transact(db, DB_WRITE, write_group, g));
    for (size_t i = 0; i < g->kind_count; i++) {
        if (!ledger_kind_is_known(g->kinds[i], now_ms))
            g->kinds[i]->known_ms = now_ms;
        g->kinds[i]->id = g->kind_ids[i];
    }
    budget_book_settle(g->bookings, g->booking_count, g->findings);
    return NULL;
}

void ledger_group_end(struct ledger_group *g)
{
    for (size_t i = 0; i < g->kind_count; i++)
        g->kinds[i]->place = LEDGER_NOWHERE;
    arena_free(g->arena);
    g->arena = NULL;
    g->booking_count = g->kind_count = 0;
}
