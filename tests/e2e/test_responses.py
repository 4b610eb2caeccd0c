# SPDX-License-Identifier: Apache-2.0
"""OpenAI's responses API in front of models that do not speak it: streams, conversations that are
continued, and responses that are fetched, listed, deleted and cancelled.

The judges are OpenAI's own OpenAPI document (schema_judge) and the stream accumulator of its Python
SDK. How each event is written is the wire tests'.
"""
import json
import signal
import sqlite3
import threading
import time

import openai
import pytest
from fake_answer import Answer, Tokens, Tool
from fake_models import FakeModels
from fake_provider import HANG, FakeProvider, chat_events, error, event, sse, whole
from postgres import Postgres
from raw_http import RawClient, request_bytes
from schema_judge import check_answer, check_stream
from sluice import BUSY_S, HANG_GUARD_S

PATH = "/v1/responses"
WEATHER = {"type": "function", "name": "weather", "description": "Weather of a city", "strict": True,
           "parameters": {"type": "object", "properties": {"city": {"type": "string"}},
                          "required": ["city"], "additionalProperties": False}}
SAYS = Answer(["Hel", "lo ", "you"], thinking=["Let me ", "think."], usage=Tokens(11, 5, 4, 0, 2))
CALLS = Answer(["I look."], tools=[Tool("call_1", "weather", '{"city": "Oslo"}'),
                                   Tool("call_2", "weather", '{"city": "Rome"}')],
               finish="tool_calls")
PATCH = {"type": "custom", "name": "apply_patch", "description": "Edit files",
         "format": {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin Patch" LF'}}
PATCHED = "*** Begin Patch\n+\"é😀\"\n*** End Patch\n"
PATCHES = Answer([], tools=[Tool("call_p", "apply_patch", json.dumps({"input": PATCHED}))], finish="tool_calls")
KINDS = ("openai", "anthropic", "gemini")


@pytest.fixture
def fake():
    with FakeModels() as models:
        models.answer = SAYS
        yield models


def config(fake, more=""):
    return fake.config(KINDS, more)


@pytest.fixture
def server(sluice, fake):
    return sluice(config(fake))


def call(server, method, path, body=None, key=None):
    """One request on a connection of its own: (status, what the JSON says)."""
    headers = [("Authorization", f"Bearer {key}")] if key else []
    with RawClient(server.port) as client:
        client.send(request_bytes(method, path, body, headers))
        response = client.read_response()
    return response.status, json.loads(response.body)


def ask(server, model="openai", key=None, **members):
    status, answer = call(server, "POST", PATH, {"model": model, "input": "Say hello"} | members, key)
    assert status == 200, answer
    check_answer(PATH, status, answer)
    return answer


def ask_stream(server, **members):
    """All bytes of a stream, which the schema allows."""
    body = {"model": "openai", "input": "Say hello", "stream": True} | members
    with RawClient(server.port) as client:
        client.send(request_bytes("POST", PATH, body))
        response = client.read_response()
    assert response.status == 200, response.body
    return response.body


def events(body):
    return [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: ")]


def text_of(answer):
    return "".join(part["text"] for item in answer["output"] if item["type"] == "message"
                   for part in item["content"])


def refused(server, status, code, method="POST", path=PATH, body=None, key=None):
    got, answer = call(server, method, path, body, key)
    assert (got, answer["error"]["code"]) == (status, code), answer
    return answer["error"]


# ---- answers ----

@pytest.mark.parametrize("kind", KINDS)
def test_whole_answer(server, kind):
    answer = ask(server, kind)
    assert answer["status"] == "completed" and text_of(answer) == "Hello you"
    assert answer["id"].startswith("resp_") and len(answer["id"]) == 29
    reasoning = answer["output"][0]
    assert reasoning["type"] == "reasoning" and reasoning["content"][0]["text"] == "Let me think."


@pytest.mark.parametrize("kind", KINDS)
def test_stream_ends_with_what_it_said(server, kind):
    body = ask_stream(server, model=kind)
    check_stream(PATH, body)
    said = events(body)
    assert [item["sequence_number"] for item in said] == list(range(len(said)))
    deltas = "".join(item["delta"] for item in said if item["type"] == "response.output_text.delta")
    assert deltas == "Hello you" == text_of(said[-1]["response"])
    assert b"[DONE]" not in body


@pytest.mark.parametrize("kind", KINDS)
def test_parallel_calls(server, fake, kind):
    fake.answer = CALLS
    body = ask_stream(server, model=kind, tools=[WEATHER])
    check_stream(PATH, body)
    calls = [item for item in events(body)[-1]["response"]["output"]
             if item["type"] == "function_call"]
    assert [json.loads(item["arguments"])["city"] for item in calls] == ["Oslo", "Rome"]
    assert len({item["call_id"] for item in calls}) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_usage_is_the_providers(server, kind):
    usage = ask(server, kind)["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (11, 5)
    assert usage["input_tokens_details"]["cached_tokens"] == 4


@pytest.mark.parametrize("kind", KINDS)
def test_sdk_gathers_a_stream(server, fake, kind):
    """responses.stream() raises when an event does not fit those before it."""
    fake.answer = CALLS
    with openai.OpenAI(base_url=server.url, api_key="sk-of-the-caller", max_retries=0) as client:
        with client.responses.stream(model=kind, input="Say hello", tools=[WEATHER]) as stream:
            kinds = [item.type for item in stream]
            final = stream.get_final_response()
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert final.output_text == "I look."
    assert [item.name for item in final.output if item.type == "function_call"] == ["weather"] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_custom_tool_of_an_agent(server, fake, kind):
    """Its input is a text both ways, whatever the provider calls it."""
    fake.answer = PATCHES
    body = ask_stream(server, model=kind, tools=[PATCH])
    check_stream(PATH, body)
    said = events(body)
    deltas = [item["delta"] for item in said if item["type"] == "response.custom_tool_call_input.delta"]
    (item,) = [item for item in said[-1]["response"]["output"] if item["type"] == "custom_tool_call"]
    assert "".join(deltas) == item["input"] == PATCHED
    fake.answer = SAYS
    result = {"type": "custom_tool_call_output", "call_id": item["call_id"], "output": "Done!"}
    answer = ask(server, kind, tools=[PATCH], input=[result, {"role": "user", "content": "And?"}],
                 previous_response_id=said[-1]["response"]["id"])
    assert text_of(answer) == "Hello you"
    sent = json.dumps(fake.asked("m")[-1].json)
    assert "Begin Patch" in sent and "Done!" in sent


@pytest.mark.parametrize("kind", KINDS)
def test_sdk_gathers_a_custom_call(server, fake, kind):
    fake.answer = PATCHES
    with openai.OpenAI(base_url=server.url, api_key="sk-of-the-caller", max_retries=0) as client:
        with client.responses.stream(model=kind, input="Say hello", tools=[PATCH]) as stream:
            kinds = [item.type for item in stream]
            final = stream.get_final_response()
    assert "response.custom_tool_call_input.done" in kinds
    assert [item.input for item in final.output if item.type == "custom_tool_call"] == [PATCHED]


def test_grammar_of_a_custom_tool_is_reported(server, fake):
    with RawClient(server.port) as client:
        client.send(request_bytes("POST", PATH, {"model": "openai", "input": "x", "tools": [PATCH]}))
        response = client.read_response()
    assert (response.status, response.header("x-sluice-dropped")) == (200, "tools.format")


def test_settings_are_repeated(server):
    answer = ask(server, instructions="Be brief.", temperature=0.5, metadata={"a": "b"},
                 tools=[WEATHER], tool_choice="required", max_output_tokens=50)
    assert answer["instructions"] == "Be brief." and answer["temperature"] == 0.5
    assert answer["metadata"] == {"a": "b"} and answer["tools"] == [WEATHER]
    assert answer["tool_choice"] == "required" and answer["max_output_tokens"] == 50


def test_cut_answer_is_incomplete(server, fake):
    fake.answer = Answer(["Once", " upon"], finish="length")
    answer = ask(server)
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}
    check_stream(PATH, ask_stream(server))


def test_failure_in_mid_stream_is_told(server, fake):
    fake.answer = None
    fake.plan("m", "cut:3")
    said = events(ask_stream(server))
    assert said[-1]["type"] == "response.failed"
    response = said[-1]["response"]
    assert response["status"] == "failed" and response["error"]["code"] == "server_error"
    assert text_of(response) == "".join(
        item["delta"] for item in said if item["type"] == "response.output_text.delta")
    refused(server, 400, "invalid_value",
            body={"model": "openai", "input": "x", "previous_response_id": response["id"]})


def test_failure_before_the_first_word_is_an_error(server, fake):
    fake.plan("m", "500")
    status, answer = call(server, "POST", PATH, {"model": "openai", "input": "a b", "stream": True})
    assert status == 502 and answer["error"]["type"] == "server_error"


@pytest.mark.parametrize("type", ["file_search", "mcp", "code_interpreter"])
def test_built_in_tools_are_refused_by_name(server, type):
    error = refused(server, 400, "unsupported_parameter",
                    body={"model": "openai", "input": "x", "tools": [{"type": type}]})
    assert type in error["message"]


def test_tools_that_agents_offer_everybody_are_left_out(server, fake):
    body = {"model": "openai", "input": "x y", "tools": [{"type": "web_search"}, WEATHER]}
    with RawClient(server.port) as client:
        client.send(request_bytes("POST", PATH, body))
        response = client.read_response()
    assert (response.status, response.header("x-sluice-dropped")) == (200, "web_search")
    assert [tool["type"] for tool in fake.asked("m")[-1].json["tools"]] == ["function"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("conversation", ["conv_1", {"id": "conv_1"}])
def test_conversations_that_only_a_provider_keeps_are_refused(server, fake, kind, conversation):
    for background in (False, None):
        error = refused(server, 400, "unsupported_parameter", body={
            "model": kind, "input": "x", "conversation": conversation, "background": background})
        assert "conversation" in error["message"] and error["param"] == "conversation"
    refused(server, 400, "mutually_exclusive_parameters", body={
        "model": kind, "input": "x", "conversation": conversation, "previous_response_id": "resp_1"})
    assert not fake.requests
    assert ask(server, kind, conversation=None)["status"] == "completed"


# ---- conversations ----

def contents(exchange):
    return [(message["role"], message["content"]) for message in exchange.json["messages"]]


def test_conversation_is_continued(server, fake):
    fake.answer = Answer(["One."])
    first = ask(server, instructions="Old rules.", input="Say one")
    fake.answer = Answer(["Two."])
    second = ask(server, input=[{"role": "user", "content": "Say two"}],
                 previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    ask(server, instructions="New rules.", input="Say three", previous_response_id=second["id"])
    assert contents(fake.asked("m")[-1]) == [
        ("system", "New rules."), ("user", "Say one"), ("assistant", "One."),
        ("user", "Say two"), ("assistant", "Two."), ("user", "Say three")]


@pytest.mark.parametrize("kind", KINDS)
def test_calls_are_answered_across_requests(server, fake, kind):
    fake.answer = CALLS
    first = events(ask_stream(server, model=kind, tools=[WEATHER]))[-1]["response"]
    calls = [item for item in first["output"] if item["type"] == "function_call"]
    fake.answer = Answer(["Rain."])
    results = [{"type": "function_call_output", "call_id": item["call_id"], "output": "rain"}
               for item in calls]
    answer = ask(server, kind, input=[*results, {"role": "user", "content": "So?"}],
                 tools=[WEATHER], previous_response_id=first["id"])
    assert text_of(answer) == "Rain."


def test_items_may_be_named(server, fake):
    """As callers do that keep the conversation themselves but not its items."""
    first = ask(server)
    message = next(item for item in first["output"] if item["type"] == "message")
    ask(server, input=[{"role": "user", "content": "Say hello"},
                       {"type": "item_reference", "id": message["id"]},
                       {"role": "user", "content": "Again"}])
    assert ("assistant", "Hello you") in contents(fake.asked("m")[-1])
    refused(server, 404, "item_not_found",
            body={"model": "openai", "input": [{"type": "item_reference", "id": "msg_x"}]})


def test_unknown_previous_response(server):
    body = {"model": "openai", "input": "x", "previous_response_id": "resp_none"}
    error = refused(server, 404, "previous_response_not_found", body=body)
    assert error["param"] == "previous_response_id"


def test_store_false_keeps_nothing(server):
    answer = ask(server, store=False)
    assert answer["store"] is False
    refused(server, 404, None, "GET", f"{PATH}/{answer['id']}")
    refused(server, 404, "previous_response_not_found",
            body={"model": "openai", "input": "x", "previous_response_id": answer["id"]})


def test_conversation_survives_the_deletion_of_its_beginning(server, fake):
    first = ask(server, input="Say one")
    second = ask(server, input="Say two", previous_response_id=first["id"])
    call(server, "DELETE", f"{PATH}/{first['id']}")
    ask(server, input="Say three", previous_response_id=second["id"])
    assert contents(fake.asked("m")[-1])[0] == ("user", "Say one")


# ---- kept responses ----

def test_get_gives_the_answer_again(server):
    answer = ask(server)
    status, again = call(server, "GET", f"{PATH}/{answer['id']}")
    check_answer(f"{PATH}/{{response_id}}", status, again, method="GET")
    assert (status, again) == (200, answer)
    refused(server, 404, "unknown_url", "GET", f"{PATH}/{answer['id']}/output")


def test_get_after_a_stream(server):
    last = events(ask_stream(server))[-1]["response"]
    assert call(server, "GET", f"{PATH}/{last['id']}") == (200, last)


def test_delete(server):
    answer = ask(server)
    assert call(server, "DELETE", f"{PATH}/{answer['id']}") == (
        200, {"id": answer["id"], "object": "response", "deleted": True})
    refused(server, 404, None, "GET", f"{PATH}/{answer['id']}")
    refused(server, 404, None, "DELETE", f"{PATH}/{answer['id']}")


def test_sdk_fetches_and_deletes(server):
    with openai.OpenAI(base_url=server.url, api_key="sk-of-the-caller", max_retries=0) as client:
        made = client.responses.create(model="openai", input="Say hello")
        assert client.responses.retrieve(made.id).output_text == "Hello you"
        items = client.responses.input_items.list(made.id)
        assert items.data[0].content[0].text == "Say hello"
        client.responses.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(made.id)
        with pytest.raises(openai.BadRequestError):
            client.responses.cancel(client.responses.create(model="openai", input="x y").id)


ITEMS = [{"role": "user", "content": f"Number {i}"} for i in range(5)]


def list_items(server, id, query=""):
    status, page = call(server, "GET", f"{PATH}/{id}/input_items{query}")
    check_answer(f"{PATH}/{{response_id}}/input_items", status, page, method="GET")
    return page


def numbers(page):
    return [int(item["content"][0]["text"][-1]) for item in page["data"]]


def test_input_items_in_pages(server):
    id = ask(server, input=ITEMS)["id"]
    page = list_items(server, id)
    assert numbers(page) == [4, 3, 2, 1, 0] and page["has_more"] is False
    page = list_items(server, id, "?order=asc&limit=2")
    assert numbers(page) == [0, 1] and page["has_more"] is True
    assert (page["first_id"], page["last_id"]) == tuple(item["id"] for item in page["data"])
    page = list_items(server, id, f"?order=asc&limit=2&after={page['last_id']}")
    assert numbers(page) == [2, 3]
    for query in ("limit=0", "limit=101", "limit=x", "order=up"):
        refused(server, 400, "invalid_value", "GET", f"{PATH}/{id}/input_items?{query}")


def test_input_items_of_every_kind(server):
    items = [{"role": "user", "content": [
                 {"type": "input_text", "text": "a"},
                 {"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}]},
             {"role": "assistant", "content": "b"},
             {"type": "reasoning", "id": "rs_1", "summary": []},
             {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"},
             {"type": "function_call_output", "call_id": "c", "output": "rain"},
             {"role": "user", "content": "d"}]
    page = list_items(server, ask(server, input=items)["id"], "?order=asc")
    assert [item["type"] for item in page["data"]] == [
        "message", "message", "reasoning", "function_call", "function_call_output", "message"]


def test_callers_are_kept_apart(sluice, fake):
    """Another caller's response and a missing one are answered with the same bytes."""
    server = sluice(config(fake, "keys: {static: [{name: a, key: sk-aaaaaaaaaaaaaaaa}, "
                                 "{name: b, key: sk-bbbbbbbbbbbbbbbb}]}\n"))
    a, b = "sk-aaaaaaaaaaaaaaaa", "sk-bbbbbbbbbbbbbbbb"
    id = ask(server, key=a)["id"]
    gone = ask(server, key=b)["id"]
    call(server, "DELETE", f"{PATH}/{gone}", key=b)
    for method, rest in (("GET", ""), ("GET", "/input_items"), ("DELETE", ""), ("POST", "/cancel")):
        others = call(server, method, f"{PATH}/{id}{rest}", key=b)
        missing = call(server, method, f"{PATH}/{gone}{rest}", key=b)
        assert others[0] == 404
        assert json.dumps(others).replace(id, gone) == json.dumps(missing)
    refused(server, 404, "previous_response_not_found", key=b,
            body={"model": "openai", "input": "x", "previous_response_id": id})
    assert call(server, "GET", f"{PATH}/{id}", key=a)[0] == 200


def test_old_responses_are_forgotten(sluice, fake):
    server = sluice(config(fake, "responses: {ttl: 1s}\n"))
    id = ask(server)["id"]
    assert call(server, "GET", f"{PATH}/{id}")[0] == 200
    end = time.monotonic() + HANG_GUARD_S
    while call(server, "GET", f"{PATH}/{id}")[0] == 200:
        assert time.monotonic() < end
        time.sleep(0.1)


# ---- the store ----

def restarted(server, sluice, fake, how="stop", more=""):
    """Another process on the same data."""
    store = server.directory / "data" / "sluice.db"
    if how == "kill":
        server.process.kill()
        server.wait_exit(expected=None)
    else:
        server.stop()
    return sluice(config(fake, f"store: 'sqlite:{store}'\n{more}"))


def test_conversation_survives_a_restart(server, sluice, fake):
    first = ask(server, input="Say one")
    second = events(ask_stream(server, input="Say two", previous_response_id=first["id"]))[-1]["response"]
    server = restarted(server, sluice, fake)
    assert call(server, "GET", f"{PATH}/{first['id']}") == (200, first)
    assert call(server, "GET", f"{PATH}/{second['id']}") == (200, second)
    ask(server, input="Say three", previous_response_id=second["id"])
    assert contents(fake.asked("m")[-1]) == [
        ("user", "Say one"), ("assistant", "Hello you"), ("user", "Say two"),
        ("assistant", "Hello you"), ("user", "Say three")]


def test_what_was_answered_survives_a_crash(server, sluice, fake):
    """Whoever has an id can use it, whatever happened to the process a moment later."""
    made = [ask(server)["id"], events(ask_stream(server))[-1]["response"]["id"]]
    server = restarted(server, sluice, fake, "kill")
    for id in made:
        assert call(server, "GET", f"{PATH}/{id}")[0] == 200


def test_what_was_running_in_a_crash_has_failed(server, sluice, fake):
    with Streaming(server, fake) as stream:
        server = restarted(server, sluice, fake, "kill")
        status, answer = call(server, "GET", f"{PATH}/{stream.id}")
        check_answer(f"{PATH}/{{response_id}}", status, answer, method="GET")
        assert (status, answer["status"]) == (200, "failed")
        assert answer["error"]["message"].startswith("killed:")
        refused(server, 400, "invalid_value", path=f"{PATH}/{stream.id}/cancel")
        refused(server, 400, "invalid_value",
                body={"model": "openai", "input": "x", "previous_response_id": stream.id})
        assert call(server, "DELETE", f"{PATH}/{stream.id}")[0] == 200


def test_what_was_running_at_a_drain_has_failed(sluice, fake):
    server = sluice(config(fake, "drain: {timeout: 200ms}\n"))
    with Streaming(server, fake) as stream:
        server = restarted(server, sluice, fake)
        assert call(server, "GET", f"{PATH}/{stream.id}")[1]["status"] == "failed"


def test_nothing_is_written_of_what_is_not_stored(server, sluice, fake):
    ask(server, store=False, input="Nobody shall read this")
    deleted = ask(server, input="Nor this later")
    call(server, "DELETE", f"{PATH}/{deleted['id']}")
    server.stop()
    with sqlite3.connect(server.directory / "data" / "sluice.db") as store:
        assert store.execute("SELECT count(*) FROM responses").fetchone() == (0,)
        assert store.execute("SELECT count(*) FROM turns").fetchone() == (0,)


def test_two_processes_share_responses(sluice, fake):
    with Postgres() as database:
        one, other = (sluice(config(fake, f'store: "{database.url}"\n')) for _ in range(2))
        first = ask(one, input="Say one")
        assert call(other, "GET", f"{PATH}/{first['id']}") == (200, first)
        ask(other, input="Say two", previous_response_id=first["id"])
        assert contents(fake.asked("m")[-1])[0] == ("user", "Say one")
        with Streaming(one, fake) as stream:
            assert call(other, "GET", f"{PATH}/{stream.id}")[1]["status"] == "in_progress"
            began = time.monotonic()
            status, answer = call(other, "POST", f"{PATH}/{stream.id}/cancel")
            assert (status, answer["status"]) == (200, "cancelled"), answer
            assert time.monotonic() - began < 3 + BUSY_S
            stream.exchange.wait_peer_closed()
        assert call(other, "DELETE", f"{PATH}/{first['id']}")[0] == 200
        refused(one, 404, None, "GET", f"{PATH}/{first['id']}")


def test_a_store_that_is_away_costs_nobody_his_answer(sluice, fake):
    with Postgres() as database:
        server = sluice(config(fake, f'store: "{database.url}"\n'))
        first = ask(server)
        database.end(signal.SIGKILL)
        assert text_of(ask(server)) == "Hello you"
        assert events(ask_stream(server))[-1]["type"] == "response.completed"
        server.wait_log("a response could not be kept", count=2)
        status, answer = call(server, "GET", f"{PATH}/{first['id']}")
        assert status == 503 and "try again" in answer["error"]["message"], answer
        assert str(database.port) not in json.dumps(answer)
        with RawClient(server.port) as client:
            answer = client.request("POST", PATH, {"model": "openai", "input": "x"}, [("Idempotency-Key", "k")])
        assert answer.status == 503 and "Idempotency-Key" in answer.json["error"]["message"]
        database.start()
        end = time.monotonic() + HANG_GUARD_S
        while call(server, "GET", f"{PATH}/{first['id']}") != (200, first):
            assert time.monotonic() < end
            time.sleep(0.1)


def test_a_store_that_does_not_answer_does_not_hold_up_the_end(sluice, fake):
    """A response is being kept when the process shall end: that waits for it, for a while."""
    with Postgres() as database:
        server = sluice(config(fake, f'store: "{database.url}"\ndrain: {{timeout: 200ms}}\n'))
        ask(server)
        fake.wait_request()
        database.freeze()
        try:
            with RawClient(server.port) as client:
                client.send(request_bytes("POST", PATH, {"model": "openai", "input": "x"}))
                fake.wait_request()
                time.sleep(0.5)                            # it is answered, and the answer waits to be kept
                server.process.send_signal(signal.SIGTERM)
                server.wait_exit(timeout_s=3 * HANG_GUARD_S)
        finally:
            database.thaw()


@pytest.mark.parametrize("unheard, stream", [("beginning", True), ("end", True), ("end", False)])
def test_a_commit_that_nobody_heard_of_costs_no_response(sluice, fake, unheard, stream):
    """Whoever has the end of an answer can go on from it."""
    gate, found, pieces = threading.Event(), [], chat_events("Hel", "lo")
    fake.script(sse(*pieces[:2], gate, *pieces[2:]) if stream else
                lambda exchange: (exchange.wait_for(gate), fake.perform(exchange)))
    with Postgres() as database:
        server = sluice(config(fake, f'store: "{database.url}"\n'))
        thread = threading.Thread(target=lambda: found.append(
            ask_stream(server) if stream else json.dumps({"response": ask(server)}).encode()))
        if unheard == "beginning":
            with database.commits_unheard():
                thread.start()
                database.cut_unheard("responses")
            gate.set()
        else:
            thread.start()
            fake.wait_request()
            while stream and not database.sql("SELECT 1 FROM responses"):
                time.sleep(0.02)
            with database.commits_unheard():
                gate.set()
                database.cut_unheard("responses")
        thread.join()
        id = (events(found[0])[-1] if stream else json.loads(found[0]))["response"]["id"]
        status, answer = call(server, "GET", f"{PATH}/{id}")
        assert status == 200 and answer["status"] == "completed", answer
        ask(server, previous_response_id=id)
        assert not server.log_lines("a response could not be kept")


# ---- cancelling ----

class Streaming:
    """A stream that has begun and says no more."""

    def __init__(self, server, fake):
        fake.script(sse(event({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
                               "choices": [{"index": 0, "delta": {"content": "Hel"},
                                            "finish_reason": None}]}), HANG))
        self.client = RawClient(server.port)
        self.client.send(request_bytes("POST", PATH, {"model": "openai", "input": "x y",
                                                      "stream": True}))
        self.client.read_head()
        body = b""
        while b'"Hel"' not in body:
            body += self.client.read_chunk()
        self.id = events(body[:body.index(b"\n\n")])[0]["response"]["id"]
        self.exchange = fake.requests[-1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()


def test_response_in_progress_is_shown(server, fake):
    with Streaming(server, fake) as stream:
        status, answer = call(server, "GET", f"{PATH}/{stream.id}")
        assert (status, answer["status"]) == (200, "in_progress")
        check_answer(f"{PATH}/{{response_id}}", status, answer, method="GET")
        refused(server, 400, "invalid_value",
                body={"model": "openai", "input": "x", "previous_response_id": stream.id})


def test_cancel_ends_the_stream_and_the_call(server, fake):
    with Streaming(server, fake) as stream:
        status, answer = call(server, "POST", f"{PATH}/{stream.id}/cancel")
        assert (status, answer["status"]) == (200, "cancelled"), answer
        check_answer(f"{PATH}/{{response_id}}/cancel", status, answer)
        assert text_of(answer) == "Hel"
        stream.exchange.wait_peer_closed()
        assert call(server, "POST", f"{PATH}/{stream.id}/cancel") == (200, answer)
        assert call(server, "GET", f"{PATH}/{stream.id}") == (200, answer)


def test_cancel_reaches_every_worker(sluice, fake):
    server = sluice("workers: 4\n" + config(fake))
    streams = [Streaming(server, fake) for _ in range(8)]
    results = []
    threads = [threading.Thread(target=lambda s=s: results.append(
        call(server, "POST", f"{PATH}/{s.id}/cancel")[1]["status"])) for s in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["cancelled"] * 8
    for stream in streams:
        stream.client.close()


def test_whoever_leaves_leaves_nothing(server, fake):
    with Streaming(server, fake) as stream:
        pass
    stream.exchange.wait_peer_closed()
    end = time.monotonic() + HANG_GUARD_S
    while call(server, "GET", f"{PATH}/{stream.id}")[0] != 404:
        assert time.monotonic() < end
        time.sleep(0.02)


# ---- providers that speak this API themselves ----

def passed(id, text="Hi"):
    """A response as such a provider sends it, whole or as a stream."""
    answer = {"id": id, "object": "response", "status": "completed", "model": "m", "output": [
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": text, "annotations": []}]}]}
    created = {"type": "response.created", "sequence_number": 0,
               "response": answer | {"status": "in_progress", "output": []}}
    delta = {"type": "response.output_text.delta", "sequence_number": 1, "item_id": "msg_1",
             "output_index": 0, "content_index": 0, "delta": text, "logprobs": []}
    completed = {"type": "response.completed", "sequence_number": 2, "response": answer}

    def script(exchange):
        if exchange.json.get("stream"):
            return sse(*(b"event: " + item["type"].encode() + b"\n" + event(item)
                         for item in (created, delta, completed)))(exchange)
        return whole(answer)(exchange)
    return script


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_conversation_stays_with_the_provider_that_has_it(sluice, provider, stream):
    with FakeProvider() as other:
        other.default, provider.default = passed("resp_other"), passed("resp_here")
        server = sluice(
            f'providers:\n  a: {{url: "{provider.url}", key: "sk-p", responses: on}}\n'
            f'  b: {{url: "{other.url}", key: "sk-p", responses: on}}\n'
            'models: {m: {targets: [a/m, b/m]}}\n')
        provider.script(error(503), error(503))
        body = {"model": "m", "input": "x y", "stream": stream}
        with RawClient(server.port) as client:
            client.send(request_bytes("POST", PATH, body))
            assert client.read_response().status == 200
        assert other.wait_request().json == body
        for more in ("x", "y"):
            with RawClient(server.port) as client:
                client.send(request_bytes("POST", PATH, body | {
                    "input": more, "previous_response_id": "resp_other"}))
                answer = client.read_response()
            assert answer.header("x-sluice-model") == "b/m", answer
            assert other.wait_request().json["previous_response_id"] == "resp_other"


# ---- making conversations shorter ----

COMPACT = f"{PATH}/compact"
COMPACTED = {"id": "resp_1", "object": "response.compaction", "created_at": 1731459200,
             "output": [{"type": "message", "id": "msg_1", "role": "user", "status": "completed",
                         "content": [{"type": "input_text", "text": "Say hello"}]},
                        {"type": "compaction", "id": "cmp_1", "encrypted_content": "abc"}],
             "usage": {"input_tokens": 40, "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
                       "output_tokens": 7, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 47}}


def both_speak(provider, fake):
    return (f'providers:\n  here: {{url: "{provider.url}", key: "sk-p", responses: on}}\n'
            f'  chat: {{url: "{fake.base("openai")}", key: "sk-p", responses: off}}\n'
            f'  claude: {{kind: anthropic, url: "{fake.base("anthropic")}", key: "sk-p"}}\n'
            'models:\n  native: {targets: here/m}\n  chat: {targets: chat/m}\n  claude: {targets: claude/m}\n'
            '  both: {targets: [claude/m, chat/m, here/n]}\nprices: prices.yaml\n')


@pytest.fixture
def compacting(sluice, fake, provider, tmp_path):
    prices = tmp_path / "prices.yaml"
    prices.write_text("currency: USD\nmodels:\n  here/*: {input: 1, output: 2}\n")
    provider.default = whole(COMPACTED)
    return sluice(both_speak(provider, fake).replace("prices.yaml", str(prices)))


def test_compaction_goes_to_who_speaks_this_api(compacting, provider):
    for model, name in (("native", "m"), ("both", "n")):
        body = {"model": model, "input": [{"role": "user", "content": "Say hello"}], "instructions": "Be brief"}
        with RawClient(compacting.port) as client:
            answer = client.request("POST", COMPACT, body)
        assert (answer.status, answer.json) == (200, COMPACTED)
        check_answer(COMPACT, answer.status, answer.json)
        assert provider.wait_request().json == body | {"model": name}
        assert provider.requests[-1].target == "/v1/responses/compact"
        assert answer.header("x-sluice-model") == f"here/{name}" and answer.header("x-sluice-cost")
        line = compacting.wait_log("request", path=COMPACT, upstream_model=name)
        assert (line["input_tokens"], line["output_tokens"], line["cached_tokens"]) == (40, 7, 3)


@pytest.mark.parametrize("model", ["chat", "claude"])
def test_compaction_is_refused_where_nobody_can(compacting, fake, model):
    error = refused(compacting, 400, "unsupported_parameter", path=COMPACT, body={"model": model, "input": "x"})
    assert "/responses/compact" in error["message"] and not fake.requests
    refused(compacting, 404, "model_not_found", path=COMPACT, body={"model": "nobody/m", "input": "x"})
    refused(compacting, 400, "missing_required_parameter", path=COMPACT, body={"model": "native"})
    refused(compacting, 400, "invalid_type", path=COMPACT, body={"model": "native", "input": 5})


def test_compaction_of_a_conversation_that_is_kept_here(compacting, provider):
    first = ask(compacting, "chat")
    refused(compacting, 404, "previous_response_not_found", path=COMPACT,
            body={"model": "native", "previous_response_id": "resp_0"})
    for more in ({}, {"input": "And?"}, {"input": [{"role": "user", "content": "And?"}]}):
        body = {"model": "native", "previous_response_id": first["id"]} | more
        assert call(compacting, "POST", COMPACT, body) == (200, COMPACTED)
        sent = provider.wait_request().json
        said = [item.get("content") for item in sent["input"] if item.get("role")]
        assert sent["previous_response_id"] is None
        assert said[0][0]["text"] == "Say hello" and said[1][0]["text"] == "Hello you"
        assert said[2:] == (["And?"] if more else [])


def test_sdk_compacts(compacting):
    with openai.OpenAI(base_url=compacting.url, api_key="sk-of-the-caller", max_retries=0) as client:
        made = client.responses.compact(model="native", input="Say hello")
        assert made.object == "response.compaction" and made.output[1].encrypted_content == "abc"
        assert made.usage.total_tokens == 47
        with pytest.raises(openai.BadRequestError, match="/responses/compact"):
            client.responses.compact(model="claude", input="Say hello")


# ---- counting ----

def test_input_tokens_are_counted_without_a_model(server, fake):
    status, answer = call(server, "POST", f"{PATH}/input_tokens",
                          {"model": "gpt-4o", "input": "hello world"})
    check_answer(f"{PATH}/input_tokens", status, answer)
    assert status == 200 and 2 <= answer["input_tokens"] <= 20
    assert not fake.requests
