/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens that were found good, so that a signature is verified once and not with every request.
 *
 * A token is known by the SHA-256 of all of it, signature included: nothing shorter tells two tokens apart. The table is of fixed
 * size; where it is full the oldest goes. */
#ifndef GOVERN_JWT_CACHE_H
#define GOVERN_JWT_CACHE_H

#include <stdbool.h>

#include "govern/identity_secret.h"
#include "govern/jwt_claims.h"

struct jwt_cache;

/* An empty cache, or NULL without memory. Any thread may use it. */
struct jwt_cache *jwt_cache_new(void);
void jwt_cache_free(struct jwt_cache *cache); /* NULL is allowed */

/* Whom a token that is still good speaks for; texts are copied into the arena. False if it is not known (or without
 * memory). */
bool jwt_cache_get(struct jwt_cache *cache, const uint8_t hash[IDENTITY_HASH_BYTES],
                   uint64_t now_ms, struct arena *arena, struct jwt_caller *out);

/* Remember a token until it expires. Without memory it is not remembered. */
void jwt_cache_put(struct jwt_cache *cache, const uint8_t hash[IDENTITY_HASH_BYTES],
                   const struct jwt_caller *caller);

#endif
