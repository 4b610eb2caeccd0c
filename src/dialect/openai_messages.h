/* SPDX-License-Identifier: Apache-2.0 */
/* The meaning of a list of OpenAI chat messages. Pure.
 *
 * Used wherever such a list is translated or kept: requests of other protocols' providers, local
 * models with tools, conversations. */
#ifndef DIALECT_OPENAI_MESSAGES_H
#define DIALECT_OPENAI_MESSAGES_H

#include "base/arena.h"
#include "model/message.h"

/* Read `messages` (a JSON array, checked) into *out. Strs point into it or the arena. Results of
 * functions (the old form) get ids made up from the function's name. Errors: BAD_REQUEST whose
 * param names the place ("messages[3].content[0].image_url"), BUSY. */
err_t openai_messages_read(struct str messages, struct arena *arena, struct message **out,
                           size_t *count) ERR_MUST_CHECK;

/* Take "data:MEDIA;base64,DATA" (RFC 2397) apart. False if `url` is not of that form. */
bool openai_messages_split_data(struct str url, struct str *media_type, struct str *data);

/* Whether `text` is the JSON text of an object. */
bool openai_messages_is_object(struct str text);

/* What an explicit breakpoint of prompt caching is in Anthropic's words. */
#define OPENAI_MESSAGES_BREAKPOINT STR("{\"type\":\"ephemeral\"}")

/* prompt_cache_options.ttl, which is for all breakpoints of a request: "at least 30m" is an hour there. When messages and
 * settings are read. */
void openai_messages_set_cache_ttl(struct prompt *prompt);

#endif
