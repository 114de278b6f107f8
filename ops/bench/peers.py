"""The benchmark beside others: one tile cut by this package, by its peers and by the loop, in one run.

usage: python ops/bench/peers.py [--survey DIR] [--objects N] [--repeats N] [--work DIR] [--json FILE]

The peers are cutana and astrocut, installed into an environment of their own in WORK. They read the same tile as plain
FITS files, which are made beforehand. It needs Linux, for memory is sampled from /proc.
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
"""The peers; pip finds what they need."""

TILE_SIZE, OBJECTS = 10_000, 40_000
"""Of the survey that is made where none is given."""

LEAST = 500
"""Objects to be cut by cutana: of fewer, starting it is all that is measured."""

TOOLS = {
    "mosaic": "archive-builder, mosaic q=16",
    "mosaic_plain": "archive-builder, from plain files",
    "stamps": "archive-builder, stamps q=16",
    "cutana": "cutana, batches of 1000 (default)",
    "cutana_small": "cutana, batches of 100",
    "loop": "loop of Cutout2D",
    "astrocut": "astrocut, FITSCutout",
}
"""The programs in the order of the answer."""


@dataclass(frozen=True)
class Column:
    """What is told of every program: the median of the repeats."""

    key: str
    """Of the measured value."""

    head: str
    digits: int = 0
    """After the decimal point."""

    spread: bool = False
    """Least to most of the repeats instead."""

    def show(self, values: Sequence[float]) -> str:
        shown = [f"{value:,.{self.digits}f}" for value in (min(values), median(values), max(values))]
        return f"{shown[0]} to {shown[2]}" if self.spread else shown[1]


COLUMNS = (
    Column("objects", "cut"),
    Column("objects_per_second", "objects/s", 1),
    Column("objects_per_second", "min to max", 1, spread=True),
    Column("own_gb", "memory, GB", 2),
    Column("resident_gb", "with mapped files, GB", 2),
    Column("kib_per_object", "KiB/object", 1),
    Column("there", "there, %", 1),
    Column("as_tile", "tile's pixels, %", 1),
    Column("blanks_too", "blanks too, %", 1),
    Column("same_window", "same window, %", 1),
)

QUANTITIES = (
    Quantity("speed_plain", "cutana / mosaic, of the same files: time an object and band", "times", 20, digits=1),
    Quantity("cpu_plain", "cutana / mosaic, of the same files: CPU time", "times", digits=1),
    Quantity("speed", "cutana / mosaic, which unpacks its files: time", "times", digits=1),
    Quantity("cpu", "cutana / mosaic, which unpacks its files: CPU time", "times", digits=1),
    Quantity("memory", "cutana / mosaic: memory", "times", 10, digits=1),
    Quantity("bytes", "cutana / mosaic: bytes an object and band", "times", 50, digits=1),
    Quantity("speed_small_plain", "cutana, batches of 100 / mosaic, of the same files: time", "times", 20, digits=1),
    Quantity("speed_small", "cutana, batches of 100 / mosaic: time", "times", digits=1),
    Quantity("memory_small", "cutana, batches of 100 / mosaic: memory", "times", 10, digits=1),
    Quantity("speed_loop", "loop / mosaic: time", "times", digits=1),
    Quantity("speed_astrocut", "astrocut / mosaic: time", "times", digits=1),
    Quantity("mosaic.cpu_ms", "mosaic, CPU time", "ms/object", digits=2),
    Quantity("mosaic_plain.cpu_ms", "mosaic, from plain files, CPU time", "ms/object", digits=2),
    Quantity("cutana.cpu_ms", "cutana, CPU time", "ms/object", digits=2),
    Quantity("cutana_small.cpu_ms", "cutana, batches of 100, CPU time", "ms/object", digits=2),
    Quantity("cutana.part_per_second", "cutana, of what it cut, not a whole tile", "objects/s", digits=1),
    Quantity("cutana_small.part_per_second", "cutana, batches of 100, of what it cut", "objects/s", digits=1),
    Quantity("others_cores", "cores others kept busy meanwhile", "cores", digits=2),
)
"""How they compare. All cut the same bands: times an object are times an object and band."""


def main() -> None:
    options = _options()
    try:
        _measure(options)
    except (PeersError, ArchiveBuilderError, RuntimeError, OSError) as error:
        sys.exit(f"error: {error}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    work = Path(tempfile.gettempdir()) / "archive-bench"
    parser.add_argument("--survey", type=Path, help="a demo survey (default: WORK/survey, made if it is not there)")
    parser.add_argument("--objects", type=int, default=8000, help="how many objects cutana cuts (default: 8000)")
    parser.add_argument("--repeats", type=int, default=3, help="how often everything is measured (default: 3)")
    parser.add_argument("--work", type=Path, default=work, help=f"where everything else goes (default: {work})")
    parser.add_argument("--json", type=Path, help="write all values here")
    options = parser.parse_args()
    if options.objects < LEAST or options.repeats < 1:
        parser.error(f"--objects must be at least {LEAST}, --repeats at least 1")
    return options


def _measure(options: argparse.Namespace) -> None:
    if not Path("/proc/self/task").exists():
        raise PeersError("this system has no /proc, from which memory is sampled: run it on Linux")
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
    """Return the folder of the survey, made if none is given and none is there from a run before."""
    survey = given or work / "survey"
    if not (survey / "survey.toml").is_file():
        if given:
            raise PeersError(f"{given} has no survey.toml: give a demo survey's folder, or none to have one made")
        m.say(f"making a survey of one tile of {TILE_SIZE} px with {OBJECTS} objects in {survey}")
        m.in_fresh_process(bench.make_one_tile, survey, TILE_SIZE, OBJECTS)
    return survey


def _peers_python(environment: Path) -> Path:
    """Return the interpreter of an environment that has the peers, made if it is not there."""
    python = environment / "bin" / "python"
    if not (environment / "bin" / "pip").exists():
        m.say(f"making an environment for the peers in {environment}")
        _install([sys.executable, "-m", "venv", "--clear", str(environment)], "apt-get install python3-venv")
    # pip asks no index for what is there already
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS]
    _install(command, f"see whether pip reaches its index, or remove {environment}")
    return python


def _install(command: list[str], remedy: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = peer_runs.last_line(done.stdout + done.stderr)
        raise PeersError(f"the peers' environment cannot be made: {said}: {remedy}")


def _repeat(given: Input, folder: Path, number: int) -> m.Values:
    """Measure everything once; cutana comes right after the build it is compared with."""
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
    """Return what the others take by what this package takes."""
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
    """Return the table of a line a program."""
    lines = [("one worker", *(column.head for column in COLUMNS))]
    for tool, name in TOOLS.items():
        shown = (column.show([values[f"{tool}.{column.key}"] for values in repeats]) for column in COLUMNS)
        lines.append((name, *shown))
    return table.aligned(lines, words=1)


if __name__ == "__main__":
    main()
