"""From a sample of tiles to all of them: totals and how sure they are, distributions, what thresholds would keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
"""Of a distribution."""

BINS = 40
"""Of a histogram."""

THRESHOLDS = 60
"""Of a curve of what is kept."""

KEPT_SHARES = (0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
"""Shares of the objects for which the threshold that keeps them is worked out."""


@dataclass(frozen=True)
class Estimate:
    """A total over all tiles."""

    value: float
    """The best guess."""

    error: float | None
    """Its standard error, by how much the sampled tiles differ; None if only one was sampled."""

    def scaled(self, factor: float) -> Estimate:
        """Return the estimate in another unit."""
        return Estimate(self.value * factor, None if self.error is None else self.error * factor)


@dataclass(frozen=True)
class Part:
    """A part of what each tile takes, which grows with a size that is known of all tiles."""

    values: Sequence[float]
    """Of the sampled tiles, (K,)."""

    sizes: Sequence[float]
    """The size of each that the part is about proportional to, (K,)."""

    size_of_all: float
    """The sum of that size over all tiles."""


def estimate_total(parts: Sequence[Part], tiles: int) -> Estimate:
    """Estimate what all tiles take from a sample of them.

    Parameters
    ----------
    parts : sequence of Part
        Of the same sampled tiles.
    tiles : int
        How many there are; if all were sampled, the total is known.

    Returns
    -------
    Estimate
        By the ratio estimator, part by part, and its standard error (Cochran 1977, Sampling Techniques, ch. 6).
    """
    sampled = len(parts[0].values)
    total, residuals = 0.0, np.zeros(sampled)
    for part in parts:
        values, sizes = np.asarray(part.values, dtype=np.float64), np.asarray(part.sizes, dtype=np.float64)
        ratio = float(values.sum() / sizes.sum()) if sizes.any() else 0.0
        total += ratio * part.size_of_all
        residuals += values - ratio * sizes
    if sampled >= tiles:
        return Estimate(total, 0.0)
    if sampled == 1:
        return Estimate(total, None)
    spread = math.sqrt(float((residuals**2).sum()) / (sampled - 1))
    return Estimate(total, tiles * spread / math.sqrt(sampled) * math.sqrt(1 - sampled / tiles))


@dataclass(frozen=True)
class Distribution:
    """How a quantity is distributed over the objects of the sampled tiles."""

    percentiles: dict[int, float]
    """The value at each of `PERCENTILES`; empty if nothing was measured."""

    edges: tuple[float, ...]
    """Of the histogram's bins."""

    counts: tuple[int, ...]
    """Objects in each bin; those beyond the first and last edge, 1 in 1000 each, are left out."""

    unmeasured: int
    """Objects of which the quantity is not known."""


def distribution(values: NDArray[np.floating], logarithmic: bool = False) -> Distribution:
    """Return how values (N,) are distributed, with bins evenly wide, or evenly wide in the logarithm."""
    known = values[np.isfinite(values)].astype(np.float64)
    if not len(known):
        return Distribution({}, (), (), len(values))
    low, high = np.percentile(known, [0.1, 99.9])
    if low == high:
        low, high = low - 0.01 * abs(low) - 1e-9, high + 0.01 * abs(high) + 1e-9
    space = np.geomspace if logarithmic and low > 0 else np.linspace
    counts, edges = np.histogram(known, space(low, high, BINS + 1))
    at = np.percentile(known, PERCENTILES)
    return Distribution(
        percentiles={p: float(value) for p, value in zip(PERCENTILES, at, strict=True)},
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        unmeasured=len(values) - len(known),
    )


@dataclass(frozen=True)
class Kept:
    """What one threshold would keep, were it the only one."""

    threshold: float
    """Its value."""

    share: float
    """Of the objects on the tiles."""


def kept_curve(values: NDArray[np.floating], upper: bool, grid: ArrayLike) -> tuple[Kept, ...]:
    """Return what thresholds keep.

    Parameters
    ----------
    values : ndarray of float, (N,)
        Of the objects; one whose value is not known is never kept.
    upper : bool
        Kept is what is at most the threshold; else what is at least the threshold.
    grid : array_like of float
        The thresholds.
    """
    ordered = np.sort(values[np.isfinite(values)].astype(np.float64))
    places = np.asarray(grid, dtype=np.float64)
    below = np.searchsorted(ordered, places, side="right" if upper else "left")
    kept = below if upper else len(ordered) - below
    return tuple(Kept(float(t), float(k / max(1, len(values)))) for t, k in zip(places, kept, strict=True))


def kept_thresholds(values: NDArray[np.floating], upper: bool) -> tuple[Kept, ...]:
    """Return the thresholds that keep `KEPT_SHARES` of the objects, as far as there are any; see `kept_curve`."""
    ordered = np.sort(values[np.isfinite(values)].astype(np.float64))
    ordered = ordered if upper else ordered[::-1]
    needed = [(share, math.ceil(share * len(values) - 1e-9)) for share in KEPT_SHARES]
    return tuple(Kept(float(ordered[n - 1]), share) for share, n in needed if 0 < n <= len(ordered))


def grid_for(values: NDArray[np.floating], limits: Sequence[float], logarithmic: bool = False) -> NDArray[np.float64]:
    """Return thresholds over the range of values (N,), and some given ones among them."""
    known = values[np.isfinite(values)]
    if not len(known):
        return np.array(sorted(limits), dtype=np.float64)
    low, high = (float(v) for v in np.percentile(known, [0.1, 99.9]))
    space = np.geomspace if logarithmic and low > 0 else np.linspace
    return np.unique(np.concatenate([space(low, high, THRESHOLDS), np.asarray(limits, dtype=np.float64)]))


def wall_time(workers: int, tiles: int, tile_seconds: float, commit_seconds: float) -> float:
    """Return how many seconds a build takes, from its first tile to its last.

    Parameters
    ----------
    workers, tiles : int
    tile_seconds : float
        One worker takes for a tile.
    commit_seconds : float
        The one process that writes the index takes for a tile.
    """
    return max(math.ceil(tiles / workers) * tile_seconds, tiles * commit_seconds)
