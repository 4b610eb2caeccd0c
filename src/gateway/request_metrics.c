/* SPDX-License-Identifier: Apache-2.0 */
/* Counting requests.
 *
 * A series is looked up the first time that a route answers with a status, and its handle kept. Two threads that do so at
 * once get the same handle. */
#include "gateway/request_metrics.h"

#include <stdatomic.h>
#include <stdio.h>

#include "fiber/loop.h"
#include "gateway/request.h"
#include "model/local_server.h"
#include "observe/metrics.h"

#define STATUSES 500 /* from 100 on */

static struct {
    struct metric_series *_Atomic by_status[STATUSES];
    struct metric_series *_Atomic duration;
} routes[ROUTE_MAX];

/* ---- at the end of a request ---- */

static struct metric_series *count_series(const struct route *route, int status)
{
    struct metric_series *_Atomic *slot = &routes[route_number(route)].by_status[status - 100];
    struct metric_series *series = atomic_load_explicit(slot, memory_order_acquire);
    char text[16];

    if (series)
        return series;
    snprintf(text, sizeof(text), "%d", status);
    series = metric_series_get(METRIC_HTTP_REQUESTS, route_label(route), text, NULL);
    atomic_store_explicit(slot, series, memory_order_release);
    return series;
}

static struct metric_series *duration_series(const struct route *route)
{
    struct metric_series *_Atomic *slot = &routes[route_number(route)].duration;
    struct metric_series *series = atomic_load_explicit(slot, memory_order_acquire);

    if (series)
        return series;
    series = metric_series_get(METRIC_HTTP_REQUEST_DURATION, route_label(route), NULL);
    atomic_store_explicit(slot, series, memory_order_release);
    return series;
}

void request_metrics_count(const struct request *r, err_t err, uint64_t now_ns)
{
    const struct exchange *x = r->exchange;
    int status = x->status ? x->status
                           : err_status(err); /* what it would have been, had the client stayed */

    if (status < 100 || status >= 100 + STATUSES)
        status = 500;
    metric_add(count_series(r->route, status), 1);
    metric_observe_us(duration_series(r->route), (now_ns - x->started_ns) / 1000);
}

void request_metrics_shed(const char *reason)
{
    metric_add(metric_series_get(METRIC_HTTP_SHED, reason, NULL), 1);
}

/* ---- at a scrape ---- */

/* Sums over all threads. */
struct gauges {
    uint64_t fibers, fibers_high, lag_us;
    size_t connections[GATEWAY_ADMIN + 1], idle, busy;
};

static void add_pool(const struct http_pool_view *view, void *arg)
{
    struct gauges *sum = arg;

    sum->idle += view->idle;
    sum->busy += view->busy;
}

static void add_thread(struct gateway *gateway, void *arg)
{
    struct gauges *sum = arg;
    struct loop_stats loop;

    loop_stats(loop_self(), &loop);
    sum->fibers += loop.fibers;
    sum->fibers_high += loop.fibers_high;
    if (loop.lag_us_max > sum->lag_us)
        sum->lag_us = loop.lag_us_max;
    sum->connections[gateway->listener] += http_server_connections(gateway->server);
    http_pool_each(gateway->pool, add_pool, sum);
}

static void set(struct metric_series *series, uint64_t value)
{
    metric_set(series, (int64_t)value);
}

static void set_local_server(const struct local_server_view *view, void *arg)
{
    (void)arg;
    set(metric_series_get(METRIC_CHILD_UP, view->model, NULL),
        str_eq(str_from(view->state), STR("ready")));
    set(metric_series_get(METRIC_CHILD_RESTARTS, view->model, NULL), view->restarts);
}

/* Those that are not as they should be, so that names which callers made up do not pile up. */
static void set_target_state(const struct health_view *view, void *arg)
{
    struct str state = str_from(view->state);

    (void)arg;
    if (!str_eq(state, STR("closed")))
        set(metric_series_get(METRIC_UPSTREAM_TARGET_STATE, view->name, NULL),
            str_eq(state, STR("unhealthy")) ? 2 : 1);
}

void request_metrics_gather(struct gateway_service *service)
{
    struct gauges sum = {0};

    service->each_gateway(add_thread, &sum);
    set(metric_series_get(METRIC_FIBERS, NULL), sum.fibers);
    set(metric_series_get(METRIC_FIBERS_HIGH, NULL), sum.fibers_high);
    set(metric_series_get(METRIC_LOOP_LAG, NULL), sum.lag_us);
    set(metric_series_get(METRIC_HTTP_CONNECTIONS, "public", NULL),
        sum.connections[GATEWAY_PUBLIC]);
    set(metric_series_get(METRIC_HTTP_CONNECTIONS, "admin", NULL), sum.connections[GATEWAY_ADMIN]);
    set(metric_series_get(METRIC_UPSTREAM_CONNECTIONS, "idle", NULL), sum.idle);
    set(metric_series_get(METRIC_UPSTREAM_CONNECTIONS, "busy", NULL), sum.busy);
    set(metric_series_get(METRIC_LLM_ACTIVE_REQUESTS, NULL),
        atomic_load_explicit(&service->in_flight, memory_order_relaxed));
    metric_clear(METRIC_UPSTREAM_TARGET_STATE);
    health_each(loop_now_ms(), set_target_state, NULL);
    metric_clear(METRIC_CHILD_UP);
    local_server_each(set_local_server, NULL);
}
