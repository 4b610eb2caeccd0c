/* SPDX-License-Identifier: Apache-2.0 */
/* Walks the file's tree beside the tree of options, and fills struct conf.
 *
 * The two trees have the same shape: a map in the file is a group or a collection of the table,
 * a scalar or list is an option. What the table does not know is refused, with the nearest name
 * that it knows. */
#include "conf/reader.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "conf/nearest.h"
#include "conf/presets.h"
#include "conf/value.h"

void reader_problem(struct reader *r, size_t line, const char *format, ...)
{
    struct problem *problem = arena_new_struct(r->scratch, struct problem), **link = &r->problems;
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (problem)
        problem->text = arena_cstr(r->scratch, str_from(text));
    if (!problem || !problem->text) {
        reader_fail(r, r->scratch);
        return;
    }
    problem->line = line;
    while (*link && (*link)->line <= line)
        link = &(*link)->next;
    problem->next = *link;
    *link = problem;
    r->problem_count++;
}

void reader_warn(struct reader *r, size_t line, const char *text)
{
    struct conf_strings *warnings = &r->conf->warnings;
    struct str path = r->conf->path;
    char *full = line ? arena_printf(r->arena, "%.*s:%zu: %s", STR_ARG(path), line, text)
                      : arena_printf(r->arena, "%.*s: %s", STR_ARG(path), text);

    if (!warnings->items)
        warnings->items = arena_alloc_array(r->arena, READER_MAX_WARNINGS, sizeof *warnings->items);
    if (!full || !warnings->items)
        reader_fail(r, r->arena);
    else if (warnings->count < READER_MAX_WARNINGS)
        warnings->items[warnings->count++] = str_from(full);
}

size_t reader_line(const struct reader *r, ...)
{
    const struct tree_node *node = r->root;
    const char *key;
    size_t line = 0;
    va_list keys;

    va_start(keys, r);
    while (node && (key = va_arg(keys, const char *))) {
        node = tree_get(node, str_from(key));
        line = node ? node->line : line;
    }
    va_end(keys);
    return line;
}

void reader_fail(struct reader *r, const struct arena *arena)
{
    if (!r->failed)
        r->failed = arena_err(arena);
}

struct str reader_keep(struct reader *r, struct str s)
{
    struct str kept = arena_copy(r->arena, s);

    if (!kept.ptr)
        reader_fail(r, r->arena);
    return kept.ptr ? kept : (struct str){0};
}

/* ---- defaults ---- */

/* Set the defaults of all options below `prefix` that live in the struct at `base`. */
static void set_defaults(struct reader *r, struct str prefix, void *base)
{
    struct option_child child;

    for (size_t at = 0; options_next_child(prefix, &at, &child);) {
        if (child.kind == CHILD_OPTION)
            value_set_default(r, child.option, base);
        else if (child.kind == CHILD_GROUP)
            set_defaults(r, child.prefix, base);
    }
}

/* ---- the tree ---- */

static void read_children(struct reader *r, const struct tree_node *node, struct str prefix,
                          void *base);

/* Refuse a key that no option has; suggest a sibling, or the place where the option really is. */
static void problem_of_key(struct reader *r, const struct tree_node *node, struct str prefix)
{
    struct nearest near = nearest_begin(node->key);
    struct option_child child;

    for (size_t at = 0; options_next_child(prefix, &at, &child);)
        nearest_offer(&near, child.name);
    for (size_t i = 0; i < option_count && !near.word.len; i++) {
        struct str path = options[i].path;
        size_t start = path.len > node->key.len ? path.len - node->key.len : 0;
        if (start && path.ptr[start - 1] == '.' && str_eq(str_after(path, start), node->key))
            near.word = path;
    }
    reader_problem(r, node->line, "unknown option \"%.*s\"%s", STR_ARG(node->key),
                   nearest_hint(&near, r->scratch));
}

static bool find_child(struct str prefix, struct str name, struct option_child *child)
{
    for (size_t at = 0; options_next_child(prefix, &at, child);)
        if (str_eq(child->name, name))
            return true;
    return false;
}

/* Read one element of a collection into `item`. A text in place of a map is its short form. */
static void read_item(struct reader *r, const struct tree_node *node,
                      const struct option_child *child, void *item)
{
    const struct option_collection *collection = options_collection(child->prefix);
    struct option_child only;

    set_defaults(r, child->prefix, item);
    if (child->kind == CHILD_MAP)
        *(struct str *)item = reader_keep(r, node->key);
    if (str_eq(child->prefix, STR("providers.*.")))
        presets_apply(r, node, item);
    if (!collection->short_for.len || node->kind == TREE_MAP)
        read_children(r, node, child->prefix, item);
    else if (find_child(child->prefix, collection->short_for, &only))
        value_read(r, only.option, node, item);
}

/* Read a map of named structs, or a list of structs. One more than the file has for each provider
 * that the environment may add fits in. A list of one element may be that element alone. */
static void read_collection(struct reader *r, const struct tree_node *node,
                            const struct option_child *child, void *base)
{
    const struct option_collection *collection = options_collection(child->prefix);
    bool is_alone = collection->short_for.len && node->kind != TREE_LIST;
    enum tree_kind wanted = child->kind == CHILD_MAP ? TREE_MAP : TREE_LIST;
    char *items;
    size_t count = 0;

    if (tree_is_null(node))
        return;
    if (node->kind != wanted && !is_alone) {
        reader_problem(r, node->line, "%.*s must be a %s", STR_ARG(child->name),
                       wanted == TREE_MAP ? "map" : "list");
        return;
    }
    items = arena_alloc_array(r->arena, (is_alone ? 1 : node->count) + READER_ENVIRONMENT_PROVIDERS,
                              collection->item_size);
    if (!items) {
        reader_fail(r, r->arena);
        return;
    }
    const struct tree_node *first = is_alone ? node : node->first;
    for (const struct tree_node *n = first; n; n = is_alone ? NULL : n->next)
        read_item(r, n, child, items + count++ * collection->item_size);
    *(void **)((char *)base + collection->items_offset) = items;
    *(size_t *)((char *)base + collection->count_offset) = count;
}

static void read_child(struct reader *r, const struct tree_node *node, struct str prefix,
                       void *base)
{
    struct option_child child;

    if (!find_child(prefix, node->key, &child))
        problem_of_key(r, node, prefix);
    else if (child.kind == CHILD_OPTION)
        value_read(r, child.option, node, base);
    else if (child.kind == CHILD_GROUP)
        read_children(r, node, child.prefix, base);
    else
        read_collection(r, node, &child, base);
}

/* An element has no key of its own: `prefix` tells whose it is, like "keys.static[].". */
static void problem_of_kind(struct reader *r, const struct tree_node *node, struct str prefix)
{
    struct str mark = STR("[].");

    if (!str_ends(prefix, mark)) {
        reader_problem(r, node->line, "%.*s must be a map of options", STR_ARG(node->key));
        return;
    }
    prefix.len -= mark.len;
    reader_problem(r, node->line, "an element of %.*s must be a map of options", STR_ARG(prefix));
}

static void read_children(struct reader *r, const struct tree_node *node, struct str prefix,
                          void *base)
{
    if (tree_is_null(node))
        return;
    if (node->kind != TREE_MAP) {
        problem_of_kind(r, node, prefix);
        return;
    }
    for (const struct tree_node *n = node->first; n && !r->failed; n = n->next)
        read_child(r, n, prefix, base);
}

/* ---- the environment ---- */

/* With its key in the environment there is a provider "openai" (and so on). The first of them is
 * the default unless the file names one. */
struct known_provider {
    const char *name, *key_variable, *url_variable;
    enum conf_provider_kind kind;
};

static void add_provider(struct reader *r, const struct known_provider *known, struct str key)
{
    struct conf *conf = r->conf;
    struct str url = str_from(known->url_variable ? getenv(known->url_variable) : NULL);

    if (!conf->providers)
        conf->providers =
            arena_alloc_array(r->arena, READER_ENVIRONMENT_PROVIDERS, sizeof(*conf->providers));
    if (!conf->providers) {
        reader_fail(r, r->arena);
        return;
    }
    struct conf_provider *provider = &conf->providers[conf->provider_count++];
    set_defaults(r, STR("providers.*."), provider);
    presets_apply_kind(provider, known->kind);
    provider->name = str_from(known->name);
    provider->key = reader_keep(r, key);
    while (url.len && url.ptr[url.len - 1] == '/')
        url.len--;
    if (url.len)
        provider->url = reader_keep(r, url);
    if (!value_is_url(provider->url))
        reader_problem(r, 0, "%s must be like https://host/v1", known->url_variable);
    if (!value_is_token(key))
        reader_problem(r, 0, "%s must be ASCII without spaces or line breaks", known->key_variable);
}

static void add_environment(struct reader *r)
{
    static const struct known_provider all[READER_ENVIRONMENT_PROVIDERS] = {
        {"openai", "OPENAI_API_KEY", "OPENAI_BASE_URL", CONF_PROVIDER_OPENAI},
        {"anthropic", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", CONF_PROVIDER_ANTHROPIC},
        {"gemini", "GEMINI_API_KEY", NULL, CONF_PROVIDER_GEMINI},
    };

    for (size_t i = 0; i < READER_ENVIRONMENT_PROVIDERS && !r->failed; i++) {
        struct str key = str_from(getenv(all[i].key_variable));
        if (!key.len)
            continue;
        if (!r->conf->default_provider.len)
            r->conf->default_provider = str_from(all[i].name);
        if (!conf_provider_get(r->conf, str_from(all[i].name)))
            add_provider(r, &all[i], key);
    }
}

void reader_read(struct reader *r)
{
    const struct tree_node *root = r->root, *models = tree_get(root, STR("models"));

    set_defaults(r, STR(""), r->conf);
    if (root && root->kind != TREE_MAP && !tree_is_null(root))
        reader_problem(r, root->line, "the file must be a map of options");
    if (root && root->kind == TREE_MAP)
        for (const struct tree_node *n = root->first; n && !r->failed; n = n->next)
            if (n != models)
                read_child(r, n, STR(""), r->conf);
    add_environment(r);
    if (models) /* last: targets name providers, wherever those stand in the file */
        read_child(r, models, STR(""), r->conf);
}
