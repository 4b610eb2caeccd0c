# SPDX-License-Identifier: Apache-2.0
"""`continue: on`: a stream of plain text that breaks off is gone on with by the next target.

Words carry who said them and their place (fake_models.py), so that what is lost or said twice is seen.
The fakes' plan `continue` takes the beginning it is given for its own and says only what follows.
"""
import json
import random
import re

import anthropic
import openai
import pytest
from caller import datas
from caller_kinds import body_of, read, read_attempts, request_of
from fake_answer import Answer, Tokens
from fake_models import FakeModels, token
from fake_provider import DONE, RESET, FakeProvider, delta, event, sse
from raw_http import RawClient, request_bytes

SAID = 40
CUT = 20
TOKENS = {"first": Tokens(11, SAID), "second": Tokens(22, SAID + 1), "third": Tokens(33, SAID + 2)}


class Relay:
    """Three fakes behind the alias `m`, asked in turn."""

    def __init__(self, start, fakes):
        self._start, self.fakes = start, fakes
        for fake in fakes.values():
            fake.said = SAID

    def start(self, plans, kinds=("openai", "openai", "openai"), settings=", continue: on", more=""):
        """`plans` are a plan per target, and how many there are."""
        names = list(self.fakes)[:len(plans)]
        text = more + "providers:\n"
        for name, kind, plan in zip(names, kinds, plans):
            fake = self.fakes[name]
            fake.plan("m", plan)
            text += f'  {name}: {{kind: {kind}, url: "{fake.base(kind)}", key: sk-{name}-key}}\n'
        targets = ", ".join(f"{name}/m" for name in names)
        self.server = self._start(f"{text}models:\n  m: {{targets: [{targets}]{settings}}}\n")
        return self

    def ask(self, caller="chat", body=None, id="a1", **more):
        """Returns (reply, access line)."""
        body = body or body_of(caller, "m", "how is p1", True, **more)
        with RawClient(self.server.port) as client:
            client.send(request_of(caller, body, id=id))
            reply = read(caller, client.read_response())
        return reply, self.server.wait_log("request", id=id)

    def asked(self, name):
        return self.fakes[name].asked("m")


@pytest.fixture
def relay(sluice):
    with FakeModels("first", TOKENS["first"]) as first, FakeModels("second", TOKENS["second"]) as second, \
            FakeModels("third", TOKENS["third"]) as third:
        yield Relay(sluice, {"first": first, "second": second, "third": third})


def said(name, begin=0, end=SAID):
    return "".join(token(name, "p1", i) for i in range(begin, end))


def results(line):
    return [(target.removesuffix("/m"), result) for target, result in read_attempts(line["attempts"])]


def marks(reply):
    """Who goes on, as the comments in the stream tell."""
    return re.findall(rb"^: continued by (\S+)/m$", reply.answer.body, re.MULTILINE)


def assert_cut(reply, end=CUT):
    """Exactly what was said, and an error."""
    assert reply.text == said("first", 0, end)
    assert reply.error and reply.finish is None
    assert not marks(reply)


@pytest.mark.parametrize("caller", ["chat", "messages"])
@pytest.mark.parametrize("second", ["openai", "anthropic", "gemini"])
@pytest.mark.parametrize("first", ["openai", "anthropic", "gemini"])
def test_cut_stream_is_continued(relay, first, second, caller):
    """One answer, one id, no word lost or said twice, whatever the three of them speak."""
    relay.start([f"cut:{CUT}", "continue"], (first, second))
    reply, line = relay.ask(caller)
    assert reply.text == said("first", 0, CUT) + said("second", CUT)
    assert (reply.finish, reply.error, marks(reply)) == ("stop", None, [b"second"])
    assert results(line) == [("first", "truncated"), ("second", "ok")]
    assert (line["outcome"], line["provider"], line["status"]) == ("completed", "second", 200)


@pytest.mark.parametrize("fault", [f"end:{CUT}", f"error:{CUT}", f"malformed:{CUT}", f"stall:{CUT}"])
def test_whatever_breaks_a_stream(relay, fault):
    relay.start([fault, "continue"], settings=", continue: on, timeouts: {idle: 400ms}")
    reply, line = relay.ask()
    assert reply.text == said("first", 0, CUT) + said("second", CUT)
    assert reply.finish == "stop"
    assert results(line)[1] == ("second", "ok")


def test_mark_stands_where_another_goes_on(relay):
    """Before it only words of the first, behind it only of the second."""
    relay.start([f"cut:{CUT}", "continue"])
    before, mark, after = relay.ask()[0].answer.body.partition(b": continued by second/m\n")
    assert mark and b"second." not in before and b"first." not in after
    assert before.endswith(b"\n\n") and after.startswith(b"data: ")


@pytest.mark.parametrize("caller", ["chat", "messages"])
def test_cut_twice(relay, caller):
    """The third gets what both have said."""
    relay.start([f"cut:{CUT}", "continue:5", "continue"])
    reply, line = relay.ask(caller)
    assert reply.text == said("first", 0, 20) + said("second", 20, 25) + said("third", 25)
    assert (reply.finish, marks(reply)) == ("stop", [b"second", b"third"])
    assert results(line) == [("first", "truncated"), ("second", "truncated"), ("third", "ok")]


def place(prompt):
    """After which word a stream breaks off; some do not."""
    return random.Random(prompt).choice([*range(SAID), *[SAID + 1] * SAID])


def test_many_that_break_anywhere(relay):
    """At a random word of each, even before it is a stream: no word is lost, doubled or mixed."""
    relay.start(["ok", "continue"], settings=", continue: on, breaker: {failures: 1000, ratio: 100%}")
    relay.fakes["first"].choose = lambda _, prompt: f"cut:{place(prompt)}" if place(prompt) < SAID else "ok"
    for number in range(120):
        caller, prompt = ("chat", "messages")[number % 2], f"p{number}"
        relay.fakes["second"].plan("m", "continue" if place(prompt) else "ok")
        reply, _ = relay.ask(caller, body_of(caller, "m", f"how is {prompt}", True), id=prompt)
        words = (token("first" if i < place(prompt) else "second", prompt, i) for i in range(SAID))
        assert (reply.text, reply.finish) == ("".join(words), "stop")


def test_target_that_refuses_is_passed_over(relay):
    relay.start([f"cut:{CUT}", "prefill", "continue"])
    reply, line = relay.ask()
    assert reply.text == said("first", 0, CUT) + said("third", CUT)
    assert results(line) == [("first", "truncated"), ("second", "refused_400"), ("third", "ok")]
    assert marks(reply) == [b"third"]


@pytest.mark.parametrize("caller", ["chat", "messages"])
@pytest.mark.parametrize("fault, result", [("prefill", "refused_400"), ("503", "http_503"),
                                           ("reset", "reset"), ("nothing", "empty"),
                                           ("reset-role", "truncated")])
def test_nobody_goes_on(relay, caller, fault, result):
    """The caller has the first's error right behind the first's words."""
    relay.start([f"cut:{CUT}", fault])
    reply, line = relay.ask(caller)
    assert_cut(reply)
    assert results(line) == [("first", "truncated"), ("second", result)]
    assert (line["provider"], line["outcome"]) == ("first", "upstream_failed")
    assert line["usage_source"] == "estimated" and line["output_tokens"] >= CUT


def test_alone_there_is_nobody_to_go_on(relay):
    relay.start([f"cut:{CUT}"])
    assert_cut(relay.ask()[0])
    assert len(relay.asked("first")) == 1


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize("more", [
    {"tools": [TOOL]}, {"response_format": {"type": "json_object"}}, {"logprobs": True}],
    ids=lambda more: next(iter(more)))
def test_only_plain_text_is_continued(relay, more):
    relay.start([f"cut:{CUT}", "continue"])
    reply, line = relay.ask(**more)
    assert_cut(reply)
    assert results(line) == [("first", "truncated")] and not relay.asked("second")


def test_thoughts_are_not_continued(relay):
    relay.start([f"cut:{CUT}", "continue"])
    words = said("first").split(" ")[:-1]
    relay.fakes["first"].answer = Answer([word + " " for word in words], ["Well. "], usage=TOKENS["first"])
    reply, _ = relay.ask()
    assert reply.thinking == "Well. "
    assert_cut(reply, CUT - 1)
    assert not relay.asked("second")


def test_several_choices_are_not_continued(relay):
    relay.start([f"cut:{CUT}", "continue"])
    relay.ask(n=2)
    assert not relay.asked("second")


def test_answer_that_said_its_finish_is_not_continued(relay):
    relay.start(["unfinished", "continue"])
    reply, _ = relay.ask()
    assert reply.text == said("first") and reply.error
    assert not relay.asked("second")


def test_off_by_default(relay):
    """And then the bytes pass as they came."""
    relay.start([f"cut:{CUT}", "continue"], settings="")
    reply, _ = relay.ask()
    assert_cut(reply)
    assert not relay.asked("second")
    assert reply.answer.body.startswith(event(delta(role="assistant", content="") | {"model": "m"}))


def test_nothing_is_marked_where_nothing_breaks(relay):
    relay.start(["ok", "continue"])
    reply, line = relay.ask()
    assert (reply.text, reply.usage, marks(reply)) == (said("first"), TOKENS["first"], [])
    assert line["usage_source"] == "provider"


@pytest.mark.parametrize("caller", ["chat", "messages"])
def test_usage_of_both_is_added(relay, caller):
    """The second told its own, of the first is known what it said."""
    relay.start([f"cut:{CUT}", "continue"], ("anthropic", "openai"))
    reply, line = relay.ask(caller)
    assert line["usage_source"] == "estimated"
    assert line["input_tokens"] >= TOKENS["first"].input + TOKENS["second"].input
    assert line["output_tokens"] >= TOKENS["second"].output + CUT
    if caller == "chat":
        assert (reply.usage.input, reply.usage.output) == (line["input_tokens"], line["output_tokens"])


def test_what_was_told_is_the_beginning(relay):
    """The request is the caller's own but for the last turn, also in his own protocol."""
    relay.start([f"cut:{CUT}", "continue"])
    relay.ask(body=body_of("chat", "m", "how is p1", True, seed=7, some_extension={"a": 1}))
    sent = relay.asked("second")[0].json
    assert sent["messages"] == [{"role": "user", "content": "how is p1"},
                                {"role": "assistant", "content": said("first", 0, CUT)}]
    assert (sent["seed"], sent["some_extension"]) == (7, {"a": 1})


def test_white_space_at_the_seam_is_not_doubled(relay):
    """Anthropic takes no blank at the end of the beginning; one that it then says is known already."""
    relay.start([f"cut:{CUT}", "ok"], ("openai", "anthropic"))
    relay.fakes["second"].answer = Answer([" ", "and ", "so ", "on"], usage=TOKENS["second"])
    reply, _ = relay.ask()
    assert relay.asked("second")[0].json["messages"][-1]["content"] == said("first", 0, CUT).rstrip()
    assert reply.text == said("first", 0, CUT) + "and so on"


def test_white_space_that_was_not_cut_is_kept(relay):
    relay.start([f"cut:{CUT}", "ok"], ("openai", "openai"))
    relay.fakes["second"].answer = Answer([" ", "and ", "so ", "on"], usage=TOKENS["second"])
    assert relay.ask()[0].text == said("first", 0, CUT) + " and so on"


@pytest.mark.parametrize("fault", ["hang", "stall-head", "stall-role"])
def test_caller_leaves_while_another_is_asked(relay, fault):
    """The second is let go, and nobody else is asked."""
    relay.start([f"cut:{CUT}", fault, "continue"])
    with RawClient(relay.server.port) as client:
        client.send(request_of("chat", body_of("chat", "m", "how is p1", True), id="left"))
        client.read_head()
        second = relay.fakes["second"].wait_asked("m")
        client.reset()
    second.wait_peer_closed()
    line = relay.server.wait_log("request", id="left")
    assert line["outcome"] == "client_cancelled"
    assert results(line) == [("first", "truncated"), ("second", "cancelled")]
    assert line["output_tokens"] >= CUT and line["usage_source"] == "estimated"
    assert not relay.asked("third")


@pytest.mark.parametrize("caller, sign", [("chat", b": keep-alive\n\n"), ("messages", b"event: ping")])
def test_signs_of_life_while_another_is_asked(relay, caller, sign):
    """What came is not held back, and the connection is kept alive."""
    relay.start([f"cut:{CUT}", "late:600"], settings=", continue: on", more="stream: {heartbeat: 100ms}\n")
    relay.fakes["second"].answer = Answer(["end"], usage=TOKENS["second"])
    reply, _ = relay.ask(caller)
    assert reply.text == said("first", 0, CUT) + "end"
    assert reply.answer.body.count(sign) >= 2
    assert reply.answer.body.index(sign) < reply.answer.body.index(b": continued by")


def test_all_the_time_there_is(relay):
    """`timeouts.total` holds for all targets together."""
    relay.start([f"cut:{CUT}", "hang", "continue"], settings=", continue: on, timeouts: {total: 700ms}")
    reply, line = relay.ask()
    assert_cut(reply)
    assert line["outcome"] == "timed_out"
    assert not relay.asked("third")


# ---- other callers ----

def post(server, path, body):
    with RawClient(server.port) as client:
        client.send(request_bytes("POST", path, body))
        answer = client.read_response()
    return answer, [json.loads(data) for data in datas(answer.body) if data != DONE[6:-2]]


def test_responses_are_continued(relay):
    """One response, and the whole text at its end."""
    relay.start([f"cut:{CUT}", "continue"], ("anthropic", "openai"))
    answer, events = post(relay.server, "/v1/responses", {"model": "m", "input": "how is p1", "stream": True})
    whole = said("first", 0, CUT) + said("second", CUT)
    assert "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta") == whole
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == whole
    assert b": continued by second/m\n" in answer.body


def test_completions_are_continued(sluice):
    """The prompt goes on with what was written."""
    def chunk(text, finish=None):
        choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}
        return event({"id": "c", "object": "text_completion", "model": "m", "choices": [choice]})
    with FakeProvider() as fake:
        fake.script(sse(chunk("once "), chunk("upon "), RESET), sse(chunk("a time"), chunk("", "stop"), DONE))
        server = sluice(f'providers: {{a: {{url: "{fake.url}"}}, b: {{url: "{fake.url}"}}}}\n'
                        "models: {m: {targets: [a/m, b/m], continue: on}}\n")
        _, events = post(server, "/v1/completions", {"model": "m", "prompt": "Say: ", "stream": True})
        assert fake.requests[1].json["prompt"] == "Say: once upon "
    assert "".join(e["choices"][0]["text"] for e in events) == "once upon a time"
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


def test_sdks_read_over_the_mark(relay):
    relay.start([f"cut:{CUT}", "continue"])
    whole = said("first", 0, CUT) + said("second", CUT)
    messages = [{"role": "user", "content": "how is p1"}]
    with openai.OpenAI(base_url=relay.server.url, api_key="x", max_retries=0) as client:
        with client.chat.completions.stream(model="m", messages=messages) as stream:
            assert stream.get_final_completion().choices[0].message.content == whole
    relay.fakes["first"].plan("m", f"cut:{CUT}")
    url = relay.server.url.removesuffix("/v1")
    with anthropic.Anthropic(base_url=url, api_key="x", max_retries=0) as client:
        with client.messages.stream(model="m", max_tokens=99, messages=messages) as stream:
            assert stream.get_final_text() == whole
