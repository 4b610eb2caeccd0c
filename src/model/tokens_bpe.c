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
 * merged before either of its sides grew. Of equal ranks the leftmost is merged first.
 *
 * Most answers need less: the two bytes at the border alone forbid most of what is forbidden, and
 * a token that is the longest where it stands merges with nothing as a whole. Those two bytes and
 * the one behind also foretell most steps back. */
#include "model/tokens_bpe.h"

#include <pthread.h>
#include <string.h>

#include "base/mem.h"
#include "model/tokens_split.h"

#define SMALL_BYTES 256
#define MEMO_BYTES  29
#define MEMO_SLOTS  8192 /* 256 KiB for each thread that counts */
#define MET_SLOTS   2048 /* 40 KiB more */
#define LONG_BYTES  6    /* from which on a token's meetings are worth remembering */
#define DEEP_BYTES  16   /* from which on a way through the trie is */
#define SEEN_SLOTS  16
#define SINGLES     256        /* ids below this are single bytes */
#define LONGEST     (1u << 31) /* this token is the longest where it stands */
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

/* What stands before a place. */
struct border {
    uint32_t left;   /* the token */
    uint32_t inner;  /* the token of its last byte and the next, or NONE */
    bool is_longest; /* `left` is the longest token where it stands */
};

/* What of a token and its prefixes may stand behind another. */
struct met {
    uint32_t of, left, longest; /* `of` tells vocabularies apart; 0: nothing yet */
    struct step step;
};

/* What a thread remembers of what it counted. Threads that never count need none. */
struct memory {
    struct counted counted[MEMO_SLOTS];
    struct met met[MET_SLOTS];
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
    uint32_t *ids;           /* each with LONGEST or without */
    size_t count;
    uint64_t *dead;   /* a bit for each place that leads nowhere */
    size_t last_dead; /* none behind it does */
    bool is_deep;     /* the last step was long */
    struct seen seen[SEEN_SLOTS];
};

/* ---- what a thread remembers ---- */

static pthread_once_t memory_once = PTHREAD_ONCE_INIT;
static pthread_key_t memory_key; /* its destructor frees an ending thread's memory */
static bool memory_has_key;
static _Thread_local struct memory *own_memory;

static void memory_free(void *memory)
{
    own_memory = NULL;
    mem_free(MEM_TOKENS, memory, sizeof(struct memory));
}

static void memory_make_key(void)
{
    memory_has_key = pthread_key_create(&memory_key, memory_free) == 0;
}

/* Not in thread-local storage itself, of which every thread has all from its start on. */
static __attribute__((noinline, cold)) struct memory *memory_new(void)
{
    pthread_once(&memory_once, memory_make_key);
    if (!memory_has_key)
        return NULL;
    own_memory = mem_alloc_zero(MEM_TOKENS, sizeof(struct memory));
    if (own_memory && pthread_setspecific(memory_key, own_memory) != 0)
        memory_free(own_memory);
    return own_memory;
}

/* The calling thread's; NULL if there is none to be had, and then nothing is remembered. */
static inline struct memory *memory_get(void)
{
    return own_memory ? own_memory : memory_new();
}

/* ---- borders ---- */

/* Whether `inner`, the two bytes at a border if they are a token, merges before either is taken by
 * another merge of its side, `last` or `first`. Of those that may not meet, most may not for this.
 * The lesser bound is found without a jump, since it would be guessed wrongly half the time. */
static inline bool is_torn(uint32_t inner, uint32_t last, uint32_t first)
{
    uint32_t latest = last - 1 < first ? last - 1 : first;

    return inner <= latest;
}

/* The same for all greater pairs that face each other from two tokens on, which are bytes
 * or merged. A pair of them with a lower rank than `before` would have been merged. */
static bool is_torn_before(const struct tokens_vocab *v, uint32_t left, uint32_t right,
                           uint32_t before)
{
    while ((left | right) >= SINGLES) {
        const struct tokens_token *l = &v->tokens[left], *r = &v->tokens[right];
        uint32_t earliest = l->as_left > r->as_right ? l->as_left : r->as_right;
        if (earliest < before && tokens_vocab_merge(v, left, right) < before)
            return true;
        bool is_left_later = left > right; /* single bytes, which are no merges, have the lowest */
        before = is_left_later ? left : right + 1;
        left = is_left_later ? l->right : left;
        right = is_left_later ? right : r->left;
    }
    return false;
}

/* The same for all of a border. Nothing merges with `left` as a whole when it `is_longest` where it
 * stands, so looking begins when it has come apart. */
static inline bool is_torn_outside(const struct tokens_vocab *v, uint32_t left, uint32_t right,
                                   bool is_longest)
{
    if (!is_longest)
        return is_torn_before(v, left, right, TOKENS_NONE);
    if ((v->tokens[left].last >= left) & (v->tokens[right].first >= left))
        return false; /* both have come down to a byte then */
    while (right >= left)
        right = v->tokens[right].left;
    return is_torn_before(v, v->tokens[left].right, right, left);
}

/* Whether `right` may stand at a border. */
static inline bool may_meet(const struct tokens_vocab *v, struct border b, uint32_t right)
{
    return !is_torn(b.inner, v->tokens[b.left].last, v->tokens[right].first) &&
           !is_torn_outside(v, b.left, right, b.is_longest);
}

bool tokens_bpe_may_meet(const struct tokens_vocab *v, uint32_t left, uint32_t right)
{
    const char border[2] = {v->text[v->tokens[left + 1].offset - 1],
                            v->text[v->tokens[right].offset]};

    return may_meet(v, (struct border){left, tokens_vocab_start(v, border)->id, false}, right);
}

/* The longest token at the beginning of a text that is not empty, there is always that of a byte;
 * and how many bytes decided that, or 0 when its end did. */
static inline struct step longest(const struct tokens_vocab *v, const char *at, const char *end,
                                  uint32_t *depth)
{
    uint32_t base = v->nodes[0].base_label >> TOKENS_LABEL_BITS, len = 1;
    struct step found = {v->nodes[base + (unsigned char)*at].id, 1};

    *depth = 0;
    if (end - at < 2)
        return found;
    const struct tokens_start *start = tokens_vocab_start(v, at);
    if (start->id != TOKENS_NONE)
        found = (struct step){start->id, 2};
    base = start->base;
    for (len = 2, at += 2; at < end;) {
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
    return place <= w->last_dead && (w->dead[place / 64] >> place % 64 & 1);
}

/* Whether nothing may stand behind a token that ends at `place`: the bytes there merge before it
 * takes its last, and before any token takes the one behind. */
static inline bool is_doomed(const struct walk *w, size_t place, uint32_t id)
{
    const char *at = w->begin + place;

    return w->end - at >= 2 &&
           is_torn(tokens_vocab_start(w->vocab, at - 1)->id, w->vocab->tokens[id].last,
                   tokens_vocab_start(w->vocab, at)->lowest);
}

/* The next shorter token that a step's begins with. */
static struct step shorter(const struct tokens_vocab *v, struct step step)
{
    uint32_t id = v->tokens[step.id].prefix;

    return (struct step){id, id == TOKENS_NONE ? 0 : tokens_vocab_len(v, id)};
}

/* The longest, from `step` down, that may stand at a border; or NONE. */
static struct step meeting(const struct tokens_vocab *v, struct border b, struct step step)
{
    while (step.id != TOKENS_NONE && !may_meet(v, b, step.id))
        step = shorter(v, step);
    return step;
}

/* The same for long tokens. Runs ask again and again, and most of a long list of shorter ones may
 * not be, so answers are kept. Apart, so that short ones need no registers saved. */
static __attribute__((noinline)) struct step meeting_again(const struct tokens_vocab *v,
                                                           struct border b, struct step step)
{
    uint64_t mixed = tokens_vocab_mix((uint64_t)b.left << TOKENS_ID_BITS | step.id);
    struct memory *memory = memory_get();
    struct met *met;

    if (!memory)
        return meeting(v, b, step);
    met = &memory->met[mixed % MET_SLOTS];
    if (met->of != v->head->token_count || met->left != b.left || met->longest != step.id)
        *met = (struct met){v->head->token_count, b.left, step.id, meeting(v, b, step)};
    return met->step;
}

static inline struct border border_at(const struct walk *w, size_t place)
{
    uint32_t last = w->ids[w->count - 1];
    uint32_t inner = tokens_vocab_start(w->vocab, w->begin + place - 1)->id;

    return (struct border){last & ~LONGEST, inner, last & LONGEST};
}

/* The step itself if it may be taken at `place`, else a shorter one that perhaps may, or none. */
static inline struct step candidate(const struct walk *w, size_t place, struct step step)
{
    if (is_dead(w, place + step.len) || is_doomed(w, place + step.len, step.id))
        return shorter(w->vocab, step);
    if (w->count == 0)
        return step;
    if (step.len >= LONG_BYTES)
        return meeting_again(w->vocab, border_at(w, place), step);
    return may_meet(w->vocab, border_at(w, place), step.id) ? step : shorter(w->vocab, step);
}

/* Make a step shorter until it may be taken at `place`; false when none may. */
static inline bool fit(const struct walk *w, size_t place, struct step *step)
{
    while (step->id != TOKENS_NONE) {
        struct step next = candidate(w, place, *step);
        if (next.id == step->id)
            return true;
        *step = next;
    }
    return false;
}

/* The longest token at `place`. In a long piece that repeats itself, what was found before the same
 * bytes is taken again: runs have very long tokens, and are looked at from nearly every place. */
static inline struct step longest_at(struct walk *w, size_t place)
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

    while (place < len) {
        struct step next = longest_at(w, place);
        uint32_t longest_id = next.id;
        while (!fit(w, place, &next)) {
            if (w->count == 0)
                return 0; /* cannot be: the merges have a result */
            if (w->last_dead < place)
                w->last_dead = place;
            w->dead[place / 64] |= UINT64_C(1) << place % 64;
            next.id = w->ids[--w->count] & ~LONGEST;
            place -= tokens_vocab_len(w->vocab, next.id);
            next = shorter(w->vocab, next);
            longest_id = TOKENS_NONE;
        }
        w->ids[w->count++] = next.id == longest_id ? next.id | LONGEST : next.id;
        place += next.len;
    }
    return w->count;
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
    size_t count;

    if (len <= TOKENS_MAX_BYTES) {
        whole = tokens_vocab_seek(v, at, len, end);
        ids[0] = tokens_vocab_find(v, &whole);
        if (ids[0] != TOKENS_NONE)
            return 1;
    }
    count = encode(v, at, len, ids);
    for (size_t i = 0; i < count; i++)
        ids[i] &= ~LONGEST;
    return count;
}

/* Count a piece that is no token. */
static uint64_t count_long(const struct tokens_vocab *v, const char *at, size_t len)
{
    /* Not on the stack, of which an open stream keeps no more than a page. */
    static _Thread_local uint32_t few[SMALL_BYTES];
    uint32_t *ids;
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
    struct memory *memory = piece->len > MEMO_BYTES ? NULL : memory_get();
    struct counted *known;

    if (!memory)
        return count_long(v, piece->at, piece->len);
    known = &memory->counted[piece->slot % MEMO_SLOTS];
    if (known->len != piece->len || known->encoding != encoding ||
        !tokens_vocab_is_same(known->bytes, piece, known->bytes + MEMO_BYTES)) {
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
