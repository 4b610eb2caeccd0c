/* SPDX-License-Identifier: Apache-2.0 */
/* Servers: listeners, accepting, time limits, drain.
 *
 * Accepting is what fails first on a machine that runs out of descriptors. A listener is
 * level-triggered, so an accept that fails would be asked for again at once and for ever: it is
 * paused instead, and resumed when a connection closes or a little later. */
#include "net/http_server.h"

#include <errno.h>

#include "base/check.h"
#include "base/sys.h"
#include "net/http_connection.h"
#include "observe/log.h"

#define ACCEPTS_PER_EVENT 64
#define MAX_LEAVING       64
#define LEAVING_MS        1000
#define RESUME_MS         200
#define COMPLAIN_EVERY_MS 10000

struct listener {
    struct watch watch;
    struct list item;
    struct http_server *server;
    struct tls_context *tls;
};

const struct err http_client_gone = {
    .kind = ERR_CANCELLED, .where = ERR_HERE, .text = "the client has gone"};
const struct err http_server_stops = {
    .kind = ERR_KILLED, .where = ERR_HERE, .text = "the server is shutting down"};

/* ---- arenas ---- */

#if defined(__SANITIZE_ADDRESS__)
#define KEEP_SPARE false /* memory used too long shall be found */
#else
#define KEEP_SPARE true
#endif

/* An ordinary chat request needs it and what run_exchange lends, and not much more: an open stream holds it. */
#define FIRST_CHUNK_BYTES 2752

/* What a request takes that is governed, beyond the first chunk of its arena. */
#define SPARE_CHUNK_BYTES 2048

struct arena *server_take_arena(struct http_server *server)
{
    if (server->spare_count > 0)
        return server->spare[--server->spare_count];
    return arena_new_of(MEM_REQUEST, FIRST_CHUNK_BYTES, server->options.arena_limit_bytes);
}

void server_give_arena(struct http_server *server, struct arena *arena)
{
    if (!KEEP_SPARE || server->spare_count == SERVER_SPARE_ARENAS) {
        arena_free(arena);
        return;
    }
    arena_reset_keeping(arena, SPARE_CHUNK_BYTES);
    server->spare[server->spare_count++] = arena;
}

static void free_spare_arenas(struct http_server *server)
{
    while (server->spare_count > 0)
        arena_free(server->spare[--server->spare_count]);
}

/* ---- time limits ---- */

/* How long a connection may stay in a state, or 0. */
static uint64_t limit_ms(const struct http_server *server, enum connection_state state)
{
    switch (state) {
    case CONNECTION_READING:
        return server->options.head_timeout_ms;
    case CONNECTION_IDLE:
        return server->options.idle_timeout_ms;
    case CONNECTION_LEAVING:
        return LEAVING_MS;
    default:
        return 0;
    }
}

/* Close or refuse those whose time is over, and look when the next one's will be. */
static void on_sweep(struct timer *timer)
{
    struct http_server *server = container_of(timer, struct http_server, sweep);
    uint64_t now_ms = loop_now_ms();

    server->sweep_at_ms = 0;
    for (int state = 0; state < CONNECTION_STATE_COUNT; state++) {
        uint64_t limit = limit_ms(server, state);
        list_each (link, &server->connections[state]) {
            struct http_connection *connection = container_of(link, struct http_connection, item);
            if (limit == 0)
                break;
            if (connection->since_ms + limit > now_ms) {
                server_watch_time(server, state, connection->since_ms);
                break;
            }
            connection_expire(connection);
        }
    }
}

void server_watch_time(struct http_server *server, enum connection_state state, uint64_t since_ms)
{
    uint64_t limit = limit_ms(server, state), at_ms = since_ms + limit;

    if (limit == 0 || (server->sweep_at_ms > 0 && server->sweep_at_ms <= at_ms))
        return;
    server->sweep_at_ms = at_ms;
    /* Without memory for the timer the next connection that changes its state tries again. */
    if (timer_set(&server->sweep, at_ms, on_sweep))
        server->sweep_at_ms = 0;
}

/* ---- accepting ---- */

static void pause_listeners(struct http_server *server, bool paused)
{
    server->is_paused = paused;
    list_each (link, &server->listeners)
        watch_pause(&container_of(link, struct listener, item)->watch, paused);
}

void server_resume(struct http_server *server)
{
    if (!server->is_paused)
        return;
    timer_clear(&server->resume);
    pause_listeners(server, false);
}

static void on_resume(struct timer *timer)
{
    server_resume(container_of(timer, struct http_server, resume));
}

/* No descriptors or memory: wait for some. */
static void pause_accepting(struct http_server *server, int number)
{
    uint64_t now_ms = loop_now_ms();

    metric_add(server->counts.pauses, 1);
    if (server->complained_ms == 0 || now_ms - server->complained_ms >= COMPLAIN_EVERY_MS) {
        server->complained_ms = now_ms;
        log_begin(LOG_WARN, "cannot accept connections");
        log_cstr("text", strerror(number));
        log_u64("connections", server->open);
        log_end();
    }
    if (!timer_set(&server->resume, now_ms + RESUME_MS, on_resume))
        pause_listeners(server, true);
}

static void accept_one(struct listener *listener, int fd, const struct sockaddr_storage *peer)
{
    struct http_server *server = listener->server;
    uint64_t max = server->options.max_connections;

    sock_set_options(fd, peer->ss_family);
    if (max == 0 || server->open - server->leaving < max) {
        metric_add(server->counts.accepted, 1);
        connection_open(server, fd, peer, listener->tls);
        return;
    }
    metric_add(server->counts.turned_away, 1);
    if (server->leaving < MAX_LEAVING)
        connection_turn_away(server, fd, listener->tls != NULL);
    else
        sys_close(fd);
}

static void on_listener(struct watch *watch)
{
    struct listener *listener = container_of(watch, struct listener, watch);

    for (int i = 0; i < ACCEPTS_PER_EVENT; i++) {
        struct sockaddr_storage peer = {0};
        socklen_t len = sizeof peer;
        int fd = sys_accept(watch->fd, &peer, &len);
        if (fd >= 0) {
            accept_one(listener, fd, &peer);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
            pause_accepting(listener->server, errno);
        /* Others concern one connection that was gone before we looked (accept(2)): the next
         * event comes at once. */
        return;
    }
}

err_t http_server_listen(struct http_server *server, int fd, struct tls_context *tls)
{
    struct listener *listener = mem_alloc_zero(MEM_CONNECTION, sizeof *listener);
    err_t err = listener ? watch_open_listener(&listener->watch, fd, on_listener) : err_no_memory();

    if (err) {
        mem_free(MEM_CONNECTION, listener, sizeof *listener);
        sys_close(fd);
        return err;
    }
    listener->server = server;
    listener->tls = tls_context_ref(tls);
    list_push(&server->listeners, &listener->item);
    return NULL;
}

static void close_listeners(struct http_server *server)
{
    list_each (link, &server->listeners) {
        struct listener *listener = container_of(link, struct listener, item);
        list_remove(link);
        watch_close(&listener->watch);
        tls_context_unref(listener->tls);
        mem_free(MEM_CONNECTION, listener, sizeof *listener);
    }
    timer_clear(&server->resume);
    server->is_paused = false;
}

/* ---- life ---- */

static uint64_t or_default(uint64_t value, uint64_t otherwise)
{
    return value > 0 ? value : otherwise;
}

static void set_options(struct http_server *server, const struct http_server_options *options)
{
    struct http_server_options *mine = &server->options;

    *mine = *options;
    mine->head_timeout_ms = or_default(mine->head_timeout_ms, 10 * 1000);
    mine->body_grace_ms = or_default(mine->body_grace_ms, 5 * 1000);
    mine->body_min_bytes_per_s = or_default(mine->body_min_bytes_per_s, 1024);
    mine->idle_timeout_ms = or_default(mine->idle_timeout_ms, 60 * 1000);
    mine->write_timeout_ms = or_default(mine->write_timeout_ms, 30 * 1000);
    mine->arena_limit_bytes = or_default(mine->arena_limit_bytes, 64 << 20);
}

err_t http_server_open(const struct http_server_options *options, struct http_server **out)
{
    struct http_server *server = mem_alloc_zero(MEM_CONNECTION, sizeof *server);

    *out = server;
    if (!server)
        return err_no_memory();
    list_init(&server->listeners);
    for (int state = 0; state < CONNECTION_STATE_COUNT; state++)
        list_init(&server->connections[state]);
    server->counts.accepted = metric_series_get(METRIC_HTTP_CONNECTIONS_ACCEPTED, NULL);
    server->counts.turned_away = metric_series_get(METRIC_HTTP_CONNECTIONS_REFUSED, NULL);
    server->counts.refused = metric_series_get(METRIC_HTTP_REFUSED, NULL);
    server->counts.pauses = metric_series_get(METRIC_HTTP_ACCEPT_PAUSES, NULL);
    set_options(server, options);
    return NULL;
}

void http_server_configure(struct http_server *server, const struct http_server_options *options,
                           struct tls_context *tls)
{
    free_spare_arenas(server); /* whose limit is the old one */
    set_options(server, options);
    list_each (link, &server->listeners) {
        struct listener *listener = container_of(link, struct listener, item);
        if (!listener->tls || !tls)
            continue;
        tls_context_unref(listener->tls);
        listener->tls = tls_context_ref(tls);
    }
    /* Shorter limits may have passed for those who wait already. */
    if (server->sweep_at_ms > 0 && !timer_set(&server->sweep, loop_now_ms(), on_sweep))
        server->sweep_at_ms = loop_now_ms();
}

static void close_all(struct http_server *server, enum connection_state state)
{
    list_each (link, &server->connections[state])
        connection_close(container_of(link, struct http_connection, item));
}

void http_server_drain(struct http_server *server)
{
    /* Those who wait in the backlog would be reset: let them in first. */
    list_each (link, &server->listeners)
        on_listener(&container_of(link, struct listener, item)->watch);
    server->is_draining = true;
    close_listeners(server);
    close_all(server, CONNECTION_IDLE);
}

static void cancel_all(struct http_server *server, enum connection_state state)
{
    list_each (link, &server->connections[state])
        fiber_cancel(container_of(link, struct http_connection, item)->fiber, &http_server_stops);
}

void http_server_kill(struct http_server *server)
{
    server->is_killed = true;
    cancel_all(server, CONNECTION_SHAKING);
    cancel_all(server, CONNECTION_BUSY);
}

size_t http_server_active(const struct http_server *server)
{
    return server->active;
}

size_t http_server_connections(const struct http_server *server)
{
    return server->open;
}

void http_server_close(struct http_server *server)
{
    check(server->active == 0);
    close_listeners(server);
    close_all(server, CONNECTION_READING);
    close_all(server, CONNECTION_IDLE);
    close_all(server, CONNECTION_LEAVING);
    timer_clear(&server->sweep);
    free_spare_arenas(server);
    mem_free(MEM_CONNECTION, server, sizeof *server);
}
