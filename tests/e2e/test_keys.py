# SPDX-License-Identifier: Apache-2.0
"""Keys in use, those of the configuration and those of the store: who may do what, what the log says
of it, and how keys come and go.

What a key must look like on the wire is in test_connections.py (e99 …), who may use which route in
test_authorisation.py.
"""
import json
import re
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from caller import CHAT, STREAM, ask, outcome
from command import run
from raw_http import RawClient, assert_openai_error, request_bytes
from sluice import BUSY_S, ROOT, Sluice, provider_config
from tenants import CONFIG, PLATFORM, Api, Tenant, bearer, send

ALICE, BOB, ROOT_KEY = "sk-of-alice-1234", "sk-of-bob-56789", "sk-of-the-admin"
KEYS = (f'keys: {{static: [{{name: alice, key: "{ALICE}"}},\n'
        f'                {{name: bob, key: "{BOB}", scopes: [admin]}}]}}\n'
        f'admin_key: "{ROOT_KEY}"\n')


def get(port, target, key=None, host="localhost"):
    with RawClient(port) as client:
        client.send(request_bytes("GET", target, headers=bearer(key) if key else [], host=host))
        return client.read_response()


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
def test_the_name_is_logged_and_no_key(sluice, provider, body):
    server = sluice(KEYS + provider_config(provider))
    assert ask(server, body, bearer(ALICE), id="k1").status == 200
    assert outcome(server, "k1")["key"] == "alice"
    assert ask(server, body, bearer(ALICE + "x"), id="k2").status == 401
    assert "key" not in outcome(server, "k2")
    assert len(provider.requests) == 1 and ALICE.encode() not in provider.requests[0].head
    server.stop()
    log = "\n".join(server.stderr)
    assert all(key not in log for key in (ALICE, BOB, ROOT_KEY))


def test_scopes(sluice, provider):
    """Each key opens its own doors: models or admin."""
    server = sluice(KEYS + provider_config(provider))
    assert get(server.port, "/v1/models", ALICE).status == 200
    assert_openai_error(get(server.port, "/v1/models", BOB), 403, "insufficient_permissions")
    assert_openai_error(get(server.admin_port, "/admin/requests", ALICE), 403)
    assert get(server.admin_port, "/admin/requests", BOB).status == 200
    assert get(server.admin_port, "/admin/requests", ROOT_KEY).status == 200
    assert get(server.admin_port, "/admin/requests").status == 401
    assert get(server.port, "/v1/models", ROOT_KEY).status == 401


@pytest.mark.parametrize("target", ["/health", "/ready"])
def test_health_needs_no_key(sluice, provider, target):
    server = sluice(KEYS + provider_config(provider))
    assert get(server.port, target).status == 200
    assert get(server.admin_port, target).status == 200


def test_with_keys_any_name_is_served(sluice, provider):
    """A page that reaches in under a foreign name has no key."""
    server = sluice(KEYS + provider_config(provider))
    assert get(server.port, "/v1/models", ALICE, host="models.example.com").status == 200
    assert get(server.port, "/v1/models", host="models.example.com").status == 401


def test_keys_come_and_go_with_a_reload(sluice, provider):
    server = sluice(KEYS + provider_config(provider))
    server.write_config(KEYS.replace(ALICE, "sk-of-alice-anew") + provider_config(provider))
    server.reload()
    server.wait_log("configuration reloaded")
    assert get(server.port, "/v1/models", ALICE).status == 401
    assert get(server.port, "/v1/models", "sk-of-alice-anew").status == 200


def test_keys_not_required(sluice, provider):
    """Then they are not looked at."""
    server = sluice('keys: {required: false, static: [{name: a, key: "sk-of-alice-1234"}]}\n'
                    + provider_config(provider))
    assert get(server.port, "/v1/models").status == 200
    assert get(server.port, "/v1/models", "sk-anything").status == 200


NO_KEYS = "keys: {required: false}\n"


@pytest.mark.parametrize("config", [NO_KEYS + "listen: 0.0.0.0:0\n",
                                    NO_KEYS + 'listen: "[::]:0"\n',
                                    "admin: 0.0.0.0:0\n"])
def test_open_doors_refuse_to_start(sluice, provider, config):
    """Without keys, this machine only."""
    server = sluice(config + provider_config(provider), wait=False)
    assert server.wait_exit(expected=None) != 0
    assert "key" in "\n".join(server.stderr)


def test_an_open_address_wants_keys_and_the_first_is_shown_once(sluice, provider):
    """Whoever listens to the world without a word on keys gets keys."""
    config = "listen: 0.0.0.0:0\n" + provider_config(provider)
    server = sluice(config)
    shown = re.findall(r"sk-sluice-[A-Za-z0-9_-]{43}", "\n".join(server.stderr))
    assert len(shown) == 1
    assert get(server.port, "/v1/models").status == 401
    assert get(server.port, "/v1/models", shown[0]).status == 200
    assert get(server.admin_port, "/admin/keys").status == 401
    assert get(server.admin_port, "/admin/keys", shown[0]).status == 200


@pytest.mark.parametrize("kind", ["projects", "orgs"])
def test_who_needs_no_key_is_disabled_with_the_default_project(sluice, provider, kind):
    """Calls without a key are on its account; whoever sits at the machine can enable it again."""
    server = sluice(provider_config(provider))

    def switch(disabled):
        assert send(server.admin_port, "PATCH", f"/admin/{kind}/default", {"disabled": disabled}).status == 200

    assert ask(server).status == 200
    switch(True)
    for headers in ([], bearer("any")):
        assert_openai_error(ask(server, CHAT, headers), 401, "key_disabled")
    assert get(server.port, "/health").status == 200
    switch(False)
    assert ask(server).status == 200


# ---- keys of the store ----

@pytest.fixture(scope="module")
def served(module_sluice, module_provider):
    """A server whose keys come from its store, and its admin API."""
    server = module_sluice(CONFIG + "workers: 2\n" + provider_config(module_provider))
    return server, Api(server)


def ways_of(key):
    """Every way to show a key."""
    return [bearer(key), [("x-api-key", key)], [("authorization", f"bearer {key}")]]


def models(server, headers):
    return send(server.port, "GET", "/v1/models", headers=headers)


def statuses(server, key):
    return {models(server, headers).status for headers in ways_of(key)}


def test_a_new_key_works_at_once_everywhere(served):
    server, api = served
    for _ in range(5):
        made = api.make("keys", name="ci")
        assert made["key"].startswith("sk-sluice-") and len(made["key"]) == 53
        assert statuses(server, made["key"]) == {200}
        assert "key" not in api.call("GET", f"/admin/keys/{made['id']}").json


@pytest.mark.parametrize("change", ["revoke", "disable", "expire", "rotate", "project", "org"])
def test_e100_a_key_that_is_not_good_any_more(served, change):
    server, api = served
    org = api.make("orgs", name="o")["id"]
    project = api.make("projects", name="p", org=org)["id"]
    made = api.make("keys", name="k", project=project)
    assert statuses(server, made["key"]) == {200}
    {"revoke": lambda: api.remove("keys", made["id"]),
     "disable": lambda: api.change("keys", made["id"], disabled=True),
     "expire": lambda: api.change("keys", made["id"], expires="2020-01-01T00:00:00Z"),
     "rotate": lambda: api.rotate(made["id"]),
     "project": lambda: api.remove("projects", project),
     "org": lambda: api.change("orgs", org, disabled=True)}[change]()
    assert statuses(server, made["key"]) == {401}


def test_e106_no_refusal_repeats_a_key(served):
    server, api = served
    expired = api.make("keys", name="k", expires="2020-01-01T00:00:00Z")
    revoked = api.make("keys", name="k")
    api.remove("keys", revoked["id"])
    for made, code in ((expired, "key_expired"), (revoked, "key_disabled")):
        assert_openai_error(models(server, bearer(made["key"])), 401, code)
        for headers in ways_of(made["key"]):
            answer = models(server, headers)
            assert answer.status == 401, answer
            assert made["key"][10:20].encode() not in answer.raw
            assert made["id"].encode() not in answer.raw


def test_e101_a_key_must_be_whole(served):
    """Part of a key, more than a key and what looks like SQL get the same bytes as any wrong key."""
    server, api = served
    key = api.make("keys", name="k")["key"]
    wrong = [key[:-1], key + "A", key[:10], key.upper(), key[10:], "' OR '1'='1", "x\" OR 1=1 --",
             "%", "key_*", "A" * 8000]
    seen = {models(server, [*headers, ("X-Request-Id", "same")]).body
            for text in wrong for headers in ways_of(text)}
    assert len(seen) == 2              # one for each of the two headers' dialects
    assert_openai_error(models(server, bearer(wrong[0])), 401, "invalid_api_key")
    assert models(server, bearer(key + "\0")).status == 400
    assert statuses(server, key) == {200}


def test_e102_scopes_and_models(served):
    server, api = served
    key = api.make("keys", name="k", models=["m", "fake/small*"])["key"]
    assert ask(server, CHAT, bearer(key)).status == 200
    for model in ("other", "fake/large", "fake/m"):
        refusal = ask(server, CHAT | {"model": model}, bearer(key))
        assert_openai_error(refusal, 403, "insufficient_permissions")
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        refusal = send(server.port, "POST", path, CHAT | {"model": "other", "max_tokens": 5},
                       bearer(key))
        assert refusal.status == 403 and refusal.json["type"] == "error", refusal
    assert send(server.admin_port, "GET", "/metrics", headers=bearer(key)).status == 403
    assert send(server.admin_port, "GET", "/admin/keys", headers=bearer(key)).status == 403


@pytest.mark.parametrize("path, more", [
    ("/v1/chat/completions", {"models": ["dear"]}), ("/v1/chat/completions", {"models": "dear"}),
    ("/v1/messages", {"fallbacks": [{"model": "dear"}], "max_tokens": 5}),
    ("/v1/messages", {"fallbacks": "default", "max_tokens": 5})])
def test_e102_a_provider_asks_no_other_model(served, path, more):
    """Some services ask other models if the request says so: a key for one model is not for them."""
    server, api = served
    keys = {name: api.make("keys", name="k", models=list)["key"]
            for name, list in (("some", ["m"]), ("any", ["*"]), ("all", []))}
    refused = send(server.port, "POST", path, CHAT | more, bearer(keys["some"]))
    assert refused.status == 403 and b"other models" in refused.body, refused
    assert send(server.port, "POST", path, CHAT | more | {list(more)[0]: None}, bearer(keys["some"])).status == 200
    for name in ("any", "all"):
        assert send(server.port, "POST", path, CHAT | more, bearer(keys[name])).status != 403


def test_a_key_sees_only_its_models(sluice, provider):
    server = sluice(CONFIG + provider_config(provider) +
                    "models: {a: {targets: [fake/x]}, b: {targets: [fake/y]}}\n")
    api = Api(server)
    key = api.make("keys", name="k", models=["a"])["key"]
    listed = models(server, bearer(key)).json["data"]
    assert [model["id"] for model in listed] == ["a"]
    assert send(server.port, "GET", "/v1/models/b", headers=bearer(key)).status == 404
    assert send(server.port, "GET", "/v1/models/a", headers=bearer(key)).status == 200


def test_a_target_that_is_wished_for_must_be_named(served):
    server, api = served
    key = api.make("keys", name="k", scopes=["models", "route"], models=["m"])["key"]
    wish = [*bearer(key), ("x-sluice-target", "fake/other")]
    assert_openai_error(ask(server, CHAT, wish), 403, "insufficient_permissions")


def test_addresses(served):
    server, api = served
    for ips, status in ((["127.0.0.0/8"], 200), (["127.0.0.1", "::1"], 200), (["10.0.0.0/8"], 403),
                        (["::1"], 403), ([], 200)):
        made = api.make("keys", name="k", ips=ips)
        assert statuses(server, made["key"]) == {status}, ips


def test_rotation_with_overlap(served):
    server, api = served
    made = api.make("keys", name="k")
    new = api.rotate(made["id"], overlap="1h")
    assert new["id"] == made["id"] and new["key"] != made["key"] and new["old_expires"]
    assert statuses(server, made["key"]) == statuses(server, new["key"]) == {200}
    newest = api.rotate(made["id"])
    assert statuses(server, made["key"]) == statuses(server, new["key"]) == {401}
    assert statuses(server, newest["key"]) == {200}


# ---- end users ----

@pytest.mark.parametrize("user,status", [("alice", 200), ("a" * 128, 200), ("a" * 129, 400),
                                         ("大" * 128, 200), ("大" * 129, 400), ("a\tb", 400),
                                         ("a\x85", 400), ("; DROP TABLE users", 200)])
def test_user_ids(served, user, status):
    server, api = served
    key = api.make("keys", name="k")["key"]
    raw = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + key.encode() + \
        b"\r\nX-User-ID: " + user.encode() + b"\r\n\r\n"
    with RawClient(server.port) as client:
        client.send(raw)
        assert client.read_response().status == status


def test_two_users_are_none(served):
    server, api = served
    key = api.make("keys", name="k")["key"]
    both = [("X-User-ID", "a"), ("X-User-ID", "b")]
    assert_openai_error(models(server, [*bearer(key), *both]), 400, "invalid_header")


def test_a_suspended_user(served):
    """One user of one project, with every key of it; nobody else."""
    server, api = served
    project = api.make("projects", name="p")["id"]
    inside = api.make("keys", name="k", project=project)["key"]
    outside = api.make("keys", name="k")["key"]
    mallory = [("X-User-ID", "mallory/1")]
    id = api.make("users", user="mallory/1", project=project, suspended=True)["id"]
    for headers in ways_of(inside):
        answer = models(server, [*headers, *mallory])
        assert answer.status == 401 and b"This user is suspended" in answer.body, answer
    assert models(server, [*bearer(inside), ("X-User-ID", "mallory")]).status == 200
    assert models(server, bearer(inside)).status == 200
    assert models(server, [*bearer(outside), *mallory]).status == 200
    api.change("users", id, suspended=False)
    assert models(server, [*bearer(inside), *mallory]).status == 200


# ---- the admin API ----

def test_e104_ids_are_random_and_guessing_is_slow(sluice, provider):
    server = sluice(CONFIG + provider_config(provider))
    api = Api(server)
    tenant = Tenant(api)
    ids = [api.make("keys", name="k")["id"] for _ in range(20)]
    assert all(len(id) == 28 and id.startswith("key_") for id in ids)
    assert len({id[4:8] for id in ids}) > 15
    with ThreadPoolExecutor(8) as pool:              # on a slow machine too many are forgiven meanwhile
        guesses = list(pool.map(lambda i: api.call("GET", f"/admin/keys/key_{i}", key=tenant.project_admin),
                                range(140)))
    assert {guess.status for guess in guesses} == {404, 429}
    assert guesses[-1].status == 429 and guesses[50].status == 404
    assert api.call("GET", f"/admin/keys/{ids[0]}").status == 200     # who may see all, guesses nothing


def test_e108_trying_admin_keys_gets_slow_and_ends(sluice, provider):
    server = sluice(CONFIG + provider_config(provider))
    def guess(i):
        began = time.monotonic()
        answer = send(server.admin_port, "GET", "/admin/keys", headers=bearer(f"sk-guess-{i}"))
        return answer, time.monotonic() - began

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(guess, range(160)))
    assert {answer.status for answer, _ in answers} == {401, 429}
    assert_openai_error(answers[-1][0], 429, "too_many_failures")
    assert int(answers[-1][0].header("retry-after")) >= 1
    assert max(took_s for answer, took_s in answers if answer.status == 401) > 0.15
    key = bearer(PLATFORM)
    assert send(server.admin_port, "GET", "/admin/keys", headers=key).status == 429
    assert send(server.admin_port, "GET", "/livez").status == 200
    assert models(server, bearer("sk-x")).status == 401           # callers are not shut out


def test_e109_there_is_no_default_key(sluice, provider):
    """Each new store begins with a key of its own, printed once, where the log is not."""
    found = []
    for _ in range(2):
        server = sluice("keys: {required: true}\n" + provider_config(provider))
        text = "\n".join(server.stderr)
        key, = re.findall(r"sk-sluice-[\w-]{43}", text)
        assert all(key not in json.dumps(line) for line in server.log_lines())
        assert send(server.admin_port, "GET", "/metrics").status == 401
        assert send(server.admin_port, "GET", "/metrics", headers=bearer(key)).status == 200
        assert models(server, bearer(key)).status == 200
        found.append((server, key))
    assert found[0][1] != found[1][1]
    server, key = found[0]
    server.stop()
    again = Sluice("keys: {required: true}\n" + provider_config(provider), server.directory)
    try:
        assert not re.search(r"sk-sluice-", "\n".join(again.stderr))
        assert send(again.admin_port, "GET", "/metrics", headers=bearer(key)).status == 200
    finally:
        again.stop()


def test_a_first_admin_key_closes_the_admin_api(sluice, provider):
    """Whoever sits at the machine rules, until there is a key that does."""
    server = sluice(provider_config(provider))
    answer = send(server.admin_port, "POST", "/admin/keys", {"name": "root", "scopes": ["admin"]})
    assert answer.status == 201
    assert send(server.admin_port, "GET", "/admin/keys").status == 401
    assert send(server.admin_port, "GET", "/admin/keys",
                headers=bearer(answer.json["key"])).status == 200
    assert models(server, []).status == 200


def test_an_admin_key_of_the_configuration_closes_the_admin_api(sluice, provider):
    """With it there is an admin key; keys that only ask models are none."""
    static = "keys: {{static: [{{name: k, key: sk-of-the-boss-1, scopes: [{}]}}]}}\n"
    server = sluice(provider_config(provider) + static.format("models"))
    assert get(server.admin_port, "/admin/keys").status == 200
    server.write_config(provider_config(provider) + static.format("admin"))
    server.reload()
    server.wait_log("configuration reloaded")
    for target in ("/admin/keys", "/metrics"):
        assert get(server.admin_port, target).status == 401
        assert get(server.admin_port, target, "sk-of-the-boss-1").status == 200


@pytest.mark.parametrize("headers,status", [
    ([], 200), (bearer("sk-sluice-" + "A" * 43), 401), (bearer("sk-no-such-key"), 401),
    ([("x-api-key", "sk-no-such-key")], 401), ([("x-api-key", "")], 401), ([("Authorization", "Basic YTpi")], 401),
    ([("Authorization", "Bearer ")], 401), (bearer("a") * 2, 400)], ids=lambda value: str(value)[:60])
def test_a_wrong_key_is_told_even_where_none_is_needed(sluice, provider, headers, status):
    """At the admin address of a machine without keys; to callers, whose SDKs insist on sending one, it is nothing."""
    server = sluice(provider_config(provider))
    for method, target in (("GET", "/admin/keys"), ("GET", "/metrics"), ("POST", "/admin/backup")):
        answer = send(server.admin_port, method, target, {} if method == "POST" else None, headers=headers)
        assert answer.status == (400 if method == "POST" and status == 200 else status), answer
    assert send(server.admin_port, "GET", "/livez", headers=headers).status == 200
    assert models(server, headers).status == 200
    made = send(server.admin_port, "POST", "/admin/keys", {"name": "caller"}).json["key"]
    assert send(server.admin_port, "GET", "/metrics", headers=bearer(made)).status == 403


@pytest.mark.parametrize("body", [
    {"name": "k", "role": "admin"}, {"name": "k", "tenant_id": "x"}, {"name": "k", "spent": 0},
    {"name": "k", "id": "key_mine"}, {"name": "k", "hash": "00"}, {"name": "k", "revoked": None},
    {"name": "k", "status": "active"}, {"name": "k", "key": "sk-mine"}, {"name": "k", "hint": "x"}])
def test_d96_nothing_is_set_that_cannot_be(served, body):
    _, api = served
    before = api.list("keys", "?limit=1000")
    assert_openai_error(api.call("POST", "/admin/keys", body), 400)
    made = api.make("keys", name="k")
    assert_openai_error(api.call("PATCH", f"/admin/keys/{made['id']}", body), 400)
    after = api.list("keys", "?limit=1000")
    assert after[:-1] == before and after[-1]["name"] == "k" and after[-1]["status"] == "active"


@pytest.mark.parametrize("expires", ["2027-02-31T00:00:00Z", "2027-02-29", "1970-01-01T00:00:00Z", "0s", "-1d", 5])
def test_no_key_expires_when_nothing_does(served, expires):
    """A day that there is not is no other day, and the first moment of all is not never."""
    _, api = served
    assert_openai_error(api.call("POST", "/admin/keys", {"name": "k", "expires": expires}), 400)
    assert api.make("keys", name="k", expires="2099-02-28")["expires"] == "2099-02-28T00:00:00.000Z"


@pytest.mark.parametrize("kind", ["orgs", "projects", "keys", "users", "audit"])
def test_a_mistyped_filter_does_not_show_everything(served, kind):
    _, api = served
    answer = api.call("GET", f"/admin/{kind}?limit=1&projekt=x")
    assert_openai_error(answer, 400)
    assert answer.json["error"]["code"] == "unknown_parameter" and "projekt" in answer.json["error"]["message"]


def test_a_slash_may_be_escaped(served):
    """As some write every slash in JSON."""
    server, _ = served
    body = b'{"name": "k", "limits": {"requests": "5\\/60s"}, "budgets": {"money": ["2.50\\/day"]}, "ips": ["127.0.0.0\\/8"]}'
    with RawClient(server.admin_port) as client:
        client.send(request_bytes("POST", "/admin/keys", body, bearer(PLATFORM)))
        made = client.read_response()
    assert made.status == 201, made
    assert statuses(server, made.json["key"]) == {200}


@pytest.mark.parametrize("query", [
    "limit=0", "limit=-1", "limit=1001", "limit=1000000000", "limit=x", "limit=1e3", "limit=",
    "cursor=x", "cursor=0", "cursor=key_aaaaaaaaaaaaaaaaaaaaaaaa", "cursor=" + "0" * 40,
    "cursor=" + "f" * 5000, "cursor=%27%20OR%201"])
def test_d97_forged_pages(served, query):
    _, api = served
    for kind in ("orgs", "projects", "keys", "users", "audit"):
        assert_openai_error(api.call("GET", f"/admin/{kind}?{query}"), 400, "invalid_value")


def test_pages(served):
    _, api = served
    for i in range(7):
        api.make("projects", name=f"p{i}")
    seen, cursor = [], ""
    while cursor is not None:
        page = api.call("GET", f"/admin/projects?limit=3&cursor={cursor}").json
        assert len(page["data"]) <= 3
        seen += [project["id"] for project in page["data"]]
        cursor = page["next_cursor"]
        assert page["has_more"] == (cursor is not None)
    assert len(seen) == len(set(seen)) == len(api.list("projects", "?limit=1000"))


def test_d91_bodies_of_the_admin_api(served):
    server, api = served
    padding = 1024 * 1024 - len(b'{"name":"k"}')
    for extra, status in ((0, 201), (1, 413)):
        body = b'{"name":"k"}' + b" " * (padding + extra)
        assert api.call("POST", "/admin/keys", body).status == status


def test_d94_names_come_back_as_they_were(served, test_data):
    _, api = served
    names = ["Ω≈ç√", "田中さん", "👩‍👩‍👧‍👦", "'; DROP TABLE keys; --", "<script>alert(1)</script>", "%s%n",
             "\\", "\"", "null", "ﬀ", "a" * 128, "大" * 128, "{{blob}}", "$1"]
    for name in names:
        made = api.make("projects", name=name)
        assert made["name"] == name
        assert api.call("GET", f"/admin/projects/{made['id']}").json["name"] == name
    for name in ("", "a" * 129, "a\u0000", "a\nb", 7, None, ["a"]):
        assert_openai_error(api.call("POST", "/admin/projects", {"name": name}), 400)


def test_the_audit_log_tells_who_did_what(served):
    _, api = served
    tenant = Tenant(api)
    boss = Api(api.server, tenant.project_admin)
    made = boss.make("keys", name="mine")
    boss.change("keys", made["id"], models=["m"])
    boss.remove("keys", made["id"])
    lines = boss.list("audit")
    assert [line["action"] for line in lines[:3]] == ["key.revoke", "key.update", "key.create"]
    assert {line["actor_name"] for line in lines[:3]} == {"boss"}
    assert {line["ip"] for line in lines[:3]} == {"127.0.0.1"}
    assert lines[1]["detail"] == {"models": ["m"]} and lines[1]["id"] == made["id"]
    assert {line["project"] for line in lines} == {tenant.project}


def test_a_backup_stands_in_the_audit_log(sluice, provider, tmp_path):
    """All that is kept leaves the store, so it is known who had it copied, and where to."""
    server = sluice(CONFIG + provider_config(provider))
    api, path = Api(server), str(tmp_path / "copy.db")
    assert api.call("POST", "/admin/backup", {"path": "not/absolute"}).status == 400
    assert api.call("POST", "/admin/backup", {"path": path}).status == 200
    assert api.call("POST", "/admin/backup", {"path": path}).status == 400     # it is there already
    line, = api.list("audit")
    assert (line["action"], line["id"], line["ip"]) == ("store.backup", path, "127.0.0.1")
    assert (line["actor"], line["org"], line["project"]) == ("admin", None, None)
    tenant = Tenant(api)
    assert all(each["action"] != "store.backup" for each in Api(server, tenant.org_admin).list("audit"))


def test_the_soak_measures_whether_time_tells_keys():
    """A million samples of each class; the program fails by itself when it can tell two classes apart."""
    steps = subprocess.run(["make", "-n", "soak"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "\nbuild-release/bench/key_timing 1000000\n" in steps


def test_methods_of_the_admin_api(served):
    server, api = served
    answer = api.call("PUT", "/admin/keys/key_x", {})
    assert answer.status == 405
    assert answer.header("allow") == "GET, HEAD, POST, PATCH, DELETE, OPTIONS"
    assert api.call("POST", "/admin/keys/key_x", {}).status == 404
    with RawClient(server.admin_port) as client:
        client.send(request_bytes("POST", "/admin/keys", b"name=x",
                                  [*bearer(PLATFORM), ("Content-Type", "text/plain")]))
        assert_openai_error(client.read_response(), 415)


# ---- what is kept ----

def test_known_failure_23_no_key_is_written_anywhere(sluice, provider):
    """Neither the store nor the log holds a key, and what callers send is never part of a
    statement."""
    server = sluice(CONFIG + provider_config(provider))
    api = Api(server)
    made = api.make("keys", name="k")
    rotated = api.rotate(made["id"], overlap="1h")
    for key in (made["key"], rotated["key"], made["key"][:-1], "' OR 1=1 --", "\\'; DROP TABLE keys"):
        for headers in ways_of(key):
            models(server, headers)
            ask(server, CHAT, [*headers, ("X-User-ID", "'; DROP TABLE users; --")])
    assert len(api.list("keys")) == 1
    server.stop()
    secrets = [made["key"][10:], rotated["key"][10:], PLATFORM]
    log = "\n".join(server.stderr)
    kept = b"".join(path.read_bytes() for path in (server.directory / "data").glob("sluice.db*"))
    assert kept and made["id"].encode() in kept
    for secret in secrets:
        assert secret not in log and secret.encode() not in kept


def test_a_change_made_elsewhere_holds_within_a_second(sluice, provider):
    """What another process writes into the store: the poll finds it, without any notice."""
    server = sluice(CONFIG + provider_config(provider))
    made = Api(server).make("keys", name="k")
    with sqlite3.connect(server.directory / "data/sluice.db", timeout=5) as other:
        other.execute("UPDATE identity_version SET version = version + 1")
        other.execute("UPDATE keys SET revoked_ms = 1, changed = (SELECT version FROM "
                      "identity_version) WHERE id = ?", (made["id"],))
    other.close()
    began = time.monotonic()
    while statuses(server, made["key"]) == {200}:
        assert time.monotonic() - began < 1 + BUSY_S
        time.sleep(0.02)
    assert statuses(server, made["key"]) == {401}


def test_keys_outlive_the_server(sluice, provider):
    server = sluice(CONFIG + provider_config(provider))
    key = Api(server).make("keys", name="k")["key"]
    server.stop()
    again = Sluice(CONFIG + provider_config(provider), server.directory)
    try:
        assert models(again, bearer(key)).status == 200
    finally:
        again.stop()


# ---- the commands ----

@pytest.fixture
def cli(served, tmp_path):
    server, _ = served

    def call(*words, key=PLATFORM):
        return run(*words, directory=tmp_path, environment={
            "SLUICE_ADMIN_URL": f"http://127.0.0.1:{server.admin_port}", "SLUICE_KEY": key})
    return call


def test_commands_make_and_end_a_key(served, cli):
    server, _ = served
    org = cli("org", "create", "--name", "Blue team").stdout.strip()
    project = cli("project", "create", "--name", "search", "--org", org, "--tier", "gold",
                  "--requests", "1000/60s", "--money-budget", "2.50/day,50/month").stdout.strip()
    shown = json.loads(cli("project", "show", project, "--json").stdout)
    assert shown["budgets"] == {"money": ["2.50/day", "50/month"]} and shown["tier"] == "gold"
    made = cli("key", "create", "--name", "ci", "--project", project, "--models", "m,n*",
               "--expires", "30d", "--streams", "5")
    key = made.stdout.strip()
    id = re.match(r"(key_\w+):", made.stderr)[1]
    assert statuses(server, key) == {200}
    assert id in cli("key", "list", "--project", project).stdout
    new = cli("key", "rotate", id, "--overlap", "1h").stdout.strip()
    assert statuses(server, key) == statuses(server, new) == {200}
    assert "disabled" in cli("key", "update", id, "--disable").stdout
    assert statuses(server, new) == {401}
    assert cli("key", "update", id, "--enable", "--expires", "never").returncode == 0
    assert statuses(server, new) == {200}
    assert cli("key", "revoke", id).returncode == 0
    assert statuses(server, new) == {401}
    assert cli("project", "delete", project).returncode == 0
    gone = cli("project", "show", project)
    assert gone.returncode == 1 and "there is no project with this id" in gone.stderr


def test_a_command_sets_what_it_names(served, cli):
    """Whoever sets one limit or budget keeps the others, and may take one away, or all."""
    _, api = served
    id = cli("project", "create", "--name", "p", "--token-budget", "1000/day", "--requests", "5/60s").stdout.strip()
    for words, limits, budgets in (
            (["--money-budget", "5/month"], {"requests": "5/60s"}, {"tokens": ["1000/day"], "money": ["5/month"]}),
            (["--streams", "3"], {"requests": "5/60s", "streams": 3}, {"tokens": ["1000/day"], "money": ["5/month"]}),
            (["--requests", "default"], {"streams": 3}, {"tokens": ["1000/day"], "money": ["5/month"]}),
            (["--token-budget", "9/day"], {"streams": 3}, {"tokens": ["9/day"], "money": ["5/month"]})):
        assert cli("project", "update", id, *words).returncode == 0
        shown = api.call("GET", f"/admin/projects/{id}").json
        assert (shown["limits"], shown["budgets"]) == (limits, budgets), words
    assert api.change("projects", id, budgets={"tokens": None})["budgets"] == {"money": ["5/month"]}
    assert api.change("projects", id, budgets={"money": None})["budgets"] == {}
    assert api.change("projects", id, limits=None)["limits"] == {}


def test_commands_suspend_a_user(served, cli):
    server, api = served
    key = api.make("keys", name="k")["key"]
    headers = [*bearer(key), ("X-User-ID", "eve@example.com")]
    assert cli("user", "suspend", "eve@example.com").returncode == 0
    assert models(server, headers).status == 401
    assert "eve@example.com" in cli("user", "list").stdout
    assert cli("user", "resume", "eve@example.com").returncode == 0
    assert models(server, headers).status == 200


@pytest.mark.parametrize("words", [("key",), ("key", "make"), ("key", "show"), ("key", "list", "x"),
                                   ("key", "create", "--name"), ("user", "create", "x"),
                                   ("org", "rotate", "x"), ("key", "list", "--nothing")])
def test_wrong_commands(cli, words):
    done = cli(*words)
    assert done.returncode == 2 and "Try: sluice help" in done.stderr


def test_a_refusal_is_told(cli):
    done = cli("key", "list", key="sk-wrong")
    assert done.returncode == 1 and "Incorrect API key" in done.stderr
