/* SPDX-License-Identifier: Apache-2.0 */
/* Governing use, as a service: opened before the first request, closed after the last.
 *
 * The fibers that keep it going (group commits, leases, changes of keys, webhooks, retention) run in the main
 * thread's loop. */
#ifndef GOVERN_GOVERN_H
#define GOVERN_GOVERN_H

#include "base/err.h"
#include "conf/conf.h"
#include "store/db.h"

struct govern_service;

/* Add a service of an upper layer (service.h), opened after those of this folder and closed before them. Call before
 * govern_open. */
void govern_add(const struct govern_service *service);

/* Begin with an open store: load keys, close what a crash left open (rows `killed`). Blocks. Errors: STORE, BUSY. */
err_t govern_open(struct db *db, const struct conf *conf) ERR_MUST_CHECK;

/* Start the fibers in the calling thread's loop, once nothing else can fail. Errors: BUSY. */
err_t govern_start(void) ERR_MUST_CHECK;

/* A new configuration is in force. Main thread. */
void govern_adopt(const struct conf *conf);

/* PARKS: commit what waits, give leases back, end the fibers. No request may be running. Main thread's fiber. */
void govern_close(void);

/* The store in use, or NULL. */
struct db *govern_db(void);

#endif
