# SPDX-License-Identifier: Apache-2.0
"""Local models: the real llama-server as our child, with the smallest model of the catalogue.

The folder of each test has links to what is installed, so that its server finds both by name. Where
llama-server or the model is missing these tests are skipped, loudly.
"""
import http.client
import json
import os
import re
import signal
import socket
import stat
import time
from pathlib import Path

import pytest

from caller import Stream, ask, datas, words
from fake_provider import FakeProvider
from raw_http import RawClient, request_bytes
from sluice import HANG_GUARD_S, provider_config

DATA = Path("/var/lib/sluice" if os.geteuid() == 0 else Path.home() / ".local/share/sluice")
SERVER = DATA / "llama-server/llama-server"
MODEL = DATA / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "smollm2-135m"
# One thread each: several of these servers at once, on few processors, spin waiting for each other.
TINY = f"providers: {{tiny: {{kind: local, model: {NAME}, threads: 1}}}}\n"
QUESTION = {"model": NAME, "temperature": 0, "seed": 1, "max_tokens": 24,
            "messages": [{"role": "user", "content": "Name three colours."}]}
STREAMED = QUESTION | {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture(scope="module")
def installed():
    for path, remedy in ((SERVER, f"script/get-llama-server {SERVER.parent}"),
                         (MODEL, f"sluice model pull {NAME}")):
        if not path.exists():
            pytest.skip(f"LOCAL MODELS ARE NOT TESTED: {path} is missing; run: {remedy}")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A data folder with links to what is installed."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "llama-server").symlink_to(SERVER.parent)
    (folder / "models").mkdir()
    (folder / "models" / MODEL.name).symlink_to(MODEL)
    return folder


@pytest.fixture(scope="module")
def local(installed, data_dir, module_sluice):
    return module_sluice(f"data_dir: {data_dir}\n" + TINY)


@pytest.fixture
def own(installed, data_dir, sluice):
    """As `local`, for tests that do something to their server."""
    return sluice(f"data_dir: {data_dir}\n" + TINY)


def child_of(server, count=1):
    """The pid of the count-th llama-server that this server has started."""
    return server.wait_log("model server started", count=count)["pid"]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):     # the second: it went between opening and reading
        return False


def wait_gone(pid):
    end = time.monotonic() + HANG_GUARD_S
    while is_running(pid):
        assert time.monotonic() < end, f"process {pid} is still there"
        time.sleep(0.01)


def socket_of(pid):
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return Path(arguments[arguments.index(b"--host") + 1].decode())


def ask_child(pid, body):
    """The same question, put to llama-server itself."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(socket_of(pid)))
    connection.request("POST", "/v1/chat/completions", json.dumps(body),
                       {"Content-Type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def stream(server, body=STREAMED):
    with Stream(server, body) as answer:
        answer.head()
        return answer.rest()


# ---- answers ----

def test_an_installed_model_is_served_without_configuration(installed, data_dir, sluice):
    server = sluice(f"data_dir: {data_dir}\n")
    with RawClient(server.port) as client:
        client.send(request_bytes("GET", "/v1/models", None, []))
        listed = client.read_response().json
    assert [(model["id"], model["owned_by"]) for model in listed["data"]] == [(NAME, "local")]
    assert ask(server, QUESTION | {"max_tokens": 2}).status == 200


def test_the_streamed_text_is_the_whole_text(local):
    whole = ask(local, QUESTION).json
    text = whole["choices"][0]["message"]["content"]
    streamed = stream(local)
    assert len(text) > 10
    assert words(streamed) == text
    assert datas(streamed)[-1] == b"[DONE]"
    assert len(datas(streamed)) > 10                        # word by word, not all at once


def test_usage_is_what_llama_server_counts(local):
    whole = ask(local, QUESTION).json
    own = ask_child(child_of(local), QUESTION)
    counted = {name: own["usage"][name]
               for name in ("prompt_tokens", "completion_tokens", "total_tokens")}
    assert own["choices"][0]["message"]["content"] == whole["choices"][0]["message"]["content"]
    assert counted.items() <= whole["usage"].items()
    chunks = [json.loads(data) for data in datas(stream(local))[:-1]]
    usages = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert len(usages) == 1 and counted.items() <= usages[0].items()
    ask(local, QUESTION, id="counted")
    line = local.wait_log("request", id="counted")
    assert line["input_tokens"] == counted["prompt_tokens"]
    assert line["output_tokens"] == counted["completion_tokens"]


def test_max_tokens_ends_the_answer_with_length(local):
    short = QUESTION | {"max_tokens": 5}
    whole = ask(local, short).json
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == 5
    events = datas(stream(local, short | {"stream": True}))[:-1]
    reasons = [choice["finish_reason"] for data in events for choice in json.loads(data)["choices"]]
    assert [reason for reason in reasons if reason] == ["length"]


def test_a_caller_cannot_reach_into_llama_server(local):
    """Its own members (grammar, slots, n_predict…) are not passed on."""
    inside = QUESTION | {"n_predict": 1, "grammar": 'root ::= "no"', "id_slot": 99}
    assert ask(local, inside).json["choices"] == ask(local, QUESTION).json["choices"]


# ---- the child ----

def test_the_child_is_private(local):
    ask(local, QUESTION)
    pid = child_of(local)
    folder = socket_of(pid).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder.stat().st_uid == os.geteuid()
    links = " ".join(os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir())
    sockets = set(re.findall(r"socket:\[(\d+)\]", links))
    tcp = {line.split()[9] for name in ("tcp", "tcp6")
           for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]}
    assert sockets and not sockets & tcp


def test_our_keys_are_not_in_its_environment(installed, data_dir, sluice):
    more = {"OPENAI_API_KEY": "sk-secret-of-ours", "LLAMA_ARG_CACHE_RAM": "64"}
    server = sluice(f"data_dir: {data_dir}\n" + TINY, environment=more)
    assert ask(server, QUESTION).status == 200
    environment = Path(f"/proc/{child_of(server)}/environ").read_bytes()
    assert b"secret-of-ours" not in environment
    assert b"LLAMA_ARG_CACHE_RAM=64" in environment


def test_a_killed_child_is_replaced(own):
    before = ask(own, QUESTION).json["choices"]
    os.kill(child_of(own), signal.SIGKILL)
    own.wait_log("local model does not work")
    assert ask(own, QUESTION).json["choices"] == before
    assert child_of(own, 2) != child_of(own, 1)


def test_a_child_that_dies_in_mid_answer_ends_the_stream_with_an_error(own):
    with Stream(own, STREAMED | {"max_tokens": 2000}) as answer:
        answer.head()
        answer.next_event()
        os.kill(child_of(own), signal.SIGKILL)
        rest = answer.rest()
    assert "error" in json.loads(datas(rest)[-1])


def test_nothing_is_left_when_we_are_killed(own):
    ask(own, QUESTION)
    pid = child_of(own)
    own.kill()
    wait_gone(pid)


def test_nothing_is_left_when_we_stop(own):
    ask(own, QUESTION)
    pid = child_of(own)
    folder = socket_of(pid).parent
    own.stop()
    assert not is_running(pid) and not folder.exists()


def test_stopping_while_it_loads_leaves_nothing(installed, data_dir, sluice):
    server = sluice(f"data_dir: {data_dir}\n" + TINY.replace("threads: 1", "start: at_once"))
    pid = child_of(server)
    server.stop()
    assert not is_running(pid)


def test_a_reload_keeps_the_child_unless_its_settings_change(installed, data_dir, sluice):
    text = f"data_dir: {data_dir}\n" + TINY
    server = sluice(text)
    ask(server, QUESTION)
    first = child_of(server)
    server.reload()
    server.wait_log("configuration reloaded")
    assert ask(server, QUESTION).status == 200
    assert len(server.log_lines("model server started")) == 1
    server.write_config(text.replace("threads: 1", "threads: 1, slots: 3"))
    server.reload()
    server.wait_log("configuration reloaded", count=2)
    wait_gone(first)
    assert ask(server, QUESTION).status == 200
    arguments = Path(f"/proc/{child_of(server, 2)}/cmdline").read_bytes().split(b"\0")
    assert arguments[arguments.index(b"-np") + 1] == b"3"


# ---- what is missing ----

def refused(server, model=NAME):
    answer = ask(server, QUESTION | {"model": model})
    assert answer.status == 502
    assert answer.json["error"]["code"] == "local_model_unavailable"
    return answer.json["error"]["message"]


def test_without_llama_server_the_answer_says_how_to_get_it(sluice, tmp_path):
    server = sluice(f"providers: {{tiny: {{kind: local, model: {NAME}}}}}\n",
                    environment={"PATH": str(tmp_path)})
    assert "script/get-llama-server" in refused(server)


def test_without_the_model_the_answer_says_how_to_get_it(sluice, tmp_path):
    server = sluice(f"providers: {{tiny: {{kind: local, model: {NAME}, server: /bin/true}}}}\n")
    assert f"sluice model pull {NAME}" in refused(server)


def test_a_file_that_is_no_model_is_named(sluice, tmp_path):
    page = tmp_path / "page.gguf"
    page.write_text("<html>" * 1000)
    server = sluice(f"providers: {{mine: {{kind: local, model: {page}, server: /bin/true}}}}\n")
    assert f"{page} is not a GGUF file" in refused(server, "mine/any")


def test_a_broken_model_is_told_in_llama_servers_words(installed, sluice, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\xee" * 5000)
    server = sluice(f"providers: {{mine: {{kind: local, model: {broken}, server: {SERVER}}}}}\n")
    message = refused(server, "mine/any")
    assert "ended with status 1" in message and "GGUF" in message
    line = server.wait_log("local model does not work")
    assert "failed to load model" in line["output"]


def test_other_providers_do_not_wait_for_a_broken_one(sluice, tmp_path):
    with FakeProvider() as fake:
        broken = "  tiny: {kind: local, model: none.gguf, start: at_once}\n"
        server = sluice(provider_config(fake).replace("default_provider:",
                                                      broken + "default_provider:"))
        assert ask(server, QUESTION | {"model": "m"}).status == 200
        server.wait_log("local model does not work")
