/* SPDX-License-Identifier: Apache-2.0 */
/* YAML maps that become JSON (extra_body). */
#ifndef CONF_VALUE_JSON_H
#define CONF_VALUE_JSON_H

#include "conf/reader.h"

/* Turn a map into the text of a JSON object, which stays. Plain scalars mean what YAML 1.2's
 * core schema says (null, booleans, numbers), all others are strings; variables are expanded
 * first. */
void value_json_read(struct reader *r, const struct tree_node *node, struct str *out);

#endif
