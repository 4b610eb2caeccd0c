# SPDX-License-Identifier: Apache-2.0
"""Commands of the program that run and end: `sluice ask`, `check`, `model` and so on.

    done = run("check", "-c", path, directory=tmp_path)    # .returncode .stdout .stderr, as text
    with start("ask", "hi", directory=…) as process: …      # one that is watched while it runs

Neither sees the developer's environment; a sanitizer's report in the output fails the test.
"""
import subprocess
from contextlib import contextmanager

from sluice import HANG_GUARD_S, REPORTS, clean_environment, find_binary


def arguments_of(words):
    binary = find_binary()
    assert binary, "no sluice to test: run make, or set SLUICE_BIN"
    return [binary, *map(str, words)]


def run(*words, directory, environment=None, input=None):
    """Run a command to its end, which must come soon."""
    done = subprocess.run(arguments_of(words), cwd=directory, input=input, text=True,
                          env=clean_environment(directory, environment), capture_output=True,
                          timeout=3 * HANG_GUARD_S, check=False)
    assert not REPORTS.search(done.stderr), done.stderr
    return done


@contextmanager
def start(*words, directory, environment=None, **options):
    """A running command with its output in binary pipes; killed if it is still there at the end."""
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(arguments_of(words), cwd=directory,
                               env=clean_environment(directory, environment), **pipes | options)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()
