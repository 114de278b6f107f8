"""The shard's written format, ``schema/shard.json``: what every shard has, and whether one has it."""

from __future__ import annotations

import json
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


def violations(shard: h5py.File) -> list[str]:
    """Compare an open shard with the written format.

    Returns
    -------
    list of str
        A line for each thing that is missing, or has another shape or type than it must; empty if all is well.
    """
    spec = shard_format()
    missing = [f"attribute {name} is missing" for name in spec["attributes"] if name not in shard.attrs]
    if missing:
        return missing
    attrs = shard.attrs
    if (attrs["format"], attrs["format_version"]) != (spec["format"], spec["format_version"]):
        return [f"format is {attrs['format']} {attrs['format_version']}"]
    return list(_mismatches(shard, spec))


def _mismatches(shard: h5py.File, spec: Mapping[str, Any]) -> Iterator[str]:
    sizes = _sizes(shard)
    for name, wanted in spec["attributes"].items():
        yield from _compare(f"attribute {name}", np.asarray(shard.attrs[name]), wanted, sizes)
    for plane, group in spec["planes"]["groups"].items():
        if plane in shard.attrs["planes"]:
            yield from _plane_mismatches(shard, group.rstrip("/"), spec["planes"], sizes)
    color = spec["color"]["datasets"] if "COLOR" in shard.attrs["planes"] else {}
    for path, wanted in {**spec["datasets"], **color}.items():
        if isinstance(shard.get(path), h5py.Dataset):
            yield from _compare(path, shard[path], wanted, sizes)
        else:
            yield f"{path} is missing"


def _plane_mismatches(shard: h5py.File, group: str, spec: Mapping[str, Any], sizes: Mapping[str, int]) -> Iterator[str]:
    """Compare the datasets of one plane."""
    for name, wanted in spec["datasets"].items():
        path = f"{group}/{name}"
        if wanted.get("layout", shard.attrs["layout"]) != shard.attrs["layout"]:
            continue
        if not isinstance(shard.get(path), h5py.Dataset):
            yield f"{path} is missing"
            continue
        is_pixels = wanted["dtype"] == "pixel"
        attributes = spec["attributes"] if is_pixels else {}
        if missing := [key for key in attributes if key not in shard[path].attrs]:
            yield f"attribute {missing[0]} of {path} is missing"
            continue
        pixel = spec["pixel"].get(shard[path].attrs["encoding"], "of a known encoding") if is_pixels else ""
        yield from _compare(path, shard[path], wanted, sizes, pixel)
        for key, attribute in attributes.items():
            value = np.asarray(shard[path].attrs[key])
            yield from _compare(f"attribute {key} of {path}", value, attribute, sizes, pixel)


def _sizes(shard: h5py.File) -> dict[str, int]:
    """Return what the symbols in shapes stand for in this shard."""
    attrs = shard.attrs
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
