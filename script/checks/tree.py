# SPDX-License-Identifier: Apache-2.0
"""The tree under check: its files, the findings, and C source read just well enough.

C is not parsed. Comments and literals are blanked (line numbers stay), preprocessor lines and
#else branches too, and then braces at the outermost level tell functions and declarations. That
is enough for code that clang-format laid out, and it needs no compiler.
"""
import os
import re
import subprocess

# Folders that hold others' files, generated files, or examples of what is refused.
SKIPPED = ("tests/checks/", "tests/fuzz/corpus/", "tests/wire/", "bench/results/", "subprojects/",
           "third_party/", "build")
TOKENS = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)


class Tree:
    """Files below `root`, with paths relative to it; `ran` is a folder of test results or None."""

    def __init__(self, root, ran=None):
        self.root, self.ran = root, ran
        self.findings, self.notes = [], []
        self._texts = {}
        self.paths = sorted(path for path in self._list() if not path.startswith(SKIPPED))

    def finding(self, path, line, message):
        self.findings.append(f"{path}:{line}: {message}")

    def note(self, text):
        self.notes.append(text)

    def text(self, path):
        if path not in self._texts:
            self._texts[path] = (self.root / path).read_text(encoding="utf-8", errors="replace")
        return self._texts[path]

    def exists(self, path):
        return (self.root / path).is_file()

    def matching(self, *suffixes, under=""):
        return [path for path in self.paths if path.startswith(under) and path.endswith(suffixes)]

    def _list(self):
        if (self.root / ".git").exists():
            listing = subprocess.run(
                ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                cwd=self.root, capture_output=True, check=True).stdout.decode()
            return {path for path in listing.split("\0") if path and self.exists(path)}
        found = set()
        for folder, folders, names in os.walk(self.root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found.update(os.path.relpath(os.path.join(folder, name), self.root) for name in names)
        return found


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def blank(text):
    """The text with the insides of comments and literals replaced by spaces."""
    def cover(match):
        found = match.group()
        if found[0] in "\"'":
            return found[0] + " " * (len(found) - 2) + found[0]
        return re.sub(r"[^\n]", " ", found)
    return TOKENS.sub(cover, text)


def blank_preprocessor(text):
    """Blanked text without directives (continued lines included) and without #else branches."""
    lines, skipping, continued = [], [], False
    for line in text.split("\n"):
        directive = re.match(r"\s*#\s*(\w+)", line)
        word = directive.group(1) if directive and not continued else ""
        if word.startswith("if"):
            skipping.append(False)
        elif word in ("else", "elif") and skipping:
            skipping[-1] = True
        elif word == "endif" and skipping:
            skipping.pop()
        hidden = bool(word) or continued or any(skipping)
        continued = line.endswith("\\") and (bool(word) or continued)
        lines.append(" " * len(line) if hidden else line)
    return "\n".join(lines)


class Function:
    """A definition or a declaration: its name, parameters, and the lines it covers."""

    def __init__(self, text, start, end, signature, name, parameters, defined):
        self.name, self.parameters, self.defined = name, parameters, defined
        self.static = re.search(r"\bstatic\b", signature) is not None
        self.line, self.last_line = line_of(text, start), line_of(text, end)


def functions(source):
    """All functions of a C file at the outermost level, in order."""
    text = blank_preprocessor(blank(source))
    found, depth, start, body = [], 0, 0, None
    for match in re.finditer(r"[{};]", text):
        mark, here = match.group(), match.start()
        if mark == "{":
            if depth == 0:
                body = text[start:here]
            depth += 1
            continue
        if mark == "}":
            depth -= 1
            if depth == 0 and "=" not in body and not body.rstrip().endswith("]"):
                if add(found, text, start, here, body, True):
                    start = here + 1
        elif depth == 0:
            if "{" not in text[start:here]:
                add(found, text, start, here, text[start:here], False)
            start = here + 1
    return found


def add(found, text, start, end, signature, defined):
    """Note a function if that is what the signature is; says whether it was."""
    if re.match(r"\s*typedef\b", signature) or "=" in signature:
        return False
    for match in re.finditer(r"\b([A-Za-z_]\w*)\s*\((?!\s*[*^])", signature):
        name = match.group(1)
        if name.isupper() or name in ("__attribute__", "_Alignas", "alignas", "_Static_assert"):
            continue
        if signature[:match.start()].strip() == "":
            return False                   # a macro's call, not a declaration
        first = start + len(signature) - len(signature.lstrip())
        parameters = split_parameters(signature[match.end():])
        found.append(Function(text, first, end, signature, name, parameters, defined))
        return True
    return False


def split_parameters(text):
    """The parameters up to the parenthesis that closes the list."""
    depth, parts, current = 0, [], ""
    for char in text:
        if char == ")" and depth == 0:
            break
        depth += (char in "([") - (char in ")]")
        if char == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += char
    parts.append(current)
    parts = [part.strip() for part in parts]
    return [] if parts in ([""], ["void"]) else parts
