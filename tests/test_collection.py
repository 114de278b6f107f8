"""pytest collects every test file on disk: its rules for folders and names leave none out."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

OPTIONAL = {"tests/training/test_torch.py": "torch"}
"""Test files that pytest skips entirely without a package, and that package."""

Names = dict[str, set[str]]
"""Names of the test functions by file; paths are relative to the root."""


def skipped_here() -> dict[str, str]:
    """Return the files of `OPTIONAL` without their package installed."""
    return {path: package for path, package in OPTIONAL.items() if find_spec(package) is None}


def files_on_disk() -> Iterator[Path]:
    """Yield the test files of the repository, in tests/ or elsewhere; hidden folders hold environments."""
    for folder, names, files in os.walk(ROOT):
        names[:] = [name for name in names if not name.startswith(".")]
        yield from (Path(folder, name) for name in files if fnmatch(name, "test_*.py"))


@pytest.fixture(scope="module")
def report() -> str:
    """Output of pytest's collection at the root of the repository, with the project's own configuration."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-rs", "-p", "no:cacheprovider"]
    # Options of the current run must not select the collected tests.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def collected(report: str) -> Names:
    found: Names = defaultdict(set)
    for path, name in re.findall(r"^(\S+\.py)::(?:\w+::)*(\w+)", report, re.MULTILINE):
        found[path].add(name)
    return found


@pytest.fixture(scope="module")
def on_disk() -> Names:
    """Return the test functions of every test file of the repository, from the source."""
    found: Names = {}
    for path in files_on_disk():
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        names = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
        found[path.relative_to(ROOT).as_posix()] = {name for name in names if name.startswith("test")}
    return found


def test_every_test_file_on_disk_is_collected(collected: Names, on_disk: Names) -> None:
    assert on_disk.keys() - collected.keys() == skipped_here().keys()
    assert collected.keys() - on_disk.keys() == set()
    assert Path(__file__).relative_to(ROOT).as_posix() in collected


def test_every_test_function_on_disk_is_collected(collected: Names, on_disk: Names) -> None:
    lost = {path: names - collected[path] for path, names in on_disk.items() if path not in skipped_here()}
    assert {path: names for path, names in lost.items() if names} == {}


def test_every_entirely_skipped_file_is_known_and_has_tests(report: str, on_disk: Names) -> None:
    skipped = re.findall(r"^SKIPPED \[1\] (tests/\S+\.py):\d+: could not import '(\w+)'", report, re.MULTILINE)
    assert dict(skipped) == skipped_here()
    assert report.count("SKIPPED") == len(skipped)
    assert [path for path in OPTIONAL if not on_disk[path]] == []
