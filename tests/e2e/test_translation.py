# SPDX-License-Identifier: Apache-2.0
"""What a translated answer tells beyond its text: to strict clients, and to the operator. What each part becomes is
shown by tests/wire."""
import json

import fake_gemini
import pytest
from caller import MESSAGES, outcome
from fake_answer import Answer
from fake_provider import sse, whole
from raw_http import RawClient, request_bytes

ANSWER = Answer([" one", " two"], thinking=["Hm."])


def ask(sluice, provider, script, is_stream, more=""):
    """The answer's messages or deltas, put together, and the access line."""
    server = sluice(f'providers: {{g: {{kind: gemini, url: "{provider.url}"}}}}\n{more}')
    provider.script(script)
    with RawClient(server.port) as client:
        client.send(request_bytes("POST", "/v1/chat/completions",
                                  {"model": "g/gemini-2.5-flash", "messages": MESSAGES, "stream": is_stream},
                                  [("X-Request-Id", "asked")]))
        answer = client.read_response()
    assert answer.status == 200, answer.body
    if is_stream:
        said = [json.loads(line[6:]) for line in answer.body.split(b"\n")
                if line.startswith(b"data: {")]
        deltas = [choice["delta"] for chunk in said for choice in chunk["choices"]]
    else:
        deltas = [choice["message"] for choice in json.loads(answer.body)["choices"]]
    told = {name: "".join(delta.get(name) or "" for delta in deltas)
            for name in ("content", "reasoning_content") if any(name in delta for delta in deltas)}
    return told, outcome(server, "asked")


def script(answer, is_stream, finish="STOP"):
    if is_stream:
        parts = fake_gemini.parts(answer, "m")
        return sse(*[part.replace(b'"STOP"', b'"%s"' % finish.encode()) for part in parts.events])
    said = fake_gemini.whole(answer, "m")
    said["candidates"][0]["finishReason"] = finish
    return whole(json.dumps(said).encode())


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_reasoning_is_told(is_stream, sluice, provider):
    told, _ = ask(sluice, provider, script(ANSWER, is_stream), is_stream)
    assert told == {"content": " one two", "reasoning_content": "Hm."}


@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_strict_clients_are_told_no_reasoning(is_stream, sluice, provider):
    told, line = ask(sluice, provider, script(ANSWER, is_stream), is_stream, "reasoning_content: off\n")
    assert told == {"content": " one two"}
    assert line["outcome"] == "completed"


@pytest.mark.parametrize("finish", ["OTHER", "LANGUAGE", "MALFORMED_FUNCTION_CALL"])
@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
def test_odd_ends_are_logged(is_stream, finish, sluice, provider):
    told, line = ask(sluice, provider, script(ANSWER, is_stream, finish), is_stream)
    assert told["content"] == " one two"
    assert (line["outcome"], line["odd_end"]) == ("completed", finish)


def test_usual_ends_are_not_odd(sluice, provider):
    _, line = ask(sluice, provider, script(ANSWER, False), False)
    assert "odd_end" not in line
