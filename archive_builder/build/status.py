"""What an archive holds, by its index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from archive_builder.errors import NoArchiveError
from archive_builder.store.index import Index


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

    bytes: int
    """Of all shards."""

    failures: dict[str, str]
    """Tiles whose last build failed, and why."""


def archive_status(archive: Path) -> ArchiveStatus:
    """Read an archive's state from its index.

    Raises
    ------
    ArchiveError
        The folder is no archive.
    """
    with Index(archive) as index:
        settings, tiles = index.settings, index.tiles()
    if not settings:
        raise NoArchiveError(f"{archive} is an archive in which nothing has been built yet")
    kept = [tile for tile in tiles if tile["shard"]]
    return ArchiveStatus(
        survey=settings["recipe"]["survey"]["name"],
        size=settings["size"],
        bands=tuple(settings["bands"]),
        built=len(kept),
        stored=sum(tile["stored"] for tile in kept),
        skipped=sum(tile["skipped"] for tile in kept),
        bytes=sum(tile["bytes"] or 0 for tile in kept),
        failures={tile["name"]: tile["error"] for tile in tiles if tile["state"] == "failed"},
    )
