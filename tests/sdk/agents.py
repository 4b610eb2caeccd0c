# SPDX-License-Identifier: Apache-2.0
"""Codex CLI and Claude Code as batch programs, offline: nothing but the server under test is ever called.

    agent = AGENTS["codex"]
    run = agent.start(base, model, key, folder, "Greet the world.")
    run.finish()                     # exit status; run.events is what it printed, parsed
    agent.said(run), agent.usage(run)

Each run gets a home, a working folder and an environment of its own, so that no login, setting or history
of the machine takes part. What each sends was seen by trial:

    Codex     POST /v1/responses, stream: true, store: false, Authorization: Bearer; developer messages,
              tools of types function, namespace and web_search, include reasoning.encrypted_content,
              about 40 KB, not compressed. The shell tool is exec_command {"cmd"}.
    Claude    POST /v1/messages?beta=true, stream: true, x-api-key, anthropic-version 2023-06-01, a dozen
              anthropic-beta values; system blocks with cache_control, a message of role system in the
              conversation, thinking adaptive, context_management, output_config.effort; about 50 KB. The
              shell tool is Bash {"command", "description"}. No HEAD / and no count_tokens in a short run.

Both take SIGINT as "stop this answer": they close the connection at once and leave.
"""
import json
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from sluice import HANG_GUARD_S, ROOT

PACKAGES = ROOT / "tests/node_modules"


class Run:
    """One running agent."""

    def __init__(self, command, environment, folder):
        self.folder = folder
        self.events, self.stderr = [], ""
        self.process = subprocess.Popen(command, cwd=folder, env=environment, text=True,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)

    def interrupt(self):
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def finish(self):
        """Wait until it has left; returns the exit status."""
        try:
            stdout, self.stderr = self.process.communicate(timeout=HANG_GUARD_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            stdout, self.stderr = self.process.communicate()
            raise AssertionError(f"the agent did not leave:\n{stdout[-2000:]}{self.stderr}") from None
        self.events = [json.loads(line) for line in stdout.splitlines() if line.startswith("{")]
        return self.process.returncode


def program(pattern, package):
    """The native program inside an npm package; skips the test where there is none for this machine."""
    found = sorted(PACKAGES.glob(pattern))
    if not found:
        pytest.skip(f"{package} has no program for this machine in {PACKAGES}")
    return str(found[0])


def environment_of(home, more):
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "LANG": "C.UTF-8", "NO_COLOR": "1",
            "TMPDIR": str(home)} | more


class Codex:
    """OpenAI's Codex CLI, which speaks the Responses API."""

    dialect = "responses"
    programs = "@openai/codex-*/vendor/*/bin/codex"

    @staticmethod
    def shell(command):
        """The call of its shell tool."""
        return {"name": "exec_command", "arguments": {"cmd": command}}

    def start(self, base, model, key, folder, prompt):
        home = Path(tempfile.mkdtemp(dir=folder))
        provider = {"name": "Sluice", "base_url": base + "/v1", "env_key": "SLUICE_KEY",
                    "wire_api": "responses", "request_max_retries": 0, "stream_max_retries": 0}
        settings = [f"model_providers.sluice.{name}={json.dumps(value)}" for name, value in provider.items()]
        command = [program(self.programs, "@openai/codex"), "exec", "--json", "--skip-git-repo-check",
                   "--ephemeral", "--dangerously-bypass-approvals-and-sandbox", "-C", str(folder),
                   "-m", model, "-c", 'model_provider="sluice"']
        for setting in settings:
            command += ["-c", setting]
        environment = environment_of(home, {"CODEX_HOME": str(home), "SLUICE_KEY": key})
        return Run([*command, prompt], environment, folder)

    @staticmethod
    def said(run):
        """The text of the last answer."""
        texts = [event["item"]["text"] for event in run.events
                 if event["type"] == "item.completed" and event["item"]["type"] == "agent_message"]
        return texts[-1] if texts else None

    @staticmethod
    def usage(run):
        """(input, output) of the whole run."""
        usage = next(event["usage"] for event in run.events if event["type"] == "turn.completed")
        return usage["input_tokens"], usage["output_tokens"]


class Claude:
    """Claude Code, which speaks Anthropic's Messages API."""

    dialect = "messages"
    programs = "@anthropic-ai/claude-code-*/claude"
    quiet = ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "DISABLE_AUTOUPDATER", "DISABLE_TELEMETRY",
             "DISABLE_ERROR_REPORTING")

    @staticmethod
    def shell(command):
        """The call of its shell tool."""
        return {"name": "Bash", "arguments": {"command": command, "description": "as asked"}}

    def start(self, base, model, key, folder, prompt):
        home = Path(tempfile.mkdtemp(dir=folder))
        command = [program(self.programs, "@anthropic-ai/claude-code"), "-p", "--output-format", "stream-json",
                   "--verbose", "--model", model, "--allowedTools", "Bash", "--", prompt]
        environment = environment_of(home, {
            "ANTHROPIC_BASE_URL": base, "ANTHROPIC_API_KEY": key, "CLAUDE_CODE_MAX_RETRIES": "0",
            "CLAUDE_CODE_TMPDIR": str(home)} | dict.fromkeys(self.quiet, "1"))
        return Run(command, environment, folder)

    @staticmethod
    def said(run):
        """The text of the last answer."""
        return next((event.get("result") for event in run.events if event["type"] == "result"), None)

    @staticmethod
    def usage(run):
        """(input, output) of the whole run."""
        usage = next(event["usage"] for event in run.events if event["type"] == "result")
        cached = usage["cache_read_input_tokens"] + usage["cache_creation_input_tokens"]
        return usage["input_tokens"] + cached, usage["output_tokens"]


AGENTS = {"codex": Codex(), "claude": Claude()}
