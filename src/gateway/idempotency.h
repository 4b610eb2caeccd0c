/* SPDX-License-Identifier: Apache-2.0 */
/* Idempotency-Key: a request that is sent again is answered again, and no model is asked twice.
 *
 * Before a model is asked, the caller's key is marked as running in the store; with the answer's last byte the
 * answer takes the mark's place. Whoever comes with the same key and the same request gets that answer, to the byte,
 * or 409 while there is none; with another request, 422. Only answers are kept: after an error, or when the caller left
 * in the middle, the key is free again, so that a retry can succeed.
 *
 * The hard thing is what is not known. A store that is away promises nothing, so the request is refused; a process
 * that dies leaves marks that count for nothing as soon as it is known to be dead.
 *
 * Requests without the header pay for a look at r->idempotency, which is NULL. */
#ifndef GATEWAY_IDEMPOTENCY_H
#define GATEWAY_IDEMPOTENCY_H

#include <stdbool.h>

#include "base/err.h"
#include "base/str.h"
#include "store/db.h"

struct request;
struct idempotency;

/* Use this database from now on; NULL: none. Does not park. */
void idempotency_use(struct db *db);

/* PARKS: mark the key of a request, if it has one, as running, or find the answer that it has. r->ask must be read.
 * Errors: BAD_REQUEST (400 a malformed key; 409 idempotency_key_running, idempotency_answer_not_kept; 422
 * idempotency_key_reused), LIMITED (whoever comes again falls under limits of requests), STORE, BUSY. */
err_t idempotency_begin(struct request *r) ERR_MUST_CHECK;

/* Whether the request has its answer already. */
bool idempotency_is_answered(const struct request *r);

/* PARKS: give that answer again. */
err_t idempotency_replay(struct request *r) ERR_MUST_CHECK;

/* These bytes of a stream are about to be sent. Does not park. */
void idempotency_add(struct request *r, const struct str *pieces, size_t count);

/* PARKS: the answer is complete: its bytes are `body`, or those of a stream that were added. To be called before its end
 * is sent. That it cannot be kept keeps nobody from sending it. */
void idempotency_keep(struct request *r, struct str body);

/* PARKS: the request is over. Without an answer its key is free again. */
void idempotency_finish(struct request *r);

/* PARKS, and blocks outside fibers: forget marks of the dead and some of what is too old; *is_done: there is no more.
 * Errors: STORE. */
err_t idempotency_clean(bool *is_done) ERR_MUST_CHECK;

#endif
