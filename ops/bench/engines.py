"""The benchmark of engines: the same tiles built by local workers, by Parsl and by MPI, as many at once.

usage: python ops/bench/engines.py RECIPE [--workers N] [--parsl-config FILE] [--repeats N] [--work DIR]

Every engine builds all tiles of the survey into a new archive, in turn, by a command of its own. Its workers are
at work from when the first of them began its first tile until the last tile is in the index: that is the time that
is compared. What comes before - the start of processes, of a batch job - is told apart. One local worker is measured
too, for how much N are faster; the time of the processors that a tile takes, which others on the machine hardly
change, tells whether N hinder each other. Parsl is left out without a configuration, which must give it N workers; MPI
without mpi4py and mpiexec.
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
    """Yield the lines of the answer."""
    labels = {"one": "local, 1 worker", "local": "local", "parsl": "Parsl", "mpi": "MPI"}
    for key, label in labels.items():
        yield Quantity(f"{key}.seconds", f"{label}: at work", "s", digits=1)
        yield Quantity(f"{key}.start_seconds", f"{label}: start", "s", digits=1)
        yield Quantity(f"{key}.tile_seconds", f"{label}: a tile, in its worker", "s", digits=2)
        yield Quantity(f"{key}.cpu_seconds", f"{label}: a tile, on processors", "s", digits=2)
        yield Quantity(f"{key}.others_cores", f"{label}: cores others kept busy", "cores", digits=2)
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
    parser.add_argument("recipe", type=Path, help="of a survey with many more tiles than workers")
    parser.add_argument("--workers", type=int, default=2, help="at once (default: 2)")
    parser.add_argument("--parsl-config", type=Path, help="with as many workers")
    parser.add_argument("--repeats", type=int, default=3, help="how often everything is measured (default: 3)")
    parser.add_argument("--work", type=Path, help="where archives go (default: the system's temporary folder)")
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
    """Build the survey once; of MPI's ranks only the first comes back."""
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
        if where is None:  # its workers are children of this process
            values |= {"cpu_seconds": neighbours.own_seconds() / len(done), "others_cores": neighbours.cores()}
        return values


if __name__ == "__main__":
    main()
