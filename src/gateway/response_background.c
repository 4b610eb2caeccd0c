/* SPDX-License-Identifier: Apache-2.0 */
/* A request that outlives its caller: a response made in the background, and whoever follows it.
 *
 * The request goes the way of all others, in its own fiber; only its events go into a feed, from which anybody may read
 * them, and what cannot be written to the caller is no error. Its connection serves no other request meanwhile, so a
 * caller who was told that it is queued is told, too, that the connection will be closed.
 *
 * The hard thing is the end: whoever reads the last event may come back with the response's id at once. So all is in the
 * store before that event is told. */
#include "gateway/response_background.h"

#include "base/sys.h"
#include "dialect/body.h"
#include "dialect/openai_responses.h"
#include "fiber/fiber.h"
#include "gateway/idempotency.h"
#include "gateway/request.h"
#include "gateway/response_store.h"
#include "gateway/responses.h"
#include "observe/log.h"

#define EVENTS_MAX_BYTES ((size_t)64 * 1024 * 1024)

/* How long the last event may take to a caller who is still there. */
#define LAST_WORDS_MS 2000

/* ---- whether ---- */

static bool speaks_responses(const struct target *target)
{
    const struct provider *provider = target->provider;

    return provider->ops->choose(provider->conf, PROTOCOL_RESPONSES) == PROTOCOL_RESPONSES;
}

err_t response_background_find(struct request *r)
{
    struct chat_request *ask = &r->ask;
    bool has_native = false;
    const struct prompt *prompt;
    struct plan plan;

    if (ask->protocol != PROTOCOL_RESPONSES ||
        json_kind(body_get(ask, STR("background"))) != JSON_TRUE)
        return NULL;
    TRY(router_plan(r->providers, ask, &r->call.caller, r->arena, &plan));
    for (size_t i = 0; i < plan.target_count; i++)
        has_native |= speaks_responses(plan.targets[i]);
    if (has_native && ask->history.len == 0 && ask->referenced.len == 0)
        return NULL;
    if (!r->hold->is_kept)
        return body_bad("invalid_value", "store",
                        "A response that is made in the background must be stored: leave out "
                        "'store: false'.");
    r->hold->is_in_background = ask->is_answered_here = true;
    return chat_prompt(ask, r->arena, &prompt); /* mistakes are told while the caller listens */
}

bool response_background_is(const struct request *r)
{
    return r->hold && r->hold->is_in_background;
}

/* ---- beginning ---- */

static void fini_out(void *out)
{
    buf_fini(out);
}

static err_t make_writer(struct request *r)
{
    struct answer_writer *w = arena_new_struct(r->arena, struct answer_writer);

    if (!w)
        return arena_err(r->arena);
    *w = (struct answer_writer){.dialect = r->dialect,
                                .ask = &r->ask,
                                .arena = r->arena,
                                .created_s = sys_wall_ms() / 1000,
                                .id = str_from(r->hold->id),
                                .model = r->ask.model,
                                .usage = &r->call.upstream.decoder.usage,
                                .out = buf_make(MEM_BODY, EVENTS_MAX_BYTES)};
    TRY(arena_defer(r->arena, fini_out, &w->out));
    r->reply.writer = w;
    r->hold->feed = response_feed_new();
    return r->hold->feed ? NULL : err_no_memory();
}

static err_t print(struct request *r, enum response_status status, struct str *out)
{
    struct buf text = buf_make(MEM_REQUEST, EVENTS_MAX_BYTES);
    err_t err = responses_print_object(r->reply.writer, status, NULL, &text);

    if (!err) {
        *out = arena_copy(r->arena, buf_str(&text));
        err = out->ptr ? NULL : arena_err(r->arena);
    }
    buf_fini(&text);
    return err;
}

/* Enter it in the store and begin its feed; *queued is what the caller is told. */
static err_t begin(struct request *r, struct str *queued)
{
    struct answer_writer *w = r->reply.writer;
    struct str running;

    TRY(responses_write_queued(w));
    TRY(print(r, RESPONSE_QUEUED, queued));
    TRY(print(r, RESPONSE_IN_PROGRESS, &running));
    response_feed_add(r->hold->feed, buf_str(&w->out));
    response_feed_tell(r->hold->feed, false);
    return response_hold_enter(r, running);
}

/* To the caller, if he wanted a stream and is still there. */
static void tell(struct request *r, struct str text)
{
    if (!r->reply.is_stream || r->exchange->is_cut || text.len == 0)
        return;
    idempotency_add(r, &text, 1);
    if (exchange_write(r->exchange, &text, 1))
        r->exchange->is_cut = true;
}

/* Nobody knows of it who has not got this. */
static err_t answer(struct request *r, struct str queued)
{
    struct answer_writer *w = r->reply.writer;
    struct str text = buf_str(&w->out);
    err_t err;

    exchange_outlive_client(r->exchange);
    if (r->ask.is_stream) {
        TRY(reply_stream(r));
        idempotency_add(r, &text, 1);
        err = exchange_write(r->exchange, &text, 1);
    } else {
        idempotency_keep(r, queued);
        err = reply_json(r, 200, queued);
    }
    w->out.len = 0;
    r->reply.is_raw = true; /* errors are told here */
    r->ask.is_stream = true;
    return err;
}

/* ---- going on ---- */

static uint64_t heartbeat_at(const struct request *r)
{
    uint64_t every_ms = r->conf->stream.heartbeat_ms;

    return every_ms && r->reply.is_stream ? loop_now_ms() + every_ms : FIBER_FOREVER;
}

static void publish(struct request *r)
{
    struct buf *out = &r->reply.writer->out;

    response_feed_add(r->hold->feed, buf_str(out));
    response_feed_tell(r->hold->feed, false);
    tell(r, buf_str(out));
    out->len = 0;
}

static err_t take(struct request *r, const struct event *event)
{
    struct answer_writer *w = r->reply.writer;

    switch (event->kind) {
    case EVENT_CONTENT:
        return w->dialect->write_event(w, event);
    case EVENT_END:
        w->ended_s = sys_wall_ms() / 1000;
        return w->dialect->write_event(w, event);
    case EVENT_PAUSE:
    case EVENT_BROKEN:
        publish(r);
        return NULL;
    case EVENT_IDLE:
        tell(r, r->dialect->heartbeat);
        return NULL;
    case EVENT_QUIET:
    case EVENT_USAGE:
    case EVENT_CONTINUED:
        return NULL;
    }
    return NULL;
}

static err_t make(struct request *r)
{
    struct event event;

    request_step(r, "call");
    TRY(call_open(&r->call));
    r->reply.writer->model =
        r->call.answer_model.len ? r->call.answer_model : r->call.target->model;
    request_step(r, "background");
    do {
        TRY(call_next(&r->call, heartbeat_at(r), &event));
        TRY(take(r, &event));
    } while (event.kind != EVENT_END);
    return NULL;
}

/* Its last events lie in the writer: keep everything, then tell them. */
static void end(struct request *r, err_t err)
{
    struct str last = buf_str(&r->reply.writer->out);

    response_feed_add(r->hold->feed, last);
    if (!err)
        call_settle(&r->call, NULL);
    response_hold_keep(r, r->reply.writer, err); /* which takes as long as the store is away */
    response_feed_tell(r->hold->feed, true);
    if (!r->reply.is_stream || r->exchange->is_cut)
        return;
    idempotency_add(r, &last, 1);
    if (!err)
        idempotency_keep(r, (struct str){0});
    fiber_shield(loop_now_ms() + LAST_WORDS_MS);
    if (exchange_finish(r->exchange, &last, 1))
        r->exchange->is_cut = true;
    fiber_unshield();
}

err_t response_background_run(struct request *r)
{
    struct answer_writer *w;
    struct str queued;
    err_t err, told;

    TRY(make_writer(r));
    err = begin(r, &queued);
    if (err) {
        r->hold->is_over = true; /* nothing to be kept */
        return err;
    }
    TRY(answer(r, queued));
    err = make(r);
    if (!err) {
        end(r, NULL);
        return NULL;
    }
    w = r->reply.writer;
    told = refusal_told(r->call.refusal, err, r->arena);
    call_settle(&r->call, err);
    if (w->dialect->write_error(w, told, r->arena, &w->out))
        w->out.len = 0; /* without memory the stream just ends */
    log_mask_in_place(w->out.ptr, w->out.len);
    end(r, told);
    return err;
}

/* ---- following ---- */

/* The events to be left out because the caller has them. */
static err_t read_start(const struct request *r, uint64_t *count)
{
    struct str after = responses_query(r, "starting_after");

    *count = 0;
    if (after.len == 0)
        return NULL;
    if (!str_to_u64(after, count) || *count == UINT64_MAX)
        return body_bad("invalid_value", "starting_after",
                        "Invalid 'starting_after': expected the number of an event.");
    *count += 1; /* they are numbered from 0 */
    return NULL;
}

/* What is left of whole events when the first *count are left out. */
static struct str skip(struct str events, uint64_t *count)
{
    size_t end;

    for (; *count > 0 && events.len > 0; --*count) {
        end = str_find(events, STR("\n\n"));
        events = str_after(events, end < events.len ? end + 2 : events.len);
    }
    return events;
}

/* PARKS: pass on what is there; *is_over: there will be no more. */
static err_t pass(struct request *r, struct response_feed *feed, size_t *at, uint64_t *count,
                  bool *is_over)
{
    struct buf text = buf_make(MEM_REQUEST, EVENTS_MAX_BYTES);
    err_t err = response_feed_read(feed, at, &text, is_over);
    struct str events = err ? STR("") : skip(buf_str(&text), count);

    if (!err && *is_over)
        err = exchange_finish(r->exchange, &events, 1);
    else if (!err && events.len > 0)
        err = exchange_write(r->exchange, &events, 1);
    buf_fini(&text);
    return err;
}

static void unref_feed(void *feed)
{
    response_feed_unref(feed);
}

static err_t follow(struct request *r, struct response_feed *feed, uint64_t count)
{
    uint64_t every_ms = r->conf->stream.heartbeat_ms;
    bool is_over = false;
    size_t at = 0;
    err_t err;

    request_step(r, "follow");
    exchange_cancel_on_half_close(r->exchange);
    TRY(reply_stream(r));
    for (;;) {
        TRY(pass(r, feed, &at, &count, &is_over));
        if (is_over)
            return NULL;
        err = response_feed_wait(feed, at, every_ms ? loop_now_ms() + every_ms : FIBER_FOREVER);
        if (err == &fiber_wait_over)
            err = exchange_write(r->exchange, &r->dialect->heartbeat, 1);
        TRY(err);
    }
}

/* One that has ended: as it was told or, if that is not known, as it may have been. */
static err_t tell_again(struct request *r, const struct response *response, uint64_t count)
{
    struct buf text = buf_make(MEM_REQUEST, EVENTS_MAX_BYTES);
    struct str events;
    err_t err = NULL;

    TRY(response_store_get_events(response->owner, response->id, r->arena, &events));
    if (str_eq(events, STR(RESPONSE_EVENTS_LOST)) && count > 0)
        return body_bad("unsupported_parameter", "starting_after",
                        "The events of this response were not kept one by one: leave out "
                        "'starting_after' to get what it says.");
    if (events.len <= strlen(RESPONSE_EVENTS_LOST)) {
        err = responses_replay(response->object, &text);
        events = buf_str(&text);
    }
    events = skip(events, &count);
    if (!err)
        err = reply_stream(r);
    if (!err)
        err = exchange_finish(r->exchange, &events, 1);
    buf_fini(&text);
    return err;
}

err_t response_background_stream(struct request *r, const struct response *response)
{
    struct response now = *response;
    struct response_feed *feed;
    uint64_t count;

    TRY(read_start(r, &count));
    if (now.state == RESPONSE_STATE_RUNNING) {
        feed = response_running_feed(now.owner, now.id);
        if (feed) {
            TRY(arena_defer(r->arena, unref_feed, feed));
            return follow(r, feed, count);
        }
        /* it may have ended since it was looked up */
        TRY(response_store_get(now.owner, now.id, r->arena, &now));
    }
    if (now.state == RESPONSE_STATE_RUNNING)
        return body_bad("invalid_value", "stream",
                        "This response is still being made, not in the background or by another "
                        "process: only its end can be streamed. Ask again when it has ended.");
    if (now.state == RESPONSE_STATE_KILLED)
        return body_bad("invalid_value", "stream",
                        "The server ended before this response did: there is nothing to stream.");
    return tell_again(r, &now, count);
}
