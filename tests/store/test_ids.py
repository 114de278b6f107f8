"""All object IDs of an index, compared with sqlite3's own rows."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from archive_builder.errors import DamagedIndexError
from archive_builder.measure.quality import Status
from archive_builder.store import index as index_module
from archive_builder.store.index import Index

EXTREMES = [-(2**63), -(2**63) + 1, -1, 0, 1, 2**63 - 2, 2**63 - 1]


def index_with(folder: Path, rows: list[tuple[int, object]]) -> Path:
    """Make an index of objects with these IDs and statuses."""
    Index(folder, writable=True).close()
    with closing(sqlite3.connect(folder / "index.sqlite")) as db, db:
        db.executemany("INSERT INTO objects VALUES (?, 1, 0, ?)", rows)
    return folder


@pytest.mark.parametrize("batch", [1, 2, 7, 10_000])
@pytest.mark.parametrize("status", [None, *Status])
def test_ids_equal_those_of_the_table_in_rising_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, status: Status | None
) -> None:
    monkeypatch.setattr(index_module, "BATCH", batch)
    rng = np.random.default_rng(0)
    ids = [*EXTREMES, *rng.choice(10**6, 50, replace=False).tolist(), *rng.integers(2**40, 2**50, 7).tolist()]
    rows = [(n, int(rng.integers(0, 4))) for n in dict.fromkeys(ids)]
    with Index(index_with(tmp_path, rows)) as index:
        found = index.ids(status)
    assert found.dtype == np.int64
    assert found.tolist() == sorted(n for n, of in rows if status is None or of == status)


def test_index_without_objects_has_no_ids(tmp_path: Path) -> None:
    with Index(index_with(tmp_path, [])) as index:
        assert (index.ids().shape, index.ids().dtype) == ((0,), np.int64)


def test_ids_of_several_batches_are_complete(tmp_path: Path) -> None:
    rows = [(3 * n, 0) for n in range(2 * index_module.BATCH + 5)]
    with Index(index_with(tmp_path, rows)) as index:
        np.testing.assert_array_equal(index.ids(Status.STORED), 3 * np.arange(len(rows)))


def test_ids_out_of_order_are_reported_as_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query = "SELECT '7,5' WHERE ?1 < ?3 OR ?2 IS NULL"  # a table with damaged pages can give this answer
    with Index(index_with(tmp_path, [(5, 0), (7, 0)])) as index:
        monkeypatch.setattr(index_module, "IDS", query)
        with pytest.raises(DamagedIndexError, match="not in order"):
            index.ids()
