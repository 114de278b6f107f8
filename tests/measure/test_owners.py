"""The owner of an object ID is its deepest row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_builder.measure.owners import FAR_OFF, edge_depth, owns, repeated

rows = st.lists(st.tuples(st.integers(-3, 3), st.integers(-5, 5)), max_size=30)


@given(rows=rows)
def test_each_id_has_one_owner_the_deepest_row_and_of_equal_rows_the_first(rows: list[tuple[int, int]]) -> None:
    ids, depth = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    found = owns(ids, depth.astype(np.int32), np.arange(len(ids)))
    best: dict[int, int] = {}
    for row, (object_id, value) in enumerate(rows):
        if object_id not in best or value > rows[best[object_id]][1]:
            best[object_id] = row
    assert sorted(np.flatnonzero(found).tolist()) == sorted(best.values())


@given(ids=st.lists(st.integers(-3, 3), max_size=30))
def test_repeated_ids_are_those_listed_more_than_once(ids: list[int]) -> None:
    assert repeated(np.array(ids, dtype=np.int64)).tolist() == sorted({n for n in ids if ids.count(n) > 1})


def test_extreme_depths_are_compared_without_overflow() -> None:
    depth = np.array([FAR_OFF, -(FAR_OFF + 1), FAR_OFF], dtype=np.int32)
    assert owns(np.array([2**63 - 1, 2**63 - 1, -(2**63)]), depth, np.arange(3)).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [(49.5, 99.5, 25_000), (-0.5, 50, 0), (99.5, 50, 0), (50, 199.5, 0), (-2.5, 50, -1000), (50, 3.5, 2000)],
)
def test_depth_is_the_distance_to_the_nearest_edge_in_milliarcsec(x: float, y: float, expected: int) -> None:
    # The tile is 100 px wide and 200 px high, at 0.5 arcsec a pixel.
    assert edge_depth(np.array([x]), np.array([y]), (200, 100), 0.5).tolist() == [expected]


def test_a_position_far_off_the_tile_has_the_least_depth() -> None:
    x = np.array([np.nan, -1e9, 50.0])
    depth = edge_depth(x, np.full(3, 50.0), (100, 100), 1.0)
    assert depth[0] == FAR_OFF == depth.min()
    assert depth[2] > 0
