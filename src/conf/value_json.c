/* SPDX-License-Identifier: Apache-2.0 */
/* Writes a YAML node as JSON.
 *
 * The one thing to know is YAML 1.2's core schema (section 10.3.2): which plain scalars are
 * null, booleans or numbers. Some of its numbers are none in JSON (+1, .5, 0x10, .inf) and are
 * rewritten or refused. */
#include "conf/value_json.h"

#include "base/buf.h"
#include "base/json_members.h"
#include "conf/expand.h"

#define MAX_BYTES ((size_t)1024 * 1024)

static size_t digits_at(struct str s, size_t at)
{
    size_t start = at;

    while (at < s.len && s.ptr[at] >= '0' && s.ptr[at] <= '9')
        at++;
    return at - start;
}

/* A number as the core schema has it: [-+] digits [. digits] [e [-+] digits]. */
struct number {
    bool is_negative;
    struct str whole, fraction, exponent; /* the exponent with its sign */
};

static bool number_parse(struct str s, struct number *n)
{
    size_t at = 0;

    *n = (struct number){0};
    if (s.len && (s.ptr[0] == '-' || s.ptr[0] == '+'))
        n->is_negative = s.ptr[at++] == '-';
    n->whole = (struct str){s.ptr + at, digits_at(s, at)};
    at += n->whole.len;
    if (at < s.len && s.ptr[at] == '.') {
        n->fraction = (struct str){s.ptr + at + 1, digits_at(s, at + 1)};
        at += 1 + n->fraction.len;
    }
    if (n->whole.len + n->fraction.len == 0)
        return false;
    if (at < s.len && (s.ptr[at] == 'e' || s.ptr[at] == 'E')) {
        size_t sign = at + 1 < s.len && (s.ptr[at + 1] == '-' || s.ptr[at + 1] == '+');
        size_t digits = digits_at(s, at + 1 + sign);
        if (digits == 0)
            return false;
        n->exponent = (struct str){s.ptr + at + 1, sign + digits};
        at += 1 + sign + digits;
    }
    return at == s.len;
}

/* JSON wants exactly one leading zero before the point and digits after it. */
static err_t number_print(const struct number *n, struct buf *out)
{
    struct str whole = n->whole;

    while (whole.len > 1 && whole.ptr[0] == '0')
        whole = str_after(whole, 1);
    if (n->is_negative)
        TRY(buf_add_byte(out, '-'));
    TRY(buf_add(out, whole.len ? whole : STR("0")));
    if (n->fraction.len) {
        TRY(buf_add_byte(out, '.'));
        TRY(buf_add(out, n->fraction));
    }
    if (n->exponent.len) {
        TRY(buf_add_byte(out, 'e'));
        TRY(buf_add(out, n->exponent));
    }
    return NULL;
}

/* 0x1F and 0o17 without sign. */
static bool parse_based(struct str s, uint64_t *value)
{
    unsigned base = str_starts(s, STR("0x")) ? 16 : str_starts(s, STR("0o")) ? 8 : 0;

    *value = 0;
    for (size_t i = 2; base && i < s.len; i++) {
        static const char digits[] = "0123456789abcdef";
        const char *digit = s.ptr[i] ? strchr(digits, s.ptr[i] | 0x20) : NULL;
        if (!digit || digit - digits >= (long)base || *value > (UINT64_MAX >> 4))
            return false;
        *value = *value * base + (uint64_t)(digit - digits);
    }
    return base && s.len > 2;
}

static bool is_any(struct str s, const char *const words[3])
{
    return str_eq(s, str_from(words[0])) || str_eq(s, str_from(words[1])) ||
           str_eq(s, str_from(words[2]));
}

static bool is_not_finite(struct str s)
{
    static const char *const inf[] = {".inf", ".Inf", ".INF"}, *const nan[] = {".nan", ".NaN",
                                                                               ".NAN"};
    struct str unsigned_part = s.len && (*s.ptr == '-' || *s.ptr == '+') ? str_after(s, 1) : s;

    return is_any(unsigned_part, inf) || is_any(s, nan);
}

/* A number that no double can hold is none for most readers of JSON. */
static err_t print_finite(struct reader *r, size_t line, const struct number *number,
                          struct buf *out)
{
    size_t start = out->len;
    double value;

    TRY(number_print(number, out));
    if (!json_double(str_after(buf_str(out), start), &value))
        reader_problem(r, line, "the number %.*s is too large",
                       STR_ARG(str_after(buf_str(out), start)));
    return NULL;
}

static err_t print_plain(struct reader *r, size_t line, struct str s, struct buf *out)
{
    static const char *const nulls[] = {"null", "Null", "NULL"};
    static const char *const trues[] = {"true", "True", "TRUE"};
    static const char *const falses[] = {"false", "False", "FALSE"};
    struct number number;
    uint64_t based;

    if (s.len == 0 || str_eq(s, STR("~")) || is_any(s, nulls))
        return buf_add(out, STR("null"));
    if (is_any(s, trues))
        return buf_add(out, STR("true"));
    if (is_any(s, falses))
        return buf_add(out, STR("false"));
    if (number_parse(s, &number))
        return print_finite(r, line, &number, out);
    if (parse_based(s, &based))
        return buf_add_u64(out, based);
    if (is_not_finite(s))
        reader_problem(r, line, "JSON has no number \"%.*s\"", STR_ARG(s));
    return buf_add_json(out, s);
}

static err_t print_scalar(struct reader *r, const struct tree_node *node, struct buf *out)
{
    struct str text;
    bool has_variables;

    if (!expand_scalar(r, node, &text, &has_variables))
        return NULL;
    return node->is_plain ? print_plain(r, node->line, text, out) : buf_add_json(out, text);
}

/* Recursion is as deep as the tree: TREE_MAX_DEPTH at most. */
static err_t print_node(struct reader *r, const struct tree_node *node, struct buf *out)
{
    bool is_map = node->kind == TREE_MAP;

    if (node->kind == TREE_SCALAR)
        return print_scalar(r, node, out);
    TRY(buf_add_byte(out, is_map ? '{' : '['));
    for (const struct tree_node *n = node->first; n; n = n->next) {
        if (n != node->first)
            TRY(buf_add_byte(out, ','));
        if (is_map) {
            TRY(buf_add_json(out, n->key));
            TRY(buf_add_byte(out, ':'));
        }
        TRY(print_node(r, n, out));
    }
    return buf_add_byte(out, is_map ? '}' : ']');
}

void value_json_read(struct reader *r, const struct tree_node *node, struct str *out)
{
    struct buf json = buf_make(MEM_CONF, MAX_BYTES);
    size_t problems_before = r->problem_count;

    if (node->kind != TREE_MAP) {
        reader_problem(r, node->line, "%.*s must be a map", STR_ARG(node->key));
        return;
    }
    err_t err = print_node(r, node, &json);
    if (!err && r->problem_count == problems_before) /* else the text has holes */
        *out = reader_keep(r, buf_str(&json));
    else if (err && err->kind == ERR_TOO_BIG)
        reader_problem(r, node->line, "%.*s is too large", STR_ARG(node->key));
    else if (err)
        r->failed = err;
    buf_fini(&json);
}
