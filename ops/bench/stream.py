"""Benchmark of training: a whole archive as a stream of batches, beside one FITS file an object.

usage: python ops/bench/stream.py ARCHIVE [--repeats N] [--files N] [--work DIR]

One process streams all objects (64 px, all bands, batches of 256), shuffled and in stored order. The loop reads some
hundred of the same cutouts from FITS files, one file an object, with astropy in random order into the same batches. All
files are in the page cache after an earlier read.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import measurements as m
import numpy as np
import table
from astropy.io import fits
from table import Quantity

from archive_builder import Archive

SIZE, BATCH = 64, 256
"""Side of a cutout, px; cutouts a batch."""

QUANTITIES = (
    Quantity("shuffled.objects_per_second", "stream, shuffled, 64 px", "objects/s", 5000),
    Quantity("stored.objects_per_second", "stream, stored order, 64 px", "objects/s"),
    Quantity("shuffled.first_batch_seconds", "stream, shuffled: first batch", "s", digits=2),
    Quantity("shuffled.peak_memory_gb", "peak memory, shuffled", "GB", digits=2),
    Quantity("stored.peak_memory_gb", "peak memory, stored order", "GB", digits=2),
    Quantity("loop.objects_per_second", "loop: one FITS file an object", "objects/s"),
    Quantity("ratio", "stream, shuffled / loop", "times", digits=1),
)
"""Rows of the table."""


def main() -> None:
    options = _options()
    ids = m.stored_ids(options.archive)
    repeats = []
    with tempfile.TemporaryDirectory(dir=options.work, prefix="stream-") as folder:
        m.say(f"writing {options.files} cutouts as FITS files")
        m.in_fresh_process(write_files, options.archive, Path(folder), options.files)
        m.in_fresh_process(measure_stream, options.archive, None)  # for the page cache
        for number in range(1, options.repeats + 1):
            m.say(f"repeat {number} of {options.repeats}")
            repeats.append(_repeat(options.archive, Path(folder), number))
    text = table.as_text(repeats, QUANTITIES)
    print(f"{len(ids):,} objects; medians of {len(repeats)} repeats.\n\n{text}\n\n{table.machine()}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, help="archive of 64 px or more")
    parser.add_argument("--repeats", type=int, default=3, help="repeats of every measurement (default: 3)")
    parser.add_argument("--files", type=int, default=500, help="files for the loop (default: 500)")
    parser.add_argument("--work", type=Path, help="folder for the files (default: the system's temporary folder)")
    return parser.parse_args()


def _repeat(archive: Path, folder: Path, number: int) -> m.Values:
    """Measure everything once."""
    parts = {
        "shuffled": m.in_fresh_process(measure_stream, archive, number),
        "loop": m.in_fresh_process(measure_files, folder, number),
        "stored": m.in_fresh_process(measure_stream, archive, None),
    }
    values = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}
    values["ratio"] = values["shuffled.objects_per_second"] / values["loop.objects_per_second"]
    m.say("  " + ", ".join(f"{key} {value:,.2f}" for key, value in values.items()))
    return values


def measure_stream(archive: Path, seed: int | None) -> m.Values:
    """Stream one epoch; the time includes opening the archive."""
    started, count, first = time.perf_counter(), 0, 0.0
    with Archive(archive) as opened:
        for batch in opened.batches(SIZE, batch_size=BATCH, shuffle_seed=seed):
            first = first or time.perf_counter() - started
            count += len(batch.object_id)
    seconds = time.perf_counter() - started
    kilo = 1 if sys.platform == "darwin" else 1024
    return {
        "objects_per_second": count / seconds,
        "first_batch_seconds": first,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo / 1e9,
    }


def write_files(archive: Path, folder: Path, count: int) -> None:
    """Write random cutouts as FITS files, all bands of an object in one file."""
    ids = np.random.default_rng(0).choice(m.stored_ids(archive), count, replace=False)
    with Archive(archive) as opened:
        for object_id, data in zip(ids.tolist(), opened.get_many(ids, SIZE), strict=True):
            fits.PrimaryHDU(data).writeto(folder / f"{object_id}.fits")


def measure_files(folder: Path, seed: int) -> m.Values:
    """Read all files into batches, in random order."""
    paths = np.random.default_rng(seed).permutation([str(path) for path in folder.iterdir()]).tolist()
    started = time.perf_counter()
    for first in range(0, len(paths), BATCH):
        np.stack([fits.getdata(path) for path in paths[first : first + BATCH]]).astype(np.float32)
    return {"objects_per_second": len(paths) / (time.perf_counter() - started)}


if __name__ == "__main__":
    main()
