/* SPDX-License-Identifier: Apache-2.0 */
/* Adding groups up in memory and writing the sums slot by slot.
 *
 * Each write is one transaction, which also moves the groups' mark behind the slots that it wrote, so a row is either behind
 * the mark or in the sums, at every moment and wherever this is broken off. Groups are added up as they are committed; those
 * whose sums memory has not, as they are another's or were lost with a failure, are read.
 *
 * The hard thing is that two may do it at once: a group belongs to one writer, who committed it or took it over when its
 * own had not come back to it for long. A writer who does come back finds fewer groups to mark than it added up, and
 * writes nothing. */
#include "govern/ledger_fold.h"

#include <stdio.h>

#include "fiber/fiber.h"
#include "govern/ledger_close.h"
#include "govern/ledger_sum.h"
#include "govern/service.h"
#include "observe/log.h"

/* So many rows change few pages for each; and add little to the time that a report takes. */
#define FOLD_ROWS 262144
/* So many groups are marked at once. */
#define FOLD_GROUPS 16384
#define EVERY_MS    (UINT64_C(3600) * 1000)
#define TAKE_MS     (2 * EVERY_MS)
#define LOOK_MS     1000
/* What is read at once. */
#define READ_ROWS  2048
#define READ_BYTES ((size_t)16 * 1024 * 1024)
/* What is added up at once. */
#define MAX_SUMS      262144
#define MAX_SUM_BYTES ((size_t)128 * 1024 * 1024)
/* The store is busy with so many for some 50 ms. */
#define WRITE_SUMS 8192

/* Groups of one writer, one after the other, known by their first rows. */
struct generation {
    struct ledger_sums sums; /* without an arena: of nothing */
    size_t groups, rows;
    int64_t first_id, last_id; /* -1 before there are any */
};

/* What this process has committed; of the main thread, where the ledger's fiber and this one's run. */
static struct generation own;
/* Own groups up to this one must be read. */
static int64_t lost_id;

/* ---- adding up ---- */

static err_t begin(struct generation *g)
{
    struct arena *arena = arena_new(MEM_GOVERN, MAX_SUM_BYTES);

    *g = (struct generation){.first_id = -1, .last_id = -1};
    return arena ? ledger_sum_begin(arena, &g->sums) : err_no_memory();
}

static void end(struct generation *g)
{
    arena_free(g->sums.arena);
    *g = (struct generation){0};
}

static void note(struct generation *g, int64_t first_id, int64_t last_id, size_t groups)
{
    if (g->groups == 0)
        g->first_id = first_id;
    g->last_id = last_id;
    g->groups += groups;
}

static err_t add_group(struct generation *g, const struct ledger_group *group)
{
    if (!g->sums.arena)
        TRY(begin(g));
    TRY(ledger_sum_add_group(&g->sums, group));
    note(g, group->pending.first_id, group->pending.first_id, 1);
    g->rows += group->count;
    return NULL;
}

void ledger_fold_note(const struct ledger_group *group)
{
    if (!add_group(&own, group))
        return;
    lost_id = group->pending.first_id;
    end(&own);
}

/* ---- reading ---- */

struct folding {
    struct db *db;
    struct str writer; /* of the groups */
    struct generation of;
    unsigned begin, end; /* slots of the write in progress */
    struct arena *batch;
};

/* Whose groups are read: those that nobody has added up have this writer, who commits none. */
static struct str reader(char buf[48])
{
    snprintf(buf, 48, "%s-read", ledger_writer());
    return str_from(buf);
}

static err_t take_over(const struct folding *f)
{
    return db_run(f->db, DB_WRITE,
                  DB_ASK("UPDATE usage_pending SET writer = $1, at_ms = {{now_ms}} "
                         "WHERE writer <> $1 AND ((writer = $2 AND first_id <= $3) OR "
                         "(writer <> $2 AND at_ms < {{now_ms}} - $4))",
                         DB_OF_TEXT(f->writer), DB_OF_TEXT(str_from(ledger_writer())),
                         DB_OF_INT(lost_id), DB_OF_INT(TAKE_MS)),
                  NULL, NULL);
}

/* Rows of the groups that begin with these ids. */
static err_t read_rows(struct folding *f, int64_t first_id, int64_t last_id)
{
    struct db_rows rows;

    arena_reset(f->batch);
    TRY(db_run(f->db, DB_READ,
               DB_ASK("SELECT " LEDGER_SUM_COLUMNS " FROM usage_recent "
                      "WHERE writer = $1 AND first_id >= $2 AND first_id <= $3",
                      DB_OF_TEXT(f->writer), DB_OF_INT(first_id), DB_OF_INT(last_id)),
               f->batch, &rows));
    return ledger_sum_add_rows(&f->of.sums, &rows);
}

/* As many groups as READ_ROWS have room for, at least one. *is_all: there are no more. */
static err_t read_batch(struct folding *f, bool *is_all)
{
    struct db_rows groups;
    size_t count = 0, rows = 0;

    arena_reset(f->batch);
    TRY(db_run(f->db, DB_READ,
               DB_ASK("SELECT first_id, last_id FROM usage_pending WHERE writer = $1 AND "
                      "first_id > $2 ORDER BY first_id LIMIT $3",
                      DB_OF_TEXT(f->writer), DB_OF_INT(f->of.last_id), DB_OF_INT(READ_ROWS)),
               f->batch, &groups));
    *is_all = groups.count == 0;
    if (*is_all)
        return NULL;
    while (count < groups.count && (count == 0 || rows < READ_ROWS)) {
        rows += (size_t)(db_int(&groups, count, 1) - db_int(&groups, count, 0)) + 1;
        count++;
    }
    int64_t first_id = db_int(&groups, 0, 0), last_id = db_int(&groups, count - 1, 0);
    TRY(read_rows(f, first_id, last_id));
    note(&f->of, first_id, last_id, count);
    return NULL;
}

/* ---- writing ---- */

#define OF_GENERATION "WHERE writer = $1 AND first_id >= $2 AND first_id <= $3"

/* The groups have these slots' rows in the sums; they must be as many as were added up. */
static err_t mark(struct db_tx *tx, const struct folding *f)
{
    struct db_value writer = DB_OF_TEXT(f->writer), first = DB_OF_INT(f->of.first_id),
                    last = DB_OF_INT(f->of.last_id);
    struct db_rows rows;

    if (f->end < LEDGER_SLOTS) {
        TRY(db_tx_run(tx,
                      DB_ASK("UPDATE usage_pending SET at_ms = {{now_ms}}, "
                             "done = CASE WHEN done < $4 THEN $4 ELSE done END " OF_GENERATION,
                             writer, first, last, DB_OF_INT(f->end)),
                      NULL, &rows));
    } else {
        TRY(db_tx_run(tx,
                      DB_ASK("DELETE FROM usage_left WHERE first_id IN (SELECT first_id FROM "
                             "usage_pending " OF_GENERATION ")",
                             writer, first, last),
                      NULL, NULL));
        TRY(db_tx_run(tx, DB_ASK("DELETE FROM usage_pending " OF_GENERATION, writer, first, last),
                      NULL, &rows));
    }
    if (rows.changed == f->of.groups)
        return NULL;
    return err_new(ERR_BUSY, "somebody else has taken rows that waited for long");
}

static err_t write_slots(struct db_tx *tx, void *arg)
{
    struct folding *f = arg;

    TRY(db_tx_run(tx, DB_ASK_PLAIN("{{lock_sums}}"), NULL, NULL));
    for (unsigned slot = f->begin; slot < f->end; slot++)
        TRY(ledger_sum_write(tx, &f->of.sums, slot));
    return mark(tx, f);
}

static err_t write_all(struct folding *f)
{
    for (f->begin = 0; f->begin < LEDGER_SLOTS; f->begin = f->end) {
        size_t count = f->of.sums.slots[f->begin].count;
        f->end = f->begin + 1;
        while (f->end < LEDGER_SLOTS && count + f->of.sums.slots[f->end].count <= WRITE_SUMS)
            count += f->of.sums.slots[f->end++].count;
        TRY(db_transact(f->db, DB_WRITE, write_slots, f));
    }
    return NULL;
}

/* ---- folding ---- */

static err_t fold_own(struct db *db)
{
    struct folding f = {.db = db, .writer = str_from(ledger_writer()), .of = own};
    err_t err;

    own = (struct generation){0}; /* what is committed from now on is the next one's */
    err = f.of.groups > 0 ? write_all(&f) : NULL;
    if (err)
        lost_id = f.of.last_id;
    end(&f.of);
    return err;
}

/* One generation: read until there are no more groups or many sums, then write. */
static err_t fold_read(struct folding *f, bool *is_all)
{
    err_t err = begin(&f->of);

    *is_all = false;
    while (!err && !*is_all && f->of.sums.count < MAX_SUMS)
        err = read_batch(f, is_all);
    if (!err && f->of.groups > 0)
        err = write_all(f);
    end(&f->of);
    return err;
}

static err_t fold_others(struct db *db)
{
    char name[48];
    struct folding f = {
        .db = db, .writer = reader(name), .batch = arena_new(MEM_GOVERN, READ_BYTES)};
    bool is_all = false;
    err_t err = f.batch ? take_over(&f) : err_no_memory();

    while (!err && !is_all)
        err = fold_read(&f, &is_all);
    arena_free(f.batch);
    return err;
}

err_t ledger_fold(struct db *db)
{
    TRY(fold_own(db));
    TRY(fold_others(db));
    return ledger_close_hours(db);
}

/* ---- the service ---- */

static err_t open_fold(struct db *db, const struct conf *conf)
{
    (void)db;
    (void)conf;
    end(&own);
    lost_id = 0;
    return NULL;
}

static void run_fold(void *db)
{
    uint64_t at_ms = loop_now_ms();

    while (!fiber_sleep(LOOK_MS)) {
        if (loop_now_ms() < at_ms && own.rows < FOLD_ROWS && own.groups < FOLD_GROUPS)
            continue;
        err_t err = ledger_fold(db);
        if (err && err->kind != ERR_KILLED)
            log_error("calls could not be added to the sums of usage; they will be later", err);
        arena_reset(fiber_arena());
        at_ms = loop_now_ms() + EVERY_MS;
    }
}

/* Whoever comes next need not wait for this process to come back. */
static void close_fold(struct db *db)
{
    char name[48];
    err_t err = db_run(db, DB_WRITE,
                       DB_ASK("UPDATE usage_pending SET at_ms = 0 WHERE writer = $1 OR writer = $2",
                              DB_OF_TEXT(str_from(ledger_writer())), DB_OF_TEXT(reader(name))),
                       NULL, NULL);

    end(&own);
    if (err)
        log_error("calls that wait to be added to the sums of usage were not handed over", err);
}

const struct govern_service fold_service = {
    .name = "fold", .open = open_fold, .run = run_fold, .close = close_fold};
