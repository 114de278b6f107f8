"""A synthetic sky survey in the file layout of the Dark Energy Survey: tiles, catalogues and a recipe."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from enum import IntEnum
from math import ceil, cos, radians, sqrt
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray
from PIL import Image

BANDS = ("g", "r", "i", "z", "Y")

PIXEL_SCALE = 0.263
"""Pixel scale of DECam and of the DES coadds, arcsec."""

ZERO_POINT = 30.0
"""AB magnitude of one count, as in the DES coadds."""

BACKGROUND_RMS = {"g": 2.0, "r": 2.6, "i": 4.6, "z": 8.8, "Y": 32.0}
"""Typical background RMS of a DES coadd at zero point 30, counts."""

SATURATION = 1.0e5
"""Saturation level of a pixel, counts; the charge above it runs along the column."""

NO_DATA_BIT, SATURATED_BIT = 1, 2
"""Bits of the MSK image: BADPIX_BPM and BADPIX_SATURATE of DES."""

FILTER_CARDS = {
    "g": "g DECam SDSS c0001 4720.0 1520.0",
    "r": "r DECam SDSS c0002 6415.0 1480.0",
    "i": "i DECam SDSS c0003 7835.0 1470.0",
    "z": "z DECam SDSS c0004 9260.0 1520.0",
    "Y": "Y DECam c0005 10095.0 1130.0",
}

SURVEY_RA, SURVEY_DEC = 54.0, -28.0
"""Centre of the first tile, deg: the Chandra Deep Field South, inside DES."""

OVERLAP = round(60.0 / PIXEL_SCALE)
"""Overlap of neighbouring tiles, px: an arcminute, as in DES."""

SMALLEST_TILE = 256
"""Minimum side of a tile, px: a cutout of an arcminute (228 px) and two background cells (128 px) fit."""

NOISE_CELL = 32
"""Side of the cells of constant noise level, px."""

QUANTIZE_LEVEL = 16.0
"""Quantization steps per background RMS, as with `fpack -q 16`."""

PSF_FWHM = 0.9 / PIXEL_SCALE
"""Full width of the PSF at half maximum, px."""

STAR_FRACTION = 0.15
SATURATED_STAR_MAG = 12.0
FAINTEST_MAG = 24.5
"""Faintest i-band AB magnitude of the catalogue, about 5 sigma for a point source."""

FIRST_OBJECT_ID = 353_000_000

# Exponential and de Vaucouleurs profiles of unit half-light radius as sums of Gaussians (Hogg & Lang 2013,
# PASP 125, 719, "lux" and "luv"). Convolution with a PSF of Gaussians then adds only the variances.
DISK_FLUX = np.array([0.0023485, 0.0307995, 0.223364, 1.17949, 4.33874, 5.99821])
DISK_VARIANCE = np.array([0.00120079, 0.00884526, 0.0391463, 0.139977, 0.460963, 1.50160])
BULGE_FLUX = np.array([0.0426348, 0.240127, 0.685908, 1.51937, 2.83627, 4.46468, 5.72441, 5.60989])
BULGE_VARIANCE = np.array([0.00022376, 0.0010022, 0.00418731, 0.0169433, 0.068485, 0.287207, 1.3332, 8.4022])

# A Moffat profile of beta = 3 is an integral over Gaussians of variance alpha^2 / (2 t) and of flux
# t exp(-t) dt. Gauss-Laguerre quadrature with four nodes approximates the integral.
_NODES, _WEIGHTS = np.polynomial.laguerre.laggauss(4)
MOFFAT_ALPHA = PSF_FWHM / (2.0 * sqrt(2.0 ** (1.0 / 3.0) - 1.0))
PSF_FLUX = _NODES * _WEIGHTS / np.sum(_NODES * _WEIGHTS)
PSF_VARIANCE = MOFFAT_ALPHA**2 / (2.0 * _NODES)
PSF_HALF_LIGHT = MOFFAT_ALPHA * sqrt(sqrt(2.0) - 1.0)

HALO_FLUX, HALO_SCALE = 0.05, 4.0
"""Scattered light around a star, a Moffat profile of beta = 1.5: fraction of the flux, and scale in px."""

STAMP_RADII = np.unique(np.round(6.0 * 1.2 ** np.arange(21))).astype(np.int64)
STAMP_EDGE = 0.04
"""Brightness at the edge of a stamp, in units of the background RMS; the largest of all bands."""

NOISE_KERNEL = 0.15
"""Weight of the next pixel in the noise: neighbours have a correlation of 0.29, as after resampling."""

COLOR_SCALE = {"i": 1.65, "r": 1.1, "g": 0.72}
"""Counts per display unit in red, green and blue: a typical galaxy becomes warm white."""

MAX_RMS_R = 3.8
MIN_DEPTH_I = 24.15
"""Thresholds of the recipe: 1.45 times the typical background RMS. Only the shallow corner of a tile fails them."""

FloatArray = NDArray[np.float64]
PixelArray = NDArray[np.float32]


class _Draw(IntEnum):
    """Purpose of a stream of random numbers; the last two are the first of one per band."""

    STAR = 0
    CORNER = 1
    SOURCES = 2
    CATALOG = 3
    NOISE_LEVEL = 100
    NOISE = 200


@dataclass(frozen=True)
class _Tile:
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
        rng = self.rng(_Draw.STAR)
        from_edge = rng.uniform(0.2, 0.35, 2)
        return np.where(rng.random(2) < 0.5, from_edge, 1.0 - from_edge)


@dataclass(frozen=True)
class _Sources:
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

    def take(self, chosen: NDArray[np.bool_]) -> "_Sources":
        """Return the chosen sources."""
        return _Sources(*(getattr(self, field.name)[chosen] for field in fields(self)))


@dataclass(frozen=True)
class _Stamp:
    """One source on a tile: corner in px, profile of unit flux, and counts in each band."""

    x0: int
    y0: int
    profile: PixelArray
    flux: FloatArray


@dataclass(frozen=True)
class _Hole:
    """Pixels without data: a box on the tile, and its pixels without data. Empty on most tiles."""

    box: tuple[slice, slice]
    inside: NDArray[np.bool_]


def make_survey(directory: Path, *, tiles: int = 4, tile_size: int = 1000, objects: int = 400, seed: int = 1) -> Path:
    """Write a synthetic survey: a recipe, and for each tile images in five bands, a colour picture and a catalogue.

    The same arguments give the same files, byte for byte.

    Parameters
    ----------
    directory : Path
        Folder of the survey, created if missing. It must not hold a survey.
    tiles : int
        Number of tiles, on a near-square grid of overlapping neighbours.
    tile_size : int
        Side of a tile, px of 0.263 arcsec; 10000 in DES.
    objects : int
        Exact number of catalogued objects per tile; 40000 in DES. An object is only in the catalogue of the tile
        with the greatest distance between the object and the tile edge.
    seed : int
        Seed of the random numbers; another seed gives another sky.

    Returns
    -------
    Path
        The recipe, ``directory/survey.toml``. It is written last: if it exists, the survey is complete.

    Raises
    ------
    ValueError
        An argument is out of range.
    FileExistsError
        The directory holds a survey or a part of one.
    """
    _check(tiles, tile_size, objects, seed)
    recipe = directory / "survey.toml"
    if recipe.exists() or any(directory.glob("DEM*")):
        raise FileExistsError(f"{directory} already holds a synthetic survey: remove it, or give another folder")
    layout = _lay_out(tiles, tile_size, seed)
    for tile in layout:
        _make_tile(directory / tile.name, tile, layout, objects)
    recipe.write_text(_recipe_text(), encoding="utf-8")
    return recipe


def _check(tiles: int, tile_size: int, objects: int, seed: int) -> None:
    if tiles < 1:
        raise ValueError(f"{tiles} tiles: ask for at least one tile")
    if tile_size < SMALLEST_TILE:
        raise ValueError(f"a tile of {tile_size} px is too small for a cutout: ask for at least {SMALLEST_TILE} px")
    if not 1 <= objects <= tile_size**2 // 100:
        most = tile_size**2 // 100
        raise ValueError(f"{objects} objects per tile: a tile of {tile_size} px holds 1 to {most} objects")
    if seed < 0:
        raise ValueError(f"seed {seed} is negative: give a seed of 0 or more")
    if ceil(sqrt(tiles)) * tile_size * PIXEL_SCALE / 3600.0 > 90.0:
        raise ValueError(f"{tiles} tiles of {tile_size} px span more than 90 degrees: ask for fewer tiles")


# ---- the tiles on the sky


def _lay_out(tiles: int, size: int, seed: int) -> list[_Tile]:
    """Return tiles on a near-square grid: columns along RA, rows along Dec, with overlapping sides."""
    spacing = (size - min(OVERLAP, size // 4)) * PIXEL_SCALE / 3600.0
    layout = []
    for index, (column, row) in zip(range(tiles), _grid(), strict=False):
        dec = SURVEY_DEC + row * spacing
        ra = (SURVEY_RA + column * spacing / cos(radians(dec))) % 360.0
        layout.append(_Tile(index, _tile_name(ra, dec), size, ra, dec, seed))
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


def _neighbours(tile: _Tile, layout: list[_Tile]) -> list[_Tile]:
    """Return the other tiles that may overlap this one: their centres are within a tile diagonal."""
    ra, dec = np.radians([(other.ra, other.dec) for other in layout]).T
    to_ra, to_dec = radians(tile.ra), radians(tile.dec)
    # The haversine is accurate for small angles; the cosine of the angle is not.
    sine = np.sin((dec - to_dec) / 2.0) ** 2 + np.cos(dec) * cos(to_dec) * np.sin((ra - to_ra) / 2.0) ** 2
    near = 2.0 * np.arcsin(np.sqrt(sine)) < radians(sqrt(2.0) * tile.size * PIXEL_SCALE / 3600.0)
    return [other for other in layout if near[other.index] and other.index != tile.index]


# ---- the sources


def _draw_sources(tile: _Tile, neighbours: list[_Tile], count: int) -> _Sources:
    """Return the sources that belong to one tile, with one saturated star."""
    rng = tile.rng(_Draw.SOURCES)
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
    return _Sources(
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
    tile: _Tile, neighbours: list[_Tile], count: int, rng: np.random.Generator
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


# ---- the sources on a tile


def _stamps_on(tile: _Tile, sources: _Sources) -> list[_Stamp]:
    """Return the stamps of the sources that send light onto a tile, in pixels of this tile."""
    x, y = tile.pixels(sources.ra, sources.dec)
    radius = _stamp_radii(sources)
    last = tile.size - 1
    near = (np.minimum(x, y) > -radius - 1.0) & (np.maximum(x, y) < last + radius + 1.0)
    sources, x, y, radius = sources.take(near), x[near], y[near], radius[near]
    column, row, flux = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64), sources.flux
    share, major, minor = _gaussians(sources)
    stamps = []
    for k, reach in enumerate(radius.tolist()):
        along, across = _squared_offsets(x[k] - column[k], y[k] - row[k], sources.angle[k], reach)
        used = share[k] > 0.0
        profile = _unit_profile(along, across, share[k, used], major[k, used], minor[k, used])
        if sources.is_star[k]:
            profile = np.float32(1.0 - HALO_FLUX) * profile + _halo(along + across)
        stamps.append(_Stamp(int(column[k]) - reach, int(row[k]) - reach, profile, flux[k]))
    return stamps


def _stamp_radii(sources: _Sources) -> NDArray[np.int64]:
    """Return the radius of each stamp, px: outside, the source is below `STAMP_EDGE` in every band."""
    share, major, minor = _gaussians(sources)
    peak = share / (2.0 * np.pi * np.sqrt(major * minor))
    signal_to_noise = np.max(sources.flux / np.array([BACKGROUND_RMS[band] for band in BANDS]), axis=1)
    chosen = np.full(len(share), STAMP_RADII[-1])
    for radius in STAMP_RADII[::-1]:
        brightness = np.sum(peak * np.exp(-(float(radius) ** 2) / (2.0 * major)), axis=1)
        brightness += sources.is_star * _halo(np.full(1, radius**2, dtype=np.float32))
        chosen[signal_to_noise * brightness < STAMP_EDGE] = radius
    return chosen


def _gaussians(sources: _Sources) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return each source after the PSF as a sum of Gaussians.

    Returns
    -------
    share, major, minor : (N, K) arrays
        Fractions of the flux, and variances along the major and minor axes, px^2.
    """
    disk = (1.0 - sources.bulge)[:, None] * DISK_FLUX / DISK_FLUX.sum()
    bulge = sources.bulge[:, None] * BULGE_FLUX / BULGE_FLUX.sum()
    intrinsic = np.concatenate([DISK_VARIANCE, BULGE_VARIANCE]) * (sources.half_light**2)[:, None]
    share = np.concatenate([disk, bulge], axis=1)[:, :, None] * PSF_FLUX
    major = intrinsic[:, :, None] + PSF_VARIANCE
    minor = (intrinsic * (sources.axis_ratio**2)[:, None])[:, :, None] + PSF_VARIANCE
    flat = (len(share), share.shape[1] * share.shape[2])
    return share.reshape(flat), major.reshape(flat), minor.reshape(flat)


def _halo(squared_radius: PixelArray) -> PixelArray:
    """Return the scattered light of a star of unit flux, at squared distances in px^2."""
    shape = (np.float32(1.0) + squared_radius / np.float32(HALO_SCALE**2)) ** np.float32(-1.5)
    halo: PixelArray = shape * np.float32(HALO_FLUX / (2.0 * np.pi * HALO_SCALE**2))
    return halo


def _squared_offsets(dx: float, dy: float, angle: float, radius: int) -> tuple[PixelArray, PixelArray]:
    """Return squared distances along and across an axis, px^2, on a stamp of side ``2 * radius + 1``.

    The centre is at dx, dy px from the middle of the stamp.
    """
    x = np.arange(-radius, radius + 1) - dx
    y = np.arange(-radius, radius + 1)[:, None] - dy
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return np.square(along, dtype=np.float32), np.square(across, dtype=np.float32)


def _unit_profile(
    along: PixelArray, across: PixelArray, share: FloatArray, major: FloatArray, minor: FloatArray
) -> PixelArray:
    """Return a sum of Gaussians of unit flux on a stamp, from squared offsets and variances in px^2."""
    a, b = ((-0.5 / variance).astype(np.float32)[:, None, None] for variance in (major, minor))
    peak = (share / (2.0 * np.pi * np.sqrt(major * minor))).astype(np.float32)
    profile: PixelArray = np.einsum("k,kyx->yx", peak, np.exp(a * along + b * across))
    return profile


def _add_sources(image: PixelArray, stamps: list[_Stamp], band: int) -> None:
    """Add the light of all sources in one band to an image, in place."""
    height, width = image.shape
    for stamp in stamps:
        y0, x0, side = stamp.y0, stamp.x0, len(stamp.profile)
        part = stamp.profile[max(0, -y0) : max(0, height - y0), max(0, -x0) : max(0, width - x0)]
        under = image[max(0, y0) : max(0, y0 + side), max(0, x0) : max(0, x0 + side)]
        under += np.float32(stamp.flux[band]) * part


def _saturate(image: PixelArray, stamps: list[_Stamp], band: int) -> None:
    """Cap an image at the saturation level, in place; the charge above it runs along the columns."""
    np.minimum(image, np.float32(SATURATION), out=image)
    for stamp in stamps:
        excess = float(np.sum(np.maximum(stamp.flux[band] * stamp.profile - SATURATION, 0.0)))
        if excess > 0.0:
            middle = len(stamp.profile) // 2
            _bleed(image, stamp.x0 + middle, stamp.y0 + middle, excess)


def _bleed(image: PixelArray, x: int, y: int, excess: float) -> None:
    """Fill three columns through a star with a charge of `excess` counts; the middle column is twice as long."""
    length = min(ceil(excess / SATURATION / 4.0), len(image) // 4)
    for column, reach in ((x - 1, length // 2), (x, length), (x + 1, length // 2)):
        if 0 <= column < image.shape[1]:
            image[max(0, y - reach) : max(0, y + reach + 1), column] = SATURATION


# ---- noise and gaps


def _noise_mesh(tile: _Tile, band: int) -> PixelArray:
    """Return the background RMS of one band in cells of NOISE_CELL px, counts.

    The level differs by up to 20% from tile to tile. Inside a tile, the level has a slope, two steps where one of
    nine exposures ends, and one corner with only a quarter of the exposures.
    """
    rng = tile.rng(_Draw.NOISE_LEVEL + band)
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


def _shallow_corner(tile: _Tile, x: FloatArray, y: FloatArray) -> NDArray[np.bool_]:
    """Return which places, as fractions of the side, are in the corner with few exposures.

    The corner is above or below the saturated star, and so never the corner of the hole.
    """
    star_x, star_y = tile.star_place()
    width, height = tile.rng(_Draw.CORNER).uniform(0.28, 0.38, 2)
    near_x = np.where(star_x < 0.5, x, 1.0 - x) < width
    near_y = np.where(star_y < 0.5, 1.0 - y, y) < height
    corner: NDArray[np.bool_] = near_x & near_y
    return corner


def _hole_on(tile: _Tile) -> _Hole:
    """Return the pixels of a chip without data: a tilted 5% of the first tile, diagonally opposite to its star."""
    if tile.index > 0:
        return _Hole((slice(0, 0), slice(0, 0)), np.zeros((0, 0), dtype=bool))
    x, y = (1.0 - tile.star_place()) * tile.size
    half_width, half_height, tilt = 0.13 * tile.size, 0.097 * tile.size, radians(8.0)
    reach = ceil(half_width + half_height)
    rows, columns = (slice(max(0, int(at) - reach), min(tile.size, int(at) + reach)) for at in (y, x))
    dy = np.arange(rows.start, rows.stop)[:, None] - y
    dx = np.arange(columns.start, columns.stop) - x
    along, across = dx * np.cos(tilt) + dy * np.sin(tilt), dy * np.cos(tilt) - dx * np.sin(tilt)
    return _Hole((rows, columns), (np.abs(along) < half_width) & (np.abs(across) < half_height))


def _noise_image(mesh: PixelArray, size: int, rng: np.random.Generator) -> PixelArray:
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


def _weight_image(mesh: PixelArray, size: int, hole: _Hole) -> PixelArray:
    """Return the weights, 1 / RMS^2, and 0 in the hole."""
    cells = (1.0 / mesh**2).astype(np.float32)
    weight = np.repeat(np.repeat(cells, NOISE_CELL, axis=0)[:size], NOISE_CELL, axis=1)[:, :size]
    weight[hole.box][hole.inside] = 0.0
    return weight


def _mask_image(science: PixelArray, hole: _Hole) -> NDArray[np.int32]:
    """Return the mask bits of each pixel, 0 for a good pixel."""
    mask = np.zeros(science.shape, dtype=np.int32)
    mask[science >= SATURATION] = SATURATED_BIT
    mask[hole.box][hole.inside] = NO_DATA_BIT
    return mask


# ---- the files of a tile


def _make_tile(folder: Path, tile: _Tile, layout: list[_Tile], objects: int) -> None:
    """Write the images, the colour picture and the catalogue of one tile."""
    folder.mkdir(parents=True)
    neighbours = _neighbours(tile, layout)
    own = _draw_sources(tile, neighbours, objects)
    stamps = _stamps_on(tile, own)
    for other in neighbours:
        stamps += _stamps_on(tile, _draw_sources(other, _neighbours(other, layout), objects))
    hole = _hole_on(tile)
    color = np.empty((tile.size, tile.size, 3), dtype=np.uint8)
    for band, letter in enumerate(BANDS):
        science = _band_image(tile, band, stamps, hole)
        if letter in COLOR_SCALE:
            _tint(color[:, :, list(COLOR_SCALE).index(letter)], science / np.float32(COLOR_SCALE[letter]))
        _write_band(folder / f"{tile.name}_r1p01_{letter}.fits.fz", tile, band, science, hole)
        del science  # keep only one band in memory
    Image.fromarray(color).save(folder / f"{tile.name}_r1p01_irg.tiff", compression="jpeg", quality=90)
    _write_catalog(folder / f"{tile.name}_r1p01_cat.fits", tile, own)


def _band_image(tile: _Tile, band: int, stamps: list[_Stamp], hole: _Hole) -> PixelArray:
    """Return one band of a tile (size, size), counts."""
    image = _noise_image(_noise_mesh(tile, band), tile.size, tile.rng(_Draw.NOISE + band))
    _add_sources(image, stamps, band)
    _saturate(image, stamps, band)
    image[hole.box][hole.inside] = np.nan
    return image


def _tint(channel: NDArray[np.uint8], image: PixelArray) -> None:
    """Fill one colour channel from an image in display units, with an asinh stretch, top of the sky first."""
    for row, counts in zip(range(len(image) - 1, -1, -1), image, strict=True):
        # Linear up to twice the noise, logarithmic above. The sky is dark grey; 3000 units are white.
        stretched = 0.08 + 0.92 * np.arcsinh(np.nan_to_num(counts, nan=-np.inf) / 6.0) / np.arcsinh(500.0)
        channel[row] = np.clip(255.0 * stretched, 0.0, 255.0)


def _write_band(path: Path, tile: _Tile, band: int, science: PixelArray, hole: _Hole) -> None:
    """Write one band in the form of fpack: an empty primary HDU and the compressed images SCI, MSK and WGT."""
    fits.PrimaryHDU().writeto(path)
    _append_image(path, "SCI", science, tile, band)
    _append_image(path, "MSK", _mask_image(science, hole), tile, band)
    _append_image(path, "WGT", _weight_image(_noise_mesh(tile, band), tile.size, hole), tile, band)


def _append_image(path: Path, name: str, data: NDArray[np.generic], tile: _Tile, band: int) -> None:
    """Append one compressed image; only one is in memory at a time."""
    hdu = fits.CompImageHDU(
        data,
        header=_image_header(tile, band),
        name=name,
        compression_type="RICE_1",
        quantize_level=QUANTIZE_LEVEL,
        quantize_method=fits.hdu.compressed.SUBTRACTIVE_DITHER_2,  # keeps an exact 0
        dither_seed=1 + (tile.index * len(BANDS) + band) % 10000,
    )
    with fits.open(path, mode="append") as file:
        file.append(hdu)


def _image_header(tile: _Tile, band: int) -> fits.Header:
    """Return the header cards of one image."""
    letter = BANDS[band]
    header = tile.wcs_cards()
    header.extend(
        [
            ("OBJECT", "Demo survey", "Synthetic sky"),
            ("TILENAME", tile.name, "Name of the tile"),
            ("TILEID", tile.index, "Number of the tile"),
            ("BAND", letter, "Short name for filter"),
            ("FILTER", FILTER_CARDS[letter], "Filter used in the exposures"),
            ("BUNIT", "adu", "Counts, 1 at magnitude MAGZERO"),
            ("MAGZERO", ZERO_POINT, "[mag] AB zero point"),
            ("EXPTIME", 45.0 if letter == "Y" else 90.0, "[s] Equivalent exposure time"),
            ("GAIN", 4.0, "Equivalent gain, e-/adu"),
            ("SATURATE", SATURATION, "[adu] Saturation level"),
            ("FWHM", round(PSF_FWHM * PIXEL_SCALE, 3), "[arcsec] Width of the PSF"),
            ("SKYRMS", BACKGROUND_RMS[letter], "[adu] Typical background RMS of the survey"),
        ]
    )
    return header


def _write_catalog(path: Path, tile: _Tile, sources: _Sources) -> None:
    """Write the objects of one tile, sorted by ID, with the columns of DES DR2."""
    count = len(sources.ra)
    rng = tile.rng(_Draw.CATALOG)
    x, y = tile.pixels(sources.ra, sources.dec)
    radius = np.hypot(sources.half_light * np.sqrt(sources.axis_ratio), PSF_HALF_LIGHT)
    columns = [
        fits.Column("COADD_OBJECT_ID", "K", array=_object_ids(tile, count, rng)),
        fits.Column("TILENAME", f"{len(tile.name)}A", array=np.full(count, tile.name)),
        fits.Column("ALPHAWIN_J2000", "D", unit="deg", array=sources.ra),
        fits.Column("DELTAWIN_J2000", "D", unit="deg", array=sources.dec),
        fits.Column("XWIN_IMAGE", "D", unit="pixel", array=x + 1.0),
        fits.Column("YWIN_IMAGE", "D", unit="pixel", array=y + 1.0),
        fits.Column("FLUX_RADIUS_I", "E", unit="pixel", array=radius),
        fits.Column("CLASS_STAR_I", "E", array=_star_class(sources, rng)),
    ]
    magnitudes = _measured_magnitudes(sources, radius, rng)
    for letter, magnitude in zip(BANDS, magnitudes.T, strict=True):
        columns.append(fits.Column(f"MAG_AUTO_{letter.upper()}", "E", unit="mag", array=magnitude))
    fits.BinTableHDU.from_columns(columns, name="OBJECTS").writeto(path)


def _object_ids(tile: _Tile, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return increasing IDs with gaps: two thirds of the IDs in the block of a tile are unused."""
    block = 3 * count
    return FIRST_OBJECT_ID + tile.index * block + np.sort(rng.choice(block, count, replace=False))


def _measured_magnitudes(sources: _Sources, radius: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Return magnitudes (N, bands) with the error of an aperture of two half-light radii; 99 without a detection."""
    rms = np.array([BACKGROUND_RMS[band] for band in BANDS])
    error = rms * (2.0 * radius * sqrt(np.pi))[:, None]
    flux = sources.flux + error * rng.standard_normal(sources.mag.shape)
    magnitude = ZERO_POINT - 2.5 * np.log10(np.maximum(flux, 1e-9))
    return np.where(flux > 0.0, magnitude, 99.0)


def _star_class(sources: _Sources, rng: np.random.Generator) -> FloatArray:
    """Return the stellarity of SExtractor: 1 for stars, 0 for galaxies, near 0.5 at the faint end."""
    doubt = np.clip((sources.mag[:, BANDS.index("i")] - 19.0) / 5.0, 0.0, 1.0)
    opinion = 0.5 + np.where(sources.is_star, 0.48, -0.48) * (1.0 - doubt)
    return np.clip(opinion + 0.1 * doubt * rng.standard_normal(len(doubt)), 0.0, 1.0)


def _recipe_text() -> str:
    """Return the recipe of the survey that `make_survey` writes."""
    bands, typical_rms = ", ".join(f'"{band}"' for band in BANDS), BACKGROUND_RMS["r"]
    return f"""\
# Recipe of a synthetic survey in the file layout of the Dark Energy Survey.

[survey]
name = "Demo"
root = "."                                # the folder of this file
bands = [{bands}]
image = "{{tile}}/{{tile}}_*_{{band}}.fits*"    # finds every tile; may be fpacked
image_hdu = "SCI"                         # the same file has MSK and WGT
color = "{{tile}}/{{tile}}_*_irg.tiff"
zero_point = {ZERO_POINT}                         # AB magnitude of one count

[catalog]
path = "{{tile}}/{{tile}}_*_cat.fits"
object_id = "COADD_OBJECT_ID"
ra = "ALPHAWIN_J2000"
dec = "DELTAWIN_J2000"

[cutout]
size = "1 arcmin"                         # 228 px of {PIXEL_SCALE} arcsec

[quality]                                 # an object is skipped if any of these fails
max_background_rms = {{ r = {MAX_RMS_R} }}          # counts; {typical_rms} is typical
min_depth = {{ i = {MIN_DEPTH_I} }}                 # AB mag, 5 sigma; both fail in a corner of each tile
max_blank_fraction = 0.5                  # of the cutout pixels; the first tile has a hole

[storage]
layout = "mosaic"                         # each pixel is stored once
quantization = {QUANTIZE_LEVEL:.0f}                         # quantization steps per background RMS
"""
