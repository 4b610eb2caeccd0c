/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's protocols as a provider speaks them; shared with the kinds that speak the same ones. */
#ifndef MODEL_PROVIDER_OPENAI_H
#define MODEL_PROVIDER_OPENAI_H

#include "model/provider.h"

/* The body from the caller's own bytes, relaying only the members for which keep(key) holds (NULL:
 * all). Sets encoding->body, not the target. Errors: BAD_REQUEST for a continuation that the
 * request does not allow, BUSY. */
err_t provider_openai_splice(struct encoding *encoding,
                             bool (*keep)(struct str key)) ERR_MUST_CHECK;

/* A chat completions request, body and target, that means `prompt`. Errors: BAD_REQUEST (code
 * unsupported_parameter, param) for what has no word there, BUSY. */
err_t provider_openai_encode_prompt(struct encoding *encoding,
                                    const struct prompt *prompt) ERR_MUST_CHECK;

/* Where requests of a protocol go: "/chat/completions"; of PROTOCOL_OTHER nowhere, an empty str. */
struct str provider_openai_target(enum protocol protocol);

/* As the operations of struct provider_ops with these names. */
err_t provider_openai_decode(struct decoder *decoder, const struct sse_event *in,
                             struct event *out) ERR_MUST_CHECK;
err_t provider_openai_decode_end(struct decoder *decoder, struct event *out) ERR_MUST_CHECK;
err_t provider_openai_decode_whole(struct decoder *decoder, struct str body,
                                   struct event *out) ERR_MUST_CHECK;

/* ---- between the files of this kind ---- */

/* Add the deltas of a choice's `delta` or `message`, an object; of a whole message each call is one
 * of its own. Errors: UPSTREAM, BUSY. */
err_t provider_openai_read_delta(struct decoder *decoder, struct event *out, unsigned choice,
                                 struct str delta, bool is_whole) ERR_MUST_CHECK;

/* Add the delta that ends a choice. */
err_t provider_openai_read_finish(struct decoder *decoder, struct event *out, unsigned choice,
                                  struct str reason, struct str stop_sequence) ERR_MUST_CHECK;

/* Read token counts under the names of chat completions or of responses. Whether they are believed; of one that cannot be
 * true the other is kept, but is not known. */
bool provider_openai_read_usage(struct str value, struct usage *usage);

/* Read what a member of an answer tells of a prompt that was only read: there is no output to be told of. */
void provider_openai_read_input_usage(const struct json_member *m, struct usage *usage);

/* Tally what the items of a whole response say. */
void provider_openai_count_output(struct tokens_tally *tally, struct str output);

/* An event of a responses stream. */
err_t provider_openai_decode_response(struct decoder *decoder, const struct sse_event *in,
                                      struct event *out) ERR_MUST_CHECK;

/* The error for what is not an answer of this protocol. */
#define provider_openai_invalid(...)                                                               \
    err_new_detail(ERR_UPSTREAM, (.code = "upstream_invalid"), __VA_ARGS__)

#endif
