/* SPDX-License-Identifier: Apache-2.0 */
/* Fetching the keys of an issuer: from a file, from an address, or from where OpenID discovery says that they are. */
#ifndef GOVERN_JWT_FETCH_H
#define GOVERN_JWT_FETCH_H

#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "conf/conf.h"

#define JWT_LEAST_AGE_MS ((uint64_t)5 * 60 * 1000)
#define JWT_MOST_AGE_MS  ((uint64_t)24 * 3600 * 1000)

struct jwt_fetched {
    struct str body;
    uint64_t max_age_ms; /* from JWT_LEAST_AGE_MS to JWT_MOST_AGE_MS */
};

/* PARKS, up to 20 s: a set of keys as it came, in the arena. Redirects are not followed; addresses must be https, or http on
 * this machine where the issuer is http, too. Errors: UPSTREAM, TIMED_OUT, SYSTEM (a file), CONFIG (an address that is
 * none), BUSY, cancellation. */
err_t jwt_fetch(const struct conf_issuer *issuer, struct arena *arena,
                struct jwt_fetched *out) ERR_MUST_CHECK;

/* What a Cache-Control header (RFC 9111 §5.2.2; empty: none came) says about how long an answer is good, within our
 * bounds. */
uint64_t jwt_fetch_age_ms(struct str cache_control);

/* Take the address of the keys out of a discovery document (OpenID Connect Discovery 1.0 §3), in the arena. Errors:
 * UPSTREAM. */
err_t jwt_fetch_read_discovery(struct str json, const struct conf_issuer *issuer,
                               struct arena *arena, struct str *url) ERR_MUST_CHECK;

#endif
