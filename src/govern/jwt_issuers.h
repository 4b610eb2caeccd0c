/* SPDX-License-Identifier: Apache-2.0 */
/* The issuers of the configuration with the keys that they have now.
 *
 * Requests see an immutable snapshot, which changes when a configuration is adopted or an issuer has other keys. A fiber of
 * the main thread keeps it true: it fetches keys again before their time is over, and sooner when a request
 * shows a token by a key that nobody knows yet. An issuer that is away keeps the keys it had for a day. */
#ifndef GOVERN_JWT_ISSUERS_H
#define GOVERN_JWT_ISSUERS_H

#include <stdatomic.h>

#include "govern/jwt_cache.h"
#include "govern/jwt_keys.h"

struct jwt_issuers {
    atomic_uint references;
    const struct conf *conf;
    struct jwt_keys *
        *keys; /* of each issuer of `conf`; NULL: none have come yet, or too long ago */
    struct jwt_cache *cache;
};

/* The snapshot in force, one reference for the caller, or NULL if there are no issuers; and giving it back. Any thread. */
struct jwt_issuers *jwt_issuers_current(void);
void jwt_issuers_unref(struct jwt_issuers *issuers); /* NULL is allowed */

/* PARKS up to two seconds while the keys of an issuer are fetched again. False if that was not done: an issuer is asked at most
 * twice a minute for keys that it may not have. */
bool jwt_issuers_await(const struct jwt_issuers *issuers, size_t index);

#endif
