/* SPDX-License-Identifier: Apache-2.0 */
/* A claim that is there and has another type than it must have is an error, never as if it were missing: else a token could
 * get the default project, or scope, by a slip of its issuer. */
#include "govern/jwt_claims.h"

#include "base/json_members.h"
#include "govern/identity.h"
#include "govern/identity_field.h"

#define MAX_NAME 128                    /* characters of a project's id and of a user */
#define MAX_TIME UINT64_C(253402300800) /* seconds: the year 10000 */

/* ---- who made it, and for whom ---- */

/* RFC 7519 §4.1.3: one text, or a list of them. */
static bool is_meant_for(struct str audience, struct str wanted, struct arena *arena)
{
    struct str element, text;
    size_t at = 0;

    if (json_text(audience, arena, &text))
        return str_eq(text, wanted);
    while (json_array_next(audience, &at, &element))
        if (json_text(element, arena, &text) && str_eq(text, wanted))
            return true;
    return false;
}

err_t jwt_claims_find_issuer(const struct jwt_object *claims, const struct conf *conf,
                             struct arena *arena, size_t *index)
{
    struct str issuer, audience = jwt_object_get(claims, STR("aud"));
    bool is_known = false;

    TRY(jwt_object_text(claims, STR("iss"), arena, &issuer));
    for (*index = 0; issuer.ptr && *index < conf->keys.issuer_count; ++*index) {
        const struct conf_issuer *candidate = &conf->keys.issuers[*index];
        if (!str_eq(issuer, candidate->issuer))
            continue;
        is_known = true;
        if (audience.ptr && is_meant_for(audience, candidate->audience, arena))
            return NULL;
    }
    return is_known ? jwt_refuse("it is for another audience")
                    : jwt_refuse("its issuer is not configured");
}

/* ---- when ---- */

/* A NumericDate (RFC 7519 §2), which may have a fraction, and be 0: 1970. *ms stays as it is if it is missing. */
static err_t read_time(const struct jwt_object *claims, struct str name, uint64_t *ms)
{
    struct str value = jwt_object_get(claims, name);
    double seconds;

    if (!value.ptr)
        return NULL;
    if (!json_double(value, &seconds) || !(seconds >= 0) || !(seconds < (double)MAX_TIME))
        return jwt_refuse("its %.*s is no time", STR_ARG(name));
    *ms = (uint64_t)(seconds * 1000);
    return NULL;
}

static err_t read_times(const struct jwt_object *claims, uint64_t now_ms, uint64_t *until_ms)
{
    uint64_t expires_ms = UINT64_MAX, begins_ms = 0, made_ms = 0;

    TRY(read_time(claims, STR("exp"), &expires_ms));
    TRY(read_time(claims, STR("nbf"), &begins_ms));
    TRY(read_time(claims, STR("iat"), &made_ms));
    if (expires_ms == UINT64_MAX)
        return jwt_refuse("it does not say when it expires");
    *until_ms = expires_ms + JWT_LEEWAY_MS;
    if (*until_ms <= now_ms)
        return jwt_refuse("it has expired");
    if (begins_ms > now_ms + JWT_LEEWAY_MS)
        return jwt_refuse("it is not good yet");
    if (made_ms > now_ms + JWT_LEEWAY_MS)
        return jwt_refuse("it was made in the future");
    return NULL;
}

/* ---- what for ---- */

static unsigned scope_of(struct str word)
{
    if (str_eq(word, STR("models")))
        return IDENTITY_MODELS;
    if (str_eq(word, STR("route")))
        return IDENTITY_ROUTE;
    return str_eq(word, STR("admin")) ? IDENTITY_ADMIN : 0;
}

/* A list of texts, or one with words between blanks (RFC 6749 §3.3). Words of others are passed over. */
static err_t read_scopes(const struct jwt_object *claims, struct str name, struct arena *arena,
                         unsigned *scopes)
{
    struct str value = name.len ? jwt_object_get(claims, name) : STR(""), text, word;

    *scopes = value.len ? 0 : IDENTITY_MODELS;
    if (value.len == 0)
        return NULL;
    if (json_kind(value) == JSON_STRING) {
        if (!json_text(value, arena, &text))
            return arena_err(arena);
        while (text.ptr && str_split(&text, ' ', &word))
            *scopes |= scope_of(word);
        return NULL;
    }
    if (json_kind(value) != JSON_ARRAY)
        return jwt_refuse("its scopes are neither a text nor a list");
    for (size_t at = 0; json_array_next(value, &at, &word);) {
        if (json_kind(word) != JSON_STRING)
            return jwt_refuse("its scopes are no list of texts");
        if (!json_text(word, arena, &text))
            return arena_err(arena);
        *scopes |= scope_of(text);
    }
    return NULL;
}

static err_t read_project(const struct jwt_object *claims, const struct conf_issuer *issuer,
                          struct arena *arena, struct str *out)
{
    *out = (struct str){0};
    if (issuer->project_claim.len)
        TRY(jwt_object_text(claims, issuer->project_claim, arena, out));
    if (!out->ptr)
        *out = issuer->project;
    if (out->len == 0)
        return jwt_refuse("it names no project");
    return identity_is_printable(*out, MAX_NAME) ? NULL : jwt_refuse("its project cannot be an id");
}

err_t jwt_claims_read(const struct jwt_object *claims, const struct conf *conf, size_t index,
                      uint64_t now_ms, struct arena *arena, struct jwt_caller *out)
{
    const struct conf_issuer *issuer = &conf->keys.issuers[index];

    *out = (struct jwt_caller){.issuer = index};
    TRY(read_times(claims, now_ms, &out->until_ms));
    TRY(jwt_object_text(claims, issuer->user_claim, arena, &out->user));
    if (!identity_is_printable(out->user, MAX_NAME))
        return jwt_refuse("its user is missing, too long or not printable");
    TRY(read_project(claims, issuer, arena, &out->project));
    return read_scopes(claims, issuer->scope_claim, arena, &out->scopes);
}
