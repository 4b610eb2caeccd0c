/* SPDX-License-Identifier: Apache-2.0 */
/* The rule at the end of a zone's file, for the years that its table leaves out: "CET-1CEST,M3.5.0,M10.5.0/3" (POSIX's TZ, with the
 * extensions of RFC 8536 section 3.3.1). */
#ifndef GOVERN_PERIOD_RULE_H
#define GOVERN_PERIOD_RULE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/str.h"

/* From `at_s` (seconds since 1970) on the offset from UTC is this. */
struct period_change {
    int64_t at_s;
    int32_t offset_s;
};

/* A day of each year, and the time of its clock. */
struct period_day {
    char kind; /* 'M': week and weekday of a month; 'J': day without February 29; 'n': day from 0 */
    int month, week, day;
    int32_t time_s;
};

struct period_rule {
    int32_t standard_s, summer_s;
    bool has_summer;
    struct period_day begins, ends; /* of summer */
};

/* False if it is no such text. */
bool period_rule_read(struct str text, struct period_rule *out);

/* The two changes of a year, in the order of time. The rule has a summer. */
void period_rule_changes(const struct period_rule *rule, int64_t year, struct period_change out[2]);

/* Days since 1970-01-01 of the first of a month, `month` from 0 on, in the proleptic Gregorian calendar. */
int64_t period_month_days(int64_t year, int64_t month);

#endif
