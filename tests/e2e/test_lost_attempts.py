# SPDX-License-Identifier: Apache-2.0
"""Attempts that fail although their provider was at work: it will charge for them, so they are booked, each at its
target's price. The caller is told the usage of the answer that he got.

Each word is one token, with a model's own encoding as without. Prices are whole milli-units: one for each token at the
first provider, a hundred at the second.
"""
import contextlib

import pytest
from caller import CHAT, Stream, ask, outcome
from fake_anthropic import message_start
from fake_answer import Tokens
from fake_provider import (CLOSE, DONE, HANG, RESET, FakeProvider, chat, chat_events, delta, error, event, raw,
                           response_head, sse, whole)
from raw_http import RawClient, request_bytes
from test_governance import ledger

PRICES = ("currency: USD\nmodels:\n  first/m: {input: 1000, output: 1000}\n"
          "  second/m: {input: 100000, output: 100000}\n")
ROLE, *WORDS = chat_events(" the", " and", " you", " for", " not", " are", " but", " all", " can", " was", done=False,
                           finish=None)
QUESTION, TOLD = 8, 11                      # tokens as counted here, and as the fakes tell
BODY = response_head(headers=[("Content-Length", "5000")]) + b'{"id": "c", "object": "chat.completion", "choices": ['
OVERLOADED = event({"error": {"message": "Overloaded", "type": "server_error", "param": None, "code": None}})
USAGE_ALONE = event(delta() | {"choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": 5,
                                                        "total_tokens": 35}})

# What the first provider does → least and most tokens that are booked for it.
CHARGED = {
    "takes-the-question-and-says-nothing": ("stream", raw(HANG), QUESTION, QUESTION),
    "sends-a-head-and-nothing": ("stream", sse(HANG), QUESTION, QUESTION),
    "begins-and-stalls": ("stream", sse(ROLE, HANG), QUESTION, QUESTION),
    "begins-and-is-cut": ("stream", sse(ROLE, CLOSE), QUESTION, QUESTION),
    "begins-and-is-reset": ("stream", sse(ROLE, 0.05, RESET), QUESTION, QUESTION),
    "begins-and-fails": ("stream", sse(ROLE, OVERLOADED), QUESTION, QUESTION),
    "begins-and-says-nonsense": ("stream", sse(ROLE, event(b"{")), QUESTION, QUESTION),
    "tells-what-it-used-and-is-cut": ("stream", sse(ROLE, USAGE_ALONE, CLOSE), 35, 35),
    "is-cut-in-a-whole-answer": ("whole", raw(BODY, b'" the and you', CLOSE), QUESTION + 3, 50),
    "is-cut-later-in-a-whole-answer": ("whole", raw(BODY, b'"', 0.1, b" the" * 100, CLOSE), QUESTION + 100, 150),
}
FREE = {
    "refuses": ("stream", error(500)), "limits": ("whole", error(429)), "closes": ("stream", raw(RESET)),
    "sends-no-event": ("stream", sse(CLOSE, end=False)), "fails-at-once": ("stream", sse(OVERLOADED)),
    "sends-a-page": ("whole", whole(b"<p>Sign in", content_type="text/html")),
    "answers-with-nothing": ("whole", whole(b"")),
}


@pytest.fixture
def fakes():
    with FakeProvider() as first, FakeProvider() as second:
        first.default = second.default = chat("ok", prompt_tokens=TOLD)
        yield first, second


@pytest.fixture
def serve(sluice, fakes, tmp_path):
    def start(more="", settings="timeouts: {first_token: 300ms}", kind="openai", targets="[first/m, second/m]",
              tokens=100000):
        (tmp_path / "prices.yaml").write_text(PRICES)
        urls = [fakes[0].url if kind == "openai" else fakes[0].url.removesuffix("/v1"), fakes[1].url]
        return sluice(f"""prices: {tmp_path}/prices.yaml
budgets: {{per_project: {{tokens: {tokens}/total, money: 1000/total}}}}
providers:
  first: {{kind: {kind}, url: "{urls[0]}", key: sk-first-key}}
  second: {{kind: openai, url: "{urls[1]}", key: sk-second-key}}
models:
  m: {{targets: {targets}, {settings}}}
{more}""")
    return start


def body_of(mode):
    return CHAT | {"max_tokens": 50, "stream": mode == "stream", "messages": [{"role": "user", "content": " the and"}]}


def budgets(server):
    """What is spent, by unit; it must be what the ledger says."""
    with RawClient(server.admin_port) as client:
        client.send(request_bytes("GET", "/admin/budgets?check=1"))
        found = client.read_response().json["data"]
    assert [row["drift"] for row in found] == [0, 0], found
    return {row["unit"]: row["spent"] for row in found}


def check(server, answered, least, most):
    """One row: `answered` tokens by the second provider, and so many by the first; each at its price. What nobody told
    is estimated."""
    [row] = ledger(server, 1)
    lost = row["input"] + row["output"] - answered
    assert least <= lost <= most and row["estimated"] is (lost not in (0, 35)), row
    assert row["cost"] == pytest.approx(lost * 0.001 + answered * 0.1)
    assert budgets(server) == {"tokens": lost + answered, "money": pytest.approx(row["cost"])}
    return row


@pytest.mark.parametrize("name", CHARGED)
def test_an_attempt_that_was_under_way_is_booked(name, serve, fakes):
    mode, script, least, most = CHARGED[name]
    fakes[0].script(script)
    server = serve()
    answer = ask(server, body_of(mode) | ({"stream_options": {"include_usage": True}} if mode == "stream" else {}),
                 id="a1")
    assert answer.status == 200 and b'"prompt_tokens": 11,' in answer.body
    row = check(server, TOLD + 1, least, most)
    line = outcome(server, "a1")
    assert (line["input_tokens"], line["output_tokens"]) == (TOLD, 1)
    assert line["lost_input_tokens"] + line["lost_output_tokens"] == row["input"] + row["output"] - TOLD - 1
    assert float(line["cost"]) == row["cost"]
    assert mode == "stream" or answer.header("x-sluice-cost") == f"{row['cost']:g} USD"


@pytest.mark.parametrize("name", FREE)
def test_an_attempt_that_was_refused_is_free(name, serve, fakes):
    mode, script = FREE[name]
    fakes[0].script(script)
    server = serve()
    assert ask(server, body_of(mode), id="a1").status == 200
    check(server, TOLD + 1, 0, 0)
    assert "lost_input_tokens" not in outcome(server, "a1")


def test_what_a_provider_told_first_is_believed(serve, fakes):
    """Anthropic's streams begin with the tokens of the question."""
    fakes[0].script(sse(message_start("m", Tokens(70, 1)), HANG))
    server = serve(kind="anthropic")
    assert ask(server, body_of("stream")).status == 200
    check(server, TOLD + 1, 71, 71)


@pytest.mark.parametrize("mode", ["stream", "whole"])
def test_all_that_was_tried_in_vain_is_booked(mode, serve, fakes):
    """Nobody answers: each provider had the question."""
    for fake in fakes:
        fake.default = sse(ROLE, HANG) if mode == "stream" else raw(BODY, CLOSE)
    server = serve()
    assert ask(server, body_of(mode)).status in (502, 504)
    [row] = ledger(server, 1)
    each = (row["input"] + row["output"]) / 2
    assert row["input"] == 2 * QUESTION and row["estimated"] and row["outcome"] in ("timed_out", "upstream_failed")
    assert row["cost"] == pytest.approx(each * 0.001 + each * 0.1)
    assert budgets(server)["tokens"] == 2 * each


def test_a_whole_answer_that_takes_too_long_costs_its_question(serve, fakes):
    fakes[0].script(raw(HANG))
    server = serve(settings="timeouts: {total: 400ms}")
    assert ask(server, body_of("whole")).status == 504
    [row] = ledger(server, 1)
    assert (row["input"], row["output"], row["outcome"]) == (QUESTION, 0, "timed_out")
    assert row["cost"] == pytest.approx(QUESTION * 0.001)


def test_what_one_began_to_answer_is_not_charged_to_the_next(serve, fakes):
    fakes[0].script(raw(BODY, b'" the and you', CLOSE))
    fakes[1].script(raw(HANG))
    server = serve(settings="timeouts: {total: 400ms}")
    assert ask(server, body_of("whole")).status == 504
    [row] = ledger(server, 1)
    assert (row["input"], row["outcome"], row["attempts"]) == (2 * QUESTION, "timed_out", 2)
    assert row["cost"] == pytest.approx((QUESTION + row["output"]) * 0.001 + QUESTION * 0.1)
    budgets(server)


def test_the_same_target_twice_is_charged_twice(serve, fakes):
    fakes[0].script(sse(ROLE, CLOSE))
    server = serve("retry: {attempts: 2}\n", targets="[first/m]")
    assert ask(server, body_of("stream")).status == 200
    [row] = ledger(server, 1)
    assert (row["input"], row["output"], row["attempts"]) == (QUESTION + TOLD, 1, 2)


def test_every_stream_of_a_crowd_is_charged_for_its_question(serve, fakes):
    """More at once than keep what was asked: it is counted while they are open."""
    fakes[0].default = sse(ROLE, *WORDS, HANG)
    server = serve("workers: 1\n", targets="[first/m]")
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(Stream(server, body_of("stream"))) for _ in range(80)]
        for stream in streams:
            stream.read_until(b'" was"')
    rows = ledger(server, len(streams))
    assert {(row["input"], row["output"], row["outcome"]) for row in rows} == {(QUESTION, 10, "client_cancelled")}
    assert budgets(server)["tokens"] == len(streams) * (QUESTION + 10)


def test_who_leaves_while_another_goes_on_pays_both(serve, fakes):
    """The first broke off after ten words; the second has the question and the words."""
    fakes[0].script(sse(ROLE, *WORDS, CLOSE))
    fakes[1].script(sse(ROLE, HANG))
    server = serve(settings="continue: on")
    with Stream(server, body_of("stream")) as stream:
        stream.read_until(b'" was"')
        fakes[1].wait_request()
    [row] = ledger(server, 1)
    assert row["outcome"] == "client_cancelled" and row["output"] >= 10
    assert row["input"] >= 2 * QUESTION + 5, row
    assert row["cost"] == pytest.approx((QUESTION + 10) * 0.001 + (row["input"] - QUESTION) * 0.1), row


def tight_reservation(serve, body):
    """What is reserved for one attempt where a budget is so tight that the question is counted."""
    reserved = 100000
    for id in ("r1", "r2"):
        server = serve(tokens=reserved - 1)
        assert ask(server, body, id=id).status == 200
        reserved = outcome(server, id)["reserved_tokens"]
    return reserved


@pytest.mark.parametrize("short", [0, 1])
def test_whoever_is_asked_next_has_as_much_reserved_as_the_first(short, serve, fakes):
    """What the first used is reserved again. Where a budget does not suffice for that nobody else is asked, for he might
    say all that he may."""
    body = body_of("stream")
    cap = tight_reservation(serve, body) + QUESTION - short
    fakes[1].requests.clear()
    fakes[0].script(sse(ROLE, HANG))
    server = serve(tokens=cap)
    answer = ask(server, body, id="a1")
    [row] = ledger(server, 1)
    assert budgets(server)["tokens"] == row["input"] + row["output"] <= cap
    if not short:
        assert answer.status == 200 and len(fakes[1].requests) == 1
        assert outcome(server, "a1")["reserved_tokens"] == cap
        return
    assert answer.status == 429 and answer.json["error"]["code"] == "budget_exceeded"
    assert fakes[1].requests == [] and (row["input"], row["output"]) == (QUESTION, 0)
    assert answer.header("x-sluice-attempts").startswith("first/m;timeout;")
    assert ask(server, body).status == 429          # what is left is too little for one attempt, too


def test_a_stream_is_not_gone_on_with_on_credit(serve, fakes):
    """The second would have the question and the words: there is nothing left for him."""
    body = body_of("stream")
    cap = tight_reservation(serve, body)
    fakes[1].requests.clear()
    fakes[0].script(sse(ROLE, *WORDS, CLOSE))
    server = serve(settings="continue: on", tokens=cap)
    answer = ask(server, body)
    assert answer.status == 200 and b'" was"' in answer.body and b'"error"' in answer.body
    assert fakes[1].requests == []
    [row] = ledger(server, 1)
    assert (row["output"], row["outcome"]) == (10, "upstream_failed")
    assert budgets(server)["tokens"] == row["input"] + row["output"] <= cap


def test_words_that_nobody_read_were_said_all_the_same(serve, fakes):
    """The caller leaves while the head of his answer is held back with its first words behind it."""
    fakes[0].script(sse(ROLE, WORDS[0] + WORDS[1] + WORDS[2], HANG))
    server = serve()
    with Stream(server, body_of("stream")) as stream:
        stream.read_until(b'" the"')
    [row] = ledger(server, 1)
    assert (row["input"], row["output"], row["outcome"]) == (QUESTION, 3, "client_cancelled")


def test_without_a_failure_nothing_is_estimated(serve):
    server = serve()
    assert DONE in ask(server, body_of("stream")).body
    [row] = ledger(server, 1)
    assert (row["input"], row["output"], row["estimated"]) == (TOLD, 1, False)


def test_what_a_failed_attempt_cost_is_unknown_and_so_is_all(sluice, fakes, tmp_path):
    """Not nothing: one of them has no price."""
    fakes[0].script(raw(BODY, b'" the and you', CLOSE))
    (tmp_path / "prices.yaml").write_text("currency: USD\nmodels: {second/m: {input: 100000, output: 100000}}\n")
    server = sluice(f"""prices: {tmp_path}/prices.yaml
providers:
  first: {{kind: openai, url: "{fakes[0].url}", key: sk-first-key}}
  second: {{kind: openai, url: "{fakes[1].url}", key: sk-second-key}}
models: {{m: {{targets: [first/m, second/m]}}}}
""")
    answer = ask(server, body_of("whole"), id="a1")
    [row] = ledger(server, 1)
    assert (answer.status, answer.header("x-sluice-cost"), row["cost"]) == (200, None, None)
    assert "cost" not in outcome(server, "a1")
