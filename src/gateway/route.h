/* SPDX-License-Identifier: Apache-2.0 */
/* The route table. */
#ifndef GATEWAY_ROUTE_H
#define GATEWAY_ROUTE_H

#include "base/arena.h"
#include "gateway/gateway.h"
#include "net/http_parse.h"

#define ROUTE_MAX 128 /* routes, and one number for "none of them" */

struct request;

enum route_scope { SCOPE_OPEN, SCOPE_MODELS, SCOPE_TENANT, SCOPE_ADMIN };

struct route {
    enum http_method method;
    const char *path;
    err_t (*handle)(struct request *request); /* PARKS */
    enum route_scope scope;
    int listeners; /* enum gateway_listener, or-ed */
    const char *help;
};

/* Find the route of a request on this listener; *rest is the decoded text that "*" stands for.
 * Errors: NOT_FOUND, 405 with *allowed listing the methods ("GET, HEAD"), BAD_REQUEST for a path
 * that cannot be decoded. */
err_t route_find(enum gateway_listener listener, const struct http_head *head, struct arena *arena,
                 const struct route **route, struct str *rest, const char **allowed) ERR_MUST_CHECK;

/* A route's place in the table, from 1 on, below ROUTE_MAX; 0 for NULL. */
size_t route_number(const struct route *route);

/* What a route is called in metrics: its path, or "none" for NULL. */
const char *route_label(const struct route *route);

/* "models", "admin" or "open". */
const char *route_scope_name(enum route_scope scope);

#endif
