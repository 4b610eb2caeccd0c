/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the PostgreSQL backend: shared by its files and its tests, and nobody else's business.
 *
 * From bottom to top: error (what the server said), statement (prepared once per connection, values, rows), exchange (one
 * round trip), dial (connecting), pool (whose turn it is), listen (notices of others), and the table in db_postgres.c. */
#ifndef STORE_DB_POSTGRES_H
#define STORE_DB_POSTGRES_H

#include "fiber/fiber.h"
#include "fiber/loop.h"
#include "store/db_postgres_library.h"
#include "store/db_private.h"

#define DB_POSTGRES_BUCKETS 64

/* For the waits of a migration. */
#define DB_POSTGRES_FOREVER UINT64_MAX

/* A statement of a connection, found by the address of its text. */
struct db_postgres_statement {
    struct db_postgres_statement *next;
    const char *text;
    char name[16];    /* on the server */
    bool is_prepared; /* there, too */
    size_t count;
    Oid types[]; /* of the parameters; 0: only NULL was given so far, and the server has guessed */
};

/* The values of one call as libpq wants them: arrays of `room` elements, kept for the next call. */
struct db_postgres_values {
    size_t room;
    uint64_t *numbers; /* in the order of the wire */
    const char **pointers;
    int *lengths, *formats;
};

struct db_postgres_connection {
    struct list link; /* in db_postgres.idle or busy; in none until it is taken */
    PGconn *handle;
    int socket_fd;             /* handle's, duplicated: libpq closes its own when it likes */
    struct watch watch;        /* of socket_fd, open while a fiber has taken the connection */
    struct fiber *fiber;       /* that one, or NULL */
    bool is_broken;            /* what it would say next is unknown: close it */
    _Atomic uint64_t asked_ms; /* since when an answer is waited for; 0: for none */
    uint64_t idle_since_ms;
    unsigned statement_count; /* prepared so far */
    struct db_postgres_statement *statements[DB_POSTGRES_BUCKETS];
    struct db_postgres_values values;
};

struct db_postgres {
    struct db base;
    char *url;

    pthread_mutex_t lock; /* over the pool; never held across a wait */
    pthread_cond_t changed;
    struct list idle;    /* connections, the last used first */
    struct list busy;    /* connections that are taken */
    struct list waiters; /* the oldest first */
    unsigned limit, open, idle_count, waiter_count;
    bool is_away;            /* nobody dials but the listener */
    uint64_t away_since_ms;  /* 0: it is there, as far as we know */
    uint64_t served_ms;      /* when a connection was last of use */
    uint64_t short_since_ms; /* it gives no more connections; 0: it did, the last time */
    bool is_short_told;
    bool wants_room; /* of the server: the next connection that is given back is closed */

    pthread_t listener;
    bool has_listener, is_heard; /* it is there; it is connected */
    int stop_fd;                 /* an eventfd: the listener shall end */
};

struct db_postgres_tx {
    struct db_tx base;
    struct db_postgres *db;
    struct db_postgres_connection *connection;
    struct db_call *call;
    bool has_begun, is_patient;
};

/* ---- db_postgres_error.c ---- */

/* What an SQLSTATE (NULL: the connection was lost) means to a call. */
enum db_trouble db_postgres_trouble(const char *sqlstate, enum db_mode mode);

/* libpq's text about a connection as one line of the arena; never NULL. */
const char *db_postgres_message(PGconn *handle, char *space, size_t size);

/* ---- db_postgres_statement.c ---- */

/* Find or make the record of a statement and lay its values out. If it is not prepared yet, for these types, the
 * connection must send *sql first. The caller does buf_fini(sql) in any case. Errors: BUG (wrong SQL), BUSY, TOO_BIG. */
err_t db_postgres_lay_out(struct db_postgres_connection *connection, struct db_ask ask,
                          struct buf *sql, struct db_postgres_statement **out) ERR_MUST_CHECK;

/* Copy the rows of a result. Errors: BUG for a type that is no number, text or bytes; as arena_err. */
err_t db_postgres_read_rows(const PGresult *result, struct arena *arena,
                            struct db_rows *rows) ERR_MUST_CHECK;

/* Free what a connection keeps of its statements. */
void db_postgres_forget(struct db_postgres_connection *connection);

/* ---- db_postgres_exchange.c ---- */

#define DB_POSTGRES_PARTS_MAX 4

/* One round trip: commands are put together, sent at once, and answered in order. The first failure counts. */
struct db_postgres_exchange {
    struct db_postgres_connection *connection;
    enum db_mode mode;
    uint64_t until_ms;
    struct arena *arena; /* NULL: rows are not wanted */
    struct db_rows *rows;

    unsigned part_count, part_at;
    enum db_postgres_part {
        DB_PART_COMMAND,
        DB_PART_PREPARE,
        DB_PART_STATEMENT
    } parts[DB_POSTGRES_PARTS_MAX];
    struct db_postgres_statement *statement;
    enum db_trouble trouble;
    err_t err;
};

/* Begin one that must end within the usual time (is_patient: ever). */
struct db_postgres_exchange db_postgres_exchange_begin(struct db_postgres_connection *connection,
                                                       enum db_mode mode, bool is_patient);

/* Add BEGIN, COMMIT and the like (static text); or a statement, prepared if need be. Failures show at the end. */
void db_postgres_add_command(struct db_postgres_exchange *x, const char *sql);
void db_postgres_add_statement(struct db_postgres_exchange *x, struct db_ask ask);

/* PARKS: send, and take all answers. When they cannot be had (lost, late, cancelled) the connection is broken. Errors:
 * the first failure, with x->trouble; the fiber's cancellation without. */
err_t db_postgres_exchange_end(struct db_postgres_exchange *x) ERR_MUST_CHECK;

/* PARKS: several statements as one text, without values. */
err_t db_postgres_script(struct db_postgres_exchange *x, const char *script) ERR_MUST_CHECK;

/* ---- db_postgres_dial.c ---- */

/* Connect, check the server, set the session up. Blocks. Errors: STORE, CONFIG. */
err_t db_postgres_dial(const char *url, struct db_postgres_connection **out) ERR_MUST_CHECK;

/* Close and free it, in whatever state. NULL is allowed. */
void db_postgres_hang_up(struct db_postgres_connection *connection);

/* ---- db_postgres_pool.c ---- */

/* PARKS: take a connection that is alive and idle. Errors: STORE with trouble (AGAIN; AWAY also if all are in use and none is
 * answered), BUSY (all are in use for too long), cancellation. */
err_t db_postgres_take(struct db_postgres *db, struct db_call *call,
                       struct db_postgres_connection **out) ERR_MUST_CHECK;

/* Give it back; it is closed if it is broken or in a transaction. */
void db_postgres_give(struct db_postgres *db, struct db_postgres_connection *connection);

/* For a connection of another kind: close the one that has rested longest. True if the server has room now; else, if all are in
 * use, the next one that is given back is closed, unless the listener is connected before. Any thread. */
bool db_postgres_make_room(struct db_postgres *db);

/* The server was reached, or not (`err`); news are logged. As long as the listener is connected the server is there, and
 * everybody may try: what failed is another matter. Any thread. */
void db_postgres_note(struct db_postgres *db, err_t err);

/* Wait for dials that were left alone, then close all connections. */
void db_postgres_pool_close(struct db_postgres *db);

/* ---- db_postgres_listen.c ---- */

#define DB_POSTGRES_CHANNEL "sluice"

/* Start and end the thread that hears notices and, while the server is away, looks for it. */
err_t db_postgres_listen(struct db *db) ERR_MUST_CHECK;
void db_postgres_listen_stop(struct db_postgres *db);

#endif
