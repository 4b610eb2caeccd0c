# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a provider: its event streams (f113 …) and its connections (g127 …).

The numbers are those of tests/bad_inputs.tsv. Each target is tried once, so what is asserted is:
before the first meaningful event a failure is an HTTP error that the SDKs do not retry, after it
an error event, and in both cases the provider got one request and the next caller is served.
"""
import datetime
import gzip
import json
import socket
import ssl
import threading

import pytest
import trustme
from caller import (CHAT, STREAM, Stream, ask, ask_stream, broken, chat_request, datas, outcome,
                    words)
from fake_provider import (CLOSE, DONE, FakeProvider, HANG, RESET, chat, chat_answer, chat_events,
                           chunk, delta, error, event, raw, response_head, sse, usage_object,
                           whole)
from raw_http import RawClient, assert_openai_error
from sluice import provider_config

ROLE, A, B, FINISH = chat_events("a", "b", done=False)
MIB = 1024 * 1024
BOTH = pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])


def config_of(url, timeouts="", extra=""):
    """A configuration with one provider at `url`."""
    return (f"timeouts: {{{timeouts}}}\n" if timeouts else "") + (
        f'providers: {{fake: {{url: "{url}", key: "sk-provider-key"{extra}}}}}\n'
        "default_provider: fake\n")


def assert_failed(answer, status=502):
    """An HTTP error, with the advice not to try again."""
    error = assert_openai_error(answer, status)
    assert answer.header("x-should-retry") == "false"
    return error


def assert_served(server, provider):
    """The next caller notices nothing."""
    provider.script(chat("as ever"))
    assert b"as ever" in ask(server).body


# ---- F: event streams ----

def test_f113_comments_and_unknown_events(gateway, provider):
    """Ignored; the connection is kept and carries the next request."""
    noise = [b": ping\n\n", b"event: ping\ndata:\n\n", b"event: x\n\n", b"foo: bar\n\n", b"id\n\n"]
    provider.script(sse(*noise, ROLE, *noise, A, *noise, FINISH, *noise, DONE))
    body = ask_stream(gateway)
    assert [data for data in datas(body) if data] == datas(ROLE + A + FINISH + DONE)
    assert_served(gateway, provider)


@pytest.mark.parametrize("last", [FINISH[:-1], FINISH[:-2], FINISH[:20], b"data: [DONE]\n"])
def test_f116_unfinished_event_is_discarded(gateway, provider, last):
    """Without its blank line it never came, so the answer is cut."""
    provider.script(sse(ROLE, A, last))
    before, error = broken(ask_stream(gateway))
    assert before == ROLE + A and error["code"] == "upstream_truncated"


def test_f116_unfinished_end_marker_after_the_finish(gateway, provider):
    """All was said before: complete, and the marker is written in full."""
    provider.script(sse(ROLE, A, FINISH, b"data: [DONE]\n"))
    assert ask_stream(gateway) == ROLE + A + FINISH + DONE


@pytest.mark.parametrize("place", ["first", "later"])
@pytest.mark.parametrize("line", ["one line", "many lines"])
def test_f117_event_beyond_the_limit(gateway, provider, place, line):
    """More than 16 MiB without an end: given up, and no more is taken."""
    def for_ever(exchange):
        piece = b"x" * (MIB // 2 - 8) + (b"\ndata: " if line == "many lines" else b"")
        exchange.send(chunk(b'data: {"x":"'))
        while True:
            exchange.send(chunk(piece))
    provider.script(sse(*([ROLE, A] if place == "later" else []), for_ever))
    if place == "first":
        assert_failed(ask(gateway, STREAM))
    else:
        assert broken(ask_stream(gateway))[0] == ROLE + A
    seen = provider.wait_request()
    seen.wait_peer_closed()
    assert len(seen.sent) < 40 * MIB
    assert_served(gateway, provider)


@pytest.mark.parametrize("bad", [b"\xff", b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",
                                 b"\xe2\x82", b"\x80"],
                         ids=["ff", "cut", "overlong", "surrogate", "above", "cut-3", "lone"])
def test_f118_invalid_utf8(gateway, provider, bad):
    broken_event = event(delta(content="BAD")).replace(b"BAD", bad)
    provider.script(sse(ROLE, broken_event, FINISH, DONE), sse(ROLE, A, broken_event, FINISH, DONE))
    assert_failed(ask(gateway, STREAM))
    assert broken(ask_stream(gateway))[0] == ROLE + A


def test_f118_character_over_two_reads(gateway, provider):
    """Held until it is whole."""
    text = event(json.dumps(delta(content="€"), ensure_ascii=False).encode())
    at = text.index("€".encode()) + 1
    provider.script(sse(ROLE, text[:at], 0.05, text[at:], FINISH, DONE))
    assert ask_stream(gateway) == ROLE + text + FINISH + DONE


@pytest.mark.parametrize("bad", [b'{"id":', b"{", b"}", b"null", b"hello", b"[DONE", b"{}{}", b'{"a":NaN}',
                                 b'"text"'])
def test_f119_broken_json(gateway, provider, bad):
    """Never passed on and never dropped in silence; tokens counted so far are in the record."""
    bad = event(bad)
    counted = event(delta(content="b") | {"usage": usage_object(5, 2)})
    provider.script(sse(ROLE, bad, FINISH, DONE), sse(ROLE, A, counted, bad, FINISH, DONE))
    assert_failed(ask(gateway, STREAM))
    before, _ = broken(ask_stream(gateway, id="f119"))
    assert before == ROLE + A + counted
    line = outcome(gateway, "f119")
    assert (line["outcome"], line["input_tokens"], line["output_tokens"]) == ("upstream_failed", 5, 2)


@pytest.mark.parametrize("name", [None, b"error"])
@pytest.mark.parametrize("body", [
    {"error": {"type": "overloaded_error", "message": "Overloaded"}}, {"error": "Overloaded"},
    {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
])
def test_f120_error_as_first_event(gateway, provider, body, name):
    """A 200 that turns out to be none."""
    provider.script(sse(event(body, name), DONE), sse(ROLE, event(body, name), HANG))
    for _ in range(2):
        assert "Overloaded" in assert_failed(ask(gateway, STREAM))["message"]
    assert len(provider.requests) == 2


HTML = b"<!DOCTYPE html><html><body>502 Bad Gateway</body></html>"


@pytest.mark.parametrize("script", [
    whole(HTML, content_type="text/html"), whole(chat_answer()), whole(b""), whole({}),
    whole({"error": {"message": "no"}}), sse(HTML), sse(), sse(DONE), sse(b"\n\n", DONE),
    sse(json.dumps(chat_answer()).encode()), raw(response_head(204)),
    raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
], ids=["html", "json", "nothing", "empty-object", "error-object", "html-as-sse", "sse-without-events",
        "only-done", "blank-lines", "json-as-sse", "204", "no-type"])
def test_f121_no_stream_where_one_was_asked_for(gateway, provider, script):
    provider.script(script)
    assert_failed(ask(gateway, STREAM, id="f121"))
    assert outcome(gateway, "f121")["outcome"] == "upstream_failed"
    assert_served(gateway, provider)


@pytest.mark.parametrize("script", [
    whole(HTML, content_type="text/html"), whole(HTML), whole(b""), whole({}), whole([]),
    whole(b"null"), whole(json.dumps(chat_answer()).encode()[:-2]), whole(json.dumps(chat_answer()).encode() + b"}"),
    whole(chat_answer() | {"choices": []}), whole({"error": {"message": "no", "type": "x"}}),
    whole(b'{"choices":[{"message":{"content":"\xff"}}]}'), sse(*chat_events("a")), sse(),
    raw(response_head(204)),
], ids=["html", "html-as-json", "nothing", "empty-object", "array", "null", "cut", "too-much",
        "no-choices", "error-object", "utf-8", "stream", "empty-stream", "204"])
def test_f121_no_answer_where_one_was_asked_for(gateway, provider, script):
    """A whole answer that is none is a failure, however friendly its status."""
    provider.script(script)
    assert_failed(ask(gateway, id="f121"))
    assert outcome(gateway, "f121")["outcome"] == "upstream_failed"
    assert_served(gateway, provider)


def test_f122_more_after_the_end_marker(gateway, provider):
    """A second marker, events, garbage, a cut: what comes after the end is nobody's business."""
    ends = [[DONE], [A, DONE], [b"garbage"], [RESET], [CLOSE], [HANG], [b"data: {\n\n"]]
    for more in ends:
        provider.script(sse(ROLE, A, FINISH, DONE, *more))
        assert ask_stream(gateway) == ROLE + A + FINISH + DONE
    joined = ROLE + A + FINISH + DONE
    provider.script(sse(joined + DONE + A), sse(joined + b"data: {\n\n"))
    for _ in range(2):
        assert ask_stream(gateway) == joined
    assert_served(gateway, provider)


def test_f122_end_marker_missing(gateway, provider):
    """With every finish reason: complete. Without: cut."""
    provider.script(sse(ROLE, A, FINISH), sse(ROLE, A), sse(ROLE, A, FINISH, RESET))
    assert ask_stream(gateway) == ROLE + A + FINISH + DONE
    assert broken(ask_stream(gateway))[0] == ROLE + A
    assert broken(ask_stream(gateway))[0] == ROLE + A + FINISH


@pytest.mark.parametrize("usage", [
    None, {}, [], "many", {"prompt_tokens": -1, "completion_tokens": 5}, usage_object(0, 0),
    {"prompt_tokens": 10**12, "completion_tokens": 10**12}, {"prompt_tokens": 3},
    {"prompt_tokens": "3", "completion_tokens": "4"}, {"prompt_tokens": 1.5, "completion_tokens": 2},
    {"prompt_tokens": 10**30, "completion_tokens": 1},
], ids=["null", "empty", "list", "text", "negative", "zero", "absurd", "half", "strings", "fraction",
        "overflow"])
def test_f123_usage_that_cannot_be(gateway, provider, usage):
    """The answer is unharmed, and no such number reaches the records."""
    last = event(delta(finish="stop") | {"usage": usage})
    provider.script(sse(ROLE, A, last, DONE), whole(chat_answer() | {"usage": usage}))
    assert ask_stream(gateway, id="f123-1") == ROLE + A + last + DONE
    assert ask(gateway, id="f123-2").status == 200
    for id in ("f123-1", "f123-2"):
        line = outcome(gateway, id)
        assert (line["outcome"], line["usage_source"]) == ("completed", "estimated")
        assert 0 < line["output_tokens"] < line["input_tokens"] < 10


@pytest.mark.parametrize("nothing", [b"\n\n", b": x\n\n", b"data:\n\n", b"event: ping\n\n"],
                         ids=["blank", "comment", "empty-data", "name-only"])
def test_f125_a_million_empty_events(gateway, provider, nothing):
    """They cost little and change nothing."""
    provider.script(sse(ROLE, *[nothing * 10_000] * 50, A, *[nothing * 10_000] * 50, FINISH, DONE))
    body = ask_stream(gateway)
    assert [data for data in datas(body) if data] == datas(ROLE + A + FINISH + DONE)
    assert len(body) < 64 * 1024


def test_f125_comments_for_ever(sluice, provider):
    """They keep the idle timer quiet, but not the total limit."""
    def comments(exchange):
        while True:
            exchange.send(chunk(b": still here\n\n"))
            exchange.pause(0.01)
    server = sluice(config_of(provider.url, "idle: 300ms, total: 1s"))
    provider.script(sse(ROLE, A, comments))
    before, error = broken(ask_stream(server))
    assert before == ROLE + A and error["code"] == "timeout"
    provider.wait_request().wait_peer_closed()


@BOTH
@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "gzip, gzip", "x"])
def test_f126_compressed_though_not_asked(gateway, provider, coding, body):
    data = gzip.compress(b"".join(chat_events("a")) if body is STREAM
                         else json.dumps(chat_answer()).encode())
    kind = "text/event-stream" if body is STREAM else "application/json"
    provider.script(whole(data, headers=[("Content-Encoding", coding)], content_type=kind))
    assert_failed(ask(gateway, body))
    assert provider.wait_request().header("accept-encoding") in (None, "identity")
    assert_served(gateway, provider)


@BOTH
def test_f126_identity_is_no_coding(gateway, provider, body):
    provider.script(sse(*chat_events("a"), headers=[("Content-Encoding", "identity")])
                    if body is STREAM
                    else whole(chat_answer(), headers=[("Content-Encoding", "identity")]))
    assert ask(gateway, body).status == 200


# ---- G: connections ----

@BOTH
@pytest.mark.parametrize("host", ["no-such-host.invalid", "xn--zz.invalid", "a" * 63 + ".invalid"])
def test_g127_name_that_does_not_resolve(sluice, host, body):
    """502, or 504 where the resolver is slower than the connect budget."""
    server = sluice(config_of(f"http://{host}/v1", "connect: 2s"))
    answer = ask(server, body, id="g127")
    assert answer.status in (502, 504)
    assert_failed(answer, answer.status)
    assert host not in answer.body.decode()
    assert outcome(server, "g127")["outcome"] in ("upstream_failed", "timed_out")


@BOTH
def test_g128_refused(sluice, provider, body):
    server = sluice(provider_config(provider))
    provider.stop_listening()
    assert_failed(ask(server, body))


@BOTH
@pytest.mark.parametrize("step", [RESET, CLOSE], ids=["reset", "close"])
def test_g128_ended_right_after_the_connect(sluice, provider, step, body):
    """The only attempt is lost; nothing is sent twice."""
    server = sluice(provider_config(provider))
    provider.on_connect(step)
    assert_failed(ask(server, body))
    assert len(provider.connections) == 1
    provider.on_connect(None)
    assert ask(server, body).status == 200


class BlackHole:
    """An address that neither takes nor refuses connections: a listener whose backlog is full."""

    def __init__(self):
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(0)
        self.port = self.listener.getsockname()[1]
        self.fillers = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", self.port))
            self.fillers.append(sock)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for sock in (self.listener, *self.fillers):
            sock.close()


@BOTH
def test_g128_black_hole(sluice, body):
    with BlackHole() as hole:
        server = sluice(config_of(f"http://127.0.0.1:{hole.port}/v1", "connect: 300ms"))
        assert_failed(ask(server, body, id="g128"), 504)
        assert outcome(server, "g128")["outcome"] == "timed_out"


def test_g128_caller_leaves_a_black_hole(sluice):
    """Nobody waits for the connection of a caller who has left."""
    with BlackHole() as hole:
        server = sluice(config_of(f"http://127.0.0.1:{hole.port}/v1", "connect: 1h"))
        client = RawClient(server.port)
        client.send(chat_request(CHAT, id="g128"))
        with RawClient(server.port) as other:
            other.expect_usable()
        client.reset()
        assert outcome(server, "g128")["outcome"] == "client_cancelled"


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def tls_server(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)


@pytest.mark.parametrize("fault", ["expired", "wrong-name", "unknown-authority", "plain-text", "no-ca"])
def test_g129_certificates(sluice, authority, tmp_path, fault):
    """502, and a record that says what was wrong without showing a key; nothing is sent."""
    ca_path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(ca_path)
    issuer = trustme.CA() if fault == "unknown-authority" else authority
    certificate = issuer.issue_cert("localhost" if fault == "wrong-name" else "127.0.0.1",
                                    not_after=LONG_AGO if fault == "expired" else None)
    tls = None if fault == "plain-text" else tls_server(certificate)
    with FakeProvider(tls=tls) as provider:
        if fault == "plain-text":
            provider.on_connect(response_head(400))
        ca = "" if fault == "no-ca" else f', ca: "{ca_path}"'
        server = sluice(config_of(provider.url.replace("http:", "https:"), extra=ca))
        answer = ask(server, id="g129")
        assert_failed(answer)
        line = outcome(server, "g129")
        assert (line["outcome"], line["provider"]) == ("upstream_failed", "fake")
        assert "TLS" in line["cause"] and "TLS" not in answer.body.decode(), line
        assert provider.requests == []
        server.stop()
        assert "sk-provider-key" not in "\n".join(server.stderr)


def test_g129_handshake_stalls(sluice, provider):
    provider.on_connect(HANG)
    server = sluice(config_of(provider.url.replace("http:", "https:"), "connect: 300ms"))
    assert_failed(ask(server), 504)
    assert provider.connections[0].peer_closed.wait(20)


@pytest.mark.parametrize("body, limit", [(STREAM, "first_token"), (CHAT, "total")])
@pytest.mark.parametrize("came", [b"", b"HTTP/1.1 200 O", b"HTTP/1.1 100 Continue\r\n\r\n"],
                         ids=["nothing", "half-a-line", "100"])
def test_g130_head_never_comes(sluice, provider, came, body, limit):
    server = sluice(config_of(provider.url, f"{limit}: 300ms"))
    provider.script(raw(came, HANG))
    error = assert_failed(ask(server, body, id="g130"), 504)
    assert error["code"] == "timeout"
    provider.wait_request().wait_peer_closed()
    assert outcome(server, "g130")["outcome"] == "timed_out"
    assert len(provider.requests) == 1


EVENTS = chat_events("a", "b", "c", usage=(9, 3))
ENDS = {"reset": [RESET], "close": [CLOSE], "clean": [], "cut-event": [A[:15], RESET],
        "cut-chunk": [lambda exchange: exchange.send(b"ff\r\nda"), CLOSE]}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("k", range(len(EVENTS)))
def test_g131_dies_after_k_events(gateway, provider, k, end):
    """After k of: role, three words, finish, usage. Before content: 502. Later: an error event,
    or with a clean end after the finish a complete answer."""
    provider.script(sse(*EVENTS[:k], *ENDS[end]))
    answer = ask(gateway, STREAM, id="g131")
    shown = b"".join(EVENTS[:min(k, 5)])
    if k < 2:
        assert_failed(answer)
    elif k >= 5 and end == "clean":
        assert answer.body == shown + DONE
    else:
        before, _ = broken(answer.body)
        assert before == shown
    finished = k >= 5 and end == "clean"
    line = outcome(gateway, "g131")
    assert line["outcome"] == ("completed" if finished else "upstream_failed")
    assert (line["output_tokens"] == 3) == (k == 6)
    assert len(provider.requests) == 1


@pytest.mark.parametrize("k", [0, 1, 17, 60])
@pytest.mark.parametrize("end", [RESET, CLOSE], ids=["reset", "close"])
def test_g131_dies_within_a_whole_answer(gateway, provider, end, k):
    """After k bytes of it."""
    data = json.dumps(chat_answer()).encode()
    provider.script(raw(response_head(headers=[("Content-Length", str(len(data)))]) + data[:k], end))
    assert_failed(ask(gateway))
    assert len(provider.requests) == 1


def test_g132_stalls_in_mid_stream(sluice, provider):
    server = sluice(config_of(provider.url, "idle: 300ms"))
    for k in range(2, 5):
        provider.script(sse(*EVENTS[:k], HANG))
        before, error = broken(ask_stream(server))
        assert before == b"".join(EVENTS[:k]) and error["code"] == "timeout"
        provider.wait_request().wait_peer_closed()


@BOTH
def test_g133_drips_for_ever(sluice, provider, body):
    """A byte now and then is never silence: the total limit ends it."""
    def drip(exchange):
        while True:
            exchange.send(chunk(b" "))
            exchange.pause(0.02)
    server = sluice(config_of(provider.url, "idle: 500ms, total: 1s"))
    head = response_head(headers=[("Transfer-Encoding", "chunked")])
    provider.script(sse(ROLE, A, drip) if body is STREAM else raw(head, drip))
    answer = ask(server, body, id="g133")
    if body is STREAM:
        assert broken(answer.body)[0] == ROLE + A
    else:
        assert_failed(answer, 504)
    provider.wait_request().wait_peer_closed()
    assert outcome(server, "g133")["outcome"] == "timed_out"


@BOTH
@pytest.mark.parametrize("after", [None, "1", "3600", "soon", "-1", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_g134_limits_of_the_provider(gateway, provider, after, body):
    """The caller gets the 429 and the advice as they are: he can wait, we would only hold him."""
    headers = [("Retry-After", after)] if after else []
    provider.script(error(429, "Slow down.", "requests", "rate_limit_exceeded", headers=headers))
    answer = ask(gateway, body)
    assert_openai_error(answer, 429, "rate_limit_exceeded")
    assert answer.header("retry-after") == after
    assert len(provider.requests) == 1


@BOTH
@pytest.mark.parametrize("status, expected, code", [
    (500, 502, None), (502, 502, None), (503, 502, None), (504, 502, None), (529, 503, "overloaded"),
    (599, 502, None), (401, 502, "provider_auth"), (403, 502, "provider_auth"),
    (407, 502, None), (408, 502, None), (201, 502, None), (206, 502, None), (204, 502, None),
    (400, 400, "their_code"), (413, 413, "their_code"), (422, 422, "their_code"),
    (404, 404, "their_code"), (418, 418, "their_code"),
])
def test_g135_statuses(gateway, provider, status, expected, code, body):
    """What is the caller's goes to the caller; the rest is a failed call. Once each."""
    provider.script(raw(response_head(204)) if status == 204
                    else error(status, "It failed.", "their_type", "their_code"))
    answer = ask(gateway, body, id="g135")
    assert_openai_error(answer, expected, code)
    assert (answer.header("x-should-retry") == "false") == (expected >= 500)
    assert answer.status < 500 or b"their" not in answer.body
    line = outcome(gateway, "g135")
    assert (line["status"], line["upstream_status"]) == (expected, status)
    assert len(provider.requests) == 1
    if status not in (401, 403):           # that target is left alone from now on
        assert_served(gateway, provider)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_g136_redirect(gateway, provider, status):
    """The prompt goes to nobody but the configured address."""
    with FakeProvider() as elsewhere:
        for place in (elsewhere.url + "/chat/completions", "/v1/chat/completions", "//evil/"):
            provider.script(whole(b"{}", status, [("Location", place)]))
            assert_failed(ask(gateway))
        assert elsewhere.connections == []
    assert len(provider.requests) == 3


BODY = json.dumps(chat_answer()).encode()
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
MALFORMED = {
    "length-and-chunked": OK + LENGTH + CHUNKED + b"\r\n" + chunk(BODY) + b"0\r\n\r\n",
    "two-lengths": OK + LENGTH + b"Content-Length: 5\r\n\r\n" + BODY,
    "negative-length": OK + b"Content-Length: -1\r\n\r\n" + BODY,
    "length-with-plus": OK + b"Content-Length: +%d\r\n\r\n" % len(BODY) + BODY,
    "length-overflow": OK + b"Content-Length: 18446744073709551621\r\n\r\n" + BODY,
    "unknown-coding": OK + b"Transfer-Encoding: xchunked\r\n\r\n" + chunk(BODY) + b"0\r\n\r\n",
    "chunked-twice": OK + CHUNKED + CHUNKED + b"\r\n" + chunk(BODY) + b"0\r\n\r\n",
    "chunk-size": OK + CHUNKED + b"\r\nzz\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk-size-signed": OK + CHUNKED + b"\r\n+%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n",
    "chunk-size-0x": OK + CHUNKED + b"\r\n0x%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n",
    "chunk-size-overflow": OK + CHUNKED + b"\r\nffffffffffffffff1\r\n" + BODY,
    "chunk-too-short": OK + CHUNKED + b"\r\n2\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk-line-lf": OK + CHUNKED + b"\r\n%x\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n",
    "no-status-line": b"hello\r\n\r\n",
    "http-2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http-0.9": BODY + b"\n",
    "status-4-digits": b"HTTP/1.1 2000 OK\r\n" + LENGTH + b"\r\n" + BODY,
    "status-text": b"HTTP/1.1 OK\r\n" + LENGTH + b"\r\n" + BODY,
    "blank-before-colon": OK + LENGTH + b"x-a : b\r\n\r\n" + BODY,
    "folded": OK + LENGTH + b"x-a: b\r\n c\r\n\r\n" + BODY,
    "nul": OK + LENGTH + b"x-a: \0\r\n\r\n" + BODY,
    "bare-lf": OK.replace(b"\r\n", b"\n") + LENGTH + b"\r\n" + BODY,
    "no-name": OK + LENGTH + b": b\r\n\r\n" + BODY,
    "head-too-long": OK + LENGTH + b"x-a: " + b"y" * 200_000 + b"\r\n\r\n" + BODY,
    "too-many-headers": OK + LENGTH + b"x-a: b\r\n" * 2000 + b"\r\n" + BODY,
    "nine-informational": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 200 + OK + LENGTH + b"\r\n" + BODY,
    "switching": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n" + OK + LENGTH + b"\r\n"
                 + BODY,
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_g137_malformed_answer(gateway, provider, fault):
    """An error of the provider's; its connection carries nothing more."""
    provider.script(raw(MALFORMED[fault], HANG))
    assert_failed(ask(gateway, id="g137"))
    provider.wait_request().wait_peer_closed()
    assert outcome(gateway, "g137")["outcome"] == "upstream_failed"
    assert_served(gateway, provider)
    assert provider.requests[1].connection_number != provider.requests[0].connection_number


@pytest.mark.parametrize("bad", [b"zz\r\n", b"-1\r\n", b"4\r\nabcdef\r\n", b"5\n", b"\r\n",
                                 b"1;\x00\r\n"])
def test_g137_malformed_chunk_in_a_stream(gateway, provider, bad):
    """After content: an error event behind it."""
    provider.script(sse(ROLE, A, lambda exchange: exchange.send(bad), HANG))
    before, _ = broken(ask_stream(gateway))
    assert before == ROLE + A
    provider.wait_request().wait_peer_closed()
    assert_served(gateway, provider)


@pytest.mark.parametrize("late", [False, True], ids=["at-once", "later"])
@pytest.mark.parametrize("more", [
    b"x", b"\r\n", OK + b"Content-Length: %d\r\n\r\n" % (len(BODY) + 3) + BODY.replace(b"Hello", b"Smuggled"),
], ids=["byte", "line-end", "another-answer"])
def test_g138_bytes_after_the_answer(sluice, provider, more, late):
    """Nobody asked for them, so nobody gets them: the connection is dropped."""
    server = sluice("workers: 1\n" + provider_config(provider))
    steps = [0.05, more] if late else []
    provider.script(raw(OK + LENGTH + b"\r\n" + BODY + (b"" if late else more), *steps, HANG))
    assert ask(server).body == BODY
    provider.wait_request().wait_peer_closed()
    answer = ask(server)
    assert answer.status == 200 and b"Smuggled" not in answer.body
    assert [seen.connection_number for seen in provider.requests] == [0, 1]


@BOTH
@pytest.mark.parametrize("end", [RESET, CLOSE], ids=["reset", "close"])
def test_g139_kept_connection_dies_at_reuse(sluice, provider, end, body):
    """Not a byte of an answer came on it: one more try on a fresh connection, unseen by the
    caller."""
    server = sluice("workers: 1\n" + provider_config(provider))
    provider.script(chat("first"), raw(end), chat("second"))
    assert ask(server, body, id="first").status == 200
    outcome(server, "first")    # the connection is given back before the record is written
    answer = ask(server, body)
    assert answer.status == 200 and b"second" in answer.body
    assert [seen.connection_number for seen in provider.requests] == [0, 0, 1]
    assert provider.requests[1].raw_body == provider.requests[2].raw_body


def test_g139_only_one_fresh_try(sluice, provider):
    server = sluice("workers: 1\n" + provider_config(provider))
    provider.script(chat("first"), raw(CLOSE), raw(CLOSE), chat("never"))
    assert ask(server).status == 200
    assert_failed(ask(server))
    assert len(provider.requests) == 3


@pytest.mark.parametrize("came", [b"H", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
def test_g139_no_fresh_try_once_an_answer_began(sluice, provider, came):
    server = sluice("workers: 1\n" + provider_config(provider))
    provider.script(chat("first"), raw(came, 0.05, CLOSE))
    assert ask(server).status == 200
    assert_failed(ask(server))
    assert len(provider.requests) == 2


def test_g139_closed_between_requests(sluice, provider):
    """Seen at once: the next request goes over a new connection straight away."""
    server = sluice("workers: 1\n" + provider_config(provider))
    gate = threading.Event()
    provider.script(raw(chat("first"), gate, CLOSE))
    assert ask(server).status == 200
    first = provider.wait_request()
    gate.set()
    first.wait_done()
    assert ask(server).status == 200
    assert [seen.connection_number for seen in provider.requests] == [0, 1]


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_g140_endless_whole_answer(gateway, provider, framing):
    """Cut at 16 MiB; a length that promises more is not even awaited."""
    def for_ever(exchange):
        piece = b"x" * MIB
        while True:
            exchange.send(chunk(piece) if framing == "chunked" else piece)
    head = {"length": [("Content-Length", str(2**40))], "close": [],
            "chunked": [("Transfer-Encoding", "chunked")]}[framing]
    provider.script(raw(response_head(headers=head), b"" if framing == "length" else for_ever, HANG))
    assert_failed(ask(gateway))
    seen = provider.wait_request()
    seen.wait_peer_closed()
    assert len(seen.sent) < 64 * MIB
    assert_served(gateway, provider)


def test_g140_endless_error(gateway, provider):
    """An error's body is read to 64 KiB, not for ever."""
    def for_ever(exchange):
        while True:
            exchange.send(chunk(b"x" * 65536))
    head = response_head(400, headers=[("Transfer-Encoding", "chunked")])
    provider.script(raw(head, for_ever))
    assert_openai_error(ask(gateway), 400)
    seen = provider.wait_request()
    seen.wait_peer_closed()
    assert_served(gateway, provider)


def test_g140_endless_stream(sluice, provider):
    """Ended by the total limit."""
    def for_ever(exchange):
        while True:
            exchange.send(chunk(A))
            exchange.pause(0.001)
    server = sluice(config_of(provider.url, "total: 700ms"))
    provider.script(sse(ROLE, for_ever))
    before, error = broken(ask_stream(server))
    assert set(words(before)) == {"a"} and error["code"] == "timeout"
    provider.wait_request().wait_peer_closed()


@BOTH
def test_g141_every_attempt_failed(sluice, provider, body):
    """Tried and failed is 502, out of time is 504; the SDKs are told not to add to it."""
    server = sluice(config_of(provider.url, "first_token: 300ms, total: 300ms"))
    provider.script(error(500, headers=[("Connection", "close")]), raw(RESET), raw(HANG))
    for status in (502, 502, 504):
        assert_failed(ask(server, body), status)
    assert len(provider.requests) == 3


def test_g141_no_amplification(gateway, provider):
    """A hundred requests into a total outage are a hundred attempts."""
    provider.default = error(503)
    for _ in range(100):
        assert_failed(ask(gateway))
    assert len(provider.requests) == 100


def test_g143_model_echoed_wrong(gateway, provider):
    """The provider's word stays in the body, ours is in the header."""
    events = chat_events("a", model="something-else-20991231")
    provider.script(sse(*events), whole(chat_answer(model=None)))
    with Stream(gateway) as stream:
        assert stream.head().header("x-sluice-model") == "fake/m"
        assert stream.rest() == b"".join(events)
    assert ask(gateway).json["model"] is None


@pytest.mark.parametrize("index", [1, 5, 127])
def test_g143_odd_choice_index(gateway, provider, index):
    events = [event(delta(content="a", index=index)), event(delta(finish="stop", index=index)), DONE]
    provider.script(sse(*events))
    assert ask_stream(gateway) == b"".join(events)


@pytest.mark.parametrize("index", [128, -1, "0", 1.5, 10**30])
def test_g143_impossible_choice_index(gateway, provider, index):
    bad = event(delta(content="a", index=index))
    provider.script(sse(bad, FINISH, DONE), sse(ROLE, A, bad, FINISH, DONE))
    assert_failed(ask(gateway, STREAM))
    assert broken(ask_stream(gateway))[0] == ROLE + A


def test_g143_more_choices_than_asked(gateway, provider):
    """Passed on; complete only when each of them is."""
    events = [event(delta(content=f"c{i}", index=i)) for i in range(3)]
    ends = [event(delta(finish="stop", index=i)) for i in range(3)]
    provider.script(sse(*events, *ends, DONE), sse(*events, *ends[:2], DONE))
    assert ask_stream(gateway) == b"".join([*events, *ends, DONE])
    assert broken(ask_stream(gateway))[0] == b"".join([*events, *ends[:2]])
