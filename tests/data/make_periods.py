#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tests/data/periods.tsv by Python's zoneinfo: zone, kind, a moment, begin and end of its period (seconds).

    tests/data/make_periods.py > tests/data/periods.tsv

A day begins when its clocks show 0:00 for the first time, or, where they leave that out, with the change.
"""
from datetime import date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

ZONES = ["UTC", "+05:30", "-03:00", "Europe/Berlin", "America/New_York", "Asia/Kolkata",
         "Australia/Lord_Howe", "Pacific/Chatham", "America/Sao_Paulo", "Asia/Beirut", "America/Havana",
         "America/Santiago", "Africa/Cairo"]
YEARS = [2016, 2018, 2024, 2025, 2026]
LATER = [2028, 2037, 2038, 2060, 2096]     # of zones whose rules have been the same for long
STEADY = {"UTC", "+05:30", "Europe/Berlin", "America/New_York", "Asia/Kolkata"}


def zone_of(name):
    if name[0] in "+-":
        hours, minutes = map(int, name[1:].split(":"))
        span = timedelta(hours=hours, minutes=minutes)
        return timezone(span if name[0] == "+" else -span)
    return ZoneInfo(name)


def begin_of(day, zone):
    """By search: the first second at which the zone's date is `day` or later."""
    low = int(datetime(day.year, day.month, day.day, tzinfo=timezone.utc).timestamp()) - 2 * 86400
    high = low + 4 * 86400
    while low < high:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).date() >= day:
            high = middle
        else:
            low = middle + 1
    return low


def periods(now, zone):
    day = datetime.fromtimestamp(now, zone).date()
    month = day.replace(day=1)
    after = date(day.year + day.month // 12, day.month % 12 + 1, 1)
    yield "day", begin_of(day, zone), begin_of(day + timedelta(days=1), zone)
    yield "month", begin_of(month, zone), begin_of(after, zone)


def moments(zone, years):
    for year in years:
        days = [date(year, 1, 1) + timedelta(days=i) for i in range(366)]
        lengths = {day: begin_of(day + timedelta(days=1), zone) - begin_of(day, zone) for day in days}
        chosen = [day for day in days if lengths[day] != 86400 or (day.month, day.day) in
                  [(1, 1), (2, 28), (2, 29), (7, 1), (12, 31)]]
        for day in chosen:
            begin = begin_of(day, zone)
            yield from (begin - 1, begin, begin + 3 * 3600)


for name in ZONES:
    zone = zone_of(name)
    for now in sorted(set(moments(zone, YEARS + (LATER if name in STEADY else [])))):
        for kind, begin, end in periods(now, zone):
            print(name, kind, now, begin, end, sep="\t")
