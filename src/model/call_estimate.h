/* SPDX-License-Identifier: Apache-2.0 */
/* The most that a call may use, before anybody is asked: what budgets reserve.
 *
 * The hard thing is a caller who would have it small. Whatever a provider may read in the request, by whatever
 * spelling, must be in it; what only looks like it may be. */
#ifndef MODEL_CALL_ESTIMATE_H
#define MODEL_CALL_ESTIMATE_H

#include "conf/conf.h"
#include "model/message.h"

struct estimate {
    uint64_t input, answer; /* tokens; of all answers that are made */
    uint64_t images;        /* what may be images, which may have a price of their own */
    uint64_t around;        /* of the input: images, files, and what a provider adds */
};

/* A guess at the tokens of the prompt, for what is corrected at the end. Costs nothing. */
uint64_t call_estimate_guess(const struct chat_request *ask);

/* An upper bound, in a fraction of the time that counting takes. Sets a limit to the answer where the caller named none, unless
 * budgets only warn. Errors: memory. */
err_t call_estimate_bound(struct chat_request *ask, const struct conf *conf, struct arena *arena,
                          struct estimate *out) ERR_MUST_CHECK;

/* The prompt as it counts for `model`, if that is less. What cannot be counted here (a list of prompts, say) stays as it is. Errors:
 * memory. */
err_t call_estimate_count(struct chat_request *ask, struct str model, const struct conf *conf,
                          struct arena *arena, struct estimate *estimate) ERR_MUST_CHECK;

#endif
