/* SPDX-License-Identifier: Apache-2.0 */
/* Stream sockets that wait.
 *
 * A call tries first and parks only when the kernel has nothing to give or no room. The watch's
 * flags remember what the last try found out: after a read that filled less than was asked there
 * is nothing left, and the next edge will say when there is, so no second recv is spent on
 * learning it.
 *
 * The hard thing is that rule's exception: once the peer has hung up no further edge comes, so a
 * short read must not clear the flag then, or the end of the stream would never be seen. */
#include "net/sock.h"

#include <errno.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/list.h"
#include "base/sys.h"
#include "net/tls.h"

#define RECORD_BYTES (16 * 1024) /* a TLS record's most */
#define JOIN_BYTES   4096 /* so many are copied faster than the kernel takes a list of pieces */
#define YIELD_BYTES  (1024 * 1024) /* a peer that sends without end shall not keep the thread */

/* A network error as people know it. Made here once; callers give it their own meaning. */
static err_t network_error(int number)
{
    switch (number) {
    case ECONNREFUSED:
        return err_new(ERR_UPSTREAM, "connection refused");
    case ECONNRESET:
    case EPIPE:
        return err_new(ERR_UPSTREAM, "connection reset");
    case ETIMEDOUT:
        return err_new(ERR_UPSTREAM, "the peer does not answer");
    case EHOSTUNREACH:
    case ENETUNREACH:
        return err_new(ERR_UPSTREAM, "no route to the host");
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOBUFS:
        return err_new(ERR_BUSY, "no descriptors or memory for a connection");
    default:
        return err_new(ERR_UPSTREAM, "network error %d", number);
    }
}

static void sock_on_watch(struct watch *watch)
{
    struct sock *sock = container_of(watch, struct sock, watch);

    if (sock->waiter)
        fiber_wake(sock->waiter);
    if (sock->on_ready && (!sock->waiter || watch->hung_up))
        sock->on_ready(sock);
}

void sock_init(struct sock *sock)
{
    *sock = (struct sock){.watch = {.fd = -1}};
}

err_t sock_open(struct sock *sock, int fd)
{
    err_t err;

    sock_init(sock);
    err = watch_open(&sock->watch, fd, sock_on_watch);
    if (err) {
        sock->watch.fd = -1;
        sys_close(fd);
    }
    return err;
}

void sock_close(struct sock *sock)
{
    if (!sock_is_open(sock))
        return;
    check(!sock->waiter);
    if (sock->tls)
        tls_end(sock);
    watch_close(&sock->watch);
    sock->watch.fd = -1;
}

void sock_abort(struct sock *sock)
{
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};

    if (sock_is_open(sock))
        setsockopt(sock->watch.fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    sock_close(sock);
}

bool sock_is_open(const struct sock *sock)
{
    return sock->watch.fd >= 0;
}

bool sock_is_broken(const struct sock *sock)
{
    struct pollfd state = {.fd = sock->watch.fd};

    return sock->watch.hung_up && poll(&state, 1, 0) == 1;
}

bool sock_has_room(const struct sock *sock)
{
    struct pollfd state = {.fd = sock->watch.fd, .events = POLLOUT};

    return poll(&state, 1, 0) == 1;
}

err_t sock_wait(struct sock *sock, uint64_t at_ms)
{
    err_t err;

    check(!sock->waiter);
    sock->waiter = fiber_self();
    err = fiber_park(at_ms);
    sock->waiter = NULL;
    return err;
}

bool sock_may_read(const struct sock *sock)
{
    return sock->watch.readable || tls_has_pending(sock);
}

err_t sock_try_read(struct sock *sock, void *ptr, size_t size, size_t *n, bool *again)
{
    ssize_t got;

    *n = 0;
    *again = false;
    if (sock->tls)
        return tls_try_read(sock, ptr, size, n, again);
    got = sys_recv(sock->watch.fd, ptr, size, 0);
    if (got < 0 && (errno == EAGAIN)) {
        sock->watch.readable = false;
        *again = true;
        return NULL;
    }
    if (got < 0)
        return network_error(errno);
    if (got > 0 && (size_t)got < sys_cut(size) && !sock->watch.hung_up)
        sock->watch.readable = false;
    *n = (size_t)got;
    return NULL;
}

err_t sock_read(struct sock *sock, void *ptr, size_t size, uint64_t at_ms, size_t *n)
{
    for (;;) {
        bool again = true;
        if (sock_may_read(sock))
            TRY(sock_try_read(sock, ptr, size, n, &again));
        if (!again)
            return NULL;
        TRY(sock_wait(sock, at_ms));
    }
}

/* The pieces' first bytes as one: at most `most` (RECORD_BYTES) of them, copied to memory of this thread that the next call takes
 * again; or the first piece as it is, if there is no other or no room for it. Returns how many. */
static size_t join(const struct iovec *iov, int count, size_t most, const char **out)
{
    static _Thread_local char joined[RECORD_BYTES];
    size_t len = 0;

    *out = iov[0].iov_base;
    if (count == 1 || iov[0].iov_len >= most)
        return iov[0].iov_len;
    *out = joined;
    for (int i = 0; i < count && len < most; i++) {
        size_t part = iov[i].iov_len < most - len ? iov[i].iov_len : most - len;
        if (part > 0)
            memcpy(joined + len, iov[i].iov_base, part);
        len += part;
    }
    return len;
}

/* One write of the pieces as a TLS record, so that head and body travel as one. */
static err_t try_write_tls(struct sock *sock, const struct iovec *iov, int count, size_t *n)
{
    const char *ptr;
    size_t size = join(iov, count, RECORD_BYTES, &ptr);

    return tls_try_write(sock, ptr, size, n);
}

static bool is_small(const struct iovec *iov, int count)
{
    size_t size = 0;

    for (int i = 0; i < count && size <= JOIN_BYTES; i++)
        size += iov[i].iov_len;
    return size <= JOIN_BYTES;
}

static ssize_t try_write_plain(struct sock *sock, const struct iovec *iov, int count)
{
    const char *ptr;
    size_t size;

    if (count > 1 && !is_small(iov, count))
        return sys_sendmsg(sock->watch.fd, iov, count < IOV_MAX ? count : IOV_MAX);
    size = join(iov, count, JOIN_BYTES, &ptr);
    return sys_send(sock->watch.fd, ptr, size);
}

err_t sock_try_write(struct sock *sock, struct iovec *iov, int count, size_t *n)
{
    ssize_t sent;

    *n = 0;
    while (count > 0 && iov->iov_len == 0)
        iov++, count--;
    if (count == 0)
        return NULL;
    if (sock->tls)
        return try_write_tls(sock, iov, count, n);
    sent = try_write_plain(sock, iov, count);
    if (sent >= 0) {
        *n = (size_t)sent;
        return NULL;
    }
    if (errno != EAGAIN)
        return network_error(errno);
    sock->watch.writable = false;
    return NULL;
}

/* Leave out the first `n` bytes of the pieces. */
static void iov_advance(struct iovec **iov, int *count, size_t n)
{
    while (*count > 0 && n >= (*iov)->iov_len) {
        n -= (*iov)->iov_len;
        ++*iov;
        --*count;
    }
    if (n > 0) {
        (*iov)->iov_base = (char *)(*iov)->iov_base + n;
        (*iov)->iov_len -= n;
    }
}

/* When a wait of `ms` from now ends; for ever stays for ever. */
static uint64_t end_of(uint64_t ms)
{
    uint64_t now_ms = loop_now_ms();

    return ms > FIBER_FOREVER - now_ms ? FIBER_FOREVER : now_ms + ms;
}

err_t sock_write(struct sock *sock, struct iovec *iov, int count, uint64_t stall_ms)
{
    uint64_t at_ms = end_of(stall_ms);

    iov_advance(&iov, &count, 0);
    while (count > 0) {
        size_t n = 0;
        if (sock->watch.writable)
            TRY(sock_try_write(sock, iov, count, &n));
        if (n > 0)
            at_ms = end_of(stall_ms);
        else
            TRY(sock_wait(sock, at_ms));
        iov_advance(&iov, &count, n);
    }
    return NULL;
}

void sock_set_options(int fd, int family)
{
    int on = 1, idle_s = 30, interval_s = 10, probes = 3;
    unsigned unanswered_ms = 30000;

    if (family == AF_UNIX)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unanswered_ms, sizeof unanswered_ms);
}

/* PARKS until a connection under way is established or has failed. */
static err_t await_connection(struct sock *sock, uint64_t at_ms)
{
    int number = 0;
    socklen_t len = sizeof number;

    sock->watch.readable = sock->watch.writable = false;
    while (!sock->watch.writable && !sock->watch.hung_up)
        TRY(sock_wait(sock, at_ms));
    getsockopt(sock->watch.fd, SOL_SOCKET, SO_ERROR, &number, &len);
    return number ? network_error(number) : NULL;
}

err_t sock_connect(struct sock *sock, const struct address *address, uint64_t at_ms)
{
    bool under_way = false;
    err_t err = NULL;
    int fd;

    sock_init(sock);
    fd = sys_socket(address->u.any.sa_family, SOCK_STREAM);
    if (fd < 0)
        return network_error(errno);
    sock_set_options(fd, address->u.any.sa_family);
    if (sys_connect(fd, &address->u.any, address->len) != 0) {
        under_way = errno == EINPROGRESS || errno == EINTR;
        if (!under_way)
            err = network_error(errno);
    }
    if (err) {
        sys_close(fd);
        return err;
    }
    TRY(sock_open(sock, fd));
    if (under_way)
        err = await_connection(sock, at_ms);
    if (err)
        sock_close(sock);
    return err;
}

void sock_drain(struct sock *sock, size_t max_bytes, uint64_t at_ms)
{
    size_t n = 1, total = 0, rested = 0;

    if (sock->tls)
        tls_finish(sock);
    shutdown(sock->watch.fd, SHUT_WR);
    while (n > 0 && total < max_bytes) {
        if (sock_read(sock, loop_scratch(), LOOP_SCRATCH_BYTES, at_ms, &n))
            return;
        total += n;
        if (total - rested < YIELD_BYTES)
            continue;
        if (fiber_yield())
            return;
        rested = total;
    }
}
