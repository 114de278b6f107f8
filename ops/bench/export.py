"""Benchmark of exports: a random list as files of each format and as packs, beside plain files and the loop.

usage: python ops/bench/export.py ARCHIVE RECIPE [--repeats N] [--rows N] [--work DIR]

The list has random objects of the archive. One worker process serves the list; its start-up time is included. The plain
files have the size of the FITS files and random content, and are written by the same calls. The loop is that of
bench.py. The archive is in the page cache after an earlier read. Earlier writes are flushed to disk before each
measurement. A long list of FITS files is limited by the disk, and is timed up to the flush, as are the plain files. A
short list fits into the page cache, as does the sample of the loop. Both are timed up to the end of the command.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import measurements as m
import numpy as np
import table
from table import Quantity

from archive_builder.exporting.export import export
from archive_builder.serve.style import Style

KINDS: dict[str, tuple[int, dict[str, object]]] = {
    "cached": (1, {"formats": ["fits"]}),
    "fits": (4, {"formats": ["fits"]}),
    "png": (1, {"formats": ["png"]}),
    "lupton": (1, {"formats": ["png"], "color": "lupton"}),
    "tiff": (2, {"formats": ["tiff"]}),
    "hdf5": (20, {"pack": "hdf5", "size": 64}),
    "tar": (5, {"pack": "webdataset", "size": 64}),
}
"""Exports by name: multiple of ``--rows``, and options of `export`."""

QUANTITIES = (
    Quantity("fits.per_second", "export FITS, 228 px, 5 bands, to disk", "objects/s"),
    Quantity("plain.per_second", "plain files of the same size, to disk", "objects/s"),
    Quantity("fits_share", "FITS / plain files", "times", 0.6, digits=2),
    Quantity("cached.per_second", "export FITS, short list", "objects/s"),
    Quantity("loop.objects_per_second", "loop: Cutout2D, five files", "objects/s", digits=1),
    Quantity("fits_ratio", "FITS, short list / loop", "times", 5, digits=1),
    Quantity("png.per_second", "export PNG, survey colours, 228 px", "objects/s", 120),
    Quantity("lupton.per_second", "export PNG, Lupton composite, 228 px", "objects/s"),
    Quantity("tiff.per_second", "export JPEG-TIFF, 228 px", "objects/s", 400),
    Quantity("hdf5.per_second", "--pack hdf5, 64 px, 5 bands", "objects/s", 5000),
    Quantity("tar.per_second", "--pack webdataset (npy), 64 px, 5 bands", "objects/s"),
)
"""Rows of the table."""


def main() -> None:
    options = _options()
    ids = m.stored_ids(options.archive)
    repeats = []
    with tempfile.TemporaryDirectory(dir=options.work, prefix="export-") as folder:
        for number in range(1, options.repeats + 1):
            m.say(f"repeat {number} of {options.repeats}")
            repeats.append(_repeat(options, ids, Path(folder), number))
    text = table.as_text(repeats, QUANTITIES)
    print(f"{options.rows:,} rows; medians of {len(repeats)} repeats.\n\n{text}\n\n{table.machine()}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, help="mosaic archive with the colour pictures of the survey")
    parser.add_argument("recipe", type=Path, help="recipe of the survey, for the loop")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of every measurement (default: 3)")
    parser.add_argument("--rows", type=int, default=2000, help="rows of the list (default: 2000)")
    parser.add_argument("--work", type=Path, help="folder for files (default: the system's temporary folder)")
    return parser.parse_args()


def _repeat(options: argparse.Namespace, ids: np.ndarray, folder: Path, number: int) -> m.Values:
    """Measure everything once. Plain files and loop run right after the FITS exports compared with them."""
    values: m.Values = {}
    for name, (times, how) in KINDS.items():
        chosen = np.random.default_rng(number).choice(ids, min(times * options.rows, len(ids)), replace=False)
        rows = folder / f"{name}.csv"
        rows.write_text("ID\n" + "\n".join(map(str, chosen)) + "\n", encoding="ascii")
        args = (options.archive, rows, folder / name, how, name == "fits")
        values[f"{name}.per_second"] = m.in_fresh_process(measure_export, *args)
        if name == "cached":
            loop = m.in_fresh_process(m.measure_loop, options.recipe, folder / "loop", number)
            values["loop.objects_per_second"] = loop["objects_per_second"]
        if name == "fits":
            size = next((folder / name).rglob("*.fits")).stat().st_size
            values["plain.per_second"] = m.in_fresh_process(measure_plain, folder / "plain", size, len(chosen))
        shutil.rmtree(folder / name)
    values["fits_share"] = values["fits.per_second"] / values["plain.per_second"]
    values["fits_ratio"] = values["cached.per_second"] / values["loop.objects_per_second"]
    m.say("  " + ", ".join(f"{key} {value:,.2f}" for key, value in values.items()))
    return values


def measure_export(archive: Path, rows: Path, folder: Path, how: dict[str, object], to_disk: bool) -> float:
    """Export a list, up to the end of the export or up to the flush; return the rate, objects/s."""
    style = Style(color=how["color"], stretch=60.0) if "color" in how else Style()  # type: ignore[arg-type]
    options = {key: value for key, value in how.items() if key != "color"}
    os.sync()
    started = time.perf_counter()
    report = export(archive, rows, folder, style=style, **options)  # type: ignore[arg-type]
    if to_disk:
        os.sync()
    seconds = time.perf_counter() - started
    if report.done != report.rows:
        raise RuntimeError(f"the export failed: {report}")
    return report.rows / seconds


def measure_plain(folder: Path, size: int, count: int) -> float:
    """Write random bytes to files in subfolders, each renamed from a temporary name; return the rate, files/s."""
    content = os.urandom(size)
    os.sync()
    started = time.perf_counter()
    for number in range(count):
        path = folder / str(number // 100) / f"{number}.fits"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".part").write_bytes(content)
        path.with_suffix(".part").replace(path)
    os.sync()
    seconds = time.perf_counter() - started
    shutil.rmtree(folder)
    return count / seconds


if __name__ == "__main__":
    main()
