# SPDX-License-Identifier: Apache-2.0
"""What becomes of a request when its provider fails: every row of failover_faults.tsv, for providers
and callers of both dialects, streamed and whole.

All rows share one server and two fake providers (fake_models.py). Each case has an alias and a model
of its own, so that no case opens another's breaker. Words name who said them: an answer that is torn,
joined or doubled cannot pass for a whole one. Times are configured short and never measured.
"""
import re
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from caller_kinds import ask, body_of, read_attempts, request_of
from fake_answer import Tokens
from fake_models import SAID, FakeModels, token
from raw_http import RawClient

TABLE = Path(__file__).with_name("failover_faults.tsv")
COLUMNS = "name first second settings modes kinds sees attempts usage".split()
KINDS = {"both": ["openai", "anthropic"], "all": ["openai", "anthropic", "gemini", "mixed"]}
MODES = {"both": ["stream", "whole"], "stream": ["stream"], "whole": ["whole"]}
# Kind of failure → for each caller the status and the error's type; a name behind it is its code.
ERRORS = {
    "failed": {"chat": (502, "server_error"), "messages": (500, "api_error")},
    "unavailable": {"chat": (502, "server_error"), "messages": (529, "overloaded_error")},
    "overloaded": {"chat": (503, "server_error"), "messages": (529, "overloaded_error")},
    "timeout": {"chat": (504, "server_error", "timeout"), "messages": (504, "timeout_error")},
    "limited": {"chat": (429, "requests", "rate_limit_exceeded"), "messages": (429, "rate_limit_error")},
    "auth": {"chat": (502, "server_error", "provider_auth"), "messages": (500, "api_error")},
    "context": {"chat": (400, "invalid_request_error", "context_length_exceeded"),
                "messages": (400, "invalid_request_error")},
    "filter": {"chat": (400, "invalid_request_error"), "messages": (400, "invalid_request_error")},
    "open": {"chat": (503, "server_error"), "messages": (529, "overloaded_error")},
    "refused 400": {"chat": (400, "invalid_request_error"), "messages": (400, "invalid_request_error")},
    "refused 413": {"chat": (413, "invalid_request_error"), "messages": (413, "request_too_large")},
    "refused 422": {"chat": (422, "invalid_request_error"), "messages": (422, "invalid_request_error")},
}
RETRY = "retry: {attempts: 2}\n"           # the default, which the tests' servers do not have
TRIED = ("failed", "unavailable", "overloaded", "timeout", "auth", "open")
TOKENS = {"first": Tokens(11, SAID), "second": Tokens(22, SAID + 1)}


@dataclass(frozen=True)
class Case:
    """A row of the table for one kind of provider, one caller and one mode."""
    row: dict
    number: int
    kind: str
    caller: str
    mode: str

    def __str__(self):
        name = re.sub(r"[^a-z0-9]+", "-", self.row["name"].lower())
        return f"{name}-{self.kind}-{self.caller}-{self.mode}"

    @property
    def alias(self):
        return f"m{self.number}-{self.kind}-{self.caller}-{self.mode}"

    def kind_of(self, target):
        return self.kind if self.kind != "mixed" else {"first": "openai", "second": "anthropic"}[target]

    def provider(self, target):
        """The provider's name in the configuration; a first that listens nowhere has one of its own."""
        role = "gone" if self.row[target] == "gone" else target
        return f"{role}-{self.kind_of(target)}"

    def config(self):
        """The alias's entry in the configuration."""
        named = {target: f"{self.provider(target)}/{self.alias}" for target in ("first", "second")}
        settings = self.row["settings"]
        has_second = self.row["second"] != "-" and "SECOND" not in settings
        targets = [named["first"], *([named["second"]] if has_second else [])]
        more = "" if settings == "-" else ", " + settings.replace("SECOND", named["second"])
        return f"  {self.alias}: {{targets: [{', '.join(targets)}]{more}}}\n"


def read_rows():
    lines = [line.split("\t") for line in TABLE.read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == COLUMNS
    return [dict(zip(COLUMNS, line, strict=True)) for line in lines[1:]]


CASES = [Case(row, number, kind, caller, mode)
         for number, row in enumerate(read_rows()) for kind in KINDS[row["kinds"]]
         for caller in ("chat", "messages") for mode in MODES[row["modes"]]]


class Rig:
    """The server of all cases, and its providers."""

    def __init__(self, start, first, second):
        self.fakes = {"first": first, "second": second}
        self.server = start(RETRY + providers_of(self.fakes) + "models:\n" + "".join(map(Case.config, CASES)))
        self.count = 0

    def ask(self, case):
        """Plan, ask; returns (reply, access line)."""
        for target, fake in self.fakes.items():
            if case.row[target] not in ("-", "gone"):
                fake.plan(case.alias, case.row[target])
        self.count += 1
        id = f"f{self.count}"
        body = body_of(case.caller, case.alias, f"how is {case.alias}", case.mode == "stream")
        reply = ask(self.server, case.caller, body, id=id)
        return reply, self.server.wait_log("request", id=id)


def providers_of(fakes):
    """The configuration's providers: each fake in three dialects, and some that nobody serves."""
    lines = ["providers:"]
    for kind in ("openai", "anthropic", "gemini"):
        for name, fake in fakes.items():
            lines.append(f'  {name}-{kind}: {{kind: {kind}, url: "{fake.base(kind)}", key: "sk-{name}-key"}}')
        lines.append(f'  gone-{kind}: {{kind: {kind}, url: "http://127.0.0.1:1", key: "sk-gone-key"}}')
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def rig(module_sluice):
    with FakeModels("first", TOKENS["first"]) as first, FakeModels("second", TOKENS["second"]) as second:
        yield Rig(module_sluice, first, second)


def said(case, target, begin=0, end=SAID):
    return "".join(token(target, case.alias, i) for i in range(begin, end))


def assert_error(case, reply, kind):
    """An HTTP error of that kind in the caller's dialect."""
    status, type, *code = ERRORS[kind][case.caller]
    assert (reply.status, reply.error["type"]) == (status, type), reply.error
    if code:
        assert reply.error["code"] == code[0], reply.error
    if kind in TRIED:
        assert reply.answer.header("x-should-retry") == "false"
    if case.row["first"] == "429:3600":
        assert reply.answer.header("retry-after") == "3600"
    assert "sk-" not in reply.answer.body.decode()


def assert_seen(case, reply):
    """The caller sees what the table says, word for word."""
    sees, *more = case.row["sees"].split()
    if sees in TOKENS:
        assert (reply.text, reply.finish, reply.error) == (said(case, sees), "stop", None)
        assert reply.usage == TOKENS[sees]
    elif sees in ("cut", "torn"):
        count, kind = int(more[0]), more[1]
        whole = said(case, "first", 0, count)
        assert reply.text == whole or (sees == "torn" and reply.text and whole.startswith(reply.text))
        assert reply.error and reply.finish is None
        if kind != "any":
            assert reply.error["type"] == ERRORS[kind][case.caller][1], reply.error
    elif sees == "joined":
        count = int(more[0])
        assert reply.text == said(case, "first", 0, count) + said(case, "second", count)
        assert reply.finish == "stop"
        assert b"continue" in reply.answer.body, "the place where another goes on is not marked"
    else:
        assert_error(case, reply, case.row["sees"])


def assert_record(case, reply, line, rig):
    """Header and log tell the same attempts; a header that left before the end does not know it."""
    wanted = [step.split(":") for step in case.row["attempts"].split()]
    found = read_attempts(line["attempts"])
    assert len(found) == len(wanted), line["attempts"]
    for (target, result), (role, results) in zip(found, wanted):
        assert target == f"{case.provider(role)}/{case.alias}", line["attempts"]
        assert result in results.split("|"), line["attempts"]
    if case.row["sees"].startswith(("cut", "torn", "joined")):
        assert reply.attempts[0] == (found[0][0], "ok")
    else:
        assert reply.attempts == found
    for role in {role for role, _ in wanted} - ({"first"} if case.row["first"] == "gone" else set()):
        asked = sum(1 for other, _ in wanted if other == role)
        assert len(rig.fakes[role].asked(case.alias)) == asked


def assert_usage(case, line):
    """Who answered is whose tokens are counted."""
    usage = case.row["usage"]
    counted = (line["input_tokens"], line["output_tokens"])
    if usage in TOKENS:
        assert line["provider"] == case.provider(usage)
        assert counted == (TOKENS[usage].input, TOKENS[usage].output)
        assert line["usage_source"] == "provider"
    elif usage == "estimated":
        assert line["provider"] == case.provider("first")
        assert line["usage_source"] == "estimated"
        assert line["input_tokens"] > 0 and line["output_tokens"] > 0, line
    elif line["status"] != 200:
        assert counted == (0, 0), line


@pytest.mark.parametrize("case", CASES, ids=str)
def test_fault(rig, case):
    reply, line = rig.ask(case)
    assert_seen(case, reply)
    assert_record(case, reply, line, rig)
    assert_usage(case, line)


@pytest.mark.parametrize("caller", ["chat", "messages"])
def test_silent_provider_is_let_go(rig, caller):
    """The connection to a provider that did not answer in time is closed, not kept."""
    case = next(case for case in CASES if case.row["name"] == "no answer" and case.caller == caller)
    reply, _ = rig.ask(case)
    assert reply.text == said(case, "second")
    rig.fakes["first"].wait_asked(case.alias).wait_peer_closed()


# ---- what lasts longer than a request ----

@pytest.fixture
def pair(sluice):
    """pair(settings, first plan, second plan) → ask(): an alias `m` in front of two OpenAI targets."""
    with FakeModels("first", TOKENS["first"]) as first, FakeModels("second", TOKENS["second"]) as second:
        yield Pair(sluice, first, second)


class Pair:
    """Two fakes behind the alias `m`; every call to start() makes a server."""

    def __init__(self, start, first, second):
        self._start, self.first, self.second = start, first, second
        self.fakes = {"first": first, "second": second}

    def start(self, settings="", targets="[first-openai/m, second-openai/m]", providers=""):
        extra = f", {settings}" if settings else ""
        self.server = self._start(RETRY + providers_of(self.fakes) + providers +
                                  f"models:\n  m: {{targets: {targets}{extra}}}\n")
        return self.server

    def ask(self, number=0, stream=True, caller="chat", **more):
        headers = more.pop("headers", ())
        return ask(self.server, caller, body_of(caller, "m", f"how is p{number}", stream, **more), headers)

    def admin(self, view):
        with RawClient(self.server.admin_port) as client:
            return client.request("GET", f"/admin/{view}?format=json").json


def results(reply):
    return [(target.split("-")[0], result) for target, result in reply.attempts]


def assert_from(reply, name, number):
    assert reply.text == "".join(token(name, f"p{number}", i) for i in range(SAID)), reply


@pytest.mark.parametrize("url", ["http://no-such-host.invalid/v1", "https://127.0.0.1:{port}/v1"],
                         ids=["name", "tls"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_targets_out_of_reach_are_passed_over(pair, url, stream):
    """A name that does not resolve, a port that does not speak TLS: the next target answers."""
    url = url.format(port=pair.first.port)
    pair.start(targets="[far/m, second-openai/m]",
               providers=f'  far: {{url: "{url}", key: sk-far-key, timeouts: {{connect: 2s}}}}\n')
    reply = pair.ask(5, stream)
    assert_from(reply, "second", 5)
    assert results(reply) == [("far/m", "connect"), ("second", "ok")]


def test_open_breaker_skips_the_target(pair):
    """After so many failures the first is not asked any more, and the record says so."""
    pair.start("breaker: {failures: 3, open: 1h, max_open: 1h}")
    pair.first.plan("m", "503")
    for number in range(6):
        reply = pair.ask(number)
        assert_from(reply, "second", number)
        assert results(reply) == [("first", "http_503" if number < 3 else "open"), ("second", "ok")]
    assert len(pair.first.asked("m")) == 3


def test_probe_brings_a_target_back(pair):
    """Well again, it is found out by one request; the caller of that one notices nothing."""
    pair.start("breaker: {failures: 3, open: 20ms, max_open: 40ms}")
    pair.first.plan("m", "503 503 503 ok")
    for number in range(3):
        assert_from(pair.ask(number), "second", number)
    number, who = 3, "second"
    while who == "second":
        reply, number = pair.ask(number), number + 1
        who = results(reply)[-1][0]
        assert_from(reply, who, number - 1)
    assert_from(pair.ask(99), "first", 99)


def test_flapping_provider_is_not_noticed(pair):
    """Up and down by turns, in every way: each caller gets one whole answer."""
    faults = "503 nothing reset end-role 500 error reset-role html".split()
    pair.start("breaker: {failures: 3, open: 20ms, max_open: 100ms}")
    pair.first.plan("m", " ".join(word for i in range(60) for word in ["ok"] * 7 + [faults[i % 8]] * 7))
    for number in range(200):
        reply = pair.ask(number)
        assert_from(reply, results(reply)[-1][0], number)
    assert len(pair.second.asked("m")) > 20


def test_refused_keys_put_all_targets_out(pair):
    """A second request is not spent on keys that are known to be refused: 503, and when to come back."""
    pair.start()
    pair.first.plan("m", "401")
    pair.second.plan("m", "403")
    assert pair.ask().status == 502
    reply = pair.ask()
    assert (reply.status, results(reply)) == (503, [("first", "open"), ("second", "open")])
    assert int(reply.answer.header("retry-after")) >= 1
    assert reply.answer.header("x-should-retry") == "false"
    assert len(pair.first.asked("m")) == len(pair.second.asked("m")) == 1
    reply = pair.ask(caller="messages")
    assert (reply.status, reply.error["type"]) == (529, "overloaded_error")
    states = {row["target"]: row["state"] for row in pair.admin("upstreams")["targets"]}
    assert states["first-openai/m"] == states["second-openai/m"] == "out"


def test_the_callers_mistakes_open_no_breaker(pair):
    """Nor do prompts that are too long or filtered."""
    pair.start("breaker: {failures: 2, open: 1h, max_open: 1h}")
    pair.first.plan("m", "400 400 422 context filter 413 ok")
    for _ in range(6):
        assert pair.ask().status in (400, 413, 422)
    assert results(pair.ask()) == [("first", "ok")]
    assert not pair.second.asked("m")


def test_the_last_target_is_asked_though_its_breaker_is_open(pair):
    """A breaker that is wrong must not be an outage."""
    pair.start("breaker: {failures: 2, open: 1h, max_open: 1h}, retry: {attempts: 1}",
               "[first-openai/m]")
    pair.first.plan("m", "503 503 ok")
    assert [pair.ask().status for _ in range(2)] == [502, 502]
    assert_from(pair.ask(7), "first", 7)


def test_caller_who_leaves_while_targets_are_changed(pair):
    """No further target is asked for a caller who has gone."""
    pair.start("timeouts: {first_token: 600ms}")
    pair.first.plan("m", "hang")
    with RawClient(pair.server.port) as client:
        client.send(request_of("chat", body_of("chat", "m", "how is p1", True), id="left"))
        first = pair.first.wait_asked("m")
        client.reset()
    first.wait_peer_closed()
    line = pair.server.wait_log("request", id="left")
    assert line["outcome"] == "client_cancelled"
    assert read_attempts(line["attempts"]) == [("first-openai/m", "cancelled")]
    assert not pair.second.asked("m")


def test_target_without_words_for_the_request_is_skipped(pair):
    """log probabilities cannot be asked of Anthropic: passed over, and alone refused by name."""
    pair.start(targets="[first-anthropic/m, second-openai/m]")
    reply = pair.ask(3, stream=False, logprobs=True)
    assert_from(reply, "second", 3)
    assert results(reply) == [("first", "unsupported"), ("second", "ok")]
    pair.start(targets="[first-anthropic/m]")
    reply = pair.ask(4, stream=False, logprobs=True)
    assert (reply.status, reply.error["param"]) == (400, "logprobs")
    assert not pair.first.asked("m")


def test_attempts_and_states_for_the_operator(pair):
    """GET /admin/attempts lists what did not go smoothly, and nothing else."""
    pair.start("breaker: {failures: 2, open: 1h, max_open: 1h}")
    pair.first.plan("m", "ok 503 503")
    for number in range(3):
        pair.ask(number)
    pair.server.wait_log("request", count=3)   # the record is kept just before, after the answer
    rows = pair.admin("attempts")["attempts"]
    assert len(rows) == 2
    assert all(read_attempts(row["attempts"]) == [("first-openai/m", "http_503"), ("second-openai/m", "ok")]
               for row in rows)
    states = {row["target"]: row["state"] for row in pair.admin("upstreams")["targets"]}
    assert (states["first-openai/m"], states["second-openai/m"]) == ("open", "closed")
    with RawClient(pair.server.admin_port) as client:
        metrics = client.request("GET", "/metrics").body.decode()
    assert 'upstream_attempts_total{target="first-openai/m",result="http_503"} 2' in metrics
    assert "llm_failovers_total 2" in metrics


def test_many_callers_find_the_second_at_once(pair):
    """Thirty callers while the first goes down: nobody sees it."""
    pair.start("breaker: {failures: 3, open: 1h, max_open: 1h}")
    pair.first.plan("m", "ok ok ok ok ok 503")
    replies = [None] * 30

    def one(number):
        replies[number] = pair.ask(number)
    threads = [threading.Thread(target=one, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, reply in enumerate(replies):
        assert_from(reply, results(reply)[-1][0], number)
