/* SPDX-License-Identifier: Apache-2.0 */
/* Child processes.
 *
 * The output comes through a socket pair, so that it is read like any other socket; its end is the
 * sign that the child is dying, and then waitpid says how. This needs no SIGCHLD and no second way
 * of waiting.
 *
 * The hard thing is the moment between fork and exec. The process has threads, whose locks stay
 * as they were, so the child may call only what is safe in a signal handler. */
#include "model/child.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/list.h"
#include "base/sys.h"
#include "fiber/fiber.h"
#include "fiber/loop.h"

extern char **environ;

/* A child that has closed its output is given this long to end by itself. */
#define SILENT_GRACE_MS 1000

/* How often waitpid is tried between the end of the output and the end of the child. */
#define REAP_MS 2

/* Reads at a time: a child that talks without end shall not keep the thread. */
#define MAX_READS 8

/* ---- output ---- */

static void give_line(struct child *child)
{
    struct str line = {child->line, child->line_len};

    child->line_len = 0;
    if (line.len > 0)
        child->on_line(child, line);
}

static void take_bytes(struct child *child, struct str bytes)
{
    for (size_t i = 0; i < bytes.len; i++) {
        if (bytes.ptr[i] != '\n' && bytes.ptr[i] != '\r')
            child->line[child->line_len++] = bytes.ptr[i];
        if (bytes.ptr[i] == '\n' || bytes.ptr[i] == '\r' || child->line_len == CHILD_LINE_BYTES)
            give_line(child);
    }
}

static void on_more(struct timer *timer);

static void on_output(struct sock *sock)
{
    struct child *child = container_of(sock, struct child, output);
    bool again = false;
    size_t n;

    for (int i = 0; !child->is_silent && !again; i++) {
        if (i >= MAX_READS && !timer_set(&child->more, loop_now_ms() + 1, on_more))
            return;
        err_t err = sock_try_read(sock, loop_scratch(), LOOP_SCRATCH_BYTES, &n, &again);
        child->is_silent = err || (n == 0 && !again);
        take_bytes(child, (struct str){loop_scratch(), err ? 0 : n});
    }
    if (!child->is_silent)
        return;
    give_line(child);
    if (child->waiter)
        fiber_wake(child->waiter);
}

static void on_more(struct timer *timer)
{
    on_output(&container_of(timer, struct child, more)->output);
}

/* ---- starting ---- */

bool child_is_program(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISREG(info.st_mode) && access(path, X_OK) == 0;
}

char *child_find_program(const char *name, struct arena *arena)
{
    struct str rest = str_from(getenv("PATH")), folder;

    while (rest.len > 0 && str_split(&rest, ':', &folder)) {
        char *path = arena_printf(arena, "%.*s/%s", STR_ARG(folder), name);
        if (path && folder.len > 0 && child_is_program(path))
            return path;
    }
    return NULL;
}

/* In the child. Nothing here may allocate or take a lock. */
static void run_program(char *const *argv, char *const *envp, int output, pid_t parent)
{
    static const char refused[] = "the program cannot be run: ";
    const char *why;
    sigset_t none;
    int input;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) /* it died before the line above */
        _exit(127);
    setpgid(0, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL); /* what is ignored stays ignored across exec */
    input = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (input < 0 || dup2(input, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0)
        _exit(127);
    execve(argv[0], argv, envp);
    why = strerrordesc_np(errno);
    if (write(2, refused, sizeof(refused) - 1) > 0 && why && write(2, why, strlen(why)) < 0)
        _exit(126);
    _exit(127);
}

err_t child_start(struct child *child, char *const *argv, char *const *envp,
                  void (*on_line)(struct child *child, struct str line))
{
    pid_t parent = getpid();
    int ends[2];
    err_t err;

    *child = (struct child){.on_line = on_line};
    sock_init(&child->output);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return err_system(errno, "making a child's output");
    fcntl(ends[0], F_SETFL, O_NONBLOCK); /* our end only: the child shall wait when we are slow */
    err = sock_open(&child->output, ends[0]);
    if (err) {
        sys_close(ends[1]);
        return err;
    }
    child->output.on_ready = on_output;
    child->pid = fork();
    if (child->pid == 0)
        run_program(argv, envp ? envp : environ, ends[1], parent);
    if (child->pid < 0) {
        child->pid = 0;
        err = err_system(errno, "starting a child");
        sock_close(&child->output);
    }
    if (child->pid > 0)
        setpgid(child->pid, child->pid); /* the child does it too: whoever is first */
    sys_close(ends[1]);
    return err;
}

/* ---- the end ---- */

static void forget(struct child *child)
{
    timer_clear(&child->more);
    sock_close(&child->output);
    child->pid = 0;
}

static err_t reap(struct child *child, uint64_t at_ms, int *status)
{
    uint64_t kill_at_ms = loop_now_ms() + SILENT_GRACE_MS;
    pid_t got;

    while ((got = waitpid(child->pid, status, WNOHANG)) == 0) {
        if (loop_now_ms() >= at_ms)
            return &fiber_wait_over;
        if (loop_now_ms() >= kill_at_ms)
            kill(-child->pid, SIGKILL);
        TRY(fiber_sleep(REAP_MS));
    }
    if (got < 0) /* somebody else took it: how it ended is lost */
        *status = 0;
    forget(child);
    return NULL;
}

err_t child_wait(struct child *child, uint64_t at_ms, int *status)
{
    err_t err = NULL;

    check(child->pid > 0 && !child->waiter);
    child->waiter = fiber_self();
    while (!child->is_silent && !err)
        err = fiber_park(at_ms);
    child->waiter = NULL;
    return err ? err : reap(child, at_ms, status);
}

void child_stop(struct child *child, uint64_t grace_ms)
{
    int status;

    if (child->pid == 0)
        return;
    fiber_shield(FIBER_FOREVER);
    kill(-child->pid, SIGTERM);
    if (child_wait(child, loop_now_ms() + grace_ms, &status)) {
        kill(-child->pid, SIGKILL);
        if (child_wait(child, loop_now_ms() + SILENT_GRACE_MS, &status))
            forget(child); /* stuck in the kernel: it cannot be waited for */
    }
    fiber_unshield();
}

void child_describe(int status, char out[64])
{
    const char *name = WIFSIGNALED(status) ? sigdescr_np(WTERMSIG(status)) : NULL;

    if (WIFSIGNALED(status))
        snprintf(out, 64, "was killed by signal %d (%s)", WTERMSIG(status),
                 name ? name : "unnamed");
    else
        snprintf(out, 64, "ended with status %d", WEXITSTATUS(status));
}
