"""Light of the sources on a tile: profiles, the PSF, saturation."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from numpy.typing import NDArray

from archive_builder.survey.demo.camera import BACKGROUND_RMS, BANDS, PSF_FWHM, SATURATION, FloatArray, PixelArray
from archive_builder.survey.demo.sources import Sources
from archive_builder.survey.demo.tiles import Tile

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


@dataclass(frozen=True)
class Stamp:
    """One source on a tile: corner in px, profile of unit flux, and counts in each band."""

    x0: int
    y0: int
    profile: PixelArray
    flux: FloatArray


def stamps_on(tile: Tile, sources: Sources) -> list[Stamp]:
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
        stamps.append(Stamp(int(column[k]) - reach, int(row[k]) - reach, profile, flux[k]))
    return stamps


def _stamp_radii(sources: Sources) -> NDArray[np.int64]:
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


def _gaussians(sources: Sources) -> tuple[FloatArray, FloatArray, FloatArray]:
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


def add_sources(image: PixelArray, stamps: list[Stamp], band: int) -> None:
    """Add the light of all sources in one band to an image, in place."""
    height, width = image.shape
    for stamp in stamps:
        y0, x0, side = stamp.y0, stamp.x0, len(stamp.profile)
        part = stamp.profile[max(0, -y0) : max(0, height - y0), max(0, -x0) : max(0, width - x0)]
        under = image[max(0, y0) : max(0, y0 + side), max(0, x0) : max(0, x0 + side)]
        under += np.float32(stamp.flux[band]) * part


def saturate(image: PixelArray, stamps: list[Stamp], band: int) -> None:
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
