/* SPDX-License-Identifier: Apache-2.0 */
/* What callers are told of their rate limits, in the headers that their SDKs know. */
#ifndef GATEWAY_LIMIT_HEADERS_H
#define GATEWAY_LIMIT_HEADERS_H

#include "base/arena.h"
#include "dialect/dialect.h"
#include "govern/limit.h"
#include "net/http_parse.h"

#define LIMIT_HEADERS_MAX 6

/* Write how matters stood after limit_take to `out`, in the arena: limit, remaining and reset of the tightest
 * rule for requests and for tokens, as x-ratelimit-* (OpenAI) or anthropic-ratelimit-*. Returns their number; 0
 * without limits, before limit_take, or without memory. */
size_t limit_headers_make(const struct limit_ticket *ticket, const struct dialect *dialect,
                          struct arena *arena, struct http_header out[LIMIT_HEADERS_MAX]);

/* When to come back, as retry-after (seconds, rounded up) and retry-after-ms. Returns 2; 0 for never (0 ms) or
 * without memory. */
size_t limit_headers_retry(uint64_t retry_ms, struct arena *arena, struct http_header out[2]);

#endif
