# SPDX-License-Identifier: Apache-2.0
"""The store as operators meet it: it outlives the program however that ends, is copied while in use,
is put back, and is refused with a reason when it is not what it should be."""
import json
import os
import signal
import sqlite3
import subprocess
import time

import pytest

from command import run
from raw_http import RawClient
from sluice import find_binary

JSON = [("Content-Type", "application/json")]


def admin(server, method, target, body=None):
    with RawClient(server.admin_port) as client:
        return client.request(method, target, body, JSON if body is not None else ())


def names(server):
    answer = admin(server, "GET", "/admin/orgs?limit=1000")
    assert answer.status == 200, answer
    return {org["name"] for org in answer.json["data"]}


def create(server, name):
    answer = admin(server, "POST", "/admin/orgs", {"name": name})
    assert answer.status in (200, 201), answer


def backup(server, path):
    return run("backup", "--url", f"http://127.0.0.1:{server.admin_port}", path,
               directory=server.directory)


def store_at(folder):
    return f"store: 'sqlite:{folder}/kept/sluice.db'\n"


def refused(folder, text=""):
    """What a server says that does not start on this store."""
    config = folder / "refused.yaml"
    config.write_text(store_at(folder) + "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\n" + text)
    done = run("serve", "-c", config, directory=folder)
    assert done.returncode == 1, done.stderr
    return done.stderr.strip().split("\n")[-1]


# ---- it stays ----

def test_what_was_acknowledged_outlives_sigkill(sluice, tmp_path):
    for turn in range(3):
        server = sluice(store_at(tmp_path))
        assert {f"org-{n}" for n in range(turn)} <= names(server)
        create(server, f"org-{turn}")
        server.kill()
    assert {"org-0", "org-1", "org-2"} <= names(sluice(store_at(tmp_path)))


def test_store_is_private(sluice, tmp_path):
    sluice(store_at(tmp_path))
    for name in os.listdir(tmp_path / "kept"):
        assert os.stat(tmp_path / "kept" / name).st_mode & 0o077 == 0, name


# ---- copies ----

def test_backup_and_restore(sluice, tmp_path):
    server = sluice(store_at(tmp_path))
    create(server, "before")
    copy = tmp_path / "copy.db"
    done = backup(server, copy)
    assert (done.returncode, done.stdout) == (0, f"{copy}\n"), done.stderr
    create(server, "after")

    busy = run("restore", "-c", server.config_path, copy, directory=tmp_path)
    assert busy.returncode == 1 and f"process {server.process.pid}" in busy.stderr
    server.stop()
    done = run("restore", "-c", server.config_path, copy, directory=tmp_path)
    assert done.returncode == 0, done.stderr
    kept = done.stdout.strip().rpartition(" ")[2]
    assert sqlite3.connect(kept).execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    found = names(sluice(store_at(tmp_path)))
    assert "before" in found and "after" not in found


def test_backup_by_a_relative_name_lands_where_the_command_is(sluice, tmp_path):
    server = sluice(store_at(tmp_path))
    assert backup(server, "mine.db").stdout == f"{server.directory}/mine.db\n"
    again = backup(server, "mine.db")
    assert again.returncode == 1 and "exists already" in again.stderr


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("how", ["its command is interrupted", "the server stops"])
def test_backup_that_nobody_waits_for_ends(sluice, tmp_path, how):
    file, copy = stopped(sluice, tmp_path), tmp_path / "copy.db"
    with sqlite3.connect(file) as db:  # some seconds of checking
        db.execute("CREATE TABLE bulk AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE "
                   "n < 3000000) SELECT n * 7919 % 3000017 AS a, n * 104729 % 3000017 AS b FROM c")
        for column in "ab":
            db.execute(f"CREATE INDEX bulk_{column} ON bulk ({column})")
    db.close()
    partial, size = tmp_path / "copy.db.partial", file.stat().st_size
    server = sluice(store_at(tmp_path) + "drain: {timeout: 100ms}\n")
    command = subprocess.Popen([find_binary(), "backup", "--url", f"http://127.0.0.1:{server.admin_port}", copy],
                               cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: partial.exists() and partial.stat().st_size >= size)
    began = time.monotonic()
    if how == "the server stops":
        server.stop()
        assert command.wait(20) != 0
    else:
        command.send_signal(signal.SIGINT)
        command.wait(20)
    wait_for(lambda: not partial.exists())
    assert time.monotonic() - began < 1.5
    assert not copy.exists()


@pytest.mark.parametrize("body", [{}, {"path": 1}, {"path": "relative.db"}, {"path": "/"},
                                  {"path": "/tmp/x.db", "more": 1}, ["/tmp/x.db"],
                                  {"path": "/tmp/a\u0000b"}], ids=json.dumps)
def test_wrong_backups_are_refused(sluice, tmp_path, body):
    answer = admin(sluice(store_at(tmp_path)), "POST", "/admin/backup", body)
    assert answer.status == 400, answer


@pytest.mark.parametrize("words", [["backup"], ["backup", "a", "b"], ["backup", "--url"],
                                   ["restore"], ["restore", "a", "b"], ["restore", "-c"]],
                         ids=" ".join)
def test_wrong_use_is_explained(tmp_path, words):
    done = run(*words, directory=tmp_path)
    assert done.returncode == 2 and f"Try: sluice help {words[0]}" in done.stderr


# ---- it is refused ----

def test_second_server_on_a_file_is_refused(sluice, tmp_path):
    server = sluice(store_at(tmp_path))
    assert f"in use by another Sluice (process {server.process.pid})" in refused(tmp_path)
    create(server, "still-works")


def stopped(sluice, tmp_path, signal_number=signal.SIGTERM):
    server = sluice(store_at(tmp_path))
    create(server, "one")
    if signal_number == signal.SIGKILL:
        server.kill()
    else:
        server.stop()
    return tmp_path / "kept/sluice.db"


def test_newer_schema_is_refused(sluice, tmp_path):
    path = stopped(sluice, tmp_path)
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO schema_migrations VALUES (999, '999-future', 0)")
    assert "newer schema (999-future)" in refused(tmp_path)


def test_damaged_files_are_refused(sluice, tmp_path):
    path = stopped(sluice, tmp_path)
    whole = path.read_bytes()
    for damaged, text in ((whole[:5000], "sluice restore"), (b"", "was in use"),
                          (b"#!/bin/sh\n" * 900, "not a database")):
        path.write_bytes(damaged)
        assert text in refused(tmp_path)
    path.write_bytes(whole)
    assert "one" in names(sluice(store_at(tmp_path)))


def test_missing_log_is_noticed(sluice, tmp_path):
    path = stopped(sluice, tmp_path, signal.SIGKILL)
    log = path.with_name("sluice.db-wal")
    saved = log.read_bytes()
    log.unlink()
    assert "its log" in refused(tmp_path)
    log.write_bytes(saved)
    assert "one" in names(sluice(store_at(tmp_path)))


def test_wrong_addresses_are_configuration_errors(tmp_path):
    assert find_binary()
    config = tmp_path / "wrong.yaml"
    config.write_text("store: 'mysql://localhost/x'\n")
    done = run("serve", "-c", config, directory=tmp_path)
    assert done.returncode == 78 and "store" in done.stderr
