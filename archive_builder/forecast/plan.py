"""Forecast of an archive's size and build time from its catalogues and the build of a few tiles."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np

from archive_builder.builder.changes import Changes, Task
from archive_builder.builder.commit import Committer
from archive_builder.builder.first_tile import first_id_kind, size_in_pixels
from archive_builder.builder.listing import NOTHING
from archive_builder.builder.one_tile import TileJob, TileResult, lost_tile
from archive_builder.builder.owners import Contest, find_owners, list_with
from archive_builder.builder.shared_catalog import split_catalog
from archive_builder.choices import PLAN_SEED, PLAN_TILES, PLAN_WORKERS
from archive_builder.errors import RecipeError, RequestError, TileError, one_line
from archive_builder.forecast.alternatives import alternatives, build_reference, choose_reference
from archive_builder.forecast.forecast import Forecast, Sample, make_forecast
from archive_builder.forecast.sample import TileSample, run_sample
from archive_builder.object_ids import IdKind, ObjectIds
from archive_builder.run.engine import Engine, LocalEngine, Lost
from archive_builder.run.pool import end_if_starting
from archive_builder.store.file_names import INDEX_NAME, SHARD_FOLDER
from archive_builder.store.index import Index
from archive_builder.store.records import Settings
from archive_builder.survey.discovery import Discovery, TileFiles, discover
from archive_builder.survey.recipe import Recipe, StorageSection, load_recipe
from archive_builder.units import names, whole_number


def plan(
    recipe: str | Path,
    *,
    sample: int = PLAN_TILES,
    seed: int = PLAN_SEED,
    tiles: str | Collection[str] = (),
    workers: Sequence[int] = PLAN_WORKERS,
    work: str | Path | None = None,
    on_start: Callable[[Discovery, Sequence[TileFiles]], None] = lambda found, chosen: None,
    on_tile: Callable[[TileSample], None] = lambda sample: None,
    on_reference: Callable[[TileSample, Sequence[StorageSection]], None] = lambda sample, storages: None,
    on_alternative: Callable[[StorageSection, TileResult], None] = lambda storage, result: None,
) -> Forecast:
    """Forecast the size and the build time of an archive from a sample of its tiles.

    One process builds each sampled tile by the recipe into a temporary folder, one tile after another. Then one process
    builds the median of these tiles in every layout and quantization; the costs of the other sampled tiles are scaled
    from these builds. No archive is needed, and none is changed. A script must call this function under
    ``if __name__ == "__main__"``, because it starts processes.

    Parameters
    ----------
    recipe : str or Path
        Path of the recipe.
    sample : int
        Number of sampled tiles: one at random from each of as many equal parts of the list of tiles.
    seed : int
        Seed of the random numbers.
    tiles : str or collection of str
        Names of the tiles to sample instead.
    workers : sequence of int
        Numbers of workers in the table of wall times.
    work : str or Path, optional
        Folder for the temporary folder; the system's default without it. It needs room for one shard of the largest
        alternative, usually stamps: about 9 GB for 40,000 cutouts of 228 px in five bands.
    on_start : callable
        Called with all tiles and the tiles to sample.
    on_tile : callable
        Called with each sampled or failed tile.
    on_reference : callable
        Called with the median tile and the layouts and quantizations in which the tile will be built.
    on_alternative : callable
        Called with each of these layouts and quantizations and the result of the build.

    Raises
    ------
    RecipeError, RequestError
        The recipe cannot be used, a number is out of range, a tile in `tiles` is unknown, the temporary folder cannot
        be made, or the call is not under ``if __name__ == "__main__"``.
    TileError
        None of the sampled tiles can be built.
    """
    end_if_starting()
    sample, seed = whole_number(sample, "sample", 1), whole_number(seed, "seed", 0)
    workers = [whole_number(number, "workers", 1) for number in workers]
    loaded = load_recipe(Path(recipe))
    found = discover(loaded)
    chosen = choose_tiles(found, sample, seed, names(tiles))
    size = size_in_pixels(loaded, chosen)
    on_start(found, chosen)
    with _temporary_folder(work) as folder:
        with LocalEngine(1) as engine:
            kind = first_id_kind(loaded, chosen) or "integer"
            jobs = _jobs(found, chosen, loaded, size, folder, engine, kind)
            if not jobs:
                raise TileError(f"none of the {len(chosen)} sampled tiles has an object: name tiles with objects")
            samples = _take_sample(jobs, folder, engine, on_tile)
        median = choose_reference(samples.tiles)
        (job,) = (job for job in jobs if job.files.tile == median.result.tile)
        storages = (loaded.storage, *alternatives(loaded.storage))
        on_reference(median, storages)
        reference = build_reference(job, median, storages, on_alternative)
    return make_forecast(loaded, found, size, samples, reference, workers)


def choose_tiles(found: Discovery, sample: int, seed: int, tiles: Collection[str] = ()) -> tuple[TileFiles, ...]:
    """Choose the tiles to sample; the choice depends on the survey and the seed only.

    Raises
    ------
    RequestError
        A tile in `tiles` is unknown or incomplete.
    RecipeError
        None of the survey's tiles is complete.
    """
    by_name = {files.tile: files for files in found.tiles}
    for name in tiles:
        if name not in by_name:
            reason = found.incomplete.get(name, "it is not in the survey")
            raise RequestError(f"tile {name} cannot be sampled: {reason}")
    if tiles:
        return tuple(by_name[name] for name in sorted(set(tiles)))
    if not found.tiles:
        first, reason = next(iter(found.incomplete.items()))
        raise RecipeError(f"none of the survey's {len(found.incomplete)} tiles is complete (tile {first}: {reason})")
    rng = np.random.default_rng(seed)
    edges = np.linspace(0, len(found.tiles), min(sample, len(found.tiles)) + 1).astype(int)
    return tuple(found.tiles[rng.integers(low, high)] for low, high in pairwise(edges))


def _jobs(
    found: Discovery,
    chosen: Sequence[TileFiles],
    recipe: Recipe,
    size: int,
    folder: Path,
    engine: Engine,
    kind: IdKind,
) -> list[TileJob]:
    """Return the jobs of the sampled tiles. An ID that several of them list goes to one, as in a build."""
    elsewhere: Mapping[str, ObjectIds] = {}
    if recipe.catalog.is_shared:
        split = split_catalog(found.tiles, recipe, engine, 0, folder / "rows", kind)
        return [
            TileJob(files, recipe, size, folder, 1, kind, elsewhere=split.elsewhere.get(files.tile, NOTHING), rows=rows)
            for files in chosen
            if (rows := split.rows.get(files.tile))
        ]
    if recipe.catalog.duplicates != "fail":
        changes = Changes(tuple(Task(files, "sampled") for files in chosen))
        files = {files.tile: files for files in chosen}
        contest = Contest(files, {}, None, list_with(engine, recipe, 0, kind), lambda files: False)
        elsewhere = find_owners(changes, contest).elsewhere
    return [
        TileJob(files, recipe, size, folder, 1, kind, elsewhere=elsewhere.get(files.tile, NOTHING)) for files in chosen
    ]


def _take_sample(
    jobs: Sequence[TileJob], folder: Path, engine: Engine, on_tile: Callable[[TileSample], None]
) -> Sample:
    """Build the sampled tiles and commit them to an index in the temporary folder; remove each shard afterwards."""
    recipe, size = jobs[0].recipe, jobs[0].size
    good, failed, seconds = [], {}, 0.0
    (folder / SHARD_FOLDER).mkdir()
    with Index(folder, writable=True) as index:
        index.set_settings(Settings.of(recipe.pixel_settings(), size, jobs[0].id_kind or "integer"))
        committer = Committer(index, folder, {}, [job.files.tile for job in jobs], 0)
        empty = (folder / INDEX_NAME).stat().st_size
        for outcome in engine.run(run_sample, jobs):
            sample = TileSample(lost_tile(outcome.job, outcome.cause)) if isinstance(outcome, Lost) else outcome
            started = time.perf_counter()
            for result in committer.take(sample.result):
                if result.error is not None:
                    failed[result.tile] = result.error
                    continue
                seconds += time.perf_counter() - started
                (folder / sample.result.shard).unlink()
                good.append(sample)
            on_tile(sample)
    index_bytes = (folder / INDEX_NAME).stat().st_size - empty
    if not good:
        first, error = next(iter(failed.items()))
        raise TileError(f"none of the {len(jobs)} sampled tiles can be built (tile {first}: {error})")
    return Sample(tuple(good), failed, seconds / len(good), empty, index_bytes)


@contextmanager
def _temporary_folder(work: str | Path | None) -> Iterator[Path]:
    """Make a temporary folder, and remove it with its contents afterwards."""
    try:
        folder = tempfile.TemporaryDirectory(dir=work, prefix="archive-builder-plan-", ignore_cleanup_errors=True)
    except OSError as error:
        reason = f"cannot be made: {one_line(error)}: use another --work"
        raise RequestError(f"temporary folder in {work or 'the default folder'} {reason}") from None
    with folder as name:
        yield Path(name)
