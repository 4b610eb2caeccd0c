# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the end-to-end tests.

    sluice(config_text, …)   start a server (sluice.py); stopped and checked after the test
    provider                 a running fake provider (fake_provider.py)
    gateway                  a server in front of `provider`, with nothing else configured
    postgres                 a running PostgreSQL, one for each file of tests (postgres.py)
    test_data                the folder of third-party test data ($TEST_DATA)
"""
import os
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fake_provider import FakeProvider  # noqa: E402
from postgres import Postgres, find_programs  # noqa: E402
from sluice import ROOT, Sluice, provider_config  # noqa: E402


# A shell lets what it runs in the background ignore SIGINT, and who is started by us would do so, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Servers:
    """Starts servers and stops all that were not stopped yet; the first complaint is raised
    after the last server has left, so that no process outlives its test."""

    def __init__(self, tmp_path_factory):
        self.tmp_path_factory = tmp_path_factory
        self.started = []

    def start(self, config_text="", **options):
        server = Sluice.__new__(Sluice)
        self.started.append(server)
        server.__init__(config_text, self.tmp_path_factory.mktemp("sluice"), **options)
        return server

    def stop_all(self):
        complaint = None
        for server in self.started:
            try:
                stop_or_check(server)
            except AssertionError as error:
                complaint = complaint or error
        if complaint:
            raise complaint


def stop_or_check(server):
    """Stop a server; one whose end the test has seen is only searched for reports."""
    if hasattr(server, "process"):
        if server.left:
            server.wait_exit(expected=None)
        else:
            server.stop()                  # a server that died on its own fails here


@pytest.fixture
def sluice(tmp_path_factory):
    servers = Servers(tmp_path_factory)
    yield servers.start
    servers.stop_all()


@pytest.fixture(scope="module")
def module_sluice(tmp_path_factory):
    """As `sluice`, for servers that all tests of a module share."""
    servers = Servers(tmp_path_factory)
    yield servers.start
    servers.stop_all()


@pytest.fixture
def provider():
    with FakeProvider() as fake:
        yield fake


@pytest.fixture(scope="module")
def module_provider():
    with FakeProvider() as fake:
        yield fake


@pytest.fixture
def gateway(sluice, provider):
    return sluice(provider_config(provider))


@pytest.fixture(scope="module")
def postgres():
    if not find_programs():
        pytest.skip("PostgreSQL is not installed")
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def test_data():
    return Path(os.environ.get("TEST_DATA", ROOT.parent / "shared")) / "data"
