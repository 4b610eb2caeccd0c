# SPDX-License-Identifier: Apache-2.0
"""Failover in bulk: thousands of callers, a provider that fails at random, a total outage.

Every word of an answer names who said it, to which question, and where it stands (fake_models.py), so
an answer joined from two, cut or given twice cannot be taken for one. The faults are drawn from a seed;
SEED shows another row of them, REQUESTS fewer or more.
"""
import os
import random
import re
import threading
from collections import Counter

import pytest
from caller_kinds import body_of, read, request_of
from fake_answer import Tokens
from fake_models import FakeModels, token
from raw_http import RawClient

REQUESTS = int(os.environ.get("REQUESTS", "10000"))
SEED = int(os.environ.get("SEED", "7"))
CALLERS = 12
SAID = 12
RETRY = "retry: {attempts: 2}\n"           # the default, which the tests' servers do not have
# What may come before the first meaningful event, and how often. The slow ones are rare: each of
# them costs a caller the time-out.
FAULTS = {"ok": 400, "reset": 60, "close": 60, "500": 60, "503": 60, "529": 40, "429:0": 40, "html": 60,
          "nothing": 60, "redirect": 40, "malformed": 60, "bad-utf8": 40, "error": 60, "marker": 40,
          "reset-role": 60, "end-role": 60, "hang": 2, "stall-head": 2, "stall-role": 2}
ONLY_STREAMED = {"marker", "reset-role", "end-role", "hang", "stall-head", "stall-role"}


def config(first, second, kinds, settings):
    """The alias `m`: two targets of these kinds."""
    urls = zip(("first", "second"), (first, second), kinds)
    lines = [f'  {name}: {{kind: {kind}, url: "{fake.base(kind)}", key: sk-{name}-key, '
             f'breaker: {{failures: 1000, ratio: 100%}}}}\n' for name, fake, kind in urls]
    return f"{RETRY}{settings}providers:\n{''.join(lines)}models:\n  m: {{targets: [first/m, second/m]}}\n"


class Random:
    """A fault for each request, the same ones for the same seed whatever the order of arrival."""

    def __init__(self, seed):
        self.seed, self.drawn, self.lock = seed, Counter(), threading.Lock()

    def __call__(self, exchange, prompt):
        chosen = random.Random(f"{self.seed} {prompt}").choices([*FAULTS], [*FAULTS.values()])[0]
        if chosen in ONLY_STREAMED and not is_streamed(int(prompt[1:])):
            chosen = "reset"
        with self.lock:
            self.drawn[chosen] += 1
        return chosen


def is_streamed(number):
    return number % 4 != 0


class Crowd:
    """Callers who ask one question after the other, each on a connection of his own."""

    def __init__(self, server, kinds=("chat", "messages")):
        self.server, self.kinds = server, kinds
        self.numbers, self.lock = iter(()), threading.Lock()
        self.wrong, self.seen = [], Counter()

    def run(self, count, callers=CALLERS):
        self.numbers = iter(range(count))
        threads = [threading.Thread(target=self._call) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(self.seen.values()) == count
        return self

    def _next(self):
        with self.lock:
            return next(self.numbers, None)

    def _call(self):
        client = None
        while (number := self._next()) is not None:
            client = client or RawClient(self.server.port)
            try:
                outcome = self._ask(client, number)
            except Exception as error:     # a caller who gives up would be missed by nobody
                outcome, client = f"{type(error).__name__}: {error}"[:300], None
            with self.lock:
                self.seen[outcome] += 1
        if client:
            client.close()

    def _ask(self, client, number):
        kind = self.kinds[number % len(self.kinds)]
        body = body_of(kind, "m", f"how is p{number}", is_streamed(number))
        client.send(request_of(kind, body))
        answer = client.read_response()
        reply = read(kind, answer)
        if reply.status != 200:
            assert answer.header("x-should-retry") == "false", answer.headers
            return reply.status
        return judge(reply.text, number) if reply.finish else "error event"


def judge(text, number):
    """Who gave this answer, whole and alone."""
    who = text.partition(".")[0]
    expected = "".join(token(who, f"p{number}", i) for i in range(SAID))
    return who if text == expected else f"torn or doubled: {text[:200]}"


@pytest.mark.parametrize("kinds", [("openai", "openai"), ("anthropic", "anthropic"), ("anthropic", "openai")],
                         ids="-".join)
def test_a_provider_that_fails_at_random_is_not_noticed(sluice, kinds):
    """99.9 % of the callers get one whole answer, and none a mixed one."""
    count = REQUESTS if kinds[0] != kinds[1] else REQUESTS // 10
    with FakeModels("first", Tokens(11, SAID)) as first, FakeModels("second", Tokens(22, SAID)) as second:
        first.choose = Random(SEED)
        second.choose = lambda exchange, prompt: "ok"
        for fake in (first, second):
            fake.said, fake.keeps = SAID, False
        server = sluice(config(first, second, kinds, "timeouts: {first_token: 3s}\nlog: {access: false}\n"))
        crowd = Crowd(server).run(count)
    answered = crowd.seen["first"] + crowd.seen["second"]
    assert not [outcome for outcome in crowd.seen if re.match("torn", str(outcome))], crowd.seen
    assert answered >= 0.999 * count, crowd.seen
    assert crowd.seen["first"] > 0.2 * count, "the first was hardly asked"
    assert len(first.choose.drawn) >= len(FAULTS) - (3 if count < 10000 else 0), first.choose.drawn


@pytest.mark.parametrize("outage", ["503", "reset", "nothing", "error"])
def test_a_total_outage_is_not_made_worse(sluice, outage):
    """A thousand requests at a concurrency of ten cost the providers 1.2 attempts each at the most."""
    with FakeModels("first") as first, FakeModels("second") as second:
        asked = Counter()
        for fake in (first, second):
            def choose(exchange, prompt, fake=fake):
                asked[fake.name] += 1
                return outage
            fake.choose, fake.keeps, fake.said = choose, False, SAID
        text = config(first, second, ("openai", "anthropic"), "log: {access: false}\n")
        server = sluice(text.replace(", breaker: {failures: 1000, ratio: 100%}", ""))
        crowd = Crowd(server).run(1000, callers=10)
    assert set(crowd.seen) <= {500, 502, 503, 529}, crowd.seen
    assert asked.total() <= 1200, asked


def test_an_outage_without_connections_is_told_at_once(sluice):
    """Nobody listens: after the first failures nothing is tried any more, and 503 says when to return."""
    server = sluice(RETRY + 'providers: {gone: {url: "http://127.0.0.1:1/v1", key: sk-gone-key}, '
                    'away: {url: "http://127.0.0.1:2/v1", key: sk-away-key}}\n'
                    "models: {m: {targets: [gone/m, away/m]}}\nbreaker: {open: 1h, max_open: 1h}\n")
    crowd = Crowd(server, kinds=("chat",)).run(1000, callers=10)
    assert set(crowd.seen) == {502, 503} and crowd.seen[503] > 900, crowd.seen
    with RawClient(server.port) as client:
        client.send(request_of("chat", body_of("chat", "m", "how is p1")))
        answer = client.read_response()
    assert answer.status == 503 and int(answer.header("retry-after")) > 1
    assert answer.header("x-sluice-attempts") == "gone/m;open;0, away/m;open;0"
