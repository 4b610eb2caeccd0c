/* SPDX-License-Identifier: Apache-2.0 */
/* The system-call seam: what the calls add to their namesakes, faults, short reads and writes, and
 * the clock. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/sys.h"

static void bytes_go_through_a_socket_pair(void **state)
{
    const struct iovec iov[3] = {{(char[]){"ab"}, 2}, {NULL, 0}, {(char[]){"cde"}, 3}};
    char in[16];
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    assert_int_equal(sys_write(fds[0], "xy", 2), 2);
    assert_int_equal(sys_read(fds[1], in, sizeof(in)), 2);
    assert_int_equal(sys_sendmsg(fds[0], iov, 3), 5);
    assert_int_equal(sys_recv(fds[1], in, sizeof(in), 0), 5);
    assert_memory_equal(in, "abcde", 5);
    assert_int_equal(sys_send(fds[0], "fg", 2), 2);
    assert_int_equal(sys_recv(fds[1], in, sizeof(in), 0), 2);
    assert_memory_equal(in, "fg", 2);
    assert_int_equal(sys_close(fds[1]), 0);
    assert_int_equal(sys_sendmsg(fds[0], iov, 3), -1); /* and no SIGPIPE */
    assert_int_equal(errno, EPIPE);
    assert_int_equal(sys_send(fds[0], "x", 1), -1);
    assert_int_equal(errno, EPIPE);
    assert_int_equal(sys_close(fds[0]), 0);
}

static void sockets_do_not_block_and_are_not_inherited(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX}; /* Linux finds it a free name */
    struct sockaddr_storage peer;
    socklen_t len = sizeof(address), peer_len = sizeof(peer);
    int server = sys_socket(AF_UNIX, SOCK_STREAM), client = sys_socket(AF_UNIX, SOCK_STREAM), got;

    assert_int_equal(bind(server, (struct sockaddr *)&address, sizeof(sa_family_t)), 0);
    assert_int_equal(getsockname(server, (struct sockaddr *)&address, &len), 0);
    assert_int_equal(listen(server, 1), 0);
    assert_int_equal(sys_accept(server, &peer, &peer_len), -1);
    assert_int_equal(errno, EAGAIN);
    assert_int_equal(sys_connect(client, (struct sockaddr *)&address, len), 0);
    got = sys_accept(server, &peer, &peer_len);
    assert_true(got >= 0);
    assert_true(fcntl(got, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(got, F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl(client, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(client, F_GETFD) & FD_CLOEXEC);
    sys_close(got);
    sys_close(client);
    sys_close(server);
}

static void files_are_not_inherited(void **state)
{
    int fd = sys_open("/dev/null", O_RDONLY, 0);

    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    sys_close(fd);
    assert_int_equal(sys_open("/nonexistent/file", O_RDONLY, 0), -1);
    assert_int_equal(errno, ENOENT);
}

static void on_alarm(int number)
{
}

static void signals_do_not_interrupt(void **state)
{
    struct sigaction action = {.sa_handler = on_alarm}, old;
    int fds[2];
    char c;

    assert_int_equal(pipe(fds), 0);
    assert_int_equal(sigaction(SIGALRM, &action, &old), 0);
    if (fork() == 0) {
        kill(getppid(), SIGALRM);
        usleep(20000);
        _exit(sys_write(fds[1], "x", 1) == 1 ? 0 : 1);
    }
    assert_int_equal(sys_read(fds[0], &c, 1), 1);
    wait(NULL);
    sigaction(SIGALRM, &old, NULL);
    sys_close(fds[0]);
    sys_close(fds[1]);
}

static void clocks_run(void **state)
{
    uint64_t ms = sys_now_ms(), ns = sys_now_ns();

    assert_true(ns / 1000000 >= ms && ns / 1000000 < ms + 1000);
    assert_true(sys_now_ns() >= ns);
    assert_true(sys_wall_ms() > UINT64_C(1700000000000));
}

static void random_bytes_differ(void **state)
{
    unsigned char a[64] = {0}, b[64] = {0};

    sys_random(a, sizeof(a));
    sys_random(b, sizeof(b));
    assert_memory_not_equal(a, b, sizeof(a));
    sys_random(NULL, 0);
}

#ifdef SLUICE_FAULTS

static void calls_fail_on_demand(void **state)
{
    char c = 'x';
    int fd;

    sys_fail_nth(2);
    fd = sys_open("/dev/zero", O_RDONLY, 0);
    assert_true(fd >= 0);
    assert_int_equal(sys_read(fd, &c, 1), -1);
    assert_int_equal(errno, EIO);
    assert_int_equal(sys_read(fd, &c, 1), 1);
    assert_int_equal(sys_fail_count(), 3);
    sys_fail_nth(1);
    assert_int_equal(sys_close(fd), -1); /* and yet it is closed */
    sys_fail_nth(0);
    assert_int_equal(sys_read(fd, &c, 1), -1);
    assert_int_equal(errno, EBADF);
    sys_fail_nth(1);
    assert_int_equal(sys_socket(AF_UNIX, SOCK_STREAM), -1);
    assert_int_equal(errno, EMFILE);
    sys_fail_nth(0);
}

static void reads_and_writes_can_be_cut(void **state)
{
    const struct iovec iov[2] = {{NULL, 0}, {(char[]){"cde"}, 3}};
    int fds[2];
    char in[8];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    sys_short_io(true);
    assert_int_equal(sys_write(fds[0], "xy", 2), 1);
    assert_int_equal(sys_sendmsg(fds[0], iov, 2), 1);
    assert_int_equal(sys_send(fds[0], "fg", 2), 1);
    assert_int_equal(sys_read(fds[1], in, sizeof(in)), 1);
    assert_int_equal(sys_recv(fds[1], in + 1, sizeof(in) - 1, 0), 1);
    assert_int_equal(sys_recv(fds[1], in + 2, sizeof(in) - 2, 0), 1);
    assert_memory_equal(in, "xcf", 3);
    sys_short_io(false);
    assert_int_equal(sys_write(fds[0], "xy", 2), 2);
    sys_close(fds[0]);
    sys_close(fds[1]);
}

static void the_clock_can_be_set(void **state)
{
    sys_set_clock_ms(5000);
    assert_int_equal(sys_now_ms(), 5000);
    assert_int_equal(sys_now_ns(), UINT64_C(5000000000));
    assert_int_equal(sys_wall_ms(), SYS_FROZEN_WALL_MS + 5000);
    sys_set_clock_ms(0);
    assert_true(sys_wall_ms() > SYS_FROZEN_WALL_MS + 5000);
}

#endif

static void crash_hook(int fd)
{
    if (write(fd, "step: parse\n", 12) != 12)
        _exit(1);
}

/* Run `crash` in a child and return what it wrote; *status is how it ended. */
static void run_crash(void (*crash)(void), char *report, size_t size, int *status)
{
    size_t len = 0;
    ssize_t n;
    int fds[2];
    pid_t pid;

    assert_int_equal(pipe(fds), 0);
    pid = fork();
    if (pid == 0) {
        dup2(fds[1], STDERR_FILENO);
        check_on_crash(crash_hook);
        crash();
        _exit(0);
    }
    sys_close(fds[1]);
    while (len < size - 1 && (n = sys_read(fds[0], report + len, size - 1 - len)) > 0)
        len += (size_t)n;
    report[len] = '\0';
    sys_close(fds[0]);
    waitpid(pid, status, 0);
}

static void break_promise(void)
{
    check(1 + 1 == 2);
    check(2 + 2 == 5);
}

static void a_failed_check_reports_and_aborts(void **state)
{
    static char report[8192];
    int status;

    run_crash(break_promise, report, sizeof(report), &status);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_ptr_equal(strstr(report, "check failed: 2 + 2 == 5 at "), report);
    assert_non_null(strstr(report, "test_sys.c:"));
    assert_non_null(strstr(report, "step: parse\n"));
    assert_non_null(strstr(report, "libc.so")); /* the backtrace's outermost frames */
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

/* With nothing left of the stack, the report needs the alternate one. */
static int overrun_stack(int n)
{
    volatile char frame[128];

    frame[0] = (char)n;
    return n == 0 ? 0 : overrun_stack(n + 1) + frame[0];
}

static void run_out_of_stack(void)
{
    check_catch_signals();
    overrun_stack(1);
}

static void signals_are_reported(void **state)
{
    static char report[8192];
    int status;

    run_crash(run_out_of_stack, report, sizeof(report), &status);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    assert_ptr_equal(strstr(report, "killed by signal 11\nstep: parse\n"), report);
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_go_through_a_socket_pair),
        cmocka_unit_test(sockets_do_not_block_and_are_not_inherited),
        cmocka_unit_test(files_are_not_inherited),
        cmocka_unit_test(signals_do_not_interrupt),
        cmocka_unit_test(clocks_run),
        cmocka_unit_test(random_bytes_differ),
#ifdef SLUICE_FAULTS
        cmocka_unit_test(calls_fail_on_demand),
        cmocka_unit_test(reads_and_writes_can_be_cut),
        cmocka_unit_test(the_clock_can_be_set),
#endif
        cmocka_unit_test(a_failed_check_reports_and_aborts),
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        cmocka_unit_test(signals_are_reported),
#endif
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
