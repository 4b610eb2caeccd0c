/* SPDX-License-Identifier: Apache-2.0 */
/* What becomes of a mark: its answer takes its place, or its key is free again.
 *
 * The hard thing is a store that fails just then. The caller has his answer, and a key that were free would let him
 * pay for another; a mark that stayed would refuse him for an hour. So what could not be written, or nobody knows, is kept in
 * memory and written when the store is well; until then the mark stands, and who comes again is told to try shortly. */
#ifndef GATEWAY_IDEMPOTENCY_OUTCOME_H
#define GATEWAY_IDEMPOTENCY_OUTCOME_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/str.h"
#include "store/db.h"

/* Its texts are borrowed until a call returns. Only of FREE the last four mean nothing. */
struct idempotency_outcome {
    enum idempotency_end { IDEMPOTENCY_FREE, IDEMPOTENCY_KEPT, IDEMPOTENCY_LARGE } end;
    struct str owner, name, mark;
    struct str target, body; /* no body of what is LARGE */
    bool is_stream;
    uint64_t ttl_ms;
};

/* PARKS: write it, now or later; what is written twice does no harm. Errors: of what is written later, for the log. */
err_t idempotency_outcome_write(struct db *db,
                                const struct idempotency_outcome *outcome) ERR_MUST_CHECK;

/* PARKS: write what waits, the oldest first, as far as there is time (sys_now_ms). Errors: STORE, BUSY: the rest waits on. */
err_t idempotency_outcome_catch_up(struct db *db, uint64_t until_ms) ERR_MUST_CHECK;

/* Forget what waits, at the end of the process. */
void idempotency_outcome_forget(void);

#endif
