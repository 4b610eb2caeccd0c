# SPDX-License-Identifier: Apache-2.0
"""What a caller cannot get out of a budget by words that his protocol does not know or that stand for more than they
say, and what a change of a budget does to credit and alerts that were there before.

Every answer of the fake provider is 14 tokens.
"""
import base64
import contextlib
import json
import re
import sqlite3
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from caller import CHAT, MESSAGES, STREAM, Stream, ask
from fake_models import FakeModels
from fake_provider import HANG, chat_events, sse, whole
from raw_http import RawClient, request_bytes
from sluice import HANG_GUARD_S, provider_config
from tenants import CONFIG, Api, bearer

ANSWER_TOKENS = 14
FEW = CHAT | {"max_tokens": 10}
HUGE = 2**64 - 1
TO_NOUGHT = 2**59                          # times 100000 it is nought, in 64 bits
RESPONSE = {"model": "m", "input": "hi"}
MESSAGE = {"model": "m", "messages": MESSAGES, "max_tokens": 100000}


def post(server, path, body):
    with RawClient(server.port) as client:
        client.send(request_bytes("POST", path, body))
        return client.read_response()


# ---- words of other protocols ----

@pytest.mark.parametrize("path, body", [
    ("/v1/chat/completions", CHAT | {"max_output_tokens": 1}),
    ("/v1/responses", RESPONSE | {"max_tokens": 1}),
    ("/v1/responses", RESPONSE | {"max_completion_tokens": 1}),
], ids=["chat", "responses", "responses-completion"])
def test_a_limit_of_another_protocol_is_none(sluice, provider, path, body):
    """The provider passes over it, so the answer gets the limit of those who named none."""
    server = sluice(provider_config(provider) + "budgets: {per_project: {tokens: 5000/day}, max_tokens: 500}\n")
    assert post(server, path, body).status == 200
    assert provider.wait_request().json["max_completion_tokens"] == 500


@pytest.mark.parametrize("path, body", [
    ("/v1/chat/completions", CHAT | {"max_tokens": 0}),
    ("/v1/completions", {"model": "m", "prompt": "hi", "max_tokens": 0}),
    ("/v1/chat/completions", FEW | {"n_predict": 100000}),
    ("/v1/chat/completions", FEW | {"n_predict": -1}),
    ("/v1/chat/completions", {"n_predict": 1e6} | CHAT),
    ("/v1/completions", {"model": "m", "prompt": "hi", "max_tokens": 10, "n_predict": 100000}),
    ("/v1/chat/completions", CHAT | {"max_tokens": 100, "n_cmpl": 100}),
    ("/v1/chat/completions", CHAT | {"max_tokens": 100, "best_of": 100}),
], ids=["chat-0", "completions-0", "predict", "predict-all", "predict-float", "predict-completions", "cmpl", "best"])
@pytest.mark.parametrize("written", [bytes, lambda text: spell(text)], ids=["plain", "escaped"])
def test_a_limit_that_some_servers_overlook_bounds_nothing(sluice, provider, path, body, written):
    """To Ollama an answer of at most nothing has no limit; llama-server heeds its own words before the protocol's; and vLLM
    takes the best of several answers in a chat, too."""
    server = sluice(provider_config(provider) + "budgets: {per_project: {tokens: 3000/day}}\n")
    answer = post(server, path, written(json.dumps(body).encode()))
    assert answer.status == 429 and not provider.requests, answer


@pytest.mark.parametrize("path, body", [
    ("/v1/chat/completions", CHAT | {"max_tokens": 100000, "max_output_tokens": HUGE}),
    ("/v1/chat/completions", CHAT | {"max_tokens": 100000, "n": 2, "max_output_tokens": 2**63}),
    ("/v1/messages", MESSAGE | {"max_output_tokens": HUGE}),
    ("/v1/messages", MESSAGE | {"n": TO_NOUGHT}),
    ("/v1/responses", RESPONSE | {"max_output_tokens": 100000, "n": TO_NOUGHT}),
], ids=["chat", "chat-n", "messages", "messages-n", "responses-n"])
def test_no_number_wraps_a_reservation(sluice, provider, path, body):
    """More than the budget is refused, whatever else is named."""
    server = sluice(provider_config(provider) + "budgets: {per_project: {tokens: 5000/day}}\n")
    answer = post(server, path, body)
    assert answer.status == 429 and not provider.requests, answer


# ---- what stands for more than it says ----

def part(kind, **more):
    return [{"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": kind, **more}]}]


DATA = base64.b64encode(b"%PDF-1.7" + bytes(30000)).decode()
CHAT_PATH, MESSAGES_PATH, RESPONSES_PATH = "/v1/chat/completions", "/v1/messages", "/v1/responses"
FILES = {
    "chat-id": (CHAT_PATH, CHAT | {"messages": part("file", file={"file_id": "file-1"})}),
    "chat-data": (CHAT_PATH, CHAT | {"messages": part("file", file={
        "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{DATA}"})}),
    "messages-url": (MESSAGES_PATH, MESSAGE | {"max_tokens": 10, "messages": part(
        "document", source={"type": "url", "url": "https://example.com/a.pdf"})}),
    "messages-id": (MESSAGES_PATH, MESSAGE | {"max_tokens": 10, "messages": part(
        "document", source={"type": "file", "file_id": "file_1"})}),
    "responses-id": (RESPONSES_PATH, RESPONSE | {"max_output_tokens": 10, "input": [
        {"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]}),
    "responses-url": (RESPONSES_PATH, RESPONSE | {"max_output_tokens": 10, "input": [
        {"role": "user", "content": [{"type": "input_file", "file_url": "https://example.com/a.pdf"}]}]}),
    "chat-video": (CHAT_PATH, FEW | {"messages": part(
        "video_url", video_url={"url": "https://example.com/a.mp4"})}),
    "chat-audio": (CHAT_PATH, FEW | {"messages": part(
        "audio_url", audio_url={"url": "https://example.com/a.flac"})}),
    "chat-document": (CHAT_PATH, FEW | {"messages": part("document_url", document_url="https://example.com/a.pdf")}),
    "responses-images": (RESPONSES_PATH, RESPONSE | {"max_output_tokens": 10, "input": [
        {"role": "user", "content": [{"type": "input_image", "file_id": "file-1"}] * 7}]}),
    "images": (CHAT_PATH, CHAT | {"max_tokens": 10, "messages": part(
        "image_url", image_url={"url": "https://example.com/a.png"}) * 7}),
}
FILES["chat-id"][1]["max_tokens"] = FILES["chat-data"][1]["max_tokens"] = 10


def spell(text):
    """Every letter that begins a string, as an escape."""
    return re.sub(rb'"([a-z])', lambda match: b'"\\u%04x' % match[1][0], text)


@pytest.mark.parametrize("written", [bytes, spell], ids=["plain", "escaped"])
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_worth_what_it_may_come_to(name, written, sluice, provider):
    """Its provider will charge for what is in it, and nobody here knows how much that is."""
    path, body = FILES[name]
    server = sluice(provider_config(provider) + "budgets: {per_project: {tokens: 30000/day}}\n")
    answer = post(server, path, written(json.dumps(body).encode()))
    assert answer.status == 429 and not provider.requests, answer


@pytest.mark.parametrize("name", sorted(set(FILES) - {"chat-data"}))
def test_how_much_a_file_may_come_to_can_be_set(name, sluice, provider):
    path, body = FILES[name]
    server = sluice(provider_config(provider) +
                    "budgets: {per_project: {tokens: 30000/day}, file_tokens: 20000, image_tokens: 1000}\n")
    assert post(server, path, body).status != 429


def test_a_tool_that_speaks_of_files_has_none(sluice, provider):
    """What only looks like a file costs nothing where a budget is so tight that it is looked at."""
    schema = {"type": "object", "properties": {"file_id": {"type": "string"}, "kind": {"enum": ["document", "image"]}}}
    tool = {"type": "function", "function": {"name": "read", "parameters": schema}}
    server = sluice(provider_config(provider) + "budgets: {per_project: {tokens: 3000/day}}\n")
    assert ask(server, FEW | {"tools": [tool]}).status == 200


# ---- names in other cases ----

OTHER_CASES = [
    ("/v1/chat/completions", CHAT | {"Model": "dear"}),
    ("/v1/chat/completions", CHAT | {"max_tokens": 10, "MAX_TOKENS": 100000}),
    ("/v1/chat/completions", CHAT | {"Max_Tokens": 100000}),
    ("/v1/chat/completions", CHAT | {"max_tokens": 10, "max_to\u212aens": 100000}),
    ("/v1/chat/completions", CHAT | {"max_tokens": 10, "N": 100}),
    ("/v1/completions", {"model": "m", "prompt": "hi", "max_tokens": 10, "Be\u017ft_of": 100}),
    ("/v1/completions", {"model": "m", "prompt": "hi", "max_tokens": 10, "Prompt": ["hi"] * 1000}),
    ("/v1/responses", RESPONSE | {"Max_Output_Tokens": 100000}),
    ("/v1/messages", MESSAGE | {"max_tokens": 10, "Max_tokens": 100000}),
    ("/v1/embeddings", {"model": "m", "input": "hi", "mOdel": "dear"}),
]


@pytest.mark.parametrize("path, body", OTHER_CASES, ids=range(len(OTHER_CASES)))
@pytest.mark.parametrize("escapes", [False, True], ids=["plain", "escaped"])
def test_a_name_in_another_case_is_refused(sluice, provider, path, body, escapes):
    """There are servers (all that read JSON as Go does) that take it for the member that we read in its usual case:
    whoever may call one model could name another, and whoever reserved ten tokens get a million."""
    server = sluice(provider_config(provider))
    text = json.dumps(body).encode()
    answer = post(server, path, spell_capitals(text) if escapes else text)
    assert answer.status == 400 and not provider.requests, answer


def spell_capitals(text):
    return re.sub(rb'"([A-Z])', lambda match: b'"\\u%04x' % match[1][0], text)


# ---- what the provider reads, and the request does not say ----

THERE = {"id": "resp_there", "object": "response", "created_at": 1, "status": "completed", "model": "m",
         "output": [], "usage": {"input_tokens": 9, "output_tokens": 1, "total_tokens": 10}}
KEPT = {"conversation": {"conversation": "conv_1"}, "prompt": {"prompt": {"id": "pmpt_1"}},
        "reference": {"input": [{"type": "item_reference", "id": "msg_1"}]},
        "bare-reference": {"input": [{"id": "msg_1"}, {"role": "user", "content": "hi"}]}}


@pytest.mark.parametrize("written", [bytes, spell], ids=["plain", "escaped"])
@pytest.mark.parametrize("name", KEPT)
def test_what_a_provider_keeps_is_worth_what_a_file_is(name, written, sluice, provider):
    """How long it is nobody here knows."""
    provider.default = whole(THERE)
    config = provider_config(provider, extra=", responses: on")
    body = written(json.dumps(RESPONSE | {"max_output_tokens": 20} | KEPT[name]).encode())
    server = sluice(config + "budgets: {per_project: {tokens: 30000/day}}\n")
    answer = post(server, RESPONSES_PATH, body)
    assert answer.status == 429 and not provider.requests, answer
    server = sluice(config + "budgets: {per_project: {tokens: 30000/day}, file_tokens: 20000}\n")
    assert post(server, RESPONSES_PATH, body).status == 200


def test_a_response_that_a_provider_keeps_is_worth_what_a_file_is(sluice, provider):
    provider.default = whole(THERE)
    server = sluice(provider_config(provider, extra=", responses: on") +
                    "budgets: {per_project: {tokens: 30000/day}}\n")
    body = RESPONSE | {"max_output_tokens": 20}
    assert post(server, RESPONSES_PATH, body).status == 200
    answer = post(server, RESPONSES_PATH, body | {"previous_response_id": "resp_there"})
    assert answer.status == 429 and len(provider.requests) == 1, answer


def test_a_response_that_is_kept_here_is_worth_what_it_says(sluice, provider):
    server = sluice(provider_config(provider, extra=", responses: off") +
                    "budgets: {per_project: {tokens: 3000/day}}\n")
    body = RESPONSE | {"max_output_tokens": 20}
    first = post(server, RESPONSES_PATH, body).json
    assert post(server, RESPONSES_PATH, body | {"previous_response_id": first["id"]}).status == 200
    item = {"type": "item_reference", "id": first["output"][0]["id"]}
    assert post(server, RESPONSES_PATH, body | {"input": [item, {"role": "user", "content": "hi"}]}).status == 200


def test_a_rerank_reads_its_query_with_each_document(sluice, provider):
    """Those who sell reranking by the token count it so."""
    provider.default = whole({"results": [{"index": 0, "relevance_score": 0.5}], "usage": {"total_tokens": 3}})
    server = sluice(provider_config(provider) + "budgets: {per_project: {tokens: 30000/day}}\n")
    body = {"model": "m", "query": "what is a sluice? " * 20, "documents": ["a"] * 1000}
    answer = post(server, "/v1/rerank", body)
    assert answer.status == 429 and not provider.requests, answer
    assert post(server, "/v1/rerank", body | {"documents": ["a"] * 10}).status == 200


def test_a_prediction_that_fails_is_paid_for(sluice, provider):
    """Its tokens are charged like those of the answer, for each answer."""
    server = sluice(provider_config(provider) + "budgets: {per_project: {tokens: 30000/day}}\n")
    prediction = {"type": "content", "content": "a sluice is a gate " * 500}
    assert ask(server, FEW | {"prediction": prediction}).status == 200
    answer = ask(server, FEW | {"n": 10, "prediction": prediction})
    assert answer.status == 429 and len(provider.requests) == 1, answer


def test_whom_else_a_provider_asks_has_no_price(sluice, provider, tmp_path):
    """A model that the provider may ask in place of the one that was named costs nobody knows what."""
    (tmp_path / "prices.yaml").write_text('currency: USD\nmodels: {m: {input: 1, output: 1}}\n')
    server = sluice(provider_config(provider) + f"prices: {tmp_path}/prices.yaml\n"
                    "budgets: {per_user: {money: 5/day}, per_project: {tokens: 100000/day}}\n")
    refused = ask(server, FEW | {"models": ["dear"]}, [("X-User-ID", "alice")])
    assert refused.status == 403 and refused.json["error"]["code"] == "budget_in_force", refused
    assert provider.requests == []
    assert ask(server, FEW | {"models": []}, [("X-User-ID", "alice")]).status == 200
    assert ask(server, FEW | {"models": ["dear"]}).status == 200


def test_a_model_has_one_price_under_both_its_names(sluice, tmp_path):
    """Gemini knows models/pro for pro: whoever says so pays for pro, not what all others cost."""
    (tmp_path / "prices.yaml").write_text(
        'currency: USD\nmodels: {p/pro: {input: 1000, output: 1000}, "p/*": {input: 1, output: 1}}\n')
    with FakeModels() as fake:
        server = sluice(f"prices: {tmp_path}/prices.yaml\n"
                        f"providers: {{p: {{kind: gemini, url: \"{fake.base('gemini')}\", key: k}}}}\n")
        costs = {ask(server, FEW | {"model": model}).header("x-sluice-cost") for model in ("p/pro", "p/models/pro")}
        assert costs == {"0.071 USD"}
        assert ask(server, FEW | {"model": "p/flash"}).header("x-sluice-cost") == "0.000071 USD"


# ---- budgets that change ----

def spend(server, key, calls):
    """The statuses of so many calls."""
    return [ask(server, FEW, headers=bearer(key)).status for _ in range(calls)]


@pytest.fixture
def project(sluice, provider):
    """project(cap, more) → (server, api, id, key) of a project with a budget of that many tokens in all."""
    def make(cap, more=""):
        server = sluice(provider_config(provider) + CONFIG + more)
        api = Api(server)
        id = api.make("projects", name="p", budgets={"tokens": f"{cap}/total"})["id"]
        return server, api, id, api.make("keys", name="k", project=id)["key"]

    return make


def test_a_lowered_budget_holds_for_credit_that_was_leased(project):
    """What a process has leased of the higher budget is not spent any more, however long nobody called."""
    server, api, id, key = project(100000)
    assert set(spend(server, key, 10)) == {200}
    api.change("projects", id, budgets={"tokens": "120/total"})
    time.sleep(1.5)                        # by then it is said to hold
    assert set(spend(server, key, 10)) == {429}
    budget = api.list("budgets", f"?project={id}")[0]
    assert (budget["spent"], budget["leased"]) == (10 * ANSWER_TOKENS, 0)


def test_a_raised_budget_is_not_near_its_end(project):
    """What answers say of it, and what `route: cost` is told of it, is of what it is now."""
    server, api, id, key = project(1000, "budgets: {lease: 100%}\n")
    assert ask(server, FEW, headers=bearer(key)).header("x-sluice-budget") is None
    api.change("projects", id, budgets={"tokens": "100000/total"})
    assert ask(server, FEW, headers=bearer(key)).header("x-sluice-budget") is None


def test_a_lowered_budget_leaves_what_fits(project):
    """Nobody is refused for the change itself."""
    server, api, id, key = project(100000)
    for cap in (50000, 20000, 5000, 3000):
        assert set(spend(server, key, 5)) == {200}
        api.change("projects", id, budgets={"tokens": f"{cap}/total"})
    assert set(spend(server, key, 5)) == {200}


class Receiver:
    """Takes alerts."""

    def __init__(self):
        self.alerts = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler):
                self.alerts.append(json.loads(handler.rfile.read(int(handler.headers["content-length"]))))
                handler.send_response(204)
                handler.end_headers()

            def log_message(handler, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def wait(self, *wanted):
        """Wait until these have come: (percent, cap)."""
        end = time.monotonic() + HANG_GUARD_S
        while not set(wanted) <= {(alert["percent"], alert["cap"]) for alert in self.alerts}:
            assert time.monotonic() < end, self.alerts
            time.sleep(0.05)


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.http.shutdown()
    receiver.http.server_close()


def test_a_raised_budget_tells_of_its_marks_again(project, receiver):
    """A budget for good that is topped up is told of as a new one is, under another id."""
    server, api, id, key = project(1000, f'budgets: {{webhook: {{url: "{receiver.url}", secret: s}}}}\n')
    spend(server, key, 40)                 # 560
    receiver.wait((50, 1000))
    api.change("projects", id, budgets={"tokens": "2000/total"})
    spend(server, key, 40)                 # 1120
    receiver.wait((50, 2000))
    assert len({alert["id"] for alert in receiver.alerts}) == len(receiver.alerts) == 2


def test_a_lowered_budget_tells_of_marks_that_came_down(project, receiver):
    """Spend that was 14 % of the budget is 70 % of it now."""
    server, api, id, key = project(10000, f'budgets: {{webhook: {{url: "{receiver.url}", secret: s}}}}\n')
    spend(server, key, 100)                # 1400
    api.change("projects", id, budgets={"tokens": "2000/total"})
    assert set(spend(server, key, 2)) == {200}
    receiver.wait((50, 2000))


def kept_in(folder):
    """What lets one server after the other have the same store."""
    return f'data_dir: "{folder}"\nstore: "sqlite:{folder}/kept.db"\n'


def test_a_crash_tells_of_the_marks_that_it_passes(sluice, provider, receiver, tmp_path):
    """What a server that died had leased is booked as spent, and told of as any other spend is."""
    config = (provider_config(provider) + kept_in(tmp_path) +
              f'budgets: {{per_project: {{tokens: 1000/total}}, webhook: {{url: "{receiver.url}", secret: s}}}}\n')
    server = sluice(config)
    provider.script(sse(*chat_events("a", "b", done=False, finish=None), HANG))
    with Stream(server, STREAM | {"max_tokens": 850}) as stream:
        stream.read_until(b'"b"')
        server.kill()
    sluice(config)
    receiver.wait((50, 1000), (80, 1000))
    assert all(alert["spent"] >= 850 for alert in receiver.alerts)


def test_nobody_is_told_of_periods_that_are_long_over(sluice, provider, receiver, tmp_path):
    """Alerts that waited for an address are sent if their budgets are still the same."""
    config = provider_config(provider) + kept_in(tmp_path)
    budgets = "per_project: {tokens: [200/day, 220/total]}"
    server = sluice(config + f"budgets: {{{budgets}}}\n")
    while ask(server, FEW).status == 200:
        pass
    server.stop()
    with contextlib.closing(sqlite3.connect(tmp_path / "kept.db")) as db, db:
        assert db.execute("SELECT COUNT(*) FROM budget_alerts").fetchone()[0] >= 2
        db.execute("UPDATE budget_periods SET ends_s = ends_s - 200000 WHERE period = 'day'")
    server = sluice(config + f'budgets: {{{budgets}, webhook: {{url: "{receiver.url}", secret: s}}}}\n')
    receiver.wait((50, 220))
    time.sleep(1.5)                        # it looks once a second
    assert {alert["budget"]["period"] for alert in receiver.alerts} == {"total"}
