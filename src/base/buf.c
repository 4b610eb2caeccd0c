/* SPDX-License-Identifier: Apache-2.0 */
/* Growing by doubling, up to the limit. */
#include "base/buf.h"

#include <stdio.h>

#include "base/check.h"
#include "base/text.h"

#define FIRST_CAP 64

void buf_fini(struct buf *b)
{
    mem_free(b->use, b->ptr, b->cap);
    *b = buf_make(b->use, b->limit);
}

err_t buf_reserve(struct buf *b, size_t more)
{
    size_t needed, cap;
    char *ptr;

    if (b->cap - b->len >= more)
        return NULL;
    if (more > b->limit || b->len > b->limit - more)
        return err_new(ERR_TOO_BIG, "more than %zu bytes", (size_t)b->limit);
    needed = b->len + more;
    cap = b->cap > 0 ? b->cap : FIRST_CAP;
    if (cap < needed)
        cap = cap > b->limit / 2 || 2 * cap < needed ? needed : 2 * cap;
    if (cap > b->limit)
        cap = b->limit;
    ptr = mem_resize(b->use, b->ptr, b->cap, cap);
    if (!ptr)
        return err_no_memory();
    b->ptr = ptr;
    b->cap = cap;
    return NULL;
}

err_t buf_add(struct buf *b, struct str s)
{
    TRY(buf_reserve(b, s.len));
    if (s.len > 0)
        memcpy(b->ptr + b->len, s.ptr, s.len);
    b->len += s.len;
    return NULL;
}

err_t buf_add_byte(struct buf *b, char c)
{
    TRY(buf_reserve(b, 1));
    b->ptr[b->len++] = c;
    return NULL;
}

/* vsnprintf wants room for a NUL, which a buffer does not keep: short texts are made on the stack,
 * which has room, and only long ones are made in place. */
err_t buf_printf(struct buf *b, const char *format, ...)
{
    char small[256];
    va_list args;
    int len;

    va_start(args, format);
    len = vsnprintf(small, sizeof(small), format, args);
    va_end(args);
    if (len < 0)
        return err_no_memory();
    if ((size_t)len < sizeof(small))
        return buf_add(b, (struct str){small, (size_t)len});

    TRY(buf_reserve(b, (size_t)len + 1));
    va_start(args, format);
    vsnprintf(b->ptr + b->len, (size_t)len + 1, format, args);
    va_end(args);
    b->len += (size_t)len;
    return NULL;
}

err_t buf_add_u64(struct buf *b, uint64_t n)
{
    char digits[TEXT_U64_BYTES];

    return buf_add(b, (struct str){digits, text_put_u64(n, digits)});
}

/* How many bytes at the front of `s` can stand in a JSON string as they are. */
static size_t plain_length(struct str s)
{
    size_t i = 0;

    while (i < s.len) {
        unsigned char c = (unsigned char)s.ptr[i];
        size_t n = c < 0x80 ? 1 : text_utf8_length(str_after(s, i));

        if (n == 0 || c < 0x20 || c == '"' || c == '\\')
            break;
        i += n;
    }
    return i;
}

/* One byte that cannot: a short escape where JSON has one. */
static err_t add_escaped(struct buf *b, char c)
{
    static const char short_names[] = "\"\"\\\\\bb\ff\nn\rr\tt";

    for (size_t i = 0; i + 1 < sizeof(short_names); i += 2)
        if (c == short_names[i])
            return buf_add(b, (struct str){(char[]){'\\', short_names[i + 1]}, 2});
    if ((unsigned char)c < 0x20)
        return buf_printf(b, "\\u%04x", (unsigned)c);
    return buf_add(b, STR("\xEF\xBF\xBD"));
}

err_t buf_add_json(struct buf *b, struct str s)
{
    TRY(buf_add_byte(b, '"'));
    while (s.len > 0) {
        size_t n = plain_length(s);

        TRY(buf_add(b, (struct str){s.ptr, n}));
        s = str_after(s, n);
        if (s.len > 0) {
            TRY(add_escaped(b, s.ptr[0]));
            s = str_after(s, 1);
        }
    }
    return buf_add_byte(b, '"');
}

void buf_drop(struct buf *b, size_t n)
{
    check(n <= b->len);
    if (n == 0)
        return;
    b->len -= n;
    memmove(b->ptr, b->ptr + n, b->len);
}
