/* SPDX-License-Identifier: Apache-2.0 */
/* Takes numbers and texts off the bytes that a fuzzer made up. What is missing at the end is zero, or empty. */
#ifndef TESTS_FUZZ_INPUT_H
#define TESTS_FUZZ_INPUT_H

#include "base/arena.h"
#include "base/check.h"
#include "base/str.h"

struct fuzz_input {
    const uint8_t *at;
    size_t left;
};

static inline uint8_t input_byte(struct fuzz_input *in)
{
    if (in->left == 0)
        return 0;
    in->left--;
    return *in->at++;
}

/* Up to 64 bits: a byte that says how many bytes follow, and those. */
static inline uint64_t input_number(struct fuzz_input *in)
{
    uint64_t n = 0;

    for (unsigned count = input_byte(in) % 9; count > 0; count--)
        n = n << 8 | input_byte(in);
    return n;
}

/* A copy in the arena, exactly as long as the text, so that a sanitizer sees every overrun: up to 251 bytes as they are, or
 * (a length byte of 252 and more) those that follow again and again, up to `most`. */
static inline struct str input_text(struct fuzz_input *in, struct arena *arena, size_t most)
{
    size_t len = input_byte(in), times = 1, size;
    char *text;

    if (len >= 252) {
        times = input_number(in) % (most / 64 + 1) + 1;
        len = 1 + len % 4 * 21;
    }
    len = len < in->left ? len : in->left;
    size = len * times < most ? len * times : most;
    text = arena_alloc(arena, size ? size : 1);
    check(text != NULL);
    for (size_t i = 0; i < size; i++)
        text[i] = (char)in->at[i % len];
    in->at += len;
    in->left -= len;
    return (struct str){text, size};
}

#endif
