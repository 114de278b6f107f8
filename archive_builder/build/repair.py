"""Mending an archive: its index from the shards, its shards from the survey."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from archive_builder.build.builder import BuildReport, archive_settings, build
from archive_builder.build.commit import objects_of, tile_row
from archive_builder.build.lock import BuildLock
from archive_builder.errors import ArchiveBuilderError, ArchiveError, NoArchiveError
from archive_builder.store.index import INDEX_NAME, SHARD_FOLDER, Index, TileEntry, is_shard_name, put_in_place
from archive_builder.store.shard import Shard
from archive_builder.store.verify import Finding
from archive_builder.store.writer import ShardInfo, checksum

FRESH_INDEX_NAME = "index.fresh.sqlite"
"""The index being made, until it takes the place of the archive's."""


@dataclass
class ReindexReport:
    """What making an index anew came to."""

    tiles: int = 0
    """Tiles in it."""

    objects: int = 0
    """Objects in it, skipped ones included."""

    left_out: dict[str, str] = field(default_factory=dict)
    """Files that are not in it, and why."""


@dataclass(frozen=True)
class _Candidate:
    """A shard that may go into the index."""

    path: Path
    info: ShardInfo


def reindex(archive: Path) -> ReindexReport:
    """Make an archive's index anew from its shards alone.

    Of a tile's shards the newest is taken. What the shards do not know is lost: tiles that failed, how long the
    others took.

    Raises
    ------
    ArchiveError
        The folder has no shards, or another build is at work.
    """
    if not (archive / SHARD_FOLDER).is_dir():
        raise NoArchiveError(f"{archive} is no cutout archive: it has no folder {SHARD_FOLDER}")
    report = ReindexReport()
    with BuildLock(archive):
        fresh = archive / FRESH_INDEX_NAME
        fresh.unlink(missing_ok=True)
        chosen = _choose(_candidates(archive, report), report)
        if not chosen:
            raise ArchiveError(f"archive {archive}: none of its shards can be read: build it again")
        with Index(archive, writable=True, name=FRESH_INDEX_NAME) as index:
            first = chosen[0].info
            index.set_settings(archive_settings(json.loads(first.recipe), first.size))
            for candidate in chosen:
                _add(index, candidate, report)
        put_in_place(fresh, archive / INDEX_NAME)
    return report


def repair(archive: Path, findings: Iterable[Finding], recipe: Path | None) -> BuildReport | None:
    """Mend what :func:`archive_builder.store.verify.verify` found.

    The index is made anew from the shards; shards are built again from the survey.

    Parameters
    ----------
    archive : Path
    findings : iterable of Finding
    recipe : Path or None
        Of the survey; without it no shard can be mended.

    Returns
    -------
    BuildReport or None
        Of the tiles that were built again, if any had to be.

    Raises
    ------
    ArchiveBuilderError
        Something cannot be mended.
    """
    findings = list(findings)
    broken = {finding.tile for finding in findings if finding.kind == "shard" and finding.tile}
    if broken and recipe is None:
        raise ArchiveError(f"archive {archive}: {len(broken)} shards are damaged: give the survey's recipe as --survey")
    if any(finding.kind == "index" for finding in findings):
        reindex(archive)
    if recipe is None:
        return None
    return build(recipe, archive, tiles=sorted(broken), force=True) if broken else build(recipe, archive)


def _candidates(archive: Path, report: ReindexReport) -> list[_Candidate]:
    """Return the shards that can be read, in the order of their names."""
    found = []
    for path in sorted((archive / SHARD_FOLDER).glob("[!.]*.h5")):
        try:
            with Shard(path) as shard:
                info = shard.info
                if not is_shard_name(f"{SHARD_FOLDER}/{path.name}", info.tile, info.generation):
                    raise ArchiveError(f"shard {path}: is of tile {info.tile}, generation {info.generation}")
                _ = shard.settings  # that can be read
                found.append(_Candidate(path, info))
        except ArchiveBuilderError as error:
            report.left_out[path.name] = str(error)
    return found


def _choose(candidates: list[_Candidate], report: ReindexReport) -> list[_Candidate]:
    """Return each tile's newest shard, of those with the settings that most have."""
    if not candidates:
        return []
    # A whole rebuild that was never finished leaves shards with other settings beside those of the archive.
    settings, _ = Counter((c.info.recipe, c.info.size) for c in reversed(candidates)).most_common(1)[0]
    newest: dict[str, _Candidate] = {}
    for candidate in candidates:
        if (candidate.info.recipe, candidate.info.size) != settings:
            report.left_out[candidate.path.name] = "was built with other settings than most"
            continue
        older = newest.get(candidate.info.tile)
        if older is None or older.info.generation < candidate.info.generation:
            newest[candidate.info.tile], candidate = candidate, older or candidate
        if older is not None:
            report.left_out[candidate.path.name] = "there is a newer shard of its tile"
    return [newest[tile] for tile in sorted(newest)]


def _add(index: Index, candidate: _Candidate, report: ReindexReport) -> None:
    """Put one shard into the index."""
    path = candidate.path
    try:
        with Shard(path) as shard:
            tile = {**tile_row(shard, checksum(path)), "built_at": _modified(path)}
            index.commit_tiles([TileEntry(tile, **objects_of(shard), replaced=shard.stored_ids[:0])])
    except ArchiveBuilderError as error:
        report.left_out[path.name] = str(error)
        return
    report.tiles += 1
    report.objects += tile["stored"] + tile["skipped"]


def _modified(path: Path) -> str:
    """Return when a file was written last, as the index has times."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
