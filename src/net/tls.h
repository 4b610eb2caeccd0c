/* SPDX-License-Identifier: Apache-2.0 */
/* TLS 1.2 and 1.3 by OpenSSL, beneath sock_*: contexts and handshakes.
 *
 * A context is immutable and counted, made from configuration; the server's is made anew on
 * reload so that a renewed certificate is used from the next handshake on. The system's CA store
 * is loaded once, with the first connection that needs it. */
#ifndef NET_TLS_H
#define NET_TLS_H

#include "base/err.h"
#include "base/str.h"
#include "net/sock.h"

struct tls_context;

/* A server context from PEM files. Errors: CONFIG naming the file. Blocks on files. */
err_t tls_server_context(struct str certificate, struct str key,
                         struct tls_context **out) ERR_MUST_CHECK;

/* A client context that verifies peers against `ca` (a PEM file; empty: the system's CAs), with
 * an optional client certificate. Errors: CONFIG. Blocks on files. */
err_t tls_client_context(struct str ca, struct str certificate, struct str key,
                         struct tls_context **out) ERR_MUST_CHECK;

/* Counted use; any thread. NULL is allowed. */
struct tls_context *tls_context_ref(struct tls_context *context);

/* Give a reference back; the last one frees. NULL is allowed. */
void tls_context_unref(struct tls_context *context);

/* PARKS: handshake on a connected socket; from then on sock_read and sock_write are encrypted.
 * As client, `host` is sent as SNI (unless it is an IP address) and must match the certificate
 * (RFC 9525). After an error the socket must be closed. Errors: TIMED_OUT at at_ms, UPSTREAM
 * with OpenSSL's reason (certificate expired, name mismatch …), cancellation. */
err_t tls_connect(struct sock *sock, struct tls_context *context, struct str host,
                  uint64_t at_ms) ERR_MUST_CHECK;
err_t tls_accept(struct sock *sock, struct tls_context *context, uint64_t at_ms) ERR_MUST_CHECK;

/* Whether bytes wait inside the session that no edge will announce. False for plain sockets. */
bool tls_has_pending(const struct sock *sock);

/* For sock.c: the encrypted read/write of one try, in terms of EAGAIN-like results, saying that
 * we are done (close_notify, if that needs no waiting), and the end of a session. */
err_t tls_try_read(struct sock *sock, void *ptr, size_t size, size_t *n,
                   bool *again) ERR_MUST_CHECK;
err_t tls_try_write(struct sock *sock, const void *ptr, size_t size, size_t *n) ERR_MUST_CHECK;
void tls_finish(struct sock *sock);
void tls_end(struct sock *sock);

#endif
