"""Celestial frames of a WCS, compared with astropy's coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from astropy.coordinates import FK4, FK5, SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st

from archive_builder.errors import TileError
from archive_builder.geometry import footprint, pixel_scale, pixel_to_sky, sky_to_pixel, wcs_offset
from archive_builder.survey.fits_warnings import quiet_astropy

SHAPE = (150, 200)
SCALE = 1e-3

FRAMES: dict[str, tuple[tuple[str, str], dict[str, Any], Any]] = {
    "ICRS by default": (("RA---TAN", "DEC--TAN"), {}, "icrs"),
    "FK5 J2000 is taken as ICRS": (("RA---TAN", "DEC--TAN"), {"EQUINOX": 2000.0}, "icrs"),
    "FK5 J1975": (("RA---TAN", "DEC--TAN"), {"RADESYS": "FK5", "EQUINOX": 1975.0}, FK5(equinox="J1975")),
    "FK4 by its equinox": (("RA---TAN", "DEC--TAN"), {"EQUINOX": 1950.0}, FK4(equinox="B1950")),
    "FK4 by the old EPOCH": (("RA---SIN", "DEC--SIN"), {"EPOCH": 1950.0}, FK4(equinox="B1950")),
    "FK4 by the old RADECSYS": (("RA---TAN", "DEC--TAN"), {"RADECSYS": "FK4"}, FK4(equinox="B1950")),
    "FK4 without E-terms": (("RA---TAN", "DEC--TAN"), {"RADESYS": "FK4-NO-E"}, "fk4noeterms"),
    "galactic": (("GLON-TAN", "GLAT-TAN"), {}, "galactic"),
    "galactic with an equatorial RADESYS": (("GLON-CAR", "GLAT-CAR"), {"RADESYS": "FK5"}, "galactic"),
    "ecliptic": (("ELON-TAN", "ELAT-TAN"), {}, "barycentricmeanecliptic"),
    "supergalactic": (("SLON-TAN", "SLAT-TAN"), {}, "supergalactic"),
}


def wcs_of(
    types: tuple[str, str], cards: dict[str, Any], swap: bool = False, at: tuple[float, float] = (150, 20)
) -> WCS:
    """Return a WCS of a frame around a position; with ``swap`` the latitude is the first axis."""
    order = (1, 0) if swap else (0, 1)
    lon, lat = (at[0], 0.0 if "CAR" in types[0] else at[1])
    header = fits.Header({"NAXIS": 2, "NAXIS1": SHAPE[1], "NAXIS2": SHAPE[0]})
    for axis, world in enumerate(order, start=1):
        header[f"CTYPE{axis}"], header[f"CRVAL{axis}"] = types[world], (lon, lat)[world]
        header[f"CRPIX{axis}"], header[f"CDELT{axis}"] = 90.0, (-SCALE, SCALE)[axis - 1]
    header.update(cards)
    with quiet_astropy():
        return WCS(header)


@pytest.mark.parametrize("swap", [False, True], ids=["longitude first", "latitude first"])
@pytest.mark.parametrize("name", FRAMES)
@settings(max_examples=20)
@given(x=st.floats(0, SHAPE[1] - 1), y=st.floats(0, SHAPE[0] - 1))
def test_pixels_of_an_icrs_position_are_those_of_astropys_frame(name: str, swap: bool, x: float, y: float) -> None:
    types, cards, frame = FRAMES[name]
    wcs = wcs_of(types, cards, swap)
    native = wcs.all_pix2world(x, y, 0)[:: -1 if swap else 1]
    sky = SkyCoord(*native, unit="deg", frame=frame).icrs
    found = sky_to_pixel(wcs, SHAPE, np.array([sky.ra.deg]), np.array([sky.dec.deg]))
    np.testing.assert_allclose(np.ravel(found), (x, y), atol=1e-6)
    ra, dec = pixel_to_sky(wcs, x, y)
    assert sky.separation(SkyCoord(ra, dec, unit="deg")).arcsec < 1e-6


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("name", FRAMES)
def test_footprint_is_icrs_and_scale_is_the_frames(name: str, swap: bool) -> None:
    types, cards, frame = FRAMES[name]
    wcs = wcs_of(types, cards, swap)
    corners = np.array([(-0.5, -0.5), (199.5, -0.5), (199.5, 149.5), (-0.5, 149.5)])
    native = wcs.all_pix2world(corners, 0)[:, :: -1 if swap else 1]
    expected = SkyCoord(*native.T, unit="deg", frame=frame).icrs
    found = SkyCoord(*footprint(wcs, SHAPE).T, unit="deg")
    assert expected.separation(found).arcsec.max() < 1e-6
    assert pixel_scale(wcs) == pytest.approx(SCALE * 3600)
    assert wcs_offset(wcs, wcs, SHAPE) < 1e-6


@pytest.mark.parametrize(
    ("types", "cards"),
    [
        (("RA---TAN", "DEC--TAN"), {"RADESYS": "GAPPT"}),
        (("TLON-TAN", "TLAT-TAN"), {}),
        (("HPLN-TAN", "HPLT-TAN"), {}),
        (("ELON-TAN", "ELAT-TAN"), {"RADESYS": "FK4"}),
    ],
)
def test_frame_that_cannot_be_converted_is_named(types: tuple[str, str], cards: dict[str, Any]) -> None:
    with pytest.raises(TileError, match=rf"its WCS is in the frame {types[0][:2]}\w* \S+, which cannot be converted"):
        footprint(wcs_of(types, cards), SHAPE)


def test_map_with_its_corners_off_the_sky_has_its_centre_as_footprint() -> None:
    wcs = wcs_of(("RA---AIT", "DEC--AIT"), {"CRVAL2": 0.0, "CDELT1": -2.0, "CDELT2": 2.0})
    ra, dec = wcs.all_pix2world(99.5, 74.5, 0)
    np.testing.assert_allclose(footprint(wcs, SHAPE), [(ra, dec)] * 4)
    x, y = sky_to_pixel(wcs, SHAPE, np.array([150.0, 120.0, np.nan]), np.array([0.0, 40.0, 0.0]))
    expected = wcs.all_world2pix([150.0, 120.0], [0.0, 40.0], 0)
    np.testing.assert_allclose((x[:2], y[:2]), expected)
    assert np.isnan([x[2], y[2]]).all()
