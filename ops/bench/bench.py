"""Main benchmark: build and read an archive of one tile, beside a plain Cutout2D loop, in one run.

usage: python ops/bench/bench.py [--survey DIR] [--tile-size PX] [--objects N] [--repeats N] [--work DIR] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from pathlib import Path

import measurements as m
import table
from table import Quantity

from archive_builder.survey.demo import make_survey
from archive_builder.survey.recipe import QualitySection, load_recipe

VARIANTS = {
    "mosaic_16": 'layout = "mosaic"\nquantization = 16',
    "mosaic_4": 'layout = "mosaic"\nquantization = 4',
    "everything": 'layout = "mosaic"\nquantization = 16\nplanes = ["WGT", "MSK"]',
    "stamps_16": 'layout = "stamps"\nquantization = 16',
}
"""``[storage]`` of each archive, in build order. Only ``everything`` keeps the colour picture."""

QUANTITIES = (
    Quantity("mosaic_16.objects_per_second", "build, mosaic q=16", "objects/s", 1700),
    Quantity("mosaic_4.objects_per_second", "build, mosaic q=4", "objects/s", 1700),
    Quantity("stamps_16.objects_per_second", "build, stamps q=16", "objects/s", 500),
    Quantity("mosaic_16.seconds", "build time of the tile, mosaic q=16", "s", digits=1),
    Quantity("stamps_16.seconds", "build time of the tile, stamps q=16", "s", digits=1),
    Quantity("mosaic_16.peak_memory_gb", "peak memory, mosaic q=16", "GB", 1.0, at_most=True, digits=2),
    Quantity("stamps_16.peak_memory_gb", "peak memory, stamps q=16", "GB", 1.0, at_most=True, digits=2),
    Quantity("mosaic_16.kib_per_object", "archive, mosaic q=16", "KiB/object", 12, at_most=True, digits=2),
    Quantity("mosaic_4.kib_per_object", "archive, mosaic q=4", "KiB/object", 9, at_most=True, digits=2),
    Quantity("everything.objects_per_second", "build, with weights, masks, colour", "objects/s"),
    Quantity("everything.peak_memory_gb", "peak memory, with weights, masks, colour", "GB", digits=2),
    Quantity("everything.kib_per_object", "archive, with weights, masks, colour", "KiB/object", digits=2),
    Quantity("everything.color_mb", "archive, colour picture alone", "MB", 60, at_most=True, digits=1),
    Quantity("everything.weight_mb", "archive, weights alone", "MB", digits=1),
    Quantity("everything.mask_mb", "archive, masks alone", "MB", digits=1),
    Quantity("stamps_16.kib_per_object", "archive, stamps q=16", "KiB/object", digits=1),
    Quantity("mosaic_16.get_per_second", "get, random, 228 px, mosaic", "objects/s", 600),
    Quantity("stamps_16.get_per_second", "get, random, 228 px, stamps", "objects/s"),
    Quantity("mosaic_16.get_many_228_per_second", "get_many, stored order, 228 px", "objects/s", 1200),
    Quantity("mosaic_16.get_many_64_per_second", "get_many, stored order, 64 px", "objects/s", 10000),
    Quantity("mosaic_16.get_many_228_random_per_second", "get_many, random order, 228 px", "objects/s"),
    Quantity("mosaic_16.get_many_64_random_per_second", "get_many, random order, 64 px", "objects/s"),
    Quantity("mosaic_16.locate_per_second", "locate", "objects/s"),
    Quantity("loop.read_seconds", "loop: read the tile", "s", digits=1),
    Quantity("loop.milliseconds_per_object", "loop: cut and write five files", "ms/object", digits=2),
    Quantity("loop.objects_per_second", "loop, whole tile", "objects/s", digits=1),
    Quantity("ratio", "build, mosaic q=16 / loop", "times", 35, digits=1),
    Quantity("others_cores", "cores busy with other processes", "cores", digits=2),
)
"""Rows of the table."""

DISK_PER_STAMP = 300 * 1024
"""Free disk needed for stamps, bytes an object. Stamps take 230 KiB at q=16 and 228 px."""


def main() -> None:
    options = _options()
    options.work.mkdir(parents=True, exist_ok=True)
    survey = options.survey or options.work / "survey"
    if not (survey / "survey.toml").exists():
        m.say(f"making a survey of one tile of {options.tile_size} px with {options.objects} objects in {survey}")
        m.in_fresh_process(make_one_tile, survey, options.tile_size, options.objects)
    repeats = []
    with tempfile.TemporaryDirectory(dir=options.work, prefix="bench-") as folder:
        recipes = write_recipes(survey / "survey.toml", Path(folder))
        for number in range(1, options.repeats + 1):
            m.say(f"repeat {number} of {options.repeats}")
            repeats.append(_repeat(recipes, Path(folder), number))
    _report(repeats, options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    work = Path(tempfile.gettempdir()) / "archive-bench"
    parser.add_argument("--survey", type=Path, help="demo survey, made if missing (default: WORK/survey)")
    parser.add_argument("--tile-size", type=int, default=10000, help="side of a new tile, px (default: 10000)")
    parser.add_argument("--objects", type=int, default=40000, help="objects of a new survey (default: 40000)")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of every measurement (default: 3)")
    parser.add_argument("--work", type=Path, default=work, help=f"folder for archives and cutouts (default: {work})")
    parser.add_argument("--json", type=Path, help="file for all values")
    return parser.parse_args()


def make_one_tile(survey: Path, tile_size: int, objects: int) -> None:
    make_survey(survey, tiles=1, tile_size=tile_size, objects=objects)


def write_recipes(original: Path, folder: Path) -> dict[str, Path]:
    """Write one recipe a variant, without quality thresholds: every object is stored."""
    root = load_recipe(original).survey.root
    text = re.sub(r"(?ms)^\[(quality|storage)\].*?(?=^\[|\Z)", "", original.read_text(encoding="utf-8"))
    text = re.sub(r"(?m)^root *=.*$", lambda _: f"root = {json.dumps(str(root))}", text)
    recipes = {}
    without_color = re.sub(r"(?m)^color *=.*$", "", text)
    for name, storage in VARIANTS.items():
        recipes[name] = folder / f"{name}.toml"
        head = text if name == "everything" else without_color
        recipes[name].write_text(f"{head}\n[storage]\n{storage}\n", encoding="utf-8")
        recipe = load_recipe(recipes[name])
        assert (recipe.survey.root, recipe.quality) == (root, QualitySection()), f"cannot rewrite {original}"
    return recipes


def _repeat(recipes: dict[str, Path], folder: Path, number: int) -> dict[str, float]:
    """Measure everything once. The loop runs right after the build that is compared with the loop."""
    neighbours = m.Neighbours()
    values: dict[str, float] = {}
    for name, recipe in recipes.items():
        if name == "stamps_16" and not _room_for_stamps(folder, values["mosaic_16.objects"]):
            continue
        archive = folder / name
        values |= _prefixed(name, m.in_fresh_process(m.measure_build, recipe, archive))
        if name == "mosaic_16":
            values |= _prefixed("loop", m.in_fresh_process(m.measure_loop, recipe, folder / "loop", number))
            values |= _prefixed(name, _reads(archive, number))
        if name != "everything":
            values |= _prefixed(name, m.in_fresh_process(m.measure_get, archive, number))
        shutil.rmtree(archive)
    values["ratio"] = values["mosaic_16.objects_per_second"] / values["loop.objects_per_second"]
    if m.busy_seconds():
        values["others_cores"] = neighbours.cores()
    return values


def _reads(archive: Path, seed: int) -> m.Values:
    """Measure all reads from the default layout."""
    values = m.in_fresh_process(m.measure_locate, archive, seed)
    for size in m.BATCHES:
        values |= m.in_fresh_process(m.measure_get_many, archive, size, seed)
    return values


def _prefixed(name: str, values: m.Values) -> m.Values:
    m.say("  " + name + ": " + ", ".join(f"{key} {value:,.2f}" for key, value in values.items()))
    return m.prefixed(name, values)


def _room_for_stamps(folder: Path, objects: float) -> bool:
    free, needed = shutil.disk_usage(folder).free, objects * DISK_PER_STAMP
    if free < needed:
        m.say(f"  SKIPPED: stamps need {needed / 1e9:.1f} GB in {folder}; {free / 1e9:.1f} GB free")
    return free >= needed


def _report(repeats: list[dict[str, float]], path: Path | None) -> None:
    count = int(repeats[0]["mosaic_16.objects"])
    print(f"One tile, {count:,} objects, all stored (no quality thresholds); medians of {len(repeats)} repeats.")
    if any("stamps_16.seconds" not in values for values in repeats):
        print("Stamps were SKIPPED in at least one repeat: too little free disk.")
    print(f"\n{table.as_text(repeats, QUANTITIES)}\n\n{table.machine()}")
    if path:
        answer = {"machine": table.machine(), "medians": table.medians(repeats, QUANTITIES), "repeats": repeats}
        path.write_text(json.dumps(answer, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
