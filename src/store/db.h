/* SPDX-License-Identifier: Apache-2.0 */
/* A database: SQLite in the process or PostgreSQL beside it, the same calls.
 *
 * The seam is the database, not the domain: SQL is written once, in the subset that both speak, with
 * parameters $1, $2 … and with named snippets in {{braces}} where they differ (dbs.def lists them). No SQL
 * text is ever made from input. A statement's text must be static: its address finds the prepared statement.
 *
 * The hard thing is trouble. A busy database, a lost connection and a serialization failure are tried
 * again within a bound, by running the whole transaction again; what fails then is ERR_STORE, a 503 to
 * callers. What was acknowledged is on disk. */
#ifndef STORE_DB_H
#define STORE_DB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/str.h"

struct db;    /* one per process; any thread */
struct db_tx; /* a transaction in progress */

enum db_type { DB_NULL, DB_INT, DB_TEXT, DB_BLOB };

/* A parameter or a cell. Text and blobs are borrowed: of parameters until the call returns, of cells as long
 * as the arena they were read into. */
struct db_value {
    enum db_type type;
    int64_t number;
    struct str bytes;
};

#define DB_OF_INT(n)  ((struct db_value){.type = DB_INT, .number = (int64_t)(n)})
#define DB_OF_TEXT(s) ((struct db_value){.type = DB_TEXT, .bytes = (s)})
#define DB_OF_BLOB(s) ((struct db_value){.type = DB_BLOB, .bytes = (s)})
#define DB_OF_NULL    ((struct db_value){.type = DB_NULL})

/* What a statement gave: count rows of `columns` cells each, one after the other. */
struct db_rows {
    size_t count, columns;
    struct db_value *cells;
    uint64_t changed; /* rows written */
};

/* A cell by row and column, which must exist; its number (NULL: 0), its text or bytes (NULL: empty). */
const struct db_value *db_cell(const struct db_rows *rows, size_t row, size_t column);
int64_t db_int(const struct db_rows *rows, size_t row, size_t column);
struct str db_text(const struct db_rows *rows, size_t row, size_t column);

/* A statement with its parameters: DB_ASK("SELECT … WHERE id = $1", DB_OF_TEXT(id)). */
struct db_ask {
    const char *sql;
    const struct db_value *values;
    size_t count;
};
#define DB_ASK(text, ...)                                                                          \
    ((struct db_ask){text, (const struct db_value[]){__VA_ARGS__},                                 \
                     sizeof((const struct db_value[]){__VA_ARGS__}) / sizeof(struct db_value)})
#define DB_ASK_PLAIN(text) ((struct db_ask){.sql = (text)})

/* A report is a read that may take long. Few run at a time, so that other reads do not wait for them. */
enum db_mode { DB_READ, DB_WRITE, DB_REPORT };

struct db_options {
    struct str url;       /* sqlite:PATH (absolute) or postgresql://… */
    unsigned connections; /* PostgreSQL: most of them in this process */
    bool is_tool;         /* opened by a command: no exclusive lock on the file, no migration */
};

/* Open the database, bring its schema up to date under a lock, check its integrity. Blocks: start-up, outside
 * fibers, or a command. Errors: STORE or CONFIG with a text that says what to do: a newer schema, a damaged
 * file, a read-only one, a second server on it, no libpq. */
err_t db_open(const struct db_options *options, struct db **out) ERR_MUST_CHECK;

/* Close it; no call may be running. NULL is allowed. */
void db_close(struct db *db);

/* The name of the backend ("sqlite", "postgresql"), and whether the last call that had to reach it did. */
const char *db_backend(const struct db *db);
bool db_is_up(const struct db *db);

/* PARKS: one statement as a transaction of its own; rows (may be NULL) are in the arena. Outside fibers it
 * blocks. A write that returned NULL survives a crash of the process and of the machine. Sums and other expressions
 * are CAST to BIGINT: results are whole numbers, texts and blobs. Errors: STORE (code store_conflict: a constraint was
 * violated; storage_full, 507; store_busy; store_damaged; store_lost: it may have happened), BAD_REQUEST for a text
 * that is not UTF-8 or holds a NUL, BUSY (too many callers wait), TIMED_OUT, cancellation (then a write may or may not
 * have happened), BUG for wrong SQL; of a report BUSY (code reports_busy: others are being made for too long) and
 * BAD_REQUEST (code too_long: it takes more time than it may have). */
err_t db_run(struct db *db, enum db_mode mode, struct db_ask ask, struct arena *arena,
             struct db_rows *rows) ERR_MUST_CHECK;

/* PARKS: fn(tx, arg) as one transaction, committed if it returns NULL, else rolled back with its error. It may
 * run again from the start, and with SQLite it runs in another thread while the fiber waits: it may only
 * call db_tx_run, compute, and write what `arg` points to. Errors: fn's, and as db_run. */
err_t db_transact(struct db *db, enum db_mode mode, err_t (*fn)(struct db_tx *tx, void *arg),
                  void *arg) ERR_MUST_CHECK;

/* One statement inside a transaction. Errors: return them from fn. */
err_t db_tx_run(struct db_tx *tx, struct db_ask ask, struct arena *arena,
                struct db_rows *rows) ERR_MUST_CHECK;

/* Tell all processes on this database that `topic` (static, [a-z_]+) changed; inside a transaction it is told at its
 * commit. */
err_t db_tx_notify(struct db_tx *tx, const char *topic) ERR_MUST_CHECK;

/* Whether a write that failed with this may have happened all the same (code store_lost). */
bool db_is_lost(err_t err);

/* PARKS: write a whole copy of the database, as of one moment, into a new file at `path` (absolute), while others go on
 * reading and writing. Nothing is left of it if it fails. Errors: BAD_REQUEST if the path is not absolute or taken, or
 * if this backend has better means; STORE (507 without space). */
err_t db_backup(struct db *db, struct str path) ERR_MUST_CHECK;

/* Replace the database at `url` by the backup `file`, while no server runs on it. The backup's integrity and schema are
 * checked first. The old database is kept aside, under the name *kept in the arena (empty: there was none). Blocks.
 * Errors: STORE, CONFIG, with a text that says what to do; then nothing was replaced. */
err_t db_restore(struct str url, struct str file, struct arena *arena,
                 struct str *kept) ERR_MUST_CHECK;

/* A number that rises whenever `topic` was told, here or (PostgreSQL) elsewhere: look at it often, it costs nothing.
 * Other processes' notices may be lost with a connection: who depends on them also asks the database at times. */
uint64_t db_topic_version(const struct db *db, const char *topic);

#endif
