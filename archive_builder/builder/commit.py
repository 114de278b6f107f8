"""From a tile's new shard to an index that leads to it, and what has to wait for another tile."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archive_builder.builder.one_tile import TileResult
from archive_builder.errors import ArchiveBuilderError, ArchiveError, DuplicateObjectError, one_line
from archive_builder.measure.quality import count_reasons
from archive_builder.store.index import Index, shard_name, utc_now
from archive_builder.store.records import TileEntry, TileRecord, TileRow
from archive_builder.store.shard_reader import Shard
from archive_builder.store.shard_writer import place_shard

Outcome = tuple[TileResult, str | None]
"""A tile's result, and why it is not in the archive if it is not."""


class Committer:
    """Names new shards, switches the index to them, one transaction a tile, and then removes the old ones.

    An object may have moved from one tile's catalogue to another's. Its new tile cannot be committed while the
    index still has it on its old one; if that is being built too, both wait, and go in together at the end.

    Parameters
    ----------
    index : Index
    archive : Path
    known : mapping of str to mapping
        The index's row of each tile, as it was when the build began.
    pending : iterable of str
        The tiles that are being built.
    build_id : int
        The number of the build.
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

    def take(self, result: TileResult) -> Iterator[Outcome]:
        """Commit a tile's shard; yield nothing if it has to wait."""
        if result.error is not None:
            self._unfinished.discard(result.tile)
            yield result, result.error
            return
        try:
            self._place(result)
            self._commit([result])
        except DuplicateObjectError as error:
            if error.other in self._unfinished and error.other != result.tile:
                self._waiting[result.tile] = result
                return
            yield result, self._refuse(result, error)
        except ArchiveBuilderError as error:
            yield result, self._refuse(result, error)
        else:
            yield result, None
        self._unfinished.discard(result.tile)

    def finish(self) -> Iterator[Outcome]:
        """Commit what had to wait, all together; who still stands in the way is left out."""
        while self._waiting:
            try:
                self._commit(list(self._waiting.values()))
            except DuplicateObjectError as error:
                result = self._waiting.pop(error.tile)
                yield result, self._refuse(result, error)
            except ArchiveBuilderError as error:
                for result in self._waiting.values():
                    yield result, self._refuse(result, error)
                return
            else:
                yield from ((result, None) for result in self._waiting.values())
                return

    def _place(self, result: TileResult) -> None:
        """Give a shard its name."""
        draft = self._archive / result.draft
        try:
            place_shard(draft, self._archive / result.shard)
        except FileNotFoundError:
            raise ArchiveError(
                f"shard {draft}: was made but is not here: keep the archive in a folder that all workers share"
            ) from None
        except OSError as error:
            raise ArchiveError(f"shard {self._archive / result.shard}: cannot be named: {one_line(error)}") from None

    def _commit(self, results: list[TileResult]) -> None:
        self._index.commit_tiles([self._entry(result) for result in results])
        for result in results:
            old = self._known.get(result.tile)
            if old and old.shard and old.shard != result.shard:
                with suppress(OSError):  # the next build removes what cannot be removed now
                    (self._archive / old.shard).unlink()

    def _refuse(self, result: TileResult, error: ArchiveBuilderError) -> str:
        """Remove a shard that the archive does not take."""
        for name in (result.draft, result.shard):
            with suppress(OSError):  # the next build removes what cannot be removed now
                (self._archive / name).unlink()
        return str(error)

    def _entry(self, result: TileResult) -> TileEntry:
        old = self._known.get(result.tile)
        old_shard = self._archive / old.shard if old and old.shard else None
        with Shard(self._archive / result.shard) as shard:
            return TileEntry(
                tile=tile_record(
                    shard,
                    checksum=result.checksum,
                    input_hash=result.input_hash,
                    seconds=round(result.seconds, 3),
                    peak_memory=result.peak_memory,
                    built_at=utc_now(),
                    build_id=self._build_id,
                ),
                **objects_of(shard),
                replaced=objects_of_shard(old_shard),
            )


def tile_record(shard: Shard, **others: Any) -> TileRecord:
    """Return a tile's row of the index from its shard, and from the columns that no shard holds."""
    info = shard.info
    return TileRecord(
        name=info.tile,
        state="built",
        shard=shard_name(info.tile, info.generation),
        generation=info.generation,
        stored=len(shard.stored_ids),
        skipped=len(shard.skipped_ids),
        skipped_for=json.dumps(count_reasons(shard.reason)),
        depth=json.dumps(shard.depth),
        input_fingerprint=info.input_fingerprint,
        recipe_fingerprint=hashlib.sha256(info.recipe.encode()).hexdigest()[:16],
        footprint=json.dumps(info.footprint.tolist()),
        bytes=shard.path.stat().st_size,
        **others,
    )


def objects_of(shard: Shard) -> dict[str, NDArray[Any]]:
    """Return the objects of a shard as the index takes them: ``stored``, ``skipped``, ``reason``."""
    return {"stored": shard.stored_ids, "skipped": shard.skipped_ids, "reason": shard.reason}


def objects_of_shard(path: Path | None) -> NDArray[np.int64] | None:
    """Return all objects of a shard that is to be replaced; None if they cannot be told."""
    if path is None:
        return np.empty(0, dtype=np.int64)
    try:
        with Shard(path) as shard:
            return np.concatenate([shard.stored_ids, shard.skipped_ids])
    except ArchiveError:
        return None
