/* SPDX-License-Identifier: Apache-2.0 */
/* What reaches the service from outside its sockets: signals, the machine's memory, systemd. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/un.h>
#include <unistd.h>

#include "app_private.h"
#include "base/sys.h"
#include "fiber/fiber.h"
#include "fiber/loop.h"
#include "gateway/request.h"
#include "observe/log.h"

#define MEMORY_LOOK_MS 200

/* ---- signals ---- */

/* Without memory for the fiber the next look at the memory tries again: requests are running, so
 * the loop must not be left without draining. */
static void begin_drain(struct app *a)
{
    if (!a->is_draining)
        a->is_draining = !fiber_start_later("drain", app_drain, a, NULL);
}

static void on_stop(uv_signal_t *handle, int number)
{
    struct app *a = handle->data;

    (void)number;
    a->stop_signals++;
    begin_drain(a);
}

static void on_reload(uv_signal_t *handle, int number)
{
    struct app *a = handle->data;
    err_t err;

    (void)number;
    if (a->stop_signals > 0)
        return;
    if (a->is_reloading) {
        a->reload_again = true;
        return;
    }
    err = fiber_start_later("reload", app_reload, a, NULL);
    a->is_reloading = !err;
    if (err)
        log_error("the configuration cannot be read again now", err);
}

/* ---- memory ---- */

static uint64_t read_number_file(const char *path)
{
    char text[64];
    int fd = sys_open(path, 0, 0);
    ssize_t n;

    if (fd < 0)
        return 0;
    n = sys_read(fd, text, sizeof(text) - 1);
    sys_close(fd);
    text[n > 0 ? n : 0] = 0;
    return strtoull(text, NULL, 10);
}

/* What this process may use: the machine's memory or its cgroup's limit. */
static uint64_t memory_limit_bytes(void)
{
    uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t group = read_number_file("/sys/fs/cgroup/memory.max");

    return group > 0 && group < machine ? group : machine;
}

static uint64_t resident_bytes(void)
{
    char text[64];
    int fd = sys_open("/proc/self/statm", 0, 0);
    char *second;
    ssize_t n;

    if (fd < 0)
        return 0;
    n = sys_read(fd, text, sizeof(text) - 1);
    sys_close(fd);
    text[n > 0 ? n : 0] = 0;
    second = strchr(text, ' ');
    return second ? strtoull(second, NULL, 10) * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

static void on_memory_look(uv_timer_t *handle)
{
    struct app *a = handle->data;
    uint64_t percent = a->conf->overload.max_memory_percent;
    uint64_t resident = resident_bytes(), limit = memory_limit_bytes();
    bool is_short = percent > 0 && resident > limit / 100 * percent;

    if (is_short != atomic_load(&a->service.memory_is_short)) {
        log_begin(LOG_WARN,
                  is_short ? "memory is short: refusing model requests" : "memory is free again");
        log_u64("resident_bytes", resident);
        log_end();
    }
    atomic_store(&a->service.resident_bytes, resident);
    atomic_store(&a->service.memory_limit_bytes, limit);
    atomic_store(&a->service.memory_is_short, is_short);
    if (a->stop_signals > 0)
        begin_drain(a);
}

/* ---- opening and closing ---- */

err_t app_watch_signals(struct app *a)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP};
    struct uv_loop_s *uv = loop_uv(a->loop);

    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < 3; i++) {
        uv_signal_t *handle = &a->signals[i];
        if (uv_signal_init(uv, handle))
            return err_new(ERR_SYSTEM, "cannot watch signals");
        a->handles++;
        handle->data = a;
        if (uv_signal_start(handle, numbers[i] == SIGHUP ? on_reload : on_stop, numbers[i]))
            return err_new(ERR_SYSTEM, "cannot watch signals");
    }
    uv_timer_init(uv, &a->memory_timer);
    a->memory_timer.data = a;
    a->handles++;
    uv_timer_start(&a->memory_timer, on_memory_look, 0, MEMORY_LOOK_MS);
    return NULL;
}

void app_unwatch(struct app *a)
{
    if (!a->loop)
        return;
    for (unsigned i = 0; i < a->handles && i < 3; i++)
        uv_close((uv_handle_t *)&a->signals[i], NULL);
    if (a->handles > 3)
        uv_close((uv_handle_t *)&a->memory_timer, NULL);
    uv_run(loop_uv(a->loop), UV_RUN_NOWAIT);
    a->handles = 0;
}

/* ---- notices ---- */

void app_notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char text[128];
    size_t len = path ? strlen(path) : 0;
    int fd, n;

    if (len == 0 || len >= sizeof(address.sun_path))
        return;
    memcpy(address.sun_path, path, len);
    if (path[0] == '@')
        address.sun_path[0] = 0;
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    n = snprintf(text, sizeof(text), "%s\nMONOTONIC_USEC=%llu", state,
                 (unsigned long long)(sys_now_ns() / 1000));
    if (sendto(fd, text, (size_t)n, MSG_NOSIGNAL, (struct sockaddr *)&address,
               (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)) < 0)
        log_error("telling systemd", err_system(errno, "sendto"));
    sys_close(fd);
}

static void write_text(int fd, const char *text)
{
    if (text && write(fd, text, strlen(text)) < 0)
        return;
}

static void report_fiber(const struct fiber_view *view, void *arg)
{
    int fd = *(int *)arg;
    const struct request *r = view->owner;

    write_text(fd, "  fiber ");
    write_text(fd, view->name);
    write_text(fd, " ");
    write_text(fd, view->state);
    write_text(fd, ", step ");
    write_text(fd, view->step ? view->step : "-");
    if (r && r->exchange) {
        write_text(fd, ", request ");
        write_text(fd, r->exchange->id);
    }
    write_text(fd, "\n");
}

void app_crash_report(int fd)
{
    write_text(fd, "fibers of this thread:\n");
    fiber_each(report_fiber, &fd);
    log_flush_crash(STDERR_FILENO);
}
