"""The whole rebuild of an archive with other settings: its protocol, and its files.

All shards of an archive share the settings of one recipe. A build of all tiles with ``--force`` may have other
settings. It builds every tile into a second index, which replaces the archive's index at the end.

========== ============================ ===============================================================================
State      Indexes on disk              Meaning
========== ============================ ===============================================================================
ordinary   ``index.sqlite``             Readers and builds use this index. It leads to every shard.
rebuilding ``index.sqlite`` and         Readers use the first index and the old shards. The build commits each new
           ``index.next.sqlite``        shard to the second index. A new shard has a generation above those in both
                                        indexes: no old shard is overwritten.
========== ============================ ===============================================================================

A rebuild takes four steps:

1. Create ``index.next.sqlite``, whole or not at all. The state is now *rebuilding*.
2. Build each tile and commit it to ``index.next.sqlite``, one transaction a tile.
3. If no tile with an old shard has failed, rename ``index.next.sqlite`` to ``index.sqlite`` and flush the folder to
   the disk (`replace_with_next`). The state is *ordinary* again, with the new settings.
4. Remove the old shards, which the new index does not name.

A kill, or a failed tile, leaves this:

- Before step 1 is complete: the unchanged archive, and perhaps a temporary file.
- During step 2: both indexes, the old shards, and the new shards so far. The archive serves its old cutouts. The next
  rebuild with the same settings continues: a tile in ``index.next.sqlite`` counts as built. Any other build
  abandons the rebuild: it removes the new shards, then ``index.next.sqlite`` (`abandon_rebuild`).
- Between steps 3 and 4: the new archive, and old shards as leftovers. The next build removes them
  (`clear_leftovers`), except those of pruned tiles: no index accounts for them.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from archive_builder.errors import ArchiveError, one_line
from archive_builder.store.file_names import (
    INDEX_NAME,
    NEXT_INDEX_NAME,
    SHARD_FOLDER,
    is_draft,
    is_regular,
    is_shard_name,
    parse_shard_name,
    shard_name,
)
from archive_builder.store.format import shard_format
from archive_builder.store.index import Index
from archive_builder.store.index_file import remove_index, replace_index
from archive_builder.store.records import Settings, TileRow
from archive_builder.store.shard_reader import shard_identity
from archive_builder.survey.recipe import Recipe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexState:
    """Settings and tiles of an index."""

    settings: Settings | None = None
    """Settings of its shards; None before the first build."""

    tiles: Mapping[str, TileRow] = field(default_factory=dict)
    """Rows of its tiles, by name."""

    is_unfinished: bool = False
    """True if its last build was killed, or is running."""

    def shards(self) -> set[str]:
        """Return the paths of its shards below the archive, without any that a foreign index places elsewhere."""
        tiles = self.tiles.values()
        return {str(tile.shard) for tile in tiles if is_shard_name(tile.shard, tile.name, tile.generation)}

    def tiles_with_shard(self) -> set[str]:
        """Return the names of the tiles that have a shard."""
        return {name for name, tile in self.tiles.items() if tile.shard}


def read_index(archive: Path, name: str = INDEX_NAME) -> IndexState:
    """Return the state of an index; an empty state if the file is missing.

    Raises
    ------
    ArchiveError
        The index cannot be read.
    """
    if not (archive / name).is_file():
        return IndexState()
    with Index(archive, name=name) as index:
        last = index.last_build()
        is_unfinished = last is not None and last.finished is None
        return IndexState(index.settings, index.tiles_by_name(), is_unfinished)


def setting_changes(settings: Settings | None, recipe: Recipe) -> tuple[str, ...]:
    """Return the differences between an index's settings and a recipe, each as text.

    An index without settings has no differences.
    """
    if settings is None:
        return ()
    changes = list(_differences(settings.recipe, recipe.pixel_settings()))
    if settings.format_version != shard_format()["format_version"]:
        changes.append(f"format_version was {settings.format_version}")
    return tuple(changes)


def _differences(old: Mapping[str, object], new: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """Yield the differences between two nested mappings, each as text."""
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key} was {json.dumps(before)}, is {json.dumps(after)}"


def abandon_rebuild(archive: Path) -> None:
    """Remove the second index, if there is one, and before that the shards that only this index knows.

    The shards of a damaged second index stay: nothing else accounts for them.
    """
    path = archive / NEXT_INDEX_NAME
    if path.is_file():
        with suppress(ArchiveError):
            indexes = [read_index(archive), read_index(archive, NEXT_INDEX_NAME)]
            only_there = indexes[1].shards() - indexes[0].shards()
            _remove([archive / name for name in only_there])
            _remove(find_leftovers(archive, indexes).ours)
        remove_index(path)


def replace_with_next(archive: Path, failures: Mapping[str, str]) -> None:
    """Replace the archive's index by the second index, and remove the old shards.

    Parameters
    ----------
    archive : Path
    failures : mapping of str to str
        Tiles that the rebuild could not build, with the reasons.

    Raises
    ------
    ArchiveError
        A tile that has a shard has failed; the archive is unchanged, and the rebuild can continue.
    """
    if lost := sorted(read_index(archive).tiles_with_shard() & failures.keys()):
        raise ArchiveError(
            f"archive {archive}: is unchanged: {len(lost)} of its tiles cannot be built with the new settings "
            f"({lost[0]}: {failures[lost[0]]}): correct them and run build --force again to continue"
        )
    old, new = read_index(archive).shards(), read_index(archive, NEXT_INDEX_NAME).shards()
    replace_index(archive / NEXT_INDEX_NAME, archive / INDEX_NAME)
    # By name: the content of an older format version cannot be checked, and no index has the tiles of --prune now.
    _remove([archive / name for name in old - new])
    clear_leftovers(archive)


def refuse_to_lose(archive: Path, lost: Collection[str]) -> None:
    """Refuse a rebuild that would drop tiles.

    Parameters
    ----------
    archive : Path
    lost : collection of str
        Tiles with a shard that the survey no longer has.

    Raises
    ------
    ArchiveError
        The rebuild would drop a tile.
    """
    if lost:
        raise ArchiveError(
            f"archive {archive}: {len(lost)} of its tiles are gone from the survey ({min(lost)}) and cannot be "
            "built with other settings: put their files back, or remove the tiles with --prune"
        )


@dataclass(frozen=True)
class Leftovers:
    """Files of an archive that no index names."""

    ours: tuple[Path, ...] = ()
    """Temporary files and shards that a build left, of every folder of the archive."""

    others: tuple[Path, ...] = ()
    """All other items in the folder of shards: a build did not make them, or nothing accounts for them."""


def clear_leftovers(archive: Path) -> None:
    """Remove the leftovers of killed builds, and log the number of other unknown files: they stay.

    Raises
    ------
    ArchiveError
        A leftover cannot be removed, or an index cannot be read.
    """
    found = find_leftovers(archive, [read_index(archive, name) for name in (INDEX_NAME, NEXT_INDEX_NAME)])
    _remove(found.ours)
    if found.others:
        log.warning(
            "%s: %d files that no build accounts for stay there (%s): move them elsewhere",
            archive / SHARD_FOLDER,
            len(found.others),
            found.others[0].name,
        )


def find_leftovers(archive: Path, indexes: Sequence[IndexState]) -> Leftovers:
    """Return the files that no index names, and among them those that a build left.

    A file of a build is a regular file with the name of a temporary file, or a shard that names itself as its file name
    does. Such a shard is a leftover if an index accounts for it:

    - The index has a newer shard of its tile: the shard was replaced.
    - The last build of the index was killed, and the shard is of the generation and the settings of that build: the
      shard was placed and not committed.

    A copy of a shard by hand fulfils neither condition.

    Parameters
    ----------
    archive : Path
    indexes : sequence of IndexState
        The archive's index, and the second index of a whole rebuild.
    """
    kept = set[str]().union(*(index.shards() for index in indexes))
    ours = [path for path in sorted(archive.iterdir()) if is_draft(path.name) and is_regular(path)]
    others: list[Path] = []
    for path in sorted((archive / SHARD_FOLDER).iterdir()):
        if f"{SHARD_FOLDER}/{path.name}" not in kept:
            (ours if is_regular(path) and _is_leftover(path, indexes) else others).append(path)
    return Leftovers(tuple(ours), tuple(others))


def _is_leftover(path: Path, indexes: Sequence[IndexState]) -> bool:
    """Return True if a regular file among the shards is a draft, or a shard that an index accounts for."""
    if is_draft(path.name):
        return True
    name = parse_shard_name(path.name)
    claim = shard_identity(path) if name else None
    if name is None or claim is None or claim[:2] != name:
        return False
    tile, generation = name
    known = max((index.tiles[tile].generation for index in indexes if tile in index.tiles), default=0)
    is_replaced = generation < known
    is_next = generation == known + 1
    return is_replaced or (is_next and any(_was_building(index, *claim[2:]) for index in indexes))


def _was_building(index: IndexState, recipe: str, size: int) -> bool:
    """Return True if the last build of an index was killed and had these settings."""
    settings = index.settings
    if not index.is_unfinished or settings is None or settings.size != size:
        return False
    try:
        return bool(json.loads(recipe) == settings.recipe)
    except (ValueError, RecursionError):
        return False


def free_generation(archive: Path, tile: str, generation: int) -> int:
    """Return the first generation of a tile, from the given one on, with an unused file name.

    A file that no build accounts for keeps its name.
    """
    while os.path.lexists(archive / shard_name(tile, generation)):
        generation += 1
    return generation


def _remove(paths: Iterable[Path]) -> None:
    """Remove regular files; links and folders stay.

    Raises
    ------
    ArchiveError
        A file cannot be removed.
    """
    for path in paths:
        try:
            if is_regular(path):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise ArchiveError(f"leftover {path} cannot be removed ({one_line(error)}): remove it by hand") from None
