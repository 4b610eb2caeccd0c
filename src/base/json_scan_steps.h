/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of json_scan.h, included once for each width of vectors.
 *
 * A block is 64 bytes, and what is to be known of it is a word with a bit per byte: where quotes
 * are, where backslashes, where UTF-8 is broken. Rules about neighbours are then shifts of words:
 * `after(u, 2)` are the bytes two places behind each u. No rule walks from byte to byte, so text
 * dense with escapes costs little more than text without, and branches depend on no more than which
 * kinds of bytes a block has.
 *
 * The hard thing is that a rule sees an error only when it comes to the byte that should have been
 * different. Every rule is therefore made so that what the string's end cuts off shows at the
 * closing quote at the latest; what lies behind that quote counts for nothing.
 *
 * The including file says how wide a vector is (WIDTH, 16 or 32) and what differs (below). */
#ifndef BASE_JSON_SCAN_STEPS_H
#define BASE_JSON_SCAN_STEPS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define BLOCK     64
#define LOOK_BACK 3 /* the first byte of a character is at most so far before its last */

#define ALWAYS_INLINE static inline __attribute__((always_inline))

typedef uint8_t vector __attribute__((vector_size(WIDTH)));

/* For each byte, lowest first, its top bit. */
ALWAYS_INLINE uint64_t vector_bits(vector v);

/* All ones where the bytes at `at` break UTF-8, given that those before are good so far: a character
 * cut short shows at the byte that should have continued it. LOOK_BACK bytes before are readable. */
ALWAYS_INLINE vector vector_bad_utf8(const char *at);

/* All ones where a byte may follow a backslash, other than u. */
ALWAYS_INLINE vector vector_is_short_escape(vector v);

ALWAYS_INLINE vector vector_load(const char *at)
{
    vector v;

    memcpy(&v, at, sizeof(v));
    return v;
}

/* ---- Kinds of bytes: all ones where a byte is of the kind ---- */

ALWAYS_INLINE vector is_quote(vector v)
{
    return (vector)(v == '"');
}

ALWAYS_INLINE vector is_backslash(vector v)
{
    return (vector)(v == '\\');
}

ALWAYS_INLINE vector is_control(vector v)
{
    return (vector)(v < 0x20);
}

/* Only the top bit of each byte counts. */
ALWAYS_INLINE vector is_not_ascii(vector v)
{
    return v;
}

/* What may not stand in a string for itself. */
ALWAYS_INLINE vector is_syntax(vector v)
{
    return is_quote(v) | is_backslash(v) | is_control(v);
}

ALWAYS_INLINE vector is_u(vector v)
{
    return (vector)(v == 'u');
}

ALWAYS_INLINE vector is_d(vector v)
{
    return (vector)((v | 0x20) == 'd');
}

ALWAYS_INLINE vector is_hex(vector v)
{
    return (vector)('9' - v <= 9) | (vector)('f' - (v | 0x20) <= 5);
}

/* For hexadecimal digits only. Compilers make one step less of this than of the opposite. */
ALWAYS_INLINE vector is_below_8(vector v)
{
    return (vector)((v | 0x20) <= '7');
}

ALWAYS_INLINE vector is_below_c(vector v)
{
    return (vector)((v | 0x20) <= 'b');
}

/* ---- Words about a block ---- */

ALWAYS_INLINE uint64_t where(const char *block, vector (*is)(vector))
{
    uint64_t word = 0;

#pragma GCC unroll 4
    for (int i = 0; i < BLOCK; i += WIDTH)
        word |= vector_bits(is(vector_load(block + i))) << i;
    return word;
}

ALWAYS_INLINE bool has_any(const char *block, vector (*is)(vector))
{
    vector any = {0};

#pragma GCC unroll 4
    for (int i = 0; i < BLOCK; i += WIDTH)
        any |= is(vector_load(block + i));
    return vector_bits(any) != 0;
}

ALWAYS_INLINE uint64_t where_bad_utf8(const char *block)
{
    uint64_t word = 0;

#pragma GCC unroll 4
    for (int i = 0; i < BLOCK; i += WIDTH)
        word |= vector_bits(vector_bad_utf8(block + i)) << i;
    return word;
}

/* A word about this block, and the same about the one before. */
struct words {
    uint64_t now, before;
};

/* The bytes `n` places behind those of the word. */
ALWAYS_INLINE uint64_t after(struct words w, int n)
{
    return w.now << n | w.before >> (BLOCK - n);
}

/* What a block leaves to the next. */
struct scan_state {
    uint64_t escaped;        /* 1 if its last backslash escapes the next block's first byte */
    bool not_ascii;          /* it may end inside a character */
    struct words u, d, high; /* \u escapes, digits D, second digits of high surrogates: all of them
                                are of use to the next block only if this one has a u */
};

/* ---- Escapes ---- */

/* The bytes behind odd runs of backslashes, which are escaped. So is each second backslash inside a
 * run, but nothing needs to know. *escaped is carried from block to block. */
ALWAYS_INLINE uint64_t escaped_bytes(uint64_t backslashes, uint64_t *escaped)
{
    const uint64_t even = UINT64_C(0x5555555555555555);
    uint64_t carried = *escaped, behind, sum;
    bool over;

    backslashes &= ~carried; /* an escaped one is like any other byte */
    behind = backslashes << 1;
    /* Adding its first bit to a run moves it behind the run. That is done to the runs which begin at
     * an even place: they are odd if the bit comes out at an odd place, the others if they end before
     * an even place. */
    over = __builtin_add_overflow(backslashes, backslashes & ~behind & even, &sum);
    *escaped = backslashes >> 63 & !over;
    return carried | (behind & ~backslashes & (sum ^ even));
}

/* Of \u escapes, whose letters are `u`: missing digits, and surrogates without their other half. By
 * its first two digits a surrogate is a high one (D, then 8 to B) or a low one (D, then C to F); each
 * second digit of the one must be six places before that of the other. */
ALWAYS_INLINE uint64_t unicode_errors(const char *block, uint64_t backslashes, uint64_t u,
                                      struct scan_state *state)
{
    uint64_t digits, second, below_c, bad;

    state->u = (struct words){u, state->u.now};
    state->d = (struct words){where(block, is_d), state->d.now};
    digits = after(state->u, 1) | after(state->u, 2) | after(state->u, 3) | after(state->u, 4);
    second = after(state->u, 2) & after(state->d, 1) & ~where(block, is_below_8);
    below_c = where(block, is_below_c);
    state->high = (struct words){second & below_c, state->high.now};

    bad = digits & ~where(block, is_hex);
    bad |= (second & ~below_c) ^ after(state->high, 6);
    /* No quote may come before that place. */
    bad |= after(state->high, 3) & ~backslashes;
    bad |= after(state->high, 4) & ~u;
    return bad;
}

ALWAYS_INLINE uint64_t escape_errors(const char *block, uint64_t backslashes, uint64_t escaped,
                                     struct scan_state *state)
{
    uint64_t bad = escaped ? escaped & ~where(block, vector_is_short_escape) : 0, u;

    if (!(bad | state->u.now))
        return 0;
    u = bad & where(block, is_u);
    return (bad ^ u) | unicode_errors(block, backslashes, u, state);
}

/* ---- Blocks ---- */

/* Some blocks in a row, in the document or copied from it. */
struct run {
    const char *block, *end;
    const char *next; /* where to go on in the document */
    char copy[LOOK_BACK + BLOCK];
};

/* All whole blocks from `at` on. */
static void run_begin(struct run *run, const char *at, const char *end)
{
    run->block = at;
    run->end = run->next = at + (end - at) / BLOCK * BLOCK;
}

/* One block, where the document begins or ends too close: what there is of it, and of the `before`
 * bytes before, with zeros around, which in a string are errors. All copying is done here, outside
 * of the loops over blocks: after a call the compiler would have to load its constants again. */
static void run_begin_copy(struct run *run, const char *at, const char *end, size_t before)
{
    size_t left = end - at < BLOCK ? (size_t)(end - at) : BLOCK;

    memset(run->copy, 0, sizeof(run->copy));
    memcpy(run->copy + LOOK_BACK - before, at - before, before + left);
    run->block = run->copy + LOOK_BACK;
    run->end = run->block + BLOCK;
    run->next = at + left;
}

/* The quotes in a block that are not escaped. *bad is what is wrong with it. */
ALWAYS_INLINE uint64_t judge_block(const char *block, struct scan_state *state, uint64_t *bad)
{
    bool was_not_ascii = state->not_ascii;
    uint64_t backslashes, escaped;

    *bad = 0;
    state->not_ascii = has_any(block, is_not_ascii);
    if (state->not_ascii || was_not_ascii)
        *bad = where_bad_utf8(block);
    if (!(state->escaped | state->u.now) && !has_any(block, is_syntax))
        return 0;
    backslashes = where(block, is_backslash);
    escaped = escaped_bytes(backslashes, &state->escaped);
    *bad |= where(block, is_control) | escape_errors(block, backslashes, escaped, state);
    return where(block, is_quote) & ~escaped;
}

/* json_scan_string. It ends by itself: the zeros behind the document are errors. */
ALWAYS_INLINE const char *scan_string(const char *start, const char *at, const char *end,
                                      const char **stuck)
{
    struct scan_state state = {0};
    uint64_t quotes, bad;
    struct run run;

    for (;; at = run.next) {
        size_t before = at - start < LOOK_BACK ? (size_t)(at - start) : LOOK_BACK;

        if (before == LOOK_BACK && end - at >= BLOCK)
            run_begin(&run, at, end);
        else
            run_begin_copy(&run, at, end, before);
        for (const char *block = run.block; block < run.end; block += BLOCK) {
            quotes = judge_block(block, &state, &bad);
            /* Up to the first quote; without one, anywhere. */
            if (bad & (quotes ^ (quotes - 1))) {
                *stuck = at + (block - run.block);
                return NULL;
            }
            if (quotes)
                return at + (block - run.block) + __builtin_ctzll(quotes);
        }
    }
}

/* Whether an odd number of backslashes stands before `at`: 1 or 0. */
static uint64_t odd_backslashes(const char *first, const char *at)
{
    const char *before = at;

    while (before > first && before[-1] == '\\')
        before--;
    return (uint64_t)(at - before) & 1;
}

/* json_scan_quote. Backslashes count only where quotes are. */
ALWAYS_INLINE const char *scan_quote(const char *at, const char *end)
{
    const char *first = at;
    uint64_t quotes, escaped;
    struct run run;

    for (; at < end; at = run.next) {
        if (end - at >= BLOCK)
            run_begin(&run, at, end);
        else
            run_begin_copy(&run, at, end, 0);
        for (const char *block = run.block; block < run.end; block += BLOCK) {
            if (!has_any(block, is_quote))
                continue;
            escaped = odd_backslashes(first, at + (block - run.block));
            quotes = where(block, is_quote) & ~escaped_bytes(where(block, is_backslash), &escaped);
            if (quotes)
                return at + (block - run.block) + __builtin_ctzll(quotes);
        }
    }
    return end;
}

/* Where in a block a quote is followed by one of the letters. */
ALWAYS_INLINE uint64_t where_letter(const char *block, const uint8_t letters[JSON_SCAN_LETTERS])
{
    uint64_t word = 0;

#pragma GCC unroll 4
    for (int i = 0; i < BLOCK; i += WIDTH) {
        vector next = vector_load(block + i + 1), is_letter;
        is_letter = (vector)(next == letters[0]) | (vector)(next == letters[1]) |
                    (vector)(next == letters[2]) | (vector)(next == letters[3]) |
                    (vector)(next == letters[4]) | (vector)(next == letters[5]);
        word |= vector_bits(is_quote(vector_load(block + i)) & is_letter) << i;
    }
    return word;
}

/* json_scan_letter. */
ALWAYS_INLINE const char *scan_letter(const char *at, const char *end,
                                      const char letters[JSON_SCAN_LETTERS])
{
    uint8_t of[JSON_SCAN_LETTERS];
    uint64_t found;

    memcpy(of, letters, sizeof(of));
    for (; end - at > BLOCK; at += BLOCK) {
        found = where_letter(at, of);
        if (found)
            return at + __builtin_ctzll(found) + 1;
    }
    for (; end - at > 1; at++)
        if (at[0] == '"' && memchr(letters, at[1], JSON_SCAN_LETTERS))
            return at + 1;
    return end;
}

#endif
