/* SPDX-License-Identifier: Apache-2.0 */
/* The lease server.
 *
 * In the store a budget's period is a row: spent, and leased to processes; each process's part of
 * the latter is a row as well, with an expiry that its holder puts off while it lives.
 * spent + leased never exceeds the cap by our doing.
 *
 * The hard thing is a holder that was away. When that was long enough for its leases to expire, it
 * gives all its credit back, as far as they are still there, and begins anew; and it takes nobody
 * for dead before all who were away with it, when the store was, had time to come back. What may
 * have been committed although nobody heard of it is numbered, as the ledger's groups are. */
#include "govern/budget_lease.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/sys.h"
#include "base/text.h"
#include "fiber/fiber.h"
#include "govern/budget_change.h"
#include "govern/budget_doubt.h"
#include "govern/budget_recall.h"
#include "govern/budget_recovery.h"
#include "govern/budget_return.h"
#include "govern/ledger_commit.h"
#include "govern/poke.h"
#include "govern/service.h"
#include "observe/log.h"

#define ACCOUNTS_PER_ROUND 256
/* An account that had too little left is not asked about again before; and while others were asked for theirs. */
#define SPENT_OUT_MS 250
#define RECALLING_MS 10
/* Leases are renewed after a third of their time, to an eighth exactly. Longer than half of it means trouble. */
#define MOST_TICK_MS 1000
/* How often it is looked whether others ask for credit. */
#define LOOK_MS 50

static struct {
    pthread_mutex_t lock;
    struct list queue; /* of accounts, each with a reference */
    atomic_uint lease_percent;
    struct poke poke;
    struct budget_holder holder;
    uint64_t renewed_ms, bury_at_ms;
    uint64_t fetched; /* number of the latest round that is committed; 0: none */
    atomic_bool is_doubted;
    bool is_alone;       /* nobody else uses this store */
    bool has_leased;     /* ever, so that others may ask for it */
    bool is_complaining; /* what failed was told, and nothing has worked since */
} server = {.lock = PTHREAD_MUTEX_INITIALIZER, .queue = {&server.queue, &server.queue}};

void budget_lease_ask(struct budget_account *account, unsigned lease_percent)
{
    atomic_store(&server.lease_percent, lease_percent);
    pthread_mutex_lock(&server.lock);
    if (list_is_empty(&account->queued)) {
        budget_account_hold(account);
        list_push(&server.queue, &account->queued);
    }
    pthread_mutex_unlock(&server.lock);
    poke(&server.poke);
}

void budget_lease_doubt(void)
{
    atomic_store(&server.is_doubted, true);
}

const char *budget_lease_holder(void)
{
    return server.holder.name;
}

uint64_t budget_lease_ttl_ms(void)
{
    return atomic_load(&server.holder.ttl_ms);
}

/* ---- one round: fetch for all who asked ---- */

struct wish {
    struct budget_account *account;
    uint64_t cap, wanted; /* as of the begin of the round */
    uint64_t debt;        /* spent, but neither leased nor booked: the store does not know of it */
    uint64_t covered;     /* of that: the store knows of it now */
    uint64_t granted, left;
    bool is_recalling; /* others were asked for what is missing */
};

struct round {
    struct wish wishes[ACCOUNTS_PER_ROUND];
    size_t count;
    unsigned percent;
    struct arena *arena;
    uint64_t number;
    bool has_lowered; /* some hold credit of before their cap was lowered */
    bool is_in_doubt; /* it may have been committed: to be run again until that is known */
};

static int compare_wishes(const void *left, const void *right)
{
    const struct wish *a = left, *b = right;

    return strcmp(a->account->name, b->account->name);
}

static size_t take_queue(struct round *round)
{
    round->count = 0;
    round->has_lowered = false;
    round->number = ++server.holder.number;
    pthread_mutex_lock(&server.lock);
    while (round->count < ACCOUNTS_PER_ROUND && !list_is_empty(&server.queue)) {
        struct list *first = list_first(&server.queue);
        struct budget_account *a = container_of(first, struct budget_account, queued);
        list_remove(first);
        budget_account_lock(a);
        round->wishes[round->count++] =
            (struct wish){.account = a,
                          .cap = a->cap,
                          .wanted = a->wanted,
                          .debt = a->credit < 0 ? (uint64_t)-a->credit : 0};
        a->wanted = 0;
        round->has_lowered |= a->gives_back;
        budget_account_unlock(a);
    }
    pthread_mutex_unlock(&server.lock);
    if (round->count > 1)
        qsort(round->wishes, round->count, sizeof(*round->wishes), compare_wishes);
    return round->count;
}

/* What there is to give: enough for those who wait, and some on top so that not every call has to ask. */
static uint64_t grant_of(const struct wish *wish, uint64_t left, unsigned percent)
{
    uint64_t share = left / 100 * percent;
    uint64_t wanted = wish->wanted > share ? wish->wanted : share;

    return wanted < left ? wanted : left;
}

/* Debts first: whoever is in debt has them, be they leased or not, and nobody else can. */
static void share_out(struct wish *wish, uint64_t used, unsigned percent)
{
    uint64_t left = used < wish->cap ? wish->cap - used : 0;

    wish->covered = wish->debt < left ? wish->debt : left;
    left -= wish->covered;
    wish->granted = grant_of(wish, left, percent);
    wish->left = left - wish->granted;
}

/* In the order of names, in which rows are locked. */
static err_t fetch(struct db_tx *tx, struct round *round)
{
    struct budget_change *changes = arena_alloc_array(round->arena, round->count, sizeof(*changes));

    if (!changes)
        return arena_err(round->arena);
    for (size_t i = 0; i < round->count; i++)
        changes[i] = (struct budget_change){.account = round->wishes[i].account,
                                            .cap = round->wishes[i].cap};
    TRY(budget_change_open(tx, changes, round->count, round->arena));
    for (size_t i = 0; i < round->count; i++) {
        struct wish *wish = &round->wishes[i];
        share_out(wish, changes[i].spent_now + changes[i].leased_now, round->percent);
        changes[i].leased = (int64_t)(wish->covered + wish->granted);
    }
    return budget_change_apply(tx, server.holder.name, budget_lease_ttl_ms(), changes, round->count,
                               round->arena);
}

static err_t fetch_all(struct db_tx *tx, void *arg)
{
    struct round *round = arg;
    enum ledger_begun begun;

    TRY(ledger_commit_follow(tx, server.holder.name, server.fetched, round->number, &begun));
    if (begun == LEDGER_BEHIND)
        budget_lease_doubt();
    return begun == LEDGER_DONE ? NULL : fetch(tx, round);
}

static void grant(struct budget_account *a, const struct wish *wish)
{
    bool is_short = wish->granted < wish->wanted;

    a->leased += wish->covered + wish->granted;
    a->credit += (int64_t)(wish->covered + wish->granted);
    a->left = wish->left;
    a->used_ms = sys_now_ms();
    if (wish->granted > 0)
        a->granted_ms = a->used_ms;
    a->is_recalling = wish->is_recalling;
    a->spent_out_until_ms =
        is_short ? a->used_ms + (wish->is_recalling ? RECALLING_MS : SPENT_OUT_MS) : 0;
}

/* What goes wrong is said once, until something works again: calls that find no credit come by the thousand. */
static void complain(const char *what, err_t err)
{
    if (err && err->kind == ERR_KILLED)
        return;
    if (err && !server.is_complaining)
        log_error(what, err);
    server.is_complaining = err != NULL;
}

/* Tell those who wait. */
static void answer(struct budget_account *a, const struct wish *wish)
{
    budget_account_lock(a);
    a->is_store_away = wish == NULL;
    a->rounds++;
    if (wish)
        grant(a, wish);
    budget_account_unlock(a);
}

/* Ask others for what those who wait lack. */
static void recall(struct round *round)
{
    for (size_t i = 0; !server.is_alone && i < round->count; i++) {
        struct wish *wish = &round->wishes[i];
        server.has_leased |= wish->granted > 0;
        if (wish->granted < wish->wanted)
            wish->is_recalling = budget_recall_ask(&server.holder, wish->account);
        else
            wish->account->recall = RECALL_NONE;
    }
}

static void serve(struct round *round)
{
    err_t err;

    arena_reset(round->arena); /* which a round in doubt has filled at each try */
    round->percent = atomic_load(&server.lease_percent);
    err = db_transact(server.holder.db, DB_WRITE, fetch_all, round);
    if (db_is_lost(err)) { /* mostly the connection alone */
        round->is_in_doubt = true;
        err = db_transact(server.holder.db, DB_WRITE, fetch_all, round);
    }
    complain("credit could not be fetched from the store", err);
    round->is_in_doubt = err && (round->is_in_doubt || db_is_lost(err));
    if (!err) {
        server.fetched = round->number;
        recall(round);
    }
    for (size_t i = 0; i < round->count; i++) {
        answer(round->wishes[i].account, err ? NULL : &round->wishes[i]);
        if (!round->is_in_doubt)
            budget_account_give(round->wishes[i].account);
    }
}

/* Nobody is served while a round is in doubt. */
static void refuse_queue(struct round *none)
{
    while (take_queue(none) > 0) {
        for (size_t i = 0; i < none->count; i++) {
            answer(none->wishes[i].account, NULL);
            budget_account_give(none->wishes[i].account);
        }
    }
}

/* ---- staying alive ---- */

static bool mark(struct budget_account *a, void *arg)
{
    (void)arg;
    a->gives_back = true;
    return false;
}

/* After a pause in which leases may have expired: ours, and others' who were as cut off from the store. */
static void note_pause(uint64_t pause_ms, uint64_t ttl_ms)
{
    if (pause_ms > ttl_ms / 2)
        server.bury_at_ms = sys_now_ms() + ttl_ms;
    if (pause_ms > ttl_ms)
        budget_account_each(mark, NULL);
}

static err_t renew(struct db *db)
{
    uint64_t ttl_ms = budget_lease_ttl_ms();

    if (sys_now_ms() < server.renewed_ms + ttl_ms / 3)
        return NULL;
    TRY(db_run(db, DB_WRITE,
               DB_ASK("UPDATE budget_leases SET expires_ms = {{now_ms}} + $1 WHERE holder = $2",
                      DB_OF_INT(ttl_ms), DB_OF_TEXT(str_from(server.holder.name))),
               NULL, NULL));
    if (server.fetched > 0 && !server.is_alone) /* whoever is not heard of is forgotten */
        TRY(db_run(db, DB_WRITE,
                   DB_ASK("UPDATE ledger_writers SET at_ms = {{now_ms}} WHERE writer = $1",
                          DB_OF_TEXT(str_from(server.holder.name))),
                   NULL, NULL));
    note_pause(sys_now_ms() - server.renewed_ms, ttl_ms);
    server.renewed_ms = sys_now_ms();
    return server.renewed_ms < server.bury_at_ms
               ? NULL
               : budget_recovery_book_expired(db, server.holder.name);
}

/* Whether the store still knows of the latest round, although nothing is fetched or booked. */
static err_t look_back(struct db *db, struct arena *arena)
{
    struct db_rows rows;

    if (server.fetched == 0)
        return NULL;
    TRY(db_run(db, DB_READ,
               DB_ASK("SELECT 1 FROM ledger_writers WHERE writer = $1 AND last >= $2",
                      DB_OF_TEXT(str_from(server.holder.name)), DB_OF_INT(server.fetched)),
               arena, &rows));
    if (rows.count > 0)
        return NULL;
    server.fetched = 0;
    budget_lease_doubt();
    return NULL;
}

/* What is in doubt itself, the store may know or not: that comes first. */
static err_t resolve(struct db *db, const struct round *round, const struct budget_sweep *sweep)
{
    err_t err;

    if (!server.is_alone)
        TRY(look_back(db, sweep->arena));
    if (!atomic_load(&server.is_doubted) || round->is_in_doubt || sweep->is_in_doubt)
        return NULL;
    atomic_store(&server.is_doubted, false);
    err = budget_doubt_resolve(db, server.holder.name, sweep->arena);
    if (err)
        budget_lease_doubt();
    return err;
}

/* ---- the service ---- */

static err_t open_leases(struct db *db, const struct conf *conf)
{
    server.holder.db = db;
    text_random_id("", server.holder.name);
    text_random_id("", server.holder.returner);
    atomic_store(&server.holder.ttl_ms, conf->budgets.lease_ttl_ms);
    server.fetched = 0;
    atomic_store(&server.is_doubted, false);
    server.renewed_ms = sys_now_ms();
    server.bury_at_ms = server.renewed_ms + conf->budgets.lease_ttl_ms;
    /* An embedded database has no other living user. Elsewhere others may be about to come back, as we are. */
    server.is_alone = strcmp(db_backend(db), "sqlite") == 0;
    return server.is_alone ? budget_recovery_book_others(db, server.holder.name) : NULL;
}

static void adopt_leases(const struct conf *conf)
{
    atomic_store(&server.holder.ttl_ms, conf->budgets.lease_ttl_ms);
}

static void keep_up(struct db *db, const struct round *round, struct budget_sweep *sweep)
{
    err_t err = renew(db);

    if (!err)
        err = resolve(db, round, sweep);
    if (!err)
        err = budget_return_give(sweep);
    if (!err && server.has_leased && !server.is_alone && db_is_up(db)) /* without a notice */
        err = budget_recall_answer(sweep);
    if (err || db_is_up(db))
        complain("leases of budgets could not be renewed", err);
}

static void answer_others(struct budget_sweep *sweep)
{
    err_t err = NULL;

    if (!server.is_alone && budget_recall_is_asked(&server.holder))
        err = budget_recall_answer(sweep);
    if (err)
        complain("idle credit could not be given back to those who ask for it", err);
}

static uint64_t wake_at(uint64_t tick_at_ms)
{
    uint64_t look_at_ms = loop_now_ms() + LOOK_MS;

    return server.is_alone || tick_at_ms < look_at_ms ? tick_at_ms : look_at_ms;
}

static uint64_t next_tick_ms(void)
{
    uint64_t tick_ms = budget_lease_ttl_ms() / 8;

    return loop_now_ms() + (tick_ms < MOST_TICK_MS ? tick_ms : MOST_TICK_MS);
}

/* Credit of a cap that was lowered is counted anew before more is given out. */
static void give_lowered_back(struct budget_sweep *sweep)
{
    err_t err;

    do
        err = budget_return_give(sweep);
    while (!err && sweep->count == BUDGET_SWEEP_MAX);
    complain("credit of lowered budgets could not be given back", err);
}

static void serve_all(struct round *round, struct budget_sweep *sweep, struct round *spare)
{
    if (round->is_in_doubt)
        serve(round);
    while (!round->is_in_doubt && take_queue(round) > 0) {
        if (round->has_lowered)
            give_lowered_back(sweep);
        serve(round);
    }
    if (round->is_in_doubt)
        refuse_queue(spare);
}

/* What is in doubt at the end stays so: rather too little credit. */
static void abandon(struct round *round, struct budget_sweep *sweep)
{
    for (size_t i = 0; round->is_in_doubt && i < round->count; i++)
        budget_account_give(round->wishes[i].account);
    if (sweep->is_in_doubt)
        budget_return_end(sweep, NULL);
}

/* Of the one fiber: too large for its stack. */
static struct round serving, serving_spare;
static struct budget_sweep sweeping = {.holder = &server.holder};

static void run_leases(void *db)
{
    uint64_t tick_at_ms = next_tick_ms();
    err_t err = NULL;

    serving.arena = service_arena(MEM_GOVERN, 4 * 1024 * 1024);
    sweeping.arena = service_arena(MEM_GOVERN, 4 * 1024 * 1024);
    poke_listen(&server.poke);
    while (serving.arena && sweeping.arena && !err) {
        serve_all(&serving, &sweeping, &serving_spare);
        answer_others(&sweeping);
        if (loop_now_ms() >= tick_at_ms) {
            keep_up(db, &serving, &sweeping);
            tick_at_ms = next_tick_ms();
        }
        arena_reset(fiber_arena()); /* of errors, which were logged */
        err = poke_wait(wake_at(tick_at_ms));
    }
    poke_stop(&server.poke);
    abandon(&serving, &sweeping);
    arena_free(sweeping.arena);
    arena_free(serving.arena);
}

static bool forget(struct budget_account *a, void *arg)
{
    (void)arg;
    return a->references == 0;
}

/* Nobody waits for credit any more. */
static void empty_queue(void)
{
    struct list *first;

    pthread_mutex_lock(&server.lock);
    while (!list_is_empty(&server.queue)) {
        first = list_first(&server.queue);
        list_remove(first);
        budget_account_give(container_of(first, struct budget_account, queued));
    }
    pthread_mutex_unlock(&server.lock);
}

/* All that is left goes back; then nothing is remembered. */
static void close_leases(struct db *db)
{
    struct arena *arena = arena_new(MEM_GOVERN, 1024 * 1024);
    struct budget_sweep *sweep = arena ? arena_new_struct(arena, struct budget_sweep) : NULL;
    err_t err = err_no_memory();

    empty_queue();
    if (sweep && (sweep->arena = arena_new(MEM_GOVERN, 4 * 1024 * 1024))) {
        sweep->holder = &server.holder;
        sweep->is_last = true;
        do
            err = budget_return_give(sweep);
        while (!err && sweep->count > 0);
        arena_free(sweep->arena);
    }
    if (!err)
        err = db_run(db, DB_WRITE,
                     DB_ASK("DELETE FROM budget_leases WHERE holder = $1 AND amount <= 0",
                            DB_OF_TEXT(str_from(server.holder.name))),
                     NULL, NULL);
    if (err)
        log_error("credit was not given back: it counts as spent when its lease expires", err);
    arena_free(arena);
    budget_account_each(forget, NULL);
}

const struct govern_service budget_service = {.name = "budget leases",
                                              .open = open_leases,
                                              .adopt = adopt_leases,
                                              .run = run_leases,
                                              .close = close_leases};
