# SPDX-License-Identifier: Apache-2.0
"""Layout is clang-format's business: the pinned version's, because versions differ."""
import os
import re
import subprocess


def check(tree):
    if not tree.exists(".clang-format"):
        tree.note("layout not checked: no .clang-format")
        return
    program = tree.root / ".venv/bin/clang-format"
    if not program.exists():
        if os.environ.get("CI") == "true":
            tree.finding(".clang-format", 1, "clang-format is not in .venv/bin: run make setup")
        else:
            tree.note("layout not checked: no .venv/bin/clang-format (make setup installs it)")
        return
    paths = tree.matching(".c", ".h")
    if paths:
        run(tree, program, paths)


def run(tree, program, paths):
    """One finding per file, at its first line that would change."""
    result = subprocess.run([program, "--dry-run", "--Werror", "--ferror-limit=0", *paths],
                            cwd=tree.root, capture_output=True, text=True, check=False)
    seen = set()
    for match in re.finditer(r"^(.+?):(\d+):\d+: error: .*$", result.stderr, re.MULTILINE):
        if match.group(1) not in seen:
            seen.add(match.group(1))
            tree.finding(match.group(1), int(match.group(2)), "not as clang-format lays it out")
    if result.returncode and not seen:
        tree.finding(".clang-format", 1, f"clang-format failed: {result.stderr.strip()[:300]}")
