# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL server of the test's own, from the distribution's programs, in a folder of its own.

    with Postgres() as server:
        server.url                    # postgresql://postgres@127.0.0.1:PORT/postgres
        server.sql("SELECT 1")        # rows as psql prints them, one line each
        server.restart()              # fast; server.end(signal.SIGKILL) and server.start() for the rest
    with Postgres(authority=ca) as server: …      # one that takes callers by TLS only, as localhost
    with Postgres(standby_of=server) as other:    # a replica, which server.promote() makes the primary

It refuses to run as root, so root starts it as the user postgres or nobody. `fsync=True` makes it keep what it
acknowledged even if the machine fails, which tests of this process's own failures do not need.
"""
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path


def find_programs():
    """The folder of the newest version's programs, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4]))
    return found[-1].parent if found else None


def ordinary_user():
    """Who runs it: None for ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("neither postgres nor nobody is a user here")


class Postgres:
    """One server with one cluster. `settings` are more of postgresql.conf's, like max_connections=20; `authority` is a
    trustme.CA."""

    def __init__(self, settings=(), fsync=False, authority=None, standby_of=None):
        self.programs = find_programs()
        assert self.programs, "PostgreSQL is not installed: script/setup test"
        self.user = ordinary_user()
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-postgres-"))
        if self.user:
            os.chown(self.folder, self.user.pw_uid, self.user.pw_gid)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.settings = [f"fsync={'on' if fsync else 'off'}", "listen_addresses=127.0.0.1",
                         "shared_buffers=16MB", *settings]
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self.process = None
        if standby_of:
            self._run("pg_basebackup", "-D", self.folder / "data", "-h", standby_of.folder, "-p", str(standby_of.port),
                      "-U", "postgres", "-R", "-X", "stream", "-c", "fast", "--no-sync")
        else:
            self._run("initdb", "-D", self.folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8",
                      "--locale=C.UTF-8", "--no-sync", "--no-instructions")
        if authority:
            self._speak_tls(authority)
        self.start()

    def _speak_tls(self, authority):
        certificate, key = self.folder / "cert.pem", self.folder / "key.pem"
        issued = authority.issue_cert("localhost")
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        key.chmod(0o600)
        if self.user:
            os.chown(key, self.user.pw_uid, self.user.pw_gid)
        self.settings += ["ssl=on", f"ssl_cert_file={certificate}", f"ssl_key_file={key}"]
        (self.folder / "data/pg_hba.conf").write_text("local all,replication all trust\n"
                                                         "hostssl all sluice all scram-sha-256\nhostssl all all all trust\n")

    def _spawn(self, program, *arguments):
        who = {"user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []} if self.user else {}
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen([self.programs / program, *arguments], stdin=subprocess.DEVNULL,
                                    stdout=log, stderr=log, cwd="/", **who)

    def _run(self, program, *arguments):
        process = self._spawn(program, *arguments)
        assert process.wait(60) == 0, (self.folder / "log").read_text()

    def _is_ready(self):
        try:
            lines = (self.folder / "data/postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return False
        return lines[0] == str(self.process.pid) and len(lines) > 7 and lines[7].startswith("ready")

    def start(self):
        """Start it, again on the same port. Memory that a killed server's children still hold delays it."""
        options = [word for setting in self.settings for word in ("-c", setting)]
        until = time.monotonic() + 30
        while time.monotonic() < until:
            self.process = self._spawn("postgres", "-D", self.folder / "data", "-p", str(self.port),
                                       "-k", self.folder, *options)
            while self.process.poll() is None and time.monotonic() < until:
                if self._is_ready():
                    return
                time.sleep(0.02)
            time.sleep(0.2)
        raise AssertionError((self.folder / "log").read_text())

    def end(self, number=signal.SIGINT):
        """SIGINT is a fast shutdown, SIGQUIT an immediate one, SIGKILL as if the power went."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(30)

    def freeze(self):
        """Stop all of its processes where they are: connections stay, and nobody answers."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self):
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number):
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self.process.send_signal(number)                # first, so that it starts no more of them
        for pid in children.read_text().split():
            try:
                os.kill(int(pid), number)
            except ProcessLookupError:
                pass

    def restart(self):
        """A fast shutdown and a start."""
        self.end()
        self.start()

    @contextmanager
    def commits_unheard(self):
        """A COMMIT is done, and then waits for a standby that there is not: its connection can be killed before it is told."""
        def configure(standby):
            self.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{standby}'")
            self.sql("SELECT pg_reload_conf()")

        configure("nobody")
        self.wait_unheard()
        try:
            yield
        finally:
            configure("")

    def wait_unheard(self):
        """The server takes a new configuration when it gets to it: until a commit waits."""
        waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE 'SELECT pg_logical_emit%'"
        is_waiting = False
        until = time.monotonic() + 30
        while not is_waiting:
            assert time.monotonic() < until, "commits do not wait"
            probe = threading.Thread(target=self.sql, args=("SELECT pg_logical_emit_message(true, 'probe', '')",))
            probe.start()
            while probe.is_alive() and not is_waiting:
                is_waiting = bool(self.sql(f"SELECT 1 {waiting}"))
            self.sql(f"SELECT pg_cancel_backend(pid) {waiting}")
            probe.join()

    def cut_unheard(self, table):
        """Wait for a change of the table that is committed and not told so, and kill its connection."""
        waiting = "FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query = 'COMMIT' AND pid IN " \
                  f"(SELECT pid FROM pg_locks WHERE relation = CAST('{table}' AS regclass))"
        until = time.monotonic() + 30
        while not self.sql(f"SELECT 1 {waiting}"):
            assert time.monotonic() < until, "nothing was committed"
            time.sleep(0.02)
        assert self.sql(f"SELECT pg_terminate_backend(pid) {waiting}") == ["t"]

    def promote(self):
        """Make the primary of a standby."""
        assert self.sql("SELECT pg_promote()") == ["t"]

    def sql(self, text, database="postgres"):
        """Run SQL as its superuser; the rows as lines, columns separated by |."""
        done = subprocess.run([self.programs / "psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h",
                               self.folder, "-p", str(self.port), "-U", "postgres", "-d", database, "-c", text],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def new_database(self, name):
        """An empty database; returns its URL."""
        self.sql(f'CREATE DATABASE "{name}" TEMPLATE template0')
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def close(self):
        """End it and remove its folder."""
        self.end(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
