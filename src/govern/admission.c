/* SPDX-License-Identifier: Apache-2.0 */
/* Limits first, because they are cheap and in memory; budgets second; both or none. */
#include "govern/admission.h"

#include "base/sys.h"
#include "conf/quota.h"

err_t admission_find(const struct conf *conf, const struct subject *subject, struct str model,
                     struct arena *arena, struct admission **out)
{
    struct admission *a = arena_new_struct(arena, struct admission);

    *out = a;
    if (!a)
        return arena_err(arena);
    a->began_ms = sys_wall_ms();
    TRY(limit_find(&a->limits, conf, subject, model, arena));
    return budget_find(&a->reservation, conf, subject, a->began_ms / 1000, arena);
}

bool admission_wants_tokens(const struct admission *a)
{
    return limit_wants_tokens(&a->limits);
}

bool admission_has_budget(const struct admission *a)
{
    return a->reservation.count > 0;
}

bool admission_wants_price(const struct admission *a)
{
    return budget_wants_money(&a->reservation);
}

bool admission_is_dry_run(const struct admission *a)
{
    return a->reservation.is_dry_run;
}

/* Note that an error with this code is the last word. */
static err_t final_if(struct admission *a, err_t err, const char *code)
{
    a->is_final = err && err->code && strcmp(err->code, code) == 0;
    return err;
}

err_t admission_limit(struct admission *a, uint64_t tokens)
{
    if (a->limits.count == 0)
        return NULL;
    return final_if(a, limit_take(&a->limits, tokens, &a->retry_ms), "request_too_large");
}

err_t admission_reserve(struct admission *a, uint64_t tokens, uint64_t nano)
{
    if (a->reservation.count == 0)
        return NULL;
    a->reserved_tokens = tokens;
    a->reserved_nano = nano;
    return final_if(a, budget_reserve(&a->reservation, tokens, nano, &a->retry_ms),
                    "budget_exceeded");
}

static void add_usage(struct price_usage *sum, const struct price_usage *more)
{
    sum->input += more->input;
    sum->output += more->output;
    sum->cached += more->cached;
    sum->cache_written += more->cache_written;
    sum->reasoning += more->reasoning;
}

/* More than can be kept is as much as can be kept. */
static uint64_t add_amounts(uint64_t a, uint64_t b)
{
    return a > QUOTA_MAX_AMOUNT || b > QUOTA_MAX_AMOUNT - a ? QUOTA_MAX_AMOUNT : a + b;
}

void admission_add(struct admission *a, const struct price_usage *used, const struct price *price)
{
    a->has_parts = true;
    add_usage(&a->parts, used);
    if (price)
        a->parts_nano = add_amounts(a->parts_nano, price_cost(price, used));
    else
        a->has_unpriced_part = true;
}

static uint64_t without(uint64_t sum, uint64_t part)
{
    return sum > part ? sum - part : 0;
}

err_t admission_renew(struct admission *a, uint64_t tokens, uint64_t nano)
{
    uint64_t used = add_amounts(a->parts.input, a->parts.output);

    tokens = without(add_amounts(used, tokens), a->reserved_tokens);
    nano = without(add_amounts(a->parts_nano, nano), a->reserved_nano);
    if (!a->reservation.is_open || (tokens == 0 && nano == 0))
        return NULL;
    TRY(final_if(a, budget_reserve(&a->reservation, tokens, nano, &a->retry_ms),
                 "budget_exceeded"));
    a->reserved_tokens += tokens;
    a->reserved_nano += nano;
    return NULL;
}

/* What the last target's part costs; nothing if it said nothing. */
static uint64_t rest_cost(const struct admission *a, const struct price_usage *used,
                          const struct price *price)
{
    struct price_usage rest = {
        .input = without(used->input, a->parts.input),
        .output = without(used->output, a->parts.output),
        .cached = without(used->cached, a->parts.cached),
        .cache_written = without(used->cache_written, a->parts.cache_written),
        .reasoning = without(used->reasoning, a->parts.reasoning),
        .images = used->images, /* whoever goes on sees them, too */
    };

    return a->has_parts && rest.input + rest.output == 0 ? 0 : price_cost(price, &rest);
}

void admission_settle(struct admission *a, const struct price_usage *used,
                      const struct price *price)
{
    uint64_t tokens = used ? used->input + used->output : 0;

    a->has_cost = used && price && !a->has_unpriced_part;
    a->cost_nano = a->has_cost ? add_amounts(a->parts_nano, rest_cost(a, used, price)) : 0;
    limit_settle(&a->limits, tokens, !used);
    budget_settle(&a->reservation, tokens, a->cost_nano);
}
