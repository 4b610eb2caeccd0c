/* SPDX-License-Identifier: Apache-2.0 */
/* Days and months of a time zone.
 *
 * Zones are read from the system's database (TZif, RFC 8536) because the C library knows one zone per process
 * only. Of a file the offsets are kept, in each thread, for the zone that was asked for last; a file
 * may end early with a rule, from which the offsets of this century are made. */
#include "govern/period.h"

#include <fcntl.h>

#include "base/sys.h"
#include "govern/period_rule.h"

#define ZONES         "/usr/share/zoneinfo/"
#define MAX_ZONE_NAME 64
#define MAX_CHANGES   512
#define LAST_YEAR     2100 /* that rules are applied to */
#define MAX_FILE      16384
#define DAY_S         86400

struct zone {
    char name[MAX_ZONE_NAME];
    size_t name_len;
    size_t count;
    struct period_change changes[MAX_CHANGES]; /* the latest */
    struct period last[2];                     /* answers: day and month */
};

static _Thread_local struct zone *current;

/* ---- reading ---- */

static uint32_t big_endian_32(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static int64_t big_endian_64(const unsigned char *at)
{
    return (int64_t)((uint64_t)big_endian_32(at) << 32 | big_endian_32(at + 4));
}

/* The counts of a header (RFC 8536 section 3.1). */
struct counts {
    size_t isut, isstd, leap, time, type, chars;
};

static bool read_header(const unsigned char *at, size_t len, struct counts *c)
{
    if (len < 44 || memcmp(at, "TZif", 4) != 0 || at[4] < '2')
        return false;
    *c = (struct counts){big_endian_32(at + 20), big_endian_32(at + 24), big_endian_32(at + 28),
                         big_endian_32(at + 32), big_endian_32(at + 36), big_endian_32(at + 40)};
    return c->isut <= 256 && c->isstd <= 256 && c->leap <= 256 && c->time <= 4096 && c->type >= 1 &&
           c->type <= 256 && c->chars <= 4096;
}

static size_t body_bytes(const struct counts *c, size_t time_bytes)
{
    return c->time * time_bytes + c->time + c->type * 6 + c->chars + c->leap * (time_bytes + 4) +
           c->isstd + c->isut;
}

/* What comes after the last change of the table, by the rule in the file's last line. */
static void add_by_rule(struct zone *z, struct str footer)
{
    struct period_change last = z->changes[z->count - 1], both[2];
    struct period_rule rule;

    if (footer.len < 2 || !period_rule_read((struct str){footer.ptr + 1, footer.len - 2}, &rule))
        return;
    if (!rule.has_summer)
        return; /* the last offset stays */
    for (int64_t year = 1970; year <= LAST_YEAR; year++) {
        period_rule_changes(&rule, year, both);
        for (int i = 0; i < 2; i++)
            if (both[i].at_s > last.at_s && z->count < MAX_CHANGES)
                z->changes[z->count++] = both[i];
    }
}

/* The second block of the file has 64-bit times. */
static bool read_changes(struct zone *z, const unsigned char *file, size_t len)
{
    struct counts c;
    size_t at;

    if (!read_header(file, len, &c) || len < 44 + body_bytes(&c, 4))
        return false;
    at = 44 + body_bytes(&c, 4);
    if (!read_header(file + at, len - at, &c) || len - at < 44 + body_bytes(&c, 8))
        return false;
    const unsigned char *times = file + at + 44, *types = times + c.time * 8;
    const unsigned char *infos = types + c.time;
    size_t first = c.time > MAX_CHANGES - 1 ? c.time - (MAX_CHANGES - 1) : 0;
    z->changes[0] = (struct period_change){INT64_MIN, (int32_t)big_endian_32(infos)};
    z->count = 1;
    for (size_t i = first; i < c.time; i++) {
        if (types[i] >= c.type)
            return false;
        z->changes[z->count++] = (struct period_change){
            big_endian_64(times + i * 8), (int32_t)big_endian_32(infos + (size_t)types[i] * 6)};
    }
    at += 44 + body_bytes(&c, 8);
    add_by_rule(z, (struct str){(const char *)file + at, len - at});
    return true;
}

static bool load_file(struct zone *z)
{
    static _Thread_local unsigned char file[MAX_FILE];
    char path[sizeof(ZONES) + MAX_ZONE_NAME];
    size_t len = 0;
    ssize_t n = 0;
    int fd;

    memcpy(path, ZONES, sizeof(ZONES) - 1);
    memcpy(path + sizeof(ZONES) - 1, z->name, z->name_len);
    path[sizeof(ZONES) - 1 + z->name_len] = 0;
    fd = sys_open(path, O_RDONLY | O_CLOEXEC, 0);
    while (fd >= 0 && len < sizeof(file) && (n = sys_read(fd, file + len, sizeof(file) - len)) > 0)
        len += (size_t)n;
    if (fd >= 0)
        sys_close(fd);
    return fd >= 0 && n == 0 && read_changes(z, file, len);
}

/* "+02:00" */
static bool read_offset(struct str text, int32_t *seconds)
{
    uint64_t hours, minutes;

    if (text.len != 6 || (text.ptr[0] != '+' && text.ptr[0] != '-') || text.ptr[3] != ':' ||
        !str_to_u64((struct str){text.ptr + 1, 2}, &hours) ||
        !str_to_u64((struct str){text.ptr + 4, 2}, &minutes))
        return false;
    *seconds = (int32_t)(hours * 3600 + minutes * 60) * (text.ptr[0] == '-' ? -1 : 1);
    return true;
}

static struct zone *zone_of(struct str name)
{
    static _Thread_local struct zone zone;
    int32_t offset_s = 0;

    if (current && str_eq((struct str){zone.name, zone.name_len}, name))
        return current;
    zone.name_len = name.len < MAX_ZONE_NAME ? name.len : 0;
    memcpy(zone.name, name.ptr, zone.name_len);
    zone.last[0] = zone.last[1] = (struct period){0};
    if (str_eq(name, STR("UTC")) || read_offset(name, &offset_s) || !load_file(&zone)) {
        zone.count = 1;
        zone.changes[0] = (struct period_change){INT64_MIN, offset_s};
    }
    current = &zone;
    return current;
}

/* ---- calendar ---- */

static int32_t offset_at(const struct zone *z, int64_t at_s)
{
    size_t i = z->count - 1;

    while (i > 0 && z->changes[i].at_s > at_s)
        i--;
    return z->changes[i].offset_s;
}

/* When the clocks of the zone show `local_s` (counted as if they were UTC's) for the first time; if they leave it out, when they are
 * put forward. */
static uint64_t from_local(const struct zone *z, int64_t local_s)
{
    int64_t before_s = offset_at(z, local_s - DAY_S), after_s = offset_at(z, local_s + DAY_S);
    size_t i = z->count - 1;

    if (offset_at(z, local_s - before_s) == before_s)
        return (uint64_t)(local_s - before_s);
    if (offset_at(z, local_s - after_s) == after_s)
        return (uint64_t)(local_s - after_s);
    while (i > 0 && z->changes[i].at_s > local_s - before_s)
        i--;
    return (uint64_t)z->changes[i].at_s;
}

/* Months since the year 0 that a day lies in. */
static int64_t day_to_month(int64_t day)
{
    int64_t month = 1970 * 12 + day / 31;

    while (period_month_days((month + 1) / 12, (month + 1) % 12) <= day)
        month++;
    return month;
}

static struct period make_period(const struct zone *z, enum conf_period kind, uint64_t now_s)
{
    int64_t day = ((int64_t)now_s + offset_at(z, (int64_t)now_s)) / DAY_S, month;

    if (kind == CONF_PERIOD_DAY)
        return (struct period){from_local(z, day * DAY_S), from_local(z, (day + 1) * DAY_S)};
    month = day_to_month(day);
    return (struct period){
        from_local(z, period_month_days(month / 12, month % 12) * DAY_S),
        from_local(z, period_month_days((month + 1) / 12, (month + 1) % 12) * DAY_S)};
}

/* As remembered, or made anew. */
static struct period current_period(struct zone *z, enum conf_period kind, uint64_t now_s)
{
    struct period *last = &z->last[kind == CONF_PERIOD_MONTH];

    if (now_s < last->begins_s || now_s >= last->ends_s)
        *last = make_period(z, kind, now_s);
    return *last;
}

struct period period_at(struct str name, enum conf_period kind, uint64_t now_s)
{
    return kind == CONF_PERIOD_TOTAL ? (struct period){0, UINT64_MAX}
                                     : current_period(zone_of(name), kind, now_s);
}

void period_all_at(struct str name, uint64_t now_s, struct period out[CONF_PERIOD_TOTAL + 1])
{
    struct zone *z = zone_of(name);

    out[CONF_PERIOD_DAY] = current_period(z, CONF_PERIOD_DAY, now_s);
    out[CONF_PERIOD_MONTH] = current_period(z, CONF_PERIOD_MONTH, now_s);
    out[CONF_PERIOD_TOTAL] = (struct period){0, UINT64_MAX};
}
