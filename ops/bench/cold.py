"""Benchmark of prefetching: build time with the files in the page cache, on disk, and on disk but prefetched.

usage: python ops/bench/cold.py RECIPE [--repeats N] [--work DIR]

One worker builds the first tile of the survey. "On disk": the files are dropped from the page cache first; the kernel
still reads ahead within each file. "Prefetched": the program also requests all files from the kernel just before the
build, and the kernel reads the files during the build. This is the best case for a worker that prefetches its next
tile. Needs Linux.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import measurements as m
import table
from table import Quantity

from archive_builder.builder.driver import build
from archive_builder.survey.discovery import TileFiles
from archive_builder.survey.recipe import load_recipe

QUANTITIES = (
    Quantity("cached.seconds", "files in the page cache", "s", digits=2),
    Quantity("cold.seconds", "files on disk", "s", digits=2),
    Quantity("early.seconds", "files on disk, prefetched", "s", digits=2),
    Quantity("cold.ratio", "on disk / in the cache", "times", digits=3),
    Quantity("early.ratio", "prefetched / in the cache", "times", digits=3),
    Quantity("read_mb", "size of the files", "MB"),
    Quantity("others_cores", "cores busy with other processes", "cores", digits=2),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--repeats", type=int, default=5, help="repeats of every measurement (default: 5)")
    parser.add_argument("--work", type=Path, help="folder for archives (default: the system's temporary folder)")
    options = parser.parse_args()
    repeats = []
    for number in range(1, options.repeats + 1):
        m.say(f"repeat {number} of {options.repeats}")
        neighbours = m.Neighbours()
        values: m.Values = {}
        for state in ("cached", "cold", "early"):
            with tempfile.TemporaryDirectory(dir=options.work, prefix="cold-") as folder:
                seconds = m.in_fresh_process(measure, options.recipe, Path(folder) / "archive", state)
            values[f"{state}.seconds"] = seconds
        for state in ("cold", "early"):
            values[f"{state}.ratio"] = values[f"{state}.seconds"] / values["cached.seconds"]
        tile = m.first_tile(load_recipe(options.recipe))
        values["read_mb"] = sum(path.stat().st_size for path in tile.paths) / 1e6
        values["others_cores"] = neighbours.cores()
        repeats.append(values)
    print(f"One tile; medians of {len(repeats)} repeats.\n\n{table.as_text(repeats, QUANTITIES)}\n\n{table.machine()}")


def measure(recipe_path: Path, archive: Path, state: str) -> float:
    """Build the first tile of the survey with its files in the given state; return the wall time, s."""
    tile = m.first_tile(load_recipe(recipe_path))
    m.read_through(tile)
    if state != "cached":
        _advise(tile, os.POSIX_FADV_DONTNEED)
    started = time.perf_counter()
    if state == "early":
        _advise(tile, os.POSIX_FADV_WILLNEED)
    report = build(recipe_path, archive, tiles=[tile.tile], workers=1)
    seconds = time.perf_counter() - started
    if report.failures:
        raise RuntimeError(f"the build failed: {report.failures}")
    return seconds


def _advise(tile: TileFiles, advice: int) -> None:
    """Give the kernel advice about the files of a tile."""
    for path in tile.paths:
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, advice)
        os.close(file)


if __name__ == "__main__":
    main()
