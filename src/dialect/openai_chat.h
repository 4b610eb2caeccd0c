/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's chat completions as callers speak them: the pieces of dialect_chat, which see. */
#ifndef DIALECT_OPENAI_CHAT_H
#define DIALECT_OPENAI_CHAT_H

#include "dialect/dialect.h"

/* As chat_request.expand. */
err_t openai_chat_expand(const struct chat_request *ask, struct arena *arena,
                         struct prompt *out) ERR_MUST_CHECK;

/* As the operations of struct dialect with these names. */
err_t openai_chat_write_event(struct answer_writer *writer,
                              const struct event *event) ERR_MUST_CHECK;
err_t openai_chat_write_answer(struct answer_writer *writer,
                               const struct answer *answer) ERR_MUST_CHECK;

/* Write the member "usage" in OpenAI's form, null if nothing is known. */
struct json_writer;
void openai_chat_put_usage(struct json_writer *w, const struct usage *usage);

/* OpenAI's word for why an answer ended. */
struct str openai_chat_finish_reason(enum stop_reason stop);

#endif
