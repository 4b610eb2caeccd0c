# SPDX-License-Identifier: Apache-2.0
"""Scenarios with several models and dialects: translation, failover, responses that are kept, counting,
and what is passed on unread. See scenarios.py for what a scenario is.

What is right is what came when nothing failed: the first answer to each request is remembered, and
each later one that looks complete must be the same, but for ids and times. A stream that is not
complete must have begun like it and end with an error or a broken connection.
"""
import base64
import json
import re
import secrets

from caller_kinds import PATHS
from fake_answer import Answer, Tokens, Tool
from fake_models import FakeModels
from fake_provider import chunk, raw, response_head, sse, whole
from raw_http import HANG_GUARD_S, RawClient, request_bytes
from scenarios import BEGINNING, CONFIG, END, CallerLeaves, Scenario
from sluice import ROOT
from torture import check_refusal

PATHS = PATHS | {"responses": "/v1/responses"}
MINTED = re.compile(rb"\b(u00[0-9a-f]{2})?([a-z]+_)?[0-9A-Za-z_-]{24}i?\d*\b|(?<=\")chatcmpl-\w+")
TIMES = re.compile(rb'"(created|created_at|completed_at)":\d+')
BEGINNINGS = re.compile(r'((?<!"type)(?<!"mode)": "|\[")([A-Za-z])')
PIXEL = "iVBORw0KGgo="
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ANSWER = Answer(["Ça ", "rains ", "à ", "lot."], thinking=["Löt ", "mé ", "see."], signature="sig",
                tools=[Tool("call_1", "weather", '{"city": "Bergen"}'), Tool("call_2", "weather", "{}")],
                finish="tool_calls", usage=Tokens(11, 7, 4, 0, 2))

# A conversation with all that has to be translated, in each dialect; the last member is dropped by most.
CHAT_ASK = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "text", "text": "Where is this?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_0", "type": "function",
             "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]},
        {"role": "tool", "tool_call_id": "call_0", "content": "rain"},
        {"role": "user", "content": "And there?"}],
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "stop": ["END"], "temperature": 0.5, "seed": 7}
MESSAGES_ASK = {
    "max_tokens": 1000, "system": "Be brief.",
    "messages": [
        {"role": "user", "content": [
            {"type": "text", "text": "Where is this?"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}]},
        {"role": "assistant", "content": [
            {"type": "tool_use", "id": "toolu_0", "name": "weather", "input": {"city": "Oslo"}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_0", "content": "rain"},
            {"type": "text", "text": "And there?"}]}],
    "tools": [{"name": "weather", "input_schema": SCHEMA}],
    "tool_choice": {"type": "tool", "name": "weather"},
    "stop_sequences": ["END"], "temperature": 0.5, "top_k": 7}
RESPONSES_ASK = {
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": [
            {"type": "input_text", "text": "Where is this?"},
            {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}"}]},
        {"type": "function_call", "call_id": "call_0", "name": "weather", "arguments": '{"city": "Oslo"}'},
        {"type": "function_call_output", "call_id": "call_0", "output": "rain"},
        {"role": "user", "content": "And there?"}],
    "tools": [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True},
              {"type": "web_search"}],
    "tool_choice": {"type": "allowed_tools", "mode": "auto",
                    "tools": [{"type": "function", "name": "weather"}]},
    "temperature": 0.5, "store": False}
ASKS = {"chat": CHAT_ASK, "messages": MESSAGES_ASK, "responses": RESPONSES_ASK}


def is_error(event):
    return any(mark in event for mark in (b'data: {"error":', b"event: error\n",
                                          b"event: response.failed\n"))


def is_whole(answer):
    """An answer as it should be, to its end."""
    return (answer is not None and answer.status == 200 and answer.is_complete
            and not is_error(b"\n\n".join(answer.body.split(b"\n\n")[-2:])))


class Models(Scenario):
    """A server in front of two fake providers that speak every protocol. Breakers stay closed, so that
    one round is as the other."""

    more = ""

    def __init__(self, sluice, _, directory):
        self.provider, self.second = FakeModels("first"), FakeModels("second")
        self.provider.answer, self.second.said = ANSWER, 6
        self.directory, self.wanted = directory, {}
        self.server = sluice(CONFIG + self.config + self.models() + self.more)

    def models(self):
        """The kinds of the first provider by their names, of the second behind "second-"."""
        lines = ["breaker: {failures: 1000, ratio: 100%}", "default_provider: openai", "providers:"]
        for name, fake in (("", self.provider), ("second-", self.second)):
            lines += [f'  {name}{kind}: {{kind: {kind}, url: "{fake.base(kind)}", key: sk-fake-key'
                      f'{", responses: off" if kind == "openai" else ""}}}'
                      for kind in ("openai", "anthropic", "gemini")]
        return "\n".join(lines) + "\n"

    def request(self, kind, model, stream=False, is_last=False, **members):
        """Its texts have escapes, so that reading them takes memory."""
        body = json.dumps(ASKS[kind] | {"model": model, "stream": stream} | members)
        body = BEGINNINGS.sub(lambda found: f"{found[1]}\\u{ord(found[2]):04x}", body)
        body = body.replace('"temperature"', '"\\u0074emperature"')
        return request_bytes("POST", PATHS[kind], body.encode(), [END] if is_last else [])

    def ask(self, caller, request, own=()):
        """Ask, and judge the answer by what it was without faults."""
        answer = caller.ask(request)[0]
        if answer is None:
            return None
        if answer.status != 200:
            check_refusal(answer, (529, *self.own, *own))
        elif answer.header("content-type").startswith("text/event-stream"):
            self.check_events(request, answer)
        elif answer.is_complete:
            assert normal(answer.body) == self.want(request, answer), answer
        return answer

    def want(self, request, answer):
        return self.wanted.setdefault(normal(request), normal(answer.body))

    def check_events(self, request, answer):
        events = answer.body.split(b"\n\n")
        assert not answer.is_complete or events[-1] == b"", answer.body
        events = events[:-1]
        has_error = bool(events) and is_error(events[-1])
        if answer.is_complete and not has_error:
            assert normal(answer.body) == self.want(request, answer), answer.body
            return
        wanted = self.wanted[normal(request)].split(b"\n\n")
        said = [normal(event) for event in events[:len(events) - has_error]]
        assert said == wanted[:len(said)], answer.body

    def afterwards(self):
        self.provider.default, self.provider.choose = self.provider.perform, None
        with self.caller() as caller:
            answer = self.ask(caller, self.request("chat", "anthropic/m", stream=True))
        assert is_whole(answer), answer
        assert answer.body.endswith(b"data: [DONE]\n\n"), answer


def normal(body):
    """Ids and times are different each time."""
    return TIMES.sub(rb'"\1":0', MINTED.sub(b"ID", body))


class Translated(Models):
    """Whole answers between callers and providers of different protocols."""

    stream = False
    pairs = (("messages", "openai"), ("chat", "gemini"), ("chat", "anthropic"), ("responses", "anthropic"))

    def once(self):
        with self.caller() as caller:
            for kind, model in self.pairs:
                self.ask(caller, self.request(kind, model + "/m", self.stream))


class TranslatedStream(Translated):
    """The same, streamed."""

    stream = True


class TranslatedCut(Models):
    """A translated stream whose provider leaves in the middle, and one that was never one."""

    own = (502,)

    def once(self):
        self.provider.answer = None
        with self.caller() as caller:
            for model, plan, pairs in (("cut", "cut:3", Translated.pairs),
                                       ("html", "html", Translated.pairs[:2])):
                self.provider.plan(model, plan)
                for kind, provider in pairs:
                    self.ask(caller, self.request(kind, f"{provider}/{model}", True))

    def check_events(self, request, answer):
        if b'/cut' not in request:
            super().check_events(request, answer)
        elif answer.is_complete:
            assert is_error(answer.body.split(b"\n\n")[-2]), answer.body

    def afterwards(self):
        self.provider.answer = ANSWER
        super().afterwards()


class TranslatedCallerLeaves(CallerLeaves, Models):
    """The caller of a model of another protocol leaves, while all is awaited and in the middle."""

    def once(self):
        whole, stream = (self.request("messages", "openai/m", is_stream, True) for is_stream in (False, True))
        for request, script, until in ((whole, raw(HANG_GUARD_S), None),
                                       (stream, sse(HANG_GUARD_S), None),
                                       (stream, sse(*BEGINNING, HANG_GUARD_S), b'" two"')):
            self.leave(request, script, until, RawClient.close)

    def afterwards(self):
        Models.afterwards(self)


class FailsOver(Models):
    """The first target refuses, breaks off before its first word or sends a page; the second, of another
    protocol, answers. Asked alone for what it can answer, it does, and its breaker stays closed."""

    more = ("models:\n  over: {targets: [openai/m, second-anthropic/m]}\n"
            "  long: {targets: [openai/m], context_fallbacks: [second-gemini/m]}\n")
    faults = {"refused": "503", "torn": "reset-role", "page": "html", "long": "context"}
    asks = (("chat", "over", "refused", False), ("messages", "over", "refused", True),
            ("chat", "over", "torn", True), ("messages", "over", "page", False),
            ("chat", "long", "long", True), ("chat", "openai/m", "well", False), ("chat", "openai/m", "well", True))

    def once(self):
        self.provider.choose = lambda exchange, prompt: self.faults.get(prompt, "ok")
        with self.caller() as caller:
            for kind, model, prompt, stream in self.asks:
                turn = [{"role": "user", "content": f"How is {prompt}"}]
                answer = self.ask(caller, self.request(kind, model, stream, messages=turn))
                if is_whole(answer):
                    assert (b"second." in answer.body) == (prompt != "well"), answer


class GoesOn(Models):
    """A stream breaks off in the middle, and the second target goes on with it or refuses to. One that
    does not break off keeps the breaker closed."""

    own = (502,)
    more = "models:\n  plain: {targets: [openai/m, second-anthropic/m], continue: on}\n"
    asks = (("chat", "joined"), ("messages", "joined"), ("chat", "torn"), ("chat", "well"))

    def once(self):
        self.provider.answer, self.second.said = None, 60
        self.provider.choose = lambda exchange, prompt: "ok" if prompt == "well" else "cut:3"
        self.second.choose = lambda exchange, prompt: "prefill" if prompt == "torn" else "continue"
        with self.caller() as caller:
            for kind, prompt in self.asks:
                turn = [{"role": "user", "content": f"How is {prompt}"}]
                answer = self.ask(caller, self.request(kind, "plain", True, messages=turn, tools=None,
                                                       tool_choice=None))
                if is_whole(answer):
                    assert (b"second." in answer.body) == (prompt == "joined"), answer
                    assert prompt != "torn", answer

    def check_events(self, request, answer):
        """Each word once and in order. Without memory for going on, an answer stays one that breaks off."""
        if b"ow is" not in request:
            super().check_events(request, answer)
            return
        words = re.findall(rb"(?:first|second)\.\w+\.(\d+)", answer.body)
        assert list(map(int, words)) == list(range(len(words))), answer.body
        assert not is_whole(answer) or len(words) == 60, answer.body

    def afterwards(self):
        self.provider.answer = ANSWER
        super().afterwards()


class FailsEverywhere(Models):
    """No target answers."""

    own = (502, 504)
    more = "models:\n  over: {targets: [openai/bad, second-anthropic/bad]}\n"

    def once(self):
        self.provider.plan("bad", "503")
        self.second.plan("bad", "reset-role")
        with self.caller() as caller:
            for kind, stream in (("chat", True), ("messages", True)):
                answer = self.ask(caller, self.request(kind, "over", stream))
                assert answer is None or answer.status != 200, answer


class Conversation(Models):
    """Responses that are kept, continued, named, fetched, listed and deleted. What could be fetched can be
    continued."""

    def once(self):
        with self.caller() as caller:
            first = self.make(caller, input="Say one")
            if not first:
                return
            second = self.make(caller, stream=True, previous_response_id=first["id"], input=[
                {"type": "item_reference", "id": self.message_id(first)},
                {"role": "user", "content": "Say two"}])
            for response in filter(None, (first, second)):
                self.ask_about(caller, "GET", response, "/input_items")
                self.ask_about(caller, "POST", response, "/cancel", (400,))
                self.ask_about(caller, "DELETE", response)

    @staticmethod
    def message_id(response):
        return next(item["id"] for item in response["output"] if item["type"] == "message")

    def make(self, caller, stream=False, **members):
        """A response that is kept, or None."""
        answer = self.ask(caller, self.request("responses", "anthropic/m", stream, store=True, **members))
        if not is_whole(answer):
            return None
        last = answer.body.split(b"\n\n")[-2].partition(b"data: ")[2] if stream else answer.body
        response = json.loads(last)["response"] if stream else json.loads(last)
        kept = self.ask_about(caller, "GET", response, own=(404,))
        return response if is_whole(kept) else None

    def ask_about(self, caller, method, response, what="", own=()):
        """Requests about the first and the second response differ, so that their answers may."""
        turn = "second" if response["previous_response_id"] else "first"
        request = request_bytes(method, f"/v1/responses/{response['id']}{what}", headers=[("X-Turn", turn)])
        return self.ask(caller, request, own)


class Background(Models):
    """Responses that are made in the background, fetched and streamed once more. When the connection that they were
    asked for on is closed, they have come to an end."""

    def once(self):
        for stream in (False, True):
            with self.caller() as caller:
                answer = self.ask(caller, self.request("responses", "anthropic/m", stream, store=True, background=True))
            found = re.search(rb'"id":"(resp_\w+)"', answer.body) if answer and answer.status == 200 else None
            if found:
                self.look_back(f"/v1/responses/{found[1].decode()}")

    def look_back(self, path):
        with self.caller() as caller:
            kept = caller.ask(request_bytes("GET", path))[0]
            if not kept or kept.status != 200:
                return kept and check_refusal(kept, (404,))
            # in_progress: its end could not be written; the keeper will notice
            if kept.is_complete and kept.json["status"] not in ("failed", "in_progress"):
                assert kept.json["status"] == "completed", kept
                self.look_at_events(caller.ask(request_bytes("GET", path + "?stream=true"))[0])

    def look_at_events(self, answer):
        """Those that were sent or, if they could not be kept, others that say the same."""
        if answer and answer.status != 200:
            check_refusal(answer)
        elif is_whole(answer):
            events = [json.loads(line[6:]) for line in answer.body.split(b"\n") if line.startswith(b"data: ")]
            said = "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
            assert said == ANSWER.text and events[-1]["type"] == "response.completed", answer.body


class Retries(Models):
    """Requests that are sent twice with an Idempotency-Key. What comes is the same answer, as if there had been no
    second, or word that the first cannot be found or was not whole."""

    def once(self):
        with self.caller() as caller:
            for stream in (False, True):
                key = f"Idempotency-Key: {secrets.token_hex(12)}\r\n".encode()
                line, _, rest = self.request("chat", "anthropic/m", stream).partition(b"\r\n")
                for _ in range(2):
                    self.ask(caller, line + b"\r\n" + key + rest, own=(409,))


class Count(Models):
    """Tokens are counted: exactly where the ranks are at hand, or by a ratio. Without memory for a long
    word a count is an estimate."""

    def __init__(self, sluice, _, directory):
        (directory / "data").mkdir()
        ranks = ROOT / ".cache/tokens"
        if ranks.exists():
            (directory / "data/tokens").symlink_to(ranks)
        self.config = f"data_dir: {directory / 'data'}\n"
        super().__init__(sluice, _, directory)

    def once(self):
        long = "x" * 3000 + " and so on"
        with self.caller() as caller:
            for path, body in (
                    ("/v1/messages/count_tokens", MESSAGES_ASK | {"model": "anthropic/claude"}),
                    ("/v1/messages/count_tokens", MESSAGES_ASK | {"model": "openai/gpt-4o", "system": long}),
                    ("/v1/responses/input_tokens", RESPONSES_ASK | {"model": "openai/gpt-4o"})):
                answer = caller.ask(request_bytes("POST", path, body))[0]
                if answer and answer.status != 200:
                    check_refusal(answer, (529,))
                elif is_whole(answer):
                    assert 0 < answer.json["input_tokens"] < 2000, answer


class PassedOn(Models):
    """What is not known here goes to a provider and comes back as it is, refusals included; and so do
    embeddings and rerank."""

    config = "passthrough: openai\n"
    page = b"0123456789" * 5000
    vector = {"object": "list", "model": "m", "usage": {"prompt_tokens": 3, "total_tokens": 3}, "data": [
        {"object": "embedding", "index": 0, "embedding": base64.b64encode(bytes(2000)).decode()}]}
    ranked = {"results": [{"index": 0, "relevance_score": 0.5}], "meta": {"billed_units": {}}}

    def once(self):
        self.provider.default = self.answer
        with self.caller() as caller:
            for path, body in (("files?purpose=x", None), ("audio/speech", {"input": "x" * 5000}),
                               ("nothing", None)):
                method = "POST" if body else "GET"
                self.ask(caller, request_bytes(method, "/v1/" + path, body), own=(404,))
            self.ask(caller, request_bytes("POST", "/v1/embeddings", {
                "model": "m", "input": ["a", "b"], "encoding_format": "base64"}))
            self.ask(caller, request_bytes("POST", "/v1/rerank", {
                "model": "m", "query": "a", "documents": ["a", "b"]}))

    def answer(self, exchange):
        path = exchange.target.partition("?")[0]
        scripts = {"/v1/files": whole({"data": []}), "/v1/audio/speech": raw(
                       response_head(200, "audio/mpeg", [("Transfer-Encoding", "chunked")]),
                       chunk(self.page), chunk(b"the end"), chunk(b"")),
                   "/v1/embeddings": whole(self.vector), "/v1/rerank": whole(self.ranked),
                   "/v1/nothing": whole({"error": {"message": "no such thing"}}, 404)}
        scripts[path](exchange)


MODEL_SCENARIOS = {
    "translated": Translated, "translated-stream": TranslatedStream, "translated-cut": TranslatedCut,
    "translated-caller-leaves": TranslatedCallerLeaves, "fails-over": FailsOver,
    "goes-on": GoesOn,
    "fails-everywhere": FailsEverywhere, "conversation": Conversation,
    "background": Background, "retries": Retries,
    "count": Count,
    "passed-on": PassedOn}
