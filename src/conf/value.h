/* SPDX-License-Identifier: Apache-2.0 */
/* Options' values: from the tree into a field, and back to text. */
#ifndef CONF_VALUE_H
#define CONF_VALUE_H

#include "conf/reader.h"

/* Set the option's field in the struct at `base` from its node; problems are noted. */
void value_read(struct reader *r, const struct option *option, const struct tree_node *node,
                void *base);

/* Set the field to the option's default. */
void value_set_default(struct reader *r, const struct option *option, void *base);

/* Make a PATH that stays: ~/ is the home folder, and relative ones start at the file's folder. */
struct str value_resolve_path(struct reader *r, struct str path);

/* Whether this is an http(s) address that calls can be based on, and whether it may stand in a
 * header. */
bool value_is_url(struct str url);
bool value_is_token(struct str text);

/* Whether the field holds nothing worth showing: empty, or a default that is worked out later. */
bool value_is_empty(const struct option *option, const void *base);

/* Append the value as JSON (which is YAML as well), secrets as "***". */
err_t value_print(const struct option *option, const void *base, struct buf *out) ERR_MUST_CHECK;

/* Whether two structs hold the same value. */
bool value_equal(const struct option *option, const void *a, const void *b);

#endif
