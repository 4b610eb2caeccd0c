# SPDX-License-Identifier: Apache-2.0
"""Responses made in the background, and responses streamed once more: polled, followed from any thread, resumed,
cancelled, and what becomes of them when the caller leaves, the provider fails or the process ends.

The judges are those of test_responses.py.
"""
import json
import threading
import time

import openai
import pytest
from fake_answer import Answer, Tokens, Tool
from fake_models import FakeModels
from fake_provider import HANG, FakeProvider, chat_events, error, sse, whole
from postgres import Postgres
from raw_http import RawClient, request_bytes
from schema_judge import check_answer, check_stream
from sluice import HANG_GUARD_S
from test_responses import (CALLS, KINDS, PATCH, PATCHES, PATH, WEATHER, ask, ask_stream, call, config, events,
                            passed, refused, restarted, text_of)

ENDED = ("completed", "failed", "incomplete", "cancelled")
PIECES = ["Hel", "lo ", "you"]


@pytest.fixture
def fake():
    with FakeModels() as models:
        models.answer = Answer(PIECES, thinking=["Let me think."], usage=Tokens(11, 5, 4, 0, 2))
        yield models


@pytest.fixture
def server(sluice, fake):
    return sluice("workers: 3\n" + config(fake))


def get_stream(server, id, after=None, key=None):
    """All bytes of GET ?stream=true."""
    query = "?stream=true" + ("" if after is None else f"&starting_after={after}")
    headers = [("Authorization", f"Bearer {key}")] if key else []
    with RawClient(server.port) as client:
        response = client.request("GET", f"{PATH}/{id}{query}", None, headers)
    assert response.status == 200, response.body
    assert response.header("content-type").startswith("text/event-stream")
    return response.body


def begin(server, model="openai", headers=(), **members):
    """Ask in the background; what the caller is told at once."""
    body = {"model": model, "input": "Say hello", "background": True} | members
    with RawClient(server.port) as client:
        response = client.request("POST", PATH, body, headers)
    assert response.status == 200, response.body
    check_answer(PATH, response.status, response.json)
    assert response.json["status"] == "queued" and response.json["background"] is True
    assert response.header("connection") == "close"
    return response.json


def poll(server, id, until=ENDED):
    end = time.monotonic() + HANG_GUARD_S
    while True:
        status, answer = call(server, "GET", f"{PATH}/{id}")
        check_answer(f"{PATH}/{{response_id}}", status, answer, method="GET")
        assert status == 200 and time.monotonic() < end, answer
        if answer["status"] in until:
            return answer
        time.sleep(0.02)


def gated(*pieces, gate, at=1):
    """A stream that waits before its `at`-th piece until the gate is opened."""
    said = chat_events(*pieces, usage=(9, 3))
    return sse(*said[:at + 1], gate, *said[at + 1:])


def numbers(said):
    return [item["sequence_number"] for item in said]


def told(body):
    return "".join(item["delta"] for item in events(body) if item["type"] == "response.output_text.delta")


# ---- once more ----

ANSWERS = {
    "text": (Answer(PIECES, thinking=["Let me ", "think."], usage=Tokens(11, 5, 4, 0, 2)), {}),
    "calls": (CALLS, {"tools": [WEATHER]}),
    "no arguments": (Answer([], tools=[Tool("call_1", "weather", "{}")], finish="tool_calls"), {"tools": [WEATHER]}),
    "custom": (PATCHES, {"tools": [PATCH]}),
    "cut": (Answer(["Hel"], finish="length"), {}),
    "filtered": (Answer(["Hel"], finish="content_filter"), {}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ANSWERS)
def test_a_response_is_streamed_again(server, fake, kind, what):
    fake.answer, members = ANSWERS[what]
    made = ask(server, kind, **members)
    body = get_stream(server, made["id"])
    check_stream(PATH, body)
    said = events(body)
    assert numbers(said) == list(range(len(said)))
    assert [item["type"] for item in said[:2]] == ["response.created", "response.in_progress"]
    assert said[0]["response"]["output"] == [] and said[0]["response"]["status"] == "in_progress"
    assert said[-1]["type"] == f"response.{made['status']}" and said[-1]["response"] == made
    assert told(body) == text_of(made)
    assert [item["item"] for item in said if item["type"] == "response.output_item.done"] == made["output"]
    for after in range(len(said)):
        assert events(get_stream(server, made["id"], after)) == said[after + 1:]
    assert get_stream(server, made["id"], 10**6) == b""


def test_it_is_told_as_it_was_when_each_text_came_at_once(server, fake):
    fake.answer = Answer(["Hello you"], thinking=["Hm."], tools=[Tool("call_1", "weather", '{"city":"Oslo"}', 1)],
                         finish="tool_calls")
    live = events(ask_stream(server, tools=[WEATHER]))
    assert events(get_stream(server, live[0]["response"]["id"])) == live


def test_a_streamed_response_is_told_from_its_beginning_only(server):
    id = events(ask_stream(server))[0]["response"]["id"]
    body = get_stream(server, id)
    check_stream(PATH, body)
    assert told(body) == "Hello you"
    message = refused(server, 400, "unsupported_parameter", "GET", f"{PATH}/{id}?stream=true&starting_after=3")
    assert message["param"] == "starting_after"


def test_bad_questions_for_a_stream(server):
    id = ask(server)["id"]
    for after in ("x", "-1", "1.5", "99999999999999999999999"):
        refused(server, 400, "invalid_value", "GET", f"{PATH}/{id}?stream=true&starting_after={after}")
    refused(server, 404, None, "GET", f"{PATH}/resp_none?stream=true")
    assert call(server, "GET", f"{PATH}/{id}?stream=false")[1]["id"] == id


def test_a_failed_response_is_told_as_failed(server, fake):
    fake.script(sse(*chat_events("Hel", "lo")[:2], end=False))
    live = events(ask_stream(server))
    assert live[-1]["type"] == "response.failed"
    answer = poll(server, live[0]["response"]["id"])
    body = get_stream(server, answer["id"])
    check_stream(PATH, body)
    assert events(body)[-1]["type"] == "response.failed" and events(body)[-1]["response"] == answer


# ---- in the background ----

@pytest.mark.parametrize("kind", KINDS)
def test_it_is_made_while_nobody_waits(server, fake, kind):
    queued = begin(server, kind)
    answer = poll(server, queued["id"])
    assert answer["status"] == "completed" and text_of(answer) == "Hello you"
    assert answer["background"] is True and answer["usage"]["input_tokens"] == 11
    line = server.wait_log("request", path=PATH, model=kind)
    assert (line["status"], line["outcome"], line["input_tokens"], line["output_tokens"]) == (200, "completed", 11, 5)
    more = ask(server, kind, input="And?", previous_response_id=queued["id"])
    assert more["status"] == "completed"
    _, page = call(server, "GET", f"{PATH}/{queued['id']}/input_items")
    assert page["data"][0]["content"][0]["text"] == "Say hello"


def test_it_is_shown_as_in_progress_and_cannot_be_built_on(server, fake):
    gate = threading.Event()
    fake.script(gated("Hel", "lo", gate=gate))
    id = begin(server, instructions="Be brief", metadata={"a": "b"})["id"]
    fake.wait_request()
    status, answer = call(server, "GET", f"{PATH}/{id}")
    check_answer(f"{PATH}/{{response_id}}", status, answer, method="GET")
    assert (answer["status"], answer["instructions"], answer["metadata"]) == ("in_progress", "Be brief", {"a": "b"})
    refused(server, 400, "invalid_value", body={"model": "openai", "input": "x", "previous_response_id": id})
    gate.set()
    assert text_of(poll(server, id)) == "Hello"


def test_it_is_cancelled(server, fake):
    fake.script(gated("Hel", "lo", gate=HANG))
    id = begin(server)["id"]
    exchange = fake.wait_request()
    with RawClient(server.port) as client:
        client.send(request_bytes("GET", f"{PATH}/{id}?stream=true"))
        client.read_head()
        body = b""
        while b'"Hel"' not in body:
            body += client.read_chunk()
        status, answer = call(server, "POST", f"{PATH}/{id}/cancel")
        check_answer(f"{PATH}/{{response_id}}/cancel", status, answer)
        assert (status, answer["status"], text_of(answer)) == (200, "cancelled", "Hel")
        exchange.wait_peer_closed()
        while piece := client.read_chunk():
            body += piece
    said = events(body)
    assert said[-1]["type"] == "error" and said[-1]["code"] == "response_cancelled"
    assert numbers(said) == list(range(len(said)))
    assert get_stream(server, id) == body
    assert call(server, "GET", f"{PATH}/{id}") == (200, answer)


def test_it_ends_when_it_is_deleted(server, fake):
    fake.script(gated("Hel", "lo", gate=HANG))
    id = begin(server)["id"]
    exchange = fake.wait_request()
    assert call(server, "DELETE", f"{PATH}/{id}")[0] == 200
    exchange.wait_peer_closed()
    refused(server, 404, None, "GET", f"{PATH}/{id}")


@pytest.mark.parametrize("fault, code, words", [
    (error(500), "server_error", "It failed."),
    (error(400, "No such voice.", "invalid_request_error"), "invalid_prompt", "No such voice."),
    (error(429, "Slow down.", "requests", "rate_limit_exceeded"), "rate_limit_exceeded", "Slow down."),
], ids=["500", "400", "429"])
def test_what_fails_is_told_to_who_asks(sluice, fake, fault, code, words):
    server = sluice(config(fake, "retry: {attempts: 1}\n"))
    fake.script(fault)
    answer = poll(server, begin(server)["id"])
    assert (answer["status"], answer["error"]["code"]) == ("failed", code), answer["error"]
    said = events(get_stream(server, answer["id"]))
    assert said[-1]["type"] == "response.failed" and said[-1]["response"] == answer
    check_stream(PATH, get_stream(server, answer["id"]))
    assert words in answer["error"]["message"] or code == "server_error"


def test_mistakes_are_told_at_once(server, fake):
    refused(server, 404, "model_not_found", body={"model": "none/x", "input": "x", "background": True})
    refused(server, 400, "invalid_value", body={"model": "openai", "input": "x", "background": True, "store": False})
    refused(server, 400, "invalid_value", body={"model": "openai", "background": True,
                                                "input": [{"role": "nobody", "content": "x"}]})
    refused(server, 404, "previous_response_not_found",
            body={"model": "openai", "input": "x", "background": True, "previous_response_id": "resp_0"})
    assert not fake.requests


def test_a_provider_of_this_api_makes_it_itself(sluice, provider):
    provider.default = passed("resp_there")
    server = sluice(f'providers:\n  a: {{url: "{provider.url}", key: "sk-p", responses: on}}\n'
                    'models: {m: {targets: a/m}}\n')
    body = {"model": "m", "input": "x", "background": True}
    assert call(server, "POST", PATH, body)[1]["id"] == "resp_there"
    assert provider.wait_request().json == body
    provider.default = whole({"id": "resp_there", "object": "response"})
    call(server, "GET", f"{PATH}/resp_there?stream=true&starting_after=2")
    assert provider.requests[-1].target == "/v1/responses/resp_there?stream=true&starting_after=2"


def test_a_key_that_comes_twice_makes_it_once(server, fake):
    headers = [("Idempotency-Key", "k1")]
    first = begin(server, headers=headers)
    body = {"model": "openai", "input": "Say hello", "background": True}
    with RawClient(server.port) as client:
        again = client.request("POST", PATH, body, headers)
    assert (again.status, again.json) == (200, first) and again.header("idempotent-replayed") == "true"
    poll(server, first["id"])
    assert len(fake.requests) == 1


# ---- as a stream ----

def test_its_events_say_that_it_was_queued(server):
    body = ask_stream(server, background=True)
    check_stream(PATH, body)
    said = events(body)
    assert numbers(said) == list(range(len(said)))
    assert [item["type"] for item in said[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert said[0]["response"]["status"] == said[1]["response"]["status"] == "queued"
    assert said[-1]["type"] == "response.completed" and told(body) == "Hello you"
    id = said[0]["response"]["id"]
    assert call(server, "GET", f"{PATH}/{id}") == (200, said[-1]["response"])
    assert get_stream(server, id) == body
    for after in range(len(said)):
        assert events(get_stream(server, id, after)) == said[after + 1:]


def read_until(client, what):
    client.read_head()
    body = b""
    while what not in body:
        body += client.read_chunk()
    return body[:body.rindex(b"\n\n") + 2]


def test_whoever_was_cut_off_goes_on_where_he_was(server, fake):
    gate = threading.Event()
    fake.script(gated("Hel", "lo ", "you", gate=gate))
    with RawClient(server.port) as client:
        client.send(request_bytes("POST", PATH, {"model": "openai", "input": "x", "background": True, "stream": True}))
        seen = read_until(client, b'"Hel"')
        client.reset()
    said = events(seen)
    id = said[0]["response"]["id"]
    rest = []

    def follow():
        rest.append(get_stream(server, id, said[-1]["sequence_number"]))

    threads = [threading.Thread(target=follow) for _ in range(6)]       # some of them in other threads of the server
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    gate.set()
    for thread in threads:
        thread.join()
    whole_stream = get_stream(server, id)
    check_stream(PATH, whole_stream)
    assert told(whole_stream) == "Hello you"
    assert rest == [whole_stream[len(seen):]] * 6 and whole_stream.startswith(seen)


def test_coming_back_at_its_end_gives_the_rest(server, fake):
    """Between what the store says and what is still being made nothing is lost."""
    for _ in range(60):
        with RawClient(server.port) as client:
            client.send(request_bytes("POST", PATH, {"model": "openai", "input": "x", "background": True,
                                                     "stream": True}))
            seen = read_until(client, b"response.in_progress")
        said = events(seen)
        rest = get_stream(server, said[0]["response"]["id"], said[-1]["sequence_number"])
        assert told(seen + rest) == "Hello you" and b"response.completed" in seen + rest


def test_who_follows_may_leave(server, fake):
    gate = threading.Event()
    fake.script(gated("Hel", "lo", gate=gate))
    id = begin(server)["id"]
    fake.wait_request()
    for _ in range(3):
        with RawClient(server.port) as client:
            client.send(request_bytes("GET", f"{PATH}/{id}?stream=true"))
            read_until(client, b'"Hel"')
    gate.set()
    assert text_of(poll(server, id)) == "Hello"


def test_signs_of_life_go_to_who_follows(sluice, fake):
    server = sluice(config(fake, "stream: {heartbeat: 100ms}\n"))
    gate = threading.Event()
    fake.script(gated("Hel", "lo", gate=gate))
    bodies = []
    thread = threading.Thread(target=lambda: bodies.append(ask_stream(server, background=True)))
    thread.start()
    fake.wait_request()
    time.sleep(0.5)
    gate.set()
    thread.join()
    id = events(bodies[0])[0]["response"]["id"]
    assert b": keep-alive" in bodies[0] and b": keep-alive" not in get_stream(server, id)


def test_what_is_not_made_in_the_background_cannot_be_followed(server, fake):
    gate = threading.Event()
    fake.script(gated("Hel", "lo", gate=gate))
    with RawClient(server.port) as client:
        client.send(request_bytes("POST", PATH, {"model": "openai", "input": "x", "stream": True}))
        id = events(read_until(client, b'"Hel"'))[0]["response"]["id"]
        refused(server, 400, "invalid_value", "GET", f"{PATH}/{id}?stream=true")
        gate.set()
        while client.read_chunk():
            pass
    assert told(get_stream(server, id)) == "Hello"


# ---- the end of a process ----

def test_it_is_lost_with_its_process(server, sluice, fake):
    fake.script(gated("Hel", "lo", gate=HANG))
    id = begin(server)["id"]
    fake.wait_request()
    server = restarted(server, sluice, fake, "kill")
    answer = poll(server, id)
    assert answer["status"] == "failed" and answer["error"]["message"].startswith("killed:")
    refused(server, 400, "invalid_value", "GET", f"{PATH}/{id}?stream=true")


def test_what_was_made_is_there_after_a_restart(server, sluice, fake):
    id = begin(server)["id"]
    answer, body = poll(server, id), get_stream(server, id)
    server = restarted(server, sluice, fake, "kill")
    assert call(server, "GET", f"{PATH}/{id}") == (200, answer) and get_stream(server, id) == body


@pytest.mark.parametrize("timeout, status", [("5s", "completed"), ("100ms", "failed")])
def test_a_drain_waits_for_it(sluice, fake, timeout, status):
    server = sluice(config(fake, f"drain: {{timeout: {timeout}}}\n"))
    gate = threading.Event()
    fake.script(gated("Hel", "lo", gate=gate if status == "completed" else HANG))
    id = begin(server)["id"]
    fake.wait_request()
    threading.Timer(0.5, gate.set).start()
    server = restarted(server, sluice, fake)
    assert poll(server, id)["status"] == status


def test_another_process_sees_it_and_may_cancel_it(sluice, fake):
    with Postgres() as database:
        one, other = (sluice(config(fake, f'store: "{database.url}"\n')) for _ in range(2))
        gate = threading.Event()
        fake.script(gated("Hel", "lo", gate=gate))
        id = begin(one)["id"]
        fake.wait_request()
        assert call(other, "GET", f"{PATH}/{id}")[1]["status"] == "in_progress"
        message = refused(other, 400, "invalid_value", "GET", f"{PATH}/{id}?stream=true")
        assert "another process" in message["message"]
        gate.set()
        assert poll(other, id)["status"] == "completed"
        assert get_stream(other, id) == get_stream(one, id)
        fake.script(gated("Hel", "lo", gate=HANG))
        id = begin(one)["id"]
        exchange = fake.wait_request()
        assert call(other, "POST", f"{PATH}/{id}/cancel")[1]["status"] == "cancelled"
        exchange.wait_peer_closed()


def test_its_end_waits_for_a_store_that_is_away(sluice, fake):
    """Nobody has it yet: it is paid for, and is not lost."""
    with Postgres() as database:
        server = sluice(config(fake, f'store: "{database.url}"\n'))
        gate = threading.Event()
        fake.script(gated("Hel", "lo", gate=gate))
        id = begin(server)["id"]
        fake.wait_request()
        database.end()
        server.wait_log("the store is away")
        gate.set()
        server.wait_log("a response is kept when the store is well")
        time.sleep(6)                                  # longer than the end of a request waits for the store
        database.start()
        server.wait_log("the store is there again")
        answer = poll(server, id)
        assert answer["status"] == "completed" and text_of(answer) == "Hello", answer
        assert not server.log_lines("a response could not be kept")


def test_an_outage_is_said_once(sluice, fake):
    """By whoever looks after responses and marks, too."""
    with Postgres() as database:
        server = sluice(config(fake, f'store: "{database.url}"\n'))
        fake.script(gated("Hel", "lo", gate=HANG))     # it is asked often whether somebody wants to cancel it
        begin(server)
        fake.wait_request()
        database.end()
        server.wait_log("kept responses cannot be looked after at the moment")
        time.sleep(5)
        assert len(server.log_lines("kept responses cannot be looked after at the moment")) == 1
        database.start()


# ---- the SDK ----

@pytest.fixture
def sdk(server):
    with openai.OpenAI(base_url=server.url, api_key="sk-of-the-caller", max_retries=0) as client:
        yield client


def test_sdk_polls(sdk):
    made = sdk.responses.create(model="openai", input="Say hello", background=True)
    while made.status in ("queued", "in_progress"):
        made = sdk.responses.retrieve(made.id)
    assert made.status == "completed" and made.output_text == "Hello you"
    assert sdk.responses.retrieve(made.id, stream=True).response.status_code == 200


def test_sdk_resumes(sdk):
    seen = []
    for item in sdk.responses.create(model="openai", input="Say hello", background=True, stream=True):
        seen.append(item)
        if item.type == "response.output_text.delta":
            break
    id = seen[0].response.id
    rest = list(sdk.responses.retrieve(id, stream=True, starting_after=seen[-1].sequence_number))
    assert [item.sequence_number for item in seen + rest] == list(range(len(seen) + len(rest)))
    assert "".join(item.delta for item in seen + rest if item.type == "response.output_text.delta") == "Hello you"
    assert rest[-1].type == "response.completed" and rest[-1].response.output_text == "Hello you"


def test_sdk_cancels(sdk, fake):
    fake.script(gated("Hel", "lo", gate=HANG))
    made = sdk.responses.create(model="openai", input="Say hello", background=True)
    fake.wait_request()
    assert sdk.responses.cancel(made.id).status == "cancelled"
    with pytest.raises(openai.APIError, match="cancelled"):
        list(sdk.responses.retrieve(made.id, stream=True))


def test_whoever_follows_at_the_very_end_gets_it_all(server):
    """A response that ends between two looks at it is neither running nor unknown."""
    answers = []

    def follow():
        for _ in range(60):
            id = begin(server)["id"]
            answers.extend(get_stream(server, id) for _ in range(4))

    threads = [threading.Thread(target=follow) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8 * 60 * 4 and all(b"event: response.completed" in told for told in answers)
