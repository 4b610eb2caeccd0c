/* SPDX-License-Identifier: Apache-2.0 */
/* Deleting piece by piece, as each piece keeps the one writer of an embedded store busy for some milliseconds. */
#include "govern/ledger_retire.h"

#include <stdatomic.h>

#include "base/sys.h"
#include "fiber/fiber.h"
#include "govern/ledger_kind.h"

#define DAY_MS (UINT64_C(86400) * 1000)
/* Alerts go by the end of their period for longer than they are kept (budget_webhook.c). */
#define ALERT_MS (3 * DAY_MS)

static struct {
    _Atomic uint64_t rows_ms, hours_ms, days_ms;
} keep;

void ledger_retire_adopt(const struct conf *conf)
{
    atomic_store(&keep.rows_ms, conf->ledger.retention_ms);
    atomic_store(&keep.hours_ms, conf->ledger.hourly_ms);
    atomic_store(&keep.days_ms, conf->ledger.daily_ms);
}

#define DELETE_SUMS(table)                                                                         \
    "DELETE FROM " table " WHERE (begins_ms, slot, kind_id, user_id) IN (SELECT begins_ms, slot, " \
    "kind_id, user_id FROM " table " WHERE begins_ms < $1 ORDER BY begins_ms LIMIT 5000)"

static uint64_t greater(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

err_t ledger_retire(struct db *db, bool *is_done)
{
    uint64_t rows_ms = atomic_load(&keep.rows_ms), hours_ms = atomic_load(&keep.hours_ms),
             days_ms = atomic_load(&keep.days_ms), sums_ms = greater(hours_ms, days_ms);
    const struct {
        const char *sql;
        uint64_t kept_ms;
    } steps[] = {
        {"DELETE FROM ledger_rows WHERE id IN (SELECT id FROM ledger_rows WHERE at_ms < $1 "
         "AND (slot IS NULL OR id < COALESCE((SELECT MIN(first_id) FROM usage_pending), id + 1)) "
         "ORDER BY at_ms LIMIT 5000)",
         rows_ms},
        {"DELETE FROM budget_periods WHERE leased = 0 AND account IN (SELECT account FROM "
         "budget_periods WHERE ends_s < CAST($1 AS BIGINT) / 1000 AND leased = 0 "
         "ORDER BY ends_s LIMIT 5000)",
         greater(rows_ms, ALERT_MS)},
        {DELETE_SUMS("usage_hour_sums"), hours_ms},
        {DELETE_SUMS("usage_day_sums"), days_ms},
        /* with a day for clocks that differ */
        {"DELETE FROM ledger_kinds WHERE seen_ms < $1 AND id IN (SELECT id FROM ledger_kinds WHERE "
         "seen_ms < $1 ORDER BY seen_ms LIMIT 5000)",
         greater(rows_ms, sums_ms) + LEDGER_KIND_SEEN_MS + LEDGER_KIND_TRUST_MS + DAY_MS},
    };
    uint64_t now_ms = sys_wall_ms();

    for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
        struct db_rows rows;
        TRY(db_run(db, DB_WRITE, DB_ASK(steps[i].sql, DB_OF_INT(now_ms - steps[i].kept_ms)),
                   fiber_arena(), &rows));
        *is_done = rows.changed == 0;
        if (!*is_done)
            return NULL;
    }
    return NULL;
}
