/* SPDX-License-Identifier: Apache-2.0 */
/* Debug switches: make the process do on demand what goes wrong by itself too seldom. For tests.
 *
 * POST /admin/debug/<switch>?name=number…, and only with `debug: true`. A fault is armed so that it
 * does not strike the answer itself. */
#include "gateway/handlers.h"

#include <execinfo.h>
#include <stdio.h>
#include <time.h>

#include "base/check.h"
#include "base/fault.h"
#include "base/sys.h"
#include "fiber/fiber.h"
#include "gateway/request.h"

#define LONGEST_SLEEP_MS (60 * 1000)
#define NO_THREAD        UINT64_MAX

#ifdef SLUICE_FAULTS
#define HAS_FAULTS true
#else
#define HAS_FAULTS false
#endif

static const struct err dropped = {.kind = ERR_CANCELLED,
                                   .where = ERR_HERE,
                                   .text = "the connection was dropped by a debug switch"};

/* A number of the query; `*number` stays as it is when there is none. */
static err_t read_number(const struct request *r, const char *name, uint64_t *number)
{
    struct str text = http_query_get(r->exchange->head.query, str_from(name), r->arena);

    if (text.ptr && !str_to_u64(text, number))
        return err_new_detail(ERR_BAD_REQUEST, (.param = name), "%s must be a number", name);
    return NULL;
}

static err_t done(struct request *r)
{
    return reply_json(r, 200, STR("{\"done\":true}"));
}

/* ---- sleep ---- */

struct block {
    uint64_t thread, ms;
};

/* Block a whole thread, as a defect of ours would. */
static void block_thread(struct gateway *gateway, void *arg)
{
    const struct block *block = arg;
    struct timespec rest = {.tv_sec = (time_t)(block->ms / 1000),
                            .tv_nsec = (long)(block->ms % 1000) * 1000000};

    if (gateway->thread == block->thread)
        nanosleep(&rest, NULL);
}

static err_t debug_sleep(struct request *r)
{
    struct block block = {.thread = NO_THREAD, .ms = 1000};

    TRY(read_number(r, "ms", &block.ms));
    TRY(read_number(r, "thread", &block.thread));
    if (block.ms > LONGEST_SLEEP_MS)
        block.ms = LONGEST_SLEEP_MS;
    if (block.thread == NO_THREAD)
        TRY(fiber_sleep(block.ms));
    else
        r->gateway->service->each_gateway(block_thread, &block);
    return done(r);
}

/* ---- crash ---- */

static err_t debug_crash(struct request *r)
{
    (void)r;
    check(!"the crash switch was used");
    return NULL;
}

/* ---- drop-connection ---- */

struct drop {
    struct str id;
    size_t count;
};

static void drop_by_id(struct gateway *gateway, void *arg)
{
    struct drop *drop = arg;

    list_each (link, &gateway->requests) {
        struct request *other = container_of(link, struct request, link);
        if (!str_eq(str_from(other->exchange->id), drop->id))
            continue;
        fiber_cancel(other->fiber, &dropped);
        drop->count++;
    }
}

/* Without an id: this request's own. */
static err_t debug_drop(struct request *r)
{
    struct drop drop = {.id = http_query_get(r->exchange->head.query, STR("id"), r->arena)};

    if (drop.id.len == 0)
        return &dropped;
    r->gateway->service->each_gateway(drop_by_id, &drop);
    return drop.count > 0 ? done(r) : err_new(ERR_NOT_FOUND, "no request in flight has this id");
}

/* ---- faults ---- */

#ifdef SLUICE_FAULTS

/* Show a reader of the tests' output where a fault strikes. Not with the log, in which it may
 * strike, too. */
static void show_strike(const char *what, uint64_t n)
{
    void *frames[24];

    dprintf(STDERR_FILENO, "fault injected: %s %llu fails at\n", what, (unsigned long long)n);
    backtrace_symbols_fd(frames, backtrace(frames, 24), STDERR_FILENO);
}

/* Armed before the caller knows, who may go on at once, but without striking the answer. */
static err_t answer_armed(struct request *r, uint64_t n, struct str answer,
                          void (*fail_nth)(uint64_t n))
{
    err_t err;

    fault_on_strike(show_strike);
    fail_nth(n);
    fault_pause(true);
    err = reply_json(r, 200, answer);
    fault_pause(false);
    return err;
}

#else

static err_t answer_armed(struct request *r, uint64_t n, struct str answer,
                          void (*fail_nth)(uint64_t n))
{
    return reply_json(r, 200, answer);
}

#endif

/* Tell how many calls were attempted since the last time, and let the n-th from now on fail; n = 0:
 * none. */
static err_t arm(struct request *r, uint64_t (*count)(void), void (*fail_nth)(uint64_t n))
{
    uint64_t counted = count(), n = 0;
    char *answer;

    if (!HAS_FAULTS)
        return err_new(ERR_BAD_REQUEST, "this build cannot inject faults (it needs -Dfaults=true)");
    TRY(read_number(r, "n", &n));
    fail_nth(0);
    answer = arena_printf(r->arena, "{\"count\":%llu}", (unsigned long long)counted);
    if (!answer)
        return arena_err(r->arena);
    return answer_armed(r, n, str_from(answer), fail_nth);
}

static err_t debug_fail_alloc(struct request *r)
{
    return arm(r, mem_fail_count, mem_fail_nth);
}

static err_t debug_fail_syscall(struct request *r)
{
    return arm(r, sys_fail_count, sys_fail_nth);
}

/* Cut every read and write of the process to one byte (on=1), or stop doing so. */
static err_t debug_short_io(struct request *r)
{
    uint64_t on = 0;

    TRY(read_number(r, "on", &on));
    sys_short_io(on > 0);
    return done(r);
}

/* ---- the table ---- */

static const struct {
    const char *name;
    err_t (*handle)(struct request *r); /* PARKS */
} switches[] = {
    {"sleep", debug_sleep},
    {"crash", debug_crash},
    {"drop-connection", debug_drop},
    {"fail-alloc", debug_fail_alloc},
    {"fail-syscall", debug_fail_syscall},
    {"short-io", debug_short_io},
};

err_t debug_handle(struct request *r)
{
    for (size_t i = 0; r->conf->debug && i < sizeof(switches) / sizeof(*switches); i++)
        if (str_eq(r->path_rest, str_from(switches[i].name)))
            return switches[i].handle(r);
    return err_new_detail(ERR_NOT_FOUND, (.code = "unknown_url"),
                          r->conf->debug ? "there is no such debug switch"
                                         : "the debug switches are off");
}
