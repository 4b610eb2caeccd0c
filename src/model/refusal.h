/* SPDX-License-Identifier: Apache-2.0 */
/* An answer of the provider that refuses: what it says, what it means for other targets, and what
 * the caller is told. */
#ifndef MODEL_REFUSAL_H
#define MODEL_REFUSAL_H

#include "model/attempt.h"
#include "model/upstream.h"

/* Relayed to the caller as it is, where it is the caller's to mend and he speaks the provider's
 * language. In the arena. */
struct refusal {
    int status;
    struct str content_type, body, retry_after, retry_after_ms;
    uint64_t until_ms;        /* what they mean (loop_now_ms scale); 0: nothing was said */
    struct str message, code; /* what the body says */
    bool is_relayed;
};

/* PARKS: read the refusal whose head has come, for a caller who speaks `protocol`. Errors: the
 * arena's. */
err_t refusal_read(struct upstream *up, enum protocol protocol, struct arena *arena,
                   const struct refusal **out) ERR_MUST_CHECK;

/* What it means for other targets. */
enum attempt_result refusal_judge(const struct refusal *refusal, const struct target *target);

/* The error it is. Never NULL. Its text may be logged: what the provider said (which may quote the
 * prompt) is not in it. */
err_t refusal_err(const struct refusal *refusal, const struct target *target, struct arena *arena);

/* The same error as the caller is told of it: in the provider's words, if it is the caller's to
 * mend. `refusal` may be NULL. Never fails. */
err_t refusal_told(const struct refusal *refusal, err_t err, struct arena *arena);

#endif
