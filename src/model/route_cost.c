/* SPDX-License-Identifier: Apache-2.0 */
/* Who may answer at what price.
 *
 * Two things are asked of a target: that its `tiers` hold the caller's, which is a right and never given
 * away, and that its `max_complexity` reaches the prompt's score, which is a wish: where it cannot be met
 * the best there is will do, and an owner whose budget runs low is given what is cheapest. Costs are
 * guesses, good enough to compare: a token for four bytes, and an answer as long as is usual. */
#include "model/route_cost.h"

#include "base/sys.h"
#include "conf/quota.h"
#include "govern/budget.h"

#define BYTES_PER_TOKEN 4

/* ---- the request ---- */

static uint64_t count_images(const struct part *parts, size_t count)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < count; i++)
        sum += (parts[i].kind == PART_IMAGE) + count_images(parts[i].parts, parts[i].part_count);
    return sum;
}

static uint64_t images_of(const struct prompt *prompt)
{
    uint64_t sum = 0;

    for (size_t i = 0; prompt && i < prompt->message_count; i++)
        sum += count_images(prompt->messages[i].parts, prompt->messages[i].part_count);
    return sum;
}

/* Measure what is asked; *prompt is NULL where nobody can tell what it means. */
static err_t measure(struct route_match *match, struct route_cost *cost,
                     const struct prompt **prompt)
{
    struct chat_request *ask = match->ask;
    err_t err;

    *prompt = NULL;
    cost->input_tokens = (ask->body.len + ask->history.len + ask->referenced.len) / BYTES_PER_TOKEN;
    if (!ask->expand && ask->protocol != PROTOCOL_COMPLETIONS)
        return NULL; /* no question, and no answer that would be written */
    cost->output_tokens = ROUTE_COST_ANSWER_TOKENS;
    err = ask->expand ? chat_prompt(ask, match->arena, prompt) : NULL;
    if (!ask->expand || route_match_is_unread(ask, err)) {
        complexity_measure_text(ask->body, &cost->complexity);
        return NULL;
    }
    TRY(err);
    complexity_measure(*prompt, &cost->complexity);
    (void)json_u64((*prompt)->settings[SETTING_MAX_TOKENS], &cost->output_tokens);
    return NULL;
}

/* ---- the targets ---- */

static bool is_open_to(const struct target *target, struct str tier)
{
    const struct conf_strings *tiers = &target->conf->tiers;

    for (size_t i = 0; i < tiers->count; i++)
        if (str_eq(tiers->items[i], tier))
            return true;
    return tiers->count == 0;
}

static bool is_low(const struct route_cost *cost)
{
    return cost->budget_left_percent < ROUTE_COST_LOW_BUDGET_PERCENT;
}

static enum route_cost_verdict judge(const struct route_cost *cost, const struct target *target,
                                     const struct subject *subject)
{
    if (!target->conf) /* called provider/model */
        return ROUTE_COST_KEPT;
    if (!is_open_to(target, subject ? subject->tier : STR("")))
        return ROUTE_COST_TIER;
    if (!is_low(cost) && cost->complexity.score > target->conf->max_complexity_percent)
        return ROUTE_COST_TOO_HARD;
    return ROUTE_COST_KEPT;
}

err_t route_cost_judge(struct route_match *match, struct target **targets, size_t count,
                       struct route_cost **out)
{
    const struct subject *subject = match->caller->subject;
    const struct prices *prices = match->providers->prices;
    struct route_cost *cost = arena_new_struct(match->arena, struct route_cost);
    const struct prompt *prompt;
    struct price_usage usage = {0};
    uint64_t now_ms = sys_wall_ms();

    if (!cost)
        return arena_err(match->arena);
    cost->choices = arena_alloc_array(match->arena, count, sizeof(*cost->choices));
    if (!cost->choices)
        return arena_err(match->arena);
    TRY(measure(match, cost, &prompt));
    cost->count = count;
    cost->budget_left_percent =
        subject ? budget_left_percent(match->providers->conf, subject) : 100;
    usage.input = cost->input_tokens;
    usage.output = cost->output_tokens;
    usage.images = images_of(prompt);
    for (size_t i = 0; i < count; i++) {
        const struct price *price =
            prices ? price_find(prices, targets[i]->provider->conf->name, targets[i]->model, now_ms)
                   : NULL;
        cost->choices[i] = (struct route_cost_choice){
            .target = targets[i],
            .verdict = judge(cost, targets[i], subject),
            .nano = price ? price_cost(price, &usage) : UINT64_MAX,
        };
    }
    *out = cost;
    return NULL;
}

/* ---- the plan ---- */

/* Keep those that take the hardest prompts, of those whose only fault is not to take this one. */
static void keep_best(struct route_cost *cost)
{
    uint64_t best = 0;

    for (size_t i = 0; i < cost->count; i++) {
        uint64_t most = cost->choices[i].target->conf->max_complexity_percent;
        if (cost->choices[i].verdict == ROUTE_COST_TOO_HARD && most > best)
            best = most;
    }
    for (size_t i = 0; i < cost->count; i++)
        if (cost->choices[i].verdict == ROUTE_COST_TOO_HARD &&
            cost->choices[i].target->conf->max_complexity_percent == best)
            cost->choices[i].verdict = ROUTE_COST_KEPT;
}

static size_t count_verdicts(const struct route_cost *cost, enum route_cost_verdict verdict)
{
    size_t count = 0;

    for (size_t i = 0; i < cost->count; i++)
        count += cost->choices[i].verdict == verdict;
    return count;
}

/* Keep what costs least, unless no price is known. */
static void keep_cheapest(struct route_cost *cost)
{
    uint64_t least = UINT64_MAX;

    for (size_t i = 0; i < cost->count; i++)
        if (cost->choices[i].verdict == ROUTE_COST_KEPT && cost->choices[i].nano < least)
            least = cost->choices[i].nano;
    for (size_t i = 0; i < cost->count; i++)
        if (cost->choices[i].verdict == ROUTE_COST_KEPT && cost->choices[i].nano > least)
            cost->choices[i].verdict = ROUTE_COST_DEARER;
}

err_t route_cost_keep(struct route_cost *cost, struct plan *plan)
{
    size_t kept = 0;

    if (count_verdicts(cost, ROUTE_COST_TIER) == cost->count)
        return providers_not_found(plan->alias->name);
    if (count_verdicts(cost, ROUTE_COST_KEPT) == 0)
        keep_best(cost);
    cost->fitting = count_verdicts(cost, ROUTE_COST_KEPT);
    if (is_low(cost))
        keep_cheapest(cost);
    for (size_t i = 0; i < cost->count; i++)
        if (cost->choices[i].verdict == ROUTE_COST_KEPT)
            plan->targets[kept++] = plan->targets[i];
    plan->target_count = kept;
    return NULL;
}

const struct route_cost_choice *route_cost_choice(const struct route_cost *cost,
                                                  const struct target *target)
{
    for (size_t i = 0; i < cost->count; i++)
        if (cost->choices[i].target == target)
            return &cost->choices[i];
    return NULL;
}

/* ---- why ---- */

static err_t explain_choice(const struct route_cost *cost, const struct target *first,
                            struct buf *out)
{
    uint64_t most = first->conf->max_complexity_percent;
    unsigned score = cost->complexity.score;

    if (is_low(cost))
        return buf_printf(out, "cost: complexity %u, %u%% of the budget left", score,
                          cost->budget_left_percent);
    return buf_printf(out, "cost: complexity %u %s %llu%s", score,
                      score > most ? ">" : "<=", (unsigned long long)most,
                      score > most ? " of the best" : "");
}

static err_t explain(const struct route_cost *cost, const struct plan *plan, struct buf *out)
{
    uint64_t nano = route_cost_choice(cost, plan->targets[0])->nano;

    TRY(explain_choice(cost, plan->targets[0], out));
    if (nano == UINT64_MAX)
        return buf_printf(out, ", no price is known");
    TRY(buf_add(out, cost->fitting > 1 ? STR(", cheapest ") : STR(", ")));
    TRY(quota_print_money(nano, out));
    return buf_printf(out, " of %zu", cost->fitting);
}

err_t route_cost_explain(const struct route_cost *cost, const struct plan *plan,
                         struct arena *arena, struct str *out)
{
    struct buf text = buf_make(MEM_REQUEST, 512);
    err_t err = explain(cost, plan, &text);

    if (!err) {
        *out = arena_copy(arena, buf_str(&text));
        err = out->ptr ? NULL : arena_err(arena);
    }
    buf_fini(&text);
    return err;
}

const char *route_cost_verdict_name(enum route_cost_verdict verdict)
{
    static const char *const names[] = {
        [ROUTE_COST_KEPT] = "kept",
        [ROUTE_COST_TOO_HARD] = "too hard",
        [ROUTE_COST_TIER] = "tier",
        [ROUTE_COST_DEARER] = "dearer",
    };

    return names[verdict];
}
