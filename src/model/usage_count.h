/* SPDX-License-Identifier: Apache-2.0 */
/* What an answer cost, counted here: for providers that do not say, and answers that ended before they could. */
#ifndef MODEL_USAGE_COUNT_H
#define MODEL_USAGE_COUNT_H

#include "model/provider.h"
#include "model/tokens.h"

/* Add the text of a JSON string, with its quotes, as it stands in an event. Anything else is ignored. */
void usage_count_json(struct tokens_tally *tally, struct str string);

/* Add what deltas say: text, reasoning, refusals and the arguments of calls. */
void usage_count_deltas(struct tokens_tally *tally, const struct delta *deltas, size_t count);

/* Complete a decoder's usage where the provider left it open. `is_cut`: the answer ended early, so that what was
 * told last may be less than what was said. `whole` is a whole answer's bytes, where nothing was tallied; else empty.
 * Does nothing for usage that is known and complete. Takes time in proportion to the prompt. */
void usage_count_complete(struct decoder *decoder, const struct provider_ops *ops,
                          struct chat_request *ask, struct str model, struct arena *arena,
                          bool is_cut, struct str whole);

/* Make parts of a count no more than the whole: what a provider tells of a cache and of thoughts need not be so. */
void usage_count_fit(struct usage *usage);

/* Add what another answer cost: both are known only if each is, and estimated if one is. Usage that is
 * neither is nothing. */
void usage_count_add(struct usage *total, const struct usage *more);

#endif
