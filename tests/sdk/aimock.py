# SPDX-License-Identifier: Apache-2.0
"""@copilotkit/aimock, a fake of the providers that others wrote, with the scenes of matrix.toml.

    with Aimock(scenes) as mock:
        mock.port

It decides for itself how answers look on the wire; we only say which prompt gets which answer.
"""
import json
import subprocess
from pathlib import Path

import pytest
from clients import NODE
from sluice import HANG_GUARD_S

SCRIPT = Path(__file__).parent / "node/aimock.mjs"
STATUS = {"bad_request": 400, "auth": 401, "limited": 429, "server": 500, "overloaded": 503}
FINISH = {"stop": "stop", "length": "length", "tools": "tool_calls"}


def fixture_of(scene):
    """A scene in the words of aimock's fixture files; None for what it cannot play."""
    if "cut" in scene or "endless" in scene or "fails" in scene or "model" in scene or "key" in scene:
        return None
    match = {"userMessage": scene["prompt"]}
    if scene.get("tools"):
        match["hasToolResult"] = "after" in scene
    if "error" in scene:
        error = {"message": f"It failed: {scene['error']}."}
        return {"match": match, "response": {"status": STATUS[scene["error"]], "error": error}}
    counts = (scene["input"], scene["output"])
    usage = dict(zip(("prompt_tokens", "completion_tokens"), counts))
    usage |= dict(zip(("input_tokens", "output_tokens"), counts))
    usage |= dict(zip(("promptTokenCount", "candidatesTokenCount"), counts))
    answer = {"usage": usage, "finishReason": FINISH[scene.get("finish", "stop")]}
    answer |= {"toolCalls": scene["calls"]} if "calls" in scene else {"content": scene["text"]}
    return {"match": match, "response": answer, "chunkSize": 4}


class Aimock:
    """The running process. A missing package skips the test that asks for it."""

    def __init__(self, scenes):
        fixtures = [fixture for fixture in map(fixture_of, scenes.values()) if fixture]
        self.process = subprocess.Popen([NODE, SCRIPT, json.dumps({"fixtures": fixtures})], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"})
        line = self.process.stdout.readline().strip()
        if not line.isdigit():
            self.__exit__()
            pytest.skip(f"aimock cannot be started: {line or 'it ended'}")
        self.port = int(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(HANG_GUARD_S)
