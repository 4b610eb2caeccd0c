/* SPDX-License-Identifier: Apache-2.0 */
/* Sets are read into an arena; keys are made of their bare numbers, so that no second reader of JSON sees the text.
 *
 * The hard thing is what libraries would accept: so names, lengths and algorithm are compared here, and cjose is
 * asked only about a token that says what the key says. */
#include "govern/jwt_keys.h"

#include <cjose/cjose.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdatomic.h>

#include "base/json_members.h"

#define ARENA_MAX_BYTES ((size_t)16 * 1024 * 1024)
#define RSA_MIN_BYTES   256 /* RFC 7518 §3.3: 2048 bits or more */
#define RSA_MAX_BYTES   1024
#define EXPONENT_MAX    8

enum key_type { TYPE_RSA, TYPE_EC, TYPE_OKP };

/* RFC 7518 §3.1, RFC 8037 §3.1, RFC 9864. The first of a type and curve is what a key without `alg` is for. */
static const struct algorithm {
    struct str name;
    enum key_type type;
    struct str curve;
    int cjose_curve;
    size_t number_bytes; /* of a coordinate; a signature has two such numbers */
} algorithms[] = {
    {{"RS256", 5}, TYPE_RSA, {NULL, 0}, 0, 0},
    {{"RS384", 5}, TYPE_RSA, {NULL, 0}, 0, 0},
    {{"RS512", 5}, TYPE_RSA, {NULL, 0}, 0, 0},
    {{"ES256", 5}, TYPE_EC, {"P-256", 5}, CJOSE_JWK_EC_P_256, 32},
    {{"ES384", 5}, TYPE_EC, {"P-384", 5}, CJOSE_JWK_EC_P_384, 48},
    {{"ES512", 5}, TYPE_EC, {"P-521", 5}, CJOSE_JWK_EC_P_521, 66},
    {{"EdDSA", 5}, TYPE_OKP, {"Ed25519", 7}, 0, 32},
    {{"Ed25519", 7}, TYPE_OKP, {"Ed25519", 7}, 0, 32},
};
#define ALGORITHM_COUNT (sizeof(algorithms) / sizeof(*algorithms))

static const struct str type_names[] = {
    [TYPE_RSA] = {"RSA", 3}, [TYPE_EC] = {"EC", 2}, [TYPE_OKP] = {"OKP", 3}};

struct jwt_key {
    struct str kid; /* ptr NULL: it has none */
    const struct algorithm *algorithm;
    cjose_jwk_t *jose; /* RSA, EC */
    EVP_PKEY *raw;     /* OKP */
};

struct jwt_keys {
    atomic_uint references;
    struct arena *arena; /* holds all of it */
    struct jwt_key keys[JWT_MAX_KEYS];
    size_t count;
};

/* ---- one key ---- */

static void release_jose(void *key)
{
    cjose_jwk_release(key);
}

static void release_raw(void *key)
{
    EVP_PKEY_free(key);
}

/* What it is for, or NULL if that is nothing of ours. */
static const struct algorithm *algorithm_of(struct str type, struct str curve, struct str name)
{
    for (size_t i = 0; i < ALGORITHM_COUNT; i++) {
        const struct algorithm *a = &algorithms[i];
        if (str_eq(type, type_names[a->type]) && (!a->curve.ptr || str_eq(curve, a->curve)) &&
            (!name.ptr || str_eq(name, a->name)))
            return a;
    }
    return NULL;
}

/* RFC 7517 §4.2 and §4.3: made for checking signatures, as far as it says. */
static err_t check_use(const struct jwt_object *jwk, struct arena *arena)
{
    struct str use, operations = jwt_object_get(jwk, STR("key_ops")), operation, name;
    size_t at = 0;

    TRY(jwt_object_text(jwk, STR("use"), arena, &use));
    if (use.ptr && !str_eq(use, STR("sig")))
        return jwt_refuse("it is for another use");
    while (operations.ptr && json_array_next(operations, &at, &operation))
        if (json_text(operation, arena, &name) && str_eq(name, STR("verify")))
            return NULL;
    return operations.ptr ? jwt_refuse("it is for other operations") : NULL;
}

/* A number of the key, big-endian. */
static err_t read_number(const struct jwt_object *jwk, struct str name, struct arena *arena,
                         struct str *out)
{
    struct str text;

    TRY(jwt_object_text(jwk, name, arena, &text));
    if (text.len == 0)
        return jwt_refuse("its %.*s is missing", STR_ARG(name));
    return jwt_decode(text, arena, out);
}

static uint8_t *bytes_of(struct str s)
{
    return (uint8_t *)(uintptr_t)s.ptr; /* only read */
}

/* Why a library did not make a key. cjose calls a point beside its curve "out of memory", so OpenSSL's words count. */
static err_t not_made(void)
{
    bool was_said = false;
    unsigned long reason;

    while ((reason = ERR_get_error()) != 0) {
        if (ERR_GET_REASON(reason) == ERR_R_MALLOC_FAILURE)
            return err_no_memory();
        was_said = true;
    }
    return was_said ? jwt_refuse("it is broken") : err_no_memory();
}

static err_t make_rsa(const struct jwt_object *jwk, struct arena *arena, struct jwt_key *key)
{
    cjose_jwk_rsa_keyspec spec = {0};
    cjose_err reason;
    struct str n, e;

    TRY(read_number(jwk, STR("n"), arena, &n));
    TRY(read_number(jwk, STR("e"), arena, &e));
    if (n.ptr[0] == 0) /* some issuers write it as a signed number */
        n = str_after(n, 1);
    while (e.len > 1 && e.ptr[0] == 0)
        e = str_after(e, 1);
    if (n.len < RSA_MIN_BYTES || n.len > RSA_MAX_BYTES || !(n.ptr[0] & 0x80) ||
        !(n.ptr[n.len - 1] & 1))
        return jwt_refuse("its modulus is too small, too large or even");
    if (e.len > EXPONENT_MAX || !(e.ptr[e.len - 1] & 1) || (e.len == 1 && e.ptr[0] == 1))
        return jwt_refuse("its exponent is too large, even or 1");
    spec.n = bytes_of(n);
    spec.nlen = n.len;
    spec.e = bytes_of(e);
    spec.elen = e.len;
    key->jose = cjose_jwk_create_RSA_spec(&spec, &reason);
    return key->jose ? arena_defer(arena, release_jose, key->jose) : not_made();
}

/* A point that is not on the curve is refused beneath cjose. */
static err_t make_ec(const struct jwt_object *jwk, struct arena *arena, struct jwt_key *key)
{
    cjose_jwk_ec_keyspec spec = {.crv = (cjose_jwk_ec_curve)key->algorithm->cjose_curve};
    size_t len = key->algorithm->number_bytes;
    cjose_err reason;
    struct str x, y;

    TRY(read_number(jwk, STR("x"), arena, &x));
    TRY(read_number(jwk, STR("y"), arena, &y));
    if (x.len != len || y.len != len)
        return jwt_refuse("its point has the wrong length");
    spec.x = bytes_of(x);
    spec.xlen = x.len;
    spec.y = bytes_of(y);
    spec.ylen = y.len;
    key->jose = cjose_jwk_create_EC_spec(&spec, &reason);
    return key->jose ? arena_defer(arena, release_jose, key->jose) : not_made();
}

static err_t make_okp(const struct jwt_object *jwk, struct arena *arena, struct jwt_key *key)
{
    struct str x;

    TRY(read_number(jwk, STR("x"), arena, &x));
    if (x.len != key->algorithm->number_bytes)
        return jwt_refuse("its point has the wrong length");
    key->raw = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, bytes_of(x), x.len);
    return key->raw ? arena_defer(arena, release_raw, key->raw) : not_made();
}

/* Errors: DENIED if there is no use for it, BUSY. */
static err_t read_key(struct str json, struct arena *arena, struct jwt_key *key)
{
    struct jwt_object jwk;
    struct str type, curve, name;

    *key = (struct jwt_key){0};
    TRY(jwt_object_read(json, arena, &jwk));
    TRY(jwt_object_text(&jwk, STR("kty"), arena, &type));
    TRY(jwt_object_text(&jwk, STR("crv"), arena, &curve));
    TRY(jwt_object_text(&jwk, STR("alg"), arena, &name));
    TRY(jwt_object_text(&jwk, STR("kid"), arena, &key->kid));
    TRY(check_use(&jwk, arena));
    ERR_clear_error();
    key->algorithm = algorithm_of(type, curve, name);
    if (!key->algorithm)
        return jwt_refuse("its type or algorithm is another");
    switch (key->algorithm->type) {
    case TYPE_RSA:
        return make_rsa(&jwk, arena, key);
    case TYPE_EC:
        return make_ec(&jwk, arena, key);
    case TYPE_OKP:
        break;
    }
    return make_okp(&jwk, arena, key);
}

/* ---- a set ---- */

static bool same_kid(const struct jwt_key *key, struct str kid)
{
    return key->kid.ptr && kid.ptr && str_eq(key->kid, kid);
}

static void add(struct jwt_keys *keys, const struct jwt_key *key)
{
    for (size_t i = 0; i < keys->count; i++)
        if (same_kid(&keys->keys[i], key->kid) && keys->keys[i].algorithm == key->algorithm)
            return;
    keys->keys[keys->count++] = *key;
}

static err_t fill(struct jwt_keys *keys, struct str json)
{
    struct jwt_object set;
    struct str list, element;
    size_t count = 0;
    err_t err = jwt_object_read(json, keys->arena, &set);

    if (err)
        return err_is(err, ERR_DENIED) ? err_new(ERR_UPSTREAM, "this is no set of keys") : err;
    list = jwt_object_get(&set, STR("keys"));
    if (json_kind(list) != JSON_ARRAY)
        return err_new(ERR_UPSTREAM, "this is no set of keys");
    for (size_t at = 0; json_array_next(list, &at, &element);)
        if (++count > JWT_MAX_KEYS)
            return err_new(ERR_UPSTREAM, "there are more than %d keys", JWT_MAX_KEYS);
    for (size_t at = 0; json_array_next(list, &at, &element);) {
        struct jwt_key key;
        err = read_key(element, keys->arena, &key);
        if (!err)
            add(keys, &key);
        else if (!err_is(err, ERR_DENIED))
            return err;
    }
    return NULL;
}

err_t jwt_keys_read(struct str json, struct jwt_keys **out)
{
    struct arena *arena = arena_new(MEM_GOVERN, ARENA_MAX_BYTES);
    struct jwt_keys *keys = arena ? arena_new_struct(arena, struct jwt_keys) : NULL;
    struct str own = {0};
    err_t err = keys ? NULL : err_no_memory();

    *out = NULL;
    if (!err && json.len > JWT_MAX_SET_BYTES)
        err = err_new(ERR_UPSTREAM, "the set of keys is larger than %zu bytes", JWT_MAX_SET_BYTES);
    if (!err) {
        keys->arena = arena;
        atomic_init(&keys->references, 1);
        own = arena_copy(arena, json);
        err = own.ptr ? fill(keys, own) : arena_err(arena);
    }
    ERR_clear_error();
    if (err) {
        arena_free(arena);
        return err;
    }
    *out = keys;
    return NULL;
}

struct jwt_keys *jwt_keys_ref(struct jwt_keys *keys)
{
    if (keys)
        atomic_fetch_add_explicit(&keys->references, 1, memory_order_relaxed);
    return keys;
}

void jwt_keys_unref(struct jwt_keys *keys)
{
    if (keys && atomic_fetch_sub(&keys->references, 1) == 1)
        arena_free(keys->arena);
}

size_t jwt_keys_count(const struct jwt_keys *keys)
{
    return keys ? keys->count : 0;
}

/* ---- signatures ---- */

static bool verify_jose(const struct jwt_key *key, const struct jwt_token *token)
{
    size_t len = 2 * key->algorithm->number_bytes;
    cjose_err reason;
    cjose_jws_t *jws;
    bool is_good;

    if (len > 0 && token->signature.len != len)
        return false;
    jws = cjose_jws_import(token->whole.ptr, token->whole.len, &reason);
    is_good = jws && cjose_jws_verify(jws, key->jose, &reason);
    cjose_jws_release(jws);
    return is_good;
}

static bool verify_raw(const struct jwt_key *key, const struct jwt_token *token)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool is_good = context && token->signature.len == 2 * key->algorithm->number_bytes &&
                   EVP_DigestVerifyInit(context, NULL, NULL, NULL, key->raw) == 1 &&
                   EVP_DigestVerify(context, bytes_of(token->signature), token->signature.len,
                                    bytes_of(token->signed_by), token->signed_by.len) == 1;

    EVP_MD_CTX_free(context);
    return is_good;
}

static enum jwt_verdict verify(const struct jwt_key *key, const struct jwt_token *token)
{
    bool is_good = key->raw ? verify_raw(key, token) : verify_jose(key, token);

    ERR_clear_error(); /* nobody may take it for one of his own */
    return is_good ? JWT_GOOD : JWT_WRONG_SIGNATURE;
}

enum jwt_verdict jwt_keys_verify(const struct jwt_keys *keys, const struct jwt_token *token)
{
    enum jwt_verdict verdict = JWT_UNKNOWN_KEY;

    for (size_t i = 0; i < jwt_keys_count(keys); i++) {
        const struct jwt_key *key = &keys->keys[i];
        if (token->kid.ptr ? !same_kid(key, token->kid) : keys->count > 1)
            continue;
        if (str_eq(key->algorithm->name, token->alg))
            return verify(key, token);
        verdict = JWT_WRONG_ALGORITHM;
    }
    return verdict;
}
