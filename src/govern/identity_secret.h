/* SPDX-License-Identifier: Apache-2.0 */
/* Making keys and ids, and the SHA-256 under which a key is known. */
#ifndef GOVERN_IDENTITY_SECRET_H
#define GOVERN_IDENTITY_SECRET_H

#include <stdint.h>

#include "base/err.h"
#include "base/str.h"

#define IDENTITY_KEY_BYTES  (10 + 43 + 1) /* "sk-sluice-", 256 bits in base64url, NUL */
#define IDENTITY_ID_BYTES   32            /* "proj_" and 24 characters, NUL; with room */
#define IDENTITY_HASH_BYTES 32

/* A new key. */
void identity_mint_key(char out[IDENTITY_KEY_BYTES]);

/* A new id: `prefix` ("key_") and 24 characters of [a-z2-7], 120 random bits. */
void identity_mint_id(const char *prefix, char out[IDENTITY_ID_BYTES]);

/* The SHA-256 (FIPS 180-4) of a key as it is sent. Errors: BUSY without memory. */
err_t identity_hash(struct str key, uint8_t out[IDENTITY_HASH_BYTES]) ERR_MUST_CHECK;

#endif
