/* SPDX-License-Identifier: Apache-2.0 */
/* Which limits a call falls under, who keeps them, and what a caller hears who is over one.
 *
 * With redis.url they are kept in Redis, where all replicas see them. While Redis is of no use, and
 * without it, this process keeps them and lets its share pass: one of limits.replicas parts.
 *
 * The hard thing is the way back: what was taken here is given back here and what was taken there
 * there, so a ticket remembers, and neither side learns of the other's. */
#include "govern/limit.h"

#include <stdatomic.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/sys.h"
#include "base/text.h"
#include "fiber/fiber.h"
#include "govern/limit_store.h"
#include "observe/log.h"
#include "observe/metrics.h"
#include "store/redis.h"

#define MS_PER_MINUTE 60000
#define NS_PER_MS     UINT64_C(1000000)

static const char *const scope_names[] = {"key", "user", "project", "model"};
static const char *const unit_names[] = {"requests", "tokens", "streams"};

static struct {
    atomic_bool is_shared; /* Redis is configured */
    _Atomic uint64_t replicas;
    _Atomic uint64_t seed;         /* of ids, random: nobody can find two names with one id */
    _Atomic uint64_t told_ms;      /* when the log was last told of falling back */
    _Atomic uint64_t untold_count; /* fallbacks since */
} state = {.replicas = 1};

/* ---- finding rules ---- */

static void add_rule(struct limit_ticket *ticket, const struct limit_rule *like,
                     enum limit_unit unit, struct conf_rate rate)
{
    struct limit_rule *rule = &ticket->rules[ticket->count];

    if (rate.count == 0 || rate.count == ALLOWANCE_OFF)
        return;
    *rule = *like;
    rule->unit = unit;
    rule->rate = rate;
    rule->id = limit_memory_id(like->id, unit);
    ticket->count++;
}

/* The rules of one owner; what its own allowance does not set is as configured for all. */
static void add_owner(struct limit_ticket *ticket, enum limit_scope scope, struct str owner,
                      const struct conf_limits *limits, const struct allowance *own)
{
    struct conf_rate requests = own && own->requests.count ? own->requests : limits->requests;
    struct conf_rate tokens = own && own->tokens.count ? own->tokens : limits->tokens;
    uint64_t streams = own && own->streams ? own->streams : limits->streams;
    struct limit_rule like = {.scope = scope, .owner = owner, .cost = 1};

    if ((requests.count | tokens.count | streams) == 0)
        return;
    like.id = text_hash(owner, ticket->seed + (uint64_t)scope);
    add_rule(ticket, &like, LIMIT_REQUESTS, requests);
    add_rule(ticket, &like, LIMIT_TOKENS, tokens);
    add_rule(ticket, &like, LIMIT_STREAMS, (struct conf_rate){.count = streams});
}

err_t limit_find(struct limit_ticket *ticket, const struct conf *conf,
                 const struct subject *subject, struct str model, struct arena *arena)
{
    uint64_t seed = atomic_load_explicit(&state.seed, memory_order_relaxed);
    struct limit_rule rules[LIMIT_MAX_RULES];

    *ticket = (struct limit_ticket){.tenant = subject->project};
    ticket->seed = text_hash(ticket->tenant, seed);
    ticket->rules = rules;
    add_owner(ticket, LIMIT_KEY, subject->key, &conf->limits.per_key, subject->key_allowance);
    if (subject->user.len > 0 && subject->user_is_limited)
        add_owner(ticket, LIMIT_USER, subject->user, &conf->limits.per_user, NULL);
    add_owner(ticket, LIMIT_PROJECT, (struct str){0}, &conf->limits.per_project,
              subject->project_allowance);
    if (model.len > 0)
        add_owner(ticket, LIMIT_MODEL, model, &conf->limits.per_model, NULL);
    ticket->rules = NULL;
    if (ticket->count == 0)
        return NULL;
    /* Most calls have few, and an open stream keeps them. */
    ticket->rules = arena_alloc(arena, ticket->count * sizeof(*rules));
    if (!ticket->rules)
        return arena_err(arena);
    memcpy(ticket->rules, rules, ticket->count * sizeof(*rules));
    return NULL;
}

void limit_keep_requests(struct limit_ticket *ticket)
{
    size_t kept = 0;

    for (size_t i = 0; i < ticket->count; i++)
        if (ticket->rules[i].unit == LIMIT_REQUESTS)
            ticket->rules[kept++] = ticket->rules[i];
    ticket->count = kept;
}

bool limit_wants_tokens(const struct limit_ticket *ticket)
{
    for (size_t i = 0; i < ticket->count; i++)
        if (ticket->rules[i].unit == LIMIT_TOKENS)
            return true;
    return false;
}

/* ---- sums that both keepers share ---- */

uint64_t limit_product(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;

    return product < LIMIT_MAX_NS ? (uint64_t)product : LIMIT_MAX_NS;
}

struct limit_gcra limit_gcra_of(const struct limit_rule *rule)
{
    uint64_t count = rule->rate.count, window_ns = limit_product(rule->rate.window_ms, NS_PER_MS);
    uint64_t step_ns = window_ns / count + (window_ns % count != 0);

    if (rule->unit == LIMIT_STREAMS)
        return (struct limit_gcra){.span_ns = count};
    return (struct limit_gcra){.step_ns = step_ns, .span_ns = limit_product(count, step_ns)};
}

uint64_t limit_most(const struct limit_rule *rule, struct limit_gcra gcra)
{
    return rule->unit == LIMIT_TOKENS ? limit_product(gcra.span_ns, LIMIT_MAX_DEBT) : gcra.span_ns;
}

void limit_tell(struct limit_rule *rule, struct limit_gcra gcra, uint64_t backlog_ns)
{
    uint64_t left = backlog_ns < gcra.span_ns ? gcra.span_ns - backlog_ns : 0;

    if (rule->unit == LIMIT_STREAMS) {
        rule->remaining = left;
        return;
    }
    rule->remaining = left / gcra.step_ns;
    rule->reset_ns = backlog_ns;
    rule->reset_ms = (backlog_ns + NS_PER_MS - 1) / NS_PER_MS;
}

int64_t limit_correction(const struct limit_rule *rule, uint64_t used_tokens, bool is_void)
{
    uint64_t step_ns;

    if (rule->unit == LIMIT_STREAMS || (rule->unit == LIMIT_REQUESTS && !is_void))
        return 0;
    step_ns = limit_gcra_of(rule).step_ns;
    if (is_void)
        return -(int64_t)limit_product(rule->cost, step_ns);
    if (used_tokens < rule->cost)
        return -(int64_t)limit_product(rule->cost - used_tokens, step_ns);
    return (int64_t)limit_product(used_tokens - rule->cost, step_ns);
}

/* ---- refusals ---- */

/* Whose limit it is, as a caller knows it. */
static const char *owner_text(enum limit_scope scope)
{
    static const char *const texts[] = {"this key", "this user", "this project",
                                        "this project and model"};

    return texts[scope];
}

static void note_refusal(struct limit_ticket *ticket, const struct limit_rule *rule)
{
    snprintf(ticket->limited_by, sizeof(ticket->limited_by), "%s %s", scope_names[rule->scope],
             unit_names[rule->unit]);
    metric_add(metric_series_get(METRIC_LIMIT_REFUSED, scope_names[rule->scope],
                                 unit_names[rule->unit], NULL),
               1);
}

static err_t refuse(const struct limit_rule *rule, uint64_t wait_ns, uint64_t *retry_ms)
{
    static const struct err_detail detail = {.code = "rate_limit_exceeded"};
    unsigned long long count = rule->rate.count;
    char window[32], wait[32];

    *retry_ms = (wait_ns + NS_PER_MS - 1) / NS_PER_MS;
    if (rule->unit == LIMIT_STREAMS)
        return err_make(ERR_LIMITED, detail, ERR_HERE,
                        "Rate limit reached for %s: %llu requests at once. Try again when one of "
                        "them has ended.",
                        owner_text(rule->scope), count);
    text_format_duration(rule->rate.window_ms, window);
    text_format_duration(*retry_ms < 1000 ? *retry_ms : (*retry_ms + 999) / 1000 * 1000, wait);
    return err_make(ERR_LIMITED, detail, ERR_HERE,
                    "Rate limit reached for %s: %llu %s per %s. Try again in %s.",
                    owner_text(rule->scope), count, unit_names[rule->unit], window, wait);
}

/* A call that no waiting would let pass. */
static err_t check_size(struct limit_ticket *ticket)
{
    for (size_t i = 0; i < ticket->count; i++) {
        const struct limit_rule *rule = &ticket->rules[i];
        if (rule->cost <= rule->rate.count)
            continue;
        note_refusal(ticket, rule);
        return err_new_detail(ERR_LIMITED, (.code = "request_too_large"),
                              "Request too large for %s: about %llu tokens, of %llu that may be "
                              "used at once. Send less, or ask for fewer tokens.",
                              owner_text(rule->scope), (unsigned long long)rule->cost,
                              (unsigned long long)rule->rate.count);
    }
    return NULL;
}

/* ---- taking ---- */

/* Tell operators that limits are kept here, once a minute. */
static void tell_fallback(err_t err)
{
    uint64_t now_ms = sys_now_ms(), told_ms = atomic_load(&state.told_ms);

    metric_add(metric_series_get(METRIC_REDIS_FALLBACK, NULL), 1);
    atomic_fetch_add(&state.untold_count, 1);
    if ((told_ms && now_ms - told_ms < MS_PER_MINUTE) ||
        !atomic_compare_exchange_strong(&state.told_ms, &told_ms, now_ms))
        return;
    log_begin(LOG_WARN, "redis is of no use: this process keeps its share of the limits by itself");
    log_u64("requests", atomic_exchange(&state.untold_count, 0));
    log_err(err);
    log_end();
}

/* Make the rules this process's share of them; what asks for more than that may have all of it. */
static void share_out(struct limit_ticket *ticket)
{
    uint64_t replicas = atomic_load_explicit(&state.replicas, memory_order_relaxed);

    for (size_t i = 0; i < ticket->count && replicas > 1; i++) {
        struct limit_rule *rule = &ticket->rules[i];
        rule->rate.count = rule->rate.count > replicas ? rule->rate.count / replicas : 1;
        if (rule->cost > rule->rate.count)
            rule->cost = rule->rate.count;
    }
}

static err_t take(struct limit_ticket *ticket, struct limit_verdict *verdict)
{
    err_t err;

    ticket->is_shared = atomic_load_explicit(&state.is_shared, memory_order_relaxed);
    if (ticket->is_shared) {
        err = limit_redis_take(ticket, verdict);
        if (!err || (!err_is(err, ERR_STORE) && !err_is(err, ERR_BUSY)))
            return err;
        tell_fallback(err);
        ticket->is_shared = false;
    }
    share_out(ticket);
    return limit_memory_take(ticket, loop_recent_ns(), verdict);
}

err_t limit_take(struct limit_ticket *ticket, uint64_t tokens, uint64_t *retry_ms)
{
    struct limit_verdict verdict;

    *retry_ms = 0;
    for (size_t i = 0; i < ticket->count; i++)
        ticket->rules[i].cost = ticket->rules[i].unit == LIMIT_TOKENS ? tokens : 1;
    if (ticket->count == 0)
        return NULL;
    TRY(check_size(ticket));
    TRY(take(ticket, &verdict));
    ticket->is_told = true;
    if (verdict.refused < ticket->count) {
        note_refusal(ticket, &ticket->rules[verdict.refused]);
        return refuse(&ticket->rules[verdict.refused], verdict.wait_ns, retry_ms);
    }
    ticket->is_taken = true;
    return NULL;
}

/* How matters stood without what the ticket took: Redis is not asked again, so neither is the table. */
static void tell_without(struct limit_ticket *ticket)
{
    for (size_t i = 0; i < ticket->count; i++) {
        struct limit_rule *rule = &ticket->rules[i];
        struct limit_gcra gcra = limit_gcra_of(rule);
        uint64_t taken_ns = limit_product(rule->cost, gcra.step_ns);

        if (rule->unit == LIMIT_STREAMS)
            rule->remaining++;
        else
            limit_tell(rule, gcra, rule->reset_ns > taken_ns ? rule->reset_ns - taken_ns : 0);
    }
}

void limit_settle(struct limit_ticket *ticket, uint64_t used_tokens, bool is_void)
{
    if (!ticket->is_taken)
        return;
    ticket->is_taken = false;
    if (ticket->is_shared)
        limit_redis_settle(ticket, used_tokens, is_void);
    else
        limit_memory_settle(ticket, loop_recent_ns(), used_tokens, is_void);
    if (is_void)
        tell_without(ticket);
}

/* ---- life ---- */

err_t limit_configure(const struct conf *conf)
{
    uint64_t seed;

    if (atomic_load(&state.seed) == 0) {
        sys_random(&seed, sizeof(seed));
        atomic_store(&state.seed, seed | 1);
        limit_redis_init();
    }
    TRY(redis_configure(conf->redis.url, conf->redis.timeout_ms));
    atomic_store(&state.replicas, conf->limits.replicas ? conf->limits.replicas : 1);
    atomic_store(&state.is_shared, conf->redis.url.len > 0);
    return NULL;
}

void limit_leave(void)
{
    redis_leave();
}

void limit_close(void)
{
    redis_leave();
    redis_close();
    limit_memory_clear();
    atomic_store(&state.is_shared, false);
    atomic_store(&state.told_ms, 0);
}

size_t limit_bytes(void)
{
    return limit_memory_bytes();
}
