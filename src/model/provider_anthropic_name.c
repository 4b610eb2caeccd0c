/* SPDX-License-Identifier: Apache-2.0 */
/* Names of tools and ids of calls in Anthropic's alphabet.
 *
 * Others allow more: dots, colons, slashes. A byte that Anthropic does not take is written as
 * "_xHH_". The hard thing is to need no table of what was rewritten, which an answer's decoder does
 * not have: so an underscore that could be taken for the start of such a group is itself written as
 * one, and reading is exact. */
#include "model/provider_anthropic.h"

/* Length of "_xHH_". */
#define GROUP 5

static const char digits[] = "0123456789ABCDEF";

static bool is_allowed(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
}

/* The value of an upper-case hexadecimal digit, or -1. */
static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Whether "_xHH" stands at `at`. */
static bool begins_group(struct str s, size_t at)
{
    return s.len - at >= GROUP - 1 && s.ptr[at] == '_' && s.ptr[at + 1] == 'x' &&
           digit_value(s.ptr[at + 2]) >= 0 && digit_value(s.ptr[at + 3]) >= 0;
}

struct str provider_anthropic_name_write(struct str name, struct arena *arena)
{
    size_t changed = 0, len = 0;
    char *out;

    for (size_t i = 0; i < name.len; i++)
        changed += !is_allowed(name.ptr[i]) || begins_group(name, i);
    if (changed == 0)
        return name.len ? name : STR("_");
    out = arena_alloc(arena, name.len + changed * (GROUP - 1));
    if (!out)
        return (struct str){0};
    for (size_t i = 0; i < name.len; i++) {
        unsigned char c = (unsigned char)name.ptr[i];
        if (is_allowed(name.ptr[i]) && !begins_group(name, i)) {
            out[len++] = name.ptr[i];
            continue;
        }
        memcpy(out + len, (char[]){'_', 'x', digits[c >> 4], digits[c & 15], '_'}, GROUP);
        len += GROUP;
    }
    return (struct str){out, len};
}

struct str provider_anthropic_name_read(struct str written, struct arena *arena)
{
    size_t len = 0;
    char *out;

    if (str_find(written, STR("_x")) == written.len)
        return written;
    out = arena_alloc(arena, written.len);
    if (!out)
        return (struct str){0};
    for (size_t i = 0; i < written.len; i++) {
        const char *at = written.ptr + i;
        if (!begins_group(written, i) || i + GROUP > written.len || at[GROUP - 1] != '_') {
            out[len++] = *at;
            continue;
        }
        out[len++] = (char)(digit_value(at[2]) << 4 | digit_value(at[3]));
        i += GROUP - 1;
    }
    return (struct str){out, len};
}

err_t provider_anthropic_name_put(struct encoding *encoding, struct json_writer *w,
                                  const char *member, struct str name)
{
    struct str written = provider_anthropic_name_write(name, encoding->arena);

    if (!written.ptr)
        return arena_err(encoding->arena);
    json_put_text(w, member, written);
    return NULL;
}
