/* SPDX-License-Identifier: Apache-2.0 */
/* What all databases share: finding the backend, running again, topics, values and cells.
 *
 * The hard thing is what may run again. A backend rolls back and says so (DB_AGAIN); then, and only then, the whole
 * transaction is run once more, with growing pauses, for PATIENCE_MS at most. */
#include "store/db.h"

#include <stdio.h>
#include <time.h>

#include "base/check.h"
#include "base/sys.h"
#include "base/text.h"
#include "base/word.h"
#include "fiber/fiber.h"
#include "observe/metrics.h"
#include "store/db_private.h"

#define PATIENCE_MS     5000
#define FIRST_PAUSE_MS  10
#define MOST_PAUSE_MS   500
#define SNIPPET_MAX_LEN 32
#define REPORTS_MAX     2
#define TURN_PAUSE_MS   20

/* ---- cells ---- */

const struct db_value *db_cell(const struct db_rows *rows, size_t row, size_t column)
{
    check(row < rows->count && column < rows->columns);
    return &rows->cells[row * rows->columns + column];
}

int64_t db_int(const struct db_rows *rows, size_t row, size_t column)
{
    return db_cell(rows, row, column)->number;
}

struct str db_text(const struct db_rows *rows, size_t row, size_t column)
{
    return db_cell(rows, row, column)->bytes;
}

/* ---- trouble ---- */

const char db_too_long[] = "this takes too long: ask for a shorter time";

static const struct {
    enum err_kind kind;
    struct err_detail detail;
} troubles[] = {[DB_FINE] = {.kind = ERR_STORE},
#define X(name, err_kind, http_status, err_code, meaning)                                          \
    [DB_##name] = {ERR_##err_kind, {.status = (http_status), .code = (err_code)}},
                DB_TROUBLES(X)
#undef X
};

err_t db_err(enum db_trouble trouble, const char *text)
{
    return err_make(troubles[trouble].kind, troubles[trouble].detail, ERR_HERE, "the store: %s",
                    text);
}

bool db_is_lost(err_t err)
{
    return err_is(err, ERR_STORE) && err->code && strcmp(err->code, "store_lost") == 0;
}

void db_note(struct db *db, bool is_there)
{
    atomic_store(&db->is_up, is_there);
    metric_set(db->up, db_is_up(db));
}

/* What a call taught us about the database. */
static void note(struct db *db, const struct db_call *call)
{
    if (call->trouble == DB_SUSPECT)
        atomic_store(&db->is_suspect, true);
    db_note(db,
            call->trouble != DB_AGAIN && call->trouble != DB_AWAY && call->trouble != DB_UNSURE);
    if (call->trouble != DB_FINE)
        metric_add(db->errors, 1);
}

static err_t pause_ms(uint64_t ms)
{
    struct timespec time = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};

    if (fiber_self())
        return fiber_sleep(ms);
    nanosleep(&time, NULL);
    return NULL;
}

/* ---- reports ---- */

/* PARKS until few enough run. */
static err_t report_begin(struct db *db)
{
    uint64_t until_ms = sys_now_ms() + PATIENCE_MS;

    while (atomic_fetch_add(&db->reports, 1) >= REPORTS_MAX) {
        atomic_fetch_sub(&db->reports, 1);
        if (sys_now_ms() >= until_ms)
            return err_new_detail(ERR_BUSY, (.code = "reports_busy"),
                                  "the store: %d reports are being made already: ask again later",
                                  REPORTS_MAX);
        TRY(pause_ms(TURN_PAUSE_MS));
    }
    return NULL;
}

static void report_end(struct db *db)
{
    atomic_fetch_sub(&db->reports, 1);
}

/* ---- running ---- */

/* One call, as a statement or as a function, so that both can be run again. */
struct work {
    struct db_ask ask;
    struct arena *arena;
    struct db_rows *rows;
    err_t (*fn)(struct db_tx *tx, void *arg); /* NULL: the statement */
    void *arg;
};

static err_t work_once(struct db *db, struct db_call *call, const struct work *work)
{
    call->trouble = DB_FINE;
    if (work->fn)
        return db->ops->transact(db, call, work->fn, work->arg);
    return db->ops->run(db, call, work->ask, work->arena, work->rows);
}

static err_t work_try(struct db *db, enum db_mode mode, const struct work *work)
{
    struct db_call call = {.mode = mode, .until_ms = sys_now_ms() + PATIENCE_MS};
    uint64_t rest_ms = FIRST_PAUSE_MS;
    err_t err;

    if (mode == DB_WRITE && atomic_load(&db->is_suspect))
        return db_err(DB_SUSPECT,
                      "the disk failed or the file is damaged; nothing is written until "
                      "Sluice is started again");
    for (;;) {
        err = work_once(db, &call, work);
        note(db, &call);
        if (call.trouble != DB_AGAIN || sys_now_ms() + rest_ms >= call.until_ms)
            return err;
        TRY(pause_ms(rest_ms));
        rest_ms = rest_ms * 2 < MOST_PAUSE_MS ? rest_ms * 2 : MOST_PAUSE_MS;
    }
}

static err_t work_run(struct db *db, enum db_mode mode, const struct work *work)
{
    err_t err;

    if (mode != DB_REPORT)
        return work_try(db, mode, work);
    TRY(report_begin(db));
    err = work_try(db, mode, work);
    report_end(db);
    return err;
}

static bool is_kept(struct str text)
{
    return word_is_plain(text.ptr, text.len) ||
           (!memchr(text.ptr, 0, text.len) && text_is_utf8(text));
}

/* Both databases shall take and refuse the same: PostgreSQL has no NUL in a text and wants UTF-8. */
static err_t check_values(struct db_ask ask)
{
    for (size_t i = 0; i < ask.count; i++) {
        if (ask.values[i].type == DB_TEXT && !is_kept(ask.values[i].bytes))
            return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_value"),
                                  "a text that is to be kept is not UTF-8 or holds a NUL");
    }
    return NULL;
}

err_t db_run(struct db *db, enum db_mode mode, struct db_ask ask, struct arena *arena,
             struct db_rows *rows)
{
    struct db_rows unwanted;
    struct work work = {.ask = ask, .arena = rows ? arena : NULL, .rows = rows ? rows : &unwanted};

    TRY(check_values(ask));
    return work_run(db, mode, &work);
}

err_t db_transact(struct db *db, enum db_mode mode, err_t (*fn)(struct db_tx *tx, void *arg),
                  void *arg)
{
    return work_run(db, mode, &(struct work){.fn = fn, .arg = arg});
}

err_t db_tx_run(struct db_tx *tx, struct db_ask ask, struct arena *arena, struct db_rows *rows)
{
    struct db_rows unwanted;

    if (!tx->err)
        tx->err = check_values(ask);
    if (!tx->err)
        tx->err = tx->db->ops->tx_run(tx, ask, rows ? arena : NULL, rows ? rows : &unwanted);
    return tx->err;
}

err_t db_tx_play(struct db_tx *tx, err_t (*fn)(struct db_tx *tx, void *arg), void *arg)
{
    err_t err = fn(tx, arg);

    return err ? err : tx->err;
}

/* ---- topics ---- */

/* Its place in the table, or that of the first free one. */
static size_t topic_find(const struct db *db, struct str topic)
{
    const char *name;
    size_t i = 0;

    for (; i < DB_TOPICS_MAX && (name = atomic_load(&db->topics[i].name)); i++)
        if (name == topic.ptr || str_eq(str_from(name), topic))
            break;
    return i;
}

static size_t topic_get(struct db *db, const char *topic)
{
    size_t i = topic_find(db, str_from(topic));

    if (i == DB_TOPICS_MAX || !atomic_load(&db->topics[i].name)) {
        pthread_mutex_lock(&db->topics_lock);
        i = topic_find(db, str_from(topic));
        check(i < DB_TOPICS_MAX); /* topics are literals of ours: see where they are told */
        atomic_store(&db->topics[i].name, topic);
        pthread_mutex_unlock(&db->topics_lock);
    }
    return i;
}

err_t db_tx_notify(struct db_tx *tx, const char *topic)
{
    if (tx->err)
        return tx->err;
    tx->topics |= UINT32_C(1) << topic_get(tx->db, topic);
    if (tx->db->ops->tx_notify)
        tx->err = tx->db->ops->tx_notify(tx, topic);
    return tx->err;
}

void db_tx_tell(struct db_tx *tx)
{
    for (size_t i = 0; i < DB_TOPICS_MAX; i++)
        if (tx->topics & (UINT32_C(1) << i))
            atomic_fetch_add(&tx->db->topics[i].version, 1);
}

/* A topic that nobody here has asked for yet is nobody's business. */
void db_topic_raise(struct db *db, struct str topic)
{
    size_t i = topic_find(db, topic);

    if (i < DB_TOPICS_MAX && atomic_load(&db->topics[i].name))
        atomic_fetch_add(&db->topics[i].version, 1);
}

uint64_t db_topic_version(const struct db *db, const char *topic)
{
    /* Asking notes the topic, which changes nothing that the caller could see. */
    struct db *own = (struct db *)(uintptr_t)db;

    return atomic_load(&own->topics[topic_get(own, topic)].version);
}

/* ---- snippets ---- */

static const struct {
    const char *name, *sqlite, *postgresql;
} snippets[] = {
#define BACKEND(ops, scheme)
#define SNIPPET(name, sqlite, postgresql) {name, sqlite, postgresql},
#include "store/dbs.def"
#undef BACKEND
#undef SNIPPET
};

static const char *snippet_get(const struct db_ops *ops, struct str name)
{
    for (size_t i = 0; i < sizeof(snippets) / sizeof(*snippets); i++)
        if (str_eq(str_from(snippets[i].name), name))
            return ops == &db_sqlite_ops ? snippets[i].sqlite : snippets[i].postgresql;
    return NULL;
}

err_t db_expand(const struct db_ops *ops, const char *sql, struct buf *out)
{
    struct str rest = str_from(sql);

    for (;;) {
        size_t at = str_find(rest, STR("{{"));
        TRY(buf_add(out, (struct str){rest.ptr, at}));
        if (at == rest.len)
            return buf_add_byte(out, '\0');
        rest = str_after(rest, at + 2);
        size_t len = str_find(rest, STR("}}"));
        const char *text = len < rest.len ? snippet_get(ops, (struct str){rest.ptr, len}) : NULL;
        if (!text)
            return db_err(DB_WRONG, "a statement names a snippet that does not exist");
        TRY(buf_add(out, str_from(text)));
        rest = str_after(rest, len + 2);
    }
}

/* ---- opening ---- */

static const struct {
    const struct db_ops *ops;
    const char *scheme;
} backends[] = {
#define BACKEND(ops, scheme) {&(ops), scheme},
#define SNIPPET(name, sqlite, postgresql)
#include "store/dbs.def"
#undef BACKEND
#undef SNIPPET
};

static const struct db_ops *backend_of(struct str url)
{
    for (size_t i = 0; i < sizeof(backends) / sizeof(*backends); i++)
        if (str_starts(url, str_from(backends[i].scheme)))
            return backends[i].ops;
    return NULL;
}

err_t db_open(const struct db_options *options, struct db **out)
{
    const struct db_ops *ops = backend_of(options->url);
    err_t err;

    *out = NULL;
    if (!ops)
        return err_new(ERR_CONFIG, "store must be sqlite:/path/to/file or postgresql://…");
    TRY(ops->open(options, out));
    (*out)->ops = ops;
    atomic_store(&(*out)->is_up, true);
    pthread_mutex_init(&(*out)->topics_lock, NULL);
    (*out)->up = metric_series_get(METRIC_STORE_UP, NULL);
    (*out)->errors = metric_series_get(METRIC_STORE_ERRORS, NULL);
    metric_set((*out)->up, 1);
    err = options->is_tool ? db_schema_check(*out, db_migrations, db_migration_count)
                           : db_schema_update(*out, db_migrations, db_migration_count);
    if (!err && !options->is_tool && ops->listen)
        err = ops->listen(*out);
    if (err) {
        db_close(*out);
        *out = NULL;
    }
    return err;
}

void db_close(struct db *db)
{
    if (!db)
        return;
    metric_set(db->up, 0);
    pthread_mutex_destroy(&db->topics_lock);
    db->ops->close(db);
}

const char *db_backend(const struct db *db)
{
    return db->ops->name;
}

bool db_is_up(const struct db *db)
{
    return atomic_load(&db->is_up) && !atomic_load(&db->is_suspect);
}

err_t db_backup(struct db *db, struct str path)
{
    if (!db->ops->backup)
        return err_new_detail(ERR_BAD_REQUEST, (.code = "backup_elsewhere"),
                              "a %s database is backed up by its own tools: see docs/postgresql.md",
                              db->ops->name);
    return db->ops->backup(db, path);
}

err_t db_restore(struct str url, struct str file, struct arena *arena, struct str *kept)
{
    if (backend_of(url) != &db_sqlite_ops)
        return err_new(ERR_CONFIG,
                       "only an SQLite store is restored so: PostgreSQL has pg_restore");
    return db_sqlite_restore(url, file, arena, kept);
}
