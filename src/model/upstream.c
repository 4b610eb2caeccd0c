/* SPDX-License-Identifier: Apache-2.0 */
/* One attempt at one target.
 *
 * The hard thing is how long an event's bytes are good. Events that came whole in one read lie in
 * the connection's block until the next read, so a consumer may gather them and write them
 * together. An event that was cut was put together by the SSE reader, which reuses that memory for
 * the next one: it must be written before, so a PAUSE follows it. */
#include "model/upstream.h"

#include "base/check.h"
#include "fiber/fiber.h"
#include "model/call_metrics.h"
#include "model/local_server.h"
#include "observe/log.h"

#define REFUSAL_MAX_BYTES (64 * 1024)

static void close_at_once(void *arg)
{
    upstream_close(arg, 0);
}

/* One more request in flight at the provider, if it may have one. */
static err_t enter(struct upstream *up)
{
    struct provider *provider = up->target->provider;
    uint64_t most = provider->conf->max_in_flight;

    if (atomic_fetch_add_explicit(&provider->in_flight, 1, memory_order_relaxed) < most ||
        most == 0) {
        provider_metrics_active(provider->metrics, 1);
        up->is_counted = true;
        return NULL;
    }
    atomic_fetch_sub_explicit(&provider->in_flight, 1, memory_order_relaxed);
    return err_new_detail(ERR_BUSY, (.code = "provider_busy"),
                          "%.*s has its limit of %llu requests in flight",
                          STR_ARG(provider->conf->name), (unsigned long long)most);
}

/* The provider has said all it had to say: from now on it may have another request, also while the
 * caller still takes the answer. Harmless twice. */
static void leave(struct upstream *up)
{
    struct provider *provider = up->target->provider;

    if (!up->is_counted)
        return;
    up->is_counted = false;
    atomic_fetch_sub_explicit(&provider->in_flight, 1, memory_order_relaxed);
    provider_metrics_active(provider->metrics, -1);
}

/* The provider's own headers and the caller's that are passed on. */
static err_t join_headers(const struct provider *provider, const struct upstream_ask *given,
                          struct arena *arena, struct http_ask *ask)
{
    size_t own = provider->header_count, count = given->header_count;
    struct http_header *all;

    ask->headers = provider->headers;
    ask->header_count = own;
    if (count == 0)
        return NULL;
    all = arena_alloc_array(arena, own + count, sizeof(*all));
    if (!all)
        return arena_err(arena);
    memcpy(all, provider->headers, own * sizeof(*all));
    memcpy(all + own, given->headers, count * sizeof(*all));
    ask->headers = all;
    ask->header_count = own + count;
    return NULL;
}

err_t upstream_open(struct upstream *up, struct http_pool *pool, const struct target *target,
                    const struct upstream_ask *ask, struct arena *arena)
{
    struct provider *provider = target->provider;
    struct provider_request request;
    struct http_ask http = {
        .origin = &provider->origin,
        .method = HTTP_POST_,
        .method_text = "POST",
        .connect_ms = target->timeouts.connect_ms,
        .head_at_ms = ask->head_at_ms,
        .retry_dead = true,
    };

    *up = (struct upstream){.target = target};
    sse_init(&up->reader);
    TRY(provider->ops->encode(provider->conf, ask->chat, target->model, arena, &request));
    TRY(join_headers(provider, ask, arena, &http));
    http.target = request.target;
    http.body = request.body;
    http.body_count = request.body_count;
    TRY(enter(up));
    up->is_open = true;
    TRY(arena_defer(arena, close_at_once, up));
    return http_call_open(pool, &http, arena, &up->http);
}

/* The next event with data among the bytes at hand. */
static err_t take_event(struct upstream *up, struct event *event, bool *found)
{
    struct sse_event in;

    *found = false;
    while (up->piece.len > 0) {
        bool was_cut = sse_is_unfinished(&up->reader);
        TRY(sse_next(&up->reader, &up->piece, &in, found));
        if (!*found)
            return NULL;
        *found = in.has_data && in.data.len > 0;
        if (!*found)
            continue;
        TRY(up->target->provider->ops->decode(&up->decoder, &in, event));
        up->gave_events = true;
        up->must_pause = was_cut;
        return NULL;
    }
    return NULL;
}

/* The body has ended: a stream that is complete but for its end marker is complete. */
static err_t end_stream(struct upstream *up, struct event *event)
{
    TRY(up->target->provider->ops->decode_end(&up->decoder));
    log_begin(LOG_INFO, "the provider's stream had no end marker");
    log_str("provider", up->target->provider->conf->name);
    log_end();
    *event = (struct event){.kind = EVENT_END};
    return NULL;
}

err_t upstream_next(struct upstream *up, uint64_t at_ms, struct event *event)
{
    bool found;
    err_t err;

    for (;;) {
        found = false;
        if (!up->must_pause)
            TRY(take_event(up, event, &found));
        if (found && event->kind == EVENT_END)
            leave(up);
        if (found)
            return NULL;
        if (up->gave_events) {
            up->gave_events = up->must_pause = false;
            *event = (struct event){.kind = EVENT_PAUSE};
            return NULL;
        }
        if (up->http.is_done)
            return end_stream(up, event);
        err = http_call_read(&up->http, at_ms, &up->piece);
        if (err == &fiber_wait_over) {
            *event = (struct event){.kind = EVENT_IDLE};
            return NULL;
        }
        TRY(err);
        up->last_bytes_ms = loop_now_ms();
    }
}

err_t upstream_read_whole(struct upstream *up, uint64_t at_ms, struct arena *arena,
                          struct str *body)
{
    TRY(http_call_read_all(&up->http, SSE_MAX_EVENT_BYTES, at_ms, arena, body));
    leave(up);
    return up->target->provider->ops->decode_whole(*body, &up->decoder.usage);
}

struct str upstream_read_refusal(struct upstream *up, uint64_t at_ms, struct arena *arena)
{
    struct str body = {0};
    err_t err = http_call_read_all(&up->http, REFUSAL_MAX_BYTES, at_ms, arena, &body);

    if (err)
        return STR("");
    log_mask_in_place((char *)(uintptr_t)body.ptr, body.len);
    return body;
}

void upstream_close(struct upstream *up, uint64_t grace_ms)
{
    uint64_t until_ms = loop_now_ms() + grace_ms;
    struct str rest;

    if (!up->is_open)
        return;
    up->is_open = false;
    while (!up->http.is_done && loop_now_ms() < until_ms &&
           !http_call_read(&up->http, until_ms, &rest))
        continue;
    http_call_close(&up->http);
    sse_fini(&up->reader);
    leave(up);
}
