"""Reads of many cutouts from a snapshot of an archive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from archive_builder.errors import ArchiveError, RequestError
from archive_builder.geometry import Shape, Size
from archive_builder.object_ids import ObjectIds
from archive_builder.serve.lookup import check_row, checked_ids, cutout
from archive_builder.serve.snapshot import Bands, Snapshot, as_slice
from archive_builder.store.records import Places
from archive_builder.store.shard_reader import Shard

Missing: TypeAlias = Literal["raise", "blank"]
"""Treatment of an ID without a cutout."""


def read_objects(
    snapshot: Snapshot,
    object_ids: ArrayLike,
    size: Size | None = None,
    bands: Bands | None = None,
    missing: Missing = "raise",
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return the positions of many objects and their cutouts, in the order of the IDs.

    Parameters
    ----------
    object_ids, size, bands, missing
        See :meth:`archive_builder.serve.archive.Archive.get_many`.

    Returns
    -------
    sky : ndarray of float64, (N, 2)
        RA and Dec, deg, ICRS; NaN without a cutout.
    data : ndarray of float32, (N, bands, ny, nx)
        Pixels, image units; NaN without a cutout.
    """
    if missing not in ("raise", "blank"):
        raise RequestError(f'missing is {missing!r}: give "raise" or "blank"')
    ids = checked_ids(snapshot, object_ids)
    places = snapshot.index.find(ids)
    absent = ~places.has_cutout
    if missing == "raise" and absent.any():
        cutout(snapshot, ids[np.flatnonzero(absent)[0]].item())  # raises the reason
        raise ArchiveError(f"index {snapshot.index.path}: changed during the lookup: retry")
    chosen = snapshot.band_numbers(bands)
    shape = snapshot.common_shape(size, places)
    data = np.empty((len(ids), len(chosen), *shape), dtype=np.float32)
    sky = np.empty((len(ids), 2))
    data[absent], sky[absent] = np.nan, np.nan
    for shard, row, number in _in_stored_order(snapshot, places, np.flatnonzero(~absent)):
        check_row(shard, shard.objects, row, ids[number].item())
        if chosen:
            shard.read(row, shape, as_slice(chosen), data[number])
        sky[number] = shard.objects.ra[row], shard.objects.dec[row]
    return sky, data


def _in_stored_order(snapshot: Snapshot, places: Places, numbers: NDArray[np.intp]) -> Iterator[tuple[Shard, int, int]]:
    """Yield the shard, the row and the number of each place, neighbours together."""
    order = numbers[np.lexsort((places.row[numbers], places.tile_id[numbers]))]
    tile_id, shard = -1, None
    columns = (places.tile_id[order], places.generation[order], places.row[order])
    for number, tile, generation, row in zip(order.tolist(), *(c.tolist() for c in columns), strict=True):
        if tile != tile_id or shard is None:
            tile_id, shard = tile, snapshot.open_tile(snapshot.shard_path(tile, generation)).shard
        yield shard, row, number


def stored_rows(snapshot: Snapshot) -> list[tuple[int, int]]:
    """Return the number of every tile that has a shard, and the number of its cutouts."""
    return [(tile.tile_id, tile.stored) for tile in snapshot.built_tiles]


def common_form(snapshot: Snapshot, size: Size | None, bands: Bands | None) -> tuple[Shape, list[int]]:
    """Return the shape ``(ny, nx)`` of many cutouts, px, and the numbers of their bands.

    Raises
    ------
    RequestError
        The size or a band is wrong.
    """
    return snapshot.common_shape(size), snapshot.band_numbers(bands)


def read_rows(
    snapshot: Snapshot, tile_id: int, count: int, first: int, bands: list[int], out: Sequence[NDArray[np.float32]]
) -> ObjectIds:
    """Read consecutive cutouts of one tile.

    Parameters
    ----------
    tile_id : int
        Number of the tile.
    count : int
        Number of the tile's cutouts, as :func:`stored_rows` returned it.
    first : int
        First row.
    bands : list of int
        Numbers of the bands.
    out : sequence of ndarray of float32, (bands, ny, nx)
        Receives the pixels, one array a row.

    Returns
    -------
    ndarray of int64 or str, (len(out),)
        Object IDs.

    Raises
    ------
    ArchiveError
        The tile has another number of cutouts.
    """
    shard = snapshot.open_tile(snapshot.shard_path(tile_id)).shard
    ids = shard.objects.object_id
    if len(ids) != count:
        raise ArchiveError(
            f"shard {shard.path}: has {len(ids)} cutouts, not {count} as at the start of the stream: "
            "start again if the tile was rebuilt, else reindex the archive"
        )
    for number, data in enumerate(out):
        shard.read(first + number, (data.shape[1], data.shape[2]), as_slice(bands), data)
    return ids[first : first + len(out)]
