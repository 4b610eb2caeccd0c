/* SPDX-License-Identifier: Apache-2.0 */
/* Building a vocabulary.
 *
 * Lines become texts; texts become the hash table; then, in the order of ranks, each token finds
 * the pair that it is merged of, which asks only about lower ranks; last the trie.
 *
 * The hard things: a token may be cut in two in many ways, and only that pair counts whose halves
 * may meet (tokens_bpe.h), of which there is one. A token that no merge leads to has none; it
 * stands for a whole piece only, so it stays out of the trie. And the double array: each node's
 * children are put where all their slots are free, and no two nodes may have the same base. */
#include "model/tokens_build.h"

#include <stdlib.h>

#include "base/mem.h"
#include "model/tokens_bpe.h"

#define FIRST_SLOT      256 /* nodes without children have base 0: the slots from there match nothing */
#define NODES_PER_TOKEN 4
#define MOST_BYTES      (16 * 1024 * 1024) /* of the lines: places have 24 bits */
#define MOST_TRIES      4

/* What is under construction; the tables of `v` point into `image`, and are written through these.
 * */
struct build {
    struct tokens_vocab v;
    struct tokens_head *image;
    uint64_t *filter, *pairs;
    struct tokens_start *starts;
    struct tokens_word *words;
    struct tokens_token *tokens;
    char *text;
    struct tokens_node *nodes;

    uint32_t *sorted; /* ids of the trie's tokens by their bytes */
    uint32_t sorted_count;
    struct span *waiting;       /* nodes whose children are still to be placed */
    uint8_t *is_base, *is_used; /* by slot */
    uint32_t slots, first_free, last_slot;
    size_t image_bytes;
};

/* A node and the tokens below it: those of sorted from `low` to `high` share `depth` bytes. */
struct span {
    uint32_t node, low, high, depth;
};

/* ---- lines ---- */

static int base64_value(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* Decode a word of base64 (RFC 4648, 4) to `out`; its length, or 0 when it is none. */
static uint32_t decode(struct str word, char *out)
{
    uint32_t bits = 0, len = 0;

    if (word.len % 4 != 0 || word.len > TOKENS_MAX_BYTES * 4 / 3 + 4)
        return 0;
    while (word.len > 0 && word.ptr[word.len - 1] == '=')
        word.len--;
    for (size_t i = 0; i < word.len; i++) {
        int value = base64_value(word.ptr[i]);
        if (value < 0)
            return 0;
        bits = bits << 6 | (uint32_t)value;
        if (i % 4 != 0)
            out[len++] = (char)(bits >> (6 - 2 * (i % 4)));
    }
    return len;
}

static err_t read_lines(struct build *b, struct str lines)
{
    uint32_t id = 0, at = 0;
    struct str line, word;
    uint64_t rank;

    while (lines.ptr && str_split(&lines, '\n', &line) && line.len > 0) {
        uint32_t len = str_split(&line, ' ', &word) ? decode(word, b->text + at) : 0;
        bool is_good = len > 0 && len <= TOKENS_MAX_BYTES && line.ptr && str_to_u64(line, &rank) &&
                       rank == id && (id >= 256 || len == 1);
        if (!is_good)
            return err_new(ERR_CONFIG, "line %u is not a token and its rank", id + 1);
        b->tokens[id++].offset = at;
        at += len;
    }
    b->tokens[id].offset = at;
    return id == b->image->token_count ? NULL : err_new(ERR_CONFIG, "there is an empty line");
}

/* ---- the hash tables ---- */

static err_t add_word(struct build *b, uint32_t id)
{
    const char *at = b->text + b->tokens[id].offset;
    uint32_t len = tokens_vocab_len(&b->v, id), slots = b->image->word_slots;
    const char *end = b->text + b->image->text_bytes;
    struct tokens_sought new = tokens_vocab_seek(&b->v, at, len, end);

    if (tokens_vocab_find(&b->v, &new) != TOKENS_NONE)
        return err_new(ERR_CONFIG, "line %u has a token for the second time", id + 1);
    while (b->words[new.slot].place != 0)
        new.slot = new.slot + 1 < slots ? new.slot + 1 : 0;
    b->words[new.slot] = (struct tokens_word){new.key, id, b->tokens[id].offset << 8 | len};
    return NULL;
}

static void add_pair(struct build *b, uint32_t left, uint32_t right, uint32_t merged)
{
    uint64_t key = (uint64_t)left << TOKENS_ID_BITS | right;
    uint64_t mixed = tokens_vocab_mix(key), bit = mixed % (TOKENS_FILTER_BYTES * 8);
    uint32_t slot = tokens_vocab_slot(mixed, b->image->pair_slots);

    b->filter[bit / 64] |= UINT64_C(1) << bit % 64;
    while (b->pairs[slot] != 0)
        slot = slot + 1 < b->image->pair_slots ? slot + 1 : 0;
    b->pairs[slot] = key << TOKENS_ID_BITS | merged;
}

static struct tokens_start *start_at(const struct build *b, const char *at)
{
    return &b->starts[(unsigned char)at[0] << 8 | (unsigned char)at[1]];
}

/* `id` is merged of these two. Called in the order of ranks. */
static void set_merge(struct build *b, uint32_t id, uint32_t left, uint32_t right)
{
    const char *at = b->text + b->tokens[id].offset;
    struct tokens_token *token = &b->tokens[id];
    uint32_t len = tokens_vocab_len(&b->v, id), cut = tokens_vocab_len(&b->v, left);

    token->left = left;
    token->right = right;
    token->first = cut == 1 ? id : b->tokens[left].first;
    token->last = cut + 1 == len ? id : b->tokens[right].last;
    if (b->tokens[left].as_left == TOKENS_NONE)
        b->tokens[left].as_left = id;
    if (b->tokens[right].as_right == TOKENS_NONE)
        b->tokens[right].as_right = id;
    add_pair(b, left, right, id);
    if (start_at(b, at)->lowest == TOKENS_NONE)
        start_at(b, at)->lowest = id;
    if (len == 2)
        start_at(b, at)->id = id;
}

/* The token of these bytes if merges lead to it, or NONE. */
static uint32_t find(const struct build *b, const char *at, size_t len)
{
    struct tokens_sought sought = tokens_vocab_seek(&b->v, at, len, b->text + b->image->text_bytes);
    uint32_t id = tokens_vocab_find(&b->v, &sought);

    return id == TOKENS_NONE || id < 256 || b->tokens[id].left != id ? id : TOKENS_NONE;
}

/* Find the pair that `id` is merged of, when all lower ranks have theirs. */
static void split(struct build *b, uint32_t id)
{
    const char *at = b->text + b->tokens[id].offset;
    uint32_t len = tokens_vocab_len(&b->v, id);

    b->tokens[id].left = b->tokens[id].right = id;
    b->tokens[id].first = b->tokens[id].last = TOKENS_NONE;
    b->tokens[id].as_left = b->tokens[id].as_right = TOKENS_NONE;
    for (uint32_t cut = 1; cut < len; cut++) {
        uint32_t left = find(b, at, cut);
        uint32_t right = left < id ? find(b, at + cut, len - cut) : id;
        if (right < id && tokens_bpe_may_meet(&b->v, left, right)) {
            set_merge(b, id, left, right);
            return;
        }
    }
}

static err_t fill_tables(struct build *b)
{
    for (uint32_t i = 0; i < TOKENS_STARTS; i++)
        b->starts[i].id = b->starts[i].lowest = TOKENS_NONE;
    for (uint32_t id = 0; id < b->image->token_count; id++)
        TRY(add_word(b, id));
    for (uint32_t id = 0; id < b->image->token_count; id++)
        split(b, id);
    return NULL;
}

/* ---- the trie ---- */

static int compare(const void *a, const void *b, void *arg)
{
    const struct build *build = arg;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    uint32_t x_len = tokens_vocab_len(&build->v, x), y_len = tokens_vocab_len(&build->v, y);
    int order = memcmp(build->text + build->tokens[x].offset, build->text + build->tokens[y].offset,
                       x_len < y_len ? x_len : y_len);

    return order ? order : x_len < y_len ? -1 : x_len > y_len;
}

/* The tokens that merges lead to, in the order of their bytes, each with its longest prefix. */
static void sort_tokens(struct build *b)
{
    for (uint32_t id = 0; id < b->image->token_count; id++)
        if (id < 256 || b->tokens[id].left != id)
            b->sorted[b->sorted_count++] = id;
    qsort_r(b->sorted, b->sorted_count, sizeof(*b->sorted), compare, b);
    for (uint32_t i = 0; i < b->sorted_count; i++) {
        uint32_t id = b->sorted[i], len = tokens_vocab_len(&b->v, id);
        uint32_t prefix = i > 0 ? b->sorted[i - 1] : TOKENS_NONE;
        while (prefix != TOKENS_NONE &&
               (tokens_vocab_len(&b->v, prefix) >= len ||
                memcmp(b->text + b->tokens[prefix].offset, b->text + b->tokens[id].offset,
                       tokens_vocab_len(&b->v, prefix)) != 0))
            prefix = b->tokens[prefix].prefix;
        b->tokens[id].prefix = prefix;
    }
}

/* The bytes that follow in a span's tokens, and where each begins among them. */
static uint32_t children_of(const struct build *b, const struct span *span, uint8_t *labels,
                            uint32_t *starts)
{
    uint32_t count = 0;

    for (uint32_t i = span->low; i < span->high; i++) {
        uint8_t label = (uint8_t)b->text[b->tokens[b->sorted[i]].offset + span->depth];
        if (count == 0 || labels[count - 1] != label) {
            labels[count] = label;
            starts[count++] = i;
        }
    }
    starts[count] = span->high;
    return count;
}

/* A base at which all labels find free slots, or 0 when there is no room. Slots that many nodes in
 * turn could not use are given up, lest each node tries them all. */
static uint32_t find_base(struct build *b, const uint8_t *labels, uint32_t count)
{
    uint32_t tries = 0;

    for (uint32_t slot = b->first_free; slot + 256 < b->slots; slot++) {
        uint32_t base = slot - labels[0], i = 0;
        if (b->is_used[slot])
            continue;
        tries++;
        if (base < FIRST_SLOT || b->is_base[base])
            continue;
        while (i < count && !b->is_used[base + labels[i]])
            i++;
        if (i < count)
            continue;
        if (tries > MOST_TRIES)
            b->first_free += (slot - b->first_free) / 2;
        return base;
    }
    return 0;
}

/* Put the children of one node into the array and those with children into the queue. */
static bool place_children(struct build *b, struct span span, uint32_t *waiting)
{
    uint8_t labels[256];
    uint32_t starts[257];
    uint32_t count = children_of(b, &span, labels, starts), base = find_base(b, labels, count);

    if (base == 0)
        return false;
    b->is_base[base] = 1;
    b->nodes[span.node].base_label |= base << TOKENS_LABEL_BITS;
    if (span.depth == 2)
        start_at(b, b->text + b->tokens[b->sorted[span.low]].offset)->base = base;
    if (b->last_slot < base + 255)
        b->last_slot = base + 255;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = base + labels[i], first = b->sorted[starts[i]];
        bool is_token = tokens_vocab_len(&b->v, first) == span.depth + 1;
        struct span below = {slot, starts[i] + is_token, starts[i + 1], span.depth + 1};
        b->is_used[slot] = 1;
        b->nodes[slot] = (struct tokens_node){labels[i], is_token ? first : TOKENS_NONE};
        if (below.low < below.high)
            b->waiting[(*waiting)++] = below;
    }
    return true;
}

static err_t place_all(struct build *b)
{
    uint32_t waiting = 1;
    bool fits = true;

    for (uint32_t slot = 0; slot < b->slots; slot++)
        b->nodes[slot] = (struct tokens_node){TOKENS_NO_LABEL, TOKENS_NONE};
    b->first_free = FIRST_SLOT;
    b->waiting[0] = (struct span){0, 0, b->sorted_count, 0};
    for (uint32_t i = 0; fits && i < waiting; i++)
        fits = place_children(b, b->waiting[i], &waiting);
    b->image->node_count = b->last_slot + 1;
    return fits ? NULL : err_new(ERR_CONFIG, "these tokens fit in no table");
}

static err_t make_trie(struct build *b)
{
    size_t sorted_bytes = b->image->token_count * sizeof(*b->sorted);
    size_t waiting_bytes = b->slots * sizeof(*b->waiting), flag_bytes = b->slots;
    err_t err;

    b->sorted = mem_alloc(MEM_PROCESS, sorted_bytes);
    b->waiting = mem_alloc(MEM_PROCESS, waiting_bytes);
    b->is_base = mem_alloc_zero(MEM_PROCESS, flag_bytes);
    b->is_used = mem_alloc_zero(MEM_PROCESS, flag_bytes);
    err = b->sorted && b->waiting && b->is_base && b->is_used ? NULL : err_no_memory();
    if (!err) {
        sort_tokens(b);
        err = place_all(b);
    }
    mem_free(MEM_PROCESS, b->sorted, sorted_bytes);
    mem_free(MEM_PROCESS, b->waiting, waiting_bytes);
    mem_free(MEM_PROCESS, b->is_base, flag_bytes);
    mem_free(MEM_PROCESS, b->is_used, flag_bytes);
    return err;
}

/* ---- the whole ---- */

/* Room for everything, with the trie as large as it may become. */
static err_t make_image(struct build *b, struct str lines)
{
    struct tokens_head head = {.magic = TOKENS_MAGIC};

    for (size_t i = 0; i < lines.len; i++)
        head.token_count += lines.ptr[i] == '\n';
    if (lines.len > MOST_BYTES || lines.ptr[lines.len - 1] != '\n' || head.token_count < 256 ||
        head.token_count >= 1u << TOKENS_ID_BITS)
        return err_new(ERR_CONFIG, "this is no list of tokens and their ranks");
    head.word_slots = (head.token_count + head.token_count / 2 + 7) / 8 * 8; /* whole cache lines */
    head.pair_slots = (head.token_count * 2 + 7) / 8 * 8;
    head.text_bytes = (uint32_t)((lines.len / 4 * 3 + 7) / 8 * 8);
    b->slots = head.node_count = head.token_count * NODES_PER_TOKEN + FIRST_SLOT * 2;
    b->image_bytes = tokens_vocab_bytes(&head);
    b->image = mem_alloc_zero(MEM_PROCESS, b->image_bytes);
    if (!b->image)
        return err_no_memory();
    *b->image = head;
    b->v = tokens_vocab_view(b->image);
    b->filter = (uint64_t *)(b->image + 1);
    b->starts = (struct tokens_start *)(b->filter + TOKENS_FILTER_BYTES / sizeof(*b->filter));
    b->pairs = (uint64_t *)(b->starts + TOKENS_STARTS);
    b->words = (struct tokens_word *)(b->pairs + head.pair_slots);
    b->tokens = (struct tokens_token *)(b->words + head.word_slots);
    b->text = (char *)(b->tokens + head.token_count + 1);
    b->nodes = (struct tokens_node *)(b->text + head.text_bytes);
    return NULL;
}

/* Close the room that the texts and the trie did not need. */
static err_t shrink_image(struct build *b)
{
    uint32_t text_bytes = (b->tokens[b->image->token_count].offset + 7) / 8 * 8;
    struct tokens_head *smaller;

    memmove(b->text + text_bytes, b->nodes, b->image->node_count * sizeof(*b->nodes));
    b->image->text_bytes = text_bytes;
    b->image->bytes = tokens_vocab_bytes(b->image);
    smaller = mem_resize(MEM_PROCESS, b->image, b->image_bytes, b->image->bytes);
    if (!smaller)
        return err_no_memory();
    b->image = smaller;
    return NULL;
}

err_t tokens_build(struct str lines, struct tokens_head **image)
{
    struct build b = {0};
    err_t err;

    if (lines.len == 0)
        return err_new(ERR_CONFIG, "the file is empty");
    TRY(make_image(&b, lines));
    err = read_lines(&b, lines);
    if (!err)
        err = fill_tables(&b);
    if (!err)
        err = make_trie(&b);
    if (!err)
        err = shrink_image(&b);
    if (err)
        mem_free(MEM_PROCESS, b.image, b.image_bytes);
    else
        *image = b.image;
    return err;
}
