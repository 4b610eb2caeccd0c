/* SPDX-License-Identifier: Apache-2.0 */
/* Rows that wait, and the fiber that commits them. */
#include "govern/ledger.h"

#include <pthread.h>

#include "base/sys.h"
#include "base/text.h"
#include "fiber/fiber.h"
#include "govern/journal.h"
#include "govern/ledger_commit.h"
#include "govern/ledger_fold.h"
#include "govern/ledger_retire.h"
#include "govern/poke.h"
#include "govern/service.h"
#include "observe/log.h"
#include "observe/metrics.h"

/* How long the first row of a group waits for others. */
#define GATHER_MS 30
#define RETRY_MS  250
/* What is kept while the store is away. */
#define MAX_WAITING_BYTES (UINT64_C(64) * 1024 * 1024)
/* How often what is too old is looked for. */
#define RETENTION_EVERY_MS (UINT64_C(3600) * 1000)
#define CLOSE_WAIT_MS      5000
/* How long a process that committed nothing may still come back to a commit in doubt. */
#define WRITER_KEEP_MS (UINT64_C(86400) * 1000)

static struct {
    pthread_mutex_t lock;
    struct ledger_entry *first, **last; /* oldest first */
    uint64_t waiting, lost;
    uint64_t added, taken; /* rows, ever: each has the number that it made `added` */
    size_t bytes;
    struct poke poke;
    char writer[32];
    bool is_idle; /* the fiber waits for a row */
    bool is_complaining;
} ledger = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- adding ---- */

/* Under the lock: what it refers to is the ledger's as well. */
static bool keep(const struct ledger_row *row, const struct reservation *reservation, bool is_noted)
{
    struct ledger_entry *e;

    if (ledger.bytes + sizeof(*e) > MAX_WAITING_BYTES)
        return false;
    e = ledger_entry_make(row, reservation);
    if (!e)
        return false;
    e->is_noted = is_noted;
    if (!ledger.last)
        ledger.last = &ledger.first;
    *ledger.last = e;
    ledger.last = &e->next;
    ledger.waiting++;
    ledger.added++;
    ledger.bytes += e->bytes;
    return true;
}

void ledger_add(const struct ledger_row *row, const struct reservation *reservation)
{
    ledger_add_stream(row, reservation, NULL);
}

void ledger_add_stream(const struct ledger_row *row, const struct reservation *reservation,
                       struct journal_slot *slot)
{
    bool is_kept, is_awaited;

    if (slot)
        journal_end(slot, row);
    pthread_mutex_lock(&ledger.lock);
    is_kept = keep(row, reservation, slot != NULL);
    if (slot)
        journal_seal(slot, is_kept ? ledger.added : 0);
    ledger.lost += !is_kept;
    is_awaited = ledger.is_idle;
    ledger.is_idle = false;
    pthread_mutex_unlock(&ledger.lock);
    if (!is_kept) /* its budgets keep counting it as spent and not booked */
        metric_add(metric_series_get(METRIC_LEDGER_LOST, NULL), 1);
    if (is_awaited) /* once a group: waking another thread costs more than all the rest of this */
        poke(&ledger.poke);
}

/* ---- committing ---- */

static void take_group(struct ledger_group *group)
{
    group->writer = ledger.writer;
    pthread_mutex_lock(&ledger.lock);
    for (group->count = 0; ledger.first && group->count < LEDGER_MAX_GROUP; group->count++) {
        group->entries[group->count] = ledger.first;
        ledger.first = ledger.first->next;
    }
    if (!ledger.first)
        ledger.last = &ledger.first;
    pthread_mutex_unlock(&ledger.lock);
    group->number = ledger.taken += group->count;
}

static void end_group(struct ledger_group *group)
{
    for (size_t i = 0; i < group->count; i++)
        ledger_entry_give(group->entries[i]);
    ledger_group_end(group);
    pthread_mutex_lock(&ledger.lock);
    for (size_t i = 0; i < group->count; i++) {
        ledger.bytes -= group->entries[i]->bytes;
        ledger_entry_drop(group->entries[i]);
    }
    ledger.waiting -= group->count;
    ledger_kind_sweep(false);
    pthread_mutex_unlock(&ledger.lock);
    group->count = 0;
}

static void complain(err_t err)
{
    if (err && err->kind == ERR_KILLED) /* the last commit is still to come */
        return;
    if (err && !ledger.is_complaining)
        log_error("rows of the ledger wait because the store failed", err);
    if (!err && ledger.is_complaining)
        log_info("the ledger is being written again");
    ledger.is_complaining = err != NULL;
}

/* Commit what there is; a group that fails is kept and comes first the next time. */
static err_t flush(struct db *db, struct ledger_group *group)
{
    err_t err = NULL;

    do {
        if (group->count == 0)
            take_group(group);
        if (group->count == 0)
            break;
        err = ledger_commit(db, group);
        complain(err);
        if (!err) {
            metric_add(metric_series_get(METRIC_LEDGER_ROWS, NULL), (int64_t)group->count);
            journal_note_committed(group->number);
            ledger_fold_note(group);
            end_group(group);
        }
    } while (!err);
    return err;
}

/* Some of what is too old, and soon more if there are more: what calls cost does not wait for them. */
static void retire(struct db *db, uint64_t *at_ms)
{
    bool is_done;
    err_t err;

    if (loop_now_ms() < *at_ms)
        return;
    err = ledger_retire(db, &is_done);
    if (!err && !is_done)
        return;
    if (!err) /* of who has a journal that must not look forgotten */
        err = db_run(db, DB_WRITE,
                     DB_ASK("UPDATE ledger_writers SET at_ms = {{now_ms}} WHERE writer = $1",
                            DB_OF_TEXT(str_from(ledger.writer))),
                     NULL, NULL);
    if (!err)
        err = db_run(
            db, DB_WRITE,
            DB_ASK("DELETE FROM ledger_writers WHERE at_ms < {{now_ms}} - $1 AND writer <> $2",
                   DB_OF_INT(WRITER_KEEP_MS), DB_OF_TEXT(str_from(ledger.writer))),
            NULL, NULL);
    if (err && err->kind != ERR_KILLED)
        log_error("what is old of the ledger could not be deleted", err);
    *at_ms = loop_now_ms() + RETENTION_EVERY_MS;
}

/* PARKS until there is a row, or it is time. */
static err_t await_row(uint64_t at_ms)
{
    bool is_idle;
    err_t err;

    pthread_mutex_lock(&ledger.lock);
    is_idle = ledger.is_idle = !ledger.first;
    pthread_mutex_unlock(&ledger.lock);
    err = is_idle ? poke_wait(at_ms) : NULL;
    pthread_mutex_lock(&ledger.lock);
    ledger.is_idle = false;
    pthread_mutex_unlock(&ledger.lock);
    return err;
}

static struct ledger_group group; /* of the fiber, and of the last flush */

static void run_ledger(void *db)
{
    uint64_t retire_at_ms = loop_now_ms() + RETRY_MS;
    err_t err = NULL, failed;

    poke_listen(&ledger.poke);
    while (!err) {
        failed = flush(db, &group);
        if (!failed)
            retire(db, &retire_at_ms);
        arena_reset(fiber_arena());
        if (failed)
            err = fiber_sleep(RETRY_MS);
        else
            err = await_row(retire_at_ms);
        if (!err && !failed)
            err = fiber_sleep(GATHER_MS);
    }
    poke_stop(&ledger.poke);
}

static void set_waiting(void)
{
    metric_set(metric_series_get(METRIC_LEDGER_WAITING, NULL), (int64_t)ledger_waiting());
}

static err_t open_ledger(struct db *db, const struct conf *conf)
{
    (void)db;
    text_random_id("", ledger.writer);
    ledger.taken = ledger.added = 0;
    metric_on_scrape(set_waiting);
    ledger_retire_adopt(conf);
    return NULL;
}

static void adopt_ledger(const struct conf *conf)
{
    ledger_retire_adopt(conf);
}

/* ---- the end ---- */

/* What leases have, and will be booked with them. */
static unsigned booked_of(const struct ledger_entry *e)
{
    unsigned booked = 0;

    for (size_t i = 0; i < e->booking_count; i++)
        booked |= e->bookings[i].account->unit == BUDGET_MONEY ? JOURNAL_BOOKED_COST
                                                               : JOURNAL_BOOKED_TOKENS;
    return booked;
}

/* PARKS: note a row as if it were of a stream that has ended, with its number: the next start enters it, if it is missing. */
static bool note(const struct ledger_entry *e, uint64_t number, struct arena *arena)
{
    struct ledger_row row = e->kind->of;
    struct journal_slot *slot;

    row.request_id = e->request_id;
    row.user = e->user;
    row.at_ms = e->at_ms;
    row.ms = e->ms;
    row.attempts = e->attempts;
    row.input = e->input;
    row.output = e->output;
    row.cached = e->cached;
    row.cache_written = e->cache_written;
    row.reasoning = e->reasoning;
    row.is_estimated = e->is_estimated;
    row.has_cost = e->has_cost;
    row.cost_nano = e->cost_nano;
    slot = arena ? journal_open(&row, booked_of(e), arena) : NULL;
    if (!slot)
        return false;
    journal_end(slot, &row);
    journal_seal(slot, number);
    return true;
}

/* PARKS: what cannot be committed goes into the journal; streams are there already. Returns how many rows are lost. */
static uint64_t put_aside(const struct ledger_group *g)
{
    uint64_t first = g->number - g->count + 1, lost = 0;
    struct arena *arena = fiber_arena();

    for (size_t i = 0; i < g->count; i++)
        lost += !g->entries[i]->is_noted && !note(g->entries[i], first + i, arena);
    if (arena)
        arena_reset(arena);
    return lost;
}

static void tell(enum log_level level, const char *what, uint64_t rows)
{
    if (rows == 0)
        return;
    log_begin(level, what);
    log_u64("rows", rows);
    log_end();
}

static void close_ledger(struct db *db)
{
    uint64_t until_ms = loop_now_ms() + CLOSE_WAIT_MS, waiting, lost = 0;

    while (flush(db, &group) && loop_now_ms() < until_ms)
        if (fiber_sleep(RETRY_MS))
            break;
    waiting = ledger_waiting();
    if (fiber_self())
        fiber_unshield(); /* what time the store had is no matter of the journal's */
    while (group.count > 0 || ledger.first) {
        lost += put_aside(&group);
        end_group(&group);
        take_group(&group);
    }
    tell(LOG_WARN, "rows of the ledger wait in the journal for the next start", waiting - lost);
    tell(LOG_ERROR, "rows of the ledger could not be written and are lost", lost);
    ledger_kind_sweep(true);
}

const struct govern_service ledger_service = {.name = "ledger",
                                              .open = open_ledger,
                                              .adopt = adopt_ledger,
                                              .run = run_ledger,
                                              .close = close_ledger};

const char *ledger_writer(void)
{
    return ledger.writer;
}

/* ---- for views ---- */

static uint64_t look(const uint64_t *number)
{
    uint64_t value;

    pthread_mutex_lock(&ledger.lock);
    value = *number;
    pthread_mutex_unlock(&ledger.lock);
    return value;
}

uint64_t ledger_waiting(void)
{
    return look(&ledger.waiting);
}

uint64_t ledger_lost(void)
{
    return look(&ledger.lost);
}

size_t ledger_bytes(void)
{
    size_t bytes;

    pthread_mutex_lock(&ledger.lock);
    bytes = ledger.bytes;
    pthread_mutex_unlock(&ledger.lock);
    return bytes;
}
