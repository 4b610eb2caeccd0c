/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of limits: a redis-server of their own, and a fiber to run in. */
#ifndef TESTS_UNIT_LIMIT_SERVER_H
#define TESTS_UNIT_LIMIT_SERVER_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/text.h"
#include "child_server.h"
#include "fiber/fiber.h"
#include "fiber/offload.h"
#include "govern/limit.h"
#include "net/resolve.h"
#include "store/redis.h"

static struct loop *loop;
static struct arena *arena;

/* ---- a fiber ---- */

static void run_body(void *arg)
{
    void (**body)(void) = arg;

    arena = arena_new(MEM_REQUEST, 256 * 1024 * 1024);
    fiber_set_arena(arena);
    (*body)();
    fiber_set_arena(NULL);
    arena_free(arena);
    loop_stop(loop);
}

/* Run a test in a fiber of a loop of its own; `leave` lets go of what the thread holds. */
static inline void run_in_fiber(void (*body)(void), void (*leave)(void))
{
    assert_null(loop_open(&loop));
    assert_null(fiber_start_later("test", run_body, &body, NULL));
    loop_run(loop);
    leave();
    resolve_close();
    loop_close(loop);
}

/* ---- a server ---- */

static struct child_server server;

static inline bool server_answers(void)
{
    return child_accepts(server.port);
}

/* Start (again, on the same port). False when it cannot be started. */
static inline bool server_start(void)
{
    char port[16];
    const char *arguments[] = {"redis-server", "--port", port,           "--bind", "127.0.0.1",
                               "--save",       "",       "--appendonly", "no",     "--dir",
                               server.folder,  NULL};

    snprintf(port, sizeof(port), "%u", server.port);
    server.pid = child_spawn(&server, SIGKILL, "redis-server", arguments);
    return child_await(&server, server_answers);
}

/* The address of a Redis, or NULL where there is none. */
static inline const char *server_url(void)
{
    static char url[64];
    const char *given = getenv("TEST_REDIS_URL");

    if (given)
        return given;
    if (!url[0]) {
        if (!child_prepare(&server, "limit") || !server_start())
            return NULL;
        snprintf(url, sizeof(url), "redis://127.0.0.1:%u", server.port);
    }
    return url;
}

static inline bool server_is_ours(void)
{
    return server.pid > 0;
}

#endif
