"""One tile of the sample that a plan rests on: built by its recipe for real, and tried to be stored otherwise."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from archive_builder.builder.one_tile import TileJob, TileResult, attempt, make_shard, peak_memory
from archive_builder.builder.sweep import Verdict
from archive_builder.forecast.trial import Trial, touched_chunks, try_storages
from archive_builder.measure.quality import Status
from archive_builder.store.format import pixel_planes, plane_group
from archive_builder.store.records import ObjectTable
from archive_builder.store.shard_reader import Shard
from archive_builder.survey.recipe import StorageSection
from archive_builder.survey.tile import Tile

PIXELS = ("pixels", "cutouts")
"""The datasets of a plane that hold its pixels; what is virtual takes no room."""


@dataclass(frozen=True)
class SampleJob:
    """All that is needed to sample one tile."""

    build: TileJob
    """How the recipe would have it built."""

    others: tuple[StorageSection, ...]
    """Other ways of storing its pixels; they keep the same planes."""


@dataclass(frozen=True)
class Cost:
    """What one tile takes, stored in one way."""

    area_bytes: float
    """Of the shard: the part that follows the tile's pixels."""

    object_bytes: float
    """The rest, which follows its objects."""

    area_seconds: float
    """Of the build: the part that follows the tile's pixels."""

    object_seconds: float
    """The rest, which follows its objects."""

    @property
    def bytes(self) -> float:
        """Of the shard."""
        return self.area_bytes + self.object_bytes

    @property
    def seconds(self) -> float:
        """Of the build."""
        return self.area_seconds + self.object_seconds


@dataclass(frozen=True)
class TileSample:
    """What sampling a tile found out; a failure is a result too."""

    result: TileResult
    """Of the build by the recipe."""

    cpu_seconds: float = 0.0
    """That took of a processor."""

    read: int = 0
    """Bytes of the tile's files that it read."""

    written: int = 0
    """Bytes it wrote."""

    pixel_scale: float = 1.0
    """Arcsec."""

    rms: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    """Background RMS at the objects on the tile, image units, (N, bands)."""

    blank_fraction: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """Of their cutouts' pixels, in the worst band, (N,)."""

    costs: Mapping[StorageSection, Cost] = field(default_factory=dict)
    """Of each way of storing it."""


def run_sample(job: SampleJob) -> TileSample:
    """Sample one tile; whatever goes wrong comes back as a result. The shard stays, for whoever commits it."""
    path = job.build.archive / job.build.shard
    sample = attempt(lambda: _sample(job), path)
    return TileSample(TileResult(job.build.files.tile, error=sample)) if isinstance(sample, str) else sample


def _sample(job: SampleJob) -> TileSample:
    build = job.build
    started, cpu_started, io_started = time.perf_counter(), time.process_time(), _io()
    result, objects, verdict = make_shard(build)
    result = replace(result, seconds=time.perf_counter() - started, peak_memory=peak_memory())
    cpu_seconds, io = time.process_time() - cpu_started, _io()
    # The shard was read too, for its checksum. Small pieces are read more than once, but come from the disk once.
    read, in_files = io[0] - io_started[0] - result.bytes, sum(path.stat().st_size for path in build.files.paths)
    on_tile = verdict.status != Status.OUTSIDE
    with Shard(build.archive / result.draft) as shard:
        pixel_scale = shard.info.pixel_scale
    return TileSample(
        result=result,
        cpu_seconds=cpu_seconds,
        read=min(read, in_files) if read > 0 else in_files,
        written=max(io[1] - io_started[1], result.bytes),
        pixel_scale=pixel_scale,
        rms=objects.rms[on_tile],
        blank_fraction=verdict.blank_fraction[on_tile],
        costs=_costs(job, result, objects, verdict),
    )


def _io() -> tuple[int, int]:
    """Return how many bytes this process has read and written, of files and of the page cache."""
    try:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0, 0
    counts = dict(line.split(": ") for line in lines)
    return int(counts["rchar"]), int(counts["wchar"])


def _costs(job: SampleJob, result: TileResult, objects: ObjectTable, verdict: Verdict) -> dict[StorageSection, Cost]:
    """Return what the tile takes by the recipe, as it was built, and what it would take otherwise."""
    build, own = job.build, job.build.recipe.storage
    survey, mesh = build.recipe.survey, build.recipe.quality.background_mesh
    stored = objects.take(verdict.order)
    with Tile(build.files.images, survey.image_hdu, survey.blank_value, own.planes) as tile:
        trials = try_storages(build.archive, tile, stored, build.size, mesh, (own, *job.others))
        built = _Built(build.archive / result.draft, result, own, touched_chunks(stored, build.size, tile.shape), tile)
    if not result.stored:
        return dict.fromkeys((own, *job.others), built.cost_without_objects())
    return {storage: built.cost(storage, trial, trials[own]) for storage, trial in trials.items()}


class _Built:
    """The shard that was built, from which what was tried on a part of the tile is scaled up to the whole."""

    def __init__(self, path: Path, result: TileResult, own: StorageSection, chunks: int, tile: Tile) -> None:
        self._result, self._own, self._chunks, self._rows = result, own, chunks, tile.shape[0]
        self._pixels, self._color, self._tables = _parts(path)

    def cost_without_objects(self) -> Cost:
        """Return what a tile took of which no object was stored."""
        return Cost(self._color, self._result.bytes - self._color, self._result.seconds, 0.0)

    def cost(self, storage: StorageSection, trial: Trial, own_trial: Trial) -> Cost:
        """Return what the tile would take; with its own trial, what it did take."""
        stored = self._result.stored
        if storage.layout == self._own.layout:
            pixels = self._pixels * trial.pixel_bytes / own_trial.pixel_bytes
            rest = float(self._result.bytes - self._pixels - self._color)
        else:
            pixels = trial.pixel_bytes * (self._chunks if storage.layout == "mosaic" else stored)
            rest = self._tables + trial.object_bytes * stored
        total = pixels + self._color + rest
        spared = own_trial.seconds(self._rows, stored, self._result.bytes)
        seconds = max(0.0, self._result.seconds - spared) + trial.seconds(self._rows, stored, total)
        if storage.layout == "mosaic":
            return Cost(pixels + self._color, rest, seconds, 0.0)
        object_seconds = stored * trial.object_seconds + total * trial.byte_seconds
        return Cost(self._color, pixels + rest, seconds - object_seconds, object_seconds)


def _parts(path: Path) -> tuple[int, int, int]:
    """Return the bytes of a shard's pixels, of its colour picture and of its tables."""
    sizes: dict[str, int] = {}
    with h5py.File(path) as shard:
        shard.visititems(
            lambda name, item: (
                sizes.update({f"/{name}": item.id.get_storage_size()}) if isinstance(item, h5py.Dataset) else None
            )
        )
    pixels = sum(
        sizes.get(f"{plane_group(plane).rstrip('/')}/{name}", 0) for plane in pixel_planes() for name in PIXELS
    )
    color = sum(size for name, size in sizes.items() if name.startswith("/color/"))
    return pixels, color, sum(sizes.values()) - pixels - color
