"""The benchmark of bulk requests: a random list as files of each kind and packed, beside plain files and the loop.

usage: python ops/bench/export.py ARCHIVE RECIPE [--repeats N] [--rows N] [--work DIR]

The list has random objects of the archive; one worker process serves it, whose start is included. The plain files
have the bytes of the FITS files, are made by the same calls and hold nothing. The loop everyone writes is that of
bench.py. The archive has been read once before, and is in the page cache; what was written before is on the disk.
A long list of FITS files is timed until they are on the disk, as the plain files are: their bytes are what takes
the time. A short one is timed until the command ends, as the loop is, whose sample fits into the page cache too.
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
"""What is exported: how many times the list's rows, and how."""

QUANTITIES = (
    Quantity("fits.per_second", "export FITS, 228 px, 5 bands, to the disk", "objects/s"),
    Quantity("plain.per_second", "the same bytes as plain files, to the disk", "objects/s"),
    Quantity("fits_share", "FITS / plain files", "times", 0.6, digits=2),
    Quantity("cached.per_second", "export FITS, a short list", "objects/s"),
    Quantity("loop.objects_per_second", "loop: Cutout2D, five files", "objects/s", digits=1),
    Quantity("fits_ratio", "FITS, a short list / loop", "times", 5, digits=1),
    Quantity("png.per_second", "export PNG, survey's colours, 228 px", "objects/s", 120),
    Quantity("lupton.per_second", "export PNG, Lupton's composite, 228 px", "objects/s"),
    Quantity("tiff.per_second", "export JPEG-TIFF, 228 px", "objects/s", 400),
    Quantity("hdf5.per_second", "--pack hdf5, 64 px, 5 bands", "objects/s", 5000),
    Quantity("tar.per_second", "--pack webdataset (npy), 64 px, 5 bands", "objects/s"),
)
"""The lines of the answer."""


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
    parser.add_argument("archive", type=Path, help="a mosaic archive with the survey's colours")
    parser.add_argument("recipe", type=Path, help="of its survey, for the loop")
    parser.add_argument("--repeats", type=int, default=3, help="how often everything is measured (default: 3)")
    parser.add_argument("--rows", type=int, default=2000, help="of the list (default: 2000)")
    parser.add_argument("--work", type=Path, help="where files go (default: the system's temporary folder)")
    return parser.parse_args()


def _repeat(options: argparse.Namespace, ids: np.ndarray, folder: Path, number: int) -> m.Values:
    """Measure everything once; plain files and loop come right after the FITS files they are compared with."""
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
    """Export a list, until the files are there or until they are on the disk; return objects a second."""
    style = Style(color=how["color"]) if "color" in how else Style()  # type: ignore[arg-type]
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
    """Write files of nothing, in subfolders, under a temporary name and renamed; return files a second."""
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
