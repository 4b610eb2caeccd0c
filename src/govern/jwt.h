/* SPDX-License-Identifier: Apache-2.0 */
/* JSON Web Tokens instead of keys: whom an issuer vouches for, by the rules of keys.issuers. */
#ifndef GOVERN_JWT_H
#define GOVERN_JWT_H

#include "govern/identity.h"
#include "govern/jwt_token.h"

/* PARKS, at most two seconds, if the token is by a key that must be fetched first. Check a token (jwt_token_is_one) in full. *key is
 * made in the arena for what it may do, and good as long as the snapshot of identities: its id is
 * "jwt:ISSUER/PROJECT/USER", its name the issuer's. *user is the end user whom it names, never empty. Whether the project is
 * disabled, the user suspended or a scope missing is for the caller of this to see.
 * Errors: DENIED (401, code invalid_api_key) for every token that is not good; its text says why and is for the log
 * alone. BUSY (503) while the issuer's keys are not there, or without memory. */
err_t jwt_check(struct str token, const struct identity *identity, struct arena *arena,
                const struct identity_key **key, struct str *user) ERR_MUST_CHECK;

#endif
