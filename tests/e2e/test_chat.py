# SPDX-License-Identifier: Apache-2.0
"""A chat through the gateway with one provider behind it: what each side sees of the other.

What passes is compared as bytes wherever both sides speak the same protocol: requests but for the
members that are spliced, answers altogether.
"""
import json
import signal
import socket
import subprocess
import threading

import pytest
from caller import (CHAT, MESSAGES, PATH, STREAM, Stream, ask, ask_stream, assert_one_outcome,
                    chat_request, outcome, words)
from fake_provider import (DONE, FakeProvider, HANG, chat, chat_answer, chat_events, delta, error,
                           event, raw, sse, usage_chunk, whole)
from raw_http import RawClient, assert_openai_error
from sluice import HANG_GUARD_S, clean_environment, find_binary, parse_line, provider_config

WISH = b'"stream_options":{"include_usage":true},'
SECRET = "sk-provider-key"

ALIASES = """models:
  small: {targets: [fake/gpt-real-and-longer]}
  team/with:odd/name: {targets: [{model: fake/vendor/model:1}]}
"""


# ---- whole answers ----

# Unknown members, nulls, numbers beyond 2^53, escapes, white space and order are nobody's business.
ODD_ANSWER = (b'{ "zeta": null ,"id":"chatcmpl-1","big":9007199254740993,"digits":1.10,"tiny":-0.0,\n'
              b'"object":"chat.completion","choices":[{"finish_reason":"stop","index":0,"new":{"b":1,'
              b'"a":[ ]},"message":{"content":"h\\u00e9 \xc3\xa9 \\/","role":"assistant",'
              b'"refusal":null}}],"service_tier":"default","usage":{"prompt_tokens":11,'
              b'"completion_tokens":7,"total_tokens":18,"prompt_tokens_details":{"cached_tokens":4}},'
              b'"alpha":"last"}\r\n')


def test_whole_answer_unchanged(gateway, provider):
    provider.script(whole(ODD_ANSWER))
    answer = ask(gateway, id="w1")
    assert (answer.status, answer.body) == (200, ODD_ANSWER)
    assert answer.header("content-type").startswith("application/json")
    line = outcome(gateway, "w1")
    assert (line["input_tokens"], line["output_tokens"], line["cached_tokens"]) == (11, 7, 4)


@pytest.mark.parametrize("size", [0, 1, 100_000, 8 * 1024 * 1024])
def test_whole_answer_of_any_size(gateway, provider, size):
    body = json.dumps(chat_answer("x" * size)).encode()
    provider.script(whole(body))
    assert ask(gateway).body == body


def test_whole_answer_without_length(gateway, provider):
    """Ended by the connection's end, and chunked: both are whole answers (RFC 9112 §6.3)."""
    body = json.dumps(chat_answer("until the end")).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    provider.script(raw(head + b"\r\n" + body, "CLOSE"),
                    raw(head + b"Transfer-Encoding: chunked\r\n\r\n3\r\n" + body[:3] + b"\r\n"
                        + b"%x;a=b\r\n" % len(body[3:]) + body[3:] + b"\r\n0\r\nx-t: 1\r\n\r\n"))
    for _ in range(2):
        answer = ask(gateway)
        assert (answer.status, answer.body) == (200, body)
        assert answer.header("content-length") == str(len(body))


def test_many_requests_on_one_connection(gateway, provider):
    """Kept alive on both sides."""
    with RawClient(gateway.port) as client:
        for i in range(20):
            provider.script(chat(f"answer {i}"))
            client.send(chat_request(STREAM if i % 2 else CHAT))
            assert f"{i}".encode() in client.read_response().body
    assert len(provider.connections) == 1


# ---- streams ----

def odd_events():
    """What providers really send: no blank after the colon, names, comments, unknown members."""
    return [b': first words\ndata:{"id":"c","choices":[{"index":0,"delta":{"role":"assistant",'
            b'"content":""}}],"x":null}\n\n',
            b'event: message\nid: 7\ndata: {"choices":[{"delta":{"content":"a"},"index":0,'
            b'"logprobs":null}],"big":9007199254740993, "usage" : null}\n\n',
            b'data: {"choices": [ {"index":0,"delta":{"content":"\\u00e9\xf0\x9f\x98\x80"}} ] }\n\n',
            b'retry: 10\ndata: {"choices":[{"index":0,\ndata: "delta":{},"finish_reason":"stop"}],'
            b'"service_tier":"default"}\n\n',
            DONE]


def test_stream_unchanged(gateway, provider):
    provider.script(sse(*odd_events()))
    assert ask_stream(gateway) == b"".join(odd_events())


def test_stream_headers(gateway, provider):
    provider.script(sse(*chat_events("a"), headers=[
        ("Set-Cookie", "a=b"), ("Server", "their"), ("openai-organization", "org-secret"),
        ("x-ratelimit-limit-requests", "10"), ("openai-processing-ms", "3")]))
    with Stream(gateway) as stream:
        head = stream.head()
        names = {name for name, _ in head.headers}
        assert not names & {"set-cookie", "openai-organization", "x-ratelimit-limit-requests"}
        assert head.header("server") != "their" and head.header("content-length") is None
        assert head.header("cache-control") == "no-cache"
        assert head.header("x-accel-buffering") == "no"
        assert head.header("x-sluice-model") == "fake/m"
        assert head.header("date") and head.header("x-request-id")
        stream.rest()


def test_stream_to_http_1_0(gateway, provider):
    """No chunks there: the connection's end is the end."""
    provider.script(sse(*chat_events("a", "b")))
    with RawClient(gateway.port) as client:
        client.send(chat_request(STREAM).replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = client.read_response()
        assert answer.header("transfer-encoding") is None
        assert answer.body == b"".join(chat_events("a", "b"))


TOOL_DELTAS = [
    {"tool_calls": [{"index": 0, "id": "call_1", "type": "function",
                     "function": {"name": "look", "arguments": ""}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"a'}}]},
    {"tool_calls": [{"index": 1, "id": "call_2", "type": "function",
                     "function": {"name": "empty", "arguments": ""}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '":1}'}}]},
]


def test_tool_calls_in_fragments_unchanged(gateway, provider):
    events = [event(delta(role="assistant"))] + [event(delta(**d)) for d in TOOL_DELTAS]
    events += [event(delta(finish="tool_calls")), DONE]
    provider.script(sse(*events))
    assert ask_stream(gateway) == b"".join(events)


@pytest.mark.parametrize("piece", [{"reasoning_content": "hm"}, {"refusal": "no"},
                                   {"audio": {"data": "AAAA"}}, {"function_call": {"name": "f"}},
                                   {"new_member": [1]}])
def test_other_content_counts_as_content(gateway, provider, piece):
    """Not only text commits the answer: what follows is an error event, no HTTP error."""
    events = [event(delta(role="assistant")), event(delta(**piece))]
    provider.script(sse(*events, "RESET"))
    assert ask_stream(gateway).startswith(b"".join(events))


# ---- token counts in streams ----

def test_usage_hidden_unless_asked(gateway, provider):
    """The provider is asked for it, the caller does not get the chunk, the log has the counts."""
    provider.default = chat("one two three", prompt_tokens=40)
    body = ask_stream(gateway, id="u1")
    assert provider.wait_request().json["stream_options"] == {"include_usage": True}
    assert words(body) == "one two three" and b'"usage"' not in body
    assert body.endswith(DONE)
    line = outcome(gateway, "u1")
    assert (line["input_tokens"], line["output_tokens"]) == (40, 3)


def test_usage_shown_when_asked(gateway, provider):
    events = chat_events("one", "two", usage=(5, 2))
    provider.script(sse(*events))
    body = ask_stream(gateway, STREAM | {"stream_options": {"include_usage": True}}, id="u2")
    assert body == b"".join(events)
    assert outcome(gateway, "u2")["output_tokens"] == 2


def test_usage_in_a_chunk_with_choices_is_counted(gateway, provider):
    """Some providers put the counts beside the last choice: counted, and relayed as it is."""
    last = delta(finish="stop") | {"usage": {"prompt_tokens": 8, "completion_tokens": 3}}
    events = chat_events("a", "b", finish=None, done=False) + [event(last), DONE]
    provider.script(sse(*events))
    assert ask_stream(gateway, id="u3") == b"".join(events)
    line = outcome(gateway, "u3")
    assert (line["input_tokens"], line["output_tokens"]) == (8, 3)


def test_usage_first_or_after_the_end_marker(gateway, provider):
    """Wherever the counts come, an uninvited chunk is hidden and nothing else suffers."""
    provider.script(sse(event(usage_chunk(1, 1)), *chat_events("a")),
                    sse(*chat_events("b"), event(usage_chunk(2, 2))))
    assert ask_stream(gateway) == b"".join(chat_events("a"))
    assert ask_stream(gateway) == b"".join(chat_events("b"))


def test_stream_usage_off(sluice, provider):
    """The provider is not asked; a caller's own wish goes through as it is."""
    server = sluice(provider_config(provider, extra=", stream_usage: false"))
    body = chat_body(b'"stream":true,')
    ask_stream(server, body)
    assert provider.wait_request().raw_body == body
    body = chat_body(b'"stream":true, "stream_options" : {"include_usage":true} ,')
    ask_stream(server, body)
    assert provider.wait_request().raw_body == body


# ---- what the provider sees ----

def chat_body(more=b"", model=b'"m"'):
    """A chat request with odd spacing, order and members, as bytes."""
    return (b'{ "zz":{"b":1,"a":[null, 1.0]} , ' + more + b' "model" : ' + model + b',"n":1, '
            b'"messages":[ {"content":"h\\u00e9","role":"user", "name":null} ],'
            b'"big":123456789012345678901234567890 ,"logit_bias":{"50256":-100}\t}\n')


def test_request_passes_unchanged(gateway, provider):
    for body in (chat_body(), chat_body(b'"stream":false,')):
        assert ask(gateway, body).status == 200
        seen = provider.wait_request()
        assert seen.raw_body == body
        assert seen.header("content-length") == str(len(body))
        assert (seen.method, seen.target) == ("POST", PATH)


def test_only_model_and_usage_wish_are_spliced(sluice, provider):
    server = sluice(provider_config(provider) + ALIASES)
    ask(server, chat_body(model=b'"small"'))
    assert provider.wait_request().raw_body == chat_body(model=b'"gpt-real-and-longer"')
    ask_stream(server, chat_body(b'"stream":true,', b'"sm\\u0061ll"'))
    seen = provider.wait_request()
    assert seen.raw_body.count(WISH) == 1
    plain = seen.raw_body.replace(WISH, b"")
    assert plain == chat_body(b'"stream":true,', b'"gpt-real-and-longer"')
    assert seen.header("content-length") == str(len(seen.raw_body))


@pytest.mark.parametrize("given, sent", [
    (b'{"include_obfuscation":false}', {"include_obfuscation": False, "include_usage": True}),
    (b'{ "include_usage" : false, "new":[1] }', {"include_usage": True, "new": [1]}),
    (b"{}", {"include_usage": True}), (b"null", {"include_usage": True}),
])
def test_stream_options_are_kept(gateway, provider, given, sent):
    body = chat_body(b'"stream":true,"stream_options":' + given + b",")
    ask_stream(gateway, body)
    seen = provider.wait_request()
    assert seen.json["stream_options"] == sent
    before, _, after = body.partition(b'"stream_options":' + given)
    assert seen.raw_body.startswith(before) and seen.raw_body.endswith(after)


def test_extra_body(sluice, provider):
    """Configured members are added; what the caller sent himself wins."""
    extra = ', extra_body: {top_k: 20, seed: 7, opts: {a: [1, "x"], b: null}}'
    server = sluice(provider_config(provider, extra=extra))
    ask(server, CHAT | {"seed": 1})
    seen = provider.wait_request()
    assert seen.json == CHAT | {"seed": 1, "top_k": 20, "opts": {"a": [1, "x"], "b": None}}
    assert seen.raw_body.count(b'"seed"') == 1


def test_headers_to_the_provider(sluice, provider):
    """Ours and the dialect's, never the caller's key, cookies or name."""
    server = sluice(provider_config(provider, extra=", headers: {x-team: search}"))
    ask(server, headers=[
        ("Authorization", "Bearer sk-of-the-caller"), ("Cookie", "session=1"), ("X-Api-Key", "k"),
        ("OpenAI-Beta", "assistants=v2"), ("OpenAI-Project", "p1"), ("Idempotency-Key", "i1"),
        ("X-Stainless-Lang", "python"), ("User-Agent", "curl/8"), ("Accept-Encoding", "gzip"),
        ("X-Forwarded-For", "203.0.113.9"), ("Referer", "http://localhost/x")])
    seen = provider.wait_request()
    assert seen.header("authorization") == f"Bearer {SECRET}"
    assert seen.header("x-team") == "search"
    assert seen.header("openai-beta") == "assistants=v2"
    assert seen.header("openai-project") == "p1"
    assert seen.header("idempotency-key") == "i1"
    assert seen.header("host") == f"127.0.0.1:{provider.port}"
    assert seen.header("content-type") == "application/json"
    assert (seen.header("accept-encoding") or "identity") == "identity"
    names = {name for name, _ in seen.headers}
    assert not names & {"cookie", "x-api-key", "x-forwarded-for", "referer"}, names
    for text in (b"sk-of-the-caller", b"session=1", b"203.0.113.9"):
        assert text not in seen.head


def test_no_key_no_authorization(sluice, provider):
    server = sluice(f'providers: {{fake: {{url: "{provider.url}"}}}}\ndefault_provider: fake\n')
    ask(server, headers=[("Authorization", "Bearer sk-of-the-caller")])
    assert provider.wait_request().header("authorization") is None


@pytest.mark.parametrize("size", [65536, 1024 * 1024, 12 * 1024 * 1024])
@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_large_requests(gateway, provider, size, streamed):
    """Beyond what a socket takes at once."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * size}], "stream": streamed}
    assert ask(gateway, body).status == 200
    assert provider.wait_request().json["messages"] == body["messages"]


# ---- names ----

@pytest.mark.parametrize("name, sent", [
    ("small", "gpt-real-and-longer"), ("team/with:odd/name", "vendor/model:1"),
    ("fake/gpt-x", "gpt-x"), ("fake/vendor/gpt-x:2", "vendor/gpt-x:2"),
    ("gpt-anything", "gpt-anything"), ("nobody/gpt-x", "nobody/gpt-x"), ("Small", "Small"),
    ("mödel \"quoted\"", "mödel \"quoted\""),
])
def test_names(sluice, provider, name, sent):
    """An alias, else provider/model, else the default provider's own name."""
    server = sluice(provider_config(provider) + ALIASES)
    answer = ask(server, CHAT | {"model": name})
    assert answer.status == 200
    assert provider.wait_request().json["model"] == sent
    if sent.isascii():
        assert answer.header("x-sluice-model") == f"fake/{sent}"


@pytest.mark.parametrize("name", ["gpt-x", "other/gpt-x", "fake/", "/", "Small", "small/", "fake"])
def test_unknown_names(sluice, provider, name):
    config = provider_config(provider).replace("default_provider: fake\n", "")
    server = sluice(config + ALIASES)
    answer = ask(server, CHAT | {"model": name})
    assert assert_openai_error(answer, 404, "model_not_found")["param"] == "model"
    assert provider.requests == []


def test_two_providers(sluice, provider):
    """Each is called with its own key."""
    with FakeProvider() as second:
        server = sluice(f'providers:\n  one: {{url: "{provider.url}", key: "sk-first-key"}}\n'
                        f'  two: {{url: "{second.url}", key: "sk-second-key"}}\n'
                        "models: {m: {targets: [two/m2]}}\ndefault_provider: one\n")
        ask(server, CHAT | {"model": "m"})
        assert second.wait_request().header("authorization") == "Bearer sk-second-key"
        ask(server, CHAT | {"model": "else"})
        assert provider.wait_request().header("authorization") == "Bearer sk-first-key"
        assert (len(provider.requests), len(second.requests)) == (1, 1)


# ---- the list of models ----

def get(server, target):
    with RawClient(server.port) as client:
        return client.request("GET", target)


def test_models_list(sluice, provider):
    """Aliases, in OpenAI's shape; nobody is asked for them."""
    server = sluice(provider_config(provider) + ALIASES)
    answer = get(server, "/v1/models")
    assert answer.status == 200 and answer.json["object"] == "list"
    assert [model["id"] for model in answer.json["data"]] == ["small", "team/with:odd/name"]
    for model in answer.json["data"]:
        assert model["object"] == "model" and model["owned_by"] == "fake"
        assert isinstance(model["created"], int)
    assert provider.connections == []


def test_models_list_of_nothing(gateway):
    assert get(gateway, "/v1/models").json == {
        "object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}


@pytest.mark.parametrize("target", [
    "/v1/models/small", "/v1/models/team/with:odd/name", "/v1/models/team%2Fwith%3Aodd%2fname",
    "/v1/models/sm%61ll", "/v1/models/small?limit=1",
])
def test_models_get(sluice, provider, target):
    server = sluice(provider_config(provider) + ALIASES)
    answer = get(server, target)
    assert answer.status == 200, answer
    assert answer.json["id"] == ("small" if "sm" in target else "team/with:odd/name")


@pytest.mark.parametrize("target", ["/v1/models/none", "/v1/models/small/", "/v1/models/Small",
                                    "/v1/models/gpt-real-and-longer"])
def test_models_get_unknown(sluice, provider, target):
    server = sluice(provider_config(provider) + ALIASES)
    assert_openai_error(get(server, target), 404, "model_not_found")


# ---- without a configuration ----

def test_key_from_the_environment(sluice, provider):
    """OPENAI_API_KEY makes a provider and makes it the default one."""
    server = sluice("", environment={"OPENAI_API_KEY": "sk-from-env", "OPENAI_BASE_URL": provider.url})
    answer = ask(server, CHAT | {"model": "gpt-x"})
    assert (answer.status, answer.header("x-sluice-model")) == (200, "openai/gpt-x")
    assert provider.wait_request().header("authorization") == "Bearer sk-from-env"
    assert ask(server, CHAT | {"model": "openai/gpt-y"}).status == 200
    assert provider.wait_request().json["model"] == "gpt-y"
    server.stop()
    assert "sk-from-env" not in "\n".join(server.stderr + server.stdout)


def test_base_url_may_end_with_a_slash(sluice, provider):
    server = sluice("", environment={"OPENAI_API_KEY": "sk-from-env",
                                     "OPENAI_BASE_URL": provider.url + "/"})
    assert ask(server).status == 200
    assert provider.wait_request().target == PATH


def ports_are_free(*ports):
    try:
        for port in ports:
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


@pytest.mark.xdist_group("default-ports")
def test_no_file_at_all(tmp_path, provider):
    """`sluice serve` and a key: nothing else is needed."""
    if not ports_are_free(8080, 8081):
        pytest.skip("the default ports 8080 and 8081 are taken")
    environment = clean_environment(tmp_path, {"OPENAI_API_KEY": "sk-from-env",
                                               "OPENAI_BASE_URL": provider.url,
                                               "XDG_DATA_HOME": str(tmp_path)})
    process = subprocess.Popen([find_binary(), "serve"], cwd=tmp_path, env=environment,
                               stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    watchdog = threading.Timer(4 * HANG_GUARD_S, process.kill)
    watchdog.start()
    try:
        listening = set()
        while not {"public", "admin"} <= listening:
            line = process.stderr.readline()
            assert line, "it left without listening"
            listening.add((parse_line(line.decode()) or {}).get("for"))
        with RawClient(8080) as client:
            client.send(chat_request(CHAT))
            assert client.read_response().status == 200
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait(HANG_GUARD_S) == 0
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()


# ---- request ids ----

@pytest.mark.parametrize("given", ["a", "A-b_c.9", "x" * 128])
def test_request_id_taken(gateway, given):
    assert ask(gateway, id=given).header("x-request-id") == given
    assert outcome(gateway, given)["status"] == 200


@pytest.mark.parametrize("given", ["x" * 129, "a b", "a/b", "é", "a\"b", "{}", "a,b"])
def test_request_id_made(gateway, given):
    made = ask(gateway, headers=[("X-Request-Id", given)]).header("x-request-id")
    assert made != given and made.startswith("req_") and made.isascii()
    assert outcome(gateway, made)["status"] == 200


def test_request_ids_differ_and_the_providers_is_logged(gateway):
    ids = {ask(gateway).header("x-request-id") for _ in range(10)}
    assert len(ids) == 10 and "req_fake" not in ids
    for id in ids:
        assert outcome(gateway, id)["upstream_request_id"] == "req_fake"


# ---- the provider's errors ----

ODD_ERROR = (b'{"error":{"message":"Too \\u00e9 long","type":"invalid_request_error",'
             b'"param":"messages","code":"context_length_exceeded","extra":{"n":12345678901234567890}}, "x" : null }\n')


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 424, 451])
def test_callers_errors_relayed_unchanged(gateway, provider, status, body):
    provider.script(whole(ODD_ERROR, status))
    answer = ask(gateway, body, id="e1")
    assert (answer.status, answer.body) == (status, ODD_ERROR)
    assert answer.header("content-type") == "application/json"
    assert answer.header("x-should-retry") is None
    line = outcome(gateway, "e1")
    assert (line["status"], line["upstream_status"]) == (status, status)
    assert len(provider.requests) == 1


def test_refusal_that_is_not_json(gateway, provider):
    provider.script(whole(b"<h1>Bad Request</h1>", 400, content_type="text/html"))
    assert_openai_error(ask(gateway), 400)


@pytest.mark.parametrize("status", [400, 429])
def test_our_key_in_an_error_is_masked(gateway, provider, status):
    body = json.dumps({"error": {"message": f"Key {SECRET} and Bearer {SECRET}.", "type": "x",
                                 "param": None, "code": None}}).encode()
    provider.script(whole(body, status))
    answer = ask(gateway)
    assert answer.status == status and SECRET.encode() not in answer.body
    assert answer.json["error"]["message"].startswith("Key ")
    gateway.stop()
    assert SECRET not in "\n".join(gateway.stderr)


def test_our_key_in_a_reported_error_is_masked(gateway, provider):
    """Also where the text comes in a 200: as a whole answer, as first event, in mid-stream."""
    said = {"error": {"message": f"bad key {SECRET}"}}
    provider.script(whole(said), sse(event(said)), sse(*chat_events("a")[:2], event(said)))
    answers = [ask(gateway).body, ask(gateway, STREAM).body, ask_stream(gateway)]
    for body in answers:
        assert SECRET.encode() not in body and b"error" in body
    gateway.stop()
    assert SECRET not in "\n".join(gateway.stderr)


def test_limits_of_the_provider(gateway, provider):
    """429 goes through, with the advice when to come back."""
    provider.script(error(429, "Slow down.", "requests", "rate_limit_exceeded",
                          headers=[("Retry-After", "7"), ("Retry-After-Ms", "6900"),
                                   ("x-ratelimit-remaining-requests", "0")]))
    answer = ask(gateway)
    assert assert_openai_error(answer, 429, "rate_limit_exceeded")["message"] == "Slow down."
    assert (answer.header("retry-after"), answer.header("retry-after-ms")) == ("7", "6900")
    assert answer.header("x-ratelimit-remaining-requests") is None


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("status", [401, 403])
def test_provider_refuses_our_key(gateway, provider, status, body):
    """The operator's trouble: 502 for the caller, one line for the operator, no key in either."""
    provider.script(error(status, f"Incorrect API key provided: {SECRET}.", code="invalid_api_key"))
    answer = ask(gateway, body)
    assert_openai_error(answer, 502, "provider_auth")
    assert answer.header("x-should-retry") == "false"
    assert answer.header("www-authenticate") is None
    assert SECRET.encode() not in answer.body and b"Incorrect" not in answer.body
    line = gateway.wait_log("a provider refuses its key or model")
    assert (line["provider"], line["model"], line["status"]) == ("fake", "m", status)
    gateway.stop()
    assert SECRET not in "\n".join(gateway.stderr)


def test_alias_to_a_model_that_is_not_there(sluice, provider):
    """A configured target that the provider does not know is our mistake, not the caller's; a name
    that the caller made up is his own."""
    server = sluice(provider_config(provider) + ALIASES)
    missing = error(404, "The model `x` does not exist.", code="model_not_found")
    provider.script(missing, missing)
    assert_openai_error(ask(server, CHAT | {"model": "small"}), 502, "provider_auth")
    assert_openai_error(ask(server, CHAT | {"model": "made-up"}), 404, "model_not_found")


def test_redirect_is_not_followed(gateway, provider):
    with FakeProvider() as elsewhere:
        for status in (301, 302, 303, 307, 308):
            provider.script(whole(b"", status, [("Location", elsewhere.url + "/chat/completions")]))
            answer = ask(gateway, STREAM if status == 307 else CHAT)
            assert_openai_error(answer, 502)
        assert elsewhere.connections == []


# ---- limits of ours ----

def test_provider_with_its_limit_in_flight(sluice, provider):
    server = sluice(provider_config(provider, extra=", max_in_flight: 1"))
    gate = threading.Event()
    provider.script(raw(gate, chat("first")))
    with RawClient(server.port) as client:
        client.send(chat_request())
        provider.wait_request()
        refused = ask(server)
        assert_openai_error(refused, 503, "provider_busy")
        assert refused.header("retry-after")
        gate.set()
        assert client.read_response().status == 200
    assert ask(server).status == 200
    assert len(provider.requests) == 2


def test_too_much_in_flight(sluice, provider):
    server = sluice("overload: {max_in_flight: 1}\n" + provider_config(provider))
    gate = threading.Event()
    provider.script(raw(gate, chat("first")))
    with RawClient(server.port) as client:
        client.send(chat_request(id="first"))
        provider.wait_request()
        refused = ask(server, id="shed")
        assert_openai_error(refused, 503, "overloaded")
        assert refused.header("retry-after")
        assert outcome(server, "shed")["outcome"] == "shed"
        gate.set()
        assert client.read_response().status == 200
    outcome(server, "first")    # its place is free once it is recorded
    assert ask(server).status == 200


# ---- one record for each request ----

ENDS = {
    "completed": (CHAT, chat("a b"), "completed", 200),
    "completed-stream": (STREAM, chat("a b"), "completed", 200),
    "refused": (CHAT, error(400), "completed", 400),
    "failed": (CHAT, error(500), "upstream_failed", 502),
    "failed-stream": (STREAM, sse(*chat_events("a")[:2], "RESET"), "upstream_failed", 200),
    "timed-out": (STREAM, raw(HANG), "timed_out", 504),
    "timed-out-stream": (STREAM, sse(*chat_events("a")[:2], HANG), "timed_out", 200),
}


@pytest.mark.parametrize("how", ENDS)
def test_one_outcome(sluice, provider, how):
    body, script, expected, status = ENDS[how]
    server = sluice("timeouts: {first_token: 300ms, idle: 300ms}\n" + provider_config(provider))
    provider.script(script)
    assert ask(server, body, id="o1").status == status
    line = assert_one_outcome(server, "o1")
    assert (line["outcome"], line["status"], line["stream"]) == (expected, status, body is STREAM)
    assert (line["model"], line["provider"], line["upstream_model"]) == ("m", "fake", "m")
    assert (line["method"], line["path"], line["peer"]) == ("POST", PATH, "127.0.0.1")
    assert line["ms"] >= 0 and line["bytes_in"] > 0
    if expected == "completed" and status == 200:
        assert (line["input_tokens"], line["output_tokens"]) == (9, 2)
        assert "error" not in line
    if status >= 500 or expected != "completed":
        assert line["error"] and line["text"] and line["step"]


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
def test_one_outcome_of_a_caller_who_left(gateway, provider, body):
    provider.script(raw(HANG))
    client = RawClient(gateway.port)
    client.send(chat_request(body, id="o2"))
    provider.wait_request()
    client.reset()
    assert outcome(gateway, "o2")["outcome"] == "client_cancelled"
    assert_one_outcome(gateway, "o2")


# ---- what stays private ----

CANARY = "the-canary-sings-at-dawn"


def run_every_way(server, provider):
    """Ask so that prompts and answers pass through each branch there is."""
    question = {"model": "m", "messages": [{"role": "user", "content": CANARY}]}
    said = {"error": {"message": CANARY, "type": "x", "param": None, "code": None}}
    provider.script(chat(CANARY), chat(CANARY), whole(said, 400), whole(said, 500), whole(said, 401),
                    whole(CANARY.encode(), 200), sse(*chat_events(CANARY)[:2], "RESET"),
                    sse(event(CANARY.encode())))
    for body in (CHAT, STREAM, CHAT, CHAT, CHAT, CHAT, STREAM, STREAM):
        ask(server, question | {"stream": body is STREAM}, headers=[("X-Prompt", CANARY)])
    for bad in ({"messages": CANARY}, {"model": "m", "messages": [{"role": CANARY}]},
                {"model": "m", "messages": MESSAGES, "temperature": CANARY}):
        assert ask(server, bad).status == 400
    ask(server, b'{"model":"m","messages":[{"role":"user","content":"' + CANARY.encode())


def test_prompts_are_never_logged(gateway, provider):
    run_every_way(gateway, provider)
    gateway.stop()
    assert CANARY not in "\n".join(gateway.stderr + gateway.stdout)


def test_prompts_are_not_logged_at_level_debug(sluice, provider):
    server = sluice("log: {level: debug}\n" + provider_config(provider))
    run_every_way(server, provider)
    server.stop()
    assert CANARY not in "\n".join(server.stderr + server.stdout)


def test_prompts_are_logged_on_demand(sluice, provider):
    server = sluice("log: {content: true}\n" + provider_config(provider))
    provider.script(chat("an answer"))
    ask(server, CHAT, id="c1")
    line = outcome(server, "c1")
    assert json.loads(line["question"]) == CHAT
    assert "an answer" in line["answer"]


def test_metrics_know_no_invented_names(sluice, provider):
    """Labels come from the configuration, not from callers."""
    server = sluice(provider_config(provider) + ALIASES)
    for name in ("small", "invented-name-1", "fake/invented-name-2"):
        ask(server, CHAT | {"model": name, "user": "invented-user"})
    with RawClient(server.admin_port) as client:
        answer = client.request("GET", "/metrics")
    assert answer.status == 200 and b"invented" not in answer.body
