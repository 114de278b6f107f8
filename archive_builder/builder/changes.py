"""Changes of a survey since the last build: the tiles to build, each with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from archive_builder.errors import RecipeError, TileError
from archive_builder.store.records import InvalidRecordError, TileRow, skip_counts
from archive_builder.survey.discovery import Discovery, TileFiles
from archive_builder.survey.recipe import Recipe


@dataclass(frozen=True)
class Task:
    """A tile to build."""

    files: TileFiles
    """Source files of the tile."""

    reason: str
    """Reason for building the tile."""


@dataclass(frozen=True)
class Changes:
    """Tiles to build, and all other tiles."""

    tasks: tuple[Task, ...]
    """Tiles to build, by name."""

    unchanged: tuple[str, ...] = ()
    """Tiles with an up-to-date shard."""

    touched: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """New fingerprints of unchanged tiles, for the index: of the files, and of their contents."""

    incomplete: Mapping[str, str] = field(default_factory=dict)
    """Tiles that cannot be built: name to reason."""

    gone: tuple[str, ...] = ()
    """Tiles of the archive that the survey no longer has."""

    empty: tuple[str, ...] = ()
    """Tiles on which no row of the catalogue of all tiles lies: they are not built."""

    left_out: Mapping[str, int] = field(default_factory=dict)
    """Rows of the catalogue of all tiles that go to no tile, by reason."""

    def summary(self) -> str:
        """Return the number of tiles of each kind, as one line."""
        reasons = Counter(task.reason for task in self.tasks)
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        parts = [f"{len(self.tasks)} tiles to build" + (f" ({why})" if why else ""), f"{len(self.unchanged)} unchanged"]
        if self.incomplete:
            parts.append(f"{len(self.incomplete)} that cannot be built")
        if self.gone:
            parts.append(f"{len(self.gone)} gone from the survey")
        if self.empty:
            parts.append(f"{len(self.empty)} without objects")
        return ", ".join(parts)

    def rows_left_out(self) -> str:
        """Return the number of catalogue rows on no tile, as one line; empty if there are none."""
        counts = ", ".join(f"{number} {reason}" for reason, number in self.left_out.items() if number)
        return f"catalogue rows left out: {counts}" if counts else ""


def tile_names(found: Discovery) -> set[str]:
    """Return the names of all tiles of a survey, complete or not."""
    return {files.tile for files in found.tiles} | set(found.incomplete)


def find_changes(
    found: Discovery,
    known: Mapping[str, TileRow],
    recipe: Recipe,
    archive: Path,
    *,
    tiles: Collection[str] = (),
    force: bool = False,
    contents: bool = False,
) -> Changes:
    """Compare the survey with the archive.

    Parameters
    ----------
    found : Discovery
        Tiles of the survey.
    known : mapping of str to TileRow
        Row of each tile in the index.
    recipe : Recipe
    archive : Path
    tiles : collection of str
        Consider only these tiles; all if empty.
    force : bool
        Build unchanged tiles too.
    contents : bool
        Compare the contents of the files too, not only their paths, sizes and times.

    Raises
    ------
    RecipeError
        The survey lacks one of ``tiles``.
    """
    there = tile_names(found)
    if unknown := sorted(set(tiles) - there):
        raise RecipeError(
            f"the survey has no tile {', '.join(unknown)}: its {len(there)} tiles begin with {min(there)}"
        )
    tasks, unchanged = [], []
    touched: dict[str, tuple[str, str]] = {}
    incomplete = {name: error for name, error in found.incomplete.items() if not tiles or name in tiles}
    for files in found.tiles:
        if tiles and files.tile not in tiles:
            continue
        try:
            old = known.get(files.tile)
            reason = "forced" if force and old else reason_to_build(old, files, recipe, archive, contents)
            if reason is None and contents and old:
                touched |= _new_fingerprints(old, files)
        except TileError as error:
            incomplete[files.tile] = str(error)
            continue
        if reason is None:
            unchanged.append(files.tile)
        else:
            tasks.append(Task(files, reason))
    gone = () if tiles else tuple(sorted(known.keys() - there))
    return Changes(tuple(tasks), tuple(unchanged), touched, incomplete, gone)


def reason_to_build(old: TileRow | None, files: TileFiles, recipe: Recipe, archive: Path, contents: bool) -> str | None:
    """Return the reason for building a tile; None if a new build would make the same shard again.

    Raises
    ------
    TileError
        A file of the tile is missing.
    """
    if old is None:
        return "new"
    if old.shard is None or old.state != "built":
        return "failed before"
    if not (archive / old.shard).is_file():
        return "without their shard"
    if old.recipe_fingerprint != recipe.fingerprint():
        return "by other settings"
    if recipe.catalog.duplicates == "fail" and _has_repeats(old):
        return "with repeated objects"
    if contents and old.input_hash:
        return None if old.input_hash == files.content_hash() else "with changed contents"
    return None if old.input_fingerprint == files.fingerprint() else "with changed files"


def _has_repeats(tile: TileRow) -> bool:
    """Return True if a tile's catalogue lists IDs that other rows own; False if the row of the index is damaged."""
    with suppress(InvalidRecordError):
        return skip_counts(tile)["elsewhere"] > 0
    return False


def _new_fingerprints(old: TileRow, files: TileFiles) -> dict[str, tuple[str, str]]:
    """Return the fingerprints of an unchanged tile by its name; empty if the index has the same."""
    fresh = files.fingerprint(), old.input_hash or files.content_hash()
    return {} if fresh == (old.input_fingerprint, old.input_hash) else {files.tile: fresh}
