"""The written format of a shard, ``schema/shard.json``."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

HDF5_VERSIONS = ("v110", "v110")
"""Oldest and newest HDF5 format in a shard: 1.10 can read it, the version of most sites and of Debian's h5dump."""


def schema_text(name: str) -> str:
    """Return the text of a file in ``schema/``.

    The folder is inside the installed package, or beside the package in a checkout.
    """
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
