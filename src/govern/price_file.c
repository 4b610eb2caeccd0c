/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the price file.
 *
 *     currency: USD
 *     models:
 *       openai/gpt-4o: {input: 2.5, output: 10, cached: 1.25}
 *       local-*:
 *         - {input: 0, output: 0, until: 2026-01-01}
 *         - {input: 0.1, output: 0.1, from: 2026-01-01}
 *
 * All mistakes are told at once, each with its line. What is missing is never taken for free: input
 * and output must be there, and of two prices for one moment neither is chosen. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/sys.h"
#include "conf/nearest.h"
#include "conf/tree.h"
#include "govern/price_decimal.h"
#include "govern/price_table.h"

#define TABLE_MAX_BYTES    ((size_t)16 * 1024 * 1024)
#define SCRATCH_MAX_BYTES  ((size_t)64 * 1024 * 1024)
#define PROBLEMS_MAX_BYTES ((size_t)256 * 1024)
#define MOST_PROBLEMS      20
#define MS_PER_DAY         UINT64_C(86400000)

struct reader {
    struct str path;
    struct prices *prices;
    struct arena *scratch;
    struct buf problems;
    size_t problem_count;
    err_t failed; /* memory */
};

/* Members of a price, in currency units per 10^power_of tokens or each. */
static const struct member {
    struct str name;
    size_t offset;
    int power; /* from units to pico-units: of a million tokens 6, of one thing 12 */
} members[] = {
#define MEMBER(name, power) {{#name, sizeof #name - 1}, offsetof(struct price, name##_pico), power}
    MEMBER(input, 6),     MEMBER(output, 6), MEMBER(cached, 6),   MEMBER(cache_written, 6),
    MEMBER(reasoning, 6), MEMBER(image, 12), MEMBER(request, 12),
#undef MEMBER
};

#define MEMBER_COUNT (sizeof members / sizeof *members)

/* ---- problems ---- */

static void problem(struct reader *r, size_t line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static void problem(struct reader *r, size_t line, const char *format, ...)
{
    char text[512];
    va_list args;
    err_t err;

    if (++r->problem_count > MOST_PROBLEMS)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    err = line ? buf_printf(&r->problems, "%.*s:%zu: %s\n", STR_ARG(r->path), line, text)
               : buf_printf(&r->problems, "%.*s: %s\n", STR_ARG(r->path), text);
    if (err)
        r->failed = err;
}

static err_t report(struct reader *r)
{
    if (r->problem_count > MOST_PROBLEMS)
        TRY(buf_printf(&r->problems, "and %zu more\n", r->problem_count - MOST_PROBLEMS));
    return err_new(ERR_CONFIG, "%.*s",
                   STR_ARG(str_trim((struct str){r->problems.ptr, r->problems.len - 1})));
}

static struct str shown(struct str text)
{
    return (struct str){text.ptr, text.len < 60 ? text.len : 60};
}

/* ---- dates ---- */

static bool parse_part(struct str text, size_t at, size_t len, uint64_t low, uint64_t high,
                       uint64_t *out)
{
    return str_to_u64((struct str){text.ptr + at, len}, out) && *out >= low && *out <= high;
}

static bool is_leap(uint64_t year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

/* Days from 1970-01-01 to a day, which must exist. */
static bool parse_day(struct str text, uint64_t *days)
{
    static const unsigned lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    uint64_t year, month, day;

    if (text.len != 10 || text.ptr[4] != '-' || text.ptr[7] != '-' ||
        !parse_part(text, 0, 4, 1970, 9999, &year) || !parse_part(text, 5, 2, 1, 12, &month) ||
        !parse_part(text, 8, 2, 1, lengths[month - 1] + (month == 2 && is_leap(year)), &day))
        return false;
    *days = (year - 1970) * 365 + (year - 1969) / 4 - (year - 1901) / 100 + (year - 1601) / 400;
    for (uint64_t m = 1; m < month; m++)
        *days += lengths[m - 1] + (m == 2 && is_leap(year));
    *days += day - 1;
    return true;
}

/* "2026-01-01", the midnight that it begins with in UTC, or "2026-01-01T12:30:00Z" (RFC 3339). */
static bool parse_date(struct str text, uint64_t *ms)
{
    uint64_t days, hours = 0, minutes = 0, seconds = 0;

    if (text.len < 10 || !parse_day((struct str){text.ptr, 10}, &days))
        return false;
    if (text.len > 10 &&
        (text.len != 20 || text.ptr[10] != 'T' || text.ptr[13] != ':' || text.ptr[16] != ':' ||
         text.ptr[19] != 'Z' || !parse_part(text, 11, 2, 0, 23, &hours) ||
         !parse_part(text, 14, 2, 0, 59, &minutes) || !parse_part(text, 17, 2, 0, 59, &seconds)))
        return false;
    *ms = days * MS_PER_DAY + ((hours * 60 + minutes) * 60 + seconds) * 1000;
    return true;
}

/* ---- a price ---- */

static void read_amount(struct reader *r, const struct tree_node *node, const struct member *member,
                        struct price *price)
{
    uint64_t *field = (uint64_t *)((char *)price + member->offset);
    bool is_exact = true;

    if (node->kind != TREE_SCALAR ||
        !price_decimal_parse(node->text, member->power, field, &is_exact))
        problem(r, node->line, "%.*s must be a number like 2.50, not \"%.*s\"",
                STR_ARG(member->name), STR_ARG(shown(node->text)));
    else if (!is_exact)
        problem(r, node->line, "%.*s has more than %d digits after the point",
                STR_ARG(member->name), member->power);
}

static void read_date(struct reader *r, const struct tree_node *node, uint64_t *ms)
{
    if (node->kind != TREE_SCALAR || !parse_date(node->text, ms))
        problem(r, node->line,
                "%.*s must be a date like 2026-01-01 or 2026-01-01T12:30:00Z, not \"%.*s\"",
                STR_ARG(node->key), STR_ARG(shown(node->text)));
}

static void problem_of_member(struct reader *r, const struct tree_node *node)
{
    struct nearest near = nearest_begin(node->key);

    for (size_t i = 0; i < MEMBER_COUNT; i++)
        nearest_offer(&near, members[i].name);
    nearest_offer(&near, STR("from"));
    nearest_offer(&near, STR("until"));
    problem(r, node->line, "a price has no \"%.*s\"%s", STR_ARG(shown(node->key)),
            nearest_hint(&near, r->scratch));
}

static void read_member(struct reader *r, const struct tree_node *node, struct price_span *span)
{
    for (size_t i = 0; i < MEMBER_COUNT; i++) {
        if (str_eq(node->key, members[i].name)) {
            read_amount(r, node, &members[i], &span->price);
            return;
        }
    }
    if (str_eq(node->key, STR("from")))
        read_date(r, node, &span->from_ms);
    else if (str_eq(node->key, STR("until")))
        read_date(r, node, &span->until_ms);
    else
        problem_of_member(r, node);
}

static void read_span(struct reader *r, const struct tree_node *node, struct price_span *span)
{
    *span = (struct price_span){.until_ms = UINT64_MAX, .line = node->line};
    if (node->kind != TREE_MAP) {
        problem(r, node->line, "a price must be like {input: 2.50, output: 10}");
        return;
    }
    for (const struct tree_node *n = node->first; n; n = n->next)
        read_member(r, n, span);
    if (!tree_get(node, STR("input")) || !tree_get(node, STR("output")))
        problem(r, node->line, "a price needs input and output; what is free costs 0");
    if (!tree_get(node, STR("cached")))
        span->price.cached_pico = span->price.input_pico;
    if (!tree_get(node, STR("cache_written")))
        span->price.cache_written_pico = span->price.input_pico;
    if (!tree_get(node, STR("reasoning")))
        span->price.reasoning_pico = span->price.output_pico;
    if (span->from_ms >= span->until_ms)
        problem(r, node->line, "until must be later than from");
}

/* ---- the models ---- */

static void check_spans(struct reader *r, const struct price_key *key)
{
    for (size_t i = 0; i < key->span_count; i++) {
        const struct price_span *a = &key->spans[i];
        for (size_t k = 0; k < i; k++) {
            const struct price_span *b = &key->spans[k];
            if (a->from_ms < b->until_ms && b->from_ms < a->until_ms)
                problem(r, a->line, "this price and the one of line %zu hold at the same time",
                        b->line);
        }
    }
}

static void read_key(struct reader *r, const struct tree_node *node, struct price_key *key)
{
    bool is_list = node->kind == TREE_LIST;
    const struct tree_node *first = is_list ? node->first : node;
    size_t count = is_list ? node->count : 1;

    key->name = arena_copy(r->prices->arena, node->key);
    key->spans = arena_alloc_array(r->prices->arena, count, sizeof(*key->spans));
    if (!key->name.ptr || !key->spans) {
        r->failed = arena_err(r->prices->arena);
        return;
    }
    if (key->name.len > 0 && key->name.ptr[key->name.len - 1] == '*')
        key->name.len--;
    key->has_provider = memchr(key->name.ptr, '/', key->name.len);
    if (node->key.len == 0 || node->key.len > PRICE_MAX_KEY ||
        memchr(key->name.ptr, '*', key->name.len))
        problem(
            r, node->line,
            "a model must be named like provider/model or model, with \"*\" at most at its end");
    if (count == 0)
        problem(r, node->line, "%.*s has no price", STR_ARG(shown(node->key)));
    for (const struct tree_node *n = first; n && key->span_count < count; n = n->next)
        read_span(r, n, &key->spans[key->span_count++]);
    check_spans(r, key);
}

static int by_name(const void *a, const void *b)
{
    return price_table_compare(((const struct price_key *)a)->name,
                               ((const struct price_key *)b)->name);
}

static int by_length(const void *a, const void *b)
{
    size_t a_len = ((const struct price_key *)a)->name.len;
    size_t b_len = ((const struct price_key *)b)->name.len;

    return a_len == b_len ? by_name(a, b) : (a_len < b_len) - (a_len > b_len);
}

static void read_models(struct reader *r, const struct tree_node *node)
{
    struct prices *p = r->prices;

    if (!node || node->kind != TREE_MAP) {
        problem(r, node ? node->line : 0, "models must be a map of names and prices");
        return;
    }
    p->keys = arena_alloc_array(p->arena, node->count, sizeof(*p->keys));
    p->prefixes = arena_alloc_array(p->arena, node->count, sizeof(*p->prefixes));
    if (!p->keys || !p->prefixes) {
        r->failed = arena_err(p->arena);
        return;
    }
    for (const struct tree_node *n = node->first; n && !r->failed; n = n->next)
        read_key(r, n,
                 str_ends(n->key, STR("*")) ? &p->prefixes[p->prefix_count++]
                                            : &p->keys[p->key_count++]);
    if (p->key_count)
        qsort(p->keys, p->key_count, sizeof(*p->keys), by_name);
    if (p->prefix_count)
        qsort(p->prefixes, p->prefix_count, sizeof(*p->prefixes), by_length);
}

static void read_currency(struct reader *r, const struct tree_node *node)
{
    struct str text = node && node->kind == TREE_SCALAR ? node->text : STR("");
    bool is_code = text.len == 3;

    for (size_t i = 0; is_code && i < 3; i++)
        is_code = text.ptr[i] >= 'A' && text.ptr[i] <= 'Z';
    if (!is_code)
        problem(r, node ? node->line : 0,
                "currency must be three capital letters like USD (ISO 4217)");
    r->prices->currency = arena_copy(r->prices->arena, text);
    if (!r->prices->currency.ptr)
        r->failed = arena_err(r->prices->arena);
}

/* ---- the file ---- */

static err_t read_tree(struct reader *r, struct str text)
{
    struct tree_problem wrong;
    struct tree_node *root;

    TRY(tree_parse(r->scratch, text, &root, &wrong));
    if (wrong.text) {
        problem(r, wrong.line, "%s", wrong.text);
        return r->failed;
    }
    read_currency(r, tree_get(root, STR("currency")));
    read_models(r, tree_get(root, STR("models")));
    for (const struct tree_node *n = root && root->kind == TREE_MAP ? root->first : NULL; n;
         n = n->next)
        if (!str_eq(n->key, STR("currency")) && !str_eq(n->key, STR("models")))
            problem(r, n->line, "unknown option \"%.*s\": a price file has currency and models",
                    STR_ARG(shown(n->key)));
    return r->failed;
}

err_t prices_read(struct str path, struct str text, struct prices **out)
{
    struct arena *arena = arena_new(MEM_CONF, TABLE_MAX_BYTES);
    struct prices *prices = arena ? arena_new_struct(arena, struct prices) : NULL;
    struct reader r = {.path = path,
                       .prices = prices,
                       .scratch = arena_new(MEM_CONF, SCRATCH_MAX_BYTES),
                       .problems = buf_make(MEM_CONF, PROBLEMS_MAX_BYTES)};
    err_t err = prices && r.scratch ? NULL : err_no_memory();

    *out = NULL;
    if (!err) {
        atomic_init(&prices->users, 1);
        prices->arena = arena;
        err = read_tree(&r, text);
    }
    if (!err && r.problem_count)
        err = report(&r);
    buf_fini(&r.problems);
    arena_free(r.scratch);
    if (err)
        arena_free(arena);
    else
        *out = prices;
    return err;
}

/* Read the file into the arena. One byte more than allowed is asked for, to notice more. */
static err_t read_file(struct arena *arena, struct str path, struct str *text)
{
    const char *name = arena_cstr(arena, path);
    char *bytes = arena_alloc(arena, TREE_MAX_BYTES + 1);
    size_t len = 0;
    ssize_t n = -1;

    if (!name || !bytes)
        return arena_err(arena);
    int fd = sys_open(name, O_RDONLY, 0);
    while (fd >= 0 && (n = sys_read(fd, bytes + len, TREE_MAX_BYTES + 1 - len)) > 0)
        len += (size_t)n;
    int error = errno;
    if (fd >= 0)
        sys_close(fd);
    if (n < 0)
        return err_new(ERR_CONFIG, "%s: %s", name, strerror(error));
    if (len > TREE_MAX_BYTES)
        return err_new(ERR_CONFIG, "%s: the file is larger than 1 MiB", name);
    *text = (struct str){bytes, len};
    return NULL;
}

err_t prices_load(struct str path, struct prices **out)
{
    struct arena *arena = arena_new(MEM_CONF, 2 * TREE_MAX_BYTES);
    struct str text;
    err_t err = arena ? read_file(arena, path, &text) : err_no_memory();

    *out = NULL;
    if (!err)
        err = prices_read(path, text, out);
    arena_free(arena);
    return err;
}
