# SPDX-License-Identifier: Apache-2.0
"""The official OpenAI SDKs as judges: Python (plain and async) and Node.js.

They decide whether our answers are OpenAI's. All three do the same things through one small face,
`Sdk`, so that each test runs with each of them.
"""
import asyncio
import json
import subprocess
import threading
from pathlib import Path

import openai
import pytest
from fake_provider import (DONE, HANG, RESET, chat, chat_answer, chat_events, delta, error, event, raw,
                           sse, whole)
from sluice import HANG_GUARD_S, ROOT, clean_environment, provider_config

MESSAGES = [{"role": "user", "content": "hi"}]
ROLE, A, B, FINISH = chat_events("a", "b", done=False)
NODE = ROOT / ".venv/bin/node"
SCRIPT = Path(__file__).parent / "node/ask.mjs"


# ---- the three SDKs behind one face ----

def error_of(failure):
    return {"class": type(failure).__name__, "status": getattr(failure, "status_code", None),
            "code": failure.code, "type": failure.type, "message": failure.message}


def add_chunk(result, chunk):
    """Put a chunk into a streamed result: text, tool calls by index, finish reason, usage."""
    result["chunks"] += 1
    for choice in chunk.choices:
        result["text"] += choice.delta.content or ""
        result["finish"] = choice.finish_reason or result["finish"]
        for piece in choice.delta.tool_calls or []:
            if piece.index == len(result["tools"]):
                result["tools"].append({"id": piece.id, "name": piece.function.name, "arguments": ""})
            result["tools"][piece.index]["arguments"] += piece.function.arguments or ""
    if chunk.usage:
        result["usage"] = chunk.usage.model_dump()


def empty_stream():
    return {"text": "", "chunks": 0, "tools": [], "finish": None}


class Python:
    """openai.OpenAI."""

    def __init__(self, server):
        self.server = server

    def settings(self, **options):
        return dict(base_url=self.server.url, api_key="sk-of-the-caller", **options)

    def run(self, what, parameters=None, **options):
        """Do `what` (a method's name) with members of the request and options of the client."""
        question = {"model": "m", "messages": MESSAGES} | (parameters or {})
        result = {}
        with openai.OpenAI(**self.settings(**options)) as client:
            try:
                getattr(self, what)(client, question, result)
            except openai.APIError as failure:
                result["error"] = error_of(failure)
        return result

    def whole(self, client, question, result):
        raw_answer = client.chat.completions.with_raw_response.create(**question)
        answer = raw_answer.parse()
        result.update(answer=answer.model_dump(), requestId=answer._request_id,
                      model=raw_answer.headers["x-sluice-model"])

    def stream(self, client, question, result, leaves=False):
        result.update(empty_stream())
        with client.chat.completions.create(**question, stream=True) as chunks:
            for chunk in chunks:
                add_chunk(result, chunk)
                if leaves:
                    return

    def leave(self, client, question, result):
        self.stream(client, question, result, leaves=True)

    def models(self, client, question, result):
        result["ids"] = [model.id for model in client.models.list()]

    def model(self, client, question, result):
        result["model"] = client.models.retrieve(question["model"]).model_dump()


class AsyncPython(Python):
    """openai.AsyncOpenAI."""

    def run(self, what, parameters=None, **options):
        question = {"model": "m", "messages": MESSAGES} | (parameters or {})
        return asyncio.run(self.run_async(what, question, options))

    async def run_async(self, what, question, options):
        result = {}
        async with openai.AsyncOpenAI(**self.settings(**options)) as client:
            try:
                await getattr(self, what + "_async")(client, question, result)
            except openai.APIError as failure:
                result["error"] = error_of(failure)
        return result

    async def whole_async(self, client, question, result):
        raw_answer = await client.chat.completions.with_raw_response.create(**question)
        answer = raw_answer.parse()
        result.update(answer=answer.model_dump(), requestId=answer._request_id,
                      model=raw_answer.headers["x-sluice-model"])

    async def stream_async(self, client, question, result, leaves=False):
        result.update(empty_stream())
        async with await client.chat.completions.create(**question, stream=True) as chunks:
            async for chunk in chunks:
                add_chunk(result, chunk)
                if leaves:
                    return

    async def leave_async(self, client, question, result):
        await self.stream_async(client, question, result, leaves=True)

    async def models_async(self, client, question, result):
        result["ids"] = [model.id async for model in client.models.list()]

    async def model_async(self, client, question, result):
        result["model"] = (await client.models.retrieve(question["model"])).model_dump()


def camel_case(name):
    first, *more = name.split("_")
    return first + "".join(word.capitalize() for word in more)


class Node(Python):
    """The npm package, in a process of its own (node/ask.mjs)."""

    def run(self, what, parameters=None, **options):
        environment = clean_environment(self.server.directory, {})
        done = subprocess.run(
            [NODE, SCRIPT, self.server.url, what, json.dumps(parameters or {}),
             json.dumps({camel_case(name): value for name, value in options.items()})],
            env=environment, capture_output=True, timeout=3 * HANG_GUARD_S)
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)


KINDS = {"python": Python, "python-async": AsyncPython, "node": Node}


@pytest.fixture(params=KINDS)
def sdk(request, gateway):
    return use(request.param, gateway)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def use(kind, server):
    if kind == "node" and not NODE.exists():
        pytest.skip("no Node.js: run script/setup test")
    return KINDS[kind](server)


# ---- answers ----

def test_whole_answer(sdk, provider):
    provider.script(chat("Hello there"))
    result = sdk.run("whole")
    assert "error" not in result, result
    assert result["answer"]["choices"][0]["message"]["content"] == "Hello there"
    assert result["answer"]["usage"]["total_tokens"] == 11
    assert result["model"] == "fake/m"
    assert result["requestId"].startswith("req_") and result["requestId"] != "req_fake"


def test_stream(sdk, provider):
    provider.script(chat("one two three"))
    result = sdk.run("stream")
    assert (result["text"], result["finish"]) == ("one two three", "stop"), result
    assert result["chunks"] == 5 and "usage" not in result and "error" not in result


def test_stream_with_usage(sdk, provider):
    result = sdk.run("stream", {"stream_options": {"include_usage": True}})
    assert result["usage"]["prompt_tokens"] == 9, result


def test_stream_in_one_segment_and_in_bytes(sdk, provider):
    data = b"".join(chat_events("H\u00e9", "ll\U0001f600"))
    provider.script(sse(data), sse(*[data[i:i + 1] for i in range(len(data))]))
    for _ in range(2):
        assert sdk.run("stream")["text"] == "H\u00e9ll\U0001f600"


TOOLS = [{"type": "function", "function": {
    "name": "look", "description": "Look \u00fcber there", "strict": True,
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
                   "additionalProperties": False}}}]


def test_tools_in_a_stream(sdk, provider):
    """Two calls, one of them without arguments, in fragments."""
    def call(index, text, **more):
        return event(delta(tool_calls=[{"index": index, "function": {"arguments": text, **more.pop(
            "function", {})}, **more}]))
    provider.script(sse(
        ROLE, call(0, "", id="call_1", type="function", function={"name": "look"}), call(0, '{"a'),
        call(0, '":1}'), call(1, "", id="call_2", type="function", function={"name": "wait"}),
        event(delta(finish="tool_calls")), DONE))
    result = sdk.run("stream", {"tools": TOOLS, "tool_choice": "auto"})
    assert result["tools"] == [{"id": "call_1", "name": "look", "arguments": '{"a":1}'},
                               {"id": "call_2", "name": "wait", "arguments": ""}], result
    assert result["finish"] == "tool_calls"
    assert provider.wait_request().json["tools"] == TOOLS


def test_tools_in_a_whole_answer(sdk, provider):
    answer = chat_answer(None, finish="tool_calls")
    answer["choices"][0]["message"]["tool_calls"] = [
        {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]
    provider.script(whole(answer))
    message = sdk.run("whole", {"tools": TOOLS})["answer"]["choices"][0]["message"]
    assert message["content"] is None and message["tool_calls"][0]["function"]["name"] == "look"


def test_json_schema_passes(sdk, provider):
    """response_format and every other member arrive as the SDK wrote them."""
    asked = {"response_format": {"type": "json_schema", "json_schema": {
        "name": "point", "strict": True, "schema": {"type": "object", "properties": {
            "x": {"type": "number"}}, "required": ["x"], "additionalProperties": False}}},
        "seed": 7, "temperature": 0.5, "stop": ["\n"], "logit_bias": {"50256": -100},
        "metadata": {"a": "b"}, "user": "u1"}
    provider.script(chat('{"x":1}'))
    result = sdk.run("whole", asked)
    assert json.loads(result["answer"]["choices"][0]["message"]["content"]) == {"x": 1}
    seen = provider.wait_request().json
    assert seen == {"model": "m", "messages": MESSAGES} | asked


def test_images_pass(sdk, provider):
    content = [{"type": "text", "text": "what is it"},
               {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}]
    sdk.run("whole", {"messages": [{"role": "user", "content": content}]})
    assert provider.wait_request().json["messages"][0]["content"] == content


def test_models(sluice, provider, kind):
    server = sluice(provider_config(provider) + "models: {small: {targets: [fake/a]}, "
                                                "team/large: {targets: [fake/b]}}\n")
    assert use(kind, server).run("models")["ids"] == ["small", "team/large"]
    assert use(kind, server).run("model", {"model": "team/large"})["model"]["owned_by"] == "fake"
    assert use(kind, server).run("model", {"model": "none"})["error"]["class"] == "NotFoundError"


# ---- errors ----

CLASSES = [
    (400, 400, "BadRequestError", "their_code"), (404, 404, "NotFoundError", "their_code"),
    (422, 422, "UnprocessableEntityError", "their_code"), (429, 429, "RateLimitError", "their_code"),
    (401, 502, "InternalServerError", "provider_auth"),
    (403, 502, "InternalServerError", "provider_auth"),
    (500, 502, "InternalServerError", "upstream_error"),
    (503, 502, "InternalServerError", "overloaded"),
]


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("sent, status, name, code", CLASSES)
def test_errors_of_the_provider(sdk, provider, sent, status, name, code, streamed):
    provider.script(error(sent, "It failed.", "their_type", "their_code"))
    failure = sdk.run("stream" if streamed else "whole", max_retries=0)["error"]
    assert (failure["class"], failure["status"], failure["code"]) == (name, status, code), failure
    assert status >= 500 or failure["type"] == "their_type" and "It failed." in failure["message"]


def test_wrong_key(sluice, provider, kind):
    server = sluice('keys: {static: [{name: ci, key: "sk-right"}]}\n' + provider_config(provider))
    failure = use(kind, server).run("whole")["error"]
    assert (failure["class"], failure["status"], failure["code"]) == (
        "AuthenticationError", 401, "invalid_api_key"), failure
    assert provider.requests == []


def test_right_key(sluice, provider, kind):
    server = sluice('keys: {static: [{name: ci, key: "sk-of-the-caller"}]}\n'
                    + provider_config(provider))
    assert "error" not in use(kind, server).run("whole")


def test_unknown_model(sluice, provider, kind):
    server = sluice(provider_config(provider).replace("default_provider: fake\n", ""))
    failure = use(kind, server).run("whole")["error"]
    assert (failure["class"], failure["code"]) == ("NotFoundError", "model_not_found"), failure


@pytest.mark.parametrize("parameters", [{"temperature": "hot"}, {"messages": []},
                                        {"n": 0}])
def test_our_own_refusals(sluice, provider, kind, parameters):
    failure = use(kind, sluice(provider_config(provider))).run("whole", parameters)["error"]
    assert (failure["class"], failure["status"]) == ("BadRequestError", 400), failure
    assert failure["type"] == "invalid_request_error"


FAILURES = {"500": error(500), "401": error(401), "reset": raw(RESET), "hang": raw(HANG),
            "redirect": whole(b"{}", 307, [("Location", "/elsewhere")])}


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("failure", FAILURES)
def test_no_retries_of_what_we_gave_up(sluice, provider, kind, failure, streamed):
    """With the SDKs' own defaults: x-should-retry keeps them from it."""
    server = sluice("timeouts: {first_token: 300ms, total: 300ms}\n" + provider_config(provider))
    provider.default = FAILURES[failure]
    result = use(kind, server).run("stream" if streamed else "whole")
    assert result["error"]["class"] == "InternalServerError", result
    assert len(provider.requests) == 1


def test_retries_where_the_provider_asks_for_it(sdk, provider):
    """A 429 with its advice is the SDK's to obey."""
    provider.script(error(429, headers=[("Retry-After-Ms", "1")]), chat("in the end"))
    result = sdk.run("whole")
    assert result["answer"]["choices"][0]["message"]["content"] == "in the end"
    assert len(provider.requests) == 2


@pytest.mark.parametrize("end", [[RESET], [], [event({"error": {"message": "no"}})], [b"data: {\n\n"]],
                         ids=["reset", "clean-end", "error-event", "not-json"])
def test_failure_in_mid_stream(sdk, provider, end):
    """What came is there, then the SDK raises: no success is feigned, nothing is asked again."""
    provider.script(sse(ROLE, A, B, *end))
    result = sdk.run("stream")
    assert (result["text"], result["finish"]) == ("ab", None), result
    assert result["error"]["class"] in ("APIError", "InternalServerError")
    assert len(provider.requests) == 1


# ---- time ----

@pytest.mark.parametrize("first", [ROLE, b"id: 1\n" + ROLE, ROLE[:-1] + b"id: 1\n\n",
                                   b"event: message\n" + ROLE, b"retry: 10\n" + ROLE],
                         ids=["plain", "id", "id-after", "name", "retry"])
def test_heartbeats_do_not_disturb(sluice, provider, kind, first):
    server = sluice("stream: {heartbeat: 100ms}\n" + provider_config(provider))
    provider.script(sse(first, A, 0.35, B, FINISH, 0.25, DONE))
    result = use(kind, server).run("stream")
    assert "error" not in result, result
    assert (result["text"], result["finish"], result["chunks"]) == ("ab", "stop", 4)


def test_caller_breaks_off(sdk, provider):
    """The provider hears of it."""
    provider.script(sse(ROLE, A, HANG))
    result = sdk.run("leave")
    assert result["chunks"] == 1
    provider.wait_request().wait_peer_closed()


def test_many_at_once(gateway, provider):
    """One client, many threads: nobody gets another's answer."""
    def script(exchange):
        chat("about " + exchange.json["messages"][0]["content"])(exchange)
    provider.default = script
    wrong = []
    with openai.OpenAI(base_url=gateway.url, api_key="x", max_retries=0) as client:
        def work(number):
            for i in range(5):
                word = f"{number}.{i}"
                chunks = client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": word}], stream=True)
                text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
                if text != "about " + word:
                    wrong.append((word, text))
        threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
