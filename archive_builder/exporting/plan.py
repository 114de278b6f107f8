"""Plan of a bulk request: the tile of every row, and the jobs in the order of the archive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archive_builder.errors import RequestError
from archive_builder.exporting import names
from archive_builder.exporting.answers import Answers
from archive_builder.exporting.job import SKIPPED, ExportJob, pixel_scale
from archive_builder.exporting.output import Output
from archive_builder.exporting.request_list import Outcome, RequestList, Sizes
from archive_builder.geometry import parse_shape
from archive_builder.serve.archive import Archive
from archive_builder.store.index import Index
from archive_builder.store.records import TileRow

ROWS_PER_JOB = 1000
"""Maximum rows of a job. Rows of one object stay together, even if they are more."""

SEARCH_BLOCK = 0.035
"""Height of the strips of Dec in which a tile's positions are served, deg: about the 512 rows of a build's strip."""

POSITIONS_AT_ONCE = 50_000
"""Positions in one search for tiles; each takes a few hundred bytes."""


@dataclass(frozen=True)
class Plan:
    """Work of a bulk request."""

    requests: RequestList
    """The list."""

    output: Output
    """Output of every row."""

    answers: Answers
    """Answers to the rows that need no pixels; the others are ``FAILED`` until their job is done."""

    tiles: dict[int, TileRow]
    """Row of the index for each tile."""

    order: NDArray[np.int64]
    """Rows of the list to serve, tile by tile, (n,)."""

    sky: NDArray[np.float64] | None
    """RA and Dec to cut at, deg, for each row of the list, (N, 2); None for a list of IDs."""

    edges: NDArray[np.int64]
    """First row in ``order`` of each job, and the end of the last job, (jobs + 1,)."""

    @property
    def job_count(self) -> int:
        """Number of jobs."""
        return len(self.edges) - 1

    def jobs(self) -> Iterator[ExportJob]:
        """Yield the jobs."""
        for number, (first, end) in enumerate(pairwise(self.edges.tolist())):
            yield self._job(number, self.order[first:end])

    def _job(self, number: int, rows: NDArray[np.int64]) -> ExportJob:
        tile_id, sizes = self.answers.tile_id[rows], None
        if self.requests.sizes is not None and self.output.pack != "hdf5":
            sizes = Sizes(self.requests.sizes.x[rows], self.requests.sizes.y[rows])
        return ExportJob(
            number=number,
            output=self.output,
            shards={tile: _shard(self.output, self.tiles[tile]) for tile in np.unique(tile_id).tolist()},
            rows=rows,
            tile_id=tile_id,
            key=self.answers.key[rows],
            sky=None if self.sky is None else self.sky[rows],
            sizes=sizes,
            own=None if self.output.pack is None else self.requests.own.typed(rows),
        )


@dataclass(frozen=True)
class _Placed:
    """Places of rows in the archive; parallel arrays."""

    outcome: NDArray[np.uint8]
    """`Outcome`; ``DONE`` for a row to serve, (n,)."""

    key: NDArray[np.int64]
    """Object ID, or number of the position's designation, (n,)."""

    tile_id: NDArray[np.int64]
    """Tile; -1 for none, (n,)."""

    rank: NDArray[np.int64]
    """Rank of the object or position in the order of the archive, (n,)."""

    sky: NDArray[np.float64] | None = None
    """RA and Dec to cut at, deg, (n, 2); None for IDs."""


def make_plan(archive: Archive, requests: RequestList, output: Output) -> Plan:
    """Find the tile of every row, and cut the rows into jobs in the order of the archive.

    Raises
    ------
    RequestError
        The list has positions and the archive no mosaic, or an HDF5 pack would have several sizes.
    """
    with Index(archive.path) as index:
        tiles = {tile.tile_id: tile for tile in index.tiles()}
        has_stamps = index.settings is not None and index.settings.layout != "mosaic"
    if has_stamps and requests.object_id is None:
        raise RequestError(f"the archive {archive.path} is not a mosaic and cannot cut at positions: give object IDs")
    if output.pack is not None:
        requests = replace(requests, own=requests.own.together())
    answers = Answers.to(requests.outcome)
    asked = np.flatnonzero(answers.outcome == Outcome.DONE)
    placed = _place(archive, requests, asked)
    answers.outcome[asked], answers.key[asked], answers.tile_id[asked] = placed.outcome, placed.key, placed.tile_id
    served = np.flatnonzero(placed.outcome == Outcome.DONE)
    in_order = served[np.argsort(placed.rank[served], kind="stable")]
    order = asked[in_order]
    answers.outcome[order] = Outcome.FAILED
    sky = None
    if placed.sky is not None:
        sky = np.full((len(requests), 2), np.nan)
        sky[asked] = placed.sky
    if output.pack == "hdf5" and len(order):
        output = _with_one_size(output, requests, order, tiles[int(answers.tile_id[order[0]])])
    edges = job_edges(answers.tile_id[order], placed.rank[in_order])
    return Plan(requests, output, answers, tiles, order, sky, edges)


def _shard(output: Output, tile: TileRow) -> Path:
    return output.archive / str(tile.shard)


def _place(archive: Archive, requests: RequestList, asked: NDArray[np.intp]) -> _Placed:
    """Find rows of the list in the archive."""
    if requests.object_id is not None:
        return _place_objects(archive, requests.object_id[asked])
    assert requests.ra is not None
    assert requests.dec is not None
    return _place_positions(archive, requests.ra[asked], requests.dec[asked])


def _place_objects(archive: Archive, object_id: NDArray[np.int64]) -> _Placed:
    """Find objects by their IDs."""
    unique, inverse = np.unique(object_id, return_inverse=True)
    places = archive.reader.find(unique)
    outcome = np.full(len(unique), Outcome.DONE, dtype=np.uint8)
    for status, skipped in SKIPPED.items():
        outcome[places.status == status] = skipped
    outcome[places.tile_id < 0] = Outcome.NOT_FOUND
    rank = _ranks(np.lexsort((places.row, places.tile_id)))
    return _Placed(outcome[inverse], object_id, places.tile_id[inverse], rank[inverse])


def _place_positions(archive: Archive, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> _Placed:
    """Find the tiles of positions. Positions of one designation share the first of them."""
    key = names.position_keys(ra, dec)
    _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
    ra, dec = np.mod(ra[first], 360.0), dec[first]
    tile_id = np.empty(len(ra), dtype=np.int64)
    for begin in range(0, len(ra), POSITIONS_AT_ONCE):
        some = slice(begin, begin + POSITIONS_AT_ONCE)
        tile_id[some] = archive.reader.tiles_at(ra[some], dec[some])
    outcome = np.where(tile_id < 0, Outcome.OFF_TILES, Outcome.DONE).astype(np.uint8)
    rank = _ranks(np.lexsort((ra, np.floor(dec / SEARCH_BLOCK), tile_id)))
    sky = np.column_stack([ra, dec])
    return _Placed(outcome[inverse], key, tile_id[inverse], rank[inverse], sky[inverse])


def _ranks(order: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return the rank of each element in an order."""
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return ranks


def job_edges(tile_id: NDArray[np.int32], rank: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cut rows into jobs.

    A job ends between two tiles if it is at least half full there, and never between two rows of one object.

    Parameters
    ----------
    tile_id, rank : ndarray, (n,)
        Tile of each row, and rank of its object, in the order to serve.

    Returns
    -------
    ndarray of int64, (jobs + 1,)
        First row of each job, and the end of the last job.
    """
    n = len(rank)
    new_object = np.concatenate([[0], np.flatnonzero(np.diff(rank)) + 1, [n]])
    new_tile = np.concatenate([[0], np.flatnonzero(np.diff(tile_id)) + 1, [n]])
    edges = [0]
    while edges[-1] < n:
        first = edges[-1]
        end = new_tile[np.searchsorted(new_tile, first + ROWS_PER_JOB, side="right") - 1]
        if end < first + ROWS_PER_JOB // 2:
            number = np.searchsorted(new_object, first + ROWS_PER_JOB, side="right") - 1
            end = new_object[number] if new_object[number] > first else new_object[number + 1]
        edges.append(int(end))
    return np.array(edges, dtype=np.int64)


def _with_one_size(output: Output, requests: RequestList, order: NDArray[np.int64], first_tile: TileRow) -> Output:
    """Return the output with one size in pixels for all cutouts, by the pixel scale of the first tile."""
    size, sizes = output.size, requests.sizes
    if sizes is not None:
        own = np.unique(np.column_stack([sizes.y, sizes.x])[order], axis=0, equal_nan=True)
        if len(own) > 1:
            raise RequestError(
                f"the list has {len(own)} sizes, and the cutouts of an HDF5 pack are of one size: "
                "make the columns XSIZE and YSIZE the same everywhere, leave them out, or pack a webdataset"
            )
        if not np.isnan(own[0, 0]):
            size = f"{own[0, 0]}arcmin", f"{own[0, 1]}arcmin"
    if size is None:
        return output
    return replace(output, size=parse_shape(size, pixel_scale(_shard(output, first_tile))))
