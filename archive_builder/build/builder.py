"""What is to be built, built, and committed: from a recipe to an archive."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archive_builder import geometry
from archive_builder.build.tile_job import TileJob, TileResult, peak_memory, run_job
from archive_builder.errors import ArchiveBuilderError, ArchiveError, RecipeError, TileError, one_line
from archive_builder.store.format import shard_format
from archive_builder.store.index import SHARD_FOLDER, Index, shard_name
from archive_builder.store.shard import Shard
from archive_builder.survey.discovery import Discovery, TileFiles, discover
from archive_builder.survey.recipe import Recipe, load_recipe
from archive_builder.survey.tile import Tile
from archive_builder.workers import run_jobs


@dataclass(frozen=True)
class BuildEvent:
    """News of a build: a tile is done, or has failed."""

    tile: str
    """Its name."""

    stored: int
    """Objects it added to the archive."""

    skipped: int
    """Objects it left out."""

    error: str | None
    """Why it failed, if it did."""


@dataclass
class BuildReport:
    """What a build came to."""

    built: int = 0
    """Tiles built."""

    unchanged: int = 0
    """Tiles that needed nothing."""

    stored: int = 0
    """Objects of the tiles built that have a cutout."""

    skipped: dict[str, int] = field(default_factory=dict)
    """Objects of the tiles built that have none, by reason."""

    bytes: int = 0
    """Of the shards built."""

    peak_memory: int = 0
    """Bytes, of the largest process."""

    failures: dict[str, str] = field(default_factory=dict)
    """Tiles that failed, and why."""


def build(
    recipe_path: Path,
    archive: Path,
    *,
    tiles: Collection[str] = (),
    workers: int = 1,
    force: bool = False,
    on_start: Callable[[int], None] = lambda left: None,
    on_tile: Callable[[BuildEvent], None] = lambda event: None,
) -> BuildReport:
    """Build an archive, or what is missing of it.

    It starts processes: a script must call it under ``if __name__ == "__main__"``.

    Parameters
    ----------
    recipe_path : Path
    archive : Path
        The archive's folder; made if it is not there.
    tiles : collection of str
        Only these tiles; all if empty.
    workers : int
        Processes.
    force : bool
        Build also what is unchanged.
    on_start : callable
        Told how many tiles are to be built.
    on_tile : callable
        Told of every tile that is done or has failed.

    Raises
    ------
    RecipeError, ArchiveError
        Nothing could be begun. A tile that fails raises nothing: it is in the report.
    """
    recipe = load_recipe(recipe_path)
    found = _chosen(discover(recipe), tiles)
    _make_folders(archive)
    with Index(archive, writable=True) as index:
        size = _settle_settings(index, recipe, found)
        report = BuildReport()
        known = {tile["name"]: tile for tile in index.tiles()}
        jobs = list(_jobs(found, recipe, archive, size, known, force, report))
        on_start(len(jobs) + len(found.incomplete))
        for name, error in found.incomplete.items():
            _fail(index, report, name, error, on_tile)
        for result in run_jobs(run_job, jobs, min(workers, len(jobs)), _lost):
            _take(index, archive, result, known, recipe, report, on_tile)
    return report


def _lost(job: TileJob, cause: str) -> TileResult:
    """Return the result of a tile whose worker died."""
    return TileResult(job.files.tile, error=cause)


def _chosen(found: Discovery, tiles: Collection[str]) -> Discovery:
    """Return the tiles asked for."""
    if not tiles:
        return found
    there = {files.tile for files in found.tiles} | set(found.incomplete)
    if unknown := sorted(set(tiles) - there):
        raise RecipeError(
            f"the survey has no tile {', '.join(unknown)}: its {len(there)} tiles begin with {min(there)}"
        )
    chosen = tuple(files for files in found.tiles if files.tile in tiles)
    return Discovery(chosen, {name: error for name, error in found.incomplete.items() if name in tiles})


def _make_folders(archive: Path) -> None:
    try:
        (archive / SHARD_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArchiveError(f"archive {archive}: its folder cannot be made: {one_line(error)}") from None


def _settle_settings(index: Index, recipe: Recipe, found: Discovery) -> int:
    """Record what all shards share, or compare with it; return the cutouts' size in pixels."""
    settings, wanted = index.settings, recipe.pixel_settings()
    if settings:
        if changes := list(_differences(settings["recipe"], wanted)):
            raise RecipeError(
                f"the archive {index.path.parent} was built with other settings: {'; '.join(changes)}: "
                "build into a new folder, or restore the recipe"
            )
        return int(settings["size"])
    size = _size_in_pixels(recipe, found.tiles)
    spec = shard_format()
    index.set_settings(
        {
            "format_version": spec["format_version"],
            "recipe": wanted,
            "size": size,
            "bands": recipe.survey.bands,
        }
    )
    return size


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Spell out where two nested mappings differ."""
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key} was {json.dumps(before)}, is {json.dumps(after)}"


def _size_in_pixels(recipe: Recipe, tiles: tuple[TileFiles, ...]) -> int:
    """Return the cutouts' size, by the pixel scale of the first tile that can be read."""
    if isinstance(recipe.cutout.size, int):
        return recipe.cutout.size
    for files in tiles:
        try:
            with Tile(files.images, recipe.survey.image_hdu) as tile:
                return geometry.parse_shape(recipe.cutout.size, geometry.pixel_scale(tile.wcs))[0]
        except TileError:
            continue  # it is named when its turn comes
    return geometry.parse_shape(recipe.cutout.size, 1.0)[0]


def _jobs(
    found: Discovery,
    recipe: Recipe,
    archive: Path,
    size: int,
    known: Mapping[str, Mapping[str, Any]],
    force: bool,
    report: BuildReport,
) -> Iterator[TileJob]:
    """Yield a job for every tile that is new, changed, failed or forced."""
    fingerprint = recipe.fingerprint()
    for files in found.tiles:
        old = known.get(files.tile)
        if old is not None and not force and _is_up_to_date(old, files, fingerprint, archive):
            report.unchanged += 1
            continue
        generation = (old["generation"] if old else 0) + 1
        yield TileJob(files, recipe, size, archive / shard_name(files.tile, generation), generation)


def _is_up_to_date(old: Mapping[str, Any], files: TileFiles, fingerprint: str, archive: Path) -> bool:
    """Tell whether a tile's shard is what a new build would make again."""
    return bool(
        old["state"] == "built"
        and old["recipe_fingerprint"] == fingerprint
        and old["input_fingerprint"] == files.fingerprint()
        and (archive / old["shard"]).is_file()
    )


def _take(
    index: Index,
    archive: Path,
    result: TileResult,
    known: Mapping[str, Mapping[str, Any]],
    recipe: Recipe,
    report: BuildReport,
    on_tile: Callable[[BuildEvent], None],
) -> None:
    """Commit a tile's new shard, or record its failure."""
    error = result.error
    if error is None:
        try:
            _commit(index, archive, result, known.get(result.tile), recipe)
        except ArchiveBuilderError as failure:
            error = str(failure)
    if error is not None:
        _fail(index, report, result.tile, error, on_tile)
        return
    skipped = result.skipped or {}
    report.built += 1
    report.stored += result.stored
    report.bytes += result.bytes
    report.peak_memory = max(report.peak_memory, result.peak_memory, peak_memory())
    report.skipped = {reason: report.skipped.get(reason, 0) + n for reason, n in skipped.items()}
    on_tile(BuildEvent(result.tile, result.stored, sum(skipped.values()), None))


def _commit(index: Index, archive: Path, result: TileResult, old: Mapping[str, Any] | None, recipe: Recipe) -> None:
    """Switch a tile's rows to its new shard, then remove the old one."""
    generation = (old["generation"] if old else 0) + 1
    name = shard_name(result.tile, generation)
    old_shard = archive / old["shard"] if old and old["shard"] else None
    row = {
        "name": result.tile,
        "state": "built",
        "error": None,
        "shard": name,
        "generation": generation,
        "stored": result.stored,
        "skipped": sum((result.skipped or {}).values()),
        "input_fingerprint": result.input_fingerprint,
        "recipe_fingerprint": recipe.fingerprint(),
        "footprint": json.dumps(result.footprint),
        "bytes": result.bytes,
        "checksum": result.checksum,
        "seconds": round(result.seconds, 3),
        "peak_memory": result.peak_memory,
        "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        with Shard(archive / name) as shard:
            stored, skipped, reason = shard.objects.object_id, shard.skipped.object_id, shard.reason
        index.commit_tile(row, stored, skipped, reason, _objects_of(old_shard))
    except ArchiveBuilderError:
        (archive / name).unlink(missing_ok=True)
        raise
    if old_shard is not None:
        old_shard.unlink(missing_ok=True)


def _objects_of(shard_path: Path | None) -> NDArray[np.int64] | None:
    """Return all objects of a shard that is to be replaced; None if they cannot be told."""
    if shard_path is None:
        return np.empty(0, dtype=np.int64)
    try:
        with Shard(shard_path) as shard:
            return np.concatenate([shard.objects.object_id, shard.skipped.object_id])
    except ArchiveError:
        return None


def _fail(index: Index, report: BuildReport, tile: str, error: str, on_tile: Callable[[BuildEvent], None]) -> None:
    """Record that a tile failed."""
    index.record_failure(tile, error)
    report.failures[tile] = error
    on_tile(BuildEvent(tile, 0, 0, error))
