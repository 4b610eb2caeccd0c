/* SPDX-License-Identifier: Apache-2.0 */
/* route: cost, the cheapest target that is good enough for the prompt and open to the caller. */
#ifndef MODEL_ROUTE_COST_H
#define MODEL_ROUTE_COST_H

#include "model/complexity.h"
#include "model/route_match.h"

/* Tokens that an answer is expected to have when its caller sets no limit. */
#define ROUTE_COST_ANSWER_TOKENS 512

/* Below this per cent of a budget in money its owner's prompts go to the cheapest target, whatever their
 * score. */
#define ROUTE_COST_LOW_BUDGET_PERCENT 20

/* Why a target is not asked. */
enum route_cost_verdict {
    ROUTE_COST_KEPT,
    ROUTE_COST_TOO_HARD,
    ROUTE_COST_TIER,
    ROUTE_COST_DEARER
};

struct route_cost_choice {
    const struct target *target;
    enum route_cost_verdict verdict;
    uint64_t nano; /* what the call is expected to cost; UINT64_MAX: there is no price */
};

/* What a request is expected to be, and what follows for the targets that can answer it. */
struct route_cost {
    struct complexity complexity;
    unsigned budget_left_percent;
    uint64_t input_tokens, output_tokens;
    struct route_cost_choice *choices; /* in the order of the file */
    size_t count;
    size_t
        fitting; /* how many were good enough, what is too dear included; set by route_cost_keep */
};

/* Measure the request and judge the targets, in the match's arena. Without a subject, and for protocols
 * that are never translated, what is not known drops nobody. Errors: chat_prompt's. */
err_t route_cost_judge(struct route_match *match, struct target **targets, size_t count,
                       struct route_cost **out) ERR_MUST_CHECK;

/* Leave out of the plan what was not kept. When the prompt is too hard for all that are open to the caller,
 * those that take the hardest ones remain. On a low budget none remains but the cheapest: a call reserves what
 * the dearest of its plan may cost. Errors: NOT_FOUND when none is open to him. */
err_t route_cost_keep(struct route_cost *cost, struct plan *plan) ERR_MUST_CHECK;

/* What is said of a target, or NULL. */
const struct route_cost_choice *route_cost_choice(const struct route_cost *cost,
                                                  const struct target *target);

/* Say why the plan begins as it does: "cost: complexity 23 <= 30, cheapest 0.000123 of 3". In the arena.
 * Errors: the arena's. */
err_t route_cost_explain(const struct route_cost *cost, const struct plan *plan,
                         struct arena *arena, struct str *out) ERR_MUST_CHECK;

/* "kept", "too hard", "tier", "dearer". */
const char *route_cost_verdict_name(enum route_cost_verdict verdict);

#endif
