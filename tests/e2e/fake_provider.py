# SPDX-License-Identifier: Apache-2.0
"""A fake OpenAI provider whose every byte can be scripted.

It stands where the model's API would be: a listener with one thread per connection and plain
sockets, because a test must be able to send half a chunk, stall, or reset at an exact place.

    with FakeProvider() as provider:
        provider.url                          # "http://127.0.0.1:41234/v1", for sluice.yaml
        provider.script(error(503), chat())   # the next two requests get these, in this order
        ...                                   # afterwards every request gets provider.default
        seen = provider.wait_request()        # the first request that nobody waited for yet
        seen.method, seen.target, seen.header("authorization"), seen.json
        seen.head, seen.raw_body              # exactly as received, chunked framing included
        seen.wait_peer_closed()               # returns when Sluice closes; fails if it does not

Scripts. A script is a function that takes the Exchange and answers it with `send`, `pause`,
`wait_for`, `close`, `reset`. Most tests put one together from steps instead:

    raw(step, …)       steps as they are, nothing added
    sse(step, …)       head of a 200 event stream, byte steps as HTTP chunks, then the last chunk
    chat(text)         a whole answer or a stream, as the request asks for; the default
    error(status, …)   an OpenAI error object

and a step is one of:

    bytes              send them at once (one segment: Nagle is off)
    number             wait that many seconds; ends early when the peer closes
    threading.Event    wait until the test sets it; the peer's leaving is noticed meanwhile
    CLOSE              end the connection politely (FIN)
    RESET              end it with RST
    HANG               say nothing more and keep the connection until the peer closes
    callable           called with the Exchange

`chat_events("Hel", "lo")` gives the events of a stream as a list of byte strings, so that
"dies after event k" is `sse(*chat_events("a", "b")[:k], RESET)`, and "cut at every byte" is
`raw(*cut(stream_bytes(events), 1))`. Connections stay open for the next request unless a step
ends them. `provider.on_connect(step)` runs a step before reading a connection's first request,
`provider.stop_listening()` makes new connections be refused.

The one hard thing: noticing that the peer left while a script is waiting. Every wait therefore
polls the socket, and bytes that arrive early are kept for the next request.
"""
import json
import os
import select
import socket
import struct
import threading
import time

HANG_GUARD_S = float(os.environ.get("E2E_HANG_GUARD", "60"))
CLOSE, RESET, HANG = "CLOSE", "RESET", "HANG"


class Gone(Exception):
    """The connection is over: the peer closed it, or a step did. Ends the script quietly."""


def is_readable(sock, timeout_s):
    """poll, because select cannot take the high descriptors of tests with many connections."""
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))


class Exchange:
    """One request as it was received, and the means to answer it."""

    def __init__(self, connection, number):
        self.connection = connection
        self.number = number               # 0 for the first request the provider received
        self.head = self.raw_body = self.body = b""
        self.method = self.target = self.version = ""
        self.headers = []                  # [(lower-case name, value)], in order
        self.sent = b""                    # all that was answered so far
        self.done = threading.Event()      # the script has ended
        self.script_error = None           # what a script raised by mistake

    def header(self, name):
        """The value of the first header of that name, or None."""
        return next((value for key, value in self.headers if key == name.lower()), None)

    @property
    def json(self):
        """The body, read as JSON."""
        return json.loads(self.body)

    @property
    def connection_number(self):
        """Which connection it came on; equal numbers mean that the connection was reused."""
        return self.connection.number

    @property
    def peer_closed(self):
        """A threading.Event, set at the moment the peer's FIN or RST was seen."""
        return self.connection.peer_closed

    def wait_peer_closed(self, timeout_s=HANG_GUARD_S):
        """Wait until the peer closes this connection; fails the test when it never does."""
        assert self.peer_closed.wait(timeout_s), "the gateway left its upstream connection open"

    def wait_done(self, timeout_s=HANG_GUARD_S):
        """Wait until the script has run to its end."""
        assert self.done.wait(timeout_s), "the fake provider's script did not end"

    def send(self, data):
        """Send bytes; raises Gone when the peer is no longer there."""
        self.connection.send(data)
        self.sent += data

    def pause(self, seconds):
        """Wait; raises Gone when the peer closes meanwhile."""
        self.connection.wait(lambda: False, seconds)

    def wait_for(self, event):
        """Wait until the test sets `event`; raises Gone when the peer closes meanwhile."""
        self.connection.wait(event.is_set, None)

    def close(self):
        """End the connection with FIN."""
        self.connection.close()

    def reset(self):
        """End the connection with RST."""
        self.connection.reset()

    def run(self, step):
        """Carry out one step, as listed at the top of this file."""
        if isinstance(step, (bytes, bytearray)):
            self.send(bytes(step))
        elif isinstance(step, (int, float)):
            self.pause(step)
        elif isinstance(step, threading.Event):
            self.wait_for(step)
        elif step == CLOSE:
            self.close()
        elif step == RESET:
            self.reset()
        elif step == HANG:
            self.connection.wait(lambda: False, None)
        else:
            step(self)


class Connection:
    """One accepted connection; runs in its own thread."""

    def __init__(self, provider, sock, number):
        self.provider, self.sock, self.number = provider, sock, number
        self.inbox = bytearray()
        self.peer_closed = threading.Event()
        self.ended = threading.Event()

    def serve(self):
        """Answer requests until either side ends the connection."""
        try:
            if self.provider.connect_step is not None:
                Exchange(self, -1).run(self.provider.connect_step)
            while True:
                exchange = self._read_request()
                script = self.provider.take_script(exchange)
                try:
                    script(exchange)
                except Gone:
                    raise
                except Exception as error:  # a mistake in a test's script: shown by stop()
                    exchange.script_error = error
                    self.close()
                finally:
                    exchange.done.set()
        except Gone:
            pass
        finally:
            self._end()

    def receive(self, timeout_s):
        """Take what has arrived into the inbox; False when nothing came in time."""
        if getattr(self.sock, "pending", lambda: 0)() == 0:
            if not is_readable(self.sock, timeout_s):
                return False
        try:
            data = self.sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.peer_closed.set()
            raise Gone
        self.inbox += data
        return True

    def wait(self, condition, seconds):
        """Wait until the condition holds or the seconds are over; notices a leaving peer."""
        end = None if seconds is None else time.monotonic() + seconds
        while not condition() and not self.provider.stopping.is_set():
            left = 0.005 if end is None else min(0.005, end - time.monotonic())
            if left <= 0:
                return
            self.receive(left)
        if self.provider.stopping.is_set():
            raise Gone

    def send(self, data):
        try:
            self.sock.sendall(data)
        except OSError:
            self.peer_closed.set()
            raise Gone from None

    def close(self):
        self._end()
        raise Gone

    def reset(self):
        """RST instead of FIN: what a crashed provider or a dropped NAT entry looks like."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._end()
        raise Gone

    def _end(self):
        self.ended.set()
        self.sock.close()

    def _read_until(self, delimiter):
        while delimiter not in self.inbox:
            self._read_more()
        return self._take(self.inbox.index(delimiter) + len(delimiter))

    def _read_exactly(self, count):
        while len(self.inbox) < count:
            self._read_more()
        return self._take(count)

    def _take(self, count):
        piece = bytes(self.inbox[:count])
        del self.inbox[:count]
        return piece

    def _read_more(self):
        while not self.receive(0.1):
            if self.provider.stopping.is_set():
                raise Gone

    def _read_request(self):
        """Read one request, keep it exactly as it came, and add it to the provider's list."""
        exchange = Exchange(self, -1)
        exchange.head = self._read_until(b"\r\n\r\n")
        request_line, *lines = exchange.head[:-4].decode("latin-1").split("\r\n")
        exchange.method, exchange.target, exchange.version = request_line.split(" ", 2)
        for line in lines:
            name, _, value = line.partition(":")
            exchange.headers.append((name.lower(), value.strip()))
        if (exchange.header("transfer-encoding") or "").lower() == "chunked":
            self._read_chunks(exchange)
        else:
            exchange.raw_body = self._read_exactly(int(exchange.header("content-length") or 0))
            exchange.body = exchange.raw_body
        self.provider.record(exchange)
        return exchange

    def _read_chunks(self, exchange):
        while True:
            line = self._read_until(b"\r\n")
            size = int(line.split(b";")[0], 16)
            data = self._read_exactly(size + 2)
            exchange.raw_body += line + data
            exchange.body += data[:size]
            if size == 0:
                return


class FakeProvider:
    """The listener. `host` may be "::1"; `unix_path` or `tls` (an ssl.SSLContext) replace TCP or
    wrap it. Use it as a context manager, or call stop()."""

    def __init__(self, host="127.0.0.1", unix_path=None, tls=None):
        self.tls, self.unix_path = tls, unix_path
        if unix_path:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(unix_path)
            self.port, self.url = None, f"unix:{unix_path}"
        else:
            self.listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            self.listener.bind((host, 0))
            self.port = self.listener.getsockname()[1]
            scheme, shown = "https" if tls else "http", f"[{host}]" if ":" in host else host
            self.url = f"{scheme}://{shown}:{self.port}/v1"
        self.listener.listen(512)
        self.default = chat("Hello from the fake provider.")
        self.requests = []                 # every Exchange, in the order of arrival
        self.connections = []              # every Connection, in the order of arrival
        self.connect_step = None
        self.stopping = threading.Event()
        self._scripts = []
        self._waited = 0
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def script(self, *scripts):
        """Answer the coming requests with these scripts, one each, in order of arrival."""
        with self._news:
            self._scripts.extend(scripts)

    def on_connect(self, step):
        """Do `step` (RESET, HANG, a number…) when a connection is accepted; None: nothing."""
        self.connect_step = step

    def wait_request(self, timeout_s=HANG_GUARD_S):
        """The next request that no wait_request has returned yet."""
        with self._news:
            came = self._news.wait_for(lambda: len(self.requests) > self._waited, timeout_s)
            assert came, f"no request number {self._waited} reached the fake provider"
            self._waited += 1
            return self.requests[self._waited - 1]

    def stop_listening(self):
        """Refuse new connections from now on; open ones live on."""
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()

    def stop(self):
        """End everything, and raise what a test's script raised by mistake."""
        self.stopping.set()
        self.stop_listening()
        self._thread.join(HANG_GUARD_S)
        for connection in self.connections:
            assert connection.ended.wait(HANG_GUARD_S), "a connection of the fake provider hangs"
        for exchange in self.requests:
            if exchange.script_error:
                raise exchange.script_error

    def take_script(self, exchange):
        """The script for a request (called by the connection that received it)."""
        with self._news:
            return self._scripts.pop(0) if self._scripts else self.default

    def record(self, exchange):
        """Note a request that was received completely (called by its connection)."""
        with self._news:
            exchange.number = len(self.requests)
            self.requests.append(exchange)
            self._news.notify_all()

    def _accept(self):
        while not self.stopping.is_set():
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        """The handshake runs here, in the connection's thread: it may stall or fail."""
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.tls:
            sock.settimeout(HANG_GUARD_S)
            try:
                sock = self.tls.wrap_socket(sock, server_side=True)
            except OSError:
                sock.close()
                return
            sock.settimeout(None)
        with self._news:
            connection = Connection(self, sock, len(self.connections))
            self.connections.append(connection)
        connection.serve()


# ---- scripts ----

def raw(*steps):
    """A script of these steps and nothing else."""
    def script(exchange):
        for step in steps:
            exchange.run(step)
    return script


def sse(*steps, status=200, headers=(), chunked=True, end=True):
    """An event stream: the head, then the steps; byte steps become HTTP chunks of their own.
    `chunked=False` ends by closing the connection instead; `end=False` leaves the body open."""
    head = list(headers) + [("Transfer-Encoding", "chunked") if chunked else ("Connection", "close")]

    def script(exchange):
        exchange.send(response_head(status, "text/event-stream; charset=utf-8", head))
        for step in steps:
            is_data = isinstance(step, (bytes, bytearray))
            exchange.run(chunk(step) if is_data and chunked else step)
        if end and chunked:
            exchange.send(b"0\r\n\r\n")
        elif end:
            exchange.close()
    return script


def chat(text="Hello", finish="stop", prompt_tokens=9):
    """Answer a chat request as it asks to be: streamed word by word, or whole. Usage comes in
    a stream only if `stream_options.include_usage` asks for it, as OpenAI does. Requests other
    than a chat get a 404."""
    pieces = [word if i == 0 else " " + word for i, word in enumerate(text.split(" "))]

    def script(exchange):
        if not exchange.target.endswith("/chat/completions"):
            return error(404, f"Invalid URL ({exchange.method} {exchange.target})")(exchange)
        request = exchange.json
        model = request.get("model")
        if request.get("stream"):
            usage = (request.get("stream_options") or {}).get("include_usage")
            tokens = (prompt_tokens, len(pieces)) if usage else None
            return sse(*chat_events(*pieces, model=model, finish=finish, usage=tokens))(exchange)
        return whole(chat_answer(text, model, finish, (prompt_tokens, len(pieces))))(exchange)
    return script


def whole(body, status=200, headers=(), content_type="application/json"):
    """A complete answer with a length. `body` is bytes, or something to write as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = response_head(status, content_type, [("Content-Length", str(len(data))), *headers])
    return raw(head + data)


def error(status, message="It failed.", type="server_error", code=None, param=None, headers=()):
    """An OpenAI error object."""
    body = {"error": {"message": message, "type": type, "param": param, "code": code}}
    return whole(body, status, headers)


# ---- bytes ----

REASONS = {200: "OK", 307: "Temporary Redirect", 400: "Bad Request", 401: "Unauthorized",
           403: "Forbidden", 404: "Not Found", 429: "Too Many Requests",
           500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable"}


def response_head(status=200, content_type="application/json", headers=()):
    """A response head. `headers` are (name, value) pairs; no framing header is added."""
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}", f"Content-Type: {content_type}",
             "x-request-id: req_fake"]
    lines += [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunk(data, extension=b""):
    """One HTTP chunk."""
    return b"%x%s\r\n%s\r\n" % (len(data), extension, bytes(data))


def cut(data, *places):
    """Cut bytes into a list: `cut(data, 1)` into pieces of that size, more numbers are places."""
    if len(places) == 1:
        return [data[i:i + places[0]] for i in range(0, len(data), places[0])]
    edges = [0, *places, len(data)]
    return [data[a:b] for a, b in zip(edges, edges[1:])]


def stream_bytes(events, chunk_each=True):
    """A complete event-stream response as one byte string, to be cut at any byte."""
    head = response_head(200, "text/event-stream", [("Transfer-Encoding", "chunked")])
    parts = events if chunk_each else [b"".join(events)]
    return head + b"".join(chunk(part) for part in parts) + b"0\r\n\r\n"


def event(data, name=None, end=b"\n"):
    """One server-sent event. `data` is bytes, or something to write as JSON."""
    payload = data if isinstance(data, bytes) else json.dumps(data).encode()
    first = b"event: " + name + end if name else b""
    return first + b"data: " + payload + end + end


def delta(content=None, role=None, finish=None, index=0, model="fake", **more):
    """A chat.completion.chunk object with one choice; `more` goes into its delta."""
    piece = dict(more)
    if role is not None:
        piece["role"] = role
    if content is not None:
        piece["content"] = content
    return {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1732000000,
            "model": model, "choices": [{"index": index, "delta": piece, "finish_reason": finish}]}


def usage_chunk(prompt, completion, model="fake"):
    """The extra chunk with the usage and no choices that ends a stream on demand."""
    return {"id": "chatcmpl-fake", "object": "chat.completion.chunk", "created": 1732000000,
            "model": model, "choices": [], "usage": usage_object(prompt, completion)}


def usage_object(prompt, completion):
    return {"prompt_tokens": prompt, "completion_tokens": completion,
            "total_tokens": prompt + completion}


DONE = b"data: [DONE]\n\n"


def chat_events(*pieces, model="fake", finish="stop", usage=None, done=True, end=b"\n"):
    """The events of a streamed chat, as a list of bytes: the role, each piece, the finish
    reason (None leaves it out), usage=(prompt, completion) if given, and [DONE]."""
    chunks = [delta(role="assistant", content="", model=model)]
    chunks += [delta(content=piece, model=model) for piece in pieces]
    if finish is not None:
        chunks.append(delta(finish=finish, model=model))
    if usage is not None:
        chunks.append(usage_chunk(*usage, model=model))
    events = [event(item, end=end) for item in chunks]
    return events + [event(b"[DONE]", end=end)] if done else events


def chat_answer(text="Hello", model="fake", finish="stop", usage=(9, 1)):
    """A whole chat.completion object."""
    message = {"role": "assistant", "content": text, "refusal": None}
    return {"id": "chatcmpl-fake", "object": "chat.completion", "created": 1732000000,
            "model": model, "usage": usage_object(*usage),
            "choices": [{"index": 0, "message": message, "logprobs": None,
                         "finish_reason": finish}]}
