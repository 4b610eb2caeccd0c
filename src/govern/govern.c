/* SPDX-License-Identifier: Apache-2.0 */
/* Opens, keeps going and closes the parts of this folder. */
#include "govern/govern.h"

#include "base/check.h"
#include "fiber/fiber.h"
#include "govern/limit.h"
#include "govern/service.h"

#define SERVICES_MAX 12

/* In the order of opening; closed in reverse: the ledger books on budgets, which are given back after it, and hands
 * its rows over when the last is committed. The journal has the ledger's name. */
static const struct govern_service *services[SERVICES_MAX] = {
    &identity_service, &jwt_service,    &budget_service, &webhook_service,
    &fold_service,     &ledger_service, &journal_service};

static struct {
    struct db *db;
    struct fiber *starter;
    struct fiber *fibers[SERVICES_MAX]; /* NULL: none, or it has ended */
} govern;

static const struct err closing = {
    .kind = ERR_KILLED, .where = ERR_HERE, .text = "the server is shutting down"};

struct db *govern_db(void)
{
    return govern.db;
}

static size_t count_services(void)
{
    size_t count = 0;

    while (count < SERVICES_MAX && services[count])
        count++;
    return count;
}

void govern_add(const struct govern_service *service)
{
    size_t count = count_services();

    check(count < SERVICES_MAX);
    services[count] = service;
}

#define RETRY_MS 100
/* How long a service waits for the store at the end, and after another one has waited in vain. */
#define CLOSE_MOST_MS  6000
#define CLOSE_LEAST_MS 1000

/* Without memory now there may be some later: the server works meanwhile. */
struct arena *service_arena(enum mem_use use, size_t limit_bytes)
{
    struct arena *arena = arena_new(use, limit_bytes);

    while (!arena && !fiber_sleep(RETRY_MS))
        arena = arena_new(use, limit_bytes);
    return arena;
}

static void run_service(void *arg)
{
    const struct govern_service *const *service = arg;
    struct arena *arena = service_arena(MEM_PROCESS, 16 * 1024 * 1024);

    fiber_set_arena(arena);
    if (arena)
        (*service)->run(govern.db);
    fiber_set_arena(NULL);
    arena_free(arena);
    govern.fibers[service - services] = NULL;
}

err_t govern_open(struct db *db, const struct conf *conf)
{
    govern.db = db;
    for (size_t i = 0; i < SERVICES_MAX && services[i]; i++)
        if (services[i]->open)
            TRY(services[i]->open(db, conf));
    return NULL;
}

static void start_service(size_t i)
{
    err_t err = NULL;

    while (services[i]->run && !err &&
           fiber_start(services[i]->name, run_service, (void *)(uintptr_t)&services[i],
                       &govern.fibers[i]))
        err = fiber_sleep(RETRY_MS);
}

static void start_services(void *arg)
{
    (void)arg;
    for (size_t i = 0; i < SERVICES_MAX && services[i] && !fiber_cancelled(govern.starter); i++)
        start_service(i);
    govern.starter = NULL;
}

err_t govern_start(void)
{
    return fiber_start_later("govern", start_services, NULL, &govern.starter);
}

void govern_adopt(const struct conf *conf)
{
    for (size_t i = 0; i < SERVICES_MAX && services[i]; i++)
        if (services[i]->adopt)
            services[i]->adopt(conf);
}

static bool is_running(void)
{
    if (govern.starter)
        return true;
    for (size_t i = 0; i < SERVICES_MAX && services[i]; i++)
        if (govern.fibers[i])
            return true;
    return false;
}

/* What is left is written; what fails then is told with its reason. A store that does not answer is waited for once. */
static void close_services(void)
{
    struct arena *arena = arena_new(MEM_PROCESS, 16 * 1024 * 1024), *before = fiber_arena();
    uint64_t wait_ms = CLOSE_MOST_MS, until_ms;

    fiber_set_arena(arena);
    for (size_t i = count_services(); i-- > 0;) {
        until_ms = loop_now_ms() + wait_ms;
        fiber_shield(until_ms);
        if (services[i]->close)
            services[i]->close(govern.db);
        fiber_unshield();
        if (loop_now_ms() >= until_ms)
            wait_ms = CLOSE_LEAST_MS;
    }
    fiber_set_arena(before);
    arena_free(arena);
}

void govern_close(void)
{
    if (govern.starter)
        fiber_cancel(govern.starter, &closing);
    for (size_t i = 0; i < SERVICES_MAX && services[i]; i++)
        if (govern.fibers[i])
            fiber_cancel(govern.fibers[i], &closing);
    while (is_running())
        if (fiber_sleep(1))
            break;
    close_services();
}
