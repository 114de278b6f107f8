"""Background RMS on a mesh and at a position, and the depth that follows from it.

The RMS of a cell is that of SExtractor (Bertin & Arnouts 1996, A&AS 117, 393), from :class:`sep.Background`. As in
SExtractor, a median filter over 3 x 3 cells smooths the mesh. Between the centres of cells the RMS is interpolated
bilinearly; past the outermost centres it is constant. SExtractor's spline needs the whole mesh; bilinear interpolation
needs only the neighbouring cells. So the noise at an object is final as soon as the rows around the object are read.
"""

from __future__ import annotations

import math

import numpy as np
import sep
from numpy.typing import ArrayLike, NDArray

MIN_VALID_FRACTION = 0.5
"""Minimum valid fraction of a cell with an RMS; SExtractor's own limit (BACK_MINGOODFRAC)."""

SAMPLE_STRIPS = 5
"""Rows of cells in the sample for a tile's typical RMS."""

DEPTH_APERTURE = 1.95
"""Diameter of the aperture of a depth, arcsec, as DES quotes it (Abbott et al. 2021)."""

DEPTH_SIGMA = 5.0
"""Signal-to-noise ratio at the depth."""


def cell_rms(rows: NDArray[np.float32], mesh: int) -> NDArray[np.float32]:
    """Measure the background RMS in one row of cells.

    Parameters
    ----------
    rows : ndarray of float32, (at most mesh, width)
        Image rows, NaN without data.
    mesh : int
        Width of a cell, px; the last cell may be narrower.

    Returns
    -------
    ndarray of float32, (ceil(width / mesh),)
        RMS, image units; NaN for a cell with too little data or without noise.
    """
    width = rows.shape[1]
    return np.array([_rms(rows[:, x : x + mesh]) for x in range(0, width, mesh)], dtype=np.float32)


def _rms(cell: NDArray[np.float32]) -> float:
    """Measure the background RMS of one cell."""
    cell = np.ascontiguousarray(cell)
    invalid = ~np.isfinite(cell)
    holes = np.count_nonzero(invalid)
    if holes > (1 - MIN_VALID_FRACTION) * cell.size:
        return np.nan
    if holes:
        # sep ignores masked pixels, but a masked NaN still turns its sums into NaN.
        cell[invalid] = 0
    height, width = cell.shape
    background = sep.Background(cell, mask=invalid if holes else None, bw=width, bh=height, fw=1, fh=1)
    rms = float(background.globalrms)
    # sep returns 1 for a cell without noise, such as a constant cell.
    return np.nan if rms == 1.0 and _is_mostly_one_value(cell[~invalid]) else rms


def _is_mostly_one_value(values: NDArray[np.float32]) -> bool:
    return bool(np.median(np.abs(values - np.median(values))) == 0)


def sample_rows(height: int, mesh: int) -> list[tuple[int, int]]:
    """Return ranges of rows ``y0:y1`` that represent a tile: all of a small tile, regular strips of a large one."""
    cells = math.ceil(height / mesh)
    chosen = sorted({int((k + 0.5) * cells / SAMPLE_STRIPS) for k in range(SAMPLE_STRIPS)})
    return [(row * mesh, min((row + 1) * mesh, height)) for row in chosen]


class NoiseMesh:
    """Background RMS of a tile's bands, measured while the rows are read.

    Parameters
    ----------
    bands : int
        Number of bands.
    shape : (ny, nx)
        Shape of the tile, px.
    mesh : int
        Side of a cell, px.
    """

    def __init__(self, bands: int, shape: tuple[int, int], mesh: int) -> None:
        self._mesh = mesh
        self._height = shape[0]
        self._cells = np.full((bands, math.ceil(shape[0] / mesh), math.ceil(shape[1] / mesh)), np.nan, np.float32)
        self._done = 0
        self._pending = np.empty((bands, 0, shape[1]), dtype=np.float32)
        self._read = 0

    def add(self, rows: NDArray[np.float32]) -> None:
        """Measure the next rows, float32 (bands, any number of rows, nx)."""
        self._read += rows.shape[1]
        rows = np.concatenate([self._pending, rows], axis=1) if self._pending.shape[1] else rows
        start = 0
        while rows.shape[1] - start >= self._mesh or (self._read == self._height and start < rows.shape[1]):
            for band, image in enumerate(rows[:, start : start + self._mesh]):
                self._cells[band, self._done] = cell_rms(image, self._mesh)
            self._done += 1
            start += self._mesh
        self._pending = rows[:, start:].copy()

    @property
    def known_below(self) -> int:
        """Limit in ``y``, px: positions below it have their final RMS."""
        if self._read == self._height:
            return self._height
        # The filter needs the next cell, and the interpolation needs the cell with the next centre.
        return max(0, int((self._done - 1.5) * self._mesh))

    def at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return the RMS at positions below :attr:`known_below`.

        Parameters
        ----------
        x, y : ndarray of float64, (N,)
            Pixel positions on the tile, from 0.

        Returns
        -------
        ndarray of float32, (N, bands)
            RMS, image units; NaN where no neighbouring cell has one.
        """
        if len(x) == 0:
            return np.empty((0, len(self._cells)), dtype=np.float32)
        # The filter and the interpolation need two more rows of cells above and below the positions.
        first = max(0, int(y.min() // self._mesh) - 2)
        last = int(y.max() // self._mesh) + 3
        filtered = np.stack([median_filter(cells) for cells in self._cells[:, first:last]])
        # The outer rows lack neighbours in the filter. They are used only at the edge of the tile, which has none.
        return _interpolate(filtered, x / self._mesh, y / self._mesh - first).T


def median_filter(cells: NDArray[np.float32]) -> NDArray[np.float32]:
    """Replace each cell of a mesh (rows, columns) by the median of the valid cells among its 3 x 3 neighbours."""
    padded = np.pad(cells, 1, constant_values=np.nan)
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).reshape(*cells.shape, 9)
    ordered = np.sort(around, axis=-1)  # NaN last
    valid = np.count_nonzero(np.isfinite(ordered), axis=-1)
    middle = [np.take_along_axis(ordered, np.maximum(k, 0)[..., None], -1) for k in ((valid - 1) // 2, valid // 2)]
    return np.where(valid > 0, (middle[0] + middle[1])[..., 0] / 2, np.nan).astype(np.float32)


def _interpolate(
    cells: NDArray[np.float32], column: NDArray[np.float64], row: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Interpolate a stack of meshes (bands, rows, columns) bilinearly between the centres of valid cells.

    ``column`` and ``row`` count cells from the outer edge: the first centre is at 0.5. NaN cells are left out.
    """
    ny, nx = cells.shape[1:]
    u, v = np.clip(column - 0.5, 0, nx - 1), np.clip(row - 0.5, 0, ny - 1)
    i, j = u.astype(int), v.astype(int)
    total = np.zeros((len(cells), len(column)))
    weight = np.zeros_like(total)
    for dj, wy in ((0, 1 - (v - j)), (1, v - j)):
        for di, wx in ((0, 1 - (u - i)), (1, u - i)):
            value = cells[:, np.minimum(j + dj, ny - 1), np.minimum(i + di, nx - 1)]
            w = np.where(np.isfinite(value), wx * wy, 0.0)
            total += w * np.nan_to_num(value)
            weight += w
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0).astype(np.float32)


def depth(rms: ArrayLike, zero_point: ArrayLike, pixel_scale: ArrayLike) -> NDArray[np.float64]:
    """Return the depth, AB mag: the magnitude of `DEPTH_SIGMA` times the noise in an aperture of `DEPTH_APERTURE`.

    The pixels are taken as independent: the noise in an aperture of ``n`` pixels is ``rms * sqrt(n)``.

    Parameters
    ----------
    rms : array_like of float
        Background RMS, image units.
    zero_point : array_like of float
        AB magnitude of one image unit.
    pixel_scale : array_like of float
        Side of a pixel, arcsec.

    Examples
    --------
    >>> round(float(depth(1.0, 30.0, 0.263)), 2)
    26.21
    """
    pixels = math.pi * (DEPTH_APERTURE / 2 / np.asarray(pixel_scale, dtype=np.float64)) ** 2
    return np.asarray(zero_point) - 2.5 * np.log10(DEPTH_SIGMA * np.asarray(rms, dtype=np.float64) * np.sqrt(pixels))
