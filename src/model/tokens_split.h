/* SPDX-License-Identifier: Apache-2.0 */
/* Where a text is cut before bytes are merged: the regular expressions of tiktoken 0.14's
 * encodings, written by hand.
 *
 * Each piece (a word with the space before it, up to three digits, a run of signs, a run of white
 * space) is then merged alone. A byte that is not part of valid UTF-8 is a sign of its own. */
#ifndef MODEL_TOKENS_SPLIT_H
#define MODEL_TOKENS_SPLIT_H

#include <stdbool.h>
#include <stddef.h>

#include "model/tokens_vocab.h"

/* The length of the first piece of the text from `at` to `end` (at < end), at least 1. A text is
 * read at most twice in all, whatever it holds. Pure. */
size_t tokens_split_next(enum tokens_encoding encoding, const char *at, const char *end);

/* Whether the text from `begin` to `end`, both not empty, is cut at `at` whatever comes before
 * `begin` or after `end`, and the part before `at` is cut into the same pieces alone: so that both
 * parts may be counted apart. False is always safe. Pure. */
bool tokens_split_is_firm(const char *begin, const char *at, const char *end);

#endif
