/* SPDX-License-Identifier: Apache-2.0 */
/* Keys are random, so a fast hash is enough: there is nothing to guess (NIST SP 800-63B §5.1.1.2 asks for slow ones where
 * people choose). */
#include "govern/identity_secret.h"

#include <openssl/evp.h>
#include <pthread.h>
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

/* Looking up an algorithm and making what it works in cost more than hashing a key: the one is done
 * once, the other once in each thread. */
static EVP_MD *sha256;
static pthread_key_t contexts;

static void free_context(void *context)
{
    EVP_MD_CTX_free(context);
}

static void fetch_sha256(void)
{
    if (pthread_key_create(&contexts, free_context) == 0)
        sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
}

/* This thread's, or NULL without memory. */
static EVP_MD_CTX *own_context(void)
{
    EVP_MD_CTX *context = pthread_getspecific(contexts);

    if (context || !(context = EVP_MD_CTX_new()))
        return context;
    if (pthread_setspecific(contexts, context) == 0)
        return context;
    EVP_MD_CTX_free(context);
    return NULL;
}

err_t identity_hash(struct str key, uint8_t out[IDENTITY_HASH_BYTES])
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    EVP_MD_CTX *context;

    pthread_once(&once, fetch_sha256);
    context = sha256 ? own_context() : NULL;
    if (!context || !EVP_DigestInit_ex(context, sha256, NULL) ||
        !EVP_DigestUpdate(context, key.ptr, key.len) || !EVP_DigestFinal_ex(context, out, NULL))
        return err_no_memory();
    return NULL;
}
