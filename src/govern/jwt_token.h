/* SPDX-License-Identifier: Apache-2.0 */
/* A JSON Web Token (RFC 7519) in its compact form (RFC 7515 §7.1), taken apart. Nothing of it is believed yet. */
#ifndef GOVERN_JWT_TOKEN_H
#define GOVERN_JWT_TOKEN_H

#include <stdbool.h>

#include "govern/jwt_text.h"

#define JWT_MAX_BYTES ((size_t)16 * 1024)

struct jwt_token {
    struct str whole;              /* as it came */
    struct str signed_by;          /* "header.payload", which the signature is about */
    struct str alg, kid;           /* of the header; kid.ptr NULL: not there */
    struct str payload, signature; /* decoded */
};

/* Whether a text is three parts of base64url, the first of which begins like a JSON object: then it is to be judged as a token. */
bool jwt_token_is_one(struct str text);

/* Take a token apart; strs are borrowed from `text` or in the arena. A header must be flat: names and plain values. Errors:
 * DENIED, the arena's. */
err_t jwt_token_read(struct str text, struct arena *arena, struct jwt_token *out) ERR_MUST_CHECK;

#endif
