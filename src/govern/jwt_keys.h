/* SPDX-License-Identifier: Apache-2.0 */
/* The keys of an issuer (JSON Web Key Set, RFC 7517), and what they have signed.
 *
 * Each key has one algorithm: what its `alg` says, or else the usual one of its type. A token that names another is refused,
 * so a token never chooses how it is checked. RSA and elliptic curves are verified by cjose, Ed25519 (RFC 8037) by
 * OpenSSL, because cjose does not know it. */
#ifndef GOVERN_JWT_KEYS_H
#define GOVERN_JWT_KEYS_H

#include "govern/jwt_token.h"

#define JWT_MAX_KEYS      100
#define JWT_MAX_SET_BYTES ((size_t)1024 * 1024)

struct jwt_keys; /* immutable, counted */

/* Read a set; it has one reference. Keys for other uses, of other types, too weak or broken are left out, and of two with the same
 * kid and algorithm the second. Errors: UPSTREAM for what is no set or too large, BUSY. */
err_t jwt_keys_read(struct str json, struct jwt_keys **out) ERR_MUST_CHECK;

/* Counted use; any thread. NULL is allowed. */
struct jwt_keys *jwt_keys_ref(struct jwt_keys *keys);
void jwt_keys_unref(struct jwt_keys *keys);

/* How many can be used. NULL: 0. */
size_t jwt_keys_count(const struct jwt_keys *keys);

enum jwt_verdict { JWT_GOOD, JWT_UNKNOWN_KEY, JWT_WRONG_ALGORITHM, JWT_WRONG_SIGNATURE };

/* Whether one of the keys (NULL: none) has signed a token. A token without kid is verified only if there is one key alone.
 * Any thread; takes 50 to 500 µs. */
enum jwt_verdict jwt_keys_verify(const struct jwt_keys *keys, const struct jwt_token *token);

#endif
