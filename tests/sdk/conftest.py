# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the SDK tests: those of the end-to-end tests, and

    node         the Node.js SDKs (clients.NodeDriver), one process for each test worker
    upstream     a fake provider with the scenes of matrix.toml, forgetful before each test
    aimock       the port of a third-party fake with the same scenes
"""
import importlib.util
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
E2E = HERE.parent / "e2e"
sys.path[:0] = [str(HERE), str(E2E)]
pytest.register_assert_rewrite("matrix", "schema_judge")

_spec = importlib.util.spec_from_file_location("e2e_fixtures", E2E / "conftest.py")
_e2e = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_e2e)

from aimock import Aimock  # noqa: E402
from clients import NodeDriver  # noqa: E402
from matrix import SCENES  # noqa: E402
from upstream import Upstream  # noqa: E402

sluice, module_sluice, test_data = _e2e.sluice, _e2e.module_sluice, _e2e.test_data


@pytest.fixture(scope="session")
def node():
    driver = NodeDriver()
    yield driver
    driver.stop()


@pytest.fixture(scope="session")
def session_upstream():
    with Upstream(SCENES) as fake:
        yield fake


@pytest.fixture
def upstream(session_upstream):
    session_upstream.reset()
    return session_upstream


@pytest.fixture(scope="session")
def aimock():
    with Aimock(SCENES) as mock:
        yield mock.port
