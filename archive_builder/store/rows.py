"""Buffer of a tile's rows in their stored form, between reading and writing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archive_builder.geometry import Shape
from archive_builder.measure.quantize import Codec

CHUNK = 128
"""Side of a chunk of ``/pixels``, px, and so the rows of a slab."""


class RowBuffer:
    """Encoded rows of all bands, kept in slabs as tall as a chunk until they are released.

    Parameters
    ----------
    codec : Codec
        Stored form of the rows.
    shape : (ny, nx)
        Shape of the tile, px.

    Attributes
    ----------
    end : int
        Number of rows appended so far.
    """

    def __init__(self, codec: Codec, shape: Shape) -> None:
        self.end = 0
        self._codec = codec
        self._bands = len(codec.step)
        self._height, self._width = shape
        self._slabs: dict[int, NDArray[Any]] = {}
        self._with_blanks: set[int] = set()
        self._spare: list[NDArray[Any]] = []

    def append(self, values: NDArray[Any]) -> None:
        """Encode and keep the next rows, (bands, any number of rows, nx).

        Raises
        ------
        UnstorableError
            A value is too large for the stored form.
        """
        start = 0
        while start < values.shape[1]:
            number, inside = divmod(self.end, CHUNK)
            rows = min(CHUNK - inside, values.shape[1] - start)
            if inside == 0:
                self._slabs[number] = self._new_slab(number)
            slab = self._slabs[number]
            if self._codec.encode(values[:, start : start + rows], slab[:, inside : inside + rows]):
                self._with_blanks.add(number)
            start += rows
            self.end += rows

    def window(self, x0: int, y0: int, out: NDArray[np.generic]) -> None:
        """Copy the window at column ``x0`` and row ``y0`` into ``out`` (bands, ny, nx), blank off the tile."""
        ny, nx = out.shape[1:]
        if x0 < 0 or y0 < 0 or x0 + nx > self._width or y0 + ny > self._height:
            out[...] = self._codec.blank
        left, right = (min(max(x, 0), self._width) for x in (x0, x0 + nx))
        y, end = max(y0, 0), min(y0 + ny, self._height)
        while y < end:
            number, inside = divmod(y, CHUNK)
            rows = min(CHUNK - inside, end - y)
            piece = self._slabs[number][:, inside : inside + rows, left:right]
            out[:, y - y0 : y - y0 + rows, left - x0 : left - x0 + piece.shape[2]] = piece
            y += rows

    def blank_fraction(
        self, x0: NDArray[np.int64], y0: NDArray[np.int64], size: int, bands: Sequence[int]
    ) -> NDArray[np.float64]:
        """Return the blank fraction of square windows in the worst band. Pixels off the tile are blank.

        Parameters
        ----------
        x0, y0 : ndarray of int64, (N,)
            First column and row of each window.
        size : int
            Side of a window, px.
        bands : sequence of int
            Numbers of the bands to consider.

        Returns
        -------
        ndarray of float64, (N,)
            Fraction, 0 to 1.
        """
        left, right = (np.clip(x, 0, self._width) for x in (x0, x0 + size))
        low, high = (np.clip(y, 0, self._height) for y in (y0, y0 + size))
        blank = np.zeros((self._bands, len(x0)), dtype=np.int64)
        for number in self._with_blanks:
            first, last = (np.clip(y - number * CHUNK, 0, CHUNK) for y in (low, high))
            if (first < last).any():
                for band in bands:
                    image = self._slabs[number][band]
                    sums = _summed_area(np.isnan(image) if image.dtype.kind == "f" else image == self._codec.blank)
                    blank[band] += sums[last, right] - sums[last, left] - sums[first, right] + sums[first, left]
        on_tile = (right - left) * (high - low)
        return np.asarray((size * size - on_tile + blank.max(axis=0)) / (size * size))

    def release(self, below: int) -> Iterator[tuple[int, NDArray[np.generic]]]:
        """Release the slabs that end at or below a row.

        Yields
        ------
        number, slab : int and ndarray, (bands, rows, nx)
            The slab starts at row ``number * CHUNK``. The next step reuses its memory.
        """
        for number in sorted(self._slabs):
            if min((number + 1) * CHUNK, self._height) > below:
                break
            slab = self._slabs.pop(number)
            yield number, slab
            self._spare.append(slab)
            self._with_blanks.discard(number)

    def _new_slab(self, number: int) -> NDArray[np.generic]:
        rows = min(CHUNK, self._height - number * CHUNK)
        if self._spare and self._spare[-1].shape[1] == rows:
            return self._spare.pop()
        return np.empty((self._bands, rows, self._width), dtype=self._codec.dtype)


def _summed_area(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return a table with the number of True values in ``mask[:y, :x]`` at ``[y, x]``."""
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), dtype=np.int32)
    np.cumsum(mask, axis=0, dtype=np.int32, out=sums[1:, 1:])
    np.cumsum(sums[1:, 1:], axis=1, out=sums[1:, 1:])
    return sums
