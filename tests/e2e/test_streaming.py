# SPDX-License-Identifier: Apache-2.0
"""Streams in time: what is held back, what is passed on at once, who slows or ends whom.

Events come in a fixed order by gates (threading.Event) that the test opens; nothing is measured.
"""
import hashlib
import json
import signal
import socket
import threading
import time

import pytest
from caller import (CHAT, STREAM, Stream, ask, ask_stream, broken, chat_request, datas, outcome,
                    words)
from fake_provider import (DONE, HANG, chat_answer, chat_events, cut, delta, event,
                           raw, response_head, sse, stream_bytes, whole)
from raw_http import RawClient, assert_openai_error
from sluice import HANG_GUARD_S, provider_config

ROLE, A, B, FINISH = chat_events("a", "b", done=False)
HEARTBEAT = b": keep-alive\n"


def config(provider, **sections):
    """A configuration with `provider` and more top-level lines."""
    lines = [f"{name}: {value}\n" for name, value in sections.items()]
    return "".join(lines) + provider_config(provider)


def assert_failed_call(answer, status=502):
    """An ordinary HTTP error that tells the SDKs not to try again."""
    assert_openai_error(answer, status)
    assert answer.header("x-should-retry") == "false"


# ---- when the head goes out ----

QUIET = {
    "head-only": [],
    "role": [ROLE],
    "role-twice": [ROLE, ROLE],
    "role-and-nulls": [event(delta(role="assistant", content=None, tool_calls=[], refusal=None))],
    "no-choices": [event({"id": "x", "object": "chat.completion.chunk", "choices": []})],
    "comments": [b": hello\n\n", b": again\n\n", ROLE],
    "usage-null": [event(delta(role="assistant", content="") | {"usage": None})],
}
FAILURES = {
    "reset": ["RESET"],
    "cut-chunk": [lambda x: x.send(b"400\r\ndata: {\"id\""), "CLOSE"],
    "closed": ["CLOSE"],
    "clean-end": [],
    "error-event": [event({"error": {"message": "Overloaded", "type": "overloaded_error"}}), HANG],
    "named-error-event": [event({"error": {"message": "no"}}, b"error"), HANG],
    "not-json": [b"data: {\"id\":\n\n", HANG],
    "not-an-object": [b"data: [1]\n\n", HANG],
    "only-done": [DONE],
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("quiet", QUIET)
def test_failure_before_content_is_an_http_error(gateway, provider, quiet, failure):
    """Nothing meaningful has come: the caller gets an error and no stream."""
    provider.script(sse(*QUIET[quiet], *FAILURES[failure]))
    assert_failed_call(ask(gateway, STREAM, id="f1"))
    assert outcome(gateway, "f1")["outcome"] == "upstream_failed"
    assert len(provider.requests) == 1


def test_head_waits_for_content_then_all_is_there(gateway, provider):
    gate = threading.Event()
    provider.script(sse(ROLE, gate, A, FINISH, DONE))
    with Stream(gateway) as stream:
        provider.wait_request()
        assert not stream.client.has_answer()
        gate.set()
        assert stream.rest() == ROLE + A + FINISH + DONE


def test_each_event_is_passed_on_at_once(gateway, provider):
    """The next one is not even sent before the caller has this one."""
    gates = [threading.Event() for _ in range(20)]
    tokens = [event(delta(content=f"t{i}")) for i in range(20)]
    steps = [step for pair in zip(tokens, gates) for step in pair]
    provider.script(sse(*steps, FINISH, DONE))
    with Stream(gateway) as stream:
        for token, gate in zip(tokens, gates):
            assert stream.next_event() == token
            gate.set()
        assert stream.rest() == FINISH + DONE


def test_finish_without_content_is_an_answer(gateway, provider):
    """An empty answer that ends properly is no failure."""
    provider.script(sse(ROLE, FINISH, DONE))
    assert ask_stream(gateway) == ROLE + FINISH + DONE


def test_quiet_events_are_held_within_limits(gateway, provider):
    """Whoever sends empty deltas for ever is not answering."""
    padding = event(delta(role="assistant") | {"pad": "x" * 32768})
    provider.script(sse(*[padding] * 12, A, FINISH, DONE))
    assert_failed_call(ask(gateway, STREAM))


# ---- the end ----

@pytest.mark.parametrize("how", ["chunked", "closed"])
def test_missing_end_marker_is_written(gateway, provider, how):
    """Every choice is finished and the body ended cleanly: the answer is complete."""
    provider.script(sse(ROLE, A, FINISH, chunked=how == "chunked"))
    assert ask_stream(gateway, id="m1") == ROLE + A + FINISH + DONE
    assert outcome(gateway, "m1")["outcome"] == "completed"
    gateway.wait_log("the provider's stream had no end marker", provider="fake")


def test_polite_end_in_the_middle_is_no_success(gateway, provider):
    """However clean the end: without a finish reason none is invented."""
    provider.script(sse(ROLE, A, B))
    before, error = broken(ask_stream(gateway, id="p1"))
    assert before == ROLE + A + B and error["code"] == "upstream_truncated"
    line = outcome(gateway, "p1")
    assert (line["outcome"], line["status"]) == ("upstream_failed", 200)


def test_end_marker_before_the_finish_is_no_success(gateway, provider):
    provider.script(sse(ROLE, A, DONE))
    before, _ = broken(ask_stream(gateway))
    assert before == ROLE + A


def test_one_choice_of_two_unfinished_is_no_success(gateway, provider):
    events = [event(delta(content="x", index=i)) for i in (0, 1)] + [event(delta(finish="stop"))]
    provider.script(sse(*events, DONE))
    before, _ = broken(ask_stream(gateway))
    assert before == b"".join(events)


FAILURES_AFTER = {name: steps for name, steps in FAILURES.items() if name != "only-done"}


@pytest.mark.parametrize("segments", ["apart", "together"])
@pytest.mark.parametrize("failure", FAILURES_AFTER)
def test_failure_after_content_is_an_error_event(gateway, provider, failure, segments):
    """What came before reaches the caller, even if it came in one segment with the failure."""
    sent = [ROLE, A, B] if segments == "apart" else [ROLE + A + B]
    steps = FAILURES_AFTER[failure]
    if segments == "together" and steps and isinstance(steps[0], bytes):
        sent, steps = [sent[0] + steps[0]], steps[1:]
    provider.script(sse(*sent, *steps))
    before, error = broken(ask_stream(gateway, id="f2"))
    assert before == ROLE + A + B
    assert error["type"] == "server_error"
    assert outcome(gateway, "f2")["outcome"] == "upstream_failed"
    assert len(provider.requests) == 1


def test_connection_is_usable_after_an_error_event(gateway, provider):
    """The stream ended in order, so HTTP goes on."""
    provider.script(sse(ROLE, A, "RESET"))
    with RawClient(gateway.port) as client:
        client.send(chat_request(STREAM))
        broken(client.read_response().body)
        client.expect_usable()


def test_connection_upstream_is_reused_after_streams(gateway, provider):
    for number in range(5):
        ask_stream(gateway, id=f"reuse-{number}")
        outcome(gateway, f"reuse-{number}")    # given back before the record is written
    assert {seen.connection_number for seen in provider.requests} <= {0, 1}
    assert len(provider.connections) <= 2            # one for each thread at most


def test_nothing_is_waited_for_after_the_end_marker(gateway, provider):
    """A provider that keeps its body open after [DONE] does not keep the caller."""
    provider.script(sse(ROLE, A, FINISH, DONE, HANG))
    assert ask_stream(gateway, id="n1") == ROLE + A + FINISH + DONE
    assert outcome(gateway, "n1")["outcome"] == "completed"
    provider.wait_request().wait_peer_closed()


# ---- how bytes are cut ----

CUT_EVENTS = chat_events("Hé", "ll😀", done=True)


def test_cut_at_every_byte(gateway, provider):
    """Head, chunk lines, events: wherever two segments part, the caller sees the same."""
    data, expected = stream_bytes(CUT_EVENTS), b"".join(CUT_EVENTS)
    with RawClient(gateway.port) as client:
        for place in range(1, len(data)):
            provider.script(raw(data[:place], 0.001, data[place:]))
            client.send(chat_request(STREAM))
            answer = client.read_response()
            assert (answer.status, answer.body) == (200, expected), f"cut at {place}"


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_cut_into_small_chunks(gateway, provider, size, end):
    """Each piece an HTTP chunk and a segment of its own."""
    data = b"".join(chat_events("Hé", "ll😀", end=end))
    steps = [step for piece in cut(data, size) for step in (piece, 0.0002)]
    provider.script(sse(*steps))
    body = ask_stream(gateway)
    assert datas(body) == datas(data)
    assert end == b"\r\n" or body == data


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
def test_line_ends(gateway, provider, end):
    """Passed on as they came."""
    events = chat_events("Hé", "ll😀", end=end)
    provider.script(sse(*events), sse(b"".join(events)))
    for _ in range(2):
        body = ask_stream(gateway)
        assert datas(body) == datas(b"".join(events)) and words(body) == "Héll😀"


@pytest.mark.parametrize("count", [2, 3, 15, 16, 17, 40, 2000])
def test_many_events_in_one_segment(gateway, provider, count):
    events = chat_events(*[f"t{i} " for i in range(count)])
    provider.script(sse(b"".join(events)), sse(ROLE, b"".join(events[1:])))
    assert ask_stream(gateway) == b"".join(events)
    assert ask_stream(gateway) == b"".join(events)


def test_segments_that_end_within_events(gateway, provider):
    """One and a half events per segment, for long."""
    data = b"".join(chat_events(*[f"token {i} " for i in range(400)]))
    steps = [step for piece in cut(data, 231) for step in (piece, 0.0005)]
    provider.script(sse(*steps))
    assert ask_stream(gateway) == data


def test_usage_hidden_among_joined_events(gateway, provider):
    events = chat_events("a", "b", usage=(3, 2))
    provider.script(sse(b"".join(events)))
    assert ask_stream(gateway) == b"".join(events[:-2]) + DONE


def test_byte_order_mark(gateway, provider):
    """One at the start goes, one later is text of its line."""
    provider.script(sse(b"\xef\xbb\xbf" + ROLE, A, FINISH, DONE),
                    sse(b"\xef", b"\xbb", b"\xbf" + ROLE + A, FINISH, DONE))
    for _ in range(2):
        assert ask_stream(gateway) == ROLE + A + FINISH + DONE


def test_comments_pings_and_unknown_fields(gateway, provider):
    """They disturb nothing; what is no event need not be passed on."""
    provider.script(sse(b": one\n\n", ROLE, b"event: ping\n\n", b"id: 4\nretry: 9\nfoo: bar\nfoo\n\n",
                        A, b"\n\n\n", b": two\n", FINISH, b": three\n\n", DONE))
    body = ask_stream(gateway)
    assert datas(body) == datas(ROLE + A + FINISH + DONE)


def test_data_over_several_lines(gateway, provider):
    text = json.dumps(delta(content="a"), indent=1).encode()
    lines = b"".join(b"data: " + line + b"\n" for line in text.split(b"\n")) + b"\n"
    provider.script(sse(ROLE, lines, FINISH, DONE))
    assert ask_stream(gateway) == ROLE + lines + FINISH + DONE


def test_space_after_the_colon(gateway, provider):
    """None, one or more: the same JSON."""
    data = json.dumps(delta(content="a")).encode()
    events = [b"data:" + data + b"\n\n", b"data:   " + data + b" \n\n", b"data:\t" + data + b"\n\n"]
    provider.script(sse(*events, FINISH, b"data:[DONE]\n\n"))
    assert ask_stream(gateway) == b"".join(events) + FINISH + b"data:[DONE]\n\n"


@pytest.mark.parametrize("size", [16 * 1024, 64 * 1024, 256 * 1024, 1024 * 1024, 8 * 1024 * 1024])
def test_huge_event(gateway, provider, size):
    """Images come in one event: as content, and as the first thing there is."""
    huge = event(delta(content="x" * size))
    provider.script(sse(ROLE, A, huge, FINISH, DONE), sse(huge, FINISH, DONE),
                    sse(A + huge + huge + FINISH, DONE))
    assert ask_stream(gateway) == ROLE + A + huge + FINISH + DONE
    assert ask_stream(gateway) == huge + FINISH + DONE
    assert ask_stream(gateway) == A + huge + huge + FINISH + DONE


# ---- who leaves ----

@pytest.mark.parametrize("way", ["reset", "close"])
@pytest.mark.parametrize("phase, body, steps", [
    ("before the head", STREAM, raw(HANG)),
    ("in the head", STREAM, raw(b"HTTP/1.1 200 OK\r\nContent-Ty", HANG)),
    ("after the role", STREAM, sse(ROLE, HANG)),
    ("in a cut event", STREAM, sse(ROLE, A[:20], HANG)),
    ("whole answer awaited", CHAT, raw(HANG)),
    ("within the whole answer", CHAT, raw(response_head(headers=[("Content-Length", "99")]), HANG)),
])
def test_caller_leaves_while_nothing_was_sent(gateway, provider, phase, body, steps, way):
    """The provider sees it although not a byte went to the caller."""
    provider.script(steps)
    client = RawClient(gateway.port)
    client.send(chat_request(body, id="l1"))
    seen = provider.wait_request()
    getattr(client, way)()
    seen.wait_peer_closed()
    assert outcome(gateway, "l1")["outcome"] == "client_cancelled"
    assert ask(gateway).status == 200


@pytest.mark.parametrize("way", ["reset", "close"])
@pytest.mark.parametrize("then", ["silence", "flood"])
def test_caller_leaves_in_mid_stream(gateway, provider, then, way):
    """Whether the provider is silent or sends on as fast as it can."""
    def flood(exchange):
        while True:
            exchange.send(b"%x\r\n%s\r\n" % (len(A), A))
    provider.script(sse(ROLE, A, HANG if then == "silence" else flood))
    stream = Stream(gateway, id="l2")
    assert stream.next_event() == ROLE and stream.next_event() == A
    getattr(stream.client, way)()
    provider.wait_request().wait_peer_closed()
    assert outcome(gateway, "l2")["outcome"] == "client_cancelled"
    assert ask(gateway).status == 200


def test_caller_leaves_while_connecting(sluice, provider):
    """The provider has accepted, but its TLS handshake never comes: the attempt is given up."""
    provider.on_connect(HANG)
    server = sluice("timeouts: {connect: 1h}\n"
                    + provider_config(provider).replace("http://", "https://"))
    client = RawClient(server.port)
    client.send(chat_request(STREAM, id="l3"))
    wait_until(lambda: provider.connections)
    client.reset()
    assert provider.connections[0].peer_closed.wait(HANG_GUARD_S)
    assert outcome(server, "l3")["outcome"] == "client_cancelled"


def wait_until(condition):
    """Wait for something that tells nobody; a hang ends the test."""
    end = time.monotonic() + HANG_GUARD_S
    while not condition():
        assert time.monotonic() < end, "the hang guard ended the wait"
        time.sleep(0.005)


def test_many_callers_leave_at_once(gateway, provider):
    """Nothing is left open, and the service goes on."""
    provider.default = sse(ROLE, A, HANG)
    streams = [Stream(gateway) for _ in range(50)]
    for stream in streams:
        stream.next_event()
    for stream in streams:
        stream.client.reset()
    for seen in provider.requests:
        seen.wait_peer_closed()
    provider.default = sse(ROLE, A, FINISH, DONE)
    assert ask_stream(gateway) == ROLE + A + FINISH + DONE


# ---- slow callers ----

def wait_standstill(exchange):
    """Wait until the provider has not got rid of a byte for a while."""
    sent = -1
    while sent != len(exchange.sent):
        sent = len(exchange.sent)
        time.sleep(0.5)


def widen(stream):
    """Read quickly from now on."""
    stream.client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)


def test_slow_caller_slows_the_provider(sluice, provider):
    """What it does not read is not read from the provider either, and nothing is lost."""
    server = sluice(config(provider, http="{write_timeout: 1h}", timeouts="{idle: 1h}"))
    events = [event(delta(content=f"{i}" + "x" * 262144)) for i in range(160)]     # 40 MiB
    expected = hashlib.sha256(b"".join([*events, FINISH, DONE])).hexdigest()
    total = sum(map(len, events))
    provider.script(sse(*events, FINISH, DONE))
    with Stream(server, receive_buffer=4096) as stream:
        seen = provider.wait_request()
        stream.head()
        wait_standstill(seen)
        assert len(seen.sent) < total * 3 // 4, "the provider was not slowed"
        assert server.memory_bytes() < 400 * 1024 * 1024
        widen(stream)
        assert hashlib.sha256(stream.rest()).hexdigest() == expected


def test_slow_caller_does_not_slow_others(sluice, provider):
    """On the same thread."""
    server = sluice(config(provider, workers=1, http="{write_timeout: 1h}"))
    provider.script(sse(*[event(delta(content="x" * 262144))] * 160))
    with Stream(server, receive_buffer=4096) as slow:
        slow.head()
        wait_standstill(provider.wait_request())
        for _ in range(10):
            assert ask_stream(server).endswith(DONE)


# ---- heartbeats ----

def test_heartbeats_fill_silence(sluice, provider):
    """After the head only, between events only; the rest is untouched."""
    server = sluice(config(provider, stream="{heartbeat: 100ms}"))
    gate = threading.Event()
    provider.script(sse(ROLE, A, gate, B, FINISH, DONE))
    with Stream(server) as stream:
        assert stream.next_event() == ROLE and stream.next_event() == A
        for _ in range(3):
            assert stream.next_event() == HEARTBEAT + b"\n"
        gate.set()
        body = stream.rest().replace(HEARTBEAT + b"\n", b"")
        assert body == B + FINISH + DONE


def test_no_heartbeat_before_the_head(sluice, provider):
    server = sluice(config(provider, stream="{heartbeat: 100ms}"))
    provider.script(sse(ROLE, 0.5, A, FINISH, DONE))
    body = ask_stream(server)
    assert body.replace(HEARTBEAT + b"\n", b"") == ROLE + A + FINISH + DONE
    assert body.startswith(ROLE + A)


@pytest.mark.parametrize("first", [b"id: 1\n" + ROLE, ROLE[:-1] + b"id: 1\n\n",
                                   ROLE.replace(b"\n", b"\rid\r", 1).replace(b"\n", b"\r")],
                         ids=["before", "after", "cr"])
def test_heartbeats_end_no_event(sluice, provider, first):
    """OpenAI's Python SDK dispatches an event at each blank line once an id has come, so there the
    comment goes without one."""
    server = sluice(config(provider, stream="{heartbeat: 100ms}"))
    gate = threading.Event()
    provider.script(sse(first, A, gate, b"id: 3\n" + B, FINISH, DONE))
    with Stream(server) as stream:
        assert stream.next_event() == (first + A if b"\r" in first else first)
        assert b"\r" in first or stream.next_event() == A
        before = stream.read_until(HEARTBEAT) + stream.read_until(HEARTBEAT)
        assert before == HEARTBEAT * 2
        gate.set()
        body = stream.rest().replace(HEARTBEAT, b"")
        assert body == b"id: 3\n" + B + FINISH + DONE


def test_heartbeats_while_an_event_is_cut(sluice, provider):
    """Never inside the event: its parts wait for each other."""
    server = sluice(config(provider, stream="{heartbeat: 100ms}"))
    gate = threading.Event()
    provider.script(sse(ROLE, A, B[:30], gate, B[30:], FINISH, DONE))
    with Stream(server) as stream:
        stream.read_until(HEARTBEAT + b"\n")
        gate.set()
        rest = stream.rest().replace(HEARTBEAT + b"\n", b"")
        assert rest == B + FINISH + DONE


def test_heartbeats_off(sluice, provider):
    server = sluice(config(provider, stream="{heartbeat: off}"))
    provider.script(sse(ROLE, A, 0.3, B, FINISH, DONE))
    assert ask_stream(server) == ROLE + A + B + FINISH + DONE


def test_heartbeats_notice_a_caller_who_left(sluice, provider):
    """Also one whose FIN is not taken for leaving."""
    server = sluice(config(provider, stream="{heartbeat: 100ms}", http="{half_close: serve}"))
    provider.script(sse(ROLE, A, HANG))
    stream = Stream(server)
    stream.next_event()
    stream.client.close()
    provider.wait_request().wait_peer_closed()


# ---- time ----

BEFORE_CONTENT = {"nothing": raw(HANG), "head": sse(HANG), "role": sse(ROLE, HANG),
                  "half-an-event": sse(ROLE, A[:10], HANG)}


@pytest.mark.parametrize("place", ["global", "provider", "model"])
@pytest.mark.parametrize("came", BEFORE_CONTENT)
def test_first_token_time_out(sluice, provider, came, place):
    """504 and an end for the provider; the closest setting counts."""
    short, long = "first_token: 200ms", "first_token: 1h"
    server = sluice(
        f"timeouts: {{{short if place == 'global' else long}}}\n"
        + provider_config(provider, extra="" if place == "global" else
                          f", timeouts: {{{short if place == 'provider' else long}}}")
        + ("" if place != "model" else
           f"models: {{m: {{targets: [fake/m], timeouts: {{{short}}}}}}}\n"))
    provider.script(BEFORE_CONTENT[came])
    answer = ask(server, STREAM, id="t1")
    assert_failed_call(answer, 504)
    assert answer.json["error"]["code"] == "timeout"
    provider.wait_request().wait_peer_closed()
    assert outcome(server, "t1")["outcome"] == "timed_out"
    assert len(provider.requests) == 1


def test_comments_do_not_put_off_the_first_token(sluice, provider):
    def comments(exchange):
        while True:
            exchange.send(b"6\r\n: hi\n\n\r\n")
            exchange.pause(0.01)
    server = sluice(config(provider, timeouts="{first_token: 300ms}"))
    provider.script(sse(comments))
    assert_failed_call(ask(server, STREAM), 504)


def test_first_token_does_not_apply_to_whole_answers(sluice, provider):
    server = sluice(config(provider, timeouts="{first_token: 100ms, idle: 100ms}"))
    provider.script(raw(0.5, whole(chat_answer("late"))))
    assert ask(server).status == 200


@pytest.mark.parametrize("half", [b"", B[:25]], ids=["between", "within"])
def test_idle_time_out(sluice, provider, half):
    """Silence after content, between events or within one: an error event."""
    server = sluice(config(provider, timeouts="{idle: 200ms}"))
    provider.script(sse(ROLE, A, half or A, HANG))
    before, error = broken(ask_stream(server, id="i1"))
    assert before == ROLE + A + (b"" if half else A) and error["code"] == "timeout"
    provider.wait_request().wait_peer_closed()
    assert outcome(server, "i1")["outcome"] == "timed_out"


def test_idle_time_out_beside_heartbeats(sluice, provider):
    """Our own comments do not make the provider look alive."""
    server = sluice(config(provider, timeouts="{idle: 600ms}", stream="{heartbeat: 100ms}"))
    provider.script(sse(ROLE, A, HANG))
    before, error = broken(ask_stream(server))
    assert before.replace(HEARTBEAT + b"\n", b"") == ROLE + A and error["code"] == "timeout"


def test_slow_caller_is_no_idle_provider(sluice, provider):
    """While we wait for the caller, the provider's time does not run."""
    server = sluice(config(provider, timeouts="{idle: 1500ms}", http="{write_timeout: 1h}"))
    events = [event(delta(content=f"{i}" + "x" * 262144)) for i in range(60)]
    provider.script(sse(*events, FINISH, DONE))
    with Stream(server, receive_buffer=4096) as stream:
        stream.head()
        wait_standstill(provider.wait_request())
        time.sleep(2)
        widen(stream)
        assert stream.rest() == b"".join([*events, FINISH, DONE])


@pytest.mark.parametrize("place", ["global", "provider", "model"])
def test_total_time_out_of_a_stream(sluice, provider, place):
    """A provider that never ends is ended."""
    def for_ever(exchange):
        while True:
            exchange.send(b"%x\r\n%s\r\n" % (len(A), A))
            exchange.pause(0.01)
    timeouts = "timeouts: {total: 500ms}"
    server = sluice(
        (timeouts + "\n" if place == "global" else "")
        + provider_config(provider, extra=f", {timeouts}" if place == "provider" else "")
        + (f"models: {{m: {{targets: [fake/m], {timeouts}}}}}\n" if place == "model" else ""))
    provider.script(sse(ROLE, for_ever))
    before, error = broken(ask_stream(server, id="t2"))
    assert before.startswith(ROLE + A) and error["code"] == "timeout"
    provider.wait_request().wait_peer_closed()
    assert outcome(server, "t2")["outcome"] == "timed_out"


@pytest.mark.parametrize("script", [raw(HANG),
                                    raw(response_head(headers=[("Content-Length", "9")]), b"{", HANG)],
                         ids=["nothing", "half"])
def test_total_time_out_of_a_whole_answer(sluice, provider, script):
    server = sluice(config(provider, timeouts="{total: 300ms}"))
    provider.script(script)
    assert_failed_call(ask(server, id="t3"), 504)
    provider.wait_request().wait_peer_closed()
    assert outcome(server, "t3")["outcome"] == "timed_out"


# ---- the server leaves ----

def test_drain_lets_streams_finish(sluice, provider):
    server = sluice(config(provider, drain="{timeout: 1h}"))
    gate = threading.Event()
    provider.script(sse(ROLE, A, gate, B, FINISH, DONE))
    with Stream(server) as stream:
        assert stream.next_event() == ROLE and stream.next_event() == A
        server.process.send_signal(signal.SIGTERM)
        server.wait_log("draining: no new connections, running requests may finish")
        gate.set()
        assert stream.rest() == B + FINISH + DONE
    server.wait_exit()


def test_drain_ends_streams_with_an_error_event(sluice, provider):
    server = sluice(config(provider, drain="{timeout: 300ms}"))
    provider.script(sse(ROLE, A, HANG))
    with Stream(server, id="d1") as stream:
        assert stream.next_event() == ROLE
        server.process.send_signal(signal.SIGTERM)
        before, _ = broken(stream.rest())
        assert before == A
    server.wait_exit()
    assert outcome(server, "d1")["outcome"] == "killed"


# ---- several at once ----

def test_streams_do_not_mix(sluice, provider):
    """On one thread, all open at once, events interleaved."""
    server = sluice(config(provider, workers=1))
    gates = [threading.Event() for _ in range(5)]

    def script(exchange):
        number = exchange.json["messages"][0]["content"]
        steps = [step for i, gate in enumerate(gates)
                 for step in (event(delta(content=f"<{number}.{i}>")), gate)]
        sse(*steps, FINISH, DONE)(exchange)
    provider.default = script
    streams = [Stream(server, STREAM | {"messages": [{"role": "user", "content": f"{n}"}]})
               for n in range(30)]
    for i, gate in enumerate(gates):
        for n, stream in enumerate(streams):
            assert f"<{n}.{i}>".encode() in stream.next_event()
        gate.set()
    for stream in streams:
        assert stream.rest() == FINISH + DONE
        stream.client.close()


@pytest.mark.parametrize("fails", [False, True], ids=["answers", "fails"])
def test_head_after_sends_the_head_early(sluice, provider, fails):
    """With stream.head_after the head and comments go out while the provider still thinks; then
    comes the stream as usual, or an error event."""
    server = sluice(config(provider, stream="{head_after: 50ms, heartbeat: 100ms}"))
    gate = threading.Event()
    provider.script(sse(ROLE, gate, *(["CLOSE"] if fails else [A, FINISH, DONE])))
    with Stream(server) as stream:
        stream.head()
        stream.read_until(b": keep-alive\n\n: keep-alive\n\n")
        gate.set()
        rest = stream.rest()
    if fails:
        assert broken(rest) and DONE not in rest
    else:
        assert rest.endswith(ROLE + A + FINISH + DONE)
