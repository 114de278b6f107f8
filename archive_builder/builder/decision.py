"""The decision of a build: which index takes the tiles, and which tiles to build."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from archive_builder.builder.changes import Changes, find_changes, reason_to_build, tile_names
from archive_builder.builder.listing import Rows
from archive_builder.builder.owners import Contest, find_owners, list_with, share_out_rows
from archive_builder.builder.rebuild import IndexState, read_index, setting_changes
from archive_builder.builder.shared_catalog import split_catalog
from archive_builder.errors import ArchiveError, RecipeError, TileError
from archive_builder.object_ids import IdKind, ObjectIds
from archive_builder.run.engine import Engine
from archive_builder.store.file_names import INDEX_NAME, NEXT_INDEX_NAME, shard_files
from archive_builder.store.index import Index
from archive_builder.store.records import TileRow
from archive_builder.survey.discovery import Discovery, TileFiles
from archive_builder.survey.recipe import Recipe


@dataclass(frozen=True)
class Decision:
    """Work of a build, decided from the survey and the archive."""

    changes: Changes
    """Tiles to build, unchanged tiles, and tiles gone from the survey."""

    known: Mapping[str, TileRow]
    """Rows of the tiles in the index that takes the new shards, by name."""

    archived: Mapping[str, TileRow]
    """Rows of the tiles in the archive's index, by name: the same, except in a whole rebuild."""

    is_rebuild: bool = False
    """True for a whole rebuild; see `archive_builder.builder.rebuild`."""

    is_continued: bool = False
    """True if the second index of an earlier rebuild fits, or there is none; otherwise the build removes that index."""

    elsewhere: Mapping[str, ObjectIds] = field(default_factory=dict)
    """Object IDs that each tile to build lists and another tile owns, by tile; see `archive_builder.builder.owners`."""

    listings: Mapping[str, str] = field(default_factory=dict)
    """Hash of the objects by which the owners of the IDs were decided, by tile."""

    rows: Mapping[str, Rows] = field(default_factory=dict)
    """Rows of each tile, if one catalogue serves all tiles."""

    lost: tuple[str, ...] = ()
    """Tiles that a whole rebuild would drop: they have a shard, and the survey no longer has them."""

    @property
    def index_name(self) -> str:
        """File name of the index that takes the new shards."""
        return NEXT_INDEX_NAME if self.is_rebuild else INDEX_NAME

    def next_generation(self, tile: str) -> int:
        """Return the generation of a tile's new shard: above those in both indexes."""
        rows = [tiles[tile] for tiles in (self.known, self.archived) if tile in tiles]
        return max((row.generation for row in rows), default=0) + 1


def decide(
    archive: Path,
    recipe: Recipe,
    found: Discovery,
    *,
    tiles: Collection[str] = (),
    force: bool = False,
    contents: bool = False,
) -> Decision:
    """Decide what a build does; nothing is written.

    Parameters
    ----------
    archive : Path
    recipe : Recipe
    found : Discovery
        The survey's tiles.
    tiles, force, contents
        See :func:`archive_builder.builder.driver.build`.

    Raises
    ------
    RecipeError
        The settings differ from the archive's and the build is no whole rebuild, or the survey lacks one of ``tiles``.
    ArchiveError
        The index is missing or cannot be read.
    """
    _refuse_missing_index(archive)
    current = read_index(archive)
    if not _is_rebuild(archive, current, recipe, whole=force and not tiles):
        changes = find_changes(found, current.tiles, recipe, archive, tiles=tiles, force=force, contents=contents)
        return Decision(changes, current.tiles, current.tiles)
    earlier = read_index(archive, NEXT_INDEX_NAME)
    is_continued = not setting_changes(earlier.settings, recipe)
    known = earlier.tiles if is_continued else {}
    # Without force: a continued rebuild skips the tiles that it has already built.
    changes = find_changes(found, known, recipe, archive, contents=contents)
    lost = tuple(sorted(current.tiles_with_shard() - tile_names(found)))
    changes = replace(changes, gone=tuple(sorted({*changes.gone, *lost})))
    return Decision(changes, known, current.tiles, is_rebuild=True, is_continued=is_continued, lost=lost)


def settle_owners(
    decision: Decision,
    index: Index | None,
    archive: Path,
    recipe: Recipe,
    found: Discovery,
    engine: Engine,
    *,
    retries: int = 0,
    tiles: Collection[str] = (),
    contents: bool = False,
    prune: bool = False,
    folder: Path | None = None,
    rows: Path | None = None,
    id_kind: IdKind = "integer",
) -> Decision:
    """Add the owners of IDs that several rows list to a decision, and the tiles that gain or lose an ID.

    Parameters
    ----------
    decision : Decision
    index : Index or None
        Index that takes the new shards; None if it does not exist yet.
    archive, recipe, found, tiles, contents
        See :func:`decide`.
    engine : Engine
        Engine that reads the catalogues.
    retries : int
        Retries after a worker dies.
    prune : bool
        True if the build removes the tiles that the survey no longer has.
    folder : Path, optional
        Folder of a temporary file (default: the system's).
    rows : Path, optional
        File for the rows of a catalogue of all tiles, sorted by tile; the caller removes it.
    id_kind : str
        Kind of the archive's object IDs.

    Raises
    ------
    RecipeError
        The catalogue of all tiles cannot be used.
    """
    unchanged = set(decision.changes.unchanged)

    def is_unchanged(files: TileFiles) -> bool:
        if not tiles:
            return files.tile in unchanged
        with suppress(TileError):
            old = decision.known.get(files.tile)
            return reason_to_build(old, files, recipe, archive, contents) is None
        return False

    contest = Contest(
        files={files.tile: files for files in found.tiles},
        known=decision.known,
        index=index,
        list_all=list_with(engine, recipe, retries, id_kind),
        is_unchanged=is_unchanged,
        removed=[name for name in decision.changes.gone if name in decision.known] if prune else (),
        whole=not tiles,
        folder=folder,
    )
    if recipe.catalog.is_shared:
        assert rows is not None
        split = split_catalog(found.tiles, recipe, engine, retries, rows, id_kind)
        owners = share_out_rows(decision.changes, contest, split)
        return replace(
            decision,
            changes=owners.changes,
            elsewhere=owners.elsewhere,
            rows=split.rows,
        )
    if recipe.catalog.duplicates == "fail":
        return decision
    owners = find_owners(decision.changes, contest)
    return replace(decision, changes=owners.changes, elsewhere=owners.elsewhere, listings=owners.listings)


def _refuse_missing_index(archive: Path) -> None:
    """Refuse an archive without its index: the build would make all its shards a second time."""
    if not (archive / INDEX_NAME).exists() and any(shard_files(archive)):
        raise ArchiveError(
            f"archive {archive}: has shards but the index is missing: run archive-builder reindex {archive}"
        )


def _is_rebuild(archive: Path, current: IndexState, recipe: Recipe, whole: bool) -> bool:
    """Return True if the settings differ from the archive's.

    Raises
    ------
    RecipeError
        They differ, and the build does not cover the whole archive: its shards would have different settings.
    """
    changes = setting_changes(current.settings, recipe)
    if changes and not whole:
        raise RecipeError(
            f"the archive {archive} was built with other settings: {'; '.join(changes)}: restore the recipe, "
            "build into a new folder, or rebuild the whole archive with --force"
        )
    return bool(changes)
