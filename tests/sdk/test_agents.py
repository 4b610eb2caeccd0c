# SPDX-License-Identifier: Apache-2.0
"""Codex CLI and Claude Code at work: one prompt, one tool call, one cancel each, with every kind of provider
behind Sluice; and once without Sluice, so that a change in the agents is not taken for a fault of ours."""
import shutil
import tempfile
from pathlib import Path

import pytest
from agents import AGENTS
from matrix import KEY, KINDS
from sluice import HANG_GUARD_S
from test_matrix import config_of, root_of
from upstream import Upstream

DIRECT = {"codex": "openai", "claude": "anthropic"}
CASES = [(agent, kind) for agent in AGENTS for kind in ("direct", *KINDS)]


@pytest.fixture(params=CASES, ids=lambda case: "-".join(case))
def setting(request, sluice):
    """An agent, a fake provider without scenes, and what starts the agent against it."""
    name, kind = request.param
    folder = Path(tempfile.mkdtemp(prefix="agent-"))    # short: a socket's path must fit into 108 bytes
    with Upstream({}) as upstream:
        if kind == "direct":
            base, model = f"http://127.0.0.1:{upstream.port}", "m"
        else:
            base, model = root_of(sluice(config_of(kind, upstream.port))), f"{kind}/m"
        yield Setting(AGENTS[name], upstream, base, model, folder)
    shutil.rmtree(folder)


class Setting:
    """What a test needs to start its agent."""

    def __init__(self, agent, upstream, base, model, folder):
        self.agent, self.upstream, self.base, self.model = agent, upstream, base, model
        self.folder = folder

    def start(self, prompt, **scenes):
        """Start the agent with a prompt; the provider answers with these scenes."""
        self.upstream.scenes = {name: {"prompt": prompt} | scene for name, scene in scenes.items()}
        return self.agent.start(self.base, self.model, KEY, self.folder, prompt)


def test_prompt(setting):
    run = setting.start("Greet the world.", hello={"text": "Hello, world: Grüße!", "input": 21, "output": 9})
    assert run.finish() == 0, run.stderr
    assert setting.agent.said(run) == "Hello, world: Grüße!"
    assert setting.agent.usage(run) == (21, 9)
    assert len(setting.upstream.requests) == 1


def test_tool_call(setting):
    """The command runs once, and its output, which stands nowhere in the call, comes back to the model."""
    command = "touch made-by-tool; echo sum-$((40 + 2))"
    run = setting.start(
        "Make a file.",
        call={"calls": [setting.agent.shell(command)], "finish": "tools", "input": 10, "output": 7},
        end={"after": "sum-42", "text": "It is made.", "input": 30, "output": 4})
    assert run.finish() == 0, run.stderr
    assert (setting.folder / "made-by-tool").exists()
    assert setting.agent.said(run) == "It is made."
    assert setting.agent.usage(run) == (40, 11)
    assert [request.scene for request in setting.upstream.requests] == ["call", "end"]
    assert "sum-42" in setting.upstream.requests[1].seen.results[0][1]


def test_cancel(setting):
    """Ctrl-C in mid-answer: the agent leaves, and the provider hears of it."""
    run = setting.start("Talk without an end.", talk={"endless": True})
    assert setting.upstream.begun.wait(HANG_GUARD_S), "no request reached the provider"
    run.interrupt()
    run.finish()
    setting.upstream.wait_gone()
    assert len(setting.upstream.requests) == 1
