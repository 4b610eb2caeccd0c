/* SPDX-License-Identifier: Apache-2.0 */
/* Borrowed text: a pointer and a length, passed by value, not terminated, never freed.
 *
 * A function that returns a str says until when it is good. What must grow is a struct buf. */
#ifndef BASE_STR_H
#define BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct str {
    const char *ptr;
    size_t len;
};

/* A str from a string literal, usable in constant expressions of block scope. */
#define STR(literal) ((struct str){"" literal, sizeof(literal) - 1})

/* For printf's "%.*s". */
#define STR_ARG(s) (int)(s).len, (s).ptr

/* A str over a C string (NULL gives an empty one). */
static inline struct str str_from(const char *cstr)
{
    return (struct str){cstr, cstr ? strlen(cstr) : 0};
}

/* Exact equality. */
static inline bool str_eq(struct str a, struct str b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

/* Whether two texts of `len` bytes are equal ignoring ASCII case. */
bool str_same_nocase(const char *a, const char *b, size_t len);

/* The order of bytes, a beginning before what goes on: < 0, 0 or > 0. */
int str_compare(struct str a, struct str b);

/* Equality ignoring ASCII case. */
static inline bool str_eq_nocase(struct str a, struct str b)
{
    return a.len == b.len && str_same_nocase(a.ptr, b.ptr, a.len);
}

/* Whether `s` begins with `prefix`. */
static inline bool str_starts(struct str s, struct str prefix)
{
    return s.len >= prefix.len && (prefix.len == 0 || memcmp(s.ptr, prefix.ptr, prefix.len) == 0);
}

/* Whether `s` ends with `suffix`. */
bool str_ends(struct str s, struct str suffix);

/* What is left of `s` after `n` bytes (n ≤ len). */
static inline struct str str_after(struct str s, size_t n)
{
    return (struct str){n > 0 ? s.ptr + n : s.ptr, s.len - n};
}

/* Position of the first `c`, or s.len. */
size_t str_index(struct str s, char c);

/* Position of the first `needle`, or s.len. */
size_t str_find(struct str s, struct str needle);

/* `s` without spaces and tabs at both ends. */
struct str str_trim(struct str s);

/* Take the text before the next `separator` out of *rest into *part. False when *rest is used up.
 * An empty text has one empty part. Start with rest->ptr non-NULL; the last part makes it NULL. */
bool str_split(struct str *rest, char separator, struct str *part);

/* Read all of `s` as a decimal number without sign. False on anything else or overflow. */
bool str_to_u64(struct str s, uint64_t *out);

/* Equality in a time that depends on the lengths only: for secrets. */
bool str_eq_secret(struct str a, struct str b);

/* Edit distance (insert, delete, replace, swap neighbours), at most `limit` + 1: for "did you
 * mean". */
size_t str_distance(struct str a, struct str b, size_t limit);

#endif
