/* SPDX-License-Identifier: Apache-2.0 */
/* Keys are random, so a fast hash is enough: there is nothing to guess (NIST SP 800-63B §5.1.1.2 asks for slow ones where
 * people choose). */
#include "govern/identity_secret.h"

#define OPENSSL_SUPPRESS_DEPRECATED /* see identity_hash */
#include <openssl/sha.h>
#include <stdio.h>

#include "base/sys.h"

/* RFC 4648 §5 and §6. */
static const char base64url[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
static const char base32[] = "abcdefghijklmnopqrstuvwxyz234567";

void identity_mint_key(char out[IDENTITY_KEY_BYTES])
{
    uint8_t raw[33] = {0}; /* one byte of padding: 11 groups of three */
    char *at = out;

    sys_random(raw, 32);
    memcpy(at, "sk-sluice-", 10);
    at += 10;
    for (size_t i = 0; i < sizeof(raw); i += 3) {
        uint32_t bits = (uint32_t)raw[i] << 16 | (uint32_t)raw[i + 1] << 8 | raw[i + 2];
        for (int shift = 18; shift >= 0 && at < out + IDENTITY_KEY_BYTES - 1; shift -= 6)
            *at++ = base64url[bits >> shift & 63];
    }
    *at = 0;
}

void identity_mint_id(const char *prefix, char out[IDENTITY_ID_BYTES])
{
    uint8_t raw[24];
    int len = snprintf(out, IDENTITY_ID_BYTES, "%.6s", prefix);

    sys_random(raw, sizeof(raw));
    for (size_t i = 0; i < sizeof(raw); i++)
        out[(size_t)len + i] = base32[raw[i] & 31];
    out[(size_t)len + sizeof(raw)] = 0;
}

/* Every request comes by here. EVP takes longer to begin and end than a key takes to hash, and allocates. */
err_t identity_hash(struct str key, uint8_t out[IDENTITY_HASH_BYTES])
{
    SHA256_CTX context;

    if (!SHA256_Init(&context) || !SHA256_Update(&context, key.ptr, key.len) ||
        !SHA256_Final(out, &context))
        return err_no_memory();
    return NULL;
}
