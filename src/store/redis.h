/* SPDX-License-Identifier: Apache-2.0 */
/* A client of Redis: one connection per loop, which its fibers share; of a cluster one to each server that is needed.
 *
 * Commands are sent as they come, without waiting for answers, and answers are told apart by their order.
 * A call takes at most redis.timeout. After five failures in a row a loop leaves a server alone and tries to
 * connect anew in the background, about every second, so that an outage costs calls no time. All keys of a command must
 * have one hash tag. */
#ifndef STORE_REDIS_H
#define STORE_REDIS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/str.h"
#include "store/redis_reply.h"

/* What to use from now on: an address as in redis_url.h, or empty for none.
 * Connections to anything else are given up at their next use. Blocks on certificate files. Any thread. Errors: CONFIG, BUSY. */
err_t redis_configure(struct str url, uint64_t timeout_ms) ERR_MUST_CHECK;

/* Whether a call makes sense now. Does not park. Errors: STORE while Redis is left alone, or none is
 * configured; BUSY. */
err_t redis_check(void) ERR_MUST_CHECK;

/* PARKS at most redis.timeout: send a command, await its answer, which is put into `arena`. Of errors that the
 * server answers only NOSCRIPT comes back as a reply. Errors: STORE (no connection, no answer in time, nonsense,
 * any other error of the server's), BUSY, cancellation. */
err_t redis_call(const struct str *args, size_t count, struct arena *arena,
                 struct redis_reply **out) ERR_MUST_CHECK;

/* Send a command whose answer nobody waits for. Lost when there is no connection. Does not park. */
void redis_send(const struct str *args, size_t count);

/* What came makes no sense, so that answers may be out of step: give the connection up. Returns an error
 * STORE that says why (static text). */
err_t redis_reject(const char *why) ERR_MUST_CHECK;

/* End this loop's connections; no fiber may be in a call. Outside fibers, loop_run must not be running. */
void redis_leave(void);

/* Forget what is configured, at the end of the process. */
void redis_close(void);

#endif
