"""Builds of one sampled tile in every layout and quantization, and their scaling to the other sampled tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from archive_builder.builder.one_tile import TileJob, TileResult, lost_tile, run_job
from archive_builder.errors import TileError
from archive_builder.forecast.sample import TileSample, pixel_bytes
from archive_builder.run.pool import run_jobs
from archive_builder.survey.recipe import StorageSection

WAYS = (("mosaic", 4.0), ("mosaic", 16.0), ("mosaic", "lossless"), ("stamps", 4.0), ("stamps", 16.0))
"""Layout and quantization of the alternatives, without lossless stamps: a full-size tile would take 35 GB."""


@dataclass(frozen=True)
class Cost:
    """Cost of building one tile, split by the size that each part grows with."""

    pixel_bytes: float
    """Part of the shard that grows with the tile's pixels, bytes."""

    object_bytes: float
    """Part of the shard that grows with the tile's objects, bytes."""

    pixel_seconds: float
    """Part of the wall time that grows with the tile's pixels, s."""

    object_seconds: float
    """Part of the wall time that grows with the tile's objects, s."""


@dataclass(frozen=True)
class Reference:
    """The reference tile: a sampled tile, built in the recipe's storage and in every alternative."""

    sample: TileSample
    """The tile's sample: its first build, by the recipe."""

    own: StorageSection
    """The recipe's storage."""

    costs: Mapping[StorageSection, Cost]
    """Cost of the tile in the recipe's storage and in the alternatives, all measured in the same way."""

    left_out: Mapping[StorageSection, str]
    """Alternatives that could not be built, and the reason."""

    def scaled(self, storage: StorageSection, sample: TileSample, image_ratio: float) -> Cost:
        """Return the estimated cost of another sampled tile in one of the storages of `costs`.

        In the recipe's layout, the bytes scale with the bytes of the other tile's own shard. In the other layout, the
        pixels scale with the bytes of the images, and the rest with the cutouts. Of the wall time, the part that grows
        with the pixels scales with the other tile's own wall time, and the rest with the cutouts.

        Parameters
        ----------
        storage : StorageSection
            A key of `costs`.
        sample : TileSample
            The other tile, built in the recipe's storage.
        image_ratio : float
            Bytes of the other tile's images, divided by those of the reference tile.
        """
        own, other = self.costs[self.own], self.costs[storage]
        objects = _ratio(sample.cutouts, self.sample.cutouts)
        pixel_ratio, object_ratio = image_ratio, objects
        if storage.layout == self.own.layout:
            pixel_ratio = _ratio(sample.pixel_bytes, own.pixel_bytes)
            object_ratio = _ratio(sample.result.bytes - sample.pixel_bytes, own.object_bytes)
        object_seconds = min(own.object_seconds * objects, sample.result.seconds)
        pixel_seconds = sample.result.seconds - object_seconds
        return Cost(
            pixel_bytes=other.pixel_bytes * pixel_ratio,
            object_bytes=other.object_bytes * object_ratio,
            pixel_seconds=other.pixel_seconds * _ratio(pixel_seconds, own.pixel_seconds),
            object_seconds=other.object_seconds * (object_seconds / own.object_seconds if object_seconds else objects),
        )


def _ratio(value: float, reference: float) -> float:
    """Return a value divided by the reference tile's value; 1 if the reference tile has none."""
    return value / reference if reference else 1.0


def alternatives(own: StorageSection) -> tuple[StorageSection, ...]:
    """Return the layouts and quantizations that a recipe's storage is compared with."""
    ways = (own.model_copy(update={"layout": layout, "quantization": q}) for layout, q in WAYS)
    return tuple(way for way in ways if way != own)


def choose_reference(samples: Sequence[TileSample]) -> TileSample:
    """Return the median tile by cutouts, of the tiles that have any."""
    ordered = sorted(samples, key=lambda sample: sample.cutouts)
    some = [sample for sample in ordered if sample.cutouts] or ordered
    return some[len(some) // 2]


def build_reference(
    job: TileJob,
    sample: TileSample,
    storages: Sequence[StorageSection],
    on_build: Callable[[StorageSection, TileResult], None],
) -> Reference:
    """Build a sampled tile in the recipe's storage again, and in every alternative.

    The second build by the recipe makes the wall times comparable: the first one may have waited for files that all
    later builds find in the page cache. Each shard is removed before the next one is built.

    Parameters
    ----------
    job : TileJob
        The tile's build by the recipe.
    sample : TileSample
        The result of that build.
    storages : sequence of StorageSection
        The recipe's storage and the alternatives.
    on_build : callable
        Called with each storage and the result of its build.

    Raises
    ------
    TileError
        The tile cannot be built by the recipe a second time.
    """
    own = job.recipe.storage
    builds: dict[StorageSection, tuple[TileResult, int]] = {}
    failed: dict[StorageSection, str] = {}
    jobs = [replace(job, recipe=job.recipe.model_copy(update={"storage": storage})) for storage in storages]
    for storage, result in zip(storages, run_jobs(run_job, jobs, 1, lost_tile), strict=True):
        if result.error is not None:
            failed[storage] = result.error
        else:
            draft = job.archive / result.draft
            builds[storage] = result, pixel_bytes(draft)
            draft.unlink()
        on_build(storage, result)
    if own not in builds:
        raise TileError(f"tile {job.files.tile} cannot be built a second time ({failed[own]}): run plan again")
    return Reference(sample, own, split_costs(builds), failed)


def split_costs(builds: Mapping[StorageSection, tuple[TileResult, int]]) -> dict[StorageSection, Cost]:
    """Return the cost of each build of one tile.

    Reading and measuring a tile take the same time in both layouts, estimated as the time of the fastest mosaic. The
    additional time of stamps grows with the objects.

    Parameters
    ----------
    builds : mapping of StorageSection to (TileResult, int)
        Result of each build, and the part of the shard that grows with the tile's pixels, bytes.
    """
    mosaics = [result.seconds for storage, (result, _) in builds.items() if storage.layout == "mosaic"]
    costs = {}
    for storage, (result, pixels) in builds.items():
        seconds = result.seconds if storage.layout == "mosaic" else min([result.seconds, *mosaics])
        costs[storage] = Cost(pixels, result.bytes - pixels, seconds, result.seconds - seconds)
    return costs
