# SPDX-License-Identifier: Apache-2.0
"""The matrix without Sluice: each client asks a fake that speaks its own dialect. What fails here is a
fault of the tests or of an SDK, not ours; the same checks then judge the cells with Sluice between.

Google's SDK has no dialect of ours. It asks the fake Gemini, and its type definitions are held against
every answer of the fake, so that the fake is a judge's Gemini and not only ours."""
import json
import subprocess

import pytest
import wire
from clients import NODE
from matrix import (CLIENTS, MAX_TOKENS, PNG, RESULTS, SCENES, Cell, aimock_cells, ask, cells, check,
                    check_upstream, task_of)
from sluice import ROOT

KIND = {"chat": "openai", "responses": "openai", "messages": "anthropic"}
ANSWERED = [name for name, scene in SCENES.items() if "input" in scene and "error" not in scene]
ENDS = ["torn", "left"]
TSC = ROOT / "tests/node_modules/typescript/bin/tsc"
GEMINI_FINISH = {"stop": "STOP", "length": "MAX_TOKENS", "tools": "STOP"}


def direct(make):
    """The cells whose client speaks the fake's own dialect."""
    return [cell for client, about in CLIENTS.items()
            for cell in make(kinds=[KIND[about["dialect"]]], clients=[client])]


@pytest.mark.parametrize("cell", [cell for cell in direct(cells) if cell.scene in ANSWERED + ENDS],
                         ids=lambda cell: cell.id)
def test_client_asks_fake(cell, upstream, node):
    result = ask(cell, f"http://127.0.0.1:{upstream.port}", node)
    check(cell, result)
    check_upstream(cell, upstream)
    if cell.wanted.get("endless"):
        upstream.wait_gone()


@pytest.mark.parametrize("cell", [cell for cell in direct(aimock_cells) if cell.scene in ANSWERED],
                         ids=lambda cell: cell.id)
def test_client_asks_aimock(cell, aimock, node):
    check(cell, ask(cell, f"http://127.0.0.1:{aimock}", node), exact_usage=False)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("scene", ANSWERED)
def test_google_asks_fake_gemini(scene, stream, upstream, node):
    wanted = SCENES[scene]
    task = task_of(Cell("openai-py-chat", scene, "gemini", stream), f"http://127.0.0.1:{upstream.port}")
    if wanted.get("second_turn"):
        task |= {"calls": SCENES["tools"]["calls"], "results": RESULTS}
    result = node.ask("genai-node", task)
    assert "error" not in result, result
    assert result["text"] == wanted.get("text", "")
    assert result["calls"] == wanted.get("calls", [])
    assert result["finish"] == GEMINI_FINISH[wanted.get("finish", "stop")]
    assert result["usage"] == {name: wanted.get(name, 0) for name in result["usage"]}
    seen = upstream.requests[-1].seen
    assert seen.max_tokens == MAX_TOKENS
    assert seen.images == ([("image/png", PNG)] if wanted.get("image") else [])


@pytest.mark.parametrize("name", ["auth", "limited", "bad_request", "server", "overloaded"])
def test_google_asks_failing_gemini(name, upstream, node):
    scene = next(key for key, scene in SCENES.items() if scene.get("error") == name)
    task = task_of(Cell("openai-py-chat", scene, "gemini", False), f"http://127.0.0.1:{upstream.port}")
    error = node.ask("genai-node", task)["error"]
    assert "ApiError" in error["classes"]
    assert error["status"] == {"auth": 401, "limited": 429, "bad_request": 400, "server": 500,
                               "overloaded": 503}[name]


def test_fake_gemini_has_googles_types(tmp_path):
    """Every answer, whole and streamed, is a literal of the SDK's types: no unknown member, no wrong
    value of an enumeration. GenerateContentResponse is a class there, so its members are held one by one."""
    if not TSC.exists():
        pytest.skip("the TypeScript compiler is not installed in tests/node_modules")
    lines = ["import type { Candidate, FinishReason, GenerateContentResponse,",
             "    GenerateContentResponseUsageMetadata } from '@google/genai';",
             "type Loose<T> = T extends FinishReason ? `${T}` : T extends object ? { [K in keyof T]: Loose<T[K]> } : T;",
             "type Answer = Loose<{ candidates: Candidate[];",
             "    usageMetadata?: GenerateContentResponseUsageMetadata;",
             "    modelVersion: NonNullable<GenerateContentResponse['modelVersion']>;",
             "    responseId: NonNullable<GenerateContentResponse['responseId']>; }>;"]
    for name in ANSWERED:
        scene = wire.Scene(**{key: value for key, value in SCENES[name].items()
                              if key in wire.Scene.__dataclass_fields__})
        answers = [wire.compact(wire.Gemini.whole(scene, "m", 1))]
        answers += [event.decode().strip().removeprefix("data: ")
                    for event in wire.Gemini.stream(scene, "m", 1, {})]
        lines += [f"export const {name}_{i}: Answer = {text};" for i, text in enumerate(answers)]
    (tmp_path / "answers.ts").write_text("\n".join(lines))
    (tmp_path / "node_modules").symlink_to(ROOT / "tests/node_modules")
    (tmp_path / "tsconfig.json").write_text(json.dumps({
        "compilerOptions": {"strict": True, "noEmit": True, "skipLibCheck": True, "target": "es2022",
                            "module": "nodenext", "types": ["node"], "typeRoots": ["node_modules/@types"]},
        "files": ["answers.ts"]}))
    done = subprocess.run([NODE, TSC, "-p", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
