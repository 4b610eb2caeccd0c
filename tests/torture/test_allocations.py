# SPDX-License-Identifier: Apache-2.0
"""Every scenario again and again while the first, second, third … allocation fails.

The allocation may be any thread's and any library's (OpenSSL, yyjson; not libuv, see
mem_library.c), and an arena's allocations count one by one. Each test prints how many there were.
"""
import pytest
from scenarios import SCENARIOS
from torture import ALLOCATIONS, Torture

AT_LEAST = 50


@pytest.mark.parametrize("name", SCENARIOS)
def test_n211_allocation_fails(name, sluice, provider, tmp_path, record_property):
    scenario = SCENARIOS[name](sluice, provider, tmp_path)
    n = Torture(scenario.server, ALLOCATIONS).run(scenario.once, scenario.afterwards)
    print(f"{name}: {n} allocations")
    record_property("allocations", n)
    assert n > AT_LEAST
