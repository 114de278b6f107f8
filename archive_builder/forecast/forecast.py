"""From a sample of tiles to what the whole archive takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archive_builder.forecast.estimate import (
    Distribution,
    Estimate,
    Kept,
    Part,
    distribution,
    estimate_total,
    grid_for,
    kept_curve,
    kept_thresholds,
    wall_time,
)
from archive_builder.forecast.sample import TileSample
from archive_builder.measure.noise import depth
from archive_builder.measure.quality import REASON_NAMES
from archive_builder.survey.counts import count_objects
from archive_builder.survey.discovery import Discovery, TileFiles
from archive_builder.survey.recipe import Recipe, StorageSection

BLANK_LADDER = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
"""Thresholds for the fraction of a cutout without data."""


@dataclass(frozen=True)
class Taken:
    """A sample, and what its index came to."""

    samples: tuple[TileSample, ...]
    """Of the tiles that could be built; at least one."""

    failed: Mapping[str, str]
    """The others, and why they could not."""

    commit_seconds: float
    """Each tile took the process that writes the index."""

    empty_index: int
    """Bytes of an index without any tile."""

    index_bytes: int
    """That the samples took in it."""


@dataclass(frozen=True)
class SampledTile:
    """What building one tile of the sample came to."""

    tile: str
    """Its name."""

    objects: int
    """In its catalogue."""

    stored: int
    """Objects with a cutout."""

    skipped: Mapping[str, int]
    """Objects without, by reason."""

    bytes: int
    """Of its shard."""

    seconds: float
    """The build took."""

    cpu_seconds: float
    """Of a processor."""

    peak_memory: int
    """Bytes, of the process that built it."""

    footprint: tuple[tuple[float, float], ...]
    """Its corners, RA and Dec in deg, ICRS."""


@dataclass(frozen=True)
class StorageForecast:
    """What the archive takes, stored in one way."""

    layout: str
    """``mosaic`` or ``stamps``."""

    quantization: float | str
    """Steps per background RMS, or ``lossless``."""

    bytes: Estimate
    """Of all shards and the index."""

    core_hours: Estimate
    """To build it."""


@dataclass(frozen=True)
class WallTime:
    """How long a build with so many workers takes, if the disks keep up with it."""

    workers: int
    """Processes, each with a core of its own."""

    seconds: float
    """From the first tile to the last."""

    read_per_second: float
    """Bytes that the survey's disks must deliver."""

    written_per_second: float
    """Bytes that the archive's disks must take."""

    memory: int
    """Bytes, of all workers together at their peak."""


@dataclass(frozen=True)
class Criterion:
    """What a key of the recipe's ``[quality]`` would keep, were it the only one."""

    key: str
    """``max_background_rms``, ``min_depth`` or ``max_blank_fraction``."""

    band: str | None
    """The band it is for; None for all together."""

    limit: float | None
    """The recipe's own threshold, if it has one."""

    kept_by_limit: float | None
    """Share of the objects on the tiles that it keeps."""

    ladder: tuple[Kept, ...]
    """For the table: round shares and the thresholds that keep them; for the blank fraction, round thresholds."""

    curve: tuple[Kept, ...]
    """For the picture: thresholds over the whole range."""


@dataclass(frozen=True)
class BandForecast:
    """The noise of one band at the objects of the sampled tiles."""

    band: str
    """Its name."""

    rms: Distribution
    """Background RMS, image units."""

    depth: Distribution
    """AB mag."""

    max_background_rms: Criterion
    """What thresholds for the RMS keep."""

    min_depth: Criterion
    """What thresholds for the depth keep."""


@dataclass(frozen=True)
class Forecast:
    """What an archive will take."""

    survey: str
    """The survey's name."""

    tiles: int
    """Tiles whose files are all there."""

    incomplete: Mapping[str, str]
    """The others, which are not in the forecast: name to what is wrong."""

    sampled: tuple[SampledTile, ...]
    """The tiles it rests on."""

    failed: Mapping[str, str]
    """Tiles that were to be sampled and could not be built, and why."""

    size: int
    """Side of a cutout in pixels."""

    bands: tuple[BandForecast, ...]
    """The noise, band by band."""

    blank: Criterion
    """What thresholds for the blank fraction keep."""

    counted: bool
    """Whether the objects were counted in all catalogues; else their number is from the sample."""

    objects: Estimate
    """In all catalogues."""

    stored: Estimate
    """Objects with a cutout."""

    skipped: Mapping[str, Estimate]
    """Objects without, by reason."""

    storages: tuple[StorageForecast, ...]
    """The recipe's own way of storing first, then others."""

    index_bytes: Estimate
    """Of the index, which is the same for all."""

    read: Estimate
    """Bytes read from the survey's files."""

    written: Estimate
    """Bytes written."""

    cpu_share: float
    """Of the time of a build, how much its processor was at work; the rest it waited for the disk."""

    peak_memory: int
    """Bytes, of a worker."""

    commit_seconds: float
    """The process that writes the index takes for a tile."""

    wall: tuple[WallTime, ...]
    """How long it takes, by number of workers."""


def make_forecast(recipe: Recipe, found: Discovery, size: int, taken: Taken, workers: Sequence[int]) -> Forecast:
    """Put together what a sample says of all tiles.

    Parameters
    ----------
    recipe : Recipe
    found : Discovery
        All tiles.
    size : int
        Side of a cutout in pixels.
    taken : Taken
        The sample.
    workers : sequence of int
        Numbers of workers for which the time is worked out.

    Raises
    ------
    TileError
        A tile's file has vanished.
    """
    scaling = _Scaling(found.tiles, taken.samples, recipe)
    samples = taken.samples
    index_bytes = scaling.index(taken)
    storages = tuple(scaling.storage(way, index_bytes) for way in samples[0].costs if scaling.has(way))
    # What is written once more than it is kept: SQLite's journal, HDF5's own bookkeeping.
    written = storages[0].bytes.scaled(sum(s.written for s in samples) / sum(s.result.bytes for s in samples))
    read = scaling.by_pixels([sample.read for sample in samples])
    peak_memory = max(sample.result.peak_memory for sample in samples)
    seconds = storages[0].core_hours.value * 3600
    return Forecast(
        survey=recipe.survey.name,
        tiles=len(found.tiles),
        incomplete=found.incomplete,
        sampled=tuple(_sampled(sample) for sample in samples),
        failed=taken.failed,
        size=size,
        bands=tuple(_band(recipe, number, samples) for number in range(len(recipe.survey.bands))),
        blank=_blank(recipe, samples),
        counted=scaling.counted,
        objects=scaling.by_objects(scaling.catalogued),
        stored=scaling.by_objects([sample.result.stored for sample in samples]),
        skipped={reason: scaling.by_objects([skipped_for(s)[reason] for s in samples]) for reason in REASON_NAMES},
        storages=storages,
        index_bytes=index_bytes,
        read=read,
        written=written,
        cpu_share=sum(s.cpu_seconds for s in samples) / sum(s.result.seconds for s in samples),
        peak_memory=peak_memory,
        commit_seconds=taken.commit_seconds,
        wall=tuple(
            _wall(n, len(found.tiles), seconds, taken.commit_seconds, (read, written), peak_memory) for n in workers
        ),
    )


def _wall(
    workers: int, tiles: int, core_seconds: float, commit_seconds: float, io: tuple[Estimate, Estimate], memory: int
) -> WallTime:
    """Return how long so many workers take."""
    seconds = wall_time(workers, tiles, core_seconds / tiles, commit_seconds)
    read, written = (estimate.value / seconds for estimate in io)
    return WallTime(workers, seconds, read, written, min(workers, tiles) * memory)


class _Scaling:
    """From sampled tiles to all of them: by the bytes of their images, or by their objects."""

    def __init__(self, tiles: Sequence[TileFiles], samples: Sequence[TileSample], recipe: Recipe) -> None:
        self._tiles, self._samples = len(tiles), samples
        images = {files.tile: float(files.image_bytes()) for files in tiles}
        self._images, self._all_images = [images[s.result.tile] for s in samples], sum(images.values())
        self.catalogued = [float(s.result.stored + sum(skipped_for(s).values())) for s in samples]
        counts = count_objects(tiles, recipe.catalog)
        self.counted = counts is not None and len(counts) == len(tiles)
        # Without counts of all of them, every tile counts the same.
        self._objects = self.catalogued if self.counted else [1.0] * len(samples)
        self._all_objects = float(sum(counts.values()) if counts and self.counted else len(tiles))

    def by_objects(self, values: Sequence[float]) -> Estimate:
        """Estimate the total of what grows with a tile's objects."""
        return estimate_total([self._object_part(values)], self._tiles)

    def by_pixels(self, values: Sequence[float]) -> Estimate:
        """Estimate the total of what grows with the bytes of a tile's images."""
        return estimate_total([self._pixel_part(values)], self._tiles)

    def index(self, taken: Taken) -> Estimate:
        """Estimate the bytes of the index."""
        each = taken.index_bytes / sum(self.catalogued)
        rows = self.by_objects([each * objects for objects in self.catalogued])
        return Estimate(taken.empty_index + rows.value, rows.error)

    def has(self, way: StorageSection) -> bool:
        """Tell whether all sampled tiles could be stored in a way."""
        return all(way in sample.costs for sample in self._samples)

    def storage(self, way: StorageSection, index_bytes: Estimate) -> StorageForecast:
        """Estimate what all tiles take, stored in a way."""
        costs = [sample.costs[way] for sample in self._samples]
        size = [self._pixel_part([c.area_bytes for c in costs]), self._object_part([c.object_bytes for c in costs])]
        time = [self._pixel_part([c.area_seconds for c in costs]), self._object_part([c.object_seconds for c in costs])]
        shards = estimate_total(size, self._tiles)
        return StorageForecast(
            layout=way.layout,
            quantization=way.quantization,
            bytes=Estimate(shards.value + index_bytes.value, shards.error),
            core_hours=estimate_total(time, self._tiles).scaled(1 / 3600),
        )

    def _object_part(self, values: Sequence[float]) -> Part:
        return Part(values, self._objects, self._all_objects)

    def _pixel_part(self, values: Sequence[float]) -> Part:
        return Part(values, self._images, self._all_images)


def skipped_for(sample: TileSample) -> Mapping[str, int]:
    """Return a sampled tile's objects without a cutout, by reason."""
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
    """Return the noise of one band, by its number."""
    band, quality = recipe.survey.bands[number], recipe.quality
    rms = np.concatenate([sample.rms[:, number] for sample in samples])
    known = np.where(rms > 0, rms, np.nan)
    scales = np.concatenate([np.full(len(sample.rms), sample.pixel_scale) for sample in samples])
    depths = depth(known, recipe.survey.zero_point, scales)
    return BandForecast(
        band=band,
        rms=distribution(known, logarithmic=True),
        depth=distribution(depths),
        max_background_rms=_criterion("max_background_rms", band, rms, quality.max_background_rms.get(band)),
        min_depth=_criterion("min_depth", band, depths, quality.min_depth.get(band)),
    )


def _criterion(key: str, band: str, values: NDArray[np.floating], limit: float | None) -> Criterion:
    """Return what one band's thresholds of one kind keep."""
    upper = key == "max_background_rms"
    limits = [] if limit is None else [limit]
    return Criterion(
        key=key,
        band=band,
        limit=limit,
        kept_by_limit=kept_curve(values, upper, limits)[0].share if limits else None,
        ladder=kept_thresholds(values, upper),
        curve=kept_curve(values, upper, grid_for(values, limits, logarithmic=upper)),
    )


def _blank(recipe: Recipe, samples: Sequence[TileSample]) -> Criterion:
    """Return what thresholds for the blank fraction keep."""
    values = np.concatenate([sample.blank_fraction for sample in samples])
    limit = recipe.quality.max_blank_fraction
    return Criterion(
        key="max_blank_fraction",
        band=None,
        limit=limit if limit < 1 else None,
        kept_by_limit=kept_curve(values, True, [limit])[0].share,
        ladder=kept_curve(values, True, BLANK_LADDER),
        curve=kept_curve(values, True, np.linspace(0, 1, 101)),
    )
