/* SPDX-License-Identifier: Apache-2.0 */
/* Pools of upstream connections.
 *
 * A connection is in its group's idle list or belongs to a call. One timer per pool closes what was
 * idle too long; it is set when the first connection becomes idle and again as long as there are
 * any.
 *
 * The hard thing is that readiness of an idle connection does not always mean something: room to
 * write becomes free, and a TLS 1.3 server sends session tickets. So it is read from, without
 * waiting, and kept if there is nothing for us. */
#include "net/http_pool.h"

#include "base/check.h"
#include "base/mem.h"

struct http_pool {
    struct list groups;
    struct timer timer; /* the next look at what is idle */
    size_t idle;
    uint64_t idle_ms; /* as long may a connection be idle */
    char *spare;      /* a block to read into, or NULL */
};

static void sweep_idle(struct timer *timer);

/* ---- groups ---- */

static void free_group(struct http_group *group)
{
    struct str host = group->view.host;

    list_remove(&group->link);
    mem_free(MEM_UPSTREAM, (char *)(uintptr_t)host.ptr, host.len + 1);
    mem_free(MEM_UPSTREAM, group, sizeof(*group));
}

static err_t add_group(struct http_pool *pool, const struct http_origin *origin,
                       struct http_group **out)
{
    struct http_group *group = mem_alloc_zero(MEM_UPSTREAM, sizeof(*group));
    char *host = mem_alloc_zero(MEM_UPSTREAM, origin->host.len + 1);

    if (!group || !host) {
        mem_free(MEM_UPSTREAM, host, origin->host.len + 1);
        mem_free(MEM_UPSTREAM, group, sizeof(*group));
        return err_no_memory();
    }
    memcpy(host, origin->host.ptr, origin->host.len);
    group->pool = pool;
    group->origin_id = origin->id;
    group->view.host = (struct str){host, origin->host.len};
    group->view.port = origin->port;
    list_init(&group->idle);
    list_push_front(&pool->groups, &group->link);
    *out = group;
    return NULL;
}

err_t http_pool_group(struct http_pool *pool, const struct http_origin *origin,
                      struct http_group **out)
{
    list_each (at, &pool->groups) {
        *out = container_of(at, struct http_group, link);
        if ((*out)->origin_id == origin->id)
            return NULL;
    }
    return add_group(pool, origin, out);
}

/* ---- connections ---- */

/* Close and free a connection in use, and its group when that was swept and this was its last
 * one. */
void http_pool_drop(struct upstream_connection *connection)
{
    struct http_group *group = connection->group;

    sock_close(&connection->sock);
    mem_free(MEM_UPSTREAM, connection, sizeof(*connection));
    group->view.busy--;
    if (group->is_retired && group->view.busy == 0 && group->view.idle == 0)
        free_group(group);
}

/* Take a connection out of the idle list: it is in use now. */
static void set_busy(struct upstream_connection *connection)
{
    list_remove(&connection->link);
    connection->sock.on_ready = NULL;
    connection->group->pool->idle--;
    connection->group->view.idle--;
    connection->group->view.busy++;
}

static void drop_idle(struct upstream_connection *connection)
{
    set_busy(connection);
    http_pool_drop(connection);
}

/* Whether nothing has happened on a connection that should be silent. */
static bool is_silent(struct sock *sock)
{
    char byte;
    size_t n;
    bool again = true;

    if (sock->watch.hung_up)
        return false;
    if (!sock_may_read(sock))
        return true;
    return !sock_try_read(sock, &byte, 1, &n, &again) && again;
}

static void on_idle_ready(struct sock *sock)
{
    if (!is_silent(sock))
        drop_idle(container_of(sock, struct upstream_connection, sock));
}

struct upstream_connection *http_pool_take(struct http_group *group)
{
    struct list *first = list_first(&group->idle);
    struct upstream_connection *connection;

    if (!first)
        return NULL;
    connection = container_of(first, struct upstream_connection, link);
    set_busy(connection);
    group->view.reused++;
    return connection;
}

struct upstream_connection *http_pool_add(struct http_group *group)
{
    struct upstream_connection *connection = mem_alloc_zero(MEM_UPSTREAM, sizeof(*connection));

    if (!connection)
        return NULL;
    list_init(&connection->link);
    connection->group = group;
    connection->sock.watch.fd = -1;
    group->view.busy++;
    group->view.opened++;
    return connection;
}

void http_pool_give(struct upstream_connection *connection)
{
    struct http_group *group = connection->group;
    struct http_pool *pool = group->pool;
    bool is_kept = !group->is_retired && is_silent(&connection->sock);

    if (is_kept && pool->idle == 0) /* the timer is not set */
        is_kept = !timer_set(&pool->timer, loop_now_ms() + pool->idle_ms, sweep_idle);
    if (!is_kept) {
        http_pool_drop(connection);
        return;
    }
    if (group->view.idle >= HTTP_POOL_MAX_IDLE)
        drop_idle(container_of(group->idle.prev, struct upstream_connection, link));
    connection->idle_since_ms = loop_now_ms();
    connection->sock.on_ready = on_idle_ready;
    list_push_front(&group->idle, &connection->link);
    pool->idle++;
    group->view.idle++;
    group->view.busy--;
}

/* Close what became idle at `until_ms` or before. The time when the oldest of the rest did, or
 * UINT64_MAX. */
static uint64_t drop_older(struct http_group *group, uint64_t until_ms)
{
    while (!list_is_empty(&group->idle)) {
        struct upstream_connection *oldest =
            container_of(group->idle.prev, struct upstream_connection, link);

        if (oldest->idle_since_ms > until_ms)
            return oldest->idle_since_ms;
        drop_idle(oldest);
    }
    return UINT64_MAX;
}

static void sweep_idle(struct timer *timer)
{
    struct http_pool *pool = container_of(timer, struct http_pool, timer);
    uint64_t oldest_ms = UINT64_MAX;

    list_each (at, &pool->groups) {
        uint64_t ms =
            drop_older(container_of(at, struct http_group, link), loop_now_ms() - pool->idle_ms);

        oldest_ms = ms < oldest_ms ? ms : oldest_ms;
    }
    if (pool->idle > 0)
        check(
            !timer_set(timer, oldest_ms + pool->idle_ms, sweep_idle)); /* set before: no failure */
}

/* ---- the pool ---- */

err_t http_pool_open(struct http_pool **out)
{
    struct http_pool *pool = mem_alloc_zero(MEM_UPSTREAM, sizeof(*pool));

    if (!pool)
        return err_no_memory();
    list_init(&pool->groups);
    pool->idle_ms = HTTP_POOL_IDLE_MS;
    *out = pool;
    return NULL;
}

void http_pool_set_idle(struct http_pool *pool, uint64_t idle_ms)
{
    pool->idle_ms = idle_ms;
}

void http_pool_sweep(struct http_pool *pool, bool (*keep)(uint64_t origin_id, void *arg), void *arg)
{
    list_each (at, &pool->groups) {
        struct http_group *group = container_of(at, struct http_group, link);

        if (keep(group->origin_id, arg))
            continue;
        drop_older(group, UINT64_MAX);
        group->is_retired = true;
        if (group->view.busy == 0)
            free_group(group);
    }
}

static bool keep_none(uint64_t origin_id, void *arg)
{
    return false;
}

void http_pool_close(struct http_pool *pool)
{
    if (!pool)
        return;
    http_pool_sweep(pool, keep_none, NULL);
    check(list_is_empty(&pool->groups));
    timer_clear(&pool->timer);
    mem_free(MEM_UPSTREAM, pool->spare, HTTP_BLOCK_BYTES);
    mem_free(MEM_UPSTREAM, pool, sizeof(*pool));
}

void http_pool_each(struct http_pool *pool,
                    void (*visit)(const struct http_pool_view *view, void *arg), void *arg)
{
    list_each (at, &pool->groups)
        visit(&container_of(at, struct http_group, link)->view, arg);
}

/* ---- blocks ---- */

#if defined(__SANITIZE_ADDRESS__)
#define KEEP_SPARE false /* a block used too long shall be found */
#else
#define KEEP_SPARE true
#endif

char *http_pool_take_block(struct http_pool *pool)
{
    char *block = pool->spare;

    pool->spare = NULL;
    return block ? block : mem_alloc(MEM_UPSTREAM, HTTP_BLOCK_BYTES);
}

void http_pool_give_block(struct http_pool *pool, char *block)
{
    if (KEEP_SPARE && !pool->spare)
        pool->spare = block;
    else
        mem_free(MEM_UPSTREAM, block, HTTP_BLOCK_BYTES);
}
