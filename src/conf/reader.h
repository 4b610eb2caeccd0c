/* SPDX-License-Identifier: Apache-2.0 */
/* Reading one configuration: what all its steps share, and how they tell what is wrong.
 *
 * Steps do not stop at a problem: they note it and go on, so that a user sees all of them at
 * once. Only a lack of memory ends a reading early: then `failed` is set, and what was read is
 * thrown away. */
#ifndef CONF_READER_H
#define CONF_READER_H

#include "base/arena.h"
#include "base/err.h"
#include "conf/conf.h"
#include "conf/options.h"
#include "conf/tree.h"

struct problem {
    struct problem *next;
    size_t line; /* 0: none */
    const char *text;
};

struct reader {
    struct conf *conf;
    struct arena *arena;          /* the snapshot's: what stays */
    struct arena *scratch;        /* what goes after reading: tree, problems, unfinished texts */
    struct str folder;            /* of the file, with a slash at its end; empty: none */
    const struct tree_node *root; /* NULL without a file or with an empty one */
    bool has_literal_secret;      /* one that stands in the file itself */
    struct problem *problems;     /* by line */
    size_t problem_count;
    err_t failed;
};

/* Note a problem of a line (0: none). Texts never hold the value of a secret. */
void reader_problem(struct reader *r, size_t line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Note something that is allowed but unwise. The first READER_MAX_WARNINGS are kept. */
#define READER_MAX_WARNINGS 16
void reader_warn(struct reader *r, size_t line, const char *text);

/* Most providers that the environment adds to the file's. */
#define READER_ENVIRONMENT_PROVIDERS 3

/* Line of the node under these keys (C strings, then NULL), or of the last one that exists; 0 if
 * none. */
size_t reader_line(const struct reader *r, ...) __attribute__((sentinel));

/* Note that an allocation in `arena` failed. */
void reader_fail(struct reader *r, const struct arena *arena);

/* A copy of `s` that stays, or an empty str after reader_fail. */
struct str reader_keep(struct reader *r, struct str s);

/* Read the tree into r->conf: defaults, providers and settings, what the environment adds,
 * models. */
void reader_read(struct reader *r);

#endif
