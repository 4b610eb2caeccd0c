/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding by longest match, with steps back.
 *
 * The encoding of a text is the one sequence of tokens in which every neighbours may meet. So we
 * need not merge: from each place we take the longest token that may stand behind the last one. If
 * none may, the last token was wrong: we go back before it and take a shorter one. A place that
 * has been left in this way is marked and never entered again, since how it is reached does not
 * matter; so no place is left twice, and the time is linear.
 *
 * The hard thing is knowing whether two tokens may meet. See each as it came to be: its merges in
 * the order of ranks. Taking both apart, the latest merge first, shows every pair that ever faced
 * each other across the border, and since when. They may meet unless such a pair would itself have
 * merged before either of its sides grew. Of equal ranks the leftmost is merged first. */
#include "model/tokens_bpe.h"

#include <string.h>

#include "base/mem.h"
#include "model/tokens_split.h"

#define SMALL_BYTES 256
#define MEMO_BYTES  29
#define MEMO_SLOTS  4096 /* 128 KiB for each thread that counts */
#define MET_SLOTS   2048 /* 40 KiB more */
#define LONG_BYTES  6    /* from which on a token's meetings are worth remembering */
#define DEEP_BYTES  16   /* from which on a way through the trie is */
#define SEEN_SLOTS  16
#define AHEAD       16 /* pieces whose slots are fetched from memory while others are looked for */

/* A piece that is no token, and its count: rare words come again. */
struct counted {
    char bytes[MEMO_BYTES];
    uint8_t encoding, len, count; /* len 0: nothing yet */
};

/* A token and its length. */
struct step {
    uint32_t id, len;
};

/* What of a token and its prefixes may stand behind another. */
struct met {
    uint32_t of, left, longest; /* `of` tells vocabularies apart; 0: nothing yet */
    struct step step;
};

/* A place where `depth` bytes decided that `step` is the longest token. */
struct seen {
    const char *at; /* NULL: nothing yet */
    uint32_t depth;
    struct step step;
};

/* An encoding under way. */
struct walk {
    const struct tokens_vocab *vocab;
    const char *begin, *end; /* of the piece */
    uint32_t *ids;
    size_t count;
    uint64_t *dead; /* a bit for each place that leads nowhere */
    bool is_deep;   /* the last step was long */
    struct seen seen[SEEN_SLOTS];
};

static inline bool may_meet(const struct tokens_vocab *v, uint32_t left, uint32_t right)
{
    uint32_t before = TOKENS_NONE; /* a pair with a lower rank than this would have been merged */

    for (;;) {
        uint32_t merged = tokens_vocab_merge(v, left, right);
        if (merged != TOKENS_NONE && merged < before)
            return false;
        uint32_t inner_left = v->tokens[left].right, inner_right = v->tokens[right].left;
        if (inner_left == left && inner_right == right)
            return true;
        bool is_left_later = left > right; /* single bytes, which are no merges, have the lowest */
        before = is_left_later ? left : right + 1;
        left = is_left_later ? inner_left : left;
        right = is_left_later ? right : inner_right;
    }
}

bool tokens_bpe_may_meet(const struct tokens_vocab *v, uint32_t left, uint32_t right)
{
    return may_meet(v, left, right);
}

/* The longest token at the beginning of a text that is not empty, there is always that of a byte;
 * and how many bytes decided that, or 0 when its end did. */
static struct step longest(const struct tokens_vocab *v, const char *at, const char *end,
                           uint32_t *depth)
{
    uint32_t base = v->nodes[0].base_label >> TOKENS_LABEL_BITS, len = 0;
    struct step found = {TOKENS_NONE, 0};

    while (at < end) {
        const struct tokens_node *node = &v->nodes[base + (unsigned char)*at++];
        len++;
        if ((node->base_label & TOKENS_LABEL_MASK) != (unsigned char)at[-1])
            break;
        if (node->id != TOKENS_NONE)
            found = (struct step){node->id, len};
        base = node->base_label >> TOKENS_LABEL_BITS;
    }
    *depth = at < end ? len : 0;
    return found;
}

static bool is_dead(const struct walk *w, size_t place)
{
    return w->dead[place / 64] >> place % 64 & 1;
}

/* The next shorter token that a step's begins with. */
static struct step shorter(const struct tokens_vocab *v, struct step step)
{
    uint32_t id = v->tokens[step.id].prefix;

    return (struct step){id, id == TOKENS_NONE ? 0 : tokens_vocab_len(v, id)};
}

/* The longest, from `step` down, that may meet `left`; or NONE. */
static struct step meeting(const struct tokens_vocab *v, uint32_t left, struct step step)
{
    while (step.id != TOKENS_NONE && !may_meet(v, left, step.id))
        step = shorter(v, step);
    return step;
}

/* The same for long tokens. Runs ask again and again, and most of a long list of shorter ones may
 * not be, so answers are kept. */
static struct step meeting_again(const struct tokens_vocab *v, uint32_t left, struct step step)
{
    static _Thread_local struct met memo[MET_SLOTS];
    uint64_t mixed = tokens_vocab_mix((uint64_t)left << TOKENS_ID_BITS | step.id);
    struct met *met = &memo[mixed % MET_SLOTS];

    if (met->of != v->head->token_count || met->left != left || met->longest != step.id)
        *met = (struct met){v->head->token_count, left, step.id, meeting(v, left, step)};
    return met->step;
}

/* Make a step shorter until it may be taken at `place`; false when none may. */
static bool fit(const struct walk *w, size_t place, struct step *step)
{
    while (step->id != TOKENS_NONE) {
        if (is_dead(w, place + step->len))
            *step = shorter(w->vocab, *step);
        else if (w->count == 0)
            return true;
        else {
            uint32_t last = w->ids[w->count - 1];
            struct step met = step->len < LONG_BYTES ? meeting(w->vocab, last, *step)
                                                     : meeting_again(w->vocab, last, *step);
            if (met.id == step->id)
                return true;
            *step = met;
        }
    }
    return false;
}

/* The longest token at `place`. In a long piece that repeats itself, what was found before the same
 * bytes is taken again: runs have very long tokens, and are looked at from nearly every place. */
static struct step longest_at(struct walk *w, size_t place)
{
    const char *at = w->begin + place;
    size_t left = (size_t)(w->end - at);
    struct seen *seen;
    struct step step;
    uint32_t depth;

    if (!w->is_deep || left < WORD_BYTES) {
        step = longest(w->vocab, at, w->end, &depth);
        w->is_deep = depth >= DEEP_BYTES;
        return step;
    }
    seen = &w->seen[tokens_vocab_mix(word_load(at)) % SEEN_SLOTS];
    if (seen->at && memcmp(seen->at, at, left < seen->depth ? left : seen->depth) == 0) {
        step = seen->step;
        while (step.len > left)
            step = shorter(w->vocab, step);
        return step;
    }
    step = longest(w->vocab, at, w->end, &depth);
    w->is_deep = depth >= DEEP_BYTES;
    if (w->is_deep)
        *seen = (struct seen){at, depth, step};
    return step;
}

static size_t walk(struct walk *w)
{
    size_t place = 0, len = (size_t)(w->end - w->begin);
    struct step next = longest_at(w, 0);

    for (;;) {
        if (fit(w, place, &next)) {
            w->ids[w->count++] = next.id;
            place += next.len;
            if (place == len)
                return w->count;
            next = longest_at(w, place);
        } else {
            if (w->count == 0)
                return 0; /* cannot be: the merges have a result */
            w->dead[place / 64] |= UINT64_C(1) << place % 64;
            next.id = w->ids[--w->count];
            next.len = tokens_vocab_len(w->vocab, next.id);
            place -= next.len;
        }
    }
}

/* Encode a piece that is no token, into `ids`, which has room for `len`. */
static size_t encode(const struct tokens_vocab *v, const char *at, size_t len, uint32_t *ids)
{
    uint64_t few[SMALL_BYTES / 64 + 1] = {0};
    struct walk w = {.vocab = v, .begin = at, .end = at + len, .ids = ids, .dead = few};
    size_t dead_bytes = (len / 64 + 1) * sizeof(*w.dead);

    if (len <= SMALL_BYTES)
        return walk(&w);
    w.dead = mem_alloc_zero(MEM_REQUEST, dead_bytes);
    if (!w.dead)
        return 0;
    walk(&w);
    mem_free(MEM_REQUEST, w.dead, dead_bytes);
    return w.count;
}

size_t tokens_bpe_encode(const struct tokens_vocab *v, const char *at, size_t len, const char *end,
                         uint32_t *ids)
{
    struct tokens_sought whole = {.at = at};

    if (len <= TOKENS_MAX_BYTES) {
        whole = tokens_vocab_seek(v, at, len, end);
        ids[0] = tokens_vocab_find(v, &whole);
        if (ids[0] != TOKENS_NONE)
            return 1;
    }
    return encode(v, at, len, ids);
}

/* Count a piece that is no token. */
static uint64_t count_long(const struct tokens_vocab *v, const char *at, size_t len)
{
    uint32_t few[SMALL_BYTES], *ids;
    size_t count;

    if (len <= SMALL_BYTES)
        return encode(v, at, len, few);
    ids = mem_alloc(MEM_REQUEST, len * sizeof(*ids));
    count = ids ? encode(v, at, len, ids) : 0;
    mem_free(MEM_REQUEST, ids, len * sizeof(*ids));
    return count ? count : len / 4;
}

/* The same for one that this thread may have counted before. */
static uint64_t count_again(const struct tokens_vocab *v, enum tokens_encoding encoding,
                            const struct tokens_sought *piece)
{
    static _Thread_local struct counted memo[MEMO_SLOTS];
    struct counted *known = &memo[piece->slot % MEMO_SLOTS];

    if (piece->len > MEMO_BYTES)
        return count_long(v, piece->at, piece->len);
    if (known->len != piece->len || known->encoding != encoding ||
        memcmp(known->bytes, piece->at, piece->len) != 0) {
        memcpy(known->bytes, piece->at, piece->len);
        known->encoding = (uint8_t)encoding;
        known->len = (uint8_t)piece->len;
        known->count = (uint8_t)count_long(v, piece->at, piece->len);
    }
    return known->count;
}

uint64_t tokens_bpe_count(const struct tokens_vocab *v, enum tokens_encoding encoding,
                          const char *at, const char *end)
{
    struct tokens_sought pieces[AHEAD];
    uint64_t total = 0;

    while (at < end) {
        size_t n = 0;
        for (; n < AHEAD && at < end; at += pieces[n++].len) {
            size_t len = tokens_split_next(encoding, at, end);
            if (len > TOKENS_MAX_BYTES) {
                total += count_long(v, at, len);
                at += len;
                break;
            }
            pieces[n] = tokens_vocab_seek(v, at, len, end);
            __builtin_prefetch(&v->words[pieces[n].slot]);
        }
        for (size_t i = 0; i < n; i++)
            total += tokens_vocab_find(v, &pieces[i]) != TOKENS_NONE
                         ? 1
                         : count_again(v, encoding, &pieces[i]);
    }
    return total;
}
