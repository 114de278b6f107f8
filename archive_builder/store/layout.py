"""How pixels are laid out in a shard: a plane of the tile as a mosaic, or cutout by cutout."""

from __future__ import annotations

from typing import Any, Protocol

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from archive_builder.measure.quantize import Codec
from archive_builder.store.rows import CHUNK, RowBuffer

FILTER_BLOCK = 4096
"""Values Bitshuffle works on at once: 16 KiB, the fastest of 1024 to 32768 and among the smallest."""

ROWS_PER_BLOCK = 1000
"""Rows of ``cutouts`` in one dataset of ``blocks``."""


TABLE_CHUNK = 8192
"""Rows of a table in one chunk."""


def write_table(group: h5py.Group, name: str, data: NDArray[Any]) -> None:
    """Write a small dataset in chunks with checksums: a flipped byte in it is an error when it is read."""
    chunks = (max(1, min(len(data), TABLE_CHUNK)), *data.shape[1:])
    # Only a dataset that could grow may have a chunk larger than itself, which an empty one needs.
    maxshape = None if len(data) else (None, *data.shape[1:])
    group.create_dataset(name, data=data, chunks=chunks, maxshape=maxshape, fletcher32=True)


class Layout(Protocol):
    """One plane of a shard, being written.

    Parameters
    ----------
    group : h5py.Group
        Where its datasets go.
    shape : (bands, ny, nx)
        Of the plane.
    size : int
        Side of a cutout in pixels.
    codec : Codec
        The stored form of its pixels.
    """

    def __init__(self, group: h5py.Group, shape: tuple[int, int, int], size: int, codec: Codec) -> None: ...

    def add_cutouts(self, x0: NDArray[np.int64], y0: NDArray[np.int64], rows: RowBuffer) -> None:
        """Take the next cutouts, whose windows start at ``(x0, y0)`` and are still in ``rows``."""

    def add_slab(self, number: int, slab: NDArray[np.generic]) -> None:
        """Take a row of chunks, (bands, rows, nx), after all cutouts that touch it."""

    def finish(self) -> None:
        """Write what is left to write."""


def _pixel_options(codec: Codec) -> dict[str, Any]:
    """Return how a dataset of pixels is created."""
    return {
        "dtype": codec.dtype,
        "fillvalue": codec.blank,
        "fletcher32": True,
        **hdf5plugin.Bitshuffle(nelems=FILTER_BLOCK, cname="lz4"),
    }


def _describe_pixels(dataset: h5py.Dataset, codec: Codec) -> None:
    dataset.attrs["encoding"] = np.bytes_(codec.encoding)
    dataset.attrs["scale"] = np.array(codec.step, dtype=np.float64)
    dataset.attrs["blank"] = codec.dtype.type(codec.blank)


class Stamps:
    """Every cutout by itself, a chunk of ``cutouts`` each. See :class:`Layout`."""

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
        """Do nothing: the cutouts are all there is."""

    def finish(self) -> None:
        """Do nothing."""


def chunk_grid(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return how many rows and columns of chunks the pixels (ny, nx) of a tile have."""
    return -(-shape[0] // CHUNK), -(-shape[1] // CHUNK)


def touch_chunks(touched: NDArray[np.bool_], x0: NDArray[np.int64], y0: NDArray[np.int64], size: int) -> None:
    """Mark the chunks, (rows, columns), that cutouts whose windows start at ``(x0, y0)`` touch."""
    last = size - 1
    for left, right, low, high in np.column_stack([x0, x0 + last, y0, y0 + last]).clip(0) // CHUNK:
        touched[low : high + 1, left : right + 1] = True


class Mosaic:
    """Every pixel once, in ``pixels``; ``cutouts`` is virtual, each row its window there. See :class:`Layout`."""

    def __init__(self, group: h5py.Group, shape: tuple[int, int, int], size: int, codec: Codec) -> None:
        self._group, self._size, self._codec = group, size, codec
        self._origins: list[NDArray[np.int64]] = []
        self._touched = np.zeros(chunk_grid(shape[1:]), dtype=bool)
        chunks = (shape[0], min(shape[1], CHUNK), min(shape[2], CHUNK))
        self._pixels = group.create_dataset("pixels", shape, chunks=chunks, **_pixel_options(codec))
        _describe_pixels(self._pixels, codec)

    def add_cutouts(self, x0: NDArray[np.int64], y0: NDArray[np.int64], rows: RowBuffer) -> None:
        """Note which chunks the cutouts touch."""
        self._origins.append(np.column_stack([y0, x0]))
        touch_chunks(self._touched, x0, y0, self._size)

    def add_slab(self, number: int, slab: NDArray[np.generic]) -> None:
        """Write the chunks that a cutout touches, each run of neighbours at once."""
        y0, width = number * CHUNK, slab.shape[2]
        edges = np.flatnonzero(np.diff(self._touched[number], prepend=False, append=False))
        for first, end in edges.reshape(-1, 2).tolist():
            x0, x1 = first * CHUNK, min(end * CHUNK, width)
            self._pixels[:, y0 : y0 + slab.shape[1], x0:x1] = slab[:, :, x0:x1]

    def finish(self) -> None:
        """Note which chunks were written, and make ``cutouts``, virtual over ``blocks``, virtual over ``pixels``.

        HDF5 copies the whole list of a virtual dataset's mappings several times to make it, and before 2.0
        goes through it for every read: with 40,000 windows in one list, 1 GB and 2.4 s to make and 2 s to read
        a row with HDF5 1.10; with lists of `ROWS_PER_BLOCK`, next to no memory, 0.5 s, and 0.3 s.
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
    """A virtual dataset (rows, bands, size, size) in the making.

    By the low-level calls: h5py's VirtualLayout takes half as long again for 40,000 windows.
    """

    def __init__(self, rows: int, size: int, pixels: h5py.Dataset, codec: Codec) -> None:
        self._codec = codec
        self._bands = pixels.shape[0]
        self._space = h5py.h5s.create_simple((rows, self._bands, size, size))
        self._create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        self._create.set_fill_value(np.array(codec.blank, dtype=codec.dtype))
        self._pixels, self._source = pixels.name.encode(), pixels.id.get_space()

    def map_window(self, row: int, window: list[int]) -> None:
        """Map a window ``y, x, ny, nx`` of the pixels onto a row, where it begins at ``dy, dx``."""
        y, x, ny, nx, dy, dx = window
        self._source.select_hyperslab((0, y, x), (1, 1, 1), block=(self._bands, ny, nx))
        self._space.select_hyperslab((row, 0, dy, dx), (1, 1, 1, 1), block=(1, self._bands, ny, nx))
        self._create.set_virtual(self._space, b".", self._pixels, self._source)

    def map_rows(self, first: int, block: h5py.Dataset) -> None:
        """Map a whole block onto the rows from ``first`` on."""
        self._space.select_hyperslab((first, 0, 0, 0), (1, 1, 1, 1), block=block.shape)
        self._create.set_virtual(self._space, b".", block.name.encode(), block.id.get_space())

    def create(self, parent: h5py.Group, name: str) -> h5py.Dataset:
        """Make the dataset."""
        self._space.select_all()
        kind = h5py.h5t.py_create(self._codec.dtype)
        h5py.h5d.create(parent.id, name.encode(), kind, self._space, self._create)
        _describe_pixels(parent[name], self._codec)
        return parent[name]


LAYOUTS: dict[str, type[Layout]] = {"mosaic": Mosaic, "stamps": Stamps}
"""The layouts by name."""
