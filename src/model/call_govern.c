/* SPDX-License-Identifier: Apache-2.0 */
/* Estimating, reserving, charging.
 *
 * A prompt is counted only if it must be: a token is at least a byte, so the body's length is never too
 * little to reserve. Where that much is not to be had, the exact count decides. */
#include "model/call_govern.h"

#include "base/json_scan.h"
#include "model/call_estimate.h"
#include "model/call_metrics.h"
#include "model/usage_count.h"

/* ---- before ---- */

/* When a caller who was refused should come back. */
static err_t remember(struct call *call, err_t err)
{
    uint64_t wait_ms = err ? call->admission->retry_ms : 0;

    call->retry_at_ms = wait_ms ? loop_now_ms() + wait_ms : 0;
    return err;
}

static bool is_limited(const struct conf_limits *limits)
{
    return limits->requests.count || limits->tokens.count || limits->streams;
}

static bool is_budgeted(const struct conf_budgets *budgets)
{
    return budgets->tokens.count + budgets->money.count > 0;
}

/* Whether anybody wants to know of this call. On a laptop, without keys and prices, nobody does, and it costs nothing. */
static bool is_governed(const struct conf *conf, const struct subject *subject)
{
    return conf->keys.required || conf->ledger.has_all || conf->prices.len > 0 ||
           !str_eq(subject->key, STR("default")) || subject->user.len > 0 ||
           subject->key_allowance || subject->project_allowance ||
           is_limited(&conf->limits.per_key) || is_limited(&conf->limits.per_project) ||
           is_limited(&conf->limits.per_model) || is_budgeted(&conf->budgets.per_key) ||
           is_budgeted(&conf->budgets.per_project);
}

/* What the call falls under, if anybody wants to know. */
static err_t find_admission(struct call *call)
{
    struct admission *admission;

    if (!call->subject || !is_governed(call->providers->conf, call->subject))
        return NULL;
    TRY(admission_find(call->providers->conf, call->subject, call->ask->model, call->arena,
                       &admission));
    call->admission = admission;
    return NULL;
}

err_t call_limit(struct call *call)
{
    uint64_t tokens = 0;

    TRY(find_admission(call));
    if (!call->admission)
        return NULL;
    if (admission_wants_tokens(call->admission))
        tokens = call_estimate_guess(call->ask);
    return remember(call, admission_limit(call->admission, tokens));
}

err_t call_limit_unasked(struct call *call)
{
    call->is_passed = true;
    TRY(find_admission(call));
    if (!call->admission)
        return NULL;
    limit_keep_requests(&call->admission->limits);
    return remember(call, admission_limit(call->admission, 0));
}

static err_t refuse_unknown_cost(void)
{
    return err_new_detail(ERR_DENIED, (.status = 403, .code = "budget_in_force"),
                          "what this request costs cannot be known here, and a budget holds");
}

err_t call_pass(struct call *call, bool may_cost)
{
    TRY(call_limit(call));
    call->is_passed = true;
    if (!may_cost || !call->admission || !admission_has_budget(call->admission) ||
        admission_is_dry_run(call->admission))
        return NULL;
    return refuse_unknown_cost();
}

/* As of when the call began: what is reserved and what is charged must be one price. Mostly there is one target, which
 * is asked about at every step: the last answer is kept. */
static const struct price *target_price(const struct call *call, const struct target *target)
{
    const struct prices *prices = call->providers->prices;
    struct admission *a = call->admission;

    if (!prices || !a)
        return NULL;
    if (a->priced != target)
        a->price = price_find(prices, target->provider->conf->name, target->model, a->began_ms);
    a->priced = target;
    return a->price;
}

/* The most that a target may ask for an answer as estimated, with all of the prompt and all of the answer what is dearest of
 * them; UINT64_MAX without a price. */
static uint64_t target_cost(const struct call *call, const struct target *target,
                            const struct estimate *estimate)
{
    const struct price *price = target_price(call, target);
    struct price_usage usage = {
        .input = estimate->input, .output = estimate->answer, .images = estimate->images};

    if (!price) /* where budgets only warn, what cannot be reserved passes */
        return call->providers->conf->budgets.dry_run ? 0 : UINT64_MAX;
    if (price->cached_pico > price->input_pico && price->cached_pico > price->cache_written_pico)
        usage.cached = usage.input;
    else if (price->cache_written_pico > price->input_pico)
        usage.cache_written = usage.input;
    if (price->reasoning_pico > price->output_pico)
        usage.reasoning = usage.output;
    return price_cost(price, &usage);
}

/* Leave out targets that may cost more than `most`. The lists may be an alias's own: they are copied. */
static err_t keep_cheaper(struct call *call, const struct estimate *estimate, uint64_t most,
                          struct target ***targets, size_t *count)
{
    struct target **kept = arena_alloc_array(call->arena, *count, sizeof(*kept));
    size_t kept_count = 0;

    if (!kept)
        return arena_err(call->arena);
    for (size_t i = 0; i < *count; i++)
        if (target_cost(call, (*targets)[i], estimate) <= most)
            kept[kept_count++] = (*targets)[i];
    *targets = kept;
    *count = kept_count;
    return NULL;
}

static err_t narrow_plan(struct call *call, const struct estimate *estimate, uint64_t most)
{
    struct plan *plan = &call->plan;

    TRY(keep_cheaper(call, estimate, most, &plan->targets, &plan->target_count));
    TRY(keep_cheaper(call, estimate, most, &plan->context_fallbacks,
                     &plan->context_fallback_count));
    return keep_cheaper(call, estimate, most, &plan->content_fallbacks,
                        &plan->content_fallback_count);
}

static uint64_t extreme_cost(const struct call *call, const struct estimate *estimate,
                             struct target **targets, size_t count, bool is_least)
{
    uint64_t extreme = is_least ? UINT64_MAX : 0;

    for (size_t i = 0; i < count; i++) {
        uint64_t nano = target_cost(call, targets[i], estimate);
        if (is_least ? nano < extreme : nano > extreme)
            extreme = nano;
    }
    return extreme;
}

/* The most that whoever of the plan answers may ask. */
static uint64_t dearest(const struct call *call, const struct estimate *estimate)
{
    const struct plan *plan = &call->plan;
    const uint64_t costs[] = {
        extreme_cost(call, estimate, plan->targets, plan->target_count, false),
        extreme_cost(call, estimate, plan->context_fallbacks, plan->context_fallback_count, false),
        extreme_cost(call, estimate, plan->content_fallbacks, plan->content_fallback_count, false)};
    uint64_t most = costs[0];

    for (size_t i = 1; i < 3; i++)
        most = costs[i] > most ? costs[i] : most;
    return most;
}

static err_t drop_unpriced(struct call *call, const struct estimate *estimate, uint64_t *nano)
{
    if (*nano == UINT64_MAX) {
        TRY(narrow_plan(call, estimate, UINT64_MAX - 1));
        *nano = dearest(call, estimate);
    }
    if (call->plan.target_count > 0)
        return NULL;
    return err_new_detail(ERR_BUSY, (.code = "price_unknown"),
                          "a budget in money holds, and the model %.*s has no price",
                          STR_ARG(call->ask->model));
}

static uint64_t nano_of(const struct call *call, const struct estimate *estimate)
{
    return admission_wants_price(call->admission) ? dearest(call, estimate) : 0;
}

static err_t reserve(struct call *call, const struct estimate *estimate, uint64_t nano)
{
    if (nano == UINT64_MAX) /* only where budgets merely warn */
        nano = 0;
    return remember(call,
                    admission_reserve(call->admission, estimate->input + estimate->answer, nano));
}

/* What is left does not suffice for everyone in the plan: perhaps it does for the cheapest. */
static err_t reserve_cheapest(struct call *call, const struct estimate *estimate, err_t refused)
{
    uint64_t least =
        extreme_cost(call, estimate, call->plan.targets, call->plan.target_count, true);

    if (!admission_wants_price(call->admission) || least >= dearest(call, estimate))
        return refused;
    TRY(narrow_plan(call, estimate, least));
    return reserve(call, estimate, nano_of(call, estimate));
}

static err_t count_prompt(struct call *call, struct estimate *estimate)
{
    return call_estimate_count(call->ask, call->plan.targets[0]->model, call->providers->conf,
                               call->arena, estimate);
}

static bool have_image_price(const struct call *call, struct target **targets, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct price *price = target_price(call, targets[i]);
        if (price && price->image_pico > 0)
            return true;
    }
    return false;
}

/* Whether anyone of the plan does. */
static bool has_image_price(const struct call *call)
{
    const struct plan *plan = &call->plan;

    return have_image_price(call, plan->targets, plan->target_count) ||
           have_image_price(call, plan->context_fallbacks, plan->context_fallback_count) ||
           have_image_price(call, plan->content_fallbacks, plan->content_fallback_count);
}

static uint64_t count_parts(const struct part *parts, size_t count)
{
    uint64_t images = 0;

    for (size_t i = 0; i < count; i++)
        images += (parts[i].kind == PART_IMAGE) + count_parts(parts[i].parts, parts[i].part_count);
    return images;
}

/* Images are paid for one by one where they have a price. What cannot be read here has none. */
static err_t count_images(struct call *call)
{
    const struct prompt *prompt;
    err_t err;

    if (!call->ask->expand || !has_image_price(call))
        return NULL;
    err = chat_prompt(call->ask, call->arena, &prompt);
    if (err)
        return err_is(err, ERR_BAD_REQUEST) ? NULL : err;
    for (size_t i = 0; i < prompt->message_count; i++)
        call->images += count_parts(prompt->messages[i].parts, prompt->messages[i].part_count);
    return NULL;
}

err_t call_reserve(struct call *call)
{
    struct estimate estimate = {0};
    uint64_t bound, nano;
    err_t err;

    if (call->admission && call->providers->prices)
        TRY(count_images(call));
    if (!call->admission || !admission_has_budget(call->admission))
        return NULL;
    if (admission_wants_price(call->admission) && !admission_is_dry_run(call->admission) &&
        chat_names_others(call->ask))
        return refuse_unknown_cost();
    TRY(call_estimate_bound(call->ask, call->providers->conf, call->arena, &estimate));
    nano = nano_of(call, &estimate);
    if (admission_wants_price(call->admission) && !admission_is_dry_run(call->admission))
        TRY(drop_unpriced(call, &estimate, &nano));
    err = reserve(call, &estimate, nano);
    if (!err_is(err, ERR_LIMITED))
        return err;
    bound = estimate.input;
    TRY(count_prompt(call, &estimate));
    if (estimate.input < bound)
        err = reserve(call, &estimate, nano_of(call, &estimate));
    return err_is(err, ERR_LIMITED) ? reserve_cheapest(call, &estimate, err) : err;
}

/* What was said of an answer that another is to go on with: it is part of his question. */
static uint64_t said_tokens(const struct call *call)
{
    const struct continuation *c = call->continuation;

    return c && c->broken ? tokens_count(tokens_family(call->target->model), buf_str(&c->text)) : 0;
}

static err_t renew(struct call *call, struct estimate estimate)
{
    uint64_t nano;

    estimate.input += said_tokens(call);
    nano = nano_of(call, &estimate);
    return admission_renew(call->admission, estimate.input + estimate.answer,
                           nano == UINT64_MAX ? 0 : nano);
}

err_t call_renew(struct call *call)
{
    struct admission *a = call->admission;
    struct estimate estimate = {0};
    err_t err;

    if (!a || !a->has_parts || !admission_has_budget(a))
        return NULL;
    TRY(call_estimate_bound(call->ask, call->providers->conf, call->arena, &estimate));
    err = renew(call, estimate);
    if (err_is(err, ERR_LIMITED)) {
        TRY(count_prompt(call, &estimate));
        err = renew(call, estimate);
    }
    return err ? remember(call, err) : NULL; /* else a provider's word on when to come back stays */
}

/* ---- after ---- */

/* Whether anybody was asked: what was only skipped costs nothing. */
static bool was_asked(const struct call *call)
{
    for (size_t i = 0; i < call->attempt_count; i++)
        if (call->attempts[i].credential)
            return true;
    return false;
}

/* What all attempts used that are charged for. */
static struct usage all_usage(const struct call *call)
{
    struct usage sum = call->usage;

    if (call->lost)
        usage_count_add(&sum, call->lost);
    return sum;
}

void call_enter(const struct call *call, err_t err)
{
    const struct admission *a = call->admission;
    const struct usage sum = all_usage(call), *usage = &sum;

    if (!a || !call->target || !was_asked(call))
        return;
    const uint64_t ms = (loop_recent_ns() - call->opened_ns) / 1000000;
    struct ledger_row row = {
        .at_ms = a->began_ms + ms,
        .request_id = call->request_id,
        .org = call->subject->org,
        .project = call->subject->project,
        .key = call->subject->key,
        .user = call->subject->user,
        .model = call->ask->model,
        .provider = call->target->provider->conf->name,
        .upstream_model = call->target->model,
        .route = str_from(call->route),
        .outcome = str_from(call_outcome_name(call_outcome(err))),
        .status = (uint64_t)err_status(err),
        .ms = ms,
        .attempts = call->attempt_count,
        .input = usage->input,
        .output = usage->output,
        .cached = usage->cached,
        .cache_written = usage->cache_written,
        .reasoning = usage->reasoning,
        .is_estimated = usage->is_estimated,
        .has_cost = a->has_cost,
        .cost_nano = a->cost_nano,
        .booked = STR(""), /* all is named: the compiler need not fill it with zeros first */
    };

    ledger_add_stream(&row, &a->reservation, call->journal);
}

static struct price_usage used_by(const struct call *call, const struct usage *usage)
{
    return (struct price_usage){.input = usage->input,
                                .output = usage->output,
                                .cached = usage->cached,
                                .cache_written = usage->cache_written,
                                .reasoning = usage->reasoning,
                                .images = call->images};
}

bool call_cost(const struct call *call, uint64_t *nano)
{
    const struct usage *usage = &call->upstream.decoder.usage;
    const struct price *price = target_price(call, call->target);
    struct price_usage used = used_by(call, usage);

    if (!price || call->admission->has_unpriced_part || (!usage->is_known && !usage->is_estimated))
        return false;
    *nano = call->is_settled ? call->admission->cost_nano : price_cost(price, &used);
    return true;
}

void call_charge_part(struct call *call)
{
    const struct usage *usage = &call->upstream.decoder.usage;
    struct price_usage used = used_by(call, usage);

    if (call->admission && (usage->is_known || usage->is_estimated))
        admission_add(call->admission, &used, target_price(call, call->target));
}

void call_charge_lost(struct call *call)
{
    if (!call->lost)
        call->lost = arena_new_struct(call->arena, struct usage);
    if (!call->lost)
        return; /* without memory the call will not get far */
    call_charge_part(call);
    usage_count_add(call->lost, &call->upstream.decoder.usage);
}

void call_charge(struct call *call)
{
    struct usage sum = all_usage(call);
    struct price_usage used = used_by(call, &sum);
    bool has_usage = sum.is_known || sum.is_estimated;
    const struct price *price;

    if (!call->admission)
        return;
    if (!call->target || !was_asked(call)) {
        admission_settle(call->admission, call->is_passed ? &used : NULL, NULL);
        return;
    }
    price = target_price(call, call->target);
    if (!price && call->providers->prices)
        call_metrics_unpriced(call);
    admission_settle(call->admission, &used, has_usage ? price : NULL);
    if (!has_usage && price)
        call->admission->has_cost = true; /* of what gave nothing: none */
}
