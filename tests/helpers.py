"""Helpers that several test files use."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
from click.testing import CliRunner, Result

from archive_builder.cli.main import main

REQUIRED = "ARCHIVE_BUILDER_REQUIRE_PROGRAMS"
"""Environment variable: if set, a missing program fails a test; by default the test is skipped."""


def run(*arguments: object) -> Result:
    """Run a command of ``archive-builder`` in this process; only errors of the command line itself are caught."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def execute(archive: Path, *statements: str) -> list[tuple[Any, ...]]:
    """Execute SQL statements in an archive's index; return the rows of the last one."""
    rows: list[tuple[Any, ...]] = []
    with closing(sqlite3.connect(archive / "index.sqlite")) as connection, connection:
        for statement in statements:
            rows = connection.execute(statement).fetchall()
    return rows


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@contextmanager
def restored(folder: Path, kept: Path) -> Iterator[Path]:
    """Restore a folder at the end of the block from a copy at ``kept``. Tests on a copy would see other paths."""
    shutil.copytree(folder, kept)
    yield folder
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)


def give_up(reason: str) -> NoReturn:
    """Skip the test because a program is missing, or fail the test if `REQUIRED` is set."""
    (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(reason)
