/* SPDX-License-Identifier: Apache-2.0 */
/* Counting tokens as the models do: exactly for OpenAI's (o200k_base and cl100k_base, token for
 * token as tiktoken 0.14's encode_ordinary), by a ratio for the others (tokens.def).
 *
 * There are no special tokens here: "<|endoftext|>" is text like any other. A byte that is not
 * part of valid UTF-8 counts as a sign of its own, and is encoded as that byte.
 *
 * The ranks lie in data_dir/tokens (docs/tokens.md) and are loaded when they are first needed,
 * once per process, under a lock: a mapped image of 20 MB (o200k) or 11 MB (cl100k), shared by all
 * processes and given back by the kernel at need, checked in some 5 ms. It is made at the first
 * use on a machine, in 0.2 s with 40 MB meanwhile; where it cannot be saved, it stays on the heap.
 * Without ranks a token is taken for every four ASCII bytes and every other character, which the
 * log says once. Each thread that counts keeps 300 KiB of words that it has counted. */
#ifndef MODEL_TOKENS_H
#define MODEL_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "base/str.h"

enum token_family {
#define FAMILY(name, ...) TOKENS_##name,
#define MODEL(...)
#include "model/tokens.def"
#undef FAMILY
#undef MODEL
    TOKENS_FAMILY_COUNT
};

/* Where ranks are looked for from now on: data_dir/tokens. What is loaded stays; what was not
 * found is looked for again. At start and after a reload. */
void tokens_use(struct str data_dir);

/* Load what `family` needs now rather than with the first text: blocks on files, so it belongs on
 * a pool (offload_run) when an image may have to be made. True when counts are of tokens and not
 * of bytes. */
bool tokens_load(enum token_family family);

/* The family of a model by its name, as callers or providers write it. Never fails. */
enum token_family tokens_family(struct str model);

/* "o200k", "claude". */
const char *tokens_family_name(enum token_family family);

/* Whether counts of this family are exact: its encoding is known and loaded (loads it). */
bool tokens_is_exact(enum token_family family);

/* Tokens of a text. Never fails; linear in the length, some 10 ns a byte. */
uint64_t tokens_count(enum token_family family, struct str text);

/* ---- streams ---- */

#define TOKENS_TALLY_BYTES 2000

/* Counts a text that comes in pieces and is not kept. All but the last of it is counted already;
 * zero bytes and a family begin one. */
struct tokens_tally {
    enum token_family family;
    uint64_t counted;
    struct buf text; /* that is still to be counted */
};

/* Add what came. That costs a copy, and every 2000 bytes what tokens_count does: an answer that is
 * shorter, and whose provider tells its usage in the end, is never counted. */
void tokens_tally_add(struct tokens_tally *tally, struct str text);

/* Let go of its memory; it is empty and of no family then. */
void tokens_tally_fini(struct tokens_tally *tally);

/* The tokens of all that was added: those of tokens_count, unless a run of 2000 bytes without any
 * border between words (spaces, signs beside letters) had to be cut: that may add or take a few
 * for each cut. */
uint64_t tokens_tally_count(const struct tokens_tally *tally);

/* ---- ids ---- */

/* The ids of a text's tokens in the family's encoding (ratios do not matter here). `ids` has room
 * for text.len ids. Errors: NOT_FOUND (no ranks), BUSY (memory). */
err_t tokens_encode(enum token_family family, struct str text, uint32_t *ids,
                    size_t *count) ERR_MUST_CHECK;

/* Append the bytes that ids stand for, which need not be UTF-8. Errors: NOT_FOUND (no ranks),
 * BAD_REQUEST (no such token; special tokens are none), and those of buf_add. */
err_t tokens_decode(enum token_family family, const uint32_t *ids, size_t count,
                    struct buf *out) ERR_MUST_CHECK;

#endif
