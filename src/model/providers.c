/* SPDX-License-Identifier: Apache-2.0 */
/* Making a configuration's providers ready to be called, and finding what a model name means. */
#include "model/providers.h"

#include <pthread.h>

#include "base/buf.h"
#include "model/call_metrics.h"
#include "model/catalogue.h"
#include "model/local_server.h"
#include "net/tls.h"
#include "observe/log.h"

/* The set in force. The lock is held for a pointer copy and a count. */
static struct {
    pthread_mutex_t lock;
    struct providers *set;
} current = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const struct conf_timeouts no_timeouts;

static struct provider *provider_named(struct providers *set, struct str name)
{
    for (size_t i = 0; i < set->count; i++)
        if (str_eq(set->items[i].conf->name, name))
            return &set->items[i];
    return NULL;
}

/* ---- making a set ---- */

static void release_tls(void *context)
{
    tls_context_unref(context);
}

static err_t make_origin(struct providers *set, struct provider *p)
{
    const struct conf_provider *conf = p->conf;

    if (conf->kind == CONF_PROVIDER_LOCAL) {
        char *url = arena_printf(set->arena, "unix:%s:/v1", local_server_socket(p->server));
        return url ? http_origin_make(str_from(url), STR("off"), set->arena, &p->origin)
                   : arena_err(set->arena);
    }
    TRY(http_origin_make(conf->url, conf->proxy, set->arena, &p->origin));
    if (!p->origin.is_tls)
        return NULL;
    TRY(tls_client_context(conf->ca, conf->client_certificate, conf->client_key, &p->origin.tls));
    return arena_defer(set->arena, release_tls, p->origin.tls);
}

/* The headers that every call of this provider carries. */
static err_t make_headers(struct providers *set, struct provider *p)
{
    const struct conf_provider *conf = p->conf;
    size_t n = 0;

    p->headers = arena_alloc_array(set->arena, conf->headers.count + 2, sizeof(*p->headers));
    if (!p->headers)
        return arena_err(set->arena);
    p->headers[n++] = (struct http_header){STR("Content-Type"), STR("application/json")};
    if (conf->key.len) {
        char *value = arena_printf(set->arena, "Bearer %.*s", STR_ARG(conf->key));
        if (!value)
            return arena_err(set->arena);
        p->headers[n++] = (struct http_header){STR("Authorization"), str_from(value)};
    }
    for (size_t i = 0; i < conf->headers.count; i++)
        p->headers[n++] =
            (struct http_header){conf->headers.items[i].name, conf->headers.items[i].value};
    p->header_count = n;
    return NULL;
}

static void release_server(void *server)
{
    local_server_unref(server);
}

/* What is counted under the provider's own name, and of models that are called by it. */
static err_t make_metrics(struct providers *set, struct provider *p)
{
    char *direct = arena_printf(set->arena, "%.*s/*", STR_ARG(p->conf->name));

    if (!direct)
        return arena_err(set->arena);
    TRY(model_metrics_make(str_from(direct), set->arena, &p->direct_metrics));
    return provider_metrics_make(p->conf->name, set->arena, &p->metrics);
}

static err_t make_provider(struct providers *set, const struct conf_provider *conf)
{
    struct provider *p = &set->items[set->count];

    p->conf = conf;
    p->ops = provider_ops_get(conf->kind);
    if (conf->kind == CONF_PROVIDER_LOCAL) {
        TRY(local_server_get(set->conf, conf, &p->server));
        TRY(arena_defer(set->arena, release_server, p->server));
    }
    TRY(make_origin(set, p));
    TRY(make_headers(set, p));
    TRY(make_metrics(set, p));
    set->count++;
    return NULL;
}

static uint64_t first_set(uint64_t a, uint64_t b, uint64_t c)
{
    return a ? a : b ? b : c;
}

/* The model's time-outs, where it has none the provider's, else the global ones. */
static struct conf_timeouts merge_timeouts(const struct conf_timeouts *model,
                                           const struct conf_timeouts *provider,
                                           const struct conf_timeouts *global)
{
    return (struct conf_timeouts){
        .connect_ms = first_set(model->connect_ms, provider->connect_ms, global->connect_ms),
        .first_token_ms =
            first_set(model->first_token_ms, provider->first_token_ms, global->first_token_ms),
        .idle_ms = first_set(model->idle_ms, provider->idle_ms, global->idle_ms),
        .total_ms = first_set(model->total_ms, provider->total_ms, global->total_ms),
    };
}

/* An alias, ready to be copied by the requests that name it. */
static err_t make_alias(struct providers *set, const struct conf_model *model, struct target *out)
{
    const struct conf_target *first = &model->targets[0];
    struct model_metrics *metrics;
    char *label = arena_printf(set->arena, "%.*s/%.*s", STR_ARG(first->provider->name),
                               STR_ARG(first->model));

    if (!label)
        return arena_err(set->arena);
    TRY(model_metrics_make(model->name, set->arena, &metrics));
    *out = (struct target){
        .provider = provider_named(set, first->provider->name),
        .model = first->model,
        .alias = model->name,
        .label = str_from(label),
        .metrics = metrics,
        .timeouts =
            merge_timeouts(&model->timeouts, &first->provider->timeouts, &set->conf->timeouts),
    };
    return NULL;
}

static err_t make_aliases(struct providers *set)
{
    size_t count = set->conf->model_count;

    set->aliases = arena_alloc_array(set->arena, count, sizeof(*set->aliases));
    if (!set->aliases)
        return arena_err(set->arena);
    for (size_t i = 0; i < count; i++)
        TRY(make_alias(set, &set->conf->models[i], &set->aliases[i]));
    return NULL;
}

/* Whether a configured provider serves this model of the catalogue already. */
static bool is_served(const struct conf *conf, struct str name)
{
    for (size_t i = 0; i < conf->provider_count; i++) {
        const struct conf_provider *p = &conf->providers[i];
        if (p->kind == CONF_PROVIDER_LOCAL && str_eq(p->model, name))
            return true;
    }
    return conf_provider_get(conf, name) != NULL;
}

/* An installed model needs no configuration: it is a provider of its own name. */
static err_t add_installed(struct providers *set)
{
    const struct catalogue_model *model;

    for (size_t at = 0; (model = catalogue_next(&at));) {
        struct str name = str_from(model->name);
        if (is_served(set->conf, name) || !catalogue_is_installed(set->conf->data_dir, model))
            continue;
        struct conf_provider *conf = arena_new_struct(set->arena, struct conf_provider);
        if (!conf)
            return arena_err(set->arena);
        *conf = (struct conf_provider){
            .name = name, .kind = CONF_PROVIDER_LOCAL, .model = name, .stream_usage = true};
        conf->timeouts.first_token_ms = 5 * 60 * 1000;
        TRY(make_provider(set, conf));
    }
    return NULL;
}

static size_t catalogue_size(void)
{
    size_t count = 0;

    for (size_t at = 0; catalogue_next(&at);)
        count++;
    return count;
}

static void release_conf(void *conf)
{
    conf_unref(conf);
}

static err_t fill(struct providers *set, const struct conf *conf)
{
    TRY(arena_defer(set->arena, release_conf, (void *)conf_ref(conf)));
    set->conf = conf;
    set->items =
        arena_alloc_array(set->arena, conf->provider_count + catalogue_size(), sizeof(*set->items));
    if (!set->items)
        return arena_err(set->arena);
    for (size_t i = 0; i < conf->provider_count; i++)
        TRY(make_provider(set, &conf->providers[i]));
    TRY(make_aliases(set));
    return add_installed(set);
}

err_t providers_open(const struct conf *conf, struct providers **out)
{
    struct arena *arena = arena_new(MEM_CONF, 16 * 1024 * 1024);
    struct providers *set = arena ? arena_new_struct(arena, struct providers) : NULL;
    err_t err;

    if (!set) {
        arena_free(arena);
        return err_no_memory();
    }
    set->arena = arena;
    atomic_init(&set->references, 1);
    err = fill(set, conf);
    if (err)
        arena_free(arena);
    else
        *out = set;
    return err;
}

struct providers *providers_ref(struct providers *providers)
{
    atomic_fetch_add_explicit(&providers->references, 1, memory_order_relaxed);
    return providers;
}

void providers_unref(struct providers *providers)
{
    if (providers &&
        atomic_fetch_sub_explicit(&providers->references, 1, memory_order_acq_rel) == 1)
        arena_free(providers->arena);
}

struct providers *providers_current(void)
{
    struct providers *set;

    pthread_mutex_lock(&current.lock);
    set = current.set ? providers_ref(current.set) : NULL;
    pthread_mutex_unlock(&current.lock);
    return set;
}

void providers_swap(struct providers *providers)
{
    struct providers *old;

    pthread_mutex_lock(&current.lock);
    old = current.set;
    current.set = providers;
    pthread_mutex_unlock(&current.lock);
    providers_unref(old);
}

/* ---- names ---- */

static struct provider *local_provider_of(struct providers *set, struct str model)
{
    for (size_t i = 0; i < set->count; i++)
        if (set->items[i].conf->kind == CONF_PROVIDER_LOCAL &&
            str_eq(set->items[i].conf->model, model))
            return &set->items[i];
    return NULL;
}

/* A target that is called provider/model, or by the model's name alone. */
static err_t find_direct(struct providers *set, struct str name, struct arena *arena,
                         struct target *out)
{
    size_t slash = str_index(name, '/');
    char *label;

    *out = (struct target){.model = name};
    if (slash < name.len && (out->provider = provider_named(set, (struct str){name.ptr, slash})))
        out->model = str_after(name, slash + 1);
    else if (!(out->provider = local_provider_of(set, name)) && set->conf->default_provider.len)
        out->provider = provider_named(set, set->conf->default_provider);
    if (out->model.len == 0)
        out->provider = NULL;
    if (!out->provider)
        return err_new_detail(ERR_NOT_FOUND, (.code = "model_not_found", .param = "model"),
                              "The model `%.*s` does not exist or you do not have access to it.",
                              STR_ARG(name));
    /* First what a call that fails is settled with. */
    out->metrics = out->provider->direct_metrics;
    out->timeouts =
        merge_timeouts(&no_timeouts, &out->provider->conf->timeouts, &set->conf->timeouts);
    label =
        arena_printf(arena, "%.*s/%.*s", STR_ARG(out->provider->conf->name), STR_ARG(out->model));
    if (!label)
        return arena_err(arena);
    out->label = str_from(label);
    return NULL;
}

err_t providers_find(struct providers *providers, struct str name, struct arena *arena,
                     struct target *out)
{
    const struct conf_model *alias = conf_model_get(providers->conf, name);

    if (!alias)
        return find_direct(providers, name, arena, out);
    *out = providers->aliases[alias - providers->conf->models];
    return NULL;
}

bool providers_next_name(const struct providers *providers, size_t *at, struct str *name,
                         struct str *owner)
{
    const struct conf *conf = providers->conf;

    if (*at < conf->model_count) {
        *name = conf->models[*at].name;
        *owner = conf->models[*at].targets[0].provider->name;
        ++*at;
        return true;
    }
    while (*at - conf->model_count < providers->count) {
        const struct conf_provider *p = providers->items[*at - conf->model_count].conf;
        ++*at;
        if (p->kind != CONF_PROVIDER_LOCAL || conf_model_get(conf, p->model))
            continue;
        *name = str_index(p->model, '/') < p->model.len ? p->name : p->model;
        *owner = STR("local");
        return true;
    }
    return false;
}
