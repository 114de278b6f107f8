"""Build of one sampled tile by the recipe, with the noise and the blank fraction of its objects."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from archive_builder.builder.one_tile import TileJob, TileResult, attempt, make_shard, peak_memory
from archive_builder.measure.quality import ON_TILE
from archive_builder.store.format import pixel_planes, plane_group
from archive_builder.store.shard_reader import Shard

PIXEL_DATASETS = (
    *(f"{plane_group(plane).rstrip('/')}/pixels" for plane in pixel_planes()),
    "/color/jpeg",
)
"""Datasets of a shard that grow with the tile's pixels: the planes of a mosaic, and the colour picture."""


@dataclass(frozen=True)
class TileSample:
    """Result of sampling a tile, or its failure."""

    result: TileResult
    """Result of the build by the recipe."""

    cpu_seconds: float = 0.0
    """CPU time of the build, s."""

    read: int = 0
    """Bytes read from the tile's files."""

    written: int = 0
    """Bytes written."""

    pixel_bytes: int = 0
    """Part of the shard that grows with the tile's pixels, bytes."""

    cutouts: float = 0.0
    """Sum over the stored cutouts of the fraction of pixels with data."""

    pixel_scale: float = 1.0
    """Pixel scale, arcsec."""

    zero_point: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """AB magnitude of one image unit, per band, (bands,)."""

    rms: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    """Background RMS at the objects on the tile, image units, (N, bands)."""

    blank_fraction: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """Blank fraction of the objects' cutouts in the worst band, (N,)."""


def run_sample(job: TileJob) -> TileSample:
    """Sample one tile; a failure is returned, not raised. The caller commits or removes the shard."""
    sample = attempt(lambda: _sample(job), job.archive / job.shard)
    return TileSample(TileResult(job.files.tile, error=sample)) if isinstance(sample, str) else sample


def _sample(job: TileJob) -> TileSample:
    started, cpu_started, io_started = time.perf_counter(), time.process_time(), _io()
    result, objects, verdict = make_shard(job)
    result = replace(result, seconds=time.perf_counter() - started, peak_memory=peak_memory())
    cpu_seconds, io = time.process_time() - cpu_started, _io()
    # The build also reads the shard, for its checksum. A small piece that is read repeatedly comes from the disk once.
    read, in_files = io[0] - io_started[0] - result.bytes, sum(path.stat().st_size for path in job.files.paths)
    on_tile = np.isin(verdict.status, ON_TILE)
    draft = job.archive / result.draft
    with Shard(draft) as shard:
        info = shard.info
    return TileSample(
        result=result,
        cpu_seconds=cpu_seconds,
        read=min(read, in_files) if read > 0 else in_files,
        written=max(io[1] - io_started[1], result.bytes),
        pixel_bytes=pixel_bytes(draft),
        cutouts=float((1 - verdict.blank_fraction[verdict.order]).sum()),
        pixel_scale=info.pixel_scale,
        zero_point=info.zero_point,
        rms=objects.rms[on_tile],
        blank_fraction=verdict.blank_fraction[on_tile],
    )


def pixel_bytes(path: Path) -> int:
    """Return the bytes of a shard that grow with the tile's pixels."""
    with h5py.File(path, locking=False) as shard:
        return sum(shard[name].id.get_storage_size() for name in PIXEL_DATASETS if name in shard)


def _io() -> tuple[int, int]:
    """Return the bytes that this process has read and written, from files and from the page cache; 0 if unknown."""
    try:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0, 0
    counts = dict(line.split(": ") for line in lines)
    return int(counts["rchar"]), int(counts["wchar"])
