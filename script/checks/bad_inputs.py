# SPDX-License-Identifier: Apache-2.0
"""tests/bad_inputs.tsv: every known bad input has a test, or a capability that will bring one.

Columns: number, answer, tests, why. `tests` is `later`, or ids separated by commas and blanks:

    e2e/test_framing.py::test_sent_*[a01-*]   pytest tests, also torture/…; a * stands for any text
    unit/test_json_members                    a unit test program
    unit/test_json_members::refuses_bom       one case of it (cmocka's XML)

A row may name tests and still say `later: …` in `why` for the part that is missing. With --ran,
each id must be in the JUnit results and have passed; skipped is not passed.
"""
import re
import xml.etree.ElementTree as ElementTree

TABLE = "tests/bad_inputs.tsv"
COUNT = 221


def check(tree):
    if not tree.exists(TABLE):
        tree.finding(TABLE, 1, "the table of bad inputs is missing")
        return
    passed = read_results(tree) if tree.ran else None
    seen = set()
    lines = tree.text(TABLE).split("\n")
    for line, text in enumerate(lines, 1):
        if not text or text.startswith("#") or text.startswith("number\t"):
            continue
        columns = text.split("\t")
        if len(columns) != 4 or not columns[0].isdigit():
            tree.finding(TABLE, line, "a row is: number, answer, tests, why")
            continue
        number = int(columns[0])
        if number in seen or not 1 <= number <= COUNT:
            tree.finding(TABLE, line, f"{number} is there twice or unknown")
        seen.add(number)
        check_row(tree, line, columns, passed)
    for number in sorted(set(range(1, COUNT + 1)) - seen):
        tree.finding(TABLE, len(lines), f"no row for {number}")
    if passed is None:
        tree.note(f"{TABLE}: that its tests ran is checked with --ran DIR")


def check_row(tree, line, columns, passed):
    number, answer, tests, why = (column.strip() for column in columns)
    if not answer:
        tree.finding(TABLE, line, f"{number} has no answer")
    if tests == "later":
        if not re.search(r"\b[A-Z]\d+\b", why):
            tree.finding(TABLE, line, f"{number} is later: name the capability and say why")
        return
    ids = [name for name in re.split(r"[,\s]+", tests) if name]
    if not ids:
        tree.finding(TABLE, line, f"{number} names no test and is not `later`")
    for name in ids:
        check_exists(tree, line, number, name)
        if passed is not None:
            check_ran(tree, line, number, name, passed)


def check_exists(tree, line, number, name):
    """A pytest id must name a file and a function that are there."""
    match = re.match(r"((?:e2e|torture)/[\w/]+\.py)::([\w*]+)", name)
    if match:
        path, function = f"tests/{match.group(1)}", match.group(2).replace("*", r"\w*")
        if not tree.exists(path):
            tree.finding(TABLE, line, f"{number}: there is no {path}")
        elif not re.search(rf"^def {function}\(", tree.text(path), re.MULTILINE):
            tree.finding(TABLE, line, f"{number}: {path} has no {match.group(2)}")
    elif not re.fullmatch(r"(unit|fuzz|wire)/[\w.-]+(::[\w.-]+)?", name):
        tree.finding(TABLE, line, f"{number}: {name} is not an id of a test")


def check_ran(tree, line, number, name, passed):
    pattern = re.compile(re.escape(name).replace(r"\*", ".*"))
    results = [ok for key, ok in passed.items() if pattern.fullmatch(key)]
    if not results:
        tree.finding(TABLE, line, f"{number}: {name} did not run")
    elif not all(results):
        tree.finding(TABLE, line, f"{number}: {name} did not pass")


def read_results(tree):
    """{id: passed} from every JUnit file below tree.ran. A test that ran in several files (say,
    under two sanitizers) must have passed in each."""
    results = {}
    files = sorted(tree.ran.rglob("*.xml"))
    if not files:
        tree.finding(TABLE, 1, f"no test results (*.xml) below {tree.ran}")
    for path in files:
        for suite in ElementTree.parse(path).getroot().iter("testsuite"):
            for case in suite.findall("testcase"):
                ok = not any(case.find(tag) is not None for tag in ("failure", "error", "skipped"))
                for name in ids_of(suite.get("name") or "", case):
                    results[name] = results.get(name, True) and ok
    return results


def ids_of(suite, case):
    """The ids under which a result counts. pytest's class name is the module's dotted path;
    Meson names a test program, cmocka a case in its suite."""
    name, module = case.get("name") or "", case.get("classname") or ""
    parts = module.split(".")
    pytest_folder = next((folder for folder in ("e2e", "torture") if folder in parts), None)
    if pytest_folder:
        folders = parts[parts.index(pytest_folder):]
        classes = [part for part in folders if part[:1].isupper()]
        path = "/".join(part for part in folders if part not in classes) + ".py"
        return ["::".join([path, *classes, name])]
    program = re.split(r"[/:\s]+", name)[-1]
    kinds = ("unit", "fuzz", "wire")    # the results do not tell which it is
    ids = [f"{kind}/{program}" for kind in kinds]
    return ids + [f"{kind}/{suite}::{name}" for kind in kinds]
