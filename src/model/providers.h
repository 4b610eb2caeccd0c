/* SPDX-License-Identifier: Apache-2.0 */
/* The providers in force: what the configuration says, made ready to be called.
 *
 * One immutable, counted set per configuration snapshot, shared by all workers: addresses parsed,
 * TLS contexts made, headers composed. A request holds the set it began with, and through it the
 * snapshot. Besides what is configured, each installed model of the catalogue is a local provider
 * of its own name. */
#ifndef MODEL_PROVIDERS_H
#define MODEL_PROVIDERS_H

#include <stdatomic.h>

#include "conf/conf.h"
#include "govern/price.h"
#include "model/credential.h"
#include "model/health.h"
#include "model/provider.h"
#include "model/tokens.h"
#include "net/http_client.h"

struct local_server;
struct metric_series;
struct model_metrics;
struct provider_metrics;

struct provider {
    const struct conf_provider *conf;
    const struct provider_ops *ops;
    struct http_origin origin;
    struct str path;  /* of calls, with {model} in it; empty: origin.base_path is all of it */
    struct str query; /* "api-version=1&…", or empty */
    struct credential *credentials;
    size_t credential_count;
    struct local_server *server; /* kind local */
    struct provider_metrics *metrics;
    struct model_metrics *direct_metrics; /* of models called provider/model */
    struct str direct_label;              /* their label: the provider's name, a slash, a star */
    struct metric_series *direct_answered;
    atomic_uint in_flight;
};

/* Where a request goes: a provider and its own name of the model. */
struct target {
    struct provider *provider;
    const struct conf_target *conf; /* NULL: called provider/model */
    struct str model;
    struct str alias; /* what the caller called it, as configured; empty for provider/model names */
    struct str label; /* "provider/model" */
    enum token_family family; /* how its tokens are counted */
    struct health **health;   /* one for each of the provider's credentials */
    const struct model_metrics *metrics;
    struct str metrics_label;       /* as configured; a direct one: its provider's */
    struct metric_series *answered; /* counts its attempts that succeeded */
    /* the model's, then the provider's, then the global ones: never 0 */
    struct conf_timeouts timeouts;
    struct conf_retry retry;
    enum conf_unsupported unsupported;
};

/* The targets of a name that callers use, ready to be called. */
struct alias {
    const struct conf_model *conf;
    struct target *targets, *context_fallbacks, *content_fallbacks; /* as many as in conf */
};

struct providers {
    const struct conf *conf;
    struct provider *items;
    size_t count;
    struct alias *aliases; /* in the order of conf->models */
    struct prices *prices; /* NULL: none are configured */
    struct arena *arena;
    atomic_uint references;
};

/* Make a set for a snapshot, taking a reference on it. Errors: CONFIG (an address, a certificate).
 * Main thread; reads files. */
err_t providers_open(const struct conf *conf, struct providers **out) ERR_MUST_CHECK;

/* Counted use. Any thread. */
struct providers *providers_ref(struct providers *providers);
void providers_unref(struct providers *providers);

/* The set in force, with a reference for the caller. Any thread. */
struct providers *providers_current(void);

/* Put a set in force, taking over the caller's reference; NULL only at exit. Main thread. */
void providers_swap(struct providers *providers);

/* The alias of this name, or NULL. */
const struct alias *providers_alias(const struct providers *providers, struct str name);

/* What a name that is no alias means: "provider/model"; a local model by its catalogue name; else
 * the default provider's. The target is made in the arena (its health records are let go with it).
 * Errors: NOT_FOUND (code model_not_found), BUSY without memory. */
err_t providers_find_direct(struct providers *providers, struct str name, struct arena *arena,
                            struct target **out) ERR_MUST_CHECK;

/* The error for a name that means nothing, or nothing to this caller. */
err_t providers_not_found(struct str name);

/* Which of its provider's credentials a target shall be asked with now: of those that are admitted
 * the one with most room, a probe that is due before all; else one with the best verdict. As with
 * health_admit, PROBE must be followed by health_begin and health_end. */
size_t providers_pick_credential(const struct target *target, uint64_t now_ms,
                                 enum health_verdict *verdict, uint64_t *until_ms);

/* Complete the target of a request, which provider_ops gave below the base path: {model} in the
 * base path, configured query parameters. In the arena, or `below` itself. Errors: the arena's. */
err_t providers_target_path(const struct target *target, struct str below, struct arena *arena,
                            struct str *out) ERR_MUST_CHECK;

/* Step through the names that /v1/models lists (aliases, then local models): begin with *at = 0. */
bool providers_next_name(const struct providers *providers, size_t *at, struct str *name,
                         struct str *owner);

#endif
