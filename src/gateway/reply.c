/* SPDX-License-Identifier: Apache-2.0 */
/* Answers out.
 *
 * Events are gathered until the call says that none is at hand and then written with one system
 * call: what arrived together leaves together, and nothing is held back. Their bytes go out as they
 * came.
 *
 * The hard thing is an error after the head was sent: the status cannot be changed any more, so the
 * stream gets an error event, no finish reason and no end marker, and the caller's SDK raises. */
#include "gateway/reply.h"

#include "dialect/openai.h"
#include "fiber/fiber.h"
#include "gateway/cors.h"
#include "gateway/request.h"
#include "observe/log.h"

/* How long telling a caller of an error may take once the request is over. */
#define LAST_WORDS_MS 2000

static const struct str json_type = {"application/json", 16};

#define MAX_HEADERS 8

/* Headers under construction. */
struct header_list {
    struct http_header items[MAX_HEADERS];
    size_t count;
};

static void add_header(struct header_list *list, struct str name, struct str value)
{
    if (value.len > 0 && list->count < MAX_HEADERS && http_value_is_clean(value))
        list->items[list->count++] = (struct http_header){name, value};
}

/* Let a listed web page read the answer (Fetch standard, CORS protocol). */
static void add_cors(const struct request *r, struct header_list *list)
{
    struct str origin = http_header_get(&r->exchange->head, STR("origin"));

    if (!r->conf || origin.len == 0 || !cors_lists(r->conf, origin))
        return;
    add_header(list, STR("Access-Control-Allow-Origin"), origin);
    add_header(list, STR("Vary"), STR("Origin"));
    add_header(list, STR("Access-Control-Expose-Headers"),
               STR("x-request-id, x-sluice-model, retry-after"));
}

/* Who really answered. */
static void add_model(const struct request *r, struct header_list *list)
{
    add_header(list, STR("x-sluice-model"), r->call.target.label);
}

err_t reply_text(struct request *r, int status, struct str content_type, struct str body)
{
    struct header_list list = {.count = 0};

    add_cors(r, &list);
    return exchange_reply(r->exchange, status, content_type, list.items, list.count, body);
}

err_t reply_json(struct request *r, int status, struct str body)
{
    return reply_text(r, status, json_type, body);
}

err_t reply_answer(struct request *r, struct str body)
{
    struct header_list list = {.count = 0};

    add_model(r, &list);
    add_cors(r, &list);
    return exchange_reply(r->exchange, 200, json_type, list.items, list.count, body);
}

/* ---- streams ---- */

static err_t begin_stream(struct request *r)
{
    struct header_list list = {.count = 0};

    add_header(&list, STR("Cache-Control"), STR("no-cache"));
    add_header(&list, STR("X-Accel-Buffering"), STR("no"));
    add_model(r, &list);
    add_cors(r, &list);
    TRY(exchange_stream(r->exchange, 200, STR("text/event-stream; charset=utf-8"), list.items,
                        list.count));
    r->reply.is_stream = true;
    return NULL;
}

static void send_early(struct timer *timer)
{
    struct reply *reply = container_of(timer, struct reply, early);
    struct request *r = container_of(reply, struct request, reply);
    uint64_t heartbeat_ms = r->conf->stream.heartbeat_ms;

    if (!reply->is_stream && begin_stream(r))
        return;
    exchange_write_now(r->exchange, STR(": keep-alive\n\n"));
    if (heartbeat_ms && timer_set(timer, loop_now_ms() + heartbeat_ms, send_early))
        return; /* without memory for a timer there are no more heartbeats */
}

err_t reply_promise(struct request *r)
{
    uint64_t after_ms = r->conf->stream.head_after_ms;

    return after_ms ? timer_set(&r->reply.early, loop_now_ms() + after_ms, send_early) : NULL;
}

err_t reply_stream(struct request *r)
{
    timer_clear(&r->reply.early);
    return r->reply.is_stream ? NULL : begin_stream(r);
}

static err_t flush_batch(struct request *r)
{
    struct reply *reply = &r->reply;
    size_t count = reply->batch_count;

    if (count == 0)
        return NULL;
    reply->batch_count = 0;
    return exchange_write(r->exchange, reply->batch, count);
}

static err_t gather(struct request *r, struct str raw)
{
    struct reply *reply = &r->reply;
    struct str *last = reply->batch_count ? &reply->batch[reply->batch_count - 1] : NULL;

    if (raw.len == 0)
        return NULL;
    if (last && last->ptr + last->len == raw.ptr) {
        last->len += raw.len;
        return NULL;
    }
    if (reply->batch_count == REPLY_BATCH)
        TRY(flush_batch(r));
    reply->batch[reply->batch_count++] = raw;
    return NULL;
}

/* A comment keeps proxies and clients from giving up. Its blank line would make OpenAI's Python SDK
 * dispatch an empty event (and fail) on a stream whose events carry ids, so it is left out
 * there. */
static err_t write_heartbeat(struct request *r)
{
    struct str comment = r->reply.sent_id_field ? STR(": keep-alive\n") : STR(": keep-alive\n\n");

    return exchange_write(r->exchange, &comment, 1);
}

err_t reply_event(struct request *r, const struct event *event)
{
    switch (event->kind) {
    case EVENT_QUIET:
    case EVENT_CONTENT:
    case EVENT_USAGE:
        r->reply.sent_id_field |= event->has_id;
        return gather(r, event->raw);
    case EVENT_PAUSE:
        return flush_batch(r);
    case EVENT_IDLE:
        return write_heartbeat(r);
    case EVENT_END:
        TRY(gather(r, event->raw.len ? event->raw : STR("data: [DONE]\n\n")));
        return exchange_finish(r->exchange, r->reply.batch, r->reply.batch_count);
    }
    return NULL;
}

/* ---- errors ---- */

/* An error's text may hold what a provider said, and that our key. */
static struct str print_error(const struct request *r, err_t err)
{
    struct str body = openai_print_error(err, r->arena);

    log_mask_in_place((char *)(uintptr_t)body.ptr, body.len);
    return body;
}

/* A stream that has begun ends with an error event instead of its end marker. Events that came
 * together with the failure are still to be written. */
static void end_with_error(struct request *r, err_t err)
{
    struct str pieces[] = {STR("data: "), print_error(r, err), STR("\n\n")};

    if (flush_batch(r) || exchange_finish(r->exchange, pieces, 3))
        exchange_abort(r->exchange);
}

/* When to come back, and whether the SDK should try again by itself. */
static void add_retry_advice(const struct request *r, err_t err, struct header_list *list)
{
    const struct refusal *refusal = r->call.refusal;
    int status = err_status(err);

    if (refusal) {
        add_header(list, STR("retry-after"), refusal->retry_after);
        add_header(list, STR("retry-after-ms"), refusal->retry_after_ms);
    }
    if (status == 503)
        add_header(list, STR("retry-after"), STR("1"));
    if (r->call.target.provider && (status == 502 || status == 504))
        add_header(list, STR("x-should-retry"), STR("false"));
    if (r->allowed_methods)
        add_header(list, STR("Allow"), str_from(r->allowed_methods));
    if (status == 401)
        add_header(list, STR("WWW-Authenticate"), STR("Bearer"));
}

static void answer_error(struct request *r, err_t err)
{
    const struct refusal *refusal = r->call.refusal;
    bool is_relayed = refusal && refusal->is_relayed;
    struct header_list list = {.count = 0};
    struct str body = is_relayed ? refusal->body : print_error(r, err);
    struct str type = is_relayed && refusal->content_type.len ? refusal->content_type : json_type;

    add_retry_advice(r, err, &list);
    add_model(r, &list);
    add_cors(r, &list);
    if (exchange_reply(r->exchange, err_status(err), type, list.items, list.count, body))
        exchange_abort(r->exchange);
}

void reply_error(struct request *r, err_t err)
{
    timer_clear(&r->reply.early);
    if (err->kind == ERR_CANCELLED) {
        exchange_abort(r->exchange);
        return;
    }
    fiber_shield(loop_now_ms() + LAST_WORDS_MS);
    if (r->reply.is_stream)
        end_with_error(r, err);
    else if (!r->exchange->head_sent)
        answer_error(r, err);
    else
        exchange_abort(r->exchange);
    fiber_unshield();
}
