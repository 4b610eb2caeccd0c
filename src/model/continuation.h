/* SPDX-License-Identifier: Apache-2.0 */
/* Going on with an answer that broke off in the middle, for aliases that ask for it
 * (models.*.continue): what was said so far becomes the beginning of another target's answer.
 *
 * Only plain text can be gone on with, because only text is whole wherever it is cut. This file
 * decides whether an answer is such, keeps what it says, and fits the two parts together; asking is
 * call.c's. The hard thing is white space at the seam: some providers take none at the end of what
 * they shall go on with, and then say it themselves or not. Pure. */
#ifndef MODEL_CONTINUATION_H
#define MODEL_CONTINUATION_H

#include "base/buf.h"
#include "model/provider.h"

/* Longer answers are not gone on with. */
#define CONTINUATION_MAX_BYTES ((size_t)1024 * 1024)

struct continuation {
    bool is_possible;   /* all that came so far was text of the only choice */
    err_t broken;       /* why it broke off last; NULL: it has not yet */
    struct usage spent; /* by the targets that broke off */

    /* Private. */
    struct buf text;              /* what the caller was told */
    size_t prefilled;             /* bytes of it that the present target was told */
    size_t repeat_at, repeat_end; /* bytes of it that the present target may say again */
};

/* Get ready for the answer to a request whose alias asks for continuation: possible if it can only be
 * plain text. May expand the prompt in the arena. Never fails: what cannot be read is not possible. */
void continuation_begin(struct continuation *c, struct chat_request *ask, struct arena *arena);

/* Free what was kept. Harmless twice. */
void continuation_fini(struct continuation *c);

/* Whether streams of a request in this protocol are read as deltas for the sake of continuation,
 * though the provider speaks it, too. */
bool continuation_wants_deltas(const struct continuation *c, enum protocol asked);

/* What a target shall go on with; good until continuation_take. Errors: BAD_REQUEST (code
 * unsupported_parameter): its answer could not be joined to what the caller has. */
err_t continuation_prefill(struct continuation *c, const struct conf_provider *provider,
                           const struct provider_ops *ops, enum protocol asked,
                           struct str *out) ERR_MUST_CHECK;

/* Tokens of the prefill, for prompts that nobody counted. */
uint64_t continuation_prefill_tokens(const struct continuation *c, struct str model);

/* An event with deltas has come: leave out what the caller has already, and keep the rest. Changed
 * deltas are put into `scratch`. Errors: BUSY. */
err_t continuation_take(struct continuation *c, struct event *event,
                        struct arena *scratch) ERR_MUST_CHECK;

#endif
