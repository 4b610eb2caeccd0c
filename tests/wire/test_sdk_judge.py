# SPDX-License-Identifier: Apache-2.0
"""The official SDKs judge the wire tests.

What callers get must mean to their SDK what the provider's bytes mean to the provider's own: the same text,
calls, reason to stop and token counts. And what Gemini is sent must be of the types that Google's SDK has.

The bytes are those that tests/wire/test_wire gave out (`--dump`), found beside the program under test
($SLUICE_BIN) or named by $WIRE_BIN.
"""
import json
import os
import subprocess
from pathlib import Path

import pytest
from readers import read
from wirefile import FOLDER, wire_files

ROOT = FOLDER.parents[1]
FILES = [f for f in wire_files() if f.rest("ask") != "embeddings"]    # those the SDKs read in tests/sdk
ANSWERED = [f for f in FILES if f.text("answers") is not None]
MODULES = ROOT / "tests/node_modules"
MEANING = ["text", "calls", "finish"]
EXPECTATIONS = ["sends", "refuses", "gives", "fails"]

# What the given bytes mean, with the types of Google's SDK but enumerations as the texts that travel.
TYPES = """
import * as g from "@google/genai";
type Wire<T> = T extends string ? `${T}` : T extends (infer U)[] ? Wire<U>[]
    : T extends object ? {[K in keyof T]: Wire<T[K]>} : T;
type Body = Wire<{contents: g.Content[]; systemInstruction?: g.Content; tools?: g.Tool[]; toolConfig?: g.ToolConfig;
    generationConfig?: g.GenerationConfig; safetySettings?: g.SafetySetting[]; cachedContent?: string}>;
"""


@pytest.fixture(scope="session")
def given(tmp_path_factory):
    """The folder with NAME.txt.gives of all files."""
    folder = tmp_path_factory.mktemp("gives")
    beside = Path(os.environ.get("SLUICE_BIN", ROOT / "build-address/sluice")).parent
    program = os.environ.get("WIRE_BIN") or beside / "tests/wire/test_wire"
    subprocess.run([program, "--dump", folder, FOLDER], stdout=subprocess.DEVNULL)
    return folder


def provider_protocol(file):
    """In which format the provider answers."""
    kind, target = file.rest("provider"), file.rest("sends") or ""
    if kind in ("anthropic", "gemini"):
        return {"anthropic": "messages", "gemini": "gemini"}[kind]
    dialect = file.rest("ask")
    if not target:
        return "responses" if dialect == "responses" and "responses: on" in file.text("provider") else (
            "completions" if dialect == "completions" else "chat")
    return {"/responses": "responses", "/completions": "completions"}.get(target.partition("?")[0], "chat")


def test_every_file_expects_something():
    silent = [f.name for f in wire_files() if not any(f.rest(what) is not None for what in EXPECTATIONS)]
    assert not silent


@pytest.mark.parametrize("file", ANSWERED, ids=lambda file: file.name)
def test_sdk_understands_what_callers_get(file, given):
    is_stream = file.rest("answers") == "stream"
    body = (given / f"{file.name}.txt.gives").read_bytes()
    if file.rest("fails") is not None:
        if not body:
            return                                   # an ordinary error answer, before any stream
        assert read(file.rest("ask"), is_stream, body).failed
        return
    if body == file.text("answers").encode():
        return                                       # passed through: nothing was translated
    differs = (file.rest("differs") or "").split()
    if file.rest("provider") == "local":
        differs = MEANING                            # its calls travel as text, which only we can read
    said = read(file.rest("ask"), is_stream, body)
    assert not said.failed
    if set(differs) != set(MEANING):
        told = read(provider_protocol(file), is_stream, file.text("answers").encode())
        if told.finish == "stop" and told.calls:
            told.finish = "tools"                    # some providers forget to say so
        for what in MEANING:
            assert what in differs or getattr(said, what) == getattr(told, what)
    usage = (file.text("usage") or "").split()
    if said.usage and len(usage) == 5:
        assert said.usage == (int(usage[0]), int(usage[1]), int(usage[2]), int(usage[4]))


def test_gemini_requests_have_the_types_of_its_sdk(tmp_path):
    if not (MODULES / "@google/genai").exists() or not (MODULES / "typescript").exists():
        pytest.skip("tests/node_modules is not installed")
    bodies = [f for f in FILES if f.rest("provider") == "gemini" and f.text("sends")]
    assert bodies
    source = TYPES + "".join(f"// {f.name}\nexport const r{i}: Body = {json.dumps(json.loads(f.text('sends')))};\n"
                             for i, f in enumerate(bodies))
    # one that must fail, to know that the types bite
    source += "// @ts-expect-error\nexport const wrong: Body = {contents: [], generationConfig: {max_tokens: 1}};\n"
    (tmp_path / "node_modules").symlink_to(MODULES)
    (tmp_path / "bodies.ts").write_text(source)
    node = ROOT / ".venv/bin/node"
    result = subprocess.run([node if node.exists() else "node", MODULES / "typescript/bin/tsc", "--noEmit", "--strict",
                             "--skipLibCheck", "--module", "nodenext", "--target", "esnext", "--types", "",
                             "bodies.ts"],
                            cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
