# SPDX-License-Identifier: Apache-2.0
"""The commands, as people and scripts use them: what they print where, and how they end."""
import json
import os
import pty
import re
import signal
import threading

import pytest

from command import run, start
from fake_provider import HANG, RESET, chat, chat_events, error, raw, sse, whole
from raw_http import RawClient
from sluice import HANG_GUARD_S, provider_config

COMMANDS = ["serve", "ask", "model", "check", "config", "healthcheck", "version", "help"]
KEYED = "keys: {static: [{name: ci, key: sk-caller-key}]}\n"


@pytest.fixture
def ask(gateway, tmp_path):
    """`sluice ask` at a gateway in front of the fake provider."""
    def ask(*words, **options):
        url = {"SLUICE_URL": f"http://127.0.0.1:{gateway.port}"} | options.pop("environment", {})
        return run("ask", *words, directory=tmp_path, environment=url, **options)
    return ask


# ---- serve ----

PROVIDERS = "providers: {{one: {{url: '{0}', key: k}}, two: {{url: '{0}', key: k}}}}\n"


@pytest.mark.parametrize("config, model, sent", [
    (PROVIDERS, "one/MODEL", "MODEL"),
    (PROVIDERS + "default_provider: two\n", "two/MODEL", "MODEL"),
    (PROVIDERS + "models: {{fast: {{targets: two/real-name}}}}\n", "fast", "real-name"),
])
def test_serve_says_what_to_try_and_it_works(sluice, provider, config, model, sent):
    server = sluice(config.format(provider.url))
    ask = server.wait_text(r"-d '(.*)'")[1]
    assert json.loads(ask)["model"] == model
    with RawClient(server.port) as client:
        assert client.request("POST", "/v1/chat/completions", ask.encode()).status == 200
    assert provider.wait_request().json["model"] == sent


def test_serve_without_any_provider_says_how_to_get_one(sluice):
    server = sluice("")
    server.wait_text("It has no model yet: `sluice model pull NAME` fetches one")


# ---- help ----

def test_help_lists_and_explains_every_command(tmp_path):
    listed = run("help", directory=tmp_path).stdout
    for name in COMMANDS:
        assert f"\n  {name} " in listed
        explained = run("help", name, directory=tmp_path)
        assert explained.returncode == 0 and f"Usage: sluice {name}" in explained.stdout


@pytest.mark.parametrize("words", [
    ["nonsense"], ["ask"], ["ask", "--colour", "hi"], ["ask", "-m"], ["model"],
    ["model", "fetch", "x"], ["model", "pull"], ["model", "list", "x"], ["check", "--offline"],
    ["check", "-c"], ["config"],
    ["config", "schema", "x"], ["healthcheck", "--url"], ["healthcheck", "now"], ["version", "x"],
    ["help", "x"], ["serve", "--fast"]], ids=" ".join)
def test_wrong_use_is_explained_on_stderr_with_status_2(tmp_path, words):
    done = run(*words, directory=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Try: sluice help" in done.stderr


# ---- ask ----

def test_ask_prints_the_answer_and_nothing_else(ask, provider):
    provider.default = chat("It is a gate.")
    done = ask("-m", "m", "What", "is", "a sluice?")
    assert (done.returncode, done.stdout, done.stderr) == (0, "It is a gate.\n", "")
    seen = provider.wait_request()
    assert seen.json["messages"] == [{"role": "user", "content": "What is a sluice?"}]
    assert seen.json["stream"] is True


def test_ask_can_wait_for_the_whole_answer(ask, provider):
    provider.default = chat("It is a gate.")
    done = ask("-m", "m", "--no-stream", "-s", "Be short.", "hi")
    assert (done.returncode, done.stdout) == (0, "It is a gate.\n")
    seen = provider.wait_request()
    assert seen.json["messages"][0] == {"role": "system", "content": "Be short."}
    assert "stream" not in seen.json


def test_ask_reads_the_question_from_standard_input(ask, provider):
    text = 'A "quoted"\nquestion \N{SNOWMAN}'
    assert ask("-m", "m", "-", input=text).returncode == 0
    assert provider.wait_request().json["messages"][0]["content"] == text


def test_ask_takes_the_first_model_that_is_listed(sluice, provider, tmp_path):
    server = sluice(provider_config(provider) + "models: {first: {targets: [fake/real-name]}}\n")
    url = f"http://127.0.0.1:{server.port}/v1/"            # as an SDK has it
    assert run("ask", "--url", url, "hi", directory=tmp_path).returncode == 0
    assert provider.wait_request().json["model"] == "real-name"


def test_ask_without_any_model_says_so(ask):
    done = ask("hi")
    assert done.returncode == 1
    assert "name one with -m" in done.stderr


def test_ask_over_a_unix_socket(sluice, provider, tmp_path):
    sluice(provider_config(provider) + f'listen: ["127.0.0.1:0", "unix:{tmp_path}/s.sock"]\n')
    done = run("ask", "--url", f"unix:{tmp_path}/s.sock", "-m", "m", "hi", directory=tmp_path)
    assert (done.returncode, done.stdout) == (0, "Hello from the fake provider.\n")


def test_ask_shows_its_key(sluice, provider, tmp_path):
    server = sluice(provider_config(provider) + KEYED)
    url = {"SLUICE_URL": f"http://127.0.0.1:{server.port}"}
    refused = run("ask", "-m", "m", "hi", directory=tmp_path, environment=url)
    assert refused.returncode == 1 and "key" in refused.stderr
    taken = run("ask", "-m", "m", "hi", directory=tmp_path,
                environment=url | {"SLUICE_KEY": "sk-caller-key"})
    assert taken.returncode == 0


def test_ask_prints_the_message_of_an_error(ask, provider):
    provider.default = error(400, "Your prompt is too purple.", "invalid_request_error")
    done = ask("-m", "m", "hi")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "sluice ask: Your prompt is too purple.\n"


def test_ask_says_when_an_answer_breaks_off(ask, provider):
    provider.default = sse(*chat_events("It", " is")[:3], RESET)
    done = ask("-m", "m", "hi")
    assert done.returncode == 1
    assert done.stdout == "It is\n"
    assert done.stderr.startswith("sluice ask: ")


def test_ask_without_a_server_names_its_address(tmp_path):
    done = run("ask", "--url", "http://127.0.0.1:1", "-m", "m", "hi", directory=tmp_path)
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr and "refused" in done.stderr


def test_ask_prints_words_as_they_arrive_and_ctrl_c_stops_the_provider(gateway, provider, tmp_path):
    provider.default = sse(*chat_events("early")[:2], HANG)
    with start("ask", "--url", f"http://127.0.0.1:{gateway.port}", "-m", "m", "hi",
               directory=tmp_path) as process:
        assert process.stdout.read(5) == b"early"          # long before the end
        process.send_signal(signal.SIGINT)
        assert process.wait(HANG_GUARD_S) == -signal.SIGINT
    provider.wait_request().wait_peer_closed()


def test_ask_keeps_control_characters_from_the_terminal_only(ask, gateway, provider, tmp_path):
    provider.default = chat("a\x1b[31mb\tc")
    assert ask("-m", "m", "hi").stdout == "a\x1b[31mb\tc\n"
    ours, theirs = pty.openpty()
    with start("ask", "--url", f"http://127.0.0.1:{gateway.port}", "-m", "m", "hi",
               directory=tmp_path, stdout=theirs) as process:
        assert process.wait(HANG_GUARD_S) == 0
        shown = os.read(ours, 1000)
    os.close(theirs)
    os.close(ours)
    assert shown.startswith(b"a[31mb")


# ---- check, config ----

def test_check_lists_every_problem_with_its_line(tmp_path):
    (tmp_path / "bad.yaml").write_text(
        "listen: nowhere\nprovidres: {}\ntimeouts: {connect: soon}\n")
    done = run("check", "-c", "bad.yaml", directory=tmp_path)
    assert done.returncode == 78
    lines = done.stdout.splitlines()
    for number in (1, 2, 3):
        assert any(line.startswith(f"bad.yaml:{number}: ") for line in lines), lines
    assert "providers" in done.stdout


def test_check_of_a_good_file(tmp_path):
    (tmp_path / "sluice.yaml").write_text("listen: 127.0.0.1:9000\n")
    done = run("check", directory=tmp_path)
    assert (done.returncode, done.stdout) == (0, "./sluice.yaml: ok\n")


def test_check_reads_the_price_file_that_the_configuration_names(tmp_path):
    (tmp_path / "sluice.yaml").write_text("prices: prices.yaml\n")
    prices = tmp_path / "prices.yaml"
    prices.write_text("currency: USD\nmodels:\n  a/b: {input: 1, outputs: 2}\n  c: {input: x, output: 1}\n")
    done = run("check", directory=tmp_path)
    assert done.returncode == 78, done
    lines = done.stdout.splitlines()
    assert any(line.startswith("./prices.yaml:3: ") and 'did you mean "output"' in line for line in lines), lines
    assert any(line.startswith("./prices.yaml:4: ") for line in lines), lines
    prices.write_text("currency: EUR\nmodels: {a/b: {input: 1, output: 2}}\n")
    done = run("check", directory=tmp_path)
    assert (done.returncode, done.stdout) == (78, "./prices.yaml: prices are in EUR, but budgets.currency is USD\n")
    prices.write_text("currency: USD\nmodels: {a/b: {input: 1, output: 2}}\n")
    done = run("check", directory=tmp_path)
    assert (done.returncode, done.stdout) == (0, "./sluice.yaml: ok\n./prices.yaml: ok, 1 models, in USD\n")
    prices.unlink()
    done = run("check", directory=tmp_path)
    assert (done.returncode, done.stdout) == (78, "./prices.yaml: No such file or directory\n")


def test_check_warns_of_money_without_prices(tmp_path):
    """With such a file every call would be refused."""
    path = tmp_path / "sluice.yaml"
    path.write_text("models: {a: {targets: openai/m}}\nbudgets: {per_project: {money: 5/day}}\n")
    path.chmod(0o600)
    done = run("check", "-c", path, directory=tmp_path, environment={"OPENAI_API_KEY": "sk-x"})
    assert done.returncode == 0 and done.stdout == f"{path}: ok\n", done
    assert re.search(r"^warning: .*sluice.yaml:2: .*every call will be refused$", done.stderr, re.MULTILINE), done
    path.write_text(path.read_text() + "prices: prices.yaml\n")
    (tmp_path / "prices.yaml").write_text("currency: USD\nmodels: {openai/m: {input: 1, output: 2}}\n")
    done = run("check", "-c", path, directory=tmp_path, environment={"OPENAI_API_KEY": "sk-x"})
    assert done.returncode == 0 and "warning:" not in done.stderr, done


def test_check_of_a_missing_file(tmp_path):
    done = run("check", "-c", "none.yaml", directory=tmp_path)
    assert done.returncode == 78
    assert "none.yaml" in done.stdout + done.stderr


def test_check_online_tells_which_providers_answer(provider, tmp_path):
    def answer(exchange):
        status = 200 if exchange.header("authorization") == "Bearer sk-good-key" else 401
        whole({"object": "list", "data": []}, status)(exchange)
    provider.default = answer
    (tmp_path / "sluice.yaml").write_text(
        "providers:\n"
        f"  good: {{url: \"{provider.url}\", key: sk-good-key}}\n"
        f"  refused: {{url: \"{provider.url}\", key: sk-bad-key}}\n"
        "  away: {url: \"http://127.0.0.1:1/v1\", key: sk-any-key}\n"
        "  local: {kind: local, model: smollm2-135m, server: /nonexistent/llama-server}\n")
    done = run("check", "--online", directory=tmp_path)
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert done.returncode == 1
    assert lines["good"].startswith("ok (")
    assert lines["refused"] == "failed: it refuses the key (401)"
    assert lines["away"].startswith("failed: ") and "refused" in lines["away"]
    assert "/nonexistent/llama-server" in lines["local"]
    assert provider.wait_request().target == "/v1/models"


def test_config_show_masks_secrets_and_can_be_read_back(tmp_path):
    (tmp_path / "sluice.yaml").write_text("providers: {p: {key: sk-very-secret}}\n" + KEYED)
    shown = run("config", "show", directory=tmp_path)
    assert shown.returncode == 0
    assert "sk-" not in shown.stdout and "***" in shown.stdout
    (tmp_path / "again.yaml").write_text(shown.stdout)
    assert run("check", "-c", "again.yaml", directory=tmp_path).returncode == 0


def test_config_schema_is_json_and_reference_is_markdown(tmp_path):
    schema = json.loads(run("config", "schema", directory=tmp_path).stdout)
    assert "providers" in schema["properties"]
    assert "| `listen`" in run("config", "reference", directory=tmp_path).stdout


# ---- healthcheck ----

def test_healthcheck_of_a_ready_server_is_silent(gateway, tmp_path):
    done = run("healthcheck", "--url", f"http://127.0.0.1:{gateway.port}", directory=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_healthcheck_fails_without_a_server_and_while_not_ready(provider, tmp_path):
    away = run("healthcheck", "--url", "http://127.0.0.1:1", directory=tmp_path)
    assert away.returncode == 1 and "127.0.0.1:1" in away.stderr
    provider.default = error(503, "draining")
    url = provider.url.removesuffix("/v1")
    draining = run("healthcheck", "--url", url, directory=tmp_path)
    assert draining.returncode == 1 and "draining" in draining.stderr


def test_healthcheck_does_not_wait_for_ever(provider, tmp_path):
    provider.default = raw(HANG)
    done = run("healthcheck", directory=tmp_path, environment={"SLUICE_URL": provider.url})
    assert done.returncode == 1


def test_two_commands_at_once_do_not_disturb_each_other(ask, provider):
    results = []
    threads = [threading.Thread(target=lambda: results.append(ask("-m", "m", "hi").returncode))
               for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [0, 0]
