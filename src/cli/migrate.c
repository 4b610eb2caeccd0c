/* SPDX-License-Identifier: Apache-2.0 */
/* sluice migrate: carry a whole store over into another database.
 *
 * All tables are read in one transaction of the source, as of one moment, and written, read again and compared in one of
 * the target: it holds everything or, whatever fails, nothing.
 *
 * The hard thing is what an empty target is, for the schema brings rows of its own. It is one that holds exactly what a
 * new database holds, so a new one is made, in a temporary folder, to compare with. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/migrate_table.h"
#include "fiber/offload.h"
#include "observe/log.h"

#define ARENA_MAX_BYTES ((size_t)64 * 1024 * 1024)
#define PATH_MAX_BYTES  1024
#define CONNECTIONS     2

struct migrate {
    const char *from, *to;
    char folder[64]; /* of the new database; empty: not made */
    struct arena *arena;
    struct db *source, *target, *fresh;
    struct migrate_table *tables;
    size_t table_count;
    struct migrate_sum *sums;
    struct db_tx *source_tx;
};

/* ---- databases ---- */

/* sqlite: with a path from the root. Errors: CONFIG. */
static err_t settle(struct arena *arena, const char **url)
{
    char folder[PATH_MAX_BYTES];

    if (strncmp(*url, "sqlite:", 7) != 0 || (*url)[7] == '/' || (*url)[7] == '\0')
        return NULL;
    if (!getcwd(folder, sizeof(folder)))
        return err_new(ERR_SYSTEM, "the working directory has no path");
    *url = arena_printf(arena, "sqlite:%s/%s", folder, *url + 7);
    return *url ? NULL : arena_err(arena);
}

static err_t open_one(const char *role, const char *url, struct db **out)
{
    err_t err =
        db_open(&(struct db_options){.url = str_from(url), .connections = CONNECTIONS}, out);

    return err_wrap(err, "%s", role);
}

static err_t open_fresh(struct migrate *m)
{
    const char *place = getenv("TMPDIR");
    char url[128];

    if (!place || strlen(place) > 32)
        place = "/tmp";
    snprintf(m->folder, sizeof(m->folder), "%s/sluice-migrate-XXXXXX", place);
    if (!mkdtemp(m->folder)) {
        m->folder[0] = '\0';
        return err_new(ERR_SYSTEM, "no temporary folder can be made in %s", place);
    }
    snprintf(url, sizeof(url), "sqlite:%s/fresh.db", m->folder);
    return open_one("a new database", url, &m->fresh);
}

static err_t open_all(struct migrate *m)
{
    TRY(settle(m->arena, &m->from));
    TRY(settle(m->arena, &m->to));
    if (strcmp(m->from, m->to) == 0)
        return err_new(ERR_CONFIG, "--from and --to are the same database");
    if (strncmp(m->from, "sqlite:", 7) == 0 && access(m->from + 7, F_OK) != 0)
        return err_new(ERR_CONFIG, "--from: there is no %s", m->from + 7);
    TRY(open_one("--from", m->from, &m->source));
    TRY(open_one("--to", m->to, &m->target));
    return open_fresh(m);
}

static void remove_folder(const char *path)
{
    DIR *folder = opendir(path);
    struct dirent *entry;

    while (folder && (entry = readdir(folder)))
        if (entry->d_name[0] != '.' || strlen(entry->d_name) > 2)
            unlinkat(dirfd(folder), entry->d_name, 0);
    if (folder)
        closedir(folder);
    rmdir(path);
}

static void close_all(struct migrate *m)
{
    db_close(m->source);
    db_close(m->target);
    db_close(m->fresh);
    offload_stop_all();
    if (m->folder[0])
        remove_folder(m->folder);
}

/* ---- copying ---- */

static bool is_equal(struct migrate_sum a, struct migrate_sum b)
{
    return a.rows == b.rows && a.hash == b.hash;
}

/* What a new database holds. */
static err_t sum_up_fresh(struct db_tx *tx, void *arg)
{
    struct migrate *m = arg;

    for (size_t i = 0; i < m->table_count; i++)
        TRY(migrate_read(&m->tables[i], tx, NULL, &m->sums[i]));
    return NULL;
}

static err_t check_is_empty(struct migrate *m, struct db_tx *target)
{
    struct migrate_sum sum;

    for (size_t i = 0; i < m->table_count; i++) {
        TRY(migrate_read(&m->tables[i], target, NULL, &sum));
        if (!is_equal(sum, m->sums[i]))
            return err_new(ERR_CONFIG,
                           "--to is in use: its table %.*s holds %llu rows: give an empty database",
                           STR_ARG(m->tables[i].name), (unsigned long long)sum.rows);
    }
    return NULL;
}

/* Copy a table and read the copy again. */
static err_t copy_table(const struct migrate_table *table, struct db_tx *source,
                        struct db_tx *target, struct migrate_sum *sum)
{
    struct migrate_sum copied;

    TRY(migrate_read(table, source, target, sum));
    TRY(migrate_read(table, target, NULL, &copied));
    if (is_equal(*sum, copied))
        return NULL;
    return err_new(
        ERR_STORE, "the copy of table %.*s differs (%llu rows of %llu): nothing was written",
        STR_ARG(table->name), (unsigned long long)copied.rows, (unsigned long long)sum->rows);
}

static err_t write_target(struct db_tx *tx, void *arg)
{
    struct migrate *m = arg;

    TRY(check_is_empty(m, tx));
    for (size_t i = m->table_count; i > 0; i--)
        TRY(db_tx_run(tx, DB_ASK_PLAIN(m->tables[i - 1].delete_all), NULL, NULL));
    for (size_t i = 0; i < m->table_count; i++) {
        struct migrate_sum sum;
        TRY(copy_table(&m->tables[i], m->source_tx, tx, &sum));
        printf("%-24.*s %llu rows\n", STR_ARG(m->tables[i].name), (unsigned long long)sum.rows);
        fflush(stdout);
    }
    return NULL;
}

static err_t read_source(struct db_tx *tx, void *arg)
{
    struct migrate *m = arg;

    TRY(migrate_list(tx, m->arena, &m->tables, &m->table_count));
    m->sums = arena_alloc_array(m->arena, m->table_count, sizeof(*m->sums));
    if (!m->sums)
        return arena_err(m->arena);
    TRY(db_transact(m->fresh, DB_READ, sum_up_fresh, m));
    m->source_tx = tx;
    return db_transact(m->target, DB_WRITE, write_target, m);
}

static err_t migrate(struct migrate *m)
{
    static const struct log_options only_warnings = {.level = LOG_WARN};

    TRY(log_open(&only_warnings));
    TRY(open_all(m));
    TRY(db_transact(m->source, DB_READ, read_source, m));
    printf("%zu tables are copied from %s to %s, and compared. Set `store` to the new address "
           "before the "
           "next start.\n",
           m->table_count, db_backend(m->source), db_backend(m->target));
    return NULL;
}

/* ---- the command ---- */

static int run(struct migrate *m)
{
    struct arena *scope;
    int exit_code;
    err_t err;

    m->arena = arena_new(MEM_TOOL, ARENA_MAX_BYTES);
    if (!m->arena)
        return command_fail("migrate", err_no_memory());
    scope = err_scope_set(m->arena);
    err = migrate(m);
    exit_code = err ? command_fail("migrate", err) : COMMAND_OK;
    close_all(m);
    err_scope_set(scope);
    arena_free(m->arena);
    return exit_code;
}

int command_migrate(int argc, char **argv)
{
    struct migrate m = {0};

    for (int i = 1; i < argc; i++) {
        bool is_from = strcmp(argv[i], "--from") == 0;
        if (!is_from && strcmp(argv[i], "--to") != 0)
            return command_misuse("migrate", "unknown word", argv[i]);
        if (i + 1 == argc)
            return command_misuse("migrate", "a store's address must follow", argv[i]);
        *(is_from ? &m.from : &m.to) = argv[i + 1];
        i++;
    }
    if (!m.from || !m.to)
        return command_misuse("migrate", "both --from and --to are needed", NULL);
    return run(&m);
}
