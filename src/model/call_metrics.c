/* SPDX-License-Identifier: Apache-2.0 */
/* Counting calls. */
#include "model/call_metrics.h"

#include "fiber/loop.h"
#include "observe/metrics.h"

struct model_metrics {
    struct metric_series *ended[CALL_OUTCOME_COUNT];
    struct metric_series *duration, *first_token, *prompt_tokens, *completion_tokens, *events,
        *unpriced;
};

struct provider_metrics {
    struct metric_series *active, *connect, *reused, *reused_dead;
};

err_t model_metrics_make(struct str name, struct arena *arena, struct model_metrics **out)
{
    struct model_metrics *m = arena_new_struct(arena, struct model_metrics);
    const char *model = arena_cstr(arena, name);

    if (!m || !model)
        return arena_err(arena);
    for (int i = 0; i < CALL_OUTCOME_COUNT; i++)
        m->ended[i] = metric_series_get(METRIC_LLM_REQUESTS, model,
                                        call_outcome_name((enum call_outcome)i), NULL);
    m->duration = metric_series_get(METRIC_LLM_REQUEST_DURATION, model, NULL);
    m->first_token = metric_series_get(METRIC_LLM_FIRST_TOKEN, model, NULL);
    m->prompt_tokens = metric_series_get(METRIC_LLM_TOKENS, model, "prompt", NULL);
    m->completion_tokens = metric_series_get(METRIC_LLM_TOKENS, model, "completion", NULL);
    m->events = metric_series_get(METRIC_LLM_STREAM_EVENTS, NULL);
    m->unpriced = metric_series_get(METRIC_COST_UNKNOWN, model, NULL);
    *out = m;
    return NULL;
}

err_t provider_metrics_make(struct str name, struct arena *arena, struct provider_metrics **out)
{
    struct provider_metrics *p = arena_new_struct(arena, struct provider_metrics);
    const char *provider = arena_cstr(arena, name);

    if (!p || !provider)
        return arena_err(arena);
    p->active = metric_series_get(METRIC_UPSTREAM_ACTIVE, provider, NULL);
    p->connect = metric_series_get(METRIC_UPSTREAM_CONNECT, provider, NULL);
    p->reused = metric_series_get(METRIC_UPSTREAM_REUSED, provider, NULL);
    p->reused_dead = metric_series_get(METRIC_UPSTREAM_REUSED_DEAD, provider, NULL);
    *out = p;
    return NULL;
}

void provider_metrics_active(struct provider_metrics *metrics, int delta)
{
    metric_add(metrics->active, delta);
}

static void count_provider(const struct provider_metrics *p, const struct http_call *http)
{
    if (http->was_reused)
        metric_add(p->reused, 1);
    if (http->was_retried)
        metric_add(p->reused_dead, 1);
    if (http->connect_us)
        metric_observe_us(p->connect, http->connect_us);
}

static struct metric_series *attempt_series(struct str label, const char *result)
{
    char text[129]; /* what is longer, the registry would cut */
    size_t len = label.len < sizeof(text) ? label.len : sizeof(text) - 1;

    memcpy(text, label.ptr, len);
    text[len] = 0;
    return metric_series_get(METRIC_UPSTREAM_ATTEMPTS, text, result, NULL);
}

struct metric_series *attempt_metrics_ok(struct str label)
{
    return attempt_series(label, "ok");
}

void attempt_metrics_count(const struct attempt *attempt)
{
    const struct target *target = attempt->target;
    char text[32];

    if (attempt->result == ATTEMPT_OK)
        metric_add(target->answered, 1);
    else
        metric_add(attempt_series(target->metrics_label, attempt_result_name(attempt, text)), 1);
}

/* Whether more than one target was really asked. */
static bool failed_over(const struct call *call)
{
    const struct target *first = NULL;

    for (size_t i = 0; i < call->attempt_count; i++) {
        if (!call->attempts[i].credential)
            continue;
        if (first && call->attempts[i].target != first)
            return true;
        first = call->attempts[i].target;
    }
    return false;
}

void call_metrics_unpriced(const struct call *call)
{
    metric_add(call->target->metrics->unpriced, 1);
}

static void count_tokens(const struct model_metrics *m, const struct usage *usage)
{
    if (usage->input)
        metric_add(m->prompt_tokens, (int64_t)usage->input);
    if (usage->output)
        metric_add(m->completion_tokens, (int64_t)usage->output);
}

void call_metrics_count(const struct call *call, enum call_outcome outcome)
{
    const struct model_metrics *m = call->target->metrics;

    metric_add(m->ended[outcome], 1);
    if (call->attempt_count > 1 && failed_over(call))
        metric_add(metric_series_get(METRIC_LLM_FAILOVERS, NULL), 1);
    metric_observe_us(m->duration, (loop_recent_ns() - call->opened_ns) / 1000);
    if (call->ask->is_stream && call->first_event_us)
        metric_observe_us(m->first_token, call->first_event_us);
    count_tokens(m, &call->usage);
    if (call->lost)
        count_tokens(m, call->lost);
    if (call->events)
        metric_add(m->events, (int64_t)call->events);
    count_provider(call->target->provider->metrics, &call->upstream.http);
}
