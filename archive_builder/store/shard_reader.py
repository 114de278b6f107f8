"""Reading a shard: cutouts, windows of a mosaic, and tables."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from archive_builder.errors import ArchiveError, one_line
from archive_builder.geometry import Shape, recrop_offset, window_origin, window_pieces
from archive_builder.measure.noise import depth
from archive_builder.measure.quantize import Codec, codec_of
from archive_builder.object_ids import ObjectIds
from archive_builder.store.color import ColorReader
from archive_builder.store.contents import Contents, attributes
from archive_builder.store.file_locks import NO_LOCKS
from archive_builder.store.format import pixel_planes, plane_group, shard_format
from archive_builder.store.lru import Lru
from archive_builder.store.records import ObjectTable, ShardInfo
from archive_builder.store.rows import CHUNK

READ_CACHE = 4 * 2**20
"""Size of HDF5's chunk cache, bytes. It is larger than a stamp: otherwise every read allocates memory for the chunk."""

LOCKING = "HDF5_USE_FILE_LOCKING"
"""Environment variable that overrides every caller of HDF5."""

CACHED_CHUNKS = 48
"""Decoded chunks kept per open shard, 16 MB at five bands.

Reading rows in order needs those under one window's columns and one block of rows: 3 x 7 of them at 228 px.
"""


class Shard:
    """A shard, open for reading.

    Parameters
    ----------
    path : Path
        File of the shard.

    Raises
    ------
    ArchiveError
        The file is missing or damaged, is no shard, or has another format version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = _open(path)
        except OSError as error:
            if error.errno in NO_LOCKS and LOCKING in os.environ:
                raise ArchiveError(f"shard {path}: cannot be locked ({one_line(error)}): unset {LOCKING}") from None
            raise ArchiveError(f"shard {path}: cannot be opened ({one_line(error)}): rebuild its tile") from None
        try:
            contents = Contents(self._file)
            self.info = self._read_info(contents.attrs)
            if wrong := [*contents.foreign_parts(), *contents.violations()]:
                raise ArchiveError(f"shard {path}: does not match the format ({wrong[0]}): rebuild its tile")
            self._planes = {
                plane: _Plane(contents, plane_group(plane).rstrip("/"), self.info, plane)
                for plane in pixel_planes()
                if plane in self.info.planes
            }
            shape = (self.info.height, self.info.width)
            self._color = ColorReader(self._file["color"], shape) if "COLOR" in self.info.planes else None
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            self.close()
            raise ArchiveError(f"shard {path}: is damaged ({one_line(error)}): rebuild its tile") from None
        except ArchiveError:
            self.close()
            raise

    @property
    def step(self) -> tuple[float, ...]:
        """Quantization step per band, image units; 1 if lossless."""
        return self._planes["SCI"].codec.step

    def dtype(self, plane: str) -> np.dtype[Any]:
        """Return the type of a plane's pixels: float32; int32 or int64 for ``MSK``."""
        return self._planes[plane].codec.output

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def headers(self) -> dict[str, dict[str, str]]:
        """FITS header of each band's image by plane and band, one card a line."""
        try:
            texts = {
                plane: self._file[f"{plane_group(plane).rstrip('/')}/headers"].asstr()[...] for plane in self._planes
            }
            return {plane: dict(zip(self.info.bands, lines, strict=True)) for plane, lines in texts.items()}
        except (OSError, ValueError) as error:
            raise ArchiveError(
                f"shard {self.path}: the headers are damaged ({one_line(error)}): rebuild its tile"
            ) from None

    @cached_property
    def stored_ids(self) -> ObjectIds:
        """IDs of the objects with a cutout, (N,), read without the rest of the table."""
        return self._column("objects", "object_id")

    @cached_property
    def skipped_ids(self) -> ObjectIds:
        """IDs of the objects without a cutout, (S,)."""
        return self._column("skipped", "object_id")

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Settings of the recipe that made the shard."""
        try:
            settings = json.loads(self.info.recipe)
        except (ValueError, RecursionError):
            settings = None
        if not isinstance(settings, dict):
            raise ArchiveError(f"shard {self.path}: the recipe is not JSON: rebuild its tile")
        return settings

    @cached_property
    def objects(self) -> ObjectTable:
        """Objects with a cutout, in the order of ``/cutouts``."""
        return self._table("objects")

    @cached_property
    def skipped(self) -> ObjectTable:
        """Objects without a cutout."""
        return self._table("skipped")

    @cached_property
    def reason(self) -> NDArray[np.uint8]:
        """`Status` of each skipped object, uint8 (S,)."""
        return self._column("skipped", "reason")

    @cached_property
    def depth(self) -> dict[str, float | None]:
        """Depth of each band, AB mag, from the median background RMS at all objects; None where not measured."""
        rms = np.concatenate([self._column("objects", "rms"), self._column("skipped", "rms")])
        found = {}
        zero_points = self.info.zero_point.tolist()
        for band, zero_point, values in zip(self.info.bands, zero_points, rms.T, strict=True):
            known = values[np.isfinite(values) & (values > 0)]
            median = float(np.median(known)) if len(known) else None
            found[band] = median and round(float(depth(median, zero_point, self.info.pixel_scale)), 4)
        return found

    def read(self, row: int, shape: Shape, bands: list[int] | slice, out: NDArray[Any], plane: str = "SCI") -> None:
        """Read one cutout at its archived size or a smaller one.

        Parameters
        ----------
        row : int
            Row of ``/cutouts``.
        shape : (ny, nx)
            Size, px; at most ``info.size`` a side.
        bands : list of int or slice
            Numbers of the bands, in the order wanted.
        out : ndarray, (len(bands), ny, nx)
            Receives the pixels: float32 for ``SCI``, NaN without data; float32 for ``WGT``, 0 without data; integers
            for ``MSK``, -1 off the tile.
        plane : str
            One of ``info.planes`` except ``COLOR``.

        Raises
        ------
        ArchiveError
            The pixels are damaged.
        """
        try:
            if self.info.layout == "mosaic":
                x0, y0 = (int(n) for n in window_origin(self.objects.x[row], self.objects.y[row], shape))
                self._planes[plane].read_window(x0, y0, bands, out)
            else:
                dy, dx = recrop_offset((self.info.size, self.info.size), shape)
                self._planes[plane].read_stamp(row, dy, dx, bands, out)
        except OSError as error:
            raise self._damaged(error, f"object {self.objects.object_id[row]}") from None

    def read_window(self, x0: int, y0: int, bands: list[int] | slice, out: NDArray[Any], plane: str = "SCI") -> None:
        """Read any window of a mosaic. Pixels that no cutout touches are blank.

        Parameters
        ----------
        x0, y0 : int
            First column and row of the window; may be off the tile.
        bands : list of int or slice
            Numbers of the bands, in the order wanted.
        out : ndarray, (len(bands), ny, nx)
            Receives the pixels, as in :meth:`read`.
        plane : str
            One of ``info.planes`` except ``COLOR``.

        Raises
        ------
        ArchiveError
            The pixels are damaged.
        """
        try:
            self._planes[plane].read_window(x0, y0, bands, out)
        except OSError as error:
            raise self._damaged(error, f"the window at x {x0}, y {y0}") from None

    def read_color(self, x0: int, y0: int, shape: Shape) -> NDArray[np.uint8]:
        """Read a window of the survey's colour picture.

        Returns
        -------
        ndarray of uint8, (ny, nx, 3)
            Row 0 is the bottom of the sky, as in FITS; black off the tile.

        Raises
        ------
        ArchiveError
            The shard has no picture, or the picture is damaged.
        """
        if self._color is None:
            raise ArchiveError(f"shard {self.path}: has no colour picture: set survey.color in the recipe and rebuild")
        try:
            return self._color.read(x0, y0, shape)
        except (OSError, ArchiveError) as error:
            raise self._damaged(error, f"the colour picture at x {x0}, y {y0}") from None

    def read_through(self) -> None:
        """Read the whole shard, and keep no pixels.

        Raises
        ------
        ArchiveError
            A part is damaged.
        """
        _ = self.headers, self.objects, self.skipped, self.reason
        try:
            for plane in self._planes.values():
                plane.read_through()
            if self._color is not None:
                self._color.read_through()
        except OSError as error:
            raise self._damaged(error, "some objects") from None

    def holds(self, x: float, y: float, shape: Shape) -> bool:
        """Return True if the mosaic has the pixels of a window around a position, as far as it lies on the tile."""
        written = self._planes["SCI"].written
        x0, y0 = (int(n) for n in window_origin(x, y, shape))
        pieces = window_pieces(x0, y0, shape, (self.info.height, self.info.width), CHUNK)
        return all(bool(written[row, column]) for row, column, *_ in pieces)

    def _damaged(self, error: Exception, what: str) -> ArchiveError:
        return ArchiveError(
            f"shard {self.path}: the pixels of {what} are damaged ({one_line(error)}): rebuild tile {self.info.tile}"
        )

    def _table(self, group: str) -> ObjectTable:
        return ObjectTable(*(self._column(group, field.name) for field in fields(ObjectTable)))

    def _column(self, group: str, name: str) -> NDArray[Any]:
        try:
            dataset = h5py.h5d.open(self._file.id, f"{group}/{name}".encode())
            column = np.empty(dataset.shape, dataset.dtype)
            dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, column)
            return np.strings.decode(column, "utf-8") if column.dtype.kind == "S" else column
        except (OSError, KeyError, UnicodeDecodeError) as error:
            raise ArchiveError(
                f"shard {self.path}: the table {group} is damaged ({one_line(error)}): rebuild its tile"
            ) from None

    def _read_info(self, attrs: dict[str, Any]) -> ShardInfo:
        spec = shard_format()
        if attrs.get("format") != spec["format"]:
            raise ArchiveError(f"shard {self.path}: is not a shard of a cutout archive: remove the file")
        if attrs["format_version"] != spec["format_version"]:
            raise ArchiveError(
                f"shard {self.path}: has format version {attrs['format_version']}, this program reads "
                f"{spec['format_version']}: use the matching version of archive-builder"
            )
        values = {field.name: attrs[field.name] for field in fields(ShardInfo)}
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
        return ShardInfo(**plain)


def _open(path: Path) -> h5py.File:
    """Open a shard for reading; without HDF5's lock if the file system has no locks.

    A shard never changes under its name, so a reader needs no lock. HDF5 is asked for one all the same where it can be
    had: HDF5 refuses to open a file twice in a process, with and without a lock, and the caller may have it open too.
    """
    try:
        return h5py.File(path, "r", rdcc_nbytes=READ_CACHE)
    except OSError as error:
        if error.errno not in NO_LOCKS and "file locking flag" not in str(error):
            raise
    return h5py.File(path, "r", rdcc_nbytes=READ_CACHE, locking=False)


def shard_identity(path: Path) -> tuple[str, int, str, int] | None:
    """Return tile, generation, recipe and cutout size that a file claims for itself; None if it is no shard.

    Any format version is accepted. No other part of the file is read.
    """
    try:
        with _open(path) as file:
            attrs = attributes(file.id, ("format", "tile", "generation", "recipe", "size"))
        if attrs["format"] != shard_format()["format"]:
            return None
        return str(attrs["tile"]), int(attrs["generation"]), str(attrs["recipe"]), int(attrs["size"])
    except (OSError, KeyError, ValueError, TypeError, RuntimeError):
        return None


class _Plane:
    """One plane of an open shard."""

    def __init__(self, contents: Contents, group: str, info: ShardInfo, plane: str) -> None:
        self._is_weight = plane == "WGT"
        path = f"{group}/{'pixels' if info.layout == 'mosaic' else 'cutouts'}"
        self._dataset = contents.dataset(path)
        attrs = contents.pixel_attributes(path)
        self.codec: Codec = codec_of(attrs["encoding"], tuple(float(step) for step in attrs["scale"]))
        self._tile: Shape = (info.height, info.width)
        self._chunks: Lru[tuple[int, int], NDArray[Any]] = Lru(CACHED_CHUNKS)

    @cached_property
    def written(self) -> NDArray[np.uint8]:
        """1 for each chunk of the mosaic with pixels, (rows, columns)."""
        return np.asarray(self._dataset.parent["written"][...])

    def read_through(self) -> None:
        """Read every chunk."""
        for chunk in self._dataset.iter_chunks() if self._dataset.size else ():
            self._dataset[chunk]

    def read_stamp(self, row: int, dy: int, dx: int, bands: list[int] | slice, out: NDArray[Any]) -> None:
        """Read part of one stored cutout, from its row ``dy`` and column ``dx``."""
        ny, nx = out.shape[1:]
        out[...] = self._decode(self._dataset[row, :, dy : dy + ny, dx : dx + nx])[bands]

    def read_window(self, x0: int, y0: int, bands: list[int] | slice, out: NDArray[Any]) -> None:
        """Read a window of the mosaic from its chunks, blank off the tile."""
        ny, nx = out.shape[1:]
        if x0 < 0 or y0 < 0 or x0 + nx > self._tile[1] or y0 + ny > self._tile[0]:
            nothing = np.full((len(self.codec.step), 1, 1), self.codec.blank, dtype=self.codec.dtype)
            out[...] = self._decode(nothing)[bands]
        for row, column, inside, place in window_pieces(x0, y0, (ny, nx), self._tile, CHUNK):
            out[:, *place] = self._chunks.get((row, column), self._read_chunk)[:, *inside][bands]

    def _decode(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return decoded values. A weight of NaN, as lossless storage may keep it, becomes 0."""
        values = self.codec.decode(stored)
        return np.where(np.isnan(values), values.dtype.type(0), values) if self._is_weight else values

    def _read_chunk(self, place: tuple[int, int]) -> NDArray[Any]:
        """Return one decoded chunk of the mosaic, by its row and column among the chunks."""
        y, x = (number * CHUNK for number in place)
        return self._decode(self._dataset[:, y : y + CHUNK, x : x + CHUNK])
