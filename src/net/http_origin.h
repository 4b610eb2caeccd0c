/* SPDX-License-Identifier: Apache-2.0 */
/* Origins: where calls go, made from a URL of the configuration and the proxy settings.
 *
 * An origin is made once per provider and configuration, immutable, and shared by all workers;
 * its id is the key of their connection pools. */
#ifndef NET_HTTP_ORIGIN_H
#define NET_HTTP_ORIGIN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/str.h"

struct tls_context;

struct http_origin {
    /* Name or address, in lower case, IPv6 without brackets; for unix sockets the path. */
    struct str host;
    uint16_t port; /* 0 for unix sockets */
    bool is_tls, is_unix;
    struct str host_header;  /* "api.openai.com" or "gpu1:8000" */
    struct str base_path;    /* "/v1", no slash at the end */
    struct tls_context *tls; /* set and referenced by whoever made the origin */
    struct str proxy_host;   /* empty: direct */
    uint16_t proxy_port;
    struct str proxy_authorization; /* "Basic …" or empty */
    uint64_t id;                    /* process-wide unique */
};

/* Parse "http://host:port/v1", "https://…", "unix:/path" or "unix:/path:/v1" and decide about a
 * proxy. `proxy` is "off" for none, "http://user:password@host:port", or "" for what the
 * environment says: HTTPS_PROXY or HTTP_PROXY, ALL_PROXY, NO_PROXY, in either case. Loopback
 * addresses and unix sockets never use a proxy. Does not set `tls`. Strs in the arena. Errors:
 * CONFIG. */
err_t http_origin_make(struct str url, struct str proxy, struct arena *arena,
                       struct http_origin *out) ERR_MUST_CHECK;

/* Whether a NO_PROXY list names this host. Entries are separated by commas: "*", "example.org"
 * or ".example.org" (the domain and everything below it), each with ":port" if only that port is
 * meant, addresses and CIDR ranges. */
bool http_origin_is_excepted(struct str list, struct str host, uint16_t port);

#endif
