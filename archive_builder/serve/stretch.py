"""Automatic stretch of pictures from the sky and the noise of each band."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

SAMPLE = 64
"""Rows and columns of the sample for sky and noise; 4096 pixels give the sky to 0.02 of the noise."""

CLIP = 3.0
"""Pixels this many noises above the sky are sources."""

ROUNDS = 10
"""Maximum rounds of clipping."""

FAINTEST_WHITE = 100.0
"""Smallest brightness shown as white, noises above black: an empty window stays a dark sky."""

SKY_LEVEL = 0.12
"""Brightness of the sky, where 1 is white."""

BLACK = 2.0
"""Noises from black up to the sky."""

DEEPEST = 200.0
"""Limit of asinh(white / knee)."""

SOFTEST = 0.1
"""Smallest Q, a linear curve."""

BRIGHTEST = 1e-4
"""Share of pixels above white. A hot pixel does not darken the picture."""

MAD = 1.4826
"""Standard deviation of Gaussian noise per median absolute deviation."""

LIMIT = 1e9
"""Largest brightness in a picture, noises."""


@dataclass(frozen=True)
class Curve:
    """The curve 255 asinh((x - black) / knee) / depth from noises above the sky to grey levels."""

    black: float
    """Brightness shown as black, noises above the sky."""

    knee: float
    """Brightness above black where the curve turns from linear to logarithmic, noises."""

    depth: float
    """asinh(white / knee), with white in noises above black."""

    def levels(self, image: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Return the grey levels of an image in noises above the sky; 0 without data."""
        level = np.arcsinh((image - np.float32(self.black)) * np.float32(1 / self.knee))
        level *= np.float32(255 / self.depth)
        shown: NDArray[np.uint8] = np.nan_to_num(np.clip(level, 0, 255, out=level), copy=False).astype(np.uint8)
        return shown


def sky_and_noise(image: NDArray[np.float32], rms: float) -> tuple[float, float]:
    """Return the sky and the noise of one band's image, in its unit.

    The noise is ``rms`` where that is above 0. The sky is the median of the finite pixels of a sample, again without
    the pixels more than 3 noises above the sky, until nothing changes. A galaxy that fills the window therefore does
    not lift the sky, and a few pixels far below do not lower the sky. Without ``rms`` the noise is 1.4826 times the
    median deviation of the pixels at or below the median, or else their standard deviation.

    Parameters
    ----------
    image : ndarray of float32, (ny, nx)
        NaN without data.
    rms : float
        Background RMS from the archive; NaN if unknown.

    Returns
    -------
    sky, noise : float
        ``(0, 1)`` without data. A constant image has noise 1.
    """
    step_y, step_x = (max(1, n // SAMPLE) for n in image.shape)
    sample = image[::step_y, ::step_x].astype(np.float64)
    pixels = sample[np.isfinite(sample)]
    if not len(pixels):
        pixels = image[np.isfinite(image)].astype(np.float64)
    if not len(pixels):
        return 0.0, 1.0
    sky = float(np.median(pixels))
    noise = rms if math.isfinite(rms) and rms > 0 else _noise(pixels, sky)
    for _ in range(ROUNDS):
        below = pixels[pixels <= sky + CLIP * noise]
        if len(below) == len(pixels):
            break
        pixels = below
        sky = float(np.median(pixels))
    return sky, noise


def _noise(pixels: NDArray[np.float64], sky: float) -> float:
    """Return the noise of pixels, from those at or below the sky; 1 for constant pixels."""
    noise = MAD * float(np.median(sky - pixels[pixels <= sky])) or float(pixels.std())
    return noise if noise > 0 and math.isfinite(noise) else 1.0


def in_noises(image: NDArray[np.float32], zero: float, noise: float) -> NDArray[np.float32]:
    """Return an image above ``zero`` in units of the noise; NaN without data."""
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.clip((image - np.float32(zero)) / np.float32(noise), -LIMIT, LIMIT, dtype=np.float32)
    scaled[~np.isfinite(image)] = np.nan
    return np.asarray(scaled)


def automatic_curve(
    images: Sequence[NDArray[np.float32]], softening: float | None = None, black: float | None = None
) -> Curve:
    """Return the curve for images in units of their noise, the same for all bands.

    The curve is that of Lupton et al. (2004, PASP 116, 133), here for each band by itself: the middle of a bright
    source turns white, where a common factor for all bands would give a disc of one colour. White is the brightness
    that 0.01% of the pixels exceed in any band, at least 100 noises above black. Black lies 2 noises below the sky, and
    the knee is the one that gives the sky 12% of white. The sky therefore looks the same in all pictures, whatever the
    brightest source.

    Parameters
    ----------
    images : sequence of ndarray of float32, (ny, nx)
        One image of each band, noises above the sky; NaN without data.
    softening : float, optional
        Lupton's Q, with asinh(white / knee) = 10 asinh(Q / 10) as in astropy; decides on the knee, and on black.
    black : float, optional
        Brightness shown as black, noises above the sky.
    """
    white = max(_brightest(images) - (-BLACK if black is None else black), FAINTEST_WHITE)
    depth = _depth(BLACK / white) if softening is None else min(10 * math.asinh(max(softening, SOFTEST) / 10), DEEPEST)
    knee = white / math.sinh(depth)
    return Curve(-knee * math.sinh(SKY_LEVEL * depth) if black is None else black, knee, depth)


def _depth(share: float) -> float:
    """Return the depth at which the sky, ``share`` of white above black, gets the brightness `SKY_LEVEL`."""
    low, high = 1e-6, DEEPEST
    while high - low > 1e-9:
        depth = (low + high) / 2
        if math.sinh(SKY_LEVEL * depth) > share * math.sinh(depth):
            low = depth
        else:
            high = depth
    return high


def _brightest(images: Sequence[NDArray[np.float32]]) -> float:
    """Return the brightness that a share `BRIGHTEST` of the pixels exceeds in any band; 0 without data."""
    values = np.nan_to_num(reduce(np.fmax, images)).ravel()
    place = len(values) - 1 - int(BRIGHTEST * len(values))
    return float(np.partition(values, place)[place])
