# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the torture tests: those of the end-to-end tests, whose helpers serve here, too."""
import importlib.util
import sys
from pathlib import Path

import pytest

E2E = Path(__file__).resolve().parents[1] / "e2e"
sys.path[:0] = [str(Path(__file__).parent), str(E2E)]

_spec = importlib.util.spec_from_file_location("e2e_fixtures", E2E / "conftest.py")
_e2e = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_e2e)

sluice, provider = _e2e.sluice, _e2e.provider

pytest.register_assert_rewrite("torture")
