/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a request. */
#include "gateway/request.h"

#include "base/sys.h"
#include "conf/quota.h"
#include "fiber/fiber.h"
#include "gateway/auth.h"
#include "gateway/cors.h"
#include "gateway/idempotency.h"
#include "gateway/request_metrics.h"
#include "observe/log.h"

void request_step(struct request *r, const char *step)
{
    r->step = step;
    fiber_set_step(step);
}

/* Keys of the configuration have a name only. */
err_t request_owner(const struct request *r, struct str *owner)
{
    bool is_fixed = str_eq(r->subject.key, STR("default"));
    char *text = arena_printf(r->arena, "%.*s/%.*s%s%.*s", STR_ARG(r->subject.project),
                              STR_ARG(r->subject.key), is_fixed ? "/" : "",
                              is_fixed ? (int)r->caller.len : 0, is_fixed ? r->caller.ptr : "");

    if (!text)
        return arena_err(r->arena);
    *owner = str_from(text);
    return NULL;
}

/* ---- admission ---- */

err_t request_check_json(const struct request *r)
{
    const struct http_head *head = &r->exchange->head;
    struct str type = http_header_get(head, STR("content-type"));
    struct str media = str_trim((struct str){type.ptr, str_index(type, ';')});

    if (str_eq_nocase(media, STR("application/json")))
        return NULL;
    return err_new_detail(ERR_BAD_REQUEST, (.status = 415, .code = "unsupported_media_type"),
                          "Content-Type must be application/json");
}

err_t request_read_wish(struct request *r)
{
    struct str wanted = http_header_get(&r->exchange->head, STR("x-sluice-target"));

    if (wanted.len > 0 && !r->may_choose_target && !r->conf->route_header)
        return err_new_detail(ERR_DENIED, (.status = 403, .code = "insufficient_permissions"),
                              "this key may not choose a target with x-sluice-target");
    r->call.caller.wanted = wanted;
    return NULL;
}

static err_t overloaded(const char *reason)
{
    request_metrics_shed(reason);
    return err_new_detail(ERR_BUSY, (.code = "overloaded"),
                          "the server is overloaded (overload.max_%s): try again shortly", reason);
}

err_t request_admit(struct request *r)
{
    struct gateway_service *service = r->gateway->service;
    unsigned in_flight = atomic_fetch_add_explicit(&service->in_flight, 1, memory_order_relaxed);

    r->is_admitted = true;
    if (in_flight >= r->conf->overload.max_in_flight)
        return overloaded("in_flight");
    if (atomic_load_explicit(&service->memory_is_short, memory_order_relaxed))
        return overloaded("memory");
    return NULL;
}

/* ---- the access line ---- */

static const char *usage_source(const struct usage *usage)
{
    return usage->is_estimated ? "estimated" : usage->is_known ? "provider" : "none";
}

static void log_governance(const struct admission *a)
{
    char money[QUOTA_MONEY_BYTES];

    if (a->limits.limited_by[0])
        log_word("limited_by", a->limits.limited_by);
    if (a->reserved_tokens)
        log_u64("reserved_tokens", a->reserved_tokens);
    if (a->reserved_nano)
        log_str("reserved", (struct str){money, quota_format_money(a->reserved_nano, money)});
    if (a->has_cost)
        log_str("cost", (struct str){money, quota_format_money(a->cost_nano, money)});
}

static void log_call(const struct request *r, enum call_outcome outcome)
{
    const struct call *call = &r->call;

    log_str("model", r->ask.model);
    if (call->target) {
        log_str("provider", call->target->provider->conf->name);
        log_str("upstream_model", call->target->model);
        log_str("attempts", attempts_print(call->attempts, call->attempt_count, r->arena));
    }
    if (call->plan.explained.len)
        log_str("route", call->plan.explained);
    if (call->upstream_status)
        log_u64("upstream_status", (uint64_t)call->upstream_status);
    if (call->upstream_request_id.len)
        log_str("upstream_request_id", call->upstream_request_id);
    if (call->upstream.decoder.odd_end.len)
        log_str("odd_end", call->upstream.decoder.odd_end);
    log_bool("stream", r->ask.is_stream);
    if (idempotency_is_answered(r))
        log_bool("replayed", true);
    log_u64("input_tokens", call->usage.input);
    log_u64("output_tokens", call->usage.output);
    if (call->upstream_status == 200) /* the provider may tell nothing, or absurd numbers */
        log_word("usage_source", usage_source(&call->usage));
    if (call->usage.cached)
        log_u64("cached_tokens", call->usage.cached);
    if (call->lost) { /* of attempts that failed, and cost something all the same */
        log_u64("lost_input_tokens", call->lost->input);
        log_u64("lost_output_tokens", call->lost->output);
    }
    if (call->first_event_us)
        log_f64("first_event_ms", (double)call->first_event_us / 1000);
    log_word("outcome", call_outcome_name(outcome));
    if (call->admission)
        log_governance(call->admission);
}

static void log_access(const struct request *r, err_t err, enum call_outcome outcome,
                       uint64_t now_ns)
{
    const struct exchange *x = r->exchange;

    if (!r->conf || !r->conf->log.access)
        return;
    log_begin(err_status(err) >= 500 ? LOG_WARN : LOG_INFO, "request");
    log_cstr("id", x->id);
    log_str("method", x->head.method_text);
    log_str("path", x->head.path);
    log_u64("status", (uint64_t)x->status);
    log_f64("ms", (double)(now_ns - x->started_ns) / 1e6);
    log_word("peer", x->peer_ip);
    if (r->caller.len)
        log_str("key", r->caller);
    if (r->key)
        log_str("project", r->subject.project);
    if (r->subject.user.len)
        log_str("user", r->subject.user);
    log_u64("bytes_in", x->bytes_in);
    log_u64("bytes_out", x->bytes_out);
    if (r->ask.model.ptr)
        log_call(r, outcome);
    if (err) {
        log_cstr("step", r->step);
        log_err(err);
    }
    if (r->conf->log.content && r->ask.body.ptr && !r->reply.is_stream) {
        log_str("question", r->ask.body);
        log_str("answer", r->ask.is_stream ? STR("") : r->call.answer.raw);
    }
    log_u64("conf", r->conf->version);
    log_end();
}

/* ---- the end, however it came ---- */

/* For the admin view: what did not go smoothly. */
static void keep_record(const struct request *r, err_t err, enum call_outcome outcome)
{
    const struct call *call = &r->call;

    if (call->attempt_count > 1 || (err && call->attempt_count > 0))
        attempts_keep(r->exchange->id, r->ask.model,
                      attempts_print(call->attempts, call->attempt_count, r->arena),
                      call_outcome_name(outcome));
}

/* Not inlined, as let_in. */
static __attribute__((noinline)) void request_finish(struct request *r, err_t err)
{
    enum call_outcome outcome = call_outcome(err);
    uint64_t now_ns;

    if (r->idempotency)
        idempotency_finish(r); /* before the caller hears of an error: he may come back at once */
    if (err)
        reply_error(r, err);
    /* to be logged when the connection it came on is let go */
    if (r->conf && r->conf->log.content && !r->ask.is_stream)
        r->call.answer.raw = arena_copy(r->arena, r->call.answer.raw);
    if (r->dialect == dialect_responses)
        response_hold_keep(r, r->reply.writer, err);
    fiber_shield(FIBER_FOREVER);
    call_finish(&r->call, err);
    fiber_unshield();
    keep_record(r, err, outcome);
    if (r->is_admitted)
        atomic_fetch_sub_explicit(&r->gateway->service->in_flight, 1, memory_order_relaxed);
    now_ns = sys_now_ns();
    request_metrics_count(r, err, now_ns);
    log_access(r, err, outcome, now_ns);
    list_remove(&r->link);
    fiber_set_owner(r->fiber, NULL);
}

/* ---- the beginning ---- */

static err_t find_route(struct request *r)
{
    const char *allowed = NULL;
    err_t err = route_find(r->gateway->listener, &r->exchange->head, r->arena, &r->route,
                           &r->path_rest, &allowed);

    if (allowed)
        r->allowed_methods = allowed;
    return err;
}

/* What is asked for, and whether the caller may; OPTIONS has no route. Not inlined: what a stream waits in shall
 * have no room on the stack for it. */
static __attribute__((noinline)) err_t let_in(struct request *r)
{
    request_step(r, "door");
    TRY(auth_check_door(r));
    if (r->exchange->head.method == HTTP_OPTIONS_)
        return NULL;

    request_step(r, "route");
    TRY(find_route(r));

    request_step(r, "authorise");
    return auth_check_key(r);
}

static err_t handle(struct request *r)
{
    TRY(let_in(r));
    if (!r->route)
        return cors_answer(r);
    request_step(r, "handle");
    return r->route->handle(r);
}

static void release_providers(void *providers)
{
    providers_unref(providers);
}

/* Take the snapshot that the request will see to its end. */
static err_t take_snapshot(struct request *r)
{
    struct providers *providers = providers_current();

    if (!providers)
        return err_new(ERR_BUSY, "the server is starting");
    TRY(arena_defer(r->arena, release_providers, providers));
    r->providers = r->call.providers = providers;
    r->conf = providers->conf;
    return NULL;
}

void request_run(struct exchange *exchange, void *context)
{
    struct gateway *gateway = context;
    struct request *r = arena_new_struct(exchange->arena, struct request);
    err_t err;

    if (!r)
        return; /* the server answers 500 for what returns unanswered */
    r->exchange = exchange;
    r->dialect = dialect_guess(&exchange->head);
    r->arena = exchange->arena;
    r->gateway = gateway;
    r->call.pool = gateway->pool;
    r->call.arena = r->arena;
    r->call.ask = &r->ask;
    exchange->owner = r;
    list_init(&r->link);
    list_push(&gateway->requests, &r->link);
    r->fiber = fiber_self();
    fiber_set_owner(r->fiber, r);
    err = take_snapshot(r);
    request_finish(r, err ? err : handle(r));
}
