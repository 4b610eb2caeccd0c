/* SPDX-License-Identifier: Apache-2.0 */
/* Answers out.
 *
 * Events are gathered until the call says that none is at hand and then written with one system
 * call: what arrived together leaves together, and nothing is held back. Their bytes go out as they
 * came or, where the provider speaks another protocol than the caller, as the dialect writes their
 * meaning.
 *
 * The hard thing is an error after the head was sent: the status cannot be changed any more, so the
 * stream gets an error event, no finish reason and no end marker, and the caller's SDK raises. */
#include "gateway/reply.h"

#include "base/sys.h"
#include "base/text.h"
#include "conf/quota.h"
#include "dialect/dialect.h"
#include "fiber/fiber.h"
#include "gateway/cors.h"
#include "gateway/idempotency.h"
#include "gateway/limit_headers.h"
#include "gateway/request.h"
#include "model/call_govern.h"
#include "observe/log.h"

/* How long telling a caller of an error may take once the request is over. */
#define LAST_WORDS_MS 2000

static const struct str json_type = {"application/json", 16};

/* Most bytes of a translated answer that wait to be sent. */
#define WRITER_MAX_BYTES ((size_t)64 * 1024 * 1024)

/* A line, unless there is nothing to say. The value may have come from others. */
static void put_line(struct http_pen *pen, struct str name, struct str value)
{
    if (value.len > 0)
        http_pen_line_of(pen, name, value);
}

/* Let a listed web page read the answer (Fetch standard, CORS protocol). */
static void put_cors(const struct request *r, struct http_pen *pen)
{
    struct str origin;

    if (!r->conf || r->conf->cors_origins.count == 0)
        return;
    origin = http_header_get(&r->exchange->head, STR("origin"));
    if (origin.len == 0 || !cors_lists(r->conf, origin))
        return;
    put_line(pen, HTTP_LINE("Access-Control-Allow-Origin"), origin);
    http_pen_line(pen, HTTP_LINE("Vary"), STR("Origin"));
    http_pen_line(
        pen, HTTP_LINE("Access-Control-Expose-Headers"),
        STR("x-request-id, request-id, x-sluice-model, x-sluice-route, x-sluice-attempts, "
            "x-sluice-dropped, x-sluice-budget, x-sluice-cost, idempotent-replayed, "
            "retry-after"));
}

/* What a whole answer cost: "0.000123 USD". */
static void put_cost(const struct request *r, struct http_pen *pen)
{
    struct str currency = r->conf->budgets.currency; /* three letters */
    char text[QUOTA_MONEY_BYTES + 1 + 3];
    uint64_t nano;
    size_t len;

    if (!call_cost(&r->call, &nano))
        return;
    len = quota_format_money(nano, text);
    text[len++] = ' ';
    memcpy(text + len, currency.ptr, 3);
    http_pen_line(pen, HTTP_LINE("x-sluice-cost"), (struct str){text, len + 3});
}

/* How near the caller is to his limits and budgets, and what he paid. */
static void put_governance(const struct request *r, struct http_pen *pen)
{
    const struct admission *admission = r->call.admission;

    if (!admission)
        return;
    limit_headers_put(&admission->limits, r->dialect, pen);
    put_line(pen, HTTP_LINE("x-sluice-budget"), admission->reservation.warning);
    if (r->call.target && !r->ask.is_stream)
        put_cost(r, pen);
}

/* Who really answered, after what was tried, and what was left out of the request. Anthropic's SDK
 * looks for the request's id under another name than the server's. */
static void put_call(const struct request *r, struct http_pen *pen)
{
    const struct call *call = &r->call;

    if (r->dialect->request_id_line.len > 0)
        http_pen_line(pen, r->dialect->request_id_line, str_from(r->exchange->id));
    put_governance(r, pen);
    if (!call->target)
        return;
    put_line(pen, HTTP_LINE("x-sluice-model"), call->target->label);
    put_line(pen, HTTP_LINE("x-sluice-route"), call->plan.explained);
    put_line(pen, HTTP_LINE("x-sluice-attempts"),
             attempts_print(call->attempts, call->attempt_count, r->arena));
    put_line(pen, HTTP_LINE("x-sluice-dropped"), call->dropped);
}

err_t reply_text(struct request *r, int status, struct str content_type, struct str body)
{
    struct http_pen pen = exchange_lines();

    put_call(r, &pen);
    put_cors(r, &pen);
    return exchange_reply(r->exchange, status, content_type, &pen, body);
}

err_t reply_json(struct request *r, int status, struct str body)
{
    return reply_text(r, status, json_type, body);
}

static void fini_out(void *out)
{
    buf_fini(out);
}

/* 24 letters and digits that nobody has used for an answer before. */
static struct str mint_id(struct arena *arena)
{
    char first[24], second[24];

    text_random_id("", first); /* 22 of them */
    text_random_id("", second);
    memcpy(first + 22, second, 2);
    return arena_copy(arena, (struct str){first, 24});
}

err_t reply_translate(struct request *r, struct str id)
{
    struct answer_writer *w = arena_new_struct(r->arena, struct answer_writer);

    if (id.len == 0)
        id = mint_id(r->arena);
    if (!w || !id.ptr)
        return arena_err(r->arena);
    w->dialect = r->dialect;
    w->ask = &r->ask;
    w->arena = r->arena;
    w->created_s = sys_wall_ms() / 1000;
    w->id = id;
    w->model = r->call.answer_model.len ? r->call.answer_model : r->call.target->model;
    w->usage = &r->call.upstream.decoder.usage;
    w->hides_reasoning = !r->conf->tells_reasoning;
    w->out = buf_make(MEM_BODY, WRITER_MAX_BYTES);
    TRY(arena_defer(r->arena, fini_out, &w->out));
    r->reply.writer = w;
    return NULL;
}

/* Put the deltas of a whole answer together and write them in the caller's dialect. */
static err_t write_answer(struct request *r)
{
    struct answer_writer *w = r->reply.writer;
    struct answer answer = answer_make(r->arena);

    TRY(answer_add(&answer, r->call.answer.deltas, r->call.answer.delta_count));
    w->ended_s = sys_wall_ms() / 1000;
    TRY(w->dialect->write_answer(w, &answer));
    response_hold_keep(r, w, NULL); /* who reads the answer may come back to it at once */
    return NULL;
}

err_t reply_answer(struct request *r)
{
    struct str body = r->call.answer.raw;

    if (r->reply.writer) {
        TRY(write_answer(r));
        body = buf_str(&r->reply.writer->out);
    }
    idempotency_keep(r, body); /* before anybody can have seen it */
    call_settle(&r->call, NULL);
    return reply_json(r, 200, body);
}

/* ---- streams ---- */

static err_t begin_stream(struct request *r)
{
    struct http_pen pen = exchange_lines();

    http_pen_put(&pen, STR("Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n"));
    put_call(r, &pen);
    put_cors(r, &pen);
    TRY(exchange_stream(r->exchange, 200, STR("text/event-stream; charset=utf-8"), &pen));
    r->reply.is_stream = true;
    return NULL;
}

err_t reply_again(struct request *r, bool is_stream, struct str target, struct str body)
{
    struct http_pen pen = exchange_lines();

    http_pen_line(&pen, HTTP_LINE("idempotent-replayed"), STR("true"));
    put_line(&pen, HTTP_LINE("x-sluice-model"), target);
    put_call(r, &pen);
    put_cors(r, &pen);
    if (!is_stream)
        return exchange_reply(r->exchange, 200, json_type, &pen, body);
    http_pen_line(&pen, HTTP_LINE("Cache-Control"), STR("no-cache"));
    TRY(exchange_stream(r->exchange, 200, STR("text/event-stream; charset=utf-8"), &pen));
    r->reply.is_raw = true; /* if it breaks off now, nothing may be added */
    return exchange_finish(r->exchange, &body, 1);
}

static void send_early(struct timer *timer)
{
    struct reply *reply = container_of(timer, struct reply, early);
    struct request *r = container_of(reply, struct request, reply);
    uint64_t heartbeat_ms = r->conf->stream.heartbeat_ms;

    if (!reply->is_stream && begin_stream(r))
        return;
    exchange_write_now(r->exchange, r->dialect->heartbeat);
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

static err_t write_pieces(struct request *r, const struct str *pieces, size_t count)
{
    idempotency_add(r, pieces, count);
    return exchange_write(r->exchange, pieces, count);
}

/* The last of them; what is to be kept of the answer is kept before. */
static err_t finish_pieces(struct request *r, const struct str *pieces, size_t count)
{
    idempotency_add(r, pieces, count);
    idempotency_keep(r, (struct str){0});
    call_settle(&r->call, NULL);
    return exchange_finish(r->exchange, pieces, count);
}

static err_t flush_batch(struct request *r)
{
    struct reply *reply = &r->reply;
    size_t count = reply->batch_count;

    if (count == 0)
        return NULL;
    reply->batch_count = 0;
    return write_pieces(r, reply->batch, count);
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

/* A sign of life keeps proxies and clients from giving up. A comment's blank line would make
 * OpenAI's Python SDK dispatch an empty event (and fail) on a stream whose events carry ids, so it is
 * left out there. */
static err_t write_heartbeat(struct request *r)
{
    struct str sign =
        r->reply.sent_id_field ? r->dialect->heartbeat_with_ids : r->dialect->heartbeat;

    return exchange_write(r->exchange, &sign, 1);
}

static err_t write_translated(struct request *r)
{
    struct answer_writer *w = r->reply.writer;
    struct str text = buf_str(&w->out);
    err_t err = text.len ? write_pieces(r, &text, 1) : NULL;

    w->out.len = 0;
    return err;
}

/* The answer broke off: keep the caller in good spirits while another target is looked for. */
static err_t await_continuation(struct request *r)
{
    uint64_t heartbeat_ms = r->conf->stream.heartbeat_ms;

    TRY(write_translated(r));
    return heartbeat_ms ? timer_set(&r->reply.early, loop_now_ms() + heartbeat_ms, send_early)
                        : NULL;
}

/* Who goes on, as a comment at the beginning of the next event, which parsers ignore (WHATWG HTML
 * §9.2.6); without a blank line of its own, for the reason given above. */
static err_t mark_continuation(struct request *r)
{
    struct str label = r->call.target->label;

    timer_clear(&r->reply.early);
    if (!http_value_is_clean(label))
        label = STR("another");
    return buf_printf(&r->reply.writer->out, ": continued by %.*s\n", STR_ARG(label));
}

/* The same for an answer that is translated: its dialect writes what an event means. */
static err_t translate_event(struct request *r, const struct event *event)
{
    struct answer_writer *w = r->reply.writer;
    struct str text;

    switch (event->kind) {
    case EVENT_QUIET:
    case EVENT_USAGE:
        return NULL;
    case EVENT_CONTENT:
        return w->dialect->write_event(w, event);
    case EVENT_IDLE:
        return write_heartbeat(r);
    case EVENT_PAUSE:
        return write_translated(r);
    case EVENT_BROKEN:
        return await_continuation(r);
    case EVENT_CONTINUED:
        return mark_continuation(r);
    case EVENT_END:
        w->ended_s = sys_wall_ms() / 1000;
        TRY(w->dialect->write_event(w, event));
        response_hold_keep(r, w, NULL); /* who reads the answer may come back to it at once */
        text = buf_str(&w->out);
        return finish_pieces(r, &text, 1);
    }
    return NULL;
}

err_t reply_event(struct request *r, const struct event *event)
{
    if (r->reply.writer)
        return translate_event(r, event);
    switch (event->kind) {
    case EVENT_QUIET:
    case EVENT_CONTENT:
    case EVENT_USAGE:
        r->reply.sent_id_field |= event->has_id;
        return gather(r, event->raw);
    case EVENT_BROKEN:
    case EVENT_CONTINUED: /* only translated answers are continued */
    case EVENT_PAUSE:
        return flush_batch(r);
    case EVENT_IDLE:
        return write_heartbeat(r);
    case EVENT_END:
        TRY(gather(r, event->raw.len ? event->raw : r->dialect->end_marker));
        return finish_pieces(r, r->reply.batch, r->reply.batch_count);
    }
    return NULL;
}

/* ---- errors ---- */

/* An error's text may hold what a provider said, and that our key. */
static void mask(struct str text)
{
    log_mask_in_place((char *)(uintptr_t)text.ptr, text.len);
}

/* A stream that has begun ends with an error event instead of its end marker. Events that came
 * together with the failure are still to be written. */
static void end_with_error(struct request *r, err_t err)
{
    struct answer_writer *w = r->reply.writer;
    struct buf last = buf_make(MEM_BODY, WRITER_MAX_BYTES);
    struct str pieces[2] = {0};
    err_t failed = flush_batch(r);

    if (!failed)
        failed = r->dialect->write_error(w, refusal_told(r->call.refusal, err, r->arena), r->arena,
                                         &last);
    mask(buf_str(&last));
    if (w)
        pieces[0] = buf_str(&w->out);
    pieces[1] = buf_str(&last);
    if (failed || exchange_finish(r->exchange, pieces, 2))
        exchange_abort(r->exchange);
    buf_fini(&last);
}

/* When to come back, and whether the SDK should try again by itself: not after everything was
 * tried here. */
static void put_retry_advice(const struct request *r, err_t err, int status, struct http_pen *pen)
{
    const struct call *call = &r->call;
    uint64_t wait_ms = call->retry_at_ms > loop_now_ms() ? call->retry_at_ms - loop_now_ms() : 0;

    if (call->refusal) {
        put_line(pen, HTTP_LINE("retry-after"), call->refusal->retry_after);
        put_line(pen, HTTP_LINE("retry-after-ms"), call->refusal->retry_after_ms);
    }
    if ((status == 503 || status == 529) && (!call->refusal || call->refusal->retry_after.len == 0))
        http_pen_line_u64(pen, HTTP_LINE("retry-after"), wait_ms ? (wait_ms + 999) / 1000 : 1);
    if (err->kind == ERR_LIMITED && !call->refusal)
        limit_headers_put_retry(wait_ms, pen);
    if (call->admission && call->admission->is_final)
        http_pen_line(pen, HTTP_LINE("x-should-retry"), STR("false"));
    else if (call->target && (err->kind == ERR_UPSTREAM || err->kind == ERR_TIMED_OUT ||
                              call->retry_at_ms || (call->attempt_count > 1 && status == 429)))
        http_pen_line(pen, HTTP_LINE("x-should-retry"), STR("false"));
    if (r->allowed_methods)
        put_line(pen, HTTP_LINE("Allow"), str_from(r->allowed_methods));
}

/* RFC 6750 §3: ask for a token; who showed one hears in OAuth's words what is wrong with it, so that his client gets
 * another. */
static void put_challenge(const struct request *r, err_t err, int status, struct http_pen *pen)
{
    struct str sent = http_header_get(&r->exchange->head, STR("authorization"));
    bool is_shown = sent.len >= 7 && str_eq_nocase((struct str){sent.ptr, 7}, STR("Bearer "));

    if (status == 401 && is_shown)
        http_pen_line(pen, HTTP_LINE("WWW-Authenticate"), STR("Bearer error=\"invalid_token\""));
    else if (status == 401)
        http_pen_line(pen, HTTP_LINE("WWW-Authenticate"), STR("Bearer"));
    else if (status == 403 && is_shown && err->code &&
             strcmp(err->code, "insufficient_permissions") == 0)
        http_pen_line(pen, HTTP_LINE("WWW-Authenticate"),
                      STR("Bearer error=\"insufficient_scope\""));
}

static void answer_error(struct request *r, err_t err)
{
    const struct refusal *refusal = r->call.refusal;
    bool is_relayed = refusal && refusal->is_relayed && err_status(err) == refusal->status;
    int status = is_relayed ? refusal->status : r->dialect->error_status(err);
    err_t told = refusal_told(refusal, err, r->arena);
    struct str body = is_relayed
                          ? refusal->body
                          : r->dialect->print_error(told, str_from(r->exchange->id), r->arena);
    struct str type = is_relayed && refusal->content_type.len ? refusal->content_type : json_type;
    struct http_pen pen = exchange_lines();

    if (!is_relayed)
        mask(body);
    put_retry_advice(r, err, status, &pen);
    put_challenge(r, err, status, &pen);
    put_call(r, &pen);
    put_cors(r, &pen);
    if (exchange_reply(r->exchange, status, type, &pen, body))
        exchange_abort(r->exchange);
}

void reply_error(struct request *r, err_t err)
{
    timer_clear(&r->reply.early);
    call_settle(&r->call, err);
    if (err->kind == ERR_CANCELLED) {
        exchange_abort(r->exchange);
        return;
    }
    fiber_shield(loop_now_ms() + LAST_WORDS_MS);
    if (r->reply.is_raw)
        exchange_abort(r->exchange);
    else if (r->reply.is_stream)
        end_with_error(r, err);
    else if (!r->exchange->head_sent)
        answer_error(r, err);
    else
        exchange_abort(r->exchange);
    fiber_unshield();
}
