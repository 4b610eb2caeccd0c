# SPDX-License-Identifier: Apache-2.0
"""A provider with a meter of its own, to hold ledgers against.

    meter = Meter()
    provider.default = meter
    ... ask with `question(id, words)`; leave some streams in the middle ...
    meter.bills["stream-7"].tokens           # what the provider would charge for that request

It answers in words that are one token each and takes PAUSE_S for every one of them, as a model does. What it charges
are the question's tokens and the words that it has written, whether anybody read them or not. Of a stream whose reader
leaves it can know no better than the socket tells: a word may be on its way at that moment. The pauses keep that
difference small, because the connection's end is noticed within them: at most one word or two are written that nobody
read. Who counts what he read is therefore never above the meter, and hardly below it.
"""
import threading
from dataclasses import dataclass

from fake_provider import DONE, chunk, delta, event, response_head, usage_chunk

# Each is one token, with a model's own encoding (o200k, cl100k) as by the rule of four bytes a token.
WORDS = [f" {word}" for word in "the and for are but not you all any can had her was one our out day get has him".split()]
ASKED, QUESTION = " the and", 8
PAUSE_S = 0.005


def question(id, words):
    """The body of a streamed request for so many words."""
    return {"model": "m", "stream": True, "max_tokens": words, "user": id,
            "messages": [{"role": "user", "content": ASKED}]}


@dataclass
class Bill:
    """Of one request. `is_told`: the provider has told its usage, and all the words were written."""
    words: int = 0
    is_told: bool = False

    @property
    def tokens(self):
        return QUESTION + self.words


class Meter:
    def __init__(self):
        self.bills, self.lock = {}, threading.Lock()

    def __call__(self, exchange):
        asked = exchange.json
        bill = Bill()
        with self.lock:
            assert asked["user"] not in self.bills, "one request came twice"
            self.bills[asked["user"]] = bill
        exchange.send(response_head(200, "text/event-stream", [("Transfer-Encoding", "chunked")])
                      + chunk(event(delta(role="assistant", content=""))))
        for number in range(asked["max_tokens"]):
            exchange.send(chunk(event(delta(content=WORDS[number % len(WORDS)]))))
            bill.words += 1
            exchange.pause(PAUSE_S)
        bill.is_told = True
        usage = event(usage_chunk(QUESTION, bill.words))
        exchange.send(chunk(event(delta(finish="stop"))) + chunk(usage) + chunk(DONE) + b"0\r\n\r\n")

    def tokens(self, ids=None):
        """What is charged for these requests, or for all."""
        return sum(bill.tokens for id, bill in self.bills.items() if ids is None or id in ids)


def compare(meter, rows, lost_with_processes):
    """Hold the ledger against the meter. `rows` are (request id, outcome, tokens) of all calls and lost leases, and
    `lost_with_processes` what the leases of killed processes came to. Returns what there is to report."""
    calls = {id: (outcome, tokens) for id, outcome, tokens in rows if outcome != "killed"}
    killed = sum(tokens for _, outcome, tokens in rows if outcome == "killed")
    assert len(calls) == sum(outcome != "killed" for _, outcome, _ in rows), "a call has two rows"
    assert {outcome for outcome, _ in calls.values()} <= {"completed", "client_cancelled"}, calls
    for id, (outcome, tokens) in calls.items():
        bill = meter.bills[id]
        assert tokens == bill.tokens if outcome == "completed" else QUESTION <= tokens <= bill.tokens, (id, bill)
        assert bill.is_told or outcome != "completed"
    aborted = {id for id, (outcome, _) in calls.items() if outcome == "client_cancelled"}
    booked, charged = sum(calls[id][1] for id in aborted), meter.tokens(aborted)
    assert charged * 0.98 <= booked <= charged, f"aborted: {booked} of {charged}"
    without_row = meter.tokens(meter.bills.keys() - calls.keys())
    assert without_row <= killed <= lost_with_processes, (without_row, killed, lost_with_processes)
    total = killed + sum(tokens for _, tokens in calls.values())
    assert meter.tokens() - (charged - booked) <= total <= meter.tokens() + lost_with_processes
    if killed:
        assert meter.tokens() <= total
    return (f"{len(calls) - len(aborted)} completed exactly; {len(aborted)} aborted: {booked} booked of {charged} charged "
            f"({100 * (booked - charged) / max(charged, 1):+.2f} %); {len(meter.bills) - len(calls)} without a row: "
            f"{without_row} of {killed} booked as killed, of {lost_with_processes} leased; in all {total} booked, "
            f"{meter.tokens()} charged")
