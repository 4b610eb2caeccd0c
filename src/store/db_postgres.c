/* SPDX-License-Identifier: Apache-2.0 */
/* PostgreSQL as a backend: each call takes a connection, talks, and gives it back, all in the calling fiber.
 *
 * Statements by themselves are reads and cost one round trip; writes are transactions, also the single ones, whose BEGIN
 * travels with their first statement. So what is lost before COMMIT was surely not done and is run again.
 *
 * The hard thing is the COMMIT whose answer never comes: nobody knows, and nothing is done twice. */
#include "store/db_postgres.h"

#include <string.h>

#include "base/mem.h"

#define LOCK_NUMBER                                                                                \
    0x536c756963650000 /* of migrations, among the database's advisory locks: "Sluice" */

/* ---- transactions ---- */

static err_t tx_run(struct db_tx *base, struct db_ask ask, struct arena *arena,
                    struct db_rows *rows)
{
    struct db_postgres_tx *tx = (struct db_postgres_tx *)base;
    bool writes = tx->call->mode == DB_WRITE;
    struct db_postgres_exchange x =
        db_postgres_exchange_begin(tx->connection, tx->call->mode, tx->is_patient);
    err_t err;

    *rows = (struct db_rows){0};
    x.arena = arena;
    x.rows = rows;
    if (!tx->has_begun)
        db_postgres_add_command(&x, writes ? "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
                                           : "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
    tx->has_begun = true;
    db_postgres_add_statement(&x, ask);
    err = db_postgres_exchange_end(&x);
    base->trouble = x.trouble;
    return err;
}

static err_t tx_script(struct db_tx *base, const char *script)
{
    struct db_postgres_tx *tx = (struct db_postgres_tx *)base;
    struct db_postgres_exchange x = db_postgres_exchange_begin(tx->connection, DB_WRITE, true);
    err_t err = db_postgres_script(&x, script);

    base->trouble = x.trouble;
    return err;
}

/* A migration may wait for another process's, and take its time. */
static err_t tx_lock_schema(struct db_tx *base)
{
    struct db_postgres_tx *tx = (struct db_postgres_tx *)base;

    TRY(db_tx_run(base,
                  DB_ASK_PLAIN("SELECT set_config('statement_timeout', '0', true), "
                               "set_config('lock_timeout', '0', true)"),
                  NULL, NULL));
    tx->is_patient = true;
    return db_tx_run(base, DB_ASK("SELECT pg_advisory_xact_lock($1)", DB_OF_INT(LOCK_NUMBER)), NULL,
                     NULL);
}

static err_t tx_notify(struct db_tx *tx, const char *topic)
{
    return db_tx_run(
        tx, DB_ASK("SELECT pg_notify('" DB_POSTGRES_CHANNEL "', $1)", DB_OF_TEXT(str_from(topic))),
        NULL, NULL);
}

static err_t finish(struct db_postgres_tx *tx, const char *sql)
{
    struct db_postgres_exchange x =
        db_postgres_exchange_begin(tx->connection, tx->call->mode, tx->is_patient);

    db_postgres_add_command(&x, sql);
    TRY(db_postgres_exchange_end(&x));
    return NULL;
}

static err_t commit(struct db_postgres_tx *tx)
{
    struct db_postgres_exchange x =
        db_postgres_exchange_begin(tx->connection, tx->call->mode, tx->is_patient);
    struct db_call *call = tx->call;
    err_t err;

    if (!tx->has_begun)
        return NULL;
    if (pq.transaction_status(tx->connection->handle) != PQTRANS_INTRANS) {
        /* A COMMIT would roll back, and call it done. */
        call->trouble = DB_FAILED;
        return db_err(DB_FAILED, "PostgreSQL has given up the transaction");
    }
    db_postgres_add_command(&x, "COMMIT");
    err = db_postgres_exchange_end(&x);
    call->trouble = x.trouble;
    if (!tx->connection->is_broken || call->mode != DB_WRITE || call->trouble == DB_FINE)
        return err;
    call->trouble = DB_UNSURE;
    return db_err(DB_UNSURE, err->text);
}

static err_t transact(struct db *db, struct db_call *call, err_t (*fn)(struct db_tx *tx, void *arg),
                      void *arg)
{
    struct db_postgres_tx tx = {.base.db = db, .db = (struct db_postgres *)db, .call = call};
    err_t err;

    TRY(db_postgres_take(tx.db, call, &tx.connection));
    err = db_tx_play(&tx.base, fn, arg);
    call->trouble = tx.base.trouble;
    if (!err)
        err = commit(&tx);
    else if (tx.has_begun && !tx.connection->is_broken && finish(&tx, "ROLLBACK"))
        tx.connection->is_broken = true; /* closing it rolls back, too */
    db_postgres_give(tx.db, tx.connection);
    if (!err)
        db_tx_tell(&tx.base);
    return err;
}

/* ---- statements by themselves ---- */

struct single {
    struct db_ask ask;
    struct arena *arena;
    struct db_rows *rows;
};

static err_t run_single(struct db_tx *tx, void *arg)
{
    const struct single *single = arg;

    return db_tx_run(tx, single->ask, single->arena, single->rows);
}

static err_t run(struct db *base, struct db_call *call, struct db_ask ask, struct arena *arena,
                 struct db_rows *rows)
{
    struct db_postgres *db = (struct db_postgres *)base;
    struct db_postgres_connection *connection;
    struct db_postgres_exchange x;
    err_t err;

    *rows = (struct db_rows){0};
    if (call->mode == DB_WRITE)
        return transact(base, call, run_single, &(struct single){ask, arena, rows});
    TRY(db_postgres_take(db, call, &connection));
    x = db_postgres_exchange_begin(connection, call->mode, false);
    x.arena = arena;
    x.rows = rows;
    db_postgres_add_statement(&x, ask);
    err = db_postgres_exchange_end(&x);
    call->trouble = x.trouble;
    db_postgres_give(db, connection);
    return err;
}

/* ---- opening ---- */

static struct db_postgres *db_new(const struct db_options *options)
{
    struct db_postgres *db = mem_alloc_zero(MEM_STORE, sizeof(*db));
    pthread_condattr_t clock;

    if (!db)
        return NULL;
    db->url = mem_alloc(MEM_STORE, options->url.len + 1);
    if (!db->url) {
        mem_free(MEM_STORE, db, sizeof(*db));
        return NULL;
    }
    memcpy(db->url, options->url.ptr, options->url.len);
    db->url[options->url.len] = '\0';
    /* One of them listens. */
    db->limit = options->connections > 2 ? options->connections - 1 : 1;
    list_init(&db->idle);
    list_init(&db->busy);
    list_init(&db->waiters);
    pthread_mutex_init(&db->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&db->changed, &clock);
    pthread_condattr_destroy(&clock);
    return db;
}

static void db_free(struct db *base)
{
    struct db_postgres *db = (struct db_postgres *)base;

    db_postgres_listen_stop(db);
    db_postgres_pool_close(db);
    pthread_cond_destroy(&db->changed);
    pthread_mutex_destroy(&db->lock);
    mem_free(MEM_STORE, db->url, strlen(db->url) + 1);
    mem_free(MEM_STORE, db, sizeof(*db));
}

/* One connection is made here: what is wrong with the address, the password or the server shows at the start. */
static err_t open_server(const struct db_options *options, struct db **out)
{
    struct db_postgres_connection *connection;
    struct db_postgres *db;
    err_t err;

    TRY(db_postgres_library_load());
    db = db_new(options);
    if (!db)
        return err_no_memory();
    err = db_postgres_dial(db->url, &connection);
    if (err) {
        db_free(&db->base);
        return err;
    }
    db->open = 1;
    db_postgres_give(db, connection);
    *out = &db->base;
    return NULL;
}

const struct db_ops db_postgres_ops = {
    .name = "postgresql",
    .open = open_server,
    .listen = db_postgres_listen,
    .close = db_free,
    .run = run,
    .transact = transact,
    .tx_run = tx_run,
    .tx_script = tx_script,
    .tx_lock_schema = tx_lock_schema,
    .tx_notify = tx_notify,
};
