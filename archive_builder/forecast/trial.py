"""What pixels would take if they were stored otherwise: part of a tile is, and weighed and timed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from archive_builder.atomic import sync
from archive_builder.builder.one_tile import choose_codecs
from archive_builder.geometry import window_origin
from archive_builder.measure.quantize import Codec, UnstorableError
from archive_builder.store.format import HDF5_VERSIONS, checksum
from archive_builder.store.layout import LAYOUTS, chunk_grid, touch_chunks
from archive_builder.store.records import ObjectTable
from archive_builder.store.rows import CHUNK, RowBuffer
from archive_builder.survey.recipe import StorageSection
from archive_builder.survey.tile import Tile

STRIPS = 3
"""How many strips of rows of a tile are tried."""

CUTOUTS = 60
"""Cutouts of each strip."""


@dataclass(frozen=True)
class Trial:
    """What storing part of a tile in one way came to."""

    pixel_bytes: float
    """Of one unit: a chunk of a mosaic, or a cutout of stamps."""

    object_bytes: float
    """Of one cutout, besides its pixels: what leads to them."""

    row_seconds: float
    """To encode and write one row of the tile."""

    object_seconds: float
    """To write one cutout."""

    byte_seconds: float
    """To flush one byte and to work out its checksum."""

    codec_seconds: float
    """To find the quantization steps."""

    def seconds(self, rows: int, objects: int, written: float) -> float:
        """Return what all rows of a tile, so many cutouts and so many bytes would take."""
        work = rows * self.row_seconds + objects * self.object_seconds
        return self.codec_seconds + work + written * self.byte_seconds


def touched_chunks(objects: ObjectTable, size: int, shape: tuple[int, int]) -> int:
    """Return how many chunks of a mosaic the cutouts of objects touch."""
    touched = np.zeros(chunk_grid(shape), dtype=bool)
    touch_chunks(touched, *window_origin(objects.x, objects.y, (size, size)), size)
    return int(touched.sum())


def try_storages(
    folder: Path, tile: Tile, objects: ObjectTable, size: int, mesh: int, storages: Sequence[StorageSection]
) -> dict[StorageSection, Trial]:
    """Store strips of a tile, and some of the cutouts on them, in each of several ways.

    Parameters
    ----------
    folder : Path
        Gets a file for each way, for as long as it is tried.
    tile : Tile
        With the planes that all these ways keep.
    objects : ObjectTable
        Those that have a cutout.
    size : int
        Side of a cutout in pixels.
    mesh : int
        Side of a cell of the noise mesh in pixels.
    storages : sequence of StorageSection

    Returns
    -------
    dict of StorageSection to Trial
        Without a way that this tile's values cannot be stored in; empty if no object has a cutout.
    """
    steps = {way.quantization: _Steps.of(tile, way, mesh) for way in storages}
    trials = {way: _Weighing(folder / f"trial{n}.h5", way, size) for n, way in enumerate(storages)}
    x0, y0 = window_origin(objects.x, objects.y, (size, size))
    for low, high in _strips(y0.clip(0), tile.shape[0], size):
        chosen = _spread(np.flatnonzero((y0.clip(0) >= low) & ((y0 + size).clip(max=tile.shape[0]) <= high)))
        if len(chosen):
            planes = {plane: tile.read(low, high, plane) for plane in ("SCI", *storages[0].planes)}
            for way, trial in trials.items():
                trial.add(planes, steps[way.quantization].codecs, x0[chosen], y0[chosen] - low)
    found = {way: trial.finish(steps[way.quantization].seconds) for way, trial in trials.items()}
    return {way: trial for way, trial in found.items() if trial is not None}


@dataclass(frozen=True)
class _Steps:
    """The stored forms of a tile's planes, and how many seconds it took to find them."""

    codecs: Mapping[str, Codec]
    seconds: float

    @classmethod
    def of(cls, tile: Tile, storage: StorageSection, mesh: int) -> _Steps:
        started = time.perf_counter()
        codecs = choose_codecs(tile, storage.quantization, mesh, storage.planes)
        return cls(codecs, time.perf_counter() - started)


def _strips(y0: NDArray[np.int64], height: int, size: int) -> list[tuple[int, int]]:
    """Return rows ``low:high``, in whole chunks, spread over the tile as the cutouts that begin at rows ``y0`` are.

    Each strip holds one of them at least.
    """
    chunks, deep = -(-height // CHUNK), -(-size // CHUNK) + 1
    ordered = np.sort(y0)
    firsts = {int(ordered[int((k + 0.5) / STRIPS * len(ordered))]) // CHUNK for k in range(STRIPS) if len(ordered)}
    strips: list[tuple[int, int]] = []
    for first in sorted(min(first, max(chunks - deep, 0)) for first in firsts):
        if not strips or first * CHUNK >= strips[-1][1]:
            strips.append((first * CHUNK, min((first + deep) * CHUNK, height)))
    return strips


def _spread(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return at most `CUTOUTS` of some rows, evenly spread."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), CUTOUTS)).astype(np.intp))]


class _Weighing:
    """A file in which part of a tile is stored in one way."""

    def __init__(self, path: Path, storage: StorageSection, size: int) -> None:
        self._path, self._storage, self._size = path, storage, size
        self._file = h5py.File(path, "w", libver=HDF5_VERSIONS, rdcc_nbytes=0)
        self._is_possible = True
        self._rows = self._objects = self._units = self._pixel_bytes = 0
        self._row_seconds = self._object_seconds = 0.0

    def add(
        self,
        planes: Mapping[str, NDArray[Any]],
        codecs: Mapping[str, Codec],
        x0: NDArray[np.int64],
        y0: NDArray[np.int64],
    ) -> None:
        """Store a strip of each plane, (bands, rows, nx), and the cutouts whose windows start at ``(x0, y0)`` on it."""
        if not self._is_possible:
            return
        try:
            for plane, values in planes.items():
                self._add(plane, values, codecs[plane], x0, y0)
        except UnstorableError:
            self._is_possible = False
        shape = planes["SCI"].shape[1:]
        touched = np.zeros(chunk_grid(shape), dtype=bool)
        touch_chunks(touched, x0, y0, self._size)
        self._units += len(x0) if self._storage.layout == "stamps" else int(touched.sum())
        self._rows += shape[0]
        self._objects += len(x0)

    def _add(
        self, plane: str, values: NDArray[Any], codec: Codec, x0: NDArray[np.int64], y0: NDArray[np.int64]
    ) -> None:
        """Store a strip of one plane, as the sweep over a whole tile does."""
        times = [time.perf_counter()]
        group = self._file.create_group(f"{self._rows}/{plane}")
        rows = RowBuffer(codec, values.shape[1:])
        rows.append(values)
        times.append(time.perf_counter())
        layout = LAYOUTS[self._storage.layout](group, values.shape, self._size, codec)
        layout.add_cutouts(x0, y0, rows)
        times.append(time.perf_counter())
        for number, slab in rows.release(values.shape[1]):
            layout.add_slab(number, slab)
        times.append(time.perf_counter())
        layout.finish()
        times.append(time.perf_counter())
        encode, cut, write, finish = np.diff(times)
        self._row_seconds += encode + write
        self._object_seconds += cut + finish
        self._pixel_bytes += group["pixels" if self._storage.layout == "mosaic" else "cutouts"].id.get_storage_size()

    def finish(self, codec_seconds: float) -> Trial | None:
        """Weigh what has been stored, and remove it; None if nothing was, or something could not be."""
        self._file.close()
        started = time.perf_counter()
        sync(self._path)
        checksum(self._path)
        flush_seconds = time.perf_counter() - started
        size = self._path.stat().st_size
        self._path.unlink()
        if not (self._is_possible and self._objects):
            return None
        return Trial(
            pixel_bytes=self._pixel_bytes / self._units,
            object_bytes=(size - self._pixel_bytes) / self._objects,
            row_seconds=self._row_seconds / self._rows,
            object_seconds=self._object_seconds / self._objects,
            byte_seconds=flush_seconds / size,
            codec_seconds=codec_seconds,
        )
