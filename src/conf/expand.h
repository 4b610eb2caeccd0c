/* SPDX-License-Identifier: Apache-2.0 */
/* ${VARIABLES} in values. */
#ifndef CONF_EXPAND_H
#define CONF_EXPAND_H

#include "conf/reader.h"

/* The scalar's text with ${NAME} and ${NAME:-default} replaced from the environment and $${ by
 * ${; it is good as long as the scratch arena. *has_variables tells whether there were any.
 * False after a problem was noted: an undefined variable, or a badly written one. */
bool expand_scalar(struct reader *r, const struct tree_node *node, struct str *text,
                   bool *has_variables);

#endif
