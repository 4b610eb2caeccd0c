# SPDX-License-Identifier: Apache-2.0
"""Idempotency-Key: a request that is sent again is answered again, and no model is asked twice."""
import contextlib
import json
import signal
import socket
import sqlite3
import threading
import time

import anthropic
import openai
import pytest
from fake_answer import Answer, Tokens
from fake_models import FakeModels
from fake_provider import HANG, event, sse
from postgres import Postgres
from raw_http import HANG_GUARD_S, RawClient, request_bytes

CHAT = {"model": "openai", "messages": [{"role": "user", "content": "Say hello"}]}
ASKS = {
    "/v1/chat/completions": CHAT,
    "/v1/responses": {"model": "openai", "input": "Say hello"},
    "/v1/messages": {"model": "openai", "max_tokens": 100, "messages": CHAT["messages"]},
}
KINDS = ("openai", "anthropic")


@pytest.fixture
def fake():
    with FakeModels() as models:
        models.answer = Answer(["Hel", "lo ", "you"], usage=Tokens(11, 5))
        yield models


def config(fake, more=""):
    return fake.config(KINDS, more)


@pytest.fixture
def server(sluice, fake):
    return sluice(config(fake))


def ask(server, key="k1", path="/v1/chat/completions", caller=None, **members):
    headers = [("Idempotency-Key", key)] if key is not None else []
    headers += [("Authorization", f"Bearer {caller}")] if caller else []
    with RawClient(server.port) as client:
        return client.request("POST", path, ASKS[path] | members, headers)


def replayed(answer):
    return answer.header("idempotent-replayed")


def check_refused(answer, status, code):
    assert (answer.status, answer.json["error"]["code"]) == (status, code), answer


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ASKS)
def test_the_same_request_is_answered_again(server, fake, path, kind, stream):
    first = ask(server, path=path, model=kind, stream=stream)
    assert first.status == 200 and replayed(first) is None
    again = ask(server, path=path, model=kind, stream=stream)
    assert (again.status, replayed(again)) == (200, "true")
    assert again.body == first.body
    assert again.header("content-type") == first.header("content-type")
    assert again.header("x-sluice-model") == first.header("x-sluice-model") == f"{kind}/m"
    assert len(fake.asked("m")) == 1
    other = ask(server, "k2", path, model=kind, stream=stream)
    assert replayed(other) is None and len(fake.asked("m")) == 2


def test_without_the_header_nothing_is_kept(server, fake):
    ask(server, None)
    ask(server, None)
    assert len(fake.asked("m")) == 2
    server.stop()
    with contextlib.closing(sqlite3.connect(store_of(server))) as store:
        assert store.execute("SELECT count(*) FROM idempotency").fetchone() == (0,)


def test_another_request_under_the_same_key_is_refused(server, fake):
    ask(server)
    check_refused(ask(server, temperature=0.5), 422, "idempotency_key_reused")
    check_refused(ask(server, path="/v1/responses"), 422, "idempotency_key_reused")
    assert len(fake.asked("m")) == 1


@pytest.mark.parametrize("headers", [
    [("Idempotency-Key", "")], [("Idempotency-Key", "k" * 256)], [("Idempotency-Key", "é")],
    [("Idempotency-Key", "a"), ("Idempotency-Key", "a")]], ids=["empty", "long", "not ascii", "twice"])
def test_malformed_keys(server, fake, headers):
    with RawClient(server.port) as client:
        check_refused(client.request("POST", "/v1/chat/completions", CHAT, headers), 400, "invalid_header")
    assert not fake.asked("m")


def test_callers_do_not_meet(sluice, fake):
    server = sluice(config(fake, "keys: {static: [{name: a, key: sk-aaaaaaaaaaaaaaaa}, "
                                 "{name: b, key: sk-bbbbbbbbbbbbbbbb}]}\n"))
    assert replayed(ask(server, caller="sk-aaaaaaaaaaaaaaaa")) is None
    assert replayed(ask(server, caller="sk-bbbbbbbbbbbbbbbb")) is None
    assert replayed(ask(server, caller="sk-aaaaaaaaaaaaaaaa")) == "true"


# ---- while it is being answered ----

def hanging():
    """A stream that says one word and no more."""
    return sse(event({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [
        {"index": 0, "delta": {"content": "Hel"}, "finish_reason": None}]}), HANG)


@contextlib.contextmanager
def streaming(server, fake):
    """A stream under the key k1 that has begun."""
    fake.script(hanging())
    with RawClient(server.port) as client:
        client.send(request_bytes("POST", "/v1/chat/completions", CHAT | {"stream": True},
                                  [("Idempotency-Key", "k1")]))
        client.read_head()
        while b"Hel" not in client.read_chunk():
            pass
        yield client


def test_the_second_waits_for_the_first(server, fake):
    with streaming(server, fake):
        check_refused(ask(server, stream=True), 409, "idempotency_key_running")
        check_refused(ask(server, stream=False), 422, "idempotency_key_reused")
    assert len(fake.requests) == 1


def ask_until(server, status=200, refused=(409,), **members):
    """What comes of a key that is about to be free."""
    end = time.monotonic() + HANG_GUARD_S
    while True:
        answer = ask(server, **members)
        if answer.status == status:
            return answer
        assert answer.status in refused and time.monotonic() < end, answer
        time.sleep(0.02)


def test_whoever_leaves_may_come_back(server, fake):
    with streaming(server, fake):
        pass
    assert replayed(ask_until(server, stream=True)) is None
    assert len(fake.requests) == 2


def test_at_once_many(server, fake):
    """However many come at once, one model call is made of them."""
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(ask(server))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status for answer in answers} <= {200, 409}
    assert len(fake.asked("m")) == 1
    assert len({answer.body for answer in answers if answer.status == 200}) == 1


# ---- failures ----

@pytest.mark.parametrize("fault", ["503", "429", "400", "close"])
def test_failures_are_not_kept(server, fake, fault):
    fake.plan("m", fault)
    assert ask(server).status >= 400
    fake.plan("m", "ok")
    answer = ask(server)
    assert answer.status == (503 if fault == "429" else 200), answer  # its target rests after that
    assert replayed(answer) is None


def test_a_stream_that_broke_off_is_not_kept(server, fake):
    fake.answer = None
    fake.plan("m", "cut:3")
    assert b"[DONE]" not in ask(server, stream=True).body
    fake.plan("m", "ok")
    answer = ask(server, stream=True)
    assert answer.body.endswith(b"data: [DONE]\n\n") and replayed(answer) is None


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_large_answers_are_not_kept_but_known(sluice, fake, stream):
    server = sluice(config(fake, "idempotency: {max_body: 1KiB}\n"))
    fake.answer = Answer(["word "] * 1000)
    assert ask(server, stream=stream).status == 200
    check_refused(ask(server, stream=stream), 409, "idempotency_answer_not_kept")
    assert len(fake.asked("m")) == 1


# ---- how long ----

def test_forgotten_after_ttl(sluice, fake):
    server = sluice(config(fake, "idempotency: {ttl: 3s}\n"))
    ask(server)
    assert replayed(ask(server)) == "true"
    end = time.monotonic() + HANG_GUARD_S
    while replayed(ask(server)) == "true":
        assert time.monotonic() < end
        time.sleep(0.1)
    assert len(fake.asked("m")) == 2


def test_off(sluice, fake):
    server = sluice(config(fake, "idempotency: {ttl: off}\n"))
    assert replayed(ask(server)) is None and replayed(ask(server)) is None
    assert len(fake.asked("m")) == 2


def store_of(server):
    return server.directory / "data" / "sluice.db"


def after_kill(server, sluice, fake):
    server.process.kill()
    server.wait_exit(expected=None)
    return sluice(config(fake, f"store: 'sqlite:{store_of(server)}'\n"))


def test_what_was_answered_survives_a_crash(server, sluice, fake):
    first = ask(server)
    again = ask(after_kill(server, sluice, fake))
    assert replayed(again) == "true" and again.body == first.body


def test_what_was_running_in_a_crash_is_free(server, sluice, fake):
    with streaming(server, fake):
        server = after_kill(server, sluice, fake)
    assert replayed(ask(server, stream=True)) is None


def test_a_process_of_which_nobody_heard_lately_keeps_its_own_marks(server, fake):
    """The store was away for longer than a sign of life holds."""
    with streaming(server, fake):
        with contextlib.closing(sqlite3.connect(store_of(server))) as store:
            store.execute("UPDATE replicas SET expires_ms = 0")
            store.commit()
        check_refused(ask(server, stream=True), 409, "idempotency_key_running")
    assert len(fake.requests) == 1


def test_after_an_outage_nobody_is_taken_for_dead_at_once(sluice, fake):
    """Whoever was away from the store himself does not know who else was, and comes back a moment later."""
    with Postgres() as database:
        one, two = (sluice(config(fake, f'store: "{database.url}"\n')) for _ in range(2))
        with streaming(one, fake):
            one.process.send_signal(signal.SIGSTOP)
            try:
                database.freeze()
                time.sleep(12)                             # more than two signs of life are missed
                database.thaw()
                database.sql("UPDATE replicas SET expires_ms = 0")
                end = time.monotonic() + HANG_GUARD_S
                while (answer := ask(two, stream=True)).status == 503:
                    assert time.monotonic() < end
                    time.sleep(0.05)
            finally:
                one.process.send_signal(signal.SIGCONT)
            check_refused(answer, 409, "idempotency_key_running")
    assert len(fake.requests) == 1


@contextlib.contextmanager
def answering(server, fake, stream=False):
    """A request under the key k1 whose provider answers when the event is set; yields that and a list for its answer."""
    release, found = threading.Event(), []
    fake.script(lambda exchange: (exchange.wait_for(release), fake.perform(exchange)))
    thread = threading.Thread(target=lambda: found.append(ask(server, stream=stream)))
    thread.start()
    try:
        fake.wait_request()
        yield release, found
    finally:
        release.set()
        thread.join()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_answer_of_an_outage_is_kept_when_it_is_over(sluice, fake, stream):
    """Its caller has it, so it must not be paid for again; nor must he be refused for long."""
    with Postgres() as database:
        server = sluice(config(fake, f'store: "{database.url}"\n'))
        with answering(server, fake, stream) as (_, found):
            database.end()
            server.wait_log("the store is away")
        assert found[0].status == 200
        assert ask(server, stream=stream).status == 503
        database.start()
        answer = ask_until(server, refused=(409, 503), stream=stream)
        assert replayed(answer) == "true" and answer.body == found[0].body
    assert len(fake.requests) == 1


def test_an_answer_that_was_kept_unheard_is_not_asked_for_again(sluice, fake):
    """It is in the store, and the connection was lost before anybody knew."""
    with Postgres() as database:
        server = sluice(config(fake, f'store: "{database.url}"\n'))
        with answering(server, fake) as (release, found), database.commits_unheard():
            release.set()
            database.cut_unheard("idempotency")
        assert found[0].status == 200
        answer = ask_until(server, stream=False)
        assert replayed(answer) == "true" and answer.body == found[0].body
    assert len(fake.requests) == 1


def test_who_was_refused_in_an_outage_left_no_mark(sluice, fake):
    """Nothing was written, so nothing is to be taken back: nobody waits twice, and nothing is said of it."""
    with Postgres() as database:
        server = sluice(config(fake, f'store: "{database.url}"\n'))
        database.end()
        server.wait_log("the store is away")
        for _ in range(10):
            check_refused(ask(server), 503, "store_away")
        database.start()
        assert replayed(ask_until(server, refused=(503,))) is None
        assert not [line for line in server.log_lines() if "Idempotency-Key" in line["msg"]]


# ---- the SDKs ----

class CutBefore:
    """A proxy that drops the first connection at the moment the answer begins to come."""

    def __init__(self, port):
        self.port, self.dropped = port, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def _run(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with client, socket.create_connection(("127.0.0.1", self.port)) as server:
            def upload():
                with contextlib.suppress(OSError):
                    while data := client.recv(65536):
                        server.sendall(data)
                    server.shutdown(socket.SHUT_WR)
            threading.Thread(target=upload, daemon=True).start()
            with contextlib.suppress(OSError):
                while data := server.recv(65536):
                    if self.dropped == 0:
                        self.dropped += 1
                        self._drain(server)
                        client.shutdown(socket.SHUT_RDWR)
                        return
                    client.sendall(data)

    @staticmethod
    def _drain(server):
        """The server has sent its answer; it is lost behind it."""
        server.settimeout(0.2)
        with contextlib.suppress(OSError):
            while server.recv(65536):
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_lost_answer_costs_one_call(server, fake, stream):
    """The SDK sends the header only if it is told to, and then with every try."""
    with CutBefore(server.port) as proxy, openai.OpenAI(
            base_url=f"{proxy.url}/v1", api_key="sk-x", max_retries=2) as client:
        answer = client.chat.completions.create(**CHAT, stream=stream,
                                                extra_headers={"Idempotency-Key": "order-1"})
        text = ("".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
                if stream else answer.choices[0].message.content)
    assert text == "Hello you" and proxy.dropped == 1
    assert len(fake.asked("m")) == 1


def test_a_lost_message_costs_one_call(server, fake):
    with CutBefore(server.port) as proxy, anthropic.Anthropic(
            base_url=proxy.url, api_key="sk-x", max_retries=2) as client:
        answer = client.messages.create(**ASKS["/v1/messages"], extra_headers={"Idempotency-Key": "order-1"})
    assert answer.content[0].text == "Hello you" and len(fake.asked("m")) == 1


def test_the_access_log_says_so(server, fake):
    ask(server)
    ask(server)
    server.wait_log("request", count=2)
    lines = sorted(server.log_lines("request"), key=lambda line: "replayed" in line)
    assert "replayed" not in lines[0] and lines[1]["replayed"] is True
    assert json.dumps(lines[1]).count("k1") == 0
