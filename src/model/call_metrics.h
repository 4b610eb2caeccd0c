/* SPDX-License-Identifier: Apache-2.0 */
/* What is counted of calls: per name of a model as configured, and per provider.
 *
 * A name is an alias or "provider/…" for all direct names of a provider, never a caller's text. The series are looked up
 * once, when a set of providers is made, so that counting is a few additions. */
#ifndef MODEL_CALL_METRICS_H
#define MODEL_CALL_METRICS_H

#include "base/arena.h"
#include "base/err.h"
#include "model/call.h"

struct metric_series;
struct model_metrics;
struct provider_metrics;

/* The series of one name of a model, in the arena. Errors: the arena's. */
err_t model_metrics_make(struct str name, struct arena *arena,
                         struct model_metrics **out) ERR_MUST_CHECK;

/* The series of one provider, in the arena. Errors: the arena's. */
err_t provider_metrics_make(struct str name, struct arena *arena,
                            struct provider_metrics **out) ERR_MUST_CHECK;

/* Count an attempt that begins (+1) or ends (-1). */
void provider_metrics_active(struct provider_metrics *metrics, int delta);

/* Count how an attempt ended. Its target has a series for success; the others are looked up. */
void attempt_metrics_count(const struct attempt *attempt);

/* The series of a target's successes, by its label as configured. */
struct metric_series *attempt_metrics_ok(struct str label);

/* Count a call whose target has no price. */
void call_metrics_unpriced(const struct call *call);

/* Count a call that has a target, once, at its end. */
void call_metrics_count(const struct call *call, enum call_outcome outcome);

#endif
