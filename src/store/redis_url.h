/* SPDX-License-Identifier: Apache-2.0 */
/* Where a Redis is, read from its address:
 *
 *     redis://[USER:PASSWORD@]HOST[:6379][/DATABASE]
 *     redis+sentinel://[USER:PASSWORD@]HOST[:26379],HOST…/MASTER[/DATABASE]
 *     redis+cluster://[USER:PASSWORD@]HOST[:6379],HOST…
 *
 * Each may begin with rediss instead: the same with TLS, to sentinels as well; then ?ca=FILE at the end names the
 * authorities that are believed instead of the system's. User and password are the data server's, a sentinel gets them
 * if it asks, and may be percent-encoded; ":PASSWORD@" is the default user's. */
#ifndef STORE_REDIS_URL_H
#define STORE_REDIS_URL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/str.h"

#define REDIS_MAX_HOSTS 16

struct tls_context;

struct redis_host {
    struct str name; /* or address, IPv6 without brackets */
    uint16_t port;
};

/* Immutable and counted. */
struct redis_target {
    atomic_uint references;
    struct arena *arena;
    struct str url; /* that it was read from */
    struct str user, password, database;
    struct str master; /* as the sentinels call it; empty: no sentinels */
    struct redis_host hosts[REDIS_MAX_HOSTS];
    size_t host_count;
    bool is_cluster; /* the hosts are some of its nodes */
    uint64_t timeout_ms;
    struct tls_context *tls; /* NULL: plain */
};

/* Read an address; one reference for the caller. Loads CAs for rediss. Blocks on files. Errors:
 * CONFIG (without the text, which may hold a password), BUSY. */
err_t redis_target_make(struct str url, uint64_t timeout_ms,
                        struct redis_target **out) ERR_MUST_CHECK;

/* Counted use; any thread. NULL is allowed. */
struct redis_target *redis_target_ref(struct redis_target *target);
void redis_target_unref(struct redis_target *target);

#endif
