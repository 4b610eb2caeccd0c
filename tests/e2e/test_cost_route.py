# SPDX-License-Identifier: Apache-2.0
"""route: cost in use: the header and the log say what was decided, tiers and budgets count.

How targets are judged and ordered in every case is in tests/unit/test_router.c.
"""
import pytest
from caller import ask, outcome
from fake_provider import chat, whole
from raw_http import RawClient, assert_openai_error, request_bytes
from sluice import provider_config
from tenants import CONFIG, PLATFORM, Api, bearer

EASY = "Hello, thanks!"
HARD = "Prove the theorem, compare both proofs and analyse why each must fail."
MODELS = """
prices: {prices}
models:
  plain: {{targets: fake/small}}
  smart:
    route: cost
    targets:
      - {{model: fake/large}}
      - {{model: fake/small, max_complexity: 30%}}
      - {{model: fake/golden, tiers: [gold]}}
"""
PRICES = """
currency: USD
models:
  fake/small: {input: 0, output: 1}
  fake/large: {input: 0, output: 100000}
  fake/golden: {input: 0, output: 50000}
"""


@pytest.fixture
def server(sluice, provider, tmp_path):
    (tmp_path / "prices.yaml").write_text(PRICES)
    provider.default = chat("one two three four five six seven eight nine")
    return sluice(CONFIG + f'providers: {{fake: {{kind: openai, url: "{provider.url}"}}}}\n' +
                  MODELS.format(prices=tmp_path / "prices.yaml"))


@pytest.fixture
def api(server):
    return Api(server, PLATFORM)


def key_of(api, **project):
    made = api.call("POST", "/admin/projects", {"name": "p", **project}).json
    return api.call("POST", "/admin/keys", {"name": "k", "project": made["id"]}).json["key"]


def question(text, **more):
    return {"model": "auto", "messages": [{"role": "user", "content": text}], "max_tokens": 9, **more}


def asked(server, key, text, **more):
    answer = ask(server, question(text, **more), bearer(key))
    assert answer.status == 200, answer
    return answer.header("x-sluice-model"), answer.header("x-sluice-route")


def test_header_and_log(server, api):
    key = key_of(api)
    assert asked(server, key, EASY) == ("fake/small", "cost: complexity 0 <= 30, cheapest 0.000009 of 2")
    model, route = asked(server, key, HARD)
    assert model == "fake/large" and route.endswith("<= 100, 0.9 of 1")
    stream = ask(server, question(EASY, stream=True), bearer(key), id="r1")
    assert stream.header("x-sluice-route") == outcome(server, "r1")["route"]
    plain = ask(server, question(EASY) | {"model": "plain"}, bearer(key), id="r2")
    assert plain.header("x-sluice-route") is None and "route" not in outcome(server, "r2")


def test_tier_of_the_project(server, api):
    assert asked(server, key_of(api, tier="gold"), HARD)[0] == "fake/golden"
    assert asked(server, key_of(api, tier="silver"), HARD)[0] == "fake/large"


def test_low_budget_takes_the_cheapest(server, api):
    key = key_of(api, budgets={"money": ["1/month"]})
    assert asked(server, key, HARD)[0] == "fake/large"          # 0.9 of it
    model, route = asked(server, key, HARD)
    assert model == "fake/small" and "10% of the budget left, cheapest 0.000009 of 2" in route


def test_explain(server, api):
    def explain(body):
        return api.call("POST", "/admin/route/explain", body)

    told = explain({"prompt": HARD, "tier": "gold", "max_tokens": 9}).json
    assert told["order"] == ["fake/golden", "fake/large"] and told["alias"] == "smart"
    assert [(t["target"], t["verdict"], t["cost"], t["place"]) for t in told["targets"]] == [
        ("fake/large", "kept", "0.9", 2), ("fake/small", "too hard", "0.000009", None),
        ("fake/golden", "kept", "0.45", 1)]
    points = sum(feature["points"] for feature in told["complexity"]["features"])
    assert told["complexity"]["score"] == min(100, round(told["complexity"]["base"] + points))
    assert told["decision"] == f"cost: complexity {told['complexity']['score']} <= 100, cheapest 0.45 of 2"
    told = explain({"prompt": EASY, "model": "fake/small"}).json
    assert (told["decision"], told["alias"], told["order"]) == ("direct", None, ["fake/small"])


def test_explain_for_a_key(server, api):
    """As the key itself would be answered: with its project's tier and what is left of its budgets."""
    project = api.make("projects", name="p", tier="gold", budgets={"money": ["1/month"]})["id"]
    made = api.make("keys", name="k", project=project)

    def explain(**more):
        return api.call("POST", "/admin/route/explain", {"prompt": HARD, "max_tokens": 9, **more}).json

    assert explain(key=made["id"])["order"] == ["fake/golden", "fake/large"]
    assert explain(key=made["id"], tier="silver")["order"] == ["fake/large"]
    assert asked(server, made["key"], HARD)[0] == "fake/golden"
    assert explain(key=made["id"])["budget_left_percent"] < 100 == explain(key="k")["budget_left_percent"]


@pytest.mark.parametrize("body, code", [
    ({"prompt": "x", "key": "key_of_nobody"}, "invalid_value"),
    ({"prompt": "x", "teir": "gold"}, "unknown_parameter"), ({"prompt": 5}, "invalid_type"),
    ({"prompt": "x", "tier": 5}, "invalid_type"), ({"tier": "gold"}, "missing_required_parameter"),
    ([], "invalid_json"), ({"prompt": "x", "model": 5}, "invalid_type"),
    ({"prompt": "x", "messages": []}, None)], ids=str)
def test_explain_refuses(api, body, code):
    assert_openai_error(api.call("POST", "/admin/route/explain", body), 400, code)


def test_explain_says_when_nobody_may(server, api):
    told = api.call("POST", "/admin/route/explain", {"prompt": EASY, "model": "nobody"})
    assert_openai_error(told, 404, "model_not_found")


@pytest.mark.parametrize("more", ["", "      - {model: fake/other, tools: false, max_complexity: 1%}\n"],
                         ids=["by-cost", "by-capability"])
def test_a_list_of_prompts_finds_its_target(sluice, provider, tmp_path, more):
    """What it asks cannot be read here, but by whoever takes it as it stands."""
    (tmp_path / "prices.yaml").write_text(PRICES)
    provider.default = whole({"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [
        {"index": 0, "text": "Hello", "finish_reason": "stop", "logprobs": None}]})
    server = sluice(provider_config(provider) + MODELS.format(prices=tmp_path / "prices.yaml") + more)
    for prompt in ([EASY, EASY], [1, 2, 3]):
        with RawClient(server.port) as client:
            client.send(request_bytes("POST", "/v1/completions", {"model": "smart", "prompt": prompt}))
            answer = client.read_response()
        assert answer.status == 200 and answer.header("x-sluice-model") == "fake/small", answer
