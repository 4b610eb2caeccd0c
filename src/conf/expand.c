/* SPDX-License-Identifier: Apache-2.0 */
/* Replaces ${NAME} by what the environment holds.
 *
 * This happens after YAML was parsed, so a value may hold any character: it cannot become a
 * comment or a new key. What was put in is not looked at again. */
#include "conf/expand.h"

#include <stdlib.h>

#include "base/buf.h"

#define MAX_BYTES ((size_t)256 * 1024) /* of one value */

static bool is_name(struct str s)
{
    for (size_t i = 0; i < s.len; i++) {
        char c = s.ptr[i];
        bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
        if (!is_letter && (i == 0 || c < '0' || c > '9'))
            return false;
    }
    return s.len > 0;
}

/* The value of a variable written as "NAME" or "NAME:-default" between the braces. */
static bool variable_get(struct reader *r, size_t line, struct str inside, struct str *value)
{
    size_t at = str_find(inside, STR(":-"));
    struct str name = {inside.ptr, at};
    char *name_cstr;

    if (!is_name(name)) {
        reader_problem(r, line, "\"${%.*s}\" is not a variable: write ${NAME} or ${NAME:-default}",
                       STR_ARG(inside));
        return false;
    }
    name_cstr = arena_cstr(r->scratch, name);
    if (!name_cstr) {
        reader_fail(r, r->scratch);
        return false;
    }
    *value = str_from(getenv(name_cstr));
    if (at < inside.len && value->len == 0)
        *value = str_after(inside, at + 2);
    if (!value->ptr)
        reader_problem(r, line, "the environment variable %s is not set", name_cstr);
    return value->ptr;
}

/* Append `rest` up to the next variable, and that. False after a problem. */
static bool expand_next(struct reader *r, size_t line, struct str *rest, struct buf *out)
{
    size_t start = str_find(*rest, STR("${"));
    bool is_escaped = start < rest->len && start > 0 && rest->ptr[start - 1] == '$';
    struct str before = {rest->ptr, start - is_escaped}, value = {0};

    *rest = str_after(*rest, start);
    if (is_escaped) {
        value = STR("${");
        *rest = str_after(*rest, 2);
    } else if (rest->len) {
        size_t end = str_index(*rest, '}');
        if (end == rest->len) {
            reader_problem(r, line, "\"${\" without \"}\"");
            return false;
        }
        if (!variable_get(r, line, (struct str){rest->ptr + 2, end - 2}, &value))
            return false;
        *rest = str_after(*rest, end + 1);
    }
    err_t err = buf_add(out, before);
    if (!err)
        err = buf_add(out, value);
    if (err && err->kind == ERR_TOO_BIG)
        reader_problem(r, line, "the value is too long");
    else if (err)
        r->failed = err;
    return !err;
}

bool expand_scalar(struct reader *r, const struct tree_node *node, struct str *text,
                   bool *has_variables)
{
    struct buf out = buf_make(MEM_CONF, MAX_BYTES);
    struct str rest = node->text;
    bool ok = true;

    *text = node->text;
    *has_variables = str_find(rest, STR("${")) < rest.len;
    if (!*has_variables)
        return true;
    while (ok && rest.len)
        ok = expand_next(r, node->line, &rest, &out);
    if (ok) {
        *text = arena_copy(r->scratch, buf_str(&out));
        ok = text->ptr;
        if (!ok)
            reader_fail(r, r->scratch);
    }
    buf_fini(&out);
    return ok;
}
