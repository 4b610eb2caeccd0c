/* SPDX-License-Identifier: Apache-2.0 */
/* Anthropic's messages as callers speak them: what the files of this dialect share, and what the
 * counting of tokens needs. Pure.
 *
 * Source: the type definitions of Anthropic's SDKs and the API reference (docs.claude.com). */
#ifndef DIALECT_ANTHROPIC_MESSAGES_H
#define DIALECT_ANTHROPIC_MESSAGES_H

#include "dialect/dialect.h"

/* Check the body of a request to count tokens: as dialect.parse, but without max_tokens. */
err_t anthropic_parse_count(struct str body, struct arena *arena,
                            struct chat_request *out) ERR_MUST_CHECK;

/* As chat_request.expand. What cannot be translated for any provider is refused by its path
 * ("messages[3].content[0].source"). */
err_t anthropic_expand(const struct chat_request *ask, struct arena *arena,
                       struct prompt *out) ERR_MUST_CHECK;

/* As dialect.error_status, print_error and write_error. */
int anthropic_error_status(err_t err);
struct str anthropic_error_print(err_t err, struct str request_id, struct arena *arena);
err_t anthropic_error_write(struct answer_writer *writer, err_t err, struct arena *arena,
                            struct buf *out) ERR_MUST_CHECK;

/* As dialect.write_event and write_answer. */
err_t anthropic_writer_event(struct answer_writer *writer,
                             const struct event *event) ERR_MUST_CHECK;
err_t anthropic_writer_answer(struct answer_writer *writer,
                              const struct answer *answer) ERR_MUST_CHECK;

#endif
