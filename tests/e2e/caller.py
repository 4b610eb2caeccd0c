# SPDX-License-Identifier: Apache-2.0
"""A caller of the chat API, on top of raw_http.

    answer = ask(server, CHAT, id="a1")        # one request on a connection of its own
    with Stream(server) as stream:             # a streamed answer, piece by piece
        stream.head()                          # waits for the response head
        stream.next_event()                    # one event's bytes; None at the clean end
        stream.rest()                          # all further bytes, to the clean end
    record = outcome(server, "a1")             # the one access line of that request
    prefix, error = broken(body)               # a stream that ended in an error event

Nothing here is lenient: a stream must end with its last chunk, and an error event must be the last
thing in it. `datas(body)` reads event streams as WHATWG HTML §9.2 says, for the tests that may not
compare bytes.
"""
import json
import re

from raw_http import RawClient, request_bytes

PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hi"}]
CHAT = {"model": "m", "messages": MESSAGES}
STREAM = CHAT | {"stream": True}


def chat_request(body=CHAT, headers=(), id=None):
    more = [("X-Request-Id", id)] if id else []
    return request_bytes("POST", PATH, body, [*headers, *more])


def ask(server, body=CHAT, headers=(), id=None):
    """Send a chat request and read all of its answer, streamed or not."""
    with RawClient(server.port) as client:
        client.send(chat_request(body, headers, id))
        return client.read_response()


class Stream:
    """A streamed answer in progress."""

    def __init__(self, server, body=STREAM, headers=(), id=None, receive_buffer=None):
        self.client = RawClient(server.port, receive_buffer=receive_buffer)
        self.client.send(chat_request(body, headers, id))
        self.response, self.inbox = None, b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.close()

    def head(self):
        """Wait for the head, which must promise an event stream."""
        self.response = self.client.read_head()
        assert self.response.status == 200, self.response
        assert self.response.header("content-type") == "text/event-stream; charset=utf-8"
        assert self.response.header("transfer-encoding") == "chunked"
        return self.response

    def read_until(self, text):
        """The bytes up to `text` and with it."""
        if self.response is None:
            self.head()
        while text not in self.inbox:
            piece = self.client.read_chunk()
            assert piece, f"the stream ended before {text!r}: {self.inbox[-300:]!r}"
            self.inbox += piece
        found, _, self.inbox = self.inbox.partition(text)
        return found + text

    def next_event(self):
        """The next event with its blank line (line ends must be LF), None at the end."""
        if self.response is None:
            self.head()
        while b"\n\n" not in self.inbox:
            piece = self.client.read_chunk()
            if not piece:
                assert not self.inbox, f"the stream ended within an event: {self.inbox!r}"
                return None
            self.inbox += piece
        return self.read_until(b"\n\n")

    def rest(self):
        """Everything up to the last chunk."""
        if self.response is None:
            self.head()
        parts = [self.inbox]
        while piece := self.client.read_chunk():
            parts.append(piece)
        self.inbox = b""
        return b"".join(parts)


def ask_stream(server, body=STREAM, headers=(), id=None):
    """All bytes of a streamed answer that begins well."""
    with Stream(server, body, headers, id) as stream:
        return stream.rest()


def outcome(server, id):
    """The access line of a request, once it is over."""
    return server.wait_log("request", id=id)


def assert_one_outcome(server, id):
    """Exactly one terminal record; looked at after the server has left."""
    server.stop()
    lines = server.log_lines("request", id=id)
    assert len(lines) == 1, lines
    return lines[0]


def broken(body):
    """Split a stream that ended in an error event: (what came before, the error). It has no end
    marker, and the error has OpenAI's shape."""
    found = re.fullmatch(rb"(.*)data: (\{\"error\":[^\r\n]*\})\n\n", body, re.DOTALL)
    assert found, f"no error event at the end: {body[-300:]!r}"
    assert b"[DONE]" not in body
    error = json.loads(found[2])["error"]
    assert set(error) >= {"message", "type", "param", "code"}, error
    return found[1], error


def datas(body):
    """The data of each event in a stream (bytes), read as the standard says."""
    lines = re.split(rb"\r\n|\r|\n", body)
    events, data = [], None
    for line in lines[:-1]:
        name, _, value = line.partition(b":")
        if line == b"":
            if data is not None:
                events.append(data)
            data = None
        elif name == b"data":
            value = value[1:] if value.startswith(b" ") else value
            data = value if data is None else data + b"\n" + value
    return events


def words(body):
    """The text of a streamed answer."""
    chunks = [json.loads(data) for data in datas(body) if data != b"[DONE]"]
    return "".join(choice["delta"].get("content") or ""
                   for chunk in chunks for choice in chunk["choices"])
