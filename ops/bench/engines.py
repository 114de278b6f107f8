"""Benchmark of the engines: the same tiles built by equally many workers, local, by Parsl and by MPI.

usage: python ops/bench/engines.py RECIPE [--workers N] [--parsl-config FILE] [--repeats N] [--work DIR]

Each engine in turn builds all tiles of the survey into a new archive, by a separate command. The benchmark compares the
build times: from the start of the first tile in a worker to the commit of the last tile. The start-up time (processes,
batch job) is a separate row. A build by one local worker gives the speedup of N workers. The CPU time of a tile hardly
depends on other processes of the machine, and shows whether N workers slow each other down. Parsl needs a configuration
with N workers, MPI needs mpi4py and mpiexec; otherwise the engine is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import measurements as m
import table
from table import Quantity

from archive_builder.builder.driver import build
from archive_builder.run.engines import choose_engine
from archive_builder.store.index import Index
from archive_builder.survey.discovery import discover
from archive_builder.survey.recipe import load_recipe

BESIDE_PYTHON = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def quantities(workers: int) -> Iterator[Quantity]:
    """Yield the rows of the table."""
    labels = {"one": "local, 1 worker", "local": "local", "parsl": "Parsl", "mpi": "MPI"}
    for key, label in labels.items():
        yield Quantity(f"{key}.seconds", f"{label}: build time", "s", digits=1)
        yield Quantity(f"{key}.start_seconds", f"{label}: start-up time", "s", digits=1)
        yield Quantity(f"{key}.tile_seconds", f"{label}: wall time a tile", "s", digits=2)
        yield Quantity(f"{key}.cpu_seconds", f"{label}: CPU time a tile", "s", digits=2)
        yield Quantity(f"{key}.others_cores", f"{label}: cores busy with other processes", "cores", digits=2)
    yield Quantity("speedup", f"local, {workers} workers / 1", "times", 0.9 * workers, digits=2)
    for key in ("parsl", "mpi"):
        yield Quantity(f"{key}.ratio", f"{labels[key]} / local", "times", 0.9, digits=2)


def main() -> None:
    options = _options()
    if options.measure:
        print(json.dumps(measure(options.measure, options)))
        return
    tiles = discover(load_recipe(options.recipe)).tiles
    for tile in tiles:
        m.read_through(tile)
    repeats = []
    for number in range(1, options.repeats + 1):
        m.say(f"repeat {number} of {options.repeats}")
        repeats.append(_repeat(options))
    text = table.as_text(repeats, list(quantities(options.workers)))
    head = f"{len(tiles)} tiles, {options.workers} workers; medians of {len(repeats)} repeats."
    print(f"{head}\n\n{text}\n\n{table.machine()}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path, help="recipe of a survey with many more tiles than workers")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--parsl-config", type=Path, help="Parsl configuration with the same number of workers")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of every measurement (default: 3)")
    parser.add_argument("--work", type=Path, help="folder for archives (default: the system's temporary folder)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    return parser.parse_args()


def _repeat(options: argparse.Namespace) -> m.Values:
    """Measure every engine once."""
    values: m.Values = {}
    for engine in ("one", "local", "parsl", "mpi"):
        if (engine == "parsl" and not options.parsl_config) or (engine == "mpi" and not _mpi_is_there()):
            continue
        os.sync()
        ranks = [_mpiexec(), "-n", str(options.workers + 1)] if engine == "mpi" else []
        command = [*ranks, sys.executable, __file__, *sys.argv[1:], "--measure", engine]
        answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
        values |= m.prefixed(engine, json.loads(answer))
    values["speedup"] = values["one.seconds"] / values["local.seconds"]
    for engine in ("parsl", "mpi"):
        if f"{engine}.seconds" in values:
            values[f"{engine}.ratio"] = values["local.seconds"] / values[f"{engine}.seconds"]
    m.say("  " + ", ".join(f"{key} {value:,.2f}" for key, value in values.items()))
    return values


def _mpiexec() -> str:
    return str(shutil.which("mpiexec", path=BESIDE_PYTHON))


def _mpi_is_there() -> bool:
    return bool(find_spec("mpi4py") and shutil.which("mpiexec", path=BESIDE_PYTHON))


def measure(engine: str, options: argparse.Namespace) -> m.Values:
    """Build the survey once. Under MPI only the first rank returns."""
    with tempfile.TemporaryDirectory(dir=options.work, prefix="engines-") as folder:
        archive = Path(folder) / "archive"
        where = choose_engine(
            "local" if engine == "one" else engine,
            parsl_config=options.parsl_config if engine == "parsl" else None,
            archive=archive,
        )
        done: dict[str, float] = {}
        started, neighbours = time.perf_counter(), m.Neighbours()
        report = build(
            options.recipe,
            archive,
            workers=1 if engine == "one" else options.workers,
            engine=where,
            on_tile=lambda event: done.setdefault(event.tile, time.perf_counter() - started),
        )
        if report.failures:
            raise RuntimeError(f"the build failed: {report.failures}")
        with Index(archive) as index:
            seconds = {tile.name: tile.seconds for tile in index.tiles()}
        begin = min(done[tile] - seconds[tile] for tile in done)
        values = {
            "seconds": max(done.values()) - begin,
            "start_seconds": begin,
            "tile_seconds": sum(seconds.values()) / len(seconds),
        }
        if where is None:  # the workers are children of this process
            values |= {"cpu_seconds": neighbours.own_seconds() / len(done), "others_cores": neighbours.cores()}
        return values


if __name__ == "__main__":
    main()
