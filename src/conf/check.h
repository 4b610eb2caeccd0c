/* SPDX-License-Identifier: Apache-2.0 */
/* What must hold between options. */
#ifndef CONF_CHECK_H
#define CONF_CHECK_H

#include "conf/reader.h"

/* Check what was read as a whole, note the problems, and work out the defaults that depend on
 * other options. */
void check_conf(struct reader *r);

#endif
