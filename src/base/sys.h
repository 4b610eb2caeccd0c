/* SPDX-License-Identifier: Apache-2.0 */
/* The system-call seam: sockets, files, clock and random reach the kernel through here.
 *
 * Each function is its namesake with EINTR handled, returning -1 and errno as usual. In builds with
 * faults (SLUICE_FAULTS), the n-th call can be made to fail, or reads and writes cut to one byte,
 * and the clock can be set by tests; in release builds sys_fault and its sisters vanish and plain
 * calls remain. */
#ifndef BASE_SYS_H
#define BASE_SYS_H

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* ---- Faults ---- */

/* How many processors this process may run on, at least 1. */
unsigned sys_processors(void);

/* Fault injection; no-ops in builds without SLUICE_FAULTS. Arms the n-th call from now on (1 = the
 * next one), in any thread, to fail once with an errno that the call can give; 0 disarms. */
void sys_fail_nth(uint64_t n);

/* Calls attempted since sys_fail_nth was last called. */
uint64_t sys_fail_count(void);

/* Cut every read and write to one byte while on. */
void sys_short_io(bool on);

/* Freeze the clocks at the given monotonic time (tests of timers); 0 thaws. The frozen wall clock
 * is SYS_FROZEN_WALL_MS plus the monotonic time. */
void sys_set_clock_ms(uint64_t now_ms);
#define SYS_FROZEN_WALL_MS UINT64_C(1700000000000) /* 2023-11-14T22:13:20Z */

#ifdef SLUICE_FAULTS
/* For the functions below: whether to fail now (errno is set then), how much to read or write, and
 * the frozen time or 0. */
bool sys_fault(int number);
size_t sys_cut(size_t size);
uint64_t sys_frozen_ms(void);
#else
static inline bool sys_fault(int number)
{
    (void)number;
    return false;
}

static inline size_t sys_cut(size_t size)
{
    return size;
}

static inline uint64_t sys_frozen_ms(void)
{
    return 0;
}
#endif

/* Repeat `call` while a signal interrupts it. */
#define SYS_RETRY(result, call)                                                                    \
    do                                                                                             \
        (result) = (call);                                                                         \
    while ((result) < 0 && errno == EINTR)

/* ---- Files and sockets ---- */

static inline ssize_t sys_read(int fd, void *ptr, size_t size)
{
    ssize_t n;

    if (sys_fault(EIO))
        return -1;
    SYS_RETRY(n, read(fd, ptr, sys_cut(size)));
    return n;
}

static inline ssize_t sys_write(int fd, const void *ptr, size_t size)
{
    ssize_t n;

    if (sys_fault(ENOSPC))
        return -1;
    SYS_RETRY(n, write(fd, ptr, sys_cut(size)));
    return n;
}

static inline ssize_t sys_recv(int fd, void *ptr, size_t size, int flags)
{
    ssize_t n;

    if (sys_fault(ECONNRESET))
        return -1;
    SYS_RETRY(n, recv(fd, ptr, sys_cut(size), flags));
    return n;
}

/* Never raises SIGPIPE. */
static inline ssize_t sys_send(int fd, const void *ptr, size_t size)
{
    ssize_t n;

    if (sys_fault(ECONNRESET))
        return -1;
    SYS_RETRY(n, send(fd, ptr, sys_cut(size), MSG_NOSIGNAL));
    return n;
}

/* Write several pieces; never raises SIGPIPE. */
ssize_t sys_sendmsg(int fd, const struct iovec *iov, int count);

/* The new socket is non-blocking and close-on-exec. */
static inline int sys_accept(int fd, struct sockaddr_storage *peer, socklen_t *peer_len)
{
    int n;

    if (sys_fault(EMFILE))
        return -1;
    SYS_RETRY(n, accept4(fd, (struct sockaddr *)peer, peer_len, SOCK_NONBLOCK | SOCK_CLOEXEC));
    return n;
}

/* A stream socket (SOCK_STREAM and so on in `type`), non-blocking and close-on-exec. */
static inline int sys_socket(int family, int type)
{
    return sys_fault(EMFILE) ? -1 : socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

/* An interrupted connect goes on by itself: that is EINPROGRESS, as it is without a signal. */
static inline int sys_connect(int fd, const struct sockaddr *address, socklen_t len)
{
    int n;

    if (sys_fault(ECONNREFUSED))
        return -1;
    n = connect(fd, address, len);
    if (n < 0 && errno == EINTR)
        errno = EINPROGRESS;
    return n;
}

/* The file is close-on-exec. */
static inline int sys_open(const char *path, int flags, unsigned mode)
{
    int fd;

    if (sys_fault(EMFILE))
        return -1;
    SYS_RETRY(fd, open(path, flags | O_CLOEXEC, (mode_t)mode));
    return fd;
}

/* Another descriptor of the same thing, close-on-exec. */
static inline int sys_dup(int fd)
{
    return sys_fault(EMFILE) ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

/* The descriptor is gone whatever is returned; on Linux that is so after EINTR, too. */
static inline int sys_close(int fd)
{
    int n = close(fd);

    if (sys_fault(EIO))
        return -1;
    return n < 0 && errno == EINTR ? 0 : n;
}

/* Add one to an eventfd. It could fail only with the counter at its end (eventfd(2)), and then the
 * eventfd is readable anyway. */
static inline void sys_announce(int event_fd)
{
    uint64_t one = 1;
    ssize_t n;

    SYS_RETRY(n, write(event_fd, &one, sizeof(one)));
}

/* ---- Clock and random ---- */

static inline uint64_t sys_clock_ns_(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now); /* cannot fail for the clocks that we read */
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* Monotonic time. */
static inline uint64_t sys_now_ns(void)
{
    uint64_t frozen_ms = sys_frozen_ms();

    return frozen_ms ? frozen_ms * 1000000 : sys_clock_ns_(CLOCK_MONOTONIC);
}

static inline uint64_t sys_now_ms(void)
{
    return sys_now_ns() / 1000000;
}

static inline uint64_t sys_wall_of_(clockid_t clock)
{
    uint64_t frozen_ms = sys_frozen_ms();

    return frozen_ms ? SYS_FROZEN_WALL_MS + frozen_ms : sys_clock_ns_(clock) / 1000000;
}

/* Wall-clock time since 1970. */
static inline uint64_t sys_wall_ms(void)
{
    return sys_wall_of_(CLOCK_REALTIME);
}

/* The same as of the kernel's last tick, up to 10 ms ago: for a third of the cost. */
static inline uint64_t sys_wall_tick_ms(void)
{
    return sys_wall_of_(CLOCK_REALTIME_COARSE);
}

/* Fill with random bytes from the kernel; never fails after start-up. */
void sys_random(void *ptr, size_t size);

#endif
