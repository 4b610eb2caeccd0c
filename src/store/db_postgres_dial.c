/* SPDX-License-Identifier: Apache-2.0 */
/* Connecting to PostgreSQL: a connection as every caller expects it, or a text that says what to do.
 *
 * libpq looks names up, reads password files and certificates and does sums for passwords while it connects, and tries
 * the hosts of the address in turn: it blocks, and so it is done in a thread of a pool.
 *
 * The hard thing is that libpq closes a lost connection's socket by itself. The loop cannot be told to forget a descriptor
 * that is closed already, but it goes on with its events as long as a child that is just being started holds a copy, so what
 * the loop watches is a duplicate of our own. */
#include <errno.h>
#include <string.h>

#include "base/mem.h"
#include "base/sys.h"
#include "observe/log.h"
#include "store/db_postgres.h"

#define OLDEST_VERSION 130000

/* What the address does not say. A standby is no use to us; a host that is gone is noticed within 15 s. */
static const char *const defaults[][2] = {
    {"connect_timeout", "3"},
    {"keepalives_idle", "10"},
    {"keepalives_interval", "5"},
    {"keepalives_count", "3"},
    {"tcp_user_timeout", "15000"},
    {"target_session_attrs", "primary"},
    {"fallback_application_name", "sluice"},
};
#define DEFAULT_COUNT (sizeof(defaults) / sizeof(*defaults))

/* Statements by themselves cannot write. A commit that is acknowledged is on disk, whatever the server's default. */
static const char session[] =
    "SET default_transaction_read_only = on; SET statement_timeout = '15s'; SET lock_timeout = "
    "'4s'; "
    "SET idle_in_transaction_session_timeout = '60s'; SET client_min_messages = warning; "
    "SELECT set_config('synchronous_commit', 'on', false) "
    "WHERE current_setting('synchronous_commit') = 'off'";

/* What not every server knows. Whoever is gone holds no locks; who only listens, or is not needed now, stays: both from
 * version 14 on, the first on Linux. */
static const char *const wishes[] = {
    "SET client_connection_check_interval = '1s'",
    "SET idle_session_timeout = 0",
};

static void on_notice(void *arg, const PGresult *result)
{
    const char *text = pq.result_error_field(result, PG_DIAG_MESSAGE_PRIMARY);

    log_begin(LOG_WARN, "postgresql");
    log_cstr("text", text ? text : "");
    log_end();
}

static PGconn *connect_to(const char *url)
{
    const char *names[DEFAULT_COUNT + 3], *values[DEFAULT_COUNT + 3];
    size_t n = 0;

    for (; n < DEFAULT_COUNT; n++) {
        names[n] = defaults[n][0];
        values[n] = defaults[n][1];
    }
    names[n] = "dbname"; /* stands for the whole address, and goes before what stands above it */
    values[n++] = url;
    names[n] = "client_encoding";
    values[n++] = "UTF8";
    names[n] = values[n] = NULL;
    return pq.connect(names, values, 1);
}

/* ---- is it one that we can use? ---- */

/* What to do about it, where libpq does not say so, or suggests to trust everybody. */
static const struct hint {
    const char *said, *text;
} hints[] = {
    {"certificate verify failed",
     ": its certificate is not of an authority in the file that sslrootcert names"},
    {"root certificate file",
     ": name the file of the server's authority: sslrootcert=FILE in `store`"},
    {"no encryption",
     ": the server wants TLS: sslmode=verify-full and sslrootcert=FILE in `store`"},
};

static const char *hint_for(PGconn *handle, const char *text)
{
    if (handle && pq.needs_password(handle))
        return ": put the password into `store`, into $PGPASSWORD, or into the file that "
               "$PGPASSFILE names";
    for (size_t i = 0; i < sizeof(hints) / sizeof(*hints); i++)
        if (strstr(text, hints[i].said))
            return hints[i].text;
    return "";
}

static err_t refusal(PGconn *handle)
{
    char space[1024];
    const char *text = db_postgres_message(handle, space, sizeof(space));

    return err_new(ERR_STORE, "PostgreSQL: %s%s", text, hint_for(handle, text));
}

static err_t check_server(PGconn *handle)
{
    const char *encoding = pq.parameter_status(handle, "server_encoding");
    int version = pq.server_version(handle);

    if (version < OLDEST_VERSION)
        return err_new(ERR_STORE,
                       "PostgreSQL %d is too old for the store: version %d or later is needed",
                       version / 10000, OLDEST_VERSION / 10000);
    if (!encoding || strcmp(encoding, "UTF8") != 0)
        return err_new(ERR_STORE,
                       "PostgreSQL: the database has the encoding %s: make one with CREATE "
                       "DATABASE … ENCODING 'UTF8' TEMPLATE template0",
                       encoding ? encoding : "(unknown)");
    return NULL;
}

static err_t run_script(struct db_postgres_connection *connection, const char *sql)
{
    struct db_postgres_exchange x = db_postgres_exchange_begin(connection, DB_WRITE, false);

    return db_postgres_script(&x, sql);
}

static err_t set_up(struct db_postgres_connection *connection)
{
    PGconn *handle = connection->handle;
    err_t refused = NULL;

    TRY(check_server(handle));
    pq.set_notice_receiver(handle, on_notice, NULL);
    if (pq.set_nonblocking(handle, 1) < 0 || !pq.enter_pipeline(handle))
        return refusal(handle);
    connection->socket_fd = sys_dup(pq.socket(handle));
    if (connection->socket_fd < 0)
        return err_system(errno, "PostgreSQL: dup");
    TRY(run_script(connection, session));
    for (size_t i = 0; i < sizeof(wishes) / sizeof(*wishes) && !connection->is_broken; i++)
        refused = run_script(connection, wishes[i]);
    return connection->is_broken ? refused : NULL;
}

err_t db_postgres_dial(const char *url, struct db_postgres_connection **out)
{
    struct db_postgres_connection *connection = mem_alloc_zero(MEM_STORE, sizeof(*connection));
    err_t err = NULL;

    *out = NULL;
    if (!connection)
        return err_no_memory();
    list_init(&connection->link);
    connection->watch.fd = connection->socket_fd = -1;
    connection->handle = connect_to(url);
    if (!connection->handle || pq.status(connection->handle) != CONNECTION_OK)
        err = refusal(connection->handle);
    if (!err)
        err = set_up(connection);
    if (err)
        db_postgres_hang_up(connection);
    else
        *out = connection;
    return err;
}

void db_postgres_hang_up(struct db_postgres_connection *connection)
{
    if (!connection)
        return;
    watch_release(&connection->watch);
    pq.finish(connection->handle);
    if (connection->socket_fd >= 0)
        sys_close(connection->socket_fd);
    db_postgres_forget(connection);
    mem_free(MEM_STORE, connection, sizeof(*connection));
}
