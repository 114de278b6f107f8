"""Skipped objects and the reasons for skipping them."""

import numpy as np
import pytest

from archive_builder.measure.quality import Status, Thresholds, judge

BANDS = ("r", "i")


def verdict(rms: list[float], blank: float = 0.0, **thresholds: object) -> Status:
    limits = Thresholds(dict.fromkeys(BANDS, 30.0), **thresholds)  # type: ignore[arg-type]
    status = judge(np.array([rms], np.float32), np.array([blank]), BANDS, 0.263, limits)
    return Status(status[0])


@pytest.mark.parametrize(("rms", "expected"), [(2.9, Status.STORED), (3.0, Status.STORED), (3.1, Status.NOISE)])
def test_object_with_noise_above_the_limit_is_skipped(rms: float, expected: Status) -> None:
    assert verdict([rms, 1e9], max_background_rms={"r": 3.0}) is expected


@pytest.mark.parametrize(("rms", "expected"), [(4.5, Status.STORED), (4.7, Status.NOISE)])
def test_object_with_too_little_depth_is_skipped_for_noise(rms: float, expected: Status) -> None:
    # RMS 4.6 in 43.2 px at zero point 30 is a depth of 24.552.
    assert verdict([1.0, rms], min_depth={"i": 24.552}) is expected


@pytest.mark.parametrize("threshold", [{"max_background_rms": {"r": 3.0}}, {"min_depth": {"r": 20.0}}])
def test_object_with_unmeasured_noise_fails_every_noise_threshold(threshold: dict[str, dict[str, float]]) -> None:
    assert verdict([np.nan, 1.0], **threshold) is Status.NOISE


def test_every_object_passes_without_thresholds() -> None:
    assert verdict([np.nan, np.nan], blank=1.0) is Status.STORED


@pytest.mark.parametrize(("blank", "expected"), [(0.5, Status.STORED), (0.51, Status.BLANK)])
def test_object_with_too_many_blank_pixels_is_skipped(blank: float, expected: Status) -> None:
    assert verdict([1.0, 1.0], blank=blank, max_blank_fraction=0.5) is expected


def test_blank_is_the_reason_if_both_thresholds_fail() -> None:
    assert verdict([np.nan, 1.0], blank=0.9, max_blank_fraction=0.5, max_background_rms={"r": 3.0}) is Status.BLANK
