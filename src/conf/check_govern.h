/* SPDX-License-Identifier: Apache-2.0 */
/* What must hold of the options that say who may use what: store, Redis, budgets, issuers. */
#ifndef CONF_CHECK_GOVERN_H
#define CONF_CHECK_GOVERN_H

#include "conf/reader.h"

/* Check them, note the problems, and work out where the store is. data_dir must be known. Blocks on
 * the zone database's files. */
void check_govern(struct reader *r);

#endif
