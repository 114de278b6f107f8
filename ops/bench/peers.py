"""Benchmark beside other programs: one tile cut by this package, by its peers and by the loop, in one run.

usage: python ops/bench/peers.py [--survey DIR] [--objects N] [--repeats N] [--work DIR] [--json FILE]

The peers are cutana and astrocut, installed into a separate environment in WORK. They read the same tile as plain FITS
files, written before the measurement. Needs Linux: memory is sampled from /proc.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import bench
import measurements as m
import numpy as np
import peer_runs
import table
from peer_runs import Input, PeersError
from table import Quantity

from archive_builder.errors import ArchiveBuilderError

REQUIREMENTS = ("cutana>=0.4.0", "astrocut>=1.4.0")
"""Requirements of the environment; pip adds the dependencies."""

TILE_SIZE, OBJECTS = 10_000, 40_000
"""Side of the tile, px, and objects of a new survey."""

LEAST = 500
"""Minimum objects for cutana. With fewer objects its start-up dominates the time."""

TOOLS = {
    "mosaic": "archive-builder, mosaic q=16",
    "mosaic_plain": "archive-builder, from plain files",
    "stamps": "archive-builder, stamps q=16",
    "cutana": "cutana, batches of 1000 (default)",
    "cutana_small": "cutana, batches of 100",
    "loop": "loop of Cutout2D",
    "astrocut": "astrocut, FITSCutout",
}
"""Names of the programs, in table order."""


@dataclass(frozen=True)
class Column:
    """A column of the table of programs: the median of the repeats."""

    key: str
    """Key of the measured value."""

    head: str
    """Head of the column."""

    digits: int = 0
    """Digits after the decimal point."""

    spread: bool = False
    """True to show minimum and maximum instead of the median."""

    def show(self, values: Sequence[float]) -> str:
        shown = [f"{value:,.{self.digits}f}" for value in (min(values), median(values), max(values))]
        return f"{shown[0]} to {shown[2]}" if self.spread else shown[1]


COLUMNS = (
    Column("objects", "objects cut"),
    Column("objects_per_second", "objects/s", 1),
    Column("objects_per_second", "min to max", 1, spread=True),
    Column("own_gb", "memory, GB", 2),
    Column("resident_gb", "with mapped files, GB", 2),
    Column("kib_per_object", "KiB/object", 1),
    Column("there", "found, %", 1),
    Column("as_tile", "same pixels, %", 1),
    Column("blanks_too", "and blanks, %", 1),
    Column("same_window", "same window, %", 1),
)

QUANTITIES = (
    Quantity("speed_plain", "cutana / mosaic, same files: time an object and band", "times", 20, digits=1),
    Quantity("cpu_plain", "cutana / mosaic, same files: CPU time", "times", digits=1),
    Quantity("speed", "cutana / mosaic from fpacked files: time", "times", digits=1),
    Quantity("cpu", "cutana / mosaic from fpacked files: CPU time", "times", digits=1),
    Quantity("memory", "cutana / mosaic: memory", "times", 10, digits=1),
    Quantity("bytes", "cutana / mosaic: bytes an object and band", "times", 50, digits=1),
    Quantity("speed_small_plain", "cutana, batches of 100 / mosaic, same files: time", "times", 20, digits=1),
    Quantity("speed_small", "cutana, batches of 100 / mosaic from fpacked files: time", "times", digits=1),
    Quantity("memory_small", "cutana, batches of 100 / mosaic: memory", "times", 10, digits=1),
    Quantity("speed_loop", "loop / mosaic: time", "times", digits=1),
    Quantity("speed_astrocut", "astrocut / mosaic: time", "times", digits=1),
    Quantity("mosaic.cpu_ms", "mosaic, CPU time", "ms/object", digits=2),
    Quantity("mosaic_plain.cpu_ms", "mosaic, from plain files, CPU time", "ms/object", digits=2),
    Quantity("cutana.cpu_ms", "cutana, CPU time", "ms/object", digits=2),
    Quantity("cutana_small.cpu_ms", "cutana, batches of 100, CPU time", "ms/object", digits=2),
    Quantity("cutana.part_per_second", "cutana, sample alone", "objects/s", digits=1),
    Quantity("cutana_small.part_per_second", "cutana, batches of 100, sample alone", "objects/s", digits=1),
    Quantity("others_cores", "cores busy with other processes", "cores", digits=2),
)
"""Rows of the second table. All programs cut the same bands: a ratio an object is a ratio an object and band."""


def main() -> None:
    options = _options()
    try:
        _measure(options)
    except (PeersError, ArchiveBuilderError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    work = Path(tempfile.gettempdir()) / "archive-bench"
    parser.add_argument("--survey", type=Path, help="demo survey (default: WORK/survey, made if missing)")
    parser.add_argument("--objects", type=int, default=8000, help="objects for cutana to cut (default: 8000)")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of every measurement (default: 3)")
    parser.add_argument("--work", type=Path, default=work, help=f"folder for everything else (default: {work})")
    parser.add_argument("--json", type=Path, help="file for all values")
    options = parser.parse_args()
    if options.objects < LEAST or options.repeats < 1:
        parser.error(f"--objects must be at least {LEAST}, --repeats at least 1")
    return options


def _measure(options: argparse.Namespace) -> None:
    if not Path("/proc/self/task").exists():
        raise PeersError("this system has no /proc to sample memory from: run the benchmark on Linux")
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    original = _survey(options.survey, work) / "survey.toml"
    python = _peers_python(work / "peers-environment")
    with tempfile.TemporaryDirectory(dir=work, prefix="peers-") as name:
        folder = Path(name)
        peers = peer_runs.run_job(python, folder, "versions", {})
        given = peer_runs.make_input(original, folder, python, options.objects)
        repeats = []
        for number in range(1, options.repeats + 1):
            m.say(f"repeat {number} of {options.repeats}")
            repeats.append(_repeat(given, folder, number))
    _report(peers, repeats, options.json)


def _survey(given: Path | None, work: Path) -> Path:
    """Return the folder of the survey. Without a folder, use the survey of an earlier run or make a survey."""
    survey = given or work / "survey"
    if not (survey / "survey.toml").is_file():
        if given:
            raise PeersError(f"{given} has no survey.toml: name the folder of a demo survey, or leave --survey out")
        m.say(f"making a survey of one tile of {TILE_SIZE} px with {OBJECTS} objects in {survey}")
        m.in_fresh_process(bench.make_one_tile, survey, TILE_SIZE, OBJECTS)
    return survey


def _peers_python(environment: Path) -> Path:
    """Return the interpreter of the environment of the peers; make the environment if missing."""
    python = environment / "bin" / "python"
    if not (environment / "bin" / "pip").exists():
        m.say(f"making an environment for the peers in {environment}")
        _install([sys.executable, "-m", "venv", "--clear", str(environment)], "apt-get install python3-venv")
    # pip does not contact the package index for installed packages
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS]
    _install(command, f"check that pip reaches the package index, or remove {environment}")
    return python


def _install(command: list[str], remedy: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = peer_runs.last_line(done.stdout + done.stderr)
        raise PeersError(f"cannot make the environment of the peers: {said}: {remedy}")


def _repeat(given: Input, folder: Path, number: int) -> m.Values:
    """Measure everything once. Cutana runs right after the build compared with cutana."""
    neighbours = m.Neighbours()
    values: m.Values = {}
    for tool in ("mosaic", "mosaic_plain", "cutana", "cutana_small", "loop", "astrocut", "stamps"):
        made = folder / tool
        found = peer_runs.RUNS[tool](given, made, np.random.default_rng(number))
        shutil.rmtree(made)
        m.say(f"  {tool}: " + ", ".join(f"{key} {value:,.2f}" for key, value in found.items()))
        values |= m.prefixed(tool, found)
    values["others_cores"] = neighbours.cores()
    return values | _ratios(values)


def _ratios(values: Mapping[str, float]) -> m.Values:
    """Return the ratios of the other programs to this package."""
    rate = {tool: values[f"{tool}.objects_per_second"] for tool in TOOLS}
    return {
        "speed_plain": rate["mosaic_plain"] / rate["cutana"],
        "cpu_plain": values["cutana.cpu_ms"] / values["mosaic_plain.cpu_ms"],
        "speed": rate["mosaic"] / rate["cutana"],
        "cpu": values["cutana.cpu_ms"] / values["mosaic.cpu_ms"],
        "memory": values["cutana.own_gb"] / values["mosaic_plain.own_gb"],
        "bytes": values["cutana.kib_per_object"] / values["mosaic.kib_per_object"],
        "speed_small_plain": rate["mosaic_plain"] / rate["cutana_small"],
        "speed_small": rate["mosaic"] / rate["cutana_small"],
        "memory_small": values["cutana_small.own_gb"] / values["mosaic_plain.own_gb"],
        "speed_loop": rate["mosaic"] / rate["loop"],
        "speed_astrocut": rate["mosaic"] / rate["astrocut"],
    }


def _report(peers: Mapping[str, str], repeats: list[m.Values], path: Path | None) -> None:
    count = int(repeats[0]["mosaic.objects"])
    print(f"One tile, {count:,} objects, five bands; one worker process each; medians of {len(repeats)} repeats.\n")
    print(f"{_programs(repeats)}\n\n{table.as_text(repeats, QUANTITIES)}\n")
    print(f"{table.machine()}\npeers: {', '.join(f'{name} {version}' for name, version in peers.items())}")
    if path:
        answer = {"machine": table.machine(), "peers": peers, "repeats": repeats}
        path.write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")


def _programs(repeats: list[m.Values]) -> str:
    """Return the table of programs, one row each."""
    lines = [("one worker", *(column.head for column in COLUMNS))]
    for tool, name in TOOLS.items():
        shown = (column.show([values[f"{tool}.{column.key}"] for values in repeats]) for column in COLUMNS)
        lines.append((name, *shown))
    return table.aligned(lines, words=1)


if __name__ == "__main__":
    main()
