"""Tiles of the synthetic survey on the sky."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from math import cos, radians, sqrt

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from archive_builder.survey.demo.camera import PIXEL_SCALE, FloatArray

SURVEY_RA, SURVEY_DEC = 54.0, -28.0
"""Centre of the first tile, deg: the Chandra Deep Field South, inside DES."""

OVERLAP = round(60.0 / PIXEL_SCALE)
"""Overlap of neighbouring tiles, px: an arcminute, as in DES."""


class Draw(IntEnum):
    """Purpose of a stream of random numbers; the last two are the first of one per band."""

    STAR = 0
    CORNER = 1
    SOURCES = 2
    CATALOG = 3
    NOISE_LEVEL = 100
    NOISE = 200


@dataclass(frozen=True)
class Tile:
    """One tile: number, name, side in px, centre in deg, and seed of the survey."""

    index: int
    name: str
    size: int
    ra: float
    dec: float
    seed: int

    def rng(self, purpose: int) -> np.random.Generator:
        """Return the random numbers of this tile for one purpose, independent of other tiles."""
        seed = np.random.SeedSequence(self.seed, spawn_key=(self.index, purpose))
        return np.random.Generator(np.random.PCG64(seed))

    def wcs_cards(self) -> fits.Header:
        """Return the astrometry in the form of DES: a tangent plane that touches the sky at the tile centre."""
        centre, step = (self.size + 1) / 2.0, PIXEL_SCALE / 3600.0
        return fits.Header(
            [
                ("CTYPE1", "RA---TAN", "WCS projection type for this axis"),
                ("CTYPE2", "DEC--TAN", "WCS projection type for this axis"),
                ("CUNIT1", "deg", "Axis unit"),
                ("CUNIT2", "deg", "Axis unit"),
                ("CRVAL1", self.ra, "World coordinate on this axis"),
                ("CRVAL2", self.dec, "World coordinate on this axis"),
                ("CRPIX1", centre, "Reference pixel on this axis"),
                ("CRPIX2", centre, "Reference pixel on this axis"),
                ("CD1_1", -step, "Linear projection matrix"),
                ("CD1_2", 0.0, "Linear projection matrix"),
                ("CD2_1", 0.0, "Linear projection matrix"),
                ("CD2_2", step, "Linear projection matrix"),
                ("RADESYS", "ICRS", "Astrometric system"),
                ("EQUINOX", 2000.0, "Mean equinox"),
            ]
        )

    def pixels(self, ra: FloatArray, dec: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return 0-based pixel positions x, y of positions on the sky in deg."""
        x, y = WCS(self.wcs_cards()).all_world2pix(ra, dec, 0)
        return x, y

    def depth(self, ra: FloatArray, dec: FloatArray) -> FloatArray:
        """Return the distances of positions from the tile edge, px; negative outside the tile."""
        x, y = self.pixels(ra, dec)
        middle = (self.size - 1) / 2.0
        return self.size / 2.0 - np.maximum(np.abs(x - middle), np.abs(y - middle))

    def star_place(self) -> FloatArray:
        """Return the place of the saturated star, as fractions (x, y) of the side, inside one quarter of the tile."""
        rng = self.rng(Draw.STAR)
        from_edge = rng.uniform(0.2, 0.35, 2)
        return np.where(rng.random(2) < 0.5, from_edge, 1.0 - from_edge)


def lay_out(tiles: int, size: int, seed: int) -> list[Tile]:
    """Return tiles on a near-square grid: columns along RA, rows along Dec, with overlapping sides."""
    spacing = (size - min(OVERLAP, size // 4)) * PIXEL_SCALE / 3600.0
    layout = []
    for index, (column, row) in zip(range(tiles), _grid(), strict=False):
        dec = SURVEY_DEC + row * spacing
        ra = (SURVEY_RA + column * spacing / cos(radians(dec))) % 360.0
        layout.append(Tile(index, _tile_name(ra, dec), size, ra, dec, seed))
    return layout


def _grid() -> Iterator[tuple[int, int]]:
    """Yield places (column, row) shell by shell: the place of a tile does not depend on the number of tiles."""
    shell = 0
    while True:
        yield from ((shell, row) for row in range(shell))
        yield from ((column, shell) for column in range(shell + 1))
        shell += 1


def _tile_name(ra: float, dec: float) -> str:
    """Return a name in the style of DES, to the second: ``DEM033600-280000``."""
    time, arc = round(ra * 240.0) % 86400, round(abs(dec) * 3600.0)
    sign = "-" if dec < 0 else "+"
    return (
        f"DEM{time // 3600:02d}{time // 60 % 60:02d}{time % 60:02d}"
        f"{sign}{arc // 3600:02d}{arc // 60 % 60:02d}{arc % 60:02d}"
    )


def neighbours_of(tile: Tile, layout: list[Tile]) -> list[Tile]:
    """Return the other tiles that may overlap this one: their centres are within a tile diagonal."""
    ra, dec = np.radians([(other.ra, other.dec) for other in layout]).T
    to_ra, to_dec = radians(tile.ra), radians(tile.dec)
    # The haversine is accurate for small angles; the cosine of the angle is not.
    sine = np.sin((dec - to_dec) / 2.0) ** 2 + np.cos(dec) * cos(to_dec) * np.sin((ra - to_ra) / 2.0) ** 2
    near = 2.0 * np.arcsin(np.sqrt(sine)) < radians(sqrt(2.0) * tile.size * PIXEL_SCALE / 3600.0)
    return [other for other in layout if near[other.index] and other.index != tile.index]
