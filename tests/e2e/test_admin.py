# SPDX-License-Identifier: Apache-2.0
"""The admin listener: health, views as JSON and as text, metrics, debug switches, and who may look.

Views are looked at while a stream is open, because that is when somebody needs them.
"""
import re
import threading

import pytest

from fake_provider import HANG, chat_events, error, sse
from raw_http import RawClient, assert_openai_error, request_bytes
from sluice import provider_config

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
KEYS = 'keys:\n  static:\n    - {name: alice, key: "sk-alice-key-1", scopes: [models]}\n' \
       '    - {name: root, key: "sk-root-key-12", scopes: [models, admin]}\n'
VIEWS = {
    "requests": {"requests": ["id", "thread", "caller", "method", "path", "model", "provider",
                              "step", "age_ms", "stream", "events", "arena_bytes", "peer"]},
    "fibers": {"fibers": ["thread", "name", "state", "step", "age_ms", "request"],
               "loops": ["thread", "rounds", "events", "wakes", "messages", "lag_us_max",
                         "long_runs", "fibers", "fibers_high", "stacks_free",
                         "stack_high_water_bytes"]},
    "upstreams": {"providers": ["name", "kind", "host", "in_flight", "max_in_flight"],
                  "targets": ["target", "state", "since_ms", "for_ms", "failures_in_row", "calls",
                              "failures", "in_flight", "latency_ms"],
                  "connections": ["thread", "host", "port", "idle", "busy", "opened", "reused",
                                  "dead_on_reuse", "failed"],
                  "local_servers": ["model", "state", "pid", "starts", "restarts",
                                    "memory_bytes", "last_error"]},
    "memory": {"uses": ["use", "bytes"],
               "process": ["resident_bytes", "limit_bytes", "refusing_from_bytes", "is_short"]},
}


def ask(port, method, target, body=None, headers=()):
    with RawClient(port) as client:
        return client.request(method, target, body, headers)


def admin(server, target, headers=(), method="GET"):
    return ask(server.admin_port, method, target, headers=headers)


def view(server, name):
    answer = admin(server, f"/admin/{name}?format=json")
    assert answer.status == 200, answer
    return answer.json


def debug(server, switch):
    return admin(server, f"/admin/debug/{switch}", method="POST")


class OpenStream:
    """A streamed answer of which the first event has come and the rest waits for `finish`."""

    def __init__(self, server, provider, headers=()):
        self.gate = threading.Event()
        events = chat_events("Hel", "lo", usage=(3, 2))
        provider.script(sse(*events[:2], self.gate, *events[2:]))
        self.client = RawClient(server.port)
        self.client.send(request_bytes("POST", "/v1/chat/completions", {**ASK, "stream": True},
                                       headers))
        self.head = self.client.read_head()
        assert self.head.status == 200, self.head
        self.id = self.head.header("x-request-id")
        self.client.read_chunk()

    def finish(self):
        """Let the provider go on; returns the rest of the answer."""
        self.gate.set()
        rest = b""
        while piece := self.client.read_chunk():
            rest += piece
        self.client.close()
        return rest


# ---- metrics: a small strict reader of the Prometheus text format 0.0.4 ----

SAMPLE = re.compile(r'([a-z_][a-z0-9_]*)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)+)\})? '
                    r'(-?[0-9]+(?:\.[0-9]+)?)')
LABEL = re.compile(r'([a-z]+)="((?:[^"\\\n]|\\["\\n])*)"(,|$)')


def read_metrics(server):
    answer = admin(server, "/metrics")
    assert answer.status == 200, answer
    assert answer.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    return parse_metrics(answer.body.decode())


def parse_metrics(text):
    """{(name, ((label, value), …)): number}; fails on anything that is not exactly the format."""
    assert text.endswith("\n")
    samples, kinds, family = {}, {}, None
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            family = line.split(" ")[2]
            assert family not in kinds, f"{family} comes twice"
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == family and kind in ("counter", "gauge", "histogram"), line
            kinds[family] = kind
        else:
            read_sample(line, family, kinds[family], samples)
    check_histograms(samples, kinds)
    return samples


def read_sample(line, family, kind, samples):
    match = SAMPLE.fullmatch(line)
    assert match, line
    name, labels, number = match.groups()
    endings = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
    assert name in [family + ending for ending in endings], line
    key = name, tuple((found[1], found[2]) for found in LABEL.finditer(labels or ""))
    assert key not in samples, f"{line} comes twice"
    assert kind == "gauge" or float(number) >= 0, line
    samples[key] = float(number)


def check_histograms(samples, kinds):
    """Buckets rise, the last is +Inf and equals the count."""
    for (name, labels), count in samples.items():
        family = name.removesuffix("_count")
        if name == family or kinds.get(family) != "histogram":
            continue
        buckets = [(key[1][-1], number) for key, number in samples.items()
                   if key[0] == f"{family}_bucket" and key[1][:-1] == labels]
        numbers = [number for _, number in buckets]
        assert numbers == sorted(numbers) and buckets[-1] == (("le", "+Inf"), count), family


def outcomes(metrics, model="fake/*"):
    return {labels[1][1]: number for (name, labels), number in metrics.items()
            if name == "llm_requests_total" and labels[0] == ("model", model) and number}


def test_metrics_count_one_outcome_per_request(gateway, provider):
    before = read_metrics(gateway)
    assert outcomes(before) == {}
    ask(gateway.port, "POST", "/v1/chat/completions", ASK)
    assert b"[DONE]" in OpenStream(gateway, provider).finish()
    provider.script(error(500))
    assert ask(gateway.port, "POST", "/v1/chat/completions", ASK).status == 502
    provider.script(sse(HANG))
    with RawClient(gateway.port) as leaver:
        leaver.send(request_bytes("POST", "/v1/chat/completions", {**ASK, "stream": True}))
        for _ in range(4):
            seen = provider.wait_request()
    seen.wait_peer_closed()
    gateway.wait_log("request", count=4, path="/v1/chat/completions")
    after = read_metrics(gateway)
    assert outcomes(after) == {"completed": 2, "upstream_failed": 1, "client_cancelled": 1}
    chat = ("route", "/v1/chat/completions")
    assert {labels[1][1]: number for (name, labels), number in after.items()
            if name == "http_requests_total" and labels[0] == chat} == {
                "200": 2, "502": 1, "499": 1}
    assert after["http_request_duration_seconds_count", (chat,)] == 4
    assert after["llm_request_duration_seconds_count", (("model", "fake/*"),)] == 4
    assert after["llm_first_token_seconds_count", (("model", "fake/*"),)] == 1
    # The whole answer has 9 and 5 tokens, the stream 3 and 2; the question of who left is counted here.
    assert 12 < after["llm_tokens_total", (("model", "fake/*"), ("type", "prompt"))] < 25
    assert after["llm_tokens_total", (("model", "fake/*"), ("type", "completion"))] == 8 - 1
    assert after["llm_active_requests", ()] == 0
    assert after["upstream_active_requests", (("provider", "fake"),)] == 0


def test_metrics_count_by_alias_and_never_by_what_a_caller_wrote(sluice, provider):
    server = sluice(provider_config(provider) + "models:\n  smart: {targets: [fake/big]}\n")
    for model in ("smart", "caller-text-1", "fake/caller-text-2"):
        assert ask(server.port, "POST", "/v1/chat/completions",
                   {**ASK, "model": model}).status == 200
    server.wait_log("request", count=3, path="/v1/chat/completions")
    metrics = read_metrics(server)
    assert outcomes(metrics, "smart") == {"completed": 1}
    assert outcomes(metrics, "fake/*") == {"completed": 2}
    assert "caller-text" not in str(metrics)


def test_metrics_show_what_is_going_on(gateway, provider):
    stream = OpenStream(gateway, provider)
    metrics = read_metrics(gateway)
    assert metrics["llm_active_requests", ()] == 1
    assert metrics["upstream_active_requests", (("provider", "fake"),)] == 1
    assert metrics["upstream_connections", (("state", "busy"),)] == 1
    assert metrics["http_connections", (("listener", "public"),)] == 1
    assert metrics["http_connections", (("listener", "admin"),)] == 1
    assert metrics["fibers", ()] >= 2
    assert metrics["config_version", ()] == 1
    assert metrics["process_resident_memory_bytes", ()] > 1e6
    assert any(name == "memory_bytes" for name, _ in metrics)
    stream.finish()


# ---- views ----

@pytest.mark.parametrize("name", VIEWS)
def test_view_as_json_and_as_text_while_a_stream_is_open(gateway, provider, name):
    stream = OpenStream(gateway, provider)
    for headers, target in (((("Accept", "application/json"),), f"/admin/{name}"),
                            ((), f"/admin/{name}?format=json")):
        answer = admin(gateway, target, headers)
        assert answer.status == 200 and answer.header("content-type") == "application/json"
        assert set(answer.json) == set(VIEWS[name])
        for table, columns in VIEWS[name].items():
            assert all(list(row) == columns for row in answer.json[table])
    text = admin(gateway, f"/admin/{name}")
    assert text.header("content-type") == "text/plain; charset=utf-8"
    check_text(text.body.decode(), VIEWS[name])
    # A client that takes anything is a person with curl.
    assert admin(gateway, f"/admin/{name}", [("Accept", "*/*")]).header(
        "content-type").startswith("text/plain")
    stream.finish()


def check_text(text, tables):
    """Tables under each other, each with its columns aligned."""
    assert text.endswith("\n") and not re.search(r" +$", text, re.MULTILINE)
    blocks = text.split("\n\n")
    assert len(blocks) == len(tables)
    for block, (name, columns) in zip(blocks, tables.items()):
        lines = block.rstrip("\n").split("\n")
        if len(tables) > 1:
            assert lines.pop(0) == f"{name}:"
        assert lines[0].split() == columns
        for line in lines[1:]:
            assert len(re.split(r" {2,}", line.strip())) == len(columns), line


def test_requests_view_tells_of_an_open_stream(gateway, provider):
    stream = OpenStream(gateway, provider)
    row, = [row for row in view(gateway, "requests")["requests"] if row["id"] == stream.id]
    assert (row["method"], row["path"], row["model"], row["provider"], row["step"]) == (
        "POST", "/v1/chat/completions", "m", "fake", "stream")
    assert row["stream"] is True and row["thread"] >= 1 and row["peer"] == "127.0.0.1"
    assert row["events"] == 1 and row["arena_bytes"] > 0 and row["caller"] == ""
    fiber, = [row for row in view(gateway, "fibers")["fibers"] if row["request"] == stream.id]
    assert (fiber["state"], fiber["step"]) == ("parked", "stream")
    stream.finish()
    gateway.wait_log("request", id=stream.id)
    assert all(row["id"] != stream.id for row in view(gateway, "requests")["requests"])


def test_requests_view_waits_for_the_provider(gateway, provider):
    """The step is as fine as the call's own."""
    gate = threading.Event()
    provider.script(sse(gate, *chat_events("late")))
    with RawClient(gateway.port) as client:
        client.send(request_bytes("POST", "/v1/chat/completions", {**ASK, "stream": True}))
        provider.wait_request()
        row, = [row for row in view(gateway, "requests")["requests"] if row["model"] == "m"]
        assert row["step"] in ("upstream", "first event")
        gate.set()
        client.read_response()


def test_requests_view_shows_nothing_strange_on_a_terminal(gateway, provider):
    gate = threading.Event()
    provider.script(sse(gate, *chat_events("x")))
    with RawClient(gateway.port) as client:
        client.send(request_bytes("POST", "/v1/chat/completions",
                                  {**ASK, "model": "e\u0301vil\u009b31m", "stream": True}))
        provider.wait_request()
        assert all(0x20 <= byte < 0x7f or byte == 0x0a
                   for byte in admin(gateway, "/admin/requests").body)
        assert any(row["model"] == "e\u0301vil\u009b31m"
                   for row in view(gateway, "requests")["requests"])
        gate.set()
        client.read_response()


def test_upstreams_view_counts_connections(gateway, provider):
    stream = OpenStream(gateway, provider)
    found = view(gateway, "upstreams")
    assert found["providers"] == [{"name": "fake", "kind": "openai", "host": "127.0.0.1",
                                   "in_flight": 1, "max_in_flight": 0}]
    row, = found["connections"]
    assert (row["host"], row["port"], row["busy"], row["idle"]) == (
        "127.0.0.1", provider.port, 1, 0)
    stream.finish()
    gateway.wait_log("request", id=stream.id)
    row, = view(gateway, "upstreams")["connections"]
    assert (row["busy"], row["idle"], row["opened"]) == (0, 1, 1)


def test_memory_view_counts_what_a_stream_holds(gateway, provider):
    idle = {row["use"]: row["bytes"] for row in view(gateway, "memory")["uses"]}
    stream = OpenStream(gateway, provider)
    busy = {row["use"]: row["bytes"] for row in view(gateway, "memory")["uses"]}
    assert busy["request"] > idle["request"] and busy["upstream"] > idle["upstream"]
    process, = view(gateway, "memory")["process"]
    assert process["resident_bytes"] < process["refusing_from_bytes"] < process["limit_bytes"]
    stream.finish()


def test_config_view_masks_secrets(sluice, provider):
    server = sluice(provider_config(provider) + KEYS + 'admin_key: "sk-admin-key-1"\n')
    headers = [("Authorization", "Bearer sk-admin-key-1")]
    found = admin(server, "/admin/config?format=json", headers)
    assert found.json["providers"]["fake"]["key"] == "***"
    text = admin(server, "/admin/config", headers)
    assert text.header("content-type").startswith("text/plain")
    assert b"providers:" in text.body
    for answer in (found, text):
        assert b"sk-" not in answer.body


def test_head_of_a_view(gateway):
    with RawClient(gateway.admin_port) as client:
        assert client.request("HEAD", "/admin/memory").status == 200
        assert client.request("GET", "/admin/memory").status == 200


# ---- who may look ----

def test_health_is_on_both_listeners(gateway):
    for path, status in (("/health", "ok"), ("/ready", "ready")):
        for port in (gateway.port, gateway.admin_port):
            answer = ask(port, "GET", path)
            assert answer.status == 200 and answer.json == {"status": status}
    for path in ("/livez", "/readyz"):
        assert ask(gateway.admin_port, "GET", path).status == 200
        assert_openai_error(ask(gateway.port, "GET", path), 404, "unknown_url")


@pytest.mark.parametrize("path", ["/metrics", "/admin/requests", "/admin/config"])
def test_admin_is_on_the_admin_listener_only(gateway, path):
    assert_openai_error(ask(gateway.port, "GET", path), 404, "unknown_url")


def test_the_api_is_on_the_public_listener_only(gateway):
    assert_openai_error(admin(gateway, "/v1/models"), 404, "unknown_url")


def test_admin_key(sluice, provider):
    server = sluice(provider_config(provider) + KEYS + 'admin_key: "sk-admin-key-1"\n')
    assert_openai_error(admin(server, "/metrics"), 401, "invalid_api_key")
    assert_openai_error(admin(server, "/metrics", [("Authorization", "Bearer wrong")]), 401,
                        "invalid_api_key")
    for key in ("sk-admin-key-1", "sk-root-key-12"):
        assert admin(server, "/metrics", [("Authorization", f"Bearer {key}")]).status == 200
    assert_openai_error(admin(server, "/metrics", [("Authorization", "Bearer sk-alice-key-1")]),
                        403, "insufficient_permissions")
    # The admin key opens nothing on the public listener; health asks for no key.
    assert ask(server.port, "GET", "/v1/models",
               headers=[("Authorization", "Bearer sk-admin-key-1")]).status == 401
    assert admin(server, "/livez").status == 200


def test_requests_view_names_the_caller(sluice, provider):
    server = sluice(provider_config(provider) + KEYS)
    stream = OpenStream(server, provider, [("Authorization", "Bearer sk-alice-key-1")])
    found = admin(server, "/admin/requests?format=json", [("Authorization", "Bearer sk-root-key-12")])
    row, = [row for row in found.json["requests"] if row["id"] == stream.id]
    assert row["caller"] == "alice"
    stream.finish()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example"])
def test_a_foreign_host_name_is_refused(gateway, host):
    with RawClient(gateway.admin_port) as client:
        client.send(request_bytes("GET", "/admin/config", host=host))
        assert_openai_error(client.read_response(), 403, "foreign_host")


def test_a_foreign_origin_is_refused(gateway):
    answer = admin(gateway, "/metrics", [("Origin", "https://evil.example")])
    assert_openai_error(answer, 403, "foreign_origin")


# ---- debug switches ----

def test_debug_switches_are_off_by_default(gateway):
    for switch in ("sleep", "crash", "drop-connection", "fail-alloc", "fail-syscall"):
        assert_openai_error(debug(gateway, switch), 404, "unknown_url")
    assert admin(gateway, "/livez").status == 200


def test_debug_sleep_and_counts(sluice, provider):
    server = sluice(provider_config(provider) + "debug: true\n")
    assert debug(server, "sleep?ms=1").json == {"done": True}
    assert debug(server, "sleep?ms=1&thread=1").json == {"done": True}
    assert_openai_error(debug(server, "sleep?ms=soon"), 400)
    assert_openai_error(debug(server, "no-such-switch"), 404)
    answer = debug(server, "fail-alloc?n=0")
    if answer.status == 400:
        pytest.skip("a build without faults")
    ask(server.port, "GET", "/v1/models")
    assert debug(server, "fail-alloc?n=0").json["count"] > 0
    assert debug(server, "fail-syscall?n=0").status == 200
    assert debug(server, "fail-syscall?n=0").json["count"] > 0


def test_debug_drop_connection(sluice, provider):
    server = sluice(provider_config(provider) + "debug: true\n")
    with RawClient(server.admin_port) as client:
        client.send(request_bytes("POST", "/admin/debug/drop-connection"))
        client.expect_closed()
    stream = OpenStream(server, provider)
    assert debug(server, f"drop-connection?id={stream.id}").status == 200
    assert stream.client.receive() is False
    provider.wait_request().wait_peer_closed()
    assert server.wait_log("request", id=stream.id)["outcome"] == "client_cancelled"
    assert_openai_error(debug(server, f"drop-connection?id={stream.id}"), 404)


def test_debug_crash_writes_a_report(sluice, provider):
    server = sluice(provider_config(provider) + "debug: true\n")
    with RawClient(server.admin_port) as client:
        client.send(request_bytes("POST", "/admin/debug/crash"))
        server.process.wait(20)
    server.kill()
    report = "\n".join(server.stderr)
    assert "check failed" in report and "step handle" in report, report
    server.stderr.clear()                  # the report was meant; the fixture would complain
