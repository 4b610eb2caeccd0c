/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens: the examples of the RFCs, everything about a token, its key or its claims that must be refused, and keys that change while
 * the service runs. */
#include "arena_scope.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fiber/fiber.h"
#include "fiber/offload.h"
#include "govern/jwt.h"
#include "govern/jwt_cache.h"
#include "govern/jwt_fetch.h"
#include "govern/jwt_issuers.h"
#include "govern/service.h"
#include "observe/metrics.h"

#define NOW_MS UINT64_C(1700000000000)

/* RFC 7515 A.2 */
#define RSA_OF(e)                                                                                  \
    "\"kty\":\"RSA\",\"e\":\"" e                                                                   \
    "\",\"n\":\"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26"                             \
    "mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47so" \
    "MZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY" \
    "4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb" \
    "54h4FRWyuXpoQ\""
#define RSA_KEY RSA_OF("AQAB")
#define PAYLOAD                                                                                    \
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVl" \
    "fQ"
#define RSA_TOKEN                                                                                  \
    "eyJhbGciOiJSUzI1NiJ9." PAYLOAD                                                                \
    ".cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2F"  \
    "p5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_"                                         \
    "nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHl"                                                    \
    "b1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-"                                             \
    "eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QO"                                                \
    "YEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
/* A.3 */
#define EC_KEY                                                                                     \
    "\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","      \
    "\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\""
#define EC_TOKEN                                                                                   \
    "eyJhbGciOiJFUzI1NiJ9." PAYLOAD                                                                \
    ".DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
/* RFC 8037 A.1, A.2 and A.4 */
#define OKP_KEY                                                                                    \
    "\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo\""
#define OKP_TOKEN                                                                                  \
    "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."                                    \
    "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
#define OKP_SECRET "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"

static int tear_down(void **state)
{
    assert_int_equal(mem_in_use(MEM_GOVERN), 0);
    return end_arena(state);
}

static void assert_refused(err_t err, const char *reason)
{
    assert_true(err_is(err, ERR_DENIED));
    assert_string_equal(err->code, "invalid_api_key");
    if (!strstr(err->text, reason))
        fail_msg("\"%s\" does not say \"%s\"", err->text, reason);
}

/* ---- making tokens ---- */

static const char *encode(struct str bytes)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    char *out = arena_alloc_zero(arena, bytes.len * 2 + 8), *at = out;
    unsigned held = 0, bits = 0;

    for (size_t i = 0; i < bytes.len; i++) {
        held = (held << 8 | (unsigned char)bytes.ptr[i]) & 0xffff;
        for (bits += 8; bits >= 6; bits -= 6)
            *at++ = digits[held >> (bits - 6) & 63];
    }
    if (bits)
        *at++ = digits[held << (6 - bits) & 63];
    return out;
}

static const char *sign_okp(const char *text)
{
    struct str secret;
    unsigned char signature[64];
    size_t len = sizeof(signature);
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    EVP_PKEY *key;

    assert_ok(jwt_decode(STR(OKP_SECRET), arena, &secret));
    key = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, (const unsigned char *)secret.ptr,
                                       secret.len);
    assert_int_equal(EVP_DigestSignInit(context, NULL, NULL, NULL, key), 1);
    assert_int_equal(
        EVP_DigestSign(context, signature, &len, (const unsigned char *)text, strlen(text)), 1);
    EVP_MD_CTX_free(context);
    EVP_PKEY_free(key);
    return encode((struct str){(const char *)signature, len});
}

/* A token with this header and these claims, signed by the key of RFC 8037. */
static struct str token_of(const char *header, const char *claims)
{
    const char *text =
        arena_printf(arena, "%s.%s", encode(str_from(header)), encode(str_from(claims)));

    return str_from(arena_printf(arena, "%s.%s", text, sign_okp(text)));
}

static struct jwt_keys *keys_of(const char *list)
{
    struct jwt_keys *keys;
    const char *json = arena_printf(arena, "{\"keys\":[%s]}", list);

    assert_ok(jwt_keys_read(str_from(json), &keys));
    return keys;
}

static size_t count_of(const char *list)
{
    struct jwt_keys *keys = keys_of(list);
    size_t count = jwt_keys_count(keys);

    jwt_keys_unref(keys);
    return count;
}

static enum jwt_verdict verify(const char *list, struct str text)
{
    struct jwt_keys *keys = keys_of(list);
    struct jwt_token token;
    enum jwt_verdict verdict;

    assert_ok(jwt_token_read(text, arena, &token));
    verdict = jwt_keys_verify(keys, &token);
    jwt_keys_unref(keys);
    return verdict;
}

/* ---- signatures ---- */

static void test_examples_of_the_rfcs(void **state)
{
    assert_int_equal(verify("{" RSA_KEY "}", STR(RSA_TOKEN)), JWT_GOOD);
    assert_int_equal(verify("{" EC_KEY "}", STR(EC_TOKEN)), JWT_GOOD);
    assert_int_equal(verify("{" OKP_KEY "}", STR(OKP_TOKEN)), JWT_GOOD);
    assert_int_equal(verify("{" RSA_KEY ",\"alg\":\"RS256\",\"use\":\"sig\"}", STR(RSA_TOKEN)),
                     JWT_GOOD);
    assert_int_equal(verify("{" OKP_KEY ",\"key_ops\":[\"sign\",\"verify\"]}", STR(OKP_TOKEN)),
                     JWT_GOOD);
}

/* Every bit of a token counts. */
static void test_changed_tokens(void **state)
{
    static const char *const tokens[] = {RSA_TOKEN, EC_TOKEN, OKP_TOKEN};
    static const char *const keys[] = {"{" RSA_KEY "}", "{" EC_KEY "}", "{" OKP_KEY "}"};

    for (size_t k = 0; k < 3; k++) {
        for (size_t i = 0; i < strlen(tokens[k]); i += 7) {
            struct str text = arena_copy(arena, str_from(tokens[k]));
            char *at = (char *)(uintptr_t)text.ptr + i;
            struct jwt_token token;
            if (*at == '.')
                continue;
            *at = *at == 'A' ? 'B' : 'A';
            if (jwt_token_read(text, arena, &token))
                continue;
            assert_int_not_equal(verify(keys[k], text), JWT_GOOD);
        }
    }
}

/* CVE-2015-9235 and its like: the token says how it wants to be checked. */
static void test_the_key_fixes_the_algorithm(void **state)
{
    const char *text =
        arena_printf(arena, "%s.%s", encode(STR("{\"alg\":\"HS256\",\"kid\":\"a\"}")), PAYLOAD);
    const char *public_key = "{" RSA_KEY ",\"kid\":\"a\"}";
    unsigned char mac[EVP_MAX_MD_SIZE];
    unsigned len;

    HMAC(EVP_sha256(), public_key, (int)strlen(public_key), (const unsigned char *)text,
         strlen(text), mac, &len);
    text = arena_printf(arena, "%s.%s", text, encode((struct str){(char *)mac, len}));
    assert_int_equal(verify(public_key, str_from(text)), JWT_WRONG_ALGORITHM);
    for (int i = 0; i < 4; i++) {
        static const char *const names[] = {"none", "None", "HS512", ""};
        const char *header = arena_printf(arena, "{\"alg\":\"%s\",\"kid\":\"a\"}", names[i]);
        text = arena_printf(arena, "%s.%s.", encode(str_from(header)), PAYLOAD);
        assert_int_equal(verify(public_key, str_from(text)), JWT_WRONG_ALGORITHM);
    }
    text = arena_printf(arena, "%s.%s.", encode(STR("{\"kid\":\"a\"}")), PAYLOAD);
    assert_int_equal(verify(public_key, str_from(text)), JWT_WRONG_ALGORITHM);
    assert_int_equal(verify("{" RSA_KEY ",\"alg\":\"RS512\"}", STR(RSA_TOKEN)),
                     JWT_WRONG_ALGORITHM);
    assert_int_equal(verify("{" RSA_KEY ",\"alg\":\"HS256\"}", STR(RSA_TOKEN)), JWT_UNKNOWN_KEY);
    assert_int_equal(verify("{" RSA_KEY "}", STR(EC_TOKEN)), JWT_WRONG_ALGORITHM);
}

static void test_the_right_key_is_taken(void **state)
{
    struct str a = token_of("{\"alg\":\"EdDSA\",\"kid\":\"a\"}", "{}");
    const char *both = "{" RSA_KEY ",\"kid\":\"b\"},{" OKP_KEY ",\"kid\":\"a\"}";

    assert_int_equal(verify(both, a), JWT_GOOD);
    assert_int_equal(verify("{" RSA_KEY ",\"kid\":\"a\"},{" OKP_KEY ",\"kid\":\"a\"}", a),
                     JWT_GOOD);
    assert_int_equal(verify("{" OKP_KEY ",\"kid\":\"b\"}", a), JWT_UNKNOWN_KEY);
    assert_int_equal(verify("{" OKP_KEY "}", a), JWT_UNKNOWN_KEY);
    assert_int_equal(verify("{" RSA_KEY ",\"kid\":\"a\"}", a), JWT_WRONG_ALGORITHM);
    assert_int_equal(verify("", a), JWT_UNKNOWN_KEY);
    /* Without kid: only if there is no choice. */
    assert_int_equal(verify(both, STR(OKP_TOKEN)), JWT_UNKNOWN_KEY);
    assert_int_equal(verify("{" OKP_KEY ",\"kid\":\"b\"}", STR(OKP_TOKEN)), JWT_GOOD);
}

/* ---- sets of keys ---- */

static void test_keys_that_are_left_out(void **state)
{
    static const char *const useless[] = {
        "{" RSA_KEY ",\"use\":\"enc\"}",
        "{" RSA_KEY ",\"use\":7}",
        "{" RSA_KEY ",\"key_ops\":[\"encrypt\"]}",
        "{" RSA_KEY ",\"key_ops\":[]}",
        "{" RSA_KEY ",\"alg\":\"RSA-OAEP\"}",
        "{" RSA_KEY ",\"alg\":null}",
        "{" RSA_KEY ",\"kid\":7}",
        "{" RSA_KEY ",\"kid\":\"a\",\"kid\":\"b\"}",
        "{" OKP_KEY ",\"alg\":\"ES256\"}",
        "{\"kty\":\"oct\",\"k\":\"AAAA\",\"alg\":\"HS256\"}",
        "{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"}",
        "{\"kty\":\"RSA\"}",
        "{" RSA_OF("AQ") "}",
        "{" RSA_OF("AAE") "}", /* 1 again */
        "{" RSA_OF("AAAA") "}",
        "{" RSA_OF("AQAA") "}",
        "{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AAAA\",\"y\":\"AAAA\"}",
        "{\"kty\":\"EC\",\"crv\":\"secp256k1\"}",
        "{\"kty\":\"OKP\",\"crv\":\"X25519\",\"x\":\"11qYAYKxCrfVS_"
        "7TyWQHOg7hcvPapiMlrwIaaPcHURo\"}",
        "{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"11qYAYKxCrfVS_"
        "7TyWQHOg7hcvPapiMlrwIaaPcHUQ\"}",
        /* Not on the curve. */
        "{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\","
        "\"y\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\"}",
        "{}",
        "7",
        "null",
    };

    for (size_t i = 0; i < sizeof(useless) / sizeof(*useless); i++) {
        const char *list = arena_printf(arena, "%s,{" OKP_KEY ",\"kid\":\"good\"}", useless[i]);
        if (count_of(useless[i]) != 0 || count_of(list) != 1)
            fail_msg("%s", useless[i]);
    }
    assert_int_equal(count_of("{" RSA_KEY "}"), 1);
    assert_int_equal(count_of("{" RSA_OF("AAEAAQ") "}"), 1);
    assert_int_equal(verify("{" RSA_OF("AAEAAQ") "}", STR(RSA_TOKEN)), JWT_GOOD);
    assert_int_equal(count_of("{" OKP_KEY ",\"kid\":\"a\"},{" OKP_KEY ",\"kid\":\"a\"}"), 1);
}

static void test_what_is_no_set(void **state)
{
    static const char *const bad[] = {
        "", "[]", "{}", "{\"keys\":{}}", "<html>", "{\"keys\":[", "{\"keys\":[],\"keys\":[]}"};
    char *large = arena_alloc(arena, JWT_MAX_SET_BYTES + 1), *many = arena_alloc_zero(arena, 4096);
    struct jwt_keys *keys;

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_true(err_is(jwt_keys_read(str_from(bad[i]), &keys), ERR_UPSTREAM));
    memset(large, ' ', JWT_MAX_SET_BYTES + 1);
    assert_true(
        err_is(jwt_keys_read((struct str){large, JWT_MAX_SET_BYTES + 1}, &keys), ERR_UPSTREAM));
    for (int i = 0; i < JWT_MAX_KEYS; i++)
        memcpy(many + 3 * i, "{},", 3);
    memcpy(many + 3 * JWT_MAX_KEYS, "{}", 2);
    large = arena_printf(arena, "{\"keys\":[%s]}", many);
    assert_true(err_is(jwt_keys_read(str_from(large), &keys), ERR_UPSTREAM));
    assert_int_equal(count_of(""), 0);
}

/* ---- the form of a token ---- */

static void test_base64url(void **state)
{
    static const char *const bad[] = {
        "A", "AAAAA", "AB", "AAB", "AA==", "A+AA", "A/AA", "AA A", "AA\nA"};
    struct str out;

    assert_ok(jwt_decode(STR(""), arena, &out));
    assert_int_equal(out.len, 0);
    assert_ok(jwt_decode(STR("-_8"), arena, &out));
    assert_true(str_eq(out, STR("\xfb\xff")));
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_refused(jwt_decode(str_from(bad[i]), arena, &out), "base64url");
}

static void test_what_looks_like_a_token(void **state)
{
    assert_true(jwt_token_is_one(STR(RSA_TOKEN)));
    assert_true(jwt_token_is_one(STR("eyJ9.AA."))); /* unsigned: to be refused as a token */
    assert_false(jwt_token_is_one(STR("")));
    assert_false(jwt_token_is_one(STR("sk-sluice-abc")));
    assert_false(jwt_token_is_one(STR("a.b.c")));
    assert_false(jwt_token_is_one(STR("eyJ9.AA")));
    assert_false(jwt_token_is_one(STR("eyJ9.AA.AA.AA")));
    assert_false(jwt_token_is_one(STR("eyJ9..AA")));
    assert_false(jwt_token_is_one(STR("eyJ9.A=.AA")));
}

static void test_headers_that_are_refused(void **state)
{
    static const struct {
        const char *header, *reason;
    } bad[] = {
        {"[]", "no JSON object"},
        {"{\"alg\":\"EdDSA\"", "no JSON object"},
        {"{\"alg\":\"EdDSA\",\"alg\":\"none\"}", "twice"},
        {"{\"alg\":\"EdDSA\",\"\\u0061lg\":\"none\"}", "twice"},
        {"{\"alg\":7}", "\"alg\" is no text"},
        {"{\"alg\":\"EdDSA\",\"kid\":null}", "\"kid\" is no text"},
        {"{\"alg\":\"EdDSA\",\"crit\":[\"exp\"]}", "plain"},
        {"{\"alg\":\"EdDSA\",\"crit\":\"exp\"}", "extension"},
        {"{\"alg\":\"EdDSA\",\"b64\":false}", "extension"},
        {"{\"alg\":\"EdDSA\",\"jwk\":{" OKP_KEY "}}", "plain"},
        {"{\"alg\":\"EdDSA\",\"typ\":\"logout+jwt\"}", "type"},
    };
    struct jwt_token token;
    char *huge = arena_alloc(arena, JWT_MAX_BYTES + 1);

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_refused(jwt_token_read(token_of(bad[i].header, "{}"), arena, &token), bad[i].reason);
    memset(huge, 'A', JWT_MAX_BYTES + 1);
    assert_refused(jwt_token_read((struct str){huge, JWT_MAX_BYTES + 1}, arena, &token), "longer");
    assert_refused(jwt_token_read(STR("AA.AA"), arena, &token), "three parts");
    assert_ok(
        jwt_token_read(token_of("{\"alg\":\"EdDSA\",\"typ\":\"at+JWT\"}", "{}"), arena, &token));
    assert_ok(jwt_token_read(token_of("{\"typ\":\"application/jwt\"}", "{}"), arena, &token));
}

/* ---- claims ---- */

static struct conf_issuer issuers[] = {
    {.name = {"a", 1},
     .issuer = {"https://a", 9},
     .audience = {"x", 1},
     .project_claim = {"project", 7},
     .user_claim = {"sub", 3},
     .scope_claim = {"scopes", 6}},
    {.name = {"b", 1},
     .issuer = {"https://a", 9},
     .audience = {"y", 1},
     .project_claim = {"project", 7},
     .user_claim = {"email", 5},
     .project = {"usual", 5}},
};
static const struct conf rules = {.keys = {.issuers = issuers, .issuer_count = 2}};

static err_t read_claims(const char *json, struct jwt_caller *caller)
{
    struct jwt_object claims;
    size_t index;

    TRY(jwt_object_read(str_from(json), arena, &claims));
    TRY(jwt_claims_find_issuer(&claims, &rules, arena, &index));
    return jwt_claims_read(&claims, &rules, index, NOW_MS, arena, caller);
}

#define GOOD "\"iss\":\"https://a\",\"sub\":\"ann\",\"project\":\"p\""
#define EXP  "\"exp\":1700000001"

static void test_claims(void **state)
{
    static const struct {
        const char *json;
        unsigned scopes;
    } good[] = {
        {"{" GOOD "," EXP ",\"aud\":\"x\"}", IDENTITY_MODELS},
        {"{" GOOD "," EXP ",\"aud\":[\"z\",7,\"x\"],\"scopes\":\"route  openid models\"}",
         IDENTITY_MODELS | IDENTITY_ROUTE},
        {"{" GOOD "," EXP ",\"aud\":\"x\",\"scopes\":[\"admin\",\"x\"]}", IDENTITY_ADMIN},
        {"{" GOOD "," EXP ",\"aud\":\"x\",\"scopes\":\"openid\"}", 0},
        {"{" GOOD ",\"exp\":1699999941,\"aud\":\"x\"}", IDENTITY_MODELS}, /* 59 s ago */
        {"{" GOOD ",\"exp\":1.7000001e9,\"aud\":\"x\",\"nbf\":1700000059.5,\"iat\":1700000060}",
         IDENTITY_MODELS},
        {"{" GOOD "," EXP ",\"aud\":\"x\",\"nbf\":0,\"iat\":0}", IDENTITY_MODELS},
        {"{" GOOD "," EXP ",\"aud\":\"x\",\"nbf\":-0.0,\"iat\":0.5}", IDENTITY_MODELS},
    };
    struct jwt_caller caller;

    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
        assert_ok(read_claims(good[i].json, &caller));
        assert_int_equal(caller.scopes, good[i].scopes);
        assert_true(str_eq(caller.user, STR("ann")) && str_eq(caller.project, STR("p")));
    }
    assert_ok(read_claims("{\"iss\":\"https://a\",\"aud\":\"y\",\"email\":\"a@b\"," EXP
                          ",\"scopes\":\"admin\"}",
                          &caller));
    assert_true(str_eq(caller.project, STR("usual")) && str_eq(caller.user, STR("a@b")));
    assert_int_equal(caller.scopes, IDENTITY_MODELS); /* no scope_claim: nothing can be asked for */
    assert_int_equal(caller.issuer, 1);
    assert_int_equal(caller.until_ms, NOW_MS + 1000 + JWT_LEEWAY_MS);
}

static void test_claims_that_are_refused(void **state)
{
    static const struct {
        const char *json, *reason;
    } bad[] = {
        {"[]", "no JSON object"},
        {"{" GOOD "," EXP ",\"aud\":\"x\",\"sub\":\"bob\"}", "twice"},
        {"{\"sub\":\"ann\"," EXP ",\"aud\":\"x\"}", "issuer is not configured"},
        {"{\"iss\":\"https://a/\",\"aud\":\"x\"}", "issuer is not configured"},
        {"{\"iss\":[\"https://a\"],\"aud\":\"x\"}", "\"iss\" is no text"},
        {"{" GOOD "," EXP "}", "audience"},
        {"{" GOOD "," EXP ",\"aud\":\"xx\"}", "audience"},
        {"{" GOOD "," EXP ",\"aud\":{\"x\":\"x\"}}", "audience"},
        {"{" GOOD "," EXP ",\"aud\":[[\"x\"]]}", "audience"},
        {"{" GOOD ",\"aud\":\"x\"}", "when it expires"},
        {"{" GOOD ",\"aud\":\"x\",\"exp\":\"1700000001\"}", "exp is no time"},
        {"{" GOOD ",\"aud\":\"x\",\"exp\":-1}", "exp is no time"},
        {"{" GOOD ",\"aud\":\"x\",\"exp\":1e300}", "exp is no time"},
        {"{" GOOD ",\"aud\":\"x\",\"exp\":null}", "exp is no time"},
        {"{" GOOD ",\"aud\":\"x\",\"exp\":1699999940}", "expired"},
        {"{" GOOD ",\"aud\":\"x\",\"exp\":0}", "expired"},
        {"{" GOOD "," EXP ",\"aud\":\"x\",\"nbf\":-1}", "nbf is no time"},
        {"{" GOOD "," EXP ",\"aud\":\"x\",\"nbf\":1700000061}", "not good yet"},
        {"{" GOOD "," EXP ",\"aud\":\"x\",\"iat\":1700000061}", "future"},
        {"{\"iss\":\"https://a\",\"project\":\"p\"," EXP ",\"aud\":\"x\"}", "user"},
        {"{\"iss\":\"https://a\",\"project\":\"p\",\"sub\":7," EXP ",\"aud\":\"x\"}", "\"sub\" is"},
        {"{\"iss\":\"https://a\",\"project\":\"p\",\"sub\":\"a\\nb\"," EXP ",\"aud\":\"x\"}",
         "user"},
        {"{\"iss\":\"https://a\",\"sub\":\"ann\"," EXP ",\"aud\":\"x\"}", "no project"},
        {"{\"iss\":\"https://a\",\"sub\":\"ann\",\"project\":\"\"," EXP ",\"aud\":\"x\"}",
         "no project"},
        {"{\"iss\":\"https://a\",\"email\":\"ann\",\"project\":[]," EXP ",\"aud\":\"y\"}",
         "\"project\" is no text"},
        {"{" GOOD "," EXP ",\"aud\":\"x\",\"scopes\":7}", "scopes"},
        {"{" GOOD "," EXP ",\"aud\":\"x\",\"scopes\":[\"models\",[\"admin\"]]}", "scopes"},
    };
    struct jwt_caller caller;
    char *user = arena_alloc_zero(arena, 130);

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_refused(read_claims(bad[i].json, &caller), bad[i].reason);
    memset(user, 'u', 129);
    assert_refused(
        read_claims(arena_printf(arena,
                                 "{\"iss\":\"https://a\",\"aud\":\"x\",\"sub\":\"%s\"," EXP
                                 ",\"project\":\"p\"}",
                                 user),
                    &caller),
        "user");
}

/* ---- the cache ---- */

static void test_cache(void **state)
{
    struct jwt_cache *cache = jwt_cache_new();
    struct jwt_caller in = {.project = STR("p"), .user = STR("ann"), .until_ms = 1000}, out;
    uint8_t hash[IDENTITY_HASH_BYTES] = {1};

    assert_false(jwt_cache_get(cache, hash, 1, arena, &out));
    jwt_cache_put(cache, hash, &in);
    assert_true(jwt_cache_get(cache, hash, 999, arena, &out));
    assert_true(str_eq(out.user, STR("ann")) && str_eq(out.project, STR("p")));
    assert_false(jwt_cache_get(cache, hash, 1000, arena, &out));
    hash[31] = 1; /* another token, at the same place */
    assert_false(jwt_cache_get(cache, hash, 1, arena, &out));
    for (int i = 2; i < 6; i++) { /* four go into a place */
        hash[31] = (uint8_t)i;
        jwt_cache_put(cache, hash, &in);
    }
    assert_true(jwt_cache_get(cache, hash, 1, arena, &out));
    hash[31] = 0;
    assert_false(jwt_cache_get(cache, hash, 1, arena, &out));
    jwt_cache_free(cache);
}

/* ---- fetching ---- */

static void test_how_long_keys_are_good(void **state)
{
    assert_int_equal(jwt_fetch_age_ms((struct str){0}), 3600 * 1000);
    assert_int_equal(jwt_fetch_age_ms(STR("public, Max-Age=7200")), 7200 * 1000);
    assert_int_equal(jwt_fetch_age_ms(STR("max-age=1")), JWT_LEAST_AGE_MS);
    assert_int_equal(jwt_fetch_age_ms(STR("no-store")), JWT_LEAST_AGE_MS);
    assert_int_equal(jwt_fetch_age_ms(STR("max-age=18446744073709551615")), JWT_MOST_AGE_MS);
    assert_int_equal(jwt_fetch_age_ms(STR("max-age=-1, max-age=x")), 3600 * 1000);
}

static void test_discovery(void **state)
{
    static const char *const bad[] = {
        "{}",
        "{\"issuer\":\"https://b\",\"jwks_uri\":\"https://a/k\"}",
        "{\"issuer\":\"https://a\",\"jwks_uri\":\"http://a/k\"}",
        "{\"issuer\":\"https://a\",\"jwks_uri\":\"http://127.0.0.1/k\"}",
        "{\"issuer\":\"https://a\",\"jwks_uri\":\"file:/etc/passwd\"}",
        "{\"issuer\":\"https://a\",\"jwks_uri\":7}",
        "{\"issuer\":\"https://a\"}",
        "[]",
    };
    struct str url;

    assert_ok(jwt_fetch_read_discovery(
        STR("{\"issuer\":\"https://a\",\"jwks_uri\":\"https:\\/\\/c\\/k\"}"), issuers, arena,
        &url));
    assert_true(str_eq(url, STR("https://c/k")));
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_true(
            err_is(jwt_fetch_read_discovery(str_from(bad[i]), issuers, arena, &url), ERR_UPSTREAM));
}

/* ---- faults ---- */

/* Without memory no key is lost from a set, nothing is leaked, and no token becomes good. (Of RSA and elliptic keys cjose leaks
 * a few blocks then.) */
static void test_memory_runs_out(void **state)
{
    const char *set = "{\"keys\":[{" OKP_KEY ",\"kid\":\"n\"},{" OKP_KEY ",\"kid\":\"o\"}]}";
    struct str text = token_of("{\"alg\":\"EdDSA\",\"kid\":\"o\"}", "{}");
    struct jwt_keys *keys;
    err_t err = NULL;

    mem_fail_nth(0);
    for (uint64_t nth = 1; nth == 1 || err; nth++) {
        mem_fail_nth(nth);
        err = jwt_keys_read(str_from(set), &keys);
        mem_fail_nth(0);
        if (err)
            assert_true(err_is(err, ERR_BUSY));
        else
            assert_int_equal(jwt_keys_count(keys), 2);
        if (!err)
            jwt_keys_unref(keys);
        assert_true(nth < 1000);
    }
    keys = keys_of("{" OKP_KEY ",\"kid\":\"o\"}");
    for (uint64_t nth = 1; nth < 40; nth++) {
        struct jwt_token token;
        mem_fail_nth(nth);
        err = jwt_token_read(text, arena, &token);
        if (!err)
            assert_int_not_equal(jwt_keys_verify(keys, &token), JWT_UNKNOWN_KEY);
        mem_fail_nth(0);
    }
    jwt_keys_unref(keys);
}

/* ---- the service ---- */

static struct db *db;
static struct conf *conf;
static struct loop *loop;
static struct fiber *server;
static char folder[64];

static void write_file(const char *name, const char *text)
{
    char path[96];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    file = fopen(path, "w");
    fputs(text, file);
    fclose(file);
}

static void load_conf(const char *audience)
{
    const char *yaml =
        arena_printf(arena,
                     "keys: {issuers: [{name: corp, issuer: 'https://a', audience: %s,"
                     " jwks: 'file:%s/keys.json', project: default}]}\n",
                     audience, folder);

    write_file("sluice.yaml", yaml);
    assert_ok(conf_load(str_from(arena_printf(arena, "%s/sluice.yaml", folder)), NULL, &conf));
}

static int set_up_service(void **state)
{
    struct db_options options;

    if (begin_arena(state))
        return -1;
    snprintf(folder, sizeof(folder), "/tmp/jwt.XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    options = (struct db_options){.url = str_from(arena_printf(arena, "sqlite:%s/db", folder))};
    load_conf("x");
    assert_ok(db_open(&options, &db));
    assert_ok(identity_service.open(db, conf));
    assert_ok(jwt_service.open(db, conf));
    return 0;
}

static int tear_down_service(void **state)
{
    jwt_service.close(db);
    identity_service.close(db);
    conf_unref(conf);
    db_close(db);
    offload_stop_all();
    assert_int_equal(system(arena_printf(arena, "rm -r %s", folder)), 0);
    metrics_close();
    return tear_down(state);
}

static err_t check_token(struct str token)
{
    const struct identity *identity = identity_current();
    const struct identity_key *key = NULL;
    struct str user;
    err_t err = jwt_check(token, identity, arena, &key, &user);

    if (!err) {
        assert_true(str_eq(key->id, STR("jwt:corp/default/ann")));
        assert_true(str_eq(key->name, STR("corp")) && str_eq(user, STR("ann")));
        assert_int_equal(key->scopes, IDENTITY_MODELS);
        assert_int_equal(key->realm, REALM_NONE);
    }
    identity_unref(identity);
    return err;
}

static struct str token_by(const char *kid, const char *audience, int seconds)
{
    return token_of(
        arena_printf(arena, "{\"alg\":\"EdDSA\",\"kid\":\"%s\"}", kid),
        arena_printf(arena, "{\"iss\":\"https://a\",\"aud\":\"%s\",\"sub\":\"ann\",\"exp\":%lld}",
                     audience, (long long)(sys_wall_ms() / 1000) + seconds));
}

static void run_server(void *arg)
{
    struct arena *own = arena_new(MEM_PROCESS, 1024 * 1024);

    fiber_set_arena(own);
    jwt_service.run(db);
    fiber_set_arena(NULL);
    arena_free(own);
    server = NULL;
}

static const struct err over = {.kind = ERR_KILLED, .where = ERR_HERE, .text = "over"};

static void stop_server(void)
{
    fiber_cancel(server, &over);
    while (server)
        assert_ok(fiber_sleep(1));
    loop_stop(loop);
}

static void run_in_fiber(void (*body)(void *arg))
{
    assert_ok(loop_open(&loop));
    assert_ok(fiber_start("jwt", run_server, NULL, &server));
    assert_ok(fiber_start_later("test", body, NULL, NULL));
    loop_run(loop);
    loop_close(loop);
}

static void live_through_a_rotation(void *arg)
{
    struct str a, b;

    fiber_set_arena(arena);
    a = token_by("a", "x", 600);
    b = token_by("b", "x", 600);
    assert_true(err_is(check_token(a), ERR_BUSY)); /* there is no file yet */
    write_file("keys.json", "{\"keys\":[{" OKP_KEY ",\"kid\":\"a\"}]}");
    while (err_is(check_token(a), ERR_BUSY)) /* it is tried again after a second */
        assert_ok(fiber_sleep(10));
    assert_ok(check_token(a)); /* from the cache */
    assert_refused(check_token(token_by("a", "y", 600)), "audience");
    assert_refused(check_token(token_by("a", "x", -61)), "expired");
    assert_refused(check_token(b), "none of corp's");
    write_file("keys.json", "{\"keys\":[{" OKP_KEY ",\"kid\":\"b\"}]}");
    assert_refused(check_token(b), "none of corp's"); /* asked a moment ago */
    assert_ok(check_token(a));
    jwt_service.adopt(conf); /* a reload asks at once */
    assert_ok(check_token(b));
    assert_refused(check_token(a), "none of corp's");
    stop_server();
    fiber_set_arena(NULL);
}

static void test_rotation(void **state)
{
    run_in_fiber(live_through_a_rotation);
}

/* An issuer's audience that was taken away does not stay good because there was no memory. */
static void live_through_lack(struct conf *before, struct str token)
{
    uint64_t nth = 0, count;

    do {
        jwt_service.adopt(before);
        assert_ok(check_token(token));
        mem_fail_nth(++nth);
        jwt_service.adopt(conf);
        count = mem_fail_count();
        mem_fail_nth(0);
        for (int i = 0; !check_token(token); i++) {
            assert_true(i < 1000);
            assert_ok(fiber_sleep(10));
        }
    } while (count >= nth);
    assert_true(nth > 2);
}

static void live_through_reloads(void *arg)
{
    struct conf *before = conf;
    struct str token;

    fiber_set_arena(arena);
    token = token_by("a", "x", 600);
    assert_ok(check_token(token)); /* waits for the first fetch */
    load_conf("y");
    jwt_service.adopt(conf);
    assert_refused(check_token(token), "audience"); /* what was found good does not stay so */
    live_through_lack(before, token);
    jwt_service.adopt(before);
    unlink(arena_printf(arena, "%s/keys.json", folder));
    assert_ok(check_token(token)); /* with the keys it had */
    conf_unref(before);
    stop_server();
    fiber_set_arena(NULL);
}

static void test_reload(void **state)
{
    write_file("keys.json",
               "{\"keys\":[{" OKP_KEY ",\"kid\":\"a\"}]}"); /* before they are fetched first */
    run_in_fiber(live_through_reloads);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_examples_of_the_rfcs, begin_arena, tear_down),
        cmocka_unit_test_setup_teardown(test_changed_tokens, begin_arena, tear_down),
        cmocka_unit_test_setup_teardown(test_the_key_fixes_the_algorithm, begin_arena, tear_down),
        cmocka_unit_test_setup_teardown(test_the_right_key_is_taken, begin_arena, tear_down),
        cmocka_unit_test_setup_teardown(test_keys_that_are_left_out, begin_arena, tear_down),
        cmocka_unit_test_setup_teardown(test_what_is_no_set, begin_arena, tear_down),
        cmocka_unit_test_setup_teardown(test_base64url, begin_arena, tear_down),
        cmocka_unit_test_setup_teardown(test_what_looks_like_a_token, begin_arena, tear_down),
        cmocka_unit_test_setup_teardown(test_headers_that_are_refused, begin_arena, tear_down),
        cmocka_unit_test_setup_teardown(test_claims, begin_arena, tear_down),
        cmocka_unit_test_setup_teardown(test_claims_that_are_refused, begin_arena, tear_down),
        cmocka_unit_test_setup_teardown(test_cache, begin_arena, tear_down),
        cmocka_unit_test_setup_teardown(test_how_long_keys_are_good, begin_arena, tear_down),
        cmocka_unit_test_setup_teardown(test_discovery, begin_arena, tear_down),
        cmocka_unit_test_setup_teardown(test_memory_runs_out, begin_arena, tear_down),
        cmocka_unit_test_setup_teardown(test_rotation, set_up_service, tear_down_service),
        cmocka_unit_test_setup_teardown(test_reload, set_up_service, tear_down_service),
    };

    mem_adopt_libraries();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
