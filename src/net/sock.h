/* SPDX-License-Identifier: Apache-2.0 */
/* Stream sockets that wait: plain or TLS, TCP or unix, the same calls.
 *
 * Every wait has a time limit and ends early when the waiting fiber is cancelled. A socket is
 * tried first and waited for only when the kernel says so. At most one fiber waits on a socket
 * at a time; the loop wakes it. What the owner of an idle socket (no fiber) wants to know
 * arrives through on_ready. */
#ifndef NET_SOCK_H
#define NET_SOCK_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "base/err.h"
#include "base/str.h"
#include "fiber/fiber.h"
#include "fiber/loop.h"

struct tls_session;

/* A socket address of any family. */
struct address {
    socklen_t len;
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un un;
    } u;
};

struct sock {
    struct watch watch;
    struct fiber *waiter;    /* parked in a call on this socket */
    struct tls_session *tls; /* NULL: plain */
    /* Called on readiness when no fiber waits here (idle connections), and on hang-up also when
     * one does: that is how a server learns that a client left. May be NULL. Outside any fiber;
     * must not park, nor close a socket that is waited on. */
    void (*on_ready)(struct sock *sock);
};

/* A closed socket: what a zeroed struct is not (its descriptor would be 0). */
void sock_init(struct sock *sock);

/* Take over a connected, non-blocking descriptor. The socket's tls and on_ready are cleared.
 * Errors: SYSTEM; then the descriptor is closed. */
err_t sock_open(struct sock *sock, int fd) ERR_MUST_CHECK;

/* Close; harmless when closed. No fiber may be waiting on it. Sends TLS close_notify if that
 * needs no waiting. */
void sock_close(struct sock *sock);

/* Close with a reset (RST) instead of FIN, dropping unsent bytes. */
void sock_abort(struct sock *sock);

/* Whether there is a descriptor. */
bool sock_is_open(const struct sock *sock);

/* Whether the connection is gone in both directions (reset, or a unix peer closed), not just
 * ended by the peer's FIN. */
bool sock_is_broken(const struct sock *sock);

/* Whether the kernel would take a short write now. */
bool sock_has_room(const struct sock *sock);

/* PARKS until something about the socket changed or `at_ms`: for those who do their own tries.
 * Errors: as fiber_park. */
err_t sock_wait(struct sock *sock, uint64_t at_ms) ERR_MUST_CHECK;

/* Whether a read may give something: false means that an edge will tell (on_ready). */
bool sock_may_read(const struct sock *sock);

/* PARKS until at least one byte, the end (*n = 0) or `at_ms` (loop_now_ms scale). Errors:
 * TIMED_OUT (fiber_wait_over) when at_ms came, the fiber's cancellation, UPSTREAM-kind
 * "connection reset" for network errors. */
err_t sock_read(struct sock *sock, void *ptr, size_t size, uint64_t at_ms,
                size_t *n) ERR_MUST_CHECK;

/* As sock_read without waiting: *n = 0 and *again = true when nothing is there. For loop
 * callbacks. */
err_t sock_try_read(struct sock *sock, void *ptr, size_t size, size_t *n,
                    bool *again) ERR_MUST_CHECK;

/* PARKS until everything is handed to the kernel; each wait for the peer to take more lasts at
 * most `stall_ms` (progress starts it anew). `iov` is changed. One call when the kernel takes
 * it all. Errors: as sock_read. */
err_t sock_write(struct sock *sock, struct iovec *iov, int count, uint64_t stall_ms) ERR_MUST_CHECK;

/* As sock_write without waiting: *n bytes were taken, perhaps 0. For loop callbacks. */
err_t sock_try_write(struct sock *sock, struct iovec *iov, int count, size_t *n) ERR_MUST_CHECK;

/* PARKS until connected or `at_ms`; sets TCP_NODELAY, keep-alive 30/10/3 and TCP_USER_TIMEOUT 30
 * s. Errors: TIMED_OUT, UPSTREAM ("connection refused" …), cancellation. */
err_t sock_connect(struct sock *sock, const struct address *address, uint64_t at_ms) ERR_MUST_CHECK;

/* Set the options every accepted or dialled TCP socket has (see sock_connect); errors are
 * ignored. */
void sock_set_options(int fd, int family);

/* PARKS: end our side (FIN), then read and drop until the peer closes, `max_bytes` or `at_ms`:
 * lets a client read our early refusal before the reset that closing with unread data would
 * cause. */
void sock_drain(struct sock *sock, size_t max_bytes, uint64_t at_ms);

/* ---- addresses ---- */

/* Parse "127.0.0.1:8080", "[::1]:8080", "localhost:8080", "unix:/path"; numeric or "localhost"
 * only. */
err_t address_parse(struct str text, struct address *out) ERR_MUST_CHECK;

/* An IP address without brackets or port, as in "10.0.0.1" or "::1". False when it is none. */
bool address_set_ip(struct address *address, struct str text, uint16_t port);

/* The port, or 0 for unix sockets. */
uint16_t address_port(const struct address *address);

/* "127.0.0.1:8080", "[::1]:8080" or "unix:/path"; `out` holds 128 bytes. */
void address_format(const struct address *address, char out[128]);

/* The IP only ("127.0.0.1", "::1", "unix"); IPv4-mapped IPv6 is printed as IPv4. `out` holds 64
 * bytes. */
void address_format_ip(const struct address *address, char out[64]);

bool address_is_loopback(const struct address *address); /* unix sockets count as loopback */

/* Whether the address lies in "10.0.0.0/8" (or a plain address). False on a malformed range. */
bool address_in_range(const struct address *address, struct str cidr);

/* Whether nobody listens at a TCP address yet: SO_REUSEPORT alone would let a second service in
 * silently. Errors: SYSTEM naming the address. Port 0 and unix sockets always pass. */
err_t address_check_free(const struct address *address) ERR_MUST_CHECK;

/* Bind and listen, non-blocking, SO_REUSEPORT for TCP (SO_REUSEADDR too); a stale unix socket
 * file is replaced. Errors: SYSTEM naming the address. */
err_t address_listen(const struct address *address, int backlog, int *fd) ERR_MUST_CHECK;

#endif
