/* SPDX-License-Identifier: Apache-2.0 */
/* When days and months begin, in a time zone. */
#ifndef GOVERN_PERIOD_H
#define GOVERN_PERIOD_H

#include <stdint.h>

#include "conf/conf.h"

/* From begins_s up to ends_s, in seconds since 1970; of "total": 0 and UINT64_MAX. */
struct period {
    uint64_t begins_s, ends_s;
};

/* The period of this kind that `now_s` lies in. `zone` as in budgets.timezone; one that cannot be read counts as UTC. Cheap: each
 * thread remembers the last answers. */
struct period period_at(struct str zone, enum conf_period kind, uint64_t now_s);

/* The same for all kinds at once. */
void period_all_at(struct str zone, uint64_t now_s, struct period out[CONF_PERIOD_TOTAL + 1]);

#endif
