/* SPDX-License-Identifier: Apache-2.0 */
/* What the kinds of provider share when they put a prompt into their own words. Pure. */
#ifndef MODEL_ENCODE_H
#define MODEL_ENCODE_H

#include "base/json_writer.h"
#include "model/provider.h"

/* Write the members that only need another name in `protocol` (settings.def), between the members
 * of the object that is open in `w`. What has no word there is dropped, clamped or refused as the
 * table and encoding->unsupported say. SETTING_MADE ones are the caller's work. Errors:
 * BAD_REQUEST naming the setting. */
err_t encode_settings(struct encoding *encoding, const struct prompt *prompt,
                      enum protocol protocol, struct json_writer *w) ERR_MUST_CHECK;

/* Report that `name` was left out or changed (at most once each). Under unsupported: error it is
 * refused instead. */
err_t encode_drop(struct encoding *encoding, struct str name) ERR_MUST_CHECK;

/* Refuse `name`: the provider has no word for it and the answer would not be what was asked. Under
 * unsupported: drop it is dropped and reported instead, and NULL returned. */
err_t encode_refuse(struct encoding *encoding, struct str name) ERR_MUST_CHECK;

/* The members of the provider's extra_body which the writer's object has not got yet: call last.
 * Members named in extra_body win over translated ones only if those were not written. */
err_t encode_extra(struct encoding *encoding, struct json_writer *w) ERR_MUST_CHECK;

/* End: the writer's text becomes the body, copied into the arena, at `target`. */
err_t encode_finish(struct encoding *encoding, struct json_writer *w,
                    struct str target) ERR_MUST_CHECK;

/* Add a delta to the event that is being decoded, in decoder->scratch. NULL without memory. */
struct delta *decode_add(struct decoder *decoder, struct event *event, enum delta_kind kind);

/* An error object or text inside an answer: the provider's own words, cut to a sane length. */
err_t decode_reported(struct str error);

/* The provider's words in the body of a refusal, of whatever protocol ({"error":{"message"}}), or
 * empty; and its code ("context_length_exceeded"), or empty. In the arena, whose shortage is the only
 * error: nobody could tell whose fault the refusal was. */
err_t decode_refusal(struct str body, struct arena *arena, struct str *message,
                     struct str *code) ERR_MUST_CHECK;

#endif
