# SPDX-License-Identifier: Apache-2.0
"""Anthropic's messages as a provider sends them (the types of @anthropic-ai/sdk: Message,
RawMessageStreamEvent, ErrorResponse). Pure functions: an Answer in, bytes or objects out."""
import json

from fake_answer import Parts
from fake_openai import text_of
from fake_provider import event

PATH = "/v1/messages"
# What went wrong → the status, and the error object's type and message.
ERRORS = {
    "invalid": (400, "invalid_request_error", "messages.0: that value is not allowed"),
    "context": (400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
    "filter": (400, "invalid_request_error", "Output blocked by content filtering policy"),
    "auth": (401, "authentication_error", "invalid x-api-key"),
    "forbidden": (403, "permission_error", "Your account may not use this model."),
    "missing": (404, "not_found_error", "model: no-such-model"),
    "unknown": (404, "not_found_error", "There is no such file."),
    "too_big": (413, "request_too_large", "Request exceeds the maximum size"),
    "unprocessable": (422, "invalid_request_error", "Cannot be processed."),
    "limited": (429, "rate_limit_error", "Number of requests has exceeded your rate limit"),
    "server": (500, "api_error", "Internal server error"),
    "bad_gateway": (502, "api_error", "Bad gateway"),
    "unavailable": (503, "api_error", "Service unavailable"),
    "overloaded": (529, "overloaded_error", "Overloaded"),
    "prefill": (400, "invalid_request_error",
                "This model does not support assistant message prefill. "
                "The conversation must end with a user message."),
}
STOPS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use",
         "content_filter": "refusal"}


def named(type, **members):
    """One event: its name stands before the data and in it."""
    return event({"type": type, **members}, type.encode())


def error_body(kind):
    _, type, message = ERRORS[kind]
    return {"type": "error", "error": {"type": type, "message": message}, "request_id": "req_fake"}


def error_event(kind="overloaded"):
    """An error reported inside a stream."""
    body = error_body(kind)
    return named("error", error=body["error"])


def usage_object(tokens, output=None):
    """Input leaves out what was cached: the three have to be added."""
    return {"input_tokens": tokens.input - tokens.cached - tokens.written,
            "cache_creation_input_tokens": tokens.written,
            "cache_read_input_tokens": tokens.cached,
            "output_tokens": tokens.output if output is None else output,
            "output_tokens_details": {"thinking_tokens": tokens.reasoning}, "service_tier": "standard"}


def message_start(model, tokens):
    """The first event: input is known, of the output about one token."""
    message = {"id": "msg_fake", "type": "message", "role": "assistant", "model": model,
               "content": [], "stop_reason": None, "stop_sequence": None}
    if tokens:
        message["usage"] = usage_object(tokens, 1)
    return named("message_start", message=message)


def block_delta(index, type, **members):
    return named("content_block_delta", index=index, delta={"type": type, **members})


def block(index, start, deltas):
    """A block's events: its start, its deltas (type, member, text), its stop."""
    yield named("content_block_start", index=index, content_block=start)
    for type, member, text in deltas:
        yield block_delta(index, type, **{member: text})
    yield named("content_block_stop", index=index)


def tool_block(index, tool):
    """Begins with an empty fragment, as the API does."""
    pieces = ["", *tool.pieces()] if tool.arguments != "{}" else [""]
    return block(index, {"type": "tool_use", "id": tool.id, "name": tool.name, "input": {}},
                 [("input_json_delta", "partial_json", piece) for piece in pieces])


def parts(answer, model, wants_usage=True):
    """The events of a stream. The text's block is opened before its first word, and closed with the
    reason; a message with a thinking block has that first."""
    tokens = answer.usage if wants_usage else None
    opening, body, index = [message_start(model, tokens), named("ping")], [], 0
    if answer.thinking:
        deltas = [("thinking_delta", "thinking", piece) for piece in answer.thinking]
        deltas.append(("signature_delta", "signature", answer.signature))
        body += block(0, {"type": "thinking", "thinking": "", "signature": ""}, deltas)
        index = 1
    closing = []
    if answer.words:
        start, *words, stop = block(index, {"type": "text", "text": ""},
                                    [("text_delta", "text", word) for word in answer.words])
        (body if body else opening).append(start)
        body += words
        (body if answer.tools else closing).append(stop)
        index += 1
    for number, tool in enumerate(answer.tools):
        body += tool_block(index + number, tool)
    usage = {"usage": {"output_tokens": tokens.output}} if tokens else {}
    reason = {"stop_reason": STOPS[answer.finish], "stop_sequence": None}
    closing.append(named("message_delta", delta=reason, **usage))
    return Parts(opening, body, closing, [named("message_stop")])


def whole(answer, model):
    """The object of a whole answer."""
    content = []
    if answer.thinking:
        content.append({"type": "thinking", "thinking": "".join(answer.thinking),
                        "signature": answer.signature})
    if answer.words:
        content.append({"type": "text", "text": answer.text})
    content += [{"type": "tool_use", "id": tool.id, "name": tool.name,
                 "input": json.loads(tool.arguments)} for tool in answer.tools]
    message = {"id": "msg_fake", "type": "message", "role": "assistant", "model": model,
               "content": content, "stop_reason": STOPS[answer.finish], "stop_sequence": None}
    return message | ({"usage": usage_object(answer.usage)} if answer.usage else {})


def is_stream(exchange):
    return bool(exchange.json.get("stream"))


def wants_usage(exchange):
    return True


def model(exchange):
    return exchange.json["model"]


def turns(exchange):
    """The conversation as (role, text), tools and images left out."""
    return [(message["role"], text_of(message["content"])) for message in exchange.json["messages"]]
