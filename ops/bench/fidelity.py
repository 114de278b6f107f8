"""Are cutouts what they say they are: their pixels beside those of the tile they were cut from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

Shift: TypeAlias = tuple[int, int]
"""Rows and columns."""

SHIFTS: list[Shift] = sorted(
    ((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)), key=lambda shift: (shift != (0, 0), shift)
)
"""Rows and columns by which a window may lie elsewhere than the rule of the cut has it, that one first."""

EXACT_STEPS = 2.0**19
"""A value of more quantization steps is rounded to float32 besides."""


@dataclass(frozen=True)
class Sample:
    """Some of the cutouts that a program made.

    Attributes
    ----------
    rows : ndarray of int, (N,)
        Of the catalogue.
    data : ndarray of float32, (N, bands, size, size)
    step : ndarray of float, (bands,)
        The quantization step of each band, 0 for values that are stored as they are.
    """

    rows: NDArray[np.int64]
    data: NDArray[np.float32]
    step: NDArray[np.float64]


class Source:
    """The tile's images as plain FITS files, and where its objects are on them.

    Parameters
    ----------
    images : sequence of Path
        One a band.
    ra, dec : ndarray of float, (N,)
        Of all objects, deg.
    """

    def __init__(self, images: Sequence[Path], ra: NDArray[np.float64], dec: NDArray[np.float64]) -> None:
        self._images = [fits.getdata(path, memmap=True) for path in images]
        self._x, self._y = WCS(fits.getheader(images[0])).all_world2pix(ra, dec, 0)

    def compare(self, sample: Sample) -> dict[str, float]:
        """Return percentages of the cutouts: with the tile's pixels, with its blanks too, where the rule of the cut is.

        A cutout has the tile's pixels if, for one of `SHIFTS`, each that the tile has is the same, bit for bit or to
        half a quantization step; its blanks too, if it is NaN just where the tile is. What a program puts outside the
        tile is its own affair.
        """
        matches = [self._match(*cutout, sample.step) for cutout in zip(sample.rows, sample.data, strict=True)]
        percent = 100 / len(matches)
        return {
            "as_tile": percent * sum(shift is not None for shift, _ in matches),
            "blanks_too": percent * sum(blanks for _, blanks in matches),
            "same_window": percent * sum(shift == SHIFTS[0] for shift, _ in matches),
        }

    def _match(self, row: int, data: NDArray[np.float32], step: NDArray[np.float64]) -> tuple[Shift | None, bool]:
        """Return the shift for which a cutout (bands, size, size) has the tile's pixels, and whether its blanks too."""
        alike = [shift for shift in SHIFTS if self._has_pixels(row, data, step, shift)]
        blank = [shift for shift in alike if self._has_blanks(row, data, shift)]  # few pixels may fit by several shifts
        return next(iter(blank or alike), None), bool(blank)

    def _has_pixels(self, row: int, data: NDArray[np.float32], step: NDArray[np.float64], shift: Shift) -> bool:
        """Tell whether a cutout has the values that the tile has, to half a step."""
        pairs = zip(self._windows(row, data, shift), step / 2, strict=True)
        return all(_same(there, source, float(half)) for (there, source), half in pairs)

    def _has_blanks(self, row: int, data: NDArray[np.float32], shift: Shift) -> bool:
        """Tell whether a cutout is blank where the tile is, and nowhere else on it."""
        windows = self._windows(row, data, shift)
        return all(np.array_equal(np.isnan(there), np.isnan(source)) for there, source in windows)

    def _windows(
        self, row: int, data: NDArray[np.float32], shift: Shift
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Yield, band by band, the part of a cutout that is on the tile, and the tile's window there."""
        ny, nx = data.shape[1:]
        y0, x0 = (
            round(float(at[row])) - n // 2 + d for at, n, d in zip((self._y, self._x), (ny, nx), shift, strict=True)
        )
        top, left = max(-y0, 0), max(-x0, 0)
        for image, plane in zip(self._images, data, strict=True):
            source = image[y0 + top : y0 + ny, x0 + left : x0 + nx].astype(np.float32)
            yield plane[top : top + source.shape[0], left : left + source.shape[1]], source


def _same(there: NDArray[np.float32], source: NDArray[np.float32], half: float) -> bool:
    """Tell whether the values that the source has are there, to half a step."""
    known = ~np.isnan(source)
    value = source[known]
    off = np.abs(there[known].astype(np.float64) - value)
    rounding = np.where(np.abs(value) > EXACT_STEPS * 2 * half, np.spacing(np.abs(value)) / 2, 0) if half else 0.0
    return bool((off <= half + rounding).all())
