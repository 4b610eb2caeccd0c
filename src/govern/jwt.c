/* SPDX-License-Identifier: Apache-2.0 */
/* From a token to whom it speaks for.
 *
 * What costs time, and what an issuer's keys decide, is looked up by the hash of the token where it was seen before. What
 * can change under a token that stays the same, its project above all, is looked at with every request: also whose
 * project it is, since an issuer must not give what another organisation pays for. */
#include "govern/jwt.h"

#include "base/sys.h"
#include "govern/jwt_issuers.h"

static const struct conf_issuer *issuer_at(const struct jwt_issuers *issuers, size_t index)
{
    return &issuers->conf->keys.issuers[index];
}

static err_t explain(const struct jwt_issuers *issuers, size_t index, enum jwt_verdict verdict)
{
    struct str name = issuer_at(issuers, index)->name;

    switch (verdict) {
    case JWT_GOOD:
        return NULL;
    case JWT_UNKNOWN_KEY:
        return jwt_refuse("its key is none of %.*s's", STR_ARG(name));
    case JWT_WRONG_ALGORITHM:
        return jwt_refuse("its algorithm is not that of the key of %.*s", STR_ARG(name));
    case JWT_WRONG_SIGNATURE:
        break;
    }
    return jwt_refuse("its signature is not by the key of %.*s", STR_ARG(name));
}

static bool has_keys(const struct jwt_issuers *issuers, size_t index)
{
    return issuers->keys[index] != NULL;
}

/* Check a token against the keys there are. *is_unknown: perhaps there are newer ones. */
static err_t verify(const struct jwt_issuers *issuers, const struct jwt_token *token,
                    struct arena *arena, struct jwt_caller *out, bool *is_unknown)
{
    struct jwt_object claims;
    enum jwt_verdict verdict;

    TRY(jwt_object_read(token->payload, arena, &claims));
    TRY(jwt_claims_find_issuer(&claims, issuers->conf, arena, &out->issuer));
    verdict = jwt_keys_verify(issuers->keys[out->issuer], token);
    *is_unknown = verdict == JWT_UNKNOWN_KEY;
    if (*is_unknown && !has_keys(issuers, out->issuer))
        return err_new_detail(ERR_BUSY, (.code = "issuer_unavailable"),
                              "the keys of this token's issuer are not at hand");
    TRY(explain(issuers, out->issuer, verdict));
    return jwt_claims_read(&claims, issuers->conf, out->issuer, sys_wall_ms(), arena, out);
}

/* The same, once more if newer keys have come. */
static err_t verify_patiently(struct jwt_issuers **issuers, const struct jwt_token *token,
                              struct arena *arena, struct jwt_caller *out)
{
    bool is_unknown = false;
    err_t err = verify(*issuers, token, arena, out, &is_unknown);

    if (!is_unknown || !jwt_issuers_await(*issuers, out->issuer))
        return err;
    jwt_issuers_unref(*issuers);
    *issuers = jwt_issuers_current();
    if (!*issuers)
        return jwt_refuse("no issuer is configured");
    return verify(*issuers, token, arena, out, &is_unknown);
}

static err_t look_up(struct jwt_issuers **issuers, struct str text, struct arena *arena,
                     struct jwt_caller *out)
{
    uint8_t hash[IDENTITY_HASH_BYTES];
    struct jwt_token token;

    TRY(identity_hash(text, hash));
    if (jwt_cache_get((*issuers)->cache, hash, sys_wall_ms(), arena, out))
        return NULL;
    TRY(jwt_token_read(text, arena, &token));
    TRY(verify_patiently(issuers, &token, arena, out));
    jwt_cache_put((*issuers)->cache, hash, out);
    return NULL;
}

/* A key that nobody holds: what the token may do. */
static err_t make_key(const struct conf_issuer *issuer, const struct jwt_caller *caller,
                      const struct identity_project *project, struct arena *arena,
                      const struct identity_key **out)
{
    struct identity_key *key = arena_new_struct(arena, struct identity_key);
    const char *id = arena_printf(arena, "jwt:%.*s/%.*s/%.*s", STR_ARG(issuer->name),
                                  STR_ARG(project->id), STR_ARG(caller->user));
    struct str name = arena_copy(arena, issuer->name);

    if (!key || !id || !name.ptr)
        return arena_err(arena);
    *key = (struct identity_key){
        .id = str_from(id),
        .name = name,
        .project = project->id,
        .org = project->org,
        .tier = project->tier,
        .scopes = caller->scopes,
        .realm = caller->scopes & IDENTITY_ADMIN ? REALM_PROJECT : REALM_NONE,
        .expires_ms = caller->until_ms,
        .is_disabled = project->is_disabled,
        .project_allowance = project->allowance,
    };
    *out = key;
    return NULL;
}

/* An issuer speaks for one organisation, unless the configuration says that it speaks for all. */
static bool may_speak_for(const struct conf_issuer *issuer, const struct identity_project *project)
{
    return str_eq(issuer->org, STR("*")) || str_eq(issuer->org, project->org);
}

static err_t resolve(const struct jwt_issuers *issuers, const struct jwt_caller *caller,
                     const struct identity *identity, struct arena *arena,
                     const struct identity_key **key)
{
    const struct conf_issuer *issuer = issuer_at(issuers, caller->issuer);
    const struct identity_project *project = identity_project_get(identity, caller->project);

    if (!project)
        return jwt_refuse("there is no project with the id that %.*s gives", STR_ARG(issuer->name));
    if (!may_speak_for(issuer, project))
        return jwt_refuse("the project that %.*s gives is of another organisation",
                          STR_ARG(issuer->name));
    return make_key(issuer, caller, project, arena, key);
}

err_t jwt_check(struct str token, const struct identity *identity, struct arena *arena,
                const struct identity_key **key, struct str *user)
{
    struct jwt_issuers *issuers = jwt_issuers_current();
    struct jwt_caller caller = {0};
    err_t err;

    if (!issuers)
        return jwt_refuse("no issuer is configured");
    err = look_up(&issuers, token, arena, &caller);
    if (!err)
        err = resolve(issuers, &caller, identity, arena, key);
    jwt_issuers_unref(issuers);
    *user = caller.user;
    return err;
}
