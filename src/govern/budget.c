/* SPDX-License-Identifier: Apache-2.0 */
/* Finding, reserving and settling: the part of budgets that every call goes through.
 *
 * All of it is in memory, except when credit has to be fetched: then the call asks the lease server
 * (budget_lease.c) and looks again when it has answered. */
#include "govern/budget.h"

#include "base/sys.h"
#include "conf/quota.h"
#include "fiber/fiber.h"
#include "govern/budget_account.h"
#include "govern/budget_lease.h"
#include "govern/period.h"
#include "observe/metrics.h"

/* How long a call waits for credit before it counts as not to be had. */
#define CREDIT_WAIT_MS 5000
/* How long it waits each time while another process is asked for credit. */
#define RECALLING_MS 10
/* More than any call comes to, so that sums of many fit 64 bits with a sign, whatever a provider says. */
#define MAX_AMOUNT UINT64_C(1000000000000000)

/* ---- what a call falls under ---- */

struct finding {
    struct reservation *reservation;
    const struct subject *subject;
    struct budget_account *locked; /* the last one; NULL: none */
    struct period periods[CONF_PERIOD_TOTAL + 1];
};

static void give_claims(void *arg)
{
    struct reservation *r = arg;

    budget_settle(r, 0, 0);
    if (r->refused)
        metric_add(metric_series_get(METRIC_BUDGET_REFUSED,
                                     budget_scope_name(r->refused->account->scope),
                                     budget_unit_name(r->refused->account->unit), NULL),
                   1);
    for (size_t i = 0; i < r->count; i++)
        budget_account_give(r->claims[i].account);
    r->count = 0;
}

static err_t add_quotas(struct finding *f, const struct budget_owner *owner, enum budget_unit unit,
                        const struct conf_quotas *quotas)
{
    struct reservation *r = f->reservation;

    for (size_t i = 0; i < quotas->count; i++) {
        struct conf_quota quota = quotas->items[i];
        struct budget_key key = {owner, unit, quota, f->periods[quota.period].begins_s,
                                 f->periods[quota.period].ends_s};

        f->locked = budget_account_take(&key, f->locked);
        if (!f->locked)
            return err_no_memory();
        r->claims[r->count++] = (struct budget_claim){.account = f->locked, .cap = quota.amount};
    }
    return NULL;
}

/* What an owner was given of its own goes before what all have. */
static const struct conf_quotas *quotas_of(const struct conf_budgets *usual,
                                           const struct allowance *own, enum budget_unit unit)
{
    if (unit == BUDGET_TOKENS)
        return own && own->token_budget.count > 0 ? &own->token_budget : &usual->tokens;
    return own && own->money_budget.count > 0 ? &own->money_budget : &usual->money;
}

/* How many claims an owner has. */
static size_t count_budgets(const struct conf_budgets *usual, const struct allowance *own)
{
    return quotas_of(usual, own, BUDGET_TOKENS)->count + quotas_of(usual, own, BUDGET_MONEY)->count;
}

static err_t add_budgets(struct finding *f, enum budget_scope scope, struct str id,
                         const struct conf_budgets *usual, const struct allowance *own)
{
    struct budget_owner owner;

    if (count_budgets(usual, own) == 0)
        return NULL;
    owner = budget_owner_make(scope, id, f->subject->project);
    TRY(add_quotas(f, &owner, BUDGET_TOKENS, quotas_of(usual, own, BUDGET_TOKENS)));
    return add_quotas(f, &owner, BUDGET_MONEY, quotas_of(usual, own, BUDGET_MONEY));
}

static err_t add_user(struct finding *f, const struct conf_budgets *usual, struct arena *arena)
{
    struct str project = f->subject->project, user = f->subject->user;
    char *id = arena_alloc(arena, project.len + 1 + user.len);

    if (!id)
        return arena_err(arena);
    if (project.len > 0)
        memcpy(id, project.ptr, project.len);
    id[project.len] = '/';
    if (user.len > 0)
        memcpy(id + project.len + 1, user.ptr, user.len);
    return add_budgets(f, BUDGET_USER, (struct str){id, project.len + 1 + user.len}, usual, NULL);
}

/* Each account stays locked until the next one is: nothing in here parks or reads files. */
static err_t add_all(struct finding *f, const struct conf *conf, struct arena *arena)
{
    const struct subject *subject = f->subject;

    TRY(add_budgets(f, BUDGET_KEY, subject->key, &conf->budgets.per_key, subject->key_allowance));
    TRY(add_budgets(f, BUDGET_PROJECT, subject->project, &conf->budgets.per_project,
                    subject->project_allowance));
    return subject->user_is_limited && count_budgets(&conf->budgets.per_user, NULL) > 0
               ? add_user(f, &conf->budgets.per_user, arena)
               : NULL;
}

err_t budget_find(struct reservation *r, const struct conf *conf, const struct subject *subject,
                  uint64_t now_s, struct arena *arena)
{
    struct finding f;
    size_t count = count_budgets(&conf->budgets.per_key, subject->key_allowance) +
                   count_budgets(&conf->budgets.per_project, subject->project_allowance) +
                   (subject->user_is_limited ? count_budgets(&conf->budgets.per_user, NULL) : 0);
    err_t err;

    *r = (struct reservation){.is_dry_run = conf->budgets.dry_run,
                              .lease_percent = (unsigned)conf->budgets.lease_percent};
    if (count == 0)
        return NULL;
    if (count > BUDGET_MAX_CLAIMS)
        return err_new(ERR_CONFIG, "more than %d budgets hold for one call", BUDGET_MAX_CLAIMS);
    r->claims = arena_alloc(arena, count * sizeof(*r->claims));
    if (!r->claims)
        return arena_err(arena);
    TRY(arena_defer(arena, give_claims, r));
    f.reservation = r;
    f.subject = subject;
    f.locked = NULL;
    period_all_at(conf->budgets.timezone, now_s, f.periods);
    err = add_all(&f, conf, arena);
    budget_account_relock(f.locked, NULL);
    return err;
}

static bool wants(const struct reservation *r, enum budget_unit unit)
{
    for (size_t i = 0; i < r->count; i++)
        if (r->claims[i].account->unit == unit)
            return true;
    return false;
}

bool budget_wants_money(const struct reservation *r)
{
    return wants(r, BUDGET_MONEY);
}

bool budget_wants_tokens(const struct reservation *r)
{
    return wants(r, BUDGET_TOKENS);
}

/* ---- reserving ---- */

/* Give back what claims have reserved since budget_reserve began. */
static void release(struct budget_claim *claims, size_t count)
{
    struct budget_account *before = NULL;

    for (size_t i = 0; i < count; i++) {
        struct budget_account *a = claims[i].account;
        uint64_t more = claims[i].reserved - claims[i].kept;
        budget_account_relock(before, a);
        a->reserved -= more;
        a->credit += (int64_t)more;
        claims[i].reserved = claims[i].kept;
        before = a;
    }
    budget_account_relock(before, NULL);
}

static unsigned used_percent(const struct budget_account *a)
{
    uint64_t left = a->left + (a->credit > 0 ? (uint64_t)a->credit : 0);

    if (a->cap == 0 || left >= a->cap)
        return 0;
    return (unsigned)((double)(a->cap - left) * 100 / (double)a->cap);
}

/* Take from a locked account. False: it has too little. */
static bool take_locked(struct budget_claim *claim, uint64_t amount, bool may_overdraw)
{
    struct budget_account *a = claim->account;

    if (!may_overdraw && (a->gives_back || a->credit < 0 || (uint64_t)a->credit < amount))
        return false;
    a->credit -= (int64_t)amount;
    a->reserved += amount;
    a->used_ms = loop_now_ms();
    claim->reserved += amount;
    return true;
}

static bool take(struct budget_claim *claim, uint64_t amount, bool may_overdraw, unsigned *percent)
{
    bool fits;

    budget_account_lock(claim->account);
    fits = take_locked(claim, amount, may_overdraw);
    *percent = used_percent(claim->account);
    budget_account_unlock(claim->account);
    return fits;
}

/* "500/month" in the fiber's arena. */
static err_t quota_text(const struct budget_claim *claim, struct str *out)
{
    struct buf text = buf_make(MEM_GOVERN, 128);
    struct conf_quota quota = {claim->cap, claim->account->period};
    err_t err = quota_print(
        &quota, claim->account->unit == BUDGET_MONEY ? QUOTA_MONEY : QUOTA_TOKENS, &text);

    *out = err ? (struct str){0} : arena_copy(fiber_arena(), buf_str(&text));
    buf_fini(&text);
    return err ? err : out->ptr ? NULL : err_no_memory();
}

static err_t refuse(const struct budget_claim *claim, uint64_t *retry_ms)
{
    const struct budget_account *a = claim->account;
    const char *scope = budget_scope_name(a->scope), *unit = budget_unit_name(a->unit);
    uint64_t ends_s = a->ends_s;
    struct str quota;

    TRY(quota_text(claim, &quota));
    if (ends_s == UINT64_MAX)
        *retry_ms = 0;
    else /* it may have ended while credit was waited for */
        *retry_ms = ends_s * 1000 > sys_wall_ms() ? ends_s * 1000 - sys_wall_ms() : 1;
    return err_new_detail(
        ERR_LIMITED, (.code = "budget_exceeded"),
        "what is left of this %s's budget of %.*s in %s does not suffice for this "
        "request",
        scope, STR_ARG(quota), unit);
}

static const struct err unavailable = {
    .kind = ERR_BUSY,
    .code = "budget_unavailable",
    .where = ERR_HERE,
    .text = "the budget cannot be read at the moment: try again shortly"};

/* What a wait for credit ended with. */
enum fetched { FETCHED_SOME, FETCHED_NONE, FETCHED_AWAY };

/* PARKS: have the lease server bring more. */
static err_t fetch(struct budget_claim *claim, uint64_t amount, unsigned lease_percent,
                   enum fetched *out)
{
    struct budget_account *a = claim->account;
    uint64_t until_ms = loop_now_ms() + CREDIT_WAIT_MS, rounds, pause_ms = 1;
    bool is_over, is_recalling;

    budget_account_lock(a);
    if (a->spent_out_until_ms > sys_now_ms()) {
        is_recalling = a->is_recalling;
        budget_account_unlock(a);
        *out = is_recalling ? FETCHED_SOME : FETCHED_NONE;
        return is_recalling ? fiber_sleep(RECALLING_MS) : NULL;
    }
    rounds = a->rounds;
    a->wanted += amount;
    budget_account_unlock(a);
    budget_lease_ask(a, lease_percent);
    do {
        TRY(fiber_sleep(pause_ms));
        pause_ms = pause_ms < 8 ? pause_ms * 2 : 8;
        budget_account_lock(a);
        is_over = a->rounds != rounds;
        *out = a->is_store_away ? FETCHED_AWAY : FETCHED_SOME;
        budget_account_unlock(a);
    } while (!is_over && loop_now_ms() < until_ms);
    if (!is_over)
        *out = FETCHED_AWAY;
    return NULL;
}

static uint64_t amount_of(const struct budget_claim *claim, uint64_t tokens, uint64_t nano)
{
    uint64_t amount = claim->account->unit == BUDGET_MONEY ? nano : tokens;

    return amount < MAX_AMOUNT ? amount : MAX_AMOUNT;
}

/* From half of a budget on, the caller is told how far it is used. */
static err_t warn(struct reservation *r, const struct budget_claim *claim, unsigned percent)
{
    struct str quota;
    const char *text;

    if (percent < 50 || percent <= r->percent)
        return NULL;
    TRY(quota_text(claim, &quota));
    text =
        arena_printf(fiber_arena(), "%s %s %u%% of %.*s", budget_scope_name(claim->account->scope),
                     budget_unit_name(claim->account->unit), percent, STR_ARG(quota));
    if (!text)
        return arena_err(fiber_arena());
    r->percent = percent;
    r->warning = str_from(text);
    return NULL;
}

/* Reserve from one account; what is short is fetched, and then it is looked at again. */
static err_t reserve_one(struct reservation *r, size_t i, uint64_t amount, uint64_t *retry_ms)
{
    struct budget_claim *claim = &r->claims[i];
    uint64_t until_ms = loop_now_ms() + CREDIT_WAIT_MS;
    enum fetched fetched;
    unsigned percent;

    for (bool is_first = true; is_first || loop_now_ms() < until_ms; is_first = false) {
        if (take(claim, amount, false, &percent))
            return warn(r, claim, percent);
        TRY(fetch(claim, amount, r->lease_percent, &fetched));
        if (fetched == FETCHED_AWAY)
            return r->is_dry_run ? NULL : &unavailable;
        if (fetched == FETCHED_NONE)
            break;
    }
    if (take(claim, amount, r->is_dry_run, &percent))
        return warn(r, claim, r->is_dry_run ? 100 : percent);
    r->refused = claim;
    return refuse(claim, retry_ms);
}

/* As nearly all calls go: take from all accounts if each has enough, and nothing else. */
static bool take_all(struct reservation *r, uint64_t tokens, uint64_t nano, unsigned *percents)
{
    struct budget_account *before = NULL;
    bool fits = true;
    size_t i;

    for (i = 0; i < r->count && fits; i++) {
        struct budget_claim *claim = &r->claims[i];
        budget_account_relock(before, claim->account);
        fits = take_locked(claim, amount_of(claim, tokens, nano), false);
        percents[i] = used_percent(claim->account);
        before = claim->account;
    }
    budget_account_relock(before, NULL);
    if (!fits)
        release(r->claims, i);
    return fits;
}

static err_t reserve_all(struct reservation *r, uint64_t tokens, uint64_t nano, uint64_t *retry_ms)
{
    unsigned percents[BUDGET_MAX_CLAIMS];
    bool is_taken = take_all(r, tokens, nano, percents);

    for (size_t i = 0; i < r->count; i++)
        TRY(is_taken ? warn(r, &r->claims[i], percents[i])
                     : reserve_one(r, i, amount_of(&r->claims[i], tokens, nano), retry_ms));
    return NULL;
}

err_t budget_reserve(struct reservation *r, uint64_t tokens, uint64_t nano, uint64_t *retry_ms)
{
    err_t err;

    for (size_t i = 0; i < r->count; i++)
        r->claims[i].kept = r->claims[i].reserved;
    err = reserve_all(r, tokens, nano, retry_ms);
    if (err) {
        release(r->claims, r->count);
        return err;
    }
    r->is_open = r->count > 0;
    r->refused = NULL;
    return NULL;
}

void budget_settle(struct reservation *r, uint64_t tokens, uint64_t nano)
{
    struct budget_account *before = NULL;

    if (!r->is_open)
        return;
    r->is_open = false;
    for (size_t i = 0; i < r->count; i++) {
        struct budget_claim *claim = &r->claims[i];
        struct budget_account *a = claim->account;
        uint64_t used = amount_of(claim, tokens, nano);
        budget_account_relock(before, a);
        a->reserved -= claim->reserved;
        a->credit += (int64_t)claim->reserved - (int64_t)used;
        a->unbooked += used;
        claim->reserved = 0;
        claim->used = used;
        before = a;
    }
    budget_account_relock(before, NULL);
}

/* ---- for routing ---- */

static unsigned left_percent(struct budget_owner owner, const struct conf *conf,
                             const struct conf_quotas *quotas)
{
    unsigned least = 100;

    for (size_t i = 0; i < quotas->count; i++) {
        struct period period =
            period_at(conf->budgets.timezone, quotas->items[i].period, sys_wall_ms() / 1000);
        struct budget_key key = {&owner, BUDGET_MONEY, quotas->items[i], period.begins_s,
                                 period.ends_s};
        struct budget_account *a = budget_account_peek(&key);
        unsigned used = a ? used_percent(a) : 0;
        if (a)
            budget_account_unlock(a);
        if (used >= 100)
            return 0;
        least = 100 - used < least ? 100 - used : least;
    }
    return least;
}

unsigned budget_left_percent(const struct conf *conf, const struct subject *subject)
{
    const struct conf_budgets *per_key = &conf->budgets.per_key;
    const struct conf_budgets *per_project = &conf->budgets.per_project;
    unsigned of_key = left_percent(budget_owner_make(BUDGET_KEY, subject->key, subject->project),
                                   conf, quotas_of(per_key, subject->key_allowance, BUDGET_MONEY));
    unsigned of_project =
        left_percent(budget_owner_make(BUDGET_PROJECT, subject->project, subject->project), conf,
                     quotas_of(per_project, subject->project_allowance, BUDGET_MONEY));

    return of_key < of_project ? of_key : of_project;
}

/* ---- for views ---- */

static const struct conf_quotas *quotas_named(const struct conf *conf,
                                              const struct identity *identity,
                                              const struct budget_words *b)
{
    enum budget_unit unit =
        str_eq(b->unit, str_from(budget_unit_name(BUDGET_MONEY))) ? BUDGET_MONEY : BUDGET_TOKENS;

    if (str_eq(b->scope, str_from(budget_scope_name(BUDGET_USER))))
        return quotas_of(&conf->budgets.per_user, NULL, unit);
    if (str_eq(b->scope, str_from(budget_scope_name(BUDGET_PROJECT)))) {
        const struct identity_project *p =
            identity ? identity_project_get(identity, b->owner) : NULL;
        return quotas_of(&conf->budgets.per_project, p ? p->allowance : NULL, unit);
    }
    const struct identity_key *key = identity ? identity_get(identity, b->owner) : NULL;
    return quotas_of(&conf->budgets.per_key, key ? key->allowance : NULL, unit);
}

bool budget_is_in_force(const struct conf *conf, const struct identity *identity,
                        const struct budget_words *b)
{
    const struct conf_quotas *quotas = quotas_named(conf, identity, b);
    uint64_t now_s = sys_wall_ms() / 1000;

    for (size_t i = 0; i < quotas->count; i++) {
        enum conf_period period = quotas->items[i].period;
        if (str_eq(b->period, str_from(quota_period_name(period))) &&
            b->begins_s == period_at(conf->budgets.timezone, period, now_s).begins_s)
            return true;
    }
    return false;
}
