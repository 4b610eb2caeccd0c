/* SPDX-License-Identifier: Apache-2.0 */
/* A YAML document as a tree of nodes with line numbers. */
#ifndef CONF_TREE_H
#define CONF_TREE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/str.h"

#define TREE_MAX_BYTES ((size_t)1024 * 1024)
#define TREE_MAX_DEPTH 16
#define TREE_MAX_NODES 20000

enum tree_kind { TREE_SCALAR, TREE_LIST, TREE_MAP };

struct tree_node {
    enum tree_kind kind;
    size_t line;
    bool is_plain;   /* a scalar without quotes: its text may mean a number, a boolean or null */
    struct str text; /* of a scalar; holds no NUL */
    struct str key;  /* under which it stands in its map */
    size_t key_hash;
    struct tree_node *next;         /* in its list or map */
    struct tree_node *first, *last; /* of a list or map */
    size_t count;
};

/* What is wrong with the document, and where. */
struct tree_problem {
    size_t line; /* 0: unknown */
    const char *text;
};

/* Parse a document of at most TREE_MAX_BYTES. The tree is in the arena; *root is NULL for an
 * empty document. Aliases, anchors, tags, repeated keys, several documents, and what is deeper
 * or larger than the limits above are refused: then problem->text is set (in the arena) and
 * *root is NULL. Errors: BUSY or TOO_BIG when memory is short. */
err_t tree_parse(struct arena *arena, struct str document, struct tree_node **root,
                 struct tree_problem *problem) ERR_MUST_CHECK;

/* The node under `key`, or NULL; also NULL if `map` is NULL or not a map. */
const struct tree_node *tree_get(const struct tree_node *map, struct str key);

/* Whether the node is an empty plain scalar, `~` or `null`: a key without a value. */
bool tree_is_null(const struct tree_node *node);

#endif
