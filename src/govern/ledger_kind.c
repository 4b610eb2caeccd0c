/* SPDX-License-Identifier: Apache-2.0 */
/* A table of kinds. Kinds that no row refers to stay, as more of them will come, until there are too many.
 * In the store they stay until ledger_retire.h finds them out of use. */
#include "govern/ledger_kind.h"

#include <stddef.h>

#include "base/mem.h"
#include "base/text.h"
#include "base/word.h"
#include "observe/log.h"

#define BUCKETS 4096
/* Some 400 bytes each. */
#define MAX_KINDS 16384

static struct {
    struct ledger_kind *buckets[BUCKETS];
    size_t count;
    uint64_t trusted_ms; /* numbers that were learnt before may be wrong */
} kinds;

/* The texts of a kind. */
static const size_t text_offsets[] = {
    offsetof(struct ledger_row, key),     offsetof(struct ledger_row, model),
    offsetof(struct ledger_row, booked),  offsetof(struct ledger_row, provider),
    offsetof(struct ledger_row, project), offsetof(struct ledger_row, upstream_model),
    offsetof(struct ledger_row, route),   offsetof(struct ledger_row, outcome),
    offsetof(struct ledger_row, org),
};
#define TEXTS (sizeof(text_offsets) / sizeof(*text_offsets))

static const struct str *text_of(const struct ledger_row *row, size_t i)
{
    return (const struct str *)(const void *)((const char *)row + text_offsets[i]);
}

void ledger_kind_mend(char *text, size_t len)
{
    if (word_is_plain(text, len))
        return;
    for (size_t at = 0; at < len;) {
        size_t step = text_utf8_length((struct str){text + at, len - at});
        if (step == 0 || text[at] == 0)
            text[at] = '?';
        at += step ? step : 1;
    }
}

/* ---- in memory ---- */

/* By what differs most and is short. */
static uint64_t hash_of(const struct ledger_row *row)
{
    return text_hash(row->key, text_hash(row->model, row->status));
}

/* Most are names of a few bytes, for which a call would cost more than looking. */
static bool is_same(struct str a, struct str b)
{
    if (a.len != b.len)
        return false;
    if (a.len == 0 || a.len > WORD_BYTES)
        return str_eq(a, b);
    return word_load_few(a.ptr, a.len) == word_load_few(b.ptr, b.len);
}

static bool is_of(const struct ledger_kind *kind, const struct ledger_row *row, uint64_t hash)
{
    if (kind->hash != hash || kind->of.status != row->status)
        return false;
    for (size_t i = 0; i < TEXTS; i++)
        if (!is_same(*text_of(&kind->of, i), *text_of(row, i)))
            return false;
    return true;
}

static struct ledger_kind *make(const struct ledger_row *row, uint64_t hash)
{
    size_t bytes = sizeof(struct ledger_kind);
    struct ledger_kind *kind;
    char *to;

    for (size_t i = 0; i < TEXTS; i++)
        bytes += text_of(row, i)->len;
    kind = mem_alloc(MEM_GOVERN, bytes);
    if (!kind)
        return NULL;
    *kind = (struct ledger_kind){
        .hash = hash, .bytes = bytes, .place = LEDGER_NOWHERE, .of.status = row->status};
    to = (char *)(kind + 1);
    for (size_t i = 0; i < TEXTS; i++) {
        struct str text = *text_of(row, i);
        if (text.len > 0)
            memcpy(to, text.ptr, text.len);
        ledger_kind_mend(to, text.len);
        *(struct str *)(uintptr_t)text_of(&kind->of, i) = (struct str){to, text.len};
        to += text.len;
    }
    return kind;
}

/* What is found comes to the front of its bucket: behind it are kinds of days gone by. */
struct ledger_kind *ledger_kind_take(const struct ledger_row *row)
{
    uint64_t hash = hash_of(row);
    struct ledger_kind **bucket = &kinds.buckets[hash % BUCKETS], **at = bucket, *kind;

    while (*at && !is_of(*at, row, hash))
        at = &(*at)->next;
    kind = *at;
    if (kind)
        *at = kind->next;
    else if ((kind = make(row, hash)))
        kinds.count++;
    else
        return NULL;
    kind->next = *bucket;
    *bucket = kind;
    kind->references++;
    return kind;
}

void ledger_kind_give(struct ledger_kind *kind)
{
    kind->references--;
}

void ledger_kind_sweep(bool all)
{
    if (!all && kinds.count <= MAX_KINDS)
        return;
    for (size_t i = 0; i < BUCKETS; i++)
        for (struct ledger_kind **at = &kinds.buckets[i], *kind; (kind = *at);) {
            if (kind->references > 0) {
                at = &kind->next;
                continue;
            }
            *at = kind->next;
            kinds.count--;
            mem_free(MEM_GOVERN, kind, kind->bytes);
        }
}

int ledger_kind_compare(const struct ledger_row *a, const struct ledger_row *b)
{
    if (a == b)
        return 0;
    for (size_t i = 0; i < TEXTS; i++) {
        int order = str_compare(*text_of(a, i), *text_of(b, i));
        if (order)
            return order;
    }
    return (a->status > b->status) - (a->status < b->status);
}

/* ---- in the store ---- */

bool ledger_kind_is_known(const struct ledger_kind *kind, uint64_t now_ms)
{
    return kind->id != 0 && kind->known_ms >= kinds.trusted_ms &&
           now_ms - kind->known_ms < LEDGER_KIND_TRUST_MS;
}

void ledger_kind_distrust(uint64_t now_ms)
{
    kinds.trusted_ms = now_ms;
    log_begin(LOG_ERROR, "the store does not know all rows of the ledger that it had committed");
    log_cstr("remedy", "have the primary wait for its standbys: docs/postgresql.md");
    log_end();
}

#define COLUMNS                                                                                    \
    "key_id, model, booked, provider, upstream_model, route, outcome, status, project_id, org_id"

err_t ledger_kind_number(struct db_tx *tx, const struct ledger_row *row, struct arena *arena,
                         int64_t *id)
{
    static const char find[] =
        "SELECT id, CASE WHEN seen_ms >= {{now_ms}} - $11 THEN 1 ELSE 0 END FROM ledger_kinds "
        "WHERE key_id = $1 AND model = $2 AND booked = $3 AND provider = $4 AND "
        "upstream_model = $5 AND route = $6 AND outcome = $7 AND status = $8 AND project_id = $9 "
        "AND org_id = $10";
    static const char enter[] =
        "INSERT INTO ledger_kinds (" COLUMNS ", seen_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, "
        "$9, $10, {{now_ms}}) ON CONFLICT (" COLUMNS ") DO UPDATE SET seen_ms = excluded.seen_ms";
    const struct db_value values[] = {
        DB_OF_TEXT(row->key),      DB_OF_TEXT(row->model),          DB_OF_TEXT(row->booked),
        DB_OF_TEXT(row->provider), DB_OF_TEXT(row->upstream_model), DB_OF_TEXT(row->route),
        DB_OF_TEXT(row->outcome),  DB_OF_INT(row->status),          DB_OF_TEXT(row->project),
        DB_OF_TEXT(row->org),      DB_OF_INT(LEDGER_KIND_SEEN_MS)};
    size_t count = sizeof(values) / sizeof(*values);
    struct db_rows rows;

    TRY(db_tx_run(tx, (struct db_ask){find, values, count}, arena, &rows));
    if (rows.count == 0 || db_int(&rows, 0, 1) == 0) {
        TRY(db_tx_run(tx, (struct db_ask){enter, values, count - 1}, NULL, NULL));
        TRY(db_tx_run(tx, (struct db_ask){find, values, count}, arena, &rows));
    }
    if (rows.count == 0)
        return err_new(ERR_STORE, "a kind of the ledger's rows has vanished");
    *id = db_int(&rows, 0, 0);
    return NULL;
}
