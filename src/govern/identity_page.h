/* SPDX-License-Identifier: Apache-2.0 */
/* Where a page of a list ends, as a cursor that callers hand back.
 *
 * A cursor is the last row's place in hexadecimal behind a checksum: callers cannot build on what is in it, and one that was
 * mistyped or belongs to another list is refused instead of giving some other page. */
#ifndef GOVERN_IDENTITY_PAGE_H
#define GOVERN_IDENTITY_PAGE_H

#include "base/arena.h"
#include "base/err.h"
#include "base/json_writer.h"

/* Rows are in the order of a number (a time, mostly) and then of their ids. */
struct identity_place {
    int64_t number;
    struct str id;
};

/* Read a cursor of the list `name`; an empty one is the place before all rows. Errors: BAD_REQUEST, the arena's. */
err_t identity_place_read(const char *name, struct str cursor, struct arena *arena,
                          struct identity_place *out) ERR_MUST_CHECK;

/* Write the members has_more and next_cursor; `place` is NULL after the last page. */
void identity_place_write(const char *name, const struct identity_place *place,
                          struct json_writer *w);

#endif
