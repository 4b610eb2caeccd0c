/* SPDX-License-Identifier: Apache-2.0 */
/* What callers are told of their rate limits, in the headers that their SDKs know. */
#ifndef GATEWAY_LIMIT_HEADERS_H
#define GATEWAY_LIMIT_HEADERS_H

#include "dialect/dialect.h"
#include "govern/limit.h"
#include "net/http_pen.h"

/* Write how matters stood after limit_take, or before it if all was given back: limit, remaining and reset of the
 * tightest rule for requests and for tokens, as x-ratelimit-* (OpenAI) or anthropic-ratelimit-*; nothing without
 * limits or before limit_take. */
void limit_headers_put(const struct limit_ticket *ticket, const struct dialect *dialect,
                       struct http_pen *pen);

/* When to come back, as retry-after (seconds, rounded up) and retry-after-ms; nothing for never (0 ms). */
void limit_headers_put_retry(uint64_t retry_ms, struct http_pen *pen);

#endif
