"""Benchmark of the bookkeeping of a whole survey: a build with nothing to do, status, verify and reindex.

usage: python ops/bench/survey_scale.py TILES.csv [--work DIR] [--repeats N]

TILES.csv is the tile table of a survey, for example of DES DR2: a column ``tilename`` or ``tile``, separated by
semicolons or commas. Every tile gets empty stand-in files and a real shard of a few pixels.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import measurements as m
import numpy as np
import table
from table import Quantity

from archive_builder.atomic import rename_durably
from archive_builder.builder.commit import tile_entry, tile_record
from archive_builder.builder.driver import build
from archive_builder.builder.status import archive_status
from archive_builder.maintain.reindex import reindex
from archive_builder.maintain.verify import verify
from archive_builder.measure.quantize import NoiseScaled
from archive_builder.store.file_names import shard_name
from archive_builder.store.format import checksum
from archive_builder.store.index import Index
from archive_builder.store.records import ObjectTable, Settings, ShardInfo, TileEntry
from archive_builder.store.rows import RowBuffer
from archive_builder.store.shard_reader import Shard
from archive_builder.store.shard_writer import ShardWriter
from archive_builder.survey.discovery import TileFiles, discover
from archive_builder.survey.recipe import Recipe, load_recipe
from archive_builder.survey.tables import open_table

BANDS = ("g", "r", "i", "z", "Y")
SIDE, SIZE, OBJECTS = 40, 8, 4
"""Side of a stand-in tile and of its cutouts, px; objects a tile."""

RECIPE = """
[survey]
name = "Stand-in"
tiles = "tiles.csv"
bands = ["g", "r", "i", "z", "Y"]
image = "{tile}/{tile}_{band}.fits"
zero_point = 30.0
[catalog]
path = "{tile}/{tile}_cat.fits"
object_id = "ID"
ra = "RA"
dec = "DEC"
[cutout]
size = 8
"""

QUANTITIES = (
    Quantity("build", "build with nothing to do", "s", digits=2),
    Quantity("status", "status", "s", digits=2),
    Quantity("verify", "verify", "s", digits=2),
    Quantity("deep", "verify --deep", "s", digits=2),
    Quantity("reindex", "reindex", "s", digits=2),
)
"""Rows of the table."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tiles", type=Path, help="tile table")
    parser.add_argument("--work", type=Path, help="folder for the files (default: the system's temporary folder)")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of every measurement (default: 3)")
    options = parser.parse_args()
    names = tile_names(options.tiles)
    with tempfile.TemporaryDirectory(dir=options.work, prefix="scale-") as folder:
        m.say(f"making {len(names)} stand-in tiles")
        make_survey(Path(folder) / "survey", names)
        make_archive(Path(folder) / "survey/survey.toml", Path(folder) / "archive")
        repeats = [m.in_fresh_process(measure, Path(folder)) for _ in range(options.repeats)]
    text = table.as_text(repeats, QUANTITIES)
    print(f"{len(names):,} tiles; medians of {len(repeats)} repeats.\n\n{text}\n\n{table.machine()}")


def tile_names(path: Path) -> list[str]:
    """Return the tiles of a table."""
    table = open_table(path)
    name = "tile" if "tile" in table.names else "tilename"
    return sorted(table.read([name], text=True)[name].to_pylist())


def make_survey(folder: Path, names: list[str]) -> None:
    """Write empty files for every tile, and the recipe."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for ending in (*BANDS, "cat"):
            (folder / name / f"{name}_{ending}.fits").touch()
    (folder / "tiles.csv").write_text("tile\n" + "\n".join(names) + "\n", encoding="ascii")
    (folder / "survey.toml").write_text(RECIPE, encoding="ascii")


def make_archive(recipe_path: Path, archive: Path) -> None:
    """Write a shard for every tile, and the index."""
    recipe = load_recipe(recipe_path)
    (archive / "shards").mkdir(parents=True)
    with Index(archive, writable=True) as index:
        index.set_settings(Settings.of(recipe.pixel_settings(), SIZE))
        for number, files in enumerate(discover(recipe).tiles):
            index.commit_tiles([make_shard(archive, files, recipe, number)])


def make_shard(archive: Path, files: TileFiles, recipe: Recipe, number: int) -> TileEntry:
    """Write the shard of one tile; return its index entry."""
    codec = NoiseScaled((1.0,) * len(BANDS))
    footprint = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * 0.7 + [number % 500 * 0.7, number // 500 * 0.7]
    settings = json.dumps(recipe.pixel_settings(), sort_keys=True)
    info = ShardInfo(
        *("Stand-in", files.tile, 1, BANDS, ("SCI",), "mosaic", "16.0", SIZE, SIDE, SIDE, "integer", 63.0),
        *(np.full(len(BANDS), 30.0), footprint, files.fingerprint(), settings),
    )
    at = np.linspace(5, 30, OBJECTS)
    ids = np.arange(number * 1000, number * 1000 + OBJECTS)
    objects = ObjectTable(ids, at, at, at, at, np.ones((OBJECTS, len(BANDS)), np.float32))
    rows = RowBuffer(codec, (SIDE, SIDE))
    rows.append(np.random.default_rng(number).normal(0, 9, (len(BANDS), SIDE, SIDE)).astype(np.float32))
    path = archive / shard_name(files.tile, 1)
    with ShardWriter(path, info, {"SCI": ["SIMPLE  = T"] * len(BANDS)}, {"SCI": codec}) as shard:
        corner = at.astype(np.int64) - SIZE // 2
        shard.add_cutouts("SCI", corner, corner, rows)
        for slab_number, slab in rows.release(SIDE):
            shard.add_slab("SCI", slab_number, slab)
        shard.finish(objects, objects.take(np.empty(0, dtype=np.intp)), np.empty(0, np.uint8))
    rename_durably(shard.draft, path)
    with Shard(path) as made:
        return tile_entry(made, tile_record(made, checksum=checksum(path)), replaced=ids[:0])


def measure(folder: Path) -> m.Values:
    """Time each command once, s."""
    archive, values = folder / "archive", {}
    started = time.perf_counter()
    report = build(folder / "survey/survey.toml", archive, workers=1)
    values["build"] = time.perf_counter() - started
    if report.built or report.failures or not report.unchanged:
        raise RuntimeError(f"the build found tiles to build: {report}")
    started = time.perf_counter()
    if archive_status(archive).built != report.unchanged:
        raise RuntimeError("status and build count different numbers of built tiles")
    values["status"] = time.perf_counter() - started
    for name, deep in (("verify", False), ("deep", True)):
        started = time.perf_counter()
        if findings := list(verify(archive, deep=deep)):
            raise RuntimeError(f"verify reports {len(findings)} findings, the first: {findings[0]}")
        values[name] = time.perf_counter() - started
    started = time.perf_counter()
    reindex(archive)
    values["reindex"] = time.perf_counter() - started
    return values


if __name__ == "__main__":
    main()
