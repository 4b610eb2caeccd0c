# SPDX-License-Identifier: Apache-2.0
"""Sums of usage that two processes leave and bring together, all at once: what is asked is right at every moment.

A process that stops hands its rows over, and whoever starts next brings them to the sums: processes that are started again and
again do as those do that have very many."""
import threading
import time
from collections import Counter

import pytest
from caller import CHAT, chat_request
from raw_http import RawClient
from tenants import Api, bearer
from test_replicas import admin, pytestmark, servers, wait_written, world  # noqa: F401: fixtures

ROUNDS, CALLERS, CALLS, USERS = 3, 4, 100, 25
AT_ONE_MOMENT = ("SELECT (SELECT coalesce(sum(calls), 0) FROM usage_hours), (SELECT coalesce(sum(calls), 0) FROM usage_days), "
                 "(SELECT count(*) FROM ledger)")


def call(server, key, users):
    with RawClient(server.port) as client:
        for user in users:
            client.send(chat_request(CHAT, [*bearer(key), ("X-User-ID", user)], "sums"))
            assert client.read_response().status == 200


def users_of(caller):
    return [f"user-{(caller + 1) * number % USERS}" for number in range(CALLS)]


def watch(world, callers):
    """Look until all have called; how often that was."""
    looks = 0
    while any(caller.is_alive() for caller in callers):
        [line] = world.sql(AT_ONE_MOMENT)
        assert len(set(line.split("|"))) == 1, line
        looks += 1
    return looks


def wait_brought(world):
    """For the rows of those who have stopped."""
    deadline = time.monotonic() + 30
    while world.number("SELECT count(*) FROM usage_pending WHERE at_ms = 0"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_sums_are_right_at_every_moment(world):
    called = Counter()
    for round in range(ROUNDS):
        pair = [world.start(), world.start()]
        if round == 0:
            world.api = Api(pair[0])
            key = world.project()
        callers = [threading.Thread(target=call, args=(pair[number % 2], key, users_of(number))) for number in range(CALLERS)]
        for number, caller in enumerate(callers):
            caller.start()
            called.update(users_of(number))
        assert watch(world, callers) > 0
        for server in pair:
            wait_written(server)
        wait_brought(world)
        assert {row["user"]: row["calls"] for row in admin(pair[1], "/admin/usage?by=user")["data"]} == called
        by_hour = Counter()
        for row in admin(pair[0], "/admin/usage?by=user,hour")["data"]:
            by_hour[row["user"]] += row["calls"]
        assert by_hour == called
        if round < ROUNDS - 1:
            for server in pair:
                server.stop()
    left, brought = world.number("SELECT calls FROM usage_recent"), world.number("SELECT calls FROM usage_open_sums")
    assert left + brought == sum(called.values()) and brought > 0


def test_hours_that_are_over_come_to_their_days(world):
    """Some thousand sums in a transaction, beside reports, which are right at every moment."""
    server = world.start()
    world.sql("INSERT INTO ledger_kinds (org_id, project_id, key_id, model, provider, upstream_model, route, outcome, status, "
              "booked) VALUES ('o', 'p', 'k', 'm', 'f', 'u', 'r', 'completed', 200, '')")
    server.stop()
    columns = "(begins_ms, slot, kind_id, user_id, calls, failed, unpriced, input, output, cached, cache_written, reasoning, cost_nano)"
    numbers = "id, 'user-' || n, 1, 0, 0, 5, 7, 0, 0, 0, 11"
    day_ms = (int(time.time()) // 86400 - 2) * 86400 * 1000
    for hour in range(3):
        world.sql(f"INSERT INTO usage_open_sums {columns} SELECT {day_ms + hour * 3600000}, n % 32, {numbers} "
                  "FROM ledger_kinds, generate_series(1, 10000) n")
    for table in ("usage_hour_sums", "usage_day_sums"):  # as if some had come before
        world.sql(f"INSERT INTO {table} {columns} SELECT {day_ms}, n % 32, {numbers} FROM ledger_kinds, generate_series(1, 100) n")
    world.start()
    deadline = time.monotonic() + 60
    while True:
        [line] = world.sql("SELECT (SELECT sum(calls) FROM usage_hours), (SELECT sum(cost_nano) FROM usage_days), "
                           "(SELECT count(*) FROM usage_days), (SELECT count(*) FROM usage_open_sums)")
        calls, cost_nano, days, still_open = map(int, line.split("|"))
        assert (calls, cost_nano, days) == (30100, 30100 * 11, 10000)
        if not still_open:
            break
        assert time.monotonic() < deadline
    assert world.number("SELECT count(*) FROM usage_hour_sums") == 30000
    assert world.number("SELECT count(*) FROM usage_day_sums WHERE calls = 4 AND input = 20") == 100


@pytest.mark.parametrize("view", ["usage_hours", "usage_days", "usage_recent"])
def test_an_older_process_cannot_write_sums(world, view):
    """It is refused, and so keeps its rows and says so; nothing is counted twice."""
    world.start()
    with pytest.raises(AssertionError, match=f'cannot insert into view "{view}"'):
        world.sql(f"INSERT INTO {view} (begins_ms, calls) VALUES (0, 1) ON CONFLICT (begins_ms) DO UPDATE SET calls = 2")


def test_rows_are_found_by_their_groups(world):
    """However many rows there are, a question looks at those that are in no sum yet."""
    world.start()
    world.sql("INSERT INTO ledger_kinds (org_id, project_id, key_id, model, provider, upstream_model, route, outcome, status, "
              "booked) VALUES ('o', 'p', 'k', 'm', 'f', 'u', 'r', 'completed', 200, '')")
    world.sql("INSERT INTO ledger_rows (id, at_ms, request_id, kind_id, user_id, duration_ms, attempts, input, output, cached, "
              "cache_written, reasoning, is_estimated, slot) SELECT n, n, 'r', k.id, 'u', 1, 1, 1, 1, 0, 0, 0, 0, n % 32 "
              "FROM generate_series(1, 200000) n, ledger_kinds k")
    world.sql("INSERT INTO usage_pending SELECT 190001 + n * 600, 190600 + n * 600, 'w', 9e18, 0 FROM generate_series(0, 9) n")
    for _ in range(2):
        plan = "\n".join(world.sql("EXPLAIN SELECT sum(calls) FROM usage_hour_parts WHERE begins_ms >= 0"))
        assert "ledger_rows_pkey" in plan and "Seq Scan on ledger_rows" not in plan, plan
        world.sql("ANALYZE")
    assert world.number("SELECT calls FROM usage_hour_parts") == 6000
