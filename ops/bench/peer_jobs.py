"""Jobs for the environment of the peers: each reads its arguments from a JSON file and prints its result as JSON.

usage: python peer_jobs.py versions|cutana|cutana_sample|astrocut ARGUMENTS.json
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any


def versions() -> dict[str, str]:
    """Return the versions of the peers and of their main dependencies."""
    return {name: version(name) for name in ("cutana", "astrocut", "astropy", "numpy", "zarr")}


def cutana(catalogue: str, bands: list[str], size: int, batch: int | None, folder: str) -> dict[str, Any]:
    """Cut a catalogue with one worker: one channel a band, no normalisation, no resampling.

    The time includes the flush to disk, as for the build of an archive.
    """
    from cutana import Orchestrator, get_default_config

    config = get_default_config()
    config.source_catalogue, config.output_dir = catalogue, folder
    config.output_format, config.data_type = "zarr", "float32"
    config.target_resolution = size
    config.normalisation_method, config.apply_flux_conversion = "none", False
    config.selected_extensions = [{"name": "PRIMARY", "ext": "PrimaryHDU"}]  # all files of a tile, in any band
    config.channel_weights = {band: [float(band == other) for other in bands] for band in bands}
    config.max_workers = 1
    config.loadbalancer.max_sources_per_process = 10**6  # the worker reads the tile once
    if batch:
        config.N_batch_cutout_process = batch
    started = time.perf_counter()
    result = Orchestrator(config).run()
    _flush(Path(folder))
    return {"seconds": time.perf_counter() - started, "status": result["status"], "error": result.get("error")}


def _flush(folder: Path) -> None:
    """Flush all files of a folder to disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def cutana_sample(folder: str, ids: list[int], output: str) -> dict[str, Any]:
    """Count the cutouts, and write the wanted ones as an array (N, bands, size, size), NaN for a missing cutout."""
    import numpy as np
    import zarr

    wanted = {object_id: place for place, object_id in enumerate(ids)}
    data, there = None, 0
    for table in sorted(Path(folder).glob("batch_*/images_metadata.parquet")):
        images = zarr.open(str(table.with_name("images.zarr")), mode="r")["images"]
        if data is None:
            data = np.full((len(ids), images.shape[3], *images.shape[1:3]), np.nan, np.float32)
        for object_ids, chunk in _chunks(table, images):  # a chunk holds a whole batch: read each chunk once
            there += len(chunk)
            for object_id, image in zip(object_ids, chunk, strict=True):
                if object_id in wanted:
                    data[wanted[object_id]] = np.moveaxis(image, -1, 0)
    if data is None:
        sys.exit(f"{folder} has no cutouts")
    np.save(output, data)
    return {"there": there}


def _chunks(table: Path, images: Any) -> Iterator[tuple[list[int], Any]]:
    """Yield the IDs and cutouts of a store, chunk by chunk, for rows that have both."""
    import pandas as pd

    object_ids = pd.read_parquet(table)["source_id"].astype(int).tolist()[: images.shape[0]]
    for first in range(0, len(object_ids), images.chunks[0]):
        some = object_ids[first : first + images.chunks[0]]
        yield some, images[first : first + len(some)]


def astrocut(images: list[str], objects: list[tuple[int, float, float]], size: int, folder: str) -> dict[str, Any]:
    """Cut objects one by one, blank ones too: one FITS file an object, one HDU a band."""
    from astrocut import FITSCutout
    from astropy.coordinates import SkyCoord

    started = time.perf_counter()
    ids, ra, dec = zip(*objects, strict=True)
    for object_id, coord in zip(ids, SkyCoord(list(ra), list(dec), unit="deg"), strict=True):
        FITSCutout(images, coord, size, allow_empty=True).write_as_fits(folder, str(object_id))
    return {"seconds": time.perf_counter() - started}


JOBS = {job.__name__: job for job in (versions, cutana, cutana_sample, astrocut)}

if __name__ == "__main__":
    answer = JOBS[sys.argv[1]](**json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
    print(f"\n{json.dumps(answer)}")
