"""One HDF5 shard: the cutouts of a tile, in either layout behind one face."""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections import OrderedDict
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from archive_builder.errors import ArchiveError, one_line
from archive_builder.geometry import Shape, recrop_offset, window_origin
from archive_builder.measure.quantize import Codec, Lossless, NoiseScaled
from archive_builder.store.format import shard_format, violations
from archive_builder.store.rows import CHUNK, RowBuffer

HDF5_VERSIONS = ("v110", "v110")
"""The format's bounds: HDF5 1.10, which most sites and Debian's h5dump have, must be able to read a shard."""

FILTER_BLOCK = 4096
"""Values Bitshuffle works on at once: 16 KiB, the fastest of 1024 to 32768 and among the smallest."""

ROWS_PER_BLOCK = 1000
"""Rows of ``/cutouts`` in one dataset of ``/blocks``."""

CACHED_CHUNKS = 48
"""Decoded chunks kept per open shard, 16 MB at five bands.

Reading rows in order needs those under one window's columns and one block of rows: 3 x 7 of them at 228 px.
"""


@dataclass(frozen=True)
class ShardInfo:
    """What a shard says of itself: its attributes, but for format and software."""

    survey: str
    """The survey's name."""

    tile: str
    """The tile's name."""

    generation: int
    """Counts the shards this tile has had."""

    bands: tuple[str, ...]
    """In the order of every band axis."""

    layout: str
    """``mosaic`` or ``stamps``."""

    quantization: str
    """Steps per background RMS, or ``lossless``."""

    size: int
    """Side of a cutout in pixels."""

    height: int
    """Rows of the tile."""

    width: int
    """Columns of the tile."""

    pixel_scale: float
    """Arcsec."""

    zero_point: float
    """AB magnitude of one image unit."""

    footprint: NDArray[np.float64]
    """RA and Dec of the tile's corners, (4, 2), deg, ICRS."""

    input_fingerprint: str
    """Of the files the shard was made from."""

    recipe_fingerprint: str
    """Of the settings it was made with."""


@dataclass(frozen=True)
class ObjectTable:
    """Objects of a tile, a row each."""

    object_id: NDArray[np.int64]
    """The survey's IDs, (N,)."""

    ra: NDArray[np.float64]
    """Deg, ICRS, (N,)."""

    dec: NDArray[np.float64]
    """Deg, ICRS, (N,)."""

    x: NDArray[np.float64]
    """Pixel column on the tile, from 0, (N,)."""

    y: NDArray[np.float64]
    """Pixel row on the tile, from 0, (N,)."""

    rms: NDArray[np.float32]
    """Background RMS, image units, (N, bands)."""

    def take(self, rows: NDArray[np.intp]) -> ObjectTable:
        """Return some rows, in the order given."""
        return ObjectTable(*(getattr(self, field.name)[rows] for field in fields(self)))


class ShardWriter:
    """A shard in the making: a temporary file until :meth:`finish` puts it in its place.

    Parameters
    ----------
    path : Path
        Where the shard will be; its folder must be there.
    info : ShardInfo
    headers : sequence of str
        Each band's FITS image header, a card a line.
    codec : Codec
        The stored form of the pixels.
    """

    def __init__(self, path: Path, info: ShardInfo, headers: list[str], codec: Codec) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._file = h5py.File(self._temporary, "w", libver=HDF5_VERSIONS, rdcc_nbytes=0)
        _write_attributes(self._file, info)
        self._file.create_dataset("headers", data=headers, dtype=h5py.string_dtype())
        layouts: dict[str, type[_Layout]] = {"mosaic": _Mosaic, "stamps": _Stamps}
        self._layout = layouts[info.layout](self._file, info, codec)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the temporary file, if the shard was not finished."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def add_cutouts(self, x0: NDArray[np.int64], y0: NDArray[np.int64], rows: RowBuffer) -> None:
        """Take the next cutouts of ``/cutouts``, whose windows start at ``(x0, y0)`` and are still in ``rows``."""
        self._layout.add_cutouts(x0, y0, rows)

    def add_slab(self, number: int, slab: NDArray[np.generic]) -> None:
        """Take a row of chunks, (bands, rows, nx), after all cutouts that touch it."""
        self._layout.add_slab(number, slab)

    def finish(self, stored: ObjectTable, skipped: ObjectTable, reason: NDArray[np.uint8]) -> None:
        """Write the tables, flush everything to disk and give the file its name.

        Parameters
        ----------
        stored : ObjectTable
            In the order of the cutouts.
        skipped : ObjectTable
        reason : ndarray of uint8
            The `Status` of each skipped object.
        """
        self._layout.finish()
        for group, table in (("objects", stored), ("skipped", skipped)):
            for field in fields(table):
                self._file.create_dataset(f"{group}/{field.name}", data=getattr(table, field.name))
        self._file.create_dataset("skipped/reason", data=reason)
        if wrong := violations(self._file):
            raise ArchiveError(f"shard {self.path}: was about to be written wrong: {'; '.join(wrong)}")
        self._file.close()
        sync(self._temporary)
        self._temporary.rename(self.path)
        sync(self.path.parent)


def _write_attributes(file: h5py.File, info: ShardInfo) -> None:
    spec = shard_format()
    packages = {name: version(name) for name in ("archive-builder", "astropy", "h5py", "numpy", "sep")}
    packages |= {"hdf5": h5py.version.hdf5_version, "python": sys.version.split()[0]}
    file.attrs["format"] = spec["format"]
    file.attrs["format_version"] = np.int64(spec["format_version"])
    file.attrs["software"] = json.dumps(packages)
    for field in fields(info):
        value = getattr(info, field.name)
        if isinstance(value, tuple):
            value = np.array(value, dtype=h5py.string_dtype())
        file.attrs[field.name] = np.int64(value) if isinstance(value, int) else value


def sync(path: Path) -> None:
    """Have a file's, or a folder's, contents on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(path: Path) -> str:
    """Return the CRC-32 of a file, as ``crc32:`` and eight hexadecimal digits."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return f"crc32:{value:08x}"


class _Layout(Protocol):
    """How the pixels are laid out in a file being written."""

    def __init__(self, file: h5py.File, info: ShardInfo, codec: Codec) -> None: ...

    def add_cutouts(self, x0: NDArray[np.int64], y0: NDArray[np.int64], rows: RowBuffer) -> None: ...

    def add_slab(self, number: int, slab: NDArray[np.generic]) -> None: ...

    def finish(self) -> None: ...


def _pixel_options(codec: Codec) -> dict[str, Any]:
    """Return how a dataset of pixels is created."""
    return {
        "dtype": codec.dtype,
        "fillvalue": codec.blank,
        "fletcher32": True,
        **hdf5plugin.Bitshuffle(nelems=FILTER_BLOCK, cname="lz4"),
    }


def _describe_pixels(dataset: h5py.Dataset, codec: Codec) -> None:
    dataset.attrs["scale"] = np.array(codec.step, dtype=np.float64)
    dataset.attrs["blank"] = codec.dtype.type(codec.blank)


class _Stamps:
    """Every cutout by itself, a chunk of ``/cutouts`` each."""

    def __init__(self, file: h5py.File, info: ShardInfo, codec: Codec) -> None:
        self._stamp = np.empty((1, len(info.bands), info.size, info.size), dtype=codec.dtype)
        shape = self._stamp.shape[1:]
        options = _pixel_options(codec)
        self._cutouts = file.create_dataset(
            "cutouts", (0, *shape), maxshape=(None, *shape), chunks=(1, *shape), **options
        )
        _describe_pixels(self._cutouts, codec)

    def add_cutouts(self, x0: NDArray[np.int64], y0: NDArray[np.int64], rows: RowBuffer) -> None:
        first = len(self._cutouts)
        self._cutouts.resize(first + len(x0), axis=0)
        memory, space = h5py.h5s.create_simple(self._stamp.shape), self._cutouts.id.get_space()
        for row, (x, y) in enumerate(zip(x0.tolist(), y0.tolist(), strict=True), start=first):
            rows.window(x, y, self._stamp[0])
            space.select_hyperslab((row, 0, 0, 0), self._stamp.shape)
            self._cutouts.id.write(memory, space, self._stamp)

    def add_slab(self, number: int, slab: NDArray[np.generic]) -> None:
        pass

    def finish(self) -> None:
        pass


class _Mosaic:
    """Every pixel once, in ``/pixels``; ``/cutouts`` is virtual and maps each row onto its window there."""

    def __init__(self, file: h5py.File, info: ShardInfo, codec: Codec) -> None:
        self._file, self._info, self._codec = file, info, codec
        self._origins: list[NDArray[np.int64]] = []
        grid = -(-info.height // CHUNK), -(-info.width // CHUNK)
        self._touched = np.zeros(grid, dtype=bool)
        shape = (len(info.bands), info.height, info.width)
        chunks = tuple(min(n, c) for n, c in zip(shape, (len(info.bands), CHUNK, CHUNK), strict=True))
        self._pixels = file.create_dataset("pixels", shape, chunks=chunks, **_pixel_options(codec))
        _describe_pixels(self._pixels, codec)

    def add_cutouts(self, x0: NDArray[np.int64], y0: NDArray[np.int64], rows: RowBuffer) -> None:
        self._origins.append(np.column_stack([y0, x0]))
        last = self._info.size - 1
        for left, right, low, high in np.column_stack([x0, x0 + last, y0, y0 + last]).clip(0) // CHUNK:
            self._touched[low : high + 1, left : right + 1] = True

    def add_slab(self, number: int, slab: NDArray[np.generic]) -> None:
        """Write the chunks that a cutout touches, each run of neighbours at once."""
        y0 = number * CHUNK
        edges = np.flatnonzero(np.diff(self._touched[number], prepend=False, append=False))
        for first, end in edges.reshape(-1, 2).tolist():
            x0, x1 = first * CHUNK, min(end * CHUNK, self._info.width)
            self._pixels[:, y0 : y0 + slab.shape[1], x0:x1] = slab[:, :, x0:x1]

    def finish(self) -> None:
        """Make ``/cutouts``: virtual over ``/blocks``, whose datasets are virtual over ``/pixels``.

        HDF5 copies the whole list of a virtual dataset's mappings several times to make it, and before 2.0
        goes through it for every read: with 40,000 windows in one list, 1 GB and 2.4 s to make and 2 s to read
        a row with HDF5 1.10; with lists of `ROWS_PER_BLOCK`, next to no memory, 0.5 s, and 0.3 s.
        """
        tile = np.array([self._info.height, self._info.width])
        origins = np.concatenate([np.empty((0, 2), dtype=np.int64), *self._origins])
        low, high = np.maximum(origins, 0), np.minimum(origins + self._info.size, tile)
        windows = np.column_stack([low, high - low, low - origins])
        blocks = self._file.create_group("blocks")
        whole = _VirtualCutouts(self._info, len(origins), self._codec)
        for first in range(0, len(origins), ROWS_PER_BLOCK):
            some = windows[first : first + ROWS_PER_BLOCK].tolist()
            block = _VirtualCutouts(self._info, len(some), self._codec)
            for row, window in enumerate(some):
                block.map_window(row, window, self._pixels)
            dataset = block.create(blocks, f"{first // ROWS_PER_BLOCK:04d}")
            whole.map_rows(first, dataset)
        whole.create(self._file, "cutouts")


class _VirtualCutouts:
    """A virtual dataset (rows, bands, size, size) in the making.

    By the low-level calls: h5py's VirtualLayout takes half as long again for 40,000 windows.
    """

    def __init__(self, info: ShardInfo, rows: int, codec: Codec) -> None:
        self._codec = codec
        self._space = h5py.h5s.create_simple((rows, len(info.bands), info.size, info.size))
        self._create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        self._create.set_fill_value(np.array(codec.blank, dtype=codec.dtype))
        self._source = h5py.h5s.create_simple((len(info.bands), info.height, info.width))

    def map_window(self, row: int, window: list[int], pixels: h5py.Dataset) -> None:
        """Map part of a row, at (dy, dx) in it, onto (y, x, ny, nx) of ``pixels``: ``y, x, ny, nx, dy, dx``."""
        y, x, ny, nx, dy, dx = window
        bands = pixels.shape[0]
        self._source.select_hyperslab((0, y, x), (1, 1, 1), block=(bands, ny, nx))
        self._space.select_hyperslab((row, 0, dy, dx), (1, 1, 1, 1), block=(1, bands, ny, nx))
        self._create.set_virtual(self._space, b".", pixels.name.encode(), self._source)

    def map_rows(self, first: int, block: h5py.Dataset) -> None:
        """Map rows from ``first`` on onto a whole block."""
        self._space.select_hyperslab((first, 0, 0, 0), (1, 1, 1, 1), block=block.shape)
        self._create.set_virtual(self._space, b".", block.name.encode(), block.id.get_space())

    def create(self, parent: h5py.Group, name: str) -> h5py.Dataset:
        """Make the dataset."""
        self._space.select_all()
        kind = h5py.h5t.py_create(self._codec.dtype)
        h5py.h5d.create(parent.id, name.encode(), kind, self._space, self._create)
        _describe_pixels(parent[name], self._codec)
        return parent[name]


class Shard:
    """A shard, open for reading.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ArchiveError
        The file is missing, no shard, or of another format version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # A shard never changes under its name, so nobody needs to lock it; a read-only mount may not let us.
            self._file = h5py.File(path, "r", locking=False, rdcc_nbytes=0)
        except OSError as error:
            raise ArchiveError(f"shard {path}: cannot be opened ({one_line(error)}): rebuild its tile") from None
        self._chunks: OrderedDict[tuple[int, int], NDArray[np.float32]] = OrderedDict()
        try:
            self.info = self._read_info()
            self._dataset = self._file["pixels" if self.info.layout == "mosaic" else "cutouts"]
            self.codec = self._read_codec()
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
            self.close()
            raise ArchiveError(f"shard {path}: is damaged ({one_line(error)}): rebuild its tile") from None

    def close(self) -> None:
        """Close the file."""
        self._chunks.clear()
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def violations(self) -> list[str]:
        """Compare the file with the written format; a line for each difference."""
        return violations(self._file)

    @cached_property
    def headers(self) -> tuple[str, ...]:
        """Each band's FITS image header, a card a line."""
        return tuple(self._file["headers"].asstr()[...])

    @cached_property
    def objects(self) -> ObjectTable:
        """The objects with a cutout, in the order of ``/cutouts``."""
        return self._table("objects")

    @cached_property
    def skipped(self) -> ObjectTable:
        """The objects without."""
        return self._table("skipped")

    @cached_property
    def reason(self) -> NDArray[np.uint8]:
        """The `Status` of each skipped object."""
        return np.asarray(self._file["skipped/reason"][...])

    def read(self, row: int, shape: Shape, bands: list[int] | slice, out: NDArray[np.float32]) -> None:
        """Read one cutout at its archived size or a smaller one.

        Parameters
        ----------
        row : int
        shape : (ny, nx)
            At most ``info.size`` a side.
        bands : list of int or slice
            Which, and in what order.
        out : ndarray of float32, (len(bands), ny, nx)
            NaN where there is no data.

        Raises
        ------
        ArchiveError
            The pixels are damaged.
        """
        try:
            if self.info.layout == "mosaic":
                x0, y0 = (int(n) for n in window_origin(self.objects.x[row], self.objects.y[row], shape))
                self._read_window(x0, y0, bands, out)
            else:
                dy, dx = recrop_offset((self.info.size, self.info.size), shape)
                stored = self._dataset[row, :, dy : dy + shape[0], dx : dx + shape[1]]
                out[...] = self.codec.decode(stored)[bands]
        except OSError as error:
            object_id = self.objects.object_id[row]
            raise ArchiveError(
                f"shard {self.path}: the pixels of object {object_id} are damaged ({one_line(error)}): "
                f"rebuild tile {self.info.tile}"
            ) from None

    def _read_window(self, x0: int, y0: int, bands: list[int] | slice, out: NDArray[np.float32]) -> None:
        """Put a window of ``/pixels`` together from its chunks, NaN off the tile."""
        ny, nx = out.shape[1:]
        height, width = self.info.height, self.info.width
        if x0 < 0 or y0 < 0 or x0 + nx > width or y0 + ny > height:
            out[...] = np.nan
        y1, x1 = min(y0 + ny, height), min(x0 + nx, width)
        for row in range(max(y0, 0) // CHUNK, -(-y1 // CHUNK)):
            top = row * CHUNK
            low, high = max(y0, top), min(y1, top + CHUNK)
            for column in range(max(x0, 0) // CHUNK, -(-x1 // CHUNK)):
                edge = column * CHUNK
                left, right = max(x0, edge), min(x1, edge + CHUNK)
                piece = self._chunk(row, column)[:, low - top : high - top, left - edge : right - edge]
                out[:, low - y0 : high - y0, left - x0 : right - x0] = piece[bands]

    def _chunk(self, row: int, column: int) -> NDArray[np.float32]:
        """Return the flux of one chunk of ``/pixels``, from the last used ones if it is among them."""
        key = (row, column)
        if key in self._chunks:
            self._chunks.move_to_end(key)
            return self._chunks[key]
        y, x = row * CHUNK, column * CHUNK
        chunk = self.codec.decode(self._dataset[:, y : y + CHUNK, x : x + CHUNK])
        self._chunks[key] = chunk
        if len(self._chunks) > CACHED_CHUNKS:
            self._chunks.popitem(last=False)
        return chunk

    def _table(self, group: str) -> ObjectTable:
        try:
            return ObjectTable(*(self._file[f"{group}/{f.name}"][...] for f in fields(ObjectTable)))
        except (OSError, KeyError) as error:
            raise ArchiveError(
                f"shard {self.path}: its table of {group} is damaged ({one_line(error)}): rebuild its tile"
            ) from None

    def _read_info(self) -> ShardInfo:
        attrs, spec = self._file.attrs, shard_format()
        if attrs.get("format") != spec["format"]:
            raise ArchiveError(f"shard {self.path}: is no shard of a cutout archive: remove it")
        if attrs["format_version"] != spec["format_version"]:
            raise ArchiveError(
                f"shard {self.path}: has format version {attrs['format_version']}, this program reads "
                f"{spec['format_version']}: use the matching version of archive-builder"
            )
        values = {field.name: attrs[field.name] for field in fields(ShardInfo)}
        whole = {name: int(v) for name, v in values.items() if isinstance(v, np.integer)}
        return ShardInfo(**{**values, **whole, "bands": tuple(values["bands"])})

    def _read_codec(self) -> Codec:
        scale = tuple(float(s) for s in self._dataset.attrs["scale"])
        return Lossless(scale) if self.info.quantization == "lossless" else NoiseScaled(scale)
