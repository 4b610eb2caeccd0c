/* SPDX-License-Identifier: Apache-2.0 */
/* An alert is a row for each mark of each budget's period. It is told of once for each cap: what notes the same again
 * changes nothing. */
#include "govern/budget_alert.h"

static const unsigned percents[] = {50, 80, 100};

err_t budget_alert_note(struct db_tx *tx, const struct db_value *account, uint64_t cap,
                        uint64_t before, uint64_t after)
{
    for (size_t i = 0; i < sizeof(percents) / sizeof(*percents); i++) {
        uint64_t mark = cap / 100 * percents[i] + cap % 100 * percents[i] / 100;
        if (before >= mark || after < mark)
            continue;
        TRY(db_tx_run(
            tx,
            DB_ASK(
                "INSERT INTO budget_alerts (account, percent, at_ms, spent, cap, tries, next_ms) "
                "VALUES ($1, $2, {{now_ms}}, $3, $4, 0, 0) "
                "ON CONFLICT (account, percent) DO UPDATE SET at_ms = excluded.at_ms, "
                "spent = excluded.spent, cap = excluded.cap, tries = 0, next_ms = 0, "
                "sent_ms = NULL WHERE budget_alerts.cap <> excluded.cap",
                *account, DB_OF_INT(percents[i]), DB_OF_INT(after), DB_OF_INT(cap)),
            NULL, NULL));
    }
    return NULL;
}
