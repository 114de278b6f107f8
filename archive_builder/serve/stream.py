"""The cutouts of a whole archive as a stream of batches, in stored order or shuffled, that can be split and resumed.

The tiles are shuffled and taken `TILES_TOGETHER` at a time. Their rows form segments, neighbours on the sky and so
quick to read; the segments of these tiles are shuffled. This is the order of the stream's rows. The stream is cut into
batches, and the batches into parts that differ by one batch at most. A part is a stretch of the stream, so that it
opens few shards, each of them once. A part is read one buffer at a time, and each cutout of a buffer goes to a random
one of the buffer's batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from archive_builder.errors import RequestError
from archive_builder.geometry import Shape, Size
from archive_builder.object_ids import ObjectIds
from archive_builder.serve.snapshot import Bands
from archive_builder.units import whole_number

TILES_TOGETHER = 8
"""Tiles whose cutouts are mixed: the number of shards that an archive keeps open."""

SEGMENTS_TOGETHER = 16
"""Segments whose cutouts are mixed in the buffer: with 32, reading cutouts of 228 px takes a third longer."""

BUFFER_BYTES = 256 * 2**20
"""Size of the buffer, bytes: 3,200 cutouts of 64 px in five bands."""

_TILE_ORDER, _SEGMENT_ORDER, _BUFFER_ORDER = range(3)
"""Purposes of random numbers; each has a sequence of its own."""


@dataclass(frozen=True, eq=False, repr=False)
class Batch:
    """Some cutouts. Two batches are equal only if they are the same Python object."""

    object_id: ObjectIds
    """Object IDs of the survey, (n,)."""

    data: NDArray[np.float32]
    """Pixels, (n, bands, ny, nx), image units; NaN without data."""

    def __repr__(self) -> str:
        return f"<Batch of {len(self.object_id)} cutouts: {' x '.join(map(str, self.data.shape[1:]))}>"


class Rows(Protocol):
    """A source of rows: an `archive_builder.serve.reader.ArchiveReader`."""

    def stored_rows(self) -> list[tuple[int, int]]:
        """Return the number of every tile, and the number of its cutouts."""

    def common_form(self, size: Size | None, bands: Bands | None) -> tuple[Shape, list[int]]:
        """Return the shape of the cutouts, and the numbers of their bands."""

    def read_rows(
        self, tile_id: int, count: int, first: int, bands: list[int], out: Sequence[NDArray[np.float32]]
    ) -> ObjectIds:
        """Read consecutive cutouts of one tile, and return their object IDs."""


@dataclass(frozen=True)
class Segment:
    """Consecutive rows of one tile's shard."""

    tile_id: int
    """Number of the tile in the index."""

    first: int
    """First row."""

    end: int
    """Row after the last."""

    def __len__(self) -> int:
        return self.end - self.first


class BatchStream:
    """The stream of one part of an archive's cutouts.

    The same archive and arguments give the same batches.

    Parameters
    ----------
    rows : Rows
        The archive's reader, ``archive.reader``.
    size, bands
        See `Archive.get`.
    batch_size : int
        Cutouts in a batch; the last batch of the last part may have fewer.
    shuffle_seed : int, optional
        Seed of the shuffle. Without a seed the cutouts come in the order of the shards.
    epoch : int
        Number of the epoch: with the same seed, each epoch has its own order.
    part, parts : int
        Number of this part, from 0, and number of parts. Every cutout is in exactly one part. The parts have the same
        number of batches, or one more.
    skip : int
        Batches to leave out at the start; at most one buffer of them is read.

    Raises
    ------
    RequestError
        A number, the size or a band is wrong.
    ArchiveError
        During the iteration: a rebuilt tile has another number of cutouts than at the start of the stream.
    """

    def __init__(
        self,
        rows: Rows,
        size: Size | None = None,
        bands: Bands | None = None,
        *,
        batch_size: int = 256,
        shuffle_seed: int | None = None,
        epoch: int = 0,
        part: int = 0,
        parts: int = 1,
        skip: int = 0,
    ) -> None:
        for name, number in {"batch_size": batch_size, "parts": parts}.items():
            whole_number(number, name, 1)
        if shuffle_seed is not None:
            whole_number(shuffle_seed, "shuffle_seed", 0)
        for name, number in {"epoch": epoch, "part": part, "skip": skip}.items():
            whole_number(number, name, 0)
        if part >= parts:
            raise RequestError(f"part {part} of {parts}: parts are counted from 0, give one below {parts}")
        self._rows, self._batch_size, self._skip = rows, batch_size, skip
        self._seed, self._epoch = shuffle_seed, epoch
        self._shape, self._band_numbers = rows.common_form(size, bands)
        self._counts = dict(rows.stored_rows())
        self._total = sum(self._counts.values())
        self._part = part_of(math.ceil(self._total / batch_size), part, parts)
        self._together = self._batches_in_buffer()
        buffer_rows = min(self._together * batch_size, math.ceil(self._total / parts))
        self._segment_rows = math.ceil(buffer_rows / SEGMENTS_TOGETHER)

    def __len__(self) -> int:
        """Return the number of batches, with those left out."""
        return len(self._part)

    def __iter__(self) -> Iterator[Batch]:
        whole_buffers, skip = divmod(self._skip, self._together)
        first = self._part.start + whole_buffers * self._together
        segments = self._segments(first * self._batch_size, min(self._part.stop * self._batch_size, self._total))
        for number, buffer in enumerate(_cut(segments, self._together * self._batch_size), whole_buffers):
            batches = self._read(number, buffer)
            del batches[:skip]
            skip = 0
            while batches:  # without a reference here, the consumer frees each batch
                yield batches.pop(0)

    def _batches_in_buffer(self) -> int:
        """Return the number of batches in a buffer; one without a shuffle."""
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
        """Return all segments of some tiles, in the order of the stream."""
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
        """Read one buffer of the part, by its number, into the buffer's batches; shuffled if the stream is."""
        count = sum(len(segment) for segment in buffer)
        places = np.arange(count)
        if self._seed is not None:
            places = self._random(_BUFFER_ORDER, self._part.start, number).permutation(count)
        starts = range(0, count, self._batch_size)
        form = (len(self._band_numbers), *self._shape)
        data = [np.empty((min(self._batch_size, count - start), *form), dtype=np.float32) for start in starts]
        cutouts = [cutout for batch in data for cutout in batch]
        done, parts = 0, []
        for s in buffer:
            here = places[done : done + len(s)]
            out = [cutouts[n] for n in here]
            parts.append(self._rows.read_rows(s.tile_id, self._counts[s.tile_id], s.first, self._band_numbers, out))
            done += len(s)
        read = np.concatenate(parts)
        ids = np.empty_like(read)
        ids[places] = read
        return [Batch(ids[start : start + len(batch)], batch) for start, batch in zip(starts, data, strict=True)]


def part_of(batches: int, part: int, parts: int) -> range:
    """Return the numbers of a stream's batches in one of its parts.

    The parts ``n * k`` to ``n * k + k - 1`` of ``m * k`` together are the part ``n`` of ``m``.
    """
    return range(batches * part // parts, batches * (part + 1) // parts)


def _stretch(segments: Iterable[Segment], first: int, end: int) -> Iterator[Segment]:
    """Yield the segments between the rows ``first`` and ``end``, counted from the first row of the first segment."""
    for s in segments:
        low, high = max(s.first, s.first + first), min(s.end, s.first + end)
        if low < high:
            yield Segment(s.tile_id, low, high)
        first, end = first - len(s), end - len(s)


def _cut(segments: Iterable[Segment], rows: int) -> Iterator[list[Segment]]:
    """Yield groups of segments of ``rows`` rows each, the last group fewer; a segment may be split."""
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
