# SPDX-License-Identifier: Apache-2.0
"""What the lists declare is documented: options, metrics and routes.

A list (.def) is C macro calls, one entry each: X(HTTP_REQUESTS, COUNTER, "http_requests_total", …).
An entry's name is its first argument, or its first literal when that is a C constant; a route's is
the method and the path. The page must have a table row with that name in code marks.
"""
import re

from checks.tree import TOKENS, blank, line_of

LISTS = (("src/conf/options.def", "docs/configuration.md", "option"),
         ("src/observe/metrics.def", "docs/operations.md", "metric"),
         ("src/gateway/routes.def", "docs/api.md", "route"))
METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}


def check(tree):
    for source, page, kind in LISTS:
        missing = [path for path in (source, page) if not tree.exists(path)]
        if missing:
            tree.note(f"{kind}s not compared with their page: {', '.join(missing)} is missing")
            continue
        entries = list(entries_of(tree.text(source)))
        if not entries:
            tree.finding(source, 1, f"no {kind} found in this list")
        rows = [line for line in tree.text(page).split("\n") if line.startswith("|")]
        for line, arguments in entries:
            check_entry(tree, source, page, kind, rows, line, arguments)


def check_entry(tree, source, page, kind, rows, line, arguments):
    literals = [text[1:-1] for text in arguments if text.startswith('"')]
    constant = re.fullmatch(r"[A-Z][A-Z0-9_]*", arguments[0])
    name = literals[0] if constant and literals else arguments[0].strip('"')
    paths = [text for text in literals if text.startswith("/")]
    words = {word for text in arguments if not text.startswith('"')
             for word in re.split(r"[\W_]+", text)}
    methods = sorted(words & METHODS)
    if kind == "route" and paths and methods:
        name = f"{methods[0]} {paths[0]}"
    if not any(re.search(rf"`{re.escape(name)}[`{{]", row) for row in rows):
        tree.finding(source, line, f"{kind} `{name}` has no row in {page}")


def entries_of(text):
    """(line, [argument, …]) of each macro call at the beginning of a line; literals keep quotes."""
    covered = blank(text)
    for match in re.finditer(r"^[ ]*[A-Z][A-Z0-9_]*\(", covered, re.MULTILINE):
        end = closing(covered, match.end())
        arguments = split_arguments(text, covered, match.end(), end)
        yield line_of(text, match.start() + len(match.group()) - 1), arguments


def closing(covered, start):
    depth = 1
    for place in range(start, len(covered)):
        depth += (covered[place] in "([{") - (covered[place] in ")]}")
        if depth == 0:
            return place
    return len(covered)


def split_arguments(text, covered, start, end):
    """The arguments between two places, cut at outermost commas; comments removed."""
    arguments, depth, first = [], 0, start
    for place in range(start, end + 1):
        if place == end or (covered[place] == "," and depth == 0):
            argument = TOKENS.sub(keep_literal, text[first:place]).strip()
            arguments.append(argument)
            first = place + 1
        elif covered[place] in "([{":
            depth += 1
        elif covered[place] in ")]}":
            depth -= 1
    return arguments


def keep_literal(match):
    return match.group() if match.group()[0] in "\"'" else ""
