"""Who is skipped, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from archive_builder.measure.noise import depth


class Status(IntEnum):
    """What became of a catalogued object; the numbers are those on disk."""

    STORED = 0
    """It has a cutout."""
    NOISE = 1
    """A band is too noisy or too shallow at the object, or its noise could not be measured."""
    BLANK = 2
    """Too much of the cutout has no data."""
    OUTSIDE = 3
    """Its pixel lies off the tile."""


REASON_NAMES = ("noise", "blank", "outside")
"""Why an object may have no cutout: what the `Status` of one without is called."""


def count_reasons(status: NDArray[np.uint8]) -> dict[str, int]:
    """Return how many objects have no cutout, by reason.

    Parameters
    ----------
    status : ndarray of uint8, (N,)
    """
    return {name: int((status == Status[name.upper()]).sum()) for name in REASON_NAMES}


@dataclass(frozen=True)
class Thresholds:
    """What an object must pass; see the recipe's ``[quality]``."""

    zero_point: float
    """AB magnitude of one image unit."""

    max_background_rms: Mapping[str, float] = field(default_factory=dict)
    """Per band, image units."""

    min_depth: Mapping[str, float] = field(default_factory=dict)
    """Per band, AB mag."""

    max_blank_fraction: float = 1.0
    """Of a cutout's pixels, in the worst band."""


def judge(
    rms: NDArray[np.float32],
    blank_fraction: NDArray[np.float64],
    bands: Sequence[str],
    pixel_scale: float,
    thresholds: Thresholds,
) -> NDArray[np.uint8]:
    """Decide which objects on a tile are stored.

    Parameters
    ----------
    rms : ndarray of float32, (N, bands)
        Background RMS at the object, NaN where it could not be measured.
    blank_fraction : ndarray of float64, (N,)
        Of the cutout's pixels, in the worst band.
    bands : sequence of str
    pixel_scale : float
        Arcsec.
    thresholds : Thresholds

    Returns
    -------
    ndarray of uint8, (N,)
        `Status` of each; an object that is both blank and noisy counts as blank.
    """
    # Written so that a NaN fails: noise that could not be measured is no proof of quality.
    good = np.ones(len(rms), dtype=bool)
    for band, limit in thresholds.max_background_rms.items():
        good &= rms[:, bands.index(band)] <= limit
    for band, limit in thresholds.min_depth.items():
        good &= depth(rms[:, bands.index(band)], thresholds.zero_point, pixel_scale) >= limit
    status = np.where(good, Status.STORED, Status.NOISE)
    return np.where(blank_fraction > thresholds.max_blank_fraction, Status.BLANK, status).astype(np.uint8)
