# SPDX-License-Identifier: Apache-2.0
"""Gemini's generateContent as a provider sends it (the types of @google/genai:
GenerateContentResponse). Pure functions: an Answer in, bytes or objects out.

A stream is a row of partial answers: no end marker, calls come whole, and the usage in each
counts everything so far."""
import json
import re

from fake_answer import Parts
from fake_provider import event

PATH = "/v1beta/models/"
# What went wrong → the status, and the error object's status and message.
ERRORS = {
    "invalid": (400, "INVALID_ARGUMENT", "That value is not allowed."),
    "context": (400, "INVALID_ARGUMENT", "The input token count (1200000) exceeds the maximum "
                                         "number of tokens allowed (1048576)."),
    "auth": (401, "UNAUTHENTICATED", "API key not valid. Please pass a valid API key."),
    "forbidden": (403, "PERMISSION_DENIED", "The caller does not have permission."),
    "missing": (404, "NOT_FOUND", "models/no-such-model is not found for API version v1beta."),
    "unknown": (404, "NOT_FOUND", "There is no such file."),
    "too_big": (413, "INVALID_ARGUMENT", "Request payload size exceeds the limit."),
    "unprocessable": (422, "INVALID_ARGUMENT", "Cannot be processed."),
    "limited": (429, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
    "server": (500, "INTERNAL", "An internal error has occurred."),
    "bad_gateway": (502, "INTERNAL", "Bad gateway."),
    "unavailable": (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
    "overloaded": (529, "UNAVAILABLE", "The model is overloaded. Please try again later."),
}
FINISHES = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "content_filter": "SAFETY"}


def error_body(kind):
    status, name, message = ERRORS[kind]
    return {"error": {"code": status, "message": message, "status": name, "details": []}}


def error_event(kind="server"):
    """An error reported inside a stream."""
    return event(error_body(kind))


def usage_object(tokens, output=None):
    """Thoughts are counted apart from the rest of the output; the prompt includes what was cached."""
    said = tokens.output - tokens.reasoning if output is None else output
    return {"promptTokenCount": tokens.input, "candidatesTokenCount": said,
            "thoughtsTokenCount": tokens.reasoning, "cachedContentTokenCount": tokens.cached,
            "totalTokenCount": tokens.input + said + tokens.reasoning}


def piece(model, *content, finish=None, usage=None):
    """One GenerateContentResponse."""
    candidate = {"content": {"role": "model", "parts": list(content)}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    answer = {"candidates": [candidate], "modelVersion": model, "responseId": "resp-fake"}
    return answer | ({"usageMetadata": usage} if usage else {})


def blocked(model):
    """The answer to a prompt that a filter refuses: no candidates at all."""
    return {"promptFeedback": {"blockReason": "SAFETY", "safetyRatings": []}, "modelVersion": model,
            "usageMetadata": {"promptTokenCount": 9, "totalTokenCount": 9}}


def contents(answer):
    """The answer's parts, one for each token; the first call carries the signature."""
    found = [{"text": text, "thought": True} for text in answer.thinking]
    found += [{"text": word} for word in answer.words]
    for number, tool in enumerate(answer.tools):
        call = {"functionCall": {"name": tool.name, "args": json.loads(tool.arguments)}}
        found.append(call | ({"thoughtSignature": answer.signature} if not number and answer.signature
                             else {}))
    return found


def parts(answer, model, wants_usage=True):
    """The events of a stream; the first has nothing in it, as after a long thought."""
    tokens = answer.usage if wants_usage else None
    body = [piece(model, part, usage=tokens and usage_object(tokens, number))
            for number, part in enumerate(contents(answer), 1)]
    last = piece(model, {"text": ""}, finish=FINISHES[answer.finish], usage=tokens and usage_object(tokens))
    return Parts([event(piece(model, {"text": ""}))], [event(item) for item in body], [event(last)], [])


def whole(answer, model):
    """The object of a whole answer."""
    said = [part for part in contents(answer) if "text" not in part or part.get("thought")]
    if answer.words:
        said.insert(len(answer.thinking), {"text": answer.text})
    return piece(model, *said, finish=FINISHES[answer.finish],
                 usage=answer.usage and usage_object(answer.usage))


def is_stream(exchange):
    return ":streamGenerateContent" in exchange.target


def wants_usage(exchange):
    return True


def model(exchange):
    return re.search(r"/models/([^:?]*):", exchange.target)[1]


def turns(exchange):
    """The conversation as (role, text), with OpenAI's names of roles."""
    roles = {"model": "assistant"}
    return [(roles.get(content["role"], content["role"]),
             "".join(part.get("text") or "" for part in content["parts"]))
            for content in exchange.json["contents"]]
