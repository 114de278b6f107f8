"""Comparison of cutouts with the pixels of their tile."""

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
"""Offset of a window in rows and columns, px."""

SHIFTS: list[Shift] = sorted(
    ((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)), key=lambda shift: (shift != (0, 0), shift)
)
"""Allowed offsets from the window of the cutout rule. The zero offset comes first."""

EXACT_STEPS = 2.0**19
"""Quantization steps beyond which float32 rounding adds to the error."""


@dataclass(frozen=True)
class Sample:
    """A sample of the cutouts of a program.

    Attributes
    ----------
    rows : ndarray of int, (N,)
        Rows of the catalogue.
    data : ndarray of float32, (N, bands, size, size)
        Pixels.
    step : ndarray of float, (bands,)
        Quantization step of each band; 0 for lossless values.
    """

    rows: NDArray[np.int64]
    data: NDArray[np.float32]
    step: NDArray[np.float64]


class Source:
    """Images of a tile as plain FITS files, with the pixel positions of the objects.

    Parameters
    ----------
    images : sequence of Path
        One file a band.
    ra, dec : ndarray of float, (N,)
        Positions of all objects, deg.
    """

    def __init__(self, images: Sequence[Path], ra: NDArray[np.float64], dec: NDArray[np.float64]) -> None:
        self._images = [fits.getdata(path, memmap=True) for path in images]
        self._x, self._y = WCS(fits.getheader(images[0])).all_world2pix(ra, dec, 0)

    def compare(self, sample: Sample) -> dict[str, float]:
        """Return the percentages of cutouts with the same pixels, the same pixels and blanks, and the same window.

        Same pixels: for one of `SHIFTS`, every pixel that has data on the tile is equal in the cutout, bit for bit or
        to half a quantization step. Same blanks: the NaN pixels of cutout and tile agree too. Same window: the shift is
        zero. Pixels outside the tile are not compared.
        """
        matches = [self._match(*cutout, sample.step) for cutout in zip(sample.rows, sample.data, strict=True)]
        percent = 100 / len(matches)
        return {
            "as_tile": percent * sum(shift is not None for shift, _ in matches),
            "blanks_too": percent * sum(blanks for _, blanks in matches),
            "same_window": percent * sum(shift == SHIFTS[0] for shift, _ in matches),
        }

    def _match(self, row: int, data: NDArray[np.float32], step: NDArray[np.float64]) -> tuple[Shift | None, bool]:
        """Return the shift at which a cutout (bands, size, size) has the same pixels, and whether the blanks agree."""
        alike = [shift for shift in SHIFTS if self._has_pixels(row, data, step, shift)]
        blank = [shift for shift in alike if self._has_blanks(row, data, shift)]  # a few pixels may fit several shifts
        return next(iter(blank or alike), None), bool(blank)

    def _has_pixels(self, row: int, data: NDArray[np.float32], step: NDArray[np.float64], shift: Shift) -> bool:
        """Return True if a cutout has the values of the tile, to half a step."""
        pairs = zip(self._windows(row, data, shift), step / 2, strict=True)
        return all(_same(there, source, float(half)) for (there, source), half in pairs)

    def _has_blanks(self, row: int, data: NDArray[np.float32], shift: Shift) -> bool:
        """Return True if cutout and tile are blank at the same pixels of the tile."""
        windows = self._windows(row, data, shift)
        return all(np.array_equal(np.isnan(there), np.isnan(source)) for there, source in windows)

    def _windows(
        self, row: int, data: NDArray[np.float32], shift: Shift
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Yield, band by band, the part of a cutout on the tile, and the same window of the tile."""
        ny, nx = data.shape[1:]
        y0, x0 = (
            round(float(at[row])) - n // 2 + d for at, n, d in zip((self._y, self._x), (ny, nx), shift, strict=True)
        )
        top, left = max(-y0, 0), max(-x0, 0)
        for image, plane in zip(self._images, data, strict=True):
            source = image[y0 + top : y0 + ny, x0 + left : x0 + nx].astype(np.float32)
            yield plane[top : top + source.shape[0], left : left + source.shape[1]], source


def _same(there: NDArray[np.float32], source: NDArray[np.float32], half: float) -> bool:
    """Return True if the values of the source are equal, to half a step."""
    known = ~np.isnan(source)
    value = source[known]
    off = np.abs(there[known].astype(np.float64) - value)
    rounding = np.where(np.abs(value) > EXACT_STEPS * 2 * half, np.spacing(np.abs(value)) / 2, 0) if half else 0.0
    return bool((off <= half + rounding).all())
