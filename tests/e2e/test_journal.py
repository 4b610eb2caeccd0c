# SPDX-License-Identifier: Apache-2.0
"""One row for every stream, however the process ends: with kill -9 those that were open become rows `killed` at the next start.

Budgets do not hold here: what becomes of theirs is in test_budgets.py. STREAMS says how many streams there are while servers are
killed; `make soak` has more.
"""
import os
import random
import re
import threading
import time
from datetime import datetime

import pytest
from caller import CHAT, STREAM, Stream, ask, ask_stream
from command import run
from fake_meter import QUESTION, Meter, question
from fake_provider import HANG, FakeProvider, chat_events, error, sse
from raw_http import RawClient, request_bytes
from sluice import HANG_GUARD_S, provider_config

STREAMS = int(os.environ.get("STREAMS", "300"))
KILLS = 20 if STREAMS >= 1000 else 3
WORDS = 20
CLOSED = "streams that were open when the server ended were closed as killed"
RESTORED = "rows of calls that had ended were lost with the server and are entered"


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:{tmp_path}/kept.db"
    name = re.sub(r"\W", "_", request.node.name)[:60].lower()
    return request.getfixturevalue("postgres").new_database(name)


@pytest.fixture
def serve(sluice, provider, store, tmp_path):
    """serve() → a server that books all calls. The store and its folder stay from one to the next."""
    def start(providers=None):
        return sluice(f'ledger: {{rows: all}}\nstore: "{store}"\ndata_dir: "{tmp_path}"\n'
                      + (providers or provider_config(provider)))
    return start


def rows(server):
    """All rows of the ledger."""
    found, cursor = [], ""
    while cursor is not None:
        with RawClient(server.admin_port) as client:
            client.send(request_bytes("GET", f"/admin/ledger?limit=1000{cursor}"))
            page = client.read_response().json
        found += page["data"]
        cursor = f"&cursor={page['next_cursor']}" if page["has_more"] else None
    return found


def until(condition, what):
    end = time.monotonic() + HANG_GUARD_S
    while not (found := condition()):
        assert time.monotonic() < end, f"waited for {what}"
        time.sleep(0.02)
    return found


def journals(folder):
    return sorted(path.name for path in folder.glob("*streams*"))


def test_open_streams_are_closed_as_killed(serve, provider, store, tmp_path):
    """They say who asked whom, when, and for how much, and that is said once. What was not a stream, had not asked, or was
    over before has no such row."""
    server = serve()
    provider.default = sse(*chat_events("a", "b", done=False, finish=None), HANG)
    streams = [Stream(server, STREAM | {"model": f"fake/m{n % 2}"}, [("X-User-ID", f"user {n}")], f"open-{n}")
               for n in range(70)]
    for stream in streams:
        stream.read_until(b'"b"')
    provider.default = sse(HANG)
    silent = Stream(server, STREAM, id="silent")                # no word has come yet
    until(lambda: len(provider.requests) == 71, "the provider to be asked")
    with RawClient(server.port) as client:
        client.send(request_bytes("POST", "/v1/chat/completions", CHAT, [("X-Request-Id", "whole")]))
        until(lambda: len(provider.requests) == 72, "the provider to be asked")
        with RawClient(server.port) as refused:
            refused.send(request_bytes("POST", "/v1/chat/completions", STREAM | {"model": ""},
                                       [("X-Request-Id", "refused")]))
            assert refused.read_response().status == 400
        before = time.time()
        server.kill()
    for stream in (*streams, silent):
        stream.client.close()
    assert journals(tmp_path), "the journal"
    server = serve()
    assert server.wait_log(CLOSED)["streams"] == 71
    found = {row["request_id"]: row for row in rows(server)}
    assert found.keys() == {f"open-{n}" for n in range(70)} | {"silent"} and len(rows(server)) == 71
    row = found["open-7"]
    assert (row["outcome"], row["status"], row["user"], row["model"]) == ("killed", 503, "user 7", "fake/m1")
    assert (row["provider"], row["upstream_model"], row["attempts"]) == ("fake", "m1", 1)
    assert row["route"].endswith("/v1/chat/completions") and row["estimated"] is True
    assert row["output"] == 0 < row["input"] < 100 and row["cost"] is None
    began = datetime.fromisoformat(row["at"].replace("Z", "+00:00")).timestamp()
    assert before - HANG_GUARD_S < began <= before + 1
    server.kill()
    server = serve()
    assert len(rows(server)) == 71 and not server.log_lines(CLOSED)
    server.stop()


def test_the_row_names_who_was_asked_last(serve, provider):
    with FakeProvider() as second:
        second.default = sse(*chat_events("a", "b", done=False, finish=None), HANG)
        provider.default = error(500)
        providers = (f'providers: {{fake: {{kind: openai, url: "{provider.url}"}}, '
                     f'second: {{kind: openai, url: "{second.url}"}}}}\n'
                     "models: {smart: {targets: [fake/first-model, second/another-model]}}\n")
        server = serve(providers)
        with Stream(server, STREAM | {"model": "smart"}, id="moved") as stream:
            stream.read_until(b'"b"')
            server.kill()
        server = serve(providers)
        [row] = rows(server)
        assert (row["outcome"], row["request_id"], row["model"], row["attempts"]) == ("killed", "moved", "smart", 2)
        assert (row["provider"], row["upstream_model"]) == ("second", "another-model")


def test_streams_that_had_ended_are_not_lost(serve, provider):
    """Killed before their rows were committed: they are entered with what they came to."""
    provider.default = meter = Meter()
    server = serve()
    for n in range(20):
        assert b"[DONE]" in ask_stream(server, question(f"ended-{n}", 3), id=f"ended-{n}")
    server.kill()
    server = serve()
    found = rows(server)
    assert sorted(row["request_id"] for row in found) == sorted(meter.bills)
    completed = [row for row in found if row["outcome"] == "completed"]
    assert len(completed) >= 19                                  # of the last the server may not have noted the end
    assert all((row["input"], row["output"]) == (QUESTION, 3) for row in completed)
    assert {row["outcome"] for row in found} <= {"completed", "killed"}
    server.stop()
    assert len(rows(serve())) == 20


def test_every_stream_has_one_row_while_servers_are_killed(serve, provider):
    """Whatever the provider was asked is in the ledger once: as completed if it says so to the token, as left by its caller,
    or as killed."""
    provider.default = meter = Meter()
    servers, left, lock, chance = [serve()], [STREAMS], threading.Lock(), random.Random(3)

    def work():
        while True:
            with lock:
                left[0] -= 1
                number, leave = left[0], chance.randrange(1, WORDS) if chance.random() < 0.3 else None
            if number < 0:
                return
            try:
                with Stream(servers[-1], question(f"stream-{number}", WORDS), id=f"stream-{number}") as stream:
                    for _ in range(leave or 10 * WORDS):
                        if stream.next_event() is None:
                            break
            except (OSError, AssertionError):
                time.sleep(0.05)

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for kill in range(1, KILLS + 1):
        while left[0] > STREAMS - STREAMS * kill // (KILLS + 1):
            time.sleep(0.01)
        servers[-1].kill()
        servers.append(serve())
    for thread in threads:
        thread.join()
    servers[-1].stop()
    found = rows(serve())
    ids = [row["request_id"] for row in found]
    assert len(ids) == len(set(ids)) and meter.bills.keys() <= set(ids)
    unheard = [row["outcome"] for row in found if row["request_id"] not in meter.bills]
    assert set(unheard) <= {"killed"}                           # on their way to the provider
    outcomes = {outcome: [row for row in found if row["outcome"] == outcome]
                for outcome in ("completed", "client_cancelled", "killed")}
    assert sum(map(len, outcomes.values())) == len(found) and all(outcomes.values())
    for row in outcomes["completed"]:
        assert row["input"] + row["output"] == meter.bills[row["request_id"]].tokens
    closed = sum(line["streams"] for server in servers for line in server.log_lines(CLOSED))
    assert closed == len(outcomes["killed"]) <= 12 * KILLS


@pytest.mark.parametrize("rubbish", [b"", b"x", b"sluice streams 1", bytes(300_000), bytes(range(256)) * 1000],
                         ids=["empty", "short", "head", "zeros", "noise"])
def test_a_file_of_rubbish_is_left_out(sluice, provider, tmp_path, rubbish):
    config = (f'ledger: {{rows: all}}\nstore: "sqlite:{tmp_path}/kept.db"\ndata_dir: "{tmp_path}"\n'
              + provider_config(provider))
    (tmp_path / "kept.db.streams.0").write_bytes(rubbish)
    server = sluice(config)
    if rubbish:
        server.wait_log("parts of a journal of streams cannot be read and are left out")
    assert rows(server) == []
    provider.default = sse(*chat_events("a", "b", done=False, finish=None), HANG)
    with Stream(server, id="after") as stream:
        stream.read_until(b'"b"')
        server.kill()
    assert [row["outcome"] for row in rows(sluice(config))] == ["killed"]


def test_without_a_journal_the_server_serves(sluice, provider, tmp_path):
    (tmp_path / "kept.db.streams.0").mkdir()
    server = sluice(f'ledger: {{rows: all}}\nstore: "sqlite:{tmp_path}/kept.db"\n' + provider_config(provider))
    server.wait_log("streams are not noted in the journal: a crash will leave no rows of them")
    assert ask(server).status == 200 and b"[DONE]" in ask_stream(server)
    until(lambda: len(rows(server)) == 2, "rows")


def test_processes_that_share_a_folder_have_files_of_their_own(postgres, sluice, provider, tmp_path):
    """Nobody closes what another one has open; who starts closes what all dead ones have left, and tidies up."""
    url = postgres.new_database("share_a_folder")
    config = (f'ledger: {{rows: all}}\nstore: "{url}"\ndata_dir: "{tmp_path}"\n' + provider_config(provider))
    provider.default = sse(*chat_events("a", "b", done=False, finish=None), HANG)
    servers = [sluice(config) for _ in range(3)]
    streams = [Stream(server, id=f"of-{n}") for n, server in enumerate(servers)]
    for stream in streams:
        stream.read_until(b'"b"')
    assert len(journals(tmp_path)) == 3
    servers[1].kill()
    servers[2].kill()
    last = sluice(config)
    assert sum(line["streams"] for line in last.log_lines(CLOSED)) == 2
    assert sorted(row["request_id"] for row in rows(last)) == ["of-1", "of-2"]
    assert len(journals(tmp_path)) == 2
    for stream in streams:
        stream.client.close()
    until(lambda: len(rows(last)) == 3, "the row of who was not killed")
    assert {row["request_id"]: row["outcome"] for row in rows(last)}["of-0"] == "client_cancelled"


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
@pytest.mark.parametrize("budget", ["", "budgets: {per_project: {tokens: 1000000/day}}\n"], ids=["free", "budget"])
def test_a_restored_store_has_no_row_of_later_streams(serve, provider, tmp_path, budget):
    """The journal knows streams that the backup does not; what was not streamed it does not know either. With what else was
    there it is put aside."""
    config = budget + provider_config(provider)
    server = serve(config)
    ask_stream(server)
    until(lambda: len(rows(server)) == 1, "the first row")
    copy = f"{tmp_path}/copy.db"
    made = run("backup", "--url", f"http://127.0.0.1:{server.admin_port}", copy, directory=server.directory)
    assert made.returncode == 0, made
    for _ in range(5):
        ask_stream(server)
    until(lambda: len(rows(server)) == 6, "the other rows")
    server.process.terminate()
    server.process.wait(HANG_GUARD_S)
    done = run("restore", "-c", server.config_path, copy, directory=server.directory)
    assert done.returncode == 0, done
    assert [name for name in journals(tmp_path) if "before" in name] == journals(tmp_path) != []
    left = rows(serve(config))             # of a lease that the backup knows, too
    assert [row["outcome"] for row in left if row["model"]] == ["completed"], left
