"""Totals from a sample with their standard errors, distributions and selections, against independent results."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from archive_builder.forecast.estimate import (
    SHARES,
    Part,
    distribution,
    estimate_total,
    selection_curve,
    threshold_grid,
    thresholds_for_shares,
    wall_time,
)

amounts = hnp.arrays(np.float64, st.integers(1, 12), elements=st.floats(1, 1e6))


@given(amounts)
def test_total_of_a_sample_of_all_tiles_is_the_sum_without_error(values: np.ndarray) -> None:
    estimate = estimate_total([Part(values, values[::-1], values.sum())], len(values))
    assert estimate.value == pytest.approx(values.sum())
    assert estimate.error == 0


@given(amounts, st.floats(0.1, 10), st.floats(0.1, 10))
def test_total_of_values_proportional_to_size_is_exact_from_any_sample(
    sizes: np.ndarray, one: float, two: float
) -> None:
    everything, tiles = 100 * float(sizes.sum()), 100 * len(sizes)
    parts = [Part(one * sizes, sizes, everything), Part(two * sizes, sizes, everything)]
    estimate = estimate_total(parts, tiles)
    assert estimate.value == pytest.approx((one + two) * everything)
    assert estimate.error is None if len(sizes) == 1 else estimate.error == pytest.approx(0, abs=1e-6 * everything)


def test_quoted_error_is_the_scatter_of_the_estimates() -> None:
    rng = np.random.default_rng(1)
    tiles, sampled = 1000, 5
    sizes = rng.uniform(0.8, 1.2, tiles)
    pixels, objects = sizes * rng.normal(400, 30, tiles), rng.normal(50, 10, tiles)
    totals, errors = [], []
    for _ in range(2000):
        chosen = rng.choice(tiles, sampled, replace=False)
        parts = [
            Part(pixels[chosen], sizes[chosen], sizes.sum()),
            Part(objects[chosen], np.ones(sampled), tiles),
        ]
        estimate = estimate_total(parts, tiles)
        totals.append(estimate.value)
        errors.append(estimate.error)
    truth = (pixels + objects).sum()
    assert np.mean(totals) == pytest.approx(truth, rel=0.003)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(totals), rel=0.1)


def test_parts_without_a_size_contribute_nothing() -> None:
    assert estimate_total([Part([5.0, 7.0], [0.0, 0.0], 0.0)], 2).value == 0


values_with_gaps = hnp.arrays(
    np.float32, st.integers(1, 60), elements=st.one_of(st.floats(1, 100, width=32), st.just(np.nan))
)


@given(values_with_gaps, st.lists(st.floats(0, 120), min_size=1, max_size=5), st.booleans())
def test_kept_share_is_the_share_of_objects_that_pass(values: np.ndarray, limits: list[float], upper: bool) -> None:
    curve = selection_curve(values, upper, limits)
    assert [point.threshold for point in curve] == limits
    for point, limit in zip(curve, limits, strict=True):
        passing = [v for v in values.tolist() if (v <= limit if upper else v >= limit)]
        assert point.share == pytest.approx(len(passing) / len(values))


@given(values_with_gaps, st.booleans())
def test_threshold_for_a_share_is_the_strictest_that_keeps_the_share(values: np.ndarray, upper: bool) -> None:
    known = sorted(v for v in values.tolist() if np.isfinite(v))
    selections = thresholds_for_shares(values, upper)
    assert [chosen.share for chosen in selections] == [s for s in SHARES if len(known) >= s * len(values) - 1e-9]

    def selected(threshold: float) -> int:
        return sum(v <= threshold if upper else v >= threshold for v in known)

    for chosen in selections:
        assert chosen.threshold in known
        assert selected(chosen.threshold) >= chosen.share * len(values) - 1e-9
        stricter = [v for v in known if (v < chosen.threshold if upper else v > chosen.threshold)]
        assert len(stricter) < chosen.share * len(values)


@given(values_with_gaps, st.lists(st.floats(0, 120), max_size=3), st.booleans())
def test_threshold_grid_rises_over_the_range_and_has_every_limit(
    values: np.ndarray, limits: list[float], logarithmic: bool
) -> None:
    grid = threshold_grid(values, limits, logarithmic)
    assert set(limits) <= set(grid.tolist())
    assert np.all(np.diff(grid) >= 0)
    known = values[np.isfinite(values)].astype(np.float64)
    if len(known):
        low, high = np.percentile(known, [0.1, 99.9])
        assert grid.min() <= low * (1 + 1e-6)
        assert grid.max() >= high * (1 - 1e-6)
    else:
        assert grid.tolist() == sorted(limits)


@given(values_with_gaps, st.booleans())
def test_histogram_counts_every_value_between_its_edges_and_missing_values_separately(
    values: np.ndarray, logarithmic: bool
) -> None:
    shown = distribution(values, logarithmic)
    known = values[np.isfinite(values)].astype(np.float64)
    assert shown.unmeasured == len(values) - len(known)
    if not len(known):
        assert (shown.percentiles, shown.counts) == ({}, ())
        return
    within = (known >= shown.edges[0]) & (known <= shown.edges[-1])
    assert sum(shown.counts) == within.sum()
    assert within.mean() >= 0.998 - 2 / len(known)
    assert np.all(np.diff(shown.edges) > 0)
    assert shown.percentiles[50] == pytest.approx(np.median(known), rel=1e-6)


def simulate(tiles: int, workers: int, seconds: float, commit: float) -> float:
    """Give each tile to the first free worker; one process commits one tile after another."""
    free, committed = [0.0] * workers, 0.0
    for _ in range(tiles):
        worker = int(np.argmin(free))
        free[worker] += seconds
        committed = max(committed, free[worker]) + commit
    return committed


@pytest.mark.parametrize("workers", [1, 3, 16, 64, 300])
def test_wall_time_equals_that_of_a_simulated_build(workers: int) -> None:
    expected = simulate(1000, workers, seconds=15.0, commit=0.1)
    assert wall_time(workers, 1000, 15.0, 0.1) == pytest.approx(expected, rel=0.16)
