/* SPDX-License-Identifier: Apache-2.0 */
/* Calling a model, step by step: route, ask one target after the other, await the first event, pass
 * on events, settle.
 *
 * The hard thing is the moment of commitment. A provider may answer 200, send a chunk with the role
 * only and then fail; until something meaningful has come, that is a failed call and not a broken
 * stream. So events that say nothing yet are held back. */
#include "model/call.h"

#include "base/check.h"
#include "base/sys.h"
#include "fiber/fiber.h"
#include "model/call_metrics.h"
#include "model/local_server.h"
#include "model/usage_count.h"
#include "observe/log.h"

/* Quiet events of one answer that are held; a provider that sends more of them is not answering. */
#define HELD_MAX_BYTES (256 * 1024)

/* How long the end of an answer's body may trail its last event before the connection is given
 * up. */
#define CLOSE_GRACE_MS 500

static const struct err total_over = {.kind = ERR_TIMED_OUT,
                                      .code = "timeout",
                                      .where = ERR_HERE,
                                      .text = "the answer took longer than timeouts.total"};
static const struct err first_over = {
    .kind = ERR_TIMED_OUT,
    .code = "timeout",
    .where = ERR_HERE,
    .text = "the provider did not begin to answer within timeouts.first_token"};
static const struct err idle_over = {
    .kind = ERR_TIMED_OUT,
    .code = "timeout",
    .where = ERR_HERE,
    .text = "the provider sent nothing for timeouts.idle in the middle of its answer"};

static void fini_held(void *held)
{
    buf_fini(held);
}

static bool is_stream_answer(const struct http_head *head)
{
    struct str type = http_header_get(head, STR("content-type"));

    type.len = str_index(type, ';');
    return str_eq_nocase(str_trim(type), STR("text/event-stream"));
}

/* ---- one attempt ---- */

static err_t ask_upstream(struct call *call, uint64_t first_at_ms)
{
    struct provider *provider = call->target->provider;
    struct upstream_ask ask = {
        .chat = call->ask,
        .headers = call->headers,
        .header_count = call->header_count,
        .head_at_ms = first_at_ms,
        .scratch = &call->scratch,
        .wants_deltas = continuation_wants_deltas(&call->continuation, call->ask->protocol),
    };
    err_t err;

    if (call->continuation.broken)
        TRY(continuation_prefill(&call->continuation, provider->conf, provider->ops,
                                 call->ask->protocol, &ask.prefill));
    if (provider->server) {
        fiber_set_step("start model");
        TRY(local_server_await(provider->server, first_at_ms));
    }
    fiber_set_step("upstream");
    err = upstream_open(&call->upstream, call->pool, call->target, call->current.credential, &ask,
                        call->arena);
    call->dropped = ask.dropped;
    call->is_translated = call->upstream.is_translated;
    tokens_tally_fini(&call->tally);
    call->tally.family = call->target->family;
    if (call->ask->is_stream)
        call->upstream.decoder.tally = &call->tally;
    if (err_is(err, ERR_TIMED_OUT) && loop_now_ms() >= first_at_ms)
        return &first_over;
    if (err_is(err, ERR_UPSTREAM) || err_is(err, ERR_TIMED_OUT))
        return err_cover(err, "the provider %.*s could not be reached or did not answer",
                         STR_ARG(provider->conf->name));
    return err;
}

static err_t hold(struct call *call, const struct event *event)
{
    err_t err;

    if (call->is_translated)
        return NULL; /* what it says is in the decoder */
    if (!call->held_is_owned) {
        TRY(arena_defer(call->arena, fini_held, &call->held));
        call->held_is_owned = true;
    }
    call->held_has_id |= event->has_id;
    err = buf_add(&call->held, event->raw);
    if (err_is(err, ERR_TOO_BIG))
        return err_new_detail(ERR_UPSTREAM, (.code = "upstream_invalid"),
                              "the provider sent %d KiB of events without content",
                              HELD_MAX_BYTES / 1024);
    return err;
}

/* Wait for the first meaningful event, holding back what comes before it. */
static err_t await_first(struct call *call, uint64_t first_at_ms)
{
    fiber_set_step("first event");
    for (;;) {
        TRY(upstream_next(&call->upstream, first_at_ms, &call->first));
        call->has_begun |= call->first.kind != EVENT_IDLE && call->first.kind != EVENT_PAUSE;
        switch (call->first.kind) {
        case EVENT_IDLE:
            return &first_over;
        case EVENT_USAGE:
            if (!call->ask->wants_usage)
                break;
            TRY(hold(call, &call->first));
            break;
        case EVENT_QUIET:
            TRY(hold(call, &call->first));
            break;
        case EVENT_PAUSE:
        case EVENT_BROKEN:
        case EVENT_CONTINUED:
            break;
        case EVENT_CONTENT:
        case EVENT_END:
            return NULL;
        }
    }
}

/* Count what the provider did not tell, before anybody is told of it. */
static void complete_usage(struct call *call, bool is_cut)
{
    struct str whole = call->ask->is_stream ? STR("") : call->answer.raw;
    struct usage *usage = &call->upstream.decoder.usage;
    bool was_told = usage->input > 0;

    usage_count_complete(&call->upstream.decoder, call->target->provider->ops, call->ask,
                         call->target->model, call->arena, is_cut, whole);
    if (!was_told && call->continuation.broken)
        usage->input += continuation_prefill_tokens(&call->continuation, call->target->model);
}

/* From now on the upstream's usage is that of all targets that had a part in the answer. */
static void add_spent(struct call *call)
{
    usage_count_add(&call->upstream.decoder.usage, &call->continuation.spent);
    call->continuation.spent = (struct usage){0};
}

static err_t read_answer(struct call *call, uint64_t first_at_ms)
{
    const struct http_head *head = &call->upstream.http.head;

    call->upstream_status = head->status;
    call->upstream_request_id = http_header_get(head, STR("x-request-id"));
    if (call->upstream_request_id.len == 0)
        call->upstream_request_id = http_header_get(head, STR("request-id"));
    if (head->status != 200) {
        TRY(refusal_read(&call->upstream, call->ask->protocol, call->arena, &call->refusal));
        return refusal_err(call->refusal, call->target, call->arena);
    }
    if (!call->ask->is_stream) {
        fiber_set_step("answer");
        TRY(upstream_read_whole(&call->upstream, FIBER_FOREVER, call->arena, &call->answer));
        complete_usage(call, false);
        return NULL;
    }
    if (!is_stream_answer(head))
        return err_new_detail(ERR_UPSTREAM, (.code = "upstream_invalid"),
                              "the provider %.*s answered a stream request with %.*s",
                              STR_ARG(call->target->provider->conf->name),
                              STR_ARG(http_header_get(head, STR("content-type"))));
    return await_first(call, first_at_ms);
}

/* A failure that the transport or a decoder reported. */
static enum attempt_result judge_failure(const struct call *call, err_t err)
{
    const struct upstream *up = &call->upstream;
    struct str code = str_from(err->code);

    if (up->http.sent_ns == 0)
        return ATTEMPT_CONNECT;
    if (err->kind == ERR_TIMED_OUT)
        return ATTEMPT_TIMEOUT;
    if (up->http.head.status == 0)
        return ATTEMPT_RESET;
    if (str_eq(code, STR("upstream_invalid")))
        return ATTEMPT_INVALID;
    if (str_eq(code, STR("upstream_error")) || str_eq(code, STR("overloaded")))
        return ATTEMPT_ERROR_EVENT;
    if (!call->ask->is_stream && !err->code)
        return ATTEMPT_TRUNCATED; /* the connection broke within the body */
    return call->has_begun ? ATTEMPT_TRUNCATED : ATTEMPT_EMPTY;
}

/* What an attempt's error means. */
static enum attempt_result judge(const struct call *call, err_t err)
{
    if (!err)
        return ATTEMPT_OK;
    if (call->refusal)
        return refusal_judge(call->refusal, call->target);
    switch (err->kind) {
    case ERR_CANCELLED:
    case ERR_KILLED:
        return ATTEMPT_CANCELLED;
    case ERR_UPSTREAM:
    case ERR_TIMED_OUT:
        return judge_failure(call, err);
    case ERR_BUSY:
        return err->code && strcmp(err->code, "provider_busy") == 0 ? ATTEMPT_BUSY
                                                                    : ATTEMPT_INTERNAL;
    case ERR_BAD_REQUEST:
        return err->code && strcmp(err->code, "unsupported_parameter") == 0 ? ATTEMPT_UNSUPPORTED
                                                                            : ATTEMPT_REFUSED;
    default:
        return ATTEMPT_INTERNAL;
    }
}

/* ---- attempts, one after the other ---- */

static err_t make_record(struct call *call)
{
    const struct plan *plan = &call->plan;
    uint64_t tries = 1;

    for (size_t i = 0; i < plan->target_count; i++)
        if (plan->targets[i]->retry.attempts > tries)
            tries = plan->targets[i]->retry.attempts;
    call->attempt_room = plan->target_count * (tries < 8 ? tries : 8) +
                         plan->context_fallback_count + plan->content_fallback_count;
    call->attempts = arena_alloc_array(call->arena, call->attempt_room, sizeof(*call->attempts));
    return call->attempts ? NULL : arena_err(call->arena);
}

/* A new line of the record; a full one loses its last but never its count of room. */
static struct attempt *record(struct call *call, const struct candidate *candidate)
{
    struct attempt *attempt;

    if (call->attempt_count < call->attempt_room)
        call->attempt_count++;
    attempt = &call->attempts[call->attempt_count - 1];
    *attempt = (struct attempt){
        .target = candidate->target,
        .credential = candidate->credential,
        .result = ATTEMPT_OPEN,
    };
    return attempt;
}

/* The attempt in progress is over. */
static void end_attempt(struct call *call, enum attempt_result result, err_t err)
{
    struct attempt *attempt = &call->attempts[call->attempt_count - 1];
    uint64_t now_ms = loop_now_ms();

    attempt->result = result;
    attempt->status = call->upstream_status ? call->upstream_status : err_status(err);
    attempt->ms = now_ms - call->attempt_opened_ms;
    attempt_metrics_count(attempt);
    health_end(call->current.health, call->current.verdict, attempt_sign(result), now_ms,
               call->refusal ? call->refusal->until_ms : 0, call->attempt_first_ms);
    call->current.health = NULL;
}

/* One line per failed attempt; a key or model of ours that is refused is for the operator to
 * mend. */
static void log_failed_attempt(const struct call *call, err_t err)
{
    const struct attempt *attempt = &call->attempts[call->attempt_count - 1];
    bool is_ours = attempt->result == ATTEMPT_AUTH;
    char text[32];

    log_begin(is_ours ? LOG_ERROR : LOG_WARN,
              is_ours ? "a provider refuses its key or model" : "an attempt failed");
    log_str("provider", call->target->provider->conf->name);
    log_str("model", call->target->model);
    log_str("key", attempt->credential->name);
    log_cstr("result", attempt_result_name(attempt, text));
    if (call->upstream_status)
        log_u64("status", (uint64_t)call->upstream_status);
    log_err(err);
    log_end();
}

/* Ask one target. On success the attempt stays open until the call is finished. */
static err_t ask_target(struct call *call, const struct candidate *candidate,
                        enum attempt_result *result)
{
    const struct conf_timeouts *timeouts = &candidate->target->timeouts;
    uint64_t first_at_ms = FIBER_FOREVER;
    err_t err;

    if (call->upstream.target) { /* not the first attempt */
        upstream_close(&call->upstream, 0);
        call->upstream = (struct upstream){0};
    }
    call->refusal = NULL;
    call->upstream_status = 0;
    call->held.len = 0;
    call->held_has_id = call->has_begun = false;
    call->target = candidate->target;
    call->current = *candidate;
    call->attempt_opened_ms = loop_now_ms();
    call->attempt_first_ms = 0;
    record(call, candidate);
    health_begin(candidate->health, candidate->verdict);
    if (call->ask->is_stream)
        first_at_ms = call->attempt_opened_ms + timeouts->first_token_ms;
    err = ask_upstream(call, first_at_ms);
    if (!err)
        err = read_answer(call, first_at_ms);
    *result = judge(call, err);
    if (err) {
        end_attempt(call, *result, err);
        upstream_close(&call->upstream, 0);
        return err;
    }
    call->attempt_first_ms = loop_now_ms() - call->attempt_opened_ms + 1;
    call->attempts[call->attempt_count - 1].result = ATTEMPT_OK;
    call->attempts[call->attempt_count - 1].ms = call->attempt_first_ms - 1;
    return NULL;
}

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
    if (call->continuation.broken)
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
            record(call, &candidate);
            continue;
        }
        if (candidate.pause_ms > 0)
            TRY(fiber_sleep(candidate.pause_ms));
        err = ask_target(call, &candidate, &result);
        if (!err)
            return NULL;
        if (!told || result != ATTEMPT_UNSUPPORTED) {
            told = err;
            refusal = call->refusal;
        }
        if (result != ATTEMPT_REFUSED && result != ATTEMPT_CANCELLED)
            log_failed_attempt(call, err);
        if (!goes_on(call, result, err))
            break;
    }
    call->refusal = refusal;
    return told ? told : all_open(call, call->failover.until_ms);
}

err_t call_open(struct call *call)
{
    call->opened_ns = sys_now_ns();
    call->held = buf_make(MEM_REQUEST, HELD_MAX_BYTES);
    fiber_set_step("route");
    TRY(router_plan(call->providers, call->ask, &call->caller, call->arena, &call->plan));
    if (call->plan.alias && call->plan.alias->continues)
        continuation_begin(&call->continuation, call->ask, call->arena);
    TRY(make_record(call));
    call->failover = failover_begin(&call->plan, 0);
    call->total_at_ms = loop_now_ms() + call->plan.targets[0]->timeouts.total_ms;
    fiber_set_deadline(call->total_at_ms, &total_over);
    TRY(ask_in_turn(call));
    call->first_event_us = (sys_now_ns() - call->opened_ns) / 1000;
    call->answer_model = call->upstream.decoder.model;
    call->continuation.is_possible &= call->is_translated;
    call->phase = CALL_HELD;
    return NULL;
}

/* ---- events ---- */

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
    struct continuation *c = &call->continuation;

    if (!c->is_possible || is_over(call, err) ||
        (err->kind != ERR_UPSTREAM && err->kind != ERR_TIMED_OUT))
        return err;
    complete_usage(call, true);
    usage_count_add(&c->spent, &call->upstream.decoder.usage);
    call->upstream.decoder.usage = (struct usage){0};
    end_attempt(call, judge(call, err), err);
    log_failed_attempt(call, err);
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
    return is_over(call, err) ? &total_over : call->continuation.broken;
}

/* Deltas that go to the caller are counted, and kept while they may have to be continued. */
static err_t take_deltas(struct call *call, struct event *event)
{
    usage_count_deltas(&call->tally, event->deltas, event->delta_count);
    if (!call->continuation.is_possible)
        return NULL;
    return continuation_take(&call->continuation, event, call->scratch);
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
        *event = call->first;
        break;
    case CALL_WRITTEN:
        buf_fini(&call->held);
        /* fall through */
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
        complete_usage(call, false);
        add_spent(call);
    }
    if (event->kind == EVENT_USAGE && !call->ask->wants_usage)
        event->raw = STR("");
    return NULL;
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

void call_finish(struct call *call, err_t err)
{
    if (!call->target)
        return;
    fiber_set_deadline(FIBER_FOREVER, NULL);
    if (call->current.health && err && call->events > 0)
        complete_usage(call, true);
    if (call->current.health)
        end_attempt(call, judge(call, err), err);
    add_spent(call);
    call->usage = call->upstream.decoder.usage;
    upstream_close(&call->upstream, err ? 0 : CLOSE_GRACE_MS);
    free_scratch(call);
    tokens_tally_fini(&call->tally);
    continuation_fini(&call->continuation);
    call_metrics_count(call, call_outcome(err));
}
