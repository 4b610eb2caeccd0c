# SPDX-License-Identifier: Apache-2.0
"""OpenAI's own OpenAPI document as the judge of our answers.

    check_answer("/v1/chat/completions", 200, body)          # body: bytes, text or what JSON gave
    check_answer("/v1/models", 200, body, method="GET")
    check_stream("/v1/responses", data)                      # all bytes of a complete event stream

Both raise AssertionError with the place and the reason. Answers of 400 and more are held against the
error schema. The document is $TEST_DATA/specs/openai-openapi.json.gz; without it the test is skipped.

The hard thing is to name the fault: an event is one of a hundred schemas, and a validator that tries
all of them says nothing useful. So the schema is picked by the event's type first.
"""
import gzip
import json
import os
from functools import lru_cache
from pathlib import Path

import jsonschema_rs
import pytest
from sluice import ROOT

PREFIX = "#/components/schemas/"
STREAMS = {"/chat/completions": "CreateChatCompletionStreamResponse",
           "/completions": "CreateCompletionResponse", "/responses": "ResponseStreamEvent"}
LAST_EVENTS = ("response.completed", "response.incomplete", "response.failed", "error")
DONE = b"[DONE]"


@lru_cache(maxsize=1)
def document():
    """The parsed OpenAPI document, its schemas made plain JSON Schema."""
    data = Path(os.environ.get("TEST_DATA", ROOT.parent / "shared"))
    path = data / "specs/openai-openapi.json.gz"
    if not path.exists():
        pytest.skip(f"no OpenAPI document at {path} (set TEST_DATA)")
    parsed = json.loads(gzip.decompress(path.read_bytes()))
    # OpenAI's server and SDKs say null while a response is in progress; only the document forgot it.
    for part in parsed["components"]["schemas"]["Response"]["allOf"]:
        part.get("properties", {}).get("usage", {})["nullable"] = True
    return accept_null(parsed)


def accept_null(node):
    """`nullable: true` was left over from older OpenAPI; JSON Schema says it with anyOf."""
    if isinstance(node, list):
        return [accept_null(value) for value in node]
    if not isinstance(node, dict):
        return node
    nullable = node.get("nullable") is True
    plain = {key: accept_null(value) for key, value in node.items() if not (nullable and key == "nullable")}
    return {"anyOf": [plain, {"type": "null"}]} if nullable else plain


@lru_cache(maxsize=None)
def validator(name):
    """A validator for a schema of the document."""
    return jsonschema_rs.validator_for({
        "$schema": "https://json-schema.org/draft/2020-12/schema", "$ref": PREFIX + name,
        "components": document()["components"]})


@lru_cache(maxsize=None)
def event_schemas():
    """The schema of each event of /responses, by the event's type."""
    schemas = document()["components"]["schemas"]
    found = {}
    for member in schemas["ResponseStreamEvent"]["anyOf"]:
        name = member["$ref"].removeprefix(PREFIX)
        about = schemas[name]["properties"]["type"]
        for value in about.get("enum", [about.get("const")]):
            found[value] = name
    return found


def check_answer(path, status, body, method="POST"):
    """A complete answer to a request for `path` ("/v1/…", a query is ignored). Returns it parsed."""
    value = parse(body)
    schema = "ErrorResponse" if status >= 400 else answer_schema(path, method)
    if schema:
        hold(schema, value, f"{method} {path} {status}")
    return value


def check_stream(path, data):
    """A complete stream: every event, their order and the end. Returns the parsed events."""
    path = path.partition("?")[0].removeprefix("/v1")
    events = [read_event(block) for block in data.split(b"\n\n") if read_event(block)]
    assert data.endswith(b"\n\n"), f"the stream ends within an event: {data[-200:]!r}"
    values = [(name, parse(text)) for name, text in events if text != DONE]
    if path == "/responses":
        check_response_events(values)
    else:
        assert events and events[-1] == (None, DONE), "the stream has no [DONE]"
        assert len(values) == len(events) - 1, "[DONE] is not the end"
        check_chunks(path, values)
    return [value for _, value in values]


def answer_schema(path, method):
    """The name of the schema of a good answer; None where the document gives none."""
    path = path.partition("?")[0].removeprefix("/v1")
    operation = operation_of(path, method.lower())
    assert operation, f"the OpenAPI document has no {method} {path}"
    content = operation["responses"]["200"].get("content", {})
    schema = content.get("application/json", {}).get("schema")
    return schema and schema["$ref"].removeprefix(PREFIX)


def operation_of(path, method):
    """The operation of a path, where a segment in braces stands for one or more of ours."""
    paths = document()["paths"]
    if method in paths.get(path, {}):
        return paths[path][method]
    for template, operations in paths.items():
        head, brace, rest = template.partition("{")
        tail = rest.partition("}")[2]
        if (brace and method in operations and path.startswith(head) and path.endswith(tail)
                and len(path) > len(head) + len(tail) and "{" not in tail):
            middle = path[len(head):len(path) - len(tail)]
            if "/" not in middle or head == "/models/":
                return operations[method]
    return None


def check_chunks(path, values):
    for name, value in values:
        assert name is None, f"a chunk has an event name: {name}"
        relaxed = value
        if path == "/completions":         # the document has no schema for chunks: only the last has a reason
            relaxed = value | {"choices": [choice | {"finish_reason": choice["finish_reason"] or "stop"}
                                           for choice in value["choices"]]}
        hold(STREAMS[path], relaxed, f"chunk of {path}")
    assert len({value["id"] for _, value in values}) == 1, "the chunks have different ids"


def check_response_events(values):
    assert values and values[0][0] == "response.created", "the stream does not begin with response.created"
    assert values[-1][0] in LAST_EVENTS, f"the stream ends with {values[-1][0]}"
    for number, (name, value) in enumerate(values):
        assert name == value["type"], f"the event {name} says that it is {value['type']}"
        assert name in event_schemas(), f"the OpenAPI document knows no event {name}"
        assert value["sequence_number"] == number, f"event {number} has {value['sequence_number']}"
        assert (name in LAST_EVENTS) == (number == len(values) - 1), f"{name} is not at the end"
        hold(event_schemas()[name], value, f"event {name}")


def read_event(block):
    """(name, data) of one event; None for comments alone."""
    lines = [line for line in block.split(b"\n") if line and not line.startswith(b":")]
    fields = [line.partition(b":") for line in lines]
    data = [value.removeprefix(b" ") for field, _, value in fields if field == b"data"]
    names = [value.strip().decode() for field, _, value in fields if field == b"event"]
    return (names[0] if names else None, b"\n".join(data)) if data else None


def parse(body):
    return json.loads(body) if isinstance(body, (bytes, str)) else body


def hold(schema, value, what):
    """Fail with the first few faults, the deepest first: those say what is wrong."""
    faults = sorted(validator(schema).iter_errors(value), key=lambda fault: -len(fault.instance_path))
    told = [f"  at /{'/'.join(map(str, fault.instance_path))}: {fault.message[:300]}"
            for fault in faults[:5]]
    assert not faults, f"{what} is not a {schema}:\n" + "\n".join(told) + f"\n  in {str(value)[:500]}"
