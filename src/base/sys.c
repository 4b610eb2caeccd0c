/* SPDX-License-Identifier: Apache-2.0 */
/* The parts of the system-call seam that are too long to be inline, and the faults. */
#include "base/sys.h"

#include <sched.h>
#include <stdatomic.h>
#include <sys/random.h>

#include "base/check.h"
#include "base/fault.h"

#ifdef SLUICE_FAULTS

static struct fault call = {.what = "system call"};
static atomic_bool short_io;
static _Atomic uint64_t frozen_ms;

void sys_fail_nth(uint64_t n)
{
    fault_arm(&call, n);
}

uint64_t sys_fail_count(void)
{
    return fault_count(&call);
}

void sys_short_io(bool on)
{
    atomic_store(&short_io, on);
}

void sys_set_clock_ms(uint64_t now_ms)
{
    atomic_store(&frozen_ms, now_ms);
}

bool sys_fault(int number)
{
    if (!fault_strikes(&call))
        return false;
    errno = number;
    return true;
}

size_t sys_cut(size_t size)
{
    return size > 1 && atomic_load(&short_io) ? 1 : size;
}

uint64_t sys_frozen_ms(void)
{
    return atomic_load(&frozen_ms);
}

#else

void sys_fail_nth(uint64_t n)
{
    (void)n;
}

uint64_t sys_fail_count(void)
{
    return 0;
}

void sys_short_io(bool on)
{
    (void)on;
}

void sys_set_clock_ms(uint64_t now_ms)
{
    (void)now_ms;
}

#endif

ssize_t sys_sendmsg(int fd, const struct iovec *iov, int count)
{
    struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)iov,
                             .msg_iovlen = (size_t)count};
    struct iovec one;
    ssize_t n;

    if (sys_fault(ECONNRESET))
        return -1;
    /* Empty pieces first would leave nothing of a cut one. */
    while (message.msg_iovlen > 1 && message.msg_iov->iov_len == 0) {
        message.msg_iov++;
        message.msg_iovlen--;
    }
    if (message.msg_iovlen > 0 && sys_cut(2) == 1) {
        one = (struct iovec){message.msg_iov->iov_base, sys_cut(message.msg_iov->iov_len)};
        message.msg_iov = &one;
        message.msg_iovlen = 1;
    }
    SYS_RETRY(n, sendmsg(fd, &message, MSG_NOSIGNAL));
    return n;
}

unsigned sys_processors(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
}

void sys_random(void *ptr, size_t size)
{
    char *at = ptr;

    while (size > 0) {
        ssize_t n = getrandom(at, size, 0);

        if (n > 0) {
            at += n;
            size -= (size_t)n;
        } else {
            check(errno == EINTR); /* getrandom without flags gives no other error */
        }
    }
}
