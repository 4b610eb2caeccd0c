/* SPDX-License-Identifier: Apache-2.0 */
/* The tokens of an encoding, laid out for looking up.
 *
 * A vocabulary is one block of memory (an image) without pointers, so that it can be built once,
 * kept in a file and mapped by every process: the head, then the tables in the order of struct
 * tokens_vocab. A token's id is its rank: the order in which merges are made.
 *
 * Bytes → id: a hash table whose slots hold texts of up to eight bytes themselves.
 * Longest token at a place: a trie as a double array, with unique bases, so that a label is enough
 * to tell whose child a node is. A table by two bytes leads to its third level at once.
 * Two tokens → the token they merge into: each token is made of one pair only, whatever text it is
 * found in, so a table by the pair's ids holds every merge. */
#ifndef MODEL_TOKENS_VOCAB_H
#define MODEL_TOKENS_VOCAB_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/word.h"

/*    name, file, sha256 of the file of ranks */
#define TOKENS_ENCODINGS(X)                                                                        \
    X(O200K_BASE, "o200k_base",                                                                    \
      "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d")                          \
    X(CL100K_BASE, "cl100k_base",                                                                  \
      "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7")

enum tokens_encoding {
#define X(name, file, sha256) TOKENS_##name,
    TOKENS_ENCODINGS(X)
#undef X
        TOKENS_ENCODING_COUNT
};

#define TOKENS_MAGIC        "SlTok03" /* changes with the layout */
#define TOKENS_NONE         UINT32_MAX
#define TOKENS_ID_BITS      18 /* ids are below 2^18 */
#define TOKENS_LABEL_BITS   9
#define TOKENS_LABEL_MASK   511
#define TOKENS_NO_LABEL     256
#define TOKENS_FILTER_BYTES (512 * 1024)
#define TOKENS_MAX_BYTES    128 /* of one token */
#define TOKENS_STARTS       65536

struct tokens_word {
    uint64_t key; /* the bytes, the first lowest; of longer texts their hash */
    uint32_t id;
    uint32_t place; /* where in text << 8 | how long */
};

struct tokens_token {
    uint32_t offset;            /* of its bytes; it ends where the next one begins */
    uint32_t prefix;            /* the longest token that it begins with, or NONE */
    uint32_t left, right;       /* what it is merged of; of a single byte itself */
    uint32_t first, last;       /* the merges that take its first and its last byte, or NONE */
    uint32_t as_left, as_right; /* the first merges that take it as a whole, or NONE */
};

struct tokens_node {
    uint32_t base_label; /* base of the children << 9 | the byte that leads here, or NO_LABEL */
    uint32_t id;         /* of the token that ends here, or NONE */
};

/* What two bytes lead to from the root. */
struct tokens_start {
    uint32_t id;     /* of the token that they are, or NONE */
    uint32_t base;   /* of the children in nodes; 0: there are none */
    uint32_t lowest; /* of the tokens that begin with them, or NONE */
};

struct tokens_head {
    char magic[8];
    uint64_t bytes, sum; /* of the image; over what follows the head */
    char source[64];     /* sha256 of the file of ranks, in hex */
    uint32_t token_count, word_slots, pair_slots, node_count;
    uint32_t text_bytes; /* a multiple of 8 */
    uint32_t spare[5];   /* the tables begin with a cache line */
};

struct tokens_vocab {
    const struct tokens_head *head;
    const uint64_t *filter;            /* bits: of pairs that there may be */
    const struct tokens_start *starts; /* by two bytes, the first higher */
    const uint64_t *pairs;             /* left << 36 | right << 18 | merged; 0: free */
    const struct tokens_word *words;   /* place 0: free */
    const struct tokens_token *tokens; /* one more than there are, for its offset */
    const char *text;                  /* the tokens' bytes */
    const struct tokens_node *nodes;   /* the first is the root */
};

/* The size of an image with such a head. */
static inline uint64_t tokens_vocab_bytes(const struct tokens_head *h)
{
    return sizeof(*h) + TOKENS_FILTER_BYTES + sizeof(struct tokens_start) * TOKENS_STARTS +
           sizeof(uint64_t) * (uint64_t)h->pair_slots +
           sizeof(struct tokens_word) * (uint64_t)h->word_slots +
           sizeof(struct tokens_token) * ((uint64_t)h->token_count + 1) + h->text_bytes +
           sizeof(struct tokens_node) * (uint64_t)h->node_count;
}

/* A view of an image, which must outlive it. */
static inline struct tokens_vocab tokens_vocab_view(const void *image)
{
    struct tokens_vocab v = {.head = image};

    v.filter = (const void *)(v.head + 1);
    v.starts = (const void *)(v.filter + TOKENS_FILTER_BYTES / 8);
    v.pairs = (const void *)(v.starts + TOKENS_STARTS);
    v.words = (const void *)(v.pairs + v.head->pair_slots);
    v.tokens = (const void *)(v.words + v.head->word_slots);
    v.text = (const void *)(v.tokens + v.head->token_count + 1);
    v.nodes = (const void *)(v.text + v.head->text_bytes);
    return v;
}

static inline uint32_t tokens_vocab_len(const struct tokens_vocab *v, uint32_t id)
{
    return v->tokens[id + 1].offset - v->tokens[id].offset;
}

/* What the two bytes at `at` lead to. */
static inline const struct tokens_start *tokens_vocab_start(const struct tokens_vocab *v,
                                                            const char *at)
{
    return &v->starts[(unsigned char)at[0] << 8 | (unsigned char)at[1]];
}

/* Up to eight bytes as a number; only the bytes from `at` to `end` are touched. */
static inline uint64_t tokens_vocab_load(const char *at, size_t len, const char *end)
{
    uint64_t key = 0;

    if (len == 0)
        return 0;
    if ((size_t)(end - at) >= 8)
        return word_load(at) & UINT64_MAX >> (64 - 8 * len);
    memcpy(&key, at, len);
    return key;
}

/* The key of a text under which words has it. */
static inline uint64_t tokens_vocab_key(const char *at, size_t len, const char *end)
{
    uint64_t key = 0;

    if (len <= 8)
        return tokens_vocab_load(at, len, end);
    for (; len > 8; at += 8, len -= 8)
        key = ((key << 23 | key >> 41) ^ word_load(at)) * UINT64_C(0x9E3779B97F4A7C15);
    return (key << 23 | key >> 41) ^ tokens_vocab_load(at, len, end);
}

/* Spread a key over 64 bits. */
static inline uint64_t tokens_vocab_mix(uint64_t key)
{
    key ^= key >> 32;
    key *= UINT64_C(0xD6E8FEB86659FD93);
    return key ^ key >> 32;
}

/* Where to begin looking in a table of `slots`. */
static inline uint32_t tokens_vocab_slot(uint64_t mixed, uint32_t slots)
{
    return (uint32_t)((mixed >> 32) * slots >> 32);
}

/* A text that is looked for: its key in words, and the slot where to begin. */
struct tokens_sought {
    const char *at;
    uint64_t key;
    uint32_t len, slot;
};

/* `end` is where readable memory ends. */
static inline struct tokens_sought tokens_vocab_seek(const struct tokens_vocab *v, const char *at,
                                                     size_t len, const char *end)
{
    uint64_t key = tokens_vocab_key(at, len, end);
    uint32_t slot = tokens_vocab_slot(tokens_vocab_mix(key + len), v->head->word_slots);

    return (struct tokens_sought){at, key, (uint32_t)len, slot};
}

/* Whether the same bytes as are sought stand at `at`, in memory up to `end`. */
static inline bool tokens_vocab_is_same(const char *at, const struct tokens_sought *s,
                                        const char *end)
{
    if (s->len <= 8)
        return tokens_vocab_load(at, s->len, end) == s->key;
    for (uint32_t i = 0; i + 8 < s->len; i += 8)
        if (word_load(at + i) != word_load(s->at + i))
            return false;
    return word_load(at + s->len - 8) == word_load(s->at + s->len - 8);
}

/* The token with exactly these bytes, or NONE. */
static inline uint32_t tokens_vocab_find(const struct tokens_vocab *v,
                                         const struct tokens_sought *s)
{
    const char *end = v->text + v->head->text_bytes;
    uint32_t slot = s->slot;

    for (const struct tokens_word *word; (word = &v->words[slot])->place != 0;) {
        if (word->key == s->key && (word->place & 0xFF) == s->len &&
            (s->len <= 8 || tokens_vocab_is_same(v->text + (word->place >> 8), s, end)))
            return word->id;
        slot = slot + 1 < v->head->word_slots ? slot + 1 : 0;
    }
    return TOKENS_NONE;
}

/* The token that two tokens merge into, or NONE. */
static inline uint32_t tokens_vocab_merge(const struct tokens_vocab *v, uint32_t left,
                                          uint32_t right)
{
    uint64_t key = (uint64_t)left << TOKENS_ID_BITS | right;
    uint64_t mixed = tokens_vocab_mix(key), bit = mixed % (TOKENS_FILTER_BYTES * 8);
    uint32_t slot;

    if (!(v->filter[bit / 64] >> bit % 64 & 1))
        return TOKENS_NONE;
    slot = tokens_vocab_slot(mixed, v->head->pair_slots);
    for (uint64_t pair; (pair = v->pairs[slot]) != 0;) {
        if (pair >> TOKENS_ID_BITS == key)
            return pair & ((1u << TOKENS_ID_BITS) - 1);
        slot = slot + 1 < v->head->pair_slots ? slot + 1 : 0;
    }
    return TOKENS_NONE;
}

#endif
