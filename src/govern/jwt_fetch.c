/* SPDX-License-Identifier: Apache-2.0 */
/* One GET, or two with discovery, on connections of its own.
 *
 * Whoever answers here decides who may call. So an address that nobody has vouched for is not asked: not the target
 * of a redirect, nothing without TLS, and no document that speaks for another issuer. */
#include "govern/jwt_fetch.h"

#include <sys/stat.h>

#include "base/json_members.h"
#include "base/sys.h"
#include "fiber/offload.h"
#include "govern/jwt_keys.h"
#include "net/http_client.h"
#include "net/sock.h"
#include "net/tls.h"

#define CONNECT_MS          5000
#define GET_MS              10000
#define DISCOVERY_MAX_BYTES ((size_t)256 * 1024)
#define USUAL_AGE_MS        ((uint64_t)3600 * 1000)

/* ---- how long ---- */

uint64_t jwt_fetch_age_ms(struct str cache_control)
{
    struct str rest = cache_control, directive;
    uint64_t age_ms = USUAL_AGE_MS, seconds;

    while (rest.ptr && str_split(&rest, ',', &directive)) {
        directive = str_trim(directive);
        if (str_eq_nocase(directive, STR("no-store")) || str_eq_nocase(directive, STR("no-cache")))
            return JWT_LEAST_AGE_MS;
        if (directive.len < 8 || !str_eq_nocase((struct str){directive.ptr, 8}, STR("max-age=")) ||
            !str_to_u64(str_after(directive, 8), &seconds))
            continue;
        age_ms = seconds < JWT_MOST_AGE_MS / 1000 ? seconds * 1000 : JWT_MOST_AGE_MS;
    }
    return age_ms < JWT_LEAST_AGE_MS ? JWT_LEAST_AGE_MS : age_ms;
}

/* ---- addresses ---- */

/* Take "https://host:port" and "/path?query" apart. */
static bool split_url(struct str url, struct str *origin, struct str *target)
{
    size_t host_at = str_find(url, STR("://")) + 3, slash;

    if (host_at > url.len)
        return false;
    for (size_t i = 0; i < url.len; i++)
        if (url.ptr[i] <= ' ' || url.ptr[i] > '~' || url.ptr[i] == '#' || url.ptr[i] == '\\')
            return false;
    slash = str_index(str_after(url, host_at), '/') + host_at;
    *origin = (struct str){url.ptr, slash};
    *target = slash < url.len ? str_after(url, slash) : STR("/");
    return slash > host_at;
}

static bool is_this_machine(const struct http_origin *origin)
{
    struct address address;

    if (address_set_ip(&address, origin->host, 0))
        return address_is_loopback(&address);
    return str_eq(origin->host, STR("localhost"));
}

/* ---- one GET ---- */

struct get {
    struct http_pool *pool;
    struct http_origin origin;
    struct str target;
    struct arena *arena;
    size_t max_bytes;
};

static err_t read_answer(const struct get *get, struct http_call *call, uint64_t until_ms,
                         struct jwt_fetched *out)
{
    struct str body;

    if (call->status != 200)
        return err_new(ERR_UPSTREAM, "the answer has the status %d", call->status);
    out->max_age_ms = jwt_fetch_age_ms(http_header_get(call->head, STR("cache-control")));
    TRY(http_call_read_all(call, get->max_bytes, until_ms, get->arena, &body));
    out->body = arena_copy(get->arena, body);
    return out->body.ptr ? NULL : arena_err(get->arena);
}

static err_t ask(const struct get *get, struct jwt_fetched *out)
{
    struct http_header headers[] = {{STR("Accept"), STR("application/json")},
                                    {STR("User-Agent"), STR("sluice")}};
    uint64_t until_ms = loop_now_ms() + GET_MS;
    struct http_ask http = {.origin = &get->origin,
                            .method = HTTP_GET_,
                            .method_text = "GET",
                            .target = get->target,
                            .headers = headers,
                            .header_count = 2,
                            .connect_ms = CONNECT_MS,
                            .head_at_ms = until_ms};
    struct http_call call;
    err_t err;

    TRY(http_call_open(get->pool, &http, get->arena, &call));
    err = read_answer(get, &call, until_ms, out);
    http_call_close(&call);
    return err;
}

static err_t get_url(struct str url, size_t max_bytes, struct arena *arena, struct jwt_fetched *out)
{
    struct get get = {.arena = arena, .max_bytes = max_bytes};
    struct str base;
    err_t err;

    if (!split_url(url, &base, &get.target))
        return err_new(ERR_CONFIG, "this is no address: %.*s", STR_ARG(url));
    TRY(http_origin_make(base, STR(""), arena, &get.origin));
    if (!get.origin.is_tls && !is_this_machine(&get.origin))
        return err_new(ERR_CONFIG, "%.*s is not https", STR_ARG(url));
    if (get.origin.is_tls)
        TRY(tls_client_context(STR(""), STR(""), STR(""), &get.origin.tls));
    err = http_pool_open(&get.pool);
    if (!err)
        err = ask(&get, out);
    http_pool_close(get.pool);
    tls_context_unref(get.origin.tls);
    return err_wrap(err, "%.*s", STR_ARG(url));
}

/* ---- discovery ---- */

err_t jwt_fetch_read_discovery(struct str json, const struct conf_issuer *issuer,
                               struct arena *arena, struct str *url)
{
    struct jwt_object document;
    struct str name;

    if (jwt_object_read(json, arena, &document) ||
        jwt_object_text(&document, STR("issuer"), arena, &name) ||
        jwt_object_text(&document, STR("jwks_uri"), arena, url))
        return err_new(ERR_UPSTREAM, "the discovery document cannot be read");
    if (!name.ptr || !str_eq(name, issuer->issuer))
        return err_new(ERR_UPSTREAM, "the discovery document is another issuer's");
    if (!url->ptr ||
        !(str_starts(*url, STR("https://")) ||
          (str_starts(*url, STR("http://")) && str_starts(issuer->issuer, STR("http://")))))
        return err_new(ERR_UPSTREAM, "the discovery document has no https address of keys");
    return NULL;
}

static err_t discover(const struct conf_issuer *issuer, struct arena *arena, struct str *url)
{
    struct str base = issuer->issuer;
    struct jwt_fetched document;
    char *at;

    while (base.len > 0 && base.ptr[base.len - 1] == '/')
        base.len--;
    at = arena_printf(arena, "%.*s/.well-known/openid-configuration", STR_ARG(base));
    if (!at)
        return arena_err(arena);
    TRY(get_url(str_from(at), DISCOVERY_MAX_BYTES, arena, &document));
    return jwt_fetch_read_discovery(document.body, issuer, arena, url);
}

/* ---- files ---- */

struct reading {
    const char *path;
    struct arena *arena;
    struct str content;
};

static err_t read_fd(int fd, struct reading *r)
{
    char *bytes = arena_alloc(r->arena, JWT_MAX_SET_BYTES + 1);
    size_t len = 0;
    ssize_t n;

    if (!bytes)
        return arena_err(r->arena);
    do {
        n = sys_read(fd, bytes + len, JWT_MAX_SET_BYTES + 1 - len);
        if (n < 0)
            return err_system(errno, r->path);
        len += (size_t)n;
    } while (n > 0 && len <= JWT_MAX_SET_BYTES);
    r->content = (struct str){bytes, len};
    return NULL;
}

static err_t read_file(void *arg)
{
    struct reading *r = arg;
    struct stat info;
    int fd = sys_open(r->path, O_RDONLY | O_NONBLOCK, 0);
    err_t err;

    if (fd < 0)
        return err_system(errno, r->path);
    if (fstat(fd, &info) < 0 || !S_ISREG(info.st_mode))
        err = err_new(ERR_SYSTEM, "%s: it is no file", r->path);
    else
        err = read_fd(fd, r);
    sys_close(fd);
    return err;
}

static err_t get_file(struct str path, struct arena *arena, struct jwt_fetched *out)
{
    struct reading r = {.path = arena_cstr(arena, path), .arena = arena};

    if (!r.path)
        return arena_err(arena);
    TRY(offload_run(OFFLOAD_FILE, read_file, &r));
    *out = (struct jwt_fetched){r.content, JWT_LEAST_AGE_MS};
    return NULL;
}

err_t jwt_fetch(const struct conf_issuer *issuer, struct arena *arena, struct jwt_fetched *out)
{
    struct str url = issuer->jwks;

    if (str_starts(url, STR("file:")))
        return get_file(str_after(url, 5), arena, out);
    if (url.len == 0)
        TRY(discover(issuer, arena, &url));
    return get_url(url, JWT_MAX_SET_BYTES, arena, out);
}
