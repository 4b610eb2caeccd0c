# SPDX-License-Identifier: Apache-2.0
"""Redis for tests: a real server of their own, a bad line to it, and one that answers by script.

    with Redis() as redis:                   # redis-server on a port and in a folder of its own
        redis.url                            # for redis.url in sluice.yaml
        redis.command("TTL", "x")            # what it answers: int, str, list, None, or an Exception
        redis.freeze(); redis.thaw()         # SIGSTOP, SIGCONT
        redis.kill(); redis.start()          # SIGKILL; again on the same port, empty
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
    """`options` are more arguments of redis-server; `tls` means the port speaks nothing but TLS."""

    def __init__(self, *options, tls=False):
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-redis-"))
        self.port, self.options, self.tls = free_port(), list(map(str, options)), tls
        self.socket_path = self.folder / "socket"
        self.process = None
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
             "--unixsocket", str(self.socket_path), "--dir", str(self.folder), *self.options],
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
