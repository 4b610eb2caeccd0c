/* SPDX-License-Identifier: Apache-2.0 */
/* Rows that wait, and the fiber that commits them. */
#include "govern/ledger.h"

#include <pthread.h>

#include "base/mem.h"
#include "base/sys.h"
#include "base/text.h"
#include "base/word.h"
#include "fiber/fiber.h"
#include "govern/ledger_commit.h"
#include "govern/poke.h"
#include "govern/service.h"
#include "observe/log.h"
#include "observe/metrics.h"

/* How long the first row of a group waits for others. */
#define GATHER_MS 20
#define RETRY_MS  250
/* What is kept while the store is away. */
#define MAX_WAITING_BYTES (UINT64_C(64) * 1024 * 1024)
/* How often old rows are looked for, and how many are deleted at a time. */
#define RETENTION_EVERY_MS (UINT64_C(3600) * 1000)
#define CLOSE_WAIT_MS      5000
/* How long a process that committed nothing may still come back to a commit in doubt. */
#define WRITER_KEEP_MS (UINT64_C(86400) * 1000)
/* More than any call comes to: what a provider says beyond that is nonsense, and sums of it would not fit. */
#define MAX_TOKENS UINT64_C(1000000000000)
#define MAX_NANO   UINT64_C(1000000000000000)
/* Callers choose them. */
#define MAX_MODEL_BYTES 200
#define MAX_USER_BYTES  512

static struct {
    pthread_mutex_t lock;
    struct ledger_entry *first, **last; /* oldest first */
    uint64_t waiting, lost;
    size_t bytes;
    struct poke poke;
    _Atomic uint64_t retention_ms;
    char writer[32];
    uint64_t groups; /* begun by this writer */
    bool is_idle;    /* the fiber waits for a row */
    bool is_complaining;
} ledger = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- adding ---- */

/* No database takes a NUL or broken UTF-8, and one such row would hold up all others. */
static void mend(char *text, size_t len)
{
    if (word_is_plain(text, len))
        return;
    for (size_t at = 0; at < len;) {
        size_t step = text_utf8_length((struct str){text + at, len - at});
        if (step == 0 || text[at] == 0)
            text[at] = '?';
        at += step ? step : 1;
    }
}

static void put(char **to, struct str *text)
{
    char *at = *to;

    if (text->len > 0)
        memcpy(at, text->ptr, text->len);
    mend(at, text->len);
    text->ptr = at;
    *to += text->len;
}

static void lower(uint64_t *number, uint64_t most)
{
    if (*number > most)
        *number = most;
}

static void shorten(struct str *text, size_t most)
{
    if (text->len > most)
        text->len = most;
}

/* The row as it is kept. */
static struct ledger_row lowered(const struct ledger_row *row)
{
    struct ledger_row r = *row;
    uint64_t *const tokens[] = {&r.input, &r.output, &r.cached, &r.cache_written, &r.reasoning};

    for (size_t i = 0; i < sizeof(tokens) / sizeof(*tokens); i++)
        lower(tokens[i], MAX_TOKENS);
    lower(&r.cost_nano, MAX_NANO);
    shorten(&r.model, MAX_MODEL_BYTES);
    shorten(&r.upstream_model, MAX_MODEL_BYTES);
    shorten(&r.user, MAX_USER_BYTES);
    return r;
}

static size_t text_bytes(const struct ledger_row *r)
{
    return r->request_id.len + r->org.len + r->project.len + r->key.len + r->user.len +
           r->model.len + r->provider.len + r->upstream_model.len + r->route.len + r->outcome.len;
}

static bool is_booked(const struct reservation *res, size_t i)
{
    return res->claims[i].used > 0;
}

static size_t booked_bytes(const struct reservation *res)
{
    size_t bytes = 0;

    for (size_t i = 0; res && i < res->count; i++)
        if (is_booked(res, i))
            bytes += budget_account_head(res->claims[i].account).len + 1;
    return bytes;
}

/* Note what is to be booked, and write its names. */
static void put_bookings(struct ledger_entry *e, const struct reservation *res, char *to)
{
    char *begin = to;

    for (size_t i = 0; res && i < res->count; i++) {
        struct str head = budget_account_head(res->claims[i].account);
        if (!is_booked(res, i))
            continue;
        budget_account_hold(res->claims[i].account);
        e->bookings[e->booking_count++] =
            (struct budget_booking){res->claims[i].account, res->claims[i].used};
        if (to > begin)
            *to++ = ' ';
        memcpy(to, head.ptr, head.len);
        to += head.len;
    }
    e->row.booked = (struct str){begin, (size_t)(to - begin)};
}

static struct ledger_entry *copy(const struct ledger_row *row, const struct reservation *res)
{
    size_t bookings = res ? res->count : 0;
    struct ledger_row cut = lowered(row);
    size_t bytes = sizeof(struct ledger_entry) + bookings * sizeof(struct budget_booking) +
                   text_bytes(&cut) + booked_bytes(res);
    struct ledger_entry *e = mem_alloc(MEM_GOVERN, bytes);
    struct ledger_row *r;
    char *to;

    if (!e)
        return NULL;
    *e = (struct ledger_entry){.bytes = bytes, .row = cut};
    e->bookings = (struct budget_booking *)(e + 1);
    r = &e->row;
    to = (char *)(e->bookings + bookings);
    struct str *texts[] = {&r->request_id, &r->org,    &r->project,  &r->key,
                           &r->user,       &r->model,  &r->provider, &r->upstream_model,
                           &r->route,      &r->outcome};
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
        put(&to, texts[i]);
    put_bookings(e, res, to);
    return e;
}

static void drop(struct ledger_entry *e)
{
    for (size_t i = 0; i < e->booking_count; i++)
        budget_account_give(e->bookings[i].account);
    mem_free(MEM_GOVERN, e, e->bytes);
}

void ledger_add(const struct ledger_row *row, const struct reservation *reservation)
{
    struct ledger_entry *e = copy(row, reservation);
    bool is_awaited;

    pthread_mutex_lock(&ledger.lock);
    if (!ledger.last)
        ledger.last = &ledger.first;
    if (e && ledger.bytes + e->bytes <= MAX_WAITING_BYTES) {
        *ledger.last = e;
        ledger.last = &e->next;
        ledger.waiting++;
        ledger.bytes += e->bytes;
        e = NULL;
    } else {
        ledger.lost++;
    }
    is_awaited = ledger.is_idle;
    ledger.is_idle = false;
    pthread_mutex_unlock(&ledger.lock);
    if (e) {
        metric_add(metric_series_get(METRIC_LEDGER_LOST, NULL), 1);
        drop(e); /* its budgets keep counting it as spent and not booked */
    }
    if (is_awaited) /* once a group: waking another thread costs more than all the rest of this */
        poke(&ledger.poke);
}

/* ---- committing ---- */

static void take_group(struct ledger_group *group)
{
    group->writer = ledger.writer;
    group->number = ++ledger.groups;
    pthread_mutex_lock(&ledger.lock);
    for (group->count = 0; ledger.first && group->count < LEDGER_MAX_GROUP; group->count++) {
        group->entries[group->count] = ledger.first;
        ledger.first = ledger.first->next;
    }
    if (!ledger.first)
        ledger.last = &ledger.first;
    pthread_mutex_unlock(&ledger.lock);
}

static void end_group(struct ledger_group *group)
{
    size_t bytes = 0;

    for (size_t i = 0; i < group->count; i++) {
        bytes += group->entries[i]->bytes;
        drop(group->entries[i]);
    }
    pthread_mutex_lock(&ledger.lock);
    ledger.waiting -= group->count;
    ledger.bytes -= bytes;
    pthread_mutex_unlock(&ledger.lock);
    group->count = 0;
    ledger_group_end(group);
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
            end_group(group);
        }
    } while (!err);
    return err;
}

static void retire(struct db *db, uint64_t *at_ms)
{
    uint64_t before_ms = sys_wall_ms() - atomic_load(&ledger.retention_ms);
    struct db_rows rows = {0};
    err_t err = NULL;

    if (loop_now_ms() < *at_ms)
        return;
    do
        err = db_run(db, DB_WRITE,
                     DB_ASK("DELETE FROM ledger WHERE id IN "
                            "(SELECT id FROM ledger WHERE at_ms < $1 ORDER BY at_ms LIMIT 5000)",
                            DB_OF_INT(before_ms)),
                     fiber_arena(), &rows);
    while (!err && rows.changed > 0);
    if (!err)
        err = db_run(
            db, DB_WRITE,
            DB_ASK("DELETE FROM ledger_writers WHERE at_ms < {{now_ms}} - $1 AND writer <> $2",
                   DB_OF_INT(WRITER_KEEP_MS), DB_OF_TEXT(str_from(ledger.writer))),
            NULL, NULL);
    if (err && err->kind != ERR_KILLED)
        log_error("old rows of the ledger could not be deleted", err);
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
    ledger.groups = 0;
    metric_on_scrape(set_waiting);
    atomic_store(&ledger.retention_ms, conf->ledger.retention_ms);
    return NULL;
}

static void adopt_ledger(const struct conf *conf)
{
    atomic_store(&ledger.retention_ms, conf->ledger.retention_ms);
}

static void close_ledger(struct db *db)
{
    uint64_t until_ms = loop_now_ms() + CLOSE_WAIT_MS;

    while (flush(db, &group) && loop_now_ms() < until_ms)
        if (fiber_sleep(RETRY_MS))
            break;
    if (ledger_waiting() > 0) {
        log_begin(LOG_ERROR, "rows of the ledger could not be written and are lost");
        log_u64("rows", ledger_waiting());
        log_end();
    }
    while (group.count > 0 || ledger.first) {
        end_group(&group);
        take_group(&group);
    }
}

const struct govern_service ledger_service = {.name = "ledger",
                                              .open = open_ledger,
                                              .adopt = adopt_ledger,
                                              .run = run_ledger,
                                              .close = close_ledger};

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
