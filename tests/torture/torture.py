# SPDX-License-Identifier: Apache-2.0
"""Runs a scenario again and again while the first, second, third … call of a kind fails.

    torture = Torture(server, ALLOCATIONS)
    n = torture.run(scenario, afterwards)    # how many calls the scenario makes; each failed once

A round arms the fault through the admin API, runs the scenario, disarms, and looks at what is left
behind. The last round is the first one that finished before the fault struck. What a scenario
asserts is only that its outcome is an honest one; `afterwards` is an ordinary request, which must
succeed. Then the process must be as it was: no sanitizer report, no request, no fiber and no
upstream connection in use, and no more memory of any use than before the first round.

The hard thing is what the counters count: every thread's calls, those of the disarming request
included. So these are measured first, and taken off from the number that is told.

With TORTURE=full each number is tried; else each up to 200, then every fifth, and beyond 1,000,
where nearly all are OpenSSL's, each that is larger by a fortieth.
"""
import json
import os
import time

from raw_http import HANG_GUARD_S, ConnectionEnded, RawClient, request_bytes
from sluice import REPORTS

ALLOCATIONS, SYSTEM_CALLS = "fail-alloc", "fail-syscall"
IS_FULL = os.environ.get("TORTURE") == "full"


def numbers():
    """1, 2, 3 …"""
    n = 0
    while True:
        n += 1 if IS_FULL or n < 200 else 5 if n < 1000 else n // 40
        yield n


# Fibers that work as long as the process does (src/govern/govern.c).
SERVICES = {"govern", "identity", "jwt", "budget leases", "budget alerts",
            "ledger", "fold", "keeper"}


class Admin:
    """The admin API of a server under torture."""

    def __init__(self, server):
        self.server = server

    def ask(self, method, target):
        """One request on a connection of its own; its answer, or None if it got none."""
        with RawClient(self.server.admin_port) as client:
            client.send(request_bytes(method, target, headers=[
                ("Connection", "close"), ("Accept", "application/json")]))
            try:
                answer = client.read_response()
            except ConnectionEnded:
                return None
        return answer if answer.status == 200 else None

    def view(self, name):
        answer = self.ask("GET", f"/admin/{name}")
        assert answer, f"/admin/{name} does not answer:\n" + self.server.tail()
        return answer.json

    def arm(self, switch, n):
        """Let the n-th call fail. Returns how many were made since the last time, or None if the
        fault struck this very request."""
        first = self.ask("POST", f"/admin/debug/{switch}?n={n}")
        if first:
            return first.json["count"]
        assert self.ask("POST", f"/admin/debug/{switch}?n={n}"), self.server.tail()
        return None

    def in_use(self):
        """What ordinary work takes and must give back."""
        fibers = [row for row in self.view("fibers")["fibers"] if row["name"] not in SERVICES]
        upstreams = self.view("upstreams")["connections"]
        return {"requests": len(self.view("requests")["requests"]) - 1,
                "fibers": len(fibers) - 1,
                "busy upstream connections": sum(row["busy"] for row in upstreams)}

    def memory(self):
        return {row["use"]: row["bytes"] for row in self.view("memory")["uses"]}


class Torture:
    """One scenario's torture of one server."""

    # Bytes by which a use may differ from what it was: caches that fill and empty (a worker's idle
    # upstream connections, ended fibers' records), the accept queue's timing, and the record of failed
    # requests, which is made for the first of them.
    SLACK = {"fiber": 8 * 1024 * 1024, "library": 1024 * 1024, "process": 128 * 1024,
             "log": 1024 * 1024, "conf": 0, "request": 0, "body": 0, "connection": 0,
             "upstream": 64 * 1024, "tool": 0,
             # 300 KiB a thread, made when it counts for the first time: that may be after the warm-up
             "tokens": 2 * 300 * 1024,
             # accounts, keys and rows that wait; pages and statements of the database
             "govern": 1024 * 1024, "store": 4 * 1024 * 1024}

    def __init__(self, server, switch):
        self.server, self.switch = server, switch
        self.admin = Admin(server)
        self.seen_lines = 0

    def run(self, scenario, afterwards):
        for _ in range(3):                 # fill what is filled once: pools, rings, tables
            scenario()
            afterwards()
        self.wait_settled()
        before = self.admin.memory()
        own = self.own_calls()
        for n in numbers():
            self.admin.arm(self.switch, n)
            try:
                scenario()
                count = self.admin.arm(self.switch, 0)
                self.check_alive()
                afterwards()
                self.wait_settled()
                self.check_memory(before)
            except BaseException as error:
                raise AssertionError(
                    f"when call {n} fails: {error}\n{self.server.tail()}") from error
            if count is not None and count < n:
                return count - own

    def own_calls(self):
        """How many calls disarming takes until it disarms."""
        self.admin.arm(self.switch, 1_000_000)
        return self.admin.arm(self.switch, 0)

    def check_alive(self):
        assert self.server.is_running(), "the process has ended"
        fresh = self.server.stderr[self.seen_lines:]
        self.seen_lines += len(fresh)
        assert not any(REPORTS.search(line) for line in fresh), "\n".join(fresh)

    def wait_settled(self):
        end = time.monotonic() + HANG_GUARD_S
        while any((left := self.admin.in_use()).values()):
            assert time.monotonic() < end, f"left behind: {left}"
            time.sleep(0.002)

    def check_memory(self, before):
        """A connection's record may live a moment longer than its last byte: look again."""
        end = time.monotonic() + HANG_GUARD_S
        while grown := {use: now - before[use] for use, now in self.admin.memory().items()
                        if now > before[use] + self.SLACK[use]}:
            assert time.monotonic() < end, f"more memory than before the first round: {grown}"
            time.sleep(0.002)


# ---- honest outcomes ----

class Caller:
    """Asks on one connection as long as the server keeps it, then on the next one."""

    def __init__(self, connect, client=None):
        self.connect, self.client = connect, client

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.client:
            self.client.close()

    def ask(self, *requests):
        """Send the requests at once and return what came for each: an answer with `.is_complete`,
        or None when the server closed without one. A byte too many fails the test."""
        try:
            self.client = self.client or self.connect()
        except OSError:                    # a TLS handshake failed
            return [None] * len(requests)
        self.client.send(b"".join(requests))
        answers = []
        while len(answers) < len(requests):
            answers.append(self._read() if self.client else None)
        if self.client:
            assert not self.client.inbox, f"more than was asked for: {self.client.inbox!r}"
        return answers

    def _read(self):
        answer, is_complete = None, False
        try:
            answer = self.client.read_head()
            while answer.status < 200:
                answer = self.client.read_head()
            self.client.read_body(answer)
            is_complete = True
        except ConnectionEnded:
            pass
        if answer:
            answer.is_complete = is_complete
        if not is_complete or (answer.header("connection") or "").lower() == "close":
            if is_complete:
                self.client.expect_closed()
            self.client.close()
            self.client = None
        return answer


def check_refusal(answer, own=()):
    """An error that says what it is: OpenAI's object, or the plain line sent without memory. `own`
    are the statuses that the scenario has by itself."""
    assert answer.status in {500, 503, *own}, answer
    if not answer.is_complete:
        return
    if answer.header("content-type").startswith("text/plain"):
        assert answer.status == 503 and answer.body, answer
    else:
        assert answer.json["error"]["message"], answer


def check_whole(answer, body, own=()):
    """Nothing, a refusal, the body, or a part of it that can be told from the whole."""
    if answer is None:
        return
    if answer.status != 200:
        check_refusal(answer, own)
    elif answer.is_complete:
        assert answer.body == body, answer
    else:
        assert body.startswith(answer.body), answer


def check_stream(answer, text, own=()):
    """Nothing, a refusal, the stream of `text`, or the start of one that does not look complete."""
    if answer is None:
        return
    if answer.status != 200:
        check_refusal(answer, own)
        return
    events = answer.body.split(b"\n\n")
    said, has_error, is_done = read_events(events[:-1])
    if is_done:
        assert said == text and not has_error and events[-1] == b"", answer.body
        return
    assert text.startswith(said), answer.body
    assert has_error or not answer.is_complete, answer.body


def read_events(events):
    """(text, whether an error came, whether the end marker came) of a stream's events."""
    said, has_error, is_done = "", False, False
    for event in events:
        if event.startswith(b":"):
            continue
        assert event.startswith(b"data: ") and not is_done and not has_error, events
        if event == b"data: [DONE]":
            is_done = True
            continue
        data = json.loads(event[6:])
        has_error = "error" in data
        for choice in data.get("choices", []):
            said += choice["delta"].get("content") or ""
    return said, has_error, is_done
