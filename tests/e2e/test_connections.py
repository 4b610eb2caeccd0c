# SPDX-License-Identifier: Apache-2.0
"""How connections live and end: time limits, pipelining, Expect, leaving clients, floods.

Time limits are set short by the configuration and no test measures time: what is asserted is the
order of events, and that the awaited event comes at all.
"""
import json
import resource
import threading

import pytest
from fake_provider import HANG, chat, chat_events, raw, sse
from raw_http import ConnectionEnded, RawClient, assert_openai_error, request_bytes
from sluice import provider_config

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM = CHAT | {"stream": True}
KEYS = 'keys: {required: true, static: [{name: ci, key: "sk-right", scopes: [models]}]}\n'


def chat_request(body=CHAT, headers=()):
    return request_bytes("POST", "/v1/chat/completions", body, headers)


def trickle(client, data, stopped, pause_s=0.02):
    """Send byte by byte with pauses until the test has what it waits for."""
    def run():
        for i in range(len(data)):
            if stopped.wait(pause_s):
                return
            client.send(data[i:i + 1])
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


# ---- slow clients ----

def test_b54_slow_head(sluice, provider):
    server = sluice("http: {head_timeout: 300ms}\n" + provider_config(provider))
    stopped = threading.Event()
    with RawClient(server.port) as client:
        head = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 4000
        thread = trickle(client, head, stopped)
        assert client.read_response().status == 408
        client.expect_closed()
        stopped.set()
        thread.join()


def test_b55_slow_body(sluice, provider):
    """Bytes keep coming, but below the minimum rate."""
    server = sluice("http: {body_grace: 300ms, body_min_rate: 1KiB}\n"
                    + provider_config(provider))
    stopped = threading.Event()
    with RawClient(server.port) as client:
        client.send(chat_request(b"", [("Content-Length", "10000")]))
        thread = trickle(client, b" " * 10000, stopped)
        assert_openai_error(client.read_response(), 408)
        client.expect_closed()
        stopped.set()
        thread.join()
    assert provider.requests == []


def test_b56_client_never_reads(sluice, provider):
    """The upstream is slowed, then closed; far from all of the answer was taken from it."""
    server = sluice("http: {write_timeout: 500ms}\n" + provider_config(provider))
    events = chat_events(*["x" * 32768] * 2048)           # 64 MiB
    provider.script(sse(*events))
    with RawClient(server.port, receive_buffer=4096) as client:
        client.send(chat_request(STREAM))
        seen = provider.wait_request()
        seen.wait_peer_closed()
        assert len(seen.sent) < 32 * 1024 * 1024
    with RawClient(server.port) as client:
        client.expect_usable()


def test_b65_ten_thousand_silent_connections(sluice, provider):
    """Nothing is ever sent on them: all are closed, and the service goes on meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else 65536
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    silent = []
    try:
        count = min(10_000, wanted - 1000)
        server = sluice(f"http: {{head_timeout: 2s, max_connections: {count + 100}}}\n"
                        + provider_config(provider))
        silent.extend(RawClient(server.port) for _ in range(count))
        with RawClient(server.port) as client:
            client.expect_usable()
        for client in silent:
            while client.receive():
                pass
            assert client.inbox == b"" or client.inbox.startswith(b"HTTP/1.1 408 ")
        print(f"{count} silent connections")
        with RawClient(server.port) as client:
            client.expect_usable()
    finally:
        for client in silent:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_idle_connection_is_closed(sluice, provider):
    """A kept connection without a next request ends silently at idle_timeout."""
    server = sluice("http: {idle_timeout: 300ms}\n" + provider_config(provider))
    with RawClient(server.port) as client:
        client.expect_usable()
        client.expect_closed()


# ---- pipelining ----

def numbered(number):
    return request_bytes("GET", "/v1/models", headers=[("X-Request-Id", f"r{number}")])


@pytest.mark.parametrize("count", [16, 17, 40])
def test_b57_pipelined(gateway, count):
    """All at once; answers come in order and none is lost."""
    with RawClient(gateway.port) as client:
        client.send(b"".join(numbered(i) for i in range(count)))
        for i in range(count):
            answer = client.read_response()
            assert (answer.status, answer.header("x-request-id")) == (200, f"r{i}")
        client.expect_usable()


def test_b57_pipelined_behind_a_slow_one(gateway, provider):
    """Quick requests behind a slow one wait for it."""
    gate = threading.Event()
    provider.script(raw(gate, chat("late")))
    with RawClient(gateway.port) as client:
        client.send(chat_request() + b"".join(numbered(i) for i in range(17)))
        provider.wait_request()
        assert not client.has_answer()
        gate.set()
        assert client.read_response().json["choices"][0]["message"]["content"] == "late"
        for i in range(17):
            assert client.read_response().header("x-request-id") == f"r{i}"


@pytest.mark.parametrize("bad", [b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", b"\x00\x01\x02\r\n\r\n"],
                         ids=["header", "garbage"])
def test_b58_bad_request_behind_a_good_one(gateway, provider, bad):
    gate = threading.Event()
    provider.script(raw(gate, chat("first")))
    with RawClient(gateway.port) as client:
        client.send(chat_request() + bad)
        provider.wait_request()
        gate.set()
        assert client.read_response().json["choices"][0]["message"]["content"] == "first"
        assert client.read_response().status == 400
        client.expect_closed()


# ---- Expect ----

EXPECT = ("Expect", "100-continue")
LENGTH = ("Content-Length", str(len(json.dumps(CHAT))))


def test_b59_expect_with_a_bad_key(sluice, provider):
    """Refused before the body is asked for."""
    server = sluice(KEYS + provider_config(provider))
    with RawClient(server.port) as client:
        client.send(chat_request(b"", [EXPECT, LENGTH, ("Authorization", "Bearer sk-wrong")]))
        assert_openai_error(client.read_response(informational=True), 401, "invalid_api_key")
    assert provider.requests == []


def test_b59_expect_with_a_body_too_large(gateway):
    with RawClient(gateway.port) as client:
        client.send(chat_request(b"", [EXPECT, ("Content-Length", str(2**31))]))
        assert_openai_error(client.read_response(informational=True), 413)


def test_b60_expect_then_silence(sluice, provider):
    server = sluice("http: {body_grace: 300ms}\n" + provider_config(provider))
    with RawClient(server.port) as client:
        client.send(chat_request(b"", [EXPECT, LENGTH]))
        assert client.read_response(informational=True).status == 100
        assert_openai_error(client.read_response(informational=True), 408)
        client.expect_closed()


def test_b60_expect_then_body(gateway):
    with RawClient(gateway.port) as client:
        client.send(chat_request(b"", [EXPECT, LENGTH]))
        assert client.read_response(informational=True).status == 100
        client.send(json.dumps(CHAT).encode())
        assert client.read_response(informational=True).status == 200
        client.expect_usable()


def test_b60_expect_in_http10(gateway):
    """HTTP/1.0 knows no 1xx: the body is awaited without one (RFC 9110 §10.1.1)."""
    with RawClient(gateway.port) as client:
        head = chat_request(b"", [EXPECT, LENGTH]).replace(b"HTTP/1.1", b"HTTP/1.0")
        client.send(head)
        client.send(json.dumps(CHAT).encode())
        assert client.read_response(informational=True).status == 200
        client.expect_closed()


def test_b61_unknown_expectation(gateway, provider):
    with RawClient(gateway.port) as client:
        client.send(chat_request(CHAT, [("Expect", "banana")]))
        assert client.read_response().status == 417
    assert provider.requests == []


# ---- ends ----

@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_b62_refusal_while_the_client_sends(gateway, framing):
    """50 MiB are on their way; the 413 can be read, it is not lost to a reset."""
    size = 50 * 1024 * 1024
    if framing == "length":
        head = chat_request(b"", [("Content-Length", str(size))])
        body = b" " * size
    else:
        head = chat_request(b"", [("Transfer-Encoding", "chunked")])
        body = (b"10000\r\n" + b" " * 65536 + b"\r\n") * (size // 65536) + b"0\r\n\r\n"
    with RawClient(gateway.port) as client:
        sender = threading.Thread(target=client.send, args=(head + body,))
        sender.start()
        assert_openai_error(client.read_response(), 413)
        client.expect_closed()
        sender.join()


def test_b63_half_close_ends_a_chat(gateway, provider):
    """By default a FIN from the caller of a model means that it left: the work is not paid for."""
    provider.script(raw(HANG))
    with RawClient(gateway.port) as client:
        client.send(chat_request())
        seen = provider.wait_request()
        client.half_close()
        seen.wait_peer_closed()
        client.expect_closed()


def test_b63_half_close_is_served_elsewhere(gateway):
    with RawClient(gateway.port) as client:
        client.send(numbered(1))
        client.half_close()
        assert client.read_response().status == 200
        client.expect_closed()


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
def test_b63_half_close_served_by_setting(sluice, provider, body):
    server = sluice("http: {half_close: serve}\n" + provider_config(provider))
    gate = threading.Event()
    provider.script(raw(gate, chat("after the FIN")))
    with RawClient(server.port) as client:
        client.send(chat_request(body))
        provider.wait_request()
        client.half_close()
        gate.set()
        answer = client.read_response()
        assert answer.status == 200 and b"FIN" in answer.body
        client.expect_closed()


PHASES = {
    "before-the-first-token": (STREAM, raw(HANG)),
    "after-the-head": (STREAM, sse(HANG)),
    "in-mid-stream": (STREAM, sse(*chat_events("a", "b")[:2], HANG)),
    "whole-answer-awaited": (CHAT, raw(HANG)),
    "whole-answer-half-there": (CHAT, raw(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                                          b"Content-Length: 100\r\n\r\n{\"id\":", HANG)),
}


@pytest.mark.parametrize("way", ["reset", "close"])
@pytest.mark.parametrize("phase", PHASES)
def test_b64_client_leaves(gateway, provider, phase, way):
    """In whatever phase: the upstream connection is closed, and the next request works."""
    body, script = PHASES[phase]
    provider.script(script)
    client = RawClient(gateway.port)
    client.send(chat_request(body))
    seen = provider.wait_request()
    if phase == "in-mid-stream":
        assert client.read_head().status == 200
        assert b"a" in client.read_chunk()
    getattr(client, way)()
    seen.wait_peer_closed()
    with RawClient(gateway.port) as client:
        client.expect_usable()


def test_b66_flood_above_the_limit(sluice, provider):
    """Connections above the limit are refused; those that are there do not notice."""
    server = sluice("workers: 1\nhttp: {max_connections: 8}\n" + provider_config(provider))
    kept = [RawClient(server.port) for _ in range(8)]
    for client in kept:
        client.expect_usable()
    for _ in range(20):
        with RawClient(server.port) as client:
            client.send(numbered(0))
            try:
                assert client.read_response().status == 503
            except ConnectionEnded:
                assert client.inbox == b""
            client.expect_closed()
    for client in kept:
        client.expect_usable()
    kept.pop().close()
    assert eventually_usable(server)
    for client in kept:
        client.close()


def eventually_usable(server):
    """A place became free: the server may need a moment to see that, but not many tries."""
    for _ in range(200):
        with RawClient(server.port) as client:
            client.send(numbered(0))
            try:
                if client.read_response().status == 200:
                    return True
            except ConnectionEnded:
                pass
        threading.Event().wait(0.02)
    return False


@pytest.mark.parametrize("value", ["close, keep-alive", "keep-alive, close", "Close"])
def test_b67_close_wins(gateway, value):
    with RawClient(gateway.port) as client:
        answer = client.request("GET", "/v1/models", headers=[("Connection", value)])
        assert (answer.status, answer.header("connection")) == (200, "close")
        client.expect_closed()


# ---- who is there ----

FORWARDED = [("X-Forwarded-For", "203.0.113.7")]


def test_b68_forwarded_for_is_ignored(gateway):
    with RawClient(gateway.port) as client:
        headers = FORWARDED + [("X-Request-Id", "b68")]
        assert client.request("GET", "/v1/models", headers=headers).status == 200
    gateway.stop()
    log = "\n".join(gateway.stderr)
    assert "b68" in log and "203.0.113.7" not in log


def test_b68_forwarded_for_from_a_trusted_proxy(sluice, provider):
    server = sluice("trusted_proxies: [127.0.0.0/8]\n" + provider_config(provider))
    with RawClient(server.port) as client:
        assert client.request("GET", "/v1/models", headers=FORWARDED).status == 200
    server.stop()
    assert "203.0.113.7" in "\n".join(server.stderr)


def test_b68_proxy_protocol_is_no_request(gateway):
    with RawClient(gateway.port) as client:
        client.send(b"PROXY TCP4 203.0.113.7 127.0.0.1 40000 8080\r\n" + numbered(0))
        assert client.read_response().status in (400, 501)
        client.expect_closed()


@pytest.mark.parametrize("host, headers", [
    ("evil.example", []), ("localhost.evil.example", []), ("127.0.0.1.evil.example:8081", []),
    ("localhost", [("Origin", "http://evil.example")]), ("localhost", [("Origin", "null")]),
], ids=["host", "host-suffix", "host-like-address", "origin", "origin-null"])
def test_b69_rebinding(gateway, host, headers):
    """A page of a foreign site that made a name point here reaches nothing on the admin port."""
    with RawClient(gateway.admin_port) as client:
        client.send(request_bytes("GET", "/admin/requests", headers=headers, host=host))
        assert client.read_response().status == 403
    with RawClient(gateway.admin_port) as client:
        assert client.request("GET", "/admin/requests").status == 200


def test_b69_foreign_host_on_the_open_public_port(gateway):
    """Without keys the public port answers local names only, too."""
    with RawClient(gateway.port) as client:
        client.send(request_bytes("GET", "/v1/models", host="evil.example"))
        assert client.read_response().status == 403


# ---- keys ----

@pytest.mark.parametrize("status, target, headers", [
    (401, "/v1/models", []),
    (401, "/v1/models", [("Authorization", "Bearer ")]),
    (401, "/v1/models", [("Authorization", "Basic c2stcmlnaHQ=")]),
    (400, "/v1/models", [("Authorization", "Bearer sk-right")] * 2),
    (401, "/v1/models?key=sk-right", []),
    (401, "/v1/models", [("Authorization", "Bearer sk-righ")]),
    (401, "/v1/models", [("Authorization", "Bearer sk-right1")]),
    (401, "/v1/models", [("Authorization", "Bearer " + "k" * 8000)]),
    (401, "/v1/models", [("Authorization", "Bearer ' OR '1'='1")]),
    (401, "/v1/models", [("Authorization", 'Bearer "sk-right"')]),
    (200, "/v1/models", [("Authorization", "Bearer sk-right")]),
    (200, "/v1/models", [("Authorization", "bearer sk-right")]),
], ids=["none", "empty", "basic", "two", "query", "prefix", "longer", "8000-bytes", "sql", "quotes",
        "right", "right-lower-case-scheme"])
def test_e99_keys(sluice, provider, status, target, headers):
    """Static keys: one Authorization header, Bearer, equal to the last byte."""
    server = sluice(KEYS + provider_config(provider))
    with RawClient(server.port) as client:
        answer = client.request("GET", target, headers=headers)
        assert answer.status == status, answer
        if status != 200:
            assert_openai_error(answer)
            assert "sk-right" not in answer.body.decode()


@pytest.mark.parametrize("values", [(None, "Bearer ", ""),
                                    ("Basic c2stcmlnaHQ=", "Bearer sk-righ", "Bearer sk-other")], ids=["none", "wrong"])
def test_e99_every_refusal_has_the_same_body(sluice, provider, values):
    """What is wrong with a key is nobody's business. That there is none, its sender may know."""
    server = sluice(KEYS + provider_config(provider))
    bodies = set()
    for value in values:
        with RawClient(server.port) as client:
            headers = [] if value is None else [("Authorization", value)]
            answer = client.request("GET", "/v1/models", headers=headers)
            bodies.add((answer.status, answer.body))
    assert len(bodies) == 1, bodies


def test_e101_key_of_ten_kib(sluice, provider):
    """Longer than any header may be: refused as such, never compared."""
    server = sluice(KEYS + provider_config(provider))
    with RawClient(server.port) as client:
        client.send(request_bytes("GET", "/v1/models",
                                  headers=[("Authorization", "Bearer " + "k" * 10240)]))
        assert client.read_response().status in (401, 431)


def test_e102_model_key_on_an_admin_route(sluice, provider):
    server = sluice(KEYS + provider_config(provider))
    with RawClient(server.admin_port) as client:
        answer = client.request("GET", "/admin/requests",
                                headers=[("Authorization", "Bearer sk-right")])
        assert answer.status in (401, 403), answer
