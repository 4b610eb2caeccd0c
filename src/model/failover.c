/* SPDX-License-Identifier: Apache-2.0 */
/* Who is tried next. */
#include "model/failover.h"

#include "base/sys.h"

/* Pauses before another try: a random time up to a bound that doubles. */
#define PAUSE_MIN_MS 100
#define PAUSE_MAX_MS 2000

static void use_list(struct failover *f, struct target *const *targets, size_t count)
{
    f->targets = targets;
    f->count = count;
    f->at = 0;
    f->round = 0;
    f->repeatable = 0;
    f->avoided = NULL;
    f->has_asked = f->is_forced = false;
}

struct failover failover_begin(const struct plan *plan, uint64_t deadline_ms)
{
    struct failover f = {.plan = plan, .deadline_ms = deadline_ms};

    use_list(&f, plan->targets, plan->target_count);
    return f;
}

static void choose(const struct target *target, size_t key, enum health_verdict verdict,
                   struct candidate *out)
{
    out->target = target;
    out->verdict = verdict;
    out->credential = &target->provider->credentials[key];
    out->health = target->health[key];
    out->pause_ms = 0;
}

/* The next target that was not asked yet; one whose breaker is open is given without
 * credential. */
static void take_first(struct failover *f, uint64_t now_ms, struct candidate *out)
{
    const struct target *target = f->targets[f->at++];
    enum health_verdict verdict;
    uint64_t until_ms = 0;
    size_t key = providers_pick_credential(target, now_ms, &verdict, &until_ms);

    choose(target, key, verdict, out);
    if (verdict == HEALTH_ASK || verdict == HEALTH_PROBE) {
        f->has_asked = true;
        return;
    }
    out->credential = NULL;
    if (verdict == HEALTH_AVOID && !f->avoided)
        f->avoided = target;
    if (until_ms && (!f->until_ms || until_ms < f->until_ms))
        f->until_ms = until_ms;
}

/* How long to wait before another try (AWS Architecture Blog, "Exponential Backoff and Jitter":
 * full jitter). */
static uint64_t pause_ms(unsigned round)
{
    uint64_t most = (uint64_t)PAUSE_MIN_MS << (round < 5 ? round : 5);

    if (most > PAUSE_MAX_MS)
        most = PAUSE_MAX_MS;
    return PAUSE_MIN_MS + sys_now_ns() / 1000 % (most - PAUSE_MIN_MS + 1);
}

/* Whether the target at `index` is worth another try, and when. A provider that named a time
 * is given it. */
static bool take_again(struct failover *f, size_t index, uint64_t now_ms, struct candidate *out)
{
    const struct target *target = f->targets[index];
    enum health_verdict verdict;
    uint64_t until_ms = 0;
    size_t key;

    if (index >= FAILOVER_MAX_REPEATED || !(f->repeatable >> index & 1) ||
        f->round >= target->retry.attempts)
        return false;
    key = providers_pick_credential(target, now_ms, &verdict, &until_ms);
    choose(target, key, verdict, out);
    out->pause_ms = pause_ms(f->round);
    if (verdict == HEALTH_REFUSING && until_ms > now_ms + out->pause_ms)
        out->pause_ms = until_ms - now_ms;
    if (verdict == HEALTH_PROBE) { /* its breaker has opened: finding out is for others */
        health_begin(out->health, verdict);
        health_end(out->health, verdict, HEALTH_UNKNOWN, now_ms, 0, 0);
    }
    if (verdict == HEALTH_AVOID || verdict == HEALTH_PROBE ||
        now_ms + out->pause_ms >= f->deadline_ms)
        return false;
    f->repeatable &= ~(1ULL << index);
    return health_take_retry(out->health, now_ms);
}

bool failover_next(struct failover *f, uint64_t now_ms, struct candidate *out)
{
    for (;;) {
        if (f->round == 0 && f->at < f->count) {
            take_first(f, now_ms, out);
            return true;
        }
        while (f->round > 0 && f->at < f->count)
            if (take_again(f, f->at++, now_ms, out))
                return true;
        if (!f->has_asked && f->avoided) {
            choose(f->avoided, 0, HEALTH_AVOID, out);
            f->has_asked = f->is_forced = true;
            return true;
        }
        if (f->is_forced || f->repeatable == 0 || f->round >= 64)
            return false;
        f->round++;
        f->at = 0;
    }
}

/* Continue with special fallbacks, if there are any that are not in use already. */
static bool use_fallbacks(struct failover *f, struct target *const *targets, size_t count)
{
    if (count == 0 || f->targets == targets)
        return false;
    use_list(f, targets, count);
    return true;
}

bool failover_goes_on(struct failover *f, enum attempt_result result)
{
    switch (attempt_next(result)) {
    case ATTEMPT_STOP:
        return false;
    case ATTEMPT_NEXT:
        return true;
    case ATTEMPT_AGAIN:
        if (f->at > 0 && f->at <= FAILOVER_MAX_REPEATED && !f->is_forced)
            f->repeatable |= 1ULL << (f->at - 1);
        return true;
    case ATTEMPT_TO_CONTEXT:
        return use_fallbacks(f, f->plan->context_fallbacks, f->plan->context_fallback_count);
    case ATTEMPT_TO_CONTENT:
        return use_fallbacks(f, f->plan->content_fallbacks, f->plan->content_fallback_count);
    }
    return false;
}

void failover_move_on(struct failover *f)
{
    f->repeatable = 0;
}
