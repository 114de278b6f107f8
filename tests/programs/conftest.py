"""Run other projects' programs, for the tests of this folder."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import give_up


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    return run_program


def run_program(names: str, *arguments: object, **options: object) -> str:
    """Run a program and return what it printed.

    Parameters
    ----------
    names : str
        Possible names of the program, separated by spaces; the usual name first.
    *arguments
        Arguments, converted to text.
    **options
        Passed to :func:`subprocess.run`.
    """
    command = [find_program(names), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}"
    return done.stdout


def find_program(names: str) -> str:
    """Return a program's path; skip the test if the program is missing, or fail the test if `REQUIRED` is set."""
    # The project's own command is beside the interpreter, which may not be on the PATH.
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    for name in names.split():
        if path := shutil.which(name, path=places):
            return path
    give_up(f"{names.split()[0]} is not installed")
