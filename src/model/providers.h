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
#include "model/provider.h"
#include "net/http_client.h"

struct local_server;
struct model_metrics;
struct provider_metrics;

struct provider {
    const struct conf_provider *conf;
    const struct provider_ops *ops;
    struct http_origin origin;
    struct http_header *headers; /* authorization and configured ones */
    size_t header_count;
    struct local_server *server; /* kind local */
    struct provider_metrics *metrics;
    struct model_metrics *direct_metrics; /* of models called provider/model */
    atomic_uint in_flight;
};

/* Where a request goes: a provider and its own name of the model. */
struct target {
    struct provider *provider;
    struct str model;
    struct str alias; /* what the caller called it, as configured; empty for provider/model names */
    struct str label; /* "provider/model" */
    const struct model_metrics *metrics;
    /* the model's, then the provider's, then the global ones: never 0 */
    struct conf_timeouts timeouts;
};

struct providers {
    const struct conf *conf;
    struct provider *items;
    size_t count;
    struct target *aliases; /* in the order of conf->models */
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

/* Find what a caller's model name means: an alias; "provider/model"; a local model by its catalogue
 * name; else the default provider's. Strs point into the set or the arena. Errors: NOT_FOUND (code
 * model_not_found). */
err_t providers_find(struct providers *providers, struct str name, struct arena *arena,
                     struct target *out) ERR_MUST_CHECK;

/* Step through the names that /v1/models lists (aliases, then local models): begin with *at = 0. */
bool providers_next_name(const struct providers *providers, size_t *at, struct str *name,
                         struct str *owner);

#endif
