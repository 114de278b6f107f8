"""The build of an archive: new and changed tiles are built and committed, good shards stay."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from archive_builder.atomic import temporary_path
from archive_builder.builder.changes import Changes
from archive_builder.builder.commit import Committer, objects_of_shard
from archive_builder.builder.decision import Decision, decide, settle_owners
from archive_builder.builder.first_tile import first_id_kind, size_in_pixels
from archive_builder.builder.listing import NOTHING
from archive_builder.builder.lock import BuildLock
from archive_builder.builder.memory import Load, share_out
from archive_builder.builder.one_tile import TileJob, TileResult, lost_tile, peak_memory, run_job
from archive_builder.builder.rebuild import (
    abandon_rebuild,
    clear_leftovers,
    free_generation,
    refuse_to_lose,
    replace_with_next,
)
from archive_builder.errors import ArchiveError, RequestError, one_line
from archive_builder.object_ids import IdKind
from archive_builder.run import machine
from archive_builder.run.engine import Engine, LocalEngine, Lost, run_with_retries
from archive_builder.run.pool import end_if_starting
from archive_builder.store.file_names import SHARD_FOLDER
from archive_builder.store.index import Index
from archive_builder.store.records import Settings, TileRow
from archive_builder.survey.discovery import TileFiles, discover
from archive_builder.survey.recipe import Recipe, load_recipe
from archive_builder.units import names, whole_number

log = logging.getLogger(__name__)

LISTED_TOGETHER = 8
"""Tiles whose catalogues one process reads in the time that another process takes to start."""


@dataclass(frozen=True)
class BuildEvent:
    """A finished or failed tile of a build."""

    tile: str
    """Name of the tile."""

    stored: int
    """Objects with a cutout."""

    skipped: int
    """Catalogue rows without a cutout."""

    error: str | None
    """Reason of the failure; None for a tile in the archive."""

    seconds: float = 0.0
    """Wall time in the worker, s."""


@dataclass
class BuildReport:
    """Outcome of a build."""

    built: int = 0
    """Tiles built."""

    unchanged: int = 0
    """Tiles with an up-to-date shard."""

    stored: int = 0
    """Objects with a cutout, on the built tiles."""

    skipped: dict[str, int] = field(default_factory=dict)
    """Catalogue rows without a cutout by reason, on the built tiles."""

    missing: dict[str, int] = field(default_factory=dict)
    """Built tiles without an image, by band."""

    bytes: int = 0
    """Size of the built shards, bytes."""

    peak_memory: int = 0
    """Peak memory of the largest process, bytes."""

    failures: dict[str, str] = field(default_factory=dict)
    """Failed tiles, with the reasons."""

    gone: tuple[str, ...] = ()
    """Tiles of the archive that the survey no longer has."""

    empty: tuple[str, ...] = ()
    """Tiles on which no row of the catalogue of all tiles lies: they are not built."""

    left_out: dict[str, int] = field(default_factory=dict)
    """Rows of the catalogue of all tiles that go to no tile, by reason."""

    pruned: bool = False
    """True if these tiles were removed from the archive."""

    retried: int = 0
    """Retries after a worker died."""


@dataclass(frozen=True)
class _Options:
    """Parameters of a build that do not depend on the decision; see :func:`build`."""

    workers: int
    memory: int | None
    retries: int
    contents: bool
    prune: bool


def build(
    recipe: str | Path,
    archive: str | Path,
    *,
    tiles: str | Collection[str] = (),
    workers: int | None = None,
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
    """Build an archive, or the tiles that are new, changed or failed before.

    The build starts processes: a script must call it under ``if __name__ == "__main__"``.

    Parameters
    ----------
    recipe : str or Path
        File of the recipe.
    archive : str or Path
        Folder of the archive; created if it does not exist.
    tiles : str or collection of str
        Build only these tiles, and tiles that give an object to one of them or take one from them; all if empty.
    workers : int, optional
        Maximum worker processes on this machine (default: one per CPU); fewer if memory is short.
    memory : int, optional
        Memory of all processes on this machine together, bytes (default: the free memory, less a margin).
    engine : Engine, optional
        Engine for the tiles, instead of this machine; see :func:`archive_builder.run.engines.choose_engine`. The
        engine's own configuration sets the number of workers and their memory.
    retries : int
        Retries of a tile after its worker dies.
    force : bool
        Build unchanged tiles too. Without ``tiles`` the recipe may have other settings than the archive: this is a
        whole rebuild, see `archive_builder.builder.rebuild`.
    contents : bool
        Compare the contents of the survey's files too, not only their paths, sizes and times.
    prune : bool
        Remove the tiles from the archive that the survey no longer has.
    on_plan : callable
        Called with the changes, before the first tile is built.
    on_load : callable
        Called with the number of workers on this machine and their memory.
    on_tile : callable
        Called with each finished or failed tile.

    Returns
    -------
    BuildReport
        A tile that fails raises nothing: it is in ``failures``.

    Raises
    ------
    RecipeError, ArchiveError
        The build could not start, or a whole rebuild could not replace the archive.
    RequestError
        A number is out of range, the engine cannot run jobs, the memory is too small for one worker, ``memory`` is
        given together with an engine, or the call is not under ``if __name__ == "__main__"``.
    EngineError
        The engine failed during the build. The tiles built before are in the archive.
    """
    end_if_starting()
    if engine is not None and memory is not None:
        raise RequestError(
            "memory is for workers of this machine: elsewhere the batch job's request sets the memory, "
            "and Parsl's configuration or mpiexec sets the number of workers"
        )
    processes = machine.worker_processes(workers)
    memory = None if memory is None else whole_number(memory, "memory", 1)
    retries = whole_number(retries, "retries", 0)
    archive, options = Path(archive), _Options(processes, memory, retries, contents, prune)
    with engine or nullcontext(), LocalEngine(processes) as local:
        loaded = load_recipe(Path(recipe))
        found = discover(loaded)
        _make_folders(archive)
        with BuildLock(archive):
            decision = decide(archive, loaded, found, tiles=names(tiles), force=force, contents=contents)
            if not prune:
                refuse_to_lose(archive, decision.lost)
            if not decision.is_continued:
                abandon_rebuild(archive)
            rows = temporary_path(archive.absolute() / "rows")
            with Index(archive, writable=True, name=decision.index_name) as index, _removed(rows):
                clear_leftovers(archive)
                settings = _settle(index, loaded, found.tiles)
                load = None if engine else _load(decision.changes, loaded, settings.size, options)
                # Catalogues are read on this machine: that is fast, and the results are large.
                local.resize(_listers(decision.changes, load.workers if load else processes))
                decision = settle_owners(
                    decision,
                    index,
                    archive,
                    loaded,
                    found,
                    local,
                    retries=retries,
                    tiles=names(tiles),
                    contents=contents,
                    prune=prune,
                    folder=archive,
                    rows=rows,
                    id_kind=settings.id_kind,
                )
                load = None if engine else _load(decision.changes, loaded, settings.size, options)
                on_plan(decision.changes)
                if load is not None:
                    on_load(load)
                local.resize(load.workers if load else 0)
                run = _Build(index, archive, loaded, settings, options, on_tile)
                report = run.run(decision, engine or local, load)
            if decision.is_rebuild:
                replace_with_next(archive, report.failures)
            return report


def plan_changes(
    recipe: str | Path,
    archive: str | Path,
    *,
    tiles: str | Collection[str] = (),
    force: bool = False,
    contents: bool = False,
    prune: bool = False,
) -> Changes:
    """Return the changes that :func:`build` would make; nothing is written.

    If a part of the archive is built, this starts a process that reads catalogues: a script must call it under
    ``if __name__ == "__main__"``.

    Parameters
    ----------
    recipe, archive, tiles, force, contents, prune
        See :func:`build`.

    Raises
    ------
    RecipeError, ArchiveError
        Same errors as :func:`build`.
    """
    end_if_starting()
    loaded, archive, tiles = load_recipe(Path(recipe)), Path(archive), names(tiles)
    found = discover(loaded)
    decision = decide(archive, loaded, found, tiles=tiles, force=force, contents=contents)
    built = {task.files.tile for task in decision.changes.tasks}
    stays = any(row.shard and name not in built for name, row in decision.known.items())
    if not stays and not loaded.catalog.is_shared:
        return decision.changes  # no other tile gains or loses an object
    with ExitStack() as stack:
        index = stack.enter_context(Index(archive, name=decision.index_name)) if decision.known else None
        engine = stack.enter_context(LocalEngine(machine.worker_processes(None)))
        rows = Path(stack.enter_context(TemporaryDirectory(prefix="archive-builder-"))) / "rows"
        known = index.settings if index is not None else None
        return settle_owners(
            decision,
            index,
            archive,
            loaded,
            found,
            engine,
            tiles=tiles,
            contents=contents,
            prune=prune,
            rows=rows,
            id_kind=_id_kind(known, decision.known.values(), loaded, found.tiles),
        ).changes


@contextmanager
def _removed(path: Path) -> Iterator[None]:
    """Remove a file at the end of the block, if it exists."""
    try:
        yield
    finally:
        with suppress(OSError):  # the next build removes it as a leftover
            path.unlink(missing_ok=True)


class _Build:
    """Execution of a decision.

    Parameters
    ----------
    index : Index
        Index that takes the new shards, open for writing.
    archive : Path
    recipe : Recipe
    settings : Settings
        Settings of the index.
    options : _Options
    on_tile : callable
        Called with each finished or failed tile.
    """

    def __init__(
        self,
        index: Index,
        archive: Path,
        recipe: Recipe,
        settings: Settings,
        options: _Options,
        on_tile: Callable[[BuildEvent], None],
    ) -> None:
        self._index, self._archive, self._recipe, self._settings = index, archive, recipe, settings
        self._options, self._on_tile = options, on_tile
        self._report = BuildReport()

    def run(self, decision: Decision, engine: Engine, load: Load | None) -> BuildReport:
        """Build and commit the tiles; with ``prune``, remove the tiles that the survey no longer has."""
        changes = decision.changes
        self._report.unchanged, self._report.gone = len(changes.unchanged), changes.gone
        self._report.empty, self._report.left_out = changes.empty, dict(changes.left_out)
        self._index.record_fingerprints(changes.touched)
        if changes.tasks or changes.incomplete:
            self._build_tiles(decision, engine, load)
        elif self._options.prune:
            self._prune(decision)
        return self._report

    def _build_tiles(self, decision: Decision, engine: Engine, load: Load | None) -> None:
        """Build the tiles, and commit each when it is finished; with ``prune``, remove tiles before the last commit."""
        changes = decision.changes
        build_id = self._index.begin_build(len(changes.tasks) + len(changes.incomplete))
        self._note((TileResult(name, error=error) for name, error in changes.incomplete.items()), build_id)
        names = [task.files.tile for task in changes.tasks]
        if self._options.prune:
            names += changes.gone
        committer = Committer(self._index, self._archive, decision.known, names, build_id)
        jobs = self._jobs(decision, load)
        for outcome in run_with_retries(engine, run_job, jobs, self._options.retries, self._note_retry):
            self._note(committer.take(_result(outcome)), build_id)
        if self._options.prune:
            self._prune(decision)
        self._note(committer.finish(), build_id)
        self._index.end_build(build_id)

    def _jobs(self, decision: Decision, load: Load | None) -> list[TileJob]:
        archive = self._archive.absolute()  # a worker may have another working directory
        return [
            TileJob(
                task.files,
                self._recipe,
                self._settings.size,
                archive,
                free_generation(archive, task.files.tile, decision.next_generation(task.files.tile)),
                id_kind=self._settings.id_kind,
                contents=self._options.contents,
                memory=load.memory if load else None,
                elsewhere=decision.elsewhere.get(task.files.tile, NOTHING),
                rows=decision.rows.get(task.files.tile),
                listing=decision.listings.get(task.files.tile),
            )
            for task in decision.changes.tasks
        ]

    def _note_retry(self, lost: Lost[TileJob]) -> None:
        log.info("tile %s is retried: %s", lost.job.files.tile, lost.cause)
        self._report.retried += 1

    def _note(self, results: Iterable[TileResult], build_id: int) -> None:
        """Add tiles to the report, and failures to the index."""
        for result in results:
            if result.error is not None:
                self._index.record_failure(result.tile, result.error, build_id)
                self._report.failures[result.tile] = result.error
            else:
                self._add(result)
            skipped = sum((result.skipped or {}).values())
            self._on_tile(BuildEvent(result.tile, result.stored, skipped, result.error, result.seconds))

    def _add(self, result: TileResult) -> None:
        """Add a tile in the archive to the report."""
        report = self._report
        report.built += 1
        report.stored += result.stored
        report.bytes += result.bytes
        for band in result.missing:
            report.missing[band] = report.missing.get(band, 0) + 1
        report.peak_memory = max(report.peak_memory, result.peak_memory, peak_memory())
        counts = result.skipped or {}
        report.skipped = {reason: report.skipped.get(reason, 0) + n for reason, n in counts.items()}

    def _prune(self, decision: Decision) -> None:
        """Remove the tiles that the survey no longer has: from the index first, then their shards."""
        for name in decision.changes.gone:
            tile = decision.known.get(name)
            if tile is None:
                continue  # a whole rebuild does not copy the tile
            path = self._archive / tile.shard if tile.shard else None
            self._index.remove_tile(tile.tile_id, objects_of_shard(path))
            if path is not None:
                with suppress(OSError):  # the next build removes it as a leftover
                    path.unlink()
        self._report.pruned = True


def _result(outcome: TileResult | Lost[TileJob]) -> TileResult:
    """Return the result of a tile; a failure if its worker died."""
    return lost_tile(outcome.job, outcome.cause) if isinstance(outcome, Lost) else outcome


def _make_folders(archive: Path) -> None:
    try:
        (archive / SHARD_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArchiveError(
            f"archive {archive}: its folder cannot be made: {one_line(error)}: give another folder"
        ) from None


def _settle(index: Index, recipe: Recipe, tiles: Sequence[TileFiles]) -> Settings:
    """Return the settings of the index; for an index without objects, set them by the first tile that can be read."""
    known = index.settings
    rows = index.tiles()
    if known is not None and any(tile.shard for tile in rows):
        return known
    size = known.size if known else size_in_pixels(recipe, tiles)
    settings = Settings.of(recipe.pixel_settings(), size, _id_kind(known, rows, recipe, tiles))
    if settings != known:
        index.set_settings(settings)
    return settings


def _id_kind(known: Settings | None, rows: Iterable[TileRow], recipe: Recipe, tiles: Sequence[TileFiles]) -> IdKind:
    """Return the kind of the object IDs: the index's, or without any shard that of the first readable catalogue."""
    if known is not None and any(tile.shard for tile in rows):
        return known.id_kind
    return first_id_kind(recipe, tiles) or (known.id_kind if known else "integer")


def _listers(changes: Changes, workers: int) -> int:
    """Return the number of processes that read the catalogues: as many as for the tiles, fewer for a few tiles."""
    return min(workers, 1 + len(changes.tasks) // LISTED_TOGETHER)


def _load(changes: Changes, recipe: Recipe, size: int, options: _Options) -> Load | None:
    """Return the workers that fit on this machine; None if there is no tile to build."""
    if not changes.tasks:
        return None
    files = [task.files for task in changes.tasks]
    budget = options.memory or machine.available_memory()
    return share_out(files, recipe, size, budget, options.workers)
