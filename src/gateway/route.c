/* SPDX-License-Identifier: Apache-2.0 */
/* Finding a route. The table is short, so it is searched from top to bottom. */
#include "gateway/route.h"

#include "gateway/handlers.h"

#define PUBLIC GATEWAY_PUBLIC
#define ADMIN  GATEWAY_ADMIN
#define BOTH   (GATEWAY_PUBLIC | GATEWAY_ADMIN)

static const struct route routes[] = {
#define GET    HTTP_GET_
#define POST   HTTP_POST_
#define PATCH  HTTP_PATCH_
#define DELETE HTTP_DELETE_
#define X(verb, path, handler, scope, listeners, help)                                             \
    {verb, path, handler, SCOPE_##scope, listeners, help},
#include "gateway/routes.def"
#undef X
#undef GET
#undef POST
#undef PATCH
#undef DELETE
};

#define ROUTE_COUNT (sizeof(routes) / sizeof(*routes))
_Static_assert(ROUTE_COUNT < ROUTE_MAX, "raise ROUTE_MAX");

size_t route_number(const struct route *route)
{
    return route ? (size_t)(route - routes) + 1 : 0;
}

const char *route_label(const struct route *route)
{
    return route ? route->path : "none";
}

const char *route_scope_name(enum route_scope scope)
{
    static const char *const names[] = {"open", "models", "admin", "admin"};

    return names[scope];
}

/* Whether a route's path fits; what stands at "*" goes to *rest. */
static bool fits(const struct route *route, struct str path, struct str *rest)
{
    struct str pattern = str_from(route->path);

    *rest = STR("");
    if (!str_ends(pattern, STR("*")))
        return str_eq(pattern, path);
    pattern.len--;
    if (!str_starts(path, pattern) || path.len == pattern.len)
        return false;
    *rest = str_after(path, pattern.len);
    return true;
}

static bool method_fits(const struct route *route, enum http_method method)
{
    return route->method == method || (route->method == HTTP_GET_ && method == HTTP_HEAD_);
}

static err_t no_such_path(const struct http_head *head)
{
    return err_new_detail(ERR_NOT_FOUND, (.code = "unknown_url"), "Invalid URL (%.*s %.*s)",
                          STR_ARG(head->method_text),
                          (int)(head->path.len < 200 ? head->path.len : 200), head->path.ptr);
}

/* What takes every path under /v1 that is nobody else's. */
static bool is_fallback(const struct route *route)
{
    return strcmp(route->path, "/v1/*") == 0;
}

/* The methods that a path has, for the Allow header (RFC 9110 §10.2.1). */
static const char *allowed_methods(enum gateway_listener listener, struct str path,
                                   struct arena *arena)
{
    bool has[HTTP_OTHER_ + 1] = {false};
    struct str rest;

    for (size_t i = 0; i < ROUTE_COUNT; i++)
        if ((routes[i].listeners & (int)listener) && fits(&routes[i], path, &rest) &&
            !is_fallback(&routes[i]))
            has[routes[i].method] = true;
    return arena_printf(arena, "%s%s%s%sOPTIONS", has[HTTP_GET_] ? "GET, HEAD, " : "",
                        has[HTTP_POST_] ? "POST, " : "", has[HTTP_PATCH_] ? "PATCH, " : "",
                        has[HTTP_DELETE_] ? "DELETE, " : "");
}

static err_t wrong_method(const struct http_head *head, const char *allowed)
{
    return err_new_detail(ERR_BAD_REQUEST, (.status = 405, .code = "method_not_allowed"),
                          "%.*s is not allowed here: use %s", STR_ARG(head->method_text),
                          allowed ? allowed : "another method");
}

err_t route_find(enum gateway_listener listener, const struct http_head *head, struct arena *arena,
                 const struct route **route, struct str *rest, const char **allowed)
{
    bool has_path = false;

    *route = NULL;
    for (size_t i = 0; i < ROUTE_COUNT; i++) {
        struct str found;
        if (!(routes[i].listeners & (int)listener) || !fits(&routes[i], head->path, &found))
            continue;
        if (has_path && is_fallback(&routes[i]))
            break;
        if (!method_fits(&routes[i], head->method)) {
            has_path |= !is_fallback(&routes[i]);
            continue;
        }
        err_t err = http_decode(found, false, arena, rest);
        if (err)
            return err_is(err, ERR_BAD_REQUEST) ? no_such_path(head) : err;
        *route = &routes[i];
        return NULL;
    }
    if (!has_path)
        return no_such_path(head);
    *allowed = allowed_methods(listener, head->path, arena);
    return wrong_method(head, *allowed);
}
