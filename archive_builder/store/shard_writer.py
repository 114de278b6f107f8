"""Writing a shard, whole or not at all."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from archive_builder.atomic import sync, temporary_path
from archive_builder.errors import ArchiveError
from archive_builder.geometry import Shape
from archive_builder.measure.quantize import Codec
from archive_builder.store.color import write_color
from archive_builder.store.contents import Contents
from archive_builder.store.format import HDF5_VERSIONS, plane_group, shard_format
from archive_builder.store.layout import LAYOUTS, write_table
from archive_builder.store.records import ObjectTable, ShardInfo
from archive_builder.store.rows import RowBuffer

METADATA_CACHE = 1 << 18
"""Size of HDF5's metadata cache, bytes on disk.

A list of virtual windows is 60 times as large in memory as on disk. HDF5's default of 2 MB would keep the lists of
20,000 cutouts, 130 MB in memory.
"""


class ShardWriter:
    """Writer of a shard under a temporary name, the draft. The build renames a finished draft.

    No other process ever writes to the draft's name, on any host. A worker wrongly believed dead may continue: it harms
    neither its successor on the tile nor a later build.

    Parameters
    ----------
    path : Path
        Final name of the shard. The folder must exist.
    info : ShardInfo
        Attributes of the shard.
    headers : mapping of str to sequence of str
        FITS header of each band's image by plane, one card a line.
    codecs : mapping of str to Codec
        Stored form of each plane's pixels: ``SCI``, and ``WGT`` and ``MSK`` if they are kept.
    """

    def __init__(
        self, path: Path, info: ShardInfo, headers: Mapping[str, Sequence[str]], codecs: Mapping[str, Codec]
    ) -> None:
        self.path = path
        self.draft = temporary_path(path)
        self._finished = False
        # No other process knows the draft's name: the file needs no lock, and some file systems have none.
        self._file = h5py.File(self.draft, "x", libver=HDF5_VERSIONS, rdcc_nbytes=0, locking=False)
        try:
            _bound_metadata_cache(self._file)
            _write_attributes(self._file, info)
            for plane, texts in headers.items():
                group = self._file.require_group(plane_group(plane))
                write_table(group, "headers", fixed_strings(texts))
            shape = (len(info.bands), info.height, info.width)
            self._planes = {
                plane: LAYOUTS[info.layout](self._file.require_group(plane_group(plane)), shape, info.size, codec)
                for plane, codec in codecs.items()
            }
        except BaseException:
            self._discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the draft if the shard is unfinished or the block raised an error."""
        if kind is not None or not self._finished:
            self._discard()

    def _discard(self) -> None:
        # On a full disk HDF5 cannot close the file, and a removed file occupies the disk as long as it is open.
        with suppress(OSError):
            os.truncate(self.draft, 0)
        with suppress(OSError, RuntimeError):
            self._file.close()
        self.draft.unlink(missing_ok=True)

    def add_color(self, rows: Callable[[int, int], Image.Image], shape: Shape) -> None:
        """Write the tile's colour picture: see :func:`archive_builder.store.color.write_color`."""
        write_color(self._file.create_group("color"), rows, shape)

    def add_cutouts(self, plane: str, x0: NDArray[np.int64], y0: NDArray[np.int64], rows: RowBuffer) -> None:
        """Add the next cutouts of one plane. Their windows start at ``(x0, y0)`` and are still in ``rows``."""
        self._planes[plane].add_cutouts(x0, y0, rows)

    def add_slab(self, plane: str, number: int, slab: NDArray[np.generic]) -> None:
        """Add a row of a plane's chunks, (bands, rows, nx), after all cutouts that touch it."""
        self._planes[plane].add_slab(number, slab)

    def finish(self, stored: ObjectTable, skipped: ObjectTable, reason: NDArray[np.uint8]) -> None:
        """Write the tables, and flush the draft to the disk.

        Parameters
        ----------
        stored : ObjectTable
            Objects with a cutout, in the order of the cutouts.
        skipped : ObjectTable
            Objects without a cutout.
        reason : ndarray of uint8, (S,)
            `Status` of each skipped object.

        Raises
        ------
        ArchiveError
            The shard does not match the written format.
        """
        for layout in self._planes.values():
            layout.finish()
        for group, table in (("objects", stored), ("skipped", skipped)):
            for field in fields(table):
                column = getattr(table, field.name)
                is_text = column.dtype.kind == "U"
                write_table(self._file, f"{group}/{field.name}", fixed_strings(column.tolist()) if is_text else column)
        write_table(self._file, "skipped/reason", reason)
        if wrong := Contents(self._file).violations():
            raise ArchiveError(f"shard {self.path}: does not match the format ({'; '.join(wrong)}): report this fault")
        self._file.close()
        sync(self.draft)
        self._finished = True


def _bound_metadata_cache(file: h5py.File) -> None:
    config = file.id.get_mdc_config()
    config.set_initial_size = True
    config.initial_size = config.min_size = config.max_size = METADATA_CACHE
    file.id.set_mdc_config(config)


def _write_attributes(file: h5py.File, info: ShardInfo) -> None:
    spec = shard_format()
    packages = {name: version(name) for name in ("archive-builder", "astropy", "h5py", "numpy", "sep")}
    packages |= {"hdf5": h5py.version.hdf5_version, "python": sys.version.split()[0]}
    values = {"format": spec["format"], "format_version": spec["format_version"], "software": json.dumps(packages)}
    for name, value in {**values, **{field.name: getattr(info, field.name) for field in fields(info)}}.items():
        if isinstance(value, str):
            file.attrs[name] = fixed_strings([value])[0]
        elif isinstance(value, tuple):
            file.attrs[name] = fixed_strings(value)
        else:
            file.attrs[name] = np.int64(value) if isinstance(value, int) else value


def fixed_strings(texts: Sequence[str]) -> NDArray[Any]:
    """Return texts as an array of fixed-length strings: HDF5 has no checksums for strings of varying length."""
    encoded = [text.encode() for text in texts]
    return np.array(encoded, dtype=h5py.string_dtype("utf-8", max([1, *map(len, encoded)])))
