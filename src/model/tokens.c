/* SPDX-License-Identifier: Apache-2.0 */
/* Families, the two vocabularies of the process, and streams.
 *
 * The hard thing is counting a stream without keeping it. Where a text may be cut so that both
 * parts count as they do together, its pieces do not depend on what is beyond the cut: between a
 * letter and a space, for example. So a full buffer is counted up to the last such place. */
#include "model/tokens.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/word.h"
#include "model/tokens_bpe.h"
#include "model/tokens_file.h"
#include "model/tokens_split.h"
#include "observe/log.h"

static const struct {
    const char *name;
    enum tokens_encoding encoding;
    uint32_t per_mille;
    bool is_exact;
} families[] = {
#define FAMILY(name_, label, encoding_, per_mille_, exact)                                         \
    [TOKENS_##name_] = {label, TOKENS_##encoding_, per_mille_, exact},
#define MODEL(...)
#include "model/tokens.def"
#undef FAMILY
#undef MODEL
};

static const struct {
    struct str prefix;
    enum token_family family;
} models[] = {
#define FAMILY(...)
#define MODEL(prefix_, family_) {{prefix_, sizeof(prefix_) - 1}, TOKENS_##family_},
#include "model/tokens.def"
#undef FAMILY
#undef MODEL
};

/* ---- the vocabularies ---- */

enum state { UNKNOWN, ABSENT, LOADED };

static struct {
    pthread_mutex_t lock;
    char folder[TOKENS_FILE_PATH]; /* "": none was named */
    struct {
        _Atomic enum state state;
        struct tokens_vocab vocab; /* when LOADED, for the rest of the process */
    } of[TOKENS_ENCODING_COUNT];
} ranks = {.lock = PTHREAD_MUTEX_INITIALIZER};

void tokens_use(struct str data_dir)
{
    pthread_mutex_lock(&ranks.lock);
    int n = snprintf(ranks.folder, sizeof(ranks.folder), "%.*s/tokens", STR_ARG(data_dir));
    if (n < 0 || (size_t)n >= sizeof(ranks.folder))
        ranks.folder[0] = 0;
    for (int i = 0; i < TOKENS_ENCODING_COUNT; i++)
        if (atomic_load(&ranks.of[i].state) == ABSENT)
            atomic_store(&ranks.of[i].state, UNKNOWN);
    pthread_mutex_unlock(&ranks.lock);
}

static void load(enum tokens_encoding encoding)
{
    const struct tokens_head *image;
    err_t err = ranks.folder[0] ? tokens_file_open(ranks.folder, encoding, &image)
                                : err_new(ERR_NOT_FOUND, "no folder is known");

    if (err) {
        log_begin(LOG_WARN, "tokens are estimated from bytes: their ranks cannot be loaded");
        log_cstr("encoding", tokens_file_name(encoding));
        log_cstr("folder", ranks.folder);
        log_cstr("remedy", "script/get-token-ranks FOLDER fetches them");
        log_err(err);
        log_end();
    } else {
        ranks.of[encoding].vocab = tokens_vocab_view(image);
    }
    atomic_store_explicit(&ranks.of[encoding].state, err ? ABSENT : LOADED, memory_order_release);
}

/* The vocabulary, or NULL when there are no ranks. While another thread loads them, those that only
 * count do without. */
static const struct tokens_vocab *get_vocab(enum tokens_encoding encoding, bool waits)
{
    enum state state = atomic_load_explicit(&ranks.of[encoding].state, memory_order_acquire);

    if (state == UNKNOWN) {
        if (waits)
            pthread_mutex_lock(&ranks.lock);
        else if (pthread_mutex_trylock(&ranks.lock) != 0)
            return NULL;
        if (atomic_load(&ranks.of[encoding].state) == UNKNOWN)
            load(encoding);
        state = atomic_load(&ranks.of[encoding].state);
        pthread_mutex_unlock(&ranks.lock);
    }
    return state == LOADED ? &ranks.of[encoding].vocab : NULL;
}

/* ---- families ---- */

bool tokens_load(enum token_family family)
{
    return get_vocab(families[family].encoding, true) != NULL;
}

bool tokens_is_exact(enum token_family family)
{
    return families[family].is_exact && tokens_load(family);
}

const char *tokens_family_name(enum token_family family)
{
    return families[family].name;
}

enum token_family tokens_family(struct str model)
{
    for (size_t slash; (slash = str_index(model, '/')) < model.len;)
        model = str_after(model, slash + 1);
    if (str_starts(model, STR("ft:")))
        model = str_after(model, 3);
    for (size_t i = 0; i < sizeof(models) / sizeof(*models); i++) {
        struct str prefix = models[i].prefix;
        if (model.len >= prefix.len && str_same_nocase(model.ptr, prefix.ptr, prefix.len))
            return models[i].family;
    }
    return TOKENS_OTHER;
}

/* ---- counting ---- */

/* Bytes of a word whose top bit, and no other, may be set. */
static uint64_t count_marks(uint64_t marks)
{
    return (marks >> 7) * WORD_ALL(1) >> 56;
}

/* Without ranks: four ASCII bytes, or one other character, for a token. */
static uint64_t guess(struct str text)
{
    uint64_t ascii = 0, others = 0;
    size_t i = 0;

    for (; text.len - i >= WORD_BYTES; i += WORD_BYTES) {
        uint64_t word = word_load(text.ptr + i);
        ascii += WORD_BYTES - count_marks(word & WORD_TOPS);
        others += count_marks(word & word << 1 & WORD_TOPS);
    }
    for (; i < text.len; i++) {
        unsigned char byte = (unsigned char)text.ptr[i];
        ascii += byte < 0x80;
        others += byte >= 0xC0;
    }
    return (ascii + 3) / 4 + others;
}

static uint64_t count_unscaled(enum token_family family, struct str text)
{
    enum tokens_encoding encoding = families[family].encoding;
    const struct tokens_vocab *vocab = get_vocab(encoding, false);

    if (text.len == 0)
        return 0;
    return vocab ? tokens_bpe_count(vocab, encoding, text.ptr, text.ptr + text.len) : guess(text);
}

static uint64_t scale(enum token_family family, uint64_t count)
{
    return (count * families[family].per_mille + 999) / 1000;
}

uint64_t tokens_count(enum token_family family, struct str text)
{
    return scale(family, count_unscaled(family, text));
}

/* ---- streams ---- */

/* How much of a full buffer to count now: up to the last place where it may be cut; else up to its
 * last piece; else all but a character that is still incomplete. */
static size_t settled(const struct tokens_tally *tally)
{
    enum tokens_encoding encoding = families[tally->family].encoding;
    const char *begin = tally->text.ptr, *end = begin + tally->text.len;
    size_t last = 0;

    for (const char *at = end - 1; at > begin; at--)
        if (tokens_split_is_firm(begin, at, end))
            return (size_t)(at - begin);
    for (const char *at = begin; at < end; at += tokens_split_next(encoding, at, end))
        last = (size_t)(at - begin);
    if (last > 0)
        return last;
    for (int i = 0; i < 3 && ((unsigned char)end[-1] & 0xC0) == 0x80; i++)
        end--;
    return (unsigned char)end[-1] >= 0xC0 ? (size_t)(end - 1 - begin) : tally->text.len;
}

static void settle(struct tokens_tally *tally)
{
    size_t len = settled(tally);

    tally->counted += count_unscaled(tally->family, (struct str){tally->text.ptr, len});
    buf_drop(&tally->text, len);
}

void tokens_tally_add(struct tokens_tally *tally, struct str text)
{
    if (tally->text.limit == 0)
        tally->text = buf_make(MEM_REQUEST, TOKENS_TALLY_BYTES);
    while (text.len > 0) {
        size_t room = TOKENS_TALLY_BYTES - tally->text.len;
        size_t len = text.len < room ? text.len : room;
        if (buf_add(&tally->text, (struct str){text.ptr, len})) /* no memory: count it alone */
            tally->counted += count_unscaled(tally->family, (struct str){text.ptr, len});
        text = str_after(text, len);
        if (tally->text.len == TOKENS_TALLY_BYTES)
            settle(tally);
    }
}

uint64_t tokens_tally_count(const struct tokens_tally *tally)
{
    return scale(tally->family,
                 tally->counted + count_unscaled(tally->family, buf_str(&tally->text)));
}

void tokens_tally_fini(struct tokens_tally *tally)
{
    buf_fini(&tally->text);
    *tally = (struct tokens_tally){0};
}

/* ---- ids ---- */

static err_t need_vocab(enum token_family family, const struct tokens_vocab **vocab)
{
    *vocab = get_vocab(families[family].encoding, true);
    return *vocab ? NULL : err_new(ERR_NOT_FOUND, "the ranks of tokens are not installed");
}

err_t tokens_encode(enum token_family family, struct str text, uint32_t *ids, size_t *count)
{
    const char *at = text.ptr, *end = text.ptr + text.len;
    const struct tokens_vocab *vocab;

    *count = 0;
    TRY(need_vocab(family, &vocab));
    while (at < end) {
        size_t len = tokens_split_next(families[family].encoding, at, end);
        size_t more = tokens_bpe_encode(vocab, at, len, end, ids + *count);
        if (more == 0)
            return err_no_memory();
        *count += more;
        at += len;
    }
    return NULL;
}

err_t tokens_decode(enum token_family family, const uint32_t *ids, size_t count, struct buf *out)
{
    const struct tokens_vocab *vocab;

    TRY(need_vocab(family, &vocab));
    for (size_t i = 0; i < count; i++) {
        if (ids[i] >= vocab->head->token_count)
            return err_new(ERR_BAD_REQUEST, "there is no token %u", ids[i]);
        TRY(buf_add(out, (struct str){vocab->text + vocab->tokens[ids[i]].offset,
                                      tokens_vocab_len(vocab, ids[i])}));
    }
    return NULL;
}
