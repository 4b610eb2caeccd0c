/* SPDX-License-Identifier: Apache-2.0 */
/* Redis: what is configured, and one set of connections per loop, which its fibers share.
 *
 * With a cluster there is a connection to each server that was needed (redis_cluster.c), else there is one; it is
 * redis_link.c that makes them and sends and reads. Each server is left alone for itself when it fails. */
#include "store/redis.h"

#include <pthread.h>
#include <stdatomic.h>

#include "base/check.h"
#include "base/mem.h"
#include "base/sys.h"
#include "observe/log.h"
#include "observe/metrics.h"
#include "store/redis_private.h"

#define MS_PER_MINUTE 60000

static struct {
    pthread_mutex_t lock;
    struct redis_target *target;
    _Atomic uint64_t version;    /* grows with each change of it */
    atomic_int out_count;        /* servers that loops leave alone */
    _Atomic uint64_t told_ms;    /* when the log was last told that it is back */
    _Atomic uint64_t unheard_ms; /* and of an error that nobody else hears of */
} settings = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* What this loop has; NULL before its first call. */
static struct redis *here(void)
{
    return *loop_slot(LOOP_SLOT_REDIS);
}

/* ---- state ---- */

static void note_state(void)
{
    metric_set(metric_series_get(METRIC_REDIS_UP, NULL), atomic_load(&settings.out_count) == 0);
}

/* Whether the log may be told of something again. */
static bool is_time(_Atomic uint64_t *told_ms)
{
    uint64_t now_ms = sys_now_ms(), before_ms = atomic_load(told_ms);

    if (before_ms && now_ms - before_ms < MS_PER_MINUTE)
        return false;
    atomic_store(told_ms, now_ms);
    return true;
}

void redis_count_out(int change)
{
    int before = atomic_fetch_add(&settings.out_count, change);

    note_state();
    if (before + change == 0 && !here()->is_leaving && is_time(&settings.told_ms))
        log_info("redis is back");
}

void redis_note_unheard(const struct redis_reply *reply)
{
    if (!is_time(&settings.unheard_ms))
        return;
    log_begin(LOG_WARN, "redis refuses a command whose answer nobody awaits");
    log_str("text", reply->text);
    log_end();
}

static err_t open_here(void)
{
    struct redis *r = mem_alloc_zero(MEM_UPSTREAM, sizeof(*r));

    if (!r)
        return err_no_memory();
    list_init(&r->links);
    *loop_slot(LOOP_SLOT_REDIS) = r;
    return NULL;
}

/* ---- the target ---- */

static void set_answered(struct redis *r, struct redis_link *link)
{
    if (r->answered)
        redis_link_release(r->answered);
    r->answered = link;
}

static void close_links(struct redis *r)
{
    set_answered(r, NULL);
    list_each (it, &r->links)
        redis_link_close(container_of(it, struct redis_link, at));
    mem_free(MEM_UPSTREAM, r->slots, REDIS_SLOTS * sizeof(*r->slots));
    r->slots = NULL;
}

bool redis_follow(struct redis *r)
{
    if (r->version == atomic_load(&settings.version))
        return false;
    close_links(r);
    redis_target_unref(r->target);
    pthread_mutex_lock(&settings.lock);
    r->target = redis_target_ref(settings.target);
    r->version = atomic_load(&settings.version);
    pthread_mutex_unlock(&settings.lock);
    return true;
}

/* The one link, or the map of a cluster. */
static err_t prepare(struct redis *r)
{
    struct redis_link *link;

    if (r->target->is_cluster && !r->slots)
        r->slots = mem_alloc_zero(MEM_UPSTREAM, REDIS_SLOTS * sizeof(*r->slots));
    if (r->target->is_cluster)
        return r->slots ? NULL : err_no_memory();
    return list_is_empty(&r->links) ? redis_link_open(r, NULL, &link) : NULL;
}

/* ---- calls ---- */

/* EVALSHA has its first key behind the number of keys, other commands behind their name. */
static struct str key_of(const struct str *args, size_t count)
{
    size_t at = str_starts(args[0], STR("EVAL")) ? 3 : 1;

    return at < count ? args[at] : STR("");
}

static err_t choose(struct redis *r, struct str key, struct redis_link **out)
{
    if (r->slots)
        return redis_cluster_choose(r, key, out);
    *out = container_of(list_first(&r->links), struct redis_link, at);
    if ((*out)->is_out)
        return err_new(ERR_STORE, "redis: %s", (*out)->reason);
    return NULL;
}

/* The loop's link, for a key: the owner's, or empty for any that may be used. */
static err_t find(struct str key, struct redis_link **out)
{
    struct redis *r;

    if (!here())
        TRY(open_here());
    r = here();
    redis_follow(r);
    if (!r->target)
        return err_new(ERR_STORE, "redis: none is configured");
    TRY(prepare(r));
    return choose(r, key, out);
}

err_t redis_check(void)
{
    struct redis_link *link;

    return find(STR(""), &link);
}

/* PARKS until the answer is there or the connection is gone. */
static err_t await_answer(struct redis_waiter *waiter, uint64_t timeout_ms)
{
    uint64_t at_ms = loop_now_ms() + timeout_ms;
    err_t err = NULL;

    while (!waiter->is_done && !err)
        err = fiber_park(at_ms);
    if (waiter->is_done)
        return NULL;
    waiter->pending->waiter = NULL;
    if (err != &fiber_wait_over)
        return err;
    redis_link_note_late(waiter->link);
    return err_new(ERR_STORE, "redis: no answer in time");
}

/* What an error of the server's means. */
static err_t refusal(struct redis_link *link, const struct redis_reply *reply)
{
    /* The slot is being carried over, or somebody else's: no fault of who says so. */
    if (!link->owner->slots || !redis_cluster_is_redirect(reply))
        redis_link_note_failure(link);
    if (!link->owner->slots && redis_cluster_is_redirect(reply))
        return err_new(ERR_STORE, "redis: %.*s: " REDIS_CLUSTER_HINT, STR_ARG(reply->text));
    return err_new(ERR_STORE, "redis: %.*s", STR_ARG(reply->text));
}

/* What came of a command. */
static err_t judge(struct redis_link *link, const struct redis_reply *reply)
{
    if (!reply) {
        redis_link_note_failure(link);
        return err_new(ERR_STORE, "redis: %s", link->reason);
    }
    if (reply->kind == REDIS_ERROR && !redis_reply_is_error(reply, STR("NOSCRIPT")))
        return refusal(link, reply);
    link->failures = 0;
    return NULL;
}

err_t redis_call(const struct str *args, size_t count, struct arena *arena,
                 struct redis_reply **out)
{
    struct redis_waiter waiter = {.fiber = fiber_self(), .arena = arena};
    err_t err;

    TRY(find(key_of(args, count), &waiter.link));
    redis_link_hold(waiter.link);
    err = redis_link_send(waiter.link, args, count, &waiter);
    if (!err)
        err = await_answer(&waiter, here()->target->timeout_ms);
    *out = waiter.reply;
    if (!err)
        err = judge(waiter.link, *out);
    set_answered(here(), waiter.link); /* with our hold */
    return err;
}

void redis_send(const struct str *args, size_t count)
{
    struct redis_link *link;
    err_t err;

    if (!here())
        return;
    err = find(key_of(args, count), &link);
    if (!err && link->is_ready)
        err = redis_link_send(link, args, count, NULL);
    (void)err; /* lost */
}

err_t redis_reject(const char *why)
{
    redis_link_lose(here()->answered, why);
    redis_link_note_failure(here()->answered);
    return err_new(ERR_STORE, "redis: %s", why);
}

/* ---- life ---- */

static bool is_in_force(struct str url, uint64_t timeout_ms)
{
    const struct redis_target *target;
    bool result;

    pthread_mutex_lock(&settings.lock);
    target = settings.target;
    result = target ? str_eq(target->url, url) && target->timeout_ms == timeout_ms : url.len == 0;
    pthread_mutex_unlock(&settings.lock);
    return result;
}

err_t redis_configure(struct str url, uint64_t timeout_ms)
{
    struct redis_target *fresh = NULL, *old;

    if (is_in_force(url, timeout_ms))
        return NULL;
    if (url.len > 0)
        TRY(redis_target_make(url, timeout_ms, &fresh));
    pthread_mutex_lock(&settings.lock);
    old = settings.target;
    settings.target = fresh;
    atomic_fetch_add(&settings.version, 1);
    pthread_mutex_unlock(&settings.lock);
    redis_target_unref(old);
    if (fresh)
        note_state();
    return NULL;
}

void redis_leave(void)
{
    struct redis *r = loop_self() ? here() : NULL;

    if (!r)
        return;
    r->is_leaving = true;
    list_each (it, &r->links) /* what was given back last */
        redis_link_flush(container_of(it, struct redis_link, at));
    close_links(r);
    if (r->fibers > 0)
        loop_run(loop_self());
    redis_target_unref(r->target);
    mem_free(MEM_UPSTREAM, r, sizeof(*r));
    *loop_slot(LOOP_SLOT_REDIS) = NULL;
}

void redis_close(void)
{
    err_t err = redis_configure((struct str){0}, 0);

    check(!err);
    atomic_store(&settings.told_ms, 0);
    atomic_store(&settings.unheard_ms, 0);
}
