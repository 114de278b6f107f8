"""One pass over a tile's rows: measure the noise, select the objects, write their pixels.

Every row is read once. An object is settled as soon as the rows under its cutout have been read and the noise around
the object is final. A row is released as soon as no unsettled object can need it. Objects are settled in blocks of
`BLOCK` rows of the tile, and within a block from left to right. This is the order of the cutouts: neighbours in the
order share pixels. The result does not depend on the number of rows read at a time.

Weights and masks follow the image, each in its own pass: only one plane's rows are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archive_builder.errors import TileError
from archive_builder.geometry import nearest_pixel, window_origin
from archive_builder.measure.noise import NoiseMesh
from archive_builder.measure.quality import Status, Thresholds, judge
from archive_builder.measure.quantize import Codec, UnstorableError
from archive_builder.store.records import ObjectTable
from archive_builder.store.rows import RowBuffer
from archive_builder.store.shard_writer import ShardWriter
from archive_builder.survey.tile import Tile

BLOCK = 512
"""Height of a block, rows: its objects are settled together.

With taller blocks a reader that reads in order decodes fewer chunks twice (1.7 times on average at 512 rows and
228 px), and more rows stay in memory (180 MB at 10,000 px and five bands).
"""

STRIP_ROWS = 128
"""Rows read at a time, by default."""


@dataclass(frozen=True)
class Cut:
    """Geometry of the cutouts, and the thresholds for objects."""

    size: int
    """Side of a cutout, px."""

    mesh: int
    """Side of a cell of the noise mesh, px."""

    pixel_scale: float
    """Pixel scale, arcsec."""

    thresholds: Thresholds
    """Thresholds for an object."""


@dataclass(frozen=True)
class Verdict:
    """Outcome of every object of a tile."""

    status: NDArray[np.uint8]
    """`Status` of every object, (N,)."""

    order: NDArray[np.intp]
    """Numbers of the stored objects, in the order of their cutouts."""

    blank_fraction: NDArray[np.float64]
    """Blank fraction of every cutout in the worst band, (N,); NaN for an object off the tile."""


class Sweep:
    """A pass over one tile.

    Parameters
    ----------
    tile : Tile
    objects : ObjectTable
        All catalogued objects; the sweep fills in their ``rms``.
    cut : Cut
    codecs : mapping of str to Codec
        Codec of each plane: ``SCI``, and the other planes to store.
    shard : ShardWriter
        Writer for the cutouts and the pixels.
    status : ndarray of uint8, (N,)
        `Status` of every object before the sweep: ``STORED`` for an object to measure.
    """

    def __init__(
        self,
        tile: Tile,
        objects: ObjectTable,
        cut: Cut,
        codecs: Mapping[str, Codec],
        shard: ShardWriter,
        status: NDArray[np.uint8],
    ) -> None:
        self._tile, self._objects, self._cut, self._shard = tile, objects, cut, shard
        self._noise = NoiseMesh(len(tile.bands), tile.shape, cut.mesh)
        self._codecs = codecs
        self._there = [number for number, band in enumerate(tile.bands) if band not in tile.missing]
        ny, nx = tile.shape
        x, y = (np.nan_to_num(axis, nan=-1e9).clip(-1e9, 1e9) for axis in (objects.x, objects.y))
        inside = _within(nearest_pixel(x), nx) & _within(nearest_pixel(y), ny)
        wanted = status == Status.STORED
        self._status = np.where(wanted & ~inside, Status.OUTSIDE, status).astype(np.uint8)
        self._blank_fraction = np.full(len(self._status), np.nan)
        self._blocks = _blocks(objects, inside & wanted, ny)
        self._windows: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self._order: list[NDArray[np.intp]] = []

    def run(self, strip_rows: int = STRIP_ROWS) -> Verdict:
        """Read the tile from its first row to its last, plane by plane.

        Raises
        ------
        TileError
            Rows cannot be read, or the value of a pixel cannot be stored.
        """
        self._follow("SCI", strip_rows)
        for plane in self._codecs:
            if plane != "SCI":
                self._follow(plane, strip_rows)
        return Verdict(self._status, np.concatenate(self._order), self._blank_fraction)

    def _follow(self, plane: str, strip_rows: int) -> None:
        """Read one plane. The image comes first: it decides which objects are stored."""
        rows, height, block = RowBuffer(self._codecs[plane], self._tile.shape), self._tile.shape[0], 0
        for y0 in range(0, height, strip_rows):
            self._read(plane, rows, y0, min(y0 + strip_rows, height))
            while block < len(self._blocks) and self._can_settle(block, rows.end):
                if block == len(self._windows):
                    self._settle(self._blocks[block], rows)
                self._shard.add_cutouts(plane, *self._windows[block], rows)
                block += 1
            self._write_rows(plane, rows, min(block * BLOCK - self._cut.size // 2, rows.end))
        self._write_rows(plane, rows, height)

    def _read(self, plane: str, rows: RowBuffer, y0: int, y1: int) -> None:
        """Read the next rows of one plane."""
        values = self._tile.read(y0, y1, plane, self._codecs[plane].output)
        if plane == "SCI":
            self._noise.add(values)
        try:
            rows.append(values)
        except UnstorableError as error:
            raise TileError(
                f"band {self._tile.bands[error.band]}: a pixel in rows {y0} to {y1} has {error}: "
                'mask it, or set storage.quantization = "lossless"'
            ) from None

    def _can_settle(self, block: int, read_below: int) -> bool:
        """Return True if all rows have been read that the objects of a block need."""
        end, height = (block + 1) * BLOCK, self._tile.shape[0]
        # An object is at most half a pixel below its block.
        return read_below >= min(end + self._cut.size, height) and self._noise.known_below >= min(end, height)

    def _settle(self, members: NDArray[np.intp], rows: RowBuffer) -> None:
        """Judge the objects of one block, by the rows of the image."""
        table, size = self._objects.take(members), self._cut.size
        table.rms[:] = self._objects.rms[members] = self._noise.at(table.x, table.y)
        x0, y0 = window_origin(table.x, table.y, (size, size))
        blank = rows.blank_fraction(x0, y0, size, self._there)
        status = judge(table.rms, blank, self._tile.bands, self._cut.pixel_scale, self._cut.thresholds)
        self._status[members], self._blank_fraction[members] = status, blank
        stays = status == Status.STORED
        self._windows.append((x0[stays], y0[stays]))
        self._order.append(members[stays])

    def _write_rows(self, plane: str, rows: RowBuffer, below: int) -> None:
        """Write the rows above ``below``: no unsettled object needs them."""
        for number, slab in rows.release(below):
            self._shard.add_slab(plane, number, slab)


def _within(pixel: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
    return (pixel >= 0) & (pixel < length)


def _blocks(objects: ObjectTable, inside: NDArray[np.bool_], height: int) -> list[NDArray[np.intp]]:
    """Return the numbers of the objects to measure: an array a block, each from left to right."""
    chosen = np.flatnonzero(inside)
    table = objects.take(chosen)
    block = nearest_pixel(table.y) // BLOCK
    chosen = chosen[np.lexsort((table.object_id, table.y, table.x, block))]
    edges = np.searchsorted(np.sort(block), np.arange(1, -(-height // BLOCK)))
    return np.split(chosen, edges)
