/* SPDX-License-Identifier: Apache-2.0 */
/* For tests of limits: a redis-server of their own, and a fiber to run in. */
#ifndef TESTS_UNIT_LIMIT_SERVER_H
#define TESTS_UNIT_LIMIT_SERVER_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/text.h"
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

static struct {
    pid_t pid;
    unsigned port;
    char url[64], folder[64];
} server;

static inline bool server_answers(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)server.port),
                                  .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool result = connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0;

    close(fd);
    return result;
}

static inline unsigned server_free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(address);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    if (bind(fd, (struct sockaddr *)&address, len) ||
        getsockname(fd, (struct sockaddr *)&address, &len))
        abort();
    close(fd);
    return ntohs(address.sin_port);
}

/* Start (again, on the same port). False when it cannot be started. */
static inline bool server_start(void)
{
    char port[16];

    if (server.port == 0)
        server.port = server_free_port();
    snprintf(port, sizeof(port), "%u", server.port);
    server.pid = fork();
    if (server.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* also when the test is killed */
        if (!freopen("/dev/null", "w", stdout))
            _exit(126);
        execlp("redis-server", "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "",
               "--appendonly", "no", "--dir", server.folder, (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 500; i++) {
        if (server_answers())
            return true;
        if (waitpid(server.pid, NULL, WNOHANG) == server.pid)
            break;
        usleep(20000);
    }
    server.pid = 0;
    return false;
}

/* The address of a Redis, or NULL where there is none. */
static inline const char *server_url(void)
{
    const char *url = getenv("TEST_REDIS_URL");

    if (url)
        return url;
    if (!server.url[0]) {
        memcpy(server.folder, "/tmp/test_limit_XXXXXX", sizeof("/tmp/test_limit_XXXXXX"));
        if (!mkdtemp(server.folder) || !server_start())
            return NULL;
        snprintf(server.url, sizeof(server.url), "redis://127.0.0.1:%u", server.port);
    }
    return server.url;
}

static inline bool server_is_ours(void)
{
    return server.pid > 0;
}

static inline unsigned server_port(void)
{
    return server.port;
}

static inline void server_kill(void)
{
    kill(server.pid, SIGKILL);
    waitpid(server.pid, NULL, 0);
    server.pid = 0;
}

static inline void server_stop(void)
{
    if (server.pid > 0)
        server_kill();
    if (server.folder[0])
        rmdir(server.folder);
}

#endif
