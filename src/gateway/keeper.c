/* SPDX-License-Identifier: Apache-2.0 */
/* One fiber of the main thread: signs of life, cancellations that came from other processes, writing what
 * a store that was away missed, forgetting.
 *
 * What fails is done again a round later, and said once until it works again. */
#include "gateway/keeper.h"

#include "base/sys.h"
#include "fiber/fiber.h"
#include "gateway/idempotency.h"
#include "gateway/idempotency_outcome.h"
#include "gateway/replica.h"
#include "gateway/response_running.h"
#include "gateway/response_store.h"
#include "observe/log.h"

/* A look at the topic of cancellations costs nothing, one at the database does. */
#define LOOK_MS       200
#define ASK_MS        1000
#define CLEAN_MOST_MS UINT64_C(60000)
/* How long a round catches up or forgets at most: whoever gives no sign of life counts as dead. */
#define CLEAN_SPAN_MS 500

static struct {
    struct db *db;
    uint64_t clean_every_ms;
    bool is_complaining;
} keeper;

static void keeper_adopt(const struct conf *conf)
{
    uint64_t shortest_ms = conf->responses.ttl_ms;

    if (conf->idempotency.ttl_ms && conf->idempotency.ttl_ms < shortest_ms)
        shortest_ms = conf->idempotency.ttl_ms;
    keeper.clean_every_ms = shortest_ms / 4 < CLEAN_MOST_MS ? shortest_ms / 4 : CLEAN_MOST_MS;
    response_store_use(keeper.db, conf->responses.ttl_ms);
}

/* What was running when the last process on this database was killed is over. */
static err_t keeper_open(struct db *db, const struct conf *conf)
{
    bool is_done;

    keeper.db = db;
    keeper_adopt(conf);
    idempotency_use(db);
    TRY(replica_open(db));
    TRY(response_store_bury());
    return idempotency_clean(&is_done);
}

/* ---- the rounds ---- */

struct rounds {
    uint64_t ask_at_ms, renew_at_ms, clean_at_ms;
    uint64_t cancels; /* that were seen */
    bool has_renewed; /* in this round: the store is well */
};

static err_t obey(struct rounds *rounds)
{
    uint64_t cancels = response_store_cancels();

    if (response_running_count() == 0 ||
        (cancels == rounds->cancels && loop_now_ms() < rounds->ask_at_ms))
        return NULL;
    rounds->ask_at_ms = loop_now_ms() + ASK_MS;
    TRY(response_store_obey(fiber_arena()));
    rounds->cancels = cancels;
    return NULL;
}

static err_t renew(struct rounds *rounds)
{
    if (loop_now_ms() < rounds->renew_at_ms)
        return NULL;
    rounds->renew_at_ms = loop_now_ms() + ASK_MS; /* if it fails */
    TRY(replica_renew(keeper.db));
    rounds->renew_at_ms = loop_now_ms() + REPLICA_RENEW_MS;
    rounds->has_renewed = true;
    if (replica_may_judge())
        TRY(response_store_bury());
    return response_store_reconcile(fiber_arena());
}

static err_t clean(struct rounds *rounds)
{
    uint64_t until_ms = loop_now_ms() + CLEAN_SPAN_MS;
    bool has_answers = true, has_responses = true, is_done;

    if (loop_now_ms() < rounds->clean_at_ms)
        return NULL;
    rounds->clean_at_ms = loop_now_ms() + keeper.clean_every_ms;
    while ((has_answers || has_responses) && loop_now_ms() < until_ms) {
        TRY(idempotency_clean(&is_done));
        has_answers = !is_done;
        TRY(response_store_clean(fiber_arena(), &is_done));
        has_responses = !is_done;
        arena_reset(fiber_arena());
    }
    if (has_answers || has_responses)
        rounds->clean_at_ms = loop_now_ms(); /* the rest in the next round */
    return NULL;
}

/* Most rounds ask the store for nothing, and say nothing about it. */
static void complain(const struct rounds *rounds, err_t err)
{
    if (err && !keeper.is_complaining)
        log_error("kept responses cannot be looked after at the moment", err);
    keeper.is_complaining = err || (keeper.is_complaining && !rounds->has_renewed);
}

static void keeper_run(void *db)
{
    struct rounds rounds = {.clean_at_ms = loop_now_ms() + keeper.clean_every_ms};
    err_t err;

    while (!fiber_sleep(LOOK_MS)) {
        rounds.has_renewed = false;
        err = obey(&rounds);
        if (!err)
            err = renew(&rounds);
        if (!err)
            err = idempotency_outcome_catch_up(db, sys_now_ms() + CLEAN_SPAN_MS);
        if (!err)
            err = clean(&rounds);
        if (fiber_cancelled(fiber_self()))
            break;
        complain(&rounds, err);
        arena_reset(fiber_arena());
    }
}

static void keeper_close(struct db *db)
{
    err_t err = idempotency_outcome_catch_up(db, UINT64_MAX);

    if (err)
        log_error("answers are not kept for their Idempotency-Keys", err);
    idempotency_outcome_forget();
    replica_close(db);
}

const struct govern_service keeper_service = {
    .name = "keeper",
    .open = keeper_open,
    .adopt = keeper_adopt,
    .run = keeper_run,
    .close = keeper_close,
};
