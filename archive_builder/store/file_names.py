"""Names of the files in an archive's folder."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from archive_builder.atomic import TEMPORARY
from archive_builder.survey.discovery import TILE_NAME

INDEX_NAME = "index.sqlite"
"""File name of the index in the archive's folder."""

NEXT_INDEX_NAME = "index.next.sqlite"
"""File name of the second index of a whole rebuild."""

FRESH_INDEX_NAME = "index.fresh.sqlite"
"""File name of an index that is being made from the shards."""

SHARD_FOLDER = "shards"
"""Folder of the shards in the archive's folder."""

SHARD_FILE = re.compile(rf"({TILE_NAME.pattern})\.([1-9][0-9]*)\.h5")
"""File name of a shard: tile and generation."""


def shard_name(tile: str, generation: int) -> str:
    """Return the path of a tile's shard below the archive."""
    return f"{SHARD_FOLDER}/{tile}.{generation}.h5"


def is_shard_name(name: object, tile: str, generation: int) -> bool:
    """Return True if a tile's shard is where it belongs: a foreign index might lead anywhere."""
    return name == shard_name(tile, generation) and TILE_NAME.fullmatch(tile) is not None


def parse_shard_name(name: str) -> tuple[str, int] | None:
    """Return tile and generation of a shard's file name; None for the name of another file.

    Examples
    --------
    >>> parse_shard_name("T1.12.h5")
    ('T1', 12)
    >>> parse_shard_name("T1.1.backup.h5") is None
    True
    """
    found = SHARD_FILE.fullmatch(name)
    return (found[1], int(found[2])) if found else None


def is_draft(name: str) -> bool:
    """Return True for the name of a file that a build or reindex is writing: a shard, or an index or its journal.

    Examples
    --------
    >>> is_draft(".T1.2.h5.1f0e8c6b5a493827.4711.part")
    True
    >>> is_draft(".notes.h5.1f0e8c6b5a493827.4711.part")
    False
    """
    if not TEMPORARY.fullmatch(name):
        return False
    final = name.removesuffix("-journal").rsplit(".", 3)[0].removeprefix(".")
    return final in (INDEX_NAME, NEXT_INDEX_NAME, FRESH_INDEX_NAME) or SHARD_FILE.fullmatch(final) is not None


def is_regular(path: Path) -> bool:
    """Return True for a regular file; False for a link, a folder, and a missing file."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def shard_files(archive: Path) -> Iterator[Path]:
    """Yield the files of an archive that have the name of a shard, in no order; links to files are among them."""
    folder = archive / SHARD_FOLDER
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                if SHARD_FILE.fullmatch(entry.name) and entry.is_file():
                    yield folder / entry.name
