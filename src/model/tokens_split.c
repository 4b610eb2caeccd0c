/* SPDX-License-Identifier: Apache-2.0 */
/* The pre-tokenizers, by classes of code points.
 *
 * o200k_base, alternatives in the order in which they are tried:
 *     P? [Lu Lt Lm Lo M]* [Ll Lm Lo M]+ C?     P = [^\r\n\p{L}\p{N}], C = 's 't 're 've 'm 'll 'd,
 *     P? [Lu Lt Lm Lo M]+ [Ll Lm Lo M]* C?         in any case, also of U+017F, which folds to s
 *     \p{N}{1,3}
 *      ?[^\s\p{L}\p{N}]+[\r\n/]*
 *     \s*[\r\n]+  |  \s+(?!\S)  |  \s+
 * cl100k_base:
 *     C  |  P?\p{L}+  |  \p{N}{1,3}  |   ?[^\s\p{L}\p{N}]+[\r\n]*
 *     \s+$  |  \s*[\r\n]  |  \s+(?!\S)  |  \s
 *
 * The hard thing is what backtracking makes of the first two: a run of capitals and letters without
 * case that no small letter follows is cut behind its last letter without case ("A中BC" is "A中",
 * "BC"), or, if it has none, is a word of capitals. */
#include "model/tokens_split.h"

#include "base/word.h"

enum class { OTHER, UPPER, LOWER, LETTER, MARK, NUMBER, NEWLINE, SPACE };

/* Sets of classes, as bits. */
#define BIT(class)    (1u << (class))
#define HIGH          (BIT(UPPER) | BIT(LETTER) | BIT(MARK))
#define LOW           (BIT(LOWER) | BIT(LETTER) | BIT(MARK))
#define WORDS         (HIGH | LOW)
#define LETTERS       (BIT(UPPER) | BIT(LOWER) | BIT(LETTER))
#define SIGNS         (BIT(OTHER) | BIT(MARK))
#define SPACES        (BIT(SPACE) | BIT(NEWLINE))
#define IN(set, kind) ((set) >> (kind) & 1)

static const uint8_t class_index[] = {
#define INDEX(n) n,
#define BLOCK(...)
#include "model/tokens_classes.def"
#undef INDEX
#undef BLOCK
};

static const uint64_t class_blocks[][16] = {
#define INDEX(n)
#define BLOCK(...) {__VA_ARGS__},
#include "model/tokens_classes.def"
#undef INDEX
#undef BLOCK
};

/* A place in the text and the class and length of the character there. */
struct cursor {
    const unsigned char *at, *end;
    enum class class;
    unsigned len; /* 0 at the end, where the class is OTHER */
};

static enum class class_of(uint32_t code) {
    return class_blocks[class_index[code >> 8]][code >> 4 & 15] >> (code & 15) * 4 & 15;
}

static bool is_tail(unsigned char byte)
{
    return (byte & 0xC0) == 0x80;
}

/* A character of two to four bytes, or one byte that belongs to none (RFC 3629, 4). */
static void look_beyond_ascii(struct cursor *c)
{
    const unsigned char *s = c->at;
    size_t left = (size_t)(c->end - s);
    uint32_t code = 0;

    c->len = 1;
    c->class = OTHER;
    if (s[0] >= 0xE0 && s[0] < 0xF0 && left >= 3 && is_tail(s[1]) && is_tail(s[2])) {
        code = (s[0] & 0x0Fu) << 12 | (s[1] & 0x3Fu) << 6 | (s[2] & 0x3Fu);
        c->len = code >= 0x800 && (code < 0xD800 || code > 0xDFFF) ? 3 : 1;
    } else if (s[0] >= 0xC2 && s[0] < 0xE0 && left >= 2 && is_tail(s[1])) {
        code = (s[0] & 0x1Fu) << 6 | (s[1] & 0x3Fu);
        c->len = 2;
    } else if (s[0] >= 0xF0 && s[0] < 0xF5 && left >= 4 && is_tail(s[1]) && is_tail(s[2]) &&
               is_tail(s[3])) {
        code = (s[0] & 0x07u) << 18 | (s[1] & 0x3Fu) << 12 | (s[2] & 0x3Fu) << 6 | (s[3] & 0x3Fu);
        c->len = code >= 0x10000 && code <= 0x10FFFF ? 4 : 1;
    }
    if (c->len > 1)
        c->class = class_of(code);
}

static inline void look(struct cursor *c)
{
    if (c->at == c->end) {
        c->len = 0;
        c->class = OTHER;
    } else if (*c->at < 0x80) {
        c->len = 1;
        c->class = class_blocks[0][*c->at >> 4] >> (*c->at & 15) * 4 & 15;
    } else {
        look_beyond_ascii(c);
    }
}

static inline void step(struct cursor *c)
{
    c->at += c->len;
    look(c);
}

/* How many of the eight bytes of a word are a–z before the first that is not. */
static inline unsigned count_small(uint64_t word)
{
    uint64_t low = word & ~WORD_TOPS;
    uint64_t from_a = low + WORD_ALL(0x80 - 'a'), past_z = low + WORD_ALL(0x7F - 'z');
    uint64_t other = ~(from_a & ~past_z & ~word) & WORD_TOPS;

    return other ? (unsigned)__builtin_ctzll(other) / 8 : 8;
}

/* Go on to the first character that is not of `set`. */
static inline void skip(struct cursor *c, unsigned set)
{
    unsigned count = 8;

    if (IN(set, LOWER) && c->class == LOWER) {
        while (count == 8 && c->end - c->at >= 8)
            c->at += count = count_small(word_load((const char *)c->at));
        look(c);
    }
    while (c->len > 0 && IN(set, c->class))
        step(c);
}

/* The length of 's, 't, 're, 've, 'm, 'll, 'd at `s`, in any case, or 0. */
static size_t contraction_len(const unsigned char *s, const unsigned char *end)
{
    size_t left = (size_t)(end - s);
    unsigned char first, second;

    if (left < 2 || s[0] != '\'')
        return 0;
    first = s[1] | 32;
    if (first == 's' || first == 't' || first == 'm' || first == 'd')
        return 2;
    if (left < 3)
        return 0;
    second = s[2] | 32;
    if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') ||
        (first == 'l' && second == 'l'))
        return 3;
    return s[1] == 0xC5 && s[2] == 0xBF ? 3 : 0;
}

/* The end of a word of o200k that begins at `c`, or NULL when there is none. */
static const unsigned char *word_end(struct cursor *c)
{
    const unsigned char *begin = c->at, *both = NULL;

    while (c->len > 0 && IN(HIGH, c->class)) {
        bool is_both = c->class != UPPER;
        step(c);
        if (is_both)
            both = c->at;
    }
    if (c->len > 0 && c->class == LOWER)
        skip(c, LOW);
    else if (both && both != c->at)
        return both;
    return c->at == begin ? NULL : c->at + contraction_len(c->at, c->end);
}

static const unsigned char *digits_end(struct cursor *c)
{
    for (int i = 0; i < 3 && c->class == NUMBER; i++)
        step(c);
    return c->at;
}

/* The end of a run of signs, and of the line ends (and, in o200k, slashes) right behind it. */
static const unsigned char *signs_end(enum tokens_encoding encoding, struct cursor *c)
{
    skip(c, SIGNS);
    while (c->len > 0 && (c->class == NEWLINE || (encoding == TOKENS_O200K_BASE && *c->at == '/')))
        step(c);
    return c->at;
}

/* The end of white space: behind the last line end; else all of it at the end of the text, and all
 * but the last, which goes with what follows, elsewhere. cl100k asks for the end of the text first. */
static const unsigned char *space_end(enum tokens_encoding encoding, struct cursor *c)
{
    const unsigned char *begin = c->at, *line_end = NULL, *last = c->at;

    while (c->len > 0 && IN(SPACES, c->class)) {
        last = c->at;
        if (c->class == NEWLINE)
            line_end = c->at + 1;
        step(c);
    }
    if (c->len == 0 && (encoding == TOKENS_CL100K_BASE || !line_end))
        return c->at;
    if (line_end)
        return line_end;
    return last > begin ? last : c->at;
}

/* A piece that does not begin with a letter or digit: it may be a word behind one such character. */
static const unsigned char *other_end(enum tokens_encoding encoding, struct cursor first,
                                      struct cursor next)
{
    bool is_o200k = encoding == TOKENS_O200K_BASE;
    const unsigned char *at;

    if (first.class != NEWLINE && is_o200k && (at = word_end(&next)))
        return at;
    if (first.class != NEWLINE && !is_o200k && next.len > 0 && IN(LETTERS, next.class)) {
        skip(&next, LETTERS);
        return next.at;
    }
    if (IN(SIGNS, first.class))
        return signs_end(encoding, &first);
    if (*first.at == ' ' && next.len > 0 && IN(SIGNS, next.class))
        return signs_end(encoding, &next);
    return space_end(encoding, &first);
}

static const unsigned char *piece_end(enum tokens_encoding encoding, struct cursor c)
{
    bool is_o200k = encoding == TOKENS_O200K_BASE;
    struct cursor next;
    size_t len;

    if (c.class == NUMBER)
        return digits_end(&c);
    if (is_o200k && IN(WORDS, c.class))
        return word_end(&c);
    if (!is_o200k && (len = contraction_len(c.at, c.end)) > 0)
        return c.at + len;
    if (!is_o200k && IN(LETTERS, c.class)) {
        skip(&c, LETTERS);
        return c.at;
    }
    next = c;
    step(&next);
    return other_end(encoding, c, next);
}

/* ---- the common cases, in ASCII ---- */

static inline bool is_ascii(char c)
{
    return (unsigned char)c < 0x80;
}

static inline bool is_capital(char c)
{
    return c >= 'A' && c <= 'Z';
}

static inline bool is_letter(char c)
{
    return (c | 32) >= 'a' && (c | 32) <= 'z';
}

static inline bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Behind a run of capitals and then small letters (o200k), or of both (cl100k). At least 8 bytes
 * before `end`, or there. */
static inline const char *letters_end(enum tokens_encoding encoding, const char *at,
                                      const char *end)
{
    uint64_t fold = encoding == TOKENS_CL100K_BASE ? WORD_ALL(32) : 0;
    unsigned count = 8;

    if (!fold)
        while (at < end && is_capital(*at))
            at++;
    while (count == 8 && end - at > 8)
        at += count = count_small(word_load(at) | fold);
    return at;
}

/* The length of letters with something in ASCII behind them that is not part of their word, or 0. */
static inline size_t plain_word(enum tokens_encoding encoding, const char *word, const char *end)
{
    const char *at = letters_end(encoding, word, end);

    return end - at > 8 && is_ascii(*at) && *at != '\'' ? (size_t)(at - word) : 0;
}

/* The length of a piece that is nothing but ASCII, with something in ASCII behind it: a word, perhaps
 * with a sign before it; up to three digits; one sign before a space. 0 for everything else. A word
 * behind a space, the most frequent by far, has a way of its own, so that nothing waits for what
 * its first byte is. */
static inline size_t plain_piece(enum tokens_encoding encoding, const char *begin, const char *end)
{
    const char *at = begin + 1;
    size_t len;

    if (end - begin < 8 || !is_ascii(*begin))
        return 0;
    if (*begin == ' ' && is_letter(*at)) {
        len = plain_word(encoding, at, end);
        return len > 0 ? len + 1 : 0;
    }
    if (is_letter(*begin))
        return plain_word(encoding, begin, end);
    if (is_digit(*begin)) {
        at += is_digit(*at);
        at += at - begin == 2 && is_digit(*at);
        return is_ascii(*at) || at - begin == 3 ? (size_t)(at - begin) : 0;
    }
    if (is_letter(*at) && *begin != '\n' && *begin != '\r') {
        if (encoding == TOKENS_CL100K_BASE && *begin == '\'')
            return 0;
        len = plain_word(encoding, at, end);
        return len > 0 ? len + 1 : 0;
    }
    return *begin > ' ' && *begin < 0x7F && *at == ' ' ? 1 : 0;
}

/* The same for all others. Apart, so that the frequent ones need no registers saved. */
static __attribute__((noinline)) size_t rare_piece(enum tokens_encoding encoding, const char *at,
                                                   const char *end)
{
    struct cursor c = {(const unsigned char *)at, (const unsigned char *)end, OTHER, 0};

    look(&c);
    return (size_t)(piece_end(encoding, c) - c.at);
}

size_t tokens_split_next(enum tokens_encoding encoding, const char *at, const char *end)
{
    size_t plain = plain_piece(encoding, at, end);

    return plain > 0 ? plain : rare_piece(encoding, at, end);
}

bool tokens_split_is_firm(const char *begin, const char *at, const char *end)
{
    struct cursor before = {(const unsigned char *)at, (const unsigned char *)at, OTHER, 0};
    struct cursor after = {(const unsigned char *)at, (const unsigned char *)end, OTHER, 0};

    do
        before.at--;
    while ((const char *)before.at > begin && is_tail(*before.at) &&
           at - (const char *)before.at < 4);
    look(&before);
    look(&after);
    if ((const char *)before.at + before.len != at || after.len == 0)
        return false;
    if (after.len == 1 && *after.at >= 0x80)
        return false; /* it may be a character of which the rest is still to come */
    if (IN(LETTERS, before.class))
        return !IN(WORDS, after.class) && *after.at != '\'';
    if (before.class == NUMBER)
        return after.class != NUMBER;
    return before.class == OTHER && (after.class == SPACE || after.class == NUMBER);
}
