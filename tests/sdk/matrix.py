# SPDX-License-Identifier: Apache-2.0
"""matrix.toml as tests use it: its cells, the task of a cell, and what must be true of the result.

    for cell in cells(): …                  # every client × scene × kind × streamed or whole
    result = ask(cell, base, node)          # by the client's own program
    check(cell, result)                     # content, finish, calls, usage or the exception
    check_upstream(cell, upstream)          # what reached the provider, and how often
"""
import tomllib
from dataclasses import dataclass
from pathlib import Path

from clients import PYTHON, ask_python

TABLE = tomllib.loads((Path(__file__).parent / "matrix.toml").read_text())
CLIENTS, SCENES, KINDS, FINISH = (TABLE[name] for name in ("clients", "scenes", "kinds", "finish"))
KEY = "sk-of-the-caller"
MAX_TOKENS = 300
RESULTS = ["18 degrees", "24 degrees"]
# A red pixel, and the one answer and the one tool of all scenes that want one.
PNG = ("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJg"
       "gg==")
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
          "required": ["name", "age"], "additionalProperties": False}
TOOL = {"name": "get_weather", "description": "How warm it is in a city",
        "parameters": {"type": "object", "required": ["city"], "properties": {
            "city": {"type": "string"}, "unit": {"type": "string", "enum": ["c", "f"]},
            "days": {"type": "array", "items": {"type": "integer"}}}}}


@dataclass(frozen=True)
class Cell:
    """One test: who asks, for what, through which kind of provider, streamed or not."""
    client: str
    scene: str
    kind: str
    stream: bool

    @property
    def id(self):
        return f"{self.client}-{self.scene}-{'stream' if self.stream else 'whole'}-{self.kind}"

    @property
    def about(self):
        return CLIENTS[self.client]

    @property
    def wanted(self):
        return SCENES[self.scene]

    @property
    def finish(self):
        names = FINISH["ai" if self.about["family"] == "ai" else self.about["dialect"]]
        return names[self.wanted.get("finish", "stop")]


def cells(kinds=tuple(KINDS), scenes=tuple(SCENES), clients=tuple(CLIENTS)):
    """Every cell of the table that its scene allows."""
    for client in clients:
        for name in scenes:
            scene = SCENES[name]
            if scene.get("only") and not CLIENTS[client].get(scene["only"]):
                continue
            for stream in streams_of(client, scene):
                yield from (Cell(client, name, kind, stream) for kind in kinds)


def aimock_cells(kinds=tuple(KINDS), clients=tuple(CLIENTS)):
    """The cells that aimock can play: scenes with an answer or an error, each time the same."""
    special = {"cut", "endless", "fails", "model", "key", "alone", "only"}
    scenes = [name for name, scene in SCENES.items() if not special & set(scene)]
    return [cell for cell in cells(kinds, scenes, clients)
            if f"{cell.client}-{cell.scene}" not in TABLE["aimock"]["without"]]


def streams_of(client, scene):
    if scene.get("stream_only"):
        return [True]
    if "schema" in scene and client.startswith("langchain"):
        return [False]
    return [False] if "class" in scene else [False, True]


def task_of(cell, base):
    """The task for clients.ask."""
    scene = cell.wanted
    task = {"base": base, "key": scene.get("key", KEY), "prompt": scene["prompt"],
            "model": scene.get("model", f"{cell.kind}/{cell.scene}-{cell.client}"),
            "stream": cell.stream, "maxTokens": MAX_TOKENS, "retries": scene.get("retries", 0)}
    task |= {"image": PNG} if scene.get("image") else {}
    task |= {"schema": SCHEMA} if scene.get("schema") else {}
    task |= {"tools": [TOOL]} if scene.get("tools") else {}
    task |= {"leave": True} if scene.get("endless") else {}
    return task


def ask(cell, base, node):
    """Ask as the cell says; the second turn of a tool call asks for the first one before."""
    task = task_of(cell, base)
    ask_once = ask_python if cell.client in PYTHON else node.ask
    if cell.wanted.get("second_turn"):
        first = ask_once(cell.client, task)
        assert "error" not in first, first
        task |= {"calls": first["calls"], "results": RESULTS}
    return ask_once(cell.client, task)


# ---- what the caller must see ----

def check(cell, result, exact_usage=True):
    """The answer or the exception. A fake that cannot say how much was cached gets exact_usage=False."""
    scene = cell.wanted
    if "class" in scene:
        check_error(cell, result)
    elif "cut" in scene:
        was_told = "error" in result or result["finish"] == "failed"   # responses end with a status
        assert was_told, f"a torn answer was taken for a whole one: {result}"
        # a response says itself that it failed
        assert scene["text"].startswith(result["text"]) and result["finish"] in (None, "failed"), result
    elif scene.get("endless"):
        assert "error" not in result and result["text"], result
    else:
        check_answer(cell, result, exact_usage)


def check_error(cell, result):
    scene = cell.wanted
    error = result.get("error")
    assert error, f"no exception: {result}"
    assert error["status"] in scene["status"], error
    wanted = {"AI_APICallError"} if cell.about["family"] == "ai" else {scene["class"]}
    assert wanted & set(error["classes"]), error


def check_answer(cell, result, exact_usage):
    scene = cell.wanted
    assert "error" not in result, result["error"]
    assert result["text"] == scene.get("text", ""), result
    assert result["finish"] == cell.finish, result
    calls = [{"name": call["name"], "arguments": call["arguments"]} for call in result["calls"]]
    assert calls == scene.get("calls", []), result
    ids = [call["id"] for call in result["calls"]]
    assert all(ids) and len(set(ids)) == len(ids), "ids of tool calls must differ"
    if scene.get("schema"):
        assert result["object"] == scene["object"], result
    if cell.stream and len(scene.get("text", "").split(" ")) > 1:
        assert result["pieces"] > 1, f"the stream came in one piece: {result}"
    if "input" in scene:
        check_usage(cell, result["usage"], exact_usage)


def check_usage(cell, usage, exact):
    """Tokens in and out, those from the cache among the first, those of the reasoning among the last.
    What a client itself gets wrong is not asked."""
    names = {"input", "output"} | ({"cached", "reasoning"} if exact else set())
    if cell.about["family"] == "anthropic":
        names.discard("reasoning")         # Anthropic's SDK and LangChain's show it only in part
    if cell.stream and cell.about.get("last") and not exact:
        names.discard("input")
    if cell.stream and cell.about.get("adds"):
        names.discard("output")
        if cell.kind != "anthropic":       # read from message_start, which knows nothing yet
            names -= {"input", "cached"}
    wanted = {name: cell.wanted.get(name, 0) for name in names}
    assert {name: usage[name] for name in names} == wanted, usage


# ---- what the provider must see ----

def check_upstream(cell, upstream):
    """What the fake provider received is what the caller meant, as often as the table says."""
    scene = cell.wanted
    requests = [request for request in upstream.requests if request.scene == cell.scene]
    if "attempts" in scene:
        assert len(requests) in scene["attempts"], [request.path for request in upstream.requests]
    if "class" in scene:
        return
    seen = requests[-1].seen
    assert seen.max_tokens == MAX_TOKENS
    assert seen.images == ([("image/png", PNG)] if scene.get("image") else [])
    if scene.get("tools"):
        assert set(seen.tools) == {TOOL["name"]}
        check_schema(seen.tools[TOOL["name"]], TOOL["parameters"])
    if scene.get("schema"):
        check_schema(seen.schema, SCHEMA)
    if scene.get("second_turn"):
        assert [text for text in RESULTS if any(text in got for _, got in seen.results)] == RESULTS
        check_result_ids(cell, upstream, seen)


def check_schema(got, wanted):
    """The properties and their types arrived; SDKs may add titles and the like."""
    assert got, "the schema did not arrive"
    assert set(got["properties"]) == set(wanted["properties"]), got
    for name, about in wanted["properties"].items():
        assert got["properties"][name]["type"].lower() == about["type"], got
    assert set(wanted["required"]) <= set(got.get("required", [])), got


def check_result_ids(cell, upstream, seen):
    """Each result goes back under the id that the provider gave to its call; Gemini wants the name."""
    if cell.kind == "gemini":
        assert len(seen.results) == len(RESULTS)
        return
    ids = [name for name, _ in seen.results]
    first = next(i for i, request in enumerate(upstream.requests) if request.scene == "tools")
    assert ids == [f"{'toolu' if cell.kind == 'anthropic' else 'call'}_{first + 1}_{i}"
                   for i in range(len(RESULTS))]
