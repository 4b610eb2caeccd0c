/* SPDX-License-Identifier: Apache-2.0 */
/* What a token claims (RFC 7519 §4), and what that means here: a project, a user, scopes, and how long. */
#ifndef GOVERN_JWT_CLAIMS_H
#define GOVERN_JWT_CLAIMS_H

#include <stdint.h>

#include "conf/conf.h"
#include "govern/jwt_text.h"

/* How far an issuer's clock may be from ours. */
#define JWT_LEEWAY_MS 60000

/* For whom a token speaks. */
struct jwt_caller {
    size_t issuer;            /* its place in the configuration */
    struct str project, user; /* project is an id, which may not exist */
    unsigned scopes;          /* enum identity_scope, or-ed */
    uint64_t until_ms;        /* wall clock; leeway included */
};

/* Which issuer of the configuration a token claims to be by and for whose audience: *index. Errors: DENIED, the
 * arena's. */
err_t jwt_claims_find_issuer(const struct jwt_object *claims, const struct conf *conf,
                             struct arena *arena, size_t *index) ERR_MUST_CHECK;

/* What the claims of a token whose signature was verified say, by the rules of issuer `index`. Strs are borrowed or in the
 * arena. Errors: DENIED (the text says why), the arena's. */
err_t jwt_claims_read(const struct jwt_object *claims, const struct conf *conf, size_t index,
                      uint64_t now_ms, struct arena *arena, struct jwt_caller *out) ERR_MUST_CHECK;

#endif
