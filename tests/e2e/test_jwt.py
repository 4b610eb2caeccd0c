# SPDX-License-Identifier: Apache-2.0
"""Tokens of an issuer instead of keys: who is let in, on whose account, and what becomes of it when keys
change or the issuer is away.

What a token, its claims and keys may look like is in unit/test_jwt.c.
"""
import json

import pytest
import trustme
from caller import CHAT, ask, outcome
from issuer import Issuer, encode_json
from raw_http import assert_openai_error
from sluice import provider_config
from tenants import PLATFORM, Api, Tenant, bearer, send


@pytest.fixture
def issuer():
    with Issuer() as running:
        yield running


def config(provider, *issuers, more=""):
    return (f'admin_key: "{PLATFORM}"\nkeys: {{issuers: [{", ".join(issuers)}]}}\n'
            + more + provider_config(provider))


def call(server, token, headers=(), **options):
    return ask(server, CHAT, [*bearer(token), *headers], **options)


def reason(server, id):
    """Why a token was refused, from the log."""
    return outcome(server, id).get("cause", "")


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_token_is_as_good_as_a_key(sluice, provider, algorithm):
    with Issuer(algorithm) as issuer:
        server = sluice(config(provider, issuer.config(project="default")))
        token = issuer.token()
        for i in range(3):
            assert call(server, token, id=f"t{i}").status == 200
        line = outcome(server, "t2")
        assert (line["key"], line["project"], line["user"]) == ("corp", "default", "ann")
        assert ask(server, CHAT, [("x-api-key", token)], id="t3").status == 200
        assert ask(server, CHAT, [], id="t4").status == 401
        assert issuer.asked == ["/.well-known/openid-configuration", "/keys?v=1"]
        server.stop()
        assert token[-40:] not in "\n".join(server.stderr)
    assert all(token.encode() not in request.head for request in provider.requests)


def test_every_bad_token_gets_the_same_answer(sluice, provider, issuer):
    server = sluice(config(provider, issuer.config(project="default")))
    key, other = issuer.keys[0], Issuer()
    other.keys[0].kid = key.kid
    unsigned = issuer.token().rpartition(".")[0].split(".")[1]
    bad = {
        "expired": issuer.token(exp=1),
        "when it expires": issuer.token(exp=None),
        "not good yet": issuer.token(nbf=4000000000),
        "audience": issuer.token(aud="another"),
        "issuer is not configured": issuer.token(iss="https://another"),
        "signature": issuer.token(key=other.keys[0]),
        "none of corp's": issuer.token(header={"kid": "unheard-of"}),
        "algorithm": issuer.confused_token(),
        "algorithm ": encode_json({"alg": "none", "kid": key.kid}) + "." + unsigned + ".",
        "no project with the id": issuer.token(sluice_project="proj_nobody"),
        "user": issuer.token(sub=None),
        "type": issuer.token(header={"typ": "logout+jwt"}),
    }
    other.server.server_close()
    assert call(server, issuer.token(), id="good").status == 200
    answers = set()
    for i, (why, token) in enumerate(bad.items()):
        answer = call(server, token, id=f"bad{i}")
        assert_openai_error(answer, 401, "invalid_api_key")
        answers.add(answer.body)
        assert why.strip() in reason(server, f"bad{i}"), why
    answers.add(call(server, "sk-wrong", id="wrong").body)
    assert len(answers) == 1


def test_claims_choose_the_project_and_its_users(sluice, provider, issuer):
    """And what holds for the project and the user holds for the token."""
    server = sluice(config(provider, issuer.config(org="*")))
    api = Api(server)
    blue = Tenant(api, "blue")
    token = issuer.token(sluice_project=blue.project, sub="ann")
    assert call(server, token, id="a").status == 200
    line = outcome(server, "a")
    assert (line["project"], line["user"]) == (blue.project, "ann")
    assert call(server, issuer.token(), id="b").status == 401   # no claim, and no usual project
    assert call(server, token, [("X-User-ID", "ann")], id="c").status == 200
    assert_openai_error(call(server, token, [("X-User-ID", "bob")], id="d"), 403, "user_mismatch")
    user = api.make("users", user="ann", project=blue.project)["id"]
    api.change("users", user, suspended=True)
    assert_openai_error(call(server, token, id="e"), 401, "user_suspended")
    other = issuer.token(sluice_project=blue.project, sub="bob")
    assert call(server, other, id="f").status == 200
    api.change("projects", blue.project, disabled=True)
    assert_openai_error(call(server, other, id="g"), 401, "key_disabled")
    api.remove("projects", blue.project)
    assert_openai_error(call(server, other, id="h"), 401, "invalid_api_key")


def adopt(server, provider, *issuers):
    """Reload with other issuers."""
    count = len(server.log_lines("configuration reloaded"))
    server.write_config(config(provider, *issuers))
    server.reload()
    server.wait_log("configuration reloaded", count=count + 1)


def test_an_issuer_speaks_for_one_organisation(sluice, provider, issuer):
    """A project of another one is to its tokens as if there were none, whatever their scopes and however often they
    were good before."""
    server = sluice(config(provider, issuer.config(org="*")))
    api = Api(server)
    blue, red = Tenant(api, "blue"), Tenant(api, "red")
    projects = {"blue": blue.project, "red": red.project, "usual": "default", "none": "proj_nobody"}
    tokens = {name: issuer.token(sluice_project=id, sluice_scopes="models admin")
              for name, id in projects.items()}

    def let_in(round):
        """Whom; the others must get the answer for a project that is not there, on both listeners."""
        calls = {name: call(server, token, id=round + name) for name, token in tokens.items()}
        admins = {name: send(server.admin_port, "GET", "/admin/keys", headers=bearer(token))
                  for name, token in tokens.items()}
        for answers in (calls, admins):
            for answer in answers.values():
                assert answer.status == 200 or answer.body == answers["none"].body
        good = {name for name, answer in calls.items() if answer.status == 200}
        assert good == {name for name, answer in admins.items() if answer.status == 200}
        return good

    assert let_in("all") == {"blue", "red", "usual"}
    adopt(server, provider, issuer.config(org=blue.org))
    assert let_in("blue") == {"blue"}
    assert reason(server, "bluered") == "the project that corp gives is of another organisation"
    adopt(server, provider, issuer.config(org=red.org))
    assert let_in("red") == {"red"}
    adopt(server, provider, issuer.config())
    assert let_in("unset") == {"usual"}
    adopt(server, provider, issuer.config(org="org_nobody"))
    assert let_in("nobody") == set()


def test_issuers_cannot_sign_for_each_other(sluice, provider, issuer):
    with Issuer() as other:
        server = sluice(config(provider, issuer.config(), other.config(name="b")))
        api = Api(server)
        blue, red = Tenant(api, "blue"), Tenant(api, "red")
        adopt(server, provider, issuer.config(org=blue.org), other.config(name="b", org=red.org))
        for i, (by, tenant, status) in enumerate(
                [(issuer, blue, 200), (issuer, red, 401), (other, blue, 401), (other, red, 200)]):
            token = by.token(sluice_project=tenant.project)
            assert call(server, token, id=f"t{i}").status == status


def test_scopes(sluice, provider, issuer):
    server = sluice(config(provider, issuer.config(org="*")))
    blue, red = Tenant(Api(server), "blue"), Tenant(Api(server), "red")

    def token(scopes=None):
        return issuer.token(sluice_project=blue.project, sluice_scopes=scopes)

    def admin(target, scopes=None):
        return send(server.admin_port, "GET", target, headers=bearer(token(scopes)))

    assert call(server, token(), id="a").status == 200
    assert_openai_error(call(server, token("openid admin"), id="b"), 403)
    assert_openai_error(call(server, token([]), id="c"), 403)
    assert_openai_error(admin("/admin/keys"), 403)
    keys = admin("/admin/keys", ["admin"])
    assert keys.status == 200 and {key["project"] for key in keys.json["data"]} == {blue.project}
    assert admin(f"/admin/projects/{red.project}", ["admin"]).status == 404
    assert_openai_error(admin("/admin/requests", ["admin"]), 403)   # for who rules over all


def test_limits_are_each_users_own(sluice, provider, issuer):
    server = sluice(config(provider, issuer.config(project="default"),
                           more="limits: {per_user: {requests: 2/60s}}\n"))
    ann, bob = issuer.token(), issuer.token(sub="bob")
    assert [call(server, ann, id=f"a{i}").status for i in range(3)] == [200, 200, 429]
    # Another token of hers changes nothing.
    assert call(server, issuer.token(jti="2"), id="a4").status == 429
    assert call(server, bob, id="b").status == 200


def test_rotation(sluice, provider, issuer):
    """A token by a new key makes its keys be fetched, but not twice within half a minute; and a reload fetches
    them at once."""
    server = sluice(config(provider, issuer.config(project="default")))
    old = issuer.token()
    assert call(server, old, id="a").status == 200
    issuer.add_key("ES256")
    new = issuer.token()
    assert call(server, new, id="b").status == 401       # asked a moment ago, at the start
    fetched = issuer.asked.count("/keys?v=1")
    del issuer.keys[0]
    server.reload()
    server.wait_log("keys of an issuer are in force", count=2)
    assert call(server, new, id="c").status == 200
    assert "none of corp's" in reason_of(server, old)
    assert issuer.asked.count("/keys?v=1") == fetched + 1


def reason_of(server, token):
    assert call(server, token, id="why").status == 401
    return reason(server, "why")


def test_an_issuer_that_is_away(sluice, provider, issuer):
    issuer.is_away = True
    server = sluice(config(provider, issuer.config(project="default")))
    server.wait_log("keys of an issuer cannot be fetched")
    answer = call(server, issuer.token(), id="a")
    assert_openai_error(answer, 503, "issuer_unavailable")
    issuer.is_away = False
    server.wait_log("keys of an issuer are in force")
    token = issuer.token()
    assert call(server, token, id="b").status == 200
    issuer.is_away = True
    server.reload()
    server.wait_log("keys of an issuer cannot be fetched", count=2)
    assert call(server, token, id="c").status == 200      # with the keys it had
    assert call(server, issuer.token(sub="bob"), id="d").status == 200


def test_an_issuer_with_a_name(sluice, provider, issuer):
    """Whoever looked names up for it forgets them when the server stops."""
    jwks = issuer.url.replace("127.0.0.1", "localhost") + "/keys?v=1"
    server = sluice(config(provider, issuer.config(project="default", jwks=jwks)))
    assert call(server, issuer.token(), id="a").status == 200
    server.stop()


@pytest.mark.parametrize("name, is_trusted, said", [
    ("localhost", True, None), ("localhost", False, "local issuer certificate"),
    ("elsewhere.example", True, "hostname mismatch")])
def test_an_issuer_must_prove_its_name(sluice, provider, tmp_path, name, is_trusted, said):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    environment = {"SSL_CERT_FILE": str(tmp_path / "ca.pem")} if is_trusted else {}
    with Issuer(certificate=authority.issue_cert(name)) as issuer:
        server = sluice(config(provider, issuer.config(project="default")), environment=environment)
        if said:
            assert said in server.wait_log("keys of an issuer cannot be fetched")["text"]
            assert call(server, issuer.token(), id="a").status == 503
        else:
            assert call(server, issuer.token(), id="a").status == 200
        assert bool(issuer.asked) == (said is None)


def test_keys_in_a_file(sluice, provider, issuer, tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [key.jwk() for key in issuer.keys]}))
    server = sluice(config(provider, issuer.config(project="default", jwks=f"file:{path}")))
    assert call(server, issuer.token(), id="a").status == 200
    assert issuer.asked == []


@pytest.mark.parametrize("uri", ["http://keys.example.com/", "file:/etc/passwd", None])
def test_discovery_leads_nowhere_else(sluice, provider, issuer, uri):
    if uri == "file:/etc/passwd" or uri is None:
        said = "no https address"
    else:
        said = "not https"
    issuer.answers["/.well-known/openid-configuration"] = (
        lambda: {"issuer": issuer.url, "jwks_uri": uri} if uri else {"issuer": issuer.url})
    server = sluice(config(provider, issuer.config(project="default")))
    assert said in server.wait_log("keys of an issuer cannot be fetched")["text"]


def test_what_is_wrong_is_said_to_clients_of_oauth(sluice, provider, issuer):
    """RFC 6750 §3: who shows nothing is asked for a token; others get a word that makes them fetch another one."""
    server = sluice(config(provider, issuer.config(project="default")))

    def challenge(headers, **options):
        return ask(server, CHAT, headers, **options).header("www-authenticate")

    assert challenge([]) == "Bearer"
    assert challenge([("x-api-key", issuer.token(exp=1))]) == "Bearer"
    assert challenge([("Authorization", "Basic eDp5")]) == "Bearer"
    invalid = {challenge(bearer(key)) for key in (issuer.token(exp=1), "sk-wrong")}
    assert invalid == {'Bearer error="invalid_token"'}
    assert challenge(bearer(issuer.token(sluice_scopes=[]))) == 'Bearer error="insufficient_scope"'
    assert challenge(bearer(issuer.token()), id="good") is None
    assert challenge([*bearer(issuer.token()), ("X-User-ID", "bob")]) is None
    admin = send(server.admin_port, "GET", "/admin/keys", headers=bearer(issuer.token()))
    assert admin.header("www-authenticate") == 'Bearer error="insufficient_scope"'


def test_a_static_key_goes_before_tokens(sluice, provider, issuer):
    """It may look like one."""
    key = "eyJzdGF0aWM.eyJrZXk.AAAA"
    server = sluice(config(provider, issuer.config(project="default")).replace(
        "keys: {", f'keys: {{static: [{{name: odd, key: "{key}"}}], '))
    assert call(server, key, id="a").status == 200
    assert outcome(server, "a")["key"] == "odd"
