/* SPDX-License-Identifier: Apache-2.0 */
/* The strict pass.
 *
 * No recursion: one bit per level says whether that level is an object, and 128 bits are all the
 * depth there is. Each step either moves `at` forward or notes what is wrong and stops; reading
 * past the end yields NUL, which no rule accepts, so that the end needs no checks of its own.
 *
 * The hard thing is strings, which are most of a prompt. json_scan.h judges them by the block and
 * says good or bad; only the end of a bad one is walked through again, character by character, to say
 * what is wrong and where. */
#include "base/json_members.h"

#include "base/json_scan.h"
#include "base/text.h"
#include "base/word.h"

struct scan {
    const char *start, *at, *end;
    const char *wrong;     /* what is wrong at `at`, or NULL */
    struct str key;        /* the one that was passed last */
    unsigned depth;        /* of open objects and arrays */
    uint64_t is_object[2]; /* a bit per level */
};

static bool fail(struct scan *s, const char *wrong)
{
    s->wrong = wrong;
    return false;
}

static char peek(const struct scan *s)
{
    return s->at < s->end ? *s->at : '\0';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static void skip_space(struct scan *s)
{
    const char *at = s->at, *end = s->end;

    while (at < end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t'))
        at++;
    s->at = at;
}

/* ---- Strings ---- */

static bool is_plain(char c)
{
    return (unsigned char)c >= 0x20 && c != '"' && c != '\\';
}

/* What may follow a backslash, other than u. */
static const bool is_short_escape[256] = {['"'] = true, ['\\'] = true, ['/'] = true, ['b'] = true,
                                          ['f'] = true, ['n'] = true,  ['r'] = true, ['t'] = true};

/* The length of the plain character at `at`, or 0: quotes, backslashes, control characters, and
 * bytes that are not UTF-8 need a look. */
static size_t plain_length(const char *at, const char *end)
{
    return at < end && is_plain(*at) ? text_utf8_length((struct str){at, (size_t)(end - at)}) : 0;
}

/* To the next byte that needs a look, or the end. */
static void skip_plain(struct scan *s)
{
    size_t n;

    while ((n = plain_length(s->at, s->end)) > 0)
        s->at += n;
}

static int hex_digit(char c)
{
    if (is_digit(c))
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The four digits of a \u escape, which `at` stands on; -1 if they are not there. */
static int read_hex4(const struct scan *s, const char *at)
{
    int unit = 0;

    if (s->end - at < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(at[i]);

        if (digit < 0)
            return -1;
        unit = unit << 4 | digit;
    }
    return unit;
}

/* From the u: a character, or two surrogates that make one (RFC 8259 §7). */
static bool skip_unicode_escape(struct scan *s)
{
    int unit = read_hex4(s, s->at + 1), low;

    if (unit < 0)
        return fail(s, "\\u without four hexadecimal digits");
    if ((unit & 0xF800) != 0xD800) {
        s->at += 5;
        return true;
    }
    if ((unit & 0xFC00) == 0xD800 && s->end - s->at >= 11 && s->at[5] == '\\' && s->at[6] == 'u') {
        low = read_hex4(s, s->at + 7);
        if (low >= 0 && (low & 0xFC00) == 0xDC00) {
            s->at += 11;
            return true;
        }
    }
    return fail(s, "half a surrogate pair");
}

static bool skip_escape(struct scan *s)
{
    s->at++;
    if (peek(s) == 'u')
        return skip_unicode_escape(s);
    if (!is_short_escape[(uint8_t)peek(s)])
        return fail(s, "an unknown escape");
    s->at++;
    return true;
}

/* The longest escape is a pair of surrogates. */
#define ESCAPE_LONGEST 12

/* A place to walk from that is inside no escape and no character, not far before `stuck` unless
 * escapes are dense. Up to there, the string that begins at `first` is good. */
static const char *walk_start(const char *first, const char *stuck, const char *end)
{
    const char *at = stuck;
    size_t clear = 0; /* bytes from `at` on that are no backslashes */

    while (at > first && clear < ESCAPE_LONGEST - 1)
        clear = *--at == '\\' ? 0 : clear + 1;
    if (at > first)
        at += clear;
    for (int i = 0; i < 3 && at > first && (unsigned char)at[-1] >= 0x80; i++)
        at--;
    while (at > first && at < end && (*at & 0xC0) == 0x80)
        at--;
    return at;
}

/* From inside a string, between characters, to the error or behind the closing quote. */
static bool walk_string(struct scan *s)
{
    for (;;) {
        skip_plain(s);
        if (s->at == s->end)
            return fail(s, "the end inside a string");
        if (*s->at == '"') {
            s->at++;
            return true;
        }
        if (*s->at != '\\')
            return fail(s, is_plain(*s->at) ? "bytes that are not UTF-8"
                                            : "a control character in a string");
        if (!skip_escape(s))
            return false;
    }
}

/* From a string's first character. Not inlined: short strings would pay for its registers. */
static __attribute__((noinline)) bool skip_long_string(struct scan *s)
{
    const char *stuck, *quote = json_scan_string(s->start, s->at, s->end, &stuck);

    if (!quote) {
        s->at = walk_start(s->at, stuck, s->end);
        return walk_string(s);
    }
    s->at = quote + 1;
    return true;
}

static bool skip_string(struct scan *s)
{
    const char *quote;

    if (peek(s) != '"')
        return fail(s, s->at == s->end ? "the end where a string should be" : "no string");
    s->at++;
    quote = json_scan_near_quote(s->at, s->end);
    if (!quote)
        return skip_long_string(s);
    s->at = quote + 1;
    return true;
}

/* ---- Numbers and literals ---- */

static bool skip_digits(struct scan *s)
{
    const char *first = s->at;

    while (is_digit(peek(s)))
        s->at++;
    return s->at > first || fail(s, "no digit in a number");
}

/* A double's largest value has 309 digits. */
#define FINITE_FOR_CERTAIN 309

static bool skip_number(struct scan *s)
{
    const char *first = s->at;
    bool exponent = false;
    double value;

    if (peek(s) == '-')
        s->at++;
    if (peek(s) == '0')
        s->at++;
    else if (!skip_digits(s))
        return false;
    if (peek(s) == '.') {
        s->at++;
        if (!skip_digits(s))
            return false;
    }
    if (peek(s) == 'e' || peek(s) == 'E') {
        s->at++;
        exponent = peek(s) != '-';
        if (peek(s) == '+' || peek(s) == '-')
            s->at++;
        if (!skip_digits(s))
            return false;
    }
    if ((exponent || s->at - first >= FINITE_FOR_CERTAIN) &&
        !json_double((struct str){first, (size_t)(s->at - first)}, &value))
        return fail(s, "a number beyond a double's range");
    return true;
}

static bool skip_literal(struct scan *s, struct str literal)
{
    if (!str_starts((struct str){s->at, (size_t)(s->end - s->at)}, literal))
        return fail(s, "an unknown word");
    s->at += literal.len;
    return true;
}

/* ---- Objects and arrays ---- */

static bool open_level(struct scan *s, bool is_object)
{
    uint64_t *word = &s->is_object[s->depth / 64 % 2], bit = UINT64_C(1) << s->depth % 64;

    if (s->depth == JSON_MAX_DEPTH)
        return fail(s, "nesting beyond 128 levels");
    *word = is_object ? *word | bit : *word & ~bit;
    s->depth++;
    s->at++;
    skip_space(s);
    return true;
}

static bool in_object(const struct scan *s)
{
    unsigned level = s->depth - 1;

    return s->is_object[level / 64] >> level % 64 & 1;
}

/* A key with its colon and the space around. */
static bool skip_key(struct scan *s)
{
    const char *first = s->at + 1;

    if (!skip_string(s))
        return false;
    s->key = (struct str){first, (size_t)(s->at - 1 - first)};
    skip_space(s);
    if (peek(s) != ':')
        return fail(s, "no colon after a key");
    s->at++;
    skip_space(s);
    return true;
}

/* Editors that put one in front of UTF-8 are common enough for a message of its own. */
static bool at_byte_order_mark(const struct scan *s)
{
    return s->at == s->start &&
           str_starts((struct str){s->at, (size_t)(s->end - s->at)}, STR("\xEF\xBB\xBF"));
}

/* Begin a value: a whole scalar or empty container, or (*opened) everything up to a container's
 * first value. */
static bool begin_value(struct scan *s, bool *opened)
{
    char c = peek(s);

    *opened = false;
    switch (c) {
    case '"':
        return skip_string(s);
    case '{':
    case '[':
        if (!open_level(s, c == '{'))
            return false;
        if (peek(s) == (c == '{' ? '}' : ']')) {
            s->at++;
            s->depth--;
            return true;
        }
        *opened = true;
        return c == '[' || skip_key(s);
    case 't':
        return skip_literal(s, STR("true"));
    case 'f':
        return skip_literal(s, STR("false"));
    case 'n':
        return skip_literal(s, STR("null"));
    default:
        if (c == '-' || is_digit(c))
            return skip_number(s);
        if (s->at == s->end)
            return fail(s, "the end where a value should be");
        return fail(s, at_byte_order_mark(s) ? "a byte order mark" : "no value");
    }
}

/* After a value: a comma (*more), or the ends of containers down to depth `outer`. */
static bool finish_value(struct scan *s, unsigned outer, bool *more)
{
    for (*more = false; s->depth > outer; s->depth--) {
        bool object = in_object(s);

        skip_space(s);
        if (peek(s) == ',') {
            s->at++;
            skip_space(s);
            *more = true;
            return !object || skip_key(s);
        }
        if (peek(s) != (object ? '}' : ']'))
            return fail(s, object ? "no comma or } after a member" : "no comma or ] after a value");
        s->at++;
    }
    return true;
}

static bool skip_value(struct scan *s)
{
    unsigned outer = s->depth;
    bool more = true, opened;

    while (more) {
        if (!begin_value(s, &opened))
            return false;
        if (!opened && !finish_value(s, outer, &more))
            return false;
    }
    return true;
}

/* ---- The document ---- */

/* The members of the object that `at` stands on. */
static bool read_members(struct scan *s, struct json_member *members, size_t max, size_t *count)
{
    bool more;

    if (!open_level(s, true))
        return false;
    if (peek(s) == '}') {
        s->at++;
        s->depth--;
        return true;
    }
    do {
        struct json_member m;

        if (!skip_key(s))
            return false;
        m.key = s->key;
        m.value.ptr = s->at;
        /* most are strings, which need nothing of the rest */
        if (!(peek(s) == '"' ? skip_string(s) : skip_value(s)))
            return false;
        m.value.len = (size_t)(s->at - m.value.ptr);
        if (*count < max) {
            m.key_has_escapes = word_find(m.key.ptr, m.key.len, '\\');
            members[*count] = m;
        }
        ++*count;
        skip_space(s);
        more = peek(s) == ',';
        if (!more && peek(s) != '}')
            return fail(s, "no comma or } after a member");
        s->at++;
        if (more)
            skip_space(s);
    } while (more);
    s->depth--;
    return true;
}

/* What surrounds the one value, and the verdict. */
static err_t finish_document(struct scan *s, bool good)
{
    if (good) {
        skip_space(s);
        if (s->at == s->end)
            return NULL;
        s->wrong = "something after the value";
    }
    return err_new_detail(ERR_BAD_REQUEST, (.code = "invalid_json"), "invalid JSON: %s at byte %zu",
                          s->wrong, (size_t)(s->at - s->start));
}

static struct scan scan_make(struct str doc)
{
    struct scan s = {.start = doc.ptr, .at = doc.ptr, .end = doc.ptr};

    if (doc.len > 0) /* NULL has no end to compute */
        s.end += doc.len;
    skip_space(&s);
    return s;
}

err_t json_members_read(struct str doc, struct json_member *members, size_t max, size_t *count,
                        bool *is_object)
{
    struct scan s = scan_make(doc);

    *count = 0;
    *is_object = peek(&s) == '{';
    return finish_document(&s, *is_object ? read_members(&s, members, max, count) : skip_value(&s));
}

err_t json_check(struct str doc)
{
    struct scan s = scan_make(doc);

    return finish_document(&s, skip_value(&s));
}
