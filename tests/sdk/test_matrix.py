# SPDX-License-Identifier: Apache-2.0
"""Every client with every kind of provider behind Sluice: the cells of matrix.toml, one test each.

A cell asks through a real server, with our fake as the provider (`test_cell`) or with a fake that
others wrote (`test_cell_with_aimock`), and judges what the SDK made of the answer and what reached the
provider. A server serves all cells of its kind; each cell has a model name of its own, so that one
cell's failing target is no other cell's.
"""
import pytest
from matrix import KEY, KINDS, aimock_cells, ask, cells, check, check_upstream

CONFIG = """
providers:
  {name}: {{{provider}, key: "sk-provider-key"}}
keys: {{required: true, static: [{{name: tests, key: "{key}"}}]}}
retry: {{attempts: 2, budget: 100%}}
"""


def config_of(kind, port):
    return CONFIG.format(name=kind, provider=KINDS[kind].format(port=port), key=KEY)


@pytest.fixture(scope="module")
def serve(module_sluice):
    """The root address of a server for a kind of provider on a port; one server for each pair."""
    running = {}

    def address(kind, port):
        if (kind, port) not in running:
            running[kind, port] = module_sluice(config_of(kind, port))
        return root_of(running[kind, port])
    return address


def root_of(server):
    return f"http://127.0.0.1:{server.port}"


@pytest.mark.parametrize("cell", cells(), ids=lambda cell: cell.id)
def test_cell(cell, upstream, serve, sluice, node):
    if cell.wanted.get("alone"):
        base = root_of(sluice(config_of(cell.kind, upstream.port)))
    else:
        base = serve(cell.kind, upstream.port)
    result = ask(cell, base, node)
    check(cell, result)
    check_upstream(cell, upstream)
    if cell.wanted.get("endless"):
        upstream.wait_gone()


@pytest.mark.parametrize("cell", aimock_cells(), ids=lambda cell: cell.id)
def test_cell_with_aimock(cell, aimock, serve, node):
    result = ask(cell, serve(cell.kind, aimock), node)
    check(cell, result, exact_usage=False)
