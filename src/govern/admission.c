/* SPDX-License-Identifier: Apache-2.0 */
/* Limits first, because they are cheap and in memory; budgets second; both or none. */
#include "govern/admission.h"

#include "conf/quota.h"

err_t admission_find(struct admission *a, const struct conf *conf, const struct subject *subject,
                     struct str model, struct arena *arena)
{
    *a = (struct admission){0};
    TRY(limit_find(&a->limits, conf, subject, model, arena));
    return budget_find(&a->reservation, conf, subject, arena);
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
    return final_if(a, budget_reserve(&a->reservation, tokens, nano, &a->retry_ms),
                    "budget_exceeded");
}

void admission_settle(struct admission *a, const struct price_usage *used,
                      const struct price *price)
{
    uint64_t tokens = used ? used->input + used->output : 0;

    a->has_cost = used && price;
    a->cost_nano = a->has_cost ? price_cost(price, used) : 0;
    if (a->cost_nano > QUOTA_MAX_AMOUNT) /* more than can be kept */
        a->cost_nano = QUOTA_MAX_AMOUNT;
    limit_settle(&a->limits, tokens, !used);
    budget_settle(&a->reservation, tokens, a->cost_nano);
}
