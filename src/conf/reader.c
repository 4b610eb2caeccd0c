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

/* Read a map of named structs, or a list of structs. One more than the file has fits in, for the
 * provider that the environment may add. */
static void read_collection(struct reader *r, const struct tree_node *node,
                            const struct option_child *child)
{
    const struct option_collection *collection = options_collection(child->prefix);
    enum tree_kind wanted = child->kind == CHILD_MAP ? TREE_MAP : TREE_LIST;
    char *items = arena_alloc_array(r->arena, node->count + 1, collection->item_size);
    size_t count = 0;

    if (tree_is_null(node))
        return;
    if (node->kind != wanted) {
        reader_problem(r, node->line, "%.*s must be a %s", STR_ARG(child->name),
                       wanted == TREE_MAP ? "map" : "list");
        return;
    }
    if (!items) {
        reader_fail(r, r->arena);
        return;
    }
    for (const struct tree_node *n = node->first; n; n = n->next, count++) {
        void *item = items + count * collection->item_size;
        set_defaults(r, child->prefix, item);
        if (wanted == TREE_MAP)
            *(struct str *)item = reader_keep(r, n->key);
        read_children(r, n, child->prefix, item);
    }
    *(void **)((char *)r->conf + collection->items_offset) = items;
    *(size_t *)((char *)r->conf + collection->count_offset) = count;
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
        read_collection(r, node, &child);
}

static void read_children(struct reader *r, const struct tree_node *node, struct str prefix,
                          void *base)
{
    if (tree_is_null(node))
        return;
    if (node->kind != TREE_MAP) {
        reader_problem(r, node->line, "%.*s must be a map of options", STR_ARG(node->key));
        return;
    }
    for (const struct tree_node *n = node->first; n && !r->failed; n = n->next)
        read_child(r, n, prefix, base);
}

/* ---- the environment ---- */

/* With OPENAI_API_KEY there is a provider "openai", and it is the default unless the file names
 * one. */
static void add_environment(struct reader *r)
{
    struct str key = str_from(getenv("OPENAI_API_KEY"));
    struct str url = str_from(getenv("OPENAI_BASE_URL"));
    struct conf *conf = r->conf;

    if (!key.len)
        return;
    if (!conf->default_provider.len)
        conf->default_provider = STR("openai");
    if (conf_provider_get(conf, STR("openai")))
        return;
    if (!conf->providers)
        conf->providers = arena_new_struct(r->arena, struct conf_provider);
    if (!conf->providers) {
        reader_fail(r, r->arena);
        return;
    }
    struct conf_provider *provider = &conf->providers[conf->provider_count++];
    set_defaults(r, STR("providers.*."), provider);
    provider->name = STR("openai");
    provider->key = reader_keep(r, key);
    while (url.len && url.ptr[url.len - 1] == '/')
        url.len--;
    if (url.len)
        provider->url = reader_keep(r, url);
    if (!value_is_url(provider->url))
        reader_problem(r, 0, "OPENAI_BASE_URL must be like https://host/v1");
    if (!value_is_token(key))
        reader_problem(r, 0, "OPENAI_API_KEY must be ASCII without spaces or line breaks");
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
