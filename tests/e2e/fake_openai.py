# SPDX-License-Identifier: Apache-2.0
"""OpenAI's chat completions as a provider sends them (openai-openapi: CreateChatCompletionResponse,
CreateChatCompletionStreamResponse). Pure functions: an Answer in, bytes or objects out."""
from fake_answer import Parts
from fake_provider import DONE, chat_answer, delta, event

PATH = "/v1/chat/completions"
# What went wrong → the status, and the error object's type, code and message.
ERRORS = {
    "invalid": (400, "invalid_request_error", "invalid_value", "That value is not allowed."),
    "context": (400, "invalid_request_error", "context_length_exceeded",
                "This model's maximum context length is 8192 tokens, your messages have 9000."),
    "filter": (400, "invalid_request_error", "content_filter", "The prompt was filtered."),
    "auth": (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    "forbidden": (403, "invalid_request_error", "unsupported_country_region_territory", "Not here."),
    "missing": (404, "invalid_request_error", "model_not_found", "The model does not exist."),
    "unknown": (404, "invalid_request_error", None, "There is no such file."),
    "too_big": (413, "invalid_request_error", None, "Too large."),
    "unprocessable": (422, "invalid_request_error", None, "Cannot be processed."),
    "limited": (429, "requests", "rate_limit_exceeded", "Slow down."),
    "server": (500, "server_error", None, "It failed."),
    "bad_gateway": (502, "server_error", None, "Bad gateway."),
    "unavailable": (503, "server_error", None, "Unavailable."),
    "overloaded": (529, "server_error", None, "Overloaded."),
}


def error_body(kind):
    _, type, code, message = ERRORS[kind]
    return {"error": {"message": message, "type": type, "param": None, "code": code}}


def error_event(kind="server"):
    """An error reported inside a stream."""
    return event(error_body(kind))


def usage_object(tokens):
    return {"prompt_tokens": tokens.input, "completion_tokens": tokens.output,
            "total_tokens": tokens.input + tokens.output,
            "prompt_tokens_details": {"cached_tokens": tokens.cached, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": tokens.reasoning}}


def tool_deltas(tools):
    """Each call's first delta carries its name, later ones a fragment of its arguments."""
    for index, tool in enumerate(tools):
        first = {"index": index, "id": tool.id, "type": "function",
                 "function": {"name": tool.name, "arguments": ""}}
        yield delta(tool_calls=[first])
        for piece in tool.pieces():
            yield delta(tool_calls=[{"index": index, "function": {"arguments": piece}}])


def parts(answer, model, wants_usage=True):
    """The events of a stream; the usage chunk is part of the closing."""
    body = [delta(reasoning_content=piece) for piece in answer.thinking]
    body += [delta(content=word) for word in answer.words]
    body += tool_deltas(answer.tools)
    closing = [delta(finish=answer.finish)]
    if wants_usage and answer.usage:
        closing.append(delta() | {"choices": [], "usage": usage_object(answer.usage)})
    opening = [delta(role="assistant", content="")]
    written = [[event(item | {"model": model}) for item in group] for group in (opening, body, closing)]
    return Parts(*written, [DONE])


def whole(answer, model):
    """The object of a whole answer."""
    found = chat_answer(answer.text, model, answer.finish)
    message = found["choices"][0]["message"]
    if answer.thinking:
        message["reasoning_content"] = "".join(answer.thinking)
    if answer.tools:
        message["content"] = answer.text or None
        message["tool_calls"] = [
            {"id": tool.id, "type": "function",
             "function": {"name": tool.name, "arguments": tool.arguments}} for tool in answer.tools]
    del found["usage"]
    return found | ({"usage": usage_object(answer.usage)} if answer.usage else {})


def is_stream(exchange):
    return bool(exchange.json.get("stream"))


def wants_usage(exchange):
    return bool((exchange.json.get("stream_options") or {}).get("include_usage"))


def model(exchange):
    return exchange.json["model"]


def turns(exchange):
    """The conversation as (role, text), tools and images left out."""
    return [(message["role"], text_of(message.get("content"))) for message in exchange.json["messages"]]


def text_of(content):
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content or ""
