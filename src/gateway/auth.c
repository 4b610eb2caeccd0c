/* SPDX-License-Identifier: Apache-2.0 */
/* Who is calling, and from where.
 *
 * Keys come as "Authorization: Bearer …" (RFC 6750) or, from Anthropic's SDKs, as "x-api-key", which
 * wins if both are there. Where none are in force only this machine may call: the listeners are on
 * loopback (the configuration insists), and a request must name a local host, because a browser can be
 * made to send requests here under a foreign name.
 *
 * The hard thing is to say no more than a caller may know: who shows no good key learns nothing of
 * keys, and whoever does learns nothing of other tenants. */
#include "gateway/auth.h"

#include "base/sys.h"
#include "gateway/auth_brake.h"
#include "gateway/cors.h"
#include "gateway/request.h"
#include "govern/identity_field.h"
#include "govern/jwt.h"
#include "net/sock.h"

#define MAX_USER 128 /* characters of X-User-ID */

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

static void release_identity(void *identity)
{
    identity_unref(identity);
}

/* The keys that this request will see to its end. */
static err_t take_identity(struct request *r)
{
    r->identity = identity_current();
    if (!r->identity)
        return err_new(ERR_BUSY, "the server is starting");
    return arena_defer(r->arena, release_identity, (void *)(uintptr_t)r->identity);
}

static bool needs_key(const struct request *r)
{
    if (r->gateway->listener == GATEWAY_ADMIN)
        return r->conf->admin_key.len > 0 || identity_has_admin(r->identity);
    return r->conf->keys.required;
}

err_t auth_check_door(struct request *r)
{
    const struct http_head *head = &r->exchange->head;
    struct str origin;

    TRY(take_identity(r));
    if (needs_key(r))
        return NULL;
    origin = http_header_get(head, STR("origin"));
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

/* Whether there is a credential of any kind. */
static bool shows_key(const struct http_head *head)
{
    return http_header_count(head, STR("authorization")) > 0 ||
           http_header_count(head, STR("x-api-key")) > 0;
}

#define HOW_TO_SEND "\"Authorization: Bearer <key>\" or \"x-api-key: <key>\"."

/* Nothing that could be a key. It says no more than the caller knows of himself; the code is that of a wrong one, for clients
 * that ask for no other. */
static const struct err no_key = {
    .kind = ERR_DENIED,
    .code = "invalid_api_key",
    .where = ERR_HERE,
    .text = "You didn't provide an API key. Send yours as " HOW_TO_SEND,
};

/* One answer for a malformed or wrong key: it tells nothing about which keys exist. */
static const struct err wrong_key = {
    .kind = ERR_DENIED,
    .code = "invalid_api_key",
    .where = ERR_HERE,
    .text = "Incorrect API key provided. Send a valid one as " HOW_TO_SEND,
};

/* The key in a value of Authorization; it is empty if there is only the word that should precede it. */
static err_t read_bearer(struct str value, struct str *key)
{
    struct str scheme = {value.ptr, str_index(value, ' ')};

    *key = str_trim(str_after(value, scheme.len));
    if (value.len > 0 && !str_eq_nocase(scheme, STR("Bearer")))
        return &wrong_key;
    return key->len > 0 ? NULL : &no_key;
}

/* The key that was sent. */
static err_t read_key(const struct http_head *head, struct str *key)
{
    if (http_header_count(head, STR("authorization")) > 1 ||
        http_header_count(head, STR("x-api-key")) > 1)
        return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_header"),
                              "more than one Authorization or x-api-key header");
    *key = http_header_get(head, STR("x-api-key"));
    if (key->len > 0)
        return NULL;
    return read_bearer(http_header_get(head, STR("authorization")), key);
}

/* ---- what a key is good for ---- */

static err_t find(const struct request *r, struct str sent, const struct identity_key **key)
{
    return r->gateway->listener == GATEWAY_ADMIN ? identity_find_admin(r->identity, sent, key)
                                                 : identity_find(r->identity, sent, key);
}

static err_t refuse(int status, const char *code, const char *text)
{
    return err_new_detail(ERR_DENIED, (.status = status, .code = code), "%s", text);
}

static bool comes_from(const struct conf_strings *networks, const char *ip)
{
    struct address address;

    if (networks->count == 0)
        return true;
    if (!address_set_ip(&address, str_from(ip), 0)) /* a unix socket */
        return false;
    for (size_t i = 0; i < networks->count; i++)
        if (address_in_range(&address, networks->items[i]))
            return true;
    return false;
}

static err_t check_scope(const struct request *r, const struct identity_key *key)
{
    enum route_scope scope = r->route->scope;
    unsigned wanted = scope == SCOPE_MODELS ? IDENTITY_MODELS : IDENTITY_ADMIN;

    if (!(key->scopes & wanted))
        return err_new_detail(ERR_DENIED, (.status = 403, .code = "insufficient_permissions"),
                              "this key does not have the scope '%s'", route_scope_name(scope));
    if (scope == SCOPE_ADMIN && key->realm != REALM_ALL)
        return refuse(403, "insufficient_permissions", "this needs a key that rules over more");
    return NULL;
}

static err_t check_use(const struct request *r, const struct identity_key *key)
{
    if (key->is_disabled)
        return refuse(401, "key_disabled", "This key is revoked or disabled, or its project is.");
    if (key->expires_ms && key->expires_ms <= sys_wall_ms())
        return refuse(401, "key_expired", "This key has expired.");
    if (!comes_from(&key->ips, r->exchange->peer_ip))
        return refuse(403, "address_not_allowed", "This key may not be used from this address.");
    return NULL;
}

/* The end user whom the caller names; believed, because it can only spend what the key may. */
static err_t read_user(const struct http_head *head, struct str *user)
{
    *user = http_header_get(head, STR("x-user-id"));
    if (user->len == 0)
        return NULL;
    if (http_header_count(head, STR("x-user-id")) > 1 || !identity_is_printable(*user, MAX_USER))
        return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_header", .param = "X-User-ID"),
                              "X-User-ID must be one text of at most %d printable characters",
                              MAX_USER);
    return NULL;
}

/* ---- finding the caller ---- */

static err_t take_user(struct request *r, struct str user)
{
    if (identity_is_suspended(r->identity, r->subject.project, user))
        return refuse(401, "user_suspended", "This user is suspended.");
    r->subject.user = user;
    return NULL;
}

/* `vouched` is the user whom a token names, or empty: then it is whom the caller names. */
static err_t set_user(struct request *r, struct str vouched)
{
    struct str user;

    TRY(read_user(&r->exchange->head, &user));
    if (vouched.len > 0 && user.len > 0 && !str_eq(user, vouched))
        return refuse(403, "user_mismatch", "X-User-ID names another user than the token.");
    if (vouched.len > 0)
        user = vouched;
    r->subject.user_is_limited = user.len > 0;
    return take_user(r, user);
}

err_t auth_name_user(struct request *r)
{
    struct str value, user;

    if (r->subject.user.len > 0)
        return NULL;
    value = chat_end_user(&r->ask);
    if (!value.ptr)
        return NULL;
    if (!json_text(value, r->arena, &user))
        return arena_err(r->arena);
    if (user.len == 0 ||
        !identity_is_printable(user, MAX_USER)) /* the provider's, who may take it */
        return NULL;
    user = arena_copy(r->arena, user); /* the body goes before the call ends */
    return user.ptr ? take_user(r, user) : arena_err(r->arena);
}

static err_t accept_key(struct request *r, const struct identity_key *key, struct str vouched)
{
    TRY(check_use(r, key));
    r->key = key;
    r->caller = key->name;
    r->may_choose_target = key->scopes & (IDENTITY_ADMIN | IDENTITY_ROUTE);
    identity_subject(key, STR(""), false, &r->subject);
    TRY(set_user(r, vouched));
    return check_scope(r, key);
}

/* A wrong key, or a token that is not good for the reason `why`, which is for the log. On the admin listener it takes a while to
 * hear of it. */
static err_t refuse_key(struct request *r, err_t why)
{
    if (r->gateway->listener == GATEWAY_ADMIN)
        TRY(auth_brake_count(BRAKE_KEYS, r->exchange->peer_ip));
    return why ? err_cover(why, "%s", wrong_key.text) : &wrong_key;
}

/* What was shown: a key, or a token for which an issuer vouches, with the user whom it names. *key is NULL if it looks like
 * neither. */
static err_t find_sent(struct request *r, struct str sent, const struct identity_key **key,
                       struct str *user)
{
    err_t err;

    *user = STR("");
    TRY(find(r, sent, key));
    if (*key || r->conf->keys.issuer_count == 0 || !jwt_token_is_one(sent))
        return NULL;
    err = jwt_check(sent, r->identity, r->arena, key, user);
    return err_is(err, ERR_DENIED) ? refuse_key(r, err) : err;
}

/* Whoever the door let in. A key that is known and not good for this is refused; one that is not known is nothing to us:
 * SDKs cannot do without sending one. */
static err_t accept_without_key(struct request *r)
{
    const struct identity_key *key;
    struct str sent, user;

    if (!read_key(&r->exchange->head, &sent)) {
        TRY(find_sent(r, sent, &key, &user));
        if (key)
            return accept_key(r, key, user);
    }
    r->subject = (struct subject){.org = STR("default"),
                                  .project = STR("default"),
                                  .key = STR("default"),
                                  .key_name = STR(""),
                                  .tier = STR("")};
    const struct identity_project *project = identity_project_get(r->identity, r->subject.project);
    if (project) {
        if (project->is_disabled && r->route->scope == SCOPE_MODELS)
            return refuse(401, "key_disabled", "Calls without a key are disabled.");
        r->subject.tier = project->tier;
        r->subject.project_allowance = project->allowance;
    }
    return set_user(r, STR(""));
}

static err_t check_brake(struct request *r)
{
    uint64_t wait_ms = 0;
    err_t err;

    if (r->gateway->listener != GATEWAY_ADMIN)
        return NULL;
    err = auth_brake_check(BRAKE_KEYS, r->exchange->peer_ip, &wait_ms);
    r->call.retry_at_ms = err ? loop_now_ms() + wait_ms : 0;
    return err;
}

err_t auth_check_key(struct request *r)
{
    const struct identity_key *key;
    struct str sent, user;

    if (r->route->scope == SCOPE_OPEN)
        return NULL;
    /* Who shows a key to the admin listener means it, and shall hear that it is wrong. */
    if (!needs_key(r) && !(r->gateway->listener == GATEWAY_ADMIN && shows_key(&r->exchange->head)))
        return accept_without_key(r);
    TRY(check_brake(r));
    TRY(read_key(&r->exchange->head, &sent));
    TRY(find_sent(r, sent, &key, &user));
    return key ? accept_key(r, key, user) : refuse_key(r, NULL);
}

/* ---- what the caller may ask for ---- */

bool auth_names_model(const struct request *r, struct str model)
{
    return !r->key || identity_names_model(&r->key->models, model);
}

/* A key for some models is not for those that a provider would ask in their place. */
static err_t check_others(const struct request *r)
{
    if (auth_names_model(r, STR("")) || !chat_names_others(&r->ask))
        return NULL;
    return refuse(403, "insufficient_permissions",
                  "this key may not let the provider ask other models (models, fallbacks)");
}

err_t auth_check_model(const struct request *r)
{
    struct str model = r->ask.model, wanted = r->call.caller.wanted;

    if (auth_names_model(r, model)) {
        if (wanted.len == 0 || auth_names_model(r, wanted))
            return check_others(r);
        model = wanted;
    }
    return err_new_detail(ERR_DENIED,
                          (.status = 403, .code = "insufficient_permissions", .param = "model"),
                          "this key may not ask the model '%.*s'",
                          (int)(model.len < 200 ? model.len : 200), model.ptr ? model.ptr : "");
}

void auth_realm(const struct request *r, struct str *org, struct str *project)
{
    const struct identity_key *key = r->key;

    *org = key && key->realm != REALM_ALL ? key->org : STR("");
    *project = key && key->realm == REALM_PROJECT ? key->project : STR("");
}

struct identity_actor auth_actor(const struct request *r)
{
    struct identity_actor actor = {.key = r->key ? r->key->id : STR("local"),
                                   .name = r->key ? r->key->name : STR("local"),
                                   .ip = str_from(r->exchange->peer_ip)};

    auth_realm(r, &actor.org, &actor.project);
    return actor;
}
