/* SPDX-License-Identifier: Apache-2.0 */
/* Committing rows.
 *
 * For its sums a group is sorted by what its sums are kept by, so that a thousand calls of one key are one change of
 * that key's sum. */
#include "govern/ledger_commit.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"

#define HOUR_MS (UINT64_C(3600) * 1000)
#define DAY_MS  (24 * HOUR_MS)

/* ---- rows ---- */

#define INSERT_ROWS                                                                                \
    "INSERT INTO ledger (at_ms, request_id, org_id, project_id, key_id, user_id, model, "          \
    "provider, upstream_model, route, outcome, status, duration_ms, attempts, input, output, "     \
    "cached, cache_written, reasoning, is_estimated, cost_nano, booked) VALUES "
#define CELLS 22 /* of a row */
/* Most of what a statement costs does not depend on how many rows it has; more than so many gain little. */
#define ROWS_AT_ONCE 8

static void put_cells(const struct ledger_row *r, struct db_value cells[CELLS])
{
    const struct db_value of[CELLS] = {
        DB_OF_INT(r->at_ms),
        DB_OF_TEXT(r->request_id),
        DB_OF_TEXT(r->org),
        DB_OF_TEXT(r->project),
        DB_OF_TEXT(r->key),
        DB_OF_TEXT(r->user),
        DB_OF_TEXT(r->model),
        DB_OF_TEXT(r->provider),
        DB_OF_TEXT(r->upstream_model),
        DB_OF_TEXT(r->route),
        DB_OF_TEXT(r->outcome),
        DB_OF_INT(r->status),
        DB_OF_INT(r->ms),
        DB_OF_INT(r->attempts),
        DB_OF_INT(r->input),
        DB_OF_INT(r->output),
        DB_OF_INT(r->cached),
        DB_OF_INT(r->cache_written),
        DB_OF_INT(r->reasoning),
        DB_OF_INT(r->is_estimated),
        r->has_cost ? DB_OF_INT(r->cost_nano) : DB_OF_NULL,
        DB_OF_TEXT(r->booked),
    };

    memcpy(cells, of, sizeof(of));
}

static err_t insert_row(struct db_tx *tx, const struct ledger_row *row)
{
    static const char sql[] =
        INSERT_ROWS "($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, "
                    "$18, $19, $20, $21, $22)";
    struct db_value cells[CELLS];

    put_cells(row, cells);
    return db_tx_run(tx, (struct db_ask){sql, cells, CELLS}, NULL, NULL);
}

/* The statement for ROWS_AT_ONCE rows; made once, as statements are known by their address. */
static char insert_many[sizeof(INSERT_ROWS) + ROWS_AT_ONCE * CELLS * sizeof("($176, ")];

static void make_insert_many(void)
{
    size_t len = sizeof(INSERT_ROWS) - 1;

    memcpy(insert_many, INSERT_ROWS, len);
    for (int n = 1; n <= ROWS_AT_ONCE * CELLS; n++) {
        const char *before = n == 1 ? "(" : n % CELLS == 1 ? "), (" : ", ";
        len += (size_t)snprintf(insert_many + len, sizeof(insert_many) - len, "%s$%d", before, n);
    }
    insert_many[len] = ')'; /* the array was all zero */
}

static err_t insert_rows(struct db_tx *tx, const struct ledger_group *g)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    size_t i = 0;

    pthread_once(&once, make_insert_many);
    while (g->count - i >= ROWS_AT_ONCE) {
        for (size_t row = 0; row < ROWS_AT_ONCE; row++)
            put_cells(&g->entries[i++]->row, g->cells + row * CELLS);
        TRY(db_tx_run(tx, (struct db_ask){insert_many, g->cells, ROWS_AT_ONCE * CELLS}, NULL,
                      NULL));
    }
    for (; i < g->count; i++)
        TRY(insert_row(tx, &g->entries[i]->row));
    return NULL;
}

/* ---- sums ---- */

struct sum {
    const struct ledger_row *of; /* one of its rows, for what they have in common */
    uint64_t calls, failed, unpriced, input, output, cached, cache_written, reasoning, cost_nano;
};

static void add_to_sum(struct sum *s, const struct ledger_row *r)
{
    s->calls++;
    s->failed += r->status >= 400;
    s->unpriced += !r->has_cost;
    s->input += r->input;
    s->output += r->output;
    s->cached += r->cached;
    s->cache_written += r->cache_written;
    s->reasoning += r->reasoning;
    s->cost_nano += r->has_cost ? r->cost_nano : 0;
}

/* The two tables have the same columns. */
#define UPSERT_SUM(table)                                                                          \
    "INSERT INTO " table " (begins_ms, org_id, project_id, key_id, user_id, model, provider, "     \
    "upstream_model, calls, failed, unpriced, input, output, cached, cache_written, reasoning, "   \
    "cost_nano) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, "   \
    "$17) ON CONFLICT (begins_ms, project_id, key_id, user_id, model, provider, upstream_model, "  \
    "org_id) DO UPDATE SET calls = " table ".calls + excluded.calls, "                             \
    "failed = " table ".failed + excluded.failed, "                                                \
    "unpriced = " table ".unpriced + excluded.unpriced, "                                          \
    "input = " table ".input + excluded.input, output = " table ".output + excluded.output, "      \
    "cached = " table ".cached + excluded.cached, "                                                \
    "cache_written = " table ".cache_written + excluded.cache_written, "                           \
    "reasoning = " table ".reasoning + excluded.reasoning, "                                       \
    "cost_nano = " table ".cost_nano + excluded.cost_nano"

static err_t write_sum(struct db_tx *tx, const char *sql, uint64_t span_ms, const struct sum *s)
{
    const struct ledger_row *r = s->of;
    const struct db_value values[] = {
        DB_OF_INT(r->at_ms - r->at_ms % span_ms),
        DB_OF_TEXT(r->org),
        DB_OF_TEXT(r->project),
        DB_OF_TEXT(r->key),
        DB_OF_TEXT(r->user),
        DB_OF_TEXT(r->model),
        DB_OF_TEXT(r->provider),
        DB_OF_TEXT(r->upstream_model),
        DB_OF_INT(s->calls),
        DB_OF_INT(s->failed),
        DB_OF_INT(s->unpriced),
        DB_OF_INT(s->input),
        DB_OF_INT(s->output),
        DB_OF_INT(s->cached),
        DB_OF_INT(s->cache_written),
        DB_OF_INT(s->reasoning),
        DB_OF_INT(s->cost_nano),
    };

    return db_tx_run(tx, (struct db_ask){sql, values, sizeof(values) / sizeof(*values)}, NULL,
                     NULL);
}

static err_t write_sums(struct db_tx *tx, const struct sum *s)
{
    TRY(write_sum(tx, UPSERT_SUM("usage_hours"), HOUR_MS, s));
    return write_sum(tx, UPSERT_SUM("usage_days"), DAY_MS, s);
}

err_t ledger_commit_row(struct db_tx *tx, const struct ledger_row *row)
{
    struct sum sum = {.of = row};

    TRY(insert_row(tx, row));
    add_to_sum(&sum, row);
    return write_sums(tx, &sum);
}

static int compare_strs(struct str a, struct str b)
{
    size_t len = a.len < b.len ? a.len : b.len;
    int order = len ? memcmp(a.ptr, b.ptr, len) : 0;

    return order ? order : (a.len > b.len) - (a.len < b.len);
}

/* By hour and then by what sums are kept by. */
static int compare_entries(const void *left, const void *right)
{
    const struct ledger_row *a = &(*(struct ledger_entry *const *)left)->row;
    const struct ledger_row *b = &(*(struct ledger_entry *const *)right)->row;
    uint64_t hour_a = a->at_ms / HOUR_MS, hour_b = b->at_ms / HOUR_MS;
    const struct str pairs[][2] = {{a->project, b->project},
                                   {a->key, b->key},
                                   {a->user, b->user},
                                   {a->model, b->model},
                                   {a->provider, b->provider},
                                   {a->upstream_model, b->upstream_model},
                                   {a->org, b->org}};

    if (hour_a != hour_b)
        return hour_a < hour_b ? -1 : 1;
    for (size_t i = 0; i < sizeof(pairs) / sizeof(*pairs); i++) {
        int order = compare_strs(pairs[i][0], pairs[i][1]);
        if (order)
            return order;
    }
    return 0;
}

static err_t write_group_sums(struct db_tx *tx, const struct ledger_group *group)
{
    struct sum sum = {.of = &group->sorted[0]->row};

    for (size_t i = 0; i < group->count; i++) {
        if (i > 0 && compare_entries(&group->sorted[i - 1], &group->sorted[i]) != 0) {
            TRY(write_sums(tx, &sum));
            sum = (struct sum){.of = &group->sorted[i]->row};
        }
        add_to_sum(&sum, &group->sorted[i]->row);
    }
    return write_sums(tx, &sum);
}

/* ---- the transaction ---- */

static int compare_bookings(const void *left, const void *right)
{
    const struct budget_booking *a = left, *b = right;

    return strcmp(a->account->name, b->account->name);
}

/* Accounts in the order of their names, each once: the order in which rows are locked. */
static size_t merge(struct budget_booking *bookings, size_t count)
{
    size_t kept = 0;

    if (count > 0)
        qsort(bookings, count, sizeof(*bookings), compare_bookings);
    for (size_t i = 0; i < count; i++) {
        if (kept > 0 && bookings[kept - 1].account == bookings[i].account)
            bookings[kept - 1].amount += bookings[i].amount;
        else
            bookings[kept++] = bookings[i];
    }
    return kept;
}

static err_t collect(struct ledger_group *g)
{
    size_t room = 0;

    for (size_t i = 0; i < g->count; i++)
        room += g->entries[i]->booking_count;
    g->bookings = arena_alloc_array(g->arena, room, sizeof(*g->bookings));
    g->deficits = arena_alloc_array(g->arena, room, sizeof(*g->deficits));
    g->sorted = arena_alloc_array(g->arena, g->count, sizeof(struct ledger_entry *));
    g->cells = arena_alloc_array(g->arena, (size_t)ROWS_AT_ONCE * CELLS, sizeof(*g->cells));
    if (!g->bookings || !g->deficits || !g->sorted || !g->cells)
        return arena_err(g->arena);
    for (size_t i = 0; i < g->count; i++) {
        const struct ledger_entry *e = g->entries[i];
        for (size_t k = 0; k < e->booking_count; k++)
            g->bookings[g->booking_count++] = e->bookings[k];
    }
    g->booking_count = merge(g->bookings, g->booking_count);
    memcpy(g->sorted, g->entries, g->count * sizeof(struct ledger_entry *));
    qsort(g->sorted, g->count, sizeof(struct ledger_entry *), compare_entries);
    return NULL;
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

/* Of a group that is done, the deficits are still those of the try that was committed. */
static err_t write_group(struct db_tx *tx, void *arg)
{
    struct ledger_group *g = arg;
    bool is_done;

    TRY(ledger_commit_begin(tx, g->writer, g->number, &is_done));
    if (is_done)
        return NULL;
    TRY(insert_rows(tx, g));
    TRY(write_group_sums(tx, g));
    return budget_lease_book(tx, g->bookings, g->booking_count, g->deficits);
}

err_t ledger_commit(struct db *db, struct ledger_group *g)
{
    TRY(prepare(g));
    TRY(db_transact(db, DB_WRITE, write_group, g));
    budget_lease_booked(g->bookings, g->booking_count, g->deficits);
    return NULL;
}

void ledger_group_end(struct ledger_group *g)
{
    arena_free(g->arena);
    g->arena = NULL;
    g->booking_count = 0;
}
