# SPDX-License-Identifier: Apache-2.0
"""The real program as a test sees it: started with a configuration, watched, stopped clean.

    server = Sluice(config_text, directory)     # returns when every listener is bound
    server.port, server.admin_port              # ports chosen by the kernel
    server.log_lines()                          # what it logged so far, as dicts
    server.wait_log("listening", **{"for": "admin"})   # the first line like this, or fails
    server.stop()                               # SIGTERM; asserts exit 0 and clean sanitizers

The program is $SLUICE_BIN, else build-address/sluice, else build/sluice. A configuration that
names no `listen`, `admin` or `data_dir` gets ephemeral loopback ports and a private directory.
The one hard thing is what must hold at the end of every test: the process left by itself, with
the exit status the test expects, and no sanitizer wrote a report.
"""
import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HANG_GUARD_S = float(os.environ.get("E2E_HANG_GUARD", "60"))
# What a busy machine may add to a time that is promised.
BUSY_S = 4
REPORTS = re.compile(r"AddressSanitizer|LeakSanitizer|ThreadSanitizer|MemorySanitizer|"
                     r"runtime error:|check failed")
# One attempt, so that a test sees each failure: those about another try say so.
DEFAULTS = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "retry": "{attempts: 1}"}


def find_binary():
    """The program under test, or None when nothing is built."""
    named = os.environ.get("SLUICE_BIN")
    places = [Path(named)] if named else [ROOT / "build-address/sluice", ROOT / "build/sluice"]
    return next((str(place) for place in places if place.exists()), None)


def provider_config(provider, name="fake", extra=""):
    """Configuration lines that make a fake provider the default one. `extra` goes into its
    flow mapping, e.g. ", stream_usage: false"."""
    return (f'providers:\n  {name}: {{kind: openai, url: "{provider.url}", '
            f'key: "sk-provider-key"{extra}}}\ndefault_provider: {name}\n')


class Sluice:
    """One running `sluice serve`. `arguments` follow the configuration on the command line,
    `environment` is added to a small clean one, `wait=False` returns before it listens."""

    def __init__(self, config_text, directory, arguments=(), environment=None, wait=True):
        self.directory = Path(directory)
        self.config_path = self.directory / "sluice.yaml"
        self.stdout, self.stderr = [], []
        self._news = threading.Condition()
        self._open_pipes = 2
        self.left = False                  # the test has seen it leave
        self.write_config(config_text)
        binary = find_binary()
        assert binary, "no sluice to test: run make, or set SLUICE_BIN"
        self.process = subprocess.Popen(
            [binary, "serve", "-c", str(self.config_path), *arguments], cwd=self.directory,
            env=clean_environment(self.directory, environment), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for pipe, lines in ((self.process.stdout, self.stdout), (self.process.stderr, self.stderr)):
            threading.Thread(target=self._collect, args=(pipe, lines), daemon=True).start()
        self.listeners = []                # [(for, address)] in the order of the log
        if wait:
            self.wait_listening()

    # ---- configuration ----

    def write_config(self, text):
        """Write the configuration file anew; `reload` makes the program read it."""
        lines = [f"{key}: {value}" for key, value in DEFAULTS.items() if not has_key(text, key)]
        if not has_key(text, "data_dir"):
            lines.append(f"data_dir: {json.dumps(str(self.directory / 'data'))}")
        elif not has_key(text, "store"):    # a folder with a model is shared by many servers
            lines.append(f"store: {json.dumps(f'sqlite:{self.directory}/sluice.db')}")
        self.config_path.write_text("\n".join(lines) + "\n" + text)

    def reload(self):
        """SIGHUP. Whether it worked is in the log."""
        self.process.send_signal(signal.SIGHUP)

    # ---- listeners ----

    def wait_listening(self):
        """Wait until every listener that the configuration asks for is bound."""
        for purpose in ("public", "admin"):
            self.wait_log("listening", **{"for": purpose})
        self.listeners = [(line["for"], line["address"]) for line in self.log_lines("listening")]

    def address(self, purpose):
        """The first address of the "public" or "admin" listener, e.g. "127.0.0.1:41234"."""
        return next(address for kind, address in self.listeners if kind == purpose)

    @property
    def port(self):
        return int(self.address("public").rpartition(":")[2])

    @property
    def admin_port(self):
        return int(self.address("admin").rpartition(":")[2])

    @property
    def url(self):
        """The base URL for an SDK."""
        return f"http://127.0.0.1:{self.port}/v1"

    # ---- log ----

    def log_lines(self, msg=None, **fields):
        """Logged objects so far; with arguments only those whose members are equal."""
        with self._news:
            return self._matching(msg, fields)

    def wait_log(self, msg=None, count=1, timeout_s=HANG_GUARD_S, **fields):
        """Wait for the count-th line with these members and return it."""
        def look():
            found = self._matching(msg, fields)
            return found[count - 1] if len(found) >= count else None

        return self._wait_for(look, f"logging {msg} {fields}", timeout_s)

    def wait_text(self, pattern):
        """Wait for a line of its standard error with this pattern and return the match."""
        return self._wait_for(lambda: re.search(pattern, "\n".join(self.stderr)), f"saying {pattern}")

    def _wait_for(self, look, what, timeout_s=HANG_GUARD_S):
        """Wait until there is something to see, and return it."""
        end = time.monotonic() + timeout_s
        with self._news:
            while not (found := look()):
                ended = self._open_pipes == 0
                assert not ended and time.monotonic() < end, (
                    f"{'ended' if ended else 'waited'} without {what}:\n" + self.tail())
                self._news.wait(0.2)
            return found

    def _matching(self, msg, fields):
        wanted = dict(fields, msg=msg) if msg is not None else fields
        found = (parse_line(line) for line in self.stderr)
        return [line for line in found if line is not None and wanted.items() <= line.items()]

    def tail(self):
        """The end of its stderr, for a failure's message."""
        return "\n".join(self.stderr[-40:])

    def _collect(self, pipe, lines):
        for raw in pipe:
            with self._news:
                lines.append(raw.decode("utf-8", "replace").rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._open_pipes -= 1
            self._news.notify_all()

    # ---- process ----

    def memory_bytes(self):
        """Private resident memory, from /proc."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        fields = re.findall(r"^Private_(?:Clean|Dirty):\s+(\d+) kB", text, re.MULTILINE)
        return sum(map(int, fields)) * 1024

    def descriptor_count(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def is_running(self):
        return self.process.poll() is None

    def wait_exit(self, expected=0, timeout_s=HANG_GUARD_S):
        """Wait until it leaves by itself; asserts the exit status and clean sanitizers."""
        try:
            status = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError("sluice did not leave:\n" + self.tail()) from None
        with self._news:
            self._news.wait_for(lambda: self._open_pipes == 0, timeout_s)
        self.left = True
        assert not REPORTS.search("\n".join(self.stderr)), "\n".join(self.stderr[-200:])
        assert expected is None or status == expected, f"exit status {status}:\n" + self.tail()
        return status

    def stop(self, signal_number=signal.SIGTERM, expected=0):
        """Ask it to leave and wait for that. Harmless when it was stopped before."""
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        return self.wait_exit(expected)

    def kill(self):
        """End it at once, without asking anything of it, and read its last words."""
        self.process.kill()
        self.process.wait()
        with self._news:
            self._news.wait_for(lambda: self._open_pipes == 0, HANG_GUARD_S)
        self.left = True


def has_key(text, key):
    return re.search(rf"^{key}\s*:", text, re.MULTILINE) is not None


def parse_line(line):
    """A logged line as a dict, None for anything that is not a JSON object."""
    if not line.startswith("{"):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None


def clean_environment(directory, more):
    """No keys, proxies or settings of the developer's shell reach the program under test."""
    kept = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "TZ", "ASAN_SYMBOLIZER_PATH")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment.update(
        HOME=str(directory), LANG="C.UTF-8",
        ASAN_OPTIONS="detect_leaks=1:detect_stack_use_after_return=0:allocator_may_return_null=1",
        UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1",
        TSAN_OPTIONS="halt_on_error=0:second_deadlock_stack=1")
    environment.update(more or {})
    return environment
