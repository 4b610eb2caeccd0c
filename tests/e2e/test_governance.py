# SPDX-License-Identifier: Apache-2.0
"""Limits, budgets, prices and the ledger along the path of a request: what is reserved, what is charged, and what
a caller could do to pay less.

Prices are whole milli-units per token, so that sums can be read.
"""
import json
import time
from datetime import datetime, timezone

import pytest
from caller import CHAT, MESSAGES, STREAM, Stream, ask, outcome
from fake_answer import Tokens
from fake_models import FakeModels
from fake_provider import HANG, chat, chat_answer, chat_events, error, raw, sse, whole
from raw_http import RawClient, request_bytes
from sluice import HANG_GUARD_S, provider_config
from tenants import CONFIG, Api, bearer

PRICES = "currency: USD\nmodels:\n  fake/m: {input: 1000, output: 2000}\n"


@pytest.fixture
def serve(sluice, provider, tmp_path):
    """serve(budgets, more) → a server with these budgets in front of `provider`."""
    def start(budgets, more="", prices=PRICES):
        (tmp_path / "prices.yaml").write_text(prices)
        return sluice(f"budgets: {budgets}\nprices: {tmp_path}/prices.yaml\n{more}"
                      + provider_config(provider))
    return start


def post(server, path, body, headers=()):
    with RawClient(server.port) as client:
        client.send(request_bytes("POST", path, body, headers))
        return client.read_response()


def ledger(server, count):
    """The rows of calls once there are so many, the latest first."""
    end = time.monotonic() + HANG_GUARD_S
    while True:
        with RawClient(server.admin_port) as client:
            client.send(request_bytes("GET", "/admin/ledger"))
            found = client.read_response().json["data"]
        if len(found) >= count:
            return found
        assert time.monotonic() < end, found
        time.sleep(0.02)


def assert_spent(answer):
    assert answer.status == 429, answer
    assert answer.json["error"]["code"] == "budget_exceeded"
    assert answer.header("x-should-retry") == "false"


# ---- what is reserved ----

@pytest.mark.parametrize("names", [("max_tokens", "max_completion_tokens"),
                                   ("max_completion_tokens", "max_tokens")])
def test_of_two_limits_the_larger_is_reserved(names, serve):
    """A provider knows one of the names, and nobody here knows which."""
    server = serve("{per_project: {tokens: 1000/total}}")
    assert_spent(ask(server, CHAT | {names[0]: 1, names[1]: 5000}))
    assert ask(server, CHAT | {names[0]: 1, names[1]: 50}).status == 200


@pytest.mark.parametrize("names", [("max_tokens", "max_completion_tokens"),
                                   ("max_completion_tokens", "max_tokens")])
@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_limit_beside_a_null_reaches_the_provider(names, field, sluice, provider):
    """What is reserved is what he is told, by the name that he knows."""
    server = sluice(provider_config(provider, extra=f", max_tokens_field: {field}") +
                    "budgets: {per_project: {tokens: 1000/total}}\n")
    assert ask(server, CHAT | {names[0]: None, names[1]: 50}).status == 200
    told = provider.wait_request().json
    assert told.get("max_tokens") == 50 or (field, told["max_completion_tokens"]) == ("max_completion_tokens", 50), told


@pytest.mark.parametrize("parts", ["cache_written: 3000, reasoning: 3000", "cached: 3000, reasoning: 3000",
                                   "cached: 3000, cache_written: 2000, reasoning: 3000"])
def test_each_part_is_reserved_at_its_dearest(parts, serve, provider):
    """A prompt that is written into a cache may well be thought about: 71 tokens by 3 and 10 by 3 are 0.243."""
    prices = f"currency: USD\nmodels:\n  fake/m: {{input: 1000, output: 1000, {parts}}}\n"
    server = serve("{per_project: {money: 0.24/total}}", prices=prices)
    assert_spent(ask(server, CHAT | {"max_tokens": 10}))
    assert not provider.requests
    assert ask(serve("{per_project: {money: 0.25/total}}", prices=prices), CHAT | {"max_tokens": 10}).status == 200


@pytest.mark.parametrize("more,answers", [
    ({"prompt": "one"}, 1), ({"prompt": ["one", "two", "three"]}, 3), ({"prompt": [1, 2, 3]}, 1),
    ({"prompt": [[1, 2], [3]]}, 2), ({"prompt": "one", "n": 2}, 2),
    ({"prompt": "one", "n": 2, "best_of": 5}, 5), ({"prompt": ["one", "two"], "n": 2}, 4)])
def test_every_answer_is_reserved(more, answers, serve, provider):
    server = serve("{per_project: {tokens: 3000/total}}")
    provider.default = whole({"id": "c", "object": "text_completion", "created": 1, "model": "m",
                              "choices": [{"index": 0, "text": "x", "finish_reason": "stop", "logprobs": None}],
                              "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}})
    body = {"model": "m", **more}
    assert_spent(post(server, "/v1/completions", body | {"max_tokens": 3000 // answers + 1}))
    assert post(server, "/v1/completions", body | {"max_tokens": 2500 // answers}).status == 200


def test_an_escaped_name_hides_no_limit(serve, provider):
    """Members whose names are written with escapes are the same members: their null gets our limit."""
    server = serve("{per_project: {tokens: 100000/total}, max_tokens: 77}")
    body = (b'{"model":"m","messages":[{"role":"user","content":"hi"}],'
            b'"max_tok\\u0065ns":null,"max_completion_tok\\u0065ns":null}')
    assert post(server, "/v1/chat/completions", body).status == 200
    sent = provider.wait_request().json
    assert 77 in (sent.get("max_tokens"), sent.get("max_completion_tokens")), sent


def test_all_budgets_that_can_be_set_hold_together(serve):
    everything = ("{tokens: [1000000/day, 1000000/month, 1000000/total], "
                  "money: [1000/day, 1000/month, 1000/total]}")
    server = serve(f"{{per_key: {everything}, per_user: {everything}, per_project: {everything}}}")
    with RawClient(server.port) as client:
        client.send(request_bytes("POST", "/v1/chat/completions", CHAT | {"max_tokens": 5},
                                  [("X-User-ID", "alice")]))
        assert client.read_response().status == 200


def test_the_access_line_tells_what_was_reserved_and_paid(serve, provider):
    provider.script(chat("one two"))
    server = serve("{per_project: {tokens: 100000/total, money: 100/total}}")
    assert ask(server, CHAT | {"max_tokens": 50}, headers=[("X-User-ID", "alice")], id="a1").status == 200
    line = outcome(server, "a1")
    assert line["cost"] == "0.013" and line["user"] == "alice"
    assert line["reserved_tokens"] > 50
    assert float(line["reserved"]) == pytest.approx((line["reserved_tokens"] - 50) / 1000 + 0.1)


# ---- dry runs ----

def test_a_dry_run_changes_nothing(serve, provider):
    """No limit is forced, a model without a price is asked, and what is passed on is passed on."""
    server = serve("{dry_run: true, per_project: {tokens: 1/total, money: 0.001/total}}",
                   more="passthrough: fake\n")
    assert ask(server).status == 200
    sent = provider.wait_request().json
    assert "max_tokens" not in sent and "max_completion_tokens" not in sent
    assert ask(server, CHAT | {"model": "unpriced"}).status == 200
    provider.script(whole({"id": "f"}))
    assert post(server, "/v1/images/generations", {"prompt": "a sluice"}).status == 200


def test_what_cannot_be_priced_is_not_passed_on_under_a_budget(serve, provider):
    server = serve("{per_project: {tokens: 1000/total}}", more="passthrough: fake\n")
    answer = post(server, "/v1/images/generations", {"prompt": "a sluice"})
    assert (answer.status, answer.json["error"]["code"]) == (403, "budget_in_force")
    provider.script(whole({"data": []}))
    with RawClient(server.port) as client:
        client.send(request_bytes("GET", "/v1/files"))
        assert client.read_response().status == 200


# ---- what is charged ----

@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_who_leaves_before_the_first_byte_pays_for_the_question(stream, serve, provider):
    server = serve("{per_project: {money: 100/total}}")
    provider.script(raw(HANG))
    question = [{"role": "user", "content": " word" * 200}]
    with RawClient(server.port) as client:
        client.send(request_bytes("POST", "/v1/chat/completions",
                                  {"model": "m", "stream": stream, "messages": question, "max_tokens": 50}))
        request = provider.wait_request()
    request.wait_peer_closed(HANG_GUARD_S)
    [row] = ledger(server, 1)
    assert (row["outcome"], row["output"], row["estimated"]) == ("client_cancelled", 0, True), row
    assert 200 <= row["input"] < 300 and row["cost"] == pytest.approx(row["input"] / 1000), row


@pytest.mark.parametrize("first,second,cost", [("{input: 0, output: 0}", "{input: 0, output: 1000}", 0.041),
                                               ("{input: 0, output: 1000}", "{input: 0, output: 0}", None)],
                         ids=["second", "first"])
def test_each_target_of_a_continued_answer_has_its_own_price(first, second, cost, sluice, tmp_path):
    (tmp_path / "prices.yaml").write_text(f"currency: USD\nmodels:\n  first/m: {first}\n  second/m: {second}\n")
    with FakeModels("first", Tokens(11, 40)) as one, FakeModels("second", Tokens(22, 41)) as two:
        one.said = two.said = 40
        one.plan("m", "cut:20")
        two.plan("m", "continue")
        server = sluice(f"""prices: {tmp_path}/prices.yaml
providers:
  first: {{kind: openai, url: "{one.base('openai')}", key: sk-first-key}}
  second: {{kind: openai, url: "{two.base('openai')}", key: sk-second-key}}
models:
  m: {{targets: [first/m, second/m], continue: on}}
""")
        body = STREAM | {"messages": [{"role": "user", "content": "how is p1"}]}
        assert b"[DONE]" in ask(server, body, id="a1").body
    line = outcome(server, "a1")
    assert ";cut;" in line["attempts"] or "first/m;" in line["attempts"], line
    if cost is None:                       # the first one's 20 words, as they were counted here
        assert 0.02 <= float(line["cost"]) < 0.12, line
    else:
        assert float(line["cost"]) == cost, line


def test_a_price_that_changes_meanwhile_does_not_count(serve, provider):
    """What held when the call began is what it costs."""
    for patience_s in (3, 10, 40):                             # a busy machine takes its time to start
        changes = int(time.time()) + patience_s
        moment = datetime.fromtimestamp(changes, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        server = serve("{per_project: {money: 100/total}}", prices=f"""currency: USD
models:
  fake/m:
    - {{input: 1000, output: 2000, until: {moment}}}
    - {{input: 5000, output: 9000, from: {moment}}}
""")
        if time.time() < changes - 1:
            break
    events = chat_events("a", usage=(9, 1))
    provider.script(sse(*events[:2], lambda exchange: exchange.pause(changes + 0.3 - time.time()), *events[2:]))
    assert ask(server, STREAM | {"max_tokens": 50}, id="a1").status == 200
    assert outcome(server, "a1")["cost"] == "0.011"


def test_who_heard_the_end_finds_the_budget_free(serve, provider):
    """Also when the provider takes its time to end the body behind the last event."""
    server = serve("{per_project: {tokens: 1000/total}}")
    for _ in range(3):
        provider.script(sse(*chat_events("a", usage=(9, 1)), 0.4))
        with Stream(server, STREAM | {"max_tokens": 800}) as stream:
            stream.read_until(b"[DONE]")
            stream.rest()
        assert ask(server, CHAT | {"max_tokens": 800}).status == 200


# ---- what a caller is told ----

def test_a_refusal_names_the_target_that_was_wished_for(sluice, provider):
    server = sluice(CONFIG + provider_config(provider))
    key = Api(server).make("keys", name="ci", scopes=["models", "route"], models=["fake/m"])["key"]
    answer = post(server, "/v1/chat/completions", CHAT | {"model": "fake/m"},
                  [*bearer(key), ("x-sluice-target", "fake/other")])
    assert answer.status == 403
    assert answer.json["error"]["message"] == "this key may not ask the model 'fake/other'"


@pytest.mark.parametrize("path,body,kind", [
    ("/v1/messages", {"model": "m", "max_tokens": 5000, "messages": MESSAGES}, "anthropic"),
    ("/v1/responses", {"model": "m", "max_output_tokens": 5000, "input": "hi"}, "openai"),
    ("/v1/completions", {"model": "m", "max_tokens": 5000, "prompt": "hi"}, "openai")])
def test_a_spent_budget_in_every_dialect(path, body, kind, serve):
    server = serve("{per_project: {tokens: 1000/day}}")
    answer = post(server, path, body)
    error = json.loads(answer.body)["error"]
    assert answer.status == 429 and answer.header("x-should-retry") == "false"
    assert "1000/day" in error["message"] and "project" in error["message"]
    assert 0 < int(answer.header("retry-after")) <= 86400
    assert error["type"] == ("rate_limit_error" if kind == "anthropic" else "insufficient_quota"), error


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_each_image_is_paid_for(stream, serve, provider):
    """In pass-through, too, where nobody else looks at the prompt."""
    server = serve("{}", prices="currency: USD\nmodels:\n  fake/m: {input: 0, output: 0, image: 0.25}\n")
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    content = [{"type": "text", "text": "What is this?"}, picture, picture]
    provider.default = chat("Two dots")
    assert post(server, "/v1/chat/completions", CHAT | {
        "stream": stream, "messages": [{"role": "user", "content": content}]}).status == 200
    row = ledger(server, 1)[0]
    assert row["cost"] == 0.5, json.dumps(row)


def test_an_image_costs_what_it_does_where_it_is_answered(sluice, provider, tmp_path):
    """Although the target that could not take the question has no price for images."""
    (tmp_path / "prices.yaml").write_text("currency: USD\nmodels:\n  fake/short: {input: 0, output: 0}\n"
                                          "  fake/long: {input: 0, output: 0, image: 0.25}\n")
    server = sluice(f"prices: {tmp_path}/prices.yaml\n" + provider_config(provider) +
                    "models: {m: {targets: fake/short, context_fallbacks: [fake/long]}}\n")
    provider.script(error(400, "Too long.", type="invalid_request_error", code="context_length_exceeded"))
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    answer = post(server, "/v1/chat/completions", CHAT | {"messages": [{"role": "user", "content": [picture]}]})
    assert answer.header("x-sluice-model") == "fake/long" and answer.header("x-sluice-cost") == "0.25 USD", answer


def test_parts_of_a_count_are_no_more_than_the_whole(serve, provider):
    """Of a prompt of nine tokens no more than nine can come from a cache."""
    server = serve("{}")
    for details in ({"prompt_tokens_details": {"cached_tokens": 1000, "cache_write_tokens": 2**64 - 1}},
                    {"completion_tokens_details": {"reasoning_tokens": 2**64 - 1}}):
        usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14, **details}
        provider.script(whole(chat_answer() | {"usage": usage}))
        told = post(server, "/v1/messages", CHAT | {"max_tokens": 9}).json["usage"]
        assert told["input_tokens"] + told["cache_read_input_tokens"] + told["cache_creation_input_tokens"] == 9, told
    thoughtful, cached = ledger(server, 2)[:2]
    assert (thoughtful["output"], thoughtful["reasoning"]) == (5, 5), thoughtful
    assert (cached["input"], cached["cached"], cached["cache_written"]) == (9, 9, 0), cached


# ---- end users whom the body names ----

@pytest.mark.parametrize("path, more", [
    ("/v1/chat/completions", {"user": "alice"}),
    ("/v1/chat/completions", {"safety_identifier": "alice", "user": "else"}),
    ("/v1/chat/completions", {"user": "else", "safety_identifier": "al\u0069ce", "stream": True}),
    ("/v1/responses", {"user": "alice"}),
    ("/v1/messages", {"metadata": {"user_id": "alice"}}),
], ids=["chat", "safety", "stream", "responses", "messages"])
def test_a_user_of_the_body_is_told_apart_and_not_limited(path, more, serve, provider):
    """Of limits for users, programs that send one to the provider know nothing."""
    server = serve("{per_user: {tokens: 1/total}}", "limits: {per_user: {requests: 1/60s}}\n")
    asked = {"/v1/responses": {"model": "m", "input": "hi"}, "/v1/messages": CHAT | {"max_tokens": 9}}.get(path, CHAT)
    for _ in range(2):
        assert post(server, path, asked | more).status == 200
    assert [row["user"] for row in ledger(server, 2)] == ["alice", "alice"]


@pytest.mark.parametrize("user", ["x" * 129, "a\nb", "", 7, None, {"id": "alice"}])
def test_who_cannot_be_a_user_is_the_providers_matter(user, serve, provider):
    server = serve("{}")
    answer = post(server, "/v1/messages", CHAT | {"max_tokens": 9, "metadata": {"user_id": user}})
    assert answer.status == 200 or answer.json["error"]["type"] == "invalid_request_error", answer
    assert answer.status != 200 or ledger(server, 1)[0]["user"] == ""


def test_the_header_names_the_user_before_the_body(serve):
    server = serve("{}")
    assert ask(server, CHAT | {"user": "bob"}, [("X-User-ID", "alice")]).status == 200
    assert ledger(server, 1)[0]["user"] == "alice"


def test_a_suspended_user_is_refused_by_the_body_too(sluice, provider):
    server = sluice(CONFIG + provider_config(provider))
    api = Api(server)
    key = api.make("keys", name="k")["key"]
    api.make("users", user="mallory", project="default", suspended=True)
    answer = ask(server, CHAT | {"user": "mallory"}, bearer(key))
    assert answer.status == 401 and answer.json["error"]["code"] == "user_suspended", answer
    assert not provider.requests
    assert ask(server, CHAT | {"user": "alice"}, bearer(key)).status == 200
