/* SPDX-License-Identifier: Apache-2.0 */
/* What OpenAI's dialects share: how callers are told of errors, and which headers go on. Pure.
 *
 * Source: OpenAI's OpenAPI description 2.3.0 and the error classes of its SDKs. */
#ifndef DIALECT_OPENAI_ERROR_H
#define DIALECT_OPENAI_ERROR_H

#include "dialect/dialect.h"

/* As dialect.error_status: an overloaded provider's 529, which OpenAI does not know, is 503. */
int openai_error_status(err_t err);

/* As dialect.print_error: {"error":{"message","type","param","code"}}. request_id is sent as a
 * header only. */
struct str openai_error_print(err_t err, struct str request_id, struct arena *arena);

/* As dialect.write_error: `data: {"error":…}` without an end marker, so that SDKs raise. */
err_t openai_error_write(struct answer_writer *writer, err_t err, struct arena *arena,
                         struct buf *out) ERR_MUST_CHECK;

/* As dialect.forwards: OpenAI-* and Idempotency-Key. */
bool openai_error_forwards(struct str header);

#endif
