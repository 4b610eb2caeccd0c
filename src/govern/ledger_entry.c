/* SPDX-License-Identifier: Apache-2.0 */
/* Rows in blocks. A row is a fixed part, its bookings, and the two texts that differ from row to row; the others
 * are its kind's. */
#include "govern/ledger_entry.h"

#include <stdalign.h>

#include "base/mem.h"

/* Some sixty rows. */
#define BLOCK_BYTES ((size_t)16 * 1024)
/* More than any call comes to: what a provider says beyond that is nonsense, and sums of it would not fit. */
#define MAX_TOKENS UINT64_C(1000000000000)
#define MAX_NANO   UINT64_C(1000000000000000)
/* Callers choose them. */
#define MAX_MODEL_BYTES 200
#define MAX_USER_BYTES  512
/* Room for the name of a budget without its owner, and a space. */
#define HEAD_BYTES 64

struct ledger_block {
    size_t bytes, used, rows;
};

static struct ledger_block *filling; /* where the next row goes; NULL: into a new one */

/* ---- blocks ---- */

static void *take_room(size_t bytes, struct ledger_block **block)
{
    size_t size = sizeof(struct ledger_block) + bytes;
    void *room;

    if (!filling || filling->bytes - filling->used < bytes) {
        size = size > BLOCK_BYTES ? size : BLOCK_BYTES;
        struct ledger_block *fresh = mem_alloc(MEM_GOVERN, size);
        if (!fresh)
            return NULL;
        *fresh = (struct ledger_block){.bytes = size, .used = sizeof(*fresh)};
        filling = fresh; /* the one before has rows: they free it */
    }
    *block = filling;
    room = (char *)filling + filling->used;
    filling->used += bytes;
    filling->rows++;
    return room;
}

static void give_room(struct ledger_block *block)
{
    if (--block->rows > 0)
        return;
    if (block == filling)
        filling = NULL;
    mem_free(MEM_GOVERN, block, block->bytes);
}

/* ---- rows ---- */

static bool is_booked(const struct reservation *res, size_t i)
{
    return res->claims[i].used > 0;
}

/* The names of the budgets that it is booked on, without their owners. */
static struct str print_booked(const struct reservation *res, char *out)
{
    char *to = out;

    for (size_t i = 0; res && i < res->count; i++) {
        struct str head = budget_account_head(res->claims[i].account);
        if (!is_booked(res, i))
            continue;
        if (to > out)
            *to++ = ' ';
        memcpy(to, head.ptr, head.len);
        to += head.len;
    }
    return (struct str){out, (size_t)(to - out)};
}

static size_t note_bookings(const struct reservation *res, struct budget_booking *out)
{
    size_t count = 0;

    for (size_t i = 0; res && i < res->count; i++) {
        if (!is_booked(res, i))
            continue;
        budget_account_hold(res->claims[i].account);
        out[count++] = (struct budget_booking){res->claims[i].account, res->claims[i].used};
    }
    return count;
}

static struct str put(char **to, struct str text)
{
    char *at = *to;

    if (text.len > 0)
        memcpy(at, text.ptr, text.len);
    ledger_kind_mend(at, text.len);
    *to += text.len;
    return (struct str){at, text.len};
}

static struct str shorten(struct str text, size_t most)
{
    return (struct str){text.ptr, text.len < most ? text.len : most};
}

static uint64_t lower(uint64_t number, uint64_t most)
{
    return number < most ? number : most;
}

static struct ledger_kind *kind_of(const struct ledger_row *row, const struct reservation *res)
{
    char booked[BUDGET_MAX_CLAIMS * HEAD_BYTES];
    struct ledger_row of = *row;

    of.model = shorten(row->model, MAX_MODEL_BYTES);
    of.upstream_model = shorten(row->upstream_model, MAX_MODEL_BYTES);
    of.booked = print_booked(res, booked);
    return ledger_kind_take(&of);
}

struct ledger_entry *ledger_entry_make(const struct ledger_row *row, const struct reservation *res)
{
    size_t claims = res ? res->count : 0;
    struct str user = shorten(row->user, MAX_USER_BYTES);
    size_t bytes = sizeof(struct ledger_entry) + claims * sizeof(struct budget_booking) +
                   row->request_id.len + user.len;
    struct ledger_kind *kind = kind_of(row, res);
    struct ledger_block *block;
    struct ledger_entry *e;
    char *to;

    bytes = (bytes + alignof(struct ledger_entry) - 1) & ~(alignof(struct ledger_entry) - 1);
    e = kind ? take_room(bytes, &block) : NULL;
    if (!e) {
        if (kind)
            ledger_kind_give(kind);
        return NULL;
    }
    *e = (struct ledger_entry){.block = block,
                               .bytes = bytes,
                               .kind = kind,
                               .at_ms = row->at_ms,
                               .ms = row->ms,
                               .attempts = row->attempts,
                               .input = lower(row->input, MAX_TOKENS),
                               .output = lower(row->output, MAX_TOKENS),
                               .cached = lower(row->cached, MAX_TOKENS),
                               .cache_written = lower(row->cache_written, MAX_TOKENS),
                               .reasoning = lower(row->reasoning, MAX_TOKENS),
                               .cost_nano = lower(row->cost_nano, MAX_NANO),
                               .is_estimated = row->is_estimated,
                               .has_cost = row->has_cost,
                               .bookings = (struct budget_booking *)(e + 1)};
    e->booking_count = note_bookings(res, e->bookings);
    to = (char *)(e->bookings + claims);
    e->request_id = put(&to, row->request_id);
    e->user = put(&to, user);
    return e;
}

void ledger_entry_give(const struct ledger_entry *e)
{
    for (size_t i = 0; i < e->booking_count; i++)
        budget_account_give(e->bookings[i].account);
}

void ledger_entry_drop(struct ledger_entry *e)
{
    ledger_kind_give(e->kind);
    give_room(e->block);
}
