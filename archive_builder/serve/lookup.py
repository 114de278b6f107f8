"""Lookups of single objects and positions in a snapshot of an archive."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from astropy.table import Table
from numpy.typing import ArrayLike, NDArray

from archive_builder.errors import (
    ArchiveError,
    ObjectNotFoundError,
    ObjectSkippedError,
    PositionOutsideError,
    RequestError,
)
from archive_builder.geometry import Shape, Size, sky_to_pixel, window_origin
from archive_builder.measure.quality import INDEXED, Status
from archive_builder.serve.cutout import Cutout
from archive_builder.serve.sky import Position, objects_within, ra_dec, separation_table
from archive_builder.serve.snapshot import Bands, Lender, OpenTile, Snapshot, as_slice
from archive_builder.store.records import ObjectTable, Places, TileRow
from archive_builder.store.shard_reader import Shard
from archive_builder.units import to_degrees

ANY = "any"
"""Status of every catalogued object, with a cutout or without."""


@dataclass(frozen=True, repr=False)
class Location:
    """Place of an object in the archive."""

    object_id: int
    """Object ID of the survey."""

    tile: str
    """Name of the tile."""

    row: int
    """Row of the shard's ``/cutouts``, or of its ``/skipped``."""

    status: str
    """``stored``, or the reason for no cutout: ``noise``, ``blank``, ``outside``, ``position``."""

    shard: Path
    """Path of the shard."""

    def __repr__(self) -> str:
        return f"<Location of object {self.object_id}: tile {self.tile}, row {self.row}, {self.status}>"


@dataclass(frozen=True)
class Summary:
    """Contents of an archive."""

    survey: str
    """Name of the survey."""

    tiles: int
    """Tiles with a shard."""

    cutouts: int
    """Objects with a cutout."""

    size: int
    """Side of the archived cutouts, px."""

    bands: tuple[str, ...]
    """Bands in the order of every band axis."""

    layout: str
    """Layout of the shards, ``mosaic`` or ``stamps``."""


@dataclass(frozen=True)
class PlaneReader:
    """Reader of one cutout's planes: from the archive's open shard, or from the shard itself."""

    lender: Lender
    """Lends the archive's open shard."""

    path: Path
    """Path of the shard."""

    row: int | None
    """Row of the shard's ``/cutouts``; None for a cutout at a position."""

    origin: tuple[int, int]
    """First column and row of the cutout on the tile."""

    shape: Shape
    """Rows and columns of the cutout."""

    bands: tuple[int, ...]
    """Numbers of the bands, in the order of the cutout."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the archive behind: a cutout in another process opens the shard itself."""
        return PlaneReader, (no_lender, self.path, self.row, self.origin, self.shape, self.bands)

    def __call__(self, plane: str) -> NDArray[Any]:
        """Return one plane of the cutout, from the archive's open shard if possible."""
        lend = self.lender() or lend_opened
        return lend(self.path, lambda shard: self.read(shard, plane))

    def read(self, shard: Shard, plane: str) -> NDArray[Any]:
        """Return one plane of the cutout; row 0 of the colour picture is the sky's top."""
        if plane == "COLOR":
            return shard.read_color(*self.origin, self.shape)[::-1]
        if not self.bands:
            return np.empty((0, *self.shape), dtype=np.float32)
        data = np.empty((len(self.bands), *self.shape), dtype=shard.dtype(plane))
        bands = as_slice(list(self.bands))
        if self.row is None or shard.info.layout == "mosaic":
            shard.read_window(*self.origin, bands, data, plane)
        else:
            shard.read(self.row, self.shape, bands, data, plane)
        return data


def lend_opened(path: Path, read: Callable[[Shard], NDArray[Any]]) -> NDArray[Any]:
    """Call a function with a shard that is open for this call only."""
    with Shard(path) as shard:
        return read(shard)


def no_lender() -> None:
    """Return None: the lender of a cutout in another process."""


# ---- objects


def find(snapshot: Snapshot, object_ids: ArrayLike) -> Places:
    """Find many objects without reading pixels.

    Parameters
    ----------
    object_ids : array_like of int, (N,)

    Returns
    -------
    Places
        Tile, row and status of each; the tile is -1 for an unknown ID.

    Raises
    ------
    RequestError
        The IDs are not 64-bit integers in one list.
    """
    return snapshot.index.find(whole_numbers(object_ids))


def locate(snapshot: Snapshot, object_id: int) -> Location:
    """Find an object without reading pixels; see :meth:`archive_builder.serve.archive.Archive.locate`."""
    if not is_object_id(object_id):
        raise RequestError(f"object ID {object_id!r} is not a 64-bit integer: give the ID of the catalogue")
    return location(snapshot, int(object_id), snapshot.index.find(np.array([object_id], dtype=np.int64)), 0)


def location(snapshot: Snapshot, object_id: int, places: Places, number: int) -> Location:
    """Return the location of one of the objects that :func:`find` looked up together.

    Raises
    ------
    ObjectNotFoundError
        The archive does not have the ID.
    """
    tile_id, row, status, generation = (
        int(column[number]) for column in (places.tile_id, places.row, places.status, places.generation)
    )
    if tile_id < 0:
        raise ObjectNotFoundError(object_id, snapshot.path)
    shard = snapshot.shard_path(tile_id, generation)
    return Location(object_id, snapshot.tile(tile_id).name, row, Status(status).name.lower(), shard)


def is_object_id(value: object) -> TypeGuard[int]:
    """Return True for a 64-bit integer."""
    return isinstance(value, Integral) and -(2**63) <= int(value) < 2**63


def has_cutout(snapshot: Snapshot, object_id: int) -> bool:
    """Return True if the archive has a cutout of an object."""
    places = find(snapshot, [object_id])
    return bool(places.has_cutout[0])


def object_ids(snapshot: Snapshot, status: str = "stored") -> NDArray[np.int64]:
    """Return the IDs of the objects of one status; see :meth:`archive_builder.serve.archive.Archive.ids`."""
    choices = (*(one.name.lower() for one in INDEXED), ANY)
    if status not in choices:
        raise RequestError(f"status {status!r} is unknown: give one of {', '.join(choices)}")
    before = snapshot.index.tiles()
    ids = snapshot.index.ids(None if status == ANY else Status[status.upper()])
    expected = sum(_count(snapshot, tile, status) for tile in before if tile.shard)
    # A build that commits a tile meanwhile changes both numbers.
    if len(ids) != expected and snapshot.index.tiles() == before:
        raise ArchiveError(
            f"index {snapshot.index.path}: lists {len(ids)} objects with the status {status}, "
            f"but its tiles count {expected}: reindex the archive"
        )
    return ids


def _count(snapshot: Snapshot, tile: TileRow, status: str) -> int:
    """Return the number of a tile's objects of one status."""
    if status == "stored":
        return tile.stored
    return snapshot.index.objects_of(tile) if status == ANY else snapshot.index.skipped_for(tile).get(status, 0)


def summary(snapshot: Snapshot) -> Summary:
    """Return the contents of the archive, from its index."""
    tiles, settings = snapshot.built_tiles, snapshot.settings
    count = sum(tile.stored for tile in tiles)
    return Summary(settings.survey, len(tiles), count, settings.size, settings.bands, settings.layout)


def cutout(snapshot: Snapshot, object_id: int, size: Size | None = None, bands: Bands | None = None) -> Cutout:
    """Return the cutout of an object; see :meth:`archive_builder.serve.archive.Archive.get`."""
    return cutout_of(snapshot, locate(snapshot, object_id), size, bands)


def cutout_of(snapshot: Snapshot, where: Location, size: Size | None, bands: Bands | None) -> Cutout:
    """Return the cutout of an object whose location is known."""
    tile, row = snapshot.open_tile(where.shard), where.row
    shard = tile.shard
    if where.status != "stored":
        check_row(shard, shard.skipped, row, where.object_id)
        raise _skipped(where, shard)
    objects = shard.objects
    check_row(shard, objects, row, where.object_id)
    xy = float(objects.x[row]), float(objects.y[row])
    shape = snapshot.shape_at(size, shard, *xy, archived=True)
    sky = float(objects.ra[row]), float(objects.dec[row])
    return _cut(snapshot, tile, shape, snapshot.band_numbers(bands), xy, sky, row)


def _skipped(where: Location, shard: Shard) -> ObjectSkippedError:
    rms = dict(zip(shard.info.bands, shard.skipped.rms[where.row].tolist(), strict=True))
    return ObjectSkippedError(where.object_id, shard.info.tile, Status(shard.reason[where.row]).name.lower(), rms)


def check_row(shard: Shard, table: ObjectTable, row: int, object_id: int) -> None:
    """Check that a row of a shard holds the object that the index names.

    Raises
    ------
    ArchiveError
        The row holds another object, or does not exist.
    """
    if not 0 <= row < len(table.object_id) or table.object_id[row] != object_id:
        raise ArchiveError(
            f"shard {shard.path}: row {row} does not hold object {object_id}: verify or reindex the archive"
        )


# ---- positions


def tile_name(snapshot: Snapshot, tile_id: int) -> str:
    """Return the name of a tile by its number in :func:`find` and :func:`tiles_at`."""
    return snapshot.tile(tile_id).name


def tiles_at(snapshot: Snapshot, ra: ArrayLike, dec: ArrayLike) -> NDArray[np.int64]:
    """Return the tiles on which positions lie; where tiles overlap, the one where the position lies deepest inside.

    Parameters
    ----------
    ra, dec : array_like of float, (N,)
        Deg, ICRS.

    Returns
    -------
    ndarray of int64, (N,)
        Numbers of tiles, see :func:`tile_name`; -1 for a position on no tile.
    """
    ids, footprints = snapshot.footprints
    return np.asarray(np.concatenate([ids, [-1]])[footprints.find(ra, dec)])


def cutout_at(snapshot: Snapshot, position: Position, size: Size | None = None, bands: Bands | None = None) -> Cutout:
    """Return a cutout around a position; see :meth:`archive_builder.serve.archive.Archive.at`."""
    ra, dec = ra_dec(position)
    tile_id = int(tiles_at(snapshot, ra, dec)[0])
    if tile_id < 0:
        raise PositionOutsideError(f"RA {ra:.6f}, Dec {dec:.6f} lies on no tile of the archive {snapshot.path}")
    tile = snapshot.open_tile(snapshot.shard_path(tile_id))
    _check_mosaic(snapshot, tile_id, tile.shard)
    info = tile.shard.info
    x, y = sky_to_pixel(tile.headers.wcs, (info.height, info.width), np.array([ra]), np.array([dec]))
    xy = float(x[0]), float(y[0])
    if not np.isfinite(xy).all():
        raise PositionOutsideError(f"RA {ra:.6f}, Dec {dec:.6f} lies on no tile of the archive {snapshot.path}")
    shape = snapshot.shape_at(size, tile.shard, *xy, archived=False)
    return _cut(snapshot, tile, shape, snapshot.band_numbers(bands), xy, (ra, dec), row=None)


def _check_mosaic(snapshot: Snapshot, tile_id: int, shard: Shard) -> None:
    """Check that a shard lies where the index places it on the sky, and can be cut anywhere."""
    if not snapshot.index.has_footprint(snapshot.tile(tile_id), shard.info.footprint):
        raise ArchiveError(
            f"index {snapshot.index.path}: places tile {shard.info.tile} elsewhere on the sky than its shard: "
            "reindex the archive"
        )
    if shard.info.layout != "mosaic":
        raise RequestError(
            f"the archive {snapshot.path} stores the cutouts of its objects only and cannot cut elsewhere: "
            "ask for the nearest object, or build a mosaic"
        )


def cone_search(snapshot: Snapshot, position: Position, radius: Any) -> Table:
    """Return the objects around a position; see :meth:`archive_builder.serve.archive.Archive.cone_search`."""
    ra, dec = ra_dec(position)
    limit = to_degrees(radius)
    ids, footprints = snapshot.footprints
    shards = (snapshot.open_tile(snapshot.shard_path(int(ids[n]))).shard for n in footprints.near(ra, dec, limit))
    return separation_table([objects_within(shard, ra, dec, limit) for shard in shards])


# ---- cutting


def _cut(
    snapshot: Snapshot,
    tile: OpenTile,
    shape: Shape,
    chosen: list[int],
    xy: tuple[float, float],
    sky: tuple[float, float],
    row: int | None,
) -> Cutout:
    """Cut a window around the pixel position ``xy`` out of a tile."""
    shard, bands = tile.shard, snapshot.bands
    x0, y0 = (int(n) for n in window_origin(*xy, shape))
    planes = PlaneReader(snapshot.lender, shard.path, row, (x0, y0), shape, tuple(chosen))
    lossless = shard.info.quantization == "lossless"
    rms = np.full(len(bands), np.nan) if row is None else shard.objects.rms[row]
    return Cutout(
        data=planes.read(shard, "SCI"),
        bands=tuple(bands[i] for i in chosen),
        object_id=None if row is None else int(shard.objects.object_id[row]),
        tile=shard.info.tile,
        generation=shard.info.generation,
        ra=sky[0],
        dec=sky[1],
        origin=(x0, y0),
        zero_points={bands[i]: float(shard.info.zero_point[i]) for i in chosen},
        rms={bands[i]: float(rms[i]) for i in chosen},
        step={bands[i]: 0.0 if lossless else shard.step[i] for i in chosen},
        headers=tile.headers,
        planes=shard.info.planes,
        read_plane=planes,
    )


def whole_numbers(object_ids: ArrayLike) -> NDArray[np.int64]:
    """Return object IDs as int64 (N,).

    Raises
    ------
    RequestError
        The IDs are not 64-bit integers in one list.
    """
    ids = np.asarray(list(object_ids) if isinstance(object_ids, Iterable) else object_ids)
    if ids.ndim == 1 and len(ids) == 0:
        return np.empty(0, dtype=np.int64)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or ids.max() > np.iinfo(np.int64).max:
        raise RequestError(f"object IDs are 64-bit integers in one list, not {ids.dtype} of shape {ids.shape}")
    return ids.astype(np.int64)
