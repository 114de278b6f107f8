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
4. Remove the old shards, which no index knows any more (`clear_leftovers`).

A kill, or a failed tile, leaves this:

- Before step 1 is complete: the unchanged archive, and perhaps a temporary file.
- During step 2: both indexes, the old shards, and the new shards so far. The archive serves its old cutouts. The next
  rebuild with the same settings continues: a tile in ``index.next.sqlite`` counts as built. Any other build
  abandons the rebuild: it removes ``index.next.sqlite`` (`abandon_rebuild`), and the new shards are leftovers.
- Between steps 3 and 4: the new archive, and old shards as leftovers. The next build removes them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from archive_builder.atomic import TEMPORARY
from archive_builder.errors import ArchiveError, one_line
from archive_builder.store.file_names import INDEX_NAME, SHARD_FOLDER
from archive_builder.store.format import shard_format
from archive_builder.store.index import Index
from archive_builder.store.index_file import remove_index, replace_index
from archive_builder.store.records import Settings, TileRow
from archive_builder.survey.recipe import Recipe

NEXT_INDEX_NAME = "index.next.sqlite"
"""File name of the second index, in the archive's folder."""


@dataclass(frozen=True)
class IndexState:
    """Settings and tiles of an index."""

    settings: Settings | None = None
    """Settings of its shards; None before the first build."""

    tiles: Mapping[str, TileRow] = field(default_factory=dict)
    """Rows of its tiles, by name."""

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
        return IndexState(index.settings, index.tiles_by_name())


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
    """Remove the second index, if there is one: the shards that only this index knows become leftovers."""
    path = archive / NEXT_INDEX_NAME
    if path.is_file():
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
    replace_index(archive / NEXT_INDEX_NAME, archive / INDEX_NAME)
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


def clear_leftovers(archive: Path) -> None:
    """Remove the leftovers of killed builds: temporary files, and shards that neither index knows.

    Raises
    ------
    ArchiveError
        A leftover cannot be removed, or an index cannot be read.
    """
    indexes = [read_index(archive, name) for name in (INDEX_NAME, NEXT_INDEX_NAME)]
    kept = {tile.shard for index in indexes for tile in index.tiles.values()}
    for path in [*archive.iterdir(), *(archive / SHARD_FOLDER).iterdir()]:
        is_shard = path.suffix == ".h5" and path.parent.name == SHARD_FOLDER
        is_ours = is_shard or TEMPORARY.fullmatch(path.name)
        if is_ours and f"{SHARD_FOLDER}/{path.name}" not in kept:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise ArchiveError(
                    f"leftover {path} cannot be removed ({one_line(error)}): remove it by hand"
                ) from None
