"""Selection of the objects with a cutout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from archive_builder.measure.noise import depth


class Status(IntEnum):
    """Outcome of a catalogued object; the values are stored on disk."""

    STORED = 0
    """The object has a cutout."""
    NOISE = 1
    """A band is too noisy or too shallow at the object, or its noise could not be measured."""
    BLANK = 2
    """Too much of the cutout has no data."""
    OUTSIDE = 3
    """The object's pixel is off the tile."""
    POSITION = 4
    """The catalogue gives the object no position on the sky."""
    ELSEWHERE = 5
    """Another row of the same ID lies deeper inside its tile. The index leads to that row, not to this one."""


INDEXED = tuple(status for status in Status if status != Status.ELSEWHERE)
"""Statuses of the objects in the index."""

ON_TILE = (Status.STORED, Status.NOISE, Status.BLANK)
"""Statuses of the objects that were measured."""

REASON_NAMES = ("noise", "blank", "outside", "position", "elsewhere", "id")
"""Names of the reasons for a missing cutout: those of `Status` without ``STORED``; ``id`` for rows without an ID."""


def count_reasons(status: NDArray[np.uint8], without_id: int = 0) -> dict[str, int]:
    """Return the number of catalogue rows without a cutout, by reason.

    Parameters
    ----------
    status : ndarray of uint8, (N,)
        `Status` of each object.
    without_id : int
        Rows without an ID: they are in no table.
    """
    reasons = (reason for reason in Status if reason != Status.STORED)
    return {**{reason.name.lower(): int((status == reason).sum()) for reason in reasons}, "id": without_id}


@dataclass(frozen=True)
class Thresholds:
    """Limits for an object with a cutout; see the recipe's ``[quality]``."""

    zero_points: Mapping[str, float]
    """AB magnitude of one image unit, per band."""

    max_background_rms: Mapping[str, float] = field(default_factory=dict)
    """Maximum background RMS per band, image units."""

    min_depth: Mapping[str, float] = field(default_factory=dict)
    """Minimum depth per band, AB mag."""

    max_blank_fraction: float = 1.0
    """Maximum blank fraction of a cutout's pixels in the worst band."""


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
        Background RMS at the object, image units; NaN where it could not be measured.
    blank_fraction : ndarray of float64, (N,)
        Blank fraction of the cutout's pixels in the worst band.
    bands : sequence of str
        Names of the bands in ``rms``.
    pixel_scale : float
        Side of a pixel, arcsec.
    thresholds : Thresholds
        Limits of the recipe.

    Returns
    -------
    ndarray of uint8, (N,)
        `Status` of each object. An object that is both blank and noisy counts as blank.
    """
    # The comparisons fail for NaN: noise that could not be measured is no proof of quality.
    good = np.ones(len(rms), dtype=bool)
    for band, limit in thresholds.max_background_rms.items():
        good &= rms[:, bands.index(band)] <= limit
    for band, limit in thresholds.min_depth.items():
        good &= depth(rms[:, bands.index(band)], thresholds.zero_points[band], pixel_scale) >= limit
    status = np.where(good, Status.STORED, Status.NOISE)
    return np.where(blank_fraction > thresholds.max_blank_fraction, Status.BLANK, status).astype(np.uint8)
