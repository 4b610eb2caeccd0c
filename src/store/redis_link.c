/* SPDX-License-Identifier: Apache-2.0 */
/* A connection to a Redis.
 *
 * A command is appended to what is to be sent, a record of it to the queue of answers awaited, and its fiber
 * waits. What has gathered is sent with one system call before the loop waits again; answers are read by the loop
 * itself, when bytes come, and wake the fiber whose record is oldest.
 * Dialling is done by a fiber of its own, so that calls wait for it no longer than for anything else.
 *
 * The hard thing is an answer that comes too late. Its fiber is gone, but its place in the order is not:
 * the record stays, without a fiber, until the answer has come or the connection is given up. */
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/check.h"
#include "base/mem.h"
#include "store/redis_private.h"

#define RETRY_MS      750  /* until the next try to connect; with DIAL_MS it is back within 2 s */
#define DIAL_MS       1000 /* for one */
#define WATCH_MS      1000 /* between two looks at the sentinels */
#define MAX_OUT_BYTES ((size_t)4 * 1024 * 1024)

static void dial(struct redis_link *link);
static void retry(struct timer *timer);
static void watch(struct timer *timer);
static void flush_now(struct timer *timer);

/* ---- life ---- */

err_t redis_link_open(struct redis *r, const struct redis_host *host, struct redis_link **out)
{
    struct redis_link *link = mem_alloc_zero(MEM_UPSTREAM, sizeof(*link));

    if (!link)
        return err_no_memory();
    if (host && host->name.len >= sizeof(link->name)) {
        mem_free(MEM_UPSTREAM, link, sizeof(*link));
        return err_new(ERR_STORE, "redis: a node's name is too long");
    }
    sock_init(&link->sock);
    list_init(&link->at);
    list_init(&link->pending);
    link->owner = r;
    link->out = buf_make(MEM_UPSTREAM, MAX_OUT_BYTES);
    if (host) {
        memcpy(link->name, host->name.ptr, host->name.len);
        link->host = (struct redis_host){{link->name, host->name.len}, host->port};
    }
    if (timer_set(&link->retry, UINT64_MAX - 1, retry) ||
        timer_set(&link->soon, UINT64_MAX - 1, flush_now) ||
        timer_set(&link->watch, UINT64_MAX - 1, watch)) {
        timer_clear(&link->retry);
        timer_clear(&link->soon);
        mem_free(MEM_UPSTREAM, link, sizeof(*link));
        return err_no_memory();
    }
    link->holders = 1;
    list_push(&r->links, &link->at);
    *out = link;
    return NULL;
}

void redis_link_hold(struct redis_link *link)
{
    link->holders++;
}

void redis_link_release(struct redis_link *link)
{
    if (--link->holders > 0)
        return;
    timer_clear(&link->retry);
    timer_clear(&link->soon);
    timer_clear(&link->watch);
    mem_free(MEM_UPSTREAM, link, sizeof(*link));
}

/* ---- answers ---- */

void redis_link_finish(struct redis_pending *p, const struct redis_reply *reply)
{
    if (p->waiter) {
        p->waiter->reply = reply ? redis_reply_copy(reply, p->waiter->arena) : NULL;
        p->waiter->is_done = true;
        fiber_wake(p->waiter->fiber);
    } else if (reply && reply->kind == REDIS_ERROR) {
        redis_note_unheard(reply);
    }
    mem_free(MEM_UPSTREAM, p, sizeof(*p) + p->len);
}

/* Wake everyone who waits, with nothing, and forget what was to be sent. */
static void fail_pending(struct redis_link *link)
{
    list_each (it, &link->pending) {
        list_remove(it);
        redis_link_finish(container_of(it, struct redis_pending, at), NULL);
    }
    link->out.len = 0;
}

/* Give the connection up. One that is still being dialled is left to its fiber. */
static void drop(struct redis_link *link)
{
    fail_pending(link);
    if (link->dialler)
        return;
    link->is_ready = false;
    sock_close(&link->sock);
    redis_reader_fini(&link->reader);
    buf_fini(&link->out);
}

static void note_reason(struct redis_link *link, const char *text)
{
    snprintf(link->reason, sizeof(link->reason), "%s", text);
}

void redis_link_lose(struct redis_link *link, const char *why)
{
    note_reason(link, why);
    drop(link);
}

static const struct err closing = {.kind = ERR_CANCELLED, .text = "the connection is closed"};

/* ---- being left alone ---- */

static void set_out(struct redis_link *link, bool is_out)
{
    if (link->is_out != is_out)
        redis_count_out(is_out ? 1 : -1);
    link->is_out = is_out;
}

static void retry_later(struct redis_link *link)
{
    err_t err = timer_set(&link->retry, loop_now_ms() + RETRY_MS, retry);

    check(!err); /* set once before, by redis_link_open */
}

static void retry(struct timer *timer)
{
    struct redis_link *link = container_of(timer, struct redis_link, retry);

    if (!redis_follow(link->owner) && link->is_out && !link->dialler && !link->is_ready)
        dial(link);
}

static bool is_closed(const struct redis_link *link)
{
    return list_is_empty(&link->at);
}

void redis_link_note_failure(struct redis_link *link)
{
    if (++link->failures < REDIS_MAX_FAILURES || link->is_out || is_closed(link))
        return;
    set_out(link, true);
    redis_cluster_forget(link);
    drop(link);
    if (!link->dialler)
        retry_later(link);
}

void redis_link_note_late(struct redis_link *link)
{
    if (link->is_ready)
        note_reason(link, "no answer in time");
    redis_link_note_failure(link);
}

void redis_link_close(struct redis_link *link)
{
    list_remove(&link->at);
    set_out(link, false);
    redis_cluster_forget(link);
    drop(link);
    if (link->dialler)
        fiber_cancel(link->dialler, &closing);
    if (link->watcher)
        fiber_cancel(link->watcher, &closing);
    redis_link_release(link);
}

/* ---- reading and writing ---- */

/* The rest goes when the loop tells of room. */
void redis_link_flush(struct redis_link *link)
{
    struct iovec iov = {link->out.ptr, link->out.len};
    size_t n = 1;
    err_t err = NULL;

    while (link->is_ready && link->out.len > 0 && n > 0 && !err) {
        err = sock_try_write(&link->sock, &iov, 1, &n);
        buf_drop(&link->out, n);
        iov = (struct iovec){link->out.ptr, link->out.len};
    }
    if (err)
        redis_link_lose(link, "the connection was lost");
}

static void flush_now(struct timer *timer)
{
    redis_link_flush(container_of(timer, struct redis_link, soon));
}

/* Send when all fibers that can run have run. */
static void flush_soon(struct redis_link *link)
{
    err_t err = timer_set(&link->soon, loop_now_ms(), flush_now);

    check(!err); /* set once before, by redis_link_open */
}

/* The record is in the queue: see to it that its command is sent. */
static void send_soon(struct redis_link *link)
{
    if (link->is_ready)
        flush_soon(link);
    else if (!link->dialler)
        dial(link);
}

err_t redis_link_send(struct redis_link *link, const struct str *args, size_t count,
                      struct redis_waiter *waiter)
{
    size_t before = link->out.len, len;
    struct redis_pending *p;
    err_t err = redis_format(&link->out, args, count);

    if (err_is(err, ERR_TOO_BIG))
        return err_new(ERR_STORE, "redis: too much waits to be sent");
    TRY(err);
    len = link->owner->slots ? link->out.len - before : 0;
    p = mem_alloc(MEM_UPSTREAM, sizeof(*p) + len);
    if (!p) {
        link->out.len = before;
        return err_no_memory();
    }
    *p = (struct redis_pending){.waiter = waiter, .len = len};
    memcpy(p->command, link->out.ptr + before, len);
    list_push(&link->pending, &p->at);
    if (waiter)
        waiter->pending = p;
    send_soon(link);
    return NULL;
}

err_t redis_link_take_over(struct redis_link *link, struct redis_pending *p)
{
    TRY(buf_add(&link->out, (struct str){p->command, p->len}));
    list_push(&link->pending, &p->at);
    send_soon(link);
    return NULL;
}

/* Errors that another server would not give: ask anew where the master is. */
static bool is_wrong_server(const struct redis_reply *reply)
{
    return redis_reply_is_error(reply, STR("READONLY")) ||
           redis_reply_is_error(reply, STR("MASTERDOWN"));
}

/* Hand an answer to whom it is for, or the question to whom the answer names. */
static void deliver(struct redis_link *link, const struct redis_reply *reply)
{
    struct redis_pending *p = container_of(list_first(&link->pending), struct redis_pending, at);

    list_remove(&p->at);
    if (!redis_cluster_redirect(link, p, reply))
        redis_link_finish(p, reply);
}

/* Whether the connection goes on. */
static bool take_in(struct redis_link *link, struct str bytes)
{
    struct redis_reply *reply;
    bool is_wrong = false;

    if (redis_reader_feed(&link->reader, bytes) || redis_reader_next(&link->reader, &reply)) {
        redis_link_lose(link, "what it answers is not Redis' protocol");
        return false;
    }
    while (reply) {
        if (list_is_empty(&link->pending)) {
            redis_link_lose(link, "an answer came that nobody had asked for");
            return false;
        }
        is_wrong |= is_wrong_server(reply);
        deliver(link, reply);
        if (redis_reader_next(&link->reader, &reply)) {
            redis_link_lose(link, "what it answers is not Redis' protocol");
            return false;
        }
    }
    if (is_wrong)
        redis_link_lose(link, "the server is no master");
    return !is_wrong;
}

static void on_ready(struct sock *sock)
{
    struct redis_link *link = container_of(sock, struct redis_link, sock);
    bool again = false;
    size_t n;

    while (link->is_ready && !again && sock_may_read(sock)) {
        err_t err = sock_try_read(sock, loop_scratch(), LOOP_SCRATCH_BYTES, &n, &again);

        if (err || (n == 0 && !again))
            redis_link_lose(link, err ? "the connection was lost" : "the server hung up");
        else if (n > 0 && !take_in(link, (struct str){loop_scratch(), n}))
            return;
    }
    redis_link_flush(link);
}

/* ---- connecting ---- */

/* The dialling fiber has failed. */
static void stay_away(struct redis_link *link)
{
    drop(link);
    if (!link->is_out || is_closed(link))
        return;
    if (redis_cluster_needs(link))
        retry_later(link);
    else
        redis_link_close(link);
}

static void watch_later(struct redis_link *link)
{
    err_t err = link->master[0] ? timer_set(&link->watch, loop_now_ms() + WATCH_MS, watch) : NULL;

    check(!err); /* set once before, by redis_link_open */
}

static void become_ready(struct redis_link *link)
{
    link->is_ready = true;
    watch_later(link);
    link->sock.on_ready = on_ready;
    /* What comes next decides: one more failure, and it is left alone again. */
    link->failures = link->is_out ? REDIS_MAX_FAILURES - 1 : link->failures;
    set_out(link, false);
    on_ready(&link->sock);
}

/* Begin a fiber that holds the link. `at` is its place there. */
static err_t start(struct redis_link *link, void (*fn)(void *arg), struct fiber **at)
{
    err_t err = fiber_start_later("redis", fn, link, at);

    if (err)
        return err;
    redis_link_hold(link);
    link->owner->fibers++;
    return NULL;
}

/* The last thing that such a fiber does. */
static void end(struct redis_link *link)
{
    struct redis *r = link->owner;

    redis_link_release(link);
    if (--r->fibers == 0 && r->is_leaving)
        loop_stop(loop_self());
}

/* Body of the dialling fiber. */
static void run_dial(void *arg)
{
    struct redis_link *link = arg;
    struct redis_target *target = redis_target_ref(link->owner->target);
    struct arena *arena = arena_new(MEM_UPSTREAM, 64 * 1024);
    const struct redis_host *host = link->host.port ? &link->host : NULL;
    err_t err;

    fiber_set_arena(arena);
    err = is_closed(link) ? &closing /* before this began, and there may be no target any more */
                          : redis_dial(&link->sock, &link->reader, target, host,
                                       loop_now_ms() + DIAL_MS, link->master);
    if (err)
        note_reason(link, err->text ? err->text : "no connection");
    fiber_set_arena(NULL);
    arena_free(arena);
    redis_target_unref(target);
    link->dialler = NULL;
    if (err || is_closed(link))
        stay_away(link);
    else
        become_ready(link);
    end(link);
}

static void dial(struct redis_link *link)
{
    if (!start(link, run_dial, &link->dialler))
        return;
    redis_link_lose(link, "no memory for a fiber");
    if (link->is_out)
        retry_later(link);
}

/* Body of the fiber that asks the sentinels. None that answers is no reason to leave a master that does. */
static void run_watch(void *arg)
{
    struct redis_link *link = arg;
    struct redis_target *target = redis_target_ref(link->owner->target);
    struct arena *arena = arena_new(MEM_UPSTREAM, 64 * 1024);
    char master[REDIS_ADDRESS];
    err_t err;

    fiber_set_arena(arena);
    err = is_closed(link) ? &closing : redis_dial_look(target, loop_now_ms() + DIAL_MS, master);
    fiber_set_arena(NULL);
    arena_free(arena);
    redis_target_unref(target);
    link->watcher = NULL;
    if (link->is_ready && !err && strcmp(master, link->master) != 0)
        redis_link_lose(link, "the sentinels name another master");
    if (link->is_ready)
        watch_later(link);
    end(link);
}

static void watch(struct timer *timer)
{
    struct redis_link *link = container_of(timer, struct redis_link, watch);

    if (link->is_ready && !link->watcher && start(link, run_watch, &link->watcher))
        watch_later(link);
}
