/* SPDX-License-Identifier: Apache-2.0 */
/* Judging text eight bytes at a time, in plain C.
 *
 * The arithmetic is the known one on bytes within a word ("SWAR"). To mark a byte is to set its
 * top bit. Whether there is any mark at all is exact, but a borrow may mark bytes above a rightly
 * marked one: where the first one is must be looked for byte by byte. */
#ifndef BASE_WORD_H
#define BASE_WORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define WORD_BYTES  sizeof(uint64_t)
#define WORD_ALL(c) (UINT64_C(0x0101010101010101) * (unsigned char)(c)) /* eight times the byte c */
#define WORD_TOPS   WORD_ALL(0x80)

static inline uint64_t word_load(const char *at)
{
    uint64_t word;

    memcpy(&word, at, sizeof(word));
    return word;
}

/* A builtin, because _FORTIFY_SOURCE would make it a call. */
static inline void word_store(char *at, uint64_t word)
{
    __builtin_memcpy(at, &word, sizeof(word));
}

/* All bytes of a text of 1 to 8, some of them more than once: which there are, not where. Texts of
 * one length are equal if these words are. */
static inline uint64_t word_load_few(const char *at, size_t len)
{
    uint32_t front, back;

    if (len >= sizeof(front)) {
        memcpy(&front, at, sizeof(front));
        memcpy(&back, at + len - sizeof(back), sizeof(back));
        return front | (uint64_t)back << 32;
    }
    front = (unsigned char)at[0] * 0x01000001U;
    front |= (uint32_t)(unsigned char)at[len / 2] << 8;
    front |= (uint32_t)(unsigned char)at[len - 1] << 16;
    return front | (uint64_t)front << 32;
}

/* Mark bytes below `c`, which is at most 0x80. */
static inline uint64_t word_below(uint64_t word, unsigned char c)
{
    return (word - WORD_ALL(c)) & ~word & WORD_TOPS;
}

/* Mark bytes equal to `c`. */
static inline uint64_t word_equal(uint64_t word, unsigned char c)
{
    return word_below(word ^ WORD_ALL(c), 1);
}

/* Whether `c` is among the `len` bytes from `at`: cheaper than memchr for a few of them. */
static inline bool word_find(const char *at, size_t len, char c)
{
    if (len < WORD_BYTES)
        return len > 0 && word_equal(word_load_few(at, len), (unsigned char)c);
    for (size_t i = 0; len - i >= WORD_BYTES; i += WORD_BYTES)
        if (word_equal(word_load(at + i), (unsigned char)c))
            return true;
    /* the last word overlaps the one before */
    return word_equal(word_load(at + len - WORD_BYTES), (unsigned char)c) != 0;
}

/* Whether all is ASCII and not NUL: then it is UTF-8, and any database takes it. */
static inline bool word_is_plain(const char *at, size_t len)
{
    uint64_t odd = 0;

    if (len < WORD_BYTES) {
        uint64_t word = len > 0 ? word_load_few(at, len) : WORD_ALL('a');
        return !(word_equal(word, 0) | (word & WORD_TOPS));
    }
    for (size_t i = 0; len - i >= WORD_BYTES; i += WORD_BYTES)
        odd |= word_equal(word_load(at + i), 0) | word_load(at + i);
    /* the last word overlaps the one before */
    odd |= word_equal(word_load(at + len - WORD_BYTES), 0) | word_load(at + len - WORD_BYTES);
    return !(odd & WORD_TOPS);
}

/* The word with A–Z made a–z. No byte disturbs its neighbours. */
static inline uint64_t word_lower(uint64_t word)
{
    uint64_t low = word & ~WORD_TOPS;
    uint64_t from_a = low + WORD_ALL(0x80 - 'A'), past_z = low + WORD_ALL(0x7F - 'Z');

    return word | (from_a & ~past_z & ~word & WORD_TOPS) >> 2;
}

#endif
