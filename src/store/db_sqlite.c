/* SPDX-License-Identifier: Apache-2.0 */
/* SQLite as a backend: calls become jobs in the pools DB_WRITE, DB_READ and DB_REPORT, each on a connection of its own.
 *
 * The hard thing is what a failure leaves behind. SQLite rolls some of them back itself and others not, so every path
 * out of a transaction looks whether one is still open; and if it cannot be closed, the store is suspect. */
#include "store/db_sqlite.h"
#include "base/sys.h"
#include "fiber/offload.h"
#include "observe/log.h"

/* Pages in the log from which it is carried over into the file: 4 MB. */
#define CHECKPOINT_PAGES 1000

/* How long a report may take: as long as it reads, the log cannot begin anew. SQLite looks at the clock after so many
 * steps of its machine, every few milliseconds. */
#define REPORT_MS    60000
#define REPORT_STEPS 100000

/* One call on its way through a pool. */
struct job {
    struct db_sqlite *db;
    struct db_call *call;
    struct db_ask ask;
    struct arena *arena;
    struct db_rows *rows;
    err_t (*fn)(struct db_tx *tx, void *arg); /* NULL: the statement alone */
    void *arg;
    uint64_t late_at_ms;     /* of a report */
    bool is_late;            /* it has come to that */
    atomic_bool is_unwanted; /* nobody waits for it any more */
};

/* ---- connections ---- */

/* In the pools' threads there is always one; callers outside fibers may have to wait. */
static struct db_sqlite_connection *take(struct db_sqlite *db, enum db_mode mode)
{
    struct db_sqlite_connection *first = mode == DB_WRITE    ? &db->writer
                                         : mode == DB_REPORT ? &db->readers[DB_SQLITE_READERS]
                                                             : &db->readers[0];
    int count = mode == DB_WRITE ? 1 : mode == DB_REPORT ? DB_SQLITE_REPORTERS : DB_SQLITE_READERS;

    for (int i = 0; i < count; i++)
        if (pthread_mutex_trylock(&first[i].lock) == 0)
            return &first[i];
    pthread_mutex_lock(&first->lock);
    return first;
}

static void give(struct db_sqlite_connection *connection)
{
    pthread_mutex_unlock(&connection->lock);
}

/* Carry the log over into the file when it has grown. We do it ourselves because SQLite, doing it at a commit, would
 * not tell of a failed fsync. The commit itself is safe already. */
static void carry_over(struct db_sqlite *db, struct db_sqlite_connection *writer)
{
    enum db_trouble trouble;
    int code;
    err_t err;

    if (writer->wal_pages < CHECKPOINT_PAGES)
        return;
    writer->wal_pages = 0;
    code = sqlite3_wal_checkpoint_v2(writer->handle, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    if (code == SQLITE_OK || code == SQLITE_BUSY || code == SQLITE_LOCKED)
        return;
    err = db_sqlite_err(writer->handle, code, &trouble);
    if (trouble == DB_SUSPECT)
        atomic_store(&db->base.is_suspect, true);
    log_error("the store's log cannot be carried over into its file", err);
}

/* ---- transactions ---- */

static err_t plain(struct db_sqlite_connection *connection, const char *sql,
                   enum db_trouble *trouble)
{
    struct db_rows unwanted;

    return db_sqlite_step(connection, DB_ASK_PLAIN(sql), NULL, &unwanted, trouble);
}

/* After a failure: nothing of the transaction may stay. */
static void undo(struct db_sqlite_connection *connection, enum db_trouble *trouble)
{
    enum db_trouble own;

    if (!sqlite3_get_autocommit(connection->handle) && plain(connection, "ROLLBACK", &own) &&
        !sqlite3_get_autocommit(connection->handle))
        *trouble = DB_SUSPECT;
}

static err_t play(struct job *job, struct db_sqlite_connection *connection)
{
    struct db_sqlite_tx tx = {.base.db = &job->db->base, .connection = connection};
    enum db_trouble *trouble = &job->call->trouble;
    bool writes = job->call->mode == DB_WRITE;
    err_t err = plain(connection, writes ? "BEGIN IMMEDIATE" : "BEGIN", trouble);

    if (!err) {
        err = db_tx_play(&tx.base, job->fn, job->arg);
        *trouble = tx.base.trouble;
        if (!err)
            err = plain(connection, "COMMIT", trouble);
    }
    if (err)
        undo(connection, trouble);
    else
        db_tx_tell(&tx.base);
    return err;
}

/* ---- reports ---- */

/* SQLite asks whether the statement shall end. */
static int shall_end(void *arg)
{
    struct job *job = arg;

    job->is_late |= sys_now_ms() >= job->late_at_ms;
    return job->is_late || atomic_load(&job->is_unwanted);
}

static void stop_report(void *arg)
{
    struct job *job = arg;

    atomic_store(&job->is_unwanted, true);
}

static void watch_report(struct job *job, struct db_sqlite_connection *connection)
{
    job->late_at_ms = sys_now_ms() + REPORT_MS;
    sqlite3_progress_handler(connection->handle, REPORT_STEPS, shall_end, job);
}

/* What became of it: to be cut off is no failure of the store's. */
static err_t judge_report(struct job *job, struct db_sqlite_connection *connection, err_t err)
{
    sqlite3_progress_handler(connection->handle, 0, NULL, NULL);
    if (!err || job->call->trouble != DB_FAILED)
        return err;
    if (atomic_load(&job->is_unwanted))
        job->call->trouble = DB_FINE;
    else if (job->is_late)
        err = db_err(job->call->trouble = DB_LONG, db_too_long);
    return err;
}

/* ---- jobs ---- */

static err_t run_job(void *arg)
{
    struct job *job = arg;
    struct db_call *call = job->call;
    struct db_sqlite_connection *connection;
    err_t err;

    connection = take(job->db, call->mode);
    if (call->mode == DB_REPORT)
        watch_report(job, connection);
    if (sys_now_ms() >= call->until_ms) {
        call->trouble = DB_AGAIN;
        err = db_err(DB_AGAIN, "it did not get round to this in time");
    } else if (job->fn) {
        err = play(job, connection);
    } else {
        err = db_sqlite_step(connection, job->ask, job->arena, job->rows, &call->trouble);
    }
    if (call->mode == DB_REPORT)
        err = judge_report(job, connection, err);
    if (call->mode == DB_WRITE && !err)
        carry_over(job->db, connection);
    give(connection);
    return err;
}

static err_t enqueue(struct job *job)
{
    if (job->call->mode == DB_REPORT)
        return offload_run_stoppable(OFFLOAD_DB_REPORT, run_job, job, stop_report);
    return offload_run(job->call->mode == DB_WRITE ? OFFLOAD_DB_WRITE : OFFLOAD_DB_READ, run_job,
                       job);
}

/* ---- the table ---- */

static err_t run(struct db *db, struct db_call *call, struct db_ask ask, struct arena *arena,
                 struct db_rows *rows)
{
    return enqueue(&(struct job){
        .db = (struct db_sqlite *)db, .call = call, .ask = ask, .arena = arena, .rows = rows});
}

static err_t transact(struct db *db, struct db_call *call, err_t (*fn)(struct db_tx *tx, void *arg),
                      void *arg)
{
    return enqueue(&(struct job){.db = (struct db_sqlite *)db, .call = call, .fn = fn, .arg = arg});
}

static err_t tx_run(struct db_tx *tx, struct db_ask ask, struct arena *arena, struct db_rows *rows)
{
    return db_sqlite_step(((struct db_sqlite_tx *)tx)->connection, ask, arena, rows, &tx->trouble);
}

static err_t tx_script(struct db_tx *tx, const char *script)
{
    sqlite3 *handle = ((struct db_sqlite_tx *)tx)->connection->handle;
    int code = sqlite3_exec(handle, script, NULL, NULL, NULL);

    return code == SQLITE_OK ? NULL : db_sqlite_err(handle, code, &tx->trouble);
}

const struct db_ops db_sqlite_ops = {
    .name = "sqlite",
    .open = db_sqlite_open,
    .close = db_sqlite_close,
    .run = run,
    .transact = transact,
    .tx_run = tx_run,
    .tx_script = tx_script,
    .backup = db_sqlite_backup,
};
