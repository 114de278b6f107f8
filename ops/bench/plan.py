"""Benchmark of the forecast: forecasts of `plan`, compared with real builds in the same run.

usage: python ops/bench/plan.py SURVEY [--sample N] [--ways NAME,...] [--repeats N] [--work DIR]

SURVEY is a folder with a recipe, survey.toml: a demo survey with full-size tiles, for example. The benchmark keeps its
colour pictures and thresholds. One worker builds everything. The survey's files are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

import measurements as m
import table
from table import Quantity

from archive_builder.builder.driver import build
from archive_builder.forecast.forecast import Forecast
from archive_builder.forecast.plan import plan
from archive_builder.survey.discovery import discover
from archive_builder.survey.recipe import load_recipe

WAYS = {
    "mosaic_16": 'layout = "mosaic"\nquantization = 16',
    "mosaic_4": 'layout = "mosaic"\nquantization = 4',
    "mosaic_lossless": 'layout = "mosaic"\nquantization = "lossless"',
    "stamps_16": 'layout = "stamps"\nquantization = 16',
    "stamps_4": 'layout = "stamps"\nquantization = 4',
}
"""``[storage]`` sections by name. The plan is made for the first requested one; it also forecasts the others."""


def quantities(ways: list[str]) -> list[Quantity]:
    """Return the rows of the result table."""
    lines = [
        Quantity("plan_seconds", "plan", "s", digits=1),
        Quantity("plan_builds", "plan / build of the sampled tiles", "times", digits=2),
        Quantity("objects", "objects stored, forecast / build", "times", digits=3),
    ]
    for way in ways:
        name = way.replace("_", " ")
        lines += [
            Quantity(f"{way}.gb", f"{name}: archive", "GB", digits=2),
            Quantity(f"{way}.bytes", f"{name}: bytes, forecast / build", "times", digits=3),
            Quantity(f"{way}.core_minutes", f"{name}: core time", "min", digits=2),
            Quantity(f"{way}.core_hours", f"{name}: core hours, forecast / build", "times", digits=2),
            Quantity(f"{way}.wall", f"{name}: wall time, forecast / build", "times", digits=2),
        ]
    return lines


def main() -> None:
    options = _options()
    repeats = []
    with tempfile.TemporaryDirectory(dir=options.work, prefix="plan-") as folder:
        recipes = {way: _write_recipe(options.survey, Path(folder), way) for way in options.ways}
        for number in range(1, options.repeats + 1):
            m.say(f"repeat {number} of {options.repeats}")
            repeats.append(_repeat(recipes, Path(folder), options.sample, number))
    tiles = len(discover(load_recipe(options.survey / "survey.toml")).tiles)
    print(f"{tiles} tiles, {options.sample} of them sampled; medians of {len(repeats)} repeats.\n")
    print(f"{table.as_text(repeats, quantities(options.ways))}\n\n{table.machine()}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("survey", type=Path, help="folder of the survey")
    parser.add_argument("--sample", type=int, default=1, help="tiles to sample (default: 1)")
    parser.add_argument(
        "--ways", type=lambda text: text.split(","), default=list(WAYS), help=f"storages, from {','.join(WAYS)}"
    )
    parser.add_argument("--repeats", type=int, default=3, help="repeats of the whole measurement (default: 3)")
    parser.add_argument("--work", type=Path, help="folder for the archives (default: the system's temporary folder)")
    return parser.parse_args()


def _write_recipe(survey: Path, folder: Path, way: str) -> Path:
    """Write the survey's recipe with another ``[storage]`` section."""
    text = re.sub(r"(?ms)^\[storage\].*?(?=^\[|\Z)", "", (survey / "survey.toml").read_text(encoding="utf-8"))
    text = re.sub(r"(?m)^root *=.*$", lambda _: f"root = {json.dumps(str(survey.resolve()))}", text)
    path = folder / f"{way}.toml"
    path.write_text(f"{text}\n[storage]\n{WAYS[way]}\n", encoding="utf-8")
    return path


def _repeat(recipes: dict[str, Path], folder: Path, sample: int, number: int) -> m.Values:
    """Make the plan, then build the archive in every requested storage."""
    first = next(iter(recipes))
    for files in discover(load_recipe(recipes[first])).tiles:
        m.read_through(files)
    forecast, plan_seconds = m.in_fresh_process(measure_plan, recipes[first], sample, number, folder)
    values: m.Values = {"plan_seconds": plan_seconds}
    by_name = {f"{way.layout}_{_name(way.quantization)}": way for way in forecast.storages}
    for way, recipe in recipes.items():
        real = m.in_fresh_process(measure_build, recipe, folder / way)
        shutil.rmtree(folder / way)
        if way == first:
            values["objects"] = forecast.stored.value / real["stored"]
            values["plan_builds"] = plan_seconds / (real["core_seconds"] / forecast.tiles * len(forecast.sampled))
        hours = by_name[way].core_hours.value
        values |= {
            f"{way}.gb": real["bytes"] / 1e9,
            f"{way}.bytes": by_name[way].bytes.value / real["bytes"],
            f"{way}.core_minutes": real["core_seconds"] / 60,
            f"{way}.core_hours": hours * 3600 / real["core_seconds"],
            f"{way}.wall": hours * 3600 / real["wall_seconds"],
        }
        m.say(f"  {way}: bytes {values[f'{way}.bytes']:.3f}, core hours {values[f'{way}.core_hours']:.2f}")
    return values


def _name(quantization: float | str) -> str:
    return quantization if isinstance(quantization, str) else f"{quantization:g}"


def measure_plan(recipe: Path, sample: int, seed: int, work: Path) -> tuple[Forecast, float]:
    """Make a plan; return the forecast and the wall time, s."""
    started = time.perf_counter()
    forecast = plan(recipe, sample=sample, seed=seed, workers=(1,), work=work)
    return forecast, time.perf_counter() - started


def measure_build(recipe: Path, archive: Path) -> m.Values:
    """Build the archive; return its size, bytes, its stored objects and the times, s."""
    started = time.perf_counter()
    report = build(recipe, archive, workers=1)
    wall_seconds = time.perf_counter() - started
    if report.failures:
        raise RuntimeError(f"the build failed: {report.failures}")
    with closing(sqlite3.connect(archive / "index.sqlite")) as index:
        (core_seconds,) = index.execute("SELECT sum(seconds) FROM tiles").fetchone()
    size = sum(path.stat().st_size for path in archive.rglob("*") if path.is_file())
    return {"bytes": size, "stored": report.stored, "core_seconds": core_seconds, "wall_seconds": wall_seconds}


if __name__ == "__main__":
    main()
