"""Sources of the synthetic survey: positions, shapes, magnitudes."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray

from archive_builder.survey.demo.camera import PIXEL_SCALE, ZERO_POINT, FloatArray
from archive_builder.survey.demo.tiles import Draw, Tile

STAR_FRACTION = 0.15

SATURATED_STAR_MAG = 12.0

FAINTEST_MAG = 24.5
"""Faintest i-band AB magnitude of the catalogue, about 5 sigma for a point source."""


@dataclass(frozen=True)
class Sources:
    """N sources: positions, shapes and brightness."""

    ra: FloatArray
    """(N,) RA, deg."""
    dec: FloatArray
    """(N,) Dec, deg."""
    mag: FloatArray
    """(N, bands) AB magnitudes."""
    is_star: NDArray[np.bool_]
    """(N,) True for a star."""
    half_light: FloatArray
    """(N,) half-light radius along the major axis before the PSF, px; 0 for a star."""
    bulge: FloatArray
    """(N,) fraction of the flux in a de Vaucouleurs profile; the rest is exponential."""
    axis_ratio: FloatArray
    """(N,) minor axis / major axis."""
    angle: FloatArray
    """(N,) angle from the x axis to the major axis, rad."""

    @property
    def flux(self) -> FloatArray:
        """(N, bands) fluxes, counts."""
        flux: FloatArray = 10.0 ** (0.4 * (ZERO_POINT - self.mag))
        return flux

    def take(self, chosen: NDArray[np.bool_]) -> Sources:
        """Return the chosen sources."""
        return Sources(*(getattr(self, field.name)[chosen] for field in fields(self)))


def draw_sources(tile: Tile, neighbours: list[Tile], count: int) -> Sources:
    """Return the sources that belong to one tile, with one saturated star."""
    rng = tile.rng(Draw.SOURCES)
    ra, dec = _own_positions(tile, neighbours, count, rng)
    is_star = rng.random(count) < STAR_FRACTION
    mag_i = np.where(is_star, _counts(rng, 0.17, 13.0, count), _counts(rng, 0.32, 16.0, count))
    brightest = rng.integers(count)
    is_star[brightest], mag_i[brightest] = True, SATURATED_STAR_MAG
    x, y = tile.star_place() * tile.size
    ra[brightest], dec[brightest] = WCS(tile.wcs_cards()).all_pix2world(x, y, 0)

    elliptical = ~is_star & (rng.random(count) < 0.25)
    # Half-light radii of 0.3" at magnitude 24 and 1.5" at magnitude 17, with a scatter of 0.15 dex.
    half_light = 0.3 * 10.0 ** (0.1 * (24.0 - mag_i) + rng.normal(0.0, 0.15, count)) / PIXEL_SCALE
    # A disk of thickness 0.2 at a random inclination; an elliptical is rounder.
    disk_ratio = np.sqrt(0.04 + 0.96 * rng.random(count) ** 2)
    bulge = np.where(elliptical, 1.0, np.clip(rng.normal(0.15, 0.12, count), 0.0, 0.5))
    return Sources(
        ra=ra,
        dec=dec,
        mag=_band_magnitudes(rng, mag_i, is_star, elliptical),
        is_star=is_star,
        half_light=np.where(is_star, 0.0, half_light),
        bulge=np.where(is_star, 0.0, bulge),
        axis_ratio=np.where(elliptical, rng.uniform(0.5, 1.0, count), disk_ratio),
        angle=rng.uniform(0.0, np.pi, count),
    )


def _own_positions(
    tile: Tile, neighbours: list[Tile], count: int, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """Return positions in deg, uniform over the part of a tile that is deeper in it than in any other tile."""
    wcs = WCS(tile.wcs_cards())
    ra, dec = np.empty(0), np.empty(0)
    while len(ra) < count:
        x, y = rng.uniform(-0.5, tile.size - 0.5, (2, 2 * count))
        new_ra, new_dec = wcs.all_pix2world(x, y, 0)
        own, depth = np.ones(len(x), dtype=bool), tile.depth(new_ra, new_dec)
        for other in neighbours:
            own &= depth > other.depth(new_ra, new_dec)
        ra, dec = np.append(ra, new_ra[own]), np.append(dec, new_dec[own])
    return ra[:count], dec[:count]


def _counts(rng: np.random.Generator, slope: float, brightest: float, count: int) -> FloatArray:
    """Return magnitudes with counts growing as ``10 ** (slope * mag)``, from the brightest to `FAINTEST_MAG`."""
    smallest = 10.0 ** (slope * (brightest - FAINTEST_MAG))
    return FAINTEST_MAG + np.log10(rng.uniform(smallest, 1.0, count)) / slope


def _band_magnitudes(
    rng: np.random.Generator, mag_i: FloatArray, is_star: NDArray[np.bool_], elliptical: NDArray[np.bool_]
) -> FloatArray:
    """Return AB magnitudes (N, bands) from i magnitudes and the colours g-r, r-i, i-z, z-Y of each kind of source."""
    red_dwarf = is_star & (rng.random(len(mag_i)) < 0.5)
    # Typical colours of the stellar locus (G and M dwarfs) and of galaxies at redshift 0.3 to 0.6.
    kinds = [red_dwarf, is_star, elliptical]
    typical = [(1.45, 1.0, 0.45, 0.15), (0.5, 0.18, 0.08, 0.03), (1.4, 0.6, 0.35, 0.15)]
    late_type = (0.65, 0.35, 0.2, 0.08)
    columns = [np.select(kinds, [kind[k] for kind in typical], late_type[k]) for k in range(4)]
    scatter = np.where(is_star, 0.5, 1.0)[:, None] * np.array([0.28, 0.15, 0.1, 0.08])
    g_r, r_i, i_z, z_y = (np.stack(columns, axis=1) + scatter * rng.standard_normal((len(mag_i), 4))).T
    return np.stack([mag_i + r_i + g_r, mag_i + r_i, mag_i, mag_i - i_z, mag_i - i_z - z_y], axis=1)
