# SPDX-License-Identifier: Apache-2.0
"""A client that sends exactly the bytes it is told to, and reads answers strictly.

    with RawClient(port) as client:
        client.send(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = client.read_response()        # .status .header("date") .body .json
        client.expect_closed()                 # EOF, and not one byte before it

It has no opinion on what it sends. What it reads must be well-formed HTTP/1.1 (RFC 9112): a
status line, at most one length, chunks that add up; anything else fails the test. No test looks
at the clock: a wait ends when its event comes, and HANG_GUARD_S only ends a test that is broken.
"""
import json
import os
import select
import socket
import struct
import time

HANG_GUARD_S = float(os.environ.get("E2E_HANG_GUARD", "60"))


class ConnectionEnded(AssertionError):
    """The server closed where more bytes of an answer were due."""


class Response:
    """One answer. `headers` keeps order and lower-case names; `raw` is all of its bytes."""

    def __init__(self, version, status, reason, headers):
        self.version, self.status, self.reason, self.headers = version, status, reason, headers
        self.body, self.raw = b"", b""

    def header(self, name):
        """The value of a header, or None; a header that came twice fails the test."""
        values = [value for key, value in self.headers if key == name.lower()]
        assert len(values) <= 1, f"{name} came {len(values)} times"
        return values[0] if values else None

    @property
    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"<{self.status} {self.reason} {self.body[:200]!r}>"


class RawClient:
    """A connection to 127.0.0.1:port, or to `address` (host, port) or a unix socket's path."""

    def __init__(self, port=None, address=None, receive_buffer=None):
        address = address or ("127.0.0.1", port)
        if isinstance(address, str):
            family = socket.AF_UNIX
        else:
            family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.sock = socket.socket(family)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(HANG_GUARD_S)
        self.sock.connect(address)
        if family != socket.AF_UNIX:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.inbox = b""
        self.ended = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- sending ----

    def send(self, data):
        """Send all of it. A server that stopped listening is no error here: what it answered
        before is what the test looks at."""
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def send_cut(self, data, size=1, pause_s=0.0002):
        """Send in pieces of `size` bytes, each a segment of its own. Long input is cut finely
        only at both its ends, so that a test never sends more than about 1,000 pieces."""
        for piece in pieces_of(data, size):
            try:
                self.sock.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                return
            time.sleep(pause_s)

    def request(self, method, target, body=None, headers=()):
        """Send a well-formed request and read its answer."""
        self.send(request_bytes(method, target, body, headers))
        return self.read_response(head_only=method == "HEAD")

    def half_close(self):
        """Send FIN; answers can still be read."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self):
        """Leave with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self):
        self.sock.close()

    # ---- reading ----

    def receive(self):
        """Wait for bytes; False at the end of the connection, an RST included."""
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            data = b""
        except socket.timeout:
            raise AssertionError("nothing came from the server: the hang guard ended the wait")
        self.ended = self.ended or not data
        self.inbox += data
        return bool(data)

    def has_answer(self):
        """True when bytes are here already; never waits."""
        poller = select.poll()
        poller.register(self.sock, select.POLLIN)
        return bool(self.inbox) or bool(poller.poll(0))

    def read_until(self, delimiter):
        """The bytes up to the delimiter, and the delimiter."""
        while delimiter not in self.inbox:
            if not self.receive():
                raise ConnectionEnded(f"closed after {self.inbox[:300]!r}")
        piece, _, self.inbox = self.inbox.partition(delimiter)
        return piece + delimiter

    def read_exactly(self, count):
        while len(self.inbox) < count:
            if not self.receive():
                raise ConnectionEnded(f"closed with {count - len(self.inbox)} bytes missing")
        piece, self.inbox = self.inbox[:count], self.inbox[count:]
        return piece

    def read_head(self):
        """Read a response's head only; the body stays for read_body or read_event."""
        raw = self.read_until(b"\r\n\r\n")
        status_line, *lines = raw[:-4].decode("latin-1").split("\r\n")
        version, status, reason = (status_line + " ").split(" ", 2)
        assert version in ("HTTP/1.1", "HTTP/1.0") and len(status) == 3, status_line
        headers = []
        for line in lines:
            name, colon, value = line.partition(":")
            assert colon and name and name == name.strip(), f"bad header line {line!r}"
            headers.append((name.lower(), value.strip()))
        response = Response(version, int(status), reason.strip(), headers)
        response.raw = raw
        return response

    def read_response(self, head_only=False, informational=False):
        """Read one whole answer. 1xx answers are skipped unless `informational` is set."""
        response = self.read_head()
        while 100 <= response.status < 200 and not informational:
            response = self.read_head()
        no_body = head_only or response.status in (204, 304) or response.status < 200
        if not no_body:
            self.read_body(response)
        return response

    def read_body(self, response):
        """Read the body that the head announced."""
        length, coding = response.header("content-length"), response.header("transfer-encoding")
        assert length is None or coding is None, "an answer with a length and chunks"
        if coding is not None:
            assert coding == "chunked", coding
            while piece := self.read_chunk():
                response.body += piece
        elif length is not None:
            response.body = self.read_exactly(int(length))
        else:
            while self.receive():
                pass
            response.body, self.inbox = self.inbox, b""
        response.raw += response.body

    def read_chunk(self):
        """One chunk of a chunked body; b"" for the last one."""
        size = int(self.read_until(b"\r\n").rstrip(b"\r\n").split(b";")[0], 16)
        data = self.read_exactly(size + 2)
        assert data.endswith(b"\r\n"), "a chunk without its end"
        return data[:-2]

    def expect_closed(self):
        """The server closes and says nothing before it does."""
        while self.receive():
            pass
        assert self.inbox == b"", f"more bytes after the answer: {self.inbox[:300]!r}"

    def expect_usable(self):
        """The connection serves another request."""
        answer = self.request("GET", "/v1/models")
        assert answer.status == 200, answer


def pieces_of(data, size):
    """Pieces of `size` bytes for the first and last 400 bytes, 64 pieces between them."""
    if len(data) <= 800:
        return [data[i:i + size] for i in range(0, len(data), size)]
    middle = data[400:-400]
    step = max(size, len(middle) // 64 + 1)
    return (pieces_of(data[:400], size) + [middle[i:i + step] for i in range(0, len(middle), step)]
            + pieces_of(data[-400:], size))


def request_bytes(method, target, body=None, headers=(), host="localhost"):
    """A well-formed request. `body` is bytes or something to write as JSON."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    data = b""
    if body is not None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.lower() for name, _ in headers}
        if "content-type" not in named:
            lines.append("Content-Type: application/json")
        if not named & {"content-length", "transfer-encoding"}:
            lines.append(f"Content-Length: {len(data)}")
    lines += [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + data


def chunked(data, size=None):
    """A chunked body with its last chunk."""
    size = size or max(1, len(data))
    parts = [data[i:i + size] for i in range(0, len(data), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def assert_openai_error(answer, status=None, code=None):
    """The answer is an error in OpenAI's shape, with every header an error must carry."""
    assert status is None or answer.status == status, answer
    assert answer.header("date"), "an error without Date"
    assert (answer.header("content-type") or "").startswith("application/json"), answer.headers
    error = answer.json["error"]
    assert set(error) >= {"message", "type", "param", "code"}, error
    assert isinstance(error["message"], str) and error["message"], error
    assert isinstance(error["type"], str), error
    assert code is None or error["code"] == code, error
    return error
