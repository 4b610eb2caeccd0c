# SPDX-License-Identifier: Apache-2.0
"""Rate limits that workers and processes share, through a real Redis: what holds while it is well, and what
becomes of callers while it is slow, away, full, flushed or talks nonsense.
"""
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from caller import CHAT, STREAM, Stream, ask, chat_request, outcome
from fake_provider import HANG, FakeProvider, chat_events, sse
from raw_http import RawClient
from redis_server import Line, Redis, ScriptedRedis
from sluice import BUSY_S, HANG_GUARD_S, provider_config
from test_limits import (REFUSED_BY_BUDGET, assert_budgets_refusal_is_told, limits, metrics, statuses, user,
                         wait_free)

ROLE, A, *_ = chat_events("a")
RECOVERY_S = 2                  # what is promised


@pytest.fixture
def redis():
    with Redis() as server:
        yield server


@pytest.fixture
def line(redis):
    with Line(redis.port) as line:
        yield line


def redis_config(redis, timeout="2s"):
    """A timeout that a busy machine does not reach; tests of faults have a short one."""
    return f'redis: {{url: "{redis.url}", timeout: {timeout}}}\n'


def fallbacks(server):
    return metrics(server).get("sluice_redis_fallback_total", 0)


def keys_of(redis):
    return redis.command("KEYS", "sluice:limit:*")


def wait_shared(server, redis):
    """Wait until a new caller's request is counted in Redis; how long that took."""
    began = time.monotonic()
    while time.monotonic() < began + HANG_GUARD_S:
        name = f"again-{time.monotonic_ns()}"
        assert ask(server, CHAT, user(name)).status == 200
        if any(name in key for key in keys_of(redis)):
            return time.monotonic() - began
        time.sleep(0.05)
    raise AssertionError("Redis is back, and is not used")


# ---- well ----

def saturate(servers, callers, seconds):
    """(how many passed, the longest and the shortest time that may be counted, in seconds). All callers
    ask without a pause."""
    stop = threading.Event()

    def run(number):
        passed, answered = 0, []
        with RawClient(servers[number % len(servers)].port) as client:
            while not stop.is_set():
                client.send(chat_request(CHAT, user("alice")))
                answer = client.read_response()
                assert answer.status in (200, 429), answer
                passed += answer.status == 200
                answered.append(time.monotonic())
        return passed, answered[0], answered[-1]

    began = time.monotonic()
    with ThreadPoolExecutor(callers) as pool:
        runs = [pool.submit(run, number) for number in range(callers)]
        stop.wait(seconds)
        stop.set()
        found = [each.result() for each in runs]
    ended = time.monotonic()
    shortest = min(last for _, _, last in found) - max(first for _, first, _ in found)
    return sum(passed for passed, _, _ in found), ended - began, shortest


@pytest.mark.parametrize("layout", ["2-workers", "2-processes", "2-processes-of-2-workers"])
def test_limits_hold_over_workers_and_replicas(sluice, provider, redis, layout):
    """Never more than N + N·t/W, and under saturation at least 99 % of that."""
    count, window_s = 40, 1
    config = limits(per_user=f"requests: {count}/{window_s}s") + provider_config(provider)
    config += f"workers: {2 if 'workers' in layout else 1}\n"
    if layout != "2-workers":
        config += redis_config(redis)
    servers = [sluice(config) for _ in range(1 if layout == "2-workers" else 2)]
    for server in servers:                              # connected, and at rest again
        assert statuses(server, 4, user("first")) == [200] * 4
    passed, longest_s, shortest_s = saturate(servers, 4, 3)
    most, least = (count + count * t / window_s for t in (longest_s, shortest_s))
    assert 0.99 * least - 1 <= passed <= most, (passed, least, most)
    assert sum(map(fallbacks, servers)) == 0
    assert len(provider.requests) == passed + 4 * len(servers)


def test_all_kinds_of_limits_are_shared(sluice, provider, redis):
    """What one process takes, the other misses: requests, tokens and streams; and everything is given back."""
    config = redis_config(redis) + provider_config(provider)
    one, two = (sluice(limits(per_user="requests: 4/1h, tokens: 1000/1h", per_project="streams: 2") + config)
                for _ in range(2))
    provider.script(sse(ROLE, A, HANG), sse(ROLE, A, HANG))
    with Stream(one, headers=user("alice")) as first, Stream(two, headers=user("bob")) as second:
        assert first.read_until(b'"a"') and second.read_until(b'"a"')
        assert statuses(one, 1, user("carol")) == statuses(two, 1, user("carol")) == [429]
    wait_free(two, "dora", 2)
    assert statuses(two, 3, user("alice")) == [200] * 3
    assert statuses(one, 1, user("alice")) == statuses(two, 1, user("alice")) == [429]
    assert int(ask(one, CHAT, user("alice")).header("x-ratelimit-remaining-tokens")) < 1000
    assert fallbacks(one) == fallbacks(two) == 0


def test_a_refusal_takes_nothing_of_shared_limits(sluice, provider, redis):
    rules = limits(per_user="requests: 10/100h, tokens: 10000/100h, streams: 1", per_project="requests: 4/100h")
    server = sluice("workers: 1\n" + rules + redis_config(redis) + provider_config(provider))
    for number in range(3):
        assert ask(server, CHAT, user("alice"), id=f"a{number}").status == 200
        outcome(server, f"a{number}")
    assert statuses(server, 1, user("bob")) == [200]     # on the same connection, behind the corrections
    before = {key: redis.command("GET", key) for key in keys_of(redis)
              if key.endswith((":ur:alice", ":ut:alice"))}
    assert len(before) == 2
    assert statuses(server, 20, user("alice")) == [429] * 20
    assert {key: redis.command("GET", key) for key in before} == before
    assert not [key for key in keys_of(redis) if ":us:alice" in key]


@pytest.mark.parametrize("path", REFUSED_BY_BUDGET)
def test_a_budgets_refusal_takes_nothing_of_shared_limits(sluice, provider, redis, path):
    server = sluice("workers: 1\n" + limits(per_user="requests: 3/100h, tokens: 10000/100h, streams: 1") +
                    "budgets: {per_project: {tokens: 9/total}}\n" + redis_config(redis) + provider_config(provider))
    assert_budgets_refusal_is_told(server, path, stream=False)
    assert fallbacks(server) == 0 and not provider.requests


def test_h150_every_key_ends_by_itself(sluice, provider, redis):
    """After calls of every kind no key is left without a time to live, and none that is longer than it need be."""
    server = sluice(limits(per_user="requests: 5/60s, tokens: 5000/60s, streams: 2", per_project="requests: 50/60s",
                           per_model="requests: 40/60s") + redis_config(redis) + provider_config(provider) +
                    "models: {m: {targets: [fake/m]}}\n")
    provider.script(sse(ROLE, A, HANG))
    with Stream(server, headers=user("alice")) as stream:
        stream.read_until(b'"a"')
        for name in ("alice", "bob", "ço{n}:rad #1", "x" * 200):
            statuses(server, 7, [("X-User-ID", name.encode().decode("latin-1"))])
        keys = keys_of(redis)
        lives = [redis.command("PTTL", key) for key in keys]
        assert len(keys) > 8 and all(0 < life <= 120000 or life == -2 for life in lives), list(zip(keys, lives))
        streams = [key for key in keys if ":us:" in key]
        assert streams and redis.command("PTTL", streams[0]) <= 30000
        assert all(key.isascii() and " " not in key and len(key) < 200 for key in keys), keys
    assert {key for key in redis.command("KEYS", "*") if not key.startswith("sluice:limit:{")} <= {"sluice:probe"}


def test_h152_flushed_limits_begin_anew(sluice, provider, redis):
    server = sluice(limits(per_user="requests: 2/1h", per_project="tokens: 100000/1h") + redis_config(redis) +
                    provider_config(provider))
    assert statuses(server, 3, user("alice")) == [200, 200, 429]
    assert redis.command("FLUSHALL") == "OK"
    assert statuses(server, 3, user("alice")) == [200, 200, 429]
    assert redis.command("SCRIPT", "FLUSH") == "OK"      # a script that is lost is sent again
    assert statuses(server, 2, user("bob")) == [200, 200]
    assert statuses(server, 1, user("alice")) == [429] and fallbacks(server) == 0


# ---- ill ----

def share_holds(server, name, whole=4, replicas=2):
    """Callers are served, with this process's share."""
    assert statuses(server, whole, user(name)) == [200] * (whole // replicas) + [429] * (whole - whole // replicas)


FAULTS = {
    "refused": (lambda redis, line: line.refuse(), lambda redis, line: line.accept()),
    "black-hole": (lambda redis, line: setattr(line, "mode", "mute"), lambda redis, line: setattr(line, "mode", "pass")),
    "slow": (lambda redis, line: setattr(line, "mode", "slow"), lambda redis, line: setattr(line, "mode", "pass")),
    "cut-in-mid-answer": (lambda redis, line: setattr(line, "mode", "cut"),
                          lambda redis, line: setattr(line, "mode", "pass")),
    "garbage": (lambda redis, line: setattr(line, "mode", "garbage"), lambda redis, line: setattr(line, "mode", "pass")),
    "frozen": (lambda redis, line: redis.freeze(), lambda redis, line: redis.thaw()),
    "killed": (lambda redis, line: redis.kill(), lambda redis, line: redis.start()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_h151_a_redis_that_fails(sluice, provider, redis, line, fault):
    """Everybody is served on, by the local share; nobody waits longer than redis.timeout; it is used again when it
    is well."""
    begin, mend = FAULTS[fault]
    server = sluice("limits: {replicas: 2, per_user: {requests: 4/1h}}\nworkers: 1\n" +
                    redis_config(line, "100ms") + provider_config(provider))
    wait_shared(server, redis)
    begin(redis, line)
    times = []
    for number in range(12):
        began = time.monotonic()
        assert ask(server, CHAT, user(f"u{number}")).status == 200
        times.append(time.monotonic() - began)
    share_holds(server, "alice")
    found = metrics(server)
    assert found["sluice_redis_up"] == 0 and found["sluice_redis_fallback_total"] >= 12, found
    assert min(times[6:]) < 0.09, times                  # after five failures nobody waits at all; the best of six tells
    warning = server.wait_log("redis is of no use: this process keeps its share of the limits by itself")
    assert len(server.log_lines(warning["msg"])) == 1    # once a minute
    mend(redis, line)
    assert wait_shared(server, redis) < RECOVERY_S + BUSY_S
    assert metrics(server)["sluice_redis_up"] == 1
    assert statuses(server, 5, user("after")) == [200] * 4 + [429]


def test_a_redis_that_is_full_takes_streams_back(sluice, provider, redis):
    """It refuses to note anything, and that a stream has ended is not lost with it."""
    server = sluice("workers: 1\n" + limits(per_user="tokens: 100000/1h, streams: 1") + redis_config(redis) +
                    provider_config(provider))
    wait_shared(server, redis)
    assert redis.command("CONFIG", "SET", "maxmemory", 1) == "OK"
    assert statuses(server, 3, user("alice")) == [200] * 3 and fallbacks(server) == 0


@pytest.mark.parametrize("said", ["LOADING Redis is loading the dataset in memory",
                                  "READONLY You can't write against a read only replica.",
                                  "OOM command not allowed when used memory > 'maxmemory'.",
                                  "BUSY Redis is busy running a script.", "NOPERM this user has no permissions",
                                  "ERR something else", "NOSCRIPT No matching script."], ids=lambda said: said.split()[0])
def test_h151_a_redis_that_refuses(sluice, provider, said):
    """-NOSCRIPT for ever is a fault as well: even for the script itself."""
    with ScriptedRedis() as fake:
        fake.answer = f"-{said}\r\n".encode()
        server = sluice("limits: {replicas: 2, per_user: {requests: 4/1h}}\nworkers: 1\n" +
                        redis_config(fake) + provider_config(provider))
        share_holds(server, "alice")
        share_holds(server, "bob")
        assert fallbacks(server) == 8
        assert said.split()[0] in str(server.wait_log(
            "redis is of no use: this process keeps its share of the limits by itself")) or "NOSCRIPT" in said


@pytest.mark.parametrize("said", [b"+OK\r\n", b":1\r\n", b"*0\r\n", b"*-1\r\n", b"$-1\r\n", b"*4\r\n:9\r\n:0\r\n:0\r\n:0\r\n",
                                  b"*4\r\n:0\r\n:-1\r\n:0\r\n:0\r\n", b"*4\r\n:0\r\n:0\r\n:9223372036854775807\r\n:0\r\n",
                                  b"*4\r\n:0\r\n:0\r\n:0\r\n$1\r\nx\r\n", b"*999999999\r\n", b"$999999999999\r\n",
                                  b"*1\r\n" * 40, b"\0" * 100, b"+OK\r\n+OK\r\n+OK\r\n"], ids=repr)
def test_h151_a_redis_that_talks_nonsense(sluice, provider, said):
    with ScriptedRedis() as fake:
        fake.answer = said
        server = sluice("limits: {replicas: 2, per_user: {requests: 4/1h}}\nworkers: 1\n" +
                        redis_config(fake, "100ms") + provider_config(provider))
        share_holds(server, "alice")
        share_holds(server, "bob")
        assert fallbacks(server) == 8


def test_h154_one_replica_is_cut_off(sluice, provider, redis, line):
    """It keeps its share; the other one goes on as before."""
    config = "limits: {replicas: 2, per_user: {requests: 10/1h}}\nworkers: 1\n" + provider_config(provider)
    near, far = sluice(config + redis_config(redis)), sluice(config + redis_config(line, "100ms"))
    assert statuses(near, 1, user("alice")) == statuses(far, 1, user("alice")) == [200]
    line.refuse()
    found = statuses(far, 12, user("alice"))
    assert found.count(200) == 5, found
    assert statuses(near, 12, user("alice")).count(200) == 8
    assert fallbacks(near) == 0


def test_streams_of_an_outage_are_given_back(sluice, provider, redis):
    """Begun with Redis and ended without it, and the other way round."""
    server = sluice("limits: {replicas: 1, per_user: {streams: 1}}\nworkers: 1\n" + redis_config(redis, "100ms") +
                    provider_config(provider))
    provider.script(sse(ROLE, A, HANG))
    with Stream(server, headers=user("alice")) as stream:
        stream.read_until(b'"a"')
        redis.kill()
    wait_free(server, "alice", 1)
    provider.script(sse(ROLE, A, HANG))
    with Stream(server, headers=user("bob")) as stream:
        stream.read_until(b'"a"')
        redis.start()
        wait_shared(server, redis)
    wait_free(server, "bob", 1)
    assert not [key for key in keys_of(redis) if ":us:" in key and "again" not in key] or \
        redis.command("PTTL", keys_of(redis)[0]) <= 30000
