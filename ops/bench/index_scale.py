"""Benchmark of the index of a whole survey: fill the index as a build does, then query and change the index.

usage: python ops/bench/index_scale.py TILES.csv [--objects N] [--text] [--work DIR] [--repeats N]

TILES.csv is the tile table of a survey, for example of DES DR2: a column ``tilename`` or ``tile``, and the corners in
deg, ``rall``, ``decll``, ``raur``, ``decur``. The objects are synthetic. Each tile has a block of IDs with gaps, as in
DES; with ``--text`` the IDs are text, ``0061407/318``. The tiles are committed in random order, as by many workers. No
shards are written.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import measurements as m
import numpy as np
import table
from numpy.typing import NDArray
from survey_scale import BANDS, RECIPE, SIZE
from table import Quantity

from archive_builder import Archive
from archive_builder.builder.one_tile import peak_memory
from archive_builder.builder.status import archive_status
from archive_builder.measure.quality import Status, count_reasons
from archive_builder.object_ids import IdKind, ObjectIds
from archive_builder.store.file_names import INDEX_NAME, shard_name
from archive_builder.store.index import Index, object_places
from archive_builder.store.records import Settings, TileEntry, TileRecord
from archive_builder.survey.recipe import load_recipe
from archive_builder.survey.tables import open_table

FIRST_ID = 61_407_318
"""First object ID, near the first one of DES."""

IN_USE = 0.9
"""Fraction of the IDs in the block of a tile that belong to objects."""

BETWEEN = 2000
"""Maximum number of unused IDs between two blocks."""

SPREAD = 0.3
"""Standard deviation of the objects a tile, as a fraction of the mean."""

SKIPPED = 0.07
"""Fraction of objects without a cutout."""

LOOKUPS, BATCH, LIST, POSITIONS = 20_000, 100_000, 1_000_000, 1_000_000
"""Random IDs for single lookups, for one batch, for a long list; positions to locate on tiles."""

TILES = 20
"""Tiles to replace, and tiles to compare with the index as verify does."""

QUANTITIES = (
    Quantity("fill.rows_per_second", "fill the index", "objects/s", 800_000),
    Quantity("fill.rows_per_cpu_second", "fill the index, by CPU time", "objects/s"),
    Quantity("fill.tile_ms", "commit a tile, mean", "ms", digits=1),
    Quantity("fill.gigabytes", "size of the index", "GB", 7, at_most=True, digits=2),
    Quantity("fill.row_bytes", "size of the index, one object", "bytes", digits=1),
    Quantity("fill.peak_memory_gb", "peak memory, fill the index", "GB", digits=2),
    Quantity("one.p50_ms", "locate, median", "ms", 0.2, at_most=True, digits=3),
    Quantity("one.p99_ms", "locate, 99th percentile", "ms", 1, at_most=True, digits=3),
    Quantity("batch.seconds", "find, 100,000 random IDs", "s", 3, at_most=True, digits=2),
    Quantity("list.seconds", "find, 1,000,000 random IDs", "s", digits=2),
    Quantity("list.peak_memory_gb", "peak memory, find 1,000,000 random IDs", "GB", digits=2),
    Quantity("positions.seconds", "tiles of 1,000,000 positions", "s", 5, at_most=True, digits=2),
    Quantity("positions.peak_memory_gb", "peak memory, tiles of 1,000,000 positions", "GB", digits=2),
    Quantity("replace.tile_ms", "replace a tile", "ms", digits=0),
    Quantity("unreadable.tile_ms", "replace a tile with an unreadable old shard", "ms", digits=0),
    Quantity("status.seconds", "status", "s", digits=2),
    Quantity("verify.tile_ms", "verify: index part, one tile", "ms", digits=1),
    Quantity("verify.count_seconds", "verify: object count", "s", digits=1),
    Quantity("verify.seconds", "verify: index part, all tiles, one process", "s", digits=0),
    Quantity("structure.seconds", "verify --deep: index structure", "s", digits=0),
)
"""Rows of the table."""


@dataclass(frozen=True)
class Survey:
    """A synthetic survey."""

    table: Path
    """File with the tile table."""

    objects: int
    """Objects of all tiles together."""

    id_kind: IdKind = "integer"
    """Kind of the object IDs."""

    def ids(self, numbers: NDArray[np.int64]) -> ObjectIds:
        """Return numbers as IDs: themselves, or text in the order of the numbers."""
        if self.id_kind == "integer":
            return numbers
        return np.array([f"{n // 1000:07d}/{n % 1000:03d}" for n in numbers.tolist()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tiles", type=Path, help="tile table")
    parser.add_argument(
        "--objects", type=int, default=400_000_000, help="objects in total (default: 400 million, 7 GB)"
    )
    parser.add_argument("--text", action="store_true", help="object IDs that are text (default: integers)")
    parser.add_argument("--work", type=Path, help="folder for the index (default: the system's temporary folder)")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of all but the filling (default: 3)")
    options = parser.parse_args()
    survey = Survey(options.tiles, options.objects, "text" if options.text else "integer")
    with tempfile.TemporaryDirectory(dir=options.work, prefix="index-") as folder:
        archive = Path(folder)
        m.say(f"filling an index with {options.objects:,} objects")
        repeats = [m.prefixed("fill", m.in_fresh_process(fill, archive, survey))]
        for number in range(options.repeats):
            m.say(f"repeat {number + 1} of {options.repeats}")
            repeats.append(measure(archive, survey, number))
            m.say("  " + ", ".join(f"{key} {value:,.3f}" for key, value in repeats[-1].items()))
    text = table.as_text(repeats, QUANTITIES)
    ids = " with text IDs" if options.text else ""
    head = f"{options.objects:,} objects{ids} on {len(read_tiles(options.tiles)[0]):,} tiles"
    print(f"{head}; filled once; other values: medians of {options.repeats} repeats.\n\n{text}\n\n{table.machine()}")


# ---- the survey


def read_tiles(path: Path) -> tuple[list[str], NDArray[np.float64]]:
    """Return the names of a table's tiles, and their corners (tiles, 2, 2): the lower and the upper one, RA and Dec."""
    table = open_table(path)
    name = "tile" if "tile" in table.names else "tilename"
    names: list[str] = table.read([name], text=True)[name].to_pylist()
    corners = table.read(["rall", "decll", "raur", "decur"])
    return names, np.stack(list(corners.values()), axis=1).astype(np.float64).reshape(-1, 2, 2)


def footprint(corners: NDArray[np.float64]) -> str:
    """Return the four corners of a tile as JSON, the format of the index."""
    (west, south), (east, north) = corners.tolist()
    return json.dumps([[west, south], [east, south], [east, north], [west, north]])


def entries(survey: Survey) -> Iterator[TileEntry]:
    """Yield synthetic tile entries in commit order. Every call yields the same entries."""
    names, corners = read_tiles(survey.table)
    rng = np.random.default_rng(0)
    share = rng.normal(1, SPREAD, len(names)).clip(0.1)
    counts = np.diff(np.rint(np.cumsum([0, *share]) / share.sum() * survey.objects).astype(np.int64))
    blocks = np.ceil(counts / IN_USE).astype(np.int64) + 1
    firsts = np.empty(len(names), dtype=np.int64)
    order = rng.permutation(len(names))  # the order of the IDs differs from that of the tile names
    firsts[order] = FIRST_ID + np.cumsum([0, *(blocks + rng.integers(0, BETWEEN, len(names)))[order]])[:-1]
    for n in rng.permutation(len(names)).tolist():
        ids = survey.ids(firsts[n] + rng.choice(blocks[n], counts[n], replace=False))
        stored, skipped = np.split(ids, [round(len(ids) * (1 - SKIPPED))])
        reason = rng.integers(1, max(Status) + 1, len(skipped), dtype=np.uint8)
        tile = TileRecord(
            name=names[n],
            state="built",
            shard=shard_name(names[n], 1),
            generation=1,
            stored=len(stored),
            skipped=len(skipped),
            skipped_for=json.dumps(count_reasons(reason)),
            depth=json.dumps(dict.fromkeys(BANDS, 24.123456)),
            input_fingerprint="0123456789abcdef",
            recipe_fingerprint="0123456789abcdef",
            footprint=footprint(corners[n]),
            bytes=440_000_000,
            checksum="crc32:01234567",
            seconds=12.0,
            built_at="2026-01-01T00:00:00+00:00",
        )
        yield TileEntry(tile, stored, skipped, reason, ids[:0])


# ---- measurements


def fill(archive: Path, survey: Survey) -> m.Values:
    """Commit every tile in a separate transaction, flushed to disk, as a build does."""
    recipe_path = archive / "survey.toml"
    recipe_path.write_text(RECIPE, encoding="ascii")
    seconds, cpu, rows, tiles = 0.0, 0.0, 0, 0
    with Index(archive, writable=True) as index:
        index.set_settings(Settings.of(load_recipe(recipe_path).pixel_settings(), SIZE, survey.id_kind))
        for entry in entries(survey):
            started, cpu_started = time.perf_counter(), time.process_time()
            index.commit_tiles([entry])
            seconds += time.perf_counter() - started
            cpu += time.process_time() - cpu_started
            rows, tiles = rows + len(entry.objects), tiles + 1
            if tiles % 1000 == 0:
                m.say(f"  {tiles:,} tiles, {rows:,} objects, {rows / seconds:,.0f} objects/s")
    return {
        "rows_per_second": rows / seconds,
        "rows_per_cpu_second": rows / cpu,
        "tile_ms": seconds / tiles * 1e3,
        "gigabytes": index.path.stat().st_size / 1e9,
        "row_bytes": index.path.stat().st_size / rows,
        "peak_memory_gb": peak_memory() / 1e9,
    }


def measure(archive: Path, survey: Survey, seed: int) -> m.Values:
    """Measure everything but the filling once, each in a new process with the file in the page cache."""
    values: m.Values = {}
    for name, function, *arguments in (
        ("one", measure_locate, survey, seed),
        ("batch", measure_find, survey, BATCH, seed),
        ("list", measure_find, survey, LIST, seed),
        ("positions", measure_positions, survey, seed),
        ("status", measure_status),
        ("verify", measure_verify, survey, seed),
        ("structure", measure_structure),
        ("replace", measure_replace, survey, seed, True),
        ("unreadable", measure_replace, survey, seed, False),
    ):
        m.read_file(archive / INDEX_NAME)
        values |= m.prefixed(name, m.in_fresh_process(function, archive, *arguments))
    return values


def measure_locate(archive: Path, survey: Survey, seed: int) -> m.Values:
    """Locate random objects one by one, after an equal number of unmeasured lookups."""
    ids = random_ids(archive, survey, 2 * LOOKUPS, seed).tolist()
    times = []
    with Archive(archive) as opened, closing(sqlite3.connect(archive / INDEX_NAME)) as bare:
        there = [n for n in ids if bare.execute("SELECT 1 FROM objects WHERE object_id = ?", [n]).fetchone()]
        for object_id in there:
            started = time.perf_counter()
            opened.locate(object_id)
            times.append(time.perf_counter() - started)
    p50, p99 = np.percentile(times[len(times) // 2 :], [50, 99]) * 1e3
    return {"p50_ms": float(p50), "p99_ms": float(p99)}


def measure_find(archive: Path, survey: Survey, count: int, seed: int) -> m.Values:
    """Find random IDs in one call; the time includes opening the archive. Some IDs belong to no object."""
    ids = random_ids(archive, survey, count, seed)
    before = peak_memory() / 1e9
    started = time.perf_counter()
    with Archive(archive) as opened:
        places = opened.reader.find(ids)
    seconds = time.perf_counter() - started
    if not 0 < (places.tile_id >= 0).mean() < 1:
        raise RuntimeError(f"{(places.tile_id >= 0).mean():.0%} of the IDs found; expected some, not all")
    return {"seconds": seconds, "peak_memory_gb": max(before, peak_memory() / 1e9)}


def measure_positions(archive: Path, survey: Survey, seed: int) -> m.Values:
    """Find the tiles of random positions in one call; the time includes opening the archive."""
    rng = np.random.default_rng(seed)
    corners = read_tiles(survey.table)[1]
    (west, south), (east, north) = corners[rng.integers(0, len(corners), POSITIONS)].transpose(1, 2, 0)
    ra = (west + rng.random(POSITIONS) * ((east - west) % 360)) % 360
    dec = south + rng.random(POSITIONS) * (north - south)
    started = time.perf_counter()
    with Archive(archive) as opened:
        tiles = opened.reader.tiles_at(ra, dec)
    seconds = time.perf_counter() - started
    if (tiles >= 0).mean() < 0.95:
        raise RuntimeError(f"only {(tiles >= 0).mean():.0%} of the positions lie on a tile; expected at least 95%")
    return {"seconds": seconds, "peak_memory_gb": peak_memory() / 1e9}


def measure_status(archive: Path) -> m.Values:
    """Time the status of the archive."""
    return {"seconds": _seconds(lambda: archive_status(archive))}


def measure_verify(archive: Path, survey: Survey, seed: int) -> m.Values:
    """Compare the objects of some tiles with the index, and count all objects."""
    some = list(islice(entries(survey), seed * TILES, (seed + 1) * TILES))
    with Index(archive) as index:
        seconds = 0.0
        for entry in some:
            ids, row, status = object_places(entry.stored, entry.skipped, entry.reason)
            started = time.perf_counter()
            places = index.find(ids)
            seconds += time.perf_counter() - started
            if not ((places.row == row) & (places.status == status)).all():
                raise RuntimeError(f"tile {entry.tile.name}: the index differs from the commit")
        count_seconds = _seconds(index.count_objects)
    tiles = len(read_tiles(survey.table)[0])
    return {
        "tile_ms": seconds / len(some) * 1e3,
        "count_seconds": count_seconds,
        "seconds": seconds / len(some) * tiles + count_seconds,
    }


def measure_structure(archive: Path) -> m.Values:
    """Time SQLite's check of the whole file."""
    with Index(archive) as index:
        return {"seconds": _seconds(index.damage)}


def measure_replace(archive: Path, survey: Survey, seed: int, readable: bool) -> m.Values:
    """Replace tiles by tiles with the same objects, one transaction each, flushed to disk."""
    with Index(archive, writable=True) as index:
        some = [replace(e, replaced=e.objects if readable else None) for e in islice(entries(survey), TILES)]
        started = time.perf_counter()
        for entry in some:
            index.commit_tiles([entry])
        return {"tile_ms": (time.perf_counter() - started) / len(some) * 1e3}


# ---- tools


def random_ids(archive: Path, survey: Survey, count: int, seed: int) -> ObjectIds:
    """Return random IDs between the first and the last object ID."""
    with closing(sqlite3.connect(archive / INDEX_NAME)) as index:
        ends = (index.execute(f"SELECT {end}(object_id) FROM objects").fetchone()[0] for end in ("min", "max"))
        low, high = (int(str(end).replace("/", "")) for end in ends)
    return survey.ids(np.random.default_rng(seed).integers(low, high, count, endpoint=True))


def _seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
