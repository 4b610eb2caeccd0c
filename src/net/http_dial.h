/* SPDX-License-Identifier: Apache-2.0 */
/* Dialling an origin: name lookup, connect, a tunnel through a proxy, TLS. For http_client.c. */
#ifndef NET_HTTP_DIAL_H
#define NET_HTTP_DIAL_H

#include "base/err.h"
#include "net/http_pool.h"

/* PARKS: connect a fresh record of http_pool_add, ready for a request. Of a host's addresses one
 * after the other is tried, each with its share of the time left, so that a family that leads
 * nowhere costs a part of the time only. Errors: TIMED_OUT at `at_ms` (loop_now_ms scale),
 * UPSTREAM with the last attempt's reason, BUSY, cancellation; the record still belongs to the
 * caller. */
err_t http_dial(struct upstream_connection *connection, const struct http_origin *origin,
                uint64_t at_ms) ERR_MUST_CHECK;

#endif
