/* SPDX-License-Identifier: Apache-2.0 */
/* Rows that wait to be committed.
 *
 * They come one by one and go by the hundred, so they lie in blocks: a block is freed when the last of its rows is
 * gone. All of this is done under the ledger's lock. */
#ifndef GOVERN_LEDGER_ENTRY_H
#define GOVERN_LEDGER_ENTRY_H

#include "govern/budget_book.h"
#include "govern/ledger_kind.h"

struct ledger_block;

/* Its texts and bookings stand behind it. */
struct ledger_entry {
    struct ledger_entry *next;
    struct ledger_block *block;
    size_t bytes;
    struct ledger_kind *kind; /* with a reference */
    struct str request_id, user;
    uint64_t at_ms, ms, attempts;
    uint64_t input, output, cached, cache_written, reasoning, cost_nano;
    bool is_estimated, has_cost;
    bool is_noted;                   /* in the journal */
    struct budget_booking *bookings; /* each with a reference on its account */
    size_t booking_count;
};

/* A copy of the row and of what is to be booked of the reservation (NULL: nothing), or NULL without memory. What is
 * beyond all reason is cut down, and what no store takes is replaced. */
struct ledger_entry *ledger_entry_make(const struct ledger_row *row,
                                       const struct reservation *reservation);

/* Forget it. Its references on accounts are the caller's to give back, before: ledger_entry_give. */
void ledger_entry_drop(struct ledger_entry *entry);

/* Give back the references on accounts. Needs no lock. */
void ledger_entry_give(const struct ledger_entry *entry);

#endif
