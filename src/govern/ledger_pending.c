/* SPDX-License-Identifier: Apache-2.0 */
/* Sums that are left are numbered in their group, not named by their kinds: two kinds in memory may be one in the store, when a
 * text was mended in one of them. */
#include "govern/ledger_pending.h"

#include "base/text.h"

#define HOUR_MS (UINT64_C(3600) * 1000)
/* More kinds than these are many rows' worth of sums. */
#define FEW_KINDS 16

/* ---- adding up ---- */

static bool is_left(const struct ledger_pending *pending, const struct ledger_entry *e)
{
    return pending->is_left && e->user.len == 0;
}

void ledger_pending_count(uint64_t counters[LEDGER_COUNTERS], const struct ledger_entry *e)
{
    const uint64_t of[LEDGER_COUNTERS] = {1,
                                          e->kind->of.status >= 400,
                                          !e->has_cost,
                                          e->input,
                                          e->output,
                                          e->cached,
                                          e->cache_written,
                                          e->reasoning,
                                          e->has_cost ? e->cost_nano : 0};

    for (size_t i = 0; i < LEDGER_COUNTERS; i++)
        counters[i] += of[i];
}

uint64_t ledger_pending_hour(const struct ledger_entry *e)
{
    return e->at_ms - e->at_ms % HOUR_MS;
}

/* The last ones first: rows come in the order of time. */
static struct ledger_left *find(struct ledger_pending *pending, const struct ledger_entry *e)
{
    uint64_t hour_ms = ledger_pending_hour(e);
    struct ledger_left *s = pending->left + pending->left_count;

    while (s-- > pending->left)
        if (s->kind == e->kind && s->hour_ms == hour_ms)
            return s;
    s = &pending->left[pending->left_count++];
    *s = (struct ledger_left){.kind = e->kind, .hour_ms = hour_ms};
    return s;
}

err_t ledger_pending_collect(struct ledger_entry *const *entries, size_t count, size_t kind_count,
                             struct arena *arena, struct ledger_pending *out)
{
    *out = (struct ledger_pending){
        .left = arena_alloc_array(arena, count, sizeof(*out->left)),
        .is_left = kind_count <= FEW_KINDS,
    };
    if (!out->left)
        return arena_err(arena);
    for (size_t i = 0; i < count; i++)
        if (is_left(out, entries[i]))
            ledger_pending_count(find(out, entries[i])->counters, entries[i]);
    return NULL;
}

struct db_value ledger_pending_slot(const struct ledger_pending *pending,
                                    const struct ledger_entry *e)
{
    if (is_left(pending, e))
        return DB_OF_NULL;
    uint64_t hash = e->user.len > 0 ? text_hash(e->user, 0) : e->kind->hash;
    return DB_OF_INT((hash >> 32) % LEDGER_SLOTS);
}

/* ---- in the store ---- */

static err_t write_left(struct db_tx *tx, const struct ledger_pending *pending, size_t place,
                        int64_t kind_id)
{
    const struct ledger_left *s = &pending->left[place];

    struct db_value values[4 + LEDGER_COUNTERS] = {DB_OF_INT(pending->first_id), DB_OF_INT(place),
                                                   DB_OF_INT(s->hour_ms), DB_OF_INT(kind_id)};

    for (size_t i = 0; i < LEDGER_COUNTERS; i++)
        values[4 + i] = DB_OF_INT(s->counters[i]);
    return db_tx_run(
        tx,
        (struct db_ask){
            "{{insert}} INTO usage_left (first_id, place, begins_ms, kind_id, " LEDGER_SUM_COUNTERS
            ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
            values, sizeof(values) / sizeof(*values)},
        NULL, NULL);
}

err_t ledger_pending_write(struct db_tx *tx, struct ledger_pending *pending, const char *writer,
                           size_t count, const int64_t *kind_ids, struct arena *arena)
{
    struct db_rows rows;

    TRY(db_tx_run(tx, DB_ASK_PLAIN("{{first_id}}"), arena, &rows));
    pending->first_id = db_int(&rows, 0, 0);
    TRY(db_tx_run(tx,
                  DB_ASK("{{insert}} INTO usage_pending (first_id, last_id, writer, at_ms, done) "
                         "VALUES ($1, $2, $3, {{now_ms}}, 0)",
                         DB_OF_INT(pending->first_id),
                         DB_OF_INT(pending->first_id + (int64_t)count - 1),
                         DB_OF_TEXT(str_from(writer))),
                  NULL, NULL));
    for (size_t i = 0; i < pending->left_count; i++)
        TRY(write_left(tx, pending, i, kind_ids[pending->left[i].kind->place]));
    return NULL;
}
