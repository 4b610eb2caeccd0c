/* SPDX-License-Identifier: Apache-2.0 */
/* What Sluice does not know under /v1 goes to the provider that `passthrough` names: files, audio,
 * batches … The caller's bytes go there and the answer's bytes come back; only the key is ours.
 *
 * Nothing is retried or sent elsewhere: what such a request does is not known here. */
#include "gateway/auth.h"
#include "gateway/handlers.h"

#include "fiber/fiber.h"
#include "gateway/request.h"
#include "model/call_govern.h"
#include "observe/log.h"

/* Most of an answer that refuses, in which our key would be masked. */
#define REFUSAL_MAX_BYTES (64 * 1024)

/* In `call`, which must not move; `target` is a model-less one of that provider. */
struct passthrough {
    struct http_call call;
    struct target *target;
    uint64_t until_ms;
};

static void close_call(void *call)
{
    http_call_close(call);
}

static err_t not_ours(const struct http_head *head)
{
    return err_new_detail(ERR_NOT_FOUND, (.code = "unknown_url"), "Invalid URL (%.*s %.*s)",
                          STR_ARG(head->method_text),
                          (int)(head->path.len < 200 ? head->path.len : 200), head->path.ptr);
}

static bool has_header(const struct http_header *headers, size_t count, struct str name)
{
    for (size_t i = 0; i < count; i++)
        if (str_eq_nocase(headers[i].name, name))
            return true;
    return false;
}

/* What of the caller's headers the provider may see: what kind of body this is and wants to be
 * answered with, and what its dialect passes on. */
static bool is_passed(const struct request *r, struct str name)
{
    return str_eq_nocase(name, STR("content-type")) || str_eq_nocase(name, STR("accept")) ||
           r->dialect->forwards(name);
}

static err_t make_headers(struct request *r, const struct credential *credential,
                          struct http_ask *ask)
{
    const struct http_head *head = &r->exchange->head;
    size_t n = 0;
    struct http_header *all =
        arena_alloc_array(r->arena, head->header_count + credential->header_count, sizeof(*all));

    if (!all)
        return arena_err(r->arena);
    for (size_t i = 0; i < head->header_count; i++)
        if (is_passed(r, head->headers[i].name))
            all[n++] = head->headers[i];
    for (size_t i = 0; i < credential->header_count; i++)
        if (!has_header(all, n, credential->headers[i].name) &&
            !str_eq_nocase(credential->headers[i].name, STR("content-type")))
            all[n++] = credential->headers[i];
    ask->headers = all;
    ask->header_count = n;
    return NULL;
}

/* The path below the provider's base, which ends in /v1 for OpenAI's and not for Anthropic's. */
static err_t make_target(struct request *r, const struct target *target, struct str *out)
{
    const struct http_head *head = &r->exchange->head;
    struct str path = head->path;
    char *with_query;

    if (str_ends(target->provider->origin.base_path, STR("/v1")))
        path = str_after(path, 3);
    with_query = arena_printf(r->arena, "%.*s%s%.*s", STR_ARG(path), head->query.len ? "?" : "",
                              STR_ARG(head->query));
    if (!with_query)
        return arena_err(r->arena);
    return providers_target_path(target, str_from(with_query), r->arena, out);
}

static err_t ask(struct request *r, struct passthrough *p)
{
    const struct http_head *head = &r->exchange->head;
    const struct conf_timeouts *timeouts = &p->target->timeouts;
    struct str body = {0};
    struct http_ask http = {
        .origin = &p->target->provider->origin,
        .method = head->method,
        .method_text = arena_cstr(r->arena, head->method_text),
        .body = &body,
        .connect_ms = timeouts->connect_ms,
        .head_at_ms = loop_now_ms() + timeouts->total_ms,
    };

    TRY(exchange_read_body(r->exchange, r->conf->http.max_body_bytes, &body));
    http.body_count = body.len > 0;
    TRY(make_target(r, p->target, &http.target));
    TRY(make_headers(r, &p->target->provider->credentials[0], &http));
    exchange_cancel_on_half_close(r->exchange);
    TRY(http_call_open(r->gateway->pool, &http, r->arena, &p->call));
    return arena_defer(r->arena, close_call, &p->call);
}

/* An answer that refuses may quote our key. */
static err_t relay_refusal(struct request *r, struct passthrough *p)
{
    const struct http_head *head = p->call.head;
    struct str type = arena_copy(r->arena, http_header_get(head, STR("content-type")));
    struct str body;

    if (!type.ptr)
        return arena_err(r->arena);
    TRY(http_call_read_all(&p->call, REFUSAL_MAX_BYTES, p->until_ms, r->arena, &body));
    log_mask_in_place((char *)(uintptr_t)body.ptr, body.len);
    return reply_text(r, p->call.status, type, body);
}

static err_t relay_answer(struct request *r, struct passthrough *p)
{
    const struct http_head *head = p->call.head;
    struct str disposition = http_header_get(head, STR("content-disposition")), piece;
    struct http_pen lines = exchange_lines();

    if (disposition.len > 0)
        http_pen_line_of(&lines, HTTP_LINE("content-disposition"), disposition);
    TRY(exchange_stream(r->exchange, head->status, http_header_get(head, STR("content-type")),
                        &lines));
    r->reply.is_raw = true;
    do {
        TRY(http_call_read(&p->call, p->until_ms, &piece));
        if (piece.len > 0)
            TRY(exchange_write(r->exchange, &piece, 1));
    } while (!p->call.is_done);
    call_settle(&r->call, NULL);
    return exchange_end(r->exchange);
}

err_t passthrough_to(struct request *r, struct str home)
{
    struct passthrough *p = arena_new_struct(r->arena, struct passthrough);
    err_t err;

    if (!p)
        return arena_err(r->arena);
    TRY(request_admit(r));
    request_step(r, "limit");
    r->call.subject = &r->subject;
    TRY(call_pass(&r->call, r->exchange->head.method == HTTP_POST_));
    request_step(r, "pass through");
    TRY(providers_find_direct(r->providers, home, r->arena, &p->target));
    p->until_ms = loop_now_ms() + p->target->timeouts.total_ms;
    err = ask(r, p);
    if (err_is(err, ERR_UPSTREAM) || err_is(err, ERR_TIMED_OUT))
        return err_cover(err, "the provider %.*s could not be reached or did not answer",
                         STR_ARG(p->target->provider->conf->name));
    TRY(err);
    return p->call.status >= 400 ? relay_refusal(r, p) : relay_answer(r, p);
}

err_t passthrough_handle(struct request *r)
{
    char *home;

    if (r->conf->passthrough.len == 0)
        return not_ours(&r->exchange->head);
    TRY(auth_check_model(r)); /* which one is asked nobody here knows */
    home = arena_printf(r->arena, "%.*s/*", STR_ARG(r->conf->passthrough));
    return home ? passthrough_to(r, str_from(home)) : arena_err(r->arena);
}
