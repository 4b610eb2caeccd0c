/* SPDX-License-Identifier: Apache-2.0 */
/* Requests about a response that was kept or is being made, under /v1/responses/{id}; their handlers are in handlers.h. */
#ifndef GATEWAY_RESPONSES_H
#define GATEWAY_RESPONSES_H

#include "base/str.h"

struct request;

/* A parameter of the query as it was sent, or empty: none of those that are known here needs escapes. */
struct str responses_query(const struct request *r, const char *name);

#endif
