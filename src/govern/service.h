/* SPDX-License-Identifier: Apache-2.0 */
/* What a part of govern/ gives to govern.c, which opens, keeps going and closes them all. */
#ifndef GOVERN_SERVICE_H
#define GOVERN_SERVICE_H

#include "base/arena.h"
#include "base/err.h"
#include "conf/conf.h"
#include "store/db.h"

struct govern_service {
    const char *name; /* of its fiber */

    /* Start-up, outside fibers: blocks. Errors: STORE, BUSY. May be NULL. */
    err_t (*open)(struct db *db, const struct conf *conf);

    /* A new configuration is in force; main thread. Does not park. May be NULL. */
    void (*adopt)(const struct conf *conf);

    /* Fiber body in the main thread's loop: does its work until a wait fails (the fiber is cancelled). It has an
     * arena for errors, emptied by whoever calls fiber_arena. May be NULL. */
    void (*run)(void *db);

    /* PARKS, shielded: after run has returned and the last request has ended: write what is left. May be NULL. */
    void (*close)(struct db *db);
};

/* PARKS, for a service's fiber: a new arena, as soon as there is memory for it. NULL once the fiber is cancelled. */
struct arena *service_arena(enum mem_use use, size_t limit_bytes);

extern const struct govern_service identity_service, jwt_service, fold_service, ledger_service,
    budget_service, webhook_service, journal_service;

#endif
