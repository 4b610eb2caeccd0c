/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes that grow, under a limit that whoever creates the buffer must state. */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"

/* Requests and connections hold several that are mostly empty: so it is kept small. */
struct buf {
    char *ptr;
    size_t len;
    size_t cap;
    size_t limit : 56;
    enum mem_use use : 8;
};

#define BUF_MAX_BYTES (((size_t)1 << 56) - 1)

/* An empty buffer that may grow to `limit` bytes; allocates nothing yet. */
static inline struct buf buf_make(enum mem_use use, size_t limit)
{
    return (struct buf){.use = use, .limit = limit < BUF_MAX_BYTES ? limit : BUF_MAX_BYTES};
}

/* Free the bytes; the buffer is empty and usable again. */
void buf_fini(struct buf *b);

/* Room for `more` bytes beyond len, so that they can be written at ptr + len. Errors: TOO_BIG
 * beyond the limit (nothing is changed), BUSY without memory. */
err_t buf_reserve(struct buf *b, size_t more) ERR_MUST_CHECK;

/* Append. `s` must not point into the buffer. Errors as buf_reserve. */
err_t buf_add(struct buf *b, struct str s) ERR_MUST_CHECK;

/* Append one byte. */
err_t buf_add_byte(struct buf *b, char c) ERR_MUST_CHECK;

/* Append printf-style. A text of 256 bytes or more needs room for one byte more than its length. */
err_t buf_printf(struct buf *b, const char *format, ...)
    __attribute__((format(printf, 2, 3))) ERR_MUST_CHECK;

/* Append a decimal number. */
err_t buf_add_u64(struct buf *b, uint64_t n) ERR_MUST_CHECK;

/* Append `s` as a JSON string with quotes. Bytes that are not UTF-8 become U+FFFD. */
err_t buf_add_json(struct buf *b, struct str s) ERR_MUST_CHECK;

/* Drop the first `n` bytes (n ≤ len), moving the rest to the front. */
void buf_drop(struct buf *b, size_t n);

/* The content; good until the next change of the buffer. */
static inline struct str buf_str(const struct buf *b)
{
    return (struct str){b->ptr, b->len};
}

#endif
