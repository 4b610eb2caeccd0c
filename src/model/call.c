/* SPDX-License-Identifier: Apache-2.0 */
/* Calling a model, step by step: route, make ready, ask, await the first event, pass on events,
 * settle.
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

/* ---- refusals ---- */

/* The provider does not accept us: the operator's trouble, never shown to the caller as his own
 * 401. */
static err_t refuse_auth(struct call *call, int status)
{
    const struct conf_provider *provider = call->target.provider->conf;

    log_begin(LOG_ERROR, "a provider refuses its key or model");
    log_str("provider", provider->name);
    log_str("model", call->target.model);
    log_u64("status", (uint64_t)status);
    log_end();
    return err_new_detail(ERR_UPSTREAM, (.code = "provider_auth"),
                          "the provider %.*s refused this server's credentials (%d)",
                          STR_ARG(provider->name), status);
}

/* A model that an alias names but the provider does not have is a mistake in our configuration. */
static bool is_missing_target(const struct call *call, const struct refusal *refusal)
{
    return refusal->status == 404 && call->target.alias.len > 0 &&
           str_find(refusal->body, STR("model_not_found")) < refusal->body.len;
}

/* Turn an answer that is not a success into the error it means. */
static err_t refuse(struct call *call)
{
    struct upstream *up = &call->upstream;
    struct refusal *refusal = call->refusal = arena_new_struct(call->arena, struct refusal);
    const struct http_head *head = &up->http.head;
    struct str name = call->target.provider->conf->name;
    int status = head->status;

    if (!refusal)
        return arena_err(call->arena);
    refusal->status = status;
    refusal->content_type = http_header_get(head, STR("content-type"));
    refusal->retry_after = http_header_get(head, STR("retry-after"));
    refusal->retry_after_ms = http_header_get(head, STR("retry-after-ms"));
    refusal->body =
        upstream_read_refusal(up, loop_now_ms() + call->target.timeouts.idle_ms, call->arena);
    if (status == 401 || status == 403 || is_missing_target(call, refusal))
        return refuse_auth(call, status);
    if (status < 400 || status > 499 || status == 407 || status == 408)
        return err_new_detail(ERR_UPSTREAM, (.code = "upstream_error"),
                              "the provider %.*s answered %d", STR_ARG(name), status);
    refusal->is_relayed = refusal->body.len > 0 && !json_check(refusal->body);
    return err_new_detail(status == 429 ? ERR_LIMITED : ERR_BAD_REQUEST,
                          (.status = status, .code = status == 429 ? "rate_limit_exceeded" : NULL),
                          "the provider %.*s refused the request (%d)", STR_ARG(name), status);
}

/* ---- opening ---- */

static err_t route(struct call *call)
{
    fiber_set_step("route");
    TRY(providers_find(call->providers, call->ask->model, call->arena, &call->target));
    fiber_set_deadline(loop_now_ms() + call->target.timeouts.total_ms, &total_over);
    return NULL;
}

static err_t ask_upstream(struct call *call, uint64_t first_at_ms)
{
    struct provider *provider = call->target.provider;
    struct upstream_ask ask = {call->ask, call->headers, call->header_count, first_at_ms};
    err_t err;

    if (provider->server) {
        fiber_set_step("start model");
        TRY(local_server_await(provider->server, first_at_ms));
    }
    fiber_set_step("upstream");
    err = upstream_open(&call->upstream, call->pool, &call->target, &ask, call->arena);
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

    if (call->held.len == 0)
        TRY(arena_defer(call->arena, fini_held, &call->held));
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
            break;
        case EVENT_CONTENT:
        case EVENT_END:
            return NULL;
        }
    }
}

static err_t read_answer(struct call *call, uint64_t first_at_ms)
{
    const struct http_head *head = &call->upstream.http.head;

    call->upstream_status = head->status;
    call->upstream_request_id = http_header_get(head, STR("x-request-id"));
    if (head->status != 200)
        return refuse(call);
    if (!call->ask->is_stream) {
        fiber_set_step("answer");
        return upstream_read_whole(&call->upstream, FIBER_FOREVER, call->arena, &call->answer);
    }
    if (!is_stream_answer(head))
        return err_new_detail(ERR_UPSTREAM, (.code = "upstream_invalid"),
                              "the provider %.*s answered a stream request with %.*s",
                              STR_ARG(call->target.provider->conf->name),
                              STR_ARG(http_header_get(head, STR("content-type"))));
    return await_first(call, first_at_ms);
}

err_t call_open(struct call *call)
{
    uint64_t first_at_ms = FIBER_FOREVER;

    call->opened_ns = sys_now_ns();
    call->held = buf_make(MEM_REQUEST, HELD_MAX_BYTES);
    TRY(route(call));
    if (call->ask->is_stream)
        first_at_ms = loop_now_ms() + call->target.timeouts.first_token_ms;
    TRY(ask_upstream(call, first_at_ms));
    TRY(read_answer(call, first_at_ms));
    call->first_event_us = (sys_now_ns() - call->opened_ns) / 1000;
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
        idle_at_ms = call->silent_since_ms + call->target.timeouts.idle_ms;
        TRY(upstream_next(&call->upstream, at_ms < idle_at_ms ? at_ms : idle_at_ms, event));
        call->was_paused = event->kind == EVENT_PAUSE;
        if (event->kind != EVENT_IDLE || loop_now_ms() >= at_ms)
            return NULL;
        /* no event, but signs of life */
    } while (call->silent_since_ms < call->upstream.last_bytes_ms);
    return &idle_over;
}

err_t call_next(struct call *call, uint64_t at_ms, struct event *event)
{
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
    case CALL_FLOWING:
        TRY(next_flowing(call, at_ms, event));
        if (event->kind == EVENT_PAUSE)
            call->phase = CALL_WRITTEN;
        break;
    case CALL_WRITTEN:
        buf_fini(&call->held);
        TRY(next_flowing(call, at_ms, event));
        break;
    }
    if (event->kind == EVENT_CONTENT)
        call->events++;
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

void call_finish(struct call *call, err_t err)
{
    if (!call->target.provider)
        return;
    fiber_set_deadline(FIBER_FOREVER, NULL);
    call->usage = call->upstream.decoder.usage;
    upstream_close(&call->upstream, err ? 0 : CLOSE_GRACE_MS);
    call_metrics_count(call, call_outcome(err));
}
