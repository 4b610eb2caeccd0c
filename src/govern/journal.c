/* SPDX-License-Identifier: Apache-2.0 */
/* Places for records. Each worker takes them of chunks of its own, so its lock is mostly nobody else's; a chunk has a bit for each
 * free slot. Bits of what was committed are set again when no slot is left: until then nobody looks. */
#include "govern/journal.h"

#include <pthread.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <string.h>

#include "base/mem.h"
#include "base/sys.h"
#include "base/text.h"
#include "fiber/loop.h"
#include "fiber/offload.h"
#include "govern/journal_file.h"
#include "observe/log.h"

#define STRIPES 16
#define ALL     (UINT64_MAX << JOURNAL_FIRST_SLOT)
/* A disk that was full is not asked again before. */
#define RETRY_MS 1000
/* As the ledger cuts them. */
#define MOST_MODEL_BYTES 200
#define MOST_USER_BYTES  512

struct journal_chunk {
    struct journal_chunk *next; /* in a ring */
    char *memory;
    uint64_t free;
};

struct journal_slot {
    _Atomic uint64_t *word;
    struct journal_record *record;
    uint64_t asker, target; /* sums */
    size_t target_at, end;  /* of the target in force; where the next one may begin */
    size_t slots;
};

static struct stripe {
    alignas(64) pthread_mutex_t lock;
    struct journal_chunk *recent; /* in which there was room */
    uint64_t swept; /* how many rows were committed or lost when slots were last looked for */
} stripes[STRIPES];

static struct {
    pthread_mutex_t lock; /* of who lets the file grow */
    struct journal_file file;
    _Atomic size_t given, room; /* chunks */
    atomic_bool is_open;
    _Atomic uint64_t committed, lost; /* the latest row's number; rows that have none */
    _Atomic uint64_t retry_at_ms;
} journal = {.lock = PTHREAD_MUTEX_INITIALIZER, .file.fd = -1};

/* ---- slots ---- */

static _Atomic uint64_t *word_of(const struct journal_chunk *chunk, size_t at)
{
    return (_Atomic uint64_t *)(void *)chunk->memory + at;
}

static uint64_t run_of(size_t at, size_t slots)
{
    return ((UINT64_C(1) << slots) - 1) << at;
}

/* So many free slots behind each other; 0: there are none. */
static size_t find_run(uint64_t free, size_t slots)
{
    for (size_t i = 1; i < slots; i++)
        free &= free >> 1;
    return free ? (size_t)__builtin_ctzll(free) : 0;
}

/* Free what is committed. */
static void sweep(struct journal_chunk *chunk, uint64_t committed)
{
    for (size_t at = JOURNAL_FIRST_SLOT; at < JOURNAL_SLOTS; at++) {
        uint64_t word = atomic_load_explicit(word_of(chunk, at), memory_order_acquire);
        const struct journal_record *record =
            (const void *)(chunk->memory + at * JOURNAL_SLOT_BYTES);
        if (chunk->free & run_of(at, 1))
            continue;
        if (journal_word_kind(word) == JOURNAL_ENDED && record->end.number <= committed) {
            atomic_store_explicit(word_of(chunk, at), 0, memory_order_release);
            chunk->free |= run_of(at, journal_word_slots(word));
        }
    }
}

/* Under the stripe's lock. True if anything may have become free. */
static bool sweep_all(struct stripe *stripe)
{
    uint64_t committed = atomic_load_explicit(&journal.committed, memory_order_acquire);
    uint64_t over = committed + atomic_load_explicit(&journal.lost, memory_order_relaxed);
    struct journal_chunk *chunk = stripe->recent;

    if (!chunk || stripe->swept == over)
        return false;
    stripe->swept = over;
    do
        sweep(chunk, committed);
    while ((chunk = chunk->next) != stripe->recent);
    return true;
}

/* Under the stripe's lock: NULL if no chunk has a run of so many. */
static struct journal_chunk *find_room(struct stripe *stripe, size_t slots, size_t *at)
{
    struct journal_chunk *chunk = stripe->recent;

    do {
        if (!chunk)
            return NULL;
        *at = find_run(chunk->free, slots);
        if (*at > 0)
            return stripe->recent = chunk;
        chunk = chunk->next;
    } while (chunk != stripe->recent);
    return NULL;
}

static bool take_room(struct stripe *stripe, size_t slots, struct journal_slot *out)
{
    struct journal_chunk *chunk;
    size_t at = 0;

    pthread_mutex_lock(&stripe->lock);
    chunk = find_room(stripe, slots, &at);
    if (!chunk && sweep_all(stripe))
        chunk = find_room(stripe, slots, &at);
    if (chunk)
        chunk->free &= ~run_of(at, slots);
    pthread_mutex_unlock(&stripe->lock);
    if (!chunk)
        return false;
    out->word = word_of(chunk, at);
    out->record = (void *)(chunk->memory + at * JOURNAL_SLOT_BYTES);
    out->slots = slots;
    return true;
}

/* ---- chunks ---- */

static void complain(err_t err)
{
    static atomic_bool is_complaining;

    if (err && !atomic_exchange(&is_complaining, true))
        log_error("streams are not noted in the journal: a crash will leave no rows of them", err);
    if (!err)
        atomic_store(&is_complaining, false);
}

/* The file's next chunk, if it has one. */
static bool take_chunk(struct journal_chunk *chunk)
{
    size_t n = atomic_load(&journal.given);

    do
        if (n >= atomic_load(&journal.room))
            return false;
    while (!atomic_compare_exchange_weak(&journal.given, &n, n + 1));
    chunk->memory = journal.file.segments[n / JOURNAL_SEGMENT_CHUNKS] +
                    n % JOURNAL_SEGMENT_CHUNKS * JOURNAL_CHUNK_BYTES;
    return true;
}

/* In a thread for files, unless another has done it meanwhile. */
static err_t grow(void *arg)
{
    err_t err = NULL;

    (void)arg;
    pthread_mutex_lock(&journal.lock);
    if (atomic_load(&journal.given) >= atomic_load(&journal.room))
        err = journal_file_grow(&journal.file);
    atomic_store(&journal.room, journal.file.segment_count * JOURNAL_SEGMENT_CHUNKS);
    pthread_mutex_unlock(&journal.lock);
    return err;
}

static void add_chunk(struct stripe *stripe, struct journal_chunk *chunk)
{
    pthread_mutex_lock(&stripe->lock);
    if (stripe->recent) {
        chunk->next = stripe->recent->next;
        stripe->recent->next = chunk;
    } else {
        chunk->next = chunk;
    }
    stripe->recent = chunk;
    pthread_mutex_unlock(&stripe->lock);
}

/* PARKS if the file must grow. */
static bool extend(struct stripe *stripe)
{
    struct journal_chunk *chunk;
    err_t err = NULL;

    if (sys_now_ms() < atomic_load(&journal.retry_at_ms))
        return false;
    chunk = mem_alloc(MEM_GOVERN, sizeof(*chunk));
    if (!chunk)
        return false;
    *chunk = (struct journal_chunk){.free = ALL};
    while (!err && !take_chunk(chunk))
        err = offload_run(OFFLOAD_FILE, grow, NULL);
    complain(err);
    if (err) {
        atomic_store(&journal.retry_at_ms, sys_now_ms() + RETRY_MS);
        mem_free(MEM_GOVERN, chunk, sizeof(*chunk));
        return false;
    }
    add_chunk(stripe, chunk);
    return true;
}

/* Threads with a loop are workers: each has a stripe, or nearly so. */
static struct stripe *own_stripe(void)
{
    uint64_t key = (uintptr_t)loop_self();

    return &stripes[(key * UINT64_C(0x9E3779B97F4A7C15)) >> 60];
}

/* ---- records ---- */

static struct str cut(struct str text, size_t most)
{
    return (struct str){text.ptr, text.len < most ? text.len : most};
}

static char *put(char *to, struct str text)
{
    if (text.len > 0)
        memcpy(to, text.ptr, text.len);
    return to + text.len;
}

static size_t round_up(size_t bytes, size_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

static size_t target_bytes(const struct ledger_row *row)
{
    return round_up(sizeof(struct journal_target) + row->provider.len +
                        cut(row->upstream_model, MOST_MODEL_BYTES).len,
                    8);
}

/* Write a target behind those before it, and only then say that it is in force. */
static void write_target(struct journal_slot *slot, const struct ledger_row *row)
{
    struct journal_target *target = (void *)((char *)slot->record + slot->end);
    struct str model = cut(row->upstream_model, MOST_MODEL_BYTES);

    *target = (struct journal_target){.attempts = (uint32_t)row->attempts,
                                      .provider_len = (uint16_t)row->provider.len,
                                      .model_len = (uint16_t)model.len};
    put(put(target->texts, row->provider), model);
    slot->target_at = slot->end;
    slot->end += target_bytes(row);
    slot->target = journal_sum_target(target, slot->asker);
    atomic_store_explicit(slot->word,
                          journal_word(JOURNAL_OPEN, slot->slots, slot->target_at, slot->target),
                          memory_order_release);
}

static void write_record(struct journal_slot *slot, const struct ledger_row *row, unsigned booked,
                         const struct str texts[JOURNAL_TEXTS])
{
    struct journal_record *record = slot->record;
    char *to = record->texts;

    record->began_ms = row->at_ms;
    record->input = row->input;
    record->booked = (uint16_t)booked;
    for (int i = 0; i < JOURNAL_TEXTS; i++) {
        record->lens[i] = (uint16_t)texts[i].len;
        to = put(to, texts[i]);
    }
    slot->end = (size_t)(to - (char *)record);
    slot->asker = journal_sum_asker(record, slot->end);
    slot->end = round_up(slot->end, 8);
    write_target(slot, row);
}

struct journal_slot *journal_open(const struct ledger_row *row, unsigned booked,
                                  struct arena *arena)
{
    const struct str texts[JOURNAL_TEXTS] = {
        [JOURNAL_REQUEST_ID] = row->request_id,
        [JOURNAL_ORG] = row->org,
        [JOURNAL_PROJECT] = row->project,
        [JOURNAL_KEY] = row->key,
        [JOURNAL_USER] = cut(row->user, MOST_USER_BYTES),
        [JOURNAL_MODEL] = cut(row->model, MOST_MODEL_BYTES),
        [JOURNAL_ROUTE] = row->route,
    };
    size_t bytes = offsetof(struct journal_record, texts);
    struct stripe *stripe = own_stripe();
    struct journal_slot *slot;

    if (!atomic_load_explicit(&journal.is_open, memory_order_relaxed))
        return NULL;
    for (int i = 0; i < JOURNAL_TEXTS; i++)
        bytes += texts[i].len;
    bytes = round_up(round_up(bytes, 8) + target_bytes(row), JOURNAL_SLOT_BYTES);
    if (bytes > JOURNAL_MOST_SLOTS * JOURNAL_SLOT_BYTES ||
        !(slot = arena_new_struct(arena, struct journal_slot)))
        return NULL;
    while (!take_room(stripe, bytes / JOURNAL_SLOT_BYTES, slot))
        if (!extend(stripe))
            return NULL;
    write_record(slot, row, booked, texts);
    return slot;
}

void journal_name_target(struct journal_slot *slot, const struct ledger_row *row)
{
    if (slot->end + target_bytes(row) <= slot->slots * JOURNAL_SLOT_BYTES)
        write_target(slot, row);
}

void journal_end(struct journal_slot *slot, const struct ledger_row *row)
{
    struct journal_end *end = &slot->record->end;

    *end = (struct journal_end){.at_ms = row->at_ms,
                                .ms = row->ms,
                                .input = row->input,
                                .output = row->output,
                                .cached = row->cached,
                                .cache_written = row->cache_written,
                                .reasoning = row->reasoning,
                                .cost_nano = row->cost_nano,
                                .attempts = (uint32_t)row->attempts,
                                .status = (uint16_t)row->status,
                                .is_estimated = row->is_estimated,
                                .has_cost = row->has_cost};
    put(end->outcome, cut(row->outcome, sizeof(end->outcome) - 1));
}

void journal_seal(struct journal_slot *slot, uint64_t number)
{
    struct journal_end *end = &slot->record->end;

    end->number = number; /* 0: it is free from the next sweep on */
    if (number == 0)
        atomic_fetch_add(&journal.lost, 1);
    atomic_store_explicit(slot->word,
                          journal_word(JOURNAL_ENDED, slot->slots, slot->target_at,
                                       journal_sum_end(end, slot->target)),
                          memory_order_release);
}

void journal_note_committed(uint64_t number)
{
    atomic_store_explicit(&journal.committed, number, memory_order_release);
}

/* ---- the whole ---- */

err_t journal_begin(const char *path, int fd, const char *writer)
{
    char name[JOURNAL_NAME_BYTES];
    struct journal_head head;
    err_t err;

    text_random_id("", name);
    journal_head_make(&head, writer, name);
    memcpy(journal.file.path, path, strlen(path) + 1);
    journal.file.fd = fd;
    atomic_store(&journal.given, 0);
    atomic_store(&journal.room, 0);
    atomic_store(&journal.committed, 0);
    atomic_store(&journal.retry_at_ms, 0);
    for (size_t i = 0; i < STRIPES; i++)
        pthread_mutex_init(&stripes[i].lock, NULL);
    err = journal_file_begin(&journal.file, &head);
    if (!err)
        err = grow(NULL);
    if (err)
        journal_file_close(&journal.file);
    atomic_store(&journal.is_open, !err);
    return err;
}

static void forget_chunks(struct stripe *stripe)
{
    struct journal_chunk *chunk = stripe->recent, *next;

    stripe->recent = NULL;
    stripe->swept = 0;
    if (!chunk)
        return;
    next = chunk->next;
    chunk->next = NULL; /* the ring is open: its last is the first */
    for (chunk = next; chunk; chunk = next) {
        next = chunk->next;
        mem_free(MEM_GOVERN, chunk, sizeof(*chunk));
    }
}

void journal_close(void)
{
    if (!atomic_exchange(&journal.is_open, false))
        return;
    for (size_t i = 0; i < STRIPES; i++)
        forget_chunks(&stripes[i]);
    journal_file_close(&journal.file);
}

size_t journal_used(void)
{
    size_t used = 0;

    for (size_t i = 0; i < STRIPES; i++) {
        struct journal_chunk *chunk = stripes[i].recent;
        if (!chunk)
            continue;
        (void)sweep_all(&stripes[i]);
        do
            for (size_t at = JOURNAL_FIRST_SLOT; at < JOURNAL_SLOTS; at++)
                used += atomic_load(word_of(chunk, at)) != 0;
        while ((chunk = chunk->next) != stripes[i].recent);
    }
    return used;
}
