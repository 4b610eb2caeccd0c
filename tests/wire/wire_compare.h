/* SPDX-License-Identifier: Apache-2.0 */
/* Comparing what is expected with what came: JSON by value, streams event by event. */
#ifndef WIRE_COMPARE_H
#define WIRE_COMPARE_H

#include <stdbool.h>

#include "base/arena.h"
#include "base/str.h"

/* Both return NULL when all is equal, else a text in the arena that names the place and shows both
 * sides. The order of members does not matter, nor how numbers are written; an expected text that
 * ends with "ID" stands for every text that begins the same and goes on with an identifier. */
const char *wire_compare_json(struct str expected, struct str actual, struct arena *arena);
const char *wire_compare_stream(struct str expected, struct str actual, struct arena *arena);

#endif
