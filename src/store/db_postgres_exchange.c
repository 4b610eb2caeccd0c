/* SPDX-License-Identifier: Apache-2.0 */
/* One round trip to PostgreSQL: commands are queued in libpq (pipeline mode), sent, and their answers taken while the
 * fiber waits for the socket; outside fibers poll(2) waits.
 *
 * The hard thing is that libpq reads for itself and does not say whether it has emptied the socket, while the loop tells
 * only of what is new. So the socket is asked once more (poll without waiting) before each park. */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/sys.h"
#include "store/db_postgres.h"

/* The server ends a statement after 15 s, see dial; it has a little longer to say so. */
#define ANSWER_MS 17000

struct db_postgres_exchange db_postgres_exchange_begin(struct db_postgres_connection *connection,
                                                       enum db_mode mode, bool is_patient)
{
    return (struct db_postgres_exchange){
        .connection = connection,
        .mode = mode,
        .until_ms = is_patient ? DB_POSTGRES_FOREVER : sys_now_ms() + ANSWER_MS,
    };
}

/* ---- failures ---- */

/* The first failure counts: what follows is its consequence. */
static void fail(struct db_postgres_exchange *x, enum db_trouble trouble, err_t err)
{
    if (x->err)
        return;
    x->trouble = trouble;
    x->err = err;
}

/* The connection is of no use any more. */
static void lose(struct db_postgres_exchange *x)
{
    char space[256];

    x->connection->is_broken = true;
    if (!x->err)
        fail(x, DB_AGAIN,
             db_err(DB_AGAIN, db_postgres_message(x->connection->handle, space, sizeof(space))));
}

/* A wait has failed: it took too long, or the fiber may not wait any more, which is its own affair. */
static void stop_waiting(struct db_postgres_exchange *x, err_t err)
{
    x->connection->is_broken = true;
    if (err == &fiber_wait_over) {
        fail(x, DB_AGAIN, db_err(DB_AGAIN, "PostgreSQL has not answered in time"));
        return;
    }
    x->trouble = DB_FINE;
    x->err = err;
}

/* ---- waiting ---- */

/* poll(2)'s time limit; for a fiber that has taken the connection it only looks. */
static int patience_ms(const struct db_postgres_exchange *x)
{
    uint64_t now_ms = sys_now_ms();

    if (x->connection->fiber)
        return 0;
    if (x->until_ms == DB_POSTGRES_FOREVER)
        return -1;
    return x->until_ms > now_ms ? (int)(x->until_ms - now_ms) : 0;
}

/* PARKS until the socket is ready for one of `events`. Errors: as fiber_park. */
static err_t wait_for(struct db_postgres_exchange *x, short events)
{
    struct pollfd at = {.fd = pq.socket(x->connection->handle), .events = events};

    for (;;) {
        int n = poll(&at, 1, patience_ms(x));
        if (n > 0)
            return NULL;
        if (n < 0 && errno != EINTR)
            return err_system(errno, "poll");
        if (x->connection->fiber)
            TRY(fiber_park(x->until_ms));
        else if (sys_now_ms() >= x->until_ms)
            return &fiber_wait_over;
    }
}

/* ---- sending ---- */

void db_postgres_add_command(struct db_postgres_exchange *x, const char *sql)
{
    if (x->err)
        return;
    if (!pq.send_params(x->connection->handle, sql, 0, NULL, NULL, NULL, NULL, 1))
        lose(x);
    else
        x->parts[x->part_count++] = DB_PART_COMMAND;
}

static void send_statement(struct db_postgres_exchange *x, const struct buf *sql)
{
    const struct db_postgres_values *values = &x->connection->values;
    const struct db_postgres_statement *statement = x->statement;
    PGconn *handle = x->connection->handle;
    int count = (int)statement->count;

    if (!statement->is_prepared) {
        if (!pq.send_prepare(handle, statement->name, sql->ptr, count, statement->types)) {
            lose(x);
            return;
        }
        x->parts[x->part_count++] = DB_PART_PREPARE;
    }
    if (!pq.send_prepared(handle, statement->name, count, values->pointers, values->lengths,
                          values->formats, 1))
        lose(x);
    else
        x->parts[x->part_count++] = DB_PART_STATEMENT;
}

void db_postgres_add_statement(struct db_postgres_exchange *x, struct db_ask ask)
{
    struct buf sql;
    err_t err;

    if (x->err)
        return;
    err = db_postgres_lay_out(x->connection, ask, &sql, &x->statement);
    if (err)
        fail(x, err_is(err, ERR_BUG) ? DB_WRONG : DB_FINE, err);
    else
        send_statement(x, &sql);
    buf_fini(&sql);
}

/* What does not go at once goes while we also read: the server may wait for us to do so. */
static err_t flush(struct db_postgres_exchange *x)
{
    PGconn *handle = x->connection->handle;
    int left;

    while ((left = pq.flush(handle)) > 0) {
        TRY(wait_for(x, POLLIN | POLLOUT));
        if (!pq.consume_input(handle))
            break;
    }
    if (left)
        lose(x);
    return NULL;
}

/* ---- answers ---- */

static uint64_t changed_by(PGresult *result)
{
    uint64_t n;

    /* The number of rows that a SELECT gave is there, too. */
    if (strncmp(pq.cmd_status(result), "SELECT", 6) == 0 ||
        !str_to_u64(str_from(pq.cmd_tuples(result)), &n))
        return 0;
    return n;
}

static void take_rows(struct db_postgres_exchange *x, PGresult *result)
{
    err_t err = NULL;

    if (x->arena)
        err = db_postgres_read_rows(result, x->arena, x->rows);
    if (err)
        fail(x, err_is(err, ERR_BUG) ? DB_WRONG : DB_FINE, err);
    x->rows->changed = changed_by(result);
}

static void take_failure(struct db_postgres_exchange *x, enum db_postgres_part part,
                         const PGresult *result)
{
    const char *state = pq.result_error_field(result, PG_DIAG_SQLSTATE);
    const char *text = pq.result_error_field(result, PG_DIAG_MESSAGE_PRIMARY);
    enum db_trouble trouble = db_postgres_trouble(state, x->mode);

    if (!state) {
        lose(x);
        return;
    }
    /* What a first preparation finds unsupported is our mistake, and no matter of age. */
    if (part == DB_PART_PREPARE && strcmp(state, "0A000") == 0)
        trouble = DB_WRONG;
    else if (strcmp(state, "0A000") == 0 || strcmp(state, "26000") == 0 ||
             (trouble == DB_AGAIN && strcmp(state, "25006") == 0))
        x->connection->is_broken = true;
    if (trouble == DB_LONG)
        text = db_too_long;
    fail(x, trouble, db_err(trouble, text ? text : state));
}

static void take(struct db_postgres_exchange *x, enum db_postgres_part part, PGresult *result)
{
    switch (pq.result_status(result)) {
    case PGRES_COMMAND_OK:
    case PGRES_TUPLES_OK:
        if (part == DB_PART_PREPARE)
            x->statement->is_prepared = true;
        else if (part == DB_PART_STATEMENT)
            take_rows(x, result);
        break;
    case PGRES_PIPELINE_ABORTED:
        break;
    case PGRES_EMPTY_QUERY:
        fail(x, DB_WRONG, db_err(DB_WRONG, "a statement is empty"));
        break;
    case PGRES_FATAL_ERROR:
        take_failure(x, part, result);
        break;
    default: /* COPY and the like, which no statement of ours begins */
        lose(x);
    }
}

/* PARKS: the next result; NULL at the end of a part's, or when the connection is broken. */
static PGresult *next_result(struct db_postgres_exchange *x)
{
    PGconn *handle = x->connection->handle;

    while (pq.is_busy(handle)) {
        err_t err = wait_for(x, POLLIN);
        if (err) {
            stop_waiting(x, err);
            return NULL;
        }
        if (!pq.consume_input(handle)) {
            lose(x);
            return NULL;
        }
    }
    return pq.get_result(handle);
}

/* PARKS: take all answers up to the one that ends the pipeline. */
static void take_all(struct db_postgres_exchange *x)
{
    while (!x->connection->is_broken) {
        PGresult *result = next_result(x);
        bool is_end = result && pq.result_status(result) == PGRES_PIPELINE_SYNC;

        if (is_end || (!result && x->part_at > x->part_count)) {
            pq.clear(result);
            if (!is_end && !x->connection->is_broken)
                lose(x);
            return;
        }
        if (result)
            take(x, x->parts[x->part_at < DB_POSTGRES_PARTS_MAX ? x->part_at : 0], result);
        else
            x->part_at++;
        pq.clear(result);
        if (pq.status(x->connection->handle) == CONNECTION_BAD)
            lose(x);
    }
}

err_t db_postgres_exchange_end(struct db_postgres_exchange *x)
{
    PGconn *handle = x->connection->handle;
    err_t err;

    if (x->part_count == 0)
        return x->err;
    /* Whatever was put together must be sent, for its answers are expected. */
    if (!x->connection->is_broken && !pq.pipeline_sync(handle))
        lose(x);
    if (x->connection->is_broken)
        return x->err;
    atomic_store(&x->connection->asked_ms, sys_now_ms());
    err = flush(x);
    if (err)
        stop_waiting(x, err);
    take_all(x);
    atomic_store(&x->connection->asked_ms, 0);
    return x->err;
}

err_t db_postgres_script(struct db_postgres_exchange *x, const char *script)
{
    PGconn *handle = x->connection->handle;
    PGresult *result;
    err_t err;

    if (!pq.exit_pipeline(handle) || !pq.send_query(handle, script)) {
        lose(x);
        return x->err;
    }
    err = flush(x);
    if (err)
        stop_waiting(x, err);
    while (!x->connection->is_broken && (result = next_result(x))) {
        take(x, DB_PART_COMMAND, result);
        pq.clear(result);
        if (pq.status(handle) == CONNECTION_BAD)
            lose(x);
    }
    if (!x->connection->is_broken && !pq.enter_pipeline(handle))
        lose(x);
    return x->err;
}
