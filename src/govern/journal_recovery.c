/* SPDX-License-Identifier: Apache-2.0 */
/* Files one after the other, their streams in groups as the ledger has them.
 *
 * The hard thing is a start that is killed, too. The rows' groups are numbered in the file's own name, like those of a process, so
 * whoever begins again finds done what is done; the file changes only when all is. */
#include "govern/journal_recovery.h"

#include <sys/stat.h>

#include "base/sys.h"
#include "govern/journal.h"
#include "govern/journal_file.h"
#include "govern/ledger_commit.h"
#include "govern/service.h"
#include "observe/log.h"

/* What is behind cannot be ours. */
#define MOST_CHUNKS (JOURNAL_SEGMENTS_MAX * JOURNAL_SEGMENT_CHUNKS)

struct reading {
    struct db *db;
    int fd;
    struct journal_head head;
    uint64_t committed; /* the last of the writer's rows that is */
    uint64_t number;    /* of the last of ours */
    struct ledger_group *group;
    struct journal_recovery *found;
};

/* ---- rows ---- */

/* Rows of the writer up to this number are in the ledger. Whoever is not known there any more has been dead for days: then no
 * row is missing that was not missed long ago. */
static err_t ask_committed(struct reading *r, struct arena *arena)
{
    struct db_rows rows;

    TRY(db_run(r->db, DB_READ,
               DB_ASK("SELECT last FROM ledger_writers WHERE writer = $1",
                      DB_OF_TEXT(str_from(r->head.writer))),
               arena, &rows));
    r->committed = rows.count ? (uint64_t)db_int(&rows, 0, 0) : UINT64_MAX;
    return NULL;
}

/* No other thread uses the ledger yet, so its lock is not needed for its entries. */
static err_t commit(struct reading *r)
{
    struct ledger_group *group = r->group;
    err_t err = NULL;

    group->writer = r->head.name;
    group->number = r->number;
    if (group->count > 0)
        err = ledger_commit(r->db, group);
    ledger_group_end(group);
    while (group->count > 0)
        ledger_entry_drop(group->entries[--group->count]);
    return err;
}

static err_t enter(struct reading *r, const struct ledger_row *row)
{
    struct ledger_entry *entry = ledger_entry_make(row, NULL);

    if (!entry)
        return err_no_memory();
    r->group->entries[r->group->count++] = entry;
    r->number++;
    return r->group->count == LEDGER_MAX_GROUP ? commit(r) : NULL;
}

static err_t enter_chunk(struct reading *r, const char *chunk)
{
    struct journal_stream stream;

    for (size_t at = JOURNAL_FIRST_SLOT; at < JOURNAL_SLOTS; at += stream.slots) {
        switch (journal_read(chunk, at, &stream)) {
        case JOURNAL_FREE:
            break;
        case JOURNAL_OPEN:
            r->found->killed++;
            TRY(enter(r, &stream.row));
            break;
        case JOURNAL_ENDED:
            if (stream.number == 0 || stream.number <= r->committed)
                break;
            r->found->restored++;
            TRY(enter(r, &stream.row));
            break;
        case JOURNAL_DAMAGED:
            r->found->damaged++;
            break;
        }
    }
    return NULL;
}

static err_t enter_chunks(struct reading *r, struct arena *arena)
{
    char *chunk = arena_alloc(arena, JOURNAL_CHUNK_BYTES);
    bool is_there;
    err_t err = NULL;

    if (!chunk)
        return arena_err(arena);
    TRY(ask_committed(r, arena));
    for (size_t i = 0; !err && i < MOST_CHUNKS; i++) {
        TRY(journal_file_read(r->fd, JOURNAL_HEAD_BYTES + i * JOURNAL_CHUNK_BYTES, chunk,
                              JOURNAL_CHUNK_BYTES, &is_there));
        if (!is_there)
            break;
        err = enter_chunk(r, chunk);
    }
    return err ? err : commit(r);
}

static err_t enter_file(struct reading *r, struct arena *arena)
{
    bool is_there;
    err_t err;

    TRY(journal_file_read(r->fd, 0, &r->head, sizeof(r->head), &is_there));
    if (!is_there)
        return NULL; /* just made, or its process had not begun */
    if (!journal_head_is_good(&r->head)) {
        r->found->damaged++;
        return NULL;
    }
    r->group = arena_alloc_zero(arena, sizeof(*r->group));
    if (!r->group)
        return arena_err(arena);
    err = enter_chunks(r, arena);
    while (r->group->count > 0) /* what an error has left */
        ledger_entry_drop(r->group->entries[--r->group->count]);
    return err;
}

err_t journal_recovery_enter(struct db *db, int fd, struct journal_recovery *out)
{
    struct reading r = {.db = db, .fd = fd, .found = out};
    struct arena *arena = arena_new(MEM_GOVERN, 1024 * 1024);
    err_t err;

    *out = (struct journal_recovery){0};
    if (!arena)
        return err_no_memory();
    err = enter_file(&r, arena);
    arena_free(arena);
    return err;
}

/* ---- files ---- */

static void tell(const char *path, const struct journal_recovery *found)
{
    if (found->killed > 0) {
        log_begin(LOG_WARN, "streams that were open when the server ended were closed as killed");
        log_u64("streams", found->killed);
        log_end();
    }
    if (found->restored > 0) {
        log_begin(LOG_INFO,
                  "rows of calls that had ended were lost with the server and are entered");
        log_u64("rows", found->restored);
        log_end();
    }
    if (found->damaged > 0) {
        log_begin(LOG_WARN, "parts of a journal of streams cannot be read and are left out");
        log_cstr("file", path);
        log_u64("parts", found->damaged);
        log_end();
    }
}

/* Lock a file and enter what it has. *fd is -1 if it is not for us, or must stay as it is. */
static err_t take_over(struct db *db, const char *path, bool is_made, int *fd)
{
    struct journal_recovery found;
    err_t err;

    TRY(journal_file_lock(path, is_made, fd));
    if (*fd < 0)
        return NULL;
    err = journal_recovery_enter(db, *fd, &found);
    if (!err) {
        tell(path, &found);
        return NULL;
    }
    log_error("streams of a journal could not be closed; the next start tries again", err);
    sys_close(*fd);
    *fd = -1;
    return NULL;
}

/* A writer that is not known has been forgotten: this one is there from the beginning. */
static err_t sign(struct db *db)
{
    return db_run(db, DB_WRITE,
                  DB_ASK("INSERT INTO ledger_writers (writer, last, at_ms) VALUES ($1, 0, "
                         "{{now_ms}}) ON CONFLICT (writer) DO NOTHING",
                         DB_OF_TEXT(str_from(ledger_writer()))),
                  NULL, NULL);
}

/* Take over what nobody uses; the first of it becomes ours, the rest is removed. */
static err_t take_over_all(struct db *db, const struct conf *conf)
{
    char path[JOURNAL_PATH_BYTES];
    bool is_begun = false;
    int fd;

    for (unsigned n = 0; n < JOURNAL_FILES_MAX; n++) {
        TRY(journal_file_path(conf, n, path));
        TRY(take_over(db, path, !is_begun, &fd));
        if (fd < 0)
            continue;
        if (is_begun) {
            (void)unlink(path);
            sys_close(fd);
            continue;
        }
        is_begun = true;
        TRY(journal_begin(path, fd, ledger_writer()));
    }
    return NULL;
}

static err_t open_journal(struct db *db, const struct conf *conf)
{
    err_t err = NULL;

    if (!str_starts(conf->store.url, STR("sqlite:")))
        (void)mkdir(conf->data_dir.ptr, 0700);
    err = sign(db);
    if (!err)
        err = take_over_all(db, conf);
    if (err)
        log_error("streams are not noted in the journal: a crash will leave no rows of them", err);
    return NULL;
}

const struct govern_service journal_service = {.name = "journal", .open = open_journal};
