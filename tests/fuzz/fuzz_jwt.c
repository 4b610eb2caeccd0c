/* SPDX-License-Identifier: Apache-2.0 */
/* Reads bytes as a token, as its header, as its claims, as a set of keys and as a discovery document. No signature is good,
 * what was read means the same when it is read again, and no byte of memory is left. */
#include <stddef.h>
#include <stdint.h>

#include "base/check.h"
#include "base/mem.h"
#include "govern/jwt_claims.h"
#include "govern/jwt_fetch.h"
#include "govern/jwt_keys.h"

#define NOW_MS UINT64_C(1700000000000)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static struct conf_issuer issuers[] = {{.name = {"a", 1},
                                        .issuer = {"https://a", 9},
                                        .audience = {"x", 1},
                                        .project_claim = {"project", 7},
                                        .user_claim = {"sub", 3},
                                        .scope_claim = {"scopes", 6}}};
static const struct conf conf = {.keys = {.issuers = issuers, .issuer_count = 1}};

static const char two_keys[] =
    "{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\","
    "\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\",\"kid\":\"o\"},{\"kty\":\"EC\",\"crv\":"
    "\"P-256\","
    "\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","
    "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\",\"kid\":\"e\"}]}";

static struct str encode(struct str bytes, struct arena *arena)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    char *out = arena_alloc(arena, bytes.len * 2 + 8), *at = out;
    unsigned held = 0, bits = 0;

    check(out != NULL);
    for (size_t i = 0; i < bytes.len; i++) {
        held = (held << 8 | (unsigned char)bytes.ptr[i]) & 0xffff;
        for (bits += 8; bits >= 6; bits -= 6)
            *at++ = digits[held >> (bits - 6) & 63];
    }
    if (bits)
        *at++ = digits[held << (6 - bits) & 63];
    return (struct str){out, (size_t)(at - out)};
}

static void read_claims(struct str json, struct arena *arena)
{
    struct jwt_object claims;
    struct jwt_caller caller;
    size_t index;

    if (jwt_object_read(json, arena, &claims))
        return;
    if (!jwt_claims_find_issuer(&claims, &conf, arena, &index))
        check(index == 0);
    if (!jwt_claims_read(&claims, &conf, 0, NOW_MS, arena, &caller))
        check(caller.user.len > 0 && caller.project.len > 0 && caller.until_ms > NOW_MS);
}

static void read_token(struct str text, struct arena *arena)
{
    struct jwt_token token;
    struct jwt_keys *keys;

    if (jwt_token_read(text, arena, &token))
        return;
    read_claims(token.payload, arena);
    check(!jwt_keys_read(str_from(two_keys), &keys) && jwt_keys_count(keys) == 2);
    check(jwt_keys_verify(keys, &token) != JWT_GOOD);
    jwt_keys_unref(keys);
}

/* The bytes as the header of a token that is well-formed otherwise. */
static void read_header(struct str json, struct arena *arena)
{
    struct str header = encode(json, arena);
    char *text = arena_printf(arena, "%.*s.e30.AAAA", STR_ARG(header));

    check(text != NULL);
    read_token(str_from(text), arena);
}

static void read_documents(struct str json, struct arena *arena)
{
    struct jwt_keys *keys;
    struct str url;

    if (!jwt_keys_read(json, &keys))
        check(jwt_keys_count(keys) <= JWT_MAX_KEYS);
    jwt_keys_unref(keys);
    if (!jwt_fetch_read_discovery(json, &issuers[0], arena, &url))
        check(str_starts(url, STR("https://")));
    check(jwt_fetch_age_ms(json) >= JWT_LEAST_AGE_MS && jwt_fetch_age_ms(json) <= JWT_MOST_AGE_MS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct str text = {(const char *)data, len}, decoded;
    struct arena *arena = arena_new(MEM_TOOL, (size_t)64 * 1024 * 1024);

    check(arena != NULL);
    err_scope_set(arena);
    if (!jwt_decode(text, arena, &decoded))
        check(str_eq(encode(decoded, arena), text));
    read_token(text, arena);
    read_header(text, arena);
    read_claims(text, arena);
    read_documents(text, arena);
    err_scope_set(NULL);
    arena_free(arena);
    check(mem_in_use(MEM_TOOL) == 0 && mem_in_use(MEM_GOVERN) == 0);
    return 0;
}
