/* SPDX-License-Identifier: Apache-2.0 */
/* Byte pair encoding of one piece of text: the same tokens as merging pairs in the order of their
 * ranks gives, found in time linear in the piece's length. */
#ifndef MODEL_TOKENS_BPE_H
#define MODEL_TOKENS_BPE_H

#include <stdbool.h>
#include <stddef.h>

#include "model/tokens_vocab.h"

/* Whether two tokens may stand side by side: no merge would have joined what is at their border
 * before both were complete. Pure. */
bool tokens_bpe_may_meet(const struct tokens_vocab *vocab, uint32_t left, uint32_t right);

/* Encode the `len` bytes (at least 1) from `at` as one piece. Memory is readable up to `end`,
 * which is at or behind the piece's. `ids` has room for `len` ids. Returns how many there are; 0
 * when memory is short, which only a piece of more than 256 bytes needs. */
size_t tokens_bpe_encode(const struct tokens_vocab *vocab, const char *at, size_t len,
                         const char *end, uint32_t *ids);

/* How many tokens the text from `at` to `end` has, cut into pieces first. When memory is short for
 * a piece of more than 256 bytes, that one is taken for a token per four bytes. */
uint64_t tokens_bpe_count(const struct tokens_vocab *vocab, enum tokens_encoding encoding,
                          const char *at, const char *end);

#endif
