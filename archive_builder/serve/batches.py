"""The cutouts of a whole archive as a stream of batches: in order or shuffled, split and resumed at will.

A shuffled stream opens every shard once. The tiles are shuffled and taken `TILES_TOGETHER` at a time; their rows,
in segments that are neighbours on the sky and so quick to read, are shuffled among each other; and as many segments
as fit into a buffer are read and their cutouts shuffled once more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from archive_builder.errors import RequestError
from archive_builder.geometry import Size

if TYPE_CHECKING:
    from archive_builder.serve.archive import Archive

TILES_TOGETHER = 8
"""Tiles whose cutouts are mixed: as many as an archive keeps open."""

SEGMENTS_TOGETHER = 8
"""Segments whose cutouts are mixed in the buffer."""

BUFFER_BYTES = 256 * 2**20
"""Memory for the buffer: 3,200 cutouts of 64 px in five bands."""


@dataclass(frozen=True)
class Batch:
    """Some cutouts."""

    object_id: NDArray[np.int64]
    """The survey's IDs, (n,)."""

    data: NDArray[np.float32]
    """(n, bands, ny, nx), NaN where there is no data."""


@dataclass(frozen=True)
class Segment:
    """Consecutive rows of one tile's shard."""

    tile_id: int
    """The tile's number in the index."""

    first: int
    """Its first row."""

    end: int
    """The row after its last."""


class BatchStream:
    """The stream of one part of an archive's cutouts.

    Parameters
    ----------
    archive : Archive
    size, bands
        As for `Archive.get`.
    batch_size : int
        Cutouts in a batch; the last one may have fewer.
    shuffle_seed : int, optional
        Without it the cutouts come as they are stored.
    epoch : int
        Another epoch has another order, with the same seed.
    part, parts : int
        Every cutout is in exactly one of the parts.
    skip : int
        How many batches to leave out at the start, without reading them.

    Raises
    ------
    RequestError
        The numbers make no sense.
    """

    def __init__(
        self,
        archive: Archive,
        size: Size | None = None,
        batch_size: int = 256,
        shuffle_seed: int | None = None,
        bands: Sequence[str] | None = None,
        *,
        epoch: int = 0,
        part: int = 0,
        parts: int = 1,
        skip: int = 0,
    ) -> None:
        if batch_size < 1 or parts < 1 or not 0 <= part < parts or skip < 0 or epoch < 0:
            raise RequestError(
                f"batch_size {batch_size}, part {part} of {parts}, epoch {epoch}, skip {skip}: "
                "give a batch_size above 0, a part from 0 to parts - 1, and nothing negative"
            )
        self._archive, self._batch_size, self._skip = archive, batch_size, skip
        self._shape, self._band_numbers = archive.common_form(size, bands)
        self._seed = None if shuffle_seed is None else np.random.SeedSequence(shuffle_seed, spawn_key=(epoch,))
        self._buffers = list(self._plan(part, parts))

    def __len__(self) -> int:
        """How many batches there are, those left out included."""
        return math.ceil(sum(s.end - s.first for buffer in self._buffers for s in buffer) / self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        waiting: list[Batch] = []
        to_skip = self._skip * self._batch_size
        for number, buffer in enumerate(self._buffers):
            count = sum(s.end - s.first for s in buffer)
            if to_skip >= count:
                to_skip -= count
                continue
            waiting.append(_take(self._read(number, buffer), slice(to_skip, None)))
            to_skip = 0
            yield from self._full_batches(waiting)
        if waiting and len(waiting[0].object_id):
            yield waiting[0]

    def _full_batches(self, waiting: list[Batch]) -> Iterator[Batch]:
        """Yield all full batches of what is waiting, and leave the rest there."""
        one = waiting[0] if len(waiting) == 1 else _join(waiting)
        full = len(one.object_id) // self._batch_size * self._batch_size
        for first in range(0, full, self._batch_size):
            yield _take(one, slice(first, first + self._batch_size))
        # A copy, for a view would keep the whole buffer in memory.
        rest = _take(one, slice(full, None))
        waiting[:] = [Batch(rest.object_id.copy(), rest.data.copy())] if len(rest.object_id) else []

    def _plan(self, part: int, parts: int) -> Iterator[list[Segment]]:
        """Yield the segments of each buffer."""
        rows = max(self._batch_size, BUFFER_BYTES // (4 * len(self._band_numbers) * self._shape[0] * self._shape[1]))
        tiles = self._archive.stored_rows()
        total = sum(count for _, count in tiles)
        length = max(1, min(rows // SEGMENTS_TOGETHER, math.ceil(total / (parts * SEGMENTS_TOGETHER))))
        segments = list(self._segments(tiles, length))[part::parts]
        for first in range(0, len(segments), SEGMENTS_TOGETHER):
            yield segments[first : first + SEGMENTS_TOGETHER]

    def _segments(self, tiles: list[tuple[int, int]], length: int) -> Iterator[Segment]:
        """Yield all segments in the stream's order."""
        rng = None if self._seed is None else np.random.default_rng(self._seed)
        order = range(len(tiles)) if rng is None else rng.permutation(len(tiles)).tolist()
        for group in range(0, len(tiles), TILES_TOGETHER):
            together = [
                Segment(tile_id, first, min(first + length, count))
                for tile_id, count in (tiles[n] for n in order[group : group + TILES_TOGETHER])
                for first in range(0, count, length)
            ]
            if rng is not None:
                rng.shuffle(together)
            yield from together

    def _read(self, number: int, buffer: list[Segment]) -> Batch:
        """Read the cutouts of one buffer, shuffled if the stream is."""
        count = sum(s.end - s.first for s in buffer)
        batch = Batch(
            np.empty(count, dtype=np.int64),
            np.empty((count, len(self._band_numbers), *self._shape), dtype=np.float32),
        )
        done = 0
        for s in buffer:
            part = slice(done, done + s.end - s.first)
            batch.object_id[part] = self._archive.read_rows(s.tile_id, s.first, self._band_numbers, batch.data[part])
            done = part.stop
        if self._seed is None:
            return batch
        rng = np.random.default_rng([*self._seed.generate_state(4), number])
        return _take(batch, rng.permutation(len(batch.object_id)))


def _take(batch: Batch, which: slice | NDArray[np.intp]) -> Batch:
    return Batch(batch.object_id[which], batch.data[which])


def _join(batches: list[Batch]) -> Batch:
    return Batch(np.concatenate([b.object_id for b in batches]), np.concatenate([b.data for b in batches]))
