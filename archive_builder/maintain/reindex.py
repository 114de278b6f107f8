"""A new index of an archive, from its shards alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from archive_builder.builder.commit import tile_entry, tile_record
from archive_builder.builder.lock import BuildLock
from archive_builder.errors import ArchiveError, DuplicateObjectError, NoArchiveError, one_line
from archive_builder.run.machine import worker_processes
from archive_builder.run.pool import MOST_TOGETHER, end_if_starting, files_together, run_in_batches
from archive_builder.store.file_names import FRESH_INDEX_NAME, INDEX_NAME, SHARD_FOLDER, is_shard_name
from archive_builder.store.format import checksum
from archive_builder.store.index import Index
from archive_builder.store.index_file import replace_index
from archive_builder.store.records import Settings, ShardInfo, TileEntry
from archive_builder.store.shard_reader import Shard

TILES_TOGETHER = 64
"""Tiles in one transaction: no reader opens the index before it is complete."""

OLDER = "there is a newer shard of its tile"
"""Reason for leaving out a good shard."""


@dataclass
class ReindexReport:
    """Outcome of a reindex."""

    tiles: int = 0
    """Tiles in the index."""

    objects: int = 0
    """Objects in the index, skipped objects included."""

    left_out: dict[str, str] = field(default_factory=dict)
    """Files that are not in the index, with the reasons."""


@dataclass(frozen=True)
class _Candidate:
    """A shard that can be opened."""

    path: Path
    """File of the shard."""

    info: ShardInfo
    """Attributes of the shard."""

    bytes: int
    """Size of the file, bytes."""


@dataclass(frozen=True)
class _Choice:
    """The shard of a tile that goes into the index."""

    tile: str
    """Name of the tile."""

    path: Path | None = None
    """File of the shard; None if no shard of the tile can be used."""

    entry: TileEntry | None = None
    """Entry of the shard in the index."""

    others: tuple[_Candidate, ...] = ()
    """Other usable shards of the tile, the best first."""

    left_out: dict[str, str] = field(default_factory=dict)
    """Files not chosen, with the reasons."""


def reindex(
    archive: str | Path,
    *,
    workers: int | None = None,
    on_start: Callable[[int], None] = lambda tiles: None,
    on_tile: Callable[[str], None] = lambda name: None,
) -> ReindexReport:
    """Rebuild the index of an archive from its shards alone.

    The new index has the newest undamaged shard of each tile. The shards do not hold everything: the new index lacks
    the failures, and the build times of the tiles. With several workers this starts processes: a script must call it
    under ``if __name__ == "__main__"``.

    Parameters
    ----------
    archive : str or Path
        Folder of the archive.
    workers : int, optional
        Maximum worker processes (default: one per CPU).
    on_start : callable
        Called with the number of tiles.
    on_tile : callable
        Called with the name of each finished tile.

    Raises
    ------
    ArchiveError
        The folder has no readable shards, or a build is running; the index is unchanged.
    RequestError
        The call starts processes and is not under ``if __name__ == "__main__"``.
    """
    end_if_starting()
    archive, workers = Path(archive), worker_processes(workers)
    if not (archive / SHARD_FOLDER).is_dir():
        raise NoArchiveError(f"{archive} is not a cutout archive: it has no folder {SHARD_FOLDER}")
    report = ReindexReport()
    with BuildLock(archive):
        tiles = _by_tile(_candidates(archive, workers, report), report)
        on_start(len(tiles))
        with _fresh_index(archive) as index:
            if tiles:
                info = tiles[0][0].info  # all candidates have the same settings
                index.set_settings(Settings.of(json.loads(info.recipe), info.size, info.id_kind))
            sizes = [sum(candidate.bytes for candidate in candidates) for candidates in tiles]
            choices = run_in_batches(_choose_all, tiles, files_together(sizes), workers, _lost_tile)
            while some := list(islice(choices, TILES_TOGETHER)):
                _put_in(index, some, report)
                for choice in some:
                    on_tile(choice.tile)
            if not report.tiles:
                raise _nothing_readable(archive, report)
        replace_index(archive / FRESH_INDEX_NAME, archive / INDEX_NAME)
    return report


@contextmanager
def _fresh_index(archive: Path) -> Iterator[Index]:
    """Open a new index; remove the file if the block ends with an error."""
    fresh = archive / FRESH_INDEX_NAME
    _unlink(fresh)
    try:
        with Index(archive, writable=True, name=FRESH_INDEX_NAME) as index:
            yield index
    except BaseException:
        _unlink(fresh)
        raise


def _unlink(fresh: Path) -> None:
    with suppress(IsADirectoryError):  # it stays, and `Index` names it
        fresh.unlink(missing_ok=True)


def _nothing_readable(archive: Path, report: ReindexReport) -> ArchiveError:
    """Return the error of an archive without a readable shard."""
    first = f" (the first: {next(iter(report.left_out.values()))})" if report.left_out else ""
    return ArchiveError(
        f"archive {archive}: none of its shards can be read{first}: move the folder away, and build the archive again"
    )


# ---- all shards


def _candidates(archive: Path, workers: int, report: ReindexReport) -> list[_Candidate]:
    """Return the shards that can be opened, by name; the report gets the others."""
    paths = sorted((archive / SHARD_FOLDER).glob("[!.]*.h5"))
    found = []
    inspected = run_in_batches(_inspect_all, paths, MOST_TOGETHER, workers, _lost_shard)
    for path, candidate in zip(paths, inspected, strict=True):
        if isinstance(candidate, str):
            report.left_out[path.name] = candidate
        else:
            found.append(candidate)
    return found


def _inspect_all(paths: Sequence[Path]) -> list[_Candidate | str]:
    return [_inspect(path) for path in paths]


def _inspect(path: Path) -> _Candidate | str:
    """Return a shard as a candidate, or the reason why it cannot be used."""
    try:
        with Shard(path) as shard:
            info = shard.info
            if not is_shard_name(f"{SHARD_FOLDER}/{path.name}", info.tile, info.generation):
                return f"shard {path}: is of tile {info.tile}, generation {info.generation}"
            _ = shard.settings  # raises if it cannot be read
            return _Candidate(path, info, path.stat().st_size)
    except ArchiveError as error:
        return str(error)


def _lost_shard(path: Path, cause: str) -> str:
    """Return the reason for leaving out a shard: a worker died while it read the shard."""
    return f"shard {path}: cannot be checked ({cause})"


# ---- one shard for each tile


def _by_tile(candidates: Sequence[_Candidate], report: ReindexReport) -> list[tuple[_Candidate, ...]]:
    """Return the shards of each tile, the newest first; tiles with one shard come first.

    Only shards with the most common settings are returned. A tile with several shards was being built when a build
    died. These tiles come last: an object that moved to another tile may be in the newest shard, which was not
    committed yet, and in the only shard of the other tile.
    """
    if not candidates:
        return []
    # An unfinished whole rebuild leaves shards with other settings.
    settings, _ = Counter(map(_settings, reversed(candidates))).most_common(1)[0]
    tiles: dict[str, list[_Candidate]] = {}
    for candidate in sorted(candidates, key=lambda c: (c.info.tile, -c.info.generation)):
        if _settings(candidate) == settings:
            tiles.setdefault(candidate.info.tile, []).append(candidate)
        else:
            report.left_out[candidate.path.name] = "was built with other settings than most"
    return sorted((tuple(shards) for shards in tiles.values()), key=lambda shards: len(shards) > 1)


def _settings(candidate: _Candidate) -> tuple[str, int, str]:
    """Return the settings that all shards of an index share."""
    return candidate.info.recipe, candidate.info.size, candidate.info.id_kind


def _choose_all(tiles: Sequence[tuple[_Candidate, ...]]) -> list[_Choice]:
    return [_choose(candidates) for candidates in tiles]


def _choose(candidates: tuple[_Candidate, ...]) -> _Choice:
    """Choose the first undamaged shard of a tile, the newest first; without one, the first that can be indexed.

    The pixels of a single shard are not read: there is no better shard, and ``verify --deep`` finds its damage.
    """
    damage = {c.path.name: _damage(c.path) if len(candidates) > 1 else "" for c in candidates}
    ranked = sorted(candidates, key=lambda c: damage[c.path.name] != "")
    left_out: dict[str, str] = {}
    for rank, candidate in enumerate(ranked, start=1):
        try:
            entry = _entry(candidate)
        except ArchiveError as error:
            left_out[candidate.path.name] = str(error)
            continue
        except OSError as error:
            left_out[candidate.path.name] = f"shard {candidate.path}: cannot be read ({one_line(error)})"
            continue
        left_out |= {c.path.name: damage[c.path.name] or OLDER for c in ranked[rank:]}
        return _Choice(candidate.info.tile, candidate.path, entry, tuple(ranked[rank:]), left_out)
    return _Choice(candidates[0].info.tile, left_out=left_out)


def _damage(path: Path) -> str:
    """Return the damage of a shard as text, empty if there is none; the whole shard is read."""
    try:
        with Shard(path) as shard:
            shard.read_through()
    except ArchiveError as error:
        return str(error)
    return ""


def _entry(candidate: _Candidate) -> TileEntry:
    """Return the entry of a shard in the index."""
    path = candidate.path
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    with Shard(path) as shard:
        record = tile_record(shard, checksum=checksum(path), built_at=written)
        return tile_entry(shard, record, replaced=shard.stored_ids[:0])


def _lost_tile(candidates: tuple[_Candidate, ...], cause: str) -> _Choice:
    """Return the choice for a tile whose worker died: none."""
    return _Choice(candidates[0].info.tile, left_out={c.path.name: _lost_shard(c.path, cause) for c in candidates})


# ---- into the index


def _put_in(index: Index, choices: Sequence[_Choice], report: ReindexReport) -> None:
    """Commit tiles to the index, in one transaction if no two tiles share an object."""
    for choice in choices:
        report.left_out |= choice.left_out
    try:
        _commit(index, choices, report)
    except DuplicateObjectError:
        for choice in choices:
            _put_one_in(index, choice, report)


def _put_one_in(index: Index, choice: _Choice, report: ReindexReport) -> None:
    """Commit a tile to the index, by an older shard if an object of the newest is on another tile."""
    while choice.path is not None:
        report.left_out.pop(choice.path.name, None)
        try:
            _commit(index, [choice], report)
            return
        except DuplicateObjectError as error:
            report.left_out[choice.path.name] = str(error)
            choice = _choose(choice.others) if choice.others else _Choice(choice.tile)
            report.left_out |= choice.left_out


def _commit(index: Index, choices: Sequence[_Choice], report: ReindexReport) -> None:
    entries = [choice.entry for choice in choices if choice.entry is not None]
    index.commit_tiles(entries)
    report.tiles += len(entries)
    report.objects += sum(len(entry.objects) for entry in entries)
