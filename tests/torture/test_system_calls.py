# SPDX-License-Identifier: Apache-2.0
"""Scenarios while the first, second, third … system call fails, and while all of them do least.

The calls are those of base/sys.h: sockets and files, in any thread, the log's and the watch over
the memory included. That is why their number differs a little from run to run.
"""
import pytest
from model_scenarios import MODEL_SCENARIOS
from scenarios import SCENARIOS
from torture import SYSTEM_CALLS, Admin, Torture

ALL = SCENARIOS | MODEL_SCENARIOS
UPSTREAM_FAILS = (502,)


@pytest.mark.parametrize("name", ["whole", "stream", "handshake", "reload",
                                  "translated", "translated-stream", "fails-over", "conversation",
                                  "passed-on"])
def test_system_call_fails(name, sluice, provider, tmp_path, record_property):
    scenario = ALL[name](sluice, provider, tmp_path)
    scenario.own = UPSTREAM_FAILS
    n = Torture(scenario.server, SYSTEM_CALLS).run(scenario.once, scenario.afterwards)
    print(f"{name}: {n} system calls")
    record_property("system_calls", n)
    assert n > 5


@pytest.mark.parametrize("name", ALL)
def test_n213_one_byte_at_a_time(name, sluice, provider, tmp_path):
    """Every read and write moves one byte. Results are the same."""
    scenario = ALL[name](sluice, provider, tmp_path)
    scenario.once()
    admin = Admin(scenario.server)
    assert admin.ask("POST", "/admin/debug/short-io?on=1")
    scenario.once()
    scenario.afterwards()
    assert admin.ask("POST", "/admin/debug/short-io?on=0")
    Torture(scenario.server, SYSTEM_CALLS).wait_settled()
