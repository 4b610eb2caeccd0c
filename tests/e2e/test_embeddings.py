# SPDX-License-Identifier: Apache-2.0
"""Embeddings of what is tokens already, for providers that take texts only."""
import json

import pytest
from fake_provider import whole
from raw_http import RawClient, request_bytes
from sluice import ROOT

RANKS = ROOT / ".cache/tokens/cl100k_base.tiktoken"
CONFIG = 'providers: {{g: {{kind: gemini, url: "{url}"}}}}\ndata_dir: {data}\n'
# "a cat" and "Grüße" in cl100k_base
CAT, GREETING = [64, 8415], [6600, 2448, 24352]


def embed(server, input):
    with RawClient(server.port) as client:
        client.send(request_bytes("POST", "/v1/embeddings", {"model": "g/m", "input": input}))
        return client.read_response()


@pytest.fixture
def server(sluice, provider, tmp_path):
    if not RANKS.exists():
        pytest.skip(f"NOT TESTED: {RANKS} is missing; run: script/get-token-ranks .cache/tokens")
    (tmp_path / "tokens").symlink_to(RANKS.parent)
    return sluice(CONFIG.format(url=provider.url, data=tmp_path))


@pytest.mark.parametrize("input, texts", [([CAT, GREETING], ["a cat", "Grüße"]), (CAT, ["a cat"])],
                         ids=["lists", "list"])
def test_tokens_become_texts(server, provider, input, texts):
    provider.script(whole({"embeddings": [{"values": [0.5, -1]}] * len(texts)}))
    answer = embed(server, input)
    assert answer.status == 200, answer.body
    asked = provider.wait_request()
    assert asked.target.endswith("/models/m:batchEmbedContents")
    assert [one["content"]["parts"] for one in asked.json["requests"]] == [[{"text": text}] for text in texts]
    body = json.loads(answer.body)
    assert [one["embedding"] for one in body["data"]] == [[0.5, -1]] * len(texts)
    assert body["usage"]["prompt_tokens"] == sum(len(one) for one in (input if len(texts) > 1 else [input]))


def test_no_such_token(server):
    answer = embed(server, [64, 10**6])
    assert answer.status == 400 and json.loads(answer.body)["error"]["param"] == "input"
