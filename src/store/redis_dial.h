/* SPDX-License-Identifier: Apache-2.0 */
/* Dialling Redis: where the master is, connecting, TLS, logging in. For redis.c. */
#ifndef STORE_REDIS_DIAL_H
#define STORE_REDIS_DIAL_H

#include "net/sock.h"
#include "store/redis_reply.h"
#include "store/redis_url.h"

/* Append a command as it travels. Errors: as buf_reserve. */
err_t redis_format(struct buf *out, const struct str *args, size_t count) ERR_MUST_CHECK;

/* PARKS: connect a closed socket, ready for commands; a harmless write has shown that the server takes
 * them. `reader` is one that was just begun. Errors: TIMED_OUT at `at_ms` (loop_now_ms scale), STORE, UPSTREAM, BUSY,
 * cancellation; then the socket is closed. */
err_t redis_dial(struct sock *sock, struct redis_reader *reader, const struct redis_target *target,
                 uint64_t at_ms) ERR_MUST_CHECK;

#endif
