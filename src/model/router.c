/* SPDX-License-Identifier: Apache-2.0 */
/* Plans: which targets, in which order.
 *
 * Every order is a sort by one number per target. Shares and stickiness are the same thing with
 * another source of numbers: each target draws -log2(u) / weight, u being random in one case and a
 * hash of target and conversation in the other, and the smallest comes first (weighted rendezvous
 * hashing). So all of the order is fair and stable, not only its head: when a target goes away, only
 * those move who were with it. */
#include "model/router.h"

#include "base/sys.h"
#include "base/text.h"
#include "model/route_cost.h"
#include "model/route_match.h"
#include "model/route_sticky.h"

/* ---- numbers to sort by ---- */

/* Marsaglia, "Xorshift RNGs" (2003). */
static uint64_t random_number(void)
{
    static _Thread_local uint64_t state;

    while (state == 0)
        sys_random(&state, sizeof(state));
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

/* -log2(u) for u = number / 2^64, in units of 2^-16: the fraction's bits are found by squaring. */
static uint64_t minus_log2(uint64_t number)
{
    unsigned zeros = number ? (unsigned)__builtin_clzll(number) : 63;
    uint64_t mantissa = number ? number << zeros >> 32 : 1ULL << 31; /* 1 ≤ m < 2, 31 bits behind */
    uint64_t fraction = 0;

    for (int bit = 0; bit < 16; bit++) {
        mantissa = mantissa * mantissa >> 31;
        fraction = fraction << 1 | mantissa >> 32;
        mantissa >>= mantissa >> 32;
    }
    return ((uint64_t)(zeros + 1) << 16) - fraction;
}

static uint64_t draw(const struct target *target, uint64_t number)
{
    uint64_t weight = target->conf->weight;

    return weight ? (minus_log2(number) << 20) / weight : UINT64_MAX;
}

static unsigned in_flight(const struct target *target)
{
    unsigned sum = 0;

    for (size_t i = 0; i < target->provider->credential_count; i++)
        sum += health_in_flight(target->health[i]);
    return sum;
}

/* Expected wait: the usual latency, longer while others wait. A target that is not known comes
 * first as long as nobody else is finding out, else last. */
static uint64_t expected_ms(const struct target *target, uint64_t now_ms)
{
    unsigned busy = in_flight(target);
    uint64_t best = 0;

    for (size_t i = 0; i < target->provider->credential_count; i++) {
        uint64_t ms = health_latency_ms(target->health[i], now_ms);
        if (ms && (!best || ms < best))
            best = ms;
    }
    if (!best)
        return busy ? UINT64_MAX : 0;
    return best * (busy + 1);
}

/* ---- sorting ---- */

/* By number, those with the same one as they stand. */
static void sort(struct target **targets, uint64_t *numbers, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        struct target *target = targets[i];
        uint64_t number = numbers[i];
        size_t k = i;
        for (; k > 0 && numbers[k - 1] > number; k--) {
            targets[k] = targets[k - 1];
            numbers[k] = numbers[k - 1];
        }
        targets[k] = target;
        numbers[k] = number;
    }
}

static void sort_by_share(struct plan *plan, uint64_t *numbers)
{
    for (size_t i = 0; i < plan->target_count; i++)
        numbers[i] = draw(plan->targets[i], random_number());
    sort(plan->targets, numbers, plan->target_count);
}

static void sort_by_latency(struct plan *plan, uint64_t *numbers)
{
    uint64_t now_ms = sys_now_ms();

    for (size_t i = 0; i < plan->target_count; i++)
        numbers[i] = expected_ms(plan->targets[i], now_ms);
    sort(plan->targets, numbers, plan->target_count);
}

/* The cheapest first, of those that cost the same the quickest. */
static err_t sort_by_cost(struct plan *plan, struct route_match *match, uint64_t *numbers)
{
    struct route_cost *cost;

    TRY(route_cost_judge(match, plan->targets, plan->target_count, &cost));
    TRY(route_cost_keep(cost, plan));
    sort_by_latency(plan, numbers);
    for (size_t i = 0; i < plan->target_count; i++)
        numbers[i] = route_cost_choice(cost, plan->targets[i])->nano;
    sort(plan->targets, numbers, plan->target_count);
    plan->cost = cost;
    return route_cost_explain(cost, plan, match->arena, &plan->explained);
}

/* Put the targets into the order of the alias's route. */
static err_t sort_targets(struct plan *plan, struct route_match *match)
{
    static const char *const reasons[] = {
        [CONF_ROUTE_ORDER] = "order",           [CONF_ROUTE_WEIGHTED] = "weighted",
        [CONF_ROUTE_LEAST_BUSY] = "least_busy", [CONF_ROUTE_LATENCY] = "latency",
        [CONF_ROUTE_STICKY] = "sticky",         [CONF_ROUTE_COST] = "cost",
    };
    enum conf_route route = plan->alias->route;
    size_t count = plan->target_count;
    uint64_t *numbers, key;

    plan->reason = reasons[route];
    if (route == CONF_ROUTE_ORDER || (count < 2 && route != CONF_ROUTE_COST))
        return NULL;
    numbers = arena_alloc_array(match->arena, count, sizeof(*numbers));
    if (!numbers)
        return arena_err(match->arena);
    switch (route) {
    case CONF_ROUTE_ORDER:
        break;
    case CONF_ROUTE_WEIGHTED:
        sort_by_share(plan, numbers);
        break;
    case CONF_ROUTE_LEAST_BUSY:
        sort_by_share(plan, numbers);
        for (size_t i = 0; i < count; i++)
            numbers[i] = in_flight(plan->targets[i]);
        sort(plan->targets, numbers, count);
        break;
    case CONF_ROUTE_LATENCY:
        sort_by_latency(plan, numbers);
        break;
    case CONF_ROUTE_COST:
        return sort_by_cost(plan, match, numbers);
    case CONF_ROUTE_STICKY:
        key =
            route_sticky_key(match->ask, match->caller, plan->alias->sticks_to_user, match->arena);
        for (size_t i = 0; i < count; i++)
            numbers[i] = draw(plan->targets[i], text_hash(plan->targets[i]->label, key));
        sort(plan->targets, numbers, count);
        break;
    }
    return NULL;
}

/* ---- choosing ---- */

/* No target can do it: say what it is that none of them can. */
static err_t refuse_lack(struct str model, enum route_lack lack)
{
    static const struct {
        const char *param, *what;
    } lacks[] = {
        [ROUTE_TOOLS] = {"tools", "call tools"},
        [ROUTE_IMAGES] = {"messages", "see images"},
        [ROUTE_SCHEMA] = {"response_format", "answer by a JSON schema"},
    };

    return err_new_detail(ERR_BAD_REQUEST,
                          (.code = "unsupported_parameter", .param = lacks[lack].param),
                          "The model `%.*s` cannot %s.", STR_ARG(model), lacks[lack].what);
}

static err_t new_list(struct arena *arena, size_t count, struct target ***out)
{
    *out = NULL;
    if (count == 0)
        return NULL;
    *out = arena_alloc_array(arena, count, sizeof(**out));
    return *out ? NULL : arena_err(arena);
}

/* The alias's targets that fit; where none does because of the prompt's length, what the plan is
 * then. */
static err_t choose_targets(const struct alias *alias, struct route_match *match, struct plan *plan)
{
    size_t count = alias->conf->target_count, short_count = 0;
    enum route_lack lack, worst = ROUTE_FITS;

    TRY(new_list(match->arena, count, &plan->targets));
    for (size_t i = 0; i < count; i++) {
        TRY(route_match_target(match, &alias->conf->targets[i], &lack));
        if (lack == ROUTE_FITS)
            plan->targets[plan->target_count++] = &alias->targets[i];
        else if (lack == ROUTE_CONTEXT)
            short_count++;
        worst = lack > worst ? lack : worst;
    }
    if (plan->target_count)
        return NULL;
    if (short_count == 0)
        return worst > ROUTE_CONTEXT ? refuse_lack(alias->conf->name, worst)
                                     : providers_not_found(alias->conf->name);
    if (plan->context_fallback_count > 0) {
        plan->targets = plan->context_fallbacks;
        plan->target_count = plan->context_fallback_count;
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        TRY(route_match_target(match, &alias->conf->targets[i], &lack));
        if (lack == ROUTE_CONTEXT)
            plan->targets[plan->target_count++] = &alias->targets[i];
    }
    return NULL;
}

static err_t list_fallbacks(struct target *targets, size_t count, struct arena *arena,
                            struct target ***out)
{
    TRY(new_list(arena, count, out));
    for (size_t i = 0; i < count; i++)
        (*out)[i] = &targets[i];
    return NULL;
}

static err_t plan_alias(const struct alias *alias, struct route_match *match, struct plan *plan)
{
    const struct conf_model *conf = alias->conf;
    bool holds;

    plan->alias = conf;
    TRY(route_match_when(match, &conf->when, &holds));
    if (!holds)
        return providers_not_found(conf->name);
    plan->context_fallback_count = conf->context_fallback_count;
    plan->content_fallback_count = conf->content_fallback_count;
    TRY(list_fallbacks(alias->context_fallbacks, conf->context_fallback_count, match->arena,
                       &plan->context_fallbacks));
    TRY(list_fallbacks(alias->content_fallbacks, conf->content_fallback_count, match->arena,
                       &plan->content_fallbacks));
    TRY(choose_targets(alias, match, plan));
    if (plan->targets == plan->context_fallbacks) {
        plan->reason = "context";
        return NULL;
    }
    return sort_targets(plan, match);
}

/* One target, called by its own name. */
static err_t plan_direct(struct providers *providers, struct str name, struct arena *arena,
                         struct plan *plan)
{
    TRY(new_list(arena, 1, &plan->targets));
    TRY(providers_find_direct(providers, name, arena, &plan->targets[0]));
    plan->target_count = 1;
    plan->reason = "direct";
    return NULL;
}

/* The target that the caller wants: the alias's of that name, with the alias's options, or any. */
static err_t plan_wanted(struct providers *providers, const struct alias *alias, struct str wanted,
                         struct arena *arena, struct plan *plan)
{
    for (size_t i = 0; alias && i < alias->conf->target_count; i++) {
        if (!str_eq(alias->targets[i].label, wanted))
            continue;
        TRY(new_list(arena, 1, &plan->targets));
        plan->targets[0] = &alias->targets[i];
        plan->target_count = 1;
        plan->alias = alias->conf;
        plan->reason = "override";
        return NULL;
    }
    TRY(plan_direct(providers, wanted, arena, plan));
    plan->reason = "override";
    return str_eq(plan->targets[0]->label, wanted) ? NULL : providers_not_found(wanted);
}

const struct alias *router_alias(const struct providers *providers, struct str name)
{
    const struct alias *alias = providers_alias(providers, name);

    for (size_t i = 0; !alias && str_eq(name, STR("auto")) && i < providers->conf->model_count; i++)
        if (providers->aliases[i].conf->route == CONF_ROUTE_COST)
            return &providers->aliases[i];
    return alias;
}

err_t router_plan(struct providers *providers, struct chat_request *ask,
                  const struct route_caller *caller, struct arena *arena, struct plan *out)
{
    const struct alias *alias = router_alias(providers, ask->model);
    struct route_match match = {
        .providers = providers, .ask = ask, .caller = caller, .arena = arena};

    *out = (struct plan){0};
    if (caller->wanted.len)
        return plan_wanted(providers, alias, caller->wanted, arena, out);
    if (alias)
        return plan_alias(alias, &match, out);
    return plan_direct(providers, ask->model, arena, out);
}
