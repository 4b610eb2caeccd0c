/* SPDX-License-Identifier: Apache-2.0 */
/* The service: the main thread's part.
 *
 * The main thread reads the configuration, binds the addresses, starts the workers, and then runs a
 * loop of its own for signals, local models and the admin listener. SIGHUP reloads: a new snapshot
 * is built beside the old one and swapped in only if it is good. SIGTERM drains: not ready, no new
 * connections, running requests finish, the rest are told; a second signal ends at once.
 *
 * The hard thing is order. What requests use must be open before the first worker and closed after
 * the last. */
#include "app.h"

#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
#include <uv.h>

#include "app_private.h"
#include "base/check.h"
#include "base/sys.h"
#include "fiber/fiber.h"
#include "fiber/offload.h"
#include "gateway/keeper.h"
#include "govern/govern.h"
#include "govern/identity.h"
#include "govern/journal.h"
#include "govern/limit.h"
#include "model/local_server.h"
#include "model/tokens.h"
#include "net/resolve.h"
#include "net/sock.h"
#include "observe/log.h"
#include "observe/metrics.h"
#include "version.h"

static struct app app;

/* ---- opening ---- */

static err_t load_conf(struct app *a, struct conf **out)
{
    struct buf problems = buf_make(MEM_CONF, 1024 * 1024);
    err_t err = conf_load(a->conf_path, &problems, out);

    if (err && problems.len)
        err = err_new(ERR_CONFIG, "%.*s", STR_ARG(str_trim(buf_str(&problems))));
    buf_fini(&problems);
    return err;
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static void log_options_of(const struct conf *conf, struct log_options *out)
{
    *out = (struct log_options){.level = (enum log_level)conf->log.level,
                                .format = (enum log_format)conf->log.format,
                                .path = conf->log.path.len ? conf->log.path.ptr : NULL};
}

static void log_listening(const struct address *address, int fd, const char *purpose)
{
    struct address bound = *address;
    char text[128];

    if (address->u.any.sa_family != AF_UNIX) {
        bound.len = sizeof(bound.u);
        getsockname(fd, &bound.u.any, &bound.len);
    }
    address_format(&bound, text);
    log_begin(LOG_INFO, "listening");
    log_cstr("address", text);
    log_cstr("for", purpose);
    log_end();
    if (app.hint_address[0] == 0)
        memcpy(app.hint_address, text, sizeof(text));
}

/* One descriptor per worker for an address. With port 0 the first decides. A second service on the
 * same address is refused here, which SO_REUSEPORT alone would not do. */
static err_t bind_public(struct app *a, struct str text)
{
    struct address address;
    int fd;

    TRY(address_parse(text, &address));
    TRY(address_check_free(&address));
    for (unsigned i = 0; i < a->worker_count; i++) {
        struct worker *w = &a->workers[i];
        if (i > 0 && address.u.any.sa_family == AF_UNIX)
            fd = dup(a->workers[0].listeners[a->workers[0].listener_count - 1]);
        else
            TRY(address_listen(&address, 4096, &fd));
        if (fd < 0)
            return err_system(errno, "duplicating a listener");
        w->listeners[w->listener_count++] = fd;
        if (i > 0)
            continue;
        log_listening(&address, fd, "public");
        if (address.u.any.sa_family != AF_UNIX)
            getsockname(fd, &address.u.any, &address.len);
    }
    return NULL;
}

static err_t open_admin(struct app *a)
{
    struct http_server_options options;

    a->admin.service = &a->service;
    a->admin.listener = GATEWAY_ADMIN;
    list_init(&a->admin.requests);
    TRY(http_pool_open(&a->admin.pool));
    gateway_server_options(&a->admin, a->conf, &options);
    TRY(http_server_open(&options, &a->admin.server));
    for (size_t i = 0; i < a->conf->admin.count; i++) {
        struct address address;
        int fd;
        TRY(address_parse(a->conf->admin.items[i], &address));
        TRY(address_check_free(&address));
        TRY(address_listen(&address, 128, &fd));
        log_listening(&address, fd, "admin");
        TRY(http_server_listen(a->admin.server, fd, NULL));
    }
    return NULL;
}

static err_t open_tls(struct app *a, const struct conf *conf, struct tls_context **out)
{
    *out = NULL;
    if (conf->tls.certificate.len == 0)
        return NULL;
    return tls_server_context(conf->tls.certificate, conf->tls.key, out);
}

static err_t open_workers(struct app *a)
{
    a->worker_count = a->conf->workers ? (unsigned)a->conf->workers : sys_processors();
    a->workers = arena_alloc_array(a->arena, a->worker_count, sizeof(*a->workers));
    if (!a->workers)
        return arena_err(a->arena);
    for (unsigned i = 0; i < a->worker_count; i++) {
        struct worker *w = &a->workers[i];
        w->gateway.service = &a->service;
        w->gateway.thread = i + 1;
        w->conf = a->conf;
        w->tls = a->tls;
        w->listeners = arena_alloc_array(a->arena, a->conf->listen.count, sizeof(int));
        if (!w->listeners)
            return arena_err(a->arena);
    }
    for (size_t i = 0; i < a->conf->listen.count; i++)
        TRY(bind_public(a, a->conf->listen.items[i]));
    for (unsigned i = 0; i < a->worker_count; i++)
        TRY(worker_start(&a->workers[i]));
    return NULL;
}

/* Headers whose values are secrets, by what they are usually called. */
static bool names_secret(struct str name)
{
    static const char *const hints[] = {"auth", "key", "token", "secret"};

    for (size_t at = 0; at < name.len; at++)
        for (size_t i = 0; i < sizeof(hints) / sizeof(*hints); i++) {
            struct str hint = str_from(hints[i]);
            if (name.len - at >= hint.len &&
                str_eq_nocase((struct str){name.ptr + at, hint.len}, hint))
                return true;
        }
    return false;
}

static void mask_pairs(const struct conf_pairs *pairs)
{
    for (size_t i = 0; i < pairs->count; i++)
        if (names_secret(pairs->items[i].name))
            log_mask(pairs->items[i].value);
}

/* The password in scheme://user:password@host, if there is one. */
static void mask_password(struct str url)
{
    size_t scheme = str_find(url, STR("://"));
    struct str rest = str_after(url, scheme < url.len ? scheme + 3 : url.len);

    rest.len = str_index(rest, '@') < rest.len ? str_index(rest, '@') : 0;
    if (str_index(rest, ':') < rest.len)
        log_mask(str_after(rest, str_index(rest, ':') + 1));
}

/* No secret of the configuration may appear in a log line. */
static void mask_secrets(const struct conf *conf)
{
    log_mask(conf->admin_key);
    log_mask(conf->budgets.webhook_secret);
    mask_password(conf->store.url);
    mask_password(conf->redis.url);
    for (size_t i = 0; i < conf->keys.fixed_count; i++)
        log_mask(conf->keys.fixed[i].key);
    for (size_t i = 0; i < conf->provider_count; i++) {
        const struct conf_provider *p = &conf->providers[i];
        log_mask(p->key);
        for (size_t k = 0; k < p->key_count; k++)
            log_mask(p->keys[k].key);
        mask_pairs(&p->headers);
        mask_pairs(&p->query);
    }
}

static void log_warnings(const struct conf *conf)
{
    for (size_t i = 0; i < conf->warnings.count; i++) {
        log_begin(LOG_WARN, "configuration");
        log_str("text", conf->warnings.items[i]);
        log_end();
    }
}

static err_t put_in_force(struct conf *conf)
{
    struct providers *providers;
    err_t err;

    mask_secrets(conf);
    log_warnings(conf);
    TRY(providers_open(conf, &providers));
    err = limit_configure(conf); /* the last that may fail: what is swapped stays */
    if (err) {
        providers_unref(providers);
        return err;
    }
    providers_swap(providers);
    health_forgive();
    tokens_use(conf->data_dir);
    return NULL;
}

/* Ranks are made ready beside everything else: a thread that serves must not wait for files. */
static void *load_ranks(void *arg)
{
    struct arena *arena = arena_new(MEM_PROCESS, 64 * 1024); /* for what is said of a failure */

    (void)arg;
    err_scope_set(arena);
    tokens_load(TOKENS_O200K);
    err_scope_set(NULL);
    arena_free(arena);
    return NULL;
}

static void begin_loading(struct app *a)
{
    a->is_loading = pthread_create(&a->loader, NULL, load_ranks, NULL) == 0;
    if (!a->is_loading)
        log_info("there is no thread to load token ranks: they are loaded when needed");
}

/* Where keys, budgets and usage live. With keys in force and none to begin with, one is made and
 * shown once. */
static err_t open_store(struct app *a, const struct conf *conf)
{
    struct db_options options = {.url = conf->store.url,
                                 .connections = (unsigned)conf->store.connections};
    struct str first_key;

    TRY(db_open(&options, &a->db));
    govern_add(&keeper_service);
    TRY(govern_open(a->db, conf));
    TRY(identity_first_key(conf, a->arena, &first_key));
    if (first_key.len > 0)
        fprintf(stderr,
                "There was no key yet. This one rules over all; it is shown only now:\n  %.*s\n",
                STR_ARG(first_key));
    return NULL;
}

static err_t open_app(struct app *a)
{
    struct log_options log;
    struct conf *conf;

    TRY(conf_find(a->arena, a->options->conf_path, &a->conf_path));
    TRY(load_conf(a, &conf));
    log_options_of(conf, &log);
    a->conf = conf;
    TRY(log_open(&log));
    raise_descriptor_limit();
    TRY(loop_open(&a->loop));
    TRY(put_in_force(conf));
    TRY(open_store(a, conf));
    TRY(open_tls(a, conf, &a->tls));
    TRY(app_watch_signals(a));
    TRY(open_workers(a));
    TRY(open_admin(a));
    return govern_start();
}

/* ---- metrics ---- */

static void count_reload(err_t err)
{
    metric_add(metric_series_get(METRIC_CONFIG_RELOADS, err ? "failed" : "ok", NULL), 1);
    metric_set(metric_series_get(METRIC_CONFIG_RELOAD_OK, NULL), !err);
}

static void on_scrape(void)
{
    metric_set(metric_series_get(METRIC_CONFIG_VERSION, NULL), (int64_t)app.conf->version);
    metric_set(metric_series_get(METRIC_BUILD_INFO, SLUICE_VERSION, NULL), 1);
}

/* ---- in every thread ---- */

struct each {
    void (*fn)(struct gateway *gateway, void *arg);
    void *arg;
};

static void each_in_worker(struct worker *w, void *arg)
{
    struct each *each = arg;

    each->fn(&w->gateway, each->arg);
}

static void each_gateway(void (*fn)(struct gateway *gateway, void *arg), void *arg)
{
    struct each each = {fn, arg};

    fn(&app.admin, arg);
    for (unsigned i = 0; i < app.worker_count; i++)
        worker_call(&app.workers[i], each_in_worker, &each);
}

/* ---- reload ---- */

static bool keep_origin(uint64_t id, void *arg)
{
    const struct providers *providers = arg;

    for (size_t i = 0; i < providers->count; i++)
        if (providers->items[i].origin.id == id)
            return true;
    return false;
}

static void adopt(struct worker *w, void *arg)
{
    const struct app *a = arg;
    struct http_server_options options;
    struct providers *providers = providers_current();

    gateway_server_options(&w->gateway, a->conf, &options);
    http_server_configure(w->gateway.server, &options, a->tls);
    http_pool_sweep(w->gateway.pool, keep_origin, providers);
    providers_unref(providers);
    conf_unref(w->conf);
    w->conf = conf_ref(a->conf);
    if (a->tls)
        tls_context_ref(a->tls);
    tls_context_unref(w->tls);
    w->tls = a->tls;
}

static err_t reload(struct app *a)
{
    struct tls_context *tls = NULL;
    struct http_server_options options;
    struct log_options log;
    struct conf *conf;
    err_t err;

    TRY(load_conf(a, &conf));
    err = conf_check_reload(a->conf, conf);
    if (!err)
        err = open_tls(a, conf, &tls);
    if (!err)
        err = put_in_force(conf);
    if (err) {
        tls_context_unref(tls);
        conf_unref(conf);
        return err;
    }
    /* before any wait: the options point into the configuration */
    gateway_server_options(&a->admin, conf, &options);
    http_server_configure(a->admin.server, &options, NULL);
    conf_unref(a->conf);
    a->conf = conf;
    govern_adopt(conf);
    tls_context_unref(a->tls);
    a->tls = tls;
    log_options_of(conf, &log);
    err = log_reopen(&log);
    if (err)
        log_error("the log could not be opened again", err);
    for (unsigned i = 0; i < a->worker_count; i++)
        worker_call(&a->workers[i], adopt, a);
    return NULL;
}

void app_reload(void *arg)
{
    struct app *a = arg;
    struct arena *arena = arena_new(MEM_PROCESS, 4 * 1024 * 1024);
    err_t err;

    fiber_set_arena(arena);
    app_notify("RELOADING=1");
    do {
        a->reload_again = false;
        err = reload(a);
        count_reload(err);
        if (err)
            log_error("the new configuration was not taken; the old one stays in force", err);
        else
            log_info("configuration reloaded");
    } while (a->reload_again);
    app_notify("READY=1");
    a->is_reloading = false;
    fiber_set_arena(NULL);
    arena_free(arena);
}

/* ---- drain ---- */

/* How long requests that were killed may take: see REQUEST_STORE_MS, for the three steps that there may be. */
#define LAST_REQUESTS_MS 20000

static void drain_worker(struct worker *w, void *arg)
{
    (void)arg;
    http_server_drain(w->gateway.server);
}

static void kill_worker(struct worker *w, void *arg)
{
    (void)arg;
    http_server_kill(w->gateway.server);
}

static void count_active(struct worker *w, void *arg)
{
    *(size_t *)arg += http_server_active(w->gateway.server);
}

static size_t active_requests(struct app *a)
{
    size_t active = 0;

    for (unsigned i = 0; i < a->worker_count; i++)
        worker_call(&a->workers[i], count_active, &active);
    return active;
}

/* Wait until nothing is running, the time is over, or a second signal came. */
static void await_idle(struct app *a, uint64_t until_ms, bool stops_on_signal)
{
    while (active_requests(a) > 0 && loop_now_ms() < until_ms &&
           !(stops_on_signal && a->stop_signals > 1))
        if (fiber_sleep(20))
            return;
}

/* A view or a reload in progress still visits the workers: no loop may end before it. */
static void await_visitors(struct app *a, uint64_t until_ms)
{
    while ((http_server_active(a->admin.server) > 0 || a->is_reloading) && loop_now_ms() < until_ms)
        if (fiber_sleep(5))
            return;
}

void app_drain(void *arg)
{
    struct app *a = arg;
    uint64_t delay_until_ms = loop_now_ms() + a->conf->drain.delay_ms;

    log_info("draining: no new connections, running requests may finish");
    app_notify("STOPPING=1");
    atomic_store(&a->service.is_draining, true);
    while (loop_now_ms() < delay_until_ms && a->stop_signals < 2 && !fiber_sleep(20))
        continue;
    for (unsigned i = 0; i < a->worker_count; i++)
        worker_call(&a->workers[i], drain_worker, NULL);
    await_idle(a, loop_now_ms() + a->conf->drain.timeout_ms, true);
    for (unsigned i = 0; i < a->worker_count; i++)
        worker_call(&a->workers[i], kill_worker, NULL);
    await_idle(a, loop_now_ms() + LAST_REQUESTS_MS, false);
    local_server_stop_all(5000);
    http_server_drain(a->admin.server);
    http_server_kill(a->admin.server);
    await_visitors(a, loop_now_ms() + LAST_REQUESTS_MS);
    govern_close();
    loop_stop(a->loop);
}

/* ---- closing ---- */

static void close_app(struct app *a)
{
    if (a->is_loading)
        pthread_join(a->loader, NULL);
    for (unsigned i = 0; i < a->worker_count; i++)
        worker_stop(&a->workers[i]);
    app_unwatch(a);
    if (a->admin.server)
        http_server_close(a->admin.server);
    if (a->admin.pool)
        http_pool_close(a->admin.pool);
    providers_swap(NULL);
    conf_unref(a->conf);
    tls_context_unref(a->tls);
    offload_stop_all();
    journal_close();
    db_close(a->db);
    health_forget();
    resolve_close(); /* names of issuers and of a webhook */
    limit_leave();
    if (a->loop)
        loop_close(a->loop);
    limit_close();
    log_close();
    metrics_close();
}

static void print_try(const struct app *a, struct str model)
{
    fprintf(stderr,
            "Try:\n  curl %s://%s/v1/chat/completions -H 'Content-Type: application/json' \\\n"
            "%s    -d '{\"model\":\"%.*s\",\"messages\":[{\"role\":\"user\","
            "\"content\":\"Hello\"}],\"stream\":true}'\n",
            a->tls ? "https" : "http", a->hint_address,
            a->conf->keys.required ? "    -H \"Authorization: Bearer $SLUICE_KEY\" \\\n" : "",
            STR_ARG(model));
}

/* Names of models are the provider's own: any will do that it knows. */
static void print_try_provider(const struct app *a)
{
    const struct conf *conf = a->conf;
    struct str name = conf->default_provider.len ? conf->default_provider : conf->providers[0].name;
    char *model = arena_printf(a->arena, "%.*s/MODEL", STR_ARG(name));

    if (!model)
        return;
    fprintf(stderr, "No model is named in the configuration: put one of %.*s's for MODEL.\n",
            STR_ARG(name));
    print_try(a, str_from(model));
}

/* For people: how to try it, as this configuration wants to be called. */
static void print_hint(const struct app *a)
{
    struct providers *providers = providers_current();
    struct str model = {0}, owner;
    size_t at = 0;

    fprintf(stderr, "Sluice serves on %s.\n", a->hint_address);
    if (strncmp(a->hint_address, "unix:", 5) == 0)
        ; /* whoever listens there knows how to call it */
    else if (providers_next_name(providers, &at, &model, &owner))
        print_try(a, model);
    else if (a->conf->provider_count > 0)
        print_try_provider(a);
    else
        fprintf(stderr, "It has no model yet: `sluice model pull NAME` fetches one (`sluice model "
                        "list`),\nor name a provider in sluice.yaml or OPENAI_API_KEY.\n");
    providers_unref(providers);
}

err_t app_serve(const struct app_options *options)
{
    struct app *a = &app;
    err_t err;

    a->options = options;
    a->arena = arena_new(MEM_PROCESS, 16 * 1024 * 1024);
    if (!a->arena)
        return err_no_memory();
    a->service.started_ms = sys_wall_ms();
    a->service.each_gateway = each_gateway;
    check_on_crash(app_crash_report);
    check_catch_signals();
    err = open_app(a);
    if (!err) {
        metric_set(metric_series_get(METRIC_CONFIG_RELOAD_OK, NULL), 1);
        metric_on_scrape(on_scrape);
        atomic_store(&a->service.is_ready, true);
        app_notify("READY=1");
        begin_loading(a);
        if (options->is_hinting)
            print_hint(a);
        loop_run(a->loop);
    }
    close_app(a);
    return err;
}
