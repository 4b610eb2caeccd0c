/* SPDX-License-Identifier: Apache-2.0 */
/* The journal's file: how an open stream is written down, and how that is read after a crash.
 *
 * A head, then chunks of 64 slots. The first two slots of a chunk hold a word for each slot, which says what is there; a stream's
 * record lies in one slot or several behind each other. The record is written first and its word last, in one store, so that a
 * process may be killed between any two instructions.
 *
 * The hard thing is reading: the machine may have lost power between any two pages, and nobody knows who wrote the file.
 * So the word has a sum of the record and of itself, and nothing that the file says is believed before it is within its bounds. */
#ifndef GOVERN_JOURNAL_FORMAT_H
#define GOVERN_JOURNAL_FORMAT_H

#include "govern/ledger.h"

#define JOURNAL_MAGIC       "sluice streams 1"
#define JOURNAL_HEAD_BYTES  ((size_t)64 * 1024) /* pages are no larger */
#define JOURNAL_CHUNK_BYTES ((size_t)16 * 1024)
#define JOURNAL_SLOT_BYTES  ((size_t)256)
#define JOURNAL_SLOTS       64
#define JOURNAL_FIRST_SLOT  2 /* before it the words are */
#define JOURNAL_MOST_SLOTS  8 /* of one record */
#define JOURNAL_NAME_BYTES  32

/* What of a stream's charge is in rows of budgets: see journal.h. */
enum journal_booked { JOURNAL_BOOKED_TOKENS = 1, JOURNAL_BOOKED_COST = 2 };

struct journal_head {
    char magic[16];
    char writer
        [JOURNAL_NAME_BYTES]; /* who entered the rows of streams that ended: as ledger_writers knows it */
    char name[JOURNAL_NAME_BYTES]; /* of this file: the writer of the rows that are made of it */
    uint64_t sum;
};

/* What the row of a stream that has ended says besides. */
struct journal_end {
    uint64_t number; /* of its row among those of the writer */
    uint64_t at_ms, ms, input, output, cached, cache_written, reasoning, cost_nano;
    uint32_t attempts;
    uint16_t status;
    uint8_t is_estimated, has_cost;
    char outcome[24]; /* zeros behind it */
};

enum journal_text {
    JOURNAL_REQUEST_ID,
    JOURNAL_ORG,
    JOURNAL_PROJECT,
    JOURNAL_KEY,
    JOURNAL_USER,
    JOURNAL_MODEL,
    JOURNAL_ROUTE,
    JOURNAL_TEXTS
};

struct journal_record {
    struct journal_end end;
    uint64_t began_ms, input; /* when it was asked for; what its prompt comes to, estimated */
    uint16_t lens[JOURNAL_TEXTS];
    uint16_t booked;
    char texts[]; /* one behind the other; then targets, the latest last */
};

/* Who is asked, at a multiple of eight bytes of the record. The texts follow. */
struct journal_target {
    uint32_t attempts;
    uint16_t provider_len, model_len;
    char texts[];
};

enum journal_kind { JOURNAL_FREE, JOURNAL_OPEN, JOURNAL_ENDED, JOURNAL_DAMAGED };

/* A slot's word, and what is in it. `target_at`: bytes from the record's begin. */
uint64_t journal_word(enum journal_kind kind, size_t slots, size_t target_at, uint64_t sum);
size_t journal_word_slots(uint64_t word);

static inline enum journal_kind journal_word_kind(uint64_t word)
{
    return (enum journal_kind)(word & 3);
}

/* Sums of a record's parts, each made of the one before: of who asked (up to `texts_end`), with a target, with an end. */
uint64_t journal_sum_asker(const struct journal_record *record, size_t texts_end);
uint64_t journal_sum_target(const struct journal_target *target, uint64_t asker);
uint64_t journal_sum_end(const struct journal_end *end, uint64_t target);

/* A head with its sum; and whether one may be believed: then its names end. */
void journal_head_make(struct journal_head *head, const char *writer, const char *name);
bool journal_head_is_good(const struct journal_head *head);

struct journal_stream {
    struct ledger_row row; /* as it is to be entered; its texts lie in the chunk */
    uint64_t number;       /* of a stream that has ended */
    size_t slots;          /* to go on behind; at least 1 */
};

/* What is in slot `at` of a chunk, which is aligned like a record. A stream that was open becomes a row `killed`. One that
 * had ended becomes the row that it ended with, unless that was booked on budgets: then it is `killed` as well, for who completed
 * is charged to the token. Nothing is counted that a budget's lost lease has already. */
enum journal_kind journal_read(const char *chunk, size_t at, struct journal_stream *out);

#endif
