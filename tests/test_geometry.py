"""The rule of the cut, compared with astropy's cutouts."""

import numpy as np
import pytest
from astropy import units as u
from astropy.nddata import Cutout2D
from astropy.wcs import WCS
from hypothesis import given
from hypothesis import strategies as st

from archive_builder import RequestError, geometry

SCALE = 0.263
positions = st.floats(-50, 150, allow_nan=False)
sides = st.integers(1, 40)


@given(x=positions, y=positions, ny=sides, nx=sides)
def test_window_equals_cutout2ds_around_the_nearest_pixel(x: float, y: float, ny: int, nx: int) -> None:
    image = np.arange(100.0 * 101).reshape(100, 101)
    x0, y0 = geometry.window_origin(x, y, (ny, nx))
    padded = np.pad(image, 300, constant_values=np.nan)
    ours = padded[y0 + 300 : y0 + 300 + ny, x0 + 300 : x0 + 300 + nx]
    if not np.isfinite(ours).any():
        return  # Cutout2D refuses a window that misses the image
    theirs = Cutout2D(image, (round(x), round(y)), (ny, nx), mode="partial", fill_value=np.nan)
    np.testing.assert_array_equal(ours, theirs.data)


@given(x=positions, y=positions, archived=st.tuples(sides, sides), data=st.data())
def test_recrop_equals_direct_cut_of_the_tile(
    x: float, y: float, archived: tuple[int, int], data: st.DataObject
) -> None:
    shape = tuple(data.draw(st.integers(1, side)) for side in archived)
    large_x, large_y = geometry.window_origin(x, y, archived)
    small_x, small_y = geometry.window_origin(x, y, shape)  # type: ignore[arg-type]
    dy, dx = geometry.recrop_offset(archived, shape)  # type: ignore[arg-type]
    assert (small_x, small_y) == (large_x + dx, large_y + dy)
    assert dy >= 0
    assert dy + shape[0] <= archived[0]
    assert dx >= 0
    assert dx + shape[1] <= archived[1]


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        (64, (64, 64)),
        ("64", (64, 64)),
        ("64px", (64, 64)),
        (np.int64(7), (7, 7)),
        ("1 arcmin", (228, 228)),
        ("0.5arcmin", (114, 114)),
        (30 * u.arcsec, (114, 114)),
        (5 * u.pix, (5, 5)),
        ((10, "1arcmin"), (10, 228)),
        ([3, 4], (3, 4)),
    ],
)
def test_size_is_converted_to_pixels(size: geometry.Size, shape: geometry.Shape) -> None:
    assert geometry.parse_shape(size, SCALE) == shape


@pytest.mark.parametrize(
    "size",
    [
        0,
        -3,
        2.5,
        "big",
        "1 kg",
        "",
        float("nan"),
        float("inf"),
        (1, 2, 3),
        "0.01arcsec",
        None,
        [5] * 3,
        True + 0.5,
    ],
)
def test_invalid_size_is_refused_in_one_line(size: geometry.Size) -> None:
    with pytest.raises(RequestError) as caught:
        geometry.parse_shape(size, SCALE)
    assert "\n" not in str(caught.value)
    assert "size" in str(caught.value)


def tan(ra: float, dec: float, n: int = 1000) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(n + 1) / 2] * 2
    wcs.wcs.cdelt = [-SCALE / 3600, SCALE / 3600]
    return wcs


@pytest.mark.parametrize(("ra", "dec"), [(54, -28), (0.0, 10), (359.99, -89.95), (12, 90)])
def test_positions_on_the_image_are_found_anywhere_on_the_sky(ra: float, dec: float) -> None:
    wcs, shape = tan(ra, dec), (1000, 1000)
    x, y = np.random.default_rng(0).uniform(-0.5, 999.5, (2, 200))
    sky = wcs.all_pix2world(x, y, 0)
    found_x, found_y = geometry.sky_to_pixel(wcs, shape, *sky)
    np.testing.assert_allclose([found_x, found_y], [x, y], atol=1e-6)


def test_the_far_side_of_the_sky_is_not_on_the_image() -> None:
    wcs = tan(54, -28)
    # Without a check, the antipode of the tangent point would project onto the tangent point.
    x, y = geometry.sky_to_pixel(wcs, (1000, 1000), np.array([234.0, 3.6, 54.0]), np.array([28.0, -28.0, 62.0]))
    assert np.isnan(x).all()
    assert np.isnan(y).all()


def test_pixel_scale_is_in_arcsec() -> None:
    assert geometry.pixel_scale(tan(54, -28)) == pytest.approx(SCALE, rel=1e-9)


@given(shift=st.floats(-5, 5))
def test_wcs_offset_is_the_shift_between_two_wcs_in_pixels(shift: float) -> None:
    moved = tan(54, -28)
    moved.wcs.crpix = [500.5 + shift, 500.5]
    assert geometry.wcs_offset(tan(54, -28), moved, (1000, 1000)) == pytest.approx(abs(shift), abs=1e-6)
