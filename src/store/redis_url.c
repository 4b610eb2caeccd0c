/* SPDX-License-Identifier: Apache-2.0 */
/* Reads Redis' addresses. */
#include "store/redis_url.h"

#include "net/http_parse.h"
#include "net/tls.h"
#include "observe/log.h"

#define PORT          6379
#define SENTINEL_PORT 26379

static err_t bad_url(const char *why)
{
    return err_new(ERR_CONFIG, "redis.url %s", why);
}

/* "HOST", "HOST:PORT", "[V6]:PORT". */
static bool parse_host(struct str text, uint16_t port, struct redis_host *out)
{
    bool is_bracketed = text.len > 0 && text.ptr[0] == '[';
    size_t end = str_index(text, is_bracketed ? ']' : ':');
    uint64_t number = port;
    struct str rest;

    out->name = (struct str){text.ptr, end};
    if (is_bracketed && end == text.len)
        return false;
    if (is_bracketed)
        out->name = str_after(out->name, 1);
    rest = str_after(text, end + is_bracketed);
    if (rest.len > 0 && (rest.ptr[0] != ':' || !str_to_u64(str_after(rest, 1), &number)))
        return false;
    out->port = (uint16_t)number;
    return out->name.len > 0 && number > 0 && number <= UINT16_MAX;
}

/* Split "USER:PASSWORD@" off; the last "@" counts, so that a password may hold one. */
static err_t parse_user(struct redis_target *t, struct str *rest)
{
    size_t at = 0, colon;
    struct str login;

    for (size_t i = 0; i < rest->len; i++)
        if (rest->ptr[i] == '@')
            at = i + 1;
    if (at == 0)
        return NULL;
    login = (struct str){rest->ptr, at - 1};
    *rest = str_after(*rest, at);
    colon = str_index(login, ':');
    if (colon == login.len)
        return bad_url("must have user:password before the @");
    TRY(http_decode((struct str){login.ptr, colon}, false, t->arena, &t->user));
    TRY(http_decode(str_after(login, colon + 1), false, t->arena, &t->password));
    log_mask(t->password);
    return NULL;
}

/* "?ca=FILE" at the end. */
static err_t parse_options(struct redis_target *t, bool has_tls, struct str *rest, struct str *ca)
{
    size_t at = str_index(*rest, '?');
    struct str option = str_after(*rest, at + (at < rest->len));

    *ca = (struct str){0};
    if (at == rest->len)
        return NULL;
    rest->len = at;
    if (!str_starts(option, STR("ca=")) || option.len == 3)
        return bad_url("may end in ?ca=FILE and nothing else");
    if (!has_tls)
        return bad_url("has a ?ca=FILE, but no TLS: it must begin with rediss");
    return http_decode(str_after(option, 3), false, t->arena, ca);
}

static err_t parse_hosts(struct redis_target *t, struct str hosts, uint16_t port)
{
    struct str host;

    while (str_split(&hosts, ',', &host)) {
        if (t->host_count == REDIS_MAX_HOSTS)
            return bad_url("names too many hosts");
        if (!parse_host(host, port, &t->hosts[t->host_count++]))
            return bad_url("names no host");
    }
    return NULL;
}

static bool is_known(struct str scheme)
{
    static const char *const schemes[] = {"redis",           "rediss",        "redis+sentinel",
                                          "rediss+sentinel", "redis+cluster", "rediss+cluster"};

    for (size_t i = 0; i < sizeof(schemes) / sizeof(*schemes); i++)
        if (str_eq(scheme, str_from(schemes[i])))
            return true;
    return false;
}

static err_t parse(struct redis_target *t, struct str url)
{
    size_t start = str_find(url, STR("://"));
    struct str scheme = {url.ptr, start}, rest, hosts, ca;
    bool has_sentinel = str_ends(scheme, STR("+sentinel"));
    bool has_tls = str_starts(scheme, STR("rediss"));
    uint64_t number;

    t->is_cluster = str_ends(scheme, STR("+cluster"));
    if (!is_known(scheme))
        return bad_url("must begin with redis://, redis+sentinel:// or redis+cluster://, or with "
                       "rediss instead of redis for TLS");
    rest = str_after(url, start + 3);
    TRY(parse_user(t, &rest));
    TRY(parse_options(t, has_tls, &rest, &ca));
    hosts = (struct str){rest.ptr, str_index(rest, '/')};
    rest = str_after(rest, hosts.len + (hosts.len < rest.len));
    TRY(parse_hosts(t, hosts, has_sentinel ? SENTINEL_PORT : PORT));
    if (has_sentinel) {
        t->master = (struct str){rest.ptr, str_index(rest, '/')};
        rest = str_after(rest, t->master.len + (t->master.len < rest.len));
    }
    if (has_sentinel ? t->master.len == 0 : t->host_count > 1 && !t->is_cluster)
        return bad_url(has_sentinel ? "must name the master" : "must name one host");
    if (t->is_cluster && rest.len > 0 && !str_eq(rest, STR("0")))
        return bad_url("must name no database: a cluster has only one");
    if (rest.len > 0 && !str_to_u64(rest, &number))
        return bad_url("must end in the number of a database");
    t->database = rest;
    if (has_tls)
        TRY(tls_client_context(ca, (struct str){0}, (struct str){0}, &t->tls));
    return NULL;
}

err_t redis_target_make(struct str url, uint64_t timeout_ms, struct redis_target **out)
{
    struct arena *arena = arena_new(MEM_CONF, 64 * 1024);
    struct redis_target *t = arena ? arena_new_struct(arena, struct redis_target) : NULL;
    struct str copy = t ? arena_copy(arena, url) : (struct str){0};
    err_t err;

    if (!copy.ptr) {
        arena_free(arena);
        return err_no_memory();
    }
    atomic_init(&t->references, 1);
    t->arena = arena;
    t->url = copy;
    t->timeout_ms = timeout_ms;
    err = parse(t, copy);
    if (err_is(err, ERR_BAD_REQUEST))
        err = bad_url("has a broken percent escape");
    if (err)
        redis_target_unref(t);
    else
        *out = t;
    return err;
}

struct redis_target *redis_target_ref(struct redis_target *t)
{
    if (t)
        atomic_fetch_add(&t->references, 1);
    return t;
}

void redis_target_unref(struct redis_target *t)
{
    if (!t || atomic_fetch_sub(&t->references, 1) > 1)
        return;
    tls_context_unref(t->tls);
    arena_free(t->arena);
}
