# SPDX-License-Identifier: Apache-2.0
"""Failures seen in other gateways, public ones each, that Sluice must not repeat: one test for each.

 1  usage beside the last choice              test_usage_beside_the_last_choice
                                              (LiteLLM #36168)
 2  usage that nobody asked for               test_usage_that_nobody_asked_for
                                              (LiteLLM PR #35290)
 3  cached tokens counted twice               test_cached_tokens_are_counted_once
                                              (Bifrost #5354, agentgateway #2727)
 4  usage told in two events                  test_usage_told_in_two_events
                                              (Envoy AI Gateway #2352, APISIX #13662)
 5  caller leaves in mid-stream               test_caller_leaves_in_mid_stream
                                              (LiteLLM #17364, new-api #4168)
 6  no usage at all                           test_no_usage_at_all_is_estimated
                                              (new-api #5235)
 7  a cut that looks like success             test_a_cut_is_no_success
                                              (Portkey #1797, cc-switch #7425)
 8  error event before content                test_error_event_before_content_is_a_failure
                                              (Envoy AI Gateway PR #2697)
 9  a stall after 200                         test_a_stall_after_200
                                              (LiteLLM #40404, mnfst #1656)
10  two answers joined                        test_answers_are_never_joined
                                              (caracal #344, LiteLLM PR #32835)
11  event streams read by lines               test_event_streams_in_every_form
                                              (Envoy AI Gateway #2470, #2149, #2155)
12  wrong blocks                              test_blocks_begin_once_and_hold_their_own
                                              (Bifrost #4556, LiteLLM #32357)
13  arguments of calls in fragments           test_arguments_in_fragments_or_none
                                              (LiteLLM #25321, agentgateway #3002)
14  tools dropped in silence                  test_no_tool_is_dropped_in_silence
                                              (LiteLLM #29286, Envoy AI Gateway #2467)
18  one limit's refusal counts for others     test_limits.py::test_a_refusal_takes_nothing_of_other_limits
                                              (LiteLLM #39309)
19  a limit for each worker                   test_limits_shared.py::test_limits_hold_over_workers_and_replicas
                                              (LiteLLM #16011, Bifrost #3547)
15  a budget overrun by many at once          test_budgets.py::test_n144_known_15_a_thousand_at_the_last_unit
                                              (LiteLLM #26672, #34732)
16  a reservation that is never given back    test_budgets.py::test_known_16_a_caller_who_leaves_gives_back
                                              (LiteLLM #27639)
17  spend changed by a restart                test_budgets.py::test_n145_known_17_a_restart_changes_no_spend
                                              (LiteLLM #28247)
18  one limit that eats of another            test_budgets.py::test_known_18_one_limit_does_not_eat_of_another
                                              (LiteLLM #39309)
19  limits of each worker for itself          test_budgets.py::test_known_19_limits_hold_over_workers
                                              (LiteLLM #16011, Bifrost #3547)
21  lengths and codings kept from before      test_lengths_and_codings_are_made_anew
                                              (Envoy AI Gateway #2554, #2392)
25  callers' texts as labels of metrics       test_limits.py::test_no_text_of_a_caller_becomes_a_label
                                              (LiteLLM #27272, #39136)

The others were measured on three popular gateways in November 2026:

26  an invented finish reason                 test_no_finish_reason_is_invented
27  HTML as an empty success                  test_html_is_no_answer
28  a provider read to its end for nobody     test_caller_leaves_in_mid_stream
29  an outage made worse                      test_watermarks.py::test_a_total_outage_is_not_made_worse
30  translation reads lines                   test_event_streams_in_every_form
31  cached tokens left out of the prompt      test_cached_tokens_are_counted_once
32  answers of one dialect written anew       test_answers_of_the_same_dialect_keep_their_bytes
33  a mistake tried everywhere                test_the_callers_mistake_is_tried_once
34  a redirect followed                       test_a_redirect_takes_no_prompt_elsewhere
35  a provider's key shown                    test_our_key_is_shown_to_nobody
36  a missing key is a server error           test_a_missing_key_is_the_callers_error
37  broken by a dependency's new release      test_the_program_serves_streams_alone
38  the first byte waits for Nagle            test_the_first_byte_is_not_held_back
"""
import gzip
import json
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import fake_anthropic
import fake_openai
import pytest
from caller_kinds import PATHS, ask, body_of, read, request_of
from fake_answer import Answer, Tokens, Tool
from fake_models import HTML, FakeModels
from fake_provider import FakeProvider, cut, event, sse, whole
from raw_http import RawClient
from sluice import ROOT, find_binary

FACES = {"openai": fake_openai, "anthropic": fake_anthropic}
EACH_CALLER = pytest.mark.parametrize("caller", ["chat", "messages"])
EACH_KIND = pytest.mark.parametrize("kind", ["openai", "anthropic"])
EACH_MODE = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
TEXT = Answer(["one ", "two ", "three"], usage=Tokens(9, 3))
TOOL = {"chat": {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}},
        "messages": {"name": "add", "input_schema": {"type": "object"}}}


@pytest.fixture
def fake():
    with FakeModels("first") as found:
        yield found


@pytest.fixture
def serve(sluice, fake):
    """serve(kind, settings) → a server whose model `m` is that kind of provider, played by `fake`."""
    def start(kind, settings="", more=""):
        return sluice(f'{more}providers: {{first: {{kind: {kind}, url: "{fake.base(kind)}", '
                      f'key: sk-first-key}}}}\nmodels: {{m: {{targets: [first/m]{settings}}}}}\n')
    return start


def answer_with(fake, script):
    """Play this script, whatever is asked."""
    fake.default = script


def record_of(server, id):
    line = server.wait_log("request", id=id)
    return line["input_tokens"], line["output_tokens"], line["usage_source"]


# ---- usage ----

@EACH_CALLER
def test_usage_beside_the_last_choice(serve, fake, caller):
    """The provider puts its counts into the chunk with the finish reason, and sends no other."""
    server = serve("openai")
    parts = fake_openai.parts(replace(TEXT, usage=None), "m")
    last = json.loads(parts.closing[0][6:]) | {"usage": fake_openai.usage_object(TEXT.usage)}
    answer_with(fake, sse(*parts.opening, *parts.body, event(last), *parts.marker))
    reply = ask(server, caller, body_of(caller, "m", "how is p1", True), id="u")
    assert (reply.text, reply.usage) == (TEXT.text, TEXT.usage)
    assert record_of(server, "u") == (9, 3, "provider")


@EACH_KIND
def test_usage_that_nobody_asked_for(serve, fake, kind):
    """We ask for it, to count; the caller who did not ask sees no chunk of it."""
    server = serve(kind)
    fake.answer = TEXT
    body = body_of("chat", "m", "how is p1", True)
    del body["stream_options"]
    reply = ask(server, "chat", body, id="u")
    assert (reply.text, reply.usage) == (TEXT.text, None) and b'"choices":[]' not in reply.answer.body
    assert record_of(server, "u") == (9, 3, "provider")


@EACH_MODE
@EACH_KIND
@EACH_CALLER
def test_cached_tokens_are_counted_once(serve, fake, kind, caller, stream):
    """In OpenAI's prompt_tokens they are included, in Anthropic's input_tokens they are not."""
    tokens = Tokens(100, 7, cached=60, written=30 if kind == "anthropic" else 0)
    fake.answer = replace(TEXT, usage=tokens)
    server = serve(kind)
    reply = ask(server, caller, body_of(caller, "m", "how is p1", stream), id="u")
    assert reply.usage == tokens
    assert record_of(server, "u") == (100, 7, "provider")


@EACH_CALLER
def test_usage_told_in_two_events(serve, fake, caller):
    """Input in message_start, output in several message_deltas that count from the beginning; a member
    that is missing from the later ones keeps its value."""
    server = serve("anthropic")
    parts = fake_anthropic.parts(replace(TEXT, usage=Tokens(40, 3, cached=10)), "m")
    early = fake_anthropic.named("message_delta", usage={"output_tokens": 2},
                                 delta={"stop_reason": "end_turn", "stop_sequence": None})
    answer_with(fake, sse(*parts.opening, *parts.body, parts.closing[0], early, parts.closing[1],
                          *parts.marker))
    reply = ask(server, caller, body_of(caller, "m", "how is p1", True), id="u")
    assert reply.usage == Tokens(40, 3, cached=10)
    assert record_of(server, "u") == (40, 3, "provider")


@EACH_KIND
@EACH_CALLER
def test_caller_leaves_in_mid_stream(serve, fake, kind, caller):
    """The provider's connection is closed, and what was said so far is counted: no more, no less."""
    server = serve(kind)
    counts = []
    for words in (2, 40):
        fake.plan("m", f"stall:{words}")
        with RawClient(server.port) as client:
            client.send(request_of(caller, body_of(caller, "m", "how is p1", True), id=f"left{words}"))
            client.read_until(f"first.p1.{words - 1} ".encode())
            client.reset()
        fake.wait_asked("m").wait_peer_closed()
        line = server.wait_log("request", id=f"left{words}")
        assert (line["outcome"], line["usage_source"]) == ("client_cancelled", "estimated")
        counts.append(line["output_tokens"])
    assert 2 <= counts[0] < counts[1] <= 40 * len("first.p1.40 "), counts


@EACH_MODE
@EACH_KIND
@EACH_CALLER
def test_no_usage_at_all_is_estimated(serve, fake, kind, caller, stream):
    """Neither nothing nor the whole reservation: words are counted here, and marked as such."""
    text = "The quick brown fox jumps over the lazy dog. " * 4
    fake.answer = Answer([word + " " for word in text.split()], usage=None)
    server = serve(kind)
    reply = ask(server, caller, body_of(caller, "m", f"{text} p1", stream), id="u")
    assert reply.text.split() == text.split()
    input, output, source = record_of(server, "u")
    assert source == "estimated" and 30 <= input <= 80 and 30 <= output <= 60, (input, output)


# ---- cuts ----

@EACH_KIND
@EACH_CALLER
def test_a_cut_is_no_success(serve, fake, kind, caller):
    """Closed within the body after some words: an error ends the stream, and the log says failed."""
    server = serve(kind)
    fake.plan("m", "cut:40")
    reply = ask(server, caller, body_of(caller, "m", "how is p1", True), id="cut")
    assert reply.error and reply.finish is None and len(reply.text.split()) == 40
    assert server.wait_log("request", id="cut")["outcome"] == "upstream_failed"


@EACH_KIND
@EACH_CALLER
def test_no_finish_reason_is_invented(serve, fake, kind, caller):
    """A body that ends politely in the middle is cut all the same."""
    server = serve(kind)
    fake.plan("m", "end:40")
    reply = ask(server, caller, body_of(caller, "m", "how is p1", True))
    assert reply.error and reply.finish is None and len(reply.text.split()) == 40
    assert b"[DONE]" not in reply.answer.body and b"message_stop" not in reply.answer.body
    assert not re.search(rb'"(finish|stop)_reason":\s*"', reply.answer.body)


@EACH_MODE
@EACH_KIND
@EACH_CALLER
def test_html_is_no_answer(serve, fake, kind, caller, stream):
    """A page of a captive portal with status 200 is an HTTP error, and shows nothing of the page."""
    server = serve(kind)
    fake.plan("m", "html")
    reply = ask(server, caller, body_of(caller, "m", "how is p1", stream))
    assert reply.status == {"chat": 502, "messages": 500}[caller]
    assert b"network" in HTML and b"network" not in reply.answer.body


@EACH_KIND
@EACH_CALLER
def test_error_event_before_content_is_a_failure(serve, fake, kind, caller):
    """For the caller an HTTP error, for the breaker a failure like any other."""
    server = serve(kind, ", breaker: {failures: 2, open: 1h, max_open: 1h}")
    fake.plan("m", "error")
    for _ in range(2):
        assert ask(server, caller, body_of(caller, "m", "how is p1", True)).status >= 500
    with RawClient(server.admin_port) as client:
        (row,) = client.request("GET", "/admin/upstreams?format=json").json["targets"]
    assert (row["state"], row["failures"]) == ("open", 2)


@EACH_KIND
@EACH_CALLER
def test_a_stall_after_200(serve, fake, kind, caller):
    """Silence before the first word is an HTTP error, after it an error event; never for ever."""
    server = serve(kind, ", timeouts: {first_token: 400ms, idle: 400ms}")
    for plan, words in (("stall-head", None), ("stall-role", None), ("stall:3", 3)):
        fake.plan("m", plan)
        reply = ask(server, caller, body_of(caller, "m", "how is p1", True))
        assert reply.error and reply.status == (504 if words is None else 200), plan
        assert len(reply.text.split()) == (words or 0)
        fake.wait_asked("m").wait_peer_closed()


@EACH_CALLER
def test_answers_are_never_joined(sluice, fake, caller):
    """Once a word was passed on, no other target is asked: the rest would be another's answer."""
    with FakeModels("second") as second:
        server = sluice(f'providers:\n  a: {{url: "{fake.base("openai")}", key: sk-a-key}}\n'
                        f'  b: {{kind: anthropic, url: "{second.base("anthropic")}", key: sk-b-key}}\n'
                        "models: {m: {targets: [a/m, b/m]}}\ntimeouts: {idle: 400ms}\n")
        for plan in ("cut:1", "end:1", "error:1", "malformed:1", "stall:1"):
            fake.plan("m", plan)
            reply = ask(server, caller, body_of(caller, "m", "how is p1", True))
            assert (reply.text, reply.finish) == ("first.p1.0 ", None) and reply.error
        assert not second.requests


# ---- event streams ----

def with_ends(end):
    return lambda events: [item.replace(b"\n", end) for item in events]


def over_lines(events):
    """Each JSON over several data lines, cut where JSON may have white space."""
    return [re.sub(rb'^data: (\{)', rb"data: \1\ndata: ", item, flags=re.MULTILINE) for item in events]


FORMS = {
    "no space after the colon": lambda events: [item.replace(b"data: ", b"data:") for item in events],
    "CRLF": with_ends(b"\r\n"),
    "CR": with_ends(b"\r"),
    "comments": lambda events: [b": hello\n" + item + b":\n\n" for item in events],
    "several data lines": over_lines,
    "byte order mark": lambda events: [b"\xef\xbb\xbf" + events[0], *events[1:]],
    "data before the name": lambda events: ["\n".join(
        [*sorted(item.decode().strip().split("\n")), "", ""]).encode() for item in events],
    "unknown fields and events": lambda events: [b"retry: 5\nfoo\n" + item + b"event: x\ndata: {}\n\n"
                                                 for item in events[:-1]] + events[-1:],
    "one segment": lambda events: [b"".join(events)],
    "single bytes": lambda events: cut(b"".join(events), 1),
    "split characters": lambda events: cut(b"".join(events), 7),
}


# OpenAI's streams have no event names: whatever has data there is a chunk.
KINDS_AND_FORMS = [(kind, form) for kind in FACES for form in FORMS
                   if (kind, form) != ("openai", "unknown fields and events")]


@pytest.mark.parametrize("kind, form", KINDS_AND_FORMS)
@EACH_CALLER
def test_event_streams_in_every_form(serve, fake, kind, caller, form):
    """All that WHATWG's standard allows is one and the same stream, also where it is translated."""
    server = serve(kind)
    answer = Answer(["Zürich, ", "東京 ", "and 🚀"], usage=Tokens(9, 3))
    events = [unescaped(item) for item in FACES[kind].parts(answer, "m").events]
    answer_with(fake, sse(*FORMS[form](events)))
    reply = ask(server, caller, body_of(caller, "m", "how is p1", True))
    assert (reply.text, reply.finish, reply.usage) == (answer.text, "stop", answer.usage)


def unescaped(item):
    """An event with its characters as UTF-8 instead of JSON's escapes."""
    name, _, data = item.rpartition(b"data: ")
    if data.startswith(b"["):
        return item
    return name + b"data: " + json.dumps(json.loads(data), ensure_ascii=False).encode() + b"\n\n"


# ---- blocks and tools ----

@EACH_KIND
@EACH_CALLER
def test_blocks_begin_once_and_hold_their_own(serve, fake, kind, caller):
    """Thinking, text and two calls: each in a block of its own, numbered without gaps, one message."""
    calls = [Tool("call_1", "add", '{"a": 1}'), Tool("call_2", "add", '{"a": 2}')]
    fake.answer = Answer(["I ", "add."], ["Hm, ", "well."], "c2lnbmVk", calls, "tool_calls", Tokens(9, 9))
    server = serve(kind)
    body = body_of(caller, "m", "how is p1", True, tools=[TOOL[caller]])
    reply = ask(server, caller, body)
    assert (reply.text, reply.thinking, reply.finish) == ("I add.", "Hm, well.", "tool_calls")
    assert [(call.name, json.loads(call.arguments)) for call in reply.tools] == [
        ("add", {"a": 1}), ("add", {"a": 2})]
    if (kind, caller) == ("anthropic", "messages"):
        assert reply.signature == "c2lnbmVk"
    if caller == "messages":
        kinds = [item["content_block"]["type"] for item in reply.events
                 if item["type"] == "content_block_start"]
        assert kinds == ["thinking", "text", "tool_use", "tool_use"]
        assert [item["type"] for item in reply.events].count("message_start") == 1


@pytest.mark.parametrize("arguments, fragments", [
    ('{"city": "Zürich \\"am\\" See", "n": 12345678901234567890}', 60), ('{"a": {"b": [1, 2]}}', 3),
    ('{"a": 1}', 1), ("{}", 1)], ids=["one by one", "three", "at once", "none"])
@EACH_MODE
@EACH_KIND
@EACH_CALLER
def test_arguments_in_fragments_or_none(serve, fake, kind, caller, stream, arguments, fragments):
    """They arrive as they were, byte for byte where they are text; a call without any has an object."""
    fake.answer = Answer([], tools=[Tool("call_1", "add", arguments, fragments)], finish="tool_calls")
    server = serve(kind)
    reply = ask(server, caller, body_of(caller, "m", "how is p1", stream, tools=[TOOL[caller]]))
    (call,) = reply.tools
    assert (call.id, call.name, reply.finish) == ("call_1", "add", "tool_calls")
    assert json.loads(call.arguments) == json.loads(arguments)


@EACH_KIND
@EACH_CALLER
def test_no_tool_is_dropped_in_silence(serve, fake, kind, caller):
    """What the provider has no word for is refused by name, or reaches it; an empty list does no harm."""
    server = serve(kind)
    fake.plan("m", "ok")
    assert ask(server, caller, body_of(caller, "m", "how is p1", tools=[])).status == 200
    foreign = {"chat": {"type": "custom", "custom": {"name": "shell"}},
               "messages": {"type": "web_search_20250305", "name": "web_search"}}[caller]
    reply = ask(server, caller, body_of(caller, "m", "how is p1", tools=[TOOL[caller], foreign]))
    sent = [exchange.json.get("tools") or [] for exchange in fake.asked("m")]
    if reply.status == 200:
        assert len(sent) == 2 and len(sent[1]) == 2, sent
    else:
        assert reply.status == 400 and len(sent) == 1
        assert foreign["type"] in reply.error["message"]
    same = {"openai": "chat", "anthropic": "messages"}[kind] == caller
    assert not same or reply.status == 200


# ---- bodies and headers ----

@EACH_KIND
@EACH_CALLER
def test_lengths_and_codings_are_made_anew(serve, fake, kind, caller):
    """A compressed request of another length, chunked: the provider gets one plain body with its own
    length; the answer's length is that of the bytes the caller gets."""
    server = serve(kind)
    fake.plan("m", "ok")
    data = gzip.compress(json.dumps(body_of(caller, "m", "how is p1")).encode())
    with RawClient(server.port) as client:
        client.send(request_of(caller, data, [("Content-Encoding", "gzip")]))
        reply = read(caller, client.read_response())
        client.expect_usable()
    assert reply.text.startswith("first.p1.0 ")
    seen = fake.asked("m")[0]
    assert seen.header("content-encoding") is None and seen.json["model"] == "m"
    framing = [name for name, _ in seen.headers if name in ("content-length", "transfer-encoding")]
    assert len(framing) == 1
    assert seen.header("content-length") in (None, str(len(seen.body)))


NESTED = b'{"deep":[null,{"x":1.0,"y":1e2}]}'
SAME = {
    "chat": b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","service_tier":"flex",'
            b'"big":9007199254740993123,"new":null,"extra":' + NESTED + b',"choices":[{"index":0,"message":'
            b'{"role":"assistant","content":"caf\\u00e9","refusal":null,"odd" : 1},"logprobs":null,'
            b'"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}',
    "messages": b'{"id":"msg_1","type":"message","role":"assistant","model":"m","service_tier":"flex",'
                b'"big":9007199254740993123,"new":null,"extra":' + NESTED + b',"content":[{"type":"text",'
                b'"text":"caf\\u00e9","citations":null,"odd" : 1}],"stop_reason":"end_turn",'
                b'"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}',
}


@pytest.mark.parametrize("kind, caller", [("openai", "chat"), ("anthropic", "messages")])
def test_answers_of_the_same_dialect_keep_their_bytes(serve, fake, kind, caller):
    """Nulls, unknown members, escapes and numbers beyond 2^53 come through as they were, whole and in
    a stream's events."""
    server = serve(kind)
    answer_with(fake, whole(SAME[caller]))
    assert ask(server, caller, body_of(caller, "m", "how is p1")).answer.body == SAME[caller]
    extra = b', "big" :9007199254740993123,"new":null,"extra":' + NESTED + b"}\n\n"
    events = [item if b"[DONE]" in item else item.removesuffix(b"}\n\n") + extra
              for item in FACES[kind].parts(TEXT, "m").events]
    answer_with(fake, sse(*events))
    body = body_of(caller, "m", "how is p1", True)
    assert ask(server, caller, body).answer.body == b"".join(events)


# ---- whose fault it is ----

@EACH_MODE
@EACH_KIND
@EACH_CALLER
def test_the_callers_mistake_is_tried_once(sluice, fake, kind, caller, stream):
    """An invalid request is invalid everywhere."""
    with FakeModels("second") as second:
        urls = zip("abc", (fake, second, second))
        lines = [f'  {name}: {{kind: {kind}, url: "{of.base(kind)}", key: sk-key}}\n' for name, of in urls]
        server = sluice(f"retry: {{attempts: 3}}\nproviders:\n{''.join(lines)}"
                        "models: {m: {targets: [a/m, b/m, c/m]}}\n")
        fake.plan("m", "400")
        reply = ask(server, caller, body_of(caller, "m", "how is p1", stream))
        assert (reply.status, reply.error["type"]) == (400, "invalid_request_error")
        assert "that value is not allowed" in reply.error["message"].lower()
        assert (len(fake.asked("m")), len(second.requests)) == (1, 0)


@EACH_KIND
def test_a_redirect_takes_no_prompt_elsewhere(serve, fake, kind):
    """The host that a provider points to never hears of it."""
    server = serve(kind)
    with FakeProvider() as elsewhere:
        for status in (301, 302, 303, 307, 308):
            target = f"http://127.0.0.1:{elsewhere.port}/v1/messages"
            answer_with(fake, whole(b"", status, [("Location", target)]))
            assert ask(server, "chat", body_of("chat", "m", "how is p1")).status == 502
        assert not elsewhere.connections


@EACH_MODE
@EACH_KIND
@EACH_CALLER
def test_our_key_is_shown_to_nobody(serve, fake, kind, caller, stream):
    """Providers repeat the key that they refuse: it reaches neither the caller nor the log."""
    server = serve(kind, more="log: {level: debug}\n")
    for status in (401, 400, 429, 500):
        body = json.dumps(FACES[kind].error_body("auth")).replace("key", "key: sk-first-key", 1).encode()
        assert b"sk-first-key" in body
        answer_with(fake, whole(body, status))
        reply = ask(server, caller, body_of(caller, "m", "how is p1", stream))
        assert reply.status >= 400 and b"first-key" not in reply.answer.raw
    server.stop()
    assert not [line for line in server.stderr if "first-key" in line]


@EACH_CALLER
@pytest.mark.parametrize("headers", [[], [("Authorization", "")], [("Authorization", "Bearer ")],
                                     [("Authorization", "Basic eDp5")], [("x-api-key", "")],
                                     [("Authorization", "Bearer wrong")], [("x-api-key", "wrong")]],
                         ids=repr)
def test_a_missing_key_is_the_callers_error(serve, caller, headers):
    """401 in the caller's dialect, so that his SDK raises what it should."""
    server = serve("openai", more="keys: {static: [{name: a, key: sk-caller-key}]}\n")
    reply = ask(server, caller, body_of(caller, "m", "how is p1"), headers)
    assert reply.status == 401
    assert reply.error["type"] in ("authentication_error", "invalid_request_error")
    assert caller == "chat" or reply.error["type"] == "authentication_error"


# ---- the program and its first byte ----

@EACH_KIND
def test_the_program_serves_streams_alone(sluice, fake, kind, tmp_path, monkeypatch):
    """The program as it is shipped, copied into an empty folder without the sources around it, and
    tested with clients of which every release is pinned."""
    program = tmp_path / "sluice"
    shutil.copy(find_binary(), program)
    monkeypatch.setenv("SLUICE_BIN", str(program))
    monkeypatch.chdir(tmp_path)
    server = sluice(f'providers: {{first: {{kind: {kind}, url: "{fake.base(kind)}", key: sk-first-key}}}}\n'
                    "models: {m: {targets: [first/m]}}\n")
    assert os.readlink(f"/proc/{server.process.pid}/exe") == str(program)
    fake.answer = TEXT
    for caller in PATHS:
        assert ask(server, caller, body_of(caller, "m", "how is p1", True)).text == TEXT.text
    lines = Path(ROOT, "tests/requirements.txt").read_text().splitlines()
    names = [line for line in lines if re.match(r"[A-Za-z]", line)]
    assert names and all(re.match(r"[\w.\-\[\],]+==[\w.]+", line) for line in names)


@EACH_KIND
@EACH_CALLER
def test_the_first_byte_is_not_held_back(serve, fake, kind, caller):
    """Nagle's algorithm and a delayed acknowledgement would hold each first event back for 40 to 200 ms.
    The best of many tells it from a busy machine."""
    server = serve(kind)
    fake.plan("m", "ok")
    best = 1.0
    with RawClient(server.port) as client:
        for _ in range(200):
            began = time.monotonic()
            client.send(request_of(caller, body_of(caller, "m", "how is p1", True)))
            answer = client.read_head()
            while b"first.p1.0 " not in answer.body:
                answer.body += client.read_chunk()
            best = min(best, time.monotonic() - began)
            client.read_body(answer)
            if best < 0.04:
                break
    assert best < 0.04, f"{best * 1000:.1f} ms at the best"
