/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a rule from left to right, and the days that it names.
 *
 * Offsets in it count westward, against everybody else's habit. */
#include "govern/period_rule.h"

#define DAY_S  86400
#define HOUR_S 3600

/* ---- reading ---- */

static bool take(struct str *rest, char c)
{
    if (rest->len == 0 || rest->ptr[0] != c)
        return false;
    *rest = str_after(*rest, 1);
    return true;
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/* "CET", or "<+0330>". */
static bool skip_name(struct str *rest)
{
    size_t len = 0;

    if (take(rest, '<')) {
        len = str_index(*rest, '>');
        if (len == rest->len)
            return false;
        *rest = str_after(*rest, len + 1);
        return true;
    }
    while (len < rest->len && is_letter(rest->ptr[len]))
        len++;
    *rest = str_after(*rest, len);
    return len >= 3;
}

static bool take_number(struct str *rest, int most, int *out)
{
    size_t len = 0;

    *out = 0;
    while (len < rest->len && len < 3 && rest->ptr[len] >= '0' && rest->ptr[len] <= '9')
        *out = *out * 10 + (rest->ptr[len++] - '0');
    *rest = str_after(*rest, len);
    return len > 0 && *out <= most;
}

/* "3", "-1:30", "26:00:00". */
static bool take_time(struct str *rest, int32_t *seconds)
{
    int sign = take(rest, '-') ? -1 : 1, hours, minutes = 0, more = 0;

    if (sign > 0)
        (void)take(rest, '+');
    if (!take_number(rest, 167, &hours) || (take(rest, ':') && !take_number(rest, 59, &minutes)) ||
        (take(rest, ':') && !take_number(rest, 59, &more)))
        return false;
    *seconds = sign * (hours * HOUR_S + minutes * 60 + more);
    return true;
}

static bool take_day(struct str *rest, struct period_day *out)
{
    *out = (struct period_day){.kind = 'n', .time_s = 2 * HOUR_S};
    if (!take(rest, ','))
        return false;
    if (take(rest, 'M')) {
        out->kind = 'M';
        if (!take_number(rest, 12, &out->month) || out->month < 1 || !take(rest, '.') ||
            !take_number(rest, 5, &out->week) || out->week < 1 || !take(rest, '.') ||
            !take_number(rest, 6, &out->day))
            return false;
    } else {
        if (take(rest, 'J'))
            out->kind = 'J';
        if (!take_number(rest, 365, &out->day))
            return false;
    }
    return !take(rest, '/') || take_time(rest, &out->time_s);
}

bool period_rule_read(struct str text, struct period_rule *out)
{
    int32_t west_s;

    *out = (struct period_rule){0};
    if (!skip_name(&text) || !take_time(&text, &west_s))
        return false;
    out->standard_s = -west_s;
    out->summer_s = out->standard_s + HOUR_S;
    if (text.len == 0)
        return true;
    out->has_summer = true;
    if (!skip_name(&text))
        return false;
    if (text.len > 0 && text.ptr[0] != ',') {
        if (!take_time(&text, &west_s))
            return false;
        out->summer_s = -west_s;
    }
    return take_day(&text, &out->begins) && take_day(&text, &out->ends) && text.len == 0;
}

/* ---- days ---- */

static bool is_leap(int64_t year)
{
    return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
}

int64_t period_month_days(int64_t year, int64_t month)
{
    static const int before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334};
    int64_t past = year - 1;

    return past * 365 + past / 4 - past / 100 + past / 400 - 719162 + before[month] +
           (is_leap(year) && month > 1);
}

/* 1970-01-01 was a Thursday. */
static int64_t weekday_of(int64_t day)
{
    return ((day + 4) % 7 + 7) % 7;
}

static int64_t day_of(const struct period_day *d, int64_t year)
{
    int64_t first, day, next;

    if (d->kind == 'J')
        return period_month_days(year, 0) + d->day - 1 + (is_leap(year) && d->day > 59);
    if (d->kind == 'n')
        return period_month_days(year, 0) + d->day;
    first = period_month_days(year, d->month - 1);
    next = d->month == 12 ? period_month_days(year + 1, 0) : period_month_days(year, d->month);
    day = first + (d->day - weekday_of(first) + 7) % 7 + (d->week - 1) * 7;
    return day < next ? day : day - 7; /* the fifth is the last */
}

void period_rule_changes(const struct period_rule *r, int64_t year, struct period_change out[2])
{
    struct period_change summer = {
        day_of(&r->begins, year) * DAY_S + r->begins.time_s - r->standard_s, r->summer_s};
    struct period_change winter = {day_of(&r->ends, year) * DAY_S + r->ends.time_s - r->summer_s,
                                   r->standard_s};
    bool is_northern = summer.at_s < winter.at_s;

    out[0] = is_northern ? summer : winter;
    out[1] = is_northern ? winter : summer;
}
