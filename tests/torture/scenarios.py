# SPDX-License-Identifier: Apache-2.0
"""What is done again and again under torture: one class for each scenario.

`once` does it, in each of the ways that take different paths, and asserts that every outcome is an
honest one, whatever failed; `afterwards` is the ordinary request that must work then. `own` are the
error statuses that a scenario may have without its being the fault's fault: a system call that
fails towards the provider is a 502.
"""
import gzip
import json
import re
import signal
import socket
import ssl
import subprocess
import threading

from fake_provider import (CLOSE, RESET, FakeProvider, chat, chat_answer, chat_events, raw, sse,
                           whole)
from raw_http import HANG_GUARD_S, RawClient, chunked, request_bytes
from sluice import provider_config
from torture import Caller, check_refusal, check_stream, check_whole

TEXT = "one two three four five six seven"
EVENTS = chat_events(*re.findall(r" ?\w+", TEXT))
BEGINNING = EVENTS[:3]
ANSWER = json.dumps(chat_answer(TEXT)).encode()
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM = CHAT | {"stream": True}
END = ("Connection", "close")
JSON = ("Content-Type", "application/json")
CHUNKED = ("Transfer-Encoding", "chunked")
CONFIG = "debug: true\nworkers: 1\n"


def chat_request(body, *headers):
    return request_bytes("POST", "/v1/chat/completions", body, headers)


class Scenario:
    """A server in front of the fake provider."""

    config, own = "", ()

    def __init__(self, sluice, provider, directory):
        self.provider, self.directory = provider, directory
        self.server = sluice(CONFIG + self.config + provider_config(provider))

    def connect(self):
        return RawClient(self.server.port)

    def caller(self):
        return Caller(self.connect)

    def ask_alone(self, request):
        with self.caller() as caller:
            return caller.ask(request)[0]

    def ask_in_turn(self, first, next):
        """Over a new upstream connection, over a kept one, and behind another in the pipeline."""
        with self.caller() as caller:
            return [answer for requests in ((first,), (next,), (next, next))
                    for answer in caller.ask(*requests)]

    def afterwards(self):
        self.provider.default = chat(TEXT)
        answer = self.ask_alone(chat_request(STREAM, END))
        check_stream(answer, TEXT)
        assert answer and answer.status == 200 and answer.is_complete, answer


def first_closing(script, body):
    """Answer with `script`, but let the first connection go after its answer."""
    scripts = [body]

    def either(exchange):
        (scripts.pop() if scripts else script)(exchange)
    return either


class Whole(Scenario):
    """Whole answers."""

    def once(self):
        self.provider.default = first_closing(whole(ANSWER), whole(ANSWER, headers=[END]))
        for answer in self.ask_in_turn(chat_request(CHAT), chat_request(CHAT)):
            check_whole(answer, ANSWER, self.own)


class Stream(Scenario):
    """Streamed answers."""

    def once(self):
        self.provider.default = first_closing(chat(TEXT), sse(*EVENTS, headers=[END]))
        for answer in self.ask_in_turn(chat_request(STREAM), chat_request(STREAM)):
            check_stream(answer, TEXT, self.own)


class Governed(Scenario):
    """A key, limits, budgets and prices: what is taken is given back, and every call is booked."""

    KEY = ("Authorization", "Bearer sk-torture-0123456789")
    config = ("keys: {static: [{name: t, key: sk-torture-0123456789}]}\n"
              "limits: {per_key: {requests: 1000000/60s, tokens: 1000000000/60s, streams: 4},\n"
              "         per_user: {requests: 1000000/60s}}\n"
              "budgets: {per_key: {money: [1000/day]}, per_user: {tokens: [1000000000/day]}}\n"
              "prices: prices.yaml\n")
    own = (503,)

    def __init__(self, sluice, provider, directory):
        prices = directory / "prices.yaml"
        prices.write_text("currency: USD\nmodels: {m: {input: 2.5, output: 10}}\n")
        self.config = self.config.replace("prices.yaml", str(prices))
        super().__init__(sluice, provider, directory)

    def once(self):
        self.provider.default = whole(ANSWER)
        user = ("X-User-ID", "eve")
        for answer in self.ask_in_turn(chat_request(CHAT, self.KEY, user),
                                       chat_request(CHAT, self.KEY, user)):
            check_whole(answer, ANSWER, self.own)

    def afterwards(self):
        self.provider.default = chat(TEXT)
        answer = self.ask_alone(chat_request(STREAM, END, self.KEY))
        check_stream(answer, TEXT)
        assert answer and answer.status == 200 and answer.is_complete, answer


class GovernedTwice(Governed):
    """The first attempt begins its answer and is cut, so it is charged for: more is reserved before the second."""

    config = Governed.config + "retry: {attempts: 2}\n"
    own = (502, 503)

    def once(self):
        for ending in (CLOSE, RESET):
            scripts = [sse(EVENTS[0], ending)]
            self.provider.default = lambda exchange: (scripts.pop() if scripts else chat(TEXT))(exchange)
            check_stream(self.ask_alone(chat_request(STREAM, self.KEY, ("X-User-ID", "eve"))), TEXT, self.own)


class CallerLeaves(Scenario):
    """The caller leaves while a whole answer is awaited, before a stream's first event, in its
    middle, and with a reset."""

    def once(self):
        for body, script, until in ((CHAT, raw(HANG_GUARD_S), None),
                                    (STREAM, sse(HANG_GUARD_S), None),
                                    (STREAM, sse(*BEGINNING, HANG_GUARD_S), b'" two"')):
            self.leave(chat_request(body, END), script, until, RawClient.close)
        self.leave(chat_request(STREAM, END), sse(*BEGINNING, HANG_GUARD_S), b'" two"', RawClient.reset)

    def leave(self, request, script, until, how):
        """Leave when the provider has the request, or has been heard through the server."""
        came = threading.Event()

        def noticing(exchange):
            came.set()
            script(exchange)
        seen = len(self.provider.requests)
        self.provider.default = noticing
        client = self.connect()
        client.send(request)
        if until:
            while until not in client.inbox and client.receive():
                pass
        else:
            while not came.wait(0.001) and not client.has_answer():
                pass
        how(client)
        for exchange in self.provider.requests[seen:]:
            exchange.wait_peer_closed()


class CutBefore(Scenario):
    """The upstream is cut before its first event: before its head, behind it, politely."""

    own = (502,)

    def once(self):
        for script in (raw(RESET), sse(RESET), sse(CLOSE)):
            self.provider.default = script
            answer = self.ask_alone(chat_request(STREAM, END))
            if answer:
                check_refusal(answer, self.own)


class CutAfter(Scenario):
    """The upstream is cut after its first event: with a reset, politely, and with a last chunk that
    comes too early."""

    def once(self):
        for script in (sse(*BEGINNING, RESET), sse(*BEGINNING, CLOSE), sse(*BEGINNING)):
            self.provider.default = script
            answer = self.ask_alone(chat_request(STREAM, END))
            check_stream(answer, TEXT, (502,))
            assert answer is None or b"[DONE]" not in answer.body, answer


class DeadPooled(Scenario):
    """The upstream's kept connection turns out to be dead: another is dialled, unless a part of an
    answer has come."""

    own = (502,)

    def once(self):
        for steps, body in (((RESET,), CHAT), ((CLOSE,), STREAM), ((b"HTTP/1.1 200", RESET), CHAT)):
            used = {exchange.connection_number for exchange in self.provider.requests}

            def script(exchange):
                if exchange.connection_number in used:
                    raw(*steps)(exchange)
                (chat(TEXT) if body is STREAM else whole(ANSWER))(exchange)
            self.provider.default = script
            answer = self.ask_alone(chat_request(body, END))
            if body is STREAM:
                check_stream(answer, TEXT, self.own)
            else:
                check_whole(answer, ANSWER, self.own)


class ChunkedUpload(Scenario):
    """Long request bodies in chunks: plain, behind an Expect, and gzip."""

    body = json.dumps(CHAT | {"metadata": {"filling": "x" * 100_000}}).encode()

    def once(self):
        self.provider.default = whole(ANSWER, headers=[END])
        for request in (chat_request(chunked(self.body, 7_000), END, JSON, CHUNKED),
                        chat_request(chunked(self.body, 1_000), END, JSON, CHUNKED,
                                     ("Expect", "100-continue")),
                        chat_request(chunked(gzip.compress(self.body), 50), END, JSON, CHUNKED,
                                     ("Content-Encoding", "gzip"))):
            check_whole(self.ask_alone(request), ANSWER, self.own)


class TooLarge(Scenario):
    """Bodies beyond the limit: told by the length, with and without Expect, found while the chunks
    come, and found while decoding."""

    config = "http: {max_body: 4KiB}\n"

    def once(self):
        body = json.dumps(CHAT | {"user": "x" * 10_000}).encode()
        for request in (chat_request(body), chat_request(body, ("Expect", "100-continue")),
                        chat_request(chunked(body, 1000), JSON, CHUNKED),
                        chat_request(gzip.compress(body), JSON, ("Content-Encoding", "gzip"))):
            answer = self.ask_alone(request)
            if answer:
                check_refusal(answer, (413,))


class ModelList(Scenario):
    """The list of models, one of them, one that is not there, pipelined too."""

    config = "models: {a: {targets: fake/x}, b: {targets: fake/y}}\n"

    def once(self):
        listed, one, none = (request_bytes("GET", "/v1/models" + rest) for rest in ("", "/a", "/c"))
        with self.caller() as caller:
            answers = caller.ask(listed) + caller.ask(one) + caller.ask(none, listed, one)
        for answer, wanted in zip(answers, (self.list, self.one, self.none, self.list, self.one)):
            if answer and answer.status not in (200, 404):
                check_refusal(answer)
            elif answer and answer.is_complete:
                wanted(answer)

    def list(self, answer):
        assert [model["id"] for model in answer.json["data"]] == ["a", "b"], answer

    def one(self, answer):
        assert answer.json["id"] == "a", answer

    def none(self, answer):
        assert answer.status == 404, answer


class Handshake(Scenario):
    """TLS with the caller and with the provider."""

    own = (502,)

    def __init__(self, sluice, _, directory):
        self.directory = directory
        self.certificate, key = make_certificate(directory)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self.provider = FakeProvider(tls=context)
        self.config = f"tls: {{certificate: {self.certificate}, key: {key}}}\n"
        self.server = sluice(CONFIG + self.config + self.providers())
        self.client_context = ssl.create_default_context(cafile=self.certificate)

    def providers(self):
        return provider_config(self.provider, extra=f", ca: {self.certificate}")

    def connect(self):
        return TlsClient(self.server.port, self.client_context)

    def once(self):
        self.provider.default = whole(ANSWER, headers=[END])
        check_whole(self.ask_alone(chat_request(CHAT, END)), ANSWER, self.own)


class TlsClient(RawClient):
    def __init__(self, port, context):
        super().__init__(port)
        self.sock = context.wrap_socket(self.sock, server_hostname="127.0.0.1")

    def send(self, data):
        try:
            super().send(data)
        except ssl.SSLError:               # it has hung up: what it said is looked at
            pass

    def receive(self):
        try:
            return super().receive()
        except ssl.SSLError:               # an alert: there is no more to come
            self.ended = True
            return False


def make_certificate(directory):
    """A self-signed certificate for 127.0.0.1, and its key."""
    certificate, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=sluice",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", key],
                   check=True, capture_output=True)
    return certificate, key


class Reload(Handshake):
    """SIGHUP with another model in the file each time. The new configuration is taken as a whole or
    not at all."""

    def __init__(self, sluice, _, directory):
        self.notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notices.bind(str(directory / "notify"))
        self.notices.settimeout(0.05)
        super().__init__(lambda text: sluice(
            text, environment={"NOTIFY_SOCKET": str(directory / "notify")}), _, directory)
        self.wait_ready(0)
        self.turn = 1
        self.once()

    def wait_ready(self, failures):
        """Until it tells its supervisor that it is ready (sd_notify(3)), or that it cannot."""
        while len(self.server.log_lines("the configuration cannot be read again now")) == failures:
            try:
                if self.notices.recv(512).startswith(b"READY"):
                    return
            except socket.timeout:
                assert self.server.is_running(), self.server.tail()

    def once(self):
        self.turn = 1 - self.turn          # new names would leave new metrics behind
        self.server.write_config(CONFIG + self.config + self.providers() +
                                 f"models: {{turn-{self.turn}: {{targets: fake/x}}}}\n")
        failures = len(self.server.log_lines("the configuration cannot be read again now"))
        self.server.reload()
        self.wait_ready(failures)

    def models(self):
        answer = self.ask_alone(request_bytes("GET", "/v1/models", headers=[END]))
        return [model["id"] for model in answer.json["data"]]

    def afterwards(self):
        super().afterwards()
        assert self.models() in ([["turn-0"], ["turn-1"]]), self.server.tail()
        if self.models() != [f"turn-{self.turn}"]:
            self.once()                    # without a fault it is taken
            assert self.models() == [f"turn-{self.turn}"], self.server.tail()


class Drain(Scenario):
    """SIGTERM while a whole answer and a stream are under way, which finish, another stream, which
    does not and is told so, and a connection that is idle. The process always ends well."""

    config = "drain: {timeout: 100ms}\n"

    def once(self):
        stopping = threading.Event()
        self.provider.default = self.answer_when(stopping)
        clients = [self.connect() for _ in range(4)]
        for client, ask in zip(clients, (CHAT, STREAM, STREAM | {"user": "for ever"})):
            client.send(chat_request(ask, END))
        for client in clients[1:3]:
            while b'" two"' not in client.inbox and client.receive():
                pass
        self.server.process.send_signal(signal.SIGTERM)
        stopping.set()
        callers = [Caller(lambda: None, client) for client in clients]
        outcomes = [caller.ask(b"")[0] for caller in callers[:3]]
        clients[3].expect_closed()
        self.server.wait_exit()
        check_whole(outcomes[0], ANSWER)
        check_stream(outcomes[1], TEXT)
        check_stream(outcomes[2], TEXT)
        assert outcomes[2] is None or b"[DONE]" not in outcomes[2].body, outcomes[2]

    @staticmethod
    def answer_when(stopping):
        def script(exchange):
            if not exchange.json.get("stream"):
                raw(stopping, 0.02)(exchange)
                whole(ANSWER)(exchange)
            elif "user" in exchange.json:
                sse(*BEGINNING, HANG_GUARD_S)(exchange)
            else:
                sse(*BEGINNING, stopping, 0.02, *EVENTS[3:])(exchange)
        return script


SCENARIOS = {"whole": Whole, "stream": Stream, "caller-leaves": CallerLeaves,
             "cut-before": CutBefore, "cut-after": CutAfter, "dead-pooled": DeadPooled,
             "chunked-upload": ChunkedUpload, "handshake": Handshake, "reload": Reload,
             "too-large": TooLarge, "models": ModelList,
             "governed": Governed, "governed-twice": GovernedTwice}
