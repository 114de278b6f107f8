"""Building an archive: what is new or changed is built and committed, what was good stays good."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from archive_builder import geometry
from archive_builder.atomic import TEMPORARY
from archive_builder.builder.changes import Changes, find_changes
from archive_builder.builder.commit import Committer, Outcome, objects_of_shard
from archive_builder.builder.lock import BuildLock
from archive_builder.builder.memory import Load, share_out
from archive_builder.builder.one_tile import TileJob, TileResult, peak_memory, run_job
from archive_builder.errors import ArchiveError, RecipeError, RequestError, TileError, one_line
from archive_builder.run import machine
from archive_builder.run.engines import Engine, LocalEngine, Lost, run_with_retries
from archive_builder.run.pool import end_if_starting
from archive_builder.store.format import shard_format
from archive_builder.store.index import INDEX_NAME, SHARD_FOLDER, Index
from archive_builder.store.index_file import replace_index
from archive_builder.store.records import Settings, TileRow
from archive_builder.survey.discovery import Discovery, TileFiles, discover
from archive_builder.survey.recipe import Recipe, load_recipe
from archive_builder.survey.tile import Tile

log = logging.getLogger(__name__)

NEXT_INDEX_NAME = "index.next.sqlite"
"""The index of a whole rebuild with other settings, until it takes the place of the archive's."""


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

    seconds: float = 0.0
    """Wall time in the worker, s."""


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

    gone: tuple[str, ...] = ()
    """Tiles of the archive that the survey has no longer."""

    pruned: bool = False
    """Whether those were removed."""

    retried: int = 0
    """How often a tile was begun again because its worker died."""


@dataclass(frozen=True)
class Options:
    """What may be asked of a build."""

    tiles: tuple[str, ...] = ()
    """Only these tiles; all if empty."""

    workers: int | None = 1
    """Processes of this machine, if they fit into the memory; None for as many as it has processors."""

    memory: int | None = None
    """Bytes that all processes on this machine may take together; None for what is free."""

    retries: int = 1
    """How often a tile is begun again whose worker died."""

    force: bool = False
    """Build also what is unchanged. For all tiles, this is a whole rebuild, and the settings may be others."""

    contents: bool = False
    """Compare what is in the survey's files, not only their paths, sizes and times."""

    prune: bool = False
    """Remove tiles that the survey has no longer."""


def build(
    recipe_path: Path,
    archive: Path,
    *,
    tiles: Collection[str] = (),
    workers: int | None = 1,
    memory: int | None = None,
    engine: Engine | None = None,
    retries: int = 1,
    force: bool = False,
    contents: bool = False,
    prune: bool = False,
    on_plan: Callable[[Changes], None] = lambda changes: None,
    on_load: Callable[[Load], None] = lambda load: None,
    on_tile: Callable[[BuildEvent], None] = lambda event: None,
) -> BuildReport:
    """Build an archive, or what is missing of it.

    It starts processes: a script must call it under ``if __name__ == "__main__"``.

    Parameters
    ----------
    recipe_path : Path
    archive : Path
        The archive's folder; made if it is not there.
    engine : Engine, optional
        Where else tiles are built; see :func:`archive_builder.run.engines.choose_engine`. It has its own idea of how
        many workers there are, and of their memory.
    tiles, workers, memory, retries, force, contents, prune
        See `Options`.
    on_plan : callable
        Told what is to be done, before it is begun.
    on_load : callable
        Told how many workers of this machine will do it, and of their memory.
    on_tile : callable
        Told of every tile that is done or has failed.

    Raises
    ------
    RecipeError, ArchiveError
        Nothing could be begun. A tile that fails raises nothing: it is in the report.
    RequestError
        The engine cannot run jobs, or not one worker fits into the memory, or a memory is given to another engine; or
        it is not called under that ``if``.
    EngineError
        The engine failed on the way. What was built until then is in the archive.
    """
    end_if_starting()
    options = Options(tuple(tiles), workers, memory, retries, force, contents, prune)
    if engine is not None and memory is not None:
        raise RequestError(
            "--memory is for workers of this machine: elsewhere the batch job's own request says how much there is, "
            "and Parsl's configuration or mpiexec how many workers share it"
        )
    with engine or nullcontext() as where:
        recipe = load_recipe(recipe_path)
        found = discover(recipe)
        _make_folders(archive)
        with BuildLock(archive):
            _check_index_is_there(archive)
            rebuild = _settings_differ(recipe, archive, options)
            gone = _gone_tiles(archive, found) if rebuild else ()
            if gone and not prune:
                raise ArchiveError(
                    f"archive {archive}: {len(gone)} of its tiles are gone from the survey ({gone[0]}) and cannot be "
                    "built with other settings: put them back, or let them go with --prune"
                )
            name = NEXT_INDEX_NAME if rebuild else INDEX_NAME
            _begin_index(archive, recipe, rebuild)
            clear_leftovers(archive)
            with Index(archive, writable=True, name=name) as index:
                run = _Build(index, archive, recipe, options, where, on_load, on_tile)
                report = run.run(found, on_plan, rebuild)
            if rebuild:
                report.gone = gone
                _switch_index(archive, report)
            return report


def plan_changes(
    recipe_path: Path, archive: Path, *, tiles: Collection[str] = (), force: bool = False, contents: bool = False
) -> Changes:
    """Tell what :func:`build` would do; nothing is touched.

    Raises
    ------
    RecipeError, ArchiveError
        As :func:`build`.
    """
    recipe = load_recipe(recipe_path)
    found = discover(recipe)
    _check_index_is_there(archive)
    rebuild = _settings_differ(recipe, archive, Options(tuple(tiles), force=force))
    name = NEXT_INDEX_NAME if rebuild else INDEX_NAME
    known: dict[str, TileRow] = {}
    if (archive / name).is_file() and not (rebuild and _is_given_up(archive, recipe)):
        with Index(archive, name=name) as index:
            known = index.tiles_by_name()
    force = force and not rebuild
    changes = find_changes(found, known, recipe, archive, tiles=tiles, force=force, contents=contents)
    return replace(changes, gone=_gone_tiles(archive, found)) if rebuild else changes


def clear_leftovers(archive: Path) -> None:
    """Remove what builds that died have left: temporary files, and shards that no index knows."""
    kept = set()
    for name in (INDEX_NAME, NEXT_INDEX_NAME):
        if (archive / name).is_file():
            with Index(archive, name=name) as index:
                kept |= {tile.shard for tile in index.tiles()}
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


class _Build:
    """One run of a build."""

    def __init__(
        self,
        index: Index,
        archive: Path,
        recipe: Recipe,
        options: Options,
        engine: Engine | None,
        on_load: Callable[[Load], None],
        on_tile: Callable[[BuildEvent], None],
    ) -> None:
        self._index, self._archive, self._recipe, self._options = index, archive, recipe, options
        self._engine, self._on_load, self._on_tile = engine, on_load, on_tile
        self._report = BuildReport()
        self._build_id = 0

    def run(self, found: Discovery, on_plan: Callable[[Changes], None], rebuild: bool) -> BuildReport:
        """Build what has to be built."""
        known = self._index.tiles_by_name()
        # A whole rebuild goes on where the last one stopped: its own index knows what is built already.
        force = self._options.force and not rebuild
        tiles, contents = self._options.tiles, self._options.contents
        changes = find_changes(found, known, self._recipe, self._archive, tiles=tiles, force=force, contents=contents)
        size = self._size(found)
        load = self._load(changes, size)
        on_plan(changes)
        if load is not None:
            self._on_load(load)
        self._report.unchanged, self._report.gone = len(changes.unchanged), changes.gone
        self._index.record_fingerprints(changes.touched)
        if changes.tasks or changes.incomplete:
            self._build_all(changes, known, size, load)
        if self._options.prune:
            self._prune(changes.gone, known)
        return self._report

    def _load(self, changes: Changes, size: int) -> Load | None:
        """Return what this machine will bear; None if it has nothing to do."""
        if self._engine is not None or not changes.tasks:
            return None
        files = [task.files for task in changes.tasks]
        budget = self._options.memory or machine.available_memory()
        return share_out(files, self._recipe, size, budget, machine.available_cpus(), self._options.workers)

    def _build_all(self, changes: Changes, known: Mapping[str, TileRow], size: int, load: Load | None) -> None:
        """Build what has to be built; the index knows how much that is."""
        planned = len(changes.tasks) + len(changes.incomplete)
        self._build_id = self._index.begin_build(planned)
        for name, error in changes.incomplete.items():
            self._note(TileResult(name, error=error), error)
        self._run_jobs(changes, known, size, load)
        self._index.end_build(self._build_id)

    def _run_jobs(self, changes: Changes, known: Mapping[str, TileRow], size: int, load: Load | None) -> None:
        """Have the tiles built, and commit them as they come."""
        engine = self._engine or LocalEngine(load.workers if load else 0)
        names = [task.files.tile for task in changes.tasks]
        first = _first_generations(self._archive, names)
        archive = self._archive.absolute()  # a worker may stand in another folder
        jobs = [
            TileJob(
                task.files,
                self._recipe,
                size,
                archive,
                first[task.files.tile],
                contents=self._options.contents,
                memory=load.memory if load else None,
            )
            for task in changes.tasks
        ]
        committer = Committer(self._index, self._archive, known, names, self._build_id)
        for outcome in run_with_retries(engine, run_job, jobs, self._options.retries, self._note_retry):
            self._note_all(committer.take(_result(outcome)))
        self._note_all(committer.finish())

    def _note_retry(self, lost: Lost[TileJob]) -> None:
        log.info("%s is retried: %s", lost.job, lost.cause)
        self._report.retried += 1

    def _note_all(self, outcomes: Iterator[Outcome]) -> None:
        for result, error in outcomes:
            self._note(result, error)

    def _note(self, result: TileResult, error: str | None) -> None:
        """Put a tile into the report, and its failure into the index."""
        report, skipped = self._report, result.skipped or {}
        if error is not None:
            self._index.record_failure(result.tile, error, self._build_id)
            report.failures[result.tile] = error
            self._on_tile(BuildEvent(result.tile, 0, 0, error))
            return
        report.built += 1
        report.stored += result.stored
        report.bytes += result.bytes
        report.peak_memory = max(report.peak_memory, result.peak_memory, peak_memory())
        report.skipped = {reason: report.skipped.get(reason, 0) + n for reason, n in skipped.items()}
        self._on_tile(BuildEvent(result.tile, result.stored, sum(skipped.values()), None, result.seconds))

    def _prune(self, gone: tuple[str, ...], known: Mapping[str, TileRow]) -> None:
        """Remove tiles from the archive, the index first."""
        for name in gone:
            tile = known[name]
            path = self._archive / tile.shard if tile.shard else None
            self._index.remove_tile(tile.tile_id, objects_of_shard(path))
            if path is not None:
                with suppress(OSError):  # the next build removes what cannot be removed now
                    path.unlink()
        self._report.pruned = True

    def _size(self, found: Discovery) -> int:
        """Return the cutouts' size in pixels: the archive's own, or for a new one by the first tile's pixel scale."""
        settings = self._index.settings
        if settings:
            return settings.size
        recipe = self._recipe
        size = size_in_pixels(recipe, found.tiles)
        self._index.set_settings(Settings.of(recipe.pixel_settings(), size))
        return size


def _result(outcome: TileResult | Lost[TileJob]) -> TileResult:
    """Return the result of a tile, be it that its worker died."""
    return TileResult(outcome.job.files.tile, error=outcome.cause) if isinstance(outcome, Lost) else outcome


def _make_folders(archive: Path) -> None:
    try:
        (archive / SHARD_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArchiveError(f"archive {archive}: its folder cannot be made: {one_line(error)}") from None


def _check_index_is_there(archive: Path) -> None:
    """Refuse an archive that has lost its index: all its shards would be taken for leftovers."""
    if not (archive / INDEX_NAME).exists() and any((archive / SHARD_FOLDER).glob("*.h5")):
        raise ArchiveError(f"archive {archive}: has shards but its index is lost: archive-builder reindex {archive}")


def _settings_differ(recipe: Recipe, archive: Path, options: Options) -> bool:
    """Tell whether an archive is there with other settings, and a whole rebuild is asked for.

    Raises
    ------
    RecipeError
        The settings differ, and no whole rebuild is asked for: shards would be unlike each other.
    """
    if not (archive / INDEX_NAME).is_file():
        return False
    with Index(archive) as index:
        settings = index.settings
    if settings is None:
        return False
    changes = list(_differences(settings.recipe, recipe.pixel_settings()))
    if settings.format_version != shard_format()["format_version"]:
        changes.append(f"format_version was {settings.format_version}")
    if changes and (options.tiles or not options.force):
        raise RecipeError(
            f"the archive {archive} was built with other settings: {'; '.join(changes)}: restore the recipe, "
            "build into a new folder, or rebuild the whole archive with --force"
        )
    return bool(changes)


def _gone_tiles(archive: Path, found: Discovery) -> tuple[str, ...]:
    """Return the tiles with a shard that the survey has no longer."""
    there = {files.tile for files in found.tiles} | set(found.incomplete)
    with Index(archive) as index:
        return tuple(tile.name for tile in index.tiles() if tile.shard and tile.name not in there)


def _begin_index(archive: Path, recipe: Recipe, rebuild: bool) -> None:
    """Make the index if it is not there; give up a whole rebuild that was begun with settings no longer wanted."""
    path = archive / NEXT_INDEX_NAME
    if path.is_file() and (not rebuild or _is_given_up(archive, recipe)):
        path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
        path.unlink()
    Index(archive, writable=True, name=NEXT_INDEX_NAME if rebuild else INDEX_NAME).close()


def _is_given_up(archive: Path, recipe: Recipe) -> bool:
    """Tell whether the whole rebuild that was begun was one with other settings than are wanted now."""
    with Index(archive, name=NEXT_INDEX_NAME) as index:
        settings = index.settings
    return settings is not None and any(_differences(settings.recipe, recipe.pixel_settings()))


def _switch_index(archive: Path, report: BuildReport) -> None:
    """Let a whole rebuild's index take the place of the old one, unless a tile that was good is missing from it."""
    with Index(archive) as index:
        good = {tile.name for tile in index.tiles() if tile.shard}
    if lost := sorted(good & report.failures.keys()):
        raise ArchiveError(
            f"archive {archive}: stays as it was, for {len(lost)} of its tiles cannot be built anew "
            f"({lost[0]}: {report.failures[lost[0]]}): mend them and build with --force again, which goes on from here"
        )
    replace_index(archive / NEXT_INDEX_NAME, archive / INDEX_NAME)
    clear_leftovers(archive)


def _first_generations(archive: Path, names: list[str]) -> dict[str, int]:
    """Return the next generation of each tile's shard, after those of every index there is."""
    generations = dict.fromkeys(names, 0)
    for name in (INDEX_NAME, NEXT_INDEX_NAME):
        if (archive / name).is_file():
            with Index(archive, name=name) as index:
                for tile in index.tiles():
                    if tile.name in generations:
                        generations[tile.name] = max(generations[tile.name], tile.generation)
    return {name: generation + 1 for name, generation in generations.items()}


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Spell out where two nested mappings differ."""
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key} was {json.dumps(before)}, is {json.dumps(after)}"


def size_in_pixels(recipe: Recipe, tiles: tuple[TileFiles, ...]) -> int:
    """Return the cutouts' size, by the pixel scale of the first tile that can be read.

    Raises
    ------
    RecipeError
        None of them can be read.
    """
    if isinstance(recipe.cutout.size, int):
        return recipe.cutout.size
    reason = "none is complete"
    for files in tiles:
        try:
            with Tile(files.images, recipe.survey.image_hdu) as tile:
                return geometry.parse_shape(recipe.cutout.size, geometry.pixel_scale(tile.wcs))[0]
        except TileError as error:
            reason = str(error)
    raise RecipeError(f"cutout.size is {recipe.cutout.size}, but no tile tells what that is in pixels: {reason}")
