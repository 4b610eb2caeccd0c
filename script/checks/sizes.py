# SPDX-License-Identifier: Apache-2.0
"""Functions, files and parameter lists stay readable. Tables are data and have no limit."""
from checks.tree import functions

FUNCTION_LINES, FILE_LINES, PARAMETERS = 100, 1200, 7


def check(tree):
    for path in tree.matching(".c", ".h", ".py"):
        count = tree.text(path).count("\n")
        if count > FILE_LINES:
            tree.finding(path, FILE_LINES + 1, f"file has {count} lines, {FILE_LINES} at most")
    for path in tree.matching(".c", ".h"):
        for function in functions(tree.text(path)):
            check_function(tree, path, function)


def check_function(tree, path, function):
    lines = function.last_line - function.line + 1
    if function.defined and lines > FUNCTION_LINES:
        tree.finding(path, function.line,
                     f"{function.name} has {lines} lines, {FUNCTION_LINES} at most")
    if len(function.parameters) > PARAMETERS:
        tree.finding(path, function.line,
                     f"{function.name} has {len(function.parameters)} parameters, "
                     f"{PARAMETERS} at most")
