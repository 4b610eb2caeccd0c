/* SPDX-License-Identifier: Apache-2.0 */
/* Builds a tree from libyaml's events.
 *
 * YAML can do more than a configuration needs, and some of it is dangerous: aliases can blow a
 * small file up to gigabytes, a repeated key hides the first one. All that is refused here, with
 * its line, so that the reader sees maps, lists and scalars only. The hard thing is that
 * libyaml's parser and events are its own heap blocks, and must be given back on every way out. */
#include "conf/tree.h"

#include <yaml.h>

#include "base/text.h"

struct builder {
    struct arena *arena;
    yaml_parser_t parser;
    struct str document;
    struct tree_problem *problem;
    struct tree_node *open[TREE_MAX_DEPTH]; /* lists and maps that are not closed */
    size_t depth;
    struct tree_node *root;
    struct str key; /* read, its value is still to come; ptr NULL if none */
    size_t key_line;
    size_t node_count;
    size_t document_count;
};

/* ---- problems ---- */

static err_t refuse(struct builder *b, size_t line, const char *text)
{
    b->problem->line = line;
    b->problem->text = text;
    return text ? NULL : arena_err(b->arena);
}

static size_t event_line(const yaml_event_t *event)
{
    return event->start_mark.line + 1;
}

/* Line `number` (from 1) of the document. */
static struct str document_line(struct str document, size_t number)
{
    struct str rest = document, line = {0};

    while (number-- && rest.ptr && str_split(&rest, '\n', &line))
        ;
    return line;
}

/* Say what libyaml found. Its text quotes nothing of the document. */
static err_t refuse_syntax(struct builder *b)
{
    const yaml_parser_t *p = &b->parser;
    size_t line = p->problem_mark.line + 1;
    const char *problem = p->problem ? p->problem : "unreadable";
    struct str text = document_line(b->document, line);
    bool has_variable = str_find(text, STR("${")) < text.len;

    if (p->error == YAML_MEMORY_ERROR)
        return err_no_memory();
    if (p->error == YAML_READER_ERROR)
        return refuse(b, 0, arena_printf(b->arena, "byte %zu: %s", p->problem_offset, problem));
    return refuse(b, line,
                  arena_printf(b->arena, "not valid YAML: %s%s%s%s", p->context ? p->context : "",
                               p->context ? ", " : "", problem,
                               has_variable ? " (within {…} a value with ${…} needs quotes)" : ""));
}

/* ---- nodes ---- */

static struct tree_node *map_find(const struct tree_node *map, struct str key, size_t hash)
{
    for (struct tree_node *n = map->first; n; n = n->next)
        if (n->key_hash == hash && str_eq(n->key, key))
            return n;
    return NULL;
}

/* A key was read: its value comes next. */
static err_t take_key(struct builder *b, const yaml_event_t *event)
{
    struct tree_node *map = b->open[b->depth - 1];
    struct str key = {(const char *)event->data.scalar.value, event->data.scalar.length};
    const struct tree_node *twin = map_find(map, key, (size_t)text_hash(key, 0));

    if (twin)
        return refuse(b, event_line(event),
                      arena_printf(b->arena, "\"%.*s\" is here again, after line %zu", STR_ARG(key),
                                   twin->line));
    if (memchr(key.ptr, 0, key.len))
        return refuse(b, event_line(event), "a key must not hold a NUL byte");
    b->key = arena_copy(b->arena, key);
    b->key_line = event_line(event);
    return b->key.ptr ? NULL : arena_err(b->arena);
}

/* Hang a new node into the open list or map, or make it the root. */
static err_t add_node(struct builder *b, enum tree_kind kind, const yaml_event_t *event,
                      struct tree_node **out)
{
    struct tree_node *node = arena_new_struct(b->arena, struct tree_node);
    struct tree_node *parent = b->depth ? b->open[b->depth - 1] : NULL;

    if (!node)
        return arena_err(b->arena);
    *out = node;
    node->kind = kind;
    node->line = b->key.ptr ? b->key_line : event_line(event);
    if (++b->node_count > TREE_MAX_NODES)
        return refuse(b, node->line, "too many values");
    if (!parent) {
        b->root = node;
        return NULL;
    }
    if (b->key.ptr) {
        node->key = b->key;
        node->key_hash = (size_t)text_hash(b->key, 0);
        b->key = (struct str){0};
    }
    if (parent->last)
        parent->last->next = node;
    else
        parent->first = node;
    parent->last = node;
    parent->count++;
    return NULL;
}

/* ---- events ---- */

/* What comes now is a key if it stands in a map and no key is waiting for its value. */
static bool key_is_due(const struct builder *b)
{
    return b->depth && b->open[b->depth - 1]->kind == TREE_MAP && !b->key.ptr;
}

static err_t take_scalar(struct builder *b, const yaml_event_t *event)
{
    struct str text = {(const char *)event->data.scalar.value, event->data.scalar.length};
    struct tree_node *node;

    if (event->data.scalar.anchor)
        return refuse(b, event_line(event), "anchors (&) and aliases (*) are not supported");
    if (event->data.scalar.tag)
        return refuse(b, event_line(event), "tags (!) are not supported");
    if (key_is_due(b))
        return take_key(b, event);
    if (memchr(text.ptr, 0, text.len))
        return refuse(b, event_line(event), "a value must not hold a NUL byte");
    TRY(add_node(b, TREE_SCALAR, event, &node));
    node->is_plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    node->text = arena_copy(b->arena, text);
    return node->text.ptr ? NULL : arena_err(b->arena);
}

static err_t open_node(struct builder *b, enum tree_kind kind, const yaml_event_t *event)
{
    const yaml_char_t *anchor =
        kind == TREE_MAP ? event->data.mapping_start.anchor : event->data.sequence_start.anchor;
    const yaml_char_t *tag =
        kind == TREE_MAP ? event->data.mapping_start.tag : event->data.sequence_start.tag;
    struct tree_node *node;

    if (anchor)
        return refuse(b, event_line(event), "anchors (&) and aliases (*) are not supported");
    if (tag)
        return refuse(b, event_line(event), "tags (!) are not supported");
    if (key_is_due(b))
        return refuse(b, event_line(event), "a key must be plain text");
    if (b->depth == TREE_MAX_DEPTH)
        return refuse(b, event_line(event), "nested too deeply");
    TRY(add_node(b, kind, event, &node));
    b->open[b->depth++] = node;
    return NULL;
}

static err_t take_event(struct builder *b, const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (++b->document_count > 1)
            return refuse(b, event_line(event), "a second document (---) is not supported");
        return NULL;
    case YAML_ALIAS_EVENT:
        return refuse(b, event_line(event), "anchors (&) and aliases (*) are not supported");
    case YAML_SCALAR_EVENT:
        return take_scalar(b, event);
    case YAML_SEQUENCE_START_EVENT:
        return open_node(b, TREE_LIST, event);
    case YAML_MAPPING_START_EVENT:
        return open_node(b, TREE_MAP, event);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        b->depth--;
        return NULL;
    default:
        return NULL;
    }
}

static err_t take_events(struct builder *b)
{
    bool is_end = false;

    while (!is_end && !b->problem->text) {
        yaml_event_t event;
        if (!yaml_parser_parse(&b->parser, &event))
            return refuse_syntax(b);
        is_end = event.type == YAML_STREAM_END_EVENT;
        err_t err = take_event(b, &event);
        yaml_event_delete(&event);
        TRY(err);
    }
    return NULL;
}

err_t tree_parse(struct arena *arena, struct str document, struct tree_node **root,
                 struct tree_problem *problem)
{
    struct builder *b = arena_new_struct(arena, struct builder);

    *root = NULL;
    *problem = (struct tree_problem){0};
    if (!b)
        return arena_err(arena);
    b->arena = arena;
    b->document = document;
    b->problem = problem;
    if (!yaml_parser_initialize(&b->parser))
        return err_no_memory();
    yaml_parser_set_input_string(&b->parser, (const unsigned char *)document.ptr, document.len);
    err_t err = take_events(b);
    yaml_parser_delete(&b->parser);
    if (!err && !problem->text)
        *root = b->root;
    return err;
}

const struct tree_node *tree_get(const struct tree_node *map, struct str key)
{
    if (!map || map->kind != TREE_MAP)
        return NULL;
    return map_find(map, key, (size_t)text_hash(key, 0));
}

bool tree_is_null(const struct tree_node *node)
{
    return node->kind == TREE_SCALAR && node->is_plain &&
           (node->text.len == 0 || str_eq(node->text, STR("~")) || str_eq(node->text, STR("null")));
}
