# SPDX-License-Identifier: Apache-2.0
"""What a caller cannot get out of a budget by words that his protocol does not know or that stand for more than they
say, and what a change of a budget does to credit and alerts that were there before.

Every answer of the fake provider is 14 tokens.
"""
import base64
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from caller import CHAT, MESSAGES, ask
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
