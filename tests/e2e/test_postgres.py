# SPDX-License-Identifier: Apache-2.0
"""Servers whose store is PostgreSQL: two that share it, and one that loses it and finds it again."""
import time

import pytest

from caller import CHAT, ask
from postgres import Postgres, find_programs
from sluice import provider_config
from tenants import CONFIG, Api, bearer

pytestmark = pytest.mark.skipif(not find_programs(), reason="PostgreSQL is not installed")
PATIENCE_S = 20


@pytest.fixture
def postgres():
    with Postgres() as server:
        yield server


def config(postgres, provider):
    return f"store: {postgres.url}\npostgresql: {{connections: 4}}\n{CONFIG}{provider_config(provider)}"


def until(condition):
    """Wait for what must come soon; returns the seconds it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + PATIENCE_S, "it has not come"
        time.sleep(0.05)
    return time.monotonic() - began


def status(server, key):
    return ask(server, CHAT, bearer(key)).status


def test_servers_share_keys(sluice, provider, postgres):
    one, two = sluice(config(postgres, provider)), sluice(config(postgres, provider))
    key = Api(one).make("keys", name="shared", project="default")
    until(lambda: status(two, key["key"]) == 200)
    Api(two).remove("keys", key["id"])
    until(lambda: status(one, key["key"]) == 401)


def test_a_server_lives_through_a_restart_of_its_store(sluice, provider, postgres):
    server = sluice(config(postgres, provider))
    api = Api(server)
    key = api.make("keys", name="kept", project="default")
    assert status(server, key["key"]) == 200
    postgres.end()
    server.wait_log("the store is away")
    assert status(server, key["key"]) == 200              # what is known stays known
    time.sleep(2.5)                                        # no restart any more: refused at once
    began = time.monotonic()
    refused = api.call("POST", "/admin/keys", {"name": "late", "project": "default"})
    assert refused.status == 503 and time.monotonic() - began < 1
    postgres.start()
    server.wait_log("the store is there again")
    api.make("keys", name="later", project="default")
    assert status(server, key["key"]) == 200
