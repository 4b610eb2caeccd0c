# SPDX-License-Identifier: Apache-2.0
"""Servers whose store is PostgreSQL: two that share it, one that loses it and finds it again, what TLS keeps out, and
addresses with several hosts."""
import contextlib
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import trustme

from caller import CHAT, STREAM, ask, ask_stream
from command import run
from fake_provider import chat
from postgres import Postgres, find_programs
from sluice import BUSY_S, provider_config
from tenants import CONFIG, Api, bearer, send

pytestmark = pytest.mark.skipif(not find_programs(), reason="PostgreSQL is not installed")
PATIENCE_S = 20


@pytest.fixture
def postgres():
    with Postgres() as server:
        yield server


def config(postgres, provider, url=None):
    return f"store: {url or postgres.url}\npostgresql: {{connections: 4}}\n{CONFIG}{provider_config(provider)}"


def until(condition):
    """Wait for what must come soon; returns the seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + PATIENCE_S, "it has not come"
        time.sleep(0.05)
    return time.monotonic() - began


def status(server, key):
    return ask(server, CHAT, bearer(key)).status


def test_servers_share_keys(postgres, sluice, provider):
    one, two = sluice(config(postgres, provider)), sluice(config(postgres, provider))
    key = Api(one).make("keys", name="shared", project="default")
    until(lambda: status(two, key["key"]) == 200)
    Api(two).remove("keys", key["id"])
    until(lambda: status(one, key["key"]) == 401)


def test_a_server_that_gives_few_connections_is_not_away(postgres, sluice, provider):
    """Who finds none waits for one that there is; the log says what is short; and a restart is waited for as ever."""
    postgres.sql("CREATE ROLE few LOGIN CONNECTION LIMIT 3")
    postgres.sql("CREATE DATABASE few OWNER few")
    url = f"postgresql://few@127.0.0.1:{postgres.port}/few"
    server = sluice(config(postgres, provider, url).replace("connections: 4", "connections: 8"))
    api = Api(server)

    def make(number=0):
        return api.call("POST", "/admin/projects", {"name": f"p{number}"}).status

    def is_told():
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(make, range(40))) == {201}
        return server.log_lines("PostgreSQL gives no more connections: those that there are must do")

    until(is_told)
    assert not server.log_lines("the store is away")
    time.sleep(2.5)                                        # longer than a restart is waited for
    postgres.end()
    again = threading.Timer(0.5, postgres.start)
    again.start()
    try:
        assert make() == 201
    finally:
        again.join()


def test_who_hears_other_servers_has_a_connection_before_those_that_rest(postgres, sluice, provider):
    """Of a server that gives few, calls may have taken all while it was cut off; theirs are kept for minutes."""
    postgres.sql("CREATE ROLE few LOGIN CONNECTION LIMIT 3")
    postgres.sql("CREATE DATABASE few OWNER few")
    url = f"postgresql://few@127.0.0.1:{postgres.port}/few"
    server = sluice(config(postgres, provider, url))
    mine = "FROM pg_stat_activity WHERE usename = 'few'"

    def count(what):
        return int(postgres.sql(f"SELECT count(*) {mine} AND query {what} 'LISTEN %'")[0])

    def make(number):
        return Api(server).call("POST", "/admin/projects", {"name": f"p{number}"}).status

    def takes_all():
        postgres.sql(f"SELECT pg_terminate_backend(pid) {mine} AND query LIKE 'LISTEN %'")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(make, range(40)))
        return count("NOT LIKE") == 3

    until(takes_all)
    until(lambda: count("LIKE") == 1)
    assert make("later") == 201


def test_connections_that_rest_stay(sluice, provider):
    """Of a server that cuts off who does so; else changes of other processes would not be heard meanwhile."""
    with Postgres(settings=["idle_session_timeout=500ms"]) as postgres:
        server = sluice(config(postgres, provider))
        listens = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN %'"
        before = postgres.sql(listens)
        time.sleep(1.5)
        assert postgres.sql(listens) == before and before
        assert not server.log_lines("postgresql")


def test_what_fails_while_the_store_is_away_is_said_once(postgres, sluice, provider):
    """And not at every call that finds no credit."""
    server = sluice(config(postgres, provider) + "budgets: {per_project: {tokens: 100000/day}, max_tokens: 10}\n")
    key = Api(server).make("keys", name="kept", project="default")
    postgres.end()
    server.wait_log("the store is away")
    until(lambda: status(server, key["key"]) == 503)
    for _ in range(30):
        assert status(server, key["key"]) == 503
    errors = [line["msg"] for line in server.log_lines() if line["level"] == "error"]
    assert len(errors) < 10, errors
    postgres.start()
    until(lambda: status(server, key["key"]) == 200)


def test_a_server_lives_through_a_restart_of_its_store(postgres, sluice, provider):
    server = sluice(config(postgres, provider))
    api = Api(server)
    key = api.make("keys", name="kept", project="default")
    assert status(server, key["key"]) == 200
    postgres.end()
    server.wait_log("the store is away")
    assert status(server, key["key"]) == 200              # what is known stays known

    def is_refused_at_once():                              # it is taken for a restart at first, and waited for
        began = time.monotonic()
        assert api.call("POST", "/admin/keys", {"name": "late", "project": "default"}).status == 503
        return time.monotonic() - began < 1

    until(is_refused_at_once)
    postgres.start()
    server.wait_log("the store is there again")
    api.make("keys", name="later", project="default")
    assert status(server, key["key"]) == 200


@pytest.mark.parametrize("outage", ["down", "frozen"])
def test_rows_of_an_outage_outlive_a_stop(postgres, sluice, provider, tmp_path, outage):
    """It ends in time and well, says why it could not write, and the next start enters every row once."""
    def start():
        return sluice(f"data_dir: {tmp_path}\n" + config(postgres, provider))

    server = start()
    key = Api(server).make("keys", name="kept", project="default")["key"]
    assert status(server, key) == 200
    until(lambda: postgres.sql("SELECT count(*) FROM ledger") == ["1"])
    if outage == "down":
        postgres.end()
        server.wait_log("the store is away")
    else:
        postgres.freeze()
    for number in range(3):
        assert ask(server, CHAT, bearer(key), id=f"whole-{number}").status == 200
        assert b"[DONE]" in ask_stream(server, STREAM, bearer(key), id=f"stream-{number}")
    began = time.monotonic()
    server.stop()
    took_s = time.monotonic() - began
    assert took_s < 15 + BUSY_S, took_s
    assert server.log_lines("rows of the ledger wait in the journal for the next start", rows=6)
    reasons = [line["text"] for line in server.log_lines() if line["level"] == "error"]
    assert reasons and all("PostgreSQL" in reason or "the time to clean up is over" in reason for reason in reasons), reasons
    if outage == "down":
        postgres.start()
    else:
        postgres.thaw()
    for _ in range(2):
        start().stop()
        rows = postgres.sql("SELECT request_id, outcome, input > 0, output > 0 FROM ledger WHERE request_id LIKE '%-%'")
        assert sorted(rows) == sorted(f"{kind}-{number}|completed|t|t" for kind in ("whole", "stream") for number in range(3))


# ---- TLS ----

@pytest.fixture(scope="module")
def by_tls(tmp_path_factory):
    """A server that takes nobody without TLS, and the files of its authority and of another one."""
    folder, authority = tmp_path_factory.mktemp("ca"), trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    with Postgres(authority=authority) as server:
        server.folder_of_ca = folder
        yield server


def refusal(url, folder):
    """What a server says that does not start with this store."""
    (folder / "sluice.yaml").write_text(f"store: {url}\nlisten: 127.0.0.1:0\nadmin: 127.0.0.1:0\n")
    done = run("serve", "-c", "sluice.yaml", directory=folder)
    assert done.returncode == 1, done.stderr
    return done.stderr.strip().split("\n")[-1]


def test_a_server_by_tls_with_the_authority_of_a_file(by_tls, sluice, provider):
    url = f"postgresql://postgres@localhost:{by_tls.port}/postgres?sslmode=verify-full" \
          f"&sslrootcert={by_tls.folder_of_ca}/ca.pem"
    server = sluice(config(by_tls, provider, url))
    key = Api(server).make("keys", name="kept", project="default")
    assert status(server, key["key"]) == 200
    used = by_tls.sql("SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'sluice'")
    assert used and set(used) == {"t"}
    big = "x" * 100                        # answers of many TLS records come whole
    for _ in range(120):
        Api(server).make("projects", name=big)
    assert len(Api(server).list("projects", "?limit=1000")) >= 120
    by_tls.restart()
    until(lambda: Api(server).call("POST", "/admin/projects", {"name": "later"}).status == 201)


@pytest.mark.parametrize("host,options,said", [
    ("localhost", "sslmode=verify-full&sslrootcert={}/other.pem",
     "certificate verify failed: its certificate is not of an authority in the file that sslrootcert names"),
    ("localhost", "sslmode=verify-full&sslrootcert={}/none.pem", "name the file of the server's authority: sslrootcert="),
    ("localhost", "sslmode=verify-full", "name the file of the server's authority: sslrootcert="),
    ("127.0.0.1", "sslmode=verify-full&sslrootcert={}/ca.pem", 'does not match host name "127.0.0.1"'),
    ("localhost", "sslmode=disable", "no encryption: the server wants TLS: sslmode=verify-full"),
], ids=["another-authority", "no-such-file", "no-file", "another-name", "no-tls"])
def test_tls_that_is_not_right_is_refused_with_a_reason(by_tls, tmp_path, host, options, said):
    text = refusal(f"postgresql://postgres@{host}:{by_tls.port}/postgres?" + options.format(by_tls.folder_of_ca), tmp_path)
    assert said in text, text


# ---- several hosts ----

def hosts(*ports):
    return f"postgresql://postgres@{','.join(f'127.0.0.1:{port}' for port in ports)}/postgres" \
           "?target_session_attrs=read-write"


@pytest.mark.parametrize("kind", ["refuses", "is-mute"])
def test_the_second_host_is_used_when_the_first_is_down(postgres, sluice, provider, kind):
    with socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        if kind == "is-mute":
            first.listen()
        server = sluice(config(postgres, provider, hosts(first.getsockname()[1], postgres.port)))
        key = Api(server).make("keys", name="kept", project="default")
        assert status(server, key["key"]) == 200


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=["handed-over", "killed"])
def test_the_primary_changes_while_serving(sluice, provider, end):
    """What was acknowledged and replicated is there, who is known is served all the time, and changes go on with the
    new primary. A standby that stands first in the address is passed over."""
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(Postgres())
        new = stack.enter_context(Postgres(standby_of=old))
        server = sluice(config(old, provider, hosts(new.port, old.port)))
        api = Api(server)
        key = api.make("keys", name="kept", project="default")
        there, = old.sql("SELECT pg_current_wal_lsn()")
        until(lambda: new.sql(f"SELECT pg_last_wal_replay_lsn() >= '{there}'") == ["t"])
        old.end(end)
        server.wait_log("the store is away")
        assert status(server, key["key"]) == 200
        assert api.call("POST", "/admin/projects", {"name": "too early"}).status == 503
        new.promote()
        took_s = until(lambda: api.call("POST", "/admin/projects", {"name": "later"}).status == 201)
        assert took_s < 5 + BUSY_S, took_s
        server.wait_log("the store is there again")
        assert status(server, key["key"]) == 200
        assert new.sql("SELECT count(*) FROM projects WHERE name = 'later'") == ["1"]
        server.stop()


def test_rows_have_their_names_after_a_standby_that_was_behind_took_over(sluice, provider):
    """What the primary alone knew is lost, which the log says; what comes later is all there, for the same model, too."""
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(Postgres())
        new = stack.enter_context(Postgres(standby_of=old))
        server = sluice(config(old, provider, hosts(old.port, new.port)))
        key = Api(server).make("keys", name="kept", project="default")["key"]

        def use(*models):
            for model in models:
                assert ask(server, CHAT | {"model": model}, bearer(key)).status == 200

        use("known", "known")
        until(lambda: old.sql("SELECT count(*) FROM ledger") == ["2"])
        written, = old.sql("SELECT pg_current_wal_lsn()")
        until(lambda: new.sql(f"SELECT pg_last_wal_replay_lsn() >= '{written}'") == ["t"])
        new.end()
        use("lost")
        until(lambda: old.sql("SELECT count(*) FROM ledger") == ["3"])
        old.end(signal.SIGKILL)
        new.start()
        new.promote()
        until(lambda: Api(server).call("POST", "/admin/projects", {"name": "later"}).status == 201)
        use("lost", "known")
        until(lambda: new.sql("SELECT count(*) FROM ledger_rows") == ["4"])
        assert sorted(new.sql("SELECT model FROM ledger")) == ["known"] * 3 + ["lost"]
        assert server.log_lines("the store does not know all rows of the ledger that it had committed")


def test_credit_that_a_standby_which_was_behind_does_not_know_is_not_spent(sluice, provider):
    """A lease that the primary alone knew is lost with it, and the whole budget may be leased by another server: the one
    that has it in memory notices, without asking or being asked, and no more is spent than the budget has."""
    cost, cap = 50, 4000
    provider.default = chat(" ".join("abcdefghij"), prompt_tokens=cost - 10)
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(Postgres())
        new = stack.enter_context(Postgres(standby_of=old))
        text = config(old, provider, hosts(old.port, new.port)) + "budgets: {lease: 50%, max_tokens: 10}\n"
        one, two = sluice(text), sluice(text)
        project = Api(one).make("projects", name="p", org="default", budgets={"tokens": [f"{cap}/day"]})["id"]
        key = Api(one).make("keys", name="k", project=project)["key"]
        until(lambda: send(two.port, "GET", "/v1/models", None, bearer(key)).status == 200)
        written, = old.sql("SELECT pg_current_wal_lsn()")
        until(lambda: new.sql(f"SELECT pg_last_wal_replay_lsn() >= '{written}'") == ["t"])
        new.end()
        assert status(one, key) == 200
        until(lambda: old.sql("SELECT spent, leased > 1500 FROM budget_periods") == [f"{cost}|t"])
        old.end(signal.SIGKILL)
        new.start()
        new.promote()
        for server in (one, two):
            until(lambda: Api(server).call("POST", "/admin/projects", {"name": "later"}).status == 201)
        one.wait_log("the store does not know credit that it had leased: it is not spent")
        before = len(provider.requests)
        for server in (two, one):
            until(lambda: status(server, key) == 429)
        assert 0 <= cap - cost * (len(provider.requests) - before) < 300
        until(lambda: new.sql("SELECT spent FROM budget_periods") == [str(cost * (len(provider.requests) - before))])
