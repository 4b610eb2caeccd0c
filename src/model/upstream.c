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

/* The credential's headers and, between parties of one protocol, the caller's that are passed
 * on. */
static err_t join_headers(const struct credential *credential, const struct upstream_ask *given,
                          bool is_translated, struct arena *arena, struct http_ask *ask)
{
    size_t own = credential->header_count, count = is_translated ? 0 : given->header_count;
    struct http_header *all;

    ask->headers = credential->headers;
    ask->header_count = own;
    if (count == 0)
        return NULL;
    all = arena_alloc_array(arena, own + count, sizeof(*all));
    if (!all)
        return arena_err(arena);
    memcpy(all, given->headers, count * sizeof(*all));
    ask->header_count = count;
    for (size_t i = 0; i < own; i++) { /* the caller's own API version and the like come first */
        struct http_header header = credential->headers[i];
        bool is_given = false;
        for (size_t k = 0; k < count && !is_given; k++)
            is_given = str_eq_nocase(all[k].name, header.name);
        if (!is_given)
            all[ask->header_count++] = header;
    }
    ask->headers = all;
    return NULL;
}

/* Put the request into the provider's words, and get ready to read its answer. */
static err_t encode(struct upstream *up, struct upstream_ask *ask, struct arena *arena,
                    struct http_ask *http)
{
    const struct provider *provider = up->target->provider;
    struct encoding encoding = {
        .provider = provider->conf,
        .ask = ask->chat,
        .model = up->target->model,
        .arena = arena,
        .unsupported = up->target->unsupported,
        .prefill = ask->prefill,
    };
    enum protocol protocol;

    /* a conversation that is kept here, its provider does not know */
    encoding.must_expand =
        ask->chat->is_answered_here ||
        (ask->chat->expand && (ask->chat->history.len > 0 || ask->chat->referenced.len > 0));
    protocol = provider->ops->choose(provider->conf,
                                     encoding.must_expand ? PROTOCOL_CHAT : ask->chat->protocol);

    if (protocol == PROTOCOL_COUNT)
        return err_new_detail(ERR_BAD_REQUEST, (.code = "unsupported_parameter", .param = "model"),
                              "the provider %.*s has no %s", STR_ARG(provider->conf->name),
                              protocol_name(ask->chat->protocol));
    TRY(provider->ops->encode(&encoding));
    TRY(providers_target_path(up->target, encoding.target, arena, &http->target));
    http->body = encoding.body;
    http->body_count = encoding.body_count;
    ask->dropped = encoding.dropped;
    up->decoder.protocol = protocol;
    up->decoder.must_translate = encoding.must_translate;
    up->decoder.from_encoder = encoding.for_decoder;
    up->decoder.arena = arena;
    up->is_translated = protocol != ask->chat->protocol || encoding.must_translate;
    return NULL;
}

/* The answer's meaning is asked for, not its bytes. */
static err_t read_as_deltas(struct upstream *up, const struct upstream_ask *ask,
                            struct arena *arena)
{
    up->is_translated = true;
    if (!*ask->scratch && !(*ask->scratch = arena_new(MEM_REQUEST, 4 * SSE_MAX_EVENT_BYTES)))
        return err_no_memory();
    up->decoder.scratch = *ask->scratch;
    return NULL;
}

err_t upstream_open(struct upstream *up, struct http_pool *pool, const struct target *target,
                    const struct credential *credential, struct upstream_ask *ask,
                    struct arena *arena)
{
    struct http_ask http = {
        .origin = &target->provider->origin,
        .method = HTTP_POST_,
        .method_text = "POST",
        .connect_ms = target->timeouts.connect_ms,
        .head_at_ms = ask->head_at_ms,
        .retry_dead = true,
    };

    up->target = target;
    sse_init(&up->reader);
    TRY(encode(up, ask, arena, &http));
    TRY(join_headers(credential, ask, up->is_translated, arena, &http));
    if (up->is_translated || ask->wants_deltas)
        TRY(read_as_deltas(up, ask, arena));
    TRY(enter(up));
    up->is_open = true;
    TRY(arena_defer(arena, close_at_once, up));
    TRY(http_call_open(pool, &http, arena, &up->http));
    credential_note(credential, up->http.head, loop_now_ms());
    return NULL;
}

/* The next event with data among the bytes at hand. */
static err_t take_event(struct upstream *up, struct event *event, bool *found)
{
    struct sse_event in;

    *found = false;
    if (up->decoder.scratch && up->piece.len > 0)
        arena_reset(up->decoder.scratch);
    while (up->piece.len > 0) {
        bool was_cut = sse_is_unfinished(&up->reader);
        TRY(sse_next(&up->reader, &up->piece, &in, found));
        if (!*found)
            return NULL;
        *found = in.has_data && in.data.len > 0;
        if (!*found)
            continue;
        *event = (struct event){.raw = in.raw, .has_id = in.has_id};
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
    *event = (struct event){.kind = EVENT_END};
    TRY(up->target->provider->ops->decode_end(&up->decoder, event));
    if (up->decoder.protocol == PROTOCOL_GEMINI || up->decoder.protocol == PROTOCOL_RESPONSES)
        return NULL; /* they have none */
    log_begin(LOG_INFO, "the provider's stream had no end marker");
    log_str("provider", up->target->provider->conf->name);
    log_end();
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
                          struct event *answer)
{
    struct str body;
    err_t err;

    *answer = (struct event){.kind = EVENT_CONTENT};
    if (up->decoder.scratch)
        arena_reset(up->decoder.scratch);
    err = http_call_read_all(&up->http, SSE_MAX_EVENT_BYTES, at_ms, arena, &body);
    if (err) {
        answer->raw = body;
        return err;
    }
    leave(up);
    if (str_trim(body).len == 0)
        return err_new_detail(ERR_UPSTREAM, (.code = "upstream_truncated"),
                              "the provider's answer is empty");
    TRY(up->target->provider->ops->decode_whole(&up->decoder, body, answer));
    if (!answer->raw.ptr)
        answer->raw = body;
    return NULL;
}

err_t upstream_read_refusal(struct upstream *up, uint64_t at_ms, struct arena *arena,
                            struct str *body)
{
    err_t err = http_call_read_all(&up->http, REFUSAL_MAX_BYTES, at_ms, arena, body);

    if (err_is(err, ERR_BUSY) || err_is(err, ERR_CANCELLED) || err_is(err, ERR_KILLED))
        return err;
    if (err)
        *body = STR("");
    log_mask_in_place((char *)(uintptr_t)body->ptr, body->len);
    return NULL;
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
