# SPDX-License-Identifier: Apache-2.0
"""Static keys in use: who may do what, what the log says of it, and how keys come and go.

What a key must look like on the wire is in test_connections.py (e99 …).
"""
import pytest
from caller import CHAT, STREAM, ask, outcome
from raw_http import RawClient, assert_openai_error, request_bytes
from sluice import provider_config

ALICE, BOB, ROOT_KEY = "sk-of-alice-1234", "sk-of-bob-56789", "sk-of-the-admin"
KEYS = (f'keys: {{static: [{{name: alice, key: "{ALICE}"}},\n'
        f'                {{name: bob, key: "{BOB}", scopes: [admin]}}]}}\n'
        f'admin_key: "{ROOT_KEY}"\n')


def bearer(key):
    return [("Authorization", f"Bearer {key}")]


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


@pytest.mark.parametrize("config", ["listen: 0.0.0.0:0\n", 'listen: "[::]:0"\n',
                                    "admin: 0.0.0.0:0\n"])
def test_open_doors_refuse_to_start(sluice, provider, config):
    """Without keys, this machine only."""
    server = sluice(config + provider_config(provider), wait=False)
    assert server.wait_exit(expected=None) != 0
    assert "key" in "\n".join(server.stderr)
