/* SPDX-License-Identifier: Apache-2.0 */
/* Calling a model, step by step: route, ask one target after the other (call_attempt.c), pass on
 * events, settle.
 *
 * The hard thing is silence. A provider that thinks, a caller who reads slowly and a broken
 * connection look alike, so it is counted from when we could last have heard something. */
#include "model/call.h"

#include "base/check.h"
#include "fiber/fiber.h"
#include "model/call_attempt.h"
#include "model/call_govern.h"
#include "model/call_metrics.h"
#include "model/prompt_tokens.h"
#include "model/usage_count.h"

/* How long the end of an answer's body may trail its last event before the connection is given
 * up. */
#define CLOSE_GRACE_MS 500

static const struct err total_over = {.kind = ERR_TIMED_OUT,
                                      .code = "timeout",
                                      .where = ERR_HERE,
                                      .text = "the answer took longer than timeouts.total"};
static const struct err idle_over = {
    .kind = ERR_TIMED_OUT,
    .code = "timeout",
    .where = ERR_HERE,
    .text = "the provider sent nothing for timeouts.idle in the middle of its answer"};

/* ---- attempts, one after the other ---- */

/* Nobody could be asked. */
static err_t all_open(struct call *call, uint64_t until_ms)
{
    call->target = call->plan.targets[0];
    call->retry_at_ms = until_ms ? until_ms : loop_now_ms() + 1000;
    return err_new_detail(ERR_BUSY, (.code = "no_healthy_target"),
                          "no provider of this model may be asked at the moment: try again later");
}

/* All the time that the call had is spent, whichever wait noticed it. */
static bool is_over(const struct call *call, err_t err)
{
    return err == &total_over || loop_now_ms() >= call->total_at_ms;
}

/* Whether another target may be asked. What one refuses of an answer that is to be continued,
 * another may take; but the caller is not kept waiting for repetitions. */
static bool goes_on(struct call *call, enum attempt_result result, err_t err)
{
    if (is_over(call, err))
        return false;
    if (call->continuation && call->continuation->broken)
        return result != ATTEMPT_CANCELLED && result != ATTEMPT_INTERNAL;
    return failover_goes_on(&call->failover, result);
}

/* Ask one target after the other, until one answers or there is no other. What the caller is told in
 * the end is what the last one said that was really asked. */
static err_t ask_in_turn(struct call *call)
{
    struct candidate candidate;
    const struct refusal *refusal = NULL;
    enum attempt_result result;
    err_t err, told = NULL;

    call->failover.deadline_ms = loop_now_ms() + call->plan.targets[0]->timeouts.first_token_ms;
    while (failover_next(&call->failover, loop_now_ms(), &candidate)) {
        if (!candidate.credential) {
            call_attempt_add(call, &candidate);
            continue;
        }
        if (candidate.pause_ms > 0)
            TRY(fiber_sleep(candidate.pause_ms));
        call->refusal = NULL;
        TRY(call_renew(call));
        err = call_attempt_ask(call, &candidate, &result);
        if (!err)
            return NULL;
        if (!told || result != ATTEMPT_UNSUPPORTED) {
            told = err;
            refusal = call->refusal;
        }
        if (result != ATTEMPT_REFUSED && result != ATTEMPT_CANCELLED)
            call_attempt_log(call, err);
        if (!goes_on(call, result, err))
            break;
    }
    call->refusal = refusal;
    return told ? told : all_open(call, call->failover.until_ms);
}

static err_t prepare_continuation(struct call *call)
{
    call->continuation = arena_new_struct(call->arena, struct continuation);
    if (!call->continuation)
        return arena_err(call->arena);
    continuation_begin(call->continuation, call->ask, call->arena);
    return NULL;
}

err_t call_open(struct call *call)
{
    call->opened_ns = loop_recent_ns();
    call->held = buf_make(MEM_REQUEST, CALL_HELD_MAX_BYTES);
    fiber_set_step("limit");
    TRY(call_limit(call));
    fiber_set_step("route");
    TRY(router_plan(call->providers, call->ask, &call->caller, call->arena, &call->plan));
    if (call->plan.alias && call->plan.alias->continues)
        TRY(prepare_continuation(call));
    fiber_set_step("reserve");
    TRY(call_reserve(call));
    TRY(call_attempt_prepare(call));
    call->failover = failover_begin(&call->plan, 0);
    call->total_at_ms = loop_now_ms() + call->plan.targets[0]->timeouts.total_ms;
    fiber_set_deadline(call->total_at_ms, &total_over);
    TRY(ask_in_turn(call));
    call->first_event_us = (loop_recent_ns() - call->opened_ns) / 1000;
    call->answer_model = call->upstream.decoder.model;
    if (call->continuation)
        call->continuation->is_possible &= call->is_translated;
    call->phase = CALL_HELD;
    return NULL;
}

/* ---- events ---- */

/* From now on the upstream's usage is that of all targets that had a part in the answer. */
static void add_spent(struct call *call)
{
    if (!call->continuation)
        return;
    usage_count_add(&call->upstream.decoder.usage, &call->continuation->spent);
    call->continuation->spent = (struct usage){0};
}

/* The next event from upstream; silence beyond the time-out between events is an error. A PAUSE is
 * when the caller writes out what it has: how long it took for that is not the provider's
 * silence. */
static err_t next_flowing(struct call *call, uint64_t at_ms, struct event *event)
{
    uint64_t idle_at_ms;

    if (call->was_paused)
        call->silent_since_ms = loop_now_ms();
    do {
        if (call->silent_since_ms < call->upstream.last_bytes_ms)
            call->silent_since_ms = call->upstream.last_bytes_ms;
        idle_at_ms = call->silent_since_ms + call->target->timeouts.idle_ms;
        TRY(upstream_next(&call->upstream, at_ms < idle_at_ms ? at_ms : idle_at_ms, event));
        call->was_paused = event->kind == EVENT_PAUSE;
        if (event->kind != EVENT_IDLE || loop_now_ms() >= at_ms)
            return NULL;
        /* no event, but signs of life */
    } while (call->silent_since_ms < call->upstream.last_bytes_ms);
    return &idle_over;
}

/* A stream broke off. If another target may go on with it, that is done at the next call, when the
 * caller has written out what came; else it is the caller's error. */
static err_t break_off(struct call *call, err_t err, struct event *event)
{
    struct continuation *c = call->continuation;

    if (!c || !c->is_possible || is_over(call, err) ||
        (err->kind != ERR_UPSTREAM && err->kind != ERR_TIMED_OUT))
        return err;
    call_attempt_complete_usage(call, true);
    call_charge_part(call);
    usage_count_add(&c->spent, &call->upstream.decoder.usage);
    call->upstream.decoder.usage = (struct usage){0};
    call_attempt_end(call, call_attempt_judge(call, err), err);
    call_attempt_log(call, err);
    upstream_close(&call->upstream, 0);
    failover_move_on(&call->failover);
    c->broken = err;
    call->phase = CALL_BROKEN;
    *event = (struct event){.kind = EVENT_BROKEN};
    return NULL;
}

/* Ask those who are left to go on with what was said. If none does, the answer is that of whom spoke
 * last, and ended as it broke off. */
static err_t continue_elsewhere(struct call *call, struct event *event)
{
    const struct target *target = call->target;
    struct str request_id = call->upstream_request_id;
    int status = call->upstream_status;
    err_t err = ask_in_turn(call);

    if (!err) {
        fiber_set_step("stream");
        call->was_paused = true;
        call->phase = CALL_FIRST;
        *event = (struct event){.kind = EVENT_CONTINUED};
        return NULL;
    }
    call->target = target;
    call->upstream_request_id = request_id;
    call->upstream_status = status;
    call->upstream.decoder.usage = (struct usage){0};
    add_spent(call);
    call->refusal = NULL;
    call->retry_at_ms = 0;
    if (err->kind == ERR_CANCELLED || err->kind == ERR_KILLED)
        return err;
    return is_over(call, err) ? &total_over : call->continuation->broken;
}

/* Deltas that go to the caller are counted, and kept while they may have to be continued. */
static err_t take_deltas(struct call *call, struct event *event)
{
    usage_count_deltas(&call->tally, event->deltas, event->delta_count);
    if (!call->continuation || !call->continuation->is_possible)
        return NULL;
    return continuation_take(call->continuation, event, call->scratch);
}

err_t call_next(struct call *call, uint64_t at_ms, struct event *event)
{
    err_t err;

    switch (call->phase) {
    case CALL_HOLDING:
        check(!"an event of a call that was not opened");
        break;
    case CALL_HELD:
        call->phase = CALL_FIRST;
        *event = (struct event){
            .kind = EVENT_QUIET, .has_id = call->held_has_id, .raw = buf_str(&call->held)};
        return NULL;
    case CALL_FIRST:
        call->phase = CALL_FLOWING;
        *event = call->answer;
        break;
    case CALL_WRITTEN:
        buf_fini(&call->held);
        __attribute__((fallthrough));
    case CALL_FLOWING:
        err = next_flowing(call, at_ms, event);
        if (err)
            return break_off(call, err, event);
        if (event->kind == EVENT_PAUSE)
            call->phase = CALL_WRITTEN;
        break;
    case CALL_BROKEN:
        return continue_elsewhere(call, event);
    }
    if (event->kind == EVENT_CONTENT)
        call->events++;
    if (event->delta_count > 0)
        TRY(take_deltas(call, event));
    if (event->kind == EVENT_END) {
        call_attempt_complete_usage(call, false);
        add_spent(call);
    }
    if (event->kind == EVENT_USAGE && !call->ask->wants_usage)
        event->raw = STR("");
    return NULL;
}

bool call_forget_question(struct call *call)
{
    struct usage *usage = &call->upstream.decoder.usage;
    struct chat_request *ask = call->ask;
    struct arena *scratch;
    bool is_counted = usage->input > 0;

    if (call->is_translated)
        return false;
    if (!is_counted && (scratch = arena_new(MEM_REQUEST, 4 * SSE_MAX_EVENT_BYTES))) {
        is_counted = !prompt_tokens_of(ask, call->target->model, scratch, &usage->input);
        ask->prompt = NULL; /* it was made there */
        arena_free(scratch);
    }
    if (!is_counted)
        return false;
    ask->body = (struct str){0};
    ask->members = NULL;
    ask->member_count = 0;
    ask->prompt = NULL;
    return true;
}

/* ---- the end ---- */

enum call_outcome call_outcome(err_t err)
{
    if (!err)
        return CALL_COMPLETED;
    switch (err->kind) {
    case ERR_CANCELLED:
        return CALL_CLIENT_CANCELLED;
    case ERR_TIMED_OUT:
        return CALL_TIMED_OUT;
    case ERR_KILLED:
        return CALL_KILLED;
    case ERR_BUSY:
        return CALL_SHED;
    case ERR_BAD_REQUEST:
    case ERR_DENIED:
    case ERR_NOT_FOUND:
    case ERR_TOO_BIG:
    case ERR_LIMITED:
        return CALL_COMPLETED;
    default:
        return CALL_UPSTREAM_FAILED;
    }
}

const char *call_outcome_name(enum call_outcome outcome)
{
    static const char *const names[] = {
        [CALL_COMPLETED] = "completed",
        [CALL_CLIENT_CANCELLED] = "client_cancelled",
        [CALL_UPSTREAM_FAILED] = "upstream_failed",
        [CALL_TIMED_OUT] = "timed_out",
        [CALL_SHED] = "shed",
        [CALL_KILLED] = "killed",
    };

    return names[outcome];
}

static void free_scratch(struct call *call)
{
    arena_free(call->scratch);
    call->scratch = NULL;
}

/* Somebody was asked, or would have been: what it came to. */
static void sum_up(struct call *call, err_t err)
{
    fiber_set_deadline(FIBER_FOREVER, NULL);
    if (call->current.health && err && call->ask->is_stream)
        call_attempt_complete_usage(call, true);
    if (call->current.health)
        call_attempt_end(call, call_attempt_judge(call, err), err);
    add_spent(call);
    call->usage = call->upstream.decoder.usage;
}

static void leave(struct call *call, err_t err)
{
    upstream_close(&call->upstream, err ? 0 : CLOSE_GRACE_MS);
    free_scratch(call);
    tokens_tally_fini(&call->tally);
    if (call->continuation)
        continuation_fini(call->continuation);
    call_metrics_count(call, call_outcome(err));
}

void call_settle(struct call *call, err_t err)
{
    if (call->is_settled)
        return;
    call->is_settled = true;
    if (call->target)
        sum_up(call, err);
    call_charge(call);
}

void call_finish(struct call *call, err_t err)
{
    call_settle(call, err);
    call_enter(call, err);
    if (call->target)
        leave(call, err);
}
