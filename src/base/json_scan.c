/* SPDX-License-Identifier: Apache-2.0 */
/* The narrow vectors, and the choice between them and the wide ones.
 *
 * Vectors of sixteen bytes are plain C to gcc and clang, whatever the processor; only the way from
 * a vector to a word is ours to find. */
#include "base/json_scan.h"

#define WIDTH 16
#include "base/json_scan_steps.h"

#ifdef __SSE2__

#include <emmintrin.h>

ALWAYS_INLINE uint64_t vector_bits(vector v)
{
    return (unsigned)_mm_movemask_epi8((__m128i)v);
}

#else

/* The top bits of eight bytes. The product moves each to a place of its own in the top byte. */
static uint64_t word_bits(uint64_t bytes)
{
    bytes = bytes >> 7 & UINT64_C(0x0101010101010101);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    bytes = __builtin_bswap64(bytes);
#endif
    return bytes * UINT64_C(0x0102040810204080) >> 56;
}

ALWAYS_INLINE uint64_t vector_bits(vector v)
{
    uint64_t words[2];

    memcpy(words, &v, sizeof(words));
    return word_bits(words[0]) | word_bits(words[1]) << 8;
}

#endif

/* The letters b and r, 0x62 and 0x72, differ in one bit only, and so do f and n, 0x66 and 0x6E. */
ALWAYS_INLINE vector vector_is_short_escape(vector v)
{
    return is_quote(v) | is_backslash(v) | (vector)(v == '/') | (vector)(v == 't') |
           (vector)((v & 0xEF) == 'b') | (vector)((v & 0xF7) == 'f');
}

/* The tests of first bytes are made on the byte before. Less-or-equal is what compilers make the
 * least steps of; as signed bytes, continuation bytes are the smallest there are. */
ALWAYS_INLINE vector vector_bad_utf8(const char *at)
{
    typedef int8_t signed_vector __attribute__((vector_size(WIDTH)));
    vector bytes = vector_load(at), before = vector_load(at - 1), bad, long_2, common;

    /* A byte must be a continuation byte exactly if a first byte 1, 2 or 3 places before reaches so
     * far. */
    bad = (vector)(before <= 0xBF) & (vector)(vector_load(at - 2) <= 0xDF) &
          (vector)(vector_load(at - 3) <= 0xEF);
    bad ^= (vector)((signed_vector)bytes > (int8_t)0xBF);

    /* Some first bytes narrow the range of the second (see text.c). */
    bad |= (vector)(before == 0xE0) & (vector)(bytes <= 0x9F);
    long_2 = (vector)((before & 0xFE) == 0xC0);
    common = (vector)(before <= 0xEC) & ~long_2;
    if (vector_bits(~common)) {
        bad |= (vector)(before == 0xED) & ~(vector)(bytes <= 0x9F);
        bad |= (vector)(before == 0xF0) & (vector)(bytes <= 0x8F);
        bad |= (vector)(before == 0xF4) & ~(vector)(bytes <= 0x8F);
        /* C0, C1 and F5 to FF begin no character. */
        bad |= long_2 | ~(vector)(before <= 0xF4);
    }
    return bad;
}

const char *json_scan_string_narrow(const char *start, const char *at, const char *end,
                                    const char **stuck)
{
    return scan_string(start, at, end, stuck);
}

const char *json_scan_quote_narrow(const char *at, const char *end)
{
    return scan_quote(at, end);
}

const char *json_scan_letter_narrow(const char *at, const char *end,
                                    const char letters[JSON_SCAN_LETTERS])
{
    return scan_letter(at, end, letters);
}

/* ---- The choice ---- */

#ifdef JSON_SCAN_WIDE

bool json_scan_has_wide(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi");
}

#else

bool json_scan_has_wide(void)
{
    return false;
}

const char *json_scan_string_wide(const char *start, const char *at, const char *end,
                                  const char **stuck)
{
    return json_scan_string_narrow(start, at, end, stuck);
}

const char *json_scan_quote_wide(const char *at, const char *end)
{
    return json_scan_quote_narrow(at, end);
}

const char *json_scan_letter_wide(const char *at, const char *end,
                                  const char letters[JSON_SCAN_LETTERS])
{
    return json_scan_letter_narrow(at, end, letters);
}

#endif

const char *json_scan_near_quote(const char *at, const char *end)
{
    uint64_t special;

    if (end - at < WIDTH)
        return NULL;
    special = vector_bits(is_syntax(vector_load(at)) | vector_load(at));
    if (!special)
        return NULL;
    at += __builtin_ctzll(special);
    return *at == '"' ? at : NULL;
}

const char *json_scan_string(const char *start, const char *at, const char *end, const char **stuck)
{
    return json_scan_has_wide() ? json_scan_string_wide(start, at, end, stuck)
                                : json_scan_string_narrow(start, at, end, stuck);
}

const char *json_scan_quote(const char *at, const char *end)
{
    return json_scan_has_wide() ? json_scan_quote_wide(at, end) : json_scan_quote_narrow(at, end);
}

const char *json_scan_letter(const char *at, const char *end, const char letters[JSON_SCAN_LETTERS])
{
    return json_scan_has_wide() ? json_scan_letter_wide(at, end, letters)
                                : json_scan_letter_narrow(at, end, letters);
}
