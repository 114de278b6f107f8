"""What a build has to do, and why: the survey as it is against the archive as it was left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from archive_builder.errors import RecipeError, TileError
from archive_builder.store.records import TileRow
from archive_builder.survey.discovery import Discovery, TileFiles
from archive_builder.survey.recipe import Recipe


@dataclass(frozen=True)
class Task:
    """A tile that is to be built."""

    files: TileFiles
    """What it is made from."""

    reason: str
    """Why it is to be built."""


@dataclass(frozen=True)
class Changes:
    """What is to be done."""

    tasks: tuple[Task, ...]
    """Tiles to build, by name."""

    unchanged: tuple[str, ...] = ()
    """Tiles that need nothing."""

    touched: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Unchanged tiles of which the index shall know new fingerprints: of the files, and of their contents."""

    incomplete: Mapping[str, str] = field(default_factory=dict)
    """Tiles that cannot be built: name to what is wrong."""

    gone: tuple[str, ...] = ()
    """Tiles of the archive that the survey has no longer."""

    def summary(self) -> str:
        """Return one line that says what is to be done and why."""
        reasons = Counter(task.reason for task in self.tasks)
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        parts = [f"{len(self.tasks)} tiles to build" + (f" ({why})" if why else ""), f"{len(self.unchanged)} unchanged"]
        if self.incomplete:
            parts.append(f"{len(self.incomplete)} that cannot be built")
        if self.gone:
            parts.append(f"{len(self.gone)} gone from the survey")
        return ", ".join(parts)


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
        The survey's tiles.
    known : mapping of str to mapping
        The index's row of each tile.
    recipe : Recipe
    archive : Path
    tiles : collection of str
        Only these; all if empty.
    force : bool
        Build also what is unchanged.
    contents : bool
        Compare the files' contents too, not only their paths, sizes and times.

    Raises
    ------
    RecipeError
        The survey has not got one of ``tiles``.
    """
    there = {files.tile for files in found.tiles} | set(found.incomplete)
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
            reason = "forced" if force and old else _reason(old, files, recipe, archive, contents)
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


def _reason(old: TileRow | None, files: TileFiles, recipe: Recipe, archive: Path, contents: bool) -> str | None:
    """Say why a tile is to be built; None if its shard is what a new build would make again."""
    if old is None or old.shard is None:
        return "new" if old is None else "failed before"
    if old.state != "built":
        return "failed before"
    if not (archive / old.shard).is_file():
        return "without their shard"
    if old.recipe_fingerprint != recipe.fingerprint():
        return "by other settings"
    same_files = old.input_fingerprint == files.fingerprint()
    if contents and old.input_hash:
        return None if old.input_hash == files.content_hash() else "with changed contents"
    return None if same_files else "with changed files"


def _new_fingerprints(old: TileRow, files: TileFiles) -> dict[str, tuple[str, str]]:
    """Return the fingerprints of an unchanged tile by its name, if the index does not have them."""
    fresh = files.fingerprint(), old.input_hash or files.content_hash()
    return {} if fresh == (old.input_fingerprint, old.input_hash) else {files.tile: fresh}
