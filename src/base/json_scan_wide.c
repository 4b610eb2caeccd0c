/* SPDX-License-Identifier: Apache-2.0 */
/* The wide vectors: 32 bytes, for processors with AVX2.
 *
 * The hard thing is UTF-8. Whether two neighbouring bytes can stand side by side depends on three
 * half bytes: both of the first and the upper one of the second. Each looks up, in a table of
 * sixteen entries, which kinds of error it takes part in; an error that all three name is one.
 * (The method is Keiser and Lemire's, "Validating UTF-8 in less than one instruction per byte",
 * 2021.) */
#include "base/json_scan.h"

#ifdef JSON_SCAN_WIDE

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

/* What json_scan_has_wide asks for. */
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,bmi"))), apply_to = function)
#else
#pragma GCC target("avx2,bmi")
#endif

#define WIDTH 32
#include "base/json_scan_steps.h"

ALWAYS_INLINE uint64_t vector_bits(vector v)
{
    return (uint32_t)_mm256_movemask_epi8((__m256i)v);
}

/* Sixteen entries, once for each half of a vector. */
#define TABLE(...) ((vector){__VA_ARGS__, __VA_ARGS__})

ALWAYS_INLINE vector look_up(vector table, vector half_bytes)
{
    return (vector)_mm256_shuffle_epi8((__m256i)table, (__m256i)half_bytes);
}

/* The upper half of each byte. There are no shifts of bytes, only of pairs. */
ALWAYS_INLINE vector upper(vector v)
{
    return (vector)_mm256_srli_epi16((__m256i)v, 4) & 0x0F;
}

/* Looked up by both halves: bits for what begins with 2, 5, 6 and 7. A byte that is not ASCII finds
 * nothing in the first table, since its top bit is set. */
ALWAYS_INLINE vector vector_is_short_escape(vector v)
{
    enum { PUNCTUATION = 1, BACKSLASH = 2, B_F_N = 4, R_T = 8 };
    const vector by_lower = TABLE(0, 0, PUNCTUATION | B_F_N | R_T, 0, R_T, 0, B_F_N, 0, 0, 0, 0, 0,
                                  BACKSLASH, 0, B_F_N, PUNCTUATION);
    const vector by_upper =
        TABLE(0, 0, PUNCTUATION, 0, 0, BACKSLASH, B_F_N, R_T, 0, 0, 0, 0, 0, 0, 0, 0);

    return (vector)((look_up(by_lower, v) & look_up(by_upper, upper(v))) != 0);
}

/* What can be wrong with two neighbours. */
enum {
    CUT_SHORT = 1,   /* C0 to FF, then no continuation */
    STRAY = 2,       /* ASCII, then a continuation */
    LONG_2 = 4,      /* C0 or C1: two bytes for what needs one */
    LONG_3 = 8,      /* E0, then less than A0 */
    SURROGATE = 16,  /* ED, then A0 or more */
    LOW_4 = 32,      /* F0 or F5 to FF, then less than 90 */
    HIGH_4 = 64,     /* F4 to FF, then 90 or more */
    CONTINUED = 128, /* two continuations: wrong unless a first byte before reaches so far */
};

ALWAYS_INLINE vector neighbour_errors(vector first, vector second)
{
    enum {
        ANY = CUT_SHORT | STRAY | CONTINUED,
        F5_FF = ANY | LOW_4 | HIGH_4,
        FOLLOWED = STRAY | LONG_2 | CONTINUED,
        FROM_A0 = FOLLOWED | SURROGATE | HIGH_4,
    };
    const vector by_first_upper =
        TABLE(STRAY, STRAY, STRAY, STRAY, STRAY, STRAY, STRAY, STRAY, /* ASCII */
              CONTINUED, CONTINUED, CONTINUED, CONTINUED, CUT_SHORT | LONG_2, CUT_SHORT,
              CUT_SHORT | LONG_3 | SURROGATE, CUT_SHORT | LOW_4 | HIGH_4);
    const vector by_first_lower =
        TABLE(ANY | LONG_2 | LONG_3 | LOW_4, ANY | LONG_2, ANY, ANY, ANY | HIGH_4, F5_FF, F5_FF,
              F5_FF, F5_FF, F5_FF, F5_FF, F5_FF, F5_FF, F5_FF | SURROGATE, F5_FF, F5_FF);
    const vector by_second_upper =
        TABLE(CUT_SHORT, CUT_SHORT, CUT_SHORT, CUT_SHORT, CUT_SHORT, CUT_SHORT, CUT_SHORT,
              CUT_SHORT, FOLLOWED | LONG_3 | LOW_4, FOLLOWED | LONG_3 | HIGH_4, FROM_A0, FROM_A0,
              CUT_SHORT, CUT_SHORT, CUT_SHORT, CUT_SHORT);

    return look_up(by_first_upper, upper(first)) & look_up(by_first_lower, first & 0x0F) &
           look_up(by_second_upper, upper(second));
}

/* Saturating differences whose top bit, CONTINUED, is set from E0 and from F0 on. */
ALWAYS_INLINE vector vector_bad_utf8(const char *at)
{
    __m256i from_e0 = _mm256_subs_epu8((__m256i)vector_load(at - 2), _mm256_set1_epi8(0x60));
    __m256i from_f0 = _mm256_subs_epu8((__m256i)vector_load(at - 3), _mm256_set1_epi8(0x70));
    vector reached = (vector)(from_e0 | from_f0) & CONTINUED;

    return (vector)(neighbour_errors(vector_load(at - 1), vector_load(at)) != reached);
}

const char *json_scan_string_wide(const char *start, const char *at, const char *end,
                                  const char **stuck)
{
    return scan_string(start, at, end, stuck);
}

const char *json_scan_quote_wide(const char *at, const char *end)
{
    return scan_quote(at, end);
}

const char *json_scan_letter_wide(const char *at, const char *end,
                                  const char letters[JSON_SCAN_LETTERS])
{
    return scan_letter(at, end, letters);
}

#ifdef __clang__
#pragma clang attribute pop
#endif

#endif
