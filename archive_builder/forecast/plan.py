"""What an archive will take, before it is built: by the list of tiles, the catalogues, and a sample really built."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np

from archive_builder.builder.commit import Committer
from archive_builder.builder.first_tile import size_in_pixels
from archive_builder.builder.one_tile import TileJob, TileResult
from archive_builder.errors import RecipeError, RequestError, TileError, one_line
from archive_builder.forecast.forecast import Forecast, Taken, make_forecast
from archive_builder.forecast.sample import SampleJob, TileSample, run_sample
from archive_builder.run.pool import end_if_starting, run_jobs
from archive_builder.store.index import INDEX_NAME, SHARD_FOLDER, Index
from archive_builder.store.records import Settings
from archive_builder.survey.discovery import Discovery, TileFiles, discover
from archive_builder.survey.recipe import Recipe, StorageSection, load_recipe

SAMPLE = 5
"""Tiles that are sampled, if nothing else is asked for."""

SEED = 1
"""Which tiles those are; another seed takes others."""

WORKERS = (1, 4, 16, 64, 256)
"""Numbers of workers for which the time is worked out, if nothing else is asked for."""

LAYOUTS = ("mosaic", "stamps")
QUANTIZATIONS = (4.0, 16.0, "lossless")
"""The ways of storing that a recipe's own is compared with."""


def plan(
    recipe_path: Path,
    *,
    sample: int = SAMPLE,
    seed: int = SEED,
    tiles: Collection[str] = (),
    workers: Sequence[int] = WORKERS,
    work: Path | None = None,
    on_start: Callable[[Discovery, Sequence[TileFiles]], None] = lambda found, chosen: None,
    on_tile: Callable[[TileSample], None] = lambda sample: None,
) -> Forecast:
    """Forecast what an archive takes, from a sample of its tiles.

    Each sampled tile is built by the recipe into a temporary folder, one after another in one process; on some
    rows of it the other layouts and quantizations are tried. No archive is needed, and none is touched. It starts a
    process: a script must call it under ``if __name__ == "__main__"``.

    Parameters
    ----------
    recipe_path : Path
    sample : int
        How many tiles, one at random from each of as many equal parts of the list.
    seed : int
        Of those random numbers.
    tiles : collection of str
        These tiles instead.
    workers : sequence of int
        Numbers of workers for which the time is worked out.
    work : Path, optional
        Folder in which the temporary one is made, with room for two shards; the system's own without it.
    on_start : callable
        Told of all tiles and of those that will be sampled.
    on_tile : callable
        Told of every tile that has been sampled.

    Raises
    ------
    RecipeError, RequestError
        The recipe cannot be used, a tile asked for is not there, or it is not called under that ``if``.
    TileError
        Not one of the tiles could be sampled.
    """
    end_if_starting()
    recipe = load_recipe(recipe_path)
    found = discover(recipe)
    chosen = choose_tiles(found, sample, seed, tiles)
    size = size_in_pixels(recipe, chosen)
    on_start(found, chosen)
    return make_forecast(recipe, found, size, _take_samples(recipe, chosen, size, work, on_tile), workers)


def choose_tiles(found: Discovery, sample: int, seed: int, tiles: Collection[str] = ()) -> tuple[TileFiles, ...]:
    """Choose the tiles to sample, the same for the same survey and seed.

    Raises
    ------
    RequestError
        A tile asked for is not there, or cannot be built.
    RecipeError
        No tile can be built.
    """
    by_name = {files.tile: files for files in found.tiles}
    for name in tiles:
        if name not in by_name:
            raise RequestError(
                f"tile {name} cannot be sampled: {found.incomplete.get(name, 'the survey has not got it')}"
            )
    if tiles:
        return tuple(by_name[name] for name in sorted(set(tiles)))
    if not found.tiles:
        first, reason = next(iter(found.incomplete.items()))
        raise RecipeError(f"none of the survey's {len(found.incomplete)} tiles is complete (tile {first}: {reason})")
    rng = np.random.default_rng(seed)
    edges = np.linspace(0, len(found.tiles), min(sample, len(found.tiles)) + 1).astype(int)
    return tuple(found.tiles[rng.integers(low, high)] for low, high in pairwise(edges))


def _take_samples(
    recipe: Recipe,
    chosen: Sequence[TileFiles],
    size: int,
    work: Path | None,
    on_tile: Callable[[TileSample], None],
) -> Taken:
    """Build the sampled tiles into an archive of their own, which does not outlive this."""
    good, failed, seconds = [], {}, 0.0
    with _temporary_folder(work) as folder:
        (folder / SHARD_FOLDER).mkdir()
        with Index(folder, writable=True) as index:
            index.set_settings(Settings.of(recipe.pixel_settings(), size))
            committer = Committer(index, folder, {}, [files.tile for files in chosen], 0)
            empty = (folder / INDEX_NAME).stat().st_size
            others = other_storages(recipe.storage)
            jobs = [SampleJob(TileJob(files, recipe, size, folder, 1), others) for files in chosen]
            for sample in run_jobs(run_sample, jobs, 1, _lost):
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
        raise TileError(f"none of the {len(chosen)} sampled tiles can be built (tile {first}: {error})")
    return Taken(tuple(good), failed, seconds / len(good), empty, index_bytes)


@contextmanager
def _temporary_folder(work: Path | None) -> Iterator[Path]:
    try:
        folder = tempfile.TemporaryDirectory(dir=work, prefix="archive-builder-plan-", ignore_cleanup_errors=True)
    except OSError as error:
        raise RequestError(
            f"no temporary folder can be made in {work or 'the system one'}: {one_line(error)}"
        ) from None
    with folder as name:
        yield Path(name)


def _lost(job: SampleJob, cause: str) -> TileSample:
    """Return the result of a tile whose worker died."""
    return TileSample(TileResult(job.build.files.tile, error=cause))


def other_storages(own: StorageSection) -> tuple[StorageSection, ...]:
    """Return the ways of storing that a recipe's own is compared with; they keep the same planes."""
    ways = ({"layout": layout, "quantization": q} for layout in LAYOUTS for q in QUANTIZATIONS)
    return tuple(way for way in (own.model_copy(update=way) for way in ways) if way != own)
