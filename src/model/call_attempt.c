/* SPDX-License-Identifier: Apache-2.0 */
/* One attempt of a call.
 *
 * The hard thing is the moment of commitment. A provider may answer 200, send a chunk with the role
 * only and then fail; until something meaningful has come, that is a failed attempt and not a broken
 * stream. So events that say nothing yet are held back. */
#include "model/call_attempt.h"

#include "fiber/fiber.h"
#include "model/call_govern.h"
#include "model/call_journal.h"
#include "model/call_metrics.h"
#include "model/local_server.h"
#include "model/usage_count.h"
#include "observe/log.h"

static const struct err first_over = {
    .kind = ERR_TIMED_OUT,
    .code = "timeout",
    .where = ERR_HERE,
    .text = "the provider did not begin to answer within timeouts.first_token"};

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

/* Keep the provider's own id of an answer, whose head does not last. */
static err_t keep_request_id(struct call *call, const struct http_head *head)
{
    struct str id = http_header_get(head, STR("x-request-id"));

    if (id.len == 0)
        id = http_header_get(head, STR("request-id"));
    call->upstream_request_id = (struct str){0};
    if (id.len == 0)
        return NULL;
    call->upstream_request_id = arena_copy(call->arena, id);
    return call->upstream_request_id.ptr ? NULL : arena_err(call->arena);
}

/* ---- asking ---- */

static err_t ask_upstream(struct call *call, uint64_t first_at_ms)
{
    struct provider *provider = call->target->provider;
    struct upstream_ask ask = {
        .chat = call->ask,
        .headers = call->headers,
        .header_count = call->header_count,
        .head_at_ms = first_at_ms,
        .scratch = &call->scratch,
        .wants_deltas = call->continuation &&
                        continuation_wants_deltas(call->continuation, call->ask->protocol),
    };
    err_t err;

    if (call->continuation && call->continuation->broken)
        TRY(continuation_prefill(call->continuation, provider->conf, provider->ops,
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
                              CALL_HELD_MAX_BYTES / 1024);
    return err;
}

/* Wait for the first meaningful event, holding back what comes before it. */
static err_t await_first(struct call *call, uint64_t first_at_ms)
{
    fiber_set_step("first event");
    for (;;) {
        TRY(upstream_next(&call->upstream, first_at_ms, &call->answer));
        call->has_begun |= call->answer.kind != EVENT_IDLE && call->answer.kind != EVENT_PAUSE;
        switch (call->answer.kind) {
        case EVENT_IDLE:
            return &first_over;
        case EVENT_USAGE:
            if (!call->ask->wants_usage)
                break;
            TRY(hold(call, &call->answer));
            break;
        case EVENT_QUIET:
            TRY(hold(call, &call->answer));
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

void call_attempt_complete_usage(struct call *call, bool is_cut)
{
    struct str whole = call->ask->is_stream ? STR("") : call->answer.raw;
    struct usage *usage = &call->upstream.decoder.usage;
    bool was_told = usage->input > 0;

    usage_count_complete(&call->upstream.decoder, call->target->provider->ops, call->ask,
                         call->target->model, call->arena, is_cut, whole);
    if (!was_told && call->continuation && call->continuation->broken)
        usage->input += continuation_prefill_tokens(call->continuation, call->target->model);
}

static err_t read_answer(struct call *call, uint64_t first_at_ms)
{
    const struct http_head *head = call->upstream.http.head;

    call->upstream_status = head->status;
    TRY(keep_request_id(call, head));
    if (head->status != 200) {
        TRY(refusal_read(&call->upstream, call->ask->protocol, call->arena, &call->refusal));
        return refusal_err(call->refusal, call->target, call->arena);
    }
    if (!call->ask->is_stream) {
        fiber_set_step("answer");
        TRY(upstream_read_whole(&call->upstream, FIBER_FOREVER, call->arena, &call->answer));
        call_attempt_complete_usage(call, false);
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

    if (!up->http.is_sent)
        return ATTEMPT_CONNECT;
    if (err->kind == ERR_TIMED_OUT)
        return ATTEMPT_TIMEOUT;
    if (up->http.status == 0)
        return ATTEMPT_RESET;
    if (str_eq(code, STR("upstream_invalid")))
        return ATTEMPT_INVALID;
    if (str_eq(code, STR("upstream_error")) || str_eq(code, STR("overloaded")))
        return ATTEMPT_ERROR_EVENT;
    if (!call->ask->is_stream && !err->code)
        return ATTEMPT_TRUNCATED; /* the connection broke within the body */
    return call->has_begun ? ATTEMPT_TRUNCATED : ATTEMPT_EMPTY;
}

enum attempt_result call_attempt_judge(const struct call *call, err_t err)
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

/* ---- the record ---- */

err_t call_attempt_prepare(struct call *call)
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

void call_attempt_add(struct call *call, const struct candidate *candidate)
{
    if (call->attempt_count < call->attempt_room)
        call->attempt_count++;
    call->attempts[call->attempt_count - 1] = (struct attempt){
        .target = candidate->target,
        .credential = candidate->credential,
        .result = ATTEMPT_OPEN,
    };
}

void call_attempt_end(struct call *call, enum attempt_result result, err_t err)
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

void call_attempt_log(const struct call *call, err_t err)
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

/* Whether the provider of a failed attempt will charge for it: it said so, it was at work when it was given up,
 * or what it said broke off. What it refused, and what never became an answer, is free. */
static bool is_charged(const struct call *call, enum attempt_result result)
{
    const struct upstream *up = &call->upstream;

    if (!up->http.is_sent)
        return false;
    return up->decoder.usage.is_known || result == ATTEMPT_CANCELLED || result == ATTEMPT_TIMEOUT ||
           result == ATTEMPT_TRUNCATED || call->has_begun;
}

/* Count what a failed attempt used. That of a caller who leaves is the call's own usage, for there will be no other. */
static void account_failed(struct call *call, enum attempt_result result)
{
    struct usage *usage = &call->upstream.decoder.usage;

    if (is_charged(call, result)) {
        call_attempt_complete_usage(call, true);
        if (result == ATTEMPT_CANCELLED && !(call->continuation && call->continuation->broken))
            return;
        call_charge_lost(call);
    }
    *usage = (struct usage){0};
}

err_t call_attempt_ask(struct call *call, const struct candidate *candidate,
                       enum attempt_result *result)
{
    const struct conf_timeouts *timeouts = &candidate->target->timeouts;
    uint64_t first_at_ms = FIBER_FOREVER;
    err_t err;

    if (call->upstream.target) { /* not the first attempt */
        upstream_close(&call->upstream, 0);
        call->upstream = (struct upstream){0};
    }
    call->upstream_status = 0;
    call->held.len = 0;
    call->held_has_id = call->has_begun = false;
    call->answer = (struct event){0}; /* what another said is not charged again */
    call->target = candidate->target;
    call->current = *candidate;
    call->attempt_opened_ms = loop_now_ms();
    call->attempt_first_ms = 0;
    call_attempt_add(call, candidate);
    health_begin(candidate->health, candidate->verdict);
    if (call->ask->is_stream) {
        first_at_ms = call->attempt_opened_ms + timeouts->first_token_ms;
        call_journal_note(call);
    }
    err = ask_upstream(call, first_at_ms);
    if (!err)
        err = read_answer(call, first_at_ms);
    *result = call_attempt_judge(call, err);
    if (err) {
        account_failed(call, *result);
        call_attempt_end(call, *result, err);
        upstream_close(&call->upstream, 0);
        return err;
    }
    call->attempt_first_ms = loop_now_ms() - call->attempt_opened_ms + 1;
    call->attempts[call->attempt_count - 1].result = ATTEMPT_OK;
    call->attempts[call->attempt_count - 1].ms = call->attempt_first_ms - 1;
    return NULL;
}
