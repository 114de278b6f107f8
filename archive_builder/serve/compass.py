"""Compass of a picture: arrows to north and east in a corner."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from archive_builder.errors import RequestError

SMALLEST = 32
"""Smallest side of a picture with a compass, px."""

FINE = 4
"""Drawing scale. The strokes are drawn four times as large and reduced, which smooths their edges."""

LETTERS = {
    "N": [[(-0.4, -0.5), (-0.4, 0.5), (0.4, -0.5), (0.4, 0.5)]],
    "E": [[(0.35, 0.5), (-0.35, 0.5), (-0.35, -0.5), (0.35, -0.5)], [(-0.35, 0.0), (0.2, 0.0)]],
}
"""Strokes of the letters in units of their height, y up."""


def with_compass(image: NDArray[np.uint8], directions: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return a picture with arrows to the east and the north in its lower right corner, white with a dark edge.

    Parameters
    ----------
    image : ndarray of uint8, (ny, nx) or (ny, nx, 3)
        Row 0 is the top.
    directions : ndarray of float64, (2, 2)
        Unit vectors towards the east and the north, (x, y) with y up.

    Raises
    ------
    RequestError
        The picture is too small.
    """
    ny, nx = image.shape[:2]
    if min(ny, nx) < SMALLEST:
        raise RequestError(f"a compass needs a picture of {SMALLEST} px, not {nx} x {ny}: give a larger size")
    length = min(max(0.12 * min(ny, nx), 9.0), 60.0)
    strokes = _strokes(directions, length)
    points, margin = np.concatenate(strokes), math.ceil(0.3 * length)
    low, (width, height) = points.min(axis=0), np.ceil(np.ptp(points, axis=0)).astype(int) + 2 * margin
    fine = Image.new("L", (FINE * width, FINE * height))
    draw = ImageDraw.Draw(fine)
    for stroke in strokes:
        x, y = ((stroke - low + margin) * FINE).T
        draw.line(list(zip(x, FINE * height - y, strict=True)), 255, max(FINE, round(length * FINE / 12)), "curve")
    lines, edge = (
        drawn.resize((width, height), Image.Resampling.BOX)
        for drawn in (fine, fine.filter(ImageFilter.MaxFilter(2 * FINE + 1)))
    )
    picture, corner = Image.fromarray(image), (nx - width, ny - height)
    picture.paste(Image.new(picture.mode, edge.size, "black"), corner, edge.point(lambda value: value * 2 // 3))
    picture.paste(Image.new(picture.mode, lines.size, "white"), corner, lines)
    return np.asarray(picture)


def _strokes(directions: NDArray[np.float64], length: float) -> list[NDArray[np.float64]]:
    """Return the polylines of both arrows and letters, px, y up, each (points, 2)."""
    strokes = []
    for name, along in zip("EN", directions, strict=True):
        across, tip = np.array([-along[1], along[0]]), along * length
        strokes += [np.array([(0.0, 0.0), tip])]
        strokes += [np.array([tip - 0.25 * length * along + side * 0.15 * length * across, tip]) for side in (-1, 1)]
        height = max(0.4 * length, 6.0)
        strokes += [np.array(part) * height + along * (length + 0.9 * height) for part in LETTERS[name]]
    return strokes
