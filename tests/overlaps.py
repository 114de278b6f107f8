"""A tiny survey of overlapping tiles: pieces of one grid of pixels, in one row of the sky."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

SIDE = 96
"""Side of a tile, px."""

STEP = 64
"""Distance between the centres of neighbouring tiles, px: they share 32 columns."""

Rows = list[tuple[object, float, float]]
"""ID and pixel position on the common grid of all tiles; NaN for a row without a position."""

RECIPE = """
[survey]
name = "Overlaps"
bands = ["r"]
image = "{tile}.fits"
zero_point = 30.0
[catalog]
path = "{tile}.csv"
object_id = "ID"
ra = "RA"
dec = "DEC"
[cutout]
size = 16
"""


def header(place: float, ra: float = 54.0, dec: float = -28.0) -> fits.Header:
    """Return the header of the tile at a place in the row; ``ra`` and ``dec`` are the origin of the grid, deg."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [ra, dec]
    wcs.wcs.cdelt, wcs.wcs.crpix = [-1 / 3600, 1 / 3600], [SIDE - place * STEP, SIDE / 2]
    return wcs.to_header()


GRID = WCS(header(0))
"""WCS of the common grid."""


def write_image(survey: Path, name: str, place: float) -> None:
    """Write the image of a tile: noise."""
    pixels = np.random.default_rng(int(4 * place)).normal(0, 2, (SIDE, SIDE)).astype(np.float32)
    fits.PrimaryHDU(pixels, header(place)).writeto(survey / f"{name}.fits", overwrite=True)


def write_catalog(survey: Path, name: str, rows: Rows) -> None:
    """Write the catalogue of a tile."""
    lines = ["ID,RA,DEC"]
    for object_id, x, y in rows:
        if np.isnan(x):
            lines.append(f"{object_id},,")
        else:
            ra, dec = (float(value) for value in GRID.all_pix2world(x, y, 0))
            lines.append(f"{object_id},{ra!r},{dec!r}")
    (survey / f"{name}.csv").write_text("\n".join(lines) + "\n")
