# SPDX-License-Identifier: Apache-2.0
"""Who may use which route: every line of routes.def × every state a credential can be in, and every
kind of object × every method, for whom it does not belong to.

Nothing here is listed by hand that the route table knows. A state says what a key is like; the
route's scope says what must come of it.
"""
import re

import pytest

from sluice import ROOT, provider_config
from tenants import CONFIG, PLATFORM, Api, Tenant, bearer, send

LINE = re.compile(r'^X\((\w+), "([^"]+)", \w+, (\w+), (\w+),', re.MULTILINE)
ROUTES = LINE.findall((ROOT / "src/gateway/routes.def").read_text())
# What stands for "*".
REST = {"/v1/models/*": "m", "/v1/responses/*": "resp_none", "/admin/debug/*": "none",
        "/admin/users/*": "proj_none/nobody"}
# Enough for each dialect to find a model in it, and harmless on every other route.
BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
BODIES = {"/v1/responses": {"model": "m", "input": "hi"},
          "/v1/responses/input_tokens": {"model": "m", "input": "hi"},
          "/v1/responses/compact": {"model": "m", "input": "hi"},
          "/v1/completions": {"model": "m", "prompt": "hi"},
          "/v1/embeddings": {"model": "m", "input": "hi"},
          "/v1/moderations": {"model": "m", "input": "hi"},
          "/v1/rerank": {"model": "m", "query": "q", "documents": ["d"]}}
BODIES["/v2/rerank"] = BODIES["/rerank"] = BODIES["/v1/rerank"]
ASKS_A_MODEL = {"/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens", *BODIES}
# Only whoever rules over more than what it would create may do this.
NEEDS_MORE = {("POST", "/admin/orgs"): {"project_admin", "org_admin"},
              ("POST", "/admin/projects"): {"project_admin"}}

# State: the status of each scope, where 0 stands for "neither 401 nor 403".
STATES = {
    "none": {"MODELS": 401, "TENANT": 401, "ADMIN": 401},
    "empty": {"MODELS": 401, "TENANT": 401, "ADMIN": 401},
    "basic": {"MODELS": 401, "TENANT": 401, "ADMIN": 401},
    "twice": {"MODELS": 400, "TENANT": 400, "ADMIN": 400},
    "wrong": {"MODELS": 401, "TENANT": 401, "ADMIN": 401},
    "revoked": {"MODELS": 401, "TENANT": 401, "ADMIN": 401},
    "expired": {"MODELS": 401, "TENANT": 401, "ADMIN": 401},
    "disabled": {"MODELS": 401, "TENANT": 401, "ADMIN": 401},
    "disabled_project": {"MODELS": 401, "TENANT": 401, "ADMIN": 401},
    "disabled_org": {"MODELS": 401, "TENANT": 401, "ADMIN": 401},
    "rotated_away": {"MODELS": 401, "TENANT": 401, "ADMIN": 401},
    "suspended_user": {"MODELS": 401, "TENANT": 401, "ADMIN": 401},
    "wrong_address": {"MODELS": 403, "TENANT": 403, "ADMIN": 403},
    "models": {"MODELS": 0, "TENANT": 403, "ADMIN": 403},
    "other_model": {"MODELS": 0, "TENANT": 403, "ADMIN": 403},
    "route": {"MODELS": 403, "TENANT": 403, "ADMIN": 403},
    "project_admin": {"MODELS": 403, "TENANT": 0, "ADMIN": 403},
    "org_admin": {"MODELS": 403, "TENANT": 0, "ADMIN": 403},
    "platform": {"MODELS": 403, "TENANT": 0, "ADMIN": 0},
    "admin_key": {"MODELS": 401, "TENANT": 0, "ADMIN": 0},
}


NO_KEY = b"You didn't provide an API key."


def make_states(api):
    """The headers of each state. A key that is no good would open every door if it were."""
    def key(**members):
        return api.make("keys", **{"name": "k", "scopes": ["models", "admin", "route"],
                                   "project": "default"} | members)

    good, tenant = key(), Tenant(api)
    revoked, disabled, rotated = key(), key(), key()
    api.remove("keys", revoked["id"])
    api.change("keys", disabled["id"], disabled=True)
    api.rotate(rotated["id"])
    api.make("users", user="mallory", suspended=True)
    closed_project = api.make("projects", name="closed")["id"]
    closed_org = api.make("orgs", name="closed")["id"]
    inner = api.make("projects", name="inner", org=closed_org)["id"]
    in_project, in_org = key(project=closed_project), key(project=inner)
    api.change("projects", closed_project, disabled=True)
    api.change("orgs", closed_org, disabled=True)
    secrets = {
        "wrong": good["key"][:-1] + ("A" if good["key"][-1] != "A" else "B"),
        "revoked": revoked["key"], "disabled": disabled["key"], "rotated_away": rotated["key"],
        "expired": key(expires="2020-01-01T00:00:00Z")["key"],
        "disabled_project": in_project["key"], "disabled_org": in_org["key"],
        "wrong_address": key(ips=["192.0.2.0/24", "2001:db8::/32"])["key"],
        "models": key(scopes=["models"])["key"], "route": key(scopes=["route"])["key"],
        "other_model": key(scopes=["models"], models=["another", "fake/*"])["key"],
        "project_admin": tenant.project_admin, "org_admin": tenant.org_admin,
        "platform": api.make("keys", name="root", scopes=["admin"])["key"],
        "admin_key": PLATFORM}
    return {name: bearer(secret) for name, secret in secrets.items()} | {
        "none": [], "empty": [("Authorization", "Bearer ")],
        "basic": [("Authorization", "Basic YTpi")],
        "twice": bearer(good["key"]) * 2,
        "suspended_user": [*bearer(good["key"]), ("X-User-ID", "mallory")]}


@pytest.fixture(scope="module")
def server(module_sluice, module_provider):
    return module_sluice(CONFIG + provider_config(module_provider))


@pytest.fixture(scope="module")
def states(server):
    return make_states(Api(server))


def request_of(path, method):
    target = path[:-1] + REST.get(path, "none") if path.endswith("*") else path
    if (method, path) == ("POST", "/admin/keys/*"):
        target += "/rotate"
    body = None
    if method in ("POST", "PATCH"):
        body = BODIES.get(path, BODY) if path.startswith(("/v", "/rerank")) else {}
    return target, body


def expected_of(method, path, scope, state):
    if scope == "OPEN":
        return 0
    if state == "other_model" and path in ASKS_A_MODEL:
        return 403
    if state in NEEDS_MORE.get((method, path), ()):
        return 403
    return STATES[state][scope]


def listeners_of(server, listeners):
    return [port for name, port in (("PUBLIC", server.port), ("ADMIN", server.admin_port))
            if listeners in (name, "BOTH")]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("method,path,scope,listeners", ROUTES,
                         ids=[f"{method}-{path}" for method, path, *_ in ROUTES])
def test_route(server, states, method, path, scope, listeners, state):
    target, body = request_of(path, method)
    expected = expected_of(method, path, scope, state)
    # A body that creates is checked only after the realm; who may create is let through to it.
    if (method, path) in NEEDS_MORE and state in ("project_admin", "org_admin"):
        body = {"name": "made by a test"}
    for port in listeners_of(server, listeners):
        answer = send(port, method, target, body, states[state])
        if expected:
            assert answer.status == expected, answer
            assert (NO_KEY in answer.body) == (state in ("none", "empty")), answer
        else:
            assert answer.status not in (401, 403, 500), answer


@pytest.mark.parametrize("path,shape", [
    ("/v1/chat/completions", "openai"), ("/v1/responses", "openai"), ("/v1/embeddings", "openai"),
    ("/v1/messages", "anthropic"), ("/admin/keys", "openai")])
@pytest.mark.parametrize("headers", [
    [], [("Authorization", "")], [("Authorization", "Bearer")], [("Authorization", "bearer   ")], [("x-api-key", "")]], ids=repr)
def test_who_sends_no_key_is_told_how_to_send_one(server, path, shape, headers):
    """As whoever left a variable empty does. In the words of the caller's API, with what its SDKs look at."""
    port = server.admin_port if path.startswith("/admin") else server.port
    answer = send(port, "POST", path, BODIES.get(path, BODY), headers)
    error = answer.json["error"]
    assert answer.status == 401 and answer.header("www-authenticate") == "Bearer"
    assert error.pop("message") == ("You didn't provide an API key. Send yours as \"Authorization: Bearer <key>\" or "
                                    "\"x-api-key: <key>\".")
    if shape == "anthropic":
        assert answer.json["type"] == "error" and error == {"type": "authentication_error"}
    else:
        assert error == {"type": "invalid_request_error", "param": None, "code": "invalid_api_key"}


@pytest.fixture(scope="module")
def keyless(module_sluice, module_provider):
    return module_sluice(provider_config(module_provider))


@pytest.mark.parametrize("method,path,scope,listeners", ROUTES,
                         ids=[f"{method}-{path}" for method, path, *_ in ROUTES])
def test_route_where_there_is_no_admin_key(keyless, method, path, scope, listeners):
    """Whoever sits at the machine rules; who shows a key there that is none is refused all the same."""
    target, body = request_of(path, method)
    wrong = bearer("sk-sluice-" + "A" * 43)
    for port in listeners_of(keyless, listeners):
        is_told = port == keyless.admin_port and scope != "OPEN"
        answer = send(port, method, target, body, wrong)
        assert (answer.status == 401) == is_told, answer
        assert send(port, method, target, {"none": 1} if body == {} else body).status not in (401, 403, 500)


def test_every_route_was_read():
    """The table above is all of the file."""
    text = (ROOT / "src/gateway/routes.def").read_text()
    assert len(ROUTES) == len(re.findall(r"^X\(", text, re.MULTILINE)) > 40
    assert {scope for _, _, scope, _ in ROUTES} == {"OPEN", "MODELS", "TENANT", "ADMIN"}


# ---- what belongs to others ----

METHODS = {"GET": None, "HEAD": None, "PATCH": {}, "DELETE": None, "rotate": {}}
MISSING = {"orgs": "org_aaaaaaaaaaaaaaaaaaaaaaaa", "projects": "proj_aaaaaaaaaaaaaaaaaaaaaaaa",
           "keys": "key_aaaaaaaaaaaaaaaaaaaaaaaa", "users": "proj_aaaaaaaaaaaaaaaaaaaaaaaa/somebody"}


@pytest.fixture(scope="module")
def tenants(module_sluice, module_provider):
    server = module_sluice(CONFIG + provider_config(module_provider))
    api = Api(server)
    return api, Tenant(api, "blue"), Tenant(api, "red")


def bytes_of(answer):
    """All that a caller can see, but for the time of day."""
    head = [(name, value) for name, value in answer.headers if name != "date"]
    return answer.status, answer.reason, head, answer.body


def ask(api, actor, kind, id, method):
    target, verb = f"/admin/{kind}/{id}", method
    if method == "rotate":
        target, verb = target + "/rotate", "POST"
    body = {"suspended": True} if (kind, method) == ("users", "PATCH") else METHODS[method]
    return api.call(verb, target, body, key=actor, headers=[("X-Request-Id", "the-same")])


@pytest.mark.parametrize("kind,method", [(kind, method) for kind in MISSING for method in METHODS
                                         if method != "rotate" or kind == "keys"])
@pytest.mark.parametrize("role", ["project_admin", "org_admin"])
def test_e103_a_foreign_object_looks_like_a_missing_one(tenants, role, kind, method):
    api, blue, red = tenants
    actor = getattr(blue, role)
    foreign = ask(api, actor, kind, red.ids[kind], method)
    missing = ask(api, actor, kind, MISSING[kind], method)
    assert foreign.status == 404
    assert bytes_of(foreign) == bytes_of(missing)
    assert send(api.server.port, "GET", "/v1/models", headers=bearer(red.key)).status == 200


@pytest.mark.parametrize("role,kind,member", [
    (role, kind, member) for role in ("project_admin", "org_admin")
    for kind, member in (("keys", "project"), ("keys", "org"), ("users", "project"))
] + [("org_admin", "projects", "org")])
def test_nothing_is_created_with_others(tenants, role, kind, member):
    api, blue, red = tenants
    body = {"user": "x"} if kind == "users" else {"name": "x"}
    if member == "org" and kind == "keys":
        body["scopes"] = ["admin"]
    answers = [api.call("POST", f"/admin/{kind}", body | {member: id}, key=getattr(blue, role),
                        headers=[("X-Request-Id", "the-same")])
               for id in (red.ids[member + "s"], MISSING[member + "s"])]
    assert answers[0].status == 404
    assert bytes_of(answers[0]) == bytes_of(answers[1])


@pytest.mark.parametrize("query", ["project", "org"])
@pytest.mark.parametrize("kind", [*MISSING, "audit"])
@pytest.mark.parametrize("role", ["project_admin", "org_admin"])
def test_lists_show_nothing_of_others(tenants, role, kind, query):
    api, blue, red = tenants
    actor = Api(api.server, getattr(blue, role))
    everything = str(actor.list(kind))
    assert not any(id in everything for id in red.ids.values())
    assert actor.list(kind, f"?{query}={red.ids[query + 's']}") == []


def test_own_objects_are_there(tenants):
    api, blue, _ = tenants
    for role, kinds in (("project_admin", ("projects", "keys", "users")),
                        ("org_admin", ("orgs", "projects", "keys", "users"))):
        for kind in kinds:
            answer = api.call("GET", f"/admin/{kind}/{blue.ids[kind]}", key=getattr(blue, role))
            assert answer.status == 200 and answer.json["id"] == blue.ids[kind], answer


@pytest.mark.parametrize("members", [{"budgets": {}}, {"limits": {}}, {"tier": "gold"},
                                     {"disabled": False}])
def test_a_project_does_not_lift_its_own_limits(tenants, members):
    api, blue, _ = tenants
    target = f"/admin/projects/{blue.project}"
    assert api.call("PATCH", target, members, key=blue.project_admin).status == 403
    assert api.call("PATCH", target, members, key=blue.org_admin).status == 200
    assert api.call("DELETE", target, key=blue.project_admin).status == 403


def test_a_new_key_rules_over_no_more_than_its_maker(tenants):
    api, blue, red = tenants
    for maker, org, project in ((blue.project_admin, blue.org, blue.project),
                                (blue.org_admin, blue.org, None)):
        made = Api(api.server, maker).make("keys", name="deputy", scopes=["admin"])
        assert (made["org"], made["project"]) == (org, project)
        deputy = Api(api.server, made["key"])
        assert deputy.call("GET", f"/admin/keys/{red.ids['keys']}").status == 404
        assert deputy.call("GET", "/admin/requests").status == 403
        assert deputy.call("GET", "/metrics").status == 403
