/* SPDX-License-Identifier: Apache-2.0 */
/* Rows find their sum in an open table of the arena. Two kinds may be summed up under one name, as only their outcomes
 * differ, say: then the store adds up two sums. */
#include "govern/ledger_sum.h"

#include <stdlib.h>

#include "base/text.h"

#define HOUR_MS (UINT64_C(3600) * 1000)
#define DAY_MS  (24 * HOUR_MS)

/* ---- adding up ---- */

static bool is_of(const struct ledger_sum *s, const struct ledger_entry *e, uint64_t hour_ms)
{
    return s->of == &e->kind->of && s->hour_ms == hour_ms && str_eq(s->user, e->user);
}

static void add(struct ledger_sum *s, const struct ledger_entry *e)
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

static int compare(const void *left, const void *right)
{
    const struct ledger_sum *a = left, *b = right;
    int order = (a->hour_ms > b->hour_ms) - (a->hour_ms < b->hour_ms);

    if (!order)
        order = ledger_kind_compare(a->of, b->of);
    return order ? order : str_compare(a->user, b->user);
}

err_t ledger_sum_rows(struct ledger_entry *const *entries, size_t count, struct arena *arena,
                      struct ledger_sum **sums, size_t *sum_count)
{
    struct ledger_sum **slots;
    size_t slot_count = 2;

    while (slot_count < 2 * count)
        slot_count *= 2;
    slots = arena_alloc_array(arena, slot_count, sizeof(struct ledger_sum *));
    *sums = arena_alloc_array(arena, count, sizeof(**sums));
    *sum_count = 0;
    if (!slots || !*sums)
        return arena_err(arena);
    for (size_t i = 0; i < count; i++) {
        const struct ledger_entry *e = entries[i];
        uint64_t hour_ms = e->at_ms - e->at_ms % HOUR_MS;
        uint64_t hash = e->kind->hash + hour_ms / HOUR_MS;
        size_t at = e->user.len > 0 ? text_hash(e->user, hash) : hash;
        while (slots[at &= slot_count - 1] && !is_of(slots[at], e, hour_ms))
            at++;
        if (!slots[at]) {
            slots[at] = &(*sums)[(*sum_count)++];
            *slots[at] =
                (struct ledger_sum){.of = &e->kind->of, .user = e->user, .hour_ms = hour_ms};
        }
        add(slots[at], e);
    }
    if (*sum_count > 1)
        qsort(*sums, *sum_count, sizeof(**sums), compare);
    return NULL;
}

/* ---- in the store ---- */

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

static err_t write_sum(struct db_tx *tx, const char *sql, uint64_t span_ms,
                       const struct ledger_sum *s)
{
    const struct ledger_row *r = s->of;
    const struct db_value values[] = {
        DB_OF_INT(s->hour_ms - s->hour_ms % span_ms),
        DB_OF_TEXT(r->org),
        DB_OF_TEXT(r->project),
        DB_OF_TEXT(r->key),
        DB_OF_TEXT(s->user),
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

err_t ledger_sum_write(struct db_tx *tx, const struct ledger_sum *s)
{
    TRY(write_sum(tx, UPSERT_SUM("usage_hours"), HOUR_MS, s));
    return write_sum(tx, UPSERT_SUM("usage_days"), DAY_MS, s);
}
