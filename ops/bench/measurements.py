"""Measurements shared by the benchmarks: build an archive, read an archive, and run a plain Cutout2D loop."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS
from numpy.typing import NDArray

from archive_builder import Archive
from archive_builder.builder.driver import build
from archive_builder.survey.catalog import read_catalog
from archive_builder.survey.discovery import TileFiles, discover
from archive_builder.survey.recipe import Recipe, load_recipe

SIZE = 228
"""Side of the archived cutouts and of the cutouts of the loop, px: one arcminute."""

BATCHES = {SIZE: 200, 64: 2000}
"""Objects a call of `Archive.get_many`, by cutout size in px: 208 and 164 MB of float32."""

GET_SAMPLE, RANDOM_SAMPLE, LOOP_SAMPLE = 1000, 4000, 400
"""Objects for `get`; for `get_many` in random order and `locate`; for the loop."""

Values = dict[str, float]
"""Measured values by key; each benchmark lists its keys in `QUANTITIES`."""

T = TypeVar("T")


def in_fresh_process(function: Callable[..., T], *arguments: object) -> T:
    """Call a function in a new process.

    A measurement inherits no caches and no memory of another. On Linux the peak memory of a new process starts
    with that of its parent, so the process that starts a build must be small.
    """
    os.sync()  # otherwise this measurement waits for writes of the one before
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def say(text: str) -> None:
    """Print a progress message on stderr, apart from the result."""
    print(text, file=sys.stderr, flush=True)


def prefixed(name: str, values: Values) -> Values:
    """Return the values with a prefix before each key."""
    return {f"{name}.{key}": value for key, value in values.items()}


class Neighbours:
    """CPU use of other processes on this machine, from the creation of the object."""

    def __init__(self) -> None:
        self._started, self._busy, self._own = time.perf_counter(), busy_seconds(), own_seconds()

    def own_seconds(self) -> float:
        """Return the CPU time of this process and its finished children since the creation, s."""
        return own_seconds() - self._own

    def cores(self) -> float:
        """Return the mean number of cores busy with other processes since the creation; 0 without /proc/stat."""
        others = (busy_seconds() - self._busy) - self.own_seconds()
        return max(others, 0.0) / (time.perf_counter() - self._started)


def busy_seconds() -> float:
    """Return the busy time of all cores since boot, s; 0 without /proc/stat."""
    if not Path("/proc/stat").exists():
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, steal, *_ = (
        int(n) for n in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """Return the CPU time of this process and its finished children, s."""
    return sum(os.times()[:4])


def first_tile(recipe: Recipe) -> TileFiles:
    """Return the files of the first tile of the survey: the tile to measure."""
    return discover(recipe).tiles[0]


def read_through(files: TileFiles) -> None:
    """Read the files of a tile into the page cache."""
    for path in files.paths:
        read_file(path)


def read_file(path: Path) -> None:
    """Read a file into the page cache."""
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


# ---- build


def measure_build(recipe_path: Path, archive: Path) -> Values:
    """Build one tile with one worker; the time includes the start of the worker and the index."""
    tile = first_tile(load_recipe(recipe_path))
    read_through(tile)
    started = time.perf_counter()
    report = build(recipe_path, archive, tiles=[tile.tile], workers=1)
    seconds = time.perf_counter() - started
    if report.failures:
        raise RuntimeError(f"the build failed: {report.failures}")
    if any(report.skipped.values()):
        raise RuntimeError(
            f"the build skipped objects; figures per catalogued object need all of them: {report.skipped}"
        )
    total = sum(path.stat().st_size for path in archive.rglob("*") if path.is_file())
    return {
        "seconds": seconds,
        "objects": report.stored,
        "objects_per_second": report.stored / seconds,
        "peak_memory_gb": report.peak_memory / 1e9,
        "kib_per_object": total / report.stored / 1024,
        **{f"{group}_mb": _group_bytes(archive, group) / 1e6 for group in ("color", "weight", "mask")},
    }


def _group_bytes(archive: Path, group: str) -> int:
    """Return the disk space of the datasets of one group, over all shards, bytes."""
    total = 0
    for path in archive.glob("shards/*.h5"):
        with h5py.File(path) as shard:
            kept = (dataset for dataset in shard.get(group, {}).values() if isinstance(dataset, h5py.Dataset))
            total += sum(dataset.id.get_storage_size() for dataset in kept)
    return total


# ---- read


def stored_ids(archive: Path) -> NDArray[np.int64]:
    """Return the IDs of all objects with a cutout in stored order, int64 (N,)."""
    with closing(sqlite3.connect(f"file:{archive / 'index.sqlite'}?mode=ro", uri=True)) as index:
        rows = index.execute("SELECT object_id FROM objects WHERE status = 0 ORDER BY tile_id, row").fetchall()
    return np.array(rows, dtype=np.int64)[:, 0]


def measure_get(archive: Path, seed: int) -> Values:
    """Get random objects one by one: all bands, full size. The time includes opening the archive."""
    ids = _sample(stored_ids(archive), GET_SAMPLE, seed).tolist()
    started = time.perf_counter()
    with Archive(archive) as opened:
        for object_id in ids:
            opened.get(object_id)
    return {"get_per_second": len(ids) / (time.perf_counter() - started)}


def measure_get_many(archive: Path, size: int, seed: int) -> Values:
    """Get all objects in batches in stored order, then a sample in random order."""
    ids = stored_ids(archive)
    return {
        f"get_many_{size}_per_second": _get_many_rate(archive, ids, size),
        f"get_many_{size}_random_per_second": _get_many_rate(archive, _sample(ids, RANDOM_SAMPLE, seed), size),
    }


def measure_locate(archive: Path, seed: int) -> Values:
    """Locate random objects one by one."""
    ids = _sample(stored_ids(archive), RANDOM_SAMPLE, seed).tolist()
    started = time.perf_counter()
    with Archive(archive) as opened:
        for object_id in ids:
            opened.locate(object_id)
    return {"locate_per_second": len(ids) / (time.perf_counter() - started)}


def _get_many_rate(archive: Path, ids: NDArray[np.int64], size: int) -> float:
    """Return the rate of `get_many`, objects/s; the time includes opening the archive."""
    started = time.perf_counter()
    with Archive(archive) as opened:
        for first in range(0, len(ids), BATCHES[size]):
            opened.get_many(ids[first : first + BATCHES[size]], size=size)
    return len(ids) / (time.perf_counter() - started)


def _sample(ids: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Return a sample of the IDs in random order, without duplicates."""
    return np.random.default_rng(seed).choice(ids, min(count, len(ids)), replace=False)


# ---- the loop


def measure_loop(recipe_path: Path, folder: Path, seed: int) -> Values:
    """Run the loop and remove its files."""
    values = run_loop(recipe_path, folder, seed)
    shutil.rmtree(folder)
    return values


def run_loop(recipe_path: Path, folder: Path, seed: int) -> Values:
    """Cut a sample with astropy: read the tile once, then write one Cutout2D and one FITS file an object and band.

    Reading and cutting are timed separately. The rate is that of a whole tile.
    """
    recipe = load_recipe(recipe_path)
    tile = first_tile(recipe)
    read_through(tile)
    catalog = read_catalog(tile.catalog, recipe.catalog, tile.tile)
    rows = _sample(np.arange(len(catalog.object_id)), LOOP_SAMPLE, seed)
    folder.mkdir()
    started = time.perf_counter()
    images = {band: _read_image(path, recipe.survey.image_hdu) for band, path in tile.images.items()}
    read_seconds = time.perf_counter() - started
    started = time.perf_counter()
    coords = SkyCoord(catalog.ra[rows], catalog.dec[rows], unit=u.deg)
    for object_id, coord in zip(catalog.object_id[rows].tolist(), coords, strict=True):
        _cut_and_write(images, object_id, coord, folder)
    per_object = (time.perf_counter() - started) / len(rows)
    count = len(catalog.object_id)
    return {
        "read_seconds": read_seconds,
        "milliseconds_per_object": per_object * 1e3,
        "objects_per_second": count / (read_seconds + count * per_object),
    }


def _read_image(path: Path, hdu: str | int | None) -> tuple[NDArray[np.float32], WCS]:
    """Read a whole image and its WCS."""
    with fits.open(path) as file:
        image = file[1 if hdu is None else hdu]
        return image.data, WCS(image.header)


def _cut_and_write(
    images: dict[str, tuple[NDArray[np.float32], WCS]], object_id: int, coord: SkyCoord, folder: Path
) -> None:
    """Write the cutouts of one object, one FITS file a band."""
    for band, (data, wcs) in images.items():
        cutout = Cutout2D(data, coord, SIZE, wcs=wcs, mode="partial", fill_value=np.nan)
        fits.PrimaryHDU(cutout.data, cutout.wcs.to_header()).writeto(folder / f"{object_id}_{band}.fits")
