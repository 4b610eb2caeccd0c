# SPDX-License-Identifier: Apache-2.0
"""Every scenario again and again while the first, second, third … allocation fails.

The allocation may be any thread's and any library's (OpenSSL, yyjson; not libuv, see
mem_library.c), and an arena's allocations count one by one. Each test prints how many there were.
"""
import pytest
from model_scenarios import MODEL_SCENARIOS
from scenarios import SCENARIOS, Drain
from torture import ALLOCATIONS, IS_FULL, Admin, Torture, numbers

ALL = SCENARIOS | MODEL_SCENARIOS
AT_LEAST = 50

pytestmark = pytest.mark.timeout(7200 if IS_FULL else 600)    # a reload has thousands


@pytest.mark.parametrize("name", ALL)
def test_n211_allocation_fails(name, sluice, provider, tmp_path, record_property):
    scenario = ALL[name](sluice, provider, tmp_path)
    n = Torture(scenario.server, ALLOCATIONS).run(scenario.once, scenario.afterwards)
    print(f"{name}: {n} allocations")
    record_property("allocations", n)
    assert n > AT_LEAST


def test_n211_allocation_fails_while_draining(sluice, provider, tmp_path, record_property):
    """A process each time, as a drain is its end."""
    for n in numbers():
        drain = Drain(sluice, provider, tmp_path)
        Admin(drain.server).arm(ALLOCATIONS, n)
        drain.once()
        if not any("fault injected" in line for line in drain.server.stderr):
            break
    print(f"drain: {n - 1} allocations")
    record_property("allocations", n - 1)
    assert n - 1 > AT_LEAST
