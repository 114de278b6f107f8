"""Statistics of a sample of tiles: totals with standard errors, distributions, objects selected by thresholds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
"""Percentiles of a distribution."""

BINS = 40
"""Bins of a histogram."""

THRESHOLDS = 60
"""Thresholds of a selection curve."""

SHARES = (0.5, 0.75, 0.9, 0.95, 0.99, 0.999)
"""Shares of the objects in the table of thresholds."""


@dataclass(frozen=True)
class Estimate:
    """Estimated total over all tiles."""

    value: float
    """Best estimate."""

    error: float | None
    """Standard error, from the scatter of the sampled tiles; None if only one was sampled."""

    def scaled(self, factor: float) -> Estimate:
        """Return the estimate in another unit."""
        return Estimate(self.value * factor, None if self.error is None else self.error * factor)


@dataclass(frozen=True)
class Part:
    """Part of a cost that grows with a size known for all tiles."""

    values: Sequence[float]
    """Values of the sampled tiles, (K,)."""

    sizes: Sequence[float]
    """Sizes of the sampled tiles, to which the values are about proportional, (K,)."""

    size_of_all: float
    """Sum of the sizes of all tiles."""


def estimate_total(parts: Sequence[Part], tiles: int) -> Estimate:
    """Estimate the total cost of all tiles from a sample of them.

    Parameters
    ----------
    parts : sequence of Part
        Parts of the cost, for the same sampled tiles.
    tiles : int
        Number of all tiles. The total of a sample of all tiles is exact.

    Returns
    -------
    Estimate
        Sum of the ratio estimators of the parts, with its standard error (Cochran 1977, Sampling Techniques, ch. 6).
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
    """Distribution of a quantity over the objects of the sampled tiles."""

    percentiles: dict[int, float]
    """Value at each of `PERCENTILES`; empty if no object has a value."""

    edges: tuple[float, ...]
    """Edges of the histogram's bins."""

    counts: tuple[int, ...]
    """Objects in each bin, without the 1 in 1000 beyond either end."""

    unmeasured: int
    """Objects without a value."""


def distribution(values: NDArray[np.floating], logarithmic: bool = False) -> Distribution:
    """Return the distribution of values (N,), in bins of equal width or of equal logarithmic width."""
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
class Selection:
    """Share of the objects that one threshold selects by itself."""

    threshold: float
    """Value of the threshold."""

    share: float
    """Selected share of the objects on the tiles."""


def selection_curve(values: NDArray[np.floating], upper: bool, thresholds: ArrayLike) -> tuple[Selection, ...]:
    """Return the share of the objects that each threshold selects.

    Parameters
    ----------
    values : ndarray of float, (N,)
        Values of the objects. No threshold selects an object without a value (NaN).
    upper : bool
        True if a threshold selects the values up to it, False if it selects the values from it on.
    thresholds : array_like of float
    """
    ordered = np.sort(values[np.isfinite(values)].astype(np.float64))
    at = np.asarray(thresholds, dtype=np.float64)
    below = np.searchsorted(ordered, at, side="right" if upper else "left")
    selected = below if upper else len(ordered) - below
    return tuple(Selection(float(t), float(n / max(1, len(values)))) for t, n in zip(at, selected, strict=True))


def thresholds_for_shares(values: NDArray[np.floating], upper: bool) -> tuple[Selection, ...]:
    """Return the strictest thresholds that select each of `SHARES`; see `selection_curve`.

    A share is left out if too few objects have a value.
    """
    ordered = np.sort(values[np.isfinite(values)].astype(np.float64))
    ordered = ordered if upper else ordered[::-1]
    needed = [(share, math.ceil(share * len(values) - 1e-9)) for share in SHARES]
    return tuple(Selection(float(ordered[n - 1]), share) for share, n in needed if 0 < n <= len(ordered))


def threshold_grid(
    values: NDArray[np.floating], limits: Sequence[float], logarithmic: bool = False
) -> NDArray[np.float64]:
    """Return thresholds over the range of values (N,), with some given ones among them."""
    known = values[np.isfinite(values)]
    if not len(known):
        return np.array(sorted(limits), dtype=np.float64)
    low, high = (float(v) for v in np.percentile(known, [0.1, 99.9]))
    space = np.geomspace if logarithmic and low > 0 else np.linspace
    return np.unique(np.concatenate([space(low, high, THRESHOLDS), np.asarray(limits, dtype=np.float64)]))


def wall_time(workers: int, tiles: int, tile_seconds: float, commit_seconds: float) -> float:
    """Return the wall time of a build, s.

    Parameters
    ----------
    workers : int
        Number of worker processes.
    tiles : int
        Number of tiles.
    tile_seconds : float
        Wall time of a worker per tile, s.
    commit_seconds : float
        Time to commit a tile to the index, s. One process commits all tiles.
    """
    return max(math.ceil(tiles / workers) * tile_seconds, tiles * commit_seconds)
