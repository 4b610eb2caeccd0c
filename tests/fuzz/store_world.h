/* SPDX-License-Identifier: Apache-2.0 */
/* A store to fuzz: SQLite's, in a new file, with a table of its own beside the program's. Each statement is laid out for
 * PostgreSQL before SQLite runs it. A census tells whether anything else in the database has changed. */
#ifndef TESTS_FUZZ_STORE_WORLD_H
#define TESTS_FUZZ_STORE_WORLD_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "observe/log.h"
#include "postgres_wire.h"

static char folder[64];
static struct db *db;
static struct arena *arena;

/* ---- asking ---- */

static struct db_rows run(enum db_mode mode, struct db_ask ask)
{
    struct db_rows rows = {0};

    check(!db_run(db, mode, ask, arena, &rows));
    return rows;
}

#define TABLES 64

/* How many rows each table has (in the order of `tables`), and then what is there from the beginning. */
static char census[8192];
static struct {
    size_t count;
    char names[TABLES][64];
} tables;

/* The statement for all tables that there are: made once, as statements are known by their address. */
static void make_census(void)
{
    struct db_rows rows = run(DB_READ, DB_ASK_PLAIN("SELECT name FROM sqlite_schema WHERE type = "
                                                    "'table' AND name NOT LIKE 'sqlite%'"));
    size_t len = (size_t)snprintf(census, sizeof(census), "SELECT ");

    check(rows.count >= 18 && rows.count <= TABLES);
    for (size_t i = 0; i < rows.count; i++) {
        snprintf(tables.names[i], sizeof(tables.names[i]), "%.*s", STR_ARG(db_text(&rows, i, 0)));
        len += (size_t)snprintf(census + len, sizeof(census) - len, "(SELECT count(*) FROM %s), ",
                                tables.names[i]);
    }
    tables.count = rows.count;
    snprintf(census + len, sizeof(census) - len,
             "(SELECT group_concat(id || name || deleted_ms) FROM orgs WHERE id = 'default'), "
             "(SELECT group_concat(id || org_id || name || tier || limits || budgets) "
             "FROM projects WHERE id = 'default'), "
             "(SELECT group_concat(version + tenants + users) FROM identity_version), "
             "(SELECT group_concat(type || name || coalesce(sql, '')) FROM sqlite_schema)");
}

static bool is_same(const struct db_value *a, const struct db_value *b)
{
    return a->type == b->type && a->number == b->number && str_eq(a->bytes, b->bytes);
}

/* The tables named (up to NULL) have one row more; all else is as it was. */
static void compare_census(const struct db_rows *before, const struct db_rows *after,
                           const char *const *grown)
{
    check(before->count == 1 && after->count == 1 && before->columns == after->columns);
    for (size_t i = 0; i < before->columns; i++) {
        struct db_value expected = *db_cell(before, 0, i);
        for (const char *const *name = grown; i < tables.count && *name; name++)
            expected.number += strcmp(*name, tables.names[i]) == 0;
        check(is_same(&expected, db_cell(after, 0, i)));
    }
}

/* ---- the database ---- */

/* Every statement of the program is laid out for PostgreSQL, and then SQLite runs it. */
static err_t run_both(struct db *own, struct db_call *call, struct db_ask ask, struct arena *to,
                      struct db_rows *rows)
{
    wire_send(ask);
    return db_sqlite_ops.run(own, call, ask, to, rows);
}

static err_t tx_run_both(struct db_tx *tx, struct db_ask ask, struct arena *to,
                         struct db_rows *rows)
{
    wire_send(ask);
    return db_sqlite_ops.tx_run(tx, ask, to, rows);
}

static void remove_folder(void)
{
    char command[96];

    db_close(db);
    snprintf(command, sizeof(command), "rm -r %s", folder);
    check(system(command) == 0);
}

/* In memory if it may be: a commit waits for the disk. */
static void store_open(void)
{
    static struct db_ops both;
    char url[96];

    check(!log_open(&(struct log_options){.level = LOG_ERROR}));
    snprintf(folder, sizeof(folder), "%s/sluice-values.XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    check(mkdtemp(folder));
    snprintf(url, sizeof(url), "sqlite:%s/sluice.db", folder);
    check(!db_open(&(struct db_options){.url = str_from(url)}, &db));
    check(atexit(remove_folder) == 0);
    wire_open();
    both = db_sqlite_ops;
    both.run = run_both;
    both.tx_run = tx_run_both;
    db->ops = &both;
    run(DB_WRITE, DB_ASK_PLAIN("CREATE TABLE nasty (n BIGINT, t TEXT, b {{blob}})"));
    make_census();
}

#endif
