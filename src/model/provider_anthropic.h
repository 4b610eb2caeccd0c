/* SPDX-License-Identifier: Apache-2.0 */
/* Anthropic's messages as a provider speaks them: what the files of this kind share. Pure.
 *
 * Source: the type definitions of Anthropic's SDKs and the API reference (docs.claude.com). */
#ifndef MODEL_PROVIDER_ANTHROPIC_H
#define MODEL_PROVIDER_ANTHROPIC_H

#include "base/json_writer.h"
#include "model/provider.h"

/* Where the schema of an answer is told as a tool (option json_schema: tool), its name: a call of it
 * is the answer's text. Its decoder is told of it by encoding->for_decoder, which is this name. */
#define PROVIDER_ANTHROPIC_ANSWER "json_answer"

/* As provider_ops.encode, for requests of another protocol: by way of the prompt. */
err_t provider_anthropic_translate(struct encoding *encoding) ERR_MUST_CHECK;

/* As provider_ops.decode, decode_end and decode_whole. */
err_t provider_anthropic_decode(struct decoder *decoder, const struct sse_event *in,
                                struct event *out) ERR_MUST_CHECK;
err_t provider_anthropic_decode_end(struct decoder *decoder, struct event *out) ERR_MUST_CHECK;
err_t provider_anthropic_decode_whole(struct decoder *decoder, struct str body,
                                      struct event *out) ERR_MUST_CHECK;

/* Read a usage object into decoder->usage, which may come again and again, each time the whole; it is known once the last of an
 * answer (is_last) has told it all. */
void provider_anthropic_usage_read(struct decoder *decoder, struct str told, bool is_last);

/* The same name or id in Anthropic's alphabet, [A-Za-z0-9_-], so that no two become one and
 * provider_anthropic_name_read gives it back. Borrowed if nothing has to change, else in the arena;
 * ptr NULL without memory. */
struct str provider_anthropic_name_write(struct str name, struct arena *arena);

/* What provider_anthropic_name_write was given, from what it gave. */
struct str provider_anthropic_name_read(struct str written, struct arena *arena);

/* Write a member that is such a name or id. */
err_t provider_anthropic_name_put(struct encoding *encoding, struct json_writer *w,
                                  const char *member, struct str name) ERR_MUST_CHECK;

/* Whether Anthropic is told of a piece at all: not of texts that say nothing, which it refuses, and
 * not of thoughts that it did not sign. */
bool provider_anthropic_part_is_told(const struct part *part);

/* Write a piece as a content block, into the list that is open in `w`; nothing if it is not told.
 * Errors: BAD_REQUEST for what has no word there. */
err_t provider_anthropic_part_write(struct encoding *encoding, const struct part *part,
                                    struct json_writer *w) ERR_MUST_CHECK;

/* `text` without the white space at its end, which Anthropic refuses where an answer begins with
 * it. */
struct str provider_anthropic_trim_end(struct str text);

#endif
