"""The contents of an HDF5 file, checked against the written format of a shard."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from archive_builder.store.format import pixel_planes, shard_format
from archive_builder.store.layout import LAYOUTS
from archive_builder.store.rows import CHUNK
from archive_builder.survey.discovery import TILE_NAME

FILTERS = {32008, h5py.h5z.FILTER_FLETCHER32}
"""Filters of a shard: Bitshuffle, and HDF5's checksum. Any other filter would make a reader load a plugin."""

MOST_PIXELS = 2**40
"""Maximum pixels of a tile or cutout. A larger claim would only fill the reader's memory."""

MOST_ROWS = 2**27
"""Maximum objects of a tile."""

MOST_LINKS = 1000
"""Maximum links of a group. The blocks behind virtual cutouts are not counted: they are not read."""

DEEPEST = 2
"""Maximum depth of nested groups: a group may contain itself."""


@dataclass(frozen=True)
class _Stored:
    """A dataset of a shard, as it is stored."""

    id: h5py.h5d.DatasetID
    """Open dataset."""

    shape: tuple[int, ...]
    """Shape of the dataset."""

    dtype: np.dtype[Any]
    """Type of the values."""

    create: h5py.h5p.PropDCID
    """Storage: layout, chunks and filters."""


@dataclass(frozen=True)
class _Part:
    """An attribute or dataset that the format demands."""

    name: str
    """Name in a message."""

    found: Any
    """Array or dataset in the file; None if it is missing."""

    wanted: Mapping[str, Any]
    """Entry of the written format."""

    pixel: str = ""
    """Type of the plane's pixels."""


class Contents:
    """All contents of a shard, read once.

    The code uses h5py's low-level calls: every opening of a shard waits for this, and the high-level calls take three
    times as long.

    Parameters
    ----------
    shard : h5py.File
        An open file with the ``format`` attribute of a shard.

    Attributes
    ----------
    attrs : dict of str to object
        The file's own attributes that are in the format. A text is str, a list of texts a tuple of str.
    """

    def __init__(self, shard: h5py.File) -> None:
        self.attrs = attributes(shard.id, shard_format()["attributes"])
        self._datasets: dict[str, _Stored] = {}
        self._unopened: set[str] = set()
        self._pixel_attrs: dict[str, dict[str, Any]] = {}
        self._foreign: list[str] = []
        self._walk("", h5py.h5g.open(shard.id, b"/"))

    def dataset(self, path: str) -> h5py.Dataset:
        """Return a dataset by its path from the root."""
        return h5py.Dataset(self._datasets[path].id, readonly=True)  # the copy caches its shape and type

    def pixel_attributes(self, path: str) -> dict[str, Any]:
        """Return the attributes of a dataset of pixels that are in the format."""
        if path not in self._pixel_attrs:
            self._pixel_attrs[path] = attributes(self._datasets[path].id, shard_format()["planes"]["attributes"])
        return self._pixel_attrs[path]

    def foreign_parts(self) -> list[str]:
        """Return the parts that would make a reader open another file, load code or run out of memory.

        Returns
        -------
        list of str
            One line for each link, dataset stored in another file, unknown filter or impossible size.
        """
        return self._foreign

    def violations(self) -> list[str]:
        """Compare the file with the written format.

        Returns
        -------
        list of str
            One line for each missing part and each wrong shape or type; empty for a valid shard.
        """
        spec, attrs = shard_format(), self.attrs
        if missing := [f"attribute {name} is missing" for name in spec["attributes"] if name not in attrs]:
            return missing
        if (attrs["format"], attrs["format_version"]) != (spec["format"], spec["format_version"]):
            return [f"format is {attrs['format']} {attrs['format_version']}"]
        sizes = self._sizes()
        return [*self._impossible_values(), *(line for part in self._parts(spec) for line in _compare(part, sizes))]

    def _impossible_values(self) -> Iterator[str]:
        """Yield a line for each attribute with an impossible value."""
        tile, layout, planes, size = (self.attrs[name] for name in ("tile", "layout", "planes", "size"))
        if not (isinstance(tile, str) and TILE_NAME.fullmatch(tile)):
            yield f"tile is {tile!r}, not the name of a tile"
        if layout not in LAYOUTS:
            yield f"layout is {layout!r}, not {' or '.join(LAYOUTS)}"
        if "SCI" not in planes or not set(planes) <= {*pixel_planes(), "COLOR"}:
            yield f"planes are {planes!r}"
        if not 0 < int(size) <= math.isqrt(MOST_PIXELS):
            yield f"size of a cutout is {size} px"
        if int(self.attrs["without_id"]) < 0:
            yield f"without_id is {self.attrs['without_id']}"

    def _walk(self, prefix: str, group: h5py.h5g.GroupID) -> None:
        """Record every dataset of a group and of the groups in it.

        The virtual cutouts of a mosaic are not opened: they are for other programs. HDF5 keeps their list in the only
        structure of a shard without a checksum. A damaged byte there makes ``H5Oopen`` loop for ever or crash
        (github.com/HDFGroup/hdf5, issue 1707; HDF5 2.0 has the fault too).
        """
        for name, kind in _links(group):
            path = f"{prefix}/{name.decode()}"
            if kind != h5py.h5l.TYPE_HARD:
                self._foreign.append(f"{path} is a link")
                continue
            if name == b"cutouts" and self.attrs.get("layout") == "mosaic":
                self._unopened.add(path)
                continue
            item = h5py.h5o.open(group, name)
            if isinstance(item, h5py.h5d.DatasetID):
                self._datasets[path] = stored = _Stored(item, item.shape, item.dtype, item.get_create_plist())
                self._foreign += _foreign_storage(path, stored)
            elif path.count("/") > DEEPEST:
                self._foreign.append(f"{path} is nested too deep")
            elif not isinstance(item, h5py.h5g.GroupID):
                self._foreign.append(f"{path} is neither dataset nor group")
            elif name != b"blocks":
                self._walk(path, item)

    def _parts(self, spec: Mapping[str, Any]) -> Iterator[_Part]:
        """Yield the attributes and datasets that the format demands of this shard."""
        for name, wanted in spec["attributes"].items():
            yield _Part(f"attribute {name}", np.asarray(self.attrs[name]), wanted)
        for plane, group in spec["planes"]["groups"].items():
            if plane in self.attrs["planes"]:
                yield from self._plane_parts(group.rstrip("/"), spec["planes"])
        color = spec["color"]["datasets"] if "COLOR" in self.attrs["planes"] else {}
        for path, wanted in {**spec["datasets"], **color}.items():
            yield _Part(path, self._datasets.get(path), wanted)

    def _plane_parts(self, group: str, spec: Mapping[str, Any]) -> Iterator[_Part]:
        """Yield the datasets of one plane, and the attributes of those with pixels."""
        layout = self.attrs["layout"]
        for name, wanted in spec["datasets"].items():
            path = f"{group}/{name}"
            if wanted.get("layout", layout) != layout or path in self._unopened:
                continue
            pixel = ""
            if wanted["dtype"] == "pixel" and path in self._datasets:
                attrs = self.pixel_attributes(path)
                pixel = spec["pixel"].get(attrs.get("encoding"), "of a known encoding")
                for key, attribute in spec["attributes"].items():
                    found = np.asarray(attrs[key]) if key in attrs else None
                    yield _Part(f"attribute {key} of {path}", found, attribute, pixel)
            yield _Part(path, self._datasets.get(path), wanted, pixel)

    def _sizes(self) -> dict[str, int]:
        """Return the values of the symbols in shapes."""
        sizes = {name: int(self.attrs[name]) for name in ("size", "height", "width")}
        counts = {"N": "/objects/object_id", "S": "/skipped/object_id", "color_bytes": "/color/jpeg"}
        lengths = {symbol: self._length(path) for symbol, path in counts.items()}
        rows, columns = (-(-sizes[side] // CHUNK) for side in ("height", "width"))
        grid = {"rows": rows, "columns": columns, "color_ends": rows * columns + 1}
        return {**sizes, **lengths, **grid, "bands": len(self.attrs["bands"]), "planes": len(self.attrs["planes"])}

    def _length(self, path: str) -> int:
        """Return the length of a table; -1 if it is missing."""
        return self._datasets[path].shape[0] if path in self._datasets and self._datasets[path].shape else -1


def attributes(item: h5py.h5g.GroupID | h5py.h5d.DatasetID | h5py.h5f.FileID, names: Iterable[str]) -> dict[str, Any]:
    """Return the attributes of these names that an item has. A text is str, a list of texts a tuple of str."""
    found = {}
    for name in names:
        if h5py.h5a.exists(item, name.encode()):
            attribute = h5py.h5a.open(item, name.encode())
            value = np.empty(attribute.shape, attribute.dtype)
            attribute.read(value)
            found[name] = _as_text(value[()])
    return found


def _as_text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray) and value.dtype.kind in "SO":
        return tuple(_as_text(one) for one in value.tolist())
    return value


def _links(group: h5py.h5g.GroupID) -> list[tuple[bytes, int]]:
    """Return the name and the kind of each link of a group."""
    found: list[tuple[bytes, int]] = []

    def note(name: bytes, info: h5py.h5l.LinkInfo) -> bool | None:
        found.append((name, info.type))
        return True if len(found) > MOST_LINKS else None  # any value but None stops the iteration

    group.links.iterate(note, info=True)
    if len(found) > MOST_LINKS:
        raise ValueError(f"more than {MOST_LINKS} links in a group")
    return found


def _foreign_storage(path: str, dataset: _Stored) -> Iterator[str]:
    """Yield a line for each danger in how a dataset is stored."""
    create, shape, ndim = dataset.create, dataset.shape, len(dataset.shape)
    is_external = create.get_external_count() > 0
    if is_external or create.get_layout() == h5py.h5d.VIRTUAL:
        yield f"{path} is stored in another file"
    if {create.get_filter(n)[0] for n in range(create.get_nfilters())} - FILTERS:
        yield f"{path} has an unknown filter"
    size = math.prod(shape)
    chunk = math.prod(create.get_chunk()) if create.get_layout() == h5py.h5d.CHUNKED else 1
    if size > MOST_PIXELS or chunk > MOST_ROWS or (0 < ndim < 3 and shape[0] > MOST_ROWS):
        yield f"{path} claims a size of {shape}"
    elif ndim < 3 and not is_external and dataset.id.get_storage_size() < size * dataset.dtype.itemsize:
        yield f"{path} claims a size of {shape}, more than the file holds"


def _compare(part: _Part, sizes: Mapping[str, int]) -> Iterator[str]:
    """Yield a line if a part is missing, and for its shape or type if it is wrong."""
    found, wanted = part.found, part.wanted
    if found is None:
        yield f"{part.name} is missing"
        return
    shape = tuple(sizes.get(n, n) for n in wanted.get("shape", ()))
    if found.shape != shape:
        yield f"{part.name} has shape {found.shape}, not {shape}"
    dtype = part.pixel if wanted["dtype"] == "pixel" else wanted["dtype"]
    is_text = found.dtype.kind in "SU" or h5py.check_string_dtype(found.dtype) is not None
    matches = is_text if dtype == "string" else found.dtype.name == dtype
    if not matches:
        yield f"{part.name} has type {found.dtype}, not {dtype}"
