# SPDX-License-Identifier: Apache-2.0
"""The process and its machine: signals, reloads, drains, descriptors, log devices, overload, systemd.

The numbers in the names are those of tests/bad_inputs.tsv.
"""
import os
import resource
import signal
import socket
import subprocess
import threading
import time

import pytest

from fake_provider import HANG, chat, chat_events, sse
from raw_http import RawClient, assert_openai_error, request_bytes
from sluice import HANG_GUARD_S, REPORTS, clean_environment, find_binary, parse_line, provider_config
from test_admin import ASK, OpenStream, admin, ask, read_metrics, view

REQUESTS = int(os.environ.get("E2E_RELOAD_REQUESTS", "20000"))
REFUSED_CONFIG = "the new configuration was not taken; the old one stays in force"
DRAINING = "draining: no new connections, running requests may finish"


def until(condition, what):
    """Wait for something that has no event of its own."""
    end = time.monotonic() + HANG_GUARD_S
    while not condition():
        assert time.monotonic() < end, f"waited for: {what}"
        time.sleep(0.005)


def send_ask(server, **members):
    client = RawClient(server.port)
    client.send(request_bytes("POST", "/v1/chat/completions", {**ASK, **members}))
    return client


def is_refused(port):
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:                           # it closed meanwhile; the next one is refused
        return False
    return False


def loop_rounds(client):
    return sum(row["rounds"] for row in
               client.request("GET", "/admin/fibers?format=json").json["loops"])


# ---- 212: descriptors ----

def limit_descriptors(server, spare):
    """Let the process open only this many more descriptors."""
    used = max(map(int, os.listdir(f"/proc/{server.process.pid}/fd"))) + 1
    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (used + spare, hard))


def test_n212_no_descriptors_pauses_and_does_not_spin(gateway):
    with RawClient(gateway.admin_port) as operator:
        operator.request("GET", "/livez")
        limit_descriptors(gateway, spare=6)
        crowd = [RawClient(gateway.port) for _ in range(60)]
        for client in crowd:
            client.send(request_bytes("GET", "/v1/models"))
        until(lambda: sum(client.has_answer() for client in crowd) >= 1, "the first answers")
        before = loop_rounds(operator)
        time.sleep(1)
        # Every round would fail to accept and ask again at once, some 100,000 times a second.
        assert loop_rounds(operator) - before < 2000
        assert operator.request("GET", "/livez").status == 200
        # Each that leaves makes room for one that waits.
        while crowd:
            until(lambda: any(client.has_answer() for client in crowd), "a waiting client's answer")
            served = next(client for client in crowd if client.has_answer())
            assert served.read_response().status == 200
            served.close()
            crowd.remove(served)
    assert ask(gateway.port, "GET", "/v1/models").status == 200
    assert read_metrics(gateway)["http_accept_pauses_total", ()] >= 1


def test_n212_no_descriptor_for_the_provider_is_an_answer(gateway, provider):
    with RawClient(gateway.port) as client:
        client.expect_usable()
        limit_descriptors(gateway, spare=0)
        answer = client.request("POST", "/v1/chat/completions", ASK)
        assert_openai_error(answer)
        assert answer.status in (502, 503), answer
        limit_descriptors(gateway, spare=20)
        assert client.request("POST", "/v1/chat/completions", ASK).status == 200


# ---- 215: log devices ----

def reloads(server, result="ok"):
    return read_metrics(server).get(("config_reloads_total", (("result", result),)), 0)


def log_to(server, provider, path):
    """Reload with another log file, and wait for it without the log's help."""
    before = reloads(server)
    server.write_config(provider_config(provider) + (f"log: {{file: {path}}}\n" if path else ""))
    server.reload()
    until(lambda: reloads(server) > before, "the reload")


def dropped(server):
    return read_metrics(server)["log_dropped_total", ()]


def fill_log(server):
    """Cause long log lines until some had to be dropped; every request is answered."""
    for _ in range(2000):
        with RawClient(server.port) as client:
            assert client.request("GET", "/" + "x" * 7000).status == 404
        if dropped(server) > 0:
            return
    raise AssertionError("no log line was dropped")


def test_n215_log_device_full(gateway, provider):
    log_to(gateway, provider, "/dev/full")
    fill_log(gateway)
    assert ask(gateway.port, "POST", "/v1/chat/completions", ASK).status == 200
    log_to(gateway, provider, None)
    ask(gateway.port, "GET", "/v1/models")
    gateway.wait_log("request", path="/v1/models")


def test_n215_log_device_blocked(gateway, provider, tmp_path):
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)   # there, but it never reads
    log_to(gateway, provider, fifo)
    fill_log(gateway)
    assert ask(gateway.port, "POST", "/v1/chat/completions", ASK).status == 200
    os.close(reader)


def test_n215_stdout_and_stderr_closed(tmp_path, provider):
    """The reader of both pipes goes away, as when a terminal or a log collector dies."""
    (tmp_path / "sluice.yaml").write_text(
        f'listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\ndata_dir: "{tmp_path}"\n'
        + provider_config(provider))
    process = subprocess.Popen(
        [find_binary(), "serve", "-c", "sluice.yaml"], cwd=tmp_path, stdin=subprocess.DEVNULL,
        env=clean_environment(tmp_path, None), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        ports = {}
        while len(ports) < 2:
            raw = process.stderr.readline().decode()
            assert raw, "it ended"
            line = parse_line(raw) or {}
            if line.get("msg") == "listening":
                ports[line["for"]] = int(line["address"].rpartition(":")[2])
        process.stdout.close()
        process.stderr.close()
        for _ in range(50):
            assert ask(ports["public"], "POST", "/v1/chat/completions", ASK).status == 200
        assert ask(ports["admin"], "GET", "/livez").status == 200
        process.terminate()
        assert process.wait(HANG_GUARD_S) == 0
    finally:
        process.kill()
        process.wait()


# ---- 216: SIGTERM at bad moments ----

@pytest.mark.parametrize("delay_ms", [0, 5, 10, 20, 40, 80, 160])
def test_n216_sigterm_during_start(sluice, provider, delay_ms):
    server = sluice(provider_config(provider), wait=False)
    time.sleep(delay_ms / 1000)
    server.process.send_signal(signal.SIGTERM)
    # Before signals are watched there is nothing to clean up: then the signal itself ends it.
    assert server.wait_exit(expected=None) in (0, -signal.SIGTERM)
    assert not REPORTS.search(server.tail())


def test_n216_sigterm_during_reload(gateway):
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
        gateway.process.send_signal(number)
    gateway.wait_exit()


def test_n216_sigterm_twice_ends_at_once(gateway, provider):
    stream = OpenStream(gateway, provider)
    gateway.process.send_signal(signal.SIGTERM)
    gateway.wait_log(DRAINING)
    gateway.process.send_signal(signal.SIGTERM)
    gateway.wait_exit()
    rest = b""
    while piece := stream.client.read_chunk():
        rest += piece
    assert b'"error"' in rest and b"[DONE]" not in rest
    assert gateway.wait_log("request", id=stream.id)["outcome"] == "killed"
    provider.wait_request().wait_peer_closed()


# ---- 217, 218: bad configurations ----

def line_of(server, text):
    """The number of the line on which a part of the configuration begins."""
    return server.config_path.read_text().split(text)[0].count("\n") + 1


@pytest.mark.parametrize("bad, line, words", [
    ("overload:\n  max_in_flite: 5\n", 2, "max_in_flight"),
    ("overload: {max_in_flight: many}\n", 1, "max_in_flight"),
    ("overload: [\n", None, ""),
    ("default_provider: nobody\n", 1, "nobody"),
    ("listen: 127.0.0.1:1\n", None, "listen"),
])
def test_n217_sighup_with_a_broken_configuration(gateway, provider, bad, line, words):
    good = gateway.config_path.read_text()
    providers = provider_config(provider).replace("default_provider: fake\n", "")
    gateway.write_config(providers + bad)
    gateway.reload()
    entry = gateway.wait_log(REFUSED_CONFIG)
    assert words in entry["text"], entry
    if line is not None:
        assert f"sluice.yaml:{line_of(gateway, bad) + line - 1}:" in entry["text"], entry
    assert ask(gateway.port, "POST", "/v1/chat/completions", ASK).status == 200
    metrics = read_metrics(gateway)
    assert metrics["config_last_reload_successful", ()] == 0
    assert metrics["config_version", ()] == 1
    gateway.config_path.write_text(good)
    gateway.reload()
    gateway.wait_log("configuration reloaded")
    assert read_metrics(gateway)["config_last_reload_successful", ()] == 1


@pytest.mark.parametrize("bad, line, words", [
    ("overload:\n  max_in_flite: 5\n", 2, "max_in_flight"),
    ("log: 7\n", 1, "log"),
    ("overload: {max_in_flight: many}\n", 1, "max_in_flight"),
    ('providers:\n  p: {url: "http://127.0.0.1:1/v1", key: "${NO_SUCH_SECRET}"}\n', 2, "NO_SUCH_SECRET"),
    ("keys: {required: false}\nlisten: 0.0.0.0:0\n", None, "listen"),
    ("# " + "x" * (10 << 20) + "\n", None, ""),
    ("a: {" * 5000, None, ""),
])
def test_n218_a_bad_configuration_refuses_to_start(sluice, bad, line, words):
    server = sluice(bad, wait=False)
    server.wait_exit(expected=78)
    said = server.tail()
    assert "sluice.yaml" in said and words in said, said
    if line is not None:
        assert f"sluice.yaml:{line_of(server, bad) + line - 1}:" in said, said


def test_reload_changes_what_it_may(sluice, provider):
    server = sluice(provider_config(provider))
    assert ask(server.port, "GET", "/v1/models").json["data"] == []
    stream = OpenStream(server, provider)
    server.write_config(provider_config(provider) + "models:\n  smart: {targets: [fake/big]}\n")
    server.reload()
    server.wait_log("configuration reloaded")
    assert [model["id"] for model in ask(server.port, "GET", "/v1/models").json["data"]] == ["smart"]
    # A request ends with the configuration it began with.
    assert b"[DONE]" in stream.finish()
    assert server.wait_log("request", id=stream.id)["conf"] == 1
    assert read_metrics(server)["config_version", ()] == 2


def test_a_reload_that_fails_late_changes_nothing(gateway, provider):
    """Some mistakes show only when everything else has been read: here, a user of Redis without a password."""
    gateway.write_config(provider_config(provider) + "models:\n  smart: {targets: [fake/big]}\n"
                         "redis: {url: redis://user@127.0.0.1:6379}\n")
    gateway.reload()
    assert "redis.url" in gateway.wait_log(REFUSED_CONFIG)["text"]
    assert ask(gateway.port, "GET", "/v1/models").json["data"] == []
    assert read_metrics(gateway)["config_version", ()] == 1


def test_fifty_reloads_under_load_lose_no_request(sluice, provider):
    """Eight clients on kept connections, every fourth request is passed on to the provider."""
    server = sluice(provider_config(provider) + "log: {access: false}\n")
    statuses, failures, reloaded = [], [], threading.Event()
    provider.default = chat("Hi")

    def work():
        try:
            with RawClient(server.port) as client:
                while len(statuses) < REQUESTS or not reloaded.is_set():
                    if len(statuses) % 4:
                        answer = client.request("GET", "/v1/models")
                    else:
                        answer = client.request("POST", "/v1/chat/completions", ASK)
                    statuses.append(answer.status)
        except (AssertionError, OSError) as error:
            failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    try:
        for number in range(50):
            until(lambda: failures or len(statuses) >= number * REQUESTS // 50, "requests")
            server.reload()
            server.wait_log("configuration reloaded", count=number + 1)
    finally:
        reloaded.set()
        for worker in workers:
            worker.join()
    assert not failures, failures[:3]
    assert len(statuses) >= REQUESTS and set(statuses) == {200}


# ---- drain ----

def test_drain_lets_a_stream_finish(gateway, provider):
    stream = OpenStream(gateway, provider)
    idle = RawClient(gateway.port)
    idle.expect_usable()
    gateway.process.send_signal(signal.SIGTERM)
    gateway.wait_log(DRAINING)
    answer = admin(gateway, "/ready")
    assert answer.status == 503 and answer.json == {"status": "draining"}
    assert admin(gateway, "/livez").status == 200
    until(lambda: is_refused(gateway.port), "the public listener to close")
    idle.expect_closed()
    assert gateway.is_running()
    assert b"[DONE]" in stream.finish()
    gateway.wait_exit()
    assert gateway.wait_log("request", id=stream.id)["outcome"] == "completed"


def test_drain_ends_kept_connections_after_their_answer(gateway, provider):
    gate = threading.Event()
    provider.script(lambda exchange: (exchange.wait_for(gate), chat("late")(exchange)))
    client = send_ask(gateway)
    provider.wait_request()
    gateway.process.send_signal(signal.SIGTERM)
    until(lambda: is_refused(gateway.port), "the public listener to close")
    gate.set()
    answer = client.read_response()
    assert answer.status == 200 and answer.header("connection") == "close"
    client.expect_closed()
    gateway.wait_exit()


def test_drain_delay_goes_on_accepting(sluice, provider):
    server = sluice(provider_config(provider) + "drain: {delay: 500ms}\n")
    server.process.send_signal(signal.SIGTERM)
    server.wait_log(DRAINING)
    assert admin(server, "/ready").status == 503
    assert ask(server.port, "POST", "/v1/chat/completions", ASK).status == 200
    server.wait_exit()


def test_drain_timeout_tells_the_stream_and_records_killed(sluice, provider):
    server = sluice(provider_config(provider) + "drain: {timeout: 100ms}\n")
    stream = OpenStream(server, provider)
    server.process.send_signal(signal.SIGTERM)
    rest = b""
    while piece := stream.client.read_chunk():
        rest += piece
    assert rest.startswith(b'data: {"error"') and b"[DONE]" not in rest, rest
    server.wait_exit()
    assert server.wait_log("request", id=stream.id)["outcome"] == "killed"
    provider.wait_request().wait_peer_closed()


def test_drain_timeout_answers_503_where_nothing_was_sent(sluice, provider):
    server = sluice(provider_config(provider) + "drain: {timeout: 100ms}\n")
    provider.script(lambda exchange: exchange.run(HANG))
    client = send_ask(server)
    provider.wait_request()
    server.process.send_signal(signal.SIGTERM)
    assert_openai_error(client.read_response(), 503)
    server.wait_exit()
    assert server.wait_log("request", path="/v1/chat/completions")["outcome"] == "killed"


# ---- overload ----

def test_in_flight_limit_answers_200_or_503(sluice, provider):
    """Four times as many as are allowed."""
    limit = 8
    server = sluice(provider_config(provider) + f"overload: {{max_in_flight: {limit}}}\n")
    gate = threading.Event()
    provider.default = lambda exchange: (exchange.wait_for(gate), chat("late")(exchange))
    admitted = [send_ask(server) for _ in range(limit)]
    for _ in range(limit):
        provider.wait_request()
    turned_away = [send_ask(server, stream=bool(number % 2)) for number in range(3 * limit)]
    for client in turned_away:
        answer = client.read_response()
        assert_openai_error(answer, 503, "overloaded")
        assert int(answer.header("retry-after")) >= 1
        assert admin(server, "/livez").status == 200
        client.expect_usable()             # listing models is no model request
    metrics = read_metrics(server)
    assert metrics["http_requests_shed_total", (("reason", "in_flight"),)] == 3 * limit
    assert metrics["llm_active_requests", ()] == limit
    gate.set()
    for client in admitted:
        assert client.read_response().status == 200
    assert ask(server.port, "POST", "/v1/chat/completions", ASK).status == 200
    server.wait_log("request", count=limit + 1, outcome="completed")
    server.wait_log("request", count=3 * limit, outcome="shed")
    assert read_metrics(server)["llm_active_requests", ()] == 0


def test_overload_without_order_ends_every_request(sluice, provider):
    """All at once, and the provider answers when it likes."""
    server = sluice(provider_config(provider) + "overload: {max_in_flight: 4}\n")
    clients = [send_ask(server) for _ in range(64)]
    statuses = [client.read_response().status for client in clients]
    assert set(statuses) <= {200, 503} and 200 in statuses
    assert admin(server, "/livez").status == 200


# ---- systemd ----

def test_systemd_is_told(sluice, provider, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notices:
        notices.bind(str(tmp_path / "notify"))
        notices.settimeout(HANG_GUARD_S)

        def next_notice():
            lines = notices.recv(4096).decode().split("\n")
            return dict(line.split("=", 1) for line in lines)

        server = sluice(provider_config(provider),
                        environment={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert next_notice()["READY"] == "1"
        server.reload()
        began = next_notice()
        assert began["RELOADING"] == "1" and int(began["MONOTONIC_USEC"]) > 0
        assert next_notice()["READY"] == "1"
        server.process.send_signal(signal.SIGTERM)
        assert next_notice()["STOPPING"] == "1"
        server.wait_exit()


# ---- addresses ----

def test_two_servers_on_one_address(sluice, provider):
    first = sluice(provider_config(provider))
    for option, port in (("listen", first.port), ("admin", first.admin_port)):
        second = sluice(f"{option}: 127.0.0.1:{port}\n", wait=False)
        second.wait_exit(expected=1)
        assert f"127.0.0.1:{port}" in second.tail()
    assert ask(first.port, "GET", "/v1/models").status == 200


def test_two_servers_on_one_unix_socket(sluice, provider, tmp_path):
    path = tmp_path / "api"
    first = sluice(f"listen: unix:{path}\n" + provider_config(provider))
    second = sluice(f"listen: unix:{path}\n", wait=False)
    second.wait_exit(expected=1)
    with RawClient(address=str(path)) as client:
        client.expect_usable()
    first.stop()
    # What it left behind, if anything, does not keep the next one from starting.
    third = sluice(f"listen: unix:{path}\n" + provider_config(provider))
    with RawClient(address=str(path)) as client:
        client.expect_usable()
    third.stop()


@pytest.mark.parametrize("switch", ["sleep?ms=60000", "sleep?ms=700&thread=1"])
def test_drain_does_not_wait_for_admin_requests(sluice, provider, switch):
    server = sluice(provider_config(provider) + "debug: true\n")
    with RawClient(server.admin_port) as client:
        client.send(request_bytes("POST", f"/admin/debug/{switch}"))
        until(lambda: any("/debug/" in row["path"] for row in view(server, "requests")["requests"]),
              "the request to arrive")
        server.process.send_signal(signal.SIGTERM)
        server.wait_exit()
