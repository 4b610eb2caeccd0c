/* SPDX-License-Identifier: Apache-2.0 */
/* URLs of upstreams, and which proxy leads to them.
 *
 * The grammar accepted is smaller than RFC 3986's, on purpose: no user names (keys have their
 * own option), no query, no fragment, no percent-escapes in host names. What is refused is
 * refused with a reason, since these texts come from people. */
#include "net/http_origin.h"

#include <openssl/evp.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "net/http_parse.h"
#include "net/sock.h"

#define HOST_MAX_BYTES 253

/* The parts of "scheme://user:password@host:port/path"; all but scheme and host may be empty. */
struct url {
    struct str scheme, user_info, host, path;
    uint16_t port; /* 0: not given */
    bool is_ip6;
};

static bool is_host_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_';
}

static bool is_host_name(struct str host)
{
    for (size_t i = 0; i < host.len; i++) {
        if (!is_host_char(host.ptr[i]))
            return false;
    }
    return host.len > 0 && host.len <= HOST_MAX_BYTES;
}

/* "host", "host:port", "[::1]" or "[::1]:port". */
static err_t parse_authority(struct str text, struct url *url)
{
    size_t host_end =
        text.len > 0 && text.ptr[0] == '[' ? str_index(text, ']') + 1 : str_index(text, ':');
    struct str port;
    struct address address;
    uint64_t number;

    if (host_end > text.len)
        return err_new(ERR_CONFIG, "a bracket is not closed");
    url->host = (struct str){text.ptr, host_end};
    url->is_ip6 = host_end > 0 && text.ptr[0] == '[';
    if (url->is_ip6)
        url->host = (struct str){text.ptr + 1, host_end - 2};
    if (url->is_ip6 ? !address_set_ip(&address, url->host, 0) : !is_host_name(url->host))
        return err_new(ERR_CONFIG, "\"%.*s\" is no host name", STR_ARG(url->host));
    port = str_after(text, host_end);
    if (port.len == 0)
        return NULL;
    if (port.ptr[0] != ':' || !str_to_u64(str_after(port, 1), &number) || number == 0 ||
        number > 65535)
        return err_new(ERR_CONFIG, "the port is no number from 1 to 65535");
    url->port = (uint16_t)number;
    return NULL;
}

/* Split a URL; "host:port" alone is taken as http. */
static err_t parse_url(struct str text, struct url *url)
{
    size_t scheme_end = str_find(text, STR("://"));
    struct str rest = text, authority;
    size_t at;

    *url = (struct url){.scheme = STR("http")};
    if (scheme_end < text.len) {
        url->scheme = (struct str){text.ptr, scheme_end};
        rest = str_after(text, scheme_end + 3);
    }
    for (size_t i = 0; i < rest.len; i++) {
        unsigned char c = (unsigned char)rest.ptr[i];
        if (c <= ' ' || c >= 0x7f || c == '?' || c == '#' || c == '\\')
            return err_new(ERR_CONFIG, "a URL here has no blanks, no query and no fragment");
    }
    authority = (struct str){rest.ptr, str_index(rest, '/')};
    url->path = str_after(rest, authority.len);
    at = str_index(authority, '@');
    if (at < authority.len) {
        url->user_info = (struct str){authority.ptr, at};
        authority = str_after(authority, at + 1);
    }
    return parse_authority(authority, url);
}

static struct str without_slashes(struct str path)
{
    while (path.len > 0 && path.ptr[path.len - 1] == '/')
        path.len--;
    return path;
}

/* "unix:/path" or "unix:/path:/v1". */
static err_t make_unix(struct str text, struct arena *arena, struct http_origin *out)
{
    struct str path = {text.ptr, str_index(text, ':')};
    struct str base = str_after(text, path.len);

    if (base.len > 0)
        base = str_after(base, 1);
    if (path.len == 0 || path.ptr[0] != '/' ||
        path.len >= sizeof(((struct sockaddr_un *)0)->sun_path))
        return err_new(ERR_CONFIG, "\"%.*s\" is no path of a unix socket", STR_ARG(path));
    if (base.len > 0 && base.ptr[0] != '/')
        return err_new(ERR_CONFIG, "the path after \"%.*s:\" begins with a slash", STR_ARG(path));
    out->is_unix = true;
    out->host = arena_copy(arena, path);
    out->base_path = arena_copy(arena, without_slashes(base));
    out->host_header = STR("localhost");
    return out->host.ptr && out->base_path.ptr ? NULL : arena_err(arena);
}

/* The Host header: with the port where it is not the scheme's own (RFC 9110 §7.2). */
static const char *print_host(const struct url *url, const struct http_origin *origin,
                              struct arena *arena)
{
    const char *open = url->is_ip6 ? "[" : "", *close = url->is_ip6 ? "]" : "";

    if (origin->port == (origin->is_tls ? 443 : 80))
        return arena_printf(arena, "%s%.*s%s", open, STR_ARG(origin->host), close);
    return arena_printf(arena, "%s%.*s%s:%u", open, STR_ARG(origin->host), close, origin->port);
}

static err_t make_tcp(struct str text, struct arena *arena, struct http_origin *out)
{
    struct url url;
    char *host;

    if (str_find(text, STR("://")) == text.len)
        return err_new(ERR_CONFIG, "it begins with http://, https:// or unix:");
    TRY(parse_url(text, &url));
    out->is_tls = str_eq(url.scheme, STR("https"));
    if (!out->is_tls && !str_eq(url.scheme, STR("http")))
        return err_new(ERR_CONFIG, "\"%.*s\" is neither http nor https", STR_ARG(url.scheme));
    if (url.user_info.ptr)
        return err_new(ERR_CONFIG, "a URL here has no user name: keys have an option of their own");
    host = arena_cstr(arena, url.host);
    for (char *c = host; c && *c; c++)
        *c = *c >= 'A' && *c <= 'Z' ? (char)(*c + ('a' - 'A')) : *c;
    out->host = (struct str){host, url.host.len};
    out->port = url.port ? url.port : out->is_tls ? 443 : 80;
    out->base_path = arena_copy(arena, without_slashes(url.path));
    if (host)
        out->host_header = str_from(print_host(&url, out, arena));
    return host && out->base_path.ptr && out->host_header.ptr ? NULL : arena_err(arena);
}

/* ---- proxies ---- */

static bool is_loopback(struct str host)
{
    struct address address;

    if (address_set_ip(&address, host, 0))
        return address_is_loopback(&address);
    return str_eq(host, STR("localhost")) || str_ends(host, STR(".localhost"));
}

/* Whether one NO_PROXY entry names the host. */
static bool entry_matches(struct str entry, struct str host, uint16_t port)
{
    struct address address;
    size_t colon = str_index(entry, ':');
    uint64_t number;

    if (str_eq(entry, STR("*")))
        return true;
    if (address_set_ip(&address, host, port) && address_in_range(&address, entry))
        return true;
    if (colon < entry.len) {
        if (!str_to_u64(str_after(entry, colon + 1), &number) || number != port)
            return false;
        entry.len = colon;
    }
    if (entry.len > 0 && entry.ptr[0] == '.')
        entry = str_after(entry, 1);
    if (entry.len == 0 || entry.len > host.len)
        return false;
    if (!str_eq_nocase(str_after(host, host.len - entry.len), entry))
        return false;
    return entry.len == host.len || host.ptr[host.len - entry.len - 1] == '.';
}

bool http_origin_is_excepted(struct str list, struct str host, uint16_t port)
{
    struct str rest = list, entry;

    while (rest.ptr && str_split(&rest, ',', &entry)) {
        if (entry_matches(str_trim(entry), host, port))
            return true;
    }
    return false;
}

/* The first of these variables that is set and not empty; the names end with NULL. */
static const char *first_set(const char *const *names, struct str *value)
{
    for (; *names; names++) {
        *value = str_from(getenv(*names));
        if (value->len > 0)
            return *names;
    }
    return NULL;
}

/* The proxy that the environment names for this origin; `source` is the variable's name, or
 * NULL. */
static const char *proxy_from_environment(const struct http_origin *origin, struct str *proxy)
{
    static const char *const for_tls[] = {"HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy",
                                          NULL};
    static const char *const for_plain[] = {"HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy",
                                            NULL};
    static const char *const exceptions[] = {"NO_PROXY", "no_proxy", NULL};
    struct str excepted;

    if (first_set(exceptions, &excepted) &&
        http_origin_is_excepted(excepted, origin->host, origin->port))
        return NULL;
    return first_set(origin->is_tls ? for_tls : for_plain, proxy);
}

/* "user:password", percent-encoded, to "Basic …" (RFC 7617). */
static err_t make_authorization(struct str user_info, struct arena *arena, struct str *out)
{
    static const struct str basic = {"Basic ", 6};
    struct str plain;
    err_t err;
    char *text;
    int len;

    err = http_decode(user_info, false, arena, &plain);
    if (err && !err_is(err, ERR_BAD_REQUEST))
        return err;
    if (err || plain.len > HTTP_MAX_VALUE_BYTES / 2)
        return err_new(ERR_CONFIG, "the user name or password has a broken escape");
    text = arena_alloc(arena, basic.len + plain.len / 3 * 4 + 5);
    if (!text)
        return arena_err(arena);
    memcpy(text, basic.ptr, basic.len);
    len = EVP_EncodeBlock((unsigned char *)text + basic.len, (const unsigned char *)plain.ptr,
                          (int)plain.len);
    *out = (struct str){text, basic.len + (size_t)len};
    return NULL;
}

static err_t set_proxy(struct str proxy, struct arena *arena, struct http_origin *out)
{
    struct url url;

    TRY(parse_url(proxy, &url));
    if (!str_eq_nocase(url.scheme, STR("http")))
        return err_new(ERR_CONFIG, "%.*s proxies are not supported, only http",
                       STR_ARG(url.scheme));
    if (without_slashes(url.path).len > 0)
        return err_new(ERR_CONFIG, "a proxy has no path");
    out->proxy_host = arena_copy(arena, url.host);
    out->proxy_port = url.port ? url.port : 80;
    if (!out->proxy_host.ptr)
        return arena_err(arena);
    return url.user_info.len > 0
               ? make_authorization(url.user_info, arena, &out->proxy_authorization)
               : NULL;
}

static err_t choose_proxy(struct str proxy, struct arena *arena, struct http_origin *out)
{
    const char *source = "proxy";

    if (out->is_unix || is_loopback(out->host) || str_eq(proxy, STR("off")))
        return NULL;
    if (proxy.len == 0) {
        source = proxy_from_environment(out, &proxy);
        if (!source)
            return NULL;
    }
    return err_wrap(set_proxy(proxy, arena, out), "%s", source);
}

err_t http_origin_make(struct str url, struct str proxy, struct arena *arena,
                       struct http_origin *out)
{
    static atomic_uint_fast64_t last_id;
    err_t err;

    *out = (struct http_origin){.id = atomic_fetch_add(&last_id, 1) + 1};
    if (str_starts(url, STR("unix:")))
        err = make_unix(str_after(url, 5), arena, out);
    else
        err = make_tcp(url, arena, out);
    if (err)
        return err_wrap(err, "url"); /* not its text, in which a password may stand */
    return choose_proxy(proxy, arena, out);
}
