"""Names of the files in an archive's folder."""

from __future__ import annotations

from archive_builder.survey.discovery import TILE_NAME

INDEX_NAME = "index.sqlite"
"""File name of the index in the archive's folder."""

SHARD_FOLDER = "shards"
"""Folder of the shards in the archive's folder."""


def shard_name(tile: str, generation: int) -> str:
    """Return the path of a tile's shard below the archive."""
    return f"{SHARD_FOLDER}/{tile}.{generation}.h5"


def is_shard_name(name: object, tile: str, generation: int) -> bool:
    """Return True if a tile's shard is where it belongs: a foreign index might lead anywhere."""
    return name == shard_name(tile, generation) and TILE_NAME.fullmatch(tile) is not None
