/* SPDX-License-Identifier: Apache-2.0 */
/* Who is calling, and from where.
 *
 * Keys come as "Authorization: Bearer …" (RFC 6750) or, from Anthropic's SDKs, as "x-api-key", which
 * wins if both are there. Where none are in force only this machine may
 * call: the listeners are on loopback (the configuration insists), and a request must name a local
 * host, because a browser can be made to send requests here under a foreign name. */
#include "gateway/auth.h"

#include "gateway/cors.h"
#include "gateway/request.h"

static bool is_local_name(struct str host)
{
    return str_eq_nocase(host, STR("localhost")) || str_eq(host, STR("127.0.0.1")) ||
           str_eq(host, STR("::1")) || str_eq(host, STR("[::1]"));
}

/* "http://localhost:3000" and the like. */
static bool origin_is_local(struct str origin)
{
    size_t scheme = str_find(origin, STR("://"));
    struct str host;

    if (scheme == origin.len)
        return false;
    host = str_after(origin, scheme + 3);
    if (host.len > 0 && host.ptr[0] == '[')
        host.len = str_index(host, ']') < host.len ? str_index(host, ']') + 1 : host.len;
    else
        host.len = str_index(host, ':');
    return is_local_name(host);
}

static bool needs_key(const struct request *r)
{
    return r->gateway->listener == GATEWAY_ADMIN ? r->conf->admin_key.len > 0
                                                 : r->conf->keys.required;
}

err_t auth_check_door(struct request *r)
{
    const struct http_head *head = &r->exchange->head;
    struct str origin = http_header_get(head, STR("origin"));

    if (needs_key(r))
        return NULL;
    if (head->host_name.len > 0 && !is_local_name(head->host_name))
        return err_new_detail(
            ERR_DENIED, (.status = 403, .code = "foreign_host"),
            "without keys only this machine is served: call it localhost, 127.0.0.1 or [::1], "
            "or configure keys");
    if (origin.len > 0 && !origin_is_local(origin) && !cors_lists(r->conf, origin))
        return err_new_detail(ERR_DENIED, (.status = 403, .code = "foreign_origin"),
                              "the origin is not listed in cors.origins");
    return NULL;
}

/* One answer for a missing, malformed or wrong key: it tells nothing about which keys exist. */
static const struct err no_key = {
    .kind = ERR_DENIED,
    .code = "invalid_api_key",
    .where = ERR_HERE,
    .text = "Incorrect API key provided. Send a valid one as \"Authorization: Bearer <key>\" or "
            "\"x-api-key: <key>\".",
};

/* The key that was sent. */
static err_t read_key(const struct http_head *head, struct str *key)
{
    struct str value = http_header_get(head, STR("authorization"));

    if (http_header_count(head, STR("authorization")) > 1 ||
        http_header_count(head, STR("x-api-key")) > 1)
        return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_header"),
                              "more than one Authorization or x-api-key header");
    *key = http_header_get(head, STR("x-api-key"));
    if (key->len > 0)
        return NULL;
    if (value.len < 7 || !str_eq_nocase((struct str){value.ptr, 7}, STR("Bearer ")))
        return &no_key;
    *key = str_trim(str_after(value, 7));
    if (key->len == 0)
        return &no_key;
    return NULL;
}

static bool has_scope_named(const struct conf_key *key, struct str name)
{
    for (size_t i = 0; i < key->scopes.count; i++)
        if (str_eq(key->scopes.items[i], name))
            return true;
    return false;
}

static bool has_scope(const struct conf_key *key, enum route_scope scope)
{
    return has_scope_named(key, str_from(route_scope_name(scope)));
}

static err_t no_scope(const struct request *r)
{
    return err_new_detail(ERR_DENIED, (.status = 403, .code = "insufficient_permissions"),
                          "this key does not have the scope '%s'",
                          route_scope_name(r->route->scope));
}

/* Every key is compared, whichever matches. */
static const struct conf_key *find_key(const struct conf *conf, struct str sent)
{
    const struct conf_key *found = NULL;

    for (size_t i = 0; i < conf->keys.fixed_count; i++)
        if (str_eq_secret(conf->keys.fixed[i].key, sent))
            found = &conf->keys.fixed[i];
    return found;
}

/* Without keys a route is open to whoever the door let in, but a key that is shown and lacks the
 * scope is refused. */
static err_t check_shown_key(struct request *r)
{
    const struct conf_key *key;
    struct str sent;

    if (read_key(&r->exchange->head, &sent))
        return NULL;
    key = find_key(r->conf, sent);
    return key && !has_scope(key, r->route->scope) ? no_scope(r) : NULL;
}

err_t auth_check_key(struct request *r)
{
    const struct conf_key *key;
    struct str sent;

    if (r->route->scope == SCOPE_OPEN)
        return NULL;
    if (!needs_key(r))
        return check_shown_key(r);
    TRY(read_key(&r->exchange->head, &sent));
    if (r->gateway->listener == GATEWAY_ADMIN && str_eq_secret(r->conf->admin_key, sent)) {
        r->caller = STR("admin");
        return NULL;
    }
    key = find_key(r->conf, sent);
    if (!key)
        return &no_key;
    r->caller = key->name;
    r->may_choose_target = has_scope(key, SCOPE_ADMIN) || has_scope_named(key, STR("route"));
    return has_scope(key, r->route->scope) ? NULL : no_scope(r);
}
