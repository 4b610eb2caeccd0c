/* SPDX-License-Identifier: Apache-2.0 */
/* Hearing what other processes tell (LISTEN): a thread with a connection of its own.
 *
 * It is also who finds out that a lost server is there again, so that callers need not try. After each connecting all
 * topics rise, because notices may have been missed. */
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/sys.h"
#include "observe/log.h"
#include "store/db_postgres.h"

#define RETRY_MS    500
#define SCOPE_BYTES ((size_t)64 * 1024)

/* ---- notices ---- */

static void raise_all(struct db *db)
{
    for (size_t i = 0; i < DB_TOPICS_MAX; i++)
        if (atomic_load(&db->topics[i].name))
            atomic_fetch_add(&db->topics[i].version, 1);
}

static void take_notices(struct db_postgres *db, PGconn *handle)
{
    PGnotify *notice;

    while ((notice = pq.notifies(handle))) {
        db_topic_raise(&db->base, str_from(notice->extra));
        pq.free_memory(notice);
    }
}

/* Wait for the socket (-1: none) or the end. True: go on. */
static bool wait_for(struct db_postgres *db, int socket, int wait_ms)
{
    struct pollfd at[2] = {{.fd = db->stop_fd, .events = POLLIN}, {.fd = socket, .events = POLLIN}};

    poll(at, 2, wait_ms);
    return !at[0].revents;
}

/* Until the connection is lost or the thread shall end. */
static void hear(struct db_postgres *db, PGconn *handle)
{
    do
        take_notices(db, handle);
    while (wait_for(db, pq.socket(handle), -1) && pq.consume_input(handle) &&
           pq.status(handle) == CONNECTION_OK);
}

/* ---- being there and away ---- */

static void note_heard(struct db_postgres *db, bool is_heard)
{
    pthread_mutex_lock(&db->lock);
    db->is_heard = is_heard;
    db->wants_room = false;
    pthread_mutex_unlock(&db->lock);
}

static err_t begin(struct db_postgres *db, struct db_postgres_connection **out)
{
    struct db_postgres_exchange x;
    err_t err;

    TRY(db_postgres_dial(db->url, out));
    x = db_postgres_exchange_begin(*out, DB_WRITE, false);
    err = db_postgres_script(&x, "LISTEN " DB_POSTGRES_CHANNEL);
    if (err) {
        db_postgres_hang_up(*out);
        *out = NULL;
    }
    return err;
}

/* A server that gives few connections may have given all to the pool, which keeps them; but who does not hear others is worse
 * off than who waits for a connection. */
static err_t begin_with_room(struct db_postgres *db, struct db_postgres_connection **out)
{
    err_t err = begin(db, out);

    return err && db_postgres_make_room(db) ? begin(db, out) : err;
}

static void *run(void *arg)
{
    struct db_postgres *db = arg;
    struct arena *arena = arena_new(MEM_STORE, SCOPE_BYTES);
    struct db_postgres_connection *connection;

    err_scope_set(arena);
    do {
        err_t err = begin_with_room(db, &connection);
        db_postgres_note(db, err);
        db_note(&db->base, !err);
        if (!err) {
            note_heard(db, true);
            raise_all(&db->base);
            hear(db, connection->handle);
            note_heard(db, false);
            db_postgres_hang_up(connection);
        }
        if (arena)
            arena_reset(arena);
    } while (wait_for(db, -1, RETRY_MS));
    err_scope_set(NULL);
    arena_free(arena);
    return NULL;
}

/* ---- the thread ---- */

err_t db_postgres_listen(struct db *base)
{
    struct db_postgres *db = (struct db_postgres *)base;
    sigset_t all, before;
    int number;

    db->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (db->stop_fd < 0)
        return err_system(errno, "eventfd");
    db->has_listener = true;
    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    number = pthread_create(&db->listener, NULL, run, db);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (number == 0)
        return NULL;
    db->has_listener = false;
    sys_close(db->stop_fd);
    return err_system(number, "pthread_create");
}

void db_postgres_listen_stop(struct db_postgres *db)
{
    if (!db->has_listener)
        return;
    sys_announce(db->stop_fd);
    pthread_join(db->listener, NULL);
    sys_close(db->stop_fd);
    db->has_listener = false;
}
