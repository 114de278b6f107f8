"""Benchmark of the driver: time a tile of the one process that assigns the tiles and writes the index.

usage: python ops/bench/driver.py RECIPE [--jobs N] [--parsl-config FILE] [--repeats N] [--work DIR]

The program builds the first tile of the survey once, then commits the shard to a new index many times. The time of a
commit includes naming and reading the shard, as in a build. The program also sends empty jobs, as large as real jobs,
through the engines. Their rate is the upper limit for any number of workers. Without a configuration Parsl is left out.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import measurements as m
import table
from table import Quantity

from archive_builder.builder.commit import Committer
from archive_builder.builder.one_tile import TileJob, TileResult, run_job
from archive_builder.run.engine import Engine, LocalEngine
from archive_builder.run.engines import choose_engine
from archive_builder.store.file_names import SHARD_FOLDER
from archive_builder.store.index import Index
from archive_builder.survey.recipe import load_recipe

COMMITS = 20
"""Commits of the tile in a repeat."""

QUANTITIES = (
    Quantity("objects", "objects on the tile", "", digits=0),
    Quantity("commit_ms", "name, read and commit the shard", "ms", digits=1),
    Quantity("commits_per_second", "tiles committed by one driver", "tiles/s", digits=1),
    Quantity("local_per_second", "empty jobs, local, 2 workers", "jobs/s"),
    Quantity("parsl_per_second", "empty jobs, Parsl", "jobs/s"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--jobs", type=int, default=2000, help="empty jobs (default: 2000)")
    parser.add_argument("--parsl-config", type=Path)
    parser.add_argument("--repeats", type=int, default=3, help="repeats of every measurement (default: 3)")
    parser.add_argument("--work", type=Path, help="folder for archives (default: the system's temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work, prefix="driver-") as name:
        folder = Path(name)
        job, result = m.in_fresh_process(build_one, options.recipe, folder / "built")
        repeats = []
        for number in range(1, options.repeats + 1):
            m.say(f"repeat {number} of {options.repeats}")
            repeats.append(_repeat(folder / str(number), job, result, options))
    print(f"Medians of {len(repeats)} repeats.\n\n{table.as_text(repeats, QUANTITIES)}\n\n{table.machine()}")


def build_one(recipe_path: Path, archive: Path) -> tuple[TileJob, TileResult]:
    """Build the first tile of a survey, as a worker does; return the job and the result."""
    recipe = load_recipe(recipe_path)
    (archive / SHARD_FOLDER).mkdir(parents=True)
    job = TileJob(m.first_tile(recipe), recipe, m.SIZE, archive, 1)
    result = run_job(job)
    if result.error is not None:
        raise RuntimeError(f"the build failed: {result.error}")
    return job, result


def _repeat(folder: Path, job: TileJob, result: TileResult, options: argparse.Namespace) -> m.Values:
    os.sync()
    seconds = sum(commit(folder / str(n), job, result) for n in range(COMMITS)) / COMMITS
    values = {
        "objects": result.stored + sum((result.skipped or {}).values()),
        "commit_ms": seconds * 1e3,
        "commits_per_second": 1 / seconds,
        "local_per_second": rate(LocalEngine(2), job, options.jobs),
    }
    if options.parsl_config:
        engine = choose_engine("parsl", parsl_config=options.parsl_config, archive=folder / "parsl")
        assert engine is not None
        values["parsl_per_second"] = rate(engine, job, options.jobs)
    m.say(f"  {json.dumps(values)}")
    return values


def commit(archive: Path, job: TileJob, result: TileResult) -> float:
    """Commit the shard of the tile to a new archive; return the wall time, s."""
    (archive / SHARD_FOLDER).mkdir(parents=True)
    os.link(job.archive / result.draft, archive / result.draft)
    with Index(archive, writable=True) as index:
        committer = Committer(index, archive, {}, [result.tile], index.begin_build(1))
        started = time.perf_counter()
        (done,) = committer.take(result)
        if done.error is not None:
            raise RuntimeError(f"the tile could not be committed: {done.error}")
        return time.perf_counter() - started


def rate(engine: Engine, job: TileJob, count: int) -> float:
    """Return the rate of an engine for empty jobs, jobs/s."""
    jobs = [replace(job, generation=number) for number in range(1, count + 1)]
    with engine:
        results = engine.run(copy.copy, jobs)
        next(results)  # the workers have started
        started = time.perf_counter()
        rest = list(results)
    if not all(isinstance(outcome, TileJob) for outcome in rest):
        raise RuntimeError("some jobs were lost")
    return len(rest) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
