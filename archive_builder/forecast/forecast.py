"""Forecast of a whole archive from a sample of its tiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archive_builder.forecast.alternatives import Reference
from archive_builder.forecast.estimate import (
    Distribution,
    Estimate,
    Part,
    Selection,
    distribution,
    estimate_total,
    selection_curve,
    threshold_grid,
    thresholds_for_shares,
    wall_time,
)
from archive_builder.forecast.sample import TileSample
from archive_builder.measure.noise import depth
from archive_builder.measure.quality import REASON_NAMES
from archive_builder.survey.counts import count_objects
from archive_builder.survey.discovery import Discovery, TileFiles
from archive_builder.survey.recipe import Recipe, StorageSection

BLANK_LADDER = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
"""Thresholds for the blank fraction of a cutout in its table."""


@dataclass(frozen=True)
class Sample:
    """Sampled tiles and their index."""

    tiles: tuple[TileSample, ...]
    """Tiles that could be built; at least one."""

    failed: Mapping[str, str]
    """Tiles that could not be built, and the reason."""

    commit_seconds: float
    """Time to commit a tile to the index, s."""

    empty_index: int
    """Size of an index without tiles, bytes."""

    index_bytes: int
    """Size of the sampled tiles in the index, bytes."""


@dataclass(frozen=True)
class SampledTile:
    """Build of one sampled tile."""

    tile: str
    """Name of the tile."""

    objects: int
    """Objects in its catalogue."""

    stored: int
    """Objects with a cutout."""

    skipped: Mapping[str, int]
    """Objects without a cutout, by reason."""

    bytes: int
    """Size of the shard, bytes."""

    seconds: float
    """Wall time, s."""

    cpu_seconds: float
    """CPU time, s."""

    peak_memory: int
    """Peak memory of the worker, bytes."""

    footprint: tuple[tuple[float, float], ...]
    """RA and Dec of the tile's corners, deg, ICRS."""


@dataclass(frozen=True)
class StorageForecast:
    """Cost of the archive in one layout and quantization."""

    layout: str
    """``mosaic`` or ``stamps``."""

    quantization: float | str
    """Steps per background RMS, or ``lossless``."""

    bytes: Estimate
    """Size of all shards and the index, bytes."""

    core_hours: Estimate
    """Time to build the archive with one worker, hours."""


@dataclass(frozen=True)
class WallTime:
    """Build with a number of workers, if the disks are fast enough."""

    workers: int
    """Worker processes, each on a core of its own."""

    seconds: float
    """Wall time from the first tile to the last, s."""

    read_per_second: float
    """Reading rate from the survey's files, bytes/s."""

    written_per_second: float
    """Writing rate to the archive, bytes/s."""

    memory: int
    """Peak memory of all workers together, bytes."""


@dataclass(frozen=True)
class Criterion:
    """Objects selected by one key of the recipe's ``[quality]`` alone."""

    key: str
    """``max_background_rms``, ``min_depth`` or ``max_blank_fraction``."""

    band: str | None
    """Name of the band; None for a key that covers all bands."""

    limit: float | None
    """Threshold in the recipe, None without one."""

    kept_by_limit: float | None
    """Share of the objects on the tiles that the recipe's threshold selects."""

    ladder: tuple[Selection, ...]
    """Selections of the table: thresholds for round shares; for the blank fraction, round thresholds."""

    curve: tuple[Selection, ...]
    """Selections of the plot: thresholds over the whole range of values."""


@dataclass(frozen=True)
class BandForecast:
    """Noise of one band at the objects of the sampled tiles."""

    band: str
    """Name of the band."""

    rms: Distribution
    """Background RMS, image units."""

    depth: Distribution
    """Depth, AB mag."""

    max_background_rms: Criterion
    """Objects selected by the background RMS."""

    min_depth: Criterion
    """Objects selected by the depth."""


@dataclass(frozen=True)
class Forecast:
    """Size, build time and contents of an archive before its build."""

    survey: str
    """Name of the survey."""

    tiles: int
    """Complete tiles."""

    incomplete: Mapping[str, str]
    """Incomplete tiles, which the forecast leaves out, and the reason."""

    sampled: tuple[SampledTile, ...]
    """Sampled tiles."""

    failed: Mapping[str, str]
    """Tiles that could not be sampled, and the reason."""

    size: int
    """Side of a cutout, pixels."""

    bands: tuple[BandForecast, ...]
    """Noise of each band."""

    blank: Criterion
    """Objects selected by the blank fraction."""

    counted: bool
    """True if the objects were counted in all catalogues, False if their number is estimated from the sample."""

    objects: Estimate
    """Objects in all catalogues."""

    stored: Estimate
    """Objects with a cutout."""

    skipped: Mapping[str, Estimate]
    """Objects without a cutout, by reason."""

    storages: tuple[StorageForecast, ...]
    """Cost in the recipe's storage, then in the alternatives."""

    reference: str
    """Name of the sampled tile that was built in all these storages."""

    left_out: Mapping[str, str]
    """Alternatives that could not be built (``mosaic 4``), and the reason."""

    index_bytes: Estimate
    """Size of the index, bytes; the same in all storages."""

    read: Estimate
    """Bytes read from the survey's files."""

    written: Estimate
    """Bytes written."""

    cpu_share: float
    """CPU time of a build divided by its wall time; the rest is waiting for the disk."""

    peak_memory: int
    """Peak memory of a worker, bytes."""

    commit_seconds: float
    """Time to commit a tile to the index, s."""

    wall: tuple[WallTime, ...]
    """Wall time by number of workers."""


def make_forecast(
    recipe: Recipe, found: Discovery, size: int, sample: Sample, reference: Reference, workers: Sequence[int]
) -> Forecast:
    """Extrapolate from a sample to all tiles.

    Parameters
    ----------
    recipe : Recipe
    found : Discovery
        All tiles.
    size : int
        Side of a cutout, pixels.
    sample : Sample
        The sampled tiles.
    reference : Reference
        One of them, built in every layout and quantization.
    workers : sequence of int
        Numbers of workers in the table of wall times.

    Raises
    ------
    TileError
        A tile's file has vanished.
    """
    samples = sample.tiles
    scaling = _Scaling(found.tiles, samples, recipe)
    index_bytes = scaling.index(sample)
    storages = tuple(scaling.storage(storage, reference, index_bytes) for storage in reference.costs)
    # More is written than stays: SQLite's journal, HDF5's bookkeeping.
    written = storages[0].bytes.scaled(sum(s.written for s in samples) / sum(s.result.bytes for s in samples))
    read = scaling.by_pixels([s.read for s in samples])
    peak_memory = max(s.result.peak_memory for s in samples)
    seconds = storages[0].core_hours.value * 3600
    return Forecast(
        survey=recipe.survey.name,
        tiles=len(found.tiles),
        incomplete=found.incomplete,
        sampled=tuple(_sampled(s) for s in samples),
        failed=sample.failed,
        size=size,
        bands=tuple(_band(recipe, number, samples) for number in range(len(recipe.survey.bands))),
        blank=_blank(recipe, samples),
        counted=scaling.counted,
        objects=scaling.by_objects(scaling.catalogued),
        stored=scaling.by_objects([s.result.stored for s in samples]),
        skipped={reason: scaling.by_objects([skipped_for(s)[reason] for s in samples]) for reason in REASON_NAMES},
        storages=storages,
        reference=reference.sample.result.tile,
        left_out={f"{way.layout} {_quantization(way)}": reason for way, reason in reference.left_out.items()},
        index_bytes=index_bytes,
        read=read,
        written=written,
        cpu_share=sum(s.cpu_seconds for s in samples) / sum(s.result.seconds for s in samples),
        peak_memory=peak_memory,
        commit_seconds=sample.commit_seconds,
        wall=tuple(
            _wall(n, len(found.tiles), seconds, sample.commit_seconds, (read, written), peak_memory) for n in workers
        ),
    )


def _quantization(storage: StorageSection) -> str:
    """Return a quantization as text: ``4`` or ``lossless``."""
    return storage.quantization if isinstance(storage.quantization, str) else f"{storage.quantization:g}"


def _wall(
    workers: int, tiles: int, core_seconds: float, commit_seconds: float, io: tuple[Estimate, Estimate], memory: int
) -> WallTime:
    """Return the build with a number of workers."""
    seconds = wall_time(workers, tiles, core_seconds / tiles, commit_seconds)
    read, written = (estimate.value / seconds for estimate in io)
    return WallTime(workers, seconds, read, written, min(workers, tiles) * memory)


class _Scaling:
    """Extrapolation from the sampled tiles to all tiles, by the bytes of their images or by their objects."""

    def __init__(self, tiles: Sequence[TileFiles], samples: Sequence[TileSample], recipe: Recipe) -> None:
        self._tiles, self._samples = len(tiles), samples
        self._image_bytes = {files.tile: float(files.image_bytes()) for files in tiles}
        self.catalogued = [float(s.result.stored + sum(skipped_for(s).values())) for s in samples]
        counts = count_objects(tiles, recipe.catalog)
        self.counted = counts is not None and len(counts) == len(tiles)
        # Without the counts of all catalogues, every tile has the same weight.
        self._objects = self.catalogued if self.counted else [1.0] * len(samples)
        self._all_objects = float(sum(counts.values()) if counts and self.counted else len(tiles))

    def by_objects(self, values: Sequence[float]) -> Estimate:
        """Estimate the total of a quantity that grows with a tile's objects."""
        return estimate_total([self._object_part(values)], self._tiles)

    def by_pixels(self, values: Sequence[float]) -> Estimate:
        """Estimate the total of a quantity that grows with the bytes of a tile's images."""
        return estimate_total([self._pixel_part(values)], self._tiles)

    def index(self, sample: Sample) -> Estimate:
        """Estimate the size of the index, bytes."""
        each = sample.index_bytes / sum(self.catalogued)
        rows = self.by_objects([each * objects for objects in self.catalogued])
        return Estimate(sample.empty_index + rows.value, rows.error)

    def storage(self, storage: StorageSection, reference: Reference, index_bytes: Estimate) -> StorageForecast:
        """Estimate the cost of all tiles in one layout and quantization."""
        images = self._image_bytes[reference.sample.result.tile]
        costs = [reference.scaled(storage, s, self._image_bytes[s.result.tile] / images) for s in self._samples]
        by_pixels, by_objects = self._pixel_part, self._object_part
        size = [by_pixels([c.pixel_bytes for c in costs]), by_objects([c.object_bytes for c in costs])]
        time = [by_pixels([c.pixel_seconds for c in costs]), by_objects([c.object_seconds for c in costs])]
        shards = estimate_total(size, self._tiles)
        return StorageForecast(
            layout=storage.layout,
            quantization=storage.quantization,
            bytes=Estimate(shards.value + index_bytes.value, shards.error),
            core_hours=estimate_total(time, self._tiles).scaled(1 / 3600),
        )

    def _object_part(self, values: Sequence[float]) -> Part:
        return Part(values, self._objects, self._all_objects)

    def _pixel_part(self, values: Sequence[float]) -> Part:
        sizes = [self._image_bytes[sample.result.tile] for sample in self._samples]
        return Part(values, sizes, sum(self._image_bytes.values()))


def skipped_for(sample: TileSample) -> Mapping[str, int]:
    """Return the objects of a sampled tile without a cutout, by reason."""
    return sample.result.skipped or {}


def _sampled(sample: TileSample) -> SampledTile:
    result = sample.result
    return SampledTile(
        tile=result.tile,
        objects=result.stored + sum(skipped_for(sample).values()),
        stored=result.stored,
        skipped=skipped_for(sample),
        bytes=result.bytes,
        seconds=result.seconds,
        cpu_seconds=sample.cpu_seconds,
        peak_memory=result.peak_memory,
        footprint=result.footprint,
    )


def _band(recipe: Recipe, number: int, samples: Sequence[TileSample]) -> BandForecast:
    """Return the noise of one band, by the band's number."""
    band, quality = recipe.survey.bands[number], recipe.quality
    rms = np.concatenate([sample.rms[:, number] for sample in samples])
    known = np.where(rms > 0, rms, np.nan)
    scales, zero_points = (
        np.concatenate([np.full(len(sample.rms), value) for sample, value in zip(samples, values, strict=True)])
        for values in ([s.pixel_scale for s in samples], [s.zero_point[number] for s in samples])
    )
    depths = depth(known, zero_points, scales)
    return BandForecast(
        band=band,
        rms=distribution(known, logarithmic=True),
        depth=distribution(depths),
        max_background_rms=_criterion("max_background_rms", band, rms, quality.max_background_rms.get(band)),
        min_depth=_criterion("min_depth", band, depths, quality.min_depth.get(band)),
    )


def _criterion(key: str, band: str, values: NDArray[np.floating], limit: float | None) -> Criterion:
    """Return the objects selected by one key in one band."""
    upper = key == "max_background_rms"
    limits = [] if limit is None else [limit]
    return Criterion(
        key=key,
        band=band,
        limit=limit,
        kept_by_limit=selection_curve(values, upper, limits)[0].share if limits else None,
        ladder=thresholds_for_shares(values, upper),
        curve=selection_curve(values, upper, threshold_grid(values, limits, logarithmic=upper)),
    )


def _blank(recipe: Recipe, samples: Sequence[TileSample]) -> Criterion:
    """Return the objects selected by the blank fraction."""
    values = np.concatenate([sample.blank_fraction for sample in samples])
    limit = recipe.quality.max_blank_fraction
    return Criterion(
        key="max_blank_fraction",
        band=None,
        limit=limit if limit < 1 else None,
        kept_by_limit=selection_curve(values, True, [limit])[0].share,
        ladder=selection_curve(values, True, BLANK_LADDER),
        curve=selection_curve(values, True, np.linspace(0, 1, 101)),
    )
