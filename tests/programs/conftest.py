"""Other people's programs, which the tests of this folder ask for a second opinion."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REQUIRED = "ARCHIVE_BUILDER_REQUIRE_PROGRAMS"
"""Set in the environment, it makes a test fail, not skip, for want of a program."""


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    return run_program


def run_program(names: str, *arguments: object, **options: object) -> str:
    """Run a program and return what it printed.

    Parameters
    ----------
    names : str
        What the program may be called, the usual name first, with spaces between.
    *arguments
        As text, whatever they are.
    **options
        For :func:`subprocess.run`.
    """
    command = [find_program(names), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}"
    return done.stdout


def find_program(names: str) -> str:
    """Return a program's path; where it is not installed, skip the test, or fail it if that is asked for."""
    # The project's own command stands beside the interpreter, whether or not that is on the PATH.
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    for name in names.split():
        if path := shutil.which(name, path=places):
            return path
    give_up = pytest.fail if os.environ.get(REQUIRED) else pytest.skip
    give_up(f"{names.split()[0]} is not installed")
