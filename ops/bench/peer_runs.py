"""Input, run and result of each program: rate, memory, bytes, and agreement with the tile."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import bench
import measurements as m
import numpy as np
import pyarrow as pa
from astropy.io import fits
from fidelity import Sample, Source
from numpy.typing import NDArray
from pyarrow import parquet
from usage import Usage

from archive_builder import Archive
from archive_builder.survey.catalog import Catalog, read_catalog
from archive_builder.survey.discovery import TileFiles
from archive_builder.survey.recipe import load_recipe

PART = 5
"""Factor between the two runs of cutana. The difference of the runs gives the time an object."""

CHECKED = 500
"""Maximum cutouts of a program to compare with the tile."""

SMALL_BATCH = 100
"""Batch size of cutana's worker for small memory, objects. The default of cutana is 1000."""


class PeersError(Exception):
    """A measurement is impossible; the message gives the reason and the remedy."""


@dataclass(frozen=True)
class Input:
    """A tile, and the input of each program."""

    recipes: Mapping[str, Path]
    """Recipes of this package by run, without quality thresholds and colour picture."""

    catalog: Catalog
    """Catalogue of all objects."""

    plain: TileFiles
    """Files of the tile with the images as plain FITS files, one a band."""

    source: Source
    """Pixels to compare the cutouts with."""

    python: Path
    """Python interpreter of the environment of the peers."""

    objects: int
    """Objects for cutana to cut."""


Run: TypeAlias = Callable[[Input, Path, np.random.Generator], m.Values]
"""Function that cuts a tile or a random part of a tile into a new folder."""


def make_input(original: Path, folder: Path, python: Path, objects: int) -> Input:
    """Write the recipes and the plain images into a folder.

    Raises
    ------
    PeersError
        The disk has too little free space.
    """
    recipes = bench.write_recipes(original, folder)
    recipe = load_recipe(original)
    tile = m.first_tile(recipe)
    catalog = read_catalog(tile.catalog, recipe.catalog, tile.tile)
    count = len(catalog.object_id)
    objects = min(objects, count)
    _check_room(folder, objects, count, len(tile.images))
    images = {band: folder / f"{tile.tile}_{band}.fits" for band in tile.images}
    m.in_fresh_process(_write_plain, tile.images, images, recipe.survey.image_hdu)
    source = Source(list(images.values()), catalog.ra, catalog.dec)
    ours = {
        "mosaic": recipes["mosaic_16"],
        "mosaic_plain": _plain_recipe(recipes["mosaic_16"], tile, folder),
        "stamps": recipes["stamps_16"],
    }
    return Input(ours, catalog, replace(tile, images=images, color=None), source, python, objects)


def _check_room(folder: Path, objects: int, count: int, bands: int) -> None:
    """Raise an error without free disk for the largest output of a program, and 3 GB for the plain images."""
    needed = max(objects * bands * m.SIZE**2 * 4, count * bench.DISK_PER_STAMP) + 3e9
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise PeersError(
            f"{folder.parent} has {free / 1e9:.1f} GB free, the benchmark needs {needed / 1e9:.1f} GB: "
            "choose another --work, or fewer --objects"
        )


def _plain_recipe(path: Path, tile: TileFiles, folder: Path) -> Path:
    """Write a recipe for the plain images of a folder, and copy the catalogue to the folder."""
    recipe = load_recipe(path)
    shutil.copy(tile.catalog, folder / f"{tile.tile}.catalog.fits")
    changed = {"root": str(folder), "image": "{tile}_{band}.fits", "path": "{tile}.catalog.fits"}
    text = re.sub(r"(?m)^image_hdu *=.*\n", "", path.read_text(encoding="utf-8"))
    for key, value in changed.items():
        text = re.sub(rf"(?m)^{key} *=.*$", f"{key} = '{value}'", text)
    plain = path.with_stem(f"{path.stem}_plain")
    plain.write_text(text, encoding="utf-8")
    if load_recipe(plain).storage != recipe.storage:
        raise PeersError(f"{path}: cannot rewrite the recipe for plain files: use the recipe of a demo survey")
    return plain


def _write_plain(images: Mapping[str, Path], plain: Mapping[str, Path], hdu: str | int | None) -> None:
    """Write the image of each band to an uncompressed FITS file with one HDU."""
    for band, path in images.items():
        with fits.open(path) as file:
            image = file[1 if hdu is None else hdu]
            fits.PrimaryHDU(image.data, image.header).writeto(plain[band])


# ---- this package


def _build(name: str) -> Run:
    """Return a run that builds an archive of the whole tile."""

    def run(given: Input, archive: Path, random: np.random.Generator) -> m.Values:
        with Usage() as usage:
            built = m.in_fresh_process(m.measure_build, given.recipes[name], archive)
        stored = np.flatnonzero(np.isin(given.catalog.object_id, m.stored_ids(archive)))
        rows = _some(random, stored)
        ids = given.catalog.object_id[rows]
        with Archive(archive) as opened:
            step = opened.get(int(ids[0])).step
            sample = Sample(rows, opened.get_many(ids), np.array(list(step.values())))
        count = len(given.catalog.object_id)
        return {
            "objects_per_second": built["objects_per_second"],
            "cpu_ms": usage.cpu_seconds / count * 1e3,
            **_memory(usage),
            **_found(given, archive, sample, count, len(stored)),
        }

    return run


# ---- cutana


def _cutana(batch: int | None) -> Run:
    """Return a run of cutana over two samples of the tile, extrapolated to the rate of a whole tile."""

    def run(given: Input, folder: Path, random: np.random.Generator) -> m.Values:
        count, many = len(given.catalog.object_id), given.objects
        few = many // PART
        fewer = _cut_with_cutana(given, folder, _rows(random, count, few), batch)
        shutil.rmtree(folder)
        rows = _rows(random, count, many)
        part = _cut_with_cutana(given, folder, rows, batch)
        # time of the larger sample, plus the other objects at the time an object from the difference of the two runs
        seconds, cpu = (
            part[key] + (count - many) * (part[key] - fewer[key]) / (many - few) for key in ("seconds", "cpu_seconds")
        )
        sample, there = _cutana_sample(given, folder, _some(random, rows))
        return {
            "objects_per_second": count / seconds,
            "part_per_second": many / part["seconds"],
            "cpu_ms": cpu / count * 1e3,
            "own_gb": part["own_gb"],
            "resident_gb": part["resident_gb"],
            **_found(given, folder, sample, many, there),
        }

    return run


def _cut_with_cutana(given: Input, folder: Path, rows: NDArray[np.int64], batch: int | None) -> m.Values:
    """Run cutana on rows of the catalogue; return time, CPU time and memory."""
    catalogue = folder.with_suffix(".parquet")
    _write_cutana_catalogue(given, rows, catalogue)
    m.read_through(given.plain)
    bands = list(given.plain.images)
    arguments = {"catalogue": catalogue, "bands": bands, "size": m.SIZE, "batch": batch, "folder": folder}
    with Usage() as usage:
        answer = run_job(given.python, folder.parent, "cutana", arguments)
    if answer["status"] != "completed":
        raise PeersError(f"cutana ended with status {answer['status']}: {answer['error']}")
    return {"seconds": float(answer["seconds"]), "cpu_seconds": usage.cpu_seconds} | _memory(usage)


def _write_cutana_catalogue(given: Input, rows: NDArray[np.int64], path: Path) -> None:
    """Write rows of the catalogue in the columns of cutana."""
    images = str([str(image) for image in given.plain.images.values()])
    columns = {
        "SourceID": [str(object_id) for object_id in given.catalog.object_id[rows]],
        "RA": given.catalog.ra[rows],
        "Dec": given.catalog.dec[rows],
        "diameter_pixel": [m.SIZE] * len(rows),
        "fits_file_paths": [images] * len(rows),
    }
    parquet.write_table(pa.table(columns), path)


def _cutana_sample(given: Input, folder: Path, rows: NDArray[np.int64]) -> tuple[Sample, int]:
    """Return a sample of the cutouts of cutana, and the number of all its cutouts."""
    output = folder.with_suffix(".npy")
    arguments = {"folder": folder, "ids": given.catalog.object_id[rows].tolist(), "output": output}
    there = run_job(given.python, folder.parent, "cutana_sample", arguments)["there"]
    return Sample(rows, np.load(output), np.zeros(len(given.plain.images))), there


# ---- one object at a time


def _loop(given: Input, folder: Path, random: np.random.Generator) -> m.Values:
    """Run the loop on a sample; the rate is that of a whole tile."""
    with Usage() as usage:
        cut = m.in_fresh_process(m.run_loop, given.recipes["mosaic"], folder, int(random.integers(2**31)))
    bands = list(given.plain.images)
    made = {int(path.name.partition("_")[0]) for path in folder.glob(f"*_{bands[0]}.fits")}
    sample = _sample_of_files(
        given, made, lambda number: [fits.getdata(folder / f"{number}_{band}.fits") for band in bands]
    )
    found = _found(given, folder, sample, m.LOOP_SAMPLE, len(made))
    return {"objects_per_second": cut["objects_per_second"]} | _memory(usage) | found


def _astrocut(given: Input, folder: Path, random: np.random.Generator) -> m.Values:
    """Run astrocut on a sample. Astrocut opens the files for each object, so the rate is that of a whole tile."""
    catalog = given.catalog
    rows = _rows(random, len(catalog.object_id), m.LOOP_SAMPLE)
    objects = [(int(catalog.object_id[row]), float(catalog.ra[row]), float(catalog.dec[row])) for row in rows]
    images = list(given.plain.images.values())
    m.read_through(given.plain)
    arguments = {"images": images, "objects": objects, "size": m.SIZE, "folder": folder}
    with Usage() as usage:
        seconds = run_job(given.python, folder.parent, "astrocut", arguments)["seconds"]
    made = {int(path.name.partition("_")[0]): path for path in folder.glob("*.fits")}
    sample = _sample_of_files(
        given, made, lambda number: [fits.getdata(made[number], band) for band in range(1, len(images) + 1)]
    )
    found = _found(given, folder, sample, len(objects), len(made))
    return {"objects_per_second": len(objects) / seconds} | _memory(usage) | found


def _sample_of_files(
    given: Input, ids: Mapping[int, Path] | set[int], read: Callable[[int], list[NDArray[np.float32]]]
) -> Sample:
    """Return all cutouts of a program that writes files; ``read`` reads the bands of an object."""
    rows = np.flatnonzero(np.isin(given.catalog.object_id, list(ids)))
    data = np.array([read(int(number)) for number in given.catalog.object_id[rows]], dtype=np.float32)
    return Sample(rows, data, np.zeros(len(given.plain.images)))


# ---- shared by all programs


RUNS: Mapping[str, Run] = {
    "mosaic": _build("mosaic"),
    "mosaic_plain": _build("mosaic_plain"),
    "stamps": _build("stamps"),
    "cutana": _cutana(None),
    "cutana_small": _cutana(SMALL_BATCH),
    "loop": _loop,
    "astrocut": _astrocut,
}


def run_job(python: Path, folder: Path, job: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Run a job of `peer_jobs` in the environment of the peers; return its result.

    Raises
    ------
    PeersError
        The job failed.
    """
    os.sync()  # as before a measurement in a fresh process
    path = folder / f"{job}.json"
    path.write_text(json.dumps(arguments, default=str), encoding="utf-8")
    command = [str(python), str(Path(__file__).with_name("peer_jobs.py")), job, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise PeersError(f"{job} failed in the environment {python.parent.parent}: {last_line(done.stderr)}")
    answer: dict[str, Any] = json.loads(last_line(done.stdout))
    return answer


def last_line(text: str) -> str:
    """Return the last line of the output of a program."""
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else "no output"


def _memory(usage: Usage) -> m.Values:
    return {"own_gb": usage.own / 1e9, "resident_gb": usage.resident / 1e9}


def _found(given: Input, folder: Path, sample: Sample, asked: int, there: int) -> m.Values:
    """Return the output of a run: cutouts found, bytes an object, and agreement with the tile."""
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "objects": asked,
        "kib_per_object": total / there / 1024,
        "there": there / asked * 100,
        **given.source.compare(sample),
    }


def _rows(random: np.random.Generator, count: int, wanted: int) -> NDArray[np.int64]:
    """Return random rows of a table, in its order."""
    return np.sort(random.choice(count, min(wanted, count), replace=False))


def _some(random: np.random.Generator, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a random sample of the rows, to compare with the tile."""
    return rows[_rows(random, len(rows), CHECKED)]
