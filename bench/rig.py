# SPDX-License-Identifier: Apache-2.0
"""What `bench/run` and `bench/soak` share: starting programs, and what the kernel says of them.

Every program started here is one of `Bench.servers` and is ended by `Bench.close`, by its own
process id. All of them listen on 127.0.0.1, on ports below the range that outgoing connections take
theirs from.
"""

import glob
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
BENCH_KEY = "sk-bench-0123456789abcdef"  # as in governed.yaml.in
SPARE_DESCRIPTORS = 200  # of a proxy: listeners, logs, pools, what the libraries open


class BenchError(Exception):
    """The rig itself failed: a program is missing, does not start, or does not end in time."""


def program_find(name):
    """The path of an installed program, looking where administrators' programs are as well."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/sbin")
    if not path:
        raise BenchError(f"{name} is not installed")
    return path


def port_find():
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    for _ in range(200):
        port = random.randrange(12000, 30000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise BenchError("no free port")


def http_get(port, path="/health", timeout=1.0):
    """(status, body) of a GET; raises OSError when there is no answer."""
    with socket.create_connection(("127.0.0.1", port), timeout) as s:
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
        s.sendall(request.encode())
        answer = b""
        while piece := s.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 "):
        raise ConnectionError("no HTTP answer")
    return int(head[9:12]), body


# ---- what the kernel knows of a process ----


def proc_tree(pid):
    """The process and its children, of any depth."""
    pids = [pid]
    for parent in pids:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{task}/children", encoding="ascii") as f:
                    pids += [int(child) for child in f.read().split()]
        except (FileNotFoundError, ProcessLookupError):
            pass
    return pids


def proc_cpu_us(pid):
    """CPU time, user and system, of all threads of the process and its children, in microseconds.

    schedstat counts it in nanoseconds; stat only in ticks of 10 ms, for kernels without. A thread that ends meanwhile is
    left out.
    """
    total = 0.0
    for p in proc_tree(pid):
        for task in glob.glob(f"/proc/{p}/task/*"):
            try:
                total += task_cpu_us(task)
            except (FileNotFoundError, ProcessLookupError):
                pass
    return total


def task_cpu_us(folder):
    if os.path.exists("/proc/self/schedstat"):
        with open(f"{folder}/schedstat", encoding="ascii") as f:
            return int(f.read().split()[0]) / 1000
    with open(f"{folder}/stat", encoding="ascii") as f:
        user, system = f.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) * 1e6 / os.sysconf("SC_CLK_TCK")


def machine_cpu_us():
    """CPU time of this machine that was not idle, with what other machines took of its processors (`steal`)."""
    with open("/proc/stat", encoding="ascii") as f:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, f.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) * 1e6 / os.sysconf("SC_CLK_TCK")


def proc_memory_kib(pid):
    """{"private", "pss"} of the process and its children, in KiB.

    Private is Private_Dirty: what only this process has and the kernel cannot drop. Clean pages of
    libraries would count or not by who else has the same library loaded.
    """
    total = {"private": 0, "pss": 0}
    names = {"Private_Dirty:": "private", "Pss:": "pss"}
    for p in proc_tree(pid):
        with open(f"/proc/{p}/smaps_rollup", encoding="ascii") as f:
            for line in f:
                name = names.get(line.split()[0])
                if name:
                    total[name] += int(line.split()[1])
    return total


def proc_descriptors(pid):
    """Open descriptors of the process and its children."""
    return sum(len(os.listdir(f"/proc/{p}/fd")) for p in proc_tree(pid))


def proc_pin(pid, core):
    """Moves all threads of the process and its children to one core."""
    for p in proc_tree(pid):
        for task in os.listdir(f"/proc/{p}/task"):
            os.sched_setaffinity(int(task), {core})


# ---- servers ----


class Server:
    """A program that listens on `port`, started on one core, with its output in `log`."""

    def __init__(self, name, command, port, core, log):
        self.name, self.command, self.port, self.core, self.log = name, command, port, core, log
        self.process = self.user = None

    @property
    def pid(self):
        return self.process.pid

    def spawn(self):
        """Starts the program without waiting for anything."""
        with open(self.log, "ab") as log:
            before = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {self.core})  # inherited; cheaper than a taskset in between
            try:
                self.process = subprocess.Popen(
                    self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=self.user
                )
            except OSError as e:
                raise BenchError(f"{self.command[0]}: {e.strerror}") from e
            finally:
                os.sched_setaffinity(0, before)

    def answers(self, path):
        """Whether it serves; without a path, whether it listens."""
        if path:
            return http_get(self.port, path)[0] == 200
        with socket.create_connection(("127.0.0.1", self.port), 1):
            return True

    def start(self, path="/health", seconds=10):
        self.spawn()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            try:
                if self.answers(path):
                    return self
            except OSError:
                time.sleep(0.01)
        self.stop()
        raise BenchError(f"{self.name} does not answer; its last words:\n{self.last_words()}")

    def last_words(self):
        text = pathlib.Path(self.log).read_text(errors="replace")
        return "\n".join(text.splitlines()[-10:])

    def stop(self):
        """Ends it: SIGTERM makes nginx and HAProxy leave at once; a drain gets 5 seconds."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(1)
                return
            except subprocess.TimeoutExpired:
                self.process.terminate()  # the second one ends a drain
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Bench:
    """The directory, the cores and the servers of one run. Use as a context manager."""

    def __init__(self, build, sluice=None):
        self.build = pathlib.Path(build)
        self.sluice = sluice
        cores = sorted(os.sched_getaffinity(0))
        self.proxy_core, self.load_core = cores[-1], cores[0]
        self.cores = len(cores)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.descriptors = min(hard, 65536)
        self.streams_max = (self.descriptors - SPARE_DESCRIPTORS) // 2
        self.servers = []
        self.mock = None

    def __enter__(self):
        for name in ("mock_provider", "sse_client", "empty_program"):
            if not (self.build / "bench" / name).exists():
                raise BenchError(f"{self.build}/bench/{name} is missing: build first")
        shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # no disk in what logs cost
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="sluice-bench-", dir=shm))
        for sig in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, lambda *_: (_ for _ in ()).throw(SystemExit(130)))
        os.sched_setaffinity(0, {self.load_core})
        try:
            self.mock = self.mock_start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for server in reversed(self.servers):
            server.stop()
        self.servers.clear()
        shutil.rmtree(self.dir, ignore_errors=True)

    def program(self, name):
        return str(self.build / "bench" / name)

    def mock_start(self):
        port = port_find()
        command = [self.program("mock_provider"), "--port", str(port), "--max-seconds", "7200"]
        server = Server("mock", command, port, self.load_core, self.dir / "mock.log")
        self.servers.append(server)
        return server.start()

    def fill(self, name, port, more=""):
        """Writes bench/NAME.in, and `more`, to the directory with its @WORDS@ replaced."""
        text = (HERE / f"{name}.in").read_text() + more
        words = {
            "DIR": self.dir,
            "HERE": HERE,
            "PORT": port,
            "MOCK": self.mock.port,
            "FILES": self.descriptors,
            "CONNECTIONS": self.descriptors * 9 // 8,
            "STREAMS": self.streams_max + 50,
            "ADMIN": port_find(),
            "USER": "user root;" if os.geteuid() == 0 else "",
        }
        for word, value in words.items():
            text = text.replace(f"@{word}@", str(value))
        path = self.dir / f"{port}-{name}"
        path.write_text(text)
        return str(path)

    def proxy(self, name, program=None, conf="sluice.yaml", more=""):
        """A server for "nginx", "haproxy" or anything else, which is Sluice (or `program`, another build of it), on
        a fresh port, not started yet."""
        port = port_find()
        if name == "nginx":
            command = [
                program_find("nginx"),
                "-p",
                str(self.dir),
                "-c",
                self.fill("nginx.conf", port),
            ]
        elif name == "haproxy":
            command = [program_find("haproxy"), "-db", "-q", "-f", self.fill("haproxy.cfg", port)]
        else:
            command = [program or self.sluice, "serve", "-c", self.fill(conf, port, more)]
        server = Server(name, command, port, self.proxy_core, self.dir / f"{name}.log")
        self.servers.append(server)
        return server

    def others_cpu_us(self):
        """CPU time of the machine that was used by nobody whom this run started."""
        own_us = sum(proc_cpu_us(s.pid) for s in self.servers if s.process and s.process.poll() is None)
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(who)
            own_us += (usage.ru_utime + usage.ru_stime) * 1e6
        return machine_cpu_us() - own_us

    def logs_empty(self):
        """Keeps the directory small: all logs are opened for appending."""
        for log in self.dir.glob("*.log"):
            os.truncate(log, 0)

    def load(self, command, timeout=60):
        """Runs a load program on the load core; its last line of output as JSON."""
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=timeout,
            check=False,
        )
        lines = done.stdout.decode(errors="replace").strip().splitlines()
        if not lines or not lines[-1].startswith("{"):
            raise BenchError(f"{command[0]} failed: {done.stderr.decode(errors='replace').strip()}")
        return json.loads(lines[-1])

    def wrk(self, port, seconds, connections, request_bytes=1024, answer_bytes=1024, caller=()):
        """`caller`: a key, and how many end users it speaks for."""
        return self.load(
            [
                program_find("wrk"),
                "-t1",
                f"-c{connections}",
                f"-d{seconds}s",
                "-s",
                str(HERE / "post.lua"),
                f"http://127.0.0.1:{port}/v1/chat/completions",
                "--",
                str(request_bytes),
                str(answer_bytes),
                *map(str, caller),
            ]
        )

    def sse(self, port, *options):
        return self.load([self.program("sse_client"), "--port", str(port), *map(str, options)])
