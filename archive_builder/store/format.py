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


def violations(shard: h5py.File) -> list[str]:
    """Compare an open shard with the written format.

    Returns
    -------
    list of str
        A line for each thing that is missing, or has another shape or type than it must; empty if all is well.
    """
    spec = shard_format()
    attrs = attributes(shard)
    if missing := [f"attribute {name} is missing" for name in spec["attributes"] if name not in attrs]:
        return missing
    if (attrs["format"], attrs["format_version"]) != (spec["format"], spec["format_version"]):
        return [f"format is {attrs['format']} {attrs['format_version']}"]
    return list(_mismatches(shard, attrs, spec))


FILTERS = {32008, h5py.h5z.FILTER_FLETCHER32}
"""The filters a shard uses: Bitshuffle, and HDF5's checksum. Any other would have a reader load a plugin."""

MOST_PIXELS = 2**40
"""More pixels than any tile has: a shard that claims them would only fill its reader's memory."""

DEEPEST = 2
"""Groups in groups: a group may be linked into itself."""

MOST_ROWS = 2**27
"""More objects than any tile has."""


def foreign_parts(shard: h5py.File) -> Iterator[str]:
    """Find what would make a reader look outside the file, load code, or run out of memory.

    Yields
    ------
    str
        A line for each link to another file, dataset stored in one, unknown filter or absurd size. Virtual
        datasets are left to HDF5's other programs: this package reads none.
    """
    groups = [("", shard)]
    while groups:
        prefix, group = groups.pop()
        for name in group:
            path, link = f"{prefix}/{name}", group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                yield f"{path} is a link"
            elif isinstance(item := group[name], h5py.Group):
                if path.count("/") > DEEPEST:
                    yield f"{path} is nested too deep"
                elif name != "blocks":
                    groups.append((path, item))
            elif name != "cutouts" or not item.is_virtual:
                yield from _foreign_storage(path, item)


def _foreign_storage(path: str, dataset: h5py.Dataset) -> Iterator[str]:
    """Find what is wrong with how a dataset is stored."""
    create = dataset.id.get_create_plist()
    if dataset.external or dataset.is_virtual:
        yield f"{path} is stored in another file"
    if {create.get_filter(n)[0] for n in range(create.get_nfilters())} - FILTERS:
        yield f"{path} has an unknown filter"
    chunk = math.prod(dataset.chunks or (1,))
    if dataset.size > MOST_PIXELS or chunk > MOST_ROWS or (dataset.ndim < 3 and dataset.shape[0] > MOST_ROWS):
        yield f"{path} claims a size of {dataset.shape}"


def _mismatches(shard: h5py.File, attrs: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[str]:
    sizes = _sizes(shard, attrs)
    for name, wanted in spec["attributes"].items():
        yield from _compare(f"attribute {name}", np.asarray(shard.attrs[name]), wanted, sizes)
    for plane, group in spec["planes"]["groups"].items():
        if plane in attrs["planes"]:
            yield from _plane_mismatches(shard, group.rstrip("/"), attrs["layout"], spec["planes"], sizes)
    color = spec["color"]["datasets"] if "COLOR" in attrs["planes"] else {}
    for path, wanted in {**spec["datasets"], **color}.items():
        if isinstance(shard.get(path), h5py.Dataset):
            yield from _compare(path, shard[path], wanted, sizes)
        else:
            yield f"{path} is missing"


def _plane_mismatches(
    shard: h5py.File, group: str, layout: str, spec: Mapping[str, Any], sizes: Mapping[str, int]
) -> Iterator[str]:
    """Compare the datasets of one plane."""
    for name, wanted in spec["datasets"].items():
        path = f"{group}/{name}"
        if wanted.get("layout", layout) != layout:
            continue
        if not isinstance(shard.get(path), h5py.Dataset):
            yield f"{path} is missing"
            continue
        is_pixels = wanted["dtype"] == "pixel"
        described = spec["attributes"] if is_pixels else {}
        if missing := [key for key in described if key not in shard[path].attrs]:
            yield f"attribute {missing[0]} of {path} is missing"
            continue
        pixel = spec["pixel"].get(attributes(shard[path])["encoding"], "of a known encoding") if is_pixels else ""
        yield from _compare(path, shard[path], wanted, sizes, pixel)
        for key, attribute in described.items():
            value = np.asarray(shard[path].attrs[key])
            yield from _compare(f"attribute {key} of {path}", value, attribute, sizes, pixel)


def _sizes(shard: h5py.File, attrs: Mapping[str, Any]) -> dict[str, int]:
    """Return what the symbols in shapes stand for in this shard."""
    sizes = {name: int(attrs[name]) for name in ("size", "height", "width")}
    counts = {"N": "/objects/object_id", "S": "/skipped/object_id", "color_bytes": "/color/jpeg"}
    lengths = {symbol: len(shard[path]) if path in shard else -1 for symbol, path in counts.items()}
    rows, columns = (-(-sizes[side] // CHUNK) for side in ("height", "width"))
    grid = {"rows": rows, "columns": columns, "color_ends": rows * columns + 1}
    return {**sizes, **lengths, **grid, "bands": len(attrs["bands"]), "planes": len(attrs["planes"])}


def _compare(
    name: str, found: Any, wanted: Mapping[str, Any], sizes: Mapping[str, int], pixel: str = ""
) -> Iterator[str]:
    """Compare the shape and type of one attribute or dataset."""
    shape = tuple(sizes.get(n, n) for n in wanted.get("shape", ()))
    if found.shape != shape:
        yield f"{name} has shape {found.shape}, not {shape}"
    dtype = pixel if wanted["dtype"] == "pixel" else wanted["dtype"]
    matches = found.dtype.kind in "OSU" if dtype == "string" else found.dtype.name == dtype
    if not matches:
        yield f"{name} has type {found.dtype}, not {dtype}"
