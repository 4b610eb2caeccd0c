/* SPDX-License-Identifier: Apache-2.0 */
/* This process among all that share a database: its name, under which it holds what it works on, and the sign of
 * life without which that counts as nobody's. */
#ifndef GATEWAY_REPLICA_H
#define GATEWAY_REPLICA_H

#include <stdbool.h>

#include "base/err.h"
#include "base/str.h"
#include "store/db.h"

/* In an SQL condition: the row's `holder` is dead. */
#define REPLICA_HOLDER_IS_DEAD                                                                     \
    "NOT EXISTS (SELECT 1 FROM replicas r WHERE r.id = holder AND r.expires_ms > {{now_ms}})"

/* How often to give a sign of life. */
#define REPLICA_RENEW_MS 5000

/* Take a new name and give the first sign of life. Who had an SQLite file before is dead: nobody else may use it.
 * Blocks, or PARKS. Errors: STORE. */
err_t replica_open(struct db *db) ERR_MUST_CHECK;

/* PARKS: another sign of life; it holds for four times REPLICA_RENEW_MS. Errors: STORE. */
err_t replica_renew(struct db *db) ERR_MUST_CHECK;

/* Whether other processes may be taken for dead. Not while this one was away from the store itself, nor soon after it
 * came back: others may have been away as long, and come back a moment later. Any thread. */
bool replica_may_judge(void);

/* PARKS: the process ends; should this fail, others will notice. */
void replica_close(struct db *db);

/* The name, for as long as the process lives; empty before replica_open. */
struct str replica_name(void);

#endif
