"""Noise of a tile, and the gap in its data."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, radians

import numpy as np
from numpy.typing import NDArray

from archive_builder.survey.demo.camera import BACKGROUND_RMS, BANDS, FloatArray, PixelArray
from archive_builder.survey.demo.tiles import Draw, Tile

NOISE_CELL = 32
"""Side of the cells of constant noise level, px."""

NOISE_KERNEL = 0.15
"""Weight of the next pixel in the noise: neighbours have a correlation of 0.29, as after resampling."""


@dataclass(frozen=True)
class Hole:
    """Pixels without data: a box on the tile, and its pixels without data. Empty on most tiles."""

    box: tuple[slice, slice]
    inside: NDArray[np.bool_]


def noise_mesh(tile: Tile, band: int) -> PixelArray:
    """Return the background RMS of one band in cells of NOISE_CELL px, counts.

    The level differs by up to 20% from tile to tile. Inside a tile, the level has a slope, two steps where one of
    nine exposures ends, and one corner with only a quarter of the exposures.
    """
    rng = tile.rng(Draw.NOISE_LEVEL + band)
    cells = ceil(tile.size / NOISE_CELL)
    middle = (np.arange(cells) + 0.5) / cells
    x, y = middle[None, :], middle[:, None]
    level = rng.uniform(0.8, 1.2)
    slope_x, slope_y = rng.uniform(-0.1, 0.1, 2)
    exposures = np.full((cells, cells), 9.0)
    exposures -= np.where(rng.random() < 0.5, x, 1.0 - x) < rng.uniform(0.1, 0.6)
    exposures -= np.where(rng.random() < 0.5, y, 1.0 - y) < rng.uniform(0.1, 0.6)
    relative = np.sqrt(np.median(exposures) / exposures) * (1.0 + slope_x * (x - 0.5) + slope_y * (y - 0.5))
    relative[_shallow_corner(tile, x, y)] *= 2.0
    return np.asarray(BACKGROUND_RMS[BANDS[band]] * level * relative, dtype=np.float32)


def _shallow_corner(tile: Tile, x: FloatArray, y: FloatArray) -> NDArray[np.bool_]:
    """Return which places, as fractions of the side, are in the corner with few exposures.

    The corner is above or below the saturated star, and so never the corner of the hole.
    """
    star_x, star_y = tile.star_place()
    width, height = tile.rng(Draw.CORNER).uniform(0.28, 0.38, 2)
    near_x = np.where(star_x < 0.5, x, 1.0 - x) < width
    near_y = np.where(star_y < 0.5, 1.0 - y, y) < height
    corner: NDArray[np.bool_] = near_x & near_y
    return corner


def hole_on(tile: Tile) -> Hole:
    """Return the pixels of a chip without data: a tilted 5% of the first tile, diagonally opposite to its star."""
    if tile.index > 0:
        return Hole((slice(0, 0), slice(0, 0)), np.zeros((0, 0), dtype=bool))
    x, y = (1.0 - tile.star_place()) * tile.size
    half_width, half_height, tilt = 0.13 * tile.size, 0.097 * tile.size, radians(8.0)
    reach = ceil(half_width + half_height)
    rows, columns = (slice(max(0, int(at) - reach), min(tile.size, int(at) + reach)) for at in (y, x))
    dy = np.arange(rows.start, rows.stop)[:, None] - y
    dx = np.arange(columns.start, columns.stop) - x
    along, across = dx * np.cos(tilt) + dy * np.sin(tilt), dy * np.cos(tilt) - dx * np.sin(tilt)
    return Hole((rows, columns), (np.abs(along) < half_width) & (np.abs(across) < half_height))


def noise_image(mesh: PixelArray, size: int, rng: np.random.Generator) -> PixelArray:
    """Return Gaussian noise with the RMS of a mesh, correlated between neighbouring pixels, made in strips of rows."""
    image = np.empty((size, size), dtype=np.float32)
    kernel, norm = np.float32(NOISE_KERNEL), np.float32(1.0 / (1.0 + 2.0 * NOISE_KERNEL**2))
    above = rng.standard_normal((2, size + 2), dtype=np.float32)
    for y0, cells in zip(range(0, size, NOISE_CELL), mesh, strict=True):
        height = min(NOISE_CELL, size - y0)
        white = np.concatenate([above, rng.standard_normal((height, size + 2), dtype=np.float32)])
        above = white[-2:]
        rows = white[:, 1:-1] + kernel * (white[:, :-2] + white[:, 2:])
        rows = rows[1:-1] + kernel * (rows[:-2] + rows[2:])
        image[y0 : y0 + height] = rows * (norm * np.repeat(cells, NOISE_CELL)[:size])
    return image
