/* SPDX-License-Identifier: Apache-2.0 */
/* The admin views: what the process is doing, as tables.
 *
 * Every thread's state is its own, so a view visits the threads one after the other (each_gateway) and adds each one's
 * rows there. What it shows is therefore true per thread, but not of one instant. */
#include "gateway/handlers.h"

#include "base/sys.h"
#include "fiber/fiber.h"
#include "gateway/admin_table.h"
#include "gateway/request.h"
#include "gateway/request_metrics.h"
#include "model/local_server.h"
#include "observe/metrics.h"

#define PAGE_MAX_BYTES ((size_t)16 * 1024 * 1024)

/* The tables of a view while rows are added in one thread. */
struct visit {
    struct admin_table *tables;
    const struct gateway *gateway;
};

static uint64_t age_ms(const struct exchange *x)
{
    return (sys_now_ns() - x->started_ns) / 1000000;
}

/* ---- requests ---- */

static const char *request_columns[] = {"id",     "thread",      "caller", "method", "path",
                                        "model",  "provider",    "step",   "age_ms", "stream",
                                        "events", "arena_bytes", "peer"};

/* Requests are found through their fibers, which know the step best. */
static void add_request(const struct fiber_view *view, void *arg)
{
    const struct visit *visit = arg;
    struct admin_table *t = visit->tables;
    const struct request *r = view->owner;

    if (!r)
        return;
    admin_table_cstr(t, r->exchange->id);
    admin_table_u64(t, visit->gateway->thread);
    admin_table_text(t, r->caller);
    admin_table_text(t, r->exchange->head.method_text);
    admin_table_text(t, r->exchange->head.path);
    admin_table_text(t, r->ask.model);
    admin_table_text(t, r->call.target ? r->call.target->provider->conf->name : STR(""));
    admin_table_cstr(t, view->step);
    admin_table_u64(t, age_ms(r->exchange));
    admin_table_bool(t, r->reply.is_stream);
    admin_table_u64(t, r->call.events);
    admin_table_u64(t, arena_bytes(r->arena));
    admin_table_cstr(t, r->exchange->peer_ip);
}

static void visit_requests(struct gateway *gateway, void *tables)
{
    fiber_each(add_request, &(struct visit){tables, gateway});
}

err_t admin_requests(struct request *r)
{
    struct admin_table table = admin_table_make("requests", request_columns);

    r->gateway->service->each_gateway(visit_requests, &table);
    return admin_table_reply(r, &table, 1);
}

/* ---- fibers ---- */

static const char *fiber_columns[] = {"thread", "name", "state", "step", "age_ms", "request"};
static const char *loop_columns[] = {"thread",
                                     "rounds",
                                     "events",
                                     "wakes",
                                     "messages",
                                     "lag_us_max",
                                     "long_runs",
                                     "fibers",
                                     "fibers_high",
                                     "stacks_free",
                                     "stack_high_water_bytes"};

static void add_fiber(const struct fiber_view *view, void *arg)
{
    const struct visit *visit = arg;
    struct admin_table *t = visit->tables;
    const struct request *r = view->owner;

    admin_table_u64(t, visit->gateway->thread);
    admin_table_cstr(t, view->name);
    admin_table_cstr(t, view->state);
    admin_table_cstr(t, view->step);
    admin_table_u64(t, loop_now_ms() - view->started_ms);
    admin_table_cstr(t, r ? r->exchange->id : NULL);
}

static void add_loop(struct admin_table *t, unsigned thread)
{
    struct loop_stats s;

    loop_stats(loop_self(), &s);
    admin_table_u64(t, thread);
    admin_table_u64(t, s.rounds);
    admin_table_u64(t, s.events);
    admin_table_u64(t, s.wakes);
    admin_table_u64(t, s.messages);
    admin_table_u64(t, s.lag_us_max);
    admin_table_u64(t, s.long_runs);
    admin_table_u64(t, s.fibers);
    admin_table_u64(t, s.fibers_high);
    admin_table_u64(t, s.stacks_free);
    admin_table_u64(t, s.stack_high_water_bytes);
}

static void visit_fibers(struct gateway *gateway, void *arg)
{
    struct admin_table *tables = arg;

    fiber_each(add_fiber, &(struct visit){&tables[0], gateway});
    add_loop(&tables[1], gateway->thread);
}

err_t admin_fibers(struct request *r)
{
    struct admin_table tables[] = {admin_table_make("fibers", fiber_columns),
                                   admin_table_make("loops", loop_columns)};

    r->gateway->service->each_gateway(visit_fibers, tables);
    return admin_table_reply(r, tables, 2);
}

/* ---- upstreams ---- */

static const char *provider_columns[] = {"name", "kind", "host", "in_flight", "max_in_flight"};
static const char *target_columns[] = {"target",   "state",           "since_ms",
                                       "for_ms",   "failures_in_row", "calls",
                                       "failures", "in_flight",       "latency_ms"};
static const char *pool_columns[] = {"thread", "host",   "port",          "idle",  "busy",
                                     "opened", "reused", "dead_on_reuse", "failed"};
static const char *server_columns[] = {"model",    "state",        "pid",       "starts",
                                       "restarts", "memory_bytes", "last_error"};

static void add_providers(struct admin_table *t, const struct providers *providers)
{
    for (size_t i = 0; i < providers->count; i++) {
        const struct provider *p = &providers->items[i];
        admin_table_text(t, p->conf->name);
        admin_table_cstr(t, p->ops->name);
        admin_table_text(t, p->origin.host);
        admin_table_u64(t, atomic_load_explicit(&p->in_flight, memory_order_relaxed));
        admin_table_u64(t, p->conf->max_in_flight);
    }
}

static void add_pool(const struct http_pool_view *view, void *arg)
{
    const struct visit *visit = arg;
    struct admin_table *t = visit->tables;

    admin_table_u64(t, visit->gateway->thread);
    admin_table_text(t, view->host);
    admin_table_u64(t, view->port);
    admin_table_u64(t, view->idle);
    admin_table_u64(t, view->busy);
    admin_table_u64(t, view->opened);
    admin_table_u64(t, view->reused);
    admin_table_u64(t, view->dead_on_reuse);
    admin_table_u64(t, view->failed);
}

static void visit_pool(struct gateway *gateway, void *table)
{
    http_pool_each(gateway->pool, add_pool, &(struct visit){table, gateway});
}

static void add_server(const struct local_server_view *view, void *table)
{
    struct admin_table *t = table;

    admin_table_cstr(t, view->model);
    admin_table_cstr(t, view->state);
    admin_table_u64(t, view->pid > 0 ? (uint64_t)view->pid : 0);
    admin_table_u64(t, view->starts);
    admin_table_u64(t, view->restarts);
    admin_table_u64(t, view->memory_bytes);
    admin_table_cstr(t, view->last_error);
}

static uint64_t ms_from(uint64_t a, uint64_t b)
{
    return b > a ? b - a : 0;
}

static void add_target(const struct health_view *view, void *table)
{
    struct admin_table *t = table;
    uint64_t now_ms = loop_now_ms();

    admin_table_cstr(t, view->name);
    admin_table_cstr(t, view->state);
    admin_table_u64(t, ms_from(view->since_ms, now_ms));
    admin_table_u64(t, ms_from(now_ms, view->until_ms));
    admin_table_u64(t, view->failures_in_row);
    admin_table_u64(t, view->calls);
    admin_table_u64(t, view->failures);
    admin_table_u64(t, view->in_flight);
    admin_table_u64(t, view->latency_ms);
}

err_t admin_upstreams(struct request *r)
{
    struct admin_table tables[] = {admin_table_make("providers", provider_columns),
                                   admin_table_make("targets", target_columns),
                                   admin_table_make("connections", pool_columns),
                                   admin_table_make("local_servers", server_columns)};

    add_providers(&tables[0], r->providers);
    health_each(loop_now_ms(), add_target, &tables[1]);
    r->gateway->service->each_gateway(visit_pool, &tables[2]);
    local_server_each(add_server, &tables[3]);
    return admin_table_reply(r, tables, 4);
}

/* ---- attempts ---- */

static const char *attempt_columns[] = {"at_ms", "request", "model", "outcome", "attempts"};

static void add_attempts(const struct attempts_view *view, void *table)
{
    struct admin_table *t = table;

    admin_table_u64(t, view->at_ms);
    admin_table_text(t, view->request_id);
    admin_table_text(t, view->model);
    admin_table_text(t, view->outcome);
    admin_table_text(t, view->record);
}

err_t admin_attempts(struct request *r)
{
    struct admin_table table = admin_table_make("attempts", attempt_columns);

    attempts_each(add_attempts, &table);
    return admin_table_reply(r, &table, 1);
}

/* ---- memory ---- */

static const char *use_columns[] = {"use", "bytes"};
static const char *process_columns[] = {"resident_bytes", "limit_bytes", "refusing_from_bytes",
                                        "is_short"};

err_t admin_memory(struct request *r)
{
    const struct gateway_service *service = r->gateway->service;
    uint64_t limit = atomic_load(&service->memory_limit_bytes);
    struct admin_table tables[] = {admin_table_make("uses", use_columns),
                                   admin_table_make("process", process_columns)};

    for (int use = 0; use < MEM_USE_COUNT; use++) {
        admin_table_cstr(&tables[0], mem_use_label((enum mem_use)use));
        admin_table_u64(&tables[0], mem_in_use((enum mem_use)use));
    }
    admin_table_u64(&tables[1], atomic_load(&service->resident_bytes));
    admin_table_u64(&tables[1], limit);
    admin_table_u64(&tables[1], limit / 100 * r->conf->overload.max_memory_percent);
    admin_table_bool(&tables[1], atomic_load(&service->memory_is_short));
    return admin_table_reply(r, tables, 2);
}

/* ---- whole pages ---- */

/* PARKS: answer with what `print` writes. */
static err_t reply_page(struct request *r, struct str content_type,
                        err_t (*print)(struct request *r, struct buf *out))
{
    struct buf out = buf_make(MEM_REQUEST, PAGE_MAX_BYTES);
    err_t err = print(r, &out);

    if (!err)
        err = reply_text(r, 200, content_type, buf_str(&out));
    buf_fini(&out);
    return err;
}

static err_t print_config(struct request *r, struct buf *out)
{
    return admin_wants_json(r) ? conf_print_json(r->conf, out) : conf_print(r->conf, out);
}

err_t admin_config(struct request *r)
{
    return reply_page(
        r, admin_wants_json(r) ? STR("application/json") : STR("text/plain; charset=utf-8"),
        print_config);
}

static err_t print_metrics(struct request *r, struct buf *out)
{
    request_metrics_gather(r->gateway->service);
    return metrics_print(out);
}

err_t metrics_show(struct request *r)
{
    return reply_page(r, STR("text/plain; version=0.0.4; charset=utf-8"), print_metrics);
}
