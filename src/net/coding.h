/* SPDX-License-Identifier: Apache-2.0 */
/* Content codings of request bodies (RFC 9110 §8.4.1): gzip and zstd, decoded under a limit as
 * they come. */
#ifndef NET_CODING_H
#define NET_CODING_H

#include "base/buf.h"
#include "base/err.h"

struct coding;

/* A decoder for a Content-Encoding value; *out is NULL for "identity" and no value at all.
 * Errors: BAD_REQUEST with status 415 for anything else, BUSY. */
err_t coding_open(struct str name, struct coding **out) ERR_MUST_CHECK;

/* PARKS now and then when in a fiber (other requests shall not wait for a bomb): decode `piece`
 * to the end of `out`. Errors: TOO_BIG at the limit of `out`, BAD_REQUEST for broken data, BUSY,
 * cancellation. */
err_t coding_push(struct coding *coding, struct str piece, struct buf *out) ERR_MUST_CHECK;

/* Whether what was pushed is complete. */
bool coding_is_complete(const struct coding *coding);

/* NULL is allowed. */
void coding_close(struct coding *coding);

#endif
