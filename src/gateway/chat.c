/* SPDX-License-Identifier: Apache-2.0 */
/* The story of a model request: read, parse, admit, call, answer; in any of the dialects.
 *
 * The model is asked before anything is promised to the caller, so that a failure before the first
 * meaningful event is an ordinary HTTP error. From then on events are pulled one by one: the next is
 * asked for only when the last was taken. */
#include "gateway/handlers.h"

#include "fiber/fiber.h"
#include "gateway/auth.h"
#include "gateway/idempotency.h"
#include "gateway/request.h"
#include "gateway/response_background.h"

/* How long a stream keeps what was asked, and how much longer for every 2 KiB of it. */
#define QUESTION_KEPT_MS           100
#define QUESTION_KEPT_MS_PER_2_KIB 200

/* How many streams of a thread do so. What a crowd that comes at once let go of together would lie between what it
 * holds on to, and serve nobody. */
#define QUESTIONS_MAX 64

/* Those headers of the caller's that a provider of the same protocol is to see. */
static err_t pick_headers(struct request *r)
{
    const struct http_head *head = &r->exchange->head;
    struct call *call = &r->call;

    for (size_t i = 0; i < head->header_count; i++) {
        if (!r->dialect->forwards(head->headers[i].name))
            continue;
        if (!call->headers)
            call->headers = arena_alloc_array(r->arena, head->header_count, sizeof(*call->headers));
        if (!call->headers)
            return arena_err(r->arena);
        call->headers[call->header_count++] = head->headers[i];
    }
    return NULL;
}

/* Not inlined: what a stream waits in shall have no room on the stack for it. */
static __attribute__((noinline)) err_t read_question(struct request *r)
{
    struct str body;

    request_step(r, "read");
    TRY(request_check_json(r));
    TRY(exchange_read_body(r->exchange, r->conf->http.max_body_bytes, &body));

    request_step(r, "parse");
    TRY(r->dialect->parse(body, r->arena, &r->ask));
    r->call.subject = &r->subject;
    r->call.request_id = str_from(r->exchange->id);
    r->call.route = r->route->path;
    r->call.caller =
        (struct route_caller){.key = r->caller, .head = &r->exchange->head, .subject = &r->subject};
    TRY(request_read_wish(r));
    TRY(auth_name_user(r));
    TRY(auth_check_model(r));
    return pick_headers(r);
}

/* When a sign of life is due if nothing else comes. */
static uint64_t heartbeat_at(const struct request *r)
{
    uint64_t every_ms = r->conf->stream.heartbeat_ms;

    return every_ms ? loop_now_ms() + every_ms : FIBER_FOREVER;
}

/* What a stream still holds while it waits. */
struct holding {
    uint64_t forget_at_ms; /* the question */
    bool is_counted;       /* among the gateway's questions */
    bool is_trimmed;       /* the stack, since something deep ran on it */
};

/* Say when a stream's question is let go. To count its tokens takes some 10 µs a KiB, so short streams keep it, and the
 * longer it is, the longer the stream must have lasted. */
static void hold_question(struct request *r, struct holding *holding)
{
    if (r->call.upstream.decoder.usage.input > 0) /* told already */
        return;
    holding->forget_at_ms = loop_now_ms() + r->ask.body.len / 2048 * QUESTION_KEPT_MS_PER_2_KIB;
    if (r->gateway->questions >= QUESTIONS_MAX)
        return;
    r->gateway->questions++;
    holding->is_counted = true;
    holding->forget_at_ms += QUESTION_KEPT_MS;
}

static void drop_question(struct request *r, struct holding *holding)
{
    r->gateway->questions -= holding->is_counted;
    *holding = (struct holding){.forget_at_ms = FIBER_FOREVER};
}

/* A stream waits long: keep only what waiting needs. */
static void keep_little(struct request *r, struct holding *holding)
{
    if (loop_now_ms() >= holding->forget_at_ms) {
        drop_question(r, holding);
        if (call_forget_question(&r->call))
            exchange_release_body(r->exchange);
    }
    if (!holding->is_trimmed)
        fiber_trim_stack();
    holding->is_trimmed = true;
}

/* Pass on the next event; nothing is written when it was only time to let the question go. */
static err_t pass_next(struct request *r, const struct holding *holding, struct event *event)
{
    uint64_t beat_at_ms = heartbeat_at(r), forget_at_ms = holding->forget_at_ms;

    TRY(call_next(&r->call, beat_at_ms < forget_at_ms ? beat_at_ms : forget_at_ms, event));
    if (event->kind == EVENT_IDLE && loop_now_ms() < beat_at_ms)
        return NULL;
    return reply_event(r, event);
}

/* Pass on events until the stream is complete, with a heartbeat when none has come for a while. */
static err_t pass_all(struct request *r, struct holding *holding)
{
    struct event event;

    do {
        TRY(pass_next(r, holding, &event));
        if (event.kind == EVENT_PAUSE || event.kind == EVENT_IDLE)
            keep_little(r, holding);
    } while (event.kind != EVENT_END);
    return NULL;
}

static err_t stream_answer(struct request *r)
{
    struct holding holding = {0};
    err_t err;

    request_step(r, "stream");
    TRY(reply_stream(r));
    hold_question(r, &holding);
    err = pass_all(r, &holding);
    drop_question(r, &holding);
    return err;
}

/* The answer is certain: it will be written in the caller's words, or passed on as it came. */
static err_t begin_answer(struct request *r)
{
    struct call *call = &r->call;

    timer_clear(&r->reply.early); /* what follows may park, and alone uses the arena */
    if (call->is_translated)
        TRY(reply_translate(r, r->hold ? str_from(r->hold->id) : STR("")));
    if (r->dialect != dialect_responses)
        return NULL;
    if (call->is_translated)
        response_hold_begin(r);
    else
        response_hold_passed(r, r->ask.is_stream ? buf_str(&call->held) : call->answer.raw);
    return NULL;
}

static err_t handle(struct request *r, const struct dialect *dialect)
{
    r->dialect = dialect;
    TRY(read_question(r));
    TRY(idempotency_begin(r));
    if (idempotency_is_answered(r))
        return idempotency_replay(r);
    if (dialect == dialect_responses || dialect == dialect_compact)
        TRY(response_hold_prepare(r));

    request_step(r, "admit");
    TRY(request_admit(r));

    if (response_background_is(r))
        return response_background_run(r);

    request_step(r, "call");
    exchange_cancel_on_half_close(r->exchange);
    if (r->ask.is_stream)
        TRY(reply_promise(r));
    TRY(call_open(&r->call));

    TRY(begin_answer(r));
    if (r->ask.is_stream)
        return stream_answer(r);
    request_step(r, "answer");
    return reply_answer(r);
}

/* ---- the routes ---- */

err_t chat_handle(struct request *r)
{
    return handle(r, dialect_chat);
}

err_t completions_handle(struct request *r)
{
    return handle(r, dialect_completions);
}

err_t responses_handle(struct request *r)
{
    return handle(r, dialect_responses);
}

err_t compact_handle(struct request *r)
{
    return handle(r, dialect_compact);
}

err_t messages_handle(struct request *r)
{
    return handle(r, dialect_messages);
}

err_t embeddings_handle(struct request *r)
{
    return handle(r, dialect_embeddings);
}

err_t rerank_handle(struct request *r)
{
    return handle(r, dialect_rerank);
}

err_t moderations_handle(struct request *r)
{
    return handle(r, dialect_moderations);
}
