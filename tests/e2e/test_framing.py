# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 framing read strictly (RFC 9110, RFC 9112): one row per bad input, one verdict each.

Every row is sent whole, and once more byte by byte: where the network cuts must not change the
answer. What is refused is answered once, with Date, closes the connection, and never reaches the
provider. Rows are named after the numbers of tests/bad_inputs.tsv.
"""
import json
import threading
from dataclasses import dataclass

import pytest
from raw_http import ConnectionEnded, RawClient, assert_openai_error, chunked
from sluice import provider_config

CHAT = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
LINE = b"POST /v1/chat/completions HTTP/1.1\r\n"
HOST = b"Host: localhost\r\n"
JSON = b"Content-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(CHAT)
TE = b"Transfer-Encoding: chunked\r\n"
SMUGGLED = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"

CLOSE, KEEP, EITHER = "close", "keep", "either"


@dataclass
class Row:
    """What is sent and what must come back. `status` holds every allowed status, None among them
    stands for closing without a word; `reaches` says that the provider gets to see the request;
    `first` are the statuses of good requests in front of the bad one."""

    name: str
    sent: bytes
    status: tuple
    then: str = CLOSE
    reaches: bool = False
    first: tuple = ()
    bytewise: bool = True
    error_object: bool | None = None       # None: when the target is an API route

    def wants_error_object(self):
        if self.error_object is not None:
            return self.error_object
        last = self.sent.split(b"\r\n\r\n")[0] if not self.first else b""
        return last.startswith((b"POST /v1/", b"GET /v1/")) and b" HTTP/1.1\r\n" in last


def refused(name, sent, *status, **more):
    return Row(name, sent, status or (400,), **more)


def served(name, sent, status=200, then=KEEP, **more):
    return Row(name, sent, (status,), then, **more)


def post(headers, body=CHAT):
    """A chat request whose framing headers are given."""
    return LINE + HOST + JSON + headers + b"\r\n" + body


def get(target=b"/v1/models", headers=b"", host=HOST, version=b"HTTP/1.1"):
    return b"GET " + target + b" " + version + b"\r\n" + host + headers + b"\r\n"


def te(value, body=None):
    """A chunked chat request with this Transfer-Encoding value."""
    return post(b"Transfer-Encoding: " + value + b"\r\n", chunked(CHAT) if body is None else body)


def te_line(line):
    """A chunked chat request with this line for its Transfer-Encoding."""
    return post(line + b"\r\n", chunked(CHAT))


def length(value, body=CHAT):
    return post(b"Content-Length: " + value + b"\r\n", body)


def chunks(body):
    """A chat request with these bytes for its chunked body, and a second request behind it."""
    return post(TE, body + SMUGGLED)


def chunk_line(line):
    """A chunked body whose first chunk begins with this line."""
    return chunks(line + b"\r\n" + CHAT + b"\r\n0\r\n\r\n")


SIZE = b"%x" % len(CHAT)

ROWS = [
    # Lengths and codings that contradict each other
    refused("a01-cl-te", post(LENGTH + TE, chunked(CHAT) + SMUGGLED)),
    refused("a01-cl-te-smuggle", post(b"Content-Length: 5\r\n" + TE, b"0\r\n\r\n" + SMUGGLED)),
    refused("a02-te-cl", post(TE + LENGTH, chunked(CHAT) + SMUGGLED)),
    refused("a03-te-http10", te(b"chunked").replace(b"HTTP/1.1", b"HTTP/1.0")),
    refused("a04-chunked-not-last", te(b"chunked, identity")),
    refused("a05-identity", te(b"identity", CHAT), 501),
    refused("a06-xchunked", te(b"xchunked"), 501),
    refused("a06-chunkedchunked", te(b"chunkedchunked"), 501),
    refused("a07-comma-first", te(b",chunked")),
    refused("a08-comma-last", te(b"chunked,")),
    refused("a09-two-te", post(TE + TE, chunked(CHAT))),
    refused("a10-empty-te", te(b"")),
    refused("a10-empty-te-and-length", post(b"Transfer-Encoding:\r\n" + LENGTH)),
    *[refused(f"a11-{name}-{place}", te(value))
      for name, byte in (("vt", b"\x0b"), ("ff", b"\x0c"), ("85", b"\x85"), ("a0", b"\xa0"),
                         ("fffd", b"\xff"))
      for place, value in (("before", byte + b"chunked"), ("after", b"chunked" + byte))],
    refused("a12-underscore", post(b"Transfer_Encoding: chunked\r\n", chunked(CHAT))),
    refused("a13-te-folded-value", te_line(b"Transfer-Encoding:\r\n chunked")),
    refused("a13-te-folded-name", te_line(b"Transfer-\r\n Encoding: chunked")),
    refused("a14-two-lengths", post(b"Content-Length: 3\r\n" + LENGTH)),
    refused("a15-equal-lengths", post(LENGTH + LENGTH)),
    refused("a15-length-list", length(b"5, 5", b"{\"a\":1}"[:5])),
    *[refused(f"a16-{name}", length(value, b"12345"))
      for name, value in (("plus", b"+5"), ("minus", b"-1"), ("minus-zero", b"-0"),
                          ("hex", b"0x5"), ("octal", b"0o5"), ("underscore", b"1_0"),
                          ("blank-inside", b"5 5"), ("letter", b"5Z"), ("empty", b""))],
    refused("a17-leading-zero", length(b"010", b"1234567890")),
    refused("a18-overflow", length(b"%d" % (2**64 + 5), b"12345")),
    refused("a19-too-large", length(b"%d" % (2**40), b""), 413),
    served("a21-length-zero-then-request", get(headers=b"Content-Length: 0\r\n") + SMUGGLED,
           first=(200,)),
    refused("a21-length-zero-then-garbage", get(headers=b"Content-Length: 0\r\n")
            + b"\x01\x02garbage\r\n\r\n", first=(200,)),

    # Chunks
    served("a22-good-chunks", post(TE, chunked(CHAT, 7)), reaches=True),
    *[refused(f"a22-{name}", chunk_line(line))
      for name, line in (("hex-prefix", b"0x" + SIZE), ("plus", b"+" + SIZE),
                         ("minus", b"-" + SIZE), ("underscore", b"_" + SIZE),
                         ("blank-before", b" " + SIZE), ("blank-after", SIZE + b" "),
                         ("empty", b""), ("overflow", b"ffffffffffffffff1"))],
    refused("a23-chunk-line-lf", chunks(SIZE + b"\n" + CHAT + b"\r\n0\r\n\r\n")),
    refused("a24-chunk-line-cr-x", chunks(SIZE + b"\rX" + CHAT + b"\r\n0\r\n\r\n")),
    refused("a25-spill", chunks(b"5\r\n" + CHAT + b"\r\n0\r\n\r\n")),
    refused("a26-no-crlf-after-data", chunks(SIZE + b"\r\n" + CHAT + b"0\r\n\r\n")),
    refused("a26-lf-after-data", chunks(SIZE + b"\r\n" + CHAT + b"\n0\r\n\r\n")),
    refused("a27-controls-after-last-chunk", chunks(SIZE + b"\r\n" + CHAT + b"\r\n0\r\n\x01\x02")),
    refused("a28-extension-64k", chunk_line(SIZE + b";a=" + b"x" * 65536)),
    refused("a29-extension-nul", chunk_line(SIZE + b";a=\x00b")),
    refused("a29-extension-bare-cr", chunk_line(SIZE + b";a=\rb")),
    refused("a29-extension-bare-semicolon", chunk_line(SIZE + b";")),
    served("a31-trailers", post(TE, chunked(CHAT)[:-2] + b"Content-Length: 5\r\nHost: evil\r\n"
                                b"Authorization: Bearer evil\r\n\r\n"), reaches=True),

    # Header lines
    refused("a33-space-before-colon", post(b"Content-Length : %d\r\n" % len(CHAT))),
    refused("a34-tab-in-name", get(headers=b"X-\tA: 1\r\n")),
    refused("a34-empty-name", get(headers=b": x\r\n")),
    refused("a34-no-colon", get(headers=b"Colonless\r\n")),
    refused("a34-length-without-colon", post(b"Content-Length %d\r\n" % len(CHAT))),
    refused("a35-obs-fold", get(headers=b"X-A: 1\r\n 2\r\n")),
    refused("a35-obs-fold-tab", get(headers=b"X-A: 1\r\n\t2\r\n")),
    refused("a36-space-before-first", b"GET /v1/models HTTP/1.1\r\n " + HOST + b"\r\n"),
    refused("a37-bare-cr", get(headers=b"X-A: 1\r2\r\n")),
    refused("a37-bare-lf", b"GET /v1/models HTTP/1.1\nHost: localhost\n\n", error_object=False),
    refused("a37-bare-lf-in-headers", get(headers=b"X-A: 1\nX-B: 2\r\n")),
    refused("a37-nul", get(headers=b"X-A: 1\x002\r\n")),
    refused("a37-bell", get(headers=b"X-A: 1\x072\r\n")),
    refused("a38-cr-x-at-end", b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\rX"),
    served("a39-100-headers", get(headers=b"".join(b"X-%d: 1\r\n" % i for i in range(99)))),
    refused("a39-101-headers", get(headers=b"".join(b"X-%d: 1\r\n" % i for i in range(100))), 431),
    refused("a39-33-kib", get(headers=b"".join(b"X-%d: %s\r\n" % (i, b"v" * 1010)
                                               for i in range(33))), 431),
    refused("a39-value-9-kib", get(headers=b"X-A: " + b"v" * 9216 + b"\r\n"), 431),
    refused("a39-name-64-kib", get(headers=b"n" * 65536 + b": 1\r\n"), 431),

    # Targets, hosts, methods, versions
    refused("a40-target-9000", get(b"/v1/models?" + b"a" * 8989), 414),
    served("a40-target-7900", get(b"/v1/models?" + b"a" * 7889)),
    refused("a41-no-host", get(host=b"")),
    refused("a41-two-hosts", get(host=HOST + HOST)),
    *[refused(f"a41-{name}", get(host=b"Host: " + value + b"\r\n"))
      for name, value in (("list", b"localhost,127.0.0.1"), ("user", b"u@localhost"),
                          ("path", b"localhost/p"), ("port", b"localhost:99999"))],
    served("a41-host-with-port", get(host=b"Host: 127.0.0.1:8080\r\n")),
    served("a41-host-ipv6", get(host=b"Host: [::1]:8080\r\n")),
    served("a42-http10-without-host", get(host=b"", version=b"HTTP/1.0"), then=CLOSE),
    refused("a43-absolute-form-other-host", get(b"http://other.example/v1/models")),
    refused("a43-absolute-form-no-host", get(b"http:///v1/models")),
    served("a43-absolute-form-same-host", get(b"http://localhost/v1/models")),
    served("a44-options-star", b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 204),
    refused("a44-get-star", get(b"*")),
    refused("a44-connect", b"CONNECT localhost:443 HTTP/1.1\r\n" + HOST + b"\r\n", 405,
            then=EITHER),
    refused("a44-trace", b"TRACE /v1/models HTTP/1.1\r\n" + HOST + b"\r\n", 405, then=EITHER),
    refused("a44-unknown-method", b"BREW /v1/models HTTP/1.1\r\n" + HOST + b"\r\n", 501,
            then=EITHER),
    refused("a45-two-spaces", b"GET  /v1/models HTTP/1.1\r\n" + HOST + b"\r\n"),
    refused("a45-tab", b"GET\t/v1/models\tHTTP/1.1\r\n" + HOST + b"\r\n"),
    refused("a45-no-target", b"GET HTTP/1.1\r\n" + HOST + b"\r\n"),
    refused("a46-http09", b"GET /v1/models\r\n\r\n", error_object=False),
    refused("a46-http-1", get(version=b"HTTP/1")),
    refused("a46-lower-case", get(version=b"http/1.1")),
    refused("a46-junk-after-version", get(version=b"HTTP/1.1 x")),
    refused("a46-http-99", get(version=b"HTTP/9.9"), 505),
    served("a47-http-12", get(version=b"HTTP/1.2")),
    *[refused(f"a48-{name}", get(target), 400, 404, then=EITHER)
      for name, target in (("fragment", b"/v1/models#f"), ("space", b"/v1/mod els"),
                           ("x80", b"/v1/\x80"), ("xff", b"/v1/\xff"), ("nul", b"/v1/%00"),
                           ("crlf", b"/v1/%0d%0aX-A:1"), ("overlong", b"/v1/%c0%af"),
                           ("dot-dot", b"/v1/..%2f..%2fetc/passwd"),
                           ("dot-dot-plain", b"/../../etc/passwd"),
                           ("backslash", b"/v1\\models"))],
    refused("a49-two-empty-lines", b"\r\n\r\n" + get(), error_object=False),
    served("a49-one-empty-line", b"\r\n" + get()),

    # Other protocols
    refused("a50-http2-preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00"
            b"\x00\x00", 505, None, error_object=False),
    refused("a51-tls-hello", bytes.fromhex("160301009d010000990303") + bytes(range(1, 152)), None,
            error_object=False),
    refused("a52-garbage-1-mib", bytes(((i * 7919) >> 3) % 256 or 1 for i in range(1 << 16)) * 16,
            error_object=False),
]


@pytest.fixture(scope="module")
def server(module_sluice, module_provider):
    return module_sluice(provider_config(module_provider))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_sent_whole(server, module_provider, row):
    verify(server, module_provider, row, RawClient.send)


@pytest.mark.parametrize("row", [row for row in ROWS if row.bytewise], ids=lambda row: row.name)
def test_sent_byte_by_byte(server, module_provider, row):
    verify(server, module_provider, row, RawClient.send_cut)


def verify(server, provider, row, send):
    """Send a row; look at every answer, the connection's end, and what the provider got."""
    seen_before = len(provider.requests)
    with RawClient(server.port) as client:
        sender = threading.Thread(target=send, args=(client, row.sent))
        sender.start()
        for status in row.first:
            assert client.read_response().status == status
        answer = read_answer(client, row)
        sender.join()
        if answer is not None:
            verify_answer(row, answer)
        if row.then == CLOSE:
            assert answer is None or row.status == (200,) or answer.header("connection") == "close"
            client.expect_closed()
        elif row.then == KEEP:
            client.expect_usable()
    assert len(provider.requests) - seen_before == (1 if row.reaches else 0)
    with RawClient(server.port) as client:
        client.expect_usable()


def read_answer(client, row):
    """The answer to the row, or None where closing without one is allowed."""
    try:
        return client.read_response()
    except ConnectionEnded:
        assert None in row.status and client.inbox == b"", f"closed after {client.inbox!r}"
        return None


def verify_answer(row, answer):
    assert answer.status in row.status, answer
    assert answer.header("date"), answer.headers
    if answer.status >= 400 and row.wants_error_object():
        assert_openai_error(answer)


def test_a20_body_cut_off_by_the_client(server, module_provider):
    """Fewer bytes than promised, then FIN: no side effect, and the connection goes."""
    seen_before = len(module_provider.requests)
    with RawClient(server.port) as client:
        client.send(length(b"%d" % (len(CHAT) + 10)))
        client.half_close()
        try:
            assert client.read_response().status == 400
        except ConnectionEnded:
            pass
        client.expect_closed()
    assert len(module_provider.requests) == seen_before


def test_a30_a_million_one_byte_chunks(server, module_provider):
    """Accepted within the body limit, or refused by a limit on chunks; never a second answer."""
    text = json.dumps({"model": "m", "messages": [
        {"role": "user", "content": "a" * (1_000_000 - len(CHAT))}]}).encode()
    seen_before = len(module_provider.requests)
    body = b"".join(b"1\r\n%c\r\n" % byte for byte in text) + b"0\r\n\r\n"
    with RawClient(server.port) as client:
        sender = threading.Thread(target=client.send, args=(post(TE, body),))
        sender.start()
        answer = client.read_response()
        sender.join()
        assert answer.status in (200, 400), answer
        if answer.status == 400:
            assert_openai_error(answer)
            client.expect_closed()
        else:
            assert module_provider.requests[seen_before].json == json.loads(text)
            client.expect_usable()


def test_a31_trailers_change_nothing(server, module_provider):
    """Trailer fields are dropped: what goes upstream has our host, length and key."""
    seen_before = len(module_provider.requests)
    with RawClient(server.port) as client:
        client.send(post(TE, chunked(CHAT)[:-2] + b"Host: evil\r\nX-Evil: 1\r\n\r\n"))
        assert client.read_response().status == 200
    seen = module_provider.requests[seen_before]
    assert b"evil" not in seen.head.lower() and b"evil" not in seen.raw_body
    assert seen.header("authorization") == "Bearer sk-provider-key"
    assert seen.json == json.loads(CHAT)


def test_a32_missing_last_chunk(sluice, provider):
    """A chunked body that stops without its end runs into the body's minimum rate."""
    server = sluice("http: {body_grace: 300ms}\n" + provider_config(provider))
    with RawClient(server.port) as client:
        client.send(post(TE, chunked(CHAT)[:-5]))
        assert_openai_error(client.read_response(), 408)
        client.expect_closed()
    assert provider.requests == []
