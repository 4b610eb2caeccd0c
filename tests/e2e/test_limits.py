# SPDX-License-Identifier: Apache-2.0
"""Rate limits of one process, as callers see them: what is counted, what the SDKs make of a refusal, and that
everything taken is given back however a call ends. Limits that several processes share are in
test_limits_shared.py; the arithmetic is tested in tests/unit/test_limit.c.
"""
import re
import time
from concurrent.futures import ThreadPoolExecutor

import anthropic
import openai
import pytest
from caller import CHAT, STREAM, Stream, ask, chat_request, outcome
from fake_provider import CLOSE, HANG, RESET, FakeProvider, chat, chat_events, delta, error, event, sse
from raw_http import RawClient, assert_openai_error, request_bytes
from sluice import HANG_GUARD_S, provider_config
from tenants import CONFIG, PLATFORM, Api, bearer, send

MESSAGES = CHAT["messages"]
ROLE, A, FINISH, _ = chat_events("a")


def user(name):
    return [("X-User-ID", name)]


def limits(**scopes):
    """limits(per_user="requests: 2/1h") as configuration."""
    return "limits: {" + ", ".join(f"{scope}: {{{rule}}}" for scope, rule in scopes.items()) + "}\n"


def statuses(server, count, headers=(), body=CHAT):
    """The answers' statuses of so many requests on one connection."""
    with RawClient(server.port) as client:
        found = []
        for _ in range(count):
            client.send(chat_request(body, headers))
            found.append(client.read_response().status)
    return found


def metrics(server, headers=()):
    """{series with its labels: value}."""
    text = send(server.admin_port, "GET", "/metrics", headers=headers).body.decode()
    return {name: float(value) for name, value in re.findall(r"^([^#\s].*) (\S+)$", text, re.MULTILINE)}


# ---- what the SDKs make of it ----

class OpenAI:
    error, prefix = openai.RateLimitError, "x-ratelimit-"
    names = ("limit-{}", "remaining-{}", "reset-{}")

    @staticmethod
    def ask(server, **options):
        """The answer with its headers."""
        with openai.OpenAI(base_url=server.url, api_key="sk-of-the-caller", **options) as client:
            return client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)


class Anthropic:
    error, prefix = anthropic.RateLimitError, "anthropic-ratelimit-"
    names = ("{}-limit", "{}-remaining", "{}-reset")

    @staticmethod
    def ask(server, **options):
        with anthropic.Anthropic(base_url=server.url.removesuffix("/v1"), api_key="sk-of-the-caller",
                                 **options) as client:
            return client.messages.with_raw_response.create(model="m", messages=MESSAGES, max_tokens=50)


EACH_SDK = pytest.mark.parametrize("sdk", [OpenAI, Anthropic], ids=["openai", "anthropic"])


def told(sdk, headers, unit):
    return [headers.get(sdk.prefix + name.format(unit)) for name in sdk.names]


@EACH_SDK
def test_a_refusal_is_the_sdks_own_error(sluice, provider, sdk):
    server = sluice(limits(per_user="requests: 1/1h, tokens: 5000/1h") + provider_config(provider))
    options = {"max_retries": 0, "default_headers": dict(user("alice"))}
    answer = sdk.ask(server, **options)
    limit, remaining, reset = told(sdk, answer.headers, "requests")
    assert (limit, remaining) == ("1", "0") and reset
    assert told(sdk, answer.headers, "tokens")[0] == "5000"
    with pytest.raises(sdk.error) as caught:
        sdk.ask(server, **options)
    failure = caught.value
    assert failure.status_code == 429 and "this user" in str(failure) and "1 requests per 1h" in str(failure)
    assert 3590 <= int(failure.response.headers["retry-after"]) <= 3600
    assert told(sdk, failure.response.headers, "requests")[:2] == ["1", "0"]
    if sdk is OpenAI:
        assert failure.code == "rate_limit_exceeded"
    else:
        assert failure.body["error"]["type"] == "rate_limit_error"
    assert len(provider.requests) == 1


@EACH_SDK
def test_the_sdks_retry_comes_when_it_was_told(sluice, provider, sdk):
    server = sluice(limits(per_user="requests: 1/2s") + provider_config(provider))
    began = time.monotonic()
    for _ in range(3):
        sdk.ask(server, max_retries=1, default_headers=dict(user("alice")))
    took_s = time.monotonic() - began
    assert 3.9 <= took_s < 20 and len(provider.requests) == 3
    refused = [line for line in server.log_lines("request") if line["status"] == 429]
    assert 1 <= len(refused) <= 2 and all(line["limited_by"] == "user requests" for line in refused), refused


# ---- whose limits ----

def test_an_end_user_has_100_a_minute(sluice, provider):
    """Where nothing is configured; and without a name, no limit."""
    server = sluice(provider_config(provider))
    found = statuses(server, 104, user("alice"))
    passed = found.count(200)
    assert found[:100] == [200] * 100 and 100 <= passed <= 102 + found[100:].count(200), found
    assert 429 in found
    assert statuses(server, 1, user("bob")) == [200]
    assert statuses(server, 110) == [200] * 110


@pytest.mark.parametrize("scope, owner", [("per_key", "key"), ("per_user", "user"),
                                          ("per_project", "project"), ("per_model", "model")])
@pytest.mark.parametrize("rule", ["requests: 2/1h", "tokens: 300/1h"])
def test_each_owner_has_its_own(sluice, provider, scope, owner, rule):
    """Refused is the one who has used his up, and nobody else."""
    provider.default = chat("ok", prompt_tokens=149)        # 150 with the answer's word
    server = sluice(CONFIG + limits(**{scope: rule}) + provider_config(provider) +
                    "models: {m: {targets: [fake/m]}, other: {targets: [fake/m]}}\n")
    api = Api(server)
    org = api.make("orgs", name="o")["id"]
    mine, yours = (api.make("projects", name=name, org=org)["id"] for name in "my")
    keys = [api.make("keys", name=name, project=project)["key"]
            for name, project in (("a", mine), ("b", mine), ("c", yours))]
    me = bearer(keys[0]) + user("alice")
    assert statuses(server, 3, me) == [200, 200, 429]
    with RawClient(server.port) as client:
        client.send(chat_request(CHAT, me))
        message = assert_openai_error(client.read_response(), 429, "rate_limit_exceeded")["message"]
    assert owner in message and rule.split()[1].split("/")[0] in message
    others = {"key": (bearer(keys[1]) + user("alice"), CHAT), "user": (bearer(keys[0]) + user("bob"), CHAT),
              "project": (bearer(keys[2]) + user("alice"), CHAT), "model": (me, CHAT | {"model": "other"})}
    blocked = {"per_key": ["user", "model"], "per_user": ["key", "model"], "per_project": ["key", "user", "model"],
               "per_model": ["key", "user"]}[scope]
    for name, (headers, body) in others.items():
        assert statuses(server, 1, headers, body) == [429 if name in blocked else 200], name
    labels = f'scope="{scope.removeprefix("per_")}",unit="{rule.split(":")[0]}"'
    assert metrics(server, bearer(PLATFORM))[f"sluice_limit_refused_total{{{labels}}}"] == 2 + len(blocked)


def test_a_keys_own_limit_goes_first(sluice, provider):
    server = sluice(CONFIG + limits(per_key="requests: 5/1h") + provider_config(provider))
    api = Api(server)
    org = api.make("orgs", name="o")["id"]
    project = api.make("projects", name="p", org=org, limits={"requests": "4/1h"})["id"]
    keys = [api.make("keys", name="a", project=project)["key"],
            api.make("keys", name="b", project=project, limits={"requests": "1/1h"})["key"]]
    assert statuses(server, 2, bearer(keys[1])) == [200, 429]
    assert statuses(server, 4, bearer(keys[0])) == [200, 200, 200, 429]


@pytest.mark.parametrize("own", [{"requests": "off", "streams": 0}, {"requests": "off", "streams": "off"}],
                         ids=["nought", "off"])
def test_a_key_may_have_no_limit(sluice, provider, own):
    """What is off is no limit; what is not set is as for all."""
    server = sluice(CONFIG + limits(per_key="requests: 2/1h, streams: 1, tokens: 100000/1h") + provider_config(provider))
    api = Api(server)
    made = api.make("keys", name="k", limits=own)
    assert statuses(server, 4, bearer(made["key"])) == [200] * 4
    api.change("keys", made["id"], limits={"tokens": "1/1h"})
    assert statuses(server, 1, bearer(made["key"])) == [429]
    api.change("keys", made["id"], limits={"requests": None, "tokens": None})
    assert statuses(server, 3, bearer(made["key"])) == [200, 200, 429]


def test_a_limit_that_is_raised_helps_at_once(sluice, provider):
    """Whoever had used up an hour's limit does not wait for the hour."""
    server = sluice(CONFIG + provider_config(provider))
    api = Api(server)
    made = api.make("keys", name="k", limits={"requests": "2/1h"})
    assert statuses(server, 3, bearer(made["key"])) == [200, 200, 429]
    api.change("keys", made["id"], limits={"requests": "100/1s"})
    ask(server, CHAT, bearer(made["key"]))    # from when on it counts
    time.sleep(0.5)
    assert statuses(server, 10, bearer(made["key"])) == [200] * 10


def test_a_window_is_what_was_asked_for(sluice, provider):
    """One that is longer than can be kept is refused, and the longest there is refills no sooner."""
    server = sluice(CONFIG + provider_config(provider))
    api = Api(server)
    assert api.call("POST", "/admin/keys", {"name": "k", "limits": {"requests": "1/365d"}}).status == 400
    key = api.make("keys", name="k", limits={"requests": "1/50d"})["key"]
    assert statuses(server, 1, bearer(key)) == [200]
    wait_s = int(ask(server, headers=bearer(key)).header("retry-after"))
    assert 50 * 86400 - 60 < wait_s <= 50 * 86400


def test_a_user_is_one_within_its_project_only(sluice, provider):
    server = sluice(CONFIG + limits(per_user="requests: 1/1h") + provider_config(provider))
    api = Api(server)
    org = api.make("orgs", name="o")["id"]
    for name in "ab":
        project = api.make("projects", name=name, org=org)["id"]
        key = api.make("keys", name=name, project=project)["key"]
        assert statuses(server, 2, bearer(key) + user("alice")) == [200, 429]


# ---- tokens ----

def remaining_tokens(answer):
    return int(answer.header("x-ratelimit-remaining-tokens"))


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
def test_tokens_are_estimated_then_corrected(sluice, provider, body):
    server = sluice(limits(per_user="tokens: 10000/100h") + provider_config(provider))
    long = body | {"messages": [{"role": "user", "content": "word " * 800}]}
    provider.default = chat("ok", prompt_tokens=799)
    first = ask(server, long, user("alice"), id="t1")
    assert 8500 <= remaining_tokens(first) <= 9100           # 4,000 bytes are taken for a thousand tokens
    outcome(server, "t1")
    provider.default = chat("ok", prompt_tokens=2999)
    second = ask(server, body, user("alice"), id="t2")
    assert 9100 < remaining_tokens(second) <= 9200           # 800 they were
    outcome(server, "t2")
    third = ask(server, body, user("alice"), id="t3")
    assert 6100 < remaining_tokens(third) <= 6201            # and 3,000 more of the second


def test_h148_who_used_more_than_was_estimated_waits(sluice, provider):
    """The debt is recorded; the next request is refused until it is paid. Of a budget as of a rate."""
    provider.default = chat("ok", prompt_tokens=1499)
    server = sluice(limits(per_user="tokens: 1000/1h") + provider_config(provider))
    assert ask(server, CHAT, user("alice"), id="d1").status == 200
    outcome(server, "d1")
    answer = ask(server, CHAT, user("alice"), id="d2")
    assert_openai_error(answer, 429, "rate_limit_exceeded")
    assert 1800 < int(answer.header("retry-after")) < 2000
    assert outcome(server, "d2")["limited_by"] == "user tokens"


def test_h148_budgets_record_what_was_used(sluice, provider):
    provider.default = chat("ok", prompt_tokens=1499)
    server = sluice("budgets: {per_project: {tokens: [1200/day]}}\n" + provider_config(provider))
    body = CHAT | {"max_tokens": 100}
    assert ask(server, body, id="d1").status == 200
    assert outcome(server, "d1")["input_tokens"] == 1499
    answer = ask(server, body)
    assert answer.status == 429 and answer.json["error"]["code"] == "budget_exceeded", answer
    assert answer.header("x-should-retry") == "false"


def test_a_request_that_never_fits_is_not_tried_again(sluice, provider):
    server = sluice(limits(per_user="tokens: 100/1h") + provider_config(provider))
    body = CHAT | {"messages": [{"role": "user", "content": "word " * 800}]}
    answer = ask(server, body, user("alice"))
    assert_openai_error(answer, 429, "request_too_large")
    assert answer.header("x-should-retry") == "false" and answer.header("retry-after") is None
    assert ask(server, CHAT, user("alice")).status == 200 and len(provider.requests) == 1


# ---- what asks no provider ----

COUNTS = {"/v1/messages/count_tokens": {"model": "m", "messages": MESSAGES},
          "/v1/responses/input_tokens": {"model": "m", "input": "hi"}}


def post(server, path, body, headers):
    return send(server.port, "POST", path, body, headers)


@pytest.mark.parametrize("path", COUNTS)
def test_counting_tokens_is_a_request(sluice, provider, path):
    """It falls under the limits of requests that a call of the model falls under, and is told of them."""
    server = sluice(limits(per_user="requests: 3/100h", per_model="requests: 5/100h") + provider_config(provider))
    found = [post(server, path, COUNTS[path], user("alice")) for _ in range(2)]
    assert [answer.status for answer in found] == [200, 200]
    prefix = "anthropic-ratelimit-requests-{}" if "messages" in path else "x-ratelimit-{}-requests"
    assert [answer.header(prefix.format("remaining")) for answer in found] == ["2", "1"]
    assert ask(server, CHAT, user("alice")).status == 200    # of the same three
    refused = post(server, path, COUNTS[path], user("alice"))
    assert refused.status == 429 and "this user" in refused.json["error"]["message"]
    assert int(refused.header("retry-after")) > 3600
    assert [post(server, path, COUNTS[path], user("bob")).status for _ in range(3)] == [200, 200, 429]
    assert len(provider.requests) == 1


@pytest.mark.parametrize("path", COUNTS)
def test_counting_tokens_uses_none(sluice, provider, path):
    """Neither limits of tokens nor of streams hold for it, nor budgets."""
    server = sluice(limits(per_user="requests: 100/1h, tokens: 10/100h, streams: 1") +
                    "budgets: {per_project: {tokens: 1/total}}\n" + provider_config(provider))
    long = {name: value if name == "model" else "word " * 500 if name == "input" else
            [{"role": "user", "content": "word " * 500}] for name, value in COUNTS[path].items()}
    for _ in range(5):
        answer = post(server, path, long, user("alice"))
        assert answer.status == 200 and answer.json["input_tokens"] > 500


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
def test_an_answer_that_is_given_again_is_a_request(sluice, provider, body):
    """It costs no tokens and no budget, but whoever repeats it all the time is told to slow down; and so is he whose
    repetition is refused."""
    server = sluice(limits(per_user="requests: 4/100h, tokens: 20/100h, streams: 1") + provider_config(provider))
    provider.default = chat("ok", prompt_tokens=19)          # all the tokens that there are
    key = [*user("alice"), ("Idempotency-Key", "k1")]
    first, again = ask(server, body, key), ask(server, body, key)
    assert (first.status, again.status, again.header("idempotent-replayed")) == (200, 200, "true")
    assert again.body == first.body
    assert [answer.header("x-ratelimit-remaining-requests") for answer in (first, again)] == ["3", "2"]
    assert ask(server, body, user("alice")).status == 429    # tokens
    assert ask(server, body | {"temperature": 0.5}, key).status == 422
    assert ask(server, body, key).status == 200
    refused = ask(server, body, key, id="over")
    assert_openai_error(refused, 429, "rate_limit_exceeded")
    assert outcome(server, "over")["limited_by"] == "user requests" and len(provider.requests) == 1


# ---- at once ----

def test_streams_at_once(sluice, provider):
    server = sluice(limits(per_user="streams: 2") + provider_config(provider))
    provider.script(sse(ROLE, A, HANG), sse(ROLE, A, HANG))
    with Stream(server, headers=user("alice")) as one, Stream(server, headers=user("alice")) as two:
        assert one.read_until(b'"a"') and two.read_until(b'"a"')
        refused = ask(server, STREAM, user("alice"))
        assert_openai_error(refused, 429, "rate_limit_exceeded")
        assert refused.header("retry-after") == "1" and "2 requests at once" in refused.json["error"]["message"]
        assert ask(server, CHAT, user("alice")).status == 429       # whole answers are streams, too
        assert ask(server, CHAT, user("bob")).status == 200
    wait_free(server, "alice", 2)


def wait_free(server, name, count):
    """So many at once are free again: asked until they are."""
    end = time.monotonic() + HANG_GUARD_S
    while time.monotonic() < end:
        with ThreadPoolExecutor(count) as pool:
            if set(pool.map(lambda _: ask(server, CHAT, user(name)).status, range(count))) == {200}:
                return
        time.sleep(0.05)
    raise AssertionError("streams were not given back")


# How a stream ends: (the provider's script, what the caller does)
ENDINGS = {
    "well": (sse(*chat_events("a")), "read"),
    "caller-leaves": (sse(ROLE, A, HANG), "close"),
    "caller-resets": (sse(ROLE, A, HANG), "reset"),
    "caller-leaves-before-the-head": (HANG, "leave"),
    "provider-cuts": (sse(ROLE, A, CLOSE), "read"),
    "provider-resets": (sse(ROLE, A, RESET), "read"),
    "provider-stalls": (sse(ROLE, A, HANG), "read"),
    "provider-refuses": (error(500), "read"),
    "provider-refuses-the-question": (error(400), "read"),
    "no-first-token": (HANG, "read"),
    "nonsense": (sse(ROLE, event(b"{"), HANG), "read"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_stream_is_given_back_however_it_ends(sluice, provider, ending):
    script, act = ENDINGS[ending]
    server = sluice(limits(per_user="streams: 1", per_project="streams: 1") + provider_config(provider) +
                    "timeouts: {first_token: 500ms, idle: 500ms}\n")
    provider.script(script if callable(script) else lambda exchange: exchange.run(script))
    with RawClient(server.port) as client:
        client.send(chat_request(STREAM, user("alice"), id="e"))
        provider.wait_request()
        assert ask(server, CHAT, user("alice")).status == 429 or ending.startswith(("well", "provider", "nonsense"))
        if act == "read":
            client.read_response()
        elif act == "leave":
            client.close()
        else:
            client.read_head()
            client.reset() if act == "reset" else client.close()
    outcome(server, "e")
    wait_free(server, "alice", 1)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_no_stream_is_lost_among_many(sluice, provider, streamed):
    """A hundred calls that end in every way, and everything is free again."""
    server = sluice(limits(per_user="requests: 100000/1m, streams: 3") + provider_config(provider) +
                    "timeouts: {idle: 300ms}\n")
    provider.script(*[raw_or(kind) for kind in range(100)])
    body = STREAM if streamed else CHAT

    def one(number):
        with RawClient(server.port) as client:
            client.send(chat_request(body, user("alice")))
            if number % 3:
                client.read_head()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(100)))
    provider.script(*[chat()] * 20)
    wait_free(server, "alice", 3)


def raw_or(kind):
    return [chat(), error(503), lambda exchange: exchange.run(RESET), sse(ROLE, A, RESET)][kind % 4]


# ---- all or nothing ----

@pytest.mark.parametrize("tight", ["per_key", "per_project", "per_model"])
def test_a_refusal_takes_nothing_of_other_limits(sluice, provider, tight):
    """Twenty refusals by one limit, and the others have as much left as before."""
    rules = {"per_user": "requests: 10/100h, tokens: 10000/100h, streams: 1", tight: "requests: 3/100h"}
    server = sluice(limits(**rules) + provider_config(provider) + "models: {m: {targets: [fake/m]}}\n")
    provider.default = chat("ok", prompt_tokens=9)
    for id in ("r1", "r2", "r3"):
        assert ask(server, CHAT, user("alice"), id=id).status == 200
        outcome(server, id)                             # and its tokens are corrected
    refused = [ask(server, CHAT, user("alice")) for _ in range(20)]
    assert {answer.status for answer in refused} == {429}
    assert {answer.header("x-ratelimit-remaining-requests") for answer in refused} == {"0"}
    left = {remaining_tokens(answer) for answer in refused}
    assert left == {10000 - 3 * 10}, left
    assert len(provider.requests) == 3


REFUSED_BY_BUDGET = {"/v1/chat/completions": CHAT | {"max_tokens": 50}, "/v1/messages": CHAT | {"max_tokens": 50},
                     "/v1/responses": {"model": "m", "input": "hi", "max_output_tokens": 50}}


def assert_budgets_refusal_is_told(server, path, stream):
    """The limits are told as they are without the refused call, and are: five more find as much."""
    prefix = "anthropic-ratelimit-{unit}-{word}" if "messages" in path else "x-ratelimit-{word}-{unit}"
    for _ in range(5):
        answer = post(server, path, REFUSED_BY_BUDGET[path] | {"stream": stream}, user("alice"))
        assert answer.status == 429 and "budget" in answer.json["error"]["message"]
        told = [answer.header(prefix.format(unit=unit, word=word)) for unit in ("requests", "tokens")
                for word in ("limit", "remaining")]
        assert told == ["3", "3", "10000", "10000"], told
        if "messages" not in path:
            assert [answer.header(f"x-ratelimit-reset-{unit}") for unit in ("requests", "tokens")] == ["0ms"] * 2


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("path", REFUSED_BY_BUDGET)
def test_a_budgets_refusal_takes_nothing_and_says_so(sluice, provider, path, stream):
    server = sluice(limits(per_user="requests: 3/100h, tokens: 10000/100h, streams: 1") +
                    "budgets: {per_project: {tokens: 9/total}}\n" + provider_config(provider))
    assert_budgets_refusal_is_told(server, path, stream)
    assert not provider.requests


def test_what_nobody_was_asked_costs_nothing(sluice):
    """A call that found no target gives all of it back."""
    with FakeProvider() as gone:
        url = gone.url
    server = sluice(f'limits: {{per_user: {{requests: 2/100h, streams: 1}}}}\n'
                    f'providers: {{fake: {{kind: openai, url: "{url}", key: k}}}}\n'
                    'models: {m: {targets: [fake/m], when: {tags: [never]}}}\n')
    for _ in range(5):
        answer = ask(server, CHAT, user("alice"))
        assert answer.status != 200 and answer.status != 429, answer


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
def test_who_has_heard_the_end_may_come_again_at_once(sluice, provider, body):
    """One at a time, a hundred times without a pause, each on a connection (and so a worker) of its own."""
    server = sluice("workers: 2\n" + limits(per_user="streams: 1") + provider_config(provider))
    assert [ask(server, body, user("alice")).status for _ in range(100)] == [200] * 100


# ---- metrics ----

def test_no_text_of_a_caller_becomes_a_label(sluice, provider):
    """Names of end users, models, tags, paths and methods: whatever callers make up, the series stay those there
    were after the first request of each kind."""
    server = sluice(limits(per_user="requests: 2/1h") + provider_config(provider) +
                    "models: {m: {targets: [fake/m]}}\n")

    def round(mark):
        for path, body in (("/v1/chat/completions", CHAT | {"user": mark, "metadata": {"tags": mark}}),
                           ("/v1/chat/completions", CHAT | {"model": mark}),
                           ("/v1/embeddings", {"model": mark, "input": "x"}), (f"/v1/{mark}", None)):
            for _ in range(4):
                send(server.port, "POST", path, body, [*user(mark), ("x-sluice-tags", mark), ("User-Agent", mark)])
        send(server.port, "POST", "/v1/chat/completions", CHAT, [("x-sluice-target", mark)])
        send(server.port, mark.upper().replace("-", ""), "/v1/models")

    round("made-up-0")
    metrics(server)
    before = set(metrics(server))
    for i in range(1, 20):
        round(f"made-up-{i}")
    text = send(server.admin_port, "GET", "/metrics").body.decode()
    assert set(metrics(server)) == before and "made-up" not in text and "MADEUP" not in text
    assert metrics(server)['sluice_limit_refused_total{scope="user",unit="requests"}'] > 0
