/* SPDX-License-Identifier: Apache-2.0 */
/* A recorded exchange: one text file, sections that begin with "=== NAME REST". README.md tells
 * which there are. */
#ifndef WIRE_FILE_H
#define WIRE_FILE_H

#include <stdbool.h>

#include "base/arena.h"
#include "base/str.h"

#define WIRE_MAX_SECTIONS 16

struct wire_section {
    struct str name, rest; /* "answers", "stream" */
    struct str text;       /* all bytes up to the next section */
};

struct wire_file {
    const char *path;
    struct wire_section sections[WIRE_MAX_SECTIONS];
    size_t count;
};

/* Read a file into the arena. False if it cannot be read or is not of this form; *why says what is
 * wrong. */
bool wire_file_read(const char *path, struct arena *arena, struct wire_file *out, const char **why);

/* The first section of a name, or NULL. */
const struct wire_section *wire_file_get(const struct wire_file *file, const char *name);

/* Take the next line out of *text, without its end and without spaces around it. False at the
 * end. */
bool wire_line(struct str *text, struct str *line);

#endif
