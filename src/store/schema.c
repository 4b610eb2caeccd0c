/* SPDX-License-Identifier: Apache-2.0 */
/* The schema: migrations in the order of their numbers, each applied once, each a transaction of its own.
 *
 * Whoever is killed half-way has done whole migrations only; the next start does the rest. A database with a migration
 * that this program does not know is a newer one's, and is refused. */
#include <string.h>

#include "base/sys.h"
#include "observe/log.h"
#include "store/db_private.h"

#define SCRIPT_MAX_BYTES ((size_t)1024 * 1024)

/* One migration, or only the look at what was applied. */
struct step {
    const struct db_migration *list;
    unsigned count, at; /* at == count: nothing to apply */
    bool may_change, is_done;
    struct arena *arena;
};

/* What is applied must be the beginning of our list, in number and name. */
static err_t compare(const struct step *step, const struct db_rows *applied)
{
    for (size_t i = 0; i < applied->count; i++) {
        const struct db_migration *own = i < step->count ? &step->list[i] : NULL;
        struct str name = db_text(applied, i, 1);
        if (!own || db_int(applied, i, 0) > (int64_t)step->list[step->count - 1].number)
            return err_new(ERR_STORE,
                           "the database has a newer schema (%.*s) than this version of Sluice: "
                           "start a newer version, or restore a backup from before it",
                           STR_ARG(db_text(applied, applied->count - 1, 1)));
        if (db_int(applied, i, 0) != (int64_t)own->number || !str_eq(name, str_from(own->name)))
            return err_new(ERR_STORE,
                           "the database has the schema %.*s where this version of Sluice has %s: "
                           "it belongs to another build",
                           STR_ARG(name), own->name);
    }
    return NULL;
}

static err_t apply(struct db_tx *tx, const struct db_migration *migration)
{
    struct buf script = buf_make(MEM_STORE, SCRIPT_MAX_BYTES);
    err_t err = db_expand(tx->db->ops, migration->sql, &script);

    if (!err)
        err = tx->db->ops->tx_script(tx, script.ptr);
    buf_fini(&script);
    if (err)
        return err_wrap(err, "schema %s", migration->name);
    return db_tx_run(tx,
                     DB_ASK("INSERT INTO schema_migrations (number, name, applied_ms) "
                            "VALUES ($1, $2, $3)",
                            DB_OF_INT(migration->number), DB_OF_TEXT(str_from(migration->name)),
                            DB_OF_INT(sys_wall_ms())),
                     NULL, NULL);
}

static err_t take_step(struct db_tx *tx, void *arg)
{
    struct step *step = arg;
    struct db_rows applied;

    if (step->may_change) {
        if (tx->db->ops->tx_lock_schema)
            TRY(tx->db->ops->tx_lock_schema(tx));
        TRY(db_tx_run(tx,
                      DB_ASK_PLAIN("CREATE TABLE IF NOT EXISTS schema_migrations ("
                                   "number BIGINT PRIMARY KEY, name TEXT NOT NULL, "
                                   "applied_ms BIGINT NOT NULL)"),
                      NULL, NULL));
    }
    TRY(db_tx_run(tx, DB_ASK_PLAIN("SELECT number, name FROM schema_migrations ORDER BY number"),
                  step->arena, &applied));
    TRY(compare(step, &applied));
    step->is_done = applied.count == step->count;
    if (step->is_done)
        return NULL;
    if (!step->may_change)
        return err_new(ERR_STORE, "the database has an older schema: start `sluice serve` once, "
                                  "which brings it up to date");
    step->at = (unsigned)applied.count;
    return apply(tx, &step->list[step->at]);
}

err_t db_schema_update(struct db *db, const struct db_migration *list, unsigned count)
{
    struct step step = {.list = list, .count = count, .may_change = true};
    err_t err = NULL;

    while (!err && !step.is_done) {
        step.arena = arena_new(MEM_STORE, SCRIPT_MAX_BYTES);
        err = step.arena ? db_transact(db, DB_WRITE, take_step, &step) : err_no_memory();
        arena_free(step.arena);
        if (err || step.is_done)
            break;
        log_begin(LOG_INFO, "schema brought up to date");
        log_cstr("migration", list[step.at].name);
        log_end();
    }
    return err;
}

err_t db_schema_check(struct db *db, const struct db_migration *list, unsigned count)
{
    struct step step = {
        .list = list, .count = count, .arena = arena_new(MEM_STORE, SCRIPT_MAX_BYTES)};
    err_t err = step.arena ? db_transact(db, DB_READ, take_step, &step) : err_no_memory();

    arena_free(step.arena);
    if (err_is(err, ERR_BUG)) /* there is no table of migrations */
        return err_new(ERR_STORE, "the database is not one of Sluice's yet: start `sluice serve` "
                                  "on it once");
    return err;
}
