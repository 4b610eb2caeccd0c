# SPDX-License-Identifier: Apache-2.0
"""What must not be written: unsafe functions, struct typedefs, notes to self, stray whitespace."""
import re

from checks.tree import blank

UNSAFE = re.compile(r"\b(strcpy|strcat|sprintf|vsprintf|strtok|alloca|atoi|gets)\s*\(")
# Every allocation goes through base/mem.h, where tests make the n-th one fail.
BARE_MEMORY = re.compile(r"(?<![\w.>])(malloc|calloc|realloc|free|strdup|strndup)\s*\(")
MEMORY_SEAM = "src/base/mem.c"
NOTES = re.compile(r"\b(TODO|FIXME)\b")
TEXT = (".c", ".h", ".def", ".py", ".md", ".sh", ".yaml", ".yml", ".tsv", ".txt", "meson.build",
        "Makefile", ".in")
TABS_ALLOWED = ("Makefile", ".tsv")
ABOUT_NOTES = ("script/checks/words.py",)


def check(tree):
    for path in tree.matching(".c", ".h", under="src/"):
        check_calls(tree, path)
    scripts = [path for path in tree.paths if path.startswith(("script/", ".ci/"))]
    for path in sorted({*tree.matching(*TEXT), *scripts}):
        check_lines(tree, path)


def check_calls(tree, path):
    for number, line in enumerate(blank(tree.text(path)).split("\n"), 1):
        for match in UNSAFE.finditer(line):
            tree.finding(path, number, f"{match.group(1)} is banned")
        if path != MEMORY_SEAM:
            for match in BARE_MEMORY.finditer(line):
                tree.finding(path, number, f"bare {match.group(1)}: use base/mem.h")
        if re.search(r"\btypedef\s+struct\b[^*]*$", line):
            tree.finding(path, number, "typedef struct: types are `struct thing`")


def check_lines(tree, path):
    for number, line in enumerate(tree.text(path).split("\n"), 1):
        if line != line.rstrip():
            tree.finding(path, number, "whitespace at the end of the line")
        if "\t" in line and not path.endswith(TABS_ALLOWED):
            tree.finding(path, number, "a tab")
        if path not in ABOUT_NOTES:
            for match in NOTES.finditer(line):
                tree.finding(path, number, f"{match.group(1)}: finish it, or open an issue")
