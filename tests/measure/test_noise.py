"""Background RMS and depth, compared with SExtractor's library and known values."""

import numpy as np
import pytest
import sep
from hypothesis import given, settings
from hypothesis import strategies as st

from archive_builder.measure.noise import NoiseMesh, cell_rms, depth, median_filter, sample_rows

MESH = 64


def sky(shape: tuple[int, int], rms: float = 3.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(10.0, rms, shape).astype(np.float32)


def measured(image: np.ndarray, x: np.ndarray, y: np.ndarray, strip: int = 1000) -> np.ndarray:
    mesh = NoiseMesh(1, image.shape, MESH)
    for y0 in range(0, image.shape[0], strip):
        mesh.add(image[None, y0 : y0 + strip])
    return mesh.at(x, y)[:, 0]


def test_rms_at_objects_agrees_with_sextractors_interpolated_map() -> None:
    shape = (700, 900)
    image = sky(shape) * np.linspace(1, 2, shape[1], dtype=np.float32)
    x, y = (np.random.default_rng(1).uniform(0, n - 1, 500) for n in shape[::-1])
    theirs = sep.Background(image, bw=MESH, bh=MESH).rms()[y.astype(int), x.astype(int)]
    ratio = measured(image, x, y) / theirs
    # Beyond the centres of the outermost cells SExtractor's spline extrapolates; ours is constant.
    between = (x > MESH / 2) & (x < 864) & (y > MESH / 2) & (y < 660)
    np.testing.assert_allclose(ratio[between], 1, atol=0.04)
    np.testing.assert_allclose(ratio, 1, atol=0.12)
    assert np.median(ratio) == pytest.approx(1, abs=0.005)


def test_cells_equal_sextractors_to_the_last_digit() -> None:
    image = sky((MESH, 5 * MESH))
    theirs = [sep.Background(image[:, x : x + MESH].copy(), bw=MESH, bh=MESH).globalrms for x in range(0, 320, MESH)]
    np.testing.assert_array_equal(cell_rms(image, MESH), np.array(theirs, dtype=np.float32))


@settings(max_examples=25)
@given(strips=st.lists(st.integers(1, 200), min_size=1, max_size=12))
def test_rms_does_not_depend_on_the_number_of_rows_read_at_once(strips: list[int]) -> None:
    image = sky((400, 150))
    x, y = (np.random.default_rng(2).uniform(0, n - 1, 60) for n in (150, 400))
    whole = NoiseMesh(1, image.shape, MESH)
    whole.add(image[None])
    mesh, read = NoiseMesh(1, image.shape, MESH), 0
    for rows in [*strips, 400]:
        mesh.add(image[None, read : read + rows])
        read = min(read + rows, 400)
        known = y < mesh.known_below
        np.testing.assert_array_equal(mesh.at(x[known], y[known]), whole.at(x[known], y[known]))
        if read == 400:
            break
    assert mesh.known_below == 400


def test_pixels_without_data_do_not_change_the_rms() -> None:
    image = sky((400, 400))
    holed = image.copy()
    holed[:, 100:120] = np.nan
    x, y = np.array([110.0, 300.0]), np.array([200.0, 200.0])
    np.testing.assert_allclose(measured(holed, x, y), measured(image, x, y), rtol=0.03)


def test_rms_is_unknown_in_a_hole_and_known_beside_it() -> None:
    image = sky((640, 640))
    image[:, :320] = np.nan
    rms = measured(image, np.array([30.0, 330.0, 600.0]), np.array([300.0, 300.0, 300.0]))
    assert np.isnan(rms[0])
    np.testing.assert_allclose(rms[1:], 3.0, rtol=0.05)


@pytest.mark.parametrize("value", [0.0, 7.5, np.nan])
def test_image_without_noise_has_no_rms(value: float) -> None:
    assert np.isnan(cell_rms(np.full((MESH, 200), value, dtype=np.float32), MESH)).all()


def test_stars_do_not_raise_the_noise() -> None:
    image = sky((640, 640))
    image[::50, ::50] = 60_000
    rms = measured(image, np.full(9, 320.0), np.linspace(10, 630, 9))
    np.testing.assert_allclose(rms, 3.0, rtol=0.05)


def test_median_filter_equals_numpys_nanmedian_of_the_neighbours() -> None:
    cells = np.random.default_rng(3).normal(size=(6, 7)).astype(np.float32)
    cells[2:5, 3:6] = np.nan
    cells[3, 4] = 1.0
    expected = np.array(
        [[np.nanmedian(cells[max(j - 1, 0) : j + 2, max(i - 1, 0) : i + 2]) for i in range(7)] for j in range(6)]
    )
    np.testing.assert_allclose(median_filter(cells), expected, rtol=1e-6)
    assert np.isnan(median_filter(np.full((3, 3), np.nan, np.float32))).all()


def test_depth_of_des_follows_from_its_noise() -> None:
    # 5 sigma in 43.2 pixels: 5 * 4.6 * 6.57 counts at zero point 30.
    assert depth(np.array([4.6]), 30.0, 0.263)[0] == pytest.approx(30 - 2.5 * np.log10(151.1), abs=0.001)


@given(height=st.integers(1, 20_000), mesh=st.integers(16, 1024))
def test_sample_lies_on_the_tile_and_consists_of_whole_rows_of_cells(height: int, mesh: int) -> None:
    rows = sample_rows(height, mesh)
    assert 1 <= len(rows) <= 5
    for y0, y1 in rows:
        assert y0 % mesh == 0
        assert y0 < y1 <= height
        assert y1 == min(y0 + mesh, height)
