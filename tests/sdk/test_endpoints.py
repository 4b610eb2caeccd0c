# SPDX-License-Identifier: Apache-2.0
"""What the official SDKs can do besides asking a model: embeddings, lists of models, counted tokens, and
stored responses from the first answer to the last."""
import time

import anthropic
import openai
import pytest
from clients import PYTHON, ask_python
from matrix import KEY, KINDS, SCENES, TOOL
from sluice import HANG_GUARD_S
from test_matrix import config_of, root_of
from upstream import vector_of

TEXTS = ["a cat", "Grüße, 世界", "the third of three"]
EMBEDDERS = ["openai-py-embeddings", "openai-node-embeddings", "ai-embeddings", "langchain-embeddings-py",
             "langchain-embeddings-node"]
ALIASES = "models: {{quick: {{targets: [{kind}/m]}}, clever: {{targets: [{kind}/m]}}}}\n"


@pytest.fixture(scope="module")
def serve(module_sluice):
    running = {}

    def address(kind, port):
        if (kind, port) not in running:
            config = config_of(kind, port) + ALIASES.format(kind=kind)
            running[kind, port] = root_of(module_sluice(config))
        return running[kind, port]
    return address


@pytest.fixture(params=KINDS)
def base(request, upstream, serve):
    """The address of a server with a kind of provider; .kind says which."""
    return Base(request.param, serve(request.param, upstream.port))


class Base:
    """A server and the SDKs' clients for it."""

    def __init__(self, kind, url):
        self.kind, self.url = kind, url

    def openai(self, **options):
        return openai.OpenAI(base_url=self.url + "/v1", api_key=KEY, max_retries=0,
                             timeout=HANG_GUARD_S, **options)

    def anthropic(self, **options):
        keys = options or {"api_key": KEY}
        return anthropic.Anthropic(base_url=self.url, max_retries=0, timeout=HANG_GUARD_S, **keys)


# ---- embeddings ----

@pytest.mark.parametrize("kind", ["direct", "openai", "gemini"])
@pytest.mark.parametrize("client", EMBEDDERS)
def test_embeddings(client, kind, upstream, serve, node):
    direct = kind == "direct"
    base = f"http://127.0.0.1:{upstream.port}" if direct else serve(kind, upstream.port)
    task = {"base": base, "key": KEY, "texts": TEXTS, "retries": 0, "model": "m" if direct else f"{kind}/m"}
    result = (ask_python if client in PYTHON else node.ask)(client, task)
    assert "error" not in result, result
    assert result["vectors"] == [vector_of(text) for text in TEXTS]


@pytest.mark.parametrize("given", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}],
                         ids=["default", "float", "base64"])
@pytest.mark.parametrize("kind", ["openai", "gemini"])
def test_embedding_formats(kind, given, upstream, serve):
    """Base64 comes as a string to whoever asks for it by name, numbers to the others."""
    client = Base(kind, serve(kind, upstream.port)).openai()
    answer = client.embeddings.create(model=f"{kind}/m", input=TEXTS[0], **given)
    assert isinstance(answer.data[0].embedding, str if "base64" in given.values() else list)


def test_embedding_of_tokens(upstream, serve):
    client = Base("openai", serve("openai", upstream.port)).openai()
    answer = client.embeddings.create(model="openai/m", input=[[1, 2, 3], [4]])
    assert len(answer.data) == 2
    assert upstream.requests[0].body["input"] == [[1, 2, 3], [4]]


# ---- models ----

def test_models_for_openai(base):
    client = base.openai()
    assert {"quick", "clever"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("quick").id == "quick"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_models_for_anthropic(base):
    client = base.anthropic()
    models = {model.id: model for model in client.models.list()}
    assert {"quick", "clever"} <= set(models)
    assert models["quick"].type == "model" and models["quick"].display_name
    assert client.models.retrieve("quick").id == "quick"
    with pytest.raises(anthropic.NotFoundError):
        client.models.retrieve("no-such-model")


def test_pages_of_models(base):
    """Anthropic's SDK asks for page after page."""
    ids = [model.id for model in base.anthropic().models.list(limit=1)]
    assert len(ids) == len(set(ids)) and {"quick", "clever"} <= set(ids)


# ---- keys ----

@pytest.mark.parametrize("named", ["api_key", "auth_token"])
def test_key_of_anthropic_caller(named, base):
    """x-api-key and Authorization are both a caller's key; the provider sees neither."""
    message = base.anthropic(**{named: KEY}).messages.create(
        model=f"{base.kind}/m", max_tokens=50, messages=[{"role": "user", "content": SCENES["plain"]["prompt"]}])
    assert message.content[0].text == SCENES["plain"]["text"]


def test_callers_key_stays_here(upstream, base):
    test_key_of_anthropic_caller("api_key", base)
    for request in upstream.requests:
        assert KEY not in str(request.headers) and KEY not in request.path
        assert "sk-provider-key" in str(request.headers)


# ---- counted tokens ----

def test_count_tokens(base):
    """The provider's count where it has one, else our own; more text never counts less."""
    client = base.anthropic()

    def count(text, **more):
        return client.messages.count_tokens(
            model=f"{base.kind}/m", messages=[{"role": "user", "content": text}], **more).input_tokens
    short, long = count("one two three"), count("one two three " * 50)
    assert 0 < short <= long
    tool = {"name": TOOL["name"], "description": TOOL["description"], "input_schema": TOOL["parameters"]}
    assert count("one two three", tools=[tool], system="Be brief.") >= short


def test_input_tokens(base):
    client = base.openai()
    count = client.responses.input_tokens.count(model=f"{base.kind}/m", input="one two three")
    assert count.object == "response.input_tokens" and count.input_tokens > 0


# ---- stored responses ----

def ask_stored(client, kind, scene, **more):
    return client.responses.create(model=f"{kind}/m", input=SCENES[scene]["prompt"], **more)


def test_stored_response(base):
    """Kept, found, listed and deleted."""
    client = base.openai()
    first = ask_stored(client, base.kind, "plain")
    again = client.responses.retrieve(first.id)
    assert (again.id, again.output_text, again.status) == (first.id, first.output_text, "completed")
    items = list(client.responses.input_items.list(first.id))
    assert [item.content[0].text for item in items] == [SCENES["plain"]["prompt"]]
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)


def test_response_not_stored(base):
    client = base.openai()
    answer = ask_stored(client, base.kind, "plain", store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(answer.id)


def test_previous_response(upstream, base):
    """The provider gets the conversation so far, whatever it keeps itself."""
    client = base.openai()
    tool = {"type": "function", "strict": False} | TOOL
    first = ask_stored(client, base.kind, "tools", tools=[tool])
    calls = [item for item in first.output if item.type == "function_call"]
    outputs = [{"type": "function_call_output", "call_id": call.call_id, "output": text}
               for call, text in zip(calls, ("18 degrees", "24 degrees"))]
    second = client.responses.create(model=f"{base.kind}/m", previous_response_id=first.id, input=outputs,
                                     tools=[tool])
    assert second.output_text == SCENES["tool_results"]["text"]
    assert second.previous_response_id == first.id
    assert [request.scene for request in upstream.requests] == ["tools", "tool_results"]


def test_streamed_response_is_stored(base):
    client = base.openai()
    with client.responses.stream(model=f"{base.kind}/m", input=SCENES["plain"]["prompt"]) as events:
        streamed = events.get_final_response()
    assert client.responses.retrieve(streamed.id).output_text == SCENES["plain"]["text"]


# ---- responses in the background ----

def ask_in_background(client, kind, **more):
    return ask_stored(client, kind, "plain", background=True, **more)


def wait_for(client, response):
    end = time.monotonic() + HANG_GUARD_S
    while response.status in ("queued", "in_progress"):
        assert time.monotonic() < end
        response = client.responses.retrieve(response.id)
    return response


def test_background_response_is_polled(base):
    client = base.openai()
    queued = ask_in_background(client, base.kind)
    assert queued.status == "queued" and queued.background
    response = wait_for(client, queued)
    assert (response.status, response.output_text) == ("completed", SCENES["plain"]["text"])
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(response.id)


def test_background_stream_is_resumed(base):
    client = base.openai()
    seen = []
    for event in ask_in_background(client, base.kind, stream=True):
        seen.append(event)
        if event.type == "response.output_text.delta":
            break
    id, last = seen[0].response.id, seen[-1].sequence_number
    seen += client.responses.retrieve(id, stream=True, starting_after=last)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    text = "".join(event.delta for event in seen if event.type == "response.output_text.delta")
    assert text == SCENES["plain"]["text"] == seen[-1].response.output_text


@pytest.mark.parametrize("scene", ["plain", "tools"])
def test_stored_response_is_streamed_again(base, scene):
    client = base.openai()
    tools = [{"type": "function", "strict": False} | TOOL] if scene == "tools" else []
    made = ask_stored(client, base.kind, scene, tools=tools)
    with client.responses.stream(response_id=made.id) as events:
        again = events.get_final_response()
    assert again.output_text == made.output_text
    assert [item.model_dump(exclude={"parsed_arguments"}) for item in again.output if item.type == "function_call"] == [
        item.model_dump() for item in made.output if item.type == "function_call"]


def test_background_from_node(base, node):
    result = node.ask("openai-node-background", {
        "base": base.url, "key": KEY, "model": f"{base.kind}/m", "prompt": SCENES["plain"]["prompt"], "retries": 0})
    assert "error" not in result, result
    assert (result["text"], result["finish"]) == (SCENES["plain"]["text"], "completed")
    assert result["resumed"] == SCENES["plain"]["text"]


def test_compaction_needs_a_provider_of_this_api(base):
    with pytest.raises(openai.BadRequestError, match="/responses/compact"):
        base.openai().responses.compact(model=f"{base.kind}/m", input="hi")


def test_unknown_response(base):
    client = base.openai()
    for use in (client.responses.retrieve, client.responses.delete, client.responses.cancel,
                client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            use("resp_unknown")
    with pytest.raises((openai.NotFoundError, openai.BadRequestError)):
        client.responses.create(model=f"{base.kind}/m", input="hi", previous_response_id="resp_unknown")
