/* SPDX-License-Identifier: Apache-2.0 */
/* Dialling Redis: where the master is, connecting, TLS, logging in. For redis.c. */
#ifndef STORE_REDIS_DIAL_H
#define STORE_REDIS_DIAL_H

#include "net/sock.h"
#include "store/redis_reply.h"
#include "store/redis_url.h"

/* Append a command as it travels. Errors: as buf_reserve. */
err_t redis_format(struct buf *out, const struct str *args, size_t count) ERR_MUST_CHECK;

#define REDIS_ADDRESS 272 /* bytes of "host:port" */

/* PARKS: what the first sentinel that answers calls the master. Errors: as redis_dial. */
err_t redis_dial_look(const struct redis_target *target, uint64_t at_ms,
                      char master[REDIS_ADDRESS]) ERR_MUST_CHECK;

/* PARKS: connect a closed socket, ready for commands; a harmless write has shown that the server takes
 * them. `host` is a node of a cluster; NULL for what the target says. `master` gets whom a sentinel has named. `reader` is
 * one that was just begun. Errors: TIMED_OUT at `at_ms` (loop_now_ms scale), STORE, UPSTREAM, BUSY,
 * cancellation; then the socket is closed. */
err_t redis_dial(struct sock *sock, struct redis_reader *reader, const struct redis_target *target,
                 const struct redis_host *host, uint64_t at_ms,
                 char master[REDIS_ADDRESS]) ERR_MUST_CHECK;

#endif
