"""The shard's written format, ``schema/shard.json``: what every shard has, and whether one has it."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from archive_builder.store.rows import CHUNK
from archive_builder.survey.discovery import TILE_NAME


def schema_text(name: str) -> str:
    """Return a file of ``schema/``: inside the installed package, or beside the package in a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "schema" / name
    return (installed if installed.is_file() else package.parent / "schema" / name).read_text(encoding="utf-8")


@cache
def shard_format() -> Mapping[str, Any]:
    """Return ``schema/shard.json``."""
    return json.loads(schema_text("shard.json"))  # type: ignore[no-any-return]


def plane_group(plane: str) -> str:
    """Return the group of a shard that holds a plane of the tile's pixels."""
    return str(shard_format()["planes"]["groups"][plane])


def pixel_planes() -> tuple[str, ...]:
    """Return the planes that hold pixels, the image first."""
    return tuple(shard_format()["planes"]["groups"])


def checksum(path: Path) -> str:
    """Return the CRC-32 of a file, as ``crc32:`` and eight hexadecimal digits."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return f"crc32:{value:08x}"


def _as_text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray) and value.dtype.kind in "SO":
        return tuple(_as_text(one) for one in value.tolist())
    return value


HDF5_VERSIONS = ("v110", "v110")
"""The format's bounds: HDF5 1.10, which most sites and Debian's h5dump have, must be able to read a shard."""

FILTERS = {32008, h5py.h5z.FILTER_FLETCHER32}
"""The filters a shard uses: Bitshuffle, and HDF5's checksum. Any other would have a reader load a plugin."""

MOST_PIXELS = 2**40
"""More pixels than any tile or cutout has: a shard that claims them would only fill its reader's memory."""

DEEPEST = 2
"""Groups in groups: a group may be linked into itself."""

MOST_LINKS = 1000
"""More links than a group of a shard has, but for the blocks behind virtual cutouts, which are not looked at."""

LAYOUT_NAMES = ("mosaic", "stamps")
"""What a layout may be called."""

PLANES = {"SCI", "WGT", "MSK", "COLOR"}
"""What a plane may be called."""

MOST_ROWS = 2**27
"""More objects than any tile has."""


@dataclass(frozen=True)
class _Stored:
    """A dataset of a shard, as it is stored."""

    id: h5py.h5d.DatasetID
    """The open dataset."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    create: h5py.h5p.PropDCID
    """How it is stored."""


class Contents:
    """All that is in a shard, looked at once.

    By h5py's low-level calls: whoever opens a shard waits for this, and the others take three times as long.

    Parameters
    ----------
    shard : h5py.File
        An open file that says it is a shard.

    Attributes
    ----------
    attrs : dict of str to object
        The file's own attributes that the format has, texts as str, and lists of texts as tuples of str.
    """

    def __init__(self, shard: h5py.File) -> None:
        self.attrs = _attributes(shard.id, shard_format()["attributes"])
        self._datasets: dict[str, _Stored] = {}
        self._unopened: set[str] = set()
        self._pixel_attrs: dict[str, dict[str, Any]] = {}
        self._foreign: list[str] = []
        self._walk("", h5py.h5g.open(shard.id, b"/"))

    def dataset(self, path: str) -> h5py.Dataset:
        """Return a dataset by its path from the root."""
        return h5py.Dataset(self._datasets[path].id, readonly=True)  # which remembers its shape and type

    def pixel_attributes(self, path: str) -> dict[str, Any]:
        """Return what a dataset of pixels says of itself, as far as the format has it."""
        if path not in self._pixel_attrs:
            self._pixel_attrs[path] = _attributes(self._datasets[path].id, shard_format()["planes"]["attributes"])
        return self._pixel_attrs[path]

    def foreign_parts(self) -> list[str]:
        """Return what would make a reader look outside the file, load code, or run out of memory.

        Returns
        -------
        list of str
            A line for each link to another file, dataset stored in one, unknown filter or absurd size.
        """
        return self._foreign

    def violations(self) -> list[str]:
        """Compare the file with the written format.

        Returns
        -------
        list of str
            A line for each thing that is missing, or has another shape or type than it must; empty if all is well.
        """
        spec, attrs = shard_format(), self.attrs
        if missing := [f"attribute {name} is missing" for name in spec["attributes"] if name not in attrs]:
            return missing
        if (attrs["format"], attrs["format_version"]) != (spec["format"], spec["format_version"]):
            return [f"format is {attrs['format']} {attrs['format_version']}"]
        return [*self._nonsense(), *self._mismatches(spec)]

    def _nonsense(self) -> Iterator[str]:
        """Find what the file says of itself that cannot be."""
        tile, layout, planes, size = (self.attrs[name] for name in ("tile", "layout", "planes", "size"))
        if not (isinstance(tile, str) and TILE_NAME.fullmatch(tile)):
            yield f"{tile!r} is no tile's name"
        if layout not in LAYOUT_NAMES:
            yield f"{layout!r} is no layout"
        if "SCI" not in planes or not set(planes) <= PLANES:
            yield f"its planes are {planes!r}"
        if not 0 < int(size) <= math.isqrt(MOST_PIXELS):
            yield f"its cutouts are of {size} px"

    def _walk(self, prefix: str, group: h5py.h5g.GroupID) -> None:
        """Note every dataset of a group and the groups in it.

        A mosaic's virtual cutouts are for other programs, and are not opened: HDF5 keeps their list in the one
        structure of a shard that has no checksum, and a damaged byte there has ``H5Oopen`` loop for ever, or crash
        (github.com/HDFGroup/hdf5, issue 1707; so with 2.0).
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

    def _mismatches(self, spec: Mapping[str, Any]) -> Iterator[str]:
        sizes = self._sizes()
        for name, wanted in spec["attributes"].items():
            yield from _compare(f"attribute {name}", np.asarray(self.attrs[name]), wanted, sizes)
        for plane, group in spec["planes"]["groups"].items():
            if plane in self.attrs["planes"]:
                yield from self._plane_mismatches(group.rstrip("/"), spec["planes"], sizes)
        color = spec["color"]["datasets"] if "COLOR" in self.attrs["planes"] else {}
        for path, wanted in {**spec["datasets"], **color}.items():
            if path in self._datasets:
                yield from _compare(path, self._datasets[path], wanted, sizes)
            else:
                yield f"{path} is missing"

    def _plane_mismatches(self, group: str, spec: Mapping[str, Any], sizes: Mapping[str, int]) -> Iterator[str]:
        """Compare the datasets of one plane."""
        layout = self.attrs["layout"]
        for name, wanted in spec["datasets"].items():
            path = f"{group}/{name}"
            if wanted.get("layout", layout) != layout or path in self._unopened:
                continue
            if path not in self._datasets:
                yield f"{path} is missing"
            elif wanted["dtype"] == "pixel":
                yield from self._pixel_mismatches(path, wanted, spec, sizes)
            else:
                yield from _compare(path, self._datasets[path], wanted, sizes)

    def _pixel_mismatches(
        self, path: str, wanted: Mapping[str, Any], spec: Mapping[str, Any], sizes: Mapping[str, int]
    ) -> Iterator[str]:
        """Compare a dataset of pixels and what it says of itself."""
        attrs = self.pixel_attributes(path)
        if missing := [key for key in spec["attributes"] if key not in attrs]:
            yield f"attribute {missing[0]} of {path} is missing"
            return
        pixel = spec["pixel"].get(attrs["encoding"], "of a known encoding")
        yield from _compare(path, self._datasets[path], wanted, sizes, pixel)
        for key, attribute in spec["attributes"].items():
            yield from _compare(f"attribute {key} of {path}", np.asarray(attrs[key]), attribute, sizes, pixel)

    def _sizes(self) -> dict[str, int]:
        """Return what the symbols in shapes stand for in this shard."""
        sizes = {name: int(self.attrs[name]) for name in ("size", "height", "width")}
        counts = {"N": "/objects/object_id", "S": "/skipped/object_id", "color_bytes": "/color/jpeg"}
        lengths = {symbol: self._length(path) for symbol, path in counts.items()}
        rows, columns = (-(-sizes[side] // CHUNK) for side in ("height", "width"))
        grid = {"rows": rows, "columns": columns, "color_ends": rows * columns + 1}
        return {**sizes, **lengths, **grid, "bands": len(self.attrs["bands"]), "planes": len(self.attrs["planes"])}

    def _length(self, path: str) -> int:
        """Return how long a table is; -1 if there is none."""
        return self._datasets[path].shape[0] if path in self._datasets and self._datasets[path].shape else -1


def _attributes(item: h5py.h5g.GroupID | h5py.h5d.DatasetID, names: Iterable[str]) -> dict[str, Any]:
    """Return those of an item's attributes that it has, texts as str, and lists of texts as tuples of str."""
    found = {}
    for name in names:
        if h5py.h5a.exists(item, name.encode()):
            attribute = h5py.h5a.open(item, name.encode())
            value = np.empty(attribute.shape, attribute.dtype)
            attribute.read(value)
            found[name] = _as_text(value[()])
    return found


def _links(group: h5py.h5g.GroupID) -> list[tuple[bytes, int]]:
    """Return the name and the kind of each of a group's links."""
    found: list[tuple[bytes, int]] = []

    def note(name: bytes, info: h5py.h5l.LinkInfo) -> bool | None:
        found.append((name, info.type))
        return True if len(found) > MOST_LINKS else None  # anything but None ends it

    group.links.iterate(note, info=True)
    if len(found) > MOST_LINKS:
        raise ValueError(f"more than {MOST_LINKS} links in a group")
    return found


def _foreign_storage(path: str, dataset: _Stored) -> Iterator[str]:
    """Find what is wrong with how a dataset is stored."""
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
        yield f"{path} claims a size of {shape}, which the file does not hold"


def _compare(
    name: str, found: Any, wanted: Mapping[str, Any], sizes: Mapping[str, int], pixel: str = ""
) -> Iterator[str]:
    """Compare the shape and type of one attribute or dataset."""
    shape = tuple(sizes.get(n, n) for n in wanted.get("shape", ()))
    if found.shape != shape:
        yield f"{name} has shape {found.shape}, not {shape}"
    dtype = pixel if wanted["dtype"] == "pixel" else wanted["dtype"]
    is_text = found.dtype.kind in "SU" or h5py.check_string_dtype(found.dtype) is not None
    matches = is_text if dtype == "string" else found.dtype.name == dtype
    if not matches:
        yield f"{name} has type {found.dtype}, not {dtype}"
