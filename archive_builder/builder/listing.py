"""Objects that a tile lists: its catalogue rows, their pixel positions, and their status before the pixels are read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archive_builder import geometry
from archive_builder.errors import TileError, one_line
from archive_builder.measure.owners import owns
from archive_builder.measure.quality import Status
from archive_builder.object_ids import ObjectIds
from archive_builder.store.records import ObjectTable
from archive_builder.survey.catalog import Catalog
from archive_builder.survey.discovery import TileFiles
from archive_builder.survey.image import NoHduError
from archive_builder.survey.recipe import Recipe
from archive_builder.survey.tile import Tile

NOTHING: NDArray[np.int64] = np.empty(0, dtype=np.int64)
"""No object IDs."""


@dataclass(frozen=True)
class Rows:
    """Rows of one tile in a file that holds the rows of all tiles.

    The file has three columns one after another, object ID, RA and Dec (float64, deg, ICRS), sorted by tile.
    """

    path: Path
    """The file."""

    start: int
    """First row."""

    stop: int
    """Row after the last one."""

    total: int
    """Rows in the file."""

    stamp: tuple[int, int]
    """`file_stamp` of the catalogue before its rows were read."""

    id_type: str = "<i8"
    """Type of the object IDs, ``<U11`` for text of up to 11 characters."""

    def __len__(self) -> int:
        return self.stop - self.start

    def read(self) -> Catalog:
        """Return the rows.

        Raises
        ------
        TileError
            The file cannot be read.
        """
        try:
            ids = self._column(self.id_type, 0)
            end = np.dtype(self.id_type).itemsize * self.total
            ra, dec = (self._column("f8", end + 8 * column * self.total) for column in range(2))
        except OSError as error:
            raise TileError(f"rows {self.path}: cannot be read ({one_line(error)}): build it again") from None
        return Catalog(ids, ra, dec)

    def _column(self, of: str, first_byte: int) -> NDArray[Any]:
        offset = first_byte + np.dtype(of).itemsize * self.start
        return np.fromfile(self.path, dtype=of, count=len(self), offset=offset)


def first_band(files: TileFiles, recipe: Recipe) -> Tile:
    """Open the first band of a tile: its header has the place of the tile on the sky.

    Raises
    ------
    TileError
        The file cannot be used.
    """
    *others, last = files.images.items()
    for band, source in others:
        try:
            return Tile.of(replace(files, images={band: source}, planes={}), recipe)
        except NoHduError:  # the tile may lack the band
            if recipe.survey.missing_bands == "fail":
                raise
    return Tile.of(replace(files, images=dict([last]), planes={}), recipe)


def place(catalog: Catalog, tile: Tile) -> ObjectTable:
    """Return the objects of a catalogue with their pixel positions on a tile.

    Raises
    ------
    TileError
        No object lies on the tile: the catalogue is another tile's, or its positions are not in deg.
    """
    x, y = geometry.sky_to_pixel(tile.wcs, tile.shape, catalog.ra, catalog.dec)
    ny, nx = tile.shape
    if not ((x >= -0.5) & (x <= nx - 0.5) & (y >= -0.5) & (y <= ny - 0.5)).any():
        ra, dec = geometry.footprint(tile.wcs, tile.shape).mean(axis=0)
        first = np.flatnonzero(catalog.has_position)[0]
        raise TileError(
            f"none of the {int(catalog.has_position.sum())} catalogued objects lies on the tile: it is at RA {ra:.4f}, "
            f"Dec {dec:.4f}, the first object at RA {catalog.ra[first]:.4f}, Dec {catalog.dec[first]:.4f}: "
            "check that RA is in deg, not in hours, and that the catalogue is this tile's"
        )
    rms = np.full((len(x), len(tile.bands)), np.nan, dtype=np.float32)
    return ObjectTable(catalog.object_id, catalog.ra, catalog.dec, x, y, rms)


def file_stamp(path: Path) -> tuple[int, int]:
    """Return the size of a file in bytes, and its modification time in ns."""
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns


def digest(object_id: ObjectIds, depth: NDArray[np.int32]) -> str:
    """Return a short hash of the objects of a tile: IDs and depths, in the order of the catalogue."""
    return hashlib.sha256(object_id.tobytes() + depth.tobytes()).hexdigest()[:16]


def first_status(catalog: Catalog, depth: NDArray[np.int32], elsewhere: ObjectIds = NOTHING) -> NDArray[np.uint8]:
    """Return the status of each object before the pixels are read: ``STORED`` for an object to measure.

    Parameters
    ----------
    catalog : Catalog
    depth : ndarray of int32, (N,)
        Depth of each object inside the tile, milliarcsec.
    elsewhere : ndarray of int64 or str, (n,)
        Object IDs that another tile owns.
    """
    status = np.where(catalog.has_position, Status.STORED, Status.POSITION)
    is_owner = owns(catalog.object_id, depth, np.arange(len(depth)))
    gives_way = np.isin(catalog.object_id, elsewhere) | ~is_owner
    return np.where(gives_way, Status.ELSEWHERE, status).astype(np.uint8)
