/* SPDX-License-Identifier: Apache-2.0 */
/* Which targets may answer a request, and in which order they are to be tried.
 *
 * A plan is made once per request from the snapshot it began with: what its model name means, less
 * the targets whose conditions or capabilities do not fit, ordered by the alias's `route`. Breakers
 * are not looked at here but when a target's turn comes; only what is busy or slow is. */
#ifndef MODEL_ROUTER_H
#define MODEL_ROUTER_H

#include "govern/subject.h"
#include "model/providers.h"

struct route_cost;

/* Who asks, as far as routes depend on it. */
struct route_caller {
    struct str key;                /* name of the caller's key; empty: none */
    const struct http_head *head;  /* for conditions on headers, x-sluice-tags; NULL: none */
    struct str wanted;             /* x-sluice-target, if the caller may say so; else empty */
    const struct subject *subject; /* for his tier and his budget; NULL: he has neither */
};

struct plan {
    const struct conf_model *alias; /* NULL: called provider/model or by the default provider */
    struct target **targets;        /* in the order of trying; at least one */
    size_t target_count;
    struct target **context_fallbacks; /* for prompts that are too long for those */
    size_t context_fallback_count;
    struct target **content_fallbacks; /* for prompts that a filter refuses */
    size_t content_fallback_count;
    const char *reason;            /* "order", "weighted" …, "direct", "override": for logs */
    struct str explained;          /* what decided and why; empty but for "cost" */
    const struct route_cost *cost; /* what was reckoned; NULL but for "cost" */
};

/* The alias that a caller's name means, or NULL. `auto`, unless an alias has this name, means the first one
 * with route: cost. */
const struct alias *router_alias(const struct providers *providers, struct str name);

/* Make the plan for ask->model, in the arena. Expands the prompt (chat_prompt) and counts its tokens
 * only where a condition needs them. A prompt too long for all targets goes to the context
 * fallbacks, or, as the count is a guess, to the targets all the same. Errors: NOT_FOUND (code
 * model_not_found: no such name, or no target's conditions hold), BAD_REQUEST (code
 * unsupported_parameter) when no target can do what is asked for, and what chat_prompt says. */
err_t router_plan(struct providers *providers, struct chat_request *ask,
                  const struct route_caller *caller, struct arena *arena,
                  struct plan *out) ERR_MUST_CHECK;

#endif
