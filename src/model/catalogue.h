/* SPDX-License-Identifier: Apache-2.0 */
/* The models we know by name: a table with hashes, and where their files are on this machine. */
#ifndef MODEL_CATALOGUE_H
#define MODEL_CATALOGUE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/err.h"
#include "base/str.h"

struct catalogue_model {
    const char *name;   /* "qwen2.5-coder-0.5b" */
    const char *file;   /* file name below data_dir/models */
    const char *sha256; /* of the whole file, lower-case hex */
    const char *licence;
    const char *note; /* what it is fit for */
    uint64_t bytes;
    uint64_t context_tokens; /* what it was trained for */
};

/* Where a model's bytes may be had: a whole file at a URL, or a part of it inside a registry
 * package. */
struct catalogue_source {
    const char *url; /* NULL: a package */
    const char *package, *version, *member;
    uint64_t bytes; /* of the part */
};

/* Step through the catalogue in its order (the default model first): begin with *at = 0. NULL at
 * the end. */
const struct catalogue_model *catalogue_next(size_t *at);

/* Step through the sources of a model in the order in which to try them; its packages, joined in
 * this order, are the file. Begin with *at = 0. NULL at the end. */
const struct catalogue_source *catalogue_next_source(const struct catalogue_model *model,
                                                     size_t *at);

/* By name, or NULL. */
const struct catalogue_model *catalogue_get(struct str name);

/* The file of `model` below data_dir/models, in the arena (empty without memory).
 * NUL-terminated. */
struct str catalogue_path(struct arena *arena, struct str data_dir,
                          const struct catalogue_model *model);

/* Whether its file is there with the right size (the hash was checked when the file took its
 * name). Blocks on a file. */
bool catalogue_is_installed(struct str data_dir, const struct catalogue_model *model);

#endif
