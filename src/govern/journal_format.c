/* SPDX-License-Identifier: Apache-2.0 */
/* Words, sums, and reading them in the order in which they can be believed. */
#include "govern/journal_format.h"

#include <string.h>

#include "base/sys.h"
#include "base/text.h"

#define KIND_BITS   2
#define SLOTS_BITS  4
#define TARGET_BITS 8
#define SUM_BITS    32
#define DAY_MS      UINT64_C(86400000)
/* What a crash leaves is no older than this: 2020. */
#define FIRST_MS UINT64_C(1577836800000)
#define MOST_MS  (366 * DAY_MS)

/* ---- words and sums ---- */

uint64_t journal_word(enum journal_kind kind, size_t slots, size_t target_at, uint64_t sum)
{
    uint64_t low = (uint64_t)kind | (uint64_t)slots << KIND_BITS |
                   (uint64_t)(target_at / 8) << (KIND_BITS + SLOTS_BITS);

    sum ^= low * UINT64_C(0x9E3779B97F4A7C15); /* the sum covers what the word itself says */
    return low | sum >> SUM_BITS << SUM_BITS;
}

size_t journal_word_slots(uint64_t word)
{
    return word >> KIND_BITS & ((1u << SLOTS_BITS) - 1);
}

static size_t target_of(uint64_t word)
{
    return (word >> (KIND_BITS + SLOTS_BITS) & ((1u << TARGET_BITS) - 1)) * 8;
}

uint64_t journal_sum_asker(const struct journal_record *record, size_t texts_end)
{
    const char *from = (const char *)&record->began_ms, *to = (const char *)record + texts_end;

    return text_hash((struct str){from, (size_t)(to - from)}, 0);
}

uint64_t journal_sum_target(const struct journal_target *target, uint64_t asker)
{
    size_t len = sizeof(*target) + target->provider_len + target->model_len;

    return text_hash((struct str){(const char *)target, len}, asker);
}

uint64_t journal_sum_end(const struct journal_end *end, uint64_t target)
{
    return text_hash((struct str){(const char *)end, sizeof(*end)}, target);
}

/* ---- the head ---- */

static uint64_t sum_of(const struct journal_head *head)
{
    return text_hash((struct str){(const char *)head, offsetof(struct journal_head, sum)}, 0);
}

void journal_head_make(struct journal_head *head, const char *writer, const char *name)
{
    memset(head, 0, sizeof(*head));
    memcpy(head->magic, JOURNAL_MAGIC, sizeof(head->magic));
    memcpy(head->writer, writer, strnlen(writer, JOURNAL_NAME_BYTES - 1));
    memcpy(head->name, name, strnlen(name, JOURNAL_NAME_BYTES - 1));
    head->sum = sum_of(head);
}

bool journal_head_is_good(const struct journal_head *head)
{
    return memcmp(head->magic, JOURNAL_MAGIC, sizeof(head->magic)) == 0 &&
           head->sum == sum_of(head) && memchr(head->writer, 0, JOURNAL_NAME_BYTES) &&
           memchr(head->name, 0, JOURNAL_NAME_BYTES) && text_is_utf8(str_from(head->writer)) &&
           text_is_utf8(str_from(head->name));
}

/* ---- reading ---- */

/* Where the texts end; past the record if they are not within it. */
static size_t end_of_texts(const struct journal_record *record)
{
    size_t end = offsetof(struct journal_record, texts);

    for (int i = 0; i < JOURNAL_TEXTS; i++)
        end += record->lens[i];
    return end;
}

/* The target that a word names, if it lies behind the texts and within the record. */
static const struct journal_target *find_target(const struct journal_record *record, uint64_t word)
{
    size_t at = target_of(word), most = journal_word_slots(word) * JOURNAL_SLOT_BYTES;
    const struct journal_target *target = (const void *)((const char *)record + at);

    if (end_of_texts(record) > at || at + sizeof(*target) > most ||
        at + sizeof(*target) + target->provider_len + target->model_len > most)
        return NULL;
    return target;
}

static bool is_time(uint64_t at_ms)
{
    return at_ms >= FIRST_MS && at_ms <= sys_wall_ms() + DAY_MS;
}

static bool is_good_end(const struct journal_end *end)
{
    size_t len = strnlen(end->outcome, sizeof(end->outcome));

    return is_time(end->at_ms) && end->ms <= MOST_MS && len > 0 && len < sizeof(end->outcome);
}

/* The row of who asked whom. */
static void fill_row(const struct journal_record *record, const struct journal_target *target,
                     struct ledger_row *row)
{
    struct str *const texts[JOURNAL_TEXTS] = {[JOURNAL_REQUEST_ID] = &row->request_id,
                                              [JOURNAL_ORG] = &row->org,
                                              [JOURNAL_PROJECT] = &row->project,
                                              [JOURNAL_KEY] = &row->key,
                                              [JOURNAL_USER] = &row->user,
                                              [JOURNAL_MODEL] = &row->model,
                                              [JOURNAL_ROUTE] = &row->route};
    const char *at = record->texts;

    *row = (struct ledger_row){
        .at_ms = record->began_ms,
        .outcome = STR("killed"),
        .status = 503,
        .attempts = target->attempts,
        .input = record->input,
        .is_estimated = true,
        .provider = {target->texts, target->provider_len},
        .upstream_model = {target->texts + target->provider_len, target->model_len}};
    for (int i = 0; i < JOURNAL_TEXTS; at += record->lens[i++])
        *texts[i] = (struct str){at, record->lens[i]};
}

static void fill_end(const struct journal_end *end, bool is_booked, struct ledger_row *row)
{
    if (!is_booked) {
        row->outcome = str_from(end->outcome);
        row->status = end->status;
    }
    row->at_ms = end->at_ms;
    row->ms = end->ms;
    row->attempts = end->attempts;
    row->input = end->input;
    row->output = end->output;
    row->cached = end->cached;
    row->cache_written = end->cache_written;
    row->reasoning = end->reasoning;
    row->cost_nano = end->cost_nano;
    row->is_estimated = end->is_estimated;
    row->has_cost = end->has_cost;
}

/* What lost leases have already. */
static void leave_out(unsigned booked, struct ledger_row *row)
{
    if (booked & JOURNAL_BOOKED_TOKENS)
        row->input = row->output = row->cached = row->cache_written = row->reasoning = 0;
    if (booked & JOURNAL_BOOKED_COST) {
        row->has_cost = true;
        row->cost_nano = 0;
    }
}

enum journal_kind journal_read(const char *chunk, size_t at, struct journal_stream *out)
{
    const struct journal_record *record = (const void *)(chunk + at * JOURNAL_SLOT_BYTES);
    const struct journal_target *target;
    enum journal_kind kind;
    uint64_t word, sum;
    size_t slots;

    memcpy(&word, chunk + at * sizeof(word), sizeof(word));
    out->slots = 1;
    if (word == 0)
        return JOURNAL_FREE;
    kind = journal_word_kind(word);
    slots = journal_word_slots(word);
    if ((kind != JOURNAL_OPEN && kind != JOURNAL_ENDED) || slots == 0 ||
        slots > JOURNAL_MOST_SLOTS || at + slots > JOURNAL_SLOTS ||
        !(target = find_target(record, word)))
        return JOURNAL_DAMAGED;
    sum = journal_sum_target(target, journal_sum_asker(record, end_of_texts(record)));
    if (kind == JOURNAL_ENDED)
        sum = journal_sum_end(&record->end, sum);
    if (journal_word(kind, slots, target_of(word), sum) != word || !is_time(record->began_ms) ||
        (kind == JOURNAL_ENDED && !is_good_end(&record->end)))
        return JOURNAL_DAMAGED;
    fill_row(record, target, &out->row);
    if (kind == JOURNAL_ENDED)
        fill_end(&record->end, record->booked != 0, &out->row);
    leave_out(record->booked, &out->row);
    out->number = record->end.number;
    out->slots = slots;
    return kind;
}
