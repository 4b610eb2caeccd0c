/* SPDX-License-Identifier: Apache-2.0 */
/* How many tokens a prompt has, as far as that can be known without asking its provider. */
#ifndef MODEL_PROMPT_TOKENS_H
#define MODEL_PROMPT_TOKENS_H

#include "model/message.h"

/* The tokens of a prompt for `model` (its name decides the tokenizer, see tokens.h): all texts, tools and schemas
 * as they are written, a few for each message, and a round number for each image or page, whose size is not looked
 * at. Does not park; takes time in proportion to the prompt. */
uint64_t prompt_tokens(const struct prompt *prompt, struct str model);

/* The same for a request, whatever its protocol; of those without conversation the whole body is counted, and
 * of several bare prompts each. Errors: as chat_prompt. */
err_t prompt_tokens_of(struct chat_request *ask, struct str model, struct arena *arena,
                       uint64_t *out) ERR_MUST_CHECK;

/* The tokens of a request that need not be understood: of all that is sent of it, as it is written. */
uint64_t prompt_tokens_written(const struct chat_request *ask, struct str model);

#endif
