"""Layouts of pixels in a shard: a mosaic of the whole plane, or a stamp for each cutout."""

from __future__ import annotations

from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from archive_builder.measure.quantize import Codec
from archive_builder.store.bitshuffle import bitshuffle
from archive_builder.store.rows import CHUNK, RowBuffer

ROWS_PER_BLOCK = 1000
"""Rows of ``cutouts`` in one dataset of ``blocks``."""

TABLE_CHUNK = 8192
"""Rows of a table in one chunk."""


def write_table(group: h5py.Group, name: str, data: NDArray[Any]) -> None:
    """Write a small dataset in chunks with checksums: reading a flipped byte is an error."""
    chunks = (max(1, min(len(data), TABLE_CHUNK)), *data.shape[1:])
    # An empty dataset needs a chunk larger than itself; HDF5 allows that only for a dataset that can grow.
    maxshape = None if len(data) else (None, *data.shape[1:])
    group.create_dataset(name, data=data, chunks=chunks, maxshape=maxshape, fletcher32=True)


class Layout(Protocol):
    """Writer of one plane of a shard.

    Parameters
    ----------
    group : h5py.Group
        Group for the plane's datasets.
    shape : (bands, ny, nx)
        Shape of the plane, px.
    size : int
        Side of a cutout, px.
    codec : Codec
        Stored form of the pixels.
    """

    def __init__(self, group: h5py.Group, shape: tuple[int, int, int], size: int, codec: Codec) -> None: ...

    def add_cutouts(self, x0: NDArray[np.int64], y0: NDArray[np.int64], rows: RowBuffer) -> None:
        """Add the next cutouts. Their windows start at ``(x0, y0)``, int64 (N,), and are still in ``rows``."""

    def add_slab(self, number: int, slab: NDArray[np.generic]) -> None:
        """Add a row of chunks, (bands, rows, nx), after all cutouts that touch it."""

    def finish(self) -> None:
        """Write the rest."""


def _pixel_options(codec: Codec) -> dict[str, Any]:
    """Return the options of h5py for a dataset of pixels."""
    return {
        "dtype": codec.dtype,
        "fillvalue": codec.blank,
        "fletcher32": True,
        **bitshuffle(),
    }


def _describe_pixels(dataset: h5py.Dataset, codec: Codec) -> None:
    dataset.attrs["encoding"] = np.bytes_(codec.encoding)
    dataset.attrs["scale"] = np.array(codec.step, dtype=np.float64)
    dataset.attrs["blank"] = codec.dtype.type(codec.blank)


class Stamps:
    """Layout with one chunk of ``cutouts`` for each cutout. See :class:`Layout`."""

    def __init__(self, group: h5py.Group, shape: tuple[int, int, int], size: int, codec: Codec) -> None:
        self._stamp = np.empty((1, shape[0], size, size), dtype=codec.dtype)
        one = self._stamp.shape[1:]
        self._cutouts = group.create_dataset(
            "cutouts", (0, *one), maxshape=(None, *one), chunks=(1, *one), **_pixel_options(codec)
        )
        _describe_pixels(self._cutouts, codec)

    def add_cutouts(self, x0: NDArray[np.int64], y0: NDArray[np.int64], rows: RowBuffer) -> None:
        """Write the cutouts."""
        first = len(self._cutouts)
        self._cutouts.resize(first + len(x0), axis=0)
        memory, space = h5py.h5s.create_simple(self._stamp.shape), self._cutouts.id.get_space()
        for row, (x, y) in enumerate(zip(x0.tolist(), y0.tolist(), strict=True), start=first):
            rows.window(x, y, self._stamp[0])
            space.select_hyperslab((row, 0, 0, 0), self._stamp.shape)
            self._cutouts.id.write(memory, space, self._stamp)

    def add_slab(self, number: int, slab: NDArray[np.generic]) -> None:
        """Do nothing: stamps hold no other pixels than the cutouts."""

    def finish(self) -> None:
        """Do nothing: all cutouts are written."""


def chunk_grid(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the rows and columns of chunks for a tile of shape (ny, nx)."""
    return -(-shape[0] // CHUNK), -(-shape[1] // CHUNK)


def touch_chunks(touched: NDArray[np.bool_], x0: NDArray[np.int64], y0: NDArray[np.int64], size: int) -> None:
    """Mark the chunks that cutouts touch.

    Parameters
    ----------
    touched : ndarray of bool, (rows, columns)
        Marks, changed in place.
    x0, y0 : ndarray of int64, (N,)
        First column and row of each cutout.
    size : int
        Side of a cutout, px.
    """
    last = size - 1
    for left, right, low, high in np.column_stack([x0, x0 + last, y0, y0 + last]).clip(0) // CHUNK:
        touched[low : high + 1, left : right + 1] = True


class Mosaic:
    """Layout with every pixel once in ``pixels``; each row of the virtual ``cutouts`` is a window of it.

    See :class:`Layout`.
    """

    def __init__(self, group: h5py.Group, shape: tuple[int, int, int], size: int, codec: Codec) -> None:
        self._group, self._size, self._codec = group, size, codec
        self._origins: list[NDArray[np.int64]] = []
        self._touched = np.zeros(chunk_grid(shape[1:]), dtype=bool)
        chunks = (shape[0], min(shape[1], CHUNK), min(shape[2], CHUNK))
        self._pixels = group.create_dataset("pixels", shape, chunks=chunks, **_pixel_options(codec))
        _describe_pixels(self._pixels, codec)

    def add_cutouts(self, x0: NDArray[np.int64], y0: NDArray[np.int64], rows: RowBuffer) -> None:
        """Mark the chunks that the cutouts touch."""
        self._origins.append(np.column_stack([y0, x0]))
        touch_chunks(self._touched, x0, y0, self._size)

    def add_slab(self, number: int, slab: NDArray[np.generic]) -> None:
        """Write the chunks that a cutout touches, each run of neighbours in one call."""
        y0, width = number * CHUNK, slab.shape[2]
        edges = np.flatnonzero(np.diff(self._touched[number], prepend=False, append=False))
        for first, end in edges.reshape(-1, 2).tolist():
            x0, x1 = first * CHUNK, min(end * CHUNK, width)
            self._pixels[:, y0 : y0 + slab.shape[1], x0:x1] = slab[:, :, x0:x1]

    def finish(self) -> None:
        """Write ``written`` and the virtual ``cutouts``, which maps onto ``blocks``, which map onto ``pixels``.

        HDF5 copies the list of a virtual dataset's mappings several times when it creates the dataset. Before 2.0 it
        scans the list in every read. One list of 40,000 windows takes 1 GB and 2.4 s to create, and a row takes 2 s to
        read with HDF5 1.10. Lists of `ROWS_PER_BLOCK` take hardly any memory, 0.5 s and 0.3 s.
        """
        write_table(self._group, "written", self._touched.astype(np.uint8))
        tile = np.array(self._pixels.shape[1:])
        origins = np.concatenate([np.empty((0, 2), dtype=np.int64), *self._origins])
        low, high = np.maximum(origins, 0), np.minimum(origins + self._size, tile)
        windows = np.column_stack([low, high - low, low - origins])
        blocks = self._group.create_group("blocks")
        whole = _VirtualCutouts(len(origins), self._size, self._pixels, self._codec)
        for first in range(0, len(origins), ROWS_PER_BLOCK):
            some = windows[first : first + ROWS_PER_BLOCK].tolist()
            block = _VirtualCutouts(len(some), self._size, self._pixels, self._codec)
            for row, window in enumerate(some):
                block.map_window(row, window)
            whole.map_rows(first, block.create(blocks, f"{first // ROWS_PER_BLOCK:04d}"))
        whole.create(self._group, "cutouts")


class _VirtualCutouts:
    """Writer of a virtual dataset (rows, bands, size, size).

    It uses h5py's low-level calls: VirtualLayout takes 1.5 times as long for 40,000 windows.
    """

    def __init__(self, rows: int, size: int, pixels: h5py.Dataset, codec: Codec) -> None:
        self._codec = codec
        self._bands = pixels.shape[0]
        self._space = h5py.h5s.create_simple((rows, self._bands, size, size))
        self._create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        self._create.set_fill_value(np.array(codec.blank, dtype=codec.dtype))
        self._pixels, self._source = pixels.name.encode(), pixels.id.get_space()

    def map_window(self, row: int, window: list[int]) -> None:
        """Map a window of the pixels onto a row.

        Parameters
        ----------
        row : int
        window : list of int
            ``y, x, ny, nx`` in the pixels, and the window's first row and column ``dy, dx`` in the cutout.
        """
        y, x, ny, nx, dy, dx = window
        self._source.select_hyperslab((0, y, x), (1, 1, 1), block=(self._bands, ny, nx))
        self._space.select_hyperslab((row, 0, dy, dx), (1, 1, 1, 1), block=(1, self._bands, ny, nx))
        self._create.set_virtual(self._space, b".", self._pixels, self._source)

    def map_rows(self, first: int, block: h5py.Dataset) -> None:
        """Map a whole block onto the rows that start at ``first``."""
        self._space.select_hyperslab((first, 0, 0, 0), (1, 1, 1, 1), block=block.shape)
        self._create.set_virtual(self._space, b".", block.name.encode(), block.id.get_space())

    def create(self, parent: h5py.Group, name: str) -> h5py.Dataset:
        """Create the dataset."""
        self._space.select_all()
        kind = h5py.h5t.py_create(self._codec.dtype)
        h5py.h5d.create(parent.id, name.encode(), kind, self._space, self._create)
        _describe_pixels(parent[name], self._codec)
        return parent[name]


LAYOUTS: dict[str, type[Layout]] = {"mosaic": Mosaic, "stamps": Stamps}
"""Layouts by name."""
