/* SPDX-License-Identifier: Apache-2.0 */
/* OpenAI's dialect: how its callers ask, and how they are told of errors. Pure.
 *
 * Source: OpenAI's OpenAPI description 2.3.0 and the error classes of its SDKs. */
#ifndef DIALECT_OPENAI_H
#define DIALECT_OPENAI_H

#include "base/arena.h"
#include "base/err.h"
#include "model/message.h"
#include "net/http_parse.h"

/* Check a chat completions body and read what concerns us. Strs of *out point into `body` or the
 * arena. Unknown members are relayed and not judged. Errors: BAD_REQUEST with code and param
 * (invalid_json, missing_required_parameter, invalid_type, invalid_value …). */
err_t openai_parse_chat(struct str body, struct arena *arena,
                        struct chat_request *out) ERR_MUST_CHECK;

/* The headers of a request that go on to a provider (OpenAI-*, Idempotency-Key), in the arena. */
err_t openai_forward_headers(const struct http_head *head, struct arena *arena,
                             struct http_header **out, size_t *count) ERR_MUST_CHECK;

/* The error object: {"error":{"message","type","param","code"}}, in the arena (a static one without
 * memory). */
struct str openai_print_error(err_t err, struct arena *arena);

#endif
