/* SPDX-License-Identifier: Apache-2.0 */
/* What a backend is: one table of functions, one line in dbs.def, and nobody else's business.
 *
 * db.c keeps what all backends share: snippets, checks of values, running again what may be run again, topics, metrics.
 * A backend does each thing once and says by a db_trouble how it failed; errors without trouble (DB_FINE) are the
 * caller's own and are passed on. A backend's database and transaction begin with struct db and struct db_tx. */
#ifndef STORE_DB_PRIVATE_H
#define STORE_DB_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/buf.h"
#include "store/db.h"

/*    trouble, HTTP status (0: the kind's), code, what happened */
#define DB_TROUBLES(X)                                                                             \
    X(AGAIN, STORE, 0, "store_busy",                                                               \
      "rolled back by others' work or a lost connection: run again")                               \
    X(AWAY, STORE, 0, "store_away", "the server has been away for a while: nothing was tried")     \
    X(UNSURE, STORE, 0, "store_lost", "the connection was lost during a commit: nobody knows")     \
    X(FULL, STORE, 507, "storage_full", "rolled back: there is no space left")                     \
    X(SUSPECT, STORE, 0, "store_damaged", "what is on disk cannot be trusted any more")            \
    X(FAILED, STORE, 0, "store_failed", "rolled back for another reason")                          \
    X(LONG, BAD_REQUEST, 0, "too_long", "a report takes more time than it may have")               \
    X(REFUSED, STORE, 0, "store_conflict", "a constraint of the schema was violated")              \
    X(WRONG, BUG, 0, NULL, "a statement or its parameters are wrong")

enum db_trouble {
    DB_FINE,
#define X(name, kind, status, code, meaning) DB_##name,
    DB_TROUBLES(X)
#undef X
};

/* One call from outside, as the backend sees it. */
struct db_call {
    enum db_mode mode;
    uint64_t until_ms; /* sys_now_ms: waiting for locks and connections ends then, with DB_AGAIN */
    enum db_trouble trouble;
};

struct db_ops {
    const char *name;
    /* Open db_options.url, whose scheme is this backend's, and check what is there; *out begins with a struct db
     * that db_open fills in. The schema is not looked at. Blocks. */
    err_t (*open)(const struct db_options *options, struct db **out);
    /* Begin what runs beside the calls of a server: hearing topics of others. NULL: nothing does. */
    err_t (*listen)(struct db *db);
    void (*close)(struct db *db);

    /* PARK (and block outside fibers): one statement, or one transaction that calls db_tx_play. `rows` is never
     * NULL; without an arena rows are not kept. */
    err_t (*run)(struct db *db, struct db_call *call, struct db_ask ask, struct arena *arena,
                 struct db_rows *rows);
    err_t (*transact)(struct db *db, struct db_call *call, err_t (*fn)(struct db_tx *tx, void *arg),
                      void *arg);

    /* Within a transaction. A failure sets tx->trouble. */
    err_t (*tx_run)(struct db_tx *tx, struct db_ask ask, struct arena *arena, struct db_rows *rows);
    /* Several statements without parameters or results, snippets expanded: a migration. */
    err_t (*tx_script)(struct db_tx *tx, const char *script);
    /* Keep other processes from changing the schema until the transaction ends. NULL: all writers are kept out anyway. */
    err_t (*tx_lock_schema)(struct db_tx *tx);
    /* Tell other processes of a topic at the commit. NULL: there are none. */
    err_t (*tx_notify)(struct db_tx *tx, const char *topic);

    /* PARKS: see db_backup. NULL: the database has better means of its own. */
    err_t (*backup)(struct db *db, struct str path);
};

#define DB_TOPICS_MAX 32

struct db_topic {
    _Atomic(const char *) name;
    _Atomic uint64_t version;
};

struct metric_series;

struct db {
    const struct db_ops *ops;
    atomic_bool is_up;
    atomic_bool is_suspect;      /* writes are refused until it is opened again */
    pthread_mutex_t topics_lock; /* to add one; they are never removed */
    struct db_topic topics[DB_TOPICS_MAX];
    struct metric_series *up, *errors;
    atomic_uint reports; /* that run */
};

struct db_tx {
    struct db *db;
    err_t err; /* of the first statement that failed: the transaction cannot be committed */
    enum db_trouble trouble;
    uint32_t topics; /* told at the commit: bits of db->topics */
};

/* The database was reached, or not: for db_is_up. Any thread. */
void db_note(struct db *db, bool is_there);

/* An error for `trouble` with a text of the backend's. */
err_t db_err(enum db_trouble trouble, const char *text);

/* The text for DB_LONG. */
extern const char db_too_long[];

/* Call fn; the transaction may be committed if it returns NULL. */
err_t db_tx_play(struct db_tx *tx, err_t (*fn)(struct db_tx *tx, void *arg),
                 void *arg) ERR_MUST_CHECK;

/* The transaction is committed: raise the topics that it told. */
void db_tx_tell(struct db_tx *tx);

/* Another process told `topic`. Any thread. */
void db_topic_raise(struct db *db, struct str topic);

/* Append a statement with its snippets as this backend speaks, and a NUL. Call it when a statement is prepared. Errors:
 * BUG for a snippet that does not exist, as buf_reserve. */
err_t db_expand(const struct db_ops *ops, const char *sql, struct buf *out) ERR_MUST_CHECK;

/* ---- schema.c ---- */

struct db_migration {
    unsigned number;
    const char *name, *sql;
};

/* The files of src/store/schema in order: generated. */
extern const struct db_migration db_migrations[];
extern const unsigned db_migration_count;

/* Bring the schema up to date: each migration that is missing is a transaction of its own. Errors: STORE, CONFIG
 * if the database has one that is not in the list. */
err_t db_schema_update(struct db *db, const struct db_migration *list,
                       unsigned count) ERR_MUST_CHECK;

/* The schema must be exactly that of the list: for commands, which do not change it. Errors: as db_schema_update. */
err_t db_schema_check(struct db *db, const struct db_migration *list,
                      unsigned count) ERR_MUST_CHECK;

/* ---- backends ---- */

/* db_restore for this backend. */
err_t db_sqlite_restore(struct str url, struct str file, struct arena *arena,
                        struct str *kept) ERR_MUST_CHECK;

#define BACKEND(ops, scheme) extern const struct db_ops ops;
#define SNIPPET(name, sqlite, postgresql)
#include "store/dbs.def"
#undef BACKEND
#undef SNIPPET

#endif
