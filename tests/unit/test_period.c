/* SPDX-License-Identifier: Apache-2.0 */
/* Days and months of time zones: what Python's zoneinfo says of thousands of moments, and rules of zones that end early. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "govern/period.h"
#include "govern/period_rule.h"

static void test_as_zoneinfo(void **state)
{
    FILE *file = fopen("tests/data/periods.tsv", "r");
    char zone[64], kind[16];
    uint64_t now, begins, ends;
    size_t count = 0;

    assert_non_null(file);
    while (fscanf(file, "%63s %15s %" SCNu64 " %" SCNu64 " %" SCNu64, zone, kind, &now, &begins,
                  &ends) == 5) {
        enum conf_period period = strcmp(kind, "day") == 0 ? CONF_PERIOD_DAY : CONF_PERIOD_MONTH;
        struct period got = period_at(str_from(zone), period, now);
        if (got.begins_s != begins || got.ends_s != ends)
            fail_msg("%s, %s of %" PRIu64 ": %" PRIu64 " to %" PRIu64 " instead of %" PRIu64
                     " to %" PRIu64,
                     zone, kind, now, got.begins_s, got.ends_s, begins, ends);
        count++;
    }
    fclose(file);
    assert_true(count > 2500);
}

static void test_total(void **state)
{
    struct period total = period_at(STR("Europe/Berlin"), CONF_PERIOD_TOTAL, 1793491200);

    assert_int_equal(total.begins_s, 0);
    assert_true(total.ends_s == UINT64_MAX);
}

/* Periods follow each other without a gap, and each holds the moments in it. */
static void test_without_gaps(void **state)
{
    static const char *const zones[] = {"UTC", "+14:00", "America/Sao_Paulo", "Europe/Berlin"};

    for (size_t i = 0; i < sizeof(zones) / sizeof(*zones); i++) {
        struct period day = period_at(str_from(zones[i]), CONF_PERIOD_DAY, 1500000000);
        for (int n = 0; n < 2000; n++) {
            struct period next = period_at(str_from(zones[i]), CONF_PERIOD_DAY, day.ends_s);
            struct period all[CONF_PERIOD_TOTAL + 1], month;
            period_all_at(str_from(zones[i]), day.ends_s, all);
            month = period_at(str_from(zones[i]), CONF_PERIOD_MONTH, day.ends_s);
            assert_memory_equal(&all[CONF_PERIOD_DAY], &next, sizeof(next));
            assert_memory_equal(&all[CONF_PERIOD_MONTH], &month, sizeof(month));
            assert_true(all[CONF_PERIOD_TOTAL].ends_s == UINT64_MAX);
            assert_int_equal(next.begins_s, day.ends_s);
            assert_in_range(next.ends_s - next.begins_s, 22 * 3600, 26 * 3600);
            day = next;
        }
    }
}

/* What the configuration refuses counts as UTC here. */
static void test_unreadable(void **state)
{
    static const char *const zones[] = {"", "Mars/Olympus", "../../../../etc/passwd", "+1:00",
                                        "Europe"};

    for (size_t i = 0; i < sizeof(zones) / sizeof(*zones); i++) {
        struct period day = period_at(str_from(zones[i]), CONF_PERIOD_DAY, 1793491200 + 5);
        assert_int_equal(day.begins_s % 86400, 0);
        assert_int_equal(day.ends_s - day.begins_s, 86400);
    }
}

static int64_t change_of(const char *text, int64_t year, int which, int32_t *offset_s)
{
    struct period_change both[2];
    struct period_rule rule;

    assert_true(period_rule_read(str_from(text), &rule));
    assert_true(rule.has_summer);
    period_rule_changes(&rule, year, both);
    *offset_s = both[which].offset_s;
    return both[which].at_s;
}

static void test_rules(void **state)
{
    struct period_rule rule;
    int32_t offset_s;

    assert_int_equal(change_of("CET-1CEST,M3.5.0,M10.5.0/3", 2026, 0, &offset_s), 1774746000);
    assert_int_equal(offset_s, 7200);
    assert_int_equal(change_of("EST5EDT,M3.2.0,M11.1.0", 2026, 1, &offset_s), 1793512800);
    assert_int_equal(offset_s, -18000);
    /* southern: summer ends first */
    assert_int_equal(change_of("<-04>4<-03>,M9.1.6/24,M4.1.6/24", 2026, 0, &offset_s), 1775358000);
    assert_int_equal(offset_s, -14400);
    assert_int_equal(change_of("XXX0YYY,J60,300/-1:30", 2028, 0, &offset_s), 1835488800);
    assert_true(period_rule_read(STR("<+0530>-5:30"), &rule));
    assert_int_equal(rule.standard_s, 19800);
    assert_false(rule.has_summer);
}

static void test_no_rules(void **state)
{
    static const char *const texts[] = {"",
                                        "C",
                                        "CET",
                                        "CET-",
                                        "CET-1CEST",
                                        "CET-1CEST,M3.5.0",
                                        "CET-1CEST,M13.5.0,M10.5.0",
                                        "CET-1CEST,M3.6.0,M10.5.0",
                                        "CET-1CEST,M3.5.7,M10.5.0",
                                        "CET-1CEST,M3.5.0,M10.5.0/",
                                        "CET-1CEST,M3.5.0,M10.5.0/3x",
                                        "<+01",
                                        "CET-1:60"};
    struct period_rule rule;

    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
        assert_false(period_rule_read(str_from(texts[i]), &rule));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_zoneinfo),  cmocka_unit_test(test_total),
        cmocka_unit_test(test_without_gaps), cmocka_unit_test(test_unreadable),
        cmocka_unit_test(test_rules),        cmocka_unit_test(test_no_rules),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
