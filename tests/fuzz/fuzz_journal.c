/* SPDX-License-Identifier: Apache-2.0 */
/* Journals of streams that a crash, a disk or somebody hostile has left.
 *
 * The input lays records into a chunk: a byte for the slot, two for its word, the bytes. The first byte says whether words get the
 * right sums, which nobody guesses. Whatever is read must lie in the chunk, go on, and be a row that the ledger takes. */
#include <stdalign.h>
#include <stdlib.h>

#include "base/mem.h"
#include "fuzz_input.h"
#include "govern/journal_format.h"
#include "govern/ledger_entry.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t texts_end(const struct journal_record *record)
{
    size_t end = offsetof(struct journal_record, texts);

    for (int i = 0; i < JOURNAL_TEXTS; i++)
        end += record->lens[i];
    return end;
}

/* The word that this record has if all of it lies in its slots; else one that cannot be right. */
static uint64_t word_of(const struct journal_record *record, size_t room, unsigned low)
{
    enum journal_kind kind = (enum journal_kind)(low & 3);
    size_t slots = low >> 2 & 15, target_at = (size_t)(low >> 6 & 255) * 8;
    const struct journal_target *target = (const void *)((const char *)record + target_at);
    size_t most = slots * JOURNAL_SLOT_BYTES;
    uint64_t sum;

    if (most > room || texts_end(record) > most || target_at + sizeof(*target) > most ||
        target_at + sizeof(*target) + target->provider_len + target->model_len > most)
        return low;
    sum = journal_sum_target(target, journal_sum_asker(record, texts_end(record)));
    if (kind == JOURNAL_ENDED)
        sum = journal_sum_end(&record->end, sum);
    return journal_word(kind, slots, target_at, sum);
}

static void lay_record(struct fuzz_input *in, struct arena *arena, char *chunk, bool is_mended)
{
    size_t at = JOURNAL_FIRST_SLOT + input_byte(in) % (JOURNAL_SLOTS - JOURNAL_FIRST_SLOT);
    size_t room = (JOURNAL_SLOTS - at) * JOURNAL_SLOT_BYTES;
    char *record = chunk + at * JOURNAL_SLOT_BYTES;
    unsigned low = input_byte(in);
    struct str bytes;
    uint64_t word;

    low |= (unsigned)input_byte(in) << 8;
    for (size_t len = 0; len < room && input_byte(in) % 2 == 0; len += bytes.len) {
        bytes = input_text(in, arena, room - len);
        memcpy(record + len, bytes.ptr, bytes.len);
        if (bytes.len == 0)
            break;
    }
    word =
        is_mended ? word_of((const void *)record, room, low & 0x3fff) : (uint64_t)low << 48 | low;
    memcpy(chunk + at * sizeof(word), &word, sizeof(word));
}

static void check_within(struct str text, const char *chunk)
{
    check(text.len == 0 ||
          (text.ptr >= chunk && text.ptr + text.len <= chunk + JOURNAL_CHUNK_BYTES));
}

static void check_row(const struct ledger_row *row, const char *chunk)
{
    struct ledger_entry *entry = ledger_entry_make(row, NULL);

    check_within(row->request_id, chunk);
    check_within(row->org, chunk);
    check_within(row->project, chunk);
    check_within(row->key, chunk);
    check_within(row->user, chunk);
    check_within(row->model, chunk);
    check_within(row->route, chunk);
    check_within(row->provider, chunk);
    check_within(row->upstream_model, chunk);
    check(row->outcome.len > 0 && row->status <= UINT16_MAX && entry);
    ledger_entry_drop(entry);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    struct arena *arena = arena_new(MEM_TOOL, 1024 * 1024);
    char *chunk = mem_alloc_zero(MEM_TOOL, JOURNAL_CHUNK_BYTES);
    bool is_mended = input_byte(&in) % 4 != 0;
    struct journal_stream stream;

    check(arena && chunk);
    while (in.left > 0)
        lay_record(&in, arena, chunk, is_mended);
    for (size_t at = JOURNAL_FIRST_SLOT; at < JOURNAL_SLOTS; at += stream.slots) {
        enum journal_kind kind = journal_read(chunk, at, &stream);
        check(stream.slots >= 1 && at + stream.slots <= JOURNAL_SLOTS);
        if (kind == JOURNAL_OPEN || kind == JOURNAL_ENDED)
            check_row(&stream.row, chunk);
    }
    ledger_kind_sweep(true);
    mem_free(MEM_TOOL, chunk, JOURNAL_CHUNK_BYTES);
    arena_free(arena);
    return 0;
}
