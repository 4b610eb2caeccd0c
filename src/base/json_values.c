/* SPDX-License-Identifier: Apache-2.0 */
/* Looking into JSON text that the strict pass has accepted.
 *
 * Grammar is not checked again: the end of a value is found by its brackets and quotes alone, which
 * makes stepping over a long message as fast as memchr. Text that was never accepted gives
 * nonsense, but no byte outside the given span is read. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <yyjson.h>

#include "base/json_members.h"
#include "base/json_scan.h"
#include "base/word.h"

/* ---- Stepping ---- */

static const char *skip_space(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t'))
        at++;
    return at;
}

/* Not inlined: short strings would pay for its registers. */
static __attribute__((noinline)) const char *long_string_end(const char *at, const char *end)
{
    const char *quote = json_scan_quote(at + 1, end);

    return quote < end ? quote + 1 : end;
}

/* From an opening quote to behind the closing one. */
static const char *string_end(const char *at, const char *end)
{
    const char *quote = json_scan_near_quote(at + 1, end);

    return quote ? quote + 1 : long_string_end(at, end);
}

static const char *scalar_end(const char *at, const char *end)
{
    while (at < end && *at != ',' && *at != ']' && *at != '}' && (unsigned char)*at > ' ')
        at++;
    return at;
}

static const char *value_end(const char *at, const char *end)
{
    size_t depth = 0;

    if (at < end && *at == '"')
        return string_end(at, end);
    if (at == end || (*at != '{' && *at != '['))
        return scalar_end(at, end);
    do {
        char c = *at;

        if (c == '"') {
            at = string_end(at, end);
            continue;
        }
        if (c == '{' || c == '[')
            depth++;
        else if (c == '}' || c == ']')
            depth--;
        at++;
    } while (depth > 0 && at < end);
    return at;
}

static struct str span(const char *first, const char *end)
{
    return (struct str){first, (size_t)(end - first)};
}

/* The first byte of the next member or element, or NULL at the end of the container. */
static const char *next_item(struct str value, char bracket, size_t position)
{
    const char *at, *end;

    if (position >= value.len || value.ptr[0] != bracket)
        return NULL;
    end = value.ptr + value.len;
    at = skip_space(value.ptr + (position > 0 ? position : 1), end);
    if (at < end && *at == ',')
        at = skip_space(at + 1, end);
    return at < end && *at != '}' && *at != ']' ? at : NULL;
}

bool json_object_next(struct str value, size_t *at, struct json_member *member)
{
    const char *key = next_item(value, '{', *at), *key_end, *first, *end;

    if (!key)
        return false;
    end = value.ptr + value.len;
    key_end = string_end(key, end);
    first = skip_space(key_end, end);
    first = skip_space(first < end ? first + 1 : first, end); /* the colon */
    member->key = span(key + 1, key_end - key >= 2 ? key_end - 1 : key + 1);
    member->key_has_escapes = word_find(member->key.ptr, member->key.len, '\\');
    member->value = span(first, value_end(first, end));
    *at = (size_t)(member->value.ptr + member->value.len - value.ptr);
    return true;
}

bool json_array_next(struct str value, size_t *at, struct str *element)
{
    const char *first = next_item(value, '[', *at);

    if (!first)
        return false;
    *element = span(first, value_end(first, value.ptr + value.len));
    *at = (size_t)(element->ptr + element->len - value.ptr);
    return true;
}

bool json_is_empty(struct str container)
{
    return container.len == 0 || !next_item(container, container.ptr[0], 0);
}

struct str json_get(struct str object, struct str key)
{
    struct json_member member;
    struct str found = {0};
    size_t at = 0;

    while (json_object_next(object, &at, &member))
        if (json_key_is(&member, key))
            found = member.value;
    return found;
}

enum json_kind json_kind(struct str value)
{
    if (value.len == 0)
        return JSON_NONE;
    switch (value.ptr[0]) {
    case '{':
        return JSON_OBJECT;
    case '[':
        return JSON_ARRAY;
    case '"':
        return JSON_STRING;
    case 't':
        return JSON_TRUE;
    case 'f':
        return JSON_FALSE;
    case 'n':
        return JSON_NULL;
    default:
        return value.ptr[0] == '-' || (value.ptr[0] >= '0' && value.ptr[0] <= '9') ? JSON_NUMBER
                                                                                   : JSON_NONE;
    }
}

/* ---- Strings ---- */

static unsigned hex4(const char *digits)
{
    unsigned unit = 0;

    for (int i = 0; i < 4; i++) {
        unsigned c = (unsigned char)digits[i];

        unit = unit << 4 | ((c & 15) + (c > '9' ? 9 : 0)); /* a letter's low bits count from 1 */
    }
    return unit;
}

static size_t put_utf8(unsigned c, char out[4])
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xC0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3F));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xE0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3F));
        out[2] = (char)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3F));
    out[2] = (char)(0x80 | (c >> 6 & 0x3F));
    out[3] = (char)(0x80 | (c & 0x3F));
    return 4;
}

/* Take the escape at the front of *rest and write what it stands for; returns the length. */
static size_t take_escape(struct str *rest, char out[4])
{
    static const char names[] = "bfnrt", meanings[] = "\b\f\n\r\t";
    char name = rest->len > 1 ? rest->ptr[1] : '\\';
    const char *found = strchr(names, name);
    unsigned c;

    if (name != 'u' || rest->len < 6) {
        *rest = str_after(*rest, rest->len > 1 ? 2 : rest->len);
        out[0] = found && name ? meanings[found - names] : name;
        return 1;
    }
    c = hex4(rest->ptr + 2);
    *rest = str_after(*rest, 6);
    if ((c & 0xFC00) == 0xD800 && rest->len >= 6) {
        c = 0x10000 + ((c & 0x3FF) << 10 | (hex4(rest->ptr + 2) & 0x3FF));
        *rest = str_after(*rest, 6);
    }
    return put_utf8(c, out);
}

static bool is_key(struct str written, struct str key, bool (*is_same)(struct str, struct str))
{
    char decoded[4];

    while (written.len > 0) {
        size_t n = 1;

        decoded[0] = written.ptr[0];
        if (written.ptr[0] == '\\')
            n = take_escape(&written, decoded);
        else
            written = str_after(written, 1);
        if (key.len < n || !is_same((struct str){key.ptr, n}, (struct str){decoded, n}))
            return false;
        key = str_after(key, n);
    }
    return key.len == 0;
}

bool json_key_decodes_to(struct str written, struct str key)
{
    return is_key(written, key, str_eq);
}

bool json_key_is_like(const struct json_member *member, struct str key)
{
    return is_key(member->key, key, str_eq_nocase);
}

bool json_text(struct str value, struct arena *arena, struct str *out)
{
    struct str rest;
    char *text, *at;

    if (json_kind(value) != JSON_STRING || value.len < 2)
        return false;
    rest = (struct str){value.ptr + 1, value.len - 2};
    if (str_index(rest, '\\') == rest.len) {
        *out = rest;
        return true;
    }
    text = at = arena_alloc(arena, rest.len); /* an escape is longer than what it stands for */
    if (!text)
        return false;
    while (rest.len > 0) {
        size_t plain = str_index(rest, '\\');

        memcpy(at, rest.ptr, plain);
        at += plain;
        rest = str_after(rest, plain);
        if (rest.len > 0) {
            char decoded[4];
            size_t n = take_escape(&rest, decoded);

            memcpy(at, decoded, n);
            at += n;
        }
    }
    *out = span(text, at);
    return true;
}

/* ---- Numbers ---- */

bool json_u64(struct str value, uint64_t *out)
{
    return str_to_u64(value, out);
}

/* No double needs more digits than this to be rounded rightly, if one more says whether anything
 * follows. */
#define DIGITS_KEPT    770
#define NUMBER_LONGEST (DIGITS_KEPT + 64) /* with sign, one digit more, exponent and NUL */

/* The exponent's digits at the end of `s`, bounded so that it can be added to. */
static int64_t read_exponent(struct str s)
{
    bool negative = s.len > 0 && s.ptr[0] == '-';
    int64_t exponent = 0;

    for (size_t i = negative || (s.len > 0 && s.ptr[0] == '+'); i < s.len; i++)
        if (exponent < INT64_C(1000000000000000))
            exponent = exponent * 10 + (s.ptr[i] - '0');
    return negative ? -exponent : exponent;
}

/* A number of any length as one of the same rounded value that fits into `out`: the first digits,
 * then a 1 if any dropped one counts, then the exponent that puts the decimal point right. */
static void shorten_number(struct str value, char out[NUMBER_LONGEST])
{
    int64_t exponent = 0;
    bool point = false, dropped = false;
    size_t i = 0, n = 0, digits = 0;

    if (value.ptr[0] == '-')
        out[n++] = value.ptr[i++];
    for (; i < value.len && value.ptr[i] != 'e' && value.ptr[i] != 'E'; i++) {
        char c = value.ptr[i];

        if (c == '.') {
            point = true;
        } else if (digits == DIGITS_KEPT) {
            dropped |= c != '0';
            exponent += !point;
        } else {
            if (digits > 0 || c != '0') { /* leading zeros are no digits */
                out[n++] = c;
                digits++;
            }
            exponent -= point;
        }
    }
    if (i < value.len)
        exponent += read_exponent(str_after(value, i + 1));
    snprintf(out + n, NUMBER_LONGEST - n, "%de%lld", dropped, (long long)exponent - 1);
}

bool json_double(struct str value, double *out)
{
    char text[NUMBER_LONGEST];

    if (json_kind(value) != JSON_NUMBER)
        return false;
    if (value.len < sizeof(text)) {
        memcpy(text, value.ptr, value.len);
        text[value.len] = '\0';
    } else {
        shorten_number(value, text);
    }
    *out = strtod(text, NULL);
    return isfinite(*out);
}

/* ---- yyjson's memory ---- */

static void *tree_alloc(void *ctx, size_t size)
{
    return mem_library_alloc(MEM_REQUEST, size);
}

static void *tree_resize(void *ctx, void *ptr, size_t old_size, size_t size)
{
    return mem_library_resize(MEM_REQUEST, ptr, size);
}

static void tree_free(void *ctx, void *ptr)
{
    mem_library_free(MEM_REQUEST, ptr);
}

const struct yyjson_alc *json_yyjson_alc(void)
{
    static const yyjson_alc alc = {tree_alloc, tree_resize, tree_free, NULL};

    return &alc;
}
