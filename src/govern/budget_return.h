/* SPDX-License-Identifier: Apache-2.0 */
/* Credit that goes back to the store, and the lease that it is taken from. For budget_lease.c. */
#ifndef GOVERN_BUDGET_RETURN_H
#define GOVERN_BUDGET_RETURN_H

#include "govern/budget_account.h"
#include "store/db.h"

#define BUDGET_SWEEP_MAX 256

/* This process, as the store knows it. Of one fiber, but for ttl_ms. */
struct budget_holder {
    struct db *db;
    char name[32];
    char returner[32];     /* under which what is given back is numbered */
    uint64_t number;       /* of the latest transaction that may have to be run again */
    uint64_t recalls_seen; /* as the topic counts */
    _Atomic uint64_t ttl_ms;
};

struct budget_idle {
    struct budget_account *account; /* with a reference */
    uint64_t cap;                   /* as it is kept in the store */
    uint64_t amount;                /* none: others are told that there is nothing to give */
    bool is_recalled;
    bool is_lowered;  /* its cap: what could not go back is still to be counted anew */
    uint64_t missing; /* of what stays leased: the store does not know of it */
};

/* Zero but for holder, arena and is_last at first. Too large for a fiber's stack. */
struct budget_sweep {
    struct budget_holder *holder;
    struct arena *arena; /* reset by each try */
    bool is_last;        /* of the process: all goes back */
    bool is_in_doubt;    /* it may have been committed: to be run again until that is known */
    struct budget_idle idle[BUDGET_SWEEP_MAX];
    size_t count;
    uint64_t now_ms, ttl_ms, number;
};

/* PARKS: give back what is idle, at most BUDGET_SWEEP_MAX accounts of it (count), or run the sweep
 * that is in doubt again. Errors: STORE, BUSY, cancellation: the credit is kept, or is in doubt. */
err_t budget_return_give(struct budget_sweep *sweep) ERR_MUST_CHECK;

/* The same in steps, for certain accounts instead of all that are idle; not while a sweep is in doubt.
 * `account` is locked; what does not fit is left out. Errors of the last, which PARKS: as above. */
void budget_return_begin(struct budget_sweep *sweep);
void budget_return_add(struct budget_sweep *sweep, struct budget_account *account,
                       bool is_recalled);
err_t budget_return_commit(struct budget_sweep *sweep) ERR_MUST_CHECK;

/* End a sweep in memory: with an error what could not be given back is kept, without it is gone.
 * Gives the references back. budget_return_give leaves this to the caller while in doubt. */
void budget_return_end(struct budget_sweep *sweep, err_t err);

#endif
