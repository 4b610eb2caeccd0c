/* SPDX-License-Identifier: Apache-2.0 */
/* Borrowed text: comparing, finding, cutting. Nothing here allocates. */
#include "base/str.h"

#include "base/word.h"

/* Small and capital letters differ in one bit. */
static bool same_nocase(uint64_t a, uint64_t b)
{
    return a == b || (!((a ^ b) & ~WORD_ALL('a' ^ 'A')) && word_lower(a) == word_lower(b));
}

int str_compare(struct str a, struct str b)
{
    size_t len = a.len < b.len ? a.len : b.len;
    int order = len ? memcmp(a.ptr, b.ptr, len) : 0;

    return order ? order : (a.len > b.len) - (a.len < b.len);
}

bool str_same_nocase(const char *a, const char *b, size_t len)
{
    size_t last;

    if (len < WORD_BYTES)
        return len == 0 || same_nocase(word_load_few(a, len), word_load_few(b, len));
    last = len - WORD_BYTES;
    for (size_t i = 0; i < last; i += WORD_BYTES)
        if (!same_nocase(word_load(a + i), word_load(b + i)))
            return false;
    return same_nocase(word_load(a + last), word_load(b + last)); /* may overlap the one before */
}

bool str_ends(struct str s, struct str suffix)
{
    return s.len >= suffix.len && str_eq(str_after(s, s.len - suffix.len), suffix);
}

size_t str_index(struct str s, char c)
{
    const char *found = s.len > 0 ? memchr(s.ptr, c, s.len) : NULL;

    return found ? (size_t)(found - s.ptr) : s.len;
}

size_t str_find(struct str s, struct str needle)
{
    const char *found;

    if (needle.len == 0)
        return 0;
    found = s.len > 0 ? memmem(s.ptr, s.len, needle.ptr, needle.len) : NULL;
    return found ? (size_t)(found - s.ptr) : s.len;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

struct str str_trim(struct str s)
{
    while (s.len > 0 && is_blank(s.ptr[0]))
        s = str_after(s, 1);
    while (s.len > 0 && is_blank(s.ptr[s.len - 1]))
        s.len--;
    return s;
}

bool str_split(struct str *rest, char separator, struct str *part)
{
    size_t n;

    if (!rest->ptr)
        return false;
    n = str_index(*rest, separator);
    *part = (struct str){rest->ptr, n};
    *rest = n < rest->len ? str_after(*rest, n + 1) : (struct str){0};
    return true;
}

bool str_to_u64(struct str s, uint64_t *out)
{
    uint64_t n = 0;

    if (s.len == 0)
        return false;
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] < '0' || s.ptr[i] > '9')
            return false;
        if (__builtin_mul_overflow(n, 10, &n) ||
            __builtin_add_overflow(n, (uint64_t)(s.ptr[i] - '0'), &n))
            return false;
    }
    *out = n;
    return true;
}

bool str_eq_secret(struct str a, struct str b)
{
    /* Volatile keeps the compiler from leaving the loop early. */
    volatile unsigned char difference = 0;

    if (a.len != b.len)
        return false;
    for (size_t i = 0; i < a.len; i++)
        difference = (unsigned char)(difference | (a.ptr[i] ^ b.ptr[i]));
    return difference == 0;
}

/* Names longer than this are not worth a suggestion. */
#define DISTANCE_MAX 64

static size_t min(size_t a, size_t b)
{
    return a < b ? a : b;
}

size_t str_distance(struct str a, struct str b, size_t limit)
{
    /* Rows of the usual table: the one being made and the two before it, in turns. */
    unsigned char rows[3][DISTANCE_MAX + 1];

    if (a.len > DISTANCE_MAX || b.len > DISTANCE_MAX)
        return str_eq(a, b) ? 0 : limit + 1;
    for (size_t i = 0; i <= a.len; i++) {
        unsigned char *row = rows[i % 3], *above = rows[(i + 2) % 3], *above2 = rows[(i + 1) % 3];

        row[0] = (unsigned char)i;
        for (size_t j = 1; j <= b.len; j++) {
            size_t best = row[j - 1] + (size_t)1;

            if (i > 0) {
                best = min(best, above[j] + (size_t)1);
                best = min(best, above[j - 1] + (size_t)(a.ptr[i - 1] != b.ptr[j - 1]));
            }
            if (i > 1 && j > 1 && a.ptr[i - 1] == b.ptr[j - 2] && a.ptr[i - 2] == b.ptr[j - 1])
                best = min(best, above2[j - 2] + (size_t)1);
            row[j] = (unsigned char)best;
        }
    }
    return min(rows[a.len % 3][b.len], limit + 1);
}
