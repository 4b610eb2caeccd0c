# SPDX-License-Identifier: Apache-2.0
"""Redis for tests: a real server of their own, a bad line to it, and one that answers by script.

    with Redis() as redis:                   # redis-server on a port and in a folder of its own
        redis.url                            # for redis.url in sluice.yaml
        redis.command("TTL", "x")            # what it answers: int, str, list, None, or an Exception
        redis.freeze(); redis.thaw()         # SIGSTOP, SIGCONT
        redis.kill(); redis.start()          # SIGKILL; again on the same port, empty
    with Redis(tls=authority) as redis: …    # one that speaks nothing but TLS, as localhost; a trustme.CA
    with Sentinels(redis, replica) as sentinels:    # sentinels.url; .fail_over() makes the replica the master;
                                                    # by TLS as the master, and for a `login` (user, password) only
    with Cluster(3) as cluster:              # nodes that share the slots; cluster.nodes, .owner(key), .url
    with Line(redis.port) as line:           # a TCP proxy in front of it
        line.mode = "slow"                   # or pass, garbage, cut, mute; holds for open connections, too
        line.refuse(); line.accept()         # nobody listens; somebody does again
    with ScriptedRedis() as fake:            # says OK to everything, but to scripts what it is told
        fake.answer = b"-BUSY Redis is busy\\r\\n"

The one hard thing is to leave nothing behind: a server dies with the process that started it."""
import ctypes
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from sluice import HANG_GUARD_S

SLOW_S = 0.5
PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None)


def find_server():
    """The program, or None."""
    return shutil.which("redis-server")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Reader:
    """Reads what a Redis says (RESP 2), or the commands that it is sent: they look the same."""

    def __init__(self, sock):
        self.file = sock.makefile("rb")

    def next(self):
        """One answer; ConnectionError at the end."""
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("Redis hung up")
        kind, rest = line[:1], line[1:-2].decode()
        if kind == b"$":
            return None if rest == "-1" else self.file.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return [self.next() for _ in range(int(rest))]
        return int(rest) if kind == b":" else Exception(rest) if kind == b"-" else rest


def command_bytes(args):
    parts = [b"$%d\r\n%s\r\n" % (len(data), data) for data in (str(arg).encode() for arg in args)]
    return b"*%d\r\n" % len(parts) + b"".join(parts)


class Redis:
    """`options` are more arguments of redis-server."""

    def __init__(self, *options, tls=None):
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-redis-"))
        self.port, self.options, self.tls = free_port(), list(map(str, options)), tls is not None
        self.socket_path = self.folder / "socket"
        self.process = None
        if tls:
            self.options += tls_options(tls, self.folder)
        self.start()

    @property
    def url(self):
        return f"redis{'s' * self.tls}://{'localhost' if self.tls else '127.0.0.1'}:{self.port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        shutil.rmtree(self.folder)

    def start(self):
        listen = ["--port", "0", "--tls-port"] if self.tls else ["--port"]
        self.process = subprocess.Popen(
            ["redis-server", *listen, str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
             "--repl-diskless-sync-delay", "0", "--unixsocket", str(self.socket_path), "--dir", str(self.folder), *self.options],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
        end = time.monotonic() + HANG_GUARD_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                assert self.command("PING") == "PONG"
                return
            except OSError:
                time.sleep(0.02)
        raise AssertionError("redis-server does not start")

    def command(self, *args):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(HANG_GUARD_S)
            sock.connect(str(self.socket_path))
            sock.sendall(command_bytes(args))
            return Reader(sock).next()

    def freeze(self):
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.socket_path.unlink(missing_ok=True)


def tls_options(authority, folder):
    issued = authority.issue_cert("localhost", "127.0.0.1")
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(folder / "key.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return ["--tls-cert-file", str(folder / "cert.pem"), "--tls-key-file", str(folder / "key.pem"),
            "--tls-ca-cert-file", str(folder / "ca.pem"), "--tls-auth-clients", "no", "--tls-replication", "yes"]


def await_true(condition, what):
    end = time.monotonic() + HANG_GUARD_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


class Sentinels:
    """Sentinels over a master and its replica, called "limits"."""

    def __init__(self, master, replica, count=3, login=None):
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-sentinel-"))
        self.master, self.replica, self.processes, self.login = master, replica, [], login
        self.ports = [free_port() for _ in range(count)]
        assert replica.command("REPLICAOF", "127.0.0.1", master.port) == "OK"
        await_true(lambda: "master_link_status:up" in replica.command("INFO", "replication"), "no replication")
        for port in self.ports:
            self._start(port)
        await_true(lambda: all(self._knows_all(port) for port in self.ports), "the sentinels do not meet")

    @property
    def url(self):
        return f"redis{'s' * self.master.tls}+sentinel://" + ",".join(f"127.0.0.1:{port}" for port in self.ports) + "/limits"

    def _start(self, port):
        (self.folder / str(port)).mkdir()
        path = self.folder / str(port) / "sentinel.conf"
        tls = [option.removeprefix("--") for option in self.master.options] if self.master.tls else []
        ports = ["port 0", f"tls-port {port}", *map(" ".join, zip(tls[::2], tls[1::2]))] if tls else [f"port {port}"]
        login = ["user default off", "user {} on >{} allchannels +@all".format(*self.login)] if self.login else []
        path.write_text("\n".join([*ports, *login, "bind 127.0.0.1", f"dir {path.parent}",
                                   f"sentinel monitor limits 127.0.0.1 {self.master.port} {len(self.ports) // 2 + 1}",
                                   # not so few that a busy machine looks dead: they would change the master by themselves
                                   "sentinel down-after-milliseconds limits 2000",
                                   "sentinel failover-timeout limits 3000", ""]))
        self.processes.append(subprocess.Popen(
            ["redis-server", path, "--sentinel"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)))

    def ask(self, port, *args):
        with socket.create_connection(("127.0.0.1", port), HANG_GUARD_S) as sock:
            if self.master.tls:
                sock = ssl.create_default_context(cafile=self.master.folder / "ca.pem").wrap_socket(
                    sock, server_hostname="localhost")
            reader = Reader(sock)
            if self.login:
                sock.sendall(command_bytes(("AUTH", *self.login)))
                assert reader.next() == "OK"
            sock.sendall(command_bytes(args))
            return reader.next()

    def _knows_all(self, port):
        try:
            answer = self.ask(port, "SENTINEL", "MASTER", "limits")
        except OSError:
            return False
        about = dict(zip(answer[::2], answer[1::2]))
        return (about["num-other-sentinels"], about["num-slaves"], about["flags"]) == (
            str(len(self.ports) - 1), "1", "master")

    def master_port(self):
        """Whom most of them call the master."""
        ports = [int(self.ask(port, "SENTINEL", "get-master-addr-by-name", "limits")[1]) for port in self.ports]
        return max(set(ports), key=ports.count)

    def fail_over(self):
        """As an administrator would; returns when the replica is the master for them."""
        assert self.ask(self.ports[0], "SENTINEL", "FAILOVER", "limits") == "OK"
        self.wait_switched()

    def wait_switched(self):
        await_true(lambda: self.master_port() == self.replica.port, "no switch")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()
        shutil.rmtree(self.folder)


class Cluster:
    """Masters that share the slots evenly, and as many `replicas`, the first of which follows the first master."""

    def __init__(self, masters, replicas=0, tls=None, options=()):
        self.nodes = []
        try:
            for _ in range(masters + replicas):
                self.nodes.append(self._node(tls, options))
            self._meet(masters)
        except BaseException:
            self.__exit__()
            raise

    def _node(self, tls, options):
        bus = free_port()
        more = ["--tls-cluster", "yes"] if tls else []
        node = Redis("--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", 1000,
                     "--cluster-replica-validity-factor", 0, *more, *options, tls=tls)
        node.bus = bus
        return node

    def _meet(self, masters):
        first = self.nodes[0]
        for i, node in enumerate(self.nodes):
            assert node.command("CLUSTER", "SET-CONFIG-EPOCH", i + 1) == "OK"
            if i < masters:
                low, high = i * 16384 // masters, (i + 1) * 16384 // masters - 1
                assert node.command("CLUSTER", "ADDSLOTSRANGE", low, high) == "OK"
            assert node is first or node.command("CLUSTER", "MEET", "127.0.0.1", first.port, first.bus) == "OK"
        self.wait_whole()
        for master, replica in zip(self.nodes, self.nodes[masters:]):
            assert replica.command("CLUSTER", "REPLICATE", self.id(master)) == "OK"
            await_true(lambda: "master_link_status:up" in replica.command("INFO", "replication"), "no replication")

    def wait_whole(self):
        """Until all know all and every slot is served."""
        count = f"cluster_known_nodes:{len(self.nodes)}\r\n"
        await_true(lambda: all("cluster_state:ok" in about and count in about for about in
                               (node.command("CLUSTER", "INFO") for node in self.nodes)), "the nodes do not meet")

    def id(self, node):
        return node.command("CLUSTER", "MYID")

    def owner(self, key):
        """The node that has a key's slot by its own account."""
        slot = self.nodes[0].command("CLUSTER", "KEYSLOT", key)
        for node in self.nodes:
            for low, high, master, *_ in node.command("CLUSTER", "SLOTS") if node.process.poll() is None else ():
                if low <= slot <= high and master[2] == self.id(node):
                    return node
        raise AssertionError(f"nobody has the slot {slot}")

    @property
    def url(self):
        """Of the first node alone: the others are found."""
        return self.nodes[0].url.replace("://", "+cluster://")

    def keys(self):
        return [key for node in self.nodes for key in node.command("KEYS", "sluice:limit:*")]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for node in self.nodes:
            node.__exit__()


class Listener:
    """Accepts connections on `port` and serves each in a thread."""

    def __init__(self):
        self.port, self.socks, self.listener = free_port(), [], None
        self.accept()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.refuse()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def accept(self):
        self.listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def _accept(self, listener):
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            self.socks.append(sock)
            threading.Thread(target=self._guard, args=(sock,), daemon=True).start()

    def _guard(self, sock):
        try:
            self.serve(sock)
        except OSError:
            pass
        end(sock)

    def refuse(self):
        """No more connections, and an end to those there are."""
        for sock in (self.listener, *self.socks):
            end(sock)
        self.socks.clear()


def end(sock):
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    sock.close()


class Line(Listener):
    """A TCP proxy; `mode` says what becomes of Redis' answers."""

    def __init__(self, port):
        self.redis_port, self.mode = port, "pass"
        super().__init__()

    def serve(self, sock):
        redis = socket.create_connection(("127.0.0.1", self.redis_port))
        self.socks.append(redis)
        threading.Thread(target=self._answer, args=(redis, sock), daemon=True).start()
        while data := sock.recv(65536):
            redis.sendall(data)
        end(redis)

    def _answer(self, redis, sock):
        try:
            while data := redis.recv(65536):
                self._pass_on(sock, data)
        except OSError:
            pass
        end(sock)

    def _pass_on(self, sock, data):
        if self.mode == "slow":
            time.sleep(SLOW_S)
        if self.mode == "garbage":
            data = b"HTTP/1.1 200 OK\r\n\r\n"
        if self.mode == "cut":
            sock.sendall(data[:len(data) // 2])
            end(sock)
        elif self.mode != "mute":
            sock.sendall(data)


class ScriptedRedis(Listener):
    """Every server that refuses: `answer` is what scripts get, `greeting` all other commands."""

    def __init__(self):
        self.answer = self.greeting = b"+OK\r\n"
        super().__init__()

    def serve(self, sock):
        reader = Reader(sock)
        while True:
            name = reader.next()[0].upper()
            sock.sendall(self.answer if name.startswith("EVAL") else self.greeting)
