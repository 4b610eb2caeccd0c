# SPDX-License-Identifier: Apache-2.0
"""Includes point one way: a file includes its own folder and lower layers only."""
import re

# Lowest first. Folders of one row are siblings and do not know each other. Files directly in
# src/ and those of src/cli are one folder at the top.
LAYERS = (("base",), ("conf", "observe"), ("fiber",), ("net",), ("store",), ("cache", "vector"),
          ("govern",), ("embed", "model"), ("dialect",), ("chat", "rag"), ("agent",), ("task",),
          ("gateway",), ("top",))
LEVEL = {folder: level for level, row in enumerate(LAYERS) for folder in row}
GENERATED = {"limit_lua.h", "version.h"}                  # holds constants and includes nothing


def folder_of(path):
    """The folder of a path below src/, "top" for what stands above all layers."""
    folder = path.split("/")[0] if "/" in path else "top"
    return "top" if folder == "cli" else folder


def check(tree):
    for path in tree.matching(".c", ".h", ".def", under="src/"):
        own = folder_of(path.removeprefix("src/"))
        if own not in LEVEL:
            tree.finding(path, 1, f"src/{own}/ is in no layer: add it to script/checks/layers.py")
            continue
        for number, line in enumerate(tree.text(path).split("\n"), 1):
            include = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if include and include.group(1) not in GENERATED:
                check_include(tree, path, number, own, include.group(1))


def check_include(tree, path, number, own, included):
    other = folder_of(included)
    if not tree.exists(f"src/{included}"):
        tree.finding(path, number, f'"{included}" is not a file below src/')
    elif other not in LEVEL:
        tree.finding(path, number, f'"{included}" is in no layer')
    elif other != own and LEVEL[other] == LEVEL[own]:
        tree.finding(path, number, f'{own} includes "{included}", its sibling')
    elif LEVEL[other] > LEVEL[own]:
        tree.finding(path, number, f'{own} includes "{included}", a higher layer')
