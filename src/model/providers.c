/* SPDX-License-Identifier: Apache-2.0 */
/* Making a configuration's providers ready to be called, and finding what a model name means. */
#include "model/providers.h"

#include <pthread.h>

#include "model/call_metrics.h"
#include "model/catalogue.h"
#include "model/local_server.h"
#include "net/tls.h"

/* The set in force. The lock is held for a pointer copy and a count. */
static struct {
    pthread_mutex_t lock;
    struct providers *set;
} current = {.lock = PTHREAD_MUTEX_INITIALIZER};

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

/* Percent-encode all but RFC 3986's unreserved characters; out has room for 3 × len. */
static char *put_encoded(char *out, struct str text)
{
    static const char hex[] = "0123456789ABCDEF";

    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.ptr[i], lower = c | 0x20;
        if ((lower >= 'a' && lower <= 'z') || (c >= '0' && c <= '9') || (c && strchr("-._~", c))) {
            *out++ = (char)c;
            continue;
        }
        *out++ = '%';
        *out++ = hex[c >> 4];
        *out++ = hex[c & 15];
    }
    return out;
}

/* The configured query parameters as "name=value&name=value". */
static err_t make_query(struct providers *set, struct provider *p)
{
    const struct conf_pairs *pairs = &p->conf->query;
    size_t most = 0;
    char *text, *out;

    for (size_t i = 0; i < pairs->count; i++)
        most += 3 * (pairs->items[i].name.len + pairs->items[i].value.len) + 2;
    text = out = arena_alloc(set->arena, most);
    if (!text)
        return arena_err(set->arena);
    for (size_t i = 0; i < pairs->count; i++) {
        if (i)
            *out++ = '&';
        out = put_encoded(out, pairs->items[i].name);
        *out++ = '=';
        out = put_encoded(out, pairs->items[i].value);
    }
    p->query = (struct str){text, (size_t)(out - text)};
    return NULL;
}

/* A base path that depends on the model becomes part of each request's target. */
static void split_path(struct provider *p)
{
    if (str_find(p->origin.base_path, STR("{model}")) == p->origin.base_path.len)
        return;
    p->path = p->origin.base_path;
    p->origin.base_path = STR("");
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
    p->direct_label = str_from(direct);
    p->direct_answered = attempt_metrics_ok(p->direct_label);
    TRY(model_metrics_make(p->direct_label, set->arena, &p->direct_metrics));
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
    split_path(p);
    TRY(make_query(set, p));
    TRY(credential_make_all(conf, set->arena, &p->credentials, &p->credential_count));
    TRY(make_metrics(set, p));
    set->count++;
    return NULL;
}

/* ---- targets ---- */

static uint64_t first_set(uint64_t a, uint64_t b, uint64_t c)
{
    return a ? a : b ? b : c;
}

/* The model's options, where it has none the provider's, else the global ones. `model` may be
 * NULL. */
static struct conf_timeouts merge_timeouts(const struct conf_model *model,
                                           const struct conf_provider *provider,
                                           const struct conf *conf)
{
    static const struct conf_timeouts none;
    const struct conf_timeouts *m = model ? &model->timeouts : &none, *p = &provider->timeouts,
                               *c = &conf->timeouts;

    return (struct conf_timeouts){
        .connect_ms = first_set(m->connect_ms, p->connect_ms, c->connect_ms),
        .first_token_ms = first_set(m->first_token_ms, p->first_token_ms, c->first_token_ms),
        .idle_ms = first_set(m->idle_ms, p->idle_ms, c->idle_ms),
        .total_ms = first_set(m->total_ms, p->total_ms, c->total_ms),
    };
}

static struct conf_retry merge_retry(const struct conf_model *model,
                                     const struct conf_provider *provider, const struct conf *conf)
{
    static const struct conf_retry none;
    const struct conf_retry *m = model ? &model->retry : &none, *p = &provider->retry,
                            *c = &conf->retry;

    return (struct conf_retry){
        .attempts = first_set(m->attempts, p->attempts, c->attempts),
        .budget_percent = first_set(m->budget_percent, p->budget_percent, c->budget_percent),
    };
}

static struct conf_breaker merge_breaker(const struct conf_model *model,
                                         const struct conf_provider *provider,
                                         const struct conf *conf)
{
    static const struct conf_breaker none;
    const struct conf_breaker *m = model ? &model->breaker : &none, *p = &provider->breaker,
                              *c = &conf->breaker;

    return (struct conf_breaker){
        .failures = first_set(m->failures, p->failures, c->failures),
        .ratio_percent = first_set(m->ratio_percent, p->ratio_percent, c->ratio_percent),
        .window_ms = first_set(m->window_ms, p->window_ms, c->window_ms),
        .open_ms = first_set(m->open_ms, p->open_ms, c->open_ms),
        .max_open_ms = first_set(m->max_open_ms, p->max_open_ms, c->max_open_ms),
        .recheck_ms = first_set(m->recheck_ms, p->recheck_ms, c->recheck_ms),
    };
}

static void release_health(void *health)
{
    health_unref(health);
}

/* One record for each key; where there is only one its name is left out. */
static err_t find_health(struct target *target, const struct conf_breaker *breaker,
                         struct arena *arena)
{
    const struct provider *p = target->provider;

    target->health = arena_alloc_array(arena, p->credential_count, sizeof(struct health *));
    if (!target->health)
        return arena_err(arena);
    for (size_t i = 0; i < p->credential_count; i++) {
        struct str name = target->label;
        if (p->conf->key_count) {
            name = str_from(arena_printf(arena, "%.*s#%.*s", STR_ARG(target->label),
                                         STR_ARG(p->credentials[i].name)));
            if (!name.ptr)
                return arena_err(arena);
        }
        TRY(health_get(name, breaker, &target->retry, &target->health[i]));
        TRY(arena_defer(arena, release_health, target->health[i]));
    }
    return NULL;
}

/* What a target needs besides its provider, name and metrics. `model` is NULL for names that are no
 * alias. */
static err_t complete_target(struct providers *set, const struct conf_model *model,
                             struct arena *arena, struct target *target)
{
    const struct conf_provider *provider = target->provider->conf;
    struct conf_breaker breaker = merge_breaker(model, provider, set->conf);
    char *label = arena_printf(arena, "%.*s/%.*s", STR_ARG(provider->name), STR_ARG(target->model));

    if (!label)
        return arena_err(arena);
    target->label = str_from(label);
    target->family = tokens_family(target->model);
    target->timeouts = merge_timeouts(model, provider, set->conf);
    target->retry = merge_retry(model, provider, set->conf);
    target->unsupported = model && model->unsupported != CONF_UNSUPPORTED_AUTO
                              ? model->unsupported
                              : set->conf->unsupported;
    return find_health(target, &breaker, arena);
}

static err_t make_targets(struct providers *set, const struct alias *alias,
                          const struct model_metrics *metrics, const struct conf_target *from,
                          size_t count, struct target **out)
{
    struct target *targets = *out = arena_alloc_array(set->arena, count, sizeof(*targets));

    if (!targets)
        return arena_err(set->arena);
    for (size_t i = 0; i < count; i++) {
        targets[i] = (struct target){.provider = provider_named(set, from[i].provider->name),
                                     .conf = &from[i],
                                     .model = from[i].model,
                                     .alias = alias->conf->name,
                                     .metrics = metrics};
        TRY(complete_target(set, alias->conf, set->arena, &targets[i]));
        targets[i].metrics_label = targets[i].label;
        targets[i].answered = attempt_metrics_ok(targets[i].label);
    }
    return NULL;
}

static err_t make_alias(struct providers *set, const struct conf_model *model, struct alias *alias)
{
    struct model_metrics *metrics;

    alias->conf = model;
    TRY(model_metrics_make(model->name, set->arena, &metrics));
    TRY(make_targets(set, alias, metrics, model->targets, model->target_count, &alias->targets));
    TRY(make_targets(set, alias, metrics, model->context_fallbacks, model->context_fallback_count,
                     &alias->context_fallbacks));
    return make_targets(set, alias, metrics, model->content_fallbacks,
                        model->content_fallback_count, &alias->content_fallbacks);
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

/* ---- making a set, the rest ---- */

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
        *conf = (struct conf_provider){.name = name,
                                       .kind = CONF_PROVIDER_LOCAL,
                                       .auth = CONF_AUTH_NONE,
                                       .model = name,
                                       .stream_usage = true,
                                       .max_tokens = 4096,
                                       .has_old_max_tokens = true,
                                       .takes_extensions = true,
                                       .reasoning_back = CONF_REASONING_GIVEN,
                                       .reasoning_field = STR("reasoning_content")};
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

static void release_prices(void *prices)
{
    prices_unref(prices);
}

static err_t load_prices(struct providers *set)
{
    if (set->conf->prices.len == 0)
        return NULL;
    TRY(prices_load(set->conf->prices, &set->prices));
    TRY(arena_defer(set->arena, release_prices, set->prices));
    if (!str_eq(prices_currency(set->prices), set->conf->budgets.currency))
        return err_new(ERR_CONFIG, "%.*s: prices are in %.*s, but budgets.currency is %.*s",
                       STR_ARG(set->conf->prices), STR_ARG(prices_currency(set->prices)),
                       STR_ARG(set->conf->budgets.currency));
    return NULL;
}

static err_t fill(struct providers *set, const struct conf *conf)
{
    TRY(arena_defer(set->arena, release_conf, (void *)conf_ref(conf)));
    set->conf = conf;
    TRY(load_prices(set));
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
    if (providers)
        health_forgive();
    else
        health_forget();
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

err_t providers_not_found(struct str name)
{
    return err_new_detail(ERR_NOT_FOUND, (.code = "model_not_found", .param = "model"),
                          "The model `%.*s` does not exist or you do not have access to it.",
                          STR_ARG(name));
}

const struct alias *providers_alias(const struct providers *providers, struct str name)
{
    const struct conf_model *model = conf_model_get(providers->conf, name);

    return model ? &providers->aliases[model - providers->conf->models] : NULL;
}

err_t providers_find_direct(struct providers *set, struct str name, struct arena *arena,
                            struct target **out)
{
    size_t slash = str_index(name, '/');
    struct target *target = arena_new_struct(arena, struct target);

    *out = NULL;
    if (!target)
        return arena_err(arena);
    target->model = name;
    if (slash < name.len && (target->provider = provider_named(set, (struct str){name.ptr, slash})))
        target->model = str_after(name, slash + 1);
    else if (!(target->provider = local_provider_of(set, name)) && set->conf->default_provider.len)
        target->provider = provider_named(set, set->conf->default_provider);
    if (target->provider && target->provider->conf->kind == CONF_PROVIDER_GEMINI &&
        str_starts(target->model, STR("models/"))) /* a second name, which must have one price */
        target->model = str_after(target->model, STR("models/").len);
    if (!target->provider || target->model.len == 0)
        return providers_not_found(name);
    target->metrics = target->provider->direct_metrics;
    target->metrics_label = target->provider->direct_label;
    target->answered = target->provider->direct_answered;
    TRY(complete_target(set, NULL, arena, target));
    *out = target;
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

/* ---- for attempts ---- */

struct choice {
    size_t index;
    int rank; /* of the verdict */
    unsigned room, in_flight;
};

static bool is_better(const struct choice *a, const struct choice *b)
{
    if (a->rank != b->rank)
        return a->rank > b->rank;
    if (a->room != b->room)
        return a->room > b->room;
    return a->in_flight < b->in_flight;
}

static int rank_of(enum health_verdict verdict)
{
    static const int ranks[] = {
        [HEALTH_PROBE] = 4, [HEALTH_ASK] = 3, [HEALTH_AVOID] = 2, [HEALTH_REFUSING] = 1};

    return ranks[verdict];
}

/* The best credential at this moment. A probe comes first: there is one at a time, and without it
 * a key would stay out as long as another one works. *until_ms is the earliest of all. */
static struct choice choose_credential(const struct target *target, uint64_t now_ms,
                                       uint64_t *until_ms)
{
    struct choice best = {0};

    *until_ms = 0;
    for (size_t i = 0; i < target->provider->credential_count; i++) {
        uint64_t this_ms;
        struct choice choice = {
            .index = i,
            .rank = rank_of(health_look(target->health[i], now_ms, &this_ms)),
            .room = credential_room(&target->provider->credentials[i], now_ms),
            .in_flight = health_in_flight(target->health[i]),
        };
        if (is_better(&choice, &best))
            best = choice;
        if (this_ms && (!*until_ms || this_ms < *until_ms))
            *until_ms = this_ms;
    }
    return best;
}

size_t providers_pick_credential(const struct target *target, uint64_t now_ms,
                                 enum health_verdict *verdict, uint64_t *until_ms)
{
    size_t count = target->provider->credential_count;
    struct choice best = {0};
    uint64_t first_ms = 0;

    if (count == 1) {
        *verdict = health_admit(target->health[0], now_ms, until_ms);
        return 0;
    }
    for (size_t tries = 0; tries <= count; tries++) {
        best = choose_credential(target, now_ms, &first_ms);
        *verdict = health_admit(target->health[best.index], now_ms, until_ms);
        if (rank_of(*verdict) >= best.rank)
            break; /* else somebody else has just taken the probe */
    }
    if (*until_ms)
        *until_ms = first_ms;
    return best.index;
}

err_t providers_target_path(const struct target *target, struct str below, struct arena *arena,
                            struct str *out)
{
    const struct provider *p = target->provider;
    struct str path = p->path;
    char *text, *end;

    *out = below;
    if (path.len + p->query.len == 0)
        return NULL;
    size_t holes = 0;
    for (size_t i = 0; i < path.len; i++)
        holes += path.ptr[i] == '{';
    text = end =
        arena_alloc(arena, path.len + holes * 3 * target->model.len + below.len + p->query.len + 1);
    if (!text)
        return arena_err(arena);
    while (path.len > 0) {
        size_t hole = str_find(path, STR("{model}"));
        memcpy(end, path.ptr, hole);
        end += hole;
        if (hole < path.len)
            end = put_encoded(end, target->model);
        path = str_after(path, hole < path.len ? hole + sizeof("{model}") - 1 : hole);
    }
    if (below.len)
        memcpy(end, below.ptr, below.len);
    end += below.len;
    if (p->query.len) {
        *end++ = str_index(below, '?') < below.len ? '&' : '?';
        memcpy(end, p->query.ptr, p->query.len);
        end += p->query.len;
    }
    *out = (struct str){text, (size_t)(end - text)};
    return NULL;
}
