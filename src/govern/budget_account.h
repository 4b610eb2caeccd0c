/* SPDX-License-Identifier: Apache-2.0 */
/* The credit that this process holds of each budget, in memory.
 *
 * An account is one budget of one owner in one period. Of what is leased from the store, part is reserved by
 * calls in progress, part is spent but not yet booked in the store, and the rest is credit:
 *
 *     leased = credit + reserved + unbooked
 *
 * Credit is negative while an answer cost more than was reserved for it. For budget*.c and the ledger. */
#ifndef GOVERN_BUDGET_ACCOUNT_H
#define GOVERN_BUDGET_ACCOUNT_H

#include <stdatomic.h>

#include "base/list.h"
#include "govern/budget.h"

/* Whose budget: made once for all accounts of an owner. */
struct budget_owner {
    enum budget_scope scope;
    struct str id;      /* of users "project/user" */
    struct str project; /* id */
    uint64_t hash;
};

/* Which of them, and what it is like. */
struct budget_key {
    const struct budget_owner *owner;
    enum budget_unit unit;
    struct conf_quota quota;   /* amount (tokens or nano-units) per period */
    uint64_t begins_s, ends_s; /* seconds since 1970; of "total" 0 and UINT64_MAX */
};

struct budget_account {
    struct budget_account *next; /* in its bucket */
    struct list queued;          /* in the lease server's queue, or alone */
    uint64_t hash;
    enum budget_scope scope;
    enum budget_unit unit;
    enum conf_period period;
    uint64_t begins_s, ends_s; /* seconds since 1970; ends_s UINT64_MAX: never */
    struct str owner, project; /* after the struct */
    const char *name;          /* primary key in the store, after the struct */
    size_t head_len;           /* of the name, without the owner */
    size_t bytes;

    /* Under the lock of its shard. */
    uint64_t cap; /* as configured */
    int64_t credit;
    uint64_t leased, reserved, unbooked;
    uint64_t booking;   /* of the leased, and perhaps taken from it in the store already */
    uint64_t left;      /* in the store, as last seen */
    uint64_t wanted;    /* by calls that wait for credit */
    uint64_t rounds;    /* how often the lease server answered */
    bool is_store_away; /* as of the last answer */
    bool
        gives_back; /* the cap was lowered: credit goes back to be counted anew, before it is used */
    bool is_doubted;             /* whether the store has its lease: see budget_doubt.h */
    uint64_t spent_out_until_ms; /* too little was left a moment ago: not asked again before */
    bool is_recalling;           /* others were asked for more, so it is worth while to wait */
    uint64_t used_ms, granted_ms;
    atomic_uint references; /* from none to one only under the lock */

    /* Of the ledger's writer alone: the cap of the booking in progress, and of the last one that was booked (0: none). */
    uint64_t booking_cap, booked_cap;

    /* Of the lease server alone: see budget_recall.c. */
    enum { RECALL_NONE, RECALL_ASKED, RECALL_ANSWERED } recall;
    uint64_t recall_until_ms;
};

/* An owner, whose texts are borrowed. */
struct budget_owner budget_owner_make(enum budget_scope scope, struct str id, struct str project);

/* Find or make the account of a key, with one reference for the caller; NULL when memory is short. It is locked, and `before`,
 * which was (or NULL), no longer: one lock is enough for all accounts of an owner. */
struct budget_account *budget_account_take(const struct budget_key *key,
                                           struct budget_account *before);

/* Give the reference back, and take one more. */
void budget_account_give(struct budget_account *account);
void budget_account_hold(struct budget_account *account);

/* The account of a key if there is one, locked; NULL: none, and nothing is locked. */
struct budget_account *budget_account_peek(const struct budget_key *key);

/* The same for texts as the store has them. */
struct budget_account *budget_account_peek_named(struct str scope, struct str unit,
                                                 struct str period, uint64_t begins_s,
                                                 struct str owner);

/* Its lock: held for nanoseconds, never across a park, and never two of them. */
void budget_account_lock(struct budget_account *account);
void budget_account_unlock(struct budget_account *account);

/* Unlock `from` and lock `to`, of which either may be NULL; costs nothing between accounts of one owner. */
void budget_account_relock(struct budget_account *from, struct budget_account *to);

/* Call visit for every account, with its lock held; it must not take other locks. True from visit forgets the account, which nobody may
 * refer to. */
void budget_account_each(bool (*visit)(struct budget_account *account, void *arg), void *arg);

/* Its name without the owner: "project/money/month/1793491200". As long as the account. */
struct str budget_account_head(const struct budget_account *account);

/* Words of the enums, as in the store and for people. */
const char *budget_scope_name(enum budget_scope scope);
const char *budget_unit_name(enum budget_unit unit);

#endif
