"""The page of the file format: its program and its queries give the same results as the library."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archive_builder import Archive

PAGE = (Path(__file__).parents[2] / "schema" / "README.md").read_text(encoding="utf-8")


def for_object(text: str, object_id: int) -> str:
    """Return a part of the page with the object ID replaced."""
    changed, count = re.subn(r"\b353000001\b", str(object_id), text)
    assert count
    return changed


@pytest.fixture(scope="module")
def object_id(demo_archive: Path) -> int:
    with closing(sqlite3.connect(demo_archive / "index.sqlite")) as index:
        return int(index.execute("SELECT min(object_id) FROM objects WHERE status = 0").fetchone()[0])


def test_the_pages_program_reads_the_same_pixels_as_the_library(
    demo_archive: Path, object_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(demo_archive.parent)
    found: dict[str, Any] = {}
    exec(for_object(program, object_id), found)
    with Archive(demo_archive) as archive:
        np.testing.assert_array_equal(found["flux"], archive.get(object_id).data)


def test_the_pages_queries_give_the_same_results_as_the_library(demo_archive: Path, object_id: int) -> None:
    first, second = re.findall(r'sqlite3 archive/index\.sqlite "(.*?)"', PAGE)
    with Archive(demo_archive) as archive, closing(sqlite3.connect(demo_archive / "index.sqlite")) as index:
        where = archive.locate(object_id)
        row = index.execute(for_object(first, object_id)).fetchone()
        assert row == (f"shards/{where.shard.name}", where.row, 0)
        tiles = index.execute(second).fetchall()
        stored = index.execute("SELECT count(*) FROM objects WHERE status = 0").fetchone()[0]
    assert len(tiles) == 2
    assert sum(count for _, count, _, _ in tiles) == stored
