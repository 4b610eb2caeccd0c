# SPDX-License-Identifier: Apache-2.0
"""Wire files for Python: sections by name, see README.md."""
from pathlib import Path

FOLDER = Path(__file__).parent


class WireFile:
    def __init__(self, path):
        self.path, self.name = path, path.stem
        self.sections, current = {}, None
        for line in path.read_text().splitlines(keepends=True):
            if line.startswith("=== "):
                name, _, rest = line[4:].strip().partition(" ")
                current = self.sections[name] = [rest, ""]
            elif current:
                current[1] += line

    def rest(self, name):
        return self.sections[name][0] if name in self.sections else None

    def text(self, name):
        return self.sections[name][1] if name in self.sections else None


def wire_files():
    return [WireFile(path) for path in sorted(FOLDER.glob("*.txt"))]
