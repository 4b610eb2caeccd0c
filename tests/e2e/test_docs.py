# SPDX-License-Identifier: Apache-2.0
"""What README.md and docs/ show is run here, as a reader would type it.

A page is one terminal session: its blocks run in order, in one shell (`sh -eu`), in a folder of
their own where `sluice` and `build/sluice` are the program under test.

    ```sh            run; a command that fails, fails the page
    ```python ```js  run, by the tests' Python and Node with the SDKs installed there
    ```yaml          read by `sluice check`; when its first line is "# NAME.yaml" it is instead put
                     into the folder under that name, so that commands can use it
    ```text ```json  right behind one of these: what it prints. In text "…" stands for anything
                     within a line, a line of it alone for any lines, and runs of spaces are one; of
                     JSON the shape is compared, of errors every word
    ```console       not run: what takes long or needs another machine; `make` targets must exist
    ```ini           not run

Where a page says OpenAI there is a fake provider, and README's `make run` is a server that was
started before. Addresses of this machine get ports that are free, and /tmp is the page's folder.

The one hard thing is to notice everything: a page's script ends only after each server that it
started has left with status 0, and nothing may have written a sanitizer's report.
"""
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from command import run
from fake_provider import chat, whole
from postgres import Postgres, find_programs
from redis_server import Redis, find_server
from sluice import HANG_GUARD_S, REPORTS, ROOT, clean_environment, find_binary
from test_local_model import NAME as LOCAL_MODEL
from test_local_model import data_dir, installed  # noqa: F401 (fixtures)

DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# They describe, and show nothing to type.
NOT_RUN = {"json.md", "reading-order.md", "tokens.md", "translation.md"}
PAGES = [page for page in DOCS if page.name not in NOT_RUN]
ALL_PAGES = [*DOCS, *sorted((ROOT / "docs").glob("*/*.md")), ROOT / "bench/README.md"]
RUN = {"sh", "python", "js"}
SHOWN = {"text", "json"}
LANGUAGES = RUN | SHOWN | {"yaml", "console", "ini"}
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HERE = re.compile(r"(127\.0\.0\.1|localhost|0\.0\.0\.0|\[::1\]):(8\d{3})\b")
ANSWER = "A gate that controls the flow of water."


class Block:
    """A fenced block of a page."""

    def __init__(self, page, match, text):
        self.language, self.text = match[1], match[2]
        self.line = text.count("\n", 0, match.start()) + 1
        self.place = f"{page.relative_to(ROOT)}:{self.line}"
        named = re.match(r"# ([\w.-]+\.yaml)\n", self.text) if self.language == "yaml" else None
        self.file_name = named[1] if named else None


def blocks_of(page):
    text = page.read_text()
    return [Block(page, match, text) for match in FENCE.finditer(text)]


# ---- the pages, run ----

class Session:
    """One page in its folder: composes the script, runs it, keeps what each block printed."""

    def __init__(self, page, folder, environment, servers=()):
        self.blocks, self.folder = blocks_of(page), folder
        self.servers = dict(servers)        # what the page calls them, and where they are
        self.ports, self.printed = {}, {}
        self.environment = clean_environment(folder, environment)
        self.environment["PATH"] = os.pathsep.join(
            [str(folder), str(ROOT / ".venv/bin"), str(Path(sys.executable).parent),
             self.environment["PATH"]])
        self.environment["SLUICE_URL"] = self.here("http://127.0.0.1:8080")
        self.environment["SLUICE_ADMIN_URL"] = self.here("http://127.0.0.1:8081")
        (folder / "build").mkdir()
        for program in (folder / "sluice", folder / "build/sluice"):
            program.write_text(f'#!/bin/sh\n[ "$1" != serve ] || echo $$ >> "{folder}/servers"\n'
                               f'exec "{find_binary()}" "$@"\n')
            program.chmod(0o755)
        (folder / "servers").touch()
        (folder / "node_modules").symlink_to(ROOT / "tests/node_modules")
        self.write("sluice.yaml", "")

    def with_ports(self, text):
        def replaced(match):
            if match[2] not in self.ports:
                self.ports[match[2]] = free_port(self.ports.values())
            return f"{match[1]}:{self.ports[match[2]]}"
        return HERE.sub(replaced, text)

    def here(self, text):
        """The text with this session's servers, ports and folder."""
        text = self.with_ports(text).replace("/tmp/", f"{self.folder}/")
        for name, real in self.servers.items():
            text = text.replace(name, real)
        return text

    def write(self, name, text):
        """A file for the script. A configuration gets what must not be the machine's own."""
        if name.endswith(".yaml"):
            more = {"listen": "127.0.0.1:8080", "admin": "127.0.0.1:8081",
                    "data_dir": "data"}
            text += "".join(f"{key}: {value}\n" for key, value in more.items()
                            if not re.search(rf"^{key}:", text, re.MULTILINE))
        (self.folder / name).write_text(self.here(text))
        return name

    def commands(self, block):
        """What the script does for a block."""
        if block.language == "sh":
            return self.here(block.text)
        if block.language == "python":
            return "python3 " + self.write(f"block-{block.line}.py", block.text) + "\n"
        if block.language == "js":
            return "node " + self.write(f"block-{block.line}.mjs", block.text) + "\n"
        if block.file_name:
            copy = self.write(f"block-{block.line}.yaml", block.text)
            return f"cp {copy} {block.file_name}\n"
        if block.language == "yaml":
            copy = self.write(f"block-{block.line}.yaml", block.text)
            unset = set(re.findall(r"\$\{(\w+)\}", block.text)) - set(self.environment)
            return " ".join(["env", *(f"{name}=sk-for-{name}" for name in sorted(unset)),
                             "sluice", "check", "-c", copy, ">&2\n"])
        return ""

    def script(self):
        steps = [f"echo; echo '@@ {block.line}'\n{self.commands(block)}" for block in self.blocks]
        return "".join(steps) + ("echo; echo '@@ end'\nfor server in $(cat servers); do\n"
                                 '    kill "$server" 2>/dev/null || true\n'
                                 '    wait "$server" || [ $? = 127 ]     # the page waited\n'
                                 'done\n')

    def run(self):
        (self.folder / "page.sh").write_text(self.script())
        with open(self.folder / "out", "wb") as out, open(self.folder / "err", "wb") as err:
            shell = subprocess.Popen(["timeout", "-s", "KILL", str(6 * HANG_GUARD_S), "sh", "-eu",
                                      "page.sh"], cwd=self.folder, stdout=out, stderr=err,
                                     env=self.environment, stdin=subprocess.DEVNULL,
                                     start_new_session=True)
            try:
                status = shell.wait()
            finally:
                end_group(shell)
        parts = re.split(r"^@@ (\w+)\n", (self.folder / "out").read_text("utf-8", "replace"),
                         flags=re.MULTILINE)
        self.printed = dict(zip(parts[1::2], parts[2::2]))
        reports = (self.folder / "err").read_text("utf-8", "replace")
        assert not REPORTS.search(reports), reports[-8000:]
        assert status == 0, (f"exit status {status} (-9: it hangs) in the block of line {parts[-2]}:\n"
                             f"{parts[-1]}\n{reports[-4000:]}")


def end_group(shell):
    """Whatever a failed page has left running."""
    try:
        os.killpg(shell.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    shell.wait()


def free_port(taken):
    """Below the ports that the kernel hands out, so that no other test is given it meanwhile."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in taken:
            return port


def provide(exchange):
    """OpenAI, as far as the pages need it: one answer to everything. o3 thinks before, and o3-pro
    until the caller has left."""
    if exchange.target.endswith("/models"):
        return whole({"object": "list", "data": []})(exchange)
    if exchange.json["model"].startswith("o3"):
        exchange.pause(HANG_GUARD_S if exchange.json["model"] == "o3-pro" else 1)
    return chat(ANSWER)(exchange)


# Pages that need a server of others have a real one: by TLS, with an authority of its own.
SERVERS = {"postgresql.md": "databases", "redis.md": "redis"}


@pytest.fixture
def authority(tmp_path_factory):
    """A trustme.CA, whose folder stands for /etc/sluice."""
    authority, folder = trustme.CA(), tmp_path_factory.mktemp("etc")
    for name in ("db-ca.pem", "redis-ca.pem"):
        authority.cert_pem.write_to_path(folder / name)
    trustme.CA().cert_pem.write_to_path(folder / "other-ca.pem")
    authority.folder = f"{folder}/"
    return authority


@pytest.fixture
def databases(authority):
    if not find_programs():
        pytest.skip("PostgreSQL is not installed")
    with Postgres(authority=authority) as primary, Postgres(authority=authority, standby_of=primary) as standby:
        yield {"db1.example:5432": f"localhost:{primary.port}", "db2.example:5432": f"localhost:{standby.port}",
               "/etc/sluice/": authority.folder}


@pytest.fixture
def redis(authority):
    if not find_server():
        pytest.skip("Redis is not installed")
    with Redis(tls=authority) as server:
        yield {"redis.example:6379": f"localhost:{server.port}", "/etc/sluice/": authority.folder}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page, request, provider, sluice, tmp_path):
    provider.default = provide
    environment = {"OPENAI_API_KEY": "sk-of-openai", "OPENAI_BASE_URL": provider.url}
    if page.name == "local-models.md":
        request.getfixturevalue("installed")
        environment = {}
    servers = request.getfixturevalue(SERVERS[page.name]) if page.name in SERVERS else {}
    session = Session(page, tmp_path, environment, servers)
    if page.name == "local-models.md":
        (tmp_path / "data").symlink_to(request.getfixturevalue("data_dir"))
    if page.name == "README.md":
        start_make_run(session, sluice, environment)
    session.run()
    for block, shown in zip(session.blocks, session.blocks[1:]):
        if block.language in RUN and shown.language in SHOWN:
            printed = session.printed[str(block.line)]
            compare(shown, session.with_ports(shown.text), session.with_ports(printed))


def start_make_run(session, sluice, environment):
    """`make run`, with the fake provider in the place of the local model."""
    server = sluice("models: {qwen2.5-coder-0.5b: {targets: openai/small}}\n",
                    environment=environment)
    session.ports["8080"], session.ports["8081"] = server.port, server.admin_port
    session.environment["SLUICE_URL"] = f"http://127.0.0.1:{server.port}"
    session.environment["SLUICE_ADMIN_URL"] = f"http://127.0.0.1:{server.admin_port}"


def compare(block, shown, printed):
    if block.language == "json":
        compare_json(block.place, json.loads(shown), json.loads(printed))
        return
    pattern = "".join(line_pattern(line) for line in shown.strip().split("\n"))
    lines = "".join(f"{squeeze(line)}\n" for line in printed.strip().splitlines())
    assert re.fullmatch(pattern, lines), f"{block.place} shows\n{shown}\nbut printed was\n{printed}"


def line_pattern(line):
    if line.strip() == "…":
        return r"(?:.*\n)*"
    return ".*".join(map(re.escape, squeeze(line).split("…"))) + r"\n"


def squeeze(line):
    return " ".join(line.split())


def compare_json(place, shown, printed, exact=False):
    """The same members of the same types; within "error" the same values."""
    assert type(shown) is type(printed), f"{place}: {shown!r} shown, {printed!r} printed"
    if isinstance(shown, dict):
        assert shown.keys() == printed.keys(), f"{place}: {shown} shown, {printed} printed"
        for name in shown:
            compare_json(place, shown[name], printed[name], exact or name == "error")
    elif isinstance(shown, list):
        assert bool(shown) == bool(printed), f"{place}: {shown} shown, {printed} printed"
        for one, other in zip(shown, printed):
            compare_json(place, one, other, exact)
    elif exact:
        assert shown == printed, f"{place}: {shown!r} shown, {printed!r} printed"


# ---- the pages, read ----

@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_blocks_are_of_a_known_kind(page):
    """So that none escapes: no other languages, and no code by indentation."""
    text = page.read_text()
    assert text.count("```") == 2 * len(FENCE.findall(text)), "a fence within a line, or left open"
    if page.name in NOT_RUN:
        return
    unknown = [block.place for block in blocks_of(page) if block.language not in LANGUAGES]
    assert not unknown
    indented = re.findall(r"^\n {4}(?! *[-*\d]).*", FENCE.sub("", text), re.MULTILINE)
    assert not indented
    assert RUN & {block.language for block in blocks_of(page)}, "nothing on this page is run"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_json_is_json_and_make_targets_exist(page, tmp_path):
    for block in blocks_of(page):
        if block.language == "json":
            json.loads(block.text)
        for target in re.findall(r"^make (\w+)", block.text, re.MULTILINE):
            subprocess.run(["make", "-n", target], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def test_readme_lists_every_page():
    text = (ROOT / "README.md").read_text()
    missing = [page.name for page in DOCS[1:]
               if page.name != "json.md" and f"(docs/{page.name})" not in text]
    assert not missing


@pytest.mark.parametrize("table, page, name", [
    ("src/model/attempts.def", "failover.md", r'^X\(\w+, +"(\w+)"'),
    ("src/conf/presets.def", "providers.md", r"^X\((\w+)"),
], ids=["results of attempts", "presets"])
def test_a_page_has_a_row_for_each_line(table, page, name):
    names = re.findall(name, (ROOT / table).read_text(), re.MULTILINE)
    rows = re.findall(r"^\| `(\w+)`", (ROOT / "docs" / page).read_text(), re.MULTILINE)
    shown = {re.sub(r"_\d+$", "", row) for row in rows}
    assert names and not set(names) - shown


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_exists(page):
    """Links within the project, and paths in code marks."""
    text = FENCE.sub("", page.read_text())
    links = [page.parent / link for link in re.findall(r"\]\(([\w./-]+)(?:#[\w-]*)?\)", text)]
    paths = re.findall(r"`((?:src|tests|script|docs|bench)/[\w./*-]*)", text)
    missing = [str(path) for path in links if not path.exists()]
    missing += [path for path in paths if not list(ROOT.glob(path.rstrip("/")))]
    files = re.findall(r"`(\w+\.(?:c|h|def))`", text)
    missing += [name for name in files
                if not (page.parent / name).exists() and not list(ROOT.glob(f"src/*/{name}"))]
    assert not missing


def test_the_example_configuration_is_good(tmp_path):
    names = re.findall(r"\$\{(\w+)\}", (ROOT / "sluice.example.yaml").read_text())
    done = run("check", "-c", ROOT / "sluice.example.yaml", directory=tmp_path,
               environment={name: f"sk-for-{name}" for name in names})
    assert (done.returncode, done.stdout) == (0, f"{ROOT}/sluice.example.yaml: ok\n"), done.stdout
