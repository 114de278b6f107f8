"""Automatic stretch: the same picture in every unit, a dark sky, faint sources seen, bright sources not burnt out."""

import numpy as np
import pytest
from numpy.typing import NDArray

from archive_builder import RequestError, Style
from archive_builder.serve.pictures import GALAXY, composite
from archive_builder.serve.stretch import SKY_LEVEL, sky_and_noise

BANDS = ("g", "r", "i")
NOISE = {"g": 2.0, "r": 3.0, "i": 5.0}
UNKNOWN = dict.fromkeys(BANDS, float("nan"))
NO_ZERO_POINT = dict.fromkeys(BANDS, None)


def field(peak: float = 500.0, seed: int = 1, side: int = 120) -> NDArray[np.float32]:
    """Return noise with a source of ``peak`` noises in the middle, and a faint broad one of 3 noises."""
    y, x = np.mgrid[:side, :side]
    bright = peak * np.exp(-((x - side // 2) ** 2 + (y - side // 2) ** 2) / 18)
    faint = 3 * (np.hypot(x - 20, y - 20) < 6)
    noise = np.random.default_rng(seed).normal(size=(3, side, side))
    return ((noise + bright + faint) * np.array(list(NOISE.values()))[:, None, None]).astype(np.float32)


def show(data: NDArray[np.float32], rms: dict[str, float] = NOISE, **style: object) -> NDArray[np.int64]:
    return composite(data, BANDS, NO_ZERO_POINT, rms, Style(**style)).astype(np.int64)  # type: ignore[arg-type]


@pytest.mark.parametrize("peak", [5.0, 50.0, 500.0, 1e5])
@pytest.mark.parametrize("rms", [NOISE, UNKNOWN])
def test_sky_is_dark_grey_a_faint_source_is_seen_and_a_bright_one_is_not_burnt_out(
    peak: float, rms: dict[str, float]
) -> None:
    shown = show(field(peak), rms)
    sky, faint = np.median(shown[90:, 90:], axis=(0, 1)), shown[17:24, 17:24].mean(axis=(0, 1))
    np.testing.assert_allclose(sky, 255 * SKY_LEVEL, atol=5)
    assert np.ptp(sky) <= 4
    assert (faint > sky + 15).all()
    middle = shown[60, 60]
    assert (middle > (250 if peak > 400 else sky + 25)).all()
    assert (shown == 255).mean() < 0.001
    assert (shown[60, 60] > shown[60, 66]).all()


@pytest.mark.parametrize("factor", [1e-12, 1e-5, 1e5, 1e12])
@pytest.mark.parametrize("rms", [NOISE, UNKNOWN])
def test_picture_does_not_depend_on_the_unit(factor: float, rms: dict[str, float]) -> None:
    scaled = {band: value * factor for band, value in rms.items()}
    assert np.abs(show(field() * np.float32(factor), scaled) - show(field(), rms)).max() <= 1


@pytest.mark.parametrize("offset", [-1000.0, -3.0, 400.0])
def test_picture_does_not_depend_on_a_level_below_all_pixels(offset: float) -> None:
    assert np.abs(show(field() + np.float32(offset)) - show(field())).max() <= 1


def test_each_band_is_balanced_by_its_own_noise() -> None:
    shown = show(field() * np.array([1, 1000, 1e-6], dtype=np.float32)[:, None, None], UNKNOWN)
    np.testing.assert_allclose(shown.mean(axis=(0, 1)), shown.mean(), rtol=0.06)
    assert np.ptp(shown[60, 60]) < 10


@pytest.mark.parametrize("rms", [NOISE, UNKNOWN])
def test_pixels_without_data_are_black_and_a_blank_band_does_not_spoil_the_others(rms: dict[str, float]) -> None:
    data = field()
    data[:, :40, :30] = np.nan
    data[0, 50, 50] = np.inf
    shown = show(data, rms)
    assert (shown[:40, :30] == 0).all()
    assert shown[50, 50, 2] == 0  # blue is g
    data[0] = np.nan
    blank = show(data, rms)
    assert (blank[..., 2] == 0).all()
    np.testing.assert_array_equal(blank[..., :2], shown[..., :2])
    assert (show(np.full_like(data, np.nan), rms) == 0).all()


@pytest.mark.parametrize("value", [0.0, -7.5, 1e30, 1e-30])
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (9, 9)])
@pytest.mark.parametrize("rms", [NOISE, UNKNOWN])
def test_constant_image_is_the_sky(value: float, shape: tuple[int, int], rms: dict[str, float]) -> None:
    shown = show(np.full((3, *shape), value, dtype=np.float32), rms)
    assert shown.shape == (*shape, 3)
    assert (np.abs(shown - 255 * SKY_LEVEL) <= 1).all()


def test_two_values_give_two_greys() -> None:
    data = np.zeros((3, 20, 20), dtype=np.float32)
    data[:, 5, 5] = 4
    shown = show(data, UNKNOWN)
    assert (shown[5, 5] > 100).all()
    assert np.median(shown) == pytest.approx(255 * SKY_LEVEL, abs=5)


def test_few_pixels_with_data_between_the_pixels_of_the_sample_are_used() -> None:
    data = np.full((400, 400), np.nan, dtype=np.float32)
    data[7, 7] = 5.0
    assert sky_and_noise(data, float("nan")) == (5.0, 1.0)


@pytest.mark.parametrize(("rms", "most"), [(1.0, 8.0), (float("nan"), 200.0)])
def test_galaxy_that_fills_the_window_does_not_lift_the_sky(rms: float, most: float) -> None:
    y, x = np.mgrid[:200, :200]
    galaxy = 1000 * np.exp(-np.hypot(x - 100, y - 100) / 20)  # 0.8 noises in the corners, 27 at the edges' middles
    image = (galaxy + np.random.default_rng(1).normal(size=(200, 200)) - 30).astype(np.float32)
    sky, noise = sky_and_noise(image, rms)
    assert abs(sky + 30) < most
    assert noise == 1.0 or 1 <= noise < 40
    shown = show(np.stack([image] * 3), dict.fromkeys(BANDS, rms))
    assert shown[0, 0].max() < shown[100, 60].min() < shown[100, 98].min()
    assert shown[100, 98].min() > 200


def test_sky_and_noise_of_gaussian_noise_with_sources_are_those_of_the_noise() -> None:
    image = np.random.default_rng(5).normal(-40, 3, (228, 228)).astype(np.float32)
    image[:60, :60] += 500
    for rms in (3.0, float("nan"), 0.0, -1.0, float("inf")):
        sky, noise = sky_and_noise(image, rms)
        assert sky == pytest.approx(-40, abs=0.3)
        assert noise == pytest.approx(3, rel=0.1)


def test_softening_and_minimum_apply_to_the_automatic_stretch() -> None:
    data, zero_points = field(), {"g": 30.0, "r": 27.5, "i": 25.0}
    flat = show(data, softening=0.0)
    assert flat[60, 60].min() > 250
    assert flat[17:24, 17:24].max() < show(data)[17:24, 17:24].mean()  # linear: faint sources are dark
    assert show(data, softening=1e3)[17:24, 17:24].mean() > show(data)[17:24, 17:24].mean()
    low, high = (
        composite(data, BANDS, zero_points, NOISE, Style(minimum=minimum)).astype(int) for minimum in (-50.0, 50.0)
    )
    assert low.mean() > high.mean()
    for channel, (band, zero_point) in enumerate(reversed(zero_points.items())):
        flux = data[BANDS.index(band)] * GALAXY[band] * 10 ** (0.4 * (30 - zero_point))
        assert (high[..., channel][flux < 50] == 0).all()
        assert (high[..., channel][flux > 200] > 0).all()


@pytest.mark.parametrize("style", [{"stretch": 60.0}, {"minimum": -5.0}])
def test_flux_needs_the_zero_point_of_each_band(style: dict[str, float]) -> None:
    data = field()
    with pytest.raises(RequestError, match=r"^band i has no zero point, .*: leave both out"):
        show(data, **style)
    known = composite(data, BANDS, dict.fromkeys(BANDS, 30.0), NOISE, Style(**style))  # type: ignore[arg-type]
    scaled = data * np.array([1, 10, 100], dtype=np.float32)[:, None, None]
    each = {"g": 30.0, "r": 32.5, "i": 35.0}
    rms = {"g": 2.0, "r": 30.0, "i": 500.0}
    other = composite(scaled, BANDS, each, rms, Style(**style))  # type: ignore[arg-type]
    assert np.abs(known.astype(int) - other).max() <= 1
