"""The state of an archive and of its build, by its index and its lock; no shard is opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Literal

from archive_builder.builder.lock import Holder, holder_of
from archive_builder.errors import NoArchiveError
from archive_builder.measure.quality import REASON_NAMES
from archive_builder.store.file_names import NEXT_INDEX_NAME
from archive_builder.store.index import Index
from archive_builder.store.records import BuildRow, TileRow

SLOWEST = 5
"""Number of slowest tiles in a status."""


@dataclass(frozen=True)
class BuildState:
    """Progress of the last build that had tiles to build."""

    state: Literal["at work", "finished", "interrupted"]
    """``interrupted``: killed before it had tried all its tiles; the next build continues."""

    rebuild: bool
    """True for a whole rebuild with other settings; the archive does not change before its end."""

    started: str
    """Start of the build, UTC, ISO 8601."""

    planned: int
    """Tiles to build, at its start."""

    built: int
    """Planned tiles that are built."""

    failed: int
    """Planned tiles that failed."""

    left: int
    """Planned tiles that have not been tried."""

    seconds: float
    """Wall time so far, s."""

    objects_per_second: float | None
    """Objects of the built tiles per second, skipped objects included; None before the first tile."""

    tiles_per_hour: float | None
    """Built and failed tiles per hour; None before the first tile."""

    seconds_left: float | None
    """Time left at this speed, s; None if the build is not running, and before the first tile."""


@dataclass(frozen=True)
class ArchiveStatus:
    """The state of an archive."""

    survey: str
    """Name of the survey."""

    size: int
    """Side of a cutout, px."""

    bands: tuple[str, ...]
    """Bands in the order of every band axis."""

    built: int
    """Tiles with a shard."""

    stored: int
    """Objects with a cutout."""

    skipped: int
    """Objects without a cutout."""

    skipped_for: dict[str, int]
    """Objects without a cutout, by reason."""

    bytes: int
    """Size of all shards, bytes."""

    depth: dict[str, float | None]
    """Median depth of the tiles per band, AB mag."""

    failures: dict[str, str]
    """Tiles whose last build failed, with the reasons."""

    slowest: dict[str, float]
    """Wall time of the tiles that took longest to build, s."""

    build: BuildState | None
    """Progress of the last build; None if there has been none since the index was created."""

    lock: Holder | None
    """Holder of the archive's lock, a build or a reindex; None if the lock is free."""


def archive_status(archive: str | Path) -> ArchiveStatus:
    """Return the state of an archive.

    Raises
    ------
    ArchiveError
        The folder is no archive, or its index cannot be read.
    """
    archive = Path(archive)
    lock = holder_of(archive)
    with Index(archive) as index:
        settings, tiles = index.settings, index.tiles()
        if settings is None:
            raise NoArchiveError(
                f"archive {archive}: nothing has been built yet: run archive-builder build RECIPE {archive}"
            )
        kept = [tile for tile in tiles if tile.shard]
        reasons = [index.skipped_for(tile) for tile in kept]
        depths = [index.depth(tile) for tile in kept]
        build = _build_state(index, tiles, lock, rebuild=False)
    rebuild, rebuild_failures = _rebuild_state(archive, lock)
    seconds = {tile.name: tile.seconds for tile in kept if tile.seconds is not None}
    slowest = sorted(seconds, key=lambda name: -seconds[name])[:SLOWEST]
    return ArchiveStatus(
        survey=settings.survey,
        size=settings.size,
        bands=settings.bands,
        built=len(kept),
        stored=sum(tile.stored for tile in kept),
        skipped=sum(tile.skipped for tile in kept),
        skipped_for={reason: sum(counts[reason] for counts in reasons) for reason in REASON_NAMES},
        bytes=sum(tile.bytes or 0 for tile in kept),
        depth={band: _median([depth.get(band) for depth in depths]) for band in settings.bands},
        failures=_failures(tiles) | rebuild_failures,
        slowest={name: seconds[name] for name in slowest},
        build=rebuild or build,
        lock=lock,
    )


def _median(values: Sequence[float | None]) -> float | None:
    """Return the median of the known values."""
    known = [value for value in values if value is not None]
    return round(median(known), 4) if known else None


def _failures(tiles: Sequence[TileRow]) -> dict[str, str]:
    return {tile.name: tile.error or "" for tile in tiles if tile.state == "failed"}


def _rebuild_state(archive: Path, lock: Holder | None) -> tuple[BuildState | None, dict[str, str]]:
    """Return the progress and the failures of a whole rebuild, by its own index."""
    if not (archive / NEXT_INDEX_NAME).is_file():
        return None, {}
    try:
        with Index(archive, name=NEXT_INDEX_NAME) as index:
            tiles = index.tiles()
            return _build_state(index, tiles, lock, rebuild=True), _failures(tiles)
    except NoArchiveError:  # the rebuild has just replaced the archive's index
        return None, {}


def _build_state(index: Index, tiles: Sequence[TileRow], lock: Holder | None, rebuild: bool) -> BuildState | None:
    """Return the progress of the last build in an index."""
    build = index.last_build()
    if build is None:
        return None
    tried = [tile for tile in tiles if tile.build_id == build.build_id]
    built = [tile for tile in tried if tile.state == "built"]
    is_at_work = build.finished is None and lock is not None and lock.alive is not False
    seconds = (_end(build, built, is_at_work) - datetime.fromisoformat(build.started)).total_seconds()
    objects = sum(tile.stored + tile.skipped for tile in built)
    left = max(0, build.planned - len(tried))
    return BuildState(
        state="finished" if build.finished else "at work" if is_at_work else "interrupted",
        rebuild=rebuild,
        started=build.started,
        planned=build.planned,
        built=len(built),
        failed=len(tried) - len(built),
        left=left,
        seconds=seconds,
        objects_per_second=objects / seconds if objects and seconds > 0 else None,
        tiles_per_hour=len(tried) / seconds * 3600 if tried and seconds > 0 else None,
        seconds_left=left * seconds / len(tried) if is_at_work and tried else None,
    )


def _end(build: BuildRow, built: Sequence[TileRow], is_at_work: bool) -> datetime:
    """Return the present time for a running build, else the time of its last known work."""
    if is_at_work:
        return datetime.now(UTC)
    times = [build.finished] if build.finished else [tile.built_at for tile in built if tile.built_at]
    return datetime.fromisoformat(max([build.started, *times]))
