"""An archive's index made anew, from its shards alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from archive_builder.builder.commit import objects_of, tile_record
from archive_builder.builder.lock import BuildLock
from archive_builder.errors import ArchiveError, DuplicateObjectError, NoArchiveError, one_line
from archive_builder.run.pool import MOST_TOGETHER, end_if_starting, files_together, run_in_batches
from archive_builder.store.format import checksum
from archive_builder.store.index import INDEX_NAME, SHARD_FOLDER, Index, is_shard_name
from archive_builder.store.index_file import replace_index
from archive_builder.store.records import Settings, ShardInfo, TileEntry
from archive_builder.store.shard_reader import Shard

FRESH_INDEX_NAME = "index.fresh.sqlite"
"""The index being made, until it takes the place of the archive's."""

TILES_TOGETHER = 64
"""Tiles that go into the index in one transaction: nobody reads it before it is whole."""

OLDER = "there is a newer shard of its tile"
"""Why a good shard is left out."""


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
    bytes: int
    """Of the file."""


@dataclass(frozen=True)
class _Choice:
    """Which of a tile's shards goes into the index."""

    tile: str
    """Its name."""

    path: Path | None = None
    """The shard; None if none of them can be used."""

    entry: TileEntry | None = None
    """What the index is to know of it."""

    others: tuple[_Candidate, ...] = ()
    """Those that could take its place, the best first."""

    left_out: dict[str, str] = field(default_factory=dict)
    """The files not chosen, and why."""


def reindex(
    archive: Path,
    workers: int = 1,
    on_start: Callable[[int], None] = lambda tiles: None,
    on_tile: Callable[[str], None] = lambda name: None,
) -> ReindexReport:
    """Make an archive's index anew from its shards alone.

    Of a tile's shards the newest is taken that is whole. What the shards do not know is lost: tiles that failed, how
    long the others took. With several workers it starts processes: a script must call it under
    ``if __name__ == "__main__"``.

    Parameters
    ----------
    archive : Path
    workers : int
        Processes, at most.
    on_start : callable
        Told how many tiles there are.
    on_tile : callable
        Told of every tile that is done with.

    Raises
    ------
    ArchiveError
        The folder has no shards that can be read, or another build is at work; the index stays as it was.
    RequestError
        It starts processes and is not called under that ``if``.
    """
    end_if_starting()
    if not (archive / SHARD_FOLDER).is_dir():
        raise NoArchiveError(f"{archive} is no cutout archive: it has no folder {SHARD_FOLDER}")
    report = ReindexReport()
    with BuildLock(archive):
        tiles = _by_tile(_candidates(archive, workers, report), report)
        on_start(len(tiles))
        with _fresh_index(archive) as index:
            sizes = [sum(candidate.bytes for candidate in candidates) for candidates in tiles]
            choices = run_in_batches(_choose_all, tiles, files_together(sizes), workers, _lost_tile)
            while some := list(islice(choices, TILES_TOGETHER)):
                _put_in(index, some, report)
                for choice in some:
                    on_tile(choice.tile)
            if not report.tiles:
                raise _nothing_readable(archive, report)
            info = tiles[0][0].info  # all candidates have the same settings
            index.set_settings(Settings.of(json.loads(info.recipe), info.size))
        replace_index(archive / FRESH_INDEX_NAME, archive / INDEX_NAME)
    return report


@contextmanager
def _fresh_index(archive: Path) -> Iterator[Index]:
    """Give a new index to be filled; it is removed if that fails."""
    fresh = archive / FRESH_INDEX_NAME
    fresh.unlink(missing_ok=True)
    try:
        with Index(archive, writable=True, name=FRESH_INDEX_NAME) as index:
            yield index
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _nothing_readable(archive: Path, report: ReindexReport) -> ArchiveError:
    """Return the error of an archive that nothing is left of."""
    first = f" (the first: {next(iter(report.left_out.values()))})" if report.left_out else ""
    return ArchiveError(
        f"archive {archive}: none of its shards can be read{first}, and so no index can be made from them: "
        "move the folder away, and build the archive anew"
    )


# ---- the shards there are


def _candidates(archive: Path, workers: int, report: ReindexReport) -> list[_Candidate]:
    """Return the shards that can be opened, in the order of their names."""
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
    """Look at what a shard says of itself; return why if it cannot be used."""
    try:
        with Shard(path) as shard:
            info = shard.info
            if not is_shard_name(f"{SHARD_FOLDER}/{path.name}", info.tile, info.generation):
                return f"shard {path}: is of tile {info.tile}, generation {info.generation}"
            _ = shard.settings  # that can be read
            return _Candidate(path, info, path.stat().st_size)
    except ArchiveError as error:
        return str(error)


def _lost_shard(path: Path, cause: str) -> str:
    """Say why a shard cannot be used that a worker died of."""
    return f"shard {path}: cannot be looked at ({cause})"


# ---- one shard for each tile


def _by_tile(candidates: Sequence[_Candidate], report: ReindexReport) -> list[tuple[_Candidate, ...]]:
    """Return each tile's shards, the newest first, of those with the settings that most have; lone shards first.

    A tile with several shards was being built when a build died. They go in last: an object that moved to another
    tile may be in the newest, which was not committed yet, and in the other tile's only one.
    """
    if not candidates:
        return []
    # A whole rebuild that was never finished leaves shards with other settings beside those of the archive.
    settings, _ = Counter((c.info.recipe, c.info.size) for c in reversed(candidates)).most_common(1)[0]
    tiles: dict[str, list[_Candidate]] = {}
    for candidate in sorted(candidates, key=lambda c: (c.info.tile, -c.info.generation)):
        if (candidate.info.recipe, candidate.info.size) == settings:
            tiles.setdefault(candidate.info.tile, []).append(candidate)
        else:
            report.left_out[candidate.path.name] = "was built with other settings than most"
    return sorted((tuple(shards) for shards in tiles.values()), key=lambda shards: len(shards) > 1)


def _choose_all(tiles: Sequence[tuple[_Candidate, ...]]) -> list[_Choice]:
    return [_choose(candidates) for candidates in tiles]


def _choose(candidates: tuple[_Candidate, ...]) -> _Choice:
    """Choose among a tile's shards, the newest first: the first that is whole, or else that can be indexed at all.

    A lone shard's pixels are not read: there is no better one, and ``verify --deep`` finds what is damaged in it.
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
    """Say what is damaged in a shard, all of which is read; nothing if it is whole."""
    try:
        with Shard(path) as shard:
            shard.read_through()
    except ArchiveError as error:
        return str(error)
    return ""


def _entry(candidate: _Candidate) -> TileEntry:
    """Return what the index is to know of a shard."""
    path = candidate.path
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
    with Shard(path) as shard:
        tile = tile_record(shard, checksum=checksum(path), built_at=written)
        return TileEntry(tile, **objects_of(shard), replaced=shard.stored_ids[:0])


def _lost_tile(candidates: tuple[_Candidate, ...], cause: str) -> _Choice:
    """Return what is chosen of a tile that a worker died of."""
    return _Choice(candidates[0].info.tile, left_out={c.path.name: _lost_shard(c.path, cause) for c in candidates})


# ---- into the index


def _put_in(index: Index, choices: Sequence[_Choice], report: ReindexReport) -> None:
    """Put some tiles into the index, in one transaction if they all fit in."""
    for choice in choices:
        report.left_out |= choice.left_out
    try:
        _commit(index, choices, report)
    except DuplicateObjectError:
        for choice in choices:
            _put_one_in(index, choice, report)


def _put_one_in(index: Index, choice: _Choice, report: ReindexReport) -> None:
    """Put a tile into the index, by an older shard if an object of the newest is on another tile already."""
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
