/* SPDX-License-Identifier: Apache-2.0 */
/* Name lookup off the loop (getaddrinfo on the dns pool), with a small cache per loop.
 *
 * Fibers that ask for a name which is being looked up already wait for that one answer. */
#ifndef NET_RESOLVE_H
#define NET_RESOLVE_H

#include "net/sock.h"

#define RESOLVE_MAX_ADDRESSES   8
#define RESOLVE_MAX_NAMES       256
#define RESOLVE_KEEP_MS         30000
#define RESOLVE_KEEP_FAILURE_MS 1000

/* PARKS: addresses of `host` with `port` filled in, in the order to try them: getaddrinfo's (RFC
 * 6724), with the families taking turns (RFC 8305 §4). IP addresses need no lookup. Errors:
 * UPSTREAM when there is no such name, TIMED_OUT (fiber_wait_over) at at_ms (loop_now_ms scale),
 * BUSY, cancellation. */
err_t resolve_name(struct str host, uint16_t port, uint64_t at_ms,
                   struct address out[RESOLVE_MAX_ADDRESSES], size_t *count) ERR_MUST_CHECK;

/* The seam for tests: replace the blocking lookup (NULL restores getaddrinfo). It runs in a
 * pool's thread, writes up to RESOLVE_MAX_ADDRESSES addresses and their number; of its errors
 * only the text is used. */
void resolve_set_lookup(err_t (*lookup)(const char *host, struct address *out, size_t *count));

/* Forget this loop's cache; no fiber may be in resolve_name. */
void resolve_close(void);

#endif
