/* SPDX-License-Identifier: Apache-2.0 */
/* "Did you mean …?": the word nearest to what somebody typed. */
#ifndef CONF_NEAREST_H
#define CONF_NEAREST_H

#include "base/arena.h"
#include "base/str.h"

struct nearest {
    struct str text; /* as typed */
    struct str word; /* the best so far; empty if nothing is near */
    size_t distance; /* of the best so far */
};

/* Begin a search; offer every candidate; then ask for the hint. */
struct nearest nearest_begin(struct str text);
void nearest_offer(struct nearest *n, struct str word);

/* ` (did you mean "word"?)` in the arena, or "" if nothing is near or memory is short. */
const char *nearest_hint(const struct nearest *n, struct arena *arena);

#endif
