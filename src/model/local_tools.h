/* SPDX-License-Identifier: Apache-2.0 */
/* Tools for small models. Pure.
 *
 * Small models do not keep to their template's form for calls, but a grammar can make them write
 * JSON of a given schema. So the tools are told of in words, and the answer must be one of
 *     {"name": "TOOL", "arguments": {…}}
 *     {"reply": "text for the user"}
 * which local_reply.h turns back into calls and text. */
#ifndef MODEL_LOCAL_TOOLS_H
#define MODEL_LOCAL_TOOLS_H

#include "model/provider.h"

/* Whether a request must be put that way: it has functions and may call them. */
bool local_tools_are_offered(const struct prompt *prompt);

/* The same request without tools: told of in the first system message, earlier calls as the JSON
 * that the model would have written, their results as messages of the user, and the schema of the
 * answer. In the arena, sharing what is unchanged. Errors: BUSY. */
err_t local_tools_offer(struct arena *arena, const struct prompt *prompt,
                        struct prompt *out) ERR_MUST_CHECK;

#endif
