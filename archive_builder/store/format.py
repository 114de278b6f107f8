"""The shard's written format, ``schema/shard.json``: what every shard has, and whether one has it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

import h5py
import numpy as np

from archive_builder.store.rows import CHUNK
from archive_builder.survey.discovery import TILE_NAME


@cache
def shard_format() -> Mapping[str, Any]:
    """Return ``schema/shard.json``."""
    text = resources.files("archive_builder.schema").joinpath("shard.json").read_text(encoding="utf-8")
    return json.loads(text)  # type: ignore[no-any-return]


def attributes(item: h5py.HLObject) -> dict[str, Any]:
    """Return an item's attributes with texts as str, and lists of texts as tuples of str."""
    return {name: _as_text(value) for name, value in item.attrs.items()}


def _as_text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray) and value.dtype.kind in "SO":
        return tuple(_as_text(one) for one in value.tolist())
    return value


FILTERS = {32008, h5py.h5z.FILTER_FLETCHER32}
"""The filters a shard uses: Bitshuffle, and HDF5's checksum. Any other would have a reader load a plugin."""

MOST_PIXELS = 2**40
"""More pixels than any tile has: a shard that claims them would only fill its reader's memory."""

DEEPEST = 2
"""Groups in groups: a group may be linked into itself."""

LAYOUT_NAMES = ("mosaic", "stamps")
"""What a layout may be called."""

PLANES = {"SCI", "WGT", "MSK", "COLOR"}
"""What a plane may be called."""

MOST_ROWS = 2**27
"""More objects than any tile has."""


class Contents:
    """All that is in a shard, looked at once.

    Parameters
    ----------
    shard : h5py.File
        An open file that says it is a shard.

    Attributes
    ----------
    attrs : dict of str to object
        The file's own attributes.
    """

    def __init__(self, shard: h5py.File) -> None:
        self.attrs = attributes(shard)
        self._datasets: dict[str, h5py.Dataset] = {}
        self._foreign: list[str] = []
        self._walk("", shard)

    def foreign_parts(self) -> list[str]:
        """Return what would make a reader look outside the file, load code, or run out of memory.

        Returns
        -------
        list of str
            A line for each link to another file, dataset stored in one, unknown filter or absurd size. A mosaic's
            virtual cutouts are left to HDF5's other programs: this package does not read them.
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
        tile, layout, planes = (self.attrs[name] for name in ("tile", "layout", "planes"))
        if not (isinstance(tile, str) and TILE_NAME.fullmatch(tile)):
            yield f"{tile!r} is no tile's name"
        if layout not in LAYOUT_NAMES:
            yield f"{layout!r} is no layout"
        if "SCI" not in planes or not set(planes) <= PLANES:
            yield f"its planes are {planes!r}"

    def _walk(self, prefix: str, group: h5py.Group) -> None:
        """Note every dataset of a group and the groups in it."""
        for name in group:
            path = f"{prefix}/{name}"
            if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
                self._foreign.append(f"{path} is a link")
                continue
            item = group[name]
            if isinstance(item, h5py.Dataset):
                self._datasets[path] = item
                if name != "cutouts" or not item.is_virtual or self.attrs.get("layout") != "mosaic":
                    self._foreign += _foreign_storage(path, item)
            elif path.count("/") > DEEPEST:
                self._foreign.append(f"{path} is nested too deep")
            elif name != "blocks":
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
            if wanted.get("layout", layout) != layout:
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
        attrs = attributes(self._datasets[path])
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
        lengths = {symbol: len(self._datasets[p]) if p in self._datasets else -1 for symbol, p in counts.items()}
        rows, columns = (-(-sizes[side] // CHUNK) for side in ("height", "width"))
        grid = {"rows": rows, "columns": columns, "color_ends": rows * columns + 1}
        return {**sizes, **lengths, **grid, "bands": len(self.attrs["bands"]), "planes": len(self.attrs["planes"])}


def _foreign_storage(path: str, dataset: h5py.Dataset) -> Iterator[str]:
    """Find what is wrong with how a dataset is stored."""
    create = dataset.id.get_create_plist()
    if dataset.external or dataset.is_virtual:
        yield f"{path} is stored in another file"
    if {create.get_filter(n)[0] for n in range(create.get_nfilters())} - FILTERS:
        yield f"{path} has an unknown filter"
    chunk = math.prod(dataset.chunks or (1,))
    is_table = dataset.ndim < 3 and not dataset.external
    if dataset.size > MOST_PIXELS or chunk > MOST_ROWS or (0 < dataset.ndim < 3 and dataset.shape[0] > MOST_ROWS):
        yield f"{path} claims a size of {dataset.shape}"
    elif is_table and dataset.id.get_storage_size() < dataset.nbytes:
        yield f"{path} claims a size of {dataset.shape}, which the file does not hold"


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
