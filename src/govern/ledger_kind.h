/* SPDX-License-Identifier: Apache-2.0 */
/* What many rows of the ledger have in common: whose calls they were, what was asked of whom, how it ended, and what it
 * is booked on. A thousand calls of one key are mostly of one kind or two.
 *
 * A kind is kept once, in memory and in the store, where it has a number that rows name. Which number is learnt when
 * the first row of a kind is committed. Other processes may enter the same kind at the same time: the store has it
 * once, whoever comes first. */
#ifndef GOVERN_LEDGER_KIND_H
#define GOVERN_LEDGER_KIND_H

#include "govern/ledger.h"
#include "store/db.h"

struct ledger_kind {
    struct ledger_kind *next; /* in its bucket */
    uint64_t hash;
    size_t bytes;
    size_t references; /* rows that wait */
    size_t place;      /* among the kinds of the group that is being committed, or LEDGER_NOWHERE */
    int64_t id;        /* in the store; 0: not known yet */
    uint64_t known_ms; /* when it was asked for, by sys_now_ms */
    struct ledger_row of; /* its texts (but request_id and user) and status; they stand behind it */
};

#define LEDGER_NOWHERE SIZE_MAX

/* How long a number is used that was learnt from the store; and how old the note may be there that its kind is in use. */
#define LEDGER_KIND_TRUST_MS (UINT64_C(3600) * 1000)
#define LEDGER_KIND_SEEN_MS  (12 * LEDGER_KIND_TRUST_MS)

/* The kind of a row, with one reference for the caller; NULL without memory. Bytes that no store would take are
 * replaced. This and the next two under the ledger's lock. */
struct ledger_kind *ledger_kind_take(const struct ledger_row *row);
void ledger_kind_give(struct ledger_kind *kind);

/* Forget kinds that nobody refers to, if there are more than are worth keeping; `all`: in any case. */
void ledger_kind_sweep(bool all);

/* The order of texts: in it all processes enter kinds, so that no two wait for each other. */
int ledger_kind_compare(const struct ledger_row *a, const struct ledger_row *b);

/* Whether its number may be used without asking the store. */
bool ledger_kind_is_known(const struct ledger_kind *kind, uint64_t now_ms);

/* The store has forgotten what it had committed: numbers that were learnt before now_ms are asked for again. Said in the log. */
void ledger_kind_distrust(uint64_t now_ms);

/* In a transaction: the number of a row's kind, which is entered if it is new, or noted as in use. */
err_t ledger_kind_number(struct db_tx *tx, const struct ledger_row *row, struct arena *arena,
                         int64_t *id) ERR_MUST_CHECK;

/* Replace what no database takes: a NUL, and what is not UTF-8. */
void ledger_kind_mend(char *text, size_t len);

#endif
