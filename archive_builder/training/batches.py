"""The cutouts of a whole archive as a stream of batches: in order or shuffled, split and resumed at will.

The tiles are shuffled and taken `TILES_TOGETHER` at a time; their rows, in segments that are neighbours on the sky
and so quick to read, are shuffled among each other: that is the stream's order of rows. It is cut into batches, and
the batches into parts that differ by one at most. A part is a stretch of the stream, so that it opens few shards and
each of them once; what fits into a buffer is read at a time, and every cutout put at random into one of its batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from archive_builder.errors import RequestError
from archive_builder.geometry import Size

if TYPE_CHECKING:
    from archive_builder.serve.archive import Archive

TILES_TOGETHER = 8
"""Tiles whose cutouts are mixed: as many as an archive keeps open."""

SEGMENTS_TOGETHER = 16
"""Segments whose cutouts are mixed in the buffer: with 32, reading cutouts of 228 px takes a third longer."""

BUFFER_BYTES = 256 * 2**20
"""Memory for the buffer: 3,200 cutouts of 64 px in five bands."""

_TILE_ORDER, _SEGMENT_ORDER, _BUFFER_ORDER = range(3)
"""What random numbers are for; each use has a sequence of its own."""


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

    def __len__(self) -> int:
        return self.end - self.first


class BatchStream:
    """The stream of one part of an archive's cutouts.

    The same archive and arguments give the same batches.

    Parameters
    ----------
    archive : Archive
    size, bands
        As for `Archive.get`.
    batch_size : int
        Cutouts in a batch; the last one of the last part may have fewer.
    shuffle_seed : int, optional
        Without it the cutouts come as they are stored.
    epoch : int
        Another epoch has another order, with the same seed.
    part, parts : int
        Every cutout is in exactly one of the parts; they have the same number of batches, or one more.
    skip : int
        How many batches to leave out at the start; at most one buffer of them is read.

    Raises
    ------
    RequestError
        The numbers make no sense.
    ArchiveError
        On the way: a tile was rebuilt and has another number of cutouts than when the stream was begun.
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
        _require(1, batch_size=batch_size, parts=parts)
        _require(0, shuffle_seed=0 if shuffle_seed is None else shuffle_seed, epoch=epoch, part=part, skip=skip)
        if part >= parts:
            raise RequestError(f"part {part} of {parts}: parts are counted from 0, give one below {parts}")
        self._archive, self._batch_size, self._skip = archive, batch_size, skip
        self._seed, self._epoch = shuffle_seed, epoch
        self._shape, self._band_numbers = archive.common_form(size, bands)
        self._counts = dict(archive.stored_rows())
        self._total = sum(self._counts.values())
        self._part = part_of(math.ceil(self._total / batch_size), part, parts)
        self._together = self._batches_in_buffer()
        rows = min(self._together * batch_size, math.ceil(self._total / parts))
        self._segment_rows = math.ceil(rows / SEGMENTS_TOGETHER)

    def __len__(self) -> int:
        """How many batches there are, those left out included."""
        return len(self._part)

    def __iter__(self) -> Iterator[Batch]:
        whole_buffers, skip = divmod(self._skip, self._together)
        first = self._part.start + whole_buffers * self._together
        segments = self._segments(first * self._batch_size, min(self._part.stop * self._batch_size, self._total))
        for number, buffer in enumerate(_cut(segments, self._together * self._batch_size), whole_buffers):
            batches = self._read(number, buffer)
            del batches[:skip]
            skip = 0
            while batches:  # whoever has done with one gives its memory back
                yield batches.pop(0)

    def _batches_in_buffer(self) -> int:
        """Return how many batches are read together; one if nothing is to be shuffled."""
        if self._seed is None:
            return 1
        ny, nx = self._shape
        return max(1, BUFFER_BYTES // (4 * len(self._band_numbers) * ny * nx * self._batch_size))

    def _random(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(self._epoch, *purpose)))

    def _segments(self, first: int, end: int) -> Iterator[Segment]:
        """Yield the segments of the stream's rows from ``first`` to ``end``."""
        tiles = list(self._counts.items())
        if self._seed is not None:
            tiles = [tiles[n] for n in self._random(_TILE_ORDER).permutation(len(tiles)).tolist()]
        for number in range(0, len(tiles), TILES_TOGETHER):
            group = tiles[number : number + TILES_TOGETHER]
            count = sum(stored for _, stored in group)
            if first < count and end > 0:
                yield from _stretch(self._group(number, group), first, end)
            first, end = first - count, end - count

    def _group(self, number: int, tiles: Sequence[tuple[int, int]]) -> list[Segment]:
        """Return all segments of some tiles, in the stream's order."""
        length = self._segment_rows
        segments = [
            Segment(tile_id, first, min(first + length, count))
            for tile_id, count in tiles
            for first in range(0, count, length)
        ]
        if self._seed is None:
            return segments
        return [segments[n] for n in self._random(_SEGMENT_ORDER, number).permutation(len(segments)).tolist()]

    def _read(self, number: int, buffer: list[Segment]) -> list[Batch]:
        """Read the cutouts of the part's buffer of this number into its batches, shuffled if the stream is."""
        count = sum(len(segment) for segment in buffer)
        places = np.arange(count)
        if self._seed is not None:
            places = self._random(_BUFFER_ORDER, self._part.start, number).permutation(count)
        ids = np.empty(count, dtype=np.int64)
        starts = range(0, count, self._batch_size)
        form = (len(self._band_numbers), *self._shape)
        data = [np.empty((min(self._batch_size, count - start), *form), dtype=np.float32) for start in starts]
        cutouts = [cutout for batch in data for cutout in batch]
        done = 0
        for s in buffer:
            here = places[done : done + len(s)]
            out = [cutouts[n] for n in here]
            ids[here] = self._archive.read_rows(s.tile_id, self._counts[s.tile_id], s.first, self._band_numbers, out)
            done += len(s)
        return [Batch(ids[start : start + len(batch)], batch) for start, batch in zip(starts, data, strict=True)]


def part_of(batches: int, part: int, parts: int) -> range:
    """Return which of a stream's batches are in one part of it.

    The parts ``n * k`` to ``n * k + k - 1`` of ``m * k`` together are the part ``n`` of ``m``.
    """
    return range(batches * part // parts, batches * (part + 1) // parts)


def _stretch(segments: Iterable[Segment], first: int, end: int) -> Iterator[Segment]:
    """Yield what is between the rows ``first`` and ``end`` of segments, counted from the first one's first row."""
    for s in segments:
        low, high = max(s.first, s.first + first), min(s.end, s.first + end)
        if low < high:
            yield Segment(s.tile_id, low, high)
        first, end = first - len(s), end - len(s)


def _cut(segments: Iterable[Segment], rows: int) -> Iterator[list[Segment]]:
    """Yield segments by as many as make up ``rows`` rows, the last ones fewer; split where they must be."""
    buffer: list[Segment] = []
    room = rows
    for s in segments:
        first = s.first
        while s.end - first >= room:
            yield [*buffer, Segment(s.tile_id, first, first + room)]
            buffer, first, room = [], first + room, rows
        if first < s.end:
            buffer.append(Segment(s.tile_id, first, s.end))
            room -= s.end - first
    if buffer:
        yield buffer


def _require(least: int, **numbers: object) -> None:
    """Refuse what is no whole number, or too small a one."""
    for name, number in numbers.items():
        if not isinstance(number, Integral) or int(number) < least:
            raise RequestError(f"{name} is {number!r}: give a whole number, {least} or more")
