/* SPDX-License-Identifier: Apache-2.0 */
/* Gemini's generateContent: the pieces of provider_gemini, which see. */
#ifndef MODEL_PROVIDER_GEMINI_H
#define MODEL_PROVIDER_GEMINI_H

#include "model/encode.h"

/* How a signature of Gemini's is marked where a caller keeps it with a piece of reasoning, so that
 * another provider's is never sent to Gemini, which would refuse the whole request. */
#define PROVIDER_GEMINI_SIGNATURE "gemini:"

/* The generations of models, as far as they want to be asked differently. */
enum gemini_generation {
    GEMINI_PLAIN, /* before 2.5, and other families: does not think */
    GEMINI_2_5,   /* thinks by a budget of tokens */
    GEMINI_3      /* by levels; insists on its signatures. Later ones are taken to be like it */
};

/* By the name of a model ("gemini-2.5-flash", "models/gemini-flash-latest"). */
enum gemini_generation provider_gemini_generation(struct str model);

/* Write the members "systemInstruction" and "contents". Errors: BAD_REQUEST for parts that Gemini
 * has no word for and results of calls that were never made. */
err_t provider_gemini_put_contents(struct encoding *encoding, const struct prompt *prompt,
                                   struct json_writer *w) ERR_MUST_CHECK;

/* Write a JSON Schema as the member `name`, in the form that models before 2.5 take. Errors: BAD_REQUEST for what has no such
 * form. */
err_t provider_gemini_put_schema(struct encoding *encoding, const char *name, struct str schema,
                                 struct json_writer *w) ERR_MUST_CHECK;

/* The path of a call to a method of the model: "/models/M:generateContent". In the arena. */
err_t provider_gemini_target(struct encoding *encoding, const char *method,
                             struct str *out) ERR_MUST_CHECK;

/* As provider_ops.encode and decode_whole, for embeddings: the event's raw bytes are the answer in
 * OpenAI's words, in decoder->arena. */
err_t provider_gemini_encode_embeddings(struct encoding *encoding) ERR_MUST_CHECK;
err_t provider_gemini_decode_embeddings(struct decoder *decoder, struct str body,
                                        struct event *out) ERR_MUST_CHECK;

/* As provider_ops.decode, decode_end and decode_whole. */
err_t provider_gemini_decode(struct decoder *decoder, const struct sse_event *in,
                             struct event *out) ERR_MUST_CHECK;
err_t provider_gemini_decode_end(struct decoder *decoder, struct event *out) ERR_MUST_CHECK;
err_t provider_gemini_decode_whole(struct decoder *decoder, struct str body,
                                   struct event *out) ERR_MUST_CHECK;

#endif
