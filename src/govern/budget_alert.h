/* SPDX-License-Identifier: Apache-2.0 */
/* Marks of a budget that spend passes are noted with the spend itself; budget_webhook.c tells of them. */
#ifndef GOVERN_BUDGET_ALERT_H
#define GOVERN_BUDGET_ALERT_H

#include "store/db.h"

/* PARKS: note the marks of 50, 80 and 100 % of `cap` that spend passes when it rises from `before` to `after`, or that came
 * down to it (`before` is 0 then). What was told of another cap is told again: a budget that was raised reaches its marks
 * anew. Errors: the store's. */
err_t budget_alert_note(struct db_tx *tx, const struct db_value *account, uint64_t cap,
                        uint64_t before, uint64_t after) ERR_MUST_CHECK;

#endif
