/* SPDX-License-Identifier: Apache-2.0 */
/* Values of the types QUOTA and MONEY: amounts per period. */
#ifndef CONF_VALUE_QUOTA_H
#define CONF_VALUE_QUOTA_H

#include "conf/reader.h"

/* Read a list of amounts, or one alone, or "off" for none; problems are noted. */
void value_quota_read(struct reader *r, const struct option *option, const struct tree_node *node,
                      struct conf_quotas *out);

/* Append them as a JSON list of texts. */
err_t value_quota_print(const struct option *option, const struct conf_quotas *quotas,
                        struct buf *out) ERR_MUST_CHECK;

/* Whether both hold the same amounts in the same order. */
bool value_quota_equal(const struct conf_quotas *a, const struct conf_quotas *b);

#endif
