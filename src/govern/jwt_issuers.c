/* SPDX-License-Identifier: Apache-2.0 */
/* One fiber looks after all issuers and starts another for each fetch, so that an issuer that does not answer
 * keeps nobody from his keys.
 *
 * The hard thing is a fetch during which another configuration is adopted: it holds the one that it began with,
 * and what it brings counts only if that is still in force. */
#include "govern/jwt_issuers.h"

#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/list.h"
#include "base/mem.h"
#include "base/sys.h"
#include "fiber/fiber.h"
#include "govern/jwt_fetch.h"
#include "govern/poke.h"
#include "govern/service.h"
#include "observe/log.h"

#define ASK_PAUSE_MS    30000 /* between two fetches for keys that nobody knows */
#define AWAIT_MS        2000
#define AWAIT_STEP_MS   10
#define RETRY_MS        1000 /* after a failure; doubled up to RETRY_MOST_MS */
#define RETRY_MOST_MS   60000
#define KEEP_MS         ((uint64_t)24 * 3600 * 1000)
#define FETCH_MAX_BYTES ((size_t)8 * 1024 * 1024)

/* Where the keys of one issuer stand. Times are those of sys_now_ms. */
struct source {
    struct jwt_keys *keys;             /* NULL: none */
    uint8_t hash[IDENTITY_HASH_BYTES]; /* of the text they were read from */
    uint64_t fetched_ms, due_ms;
    unsigned failures; /* in a row */
    /* Under the lock, because requests look at them: */
    uint64_t tried_ms, tries;
    bool is_wanted, is_fetching;
};

struct fetch {
    struct list link;
    const struct conf *conf;
    size_t index;
    struct fiber *fiber;
};

/* The lock guards what requests see: snapshot, conf, sources and what is said above. Only the main thread changes them. */
static struct {
    pthread_mutex_t lock;
    struct jwt_issuers *snapshot;
    const struct conf *conf;
    struct source *sources;
    struct list fetches;
    struct poke poke;
    const struct conf *missed; /* a configuration for which there was no memory, or NULL */
} service = {.lock = PTHREAD_MUTEX_INITIALIZER, .fetches = {&service.fetches, &service.fetches}};

static const struct err is_closing = {
    .kind = ERR_KILLED, .where = ERR_HERE, .text = "the server is shutting down"};

/* ---- snapshots ---- */

static size_t keys_size(const struct conf *conf)
{
    return conf->keys.issuer_count * sizeof(struct jwt_keys *);
}

struct jwt_issuers *jwt_issuers_current(void)
{
    struct jwt_issuers *snapshot;

    pthread_mutex_lock(&service.lock);
    snapshot = service.snapshot;
    if (snapshot)
        atomic_fetch_add_explicit(&snapshot->references, 1, memory_order_relaxed);
    pthread_mutex_unlock(&service.lock);
    return snapshot;
}

void jwt_issuers_unref(struct jwt_issuers *issuers)
{
    if (!issuers || atomic_fetch_sub(&issuers->references, 1) != 1)
        return;
    for (size_t i = 0; issuers->keys && i < issuers->conf->keys.issuer_count; i++)
        jwt_keys_unref(issuers->keys[i]);
    mem_free(MEM_GOVERN, issuers->keys, keys_size(issuers->conf));
    jwt_cache_free(issuers->cache);
    conf_unref(issuers->conf);
    mem_free(MEM_GOVERN, issuers, sizeof(*issuers));
}

static err_t make_snapshot(const struct conf *conf, const struct source *sources,
                           struct jwt_issuers **out)
{
    struct jwt_issuers *issuers = mem_alloc_zero(MEM_GOVERN, sizeof(*issuers));

    *out = NULL;
    if (!issuers)
        return err_no_memory();
    atomic_init(&issuers->references, 1);
    issuers->conf = conf_ref(conf);
    issuers->keys = mem_alloc_zero(MEM_GOVERN, keys_size(conf));
    issuers->cache = jwt_cache_new();
    if (!issuers->keys || !issuers->cache) {
        mem_free(MEM_GOVERN, issuers->keys, keys_size(conf));
        issuers->keys = NULL;
        jwt_issuers_unref(issuers);
        return err_no_memory();
    }
    for (size_t i = 0; i < conf->keys.issuer_count; i++)
        issuers->keys[i] = jwt_keys_ref(sources[i].keys);
    *out = issuers;
    return NULL;
}

static void swap_snapshot(struct jwt_issuers *next)
{
    struct jwt_issuers *old;

    pthread_mutex_lock(&service.lock);
    old = service.snapshot;
    service.snapshot = next;
    pthread_mutex_unlock(&service.lock);
    jwt_issuers_unref(old);
}

/* Put other keys of an issuer in force. */
static err_t put_keys(struct source *source, struct jwt_keys *keys)
{
    struct jwt_keys *before = source->keys;
    struct jwt_issuers *snapshot;
    err_t err;

    source->keys = keys;
    err = make_snapshot(service.conf, service.sources, &snapshot);
    if (err) {
        source->keys = before;
        return err;
    }
    swap_snapshot(snapshot);
    jwt_keys_unref(before);
    return NULL;
}

/* ---- requests that wait ---- */

/* Have the keys of an issuer fetched, unless that was done a moment ago. *tries counts up when it is over. */
static bool want(const struct jwt_issuers *issuers, size_t index, uint64_t *tries)
{
    bool will_be = false;
    struct source *source;

    pthread_mutex_lock(&service.lock);
    if (service.conf == issuers->conf) {
        source = &service.sources[index];
        will_be = source->is_fetching || source->is_wanted || source->tries == 0 ||
                  sys_now_ms() - source->tried_ms >= ASK_PAUSE_MS;
        source->is_wanted = will_be && !source->is_fetching;
        *tries = source->tries;
    }
    pthread_mutex_unlock(&service.lock);
    if (will_be)
        poke(&service.poke);
    return will_be;
}

static bool is_over(const struct jwt_issuers *issuers, size_t index, uint64_t tries)
{
    bool over;

    pthread_mutex_lock(&service.lock);
    over = service.conf != issuers->conf || service.sources[index].tries != tries;
    pthread_mutex_unlock(&service.lock);
    return over;
}

bool jwt_issuers_await(const struct jwt_issuers *issuers, size_t index)
{
    uint64_t until_ms = sys_now_ms() + AWAIT_MS, tries = 0;

    if (!want(issuers, index, &tries))
        return false;
    while (!is_over(issuers, index, tries))
        if (sys_now_ms() >= until_ms || fiber_sleep(AWAIT_STEP_MS))
            return false;
    return true;
}

/* ---- what a fetch brings ---- */

static void note(const char *text, const struct conf_issuer *issuer, size_t keys, err_t err)
{
    log_begin(err ? LOG_ERROR : LOG_INFO, text);
    log_str("issuer", issuer->name);
    log_u64("keys", keys);
    log_err(err);
    log_end();
}

static err_t take(struct source *source, const struct conf_issuer *issuer,
                  const struct jwt_fetched *fetched)
{
    uint64_t now_ms = sys_now_ms();
    uint8_t hash[IDENTITY_HASH_BYTES];
    struct jwt_keys *keys;
    err_t err;

    TRY(identity_hash(fetched->body, hash));
    if (!source->keys || memcmp(source->hash, hash, sizeof(hash)) != 0) {
        TRY(jwt_keys_read(fetched->body, &keys));
        err = put_keys(source, keys);
        if (err) {
            jwt_keys_unref(keys);
            return err;
        }
        memcpy(source->hash, hash, sizeof(hash));
        note("keys of an issuer are in force", issuer, jwt_keys_count(keys), NULL);
    }
    source->fetched_ms = now_ms;
    source->due_ms = now_ms + fetched->max_age_ms - fetched->max_age_ms / 10;
    source->failures = 0;
    return NULL;
}

/* Said once until it works again; and after a day of it the keys count no more. */
static void take_failure(struct source *source, const struct conf_issuer *issuer, err_t err)
{
    uint64_t now_ms = sys_now_ms(), pause_ms = RETRY_MOST_MS;

    if (source->failures < 6)
        pause_ms = (uint64_t)RETRY_MS << source->failures;
    source->due_ms = now_ms + (pause_ms < RETRY_MOST_MS ? pause_ms : RETRY_MOST_MS);
    if (source->failures++ == 0)
        note("keys of an issuer cannot be fetched", issuer, jwt_keys_count(source->keys), err);
    if (source->keys && now_ms - source->fetched_ms >= KEEP_MS && !put_keys(source, NULL))
        note("keys of an issuer are in force no more", issuer, 0, err);
}

static void settle(const struct fetch *fetch, err_t err, const struct jwt_fetched *fetched)
{
    struct source *source = &service.sources[fetch->index];
    const struct conf_issuer *issuer = &fetch->conf->keys.issuers[fetch->index];

    if (fetch->conf != service.conf)
        return;
    if (!err)
        err = take(source, issuer, fetched);
    if (err && !fiber_cancelled(fetch->fiber))
        take_failure(source, issuer, err);
    pthread_mutex_lock(&service.lock);
    source->is_fetching = false;
    source->tries++;
    source->tried_ms = sys_now_ms();
    pthread_mutex_unlock(&service.lock);
    poke(&service.poke);
}

static void run_fetch(void *arg)
{
    struct fetch *fetch = arg;
    struct arena *arena = arena_new(MEM_PROCESS, FETCH_MAX_BYTES);
    struct jwt_fetched fetched = {0};
    err_t err = arena ? NULL : err_no_memory();

    fiber_set_arena(arena);
    if (!err)
        err = jwt_fetch(&fetch->conf->keys.issuers[fetch->index], arena, &fetched);
    settle(fetch, err, &fetched);
    fiber_set_arena(NULL);
    arena_free(arena);
    list_remove(&fetch->link);
    conf_unref(fetch->conf);
    mem_free(MEM_GOVERN, fetch, sizeof(*fetch));
}

/* ---- fetching ---- */

/* Start a fetch. If there is no memory for it now there may be later. */
static void start_fetch(size_t index)
{
    struct source *source = &service.sources[index];
    struct fetch *fetch = mem_alloc_zero(MEM_GOVERN, sizeof(*fetch));
    bool is_started = false;

    if (fetch) {
        *fetch = (struct fetch){.conf = conf_ref(service.conf), .index = index};
        is_started = !fiber_start_later("jwt fetch", run_fetch, fetch, &fetch->fiber);
    }
    if (is_started) {
        list_push(&service.fetches, &fetch->link);
    } else if (fetch) {
        conf_unref(fetch->conf);
        mem_free(MEM_GOVERN, fetch, sizeof(*fetch));
    }
    source->due_ms = sys_now_ms() + RETRY_MS;
    pthread_mutex_lock(&service.lock);
    source->is_fetching = is_started;
    source->is_wanted = false;
    pthread_mutex_unlock(&service.lock);
}

/* Start what is due; the time of what comes next. */
static uint64_t start_due(void)
{
    uint64_t now_ms = sys_now_ms(), next_ms = UINT64_MAX;

    for (size_t i = 0; service.conf && i < service.conf->keys.issuer_count; i++) {
        struct source *source = &service.sources[i];
        bool is_wanted, is_fetching;
        pthread_mutex_lock(&service.lock);
        is_wanted = source->is_wanted;
        is_fetching = source->is_fetching;
        pthread_mutex_unlock(&service.lock);
        if (is_fetching)
            continue;
        if (is_wanted || source->due_ms <= now_ms)
            start_fetch(i);
        if (source->due_ms < next_ms)
            next_ms = source->due_ms;
    }
    return next_ms;
}

/* ---- configurations ---- */

static bool is_same(const struct conf_issuer *a, const struct conf_issuer *b)
{
    return str_eq(a->issuer, b->issuer) && str_eq(a->jwks, b->jwks);
}

/* What is known of an issuer goes over into the next configuration; it is fetched again at once. */
static void inherit(struct source *source, const struct conf_issuer *issuer)
{
    for (size_t i = 0; service.conf && i < service.conf->keys.issuer_count; i++) {
        const struct source *before = &service.sources[i];
        if (!is_same(issuer, &service.conf->keys.issuers[i]))
            continue;
        source->keys = jwt_keys_ref(before->keys);
        memcpy(source->hash, before->hash, sizeof(source->hash));
        source->fetched_ms = before->fetched_ms;
        return;
    }
}

static void free_sources(const struct conf *conf, struct source *sources)
{
    for (size_t i = 0; sources && i < conf->keys.issuer_count; i++)
        jwt_keys_unref(sources[i].keys);
    if (conf)
        mem_free(MEM_GOVERN, sources, conf->keys.issuer_count * sizeof(*sources));
}

/* Take over all three; those before them are freed. */
static void swap_all(const struct conf *conf, struct source *sources, struct jwt_issuers *snapshot)
{
    const struct conf *old_conf = service.conf;
    struct source *old_sources = service.sources;
    struct jwt_issuers *old = service.snapshot;

    pthread_mutex_lock(&service.lock);
    service.conf = conf;
    service.sources = sources;
    service.snapshot = snapshot;
    pthread_mutex_unlock(&service.lock);
    free_sources(old_conf, old_sources);
    jwt_issuers_unref(old);
    conf_unref(old_conf);
}

static err_t install(const struct conf *conf)
{
    size_t count = conf->keys.issuer_count;
    struct jwt_issuers *snapshot;
    struct source *sources;
    err_t err;

    if (count == 0) {
        swap_all(NULL, NULL, NULL);
        return NULL;
    }
    sources = mem_alloc_zero(MEM_GOVERN, count * sizeof(*sources));
    if (!sources)
        return err_no_memory();
    for (size_t i = 0; i < count; i++)
        inherit(&sources[i], &conf->keys.issuers[i]);
    err = make_snapshot(conf, sources, &snapshot);
    if (err) {
        free_sources(conf, sources);
        return err;
    }
    swap_all(conf_ref(conf), sources, snapshot);
    poke(&service.poke);
    return NULL;
}

/* ---- life ---- */

/* An issuer that a reload took away must not stay believed. Returns when to look again. */
static uint64_t catch_up(void)
{
    if (service.missed && !install(service.missed)) {
        conf_unref(service.missed);
        service.missed = NULL;
    }
    return service.missed ? sys_now_ms() + RETRY_MS : UINT64_MAX;
}

static void run(void *db)
{
    uint64_t next_ms, retry_ms, now_ms;

    (void)db;
    poke_listen(&service.poke);
    do {
        retry_ms = catch_up();
        next_ms = start_due();
        next_ms = next_ms < retry_ms ? next_ms : retry_ms;
        now_ms = sys_now_ms();
        if (next_ms != UINT64_MAX)
            next_ms = loop_now_ms() + (next_ms > now_ms ? next_ms - now_ms : 0) + 1;
    } while (!poke_wait(next_ms));
    poke_stop(&service.poke);
    list_each (link, &service.fetches)
        fiber_cancel(container_of(link, struct fetch, link)->fiber, &is_closing);
    fiber_shield(FIBER_FOREVER);
    while (!list_is_empty(&service.fetches))
        if (fiber_sleep(1))
            break;
    fiber_unshield();
}

static err_t open_jwt(struct db *db, const struct conf *conf)
{
    (void)db;
    return install(conf);
}

static void adopt(const struct conf *conf)
{
    err_t err = install(conf);

    conf_unref(service.missed);
    service.missed = err ? conf_ref(conf) : NULL;
    if (!err)
        return;
    log_error("the issuers of the new configuration are not in force yet", err);
    poke(&service.poke);
}

static void close_jwt(struct db *db)
{
    (void)db;
    swap_all(NULL, NULL, NULL);
    conf_unref(service.missed);
    service.missed = NULL;
}

const struct govern_service jwt_service = {
    .name = "jwt", .open = open_jwt, .adopt = adopt, .run = run, .close = close_jwt};
