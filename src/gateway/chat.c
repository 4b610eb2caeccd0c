/* SPDX-License-Identifier: Apache-2.0 */
/* POST /v1/chat/completions: the story of the whole server.
 *
 * Read it top to bottom: that is the order of time. Every line may wait; a client that leaves, a
 * deadline or a drain makes the waiting line return an error, and request_finish settles whatever
 * came of it. A slow client slows the provider, because the next event is asked for only when the
 * last was taken. */
#include "gateway/handlers.h"

#include "dialect/openai.h"
#include "fiber/fiber.h"
#include "gateway/request.h"

static err_t read_question(struct request *r)
{
    struct str body;

    request_step(r, "read");
    TRY(request_check_json(r));
    TRY(exchange_read_body(r->exchange, r->conf->http.max_body_bytes, &body));

    request_step(r, "parse");
    TRY(openai_parse_chat(body, r->arena, &r->ask));
    return openai_forward_headers(&r->exchange->head, r->arena, &r->call.headers,
                                  &r->call.header_count);
}

/* When a comment is due if nothing else comes. */
static uint64_t heartbeat_at(const struct request *r)
{
    uint64_t every_ms = r->conf->stream.heartbeat_ms;

    return every_ms ? loop_now_ms() + every_ms : FIBER_FOREVER;
}

/* Pass on events until the stream is complete, with a heartbeat when none has come for a while. */
static err_t stream_answer(struct request *r)
{
    struct event event;

    request_step(r, "stream");
    TRY(reply_stream(r));
    exchange_release_body(r->exchange);
    fiber_trim_stack(); /* a stream waits long: keep only what waiting needs */
    do {
        TRY(call_next(&r->call, heartbeat_at(r), &event));
        TRY(reply_event(r, &event));
    } while (event.kind != EVENT_END);
    return NULL;
}

err_t chat_handle(struct request *r)
{
    TRY(read_question(r));

    request_step(r, "admit");
    TRY(request_admit(r));

    request_step(r, "call");
    exchange_cancel_on_half_close(r->exchange);
    if (r->ask.is_stream)
        TRY(reply_promise(r));
    TRY(call_open(&r->call));

    if (r->ask.is_stream)
        return stream_answer(r);
    request_step(r, "answer");
    return reply_answer(r, r->call.answer);
}
