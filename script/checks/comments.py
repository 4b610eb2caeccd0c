# SPDX-License-Identifier: Apache-2.0
"""Every file says what it is for, every public function what its caller must know."""
import re

from checks.tree import functions

LICENCE = "/* SPDX-License-Identifier: Apache-2.0 */"


def check(tree):
    for path in tree.matching(".c", ".h"):
        check_opening(tree, path)
    for path in tree.matching(".h", under="src/"):
        check_public(tree, path)


def check_opening(tree, path):
    lines = tree.text(path).split("\n")
    if lines[0] != LICENCE:
        tree.finding(path, 1, f"the first line is not {LICENCE}")
    rest = re.sub(r"^\s*/\*\s*SPDX[^\n]*\n", "", tree.text(path))
    if not rest.lstrip().startswith("/*"):
        tree.finding(path, 2, "no opening comment: what the file is for, how, its one hard thing")


def check_public(tree, path):
    """A comment stands directly above the declaration, or above the paragraph (lines without an
    empty one between them) that it shares with its sisters, or behind it on the same line."""
    lines = tree.text(path).split("\n")
    for function in functions(tree.text(path)):
        if function.static or function.defined:
            continue
        first = function.line - 1
        while first > 0 and lines[first - 1].strip():
            first -= 1
        paragraph = lines[first:function.line - 1]
        own = lines[function.line - 1:function.last_line]
        if not any("*/" in line or "//" in line for line in paragraph + own):
            tree.finding(path, function.line, f"{function.name} has no comment directly above")
