# SPDX-License-Identifier: Apache-2.0
"""Budgets, prices, the ledger and its questions, end to end.

The numbers n144 … n155 are those of tests/bad_inputs.tsv; known_15 … known_19 are failures of other gateways
(LiteLLM #26672, #27639, #28247, #39309, #16011). Prices here are whole milli-units per token, so that sums can be
read. REQUESTS makes the chaos longer: `make soak` sets it.
"""
import contextlib
import hashlib
import hmac
import json
import os
import random
import re
import select
import shutil
import sqlite3
import tempfile
import threading
import time
from datetime import datetime, timedelta, timezone

import anthropic
import openai
import pytest
from caller import CHAT, STREAM, Stream, ask, outcome
from command import run
from fake_meter import Meter, compare, question
from fake_models import FakeModels
from fake_provider import CLOSE, HANG, FakeProvider, chat, chat_events, error, sse, whole
from raw_http import RawClient, request_bytes
from sluice import HANG_GUARD_S, ROOT, provider_config

PRICES = """currency: USD
models:
  fake/m: {input: 1000, output: 2000}
  fake/free: {input: 0, output: 0}
"""
MANY = int(os.environ.get("REQUESTS", "0")) // 10
STREAMS, KILLS = (MANY, 20) if MANY >= 1000 else (300, 2)
WORDS = 40                                                     # of each stream in the chaos
CHAOS_CAP = 200 * STREAMS + 100000                             # leases are a hundredth of it


# ---- what the tests share ----

@pytest.fixture
def prices(tmp_path):
    path = tmp_path / "prices.yaml"
    path.write_text(PRICES)
    return path


@pytest.fixture
def store(request, tmp_path):
    """The store's URL: SQLite, or what the test is parametrized with."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return f"sqlite:{tmp_path}/kept.db"
    name = re.sub(r"\W", "_", request.node.name)[:60].lower()
    return request.getfixturevalue("postgres").new_database(name)


BOTH_STORES = pytest.mark.parametrize("store", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def serve(sluice, provider, prices, store, tmp_path):
    """serve(budgets, more) → a server with these budgets in front of `provider`. The store and its folder stay from one to
    the next."""
    def start(budgets, more="", **options):
        return sluice(f"budgets: {budgets}\nprices: {prices}\nstore: \"{store}\"\ndata_dir: \"{tmp_path}\"\n"
                      + more + provider_config(provider), **options)
    return start


def admin(server, path, key=None):
    with RawClient(server.admin_port) as client:
        headers = [("Authorization", f"Bearer {key}")] if key else []
        client.send(request_bytes("GET", f"/admin/{path}", headers=headers))
        return client.read_response()


def rows(server, path, key=None):
    answer = admin(server, path, key)
    assert answer.status == 200, answer
    return answer.json["data"]


def until(condition, what):
    """Wait until it holds; ends a test that is broken."""
    end = time.monotonic() + HANG_GUARD_S
    while not (found := condition()):
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.02)
    return found


def wait_ledger(server, count):
    """The ledger once it has so many rows of calls, the latest first."""
    def look():
        found = [row for row in rows(server, "ledger?limit=1000") if row["outcome"] != "killed"]
        return found if len(found) >= count else None
    found = until(look, f"{count} rows of the ledger")
    assert len(found) == count, found
    return found


def budget(server, **members):
    """The one budget with these members."""
    found = [row for row in rows(server, "budgets?all=1&check=1")
             if members.items() <= row.items()]
    assert len(found) == 1, found
    return found[0]


def assert_no_drift(server):
    assert all(row["drift"] in (0, None) for row in rows(server, "budgets?all=1&check=1&limit=1000"))


def limited(tokens, **more):
    return CHAT | {"max_tokens": tokens} | more


def as_user(name):
    return [("X-User-ID", name)]


# ---- refusals ----

def test_a_spent_budget_in_sdk_words(serve, provider):
    """429 budget_exceeded, which both SDKs raise as what it is, and do not try again."""
    server = serve("{per_project: {tokens: 100/day}}")
    with openai.OpenAI(base_url=server.url, api_key="k") as client:
        with pytest.raises(openai.RateLimitError) as failure:
            client.chat.completions.create(**CHAT, max_tokens=500)
    assert failure.value.code == "budget_exceeded" and failure.value.type == "insufficient_quota"
    assert failure.value.response.headers["x-should-retry"] == "false"
    assert "100/day" in failure.value.message and "project" in failure.value.message
    with anthropic.Anthropic(base_url=server.url.removesuffix("/v1"), api_key="k") as client:
        with pytest.raises(anthropic.RateLimitError) as failure:
            client.messages.create(model="m", max_tokens=500,
                                   messages=[{"role": "user", "content": "hi"}])
    assert failure.value.status_code == 429
    assert failure.value.response.headers["x-should-retry"] == "false"
    assert provider.requests == []
    server.wait_log("request", 2, status=429)
    assert len(server.log_lines("request", status=429)) == 2
    assert rows(server, "ledger") == []
    metrics = metrics_of(server)
    assert metrics['sluice_budget_refused_total{scope="project",unit="tokens"}'] == 2


def metrics_of(server):
    with RawClient(server.admin_port) as client:
        text = client.request("GET", "/metrics").body.decode()
    return {name: float(value) for name, value in
            re.findall(r"^(sluice_\S+) (\S+)$", text, re.MULTILINE)}


def test_n148_more_than_reserved_is_recorded(serve, provider):
    """The provider says more than it was allowed: that is booked, and the next call is refused."""
    server = serve("{per_project: {tokens: 200/day}}")
    provider.script(chat("word " * 299 + "word"))
    assert ask(server, limited(10)).status == 200
    wait_ledger(server, 1)
    assert budget(server)["spent"] == 309
    assert ask(server, limited(10)).status == 429


def test_dry_run_warns_and_passes(serve, provider):
    server = serve("{dry_run: true, per_project: {tokens: 100/day}}")
    for _ in range(3):
        answer = ask(server, limited(1000))
        assert answer.status == 200
    assert answer.header("x-sluice-budget").startswith("project tokens ")
    assert answer.header("x-sluice-budget").endswith("% of 100/day")


def test_the_warning_begins_at_half(serve, provider):
    """x-sluice-budget is not there before; then it tells of the budget that is nearest to its end."""
    server = serve("{per_project: {tokens: 1000/day}, per_user: {tokens: 100000/day}}")
    provider.default = chat("one " * 240 + "two")               # 250 tokens each
    seen = []
    for number in range(1, 4):
        seen.append(ask(server, limited(1), as_user("alice")).header("x-sluice-budget"))
        wait_ledger(server, number)
    assert seen[0] is None and seen[1] is None
    percent = re.fullmatch(r"project tokens (\d+)% of 1000/day", seen[2])
    assert percent and 50 <= int(percent[1]) <= 80


def test_each_budget_is_kept_for_itself(serve, provider):
    """A user's end is nobody else's; a user is the one of his project."""
    server = serve("{per_user: {tokens: 300/day}}")
    provider.default = chat("one " * 240 + "two")
    assert ask(server, limited(1), as_user("alice")).status == 200
    wait_ledger(server, 1)
    refused = ask(server, limited(100), as_user("alice"))
    assert refused.status == 429 and "user" in refused.json["error"]["message"]
    assert ask(server, limited(100), as_user("bob")).status == 200
    assert ask(server, limited(100)).status == 200             # nobody in particular


# ---- what is forced and what is unknown ----

FORCED = {
    "chat": ("openai", "/v1/chat/completions", {"messages": CHAT["messages"]},
             lambda body: body.get("max_completion_tokens") or body.get("max_tokens")),
    "completions": ("openai", "/v1/completions", {"prompt": "hi"}, lambda body: body["max_tokens"]),
    "responses": ("openai", "/v1/responses", {"input": "hi"}, lambda body: body["max_output_tokens"]),
    "chat to anthropic": ("anthropic", "/v1/chat/completions", {"messages": CHAT["messages"]},
                          lambda body: body["max_tokens"]),
    "chat to gemini": ("gemini", "/v1/chat/completions", {"messages": CHAT["messages"]},
                       lambda body: body["generationConfig"]["maxOutputTokens"]),
}


@pytest.mark.parametrize("name", FORCED)
def test_n147_an_answer_without_a_limit_gets_one(sluice, name):
    """What is reserved is what the provider is told; a limit of the caller's own stays."""
    kind, path, question, limit_of = FORCED[name]
    more = ", responses: on" if name == "responses" else ""
    with FakeModels() as fake:
        fake.default = whole({"error": {"message": "seen enough"}}, 400)
        server = sluice("budgets: {max_tokens: 777, per_project: {tokens: 5000/day}}\n"
                        f"providers: {{p: {{kind: {kind}, url: \"{fake.base(kind)}\", key: k{more}}}}}\n")
        with RawClient(server.port) as client:
            client.request("POST", path, {"model": "p/m"} | question)
        assert limit_of(fake.wait_request().json) == 777


def test_n147_the_callers_limit_stays(serve, provider):
    server = serve("{max_tokens: 777, per_project: {tokens: 5000/day}}")
    assert ask(server, limited(33)).status == 200
    sent = provider.wait_request().json
    assert (sent.get("max_completion_tokens") or sent.get("max_tokens")) == 33


def test_without_a_budget_nothing_is_forced(serve, provider):
    server = serve("{max_tokens: 777}")
    assert ask(server).status == 200
    assert not {"max_tokens", "max_completion_tokens"} & set(provider.wait_request().json)


def test_n155_a_price_that_is_not_known(serve, provider):
    """503 where money is limited; elsewhere the cost is null and counted, never zero."""
    server = serve("{per_user: {money: 5/day}}")
    unknown = CHAT | {"model": "fake/other"}
    refused = ask(server, unknown, as_user("alice"))
    assert refused.status == 503 and refused.json["error"]["code"] == "price_unknown"
    assert provider.requests == []
    answer = ask(server, unknown)
    assert answer.status == 200 and answer.header("x-sluice-cost") is None
    ask(server, CHAT | {"model": "fake/free"})
    assert {row["model"]: row["cost"] for row in wait_ledger(server, 2)} == {"fake/other": None, "fake/free": 0}
    [usage] = rows(server, "usage")
    assert usage["unpriced"] == 1 and usage["calls"] == 2
    unknown = {name: count for name, count in metrics_of(server).items() if name.startswith("sluice_cost_unknown")}
    assert unknown == {'sluice_cost_unknown_total{model="fake/*"}': 1}


def test_n155_unknown_prices_are_counted_by_configured_model(serve, provider):
    """Each by the name it is configured under; what callers make up is its provider's."""
    server = serve("{}", "models: {cheap: {targets: [fake/m]}, dear: {targets: [fake/other]}}\n")
    for model in ("cheap", "dear", "dear", "fake/made-up-1", "fake/made-up-2", "fake/made-up-3"):
        assert ask(server, CHAT | {"model": model}).status == 200
    unknown = {name: count for name, count in metrics_of(server).items() if name.startswith("sluice_cost_unknown")}
    assert unknown == {f'sluice_cost_unknown_total{{model="{name}"}}': count
                       for name, count in (("cheap", 0), ("dear", 2), ("fake/*", 3))}


# ---- exactly so much ----

@BOTH_STORES
def test_n144_known_15_a_thousand_at_the_last_unit(serve, provider):
    """Of 1,000 requests at once, over two workers, pass as many as the budget can bear, and no more."""
    release = threading.Event()
    provider.default = lambda exchange: (exchange.wait_for(release), chat()(exchange))
    server = serve("{per_project: {tokens: 102500/total}}", "workers: 2\n")
    clients = [RawClient(server.port) for _ in range(1000)]
    try:
        for client in clients:
            client.send(request_bytes("POST", "/v1/chat/completions", limited(10000)))
        refused = answered(clients, 990)
        assert len(refused) == 990
        assert {answer.status for answer in refused.values()} == {429}
        assert {answer.json["error"]["code"] for answer in refused.values()} == {"budget_exceeded"}
        until(lambda: len(provider.requests) == 10, "those that pass")
        release.set()
        passed = [client.read_response().status for client in clients if client not in refused]
        assert passed == [200] * 10
    finally:
        release.set()
        for client in clients:
            client.close()
    used = sum(row["input"] + row["output"] for row in wait_ledger(server, 10))
    assert budget(server)["spent"] == used == 100
    assert_no_drift(server)
    assert ask(server, limited(10000)).status == 200           # all reservations have come back


def answered(clients, count):
    """The first answers to come, by client."""
    poller, by_fd, found = select.poll(), {}, {}
    for client in clients:
        by_fd[client.sock.fileno()] = client
        poller.register(client.sock, select.POLLIN)
    end = time.monotonic() + 3 * HANG_GUARD_S
    while len(found) < count and time.monotonic() < end:
        for fd, _ in poller.poll(1000):
            poller.unregister(fd)
            found[by_fd[fd]] = by_fd[fd].read_response()
    return found


@BOTH_STORES
def test_known_16_a_caller_who_leaves_gives_back(serve, provider):
    """Of a stream that is broken off, what was said is booked; the rest of the reservation returns."""
    server = serve("{per_project: {tokens: 10000/total, money: 100/total}}")
    for number in range(1, 4):
        provider.script(sse(*chat_events("a", "b", "c", done=False, finish=None), HANG))
        with Stream(server, STREAM | {"max_tokens": 9000}) as stream:
            stream.read_until(b'"c"')
        assert wait_ledger(server, number)[0]["outcome"] == "client_cancelled"
    spent = budget(server, unit="tokens")["spent"]
    assert 0 < spent < 300
    row = wait_ledger(server, 3)[0]
    assert row["estimated"] and row["cost"] == pytest.approx(row["input"] / 1000 + row["output"] / 500)
    assert_no_drift(server)


@pytest.mark.parametrize("script", [error(500), error(400), sse(CLOSE, end=False)],
                         ids=["500", "400", "cut"])
def test_known_16_a_failed_call_gives_back(serve, provider, script):
    provider.script(script)
    server = serve("{per_project: {tokens: 10000/total}}")
    assert ask(server, STREAM | {"max_tokens": 9000}).status >= 400
    assert ask(server, limited(9000)).status == 200
    wait_ledger(server, 2)
    assert budget(server)["spent"] < 200


@BOTH_STORES
def test_n145_known_17_a_restart_changes_no_spend(serve, provider):
    """Nor does settling twice: what is booked stays as it is, over three clean starts."""
    spent = 0
    for _ in range(3):
        server = serve("{per_project: {tokens: 1000/month}}")
        assert [row["spent"] for row in rows(server, "budgets")] == ([spent] if spent else [])
        assert ask(server, limited(10)).status == 200
        spent += 10 + 4                                        # nine, and five words
        server.stop()
    server = serve("{per_project: {tokens: 1000/month}}")
    [row] = rows(server, "budgets?check=1")
    assert row["spent"] == spent and row["leased"] == 0 and row["drift"] == 0
    assert [found["outcome"] for found in rows(server, "ledger")] == ["completed"] * 3


@BOTH_STORES
def test_n146_a_crash_between(serve, provider):
    """kill -9 while a stream is on its way: afterwards nothing is reserved, one row "killed" for each lease, and the
    money is on the safe side. With PostgreSQL, which others may use, that takes until the lease expires. The stream has a
    row, too, without what the leases' rows have."""
    budgets = "{lease_ttl: 1s, per_project: {tokens: 10000/total, money: 50/total}}"
    server = serve(budgets)
    assert ask(server, limited(10)).status == 200
    wait_ledger(server, 1)
    provider.script(sse(*chat_events("a", "b", done=False, finish=None), HANG))
    with Stream(server, STREAM | {"max_tokens": 1000}, id="open") as stream:
        stream.read_until(b'"b"')
        server.kill()
    server = serve(budgets)
    until(lambda: all(row["leased"] == 0 for row in rows(server, "budgets")), "leases to expire")
    killed = [row for row in rows(server, "ledger") if row["outcome"] == "killed"]
    [own] = [row for row in killed if row["request_id"] == "open"]
    assert (own["budgets"], own["input"], own["output"], own["cost"]) == ("", 0, 0, 0)
    killed.remove(own)
    assert {row["budgets"] for row in killed} == {"project/tokens/total/0", "project/money/total/0"}
    assert budget(server, unit="tokens")["spent"] == 14 + sum(row["input"] for row in killed)
    assert budget(server, unit="tokens")["spent"] >= 14 + 1000
    assert_no_drift(server)
    assert ask(server, limited(10)).status == 200


def test_known_18_one_limit_does_not_eat_of_another(serve, provider):
    """A request that the budget refuses takes nothing of the rate, and none of the other budgets."""
    server = serve("{per_project: {tokens: 100000/day}, per_user: {tokens: 200/day}}",
                   "limits: {per_project: {requests: 5/1h}}\n")
    for _ in range(20):
        assert ask(server, limited(1000), as_user("alice")).json["error"]["code"] == "budget_exceeded"
    for _ in range(5):
        assert ask(server, limited(10)).status == 200
    assert ask(server, limited(10)).json["error"]["code"] == "rate_limit_exceeded"
    wait_ledger(server, 5)
    assert budget(server, scope="project")["spent"] == 5 * 14


def test_known_19_limits_hold_over_workers(serve, provider):
    """Two workers share a rate as they share a budget."""
    server = serve("{}", "workers: 2\nlimits: {per_project: {requests: 10/1h}}\n")
    statuses = [ask(server).status for _ in range(40)]         # a connection each
    assert statuses.count(200) == 10 and statuses.count(429) == 30


# ---- usage ----

KEYS = ('admin_key: sk-of-the-admin-1\n'
        'keys: {required: true, static: [{name: ci, key: sk-of-the-ci-1234}]}\n')
CI = [("Authorization", "Bearer sk-of-the-ci-1234")]


@pytest.fixture
def used(serve, provider):
    """A server where alice asked twice and bob once, with the key `ci`."""
    server = serve("{per_project: {money: 10/month}, per_user: {tokens: 1000/day}}", KEYS)
    for user in ("alice", "alice", "bob"):
        answer = ask(server, limited(10), [*CI, *as_user(user)])
        assert answer.status == 200 and answer.header("x-sluice-cost") == "0.019 USD"
    until(lambda: len(rows(server, "ledger", "sk-of-the-admin-1")) == 3, "three rows")
    return server


ROOT_KEY = "sk-of-the-admin-1"


@BOTH_STORES
def test_usage_by_everything(used):
    [whole_sum] = rows(used, "usage", ROOT_KEY)
    assert whole_sum == {"calls": 3, "failed": 0, "unpriced": 0, "input": 27, "output": 15, "cached": 0,
                         "cache_written": 0, "reasoning": 0, "cost": 0.057}
    by_user = rows(used, "usage?by=user", ROOT_KEY)
    assert [(row["user"], row["calls"]) for row in by_user] == [("alice", 2), ("bob", 1)]
    [row] = rows(used, "usage?by=project,key,model,provider,upstream_model,day,hour&user=bob", ROOT_KEY)
    now = datetime.now(timezone.utc)
    assert {name: row[name] for name in ("project", "key", "model", "provider", "upstream_model")} == {
        "project": "default", "key": "static:ci", "model": "m", "provider": "fake",
        "upstream_model": "m"}
    assert abs(datetime.fromisoformat(row["begins"].replace("Z", "+00:00")) - now) < timedelta(hours=2)
    assert rows(used, "usage?project=other", ROOT_KEY) == []
    assert rows(used, "usage?from=2020-01-01&to=2020-02-01", ROOT_KEY) == []


@BOTH_STORES
def test_usage_in_pages(used):
    first = admin(used, "usage?by=user&limit=1", ROOT_KEY).json
    assert first["has_more"] and [row["user"] for row in first["data"]] == ["alice"]
    second = admin(used, f"usage?by=user&limit=1&cursor={first['next_cursor']}", ROOT_KEY).json
    assert not second["has_more"] and [row["user"] for row in second["data"]] == ["bob"]


@pytest.mark.parametrize("query", ["by=colour", "from=yesterday", "to=2026-13-01", "limit=0", "limit=1001",
                                   "cursor=00", "format=xml", "colour=red", "from=2026-02-30", "by=user,,key",
                                   "from=2026-03-01&to=2026-02-01", "user=%zz"])
def test_a_wrong_question_is_refused(used, query):
    answer = admin(used, f"usage?{query}", ROOT_KEY)
    assert answer.status == 400 and answer.json["error"]["type"] == "invalid_request_error"


def test_no_question_without_a_key(used):
    for view in ("usage", "ledger", "budgets", "prices"):
        assert admin(used, view).status == 401
        assert admin(used, view, "sk-of-the-ci-1234").status == 403


def test_usage_as_csv(used):
    answer = admin(used, "usage?by=user&format=csv", ROOT_KEY)
    assert answer.header("content-type") == "text/csv; charset=utf-8"
    assert answer.body.decode() == ("user,calls,failed,unpriced,input,output,cached,cache_written,"
                                    "reasoning,cost\r\nalice,2,0,0,18,10,0,0,0,0.038\r\n"
                                    "bob,1,0,0,9,5,0,0,0,0.019\r\n")


@BOTH_STORES
def test_the_ledger_has_each_call(used):
    row = rows(used, "ledger", ROOT_KEY)[0]
    assert row["user"] == "bob" and row["route"] == "/v1/chat/completions"
    assert (row["input"], row["output"], row["cost"], row["estimated"]) == (9, 5, 0.019, False)
    assert (row["status"], row["outcome"], row["attempts"]) == (200, "completed", 1)
    assert len(row["budgets"].split()) == 2


@BOTH_STORES
def test_budgets_and_prices_are_shown(used):
    money, *_ = [row for row in rows(used, "budgets?check=1", ROOT_KEY) if row["unit"] == "money"]
    assert (money["scope"], money["period"], money["cap"], money["spent"]) == ("project", "month", 10, 0.057)
    assert money["left"] + money["spent"] + money["leased"] == pytest.approx(10)
    alice = rows(used, "budgets?user=alice", ROOT_KEY)
    assert [(row["owner"], row["spent"]) for row in alice] == [("alice", 28)]
    prices = admin(used, "prices", ROOT_KEY).json
    assert prices["currency"] == "USD"
    assert {"model": "fake/m", "input": 1000, "output": 2000, "cached": 1000, "cache_written": 1000,
            "reasoning": 2000, "image": 0, "request": 0} in prices["data"]


def test_a_tenants_admin_sees_his_own(sluice, provider, prices):
    """Keys that rule over a project see what is theirs, whatever they ask for."""
    server = sluice(f"prices: {prices}\nbudgets: {{per_project: {{tokens: 10000/day}}}}\n"
                    f"admin_key: {ROOT_KEY}\nkeys: {{required: true}}\n" + provider_config(provider))
    keys = {}
    for name in ("red", "blue"):
        project = post(server, "projects", {"name": name})["id"]
        keys[name] = (project, post(server, "keys", {"name": name, "project": project})["key"],
                      post(server, "keys", {"name": f"{name} admin", "project": project,
                                            "scopes": ["admin"]})["key"])
    for _, key, _ in keys.values():
        assert ask(server, limited(10), [("Authorization", f"Bearer {key}")]).status == 200
    until(lambda: len(rows(server, "ledger", ROOT_KEY)) == 2, "two rows")
    for name, other in (("red", "blue"), ("blue", "red")):
        project, _, key = keys[name]
        for view in ("usage?by=project", "ledger", "budgets"):
            assert [row["project"] for row in rows(server, view, key)] == [project]
        for view in ("usage", "ledger", "budgets"):
            assert rows(server, f"{view}?project={keys[other][0]}", key) == []
    assert len(rows(server, "usage?by=project", ROOT_KEY)) == 2


@BOTH_STORES
def test_a_budget_that_was_taken_away_is_not_shown(serve, provider, tmp_path):
    """Neither that of the configuration nor a project's own. What was spent is kept, for when it comes back."""
    server = serve("{per_project: {tokens: 10000/day}, per_user: {tokens: 10000/month}}",
                   f"admin_key: {ROOT_KEY}\nkeys: {{required: true}}\n")
    own = post(server, "projects", {"name": "own", "budgets": {"money": ["50/month"]}})["id"]
    key = post(server, "keys", {"name": "k", "project": own})["key"]
    ask(server, limited(10), [("Authorization", f"Bearer {key}"), ("X-User-ID", "alice")])

    def shown(query=""):
        return {(row["scope"], row["unit"]): row["spent"] for row in rows(server, f"budgets?{query}", ROOT_KEY)}

    until(lambda: shown().get(("project", "tokens")) == 14, "what was spent")
    every = shown()
    assert set(every) == {("project", "tokens"), ("project", "money"), ("user", "tokens")}
    patch(server, f"projects/{own}", {"budgets": {"money": None}})
    assert shown() == {who: spent for who, spent in every.items() if who[1] == "tokens"}
    server.config_path.write_text(server.config_path.read_text().replace(", per_user: {tokens: 10000/month}", ""))
    server.reload()
    server.wait_log("configuration reloaded")
    assert shown() == {("project", "tokens"): 14} and shown("all=1") == every
    for words, count in ((("budgets",), 1), (("budgets", "--all"), 3), (("budgets", "--csv"), 1)):
        done = command(server, *words, directory=tmp_path)
        assert done.returncode == 0 and len(done.stdout.splitlines()) == 1 + count, done.stdout
    patch(server, f"projects/{own}", {"budgets": {"money": ["60/month"]}})
    assert shown()["project", "money"] == every["project", "money"]


def post(server, path, body, method="POST"):
    with RawClient(server.admin_port) as client:
        answer = client.request(method, f"/admin/{path}", body,
                                [("Authorization", f"Bearer {ROOT_KEY}")])
    assert answer.status in (200, 201), answer
    return answer.json


def patch(server, path, body):
    return post(server, path, body, "PATCH")


def command(server, *words, directory):
    return run(*words, directory=directory, environment={
        "SLUICE_KEY": ROOT_KEY, "SLUICE_ADMIN_URL": f"http://127.0.0.1:{server.admin_port}"})


def test_the_commands(used, tmp_path):
    done = command(used, "usage", "--by", "user", directory=tmp_path)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0][:3] == ["user", "calls", "failed"]
    assert [line[:2] for line in lines[1:]] == [["alice", "2"], ["bob", "1"]]
    done = command(used, "usage", "--by", "day,model", "--csv", directory=tmp_path)
    assert done.stdout.startswith("begins,model,calls,")
    done = command(used, "usage", "--json", directory=tmp_path)
    assert json.loads(done.stdout)[0]["calls"] == 3
    done = command(used, "budgets", "--check", directory=tmp_path)
    assert "project" in done.stdout and "money" in done.stdout and done.returncode == 0
    done = command(used, "usage", "--by", "colour", directory=tmp_path)
    assert done.returncode == 1 and "by must be some of" in done.stderr
    assert command(used, "usage", "--colour", directory=tmp_path).returncode == 2
    assert command(used, "usage", "--from", directory=tmp_path).returncode == 2
    done = command(used, "usage", "--from", "2020-01-01", "--to", "2020-01-02", "--by", "user",
                   directory=tmp_path)
    assert done.returncode == 0 and done.stdout == "" and "nothing" in done.stderr


# ---- webhooks ----

SECRET = "whsec-of-the-test"


def verifier():
    """The function that docs/budgets.md shows."""
    page = (ROOT / "docs/budgets.md").read_text()
    block = next(text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
                 if "def is_genuine" in text)
    names = {}
    exec(block.split("\n\n\n")[0] + "\n\n\n" + block.split("\n\n\n")[1], names)
    return names["is_genuine"]


@BOTH_STORES
def test_alerts_are_sent_signed_and_once(serve, provider):
    """At 50, 80 and 100 %, whatever the receiver says at first."""
    with FakeProvider() as receiver:
        receiver.default = whole(b"")
        receiver.script(error(500))
        server = serve("{per_project: {tokens: 1000/month, money: 100/month}, webhook: "
                       f"{{url: \"{receiver.url}/alerts\", secret: {SECRET}}}}}")
        provider.default = chat("one " * 590 + "two")          # 600 tokens
        assert ask(server, limited(1)).status == 200
        failed, again = receiver.wait_request(), receiver.wait_request()
        provider.default = chat("one " * 390 + "two")
        assert ask(server, limited(1)).status == 200
        later = [receiver.wait_request(), receiver.wait_request()]
        time.sleep(1.5)                                        # nothing comes twice
        assert len(receiver.requests) == 4
    assert failed.json == again.json
    assert [seen.json["percent"] for seen in (again, *later)] in ([50, 80, 100], [50, 100, 80])
    alert = again.json
    assert alert["event"] == "budget.reached" and (alert["spent"], alert["cap"]) == (600, 1000)
    assert alert["budget"]["scope"] == "project" and alert["budget"]["period"] == "month"
    is_genuine = verifier()
    for seen in (failed, again, *later):
        timestamp, signature = seen.header("x-sluice-timestamp"), seen.header("x-sluice-signature")
        assert signature == "sha256=" + hmac.new(SECRET.encode(), timestamp.encode() + b"." + seen.body,
                                                 hashlib.sha256).hexdigest()
        assert is_genuine(SECRET, timestamp, signature, seen.body)
        assert not is_genuine(SECRET, timestamp, signature, seen.body + b" ")
        assert not is_genuine("another", timestamp, signature, seen.body)
        assert seen.target == "/v1/alerts" and seen.method == "POST"
    assert SECRET not in "\n".join(server.stderr)


def test_a_receiver_that_is_away_holds_nothing_up(serve, provider):
    """Alerts wait in the store, and a stop does not wait for them; after it they are sent."""
    with FakeProvider() as receiver:
        url = receiver.url
        receiver.default = whole(b"")
        receiver.on_connect(HANG)
        text = f"{{per_project: {{tokens: 200/month}}, webhook: {{url: \"{url}\", secret: {SECRET}}}}}"
        server = serve(text)
        provider.default = chat("one " * 150 + "two")
        assert ask(server, limited(1)).status == 200
        until(lambda: receiver.connections, "a try")
        server.stop()
        receiver.on_connect(None)


# ---- chaos ----

class Chaos:
    """Streams from several threads against a server that is killed at times."""

    def __init__(self, start, store):
        self.start, self.store = start, store
        self.server = start()
        self.lock, self.random = threading.Lock(), random.Random(5)
        self.left, self.leased = STREAMS, 0
        self.completed = {}                                    # {id: the server that answered}
        self.seen = set()                                      # ids of rows
        self.safe = set()                                      # ids of killed servers whose rows were there before

    def take(self):
        """The number of the next stream that is to be asked for, and after how many words it is left; None: never."""
        with self.lock:
            self.left -= 1
            return self.left, self.random.randrange(1, WORDS) if self.random.random() < 0.3 else None

    def work(self):
        while (turn := self.take())[0] >= 0:
            self.one(*turn)

    def one(self, number, leave_after):
        """One stream; a server that is being killed refuses it or breaks it off."""
        id, server = f"stream-{number}", self.server
        try:
            with Stream(server, question(id, WORDS), id=id) as stream:
                if leave_after is None and b"[DONE]" in stream.rest():
                    with self.lock:
                        self.completed[id] = server
                for _ in range(1 + leave_after if leave_after else 0):    # the role, and then so many words
                    stream.next_event()
        except (OSError, AssertionError):
            time.sleep(0.05)

    def kill(self):
        """Who completed soon before the end of a server is not in its ledger, perhaps."""
        with self.lock:
            answered = {id for id, server in self.completed.items() if server is self.server}
        until(lambda: answered <= self.newest_rows(), "the rows of what completed")
        self.safe |= answered
        self.server.kill()
        self.leased += ask_store(self.store, "SELECT coalesce(sum(amount), 0) FROM budget_leases")[0][0]
        self.server = self.start()

    def newest_rows(self):
        self.seen |= {row["request_id"] for row in rows(self.server, "ledger?limit=1000")}
        return self.seen

    def must_be_there(self):
        """Ids of streams whose rows nothing can excuse."""
        return {id for id, server in self.completed.items() if server is self.server or id in self.safe}

    def run(self):
        threads = [threading.Thread(target=self.work) for _ in range(12)]
        for thread in threads:
            thread.start()
        for number in range(1, KILLS + 1):
            mark = STREAMS - STREAMS * number // (KILLS + 1)
            while self.left > mark:
                time.sleep(0.01)
            self.kill()
        for thread in threads:
            thread.join()


def test_chaos_of_aborts_and_crashes(serve, provider, tmp_path):
    """However streams and servers end: each that the provider was asked for has one row, what completed is in the ledger
    to the token, what was left is within 2 % of what the provider charges, all in all no less is booked than that, and no
    more than that and the leases that were lost; nothing stays reserved, and the budget's spend is the sum of its rows."""
    provider.default = meter = Meter()
    budgets = f"{{lease: 1%, per_project: {{tokens: {CHAOS_CAP}/total}}}}"
    chaos = Chaos(lambda: serve(budgets), tmp_path / "kept.db")
    chaos.run()
    server = chaos.server
    server.stop()
    server = serve(budgets)
    [row] = rows(server, "budgets?check=1")
    assert row["leased"] == 0 and row["drift"] == 0
    server.stop()
    found = ask_store(tmp_path / "kept.db", "SELECT request_id, outcome, input + output FROM ledger")
    assert row["spent"] == sum(tokens for _, _, tokens in found)
    ids = [id for id, _, _ in found if id]
    assert len(ids) == len(set(ids)) and meter.bills.keys() <= set(ids)
    assert chaos.must_be_there() <= {id for id, outcome, _ in found if outcome == "completed"}
    print(f"{STREAMS} streams, {KILLS} kills, SQLite:", compare(meter, found, chaos.leased))
    assert len(chaos.completed) >= STREAMS // 4


def ask_store(path, sql):
    """What a SQLite store that nobody uses says. A copy is asked: who closes a database last changes its files."""
    with tempfile.TemporaryDirectory() as folder:
        for file in path.parent.glob(f"{path.name}*"):
            shutil.copy(file, folder)
        with contextlib.closing(sqlite3.connect(f"{folder}/{path.name}")) as store:
            return store.execute(sql).fetchall()
