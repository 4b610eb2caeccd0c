/* SPDX-License-Identifier: Apache-2.0 */
/* Whose turn it is: one pool of connections for all threads, and a queue of those who wait for one.
 *
 * A connection is registered in the loop of the fiber that takes it and leaves it when it is given back, which costs two
 * system calls and spares us pools per thread that starve each other. Whoever gives one back hands it to the oldest waiter.
 * A fiber that finds none makes one, within the limit; while the server is away only the listener tries to.
 *
 * The hard thing is a turn that comes as its fiber gives up: the message is on its way to the fiber's stack, so the fiber
 * waits for it and passes the turn on. */
#include <poll.h>
#include <stdio.h>
#include <time.h>

#include "base/mem.h"
#include "base/sys.h"
#include "fiber/offload.h"
#include "observe/log.h"
#include "store/db_postgres.h"

/* gcc sees the address of a local in a list, but not that wait_turn takes it out again. */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wdangling-pointer"
#endif

#define QUEUE_MS       2000 /* to wait for a connection of others, and to be left waiting by a dial */
#define GRACE_MS       2000 /* a restart of the server is waited for */
#define IDLE_MS        300000
#define WAITERS_MAX    1000
#define SERVED_MS      1000 /* who was of use so lately is there */
#define SILENT_MS      1000 /* a statement takes milliseconds; less than QUEUE_MS */
#define STATEMENTS_MAX 1000 /* prepared by one connection, before a fresh one takes its place */

/* Somebody who waits; on its stack. Its turn is a connection, or (NULL) to look again. */
struct waiter {
    struct list link;
    struct loop_message message;
    struct loop *loop;
    struct fiber *fiber; /* NULL: a thread, at db_postgres.changed */
    struct db_postgres_connection *connection;
    bool is_served; /* under the lock */
    bool is_told;   /* in the fiber's loop */
};

/* ---- is the server there? ---- */

void db_postgres_note(struct db_postgres *db, err_t err)
{
    bool is_news;

    pthread_mutex_lock(&db->lock);
    is_news = !err == (db->away_since_ms != 0);
    db->is_away = err && db->has_listener && !db->is_heard;
    if (!err)
        db->away_since_ms = 0;
    else if (is_news)
        db->away_since_ms = sys_now_ms();
    pthread_mutex_unlock(&db->lock);
    if (is_news && err)
        log_error("the store is away", err);
    else if (is_news)
        log_info("the store is there again");
}

/* What a dial taught. Refused by a server that serves us all the same: it has no more connections to give, or is about to
 * end, which shows within SERVED_MS. */
static void note_dial(struct db_postgres *db, err_t err)
{
    uint64_t now_ms = sys_now_ms();
    bool is_short, is_news;

    pthread_mutex_lock(&db->lock);
    is_short = err && db->is_heard && !db->away_since_ms && now_ms - db->served_ms < SERVED_MS;
    if (!is_short || !db->short_since_ms) {
        db->short_since_ms = is_short ? now_ms : 0;
        db->is_short_told = false;
    }
    is_news = is_short && !db->is_short_told && now_ms - db->short_since_ms >= SERVED_MS;
    db->is_short_told |= is_news;
    pthread_mutex_unlock(&db->lock);
    if (is_news)
        log_error("PostgreSQL gives no more connections: those that there are must do", err);
    if (!is_short)
        db_postgres_note(db, err);
}

/* While it may be a restart, callers try again; then they are told at once. */
static enum db_trouble trouble_of_absence(struct db_postgres *db)
{
    uint64_t since_ms;

    pthread_mutex_lock(&db->lock);
    since_ms = db->away_since_ms;
    pthread_mutex_unlock(&db->lock);
    return since_ms && sys_now_ms() - since_ms > GRACE_MS ? DB_AWAY : DB_AGAIN;
}

/* ---- turns; the lock is held ---- */

static void on_served(struct loop_message *message)
{
    struct waiter *waiter = container_of(message, struct waiter, message);

    waiter->is_told = true;
    fiber_wake(waiter->fiber);
}

/* The oldest waiter's turn has come. False if nobody waits. */
static bool serve(struct db_postgres *db, struct db_postgres_connection *connection)
{
    struct list *link = list_first(&db->waiters);
    struct waiter *waiter = container_of(link, struct waiter, link);

    if (!link)
        return false;
    list_remove(link);
    db->waiter_count--;
    waiter->connection = connection;
    waiter->is_served = true;
    if (waiter->fiber)
        loop_post(waiter->loop, &waiter->message);
    else
        pthread_cond_broadcast(&db->changed);
    return true;
}

/* A connection less, or one that could not be made: everybody looks again. */
static void slot_free(struct db_postgres *db)
{
    db->open--;
    while (serve(db, NULL))
        ;
    pthread_cond_broadcast(&db->changed);
}

static void idle_push(struct db_postgres *db, struct db_postgres_connection *connection)
{
    connection->idle_since_ms = db->served_ms;
    list_remove(&connection->link);
    list_push_front(&db->idle, &connection->link);
    db->idle_count++;
    pthread_cond_broadcast(&db->changed);
}

static struct db_postgres_connection *idle_pop(struct db_postgres *db, struct list *link)
{
    if (!link)
        return NULL;
    list_remove(link);
    db->idle_count--;
    return container_of(link, struct db_postgres_connection, link);
}

/* The last of those that nobody has needed for long. */
static struct db_postgres_connection *idle_take_old(struct db_postgres *db)
{
    struct list *link = db->idle.prev;

    if (link == &db->idle ||
        sys_now_ms() - container_of(link, struct db_postgres_connection, link)->idle_since_ms <
            IDLE_MS)
        return NULL;
    return idle_pop(db, link);
}

/* A server that has hung up has said so by now; and nothing else is expected from one that was not asked. */
static bool is_alive(const struct db_postgres_connection *connection)
{
    struct pollfd at = {.fd = pq.socket(connection->handle), .events = POLLIN};

    return poll(&at, 1, 0) == 0;
}

/* ---- giving ---- */

static void drop(struct db_postgres *db, struct db_postgres_connection *connection)
{
    if (!connection)
        return;
    pthread_mutex_lock(&db->lock);
    list_remove(&connection->link);
    pthread_mutex_unlock(&db->lock);
    db_postgres_hang_up(connection);
    pthread_mutex_lock(&db->lock);
    slot_free(db);
    pthread_mutex_unlock(&db->lock);
}

static bool is_clean(const struct db_postgres_connection *connection)
{
    return !connection->is_broken && connection->statement_count < STATEMENTS_MAX &&
           pq.status(connection->handle) == CONNECTION_OK &&
           pq.transaction_status(connection->handle) == PQTRANS_IDLE;
}

void db_postgres_give(struct db_postgres *db, struct db_postgres_connection *connection)
{
    struct db_postgres_connection *old;

    watch_release(&connection->watch);
    connection->fiber = NULL;
    if (!is_clean(connection)) {
        drop(db, connection);
        return;
    }
    pthread_mutex_lock(&db->lock);
    db->served_ms = sys_now_ms();
    old = db->wants_room ? connection : NULL;
    db->wants_room = false;
    if (!old && !serve(db, connection))
        idle_push(db, connection);
    if (!old)
        old = idle_take_old(db);
    pthread_mutex_unlock(&db->lock);
    drop(db, old);
}

bool db_postgres_make_room(struct db_postgres *db)
{
    struct db_postgres_connection *oldest = NULL;
    bool has_made;

    pthread_mutex_lock(&db->lock);
    db->wants_room = list_is_empty(&db->idle);
    if (!db->wants_room)
        oldest = idle_pop(db, db->idle.prev);
    pthread_mutex_unlock(&db->lock);
    has_made = oldest && is_alive(oldest);
    drop(db, oldest);
    return has_made;
}

/* ---- dialling ---- */

/* In a pool's thread; belongs to it once the fiber has gone. */
struct dial {
    struct db_postgres *db;
    struct db_postgres_connection *connection;
    char failure[512];
};

static err_t run_dial(void *arg)
{
    struct dial *dial = arg;
    err_t err = db_postgres_dial(dial->db->url, &dial->connection);

    if (err)
        snprintf(dial->failure, sizeof(dial->failure), "%s", err->text);
    note_dial(dial->db, err);
    return NULL;
}

/* Nobody waits any more: keep what was made for the next. */
static void abandon_dial(void *arg)
{
    struct dial *dial = arg;
    struct db_postgres *db = dial->db;

    if (dial->connection) {
        db_postgres_give(db, dial->connection);
    } else {
        pthread_mutex_lock(&db->lock);
        slot_free(db);
        pthread_mutex_unlock(&db->lock);
    }
    mem_free(MEM_STORE, dial, sizeof(*dial));
}

static void dial_end(struct dial *dial, struct db_postgres_connection **out)
{
    *out = dial->connection;
    if (!*out)
        abandon_dial(dial);
    else
        mem_free(MEM_STORE, dial, sizeof(*dial));
}

/* PARKS: make a connection, in the place that was counted for it. */
static err_t dial(struct db_postgres *db, struct db_call *call, uint64_t until_ms,
                  struct db_postgres_connection **out)
{
    struct dial *job = mem_alloc_zero(MEM_STORE, sizeof(*job));
    err_t err;

    if (!job) {
        pthread_mutex_lock(&db->lock);
        slot_free(db);
        pthread_mutex_unlock(&db->lock);
        return err_no_memory();
    }
    job->db = db;
    err = offload_run_until(OFFLOAD_DB_DIAL, run_dial, job, abandon_dial, until_ms);
    if (!err && !job->connection) {
        call->trouble = trouble_of_absence(db);
        err = db_err(call->trouble, job->failure);
        dial_end(job, out);
        return err;
    }
    /* BUSY: it was never queued. Other errors end the wait, and the pool has the job. */
    if (!err || (err->kind == ERR_BUSY && err != fiber_cancelled(fiber_self())))
        dial_end(job, out);
    if (err == &fiber_wait_over) {
        call->trouble = DB_AGAIN;
        err = db_err(DB_AGAIN, "PostgreSQL does not take connections in time");
    }
    return err;
}

/* ---- taking ---- */

static void on_ready(struct watch *watch)
{
    struct db_postgres_connection *connection =
        container_of(watch, struct db_postgres_connection, watch);

    fiber_wake(connection->fiber);
}

static err_t attach(struct db_postgres *db, struct db_postgres_connection *connection)
{
    err_t err;

    pthread_mutex_lock(&db->lock);
    list_remove(&connection->link);
    list_push(&db->busy, &connection->link);
    pthread_mutex_unlock(&db->lock);
    connection->fiber = fiber_self();
    if (!connection->fiber)
        return NULL;
    err = watch_open(&connection->watch, connection->socket_fd, on_ready);
    if (err)
        db_postgres_give(db, connection);
    return err;
}

static void sleep_until_changed(struct db_postgres *db, uint64_t until_ms)
{
    struct timespec at = {.tv_sec = (time_t)(until_ms / 1000),
                          .tv_nsec = (long)(until_ms % 1000) * 1000000};

    pthread_cond_timedwait(&db->changed, &db->lock, &at);
}

/* Leave the queue. The lock is held; it is let go while a turn that is under way is waited for. */
static void leave(struct db_postgres *db, struct waiter *waiter)
{
    if (!waiter->is_served) {
        list_remove(&waiter->link);
        db->waiter_count--;
        return;
    }
    pthread_mutex_unlock(&db->lock);
    while (waiter->fiber && !waiter->is_told)
        fiber_park_until_woken();
    pthread_mutex_lock(&db->lock);
}

/* PARKS, with the lock held on entry and exit: wait in the queue. *out is NULL if there is another chance to look. */
static err_t wait_turn(struct db_postgres *db, uint64_t until_ms,
                       struct db_postgres_connection **out)
{
    struct waiter waiter = {.loop = loop_self(), .fiber = fiber_self(), .message.fn = on_served};
    err_t err = NULL;

    list_push(&db->waiters, &waiter.link);
    db->waiter_count++;
    while (!waiter.fiber && !waiter.is_served && !err) {
        sleep_until_changed(db, until_ms);
        err = sys_now_ms() >= until_ms ? &fiber_wait_over : NULL;
    }
    pthread_mutex_unlock(&db->lock);
    while (waiter.fiber && !waiter.is_told && !err)
        err = fiber_park(until_ms);
    pthread_mutex_lock(&db->lock);
    leave(db, &waiter);
    *out = waiter.connection;
    return waiter.is_served && err == &fiber_wait_over ? NULL : err;
}

static err_t too_busy(const struct db_postgres *db)
{
    return err_new_detail(ERR_BUSY, (.code = "store_busy"),
                          "the store: all %u connections to PostgreSQL are in use for too long: "
                          "`postgresql.connections` sets their number",
                          db->limit);
}

/* Where the next connection comes from. */
enum source { SOURCE_IDLE, SOURCE_DIAL, SOURCE_NONE, SOURCE_OTHERS };

/* The lock is held. */
static enum source look(struct db_postgres *db, bool may_dial, struct db_postgres_connection **out)
{
    *out = idle_pop(db, list_first(&db->idle));
    if (*out)
        return SOURCE_IDLE;
    if (may_dial && !db->is_away && db->open < db->limit) {
        db->open++;
        return SOURCE_DIAL;
    }
    return db->open == 0 ? SOURCE_NONE : SOURCE_OTHERS;
}

/* PARKS: one connection, dead or alive; *out is NULL without error when it is worth to look again. */
static err_t find(struct db_postgres *db, struct db_call *call, err_t *refused, uint64_t until_ms,
                  struct db_postgres_connection **out)
{
    enum source source;
    err_t err = NULL;

    pthread_mutex_lock(&db->lock);
    source = look(db, !*refused, out);
    if (source == SOURCE_OTHERS)
        err = db->waiter_count < WAITERS_MAX ? wait_turn(db, until_ms, out) : &fiber_wait_over;
    pthread_mutex_unlock(&db->lock);
    if (source == SOURCE_NONE) {
        call->trouble = trouble_of_absence(db);
        return *refused ? *refused : db_err(call->trouble, "PostgreSQL is away");
    }
    if (source == SOURCE_OTHERS && err && *out)
        db_postgres_give(db, *out);
    if (source == SOURCE_DIAL) {
        err = dial(db, call, until_ms, out);
        /* Too many for the server, perhaps: then those that there are must do. */
        if (call->trouble == DB_FINE)
            return err;
        *refused = err;
        call->trouble = DB_FINE;
        err = NULL;
    }
    return err;
}

/* Whether all connections that are in use have waited for an answer for long, or are still being made: then more of them would
 * not help. A server that hangs looks from here like one where another's lock is waited for. */
static bool is_silent(struct db_postgres *db)
{
    uint64_t now_ms = sys_now_ms();
    bool all_wait;

    pthread_mutex_lock(&db->lock);
    all_wait = !list_is_empty(&db->busy) || db->served_ms + SILENT_MS <= now_ms;
    list_each (link, &db->busy) {
        uint64_t asked_ms =
            atomic_load(&container_of(link, struct db_postgres_connection, link)->asked_ms);
        all_wait &= asked_ms && asked_ms + SILENT_MS <= now_ms;
    }
    pthread_mutex_unlock(&db->lock);
    return all_wait;
}

/* None was to be had in time. */
static err_t give_up(struct db_postgres *db, struct db_call *call, err_t refused)
{
    if (refused) {
        call->trouble = trouble_of_absence(db);
        return refused;
    }
    if (!is_silent(db))
        return too_busy(db);
    call->trouble = DB_AWAY;
    return db_err(DB_AWAY, "PostgreSQL has answered on none of its connections for more than a "
                           "second: it hangs, or all of them wait for locks");
}

err_t db_postgres_take(struct db_postgres *db, struct db_call *call,
                       struct db_postgres_connection **out)
{
    uint64_t until_ms = sys_now_ms() + QUEUE_MS;
    err_t refused = NULL;

    if (until_ms > call->until_ms)
        until_ms = call->until_ms;
    for (;;) {
        err_t err = find(db, call, &refused, until_ms, out);
        if (err)
            return err == &fiber_wait_over ? give_up(db, call, refused) : err;
        if (*out && is_alive(*out))
            return attach(db, *out);
        drop(db, *out);
        if (sys_now_ms() >= until_ms)
            return give_up(db, call, refused);
    }
}

/* ---- the end ---- */

void db_postgres_pool_close(struct db_postgres *db)
{
    struct db_postgres_connection *connection;

    pthread_mutex_lock(&db->lock);
    while (db->open > db->idle_count)
        pthread_cond_wait(&db->changed, &db->lock);
    while ((connection = idle_pop(db, list_first(&db->idle)))) {
        db->open--;
        db_postgres_hang_up(connection);
    }
    pthread_mutex_unlock(&db->lock);
}
