"""What an archive holds, and how far a build of it is: by its index and its lock, never by its objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Literal

from archive_builder.builder.driver import NEXT_INDEX_NAME
from archive_builder.builder.lock import Holder, holder_of
from archive_builder.errors import NoArchiveError
from archive_builder.measure.quality import REASON_NAMES
from archive_builder.store.index import Index
from archive_builder.store.records import BuildRow, TileRow

SLOWEST = 5
"""How many of the slowest tiles are named."""


@dataclass(frozen=True)
class BuildState:
    """How far the last build is that had anything to do."""

    state: Literal["at work", "finished", "interrupted"]
    """Interrupted: it was killed before it had tried all its tiles; building again goes on."""

    rebuild: bool
    """It is a whole rebuild with other settings; the archive stays as it is until that is done."""

    started: str
    """UTC, ISO 8601."""

    planned: int
    """Tiles it set out to build."""

    built: int
    """Of those, the ones it has built."""

    failed: int
    """Of those, the ones it could not."""

    left: int
    """The others."""

    seconds: float
    """It has taken so far."""

    objects_per_second: float | None
    """Objects of the tiles built, skipped ones included, a second; None before the first."""

    tiles_per_hour: float | None
    """Built and failed ones; None before the first."""

    seconds_left: float | None
    """At that speed; None if it is not at work, or before the first tile."""


@dataclass(frozen=True)
class ArchiveStatus:
    """The state of an archive."""

    survey: str
    """The survey's name."""

    size: int
    """Side of the cutouts in pixels."""

    bands: tuple[str, ...]
    """The bands."""

    built: int
    """Tiles with a shard."""

    stored: int
    """Objects with a cutout."""

    skipped: int
    """Objects without."""

    skipped_for: dict[str, int]
    """Those by reason."""

    bytes: int
    """Of all shards."""

    depth: dict[str, float | None]
    """Per band, AB mag: the median of the tiles' depths."""

    failures: dict[str, str]
    """Tiles whose last build failed, and why."""

    slowest: dict[str, float]
    """The tiles that took longest to build, and how many seconds."""

    build: BuildState | None
    """The last build; None if there has been none since the index was made."""

    lock: Holder | None
    """Who holds the archive's lock: a build, or whoever mends the index."""


def archive_status(archive: Path) -> ArchiveStatus:
    """Read an archive's state.

    Raises
    ------
    ArchiveError
        The folder is no archive.
    """
    lock = holder_of(archive)
    with Index(archive) as index:
        settings, tiles = index.settings, index.tiles()
        if settings is None:
            raise NoArchiveError(f"{archive} is an archive in which nothing has been built yet")
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
    """Return the median of what is known."""
    known = [value for value in values if value is not None]
    return round(median(known), 4) if known else None


def _failures(tiles: Sequence[TileRow]) -> dict[str, str]:
    return {tile.name: tile.error or "" for tile in tiles if tile.state == "failed"}


def _rebuild_state(archive: Path, lock: Holder | None) -> tuple[BuildState | None, dict[str, str]]:
    """Return how far a whole rebuild is, if one has been begun, and its failures; it has an index of its own."""
    if not (archive / NEXT_INDEX_NAME).is_file():
        return None, {}
    try:
        with Index(archive, name=NEXT_INDEX_NAME) as index:
            tiles = index.tiles()
            return _build_state(index, tiles, lock, rebuild=True), _failures(tiles)
    except NoArchiveError:  # done in this moment
        return None, {}


def _build_state(index: Index, tiles: Sequence[TileRow], lock: Holder | None, rebuild: bool) -> BuildState | None:
    """Return how far the last build in an index is."""
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
    """Return until when a build has been at work."""
    if is_at_work:
        return datetime.now(UTC)
    times = [build.finished] if build.finished else [tile.built_at for tile in built if tile.built_at]
    return datetime.fromisoformat(max([build.started, *times]))
