"""Files below a folder, bounded in number and depth."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from archive_builder.survey.tables.formats import ENDINGS, PACKED

MOST_FILES = 20_000
"""Maximum number of files looked at."""

DEEPEST = 7
"""Maximum depth of folders below the first."""

FITS_ENDINGS = (".fits", ".fit", ".fts")


@dataclass(frozen=True)
class Listing:
    """Files below a folder, as paths relative to it with ``/``."""

    fits: tuple[str, ...]
    """Files with a FITS ending, sorted."""

    tables: tuple[str, ...]
    """Files with the ending of another table format, sorted."""

    pictures: tuple[str, ...]
    """TIFF files, sorted."""

    left_out: tuple[str, ...]
    """Files whose names a pattern cannot hold."""

    is_complete: bool
    """False if the folder has more files or is deeper than the limits."""


def list_files(folder: Path, most: int = MOST_FILES) -> Listing:
    """Return the FITS files, tables and pictures below a folder, hidden files left out.

    Raises
    ------
    OSError
        The folder itself cannot be read.
    """
    found: dict[str, list[str]] = {"fits": [], "tables": [], "pictures": [], "left_out": []}
    seen = 0
    walk = _Walk()
    for path in walk.files(folder, 0):
        seen += 1
        if seen > most:
            break
        name = path.relative_to(folder).as_posix()
        kind = _ending(name)
        if kind == "":
            continue
        if not _can_be_a_pattern(name):
            found["left_out"].append(name)
        elif kind in FITS_ENDINGS:
            found["fits"].append(name)
        else:
            found["pictures" if kind in (".tif", ".tiff") else "tables"].append(name)
    lists = {key: tuple(sorted(names)) for key, names in found.items()}
    return Listing(**lists, is_complete=seen <= most and not walk.was_cut)


def _ending(name: str) -> str:
    """Return the ending that tells the format, in lower case, without one of compression; empty for other files."""
    stem = name.lower()
    for packed in PACKED:
        stem = stem.removesuffix(packed)
    known = (*FITS_ENDINGS, ".tif", ".tiff", *ENDINGS)
    return next((ending for ending in known if stem.endswith(ending)), "")


def _can_be_a_pattern(name: str) -> bool:
    return name.isprintable() and not set("{}") & set(name) and name.encode("utf-8", "replace").decode() == name


class _Walk:
    """A walk through folders that visits each once, in sorted order."""

    def __init__(self) -> None:
        self._visited: set[tuple[int, int]] = set()
        self.was_cut = False

    def files(self, folder: Path, depth: int) -> Iterator[Path]:
        facts = os.stat(folder)
        if (facts.st_dev, facts.st_ino) in self._visited:
            return
        self._visited.add((facts.st_dev, facts.st_ino))
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        below = []
        for entry in found:
            mode = self._mode(entry)
            if stat.S_ISREG(mode):
                yield Path(entry.path)
            elif stat.S_ISDIR(mode):
                below.append(Path(entry.path))
        for one in below:
            if depth >= DEEPEST:
                self.was_cut = True
                return
            try:
                yield from self.files(one, depth + 1)
            except OSError:
                self.was_cut = True

    def _mode(self, entry: os.DirEntry[str]) -> int:
        """Return the mode of a file or folder, 0 for a hidden one and for one that cannot be read."""
        if entry.name.startswith("."):
            return 0
        try:
            return entry.stat().st_mode
        except OSError:
            return 0
