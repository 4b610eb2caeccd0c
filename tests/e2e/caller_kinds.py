# SPDX-License-Identifier: Apache-2.0
"""Callers of both great dialects, who ask the same question and read the answer as strictly as can be.

    reply = ask(server, "messages", body_of("messages", "m", "how p17", stream=True), id="a1")
    reply.text          the words that came, also before an error
    reply.finish        "stop", "tool_calls" …, OpenAI's words for both; None: the answer did not end
    reply.error         the error object: of an HTTP error, or of the event that ended a stream
    reply.usage         fake_answer.Tokens, or None
    reply.thinking, reply.tools

A stream must be one answer: begun once, its blocks one after the other, ended once, nothing after the
end or the error. What breaks that rule fails the test.
"""
import json
from dataclasses import dataclass, field

from caller import datas
from fake_answer import Tokens, Tool
from raw_http import RawClient, request_bytes

PATHS = {"chat": "/v1/chat/completions", "messages": "/v1/messages"}
FINISHES = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length",
            "tool_use": "tool_calls", "refusal": "content_filter"}


@dataclass
class Reply:
    """What a caller got."""
    answer: object                        # raw_http.Response
    text: str = ""
    thinking: str = ""
    signature: str = ""
    tools: list = field(default_factory=list)
    finish: str | None = None
    error: dict | None = None
    usage: Tokens | None = None
    events: list = field(default_factory=list)

    @property
    def status(self):
        return self.answer.status

    @property
    def attempts(self):
        """x-sluice-attempts as [(target, result)]."""
        return read_attempts(self.answer.header("x-sluice-attempts"))


def read_attempts(text):
    """The text of a header or log line as [(target, result)]; the third field is a number."""
    found = []
    for attempt in (text or "").split(", ") if text else []:
        target, result, ms = attempt.rsplit(";", 2)
        assert ms.isdigit(), text
        found.append((target, result))
    return found


def body_of(kind, model, prompt, stream=False, **more):
    """A request in that dialect; streams ask for their usage where one has to."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], **more}
    if kind == "messages":
        body.setdefault("max_tokens", 1000)
    if stream:
        body["stream"] = True
        if kind == "chat":
            body.setdefault("stream_options", {"include_usage": True})
    return body


def request_of(kind, body, headers=(), id=None):
    """The bytes of a request."""
    more = [("X-Request-Id", id)] if id else []
    if kind == "messages":
        more.append(("anthropic-version", "2023-06-01"))
    return request_bytes("POST", PATHS[kind], body, [*headers, *more])


def ask(server, kind, body, headers=(), id=None):
    """Ask on a connection of its own and read all of the answer."""
    with RawClient(server.port) as client:
        client.send(request_of(kind, body, headers, id))
        return read(kind, client.read_response())


def read(kind, answer):
    """Read an answer in that dialect."""
    if answer.status != 200:
        return Reply(answer, error=read_error(kind, answer.json))
    if answer.header("content-type").startswith("text/event-stream"):
        events = [json.loads(data) if data != b"[DONE]" else None for data in datas(answer.body)]
        reader = read_chunks if kind == "chat" else read_events
        return reader(Reply(answer, events=events))
    return (read_completion if kind == "chat" else read_message)(Reply(answer))


def read_error(kind, body):
    """The error object; with the members that the dialect promises."""
    error = body["error"]
    assert error["message"] and isinstance(error["message"], str), body
    if kind == "chat":
        assert set(error) >= {"message", "type", "param", "code"}, body
    else:
        assert body["type"] == "error" and isinstance(error["type"], str), body
    return error


# ---- OpenAI ----

def chat_usage(usage):
    if not usage:
        return None
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"], usage
    prompt, said = usage.get("prompt_tokens_details") or {}, usage.get("completion_tokens_details") or {}
    return Tokens(usage["prompt_tokens"], usage["completion_tokens"], prompt.get("cached_tokens") or 0,
                  prompt.get("cache_write_tokens") or 0, said.get("reasoning_tokens") or 0)


def chat_tools(calls):
    return [Tool(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls]


def read_completion(reply):
    (choice,) = reply.answer.json["choices"]
    message = choice["message"]
    reply.text, reply.thinking = message["content"] or "", message.get("reasoning_content") or ""
    reply.tools, reply.finish = chat_tools(message.get("tool_calls") or []), choice["finish_reason"]
    reply.usage = chat_usage(reply.answer.json.get("usage"))
    return reply


def read_chunks(reply):
    """Chunks of one id, then either an error or a finish and [DONE]."""
    calls, ids = {}, set()
    for number, chunk in enumerate(reply.events):
        is_last = number == len(reply.events) - 1
        if chunk is None or "error" in chunk:
            assert is_last, f"{len(reply.events) - number - 1} events after the end"
            if chunk:
                reply.error = read_error("chat", chunk)
                reply.finish = None        # the finish of what was not completed
            continue
        assert not is_last, "the stream has no end"
        ids.add(chunk["id"])
        reply.usage = chat_usage(chunk.get("usage")) or reply.usage
        for choice in chunk["choices"]:
            read_delta(reply, calls, choice)
    assert reply.error or (reply.finish and reply.events[-1] is None), "no end: " + repr(reply.events[-3:])
    assert len(ids) <= 1, f"several answers in one: {ids}"
    reply.tools = [calls[index] for index in sorted(calls)]
    return reply


def read_delta(reply, calls, choice):
    delta = choice["delta"]
    assert choice["index"] == 0, choice
    assert reply.finish is None or not delta.get("content"), "words after the finish"
    reply.text += delta.get("content") or ""
    reply.thinking += delta.get("reasoning_content") or ""
    for call in delta.get("tool_calls") or []:
        function = call.get("function") or {}
        if call["index"] not in calls:
            assert call["index"] == len(calls) and call["id"] and function["name"], call
            calls[call["index"]] = Tool(call["id"], function["name"], "")
        old = calls[call["index"]]
        calls[call["index"]] = Tool(old.id, old.name, old.arguments + (function.get("arguments") or ""))
    reply.finish = reply.finish or choice["finish_reason"]


# ---- Anthropic ----

def messages_usage(usage, old=None):
    """Tokens of a usage object; members that are missing stay as they were."""
    if usage is None:
        return old
    plain = old.input - old.cached - old.written if old else 0
    cached = pick(usage, "cache_read_input_tokens", old.cached if old else 0)
    written = pick(usage, "cache_creation_input_tokens", old.written if old else 0)
    thought = (usage.get("output_tokens_details") or {}).get("thinking_tokens")
    return Tokens(pick(usage, "input_tokens", plain) + cached + written,
                  pick(usage, "output_tokens", old.output if old else 0), cached, written,
                  thought if thought is not None else old.reasoning if old else 0)


def pick(usage, name, otherwise):
    value = usage.get(name)
    return otherwise if value is None else value


def read_block(reply, block):
    if block["type"] == "text":
        reply.text += block["text"]
    elif block["type"] == "thinking":
        reply.thinking += block["thinking"]
        reply.signature += block.get("signature") or ""
    elif block["type"] == "tool_use":
        reply.tools.append(Tool(block["id"], block["name"], json.dumps(block["input"])))


def read_message(reply):
    message = reply.answer.json
    assert (message["type"], message["role"]) == ("message", "assistant"), message
    for block in message["content"]:
        read_block(reply, block)
    reply.finish = FINISHES[message["stop_reason"]]
    reply.usage = messages_usage(message.get("usage"))
    return reply


class Blocks:
    """The order of a message's events, checked as they come."""

    def __init__(self, reply):
        self.reply, self.open, self.count = reply, None, 0
        self.has_begun = self.has_ended = False
        self.arguments = ""

    def message_start(self, event):
        assert not self.has_begun, "the message begins twice"
        self.has_begun = True
        assert event["message"]["content"] == [], event
        self.reply.usage = messages_usage(event["message"].get("usage"))

    def content_block_start(self, event):
        assert self.open is None and event["index"] == self.count, event
        self.open, self.arguments = event["content_block"], ""
        self.count += 1
        if self.open["type"] == "tool_use":
            assert self.open["input"] == {}, event
        else:
            read_block(self.reply, self.open)

    def content_block_delta(self, event):
        delta, kind = event["delta"], self.open["type"]
        assert event["index"] == self.count - 1, event
        wanted = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "thinking",
                  "input_json_delta": "tool_use"}[delta["type"]]
        assert kind == wanted, f"{delta['type']} in a block of {kind}"
        if delta["type"] == "input_json_delta":
            self.arguments += delta["partial_json"]
        else:
            name = delta["type"].removesuffix("_delta")
            setattr(self.reply, name, getattr(self.reply, name) + delta[name])

    def content_block_stop(self, event):
        assert self.open is not None and event["index"] == self.count - 1, event
        if self.open["type"] == "tool_use":
            self.reply.tools.append(Tool(self.open["id"], self.open["name"], self.arguments or "{}"))
        self.open = None

    def message_delta(self, event):
        assert self.open is None and self.has_begun, event
        self.reply.finish = FINISHES[event["delta"]["stop_reason"]]
        self.reply.usage = messages_usage(event.get("usage"), self.reply.usage)

    def message_stop(self, event):
        assert self.reply.finish, "the message stops without a reason"
        self.has_ended = True

    def ping(self, event):
        pass

    def error(self, event):
        self.reply.error, self.reply.finish = read_error("messages", event), None
        self.has_ended = True


def read_events(reply):
    """A message, or the beginning of one and an error. Clients must ignore events they do not know."""
    blocks = Blocks(reply)
    for event in reply.events:
        assert not blocks.has_ended, f"{event} after the end"
        if event.get("type"):
            getattr(blocks, event["type"])(event)
    assert blocks.has_ended, "no end: " + repr(reply.events[-3:])
    return reply
