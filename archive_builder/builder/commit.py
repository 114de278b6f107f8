"""Commits of new shards to the index, and the removal of the shards they replace."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archive_builder.atomic import rename_durably
from archive_builder.builder.one_tile import TileResult
from archive_builder.errors import ArchiveBuilderError, ArchiveError, DuplicateObjectError, one_line
from archive_builder.measure.quality import count_reasons
from archive_builder.store.file_names import shard_name
from archive_builder.store.index import Index, utc_now
from archive_builder.store.records import TileEntry, TileRecord, TileRow
from archive_builder.store.shard_reader import Shard


class Committer:
    """Names new shards, commits them to the index in one transaction a tile, then removes the old shards.

    An object may have moved from one tile to another. Its new tile cannot be committed while the index still has the
    object on its old tile. If the old tile is being built or removed too, both tiles wait, and are committed together
    at the end.

    Parameters
    ----------
    index : Index
    archive : Path
    known : mapping of str to TileRow
        Row of each tile in the index, before the build.
    pending : iterable of str
        Tiles that are being built, or removed before `finish`.
    build_id : int
        Number of the build.
    """

    def __init__(
        self,
        index: Index,
        archive: Path,
        known: Mapping[str, TileRow],
        pending: Iterable[str],
        build_id: int,
    ) -> None:
        self._index, self._archive, self._known = index, archive, known
        self._unfinished = set(pending)
        self._build_id = build_id
        self._waiting: dict[str, TileResult] = {}
        self._failed: set[str] = set()

    def take(self, result: TileResult) -> Iterator[TileResult]:
        """Commit a tile's shard, and yield the result, or a failure in its place; yield nothing if the tile waits."""
        if result.error is not None:
            self._failed.add(result.tile)
        else:
            try:
                self._place(result)
                self._commit([result])
            except DuplicateObjectError as error:
                if error.other in self._unfinished and error.other != result.tile:
                    self._waiting[result.tile] = result
                    return
                result = self._refuse(result, error)
            except ArchiveBuilderError as error:
                result = self._refuse(result, error)
        yield result
        self._unfinished.discard(result.tile)

    def finish(self) -> Iterator[TileResult]:
        """Commit all waiting tiles together, without those whose objects another tile keeps; yield their results."""
        while self._waiting:
            try:
                self._commit(list(self._waiting.values()))
            except DuplicateObjectError as error:
                yield self._refuse(self._waiting.pop(error.tile), error)
            except ArchiveBuilderError as error:
                yield from (self._refuse(result, error) for result in self._waiting.values())
                return
            else:
                yield from self._waiting.values()
                return

    def _place(self, result: TileResult) -> None:
        """Rename a draft to the name of its shard."""
        draft = self._archive / result.draft
        try:
            rename_durably(draft, self._archive / result.shard)
        except FileNotFoundError:
            raise ArchiveError(
                f"shard {draft}: was made but is not here: keep the archive in a folder that all workers share"
            ) from None
        except OSError as error:
            raise ArchiveError(
                f"shard {self._archive / result.shard}: cannot be named: {one_line(error)}: build again"
            ) from None

    def _commit(self, results: list[TileResult]) -> None:
        self._index.commit_tiles([self._entry(result) for result in results])
        for result in results:
            old = self._known.get(result.tile)
            if old and old.shard and old.shard != result.shard:
                self._remove(old.shard)

    def _refuse(self, result: TileResult, error: ArchiveBuilderError) -> TileResult:
        """Remove a shard that cannot be committed, and return the failure."""
        self._remove(result.draft)
        self._remove(result.shard)
        self._failed.add(result.tile)
        if isinstance(error, DuplicateObjectError) and error.other in self._failed:
            return TileResult(
                result.tile,
                error=f"object {error.object_id} of tile {result.tile} is still on tile {error.other}, which failed: "
                f"correct tile {error.other}, and build again",
            )
        return TileResult(result.tile, error=str(error))

    def _remove(self, name: str) -> None:
        with suppress(OSError):  # the next build removes it as a leftover
            (self._archive / name).unlink()

    def _entry(self, result: TileResult) -> TileEntry:
        old = self._known.get(result.tile)
        with Shard(self._archive / result.shard) as shard:
            record = tile_record(
                shard,
                checksum=result.checksum,
                built_at=utc_now(),
                input_hash=result.input_hash,
                seconds=round(result.seconds, 3),
                peak_memory=result.peak_memory,
                build_id=self._build_id,
            )
            return tile_entry(shard, record, objects_of_shard(self._archive / old.shard if old and old.shard else None))


def tile_record(
    shard: Shard,
    *,
    checksum: str | None = None,
    built_at: str | None = None,
    input_hash: str | None = None,
    seconds: float | None = None,
    peak_memory: int | None = None,
    build_id: int | None = None,
) -> TileRecord:
    """Return the row of a built tile in the index.

    Parameters
    ----------
    shard : Shard
    checksum, built_at, input_hash, seconds, peak_memory, build_id
        Columns that the shard does not hold; see `TileRecord`.
    """
    info = shard.info
    return TileRecord(
        name=info.tile,
        state="built",
        shard=shard_name(info.tile, info.generation),
        generation=info.generation,
        stored=len(shard.stored_ids),
        skipped=len(shard.skipped_ids) + info.without_id,
        skipped_for=json.dumps(count_reasons(shard.reason, info.without_id)),
        depth=json.dumps(shard.depth),
        input_fingerprint=info.input_fingerprint,
        input_hash=input_hash,
        recipe_fingerprint=hashlib.sha256(info.recipe.encode()).hexdigest()[:16],
        footprint=json.dumps(info.footprint.tolist()),
        bytes=shard.path.stat().st_size,
        checksum=checksum,
        seconds=seconds,
        peak_memory=peak_memory,
        built_at=built_at,
        build_id=build_id,
    )


def tile_entry(shard: Shard, record: TileRecord, replaced: NDArray[np.int64] | None) -> TileEntry:
    """Return a shard's row and objects for the index.

    Parameters
    ----------
    shard : Shard
    record : TileRecord
        Row of the tile; see `tile_record`.
    replaced : ndarray of int64, (N,), or None
        Object IDs of the tile's old shard; None if unknown.
    """
    return TileEntry(record, shard.stored_ids, shard.skipped_ids, shard.reason, replaced)


def objects_of_shard(path: Path | None) -> NDArray[np.int64] | None:
    """Return the object IDs of an old shard, int64 (N,): empty without a shard, None if the shard cannot be read."""
    if path is None:
        return np.empty(0, dtype=np.int64)
    try:
        with Shard(path) as shard:
            return np.concatenate([shard.stored_ids, shard.skipped_ids])
    except ArchiveError:
        return None
