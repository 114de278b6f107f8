"""The tile at a position, compared with the tiles' own WCS anywhere on the sky, and on DES's real tiles."""

import os
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from archive_builder.geometry import unit_vectors
from archive_builder.serve.sky import Footprints, separation

DATA = Path(os.environ.get("ARCHIVE_BUILDER_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
"""Folder of DES's table of tiles."""

STEPS = 100
"""Points on each edge of a tile, for the brute-force distances."""

DES_SIDE = 10_000 * 0.263 / 3600
"""Side of a DES tile, deg. The tile is a tangent plane that touches the sky at its centre."""


def tile(ra: float, dec: float, width: float, height: float, turn: float, mirrored: bool) -> WCS:
    """Return the WCS of a tile of 100 x 100 px around a position; all values in deg."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [50.5, 50.5]
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    wcs.wcs.cd = np.array([[-cos, sin], [sin, cos]]) @ np.diag([width / 100, height / 100 * (-1 if mirrored else 1)])
    return wcs


def corners(wcs: WCS) -> NDArray[np.float64]:
    return np.column_stack(wcs.all_pix2world([-0.5, 99.5, 99.5, -0.5], [-0.5, -0.5, 99.5, 99.5], 0))


def inside(wcs: WCS, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of positions from a tile's edge by its WCS, px; negative outside, -inf on the far side."""
    near = SkyCoord(ra, dec, unit="deg").separation(SkyCoord(*wcs.wcs.crval, unit="deg")) < 60 * u.deg
    x, y = wcs.wcs_world2pix(np.where(near, ra, wcs.wcs.crval[0]), np.where(near, dec, wcs.wcs.crval[1]), 0)
    return np.where(near, np.min([x + 0.5, 99.5 - x, y + 0.5, 99.5 - y], axis=0), -np.inf)


def from_the_edge(wcs: WCS, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance from positions to the nearest of many points on a tile's edge, deg."""
    along, low, high = np.linspace(-0.5, 99.5, STEPS), np.full(STEPS, -0.5), np.full(STEPS, 99.5)
    x, y = np.concatenate([along, along, low, high]), np.concatenate([low, high, along, along])
    edge = SkyCoord(*wcs.all_pix2world(x, y, 0), unit="deg")
    return SkyCoord(ra, dec, unit="deg")[:, None].separation(edge[None]).deg.min(axis=1)


right_ascensions = st.one_of(st.floats(0, 360), st.floats(-1, 1).map(lambda ra: ra % 360))
declinations = st.one_of(st.floats(-89.9, 89.9), st.floats(88, 90), st.floats(-90, -88))
lengths = st.one_of(st.floats(0.02, 1), st.floats(1, 12))
tiles = st.builds(tile, right_ascensions, declinations, lengths, lengths, st.floats(0, 360), st.booleans())
clusters = st.tuples(right_ascensions, declinations, st.integers(1, 5), st.integers(0, 2**32 - 1))


def cluster(ra: float, dec: float, count: int, seed: int) -> list[WCS]:
    """Return overlapping tiles around a position."""
    rng = np.random.default_rng(seed)
    centres = SkyCoord(ra, dec, unit="deg").directional_offset_by(
        rng.uniform(0, 360, count) * u.deg, rng.uniform(0, 1.5, count) * u.deg
    )
    return [
        tile(float(c.ra.deg), float(c.dec.deg), *rng.uniform(0.3, 2.5, 2), rng.uniform(0, 360), bool(rng.integers(2)))
        for c in centres
    ]


def some_positions(chosen: list[WCS], seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return positions on and around each tile, and a few anywhere."""
    rng = np.random.default_rng(seed)
    places = [wcs.all_pix2world(*rng.uniform(-30, 130, (2, 30)), 0) for wcs in chosen]
    ra = np.concatenate([*(p[0] for p in places), rng.uniform(0, 360, 10), [0.0, 0.0, 123.0]])
    dec = np.concatenate([*(p[1] for p in places), np.degrees(np.arcsin(rng.uniform(-1, 1, 10))), [90.0, -90.0, 90.0]])
    return ra, dec


@settings(max_examples=120)
@given(
    chosen=st.one_of(st.lists(tiles, min_size=1, max_size=5), clusters.map(lambda c: cluster(*c))),
    seed=st.integers(0, 2**32 - 1),
    order=st.sampled_from([np.s_[:], np.s_[::-1]]),
)
def test_position_is_found_on_the_tile_where_it_lies_deepest_inside(chosen: list[WCS], seed: int, order: slice) -> None:
    ra, dec = some_positions(chosen, seed)
    footprints = Footprints(np.array([np.roll(corners(wcs)[order], seed % 4, axis=0) for wcs in chosen]))
    found = footprints.find(ra, dec)
    depth = np.array([inside(wcs, ra, dec) for wcs in chosen])
    clear = (np.abs(depth) > 1e-6).all(axis=0)
    np.testing.assert_array_equal(found[clear] >= 0, (depth > 0).any(axis=0)[clear])
    on = clear & (found >= 0)
    assert (depth[found[on], np.flatnonzero(on)] > 0).all()
    distance = np.where(depth > 0, [from_the_edge(wcs, ra, dec) for wcs in chosen], 0)
    # The nearest edge point is at most half a spacing away from the foot of the perpendicular.
    spacing = max(np.linalg.norm(wcs.wcs.cd, axis=0).max() for wcs in chosen) * 100 / (STEPS - 1)
    best = distance[found[on], np.flatnonzero(on)]
    assert (best >= distance.max(axis=0)[on] - spacing).all()


@settings(max_examples=120)
@given(
    chosen=st.one_of(st.lists(tiles, min_size=1, max_size=5), clusters.map(lambda c: cluster(*c))),
    place=st.tuples(right_ascensions, declinations),
    radius=st.one_of(st.floats(0, 3), st.floats(0, 180)),
    seed=st.integers(0, 1000),
)
def test_every_tile_that_reaches_into_a_circle_is_found(
    chosen: list[WCS], place: tuple[float, float], radius: float, seed: int
) -> None:
    ra, dec = some_positions(chosen, seed)
    footprints = Footprints(np.array([corners(wcs) for wcs in chosen]))
    x, y = (axis.ravel() for axis in np.meshgrid(np.linspace(-0.5, 99.5, 15), np.linspace(-0.5, 99.5, 15)))
    for around in (place, (float(ra[seed % len(ra)]), float(dec[seed % len(dec)]))):
        centre, near = SkyCoord(*around, unit="deg"), footprints.near(*around, radius)
        for number, wcs in enumerate(chosen):
            reach = SkyCoord(*wcs.all_pix2world(x, y, 0), unit="deg").separation(centre).deg
            assert number in near or reach.min() > radius - 1e-9
            # A tile is left out if its circumscribed circle does not touch the search circle.
            middle = SkyCoord(*wcs.wcs.crval, unit="deg")
            size = SkyCoord(corners(wcs), unit="deg").separation(middle).deg.max()
            assert number not in near or middle.separation(centre).deg <= radius + size + 1e-6


@pytest.mark.parametrize("dec", [90.0, -90.0, 89.8, -89.75])
def test_pole_is_found_on_its_tile_at_any_right_ascension(dec: float) -> None:
    footprints = Footprints(corners(tile(77.0, dec, 1.0, 1.0, 10.0, False))[None])
    ra = np.linspace(-360, 720, 37)
    assert (footprints.find(ra, np.full(37, np.copysign(90.0, dec))) == 0).all()
    assert (footprints.find(ra, np.full(37, np.copysign(89.0, dec))) == -1).all()


def test_right_ascension_wraps_at_0_and_360() -> None:
    footprints = Footprints(corners(tile(0.1, -30.0, 0.6, 0.6, 0.0, False))[None])
    for ra in (0.0, -0.1, 0.3, 359.9, 360.1, 720.0, -360.0, -1e-14, 360 - 1e-13):
        assert footprints.find(ra, -30.0).tolist() == [0]
        assert footprints.near(ra, -30.0, 0.0).tolist() == [0]
    assert footprints.find(180.1, -30.0).tolist() == [-1]
    assert footprints.find(180.1, 30.0).tolist() == [-1]


def test_invalid_position_lies_on_no_tile() -> None:
    footprints = Footprints(corners(tile(0.0, 0.0, 2.0, 2.0, 0.0, False))[None])
    ra = [0.0, np.nan, 0.0, np.inf, 0.0, -np.inf, 0.0]
    dec = [0.0, 0.0, np.nan, 0.0, 90.5, 0.0, -np.inf]
    assert footprints.find(ra, dec).tolist() == [0, -1, -1, -1, -1, -1, -1]
    assert footprints.find([], []).tolist() == []


def test_no_tile_is_found_among_no_tiles() -> None:
    nothing = Footprints(np.empty((0, 4, 2)))
    assert nothing.find([0.0, 10.0], [0.0, 90.0]).tolist() == [-1, -1]
    assert nothing.near(0.0, 0.0, 180.0).tolist() == []


@given(
    one=st.tuples(st.floats(0, 360), st.floats(-90, 90)),
    other=st.tuples(st.floats(0, 360), st.floats(-90, 90)),
    close=st.floats(0, 1e-6),
)
def test_separation_equals_astropys_for_large_and_small_angles(
    one: tuple[float, float], other: tuple[float, float], close: float
) -> None:
    for second in (other, (one[0], np.clip(one[1] + close, -90, 90))):
        ours = separation(unit_vectors(*one), unit_vectors(*second))
        theirs = SkyCoord(*one, unit="deg").separation(SkyCoord(*second, unit="deg")).deg
        # Near 180 deg the chord hardly changes with the angle.
        assert ours == pytest.approx(theirs, abs=1e-6 if theirs > 179 else 1e-11)


# ---- DES


@pytest.fixture(scope="module")
def des_centres() -> NDArray[np.float64]:
    """RA and Dec of the centres of DES's 10,000 tiles, deg."""
    path = DATA / "des_dr2_tiles.csv"
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    table = Table.read(path, format="ascii.csv", delimiter=";")
    low, high = np.asarray(table["rall"]), np.asarray(table["raur"])
    ra = low + ((high - low) % 360) / 2
    return np.column_stack([ra % 360, (table["decll"] + table["decur"]) / 2])


def gnomonic(
    centres: NDArray[np.float64], ra: NDArray[np.float64], dec: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return tangent-plane coordinates in deg of positions (N,) around centres (tiles, 2), NaN on the far side."""
    a0, d0 = np.radians(centres.T)[:, :, None]
    a, d = np.radians(ra), np.radians(dec)
    cos = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(a - a0)
    cos = np.where(cos > 0.5, cos, np.nan)
    xi = np.cos(d) * np.sin(a - a0) / cos
    eta = (np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(a - a0)) / cos
    return np.degrees(xi), np.degrees(eta)


def off_centre(xi: NDArray[np.float64], eta: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return RA and Dec (N, 2) of tangent-plane coordinates in deg, each around its own centre."""
    x, y = np.radians(xi), np.radians(eta)
    a0, d0 = np.radians(centres.T)
    ra = a0 + np.arctan2(x, np.cos(d0) - y * np.sin(d0))
    dec = np.arctan2((np.sin(d0) + y * np.cos(d0)) * np.cos(ra - a0), np.cos(d0) - y * np.sin(d0))
    return np.degrees(np.column_stack([ra % (2 * np.pi), dec]))


@pytest.fixture(scope="module")
def des(des_centres: NDArray[np.float64]) -> Footprints:
    half = DES_SIDE / 2
    sides = [(half, -half), (-half, -half), (-half, half), (half, half)]
    edges = [off_centre(np.full(len(des_centres), x), np.full(len(des_centres), y), des_centres) for x, y in sides]
    return Footprints(np.stack(edges, axis=1))


def test_centre_of_every_des_tile_is_found_on_that_tile(des: Footprints, des_centres: NDArray[np.float64]) -> None:
    assert len(des_centres) > 10_000
    np.testing.assert_array_equal(des.find(*des_centres.T), np.arange(len(des_centres)))


def test_position_in_des_is_found_on_the_tile_where_it_lies_deepest_inside(
    des: Footprints, des_centres: NDArray[np.float64]
) -> None:
    rng = np.random.default_rng(0)
    own = rng.integers(0, len(des_centres), 600)
    ra, dec = off_centre(*rng.uniform(-0.7, 0.7, (2, 600)) * DES_SIDE, des_centres[own]).T
    found = des.find(ra, dec)
    several = 0
    for part in np.array_split(np.arange(600), 6):
        xi, eta = gnomonic(des_centres, ra[part], dec[part])
        depth = np.nan_to_num(DES_SIDE / 2 - np.maximum(np.abs(xi), np.abs(eta)), nan=-1)
        best = np.where(depth.max(axis=0) > 0, depth.argmax(axis=0), -1)
        ranked = np.sort(depth, axis=0)
        clear = (ranked[-1] - ranked[-2] > 1e-7) & (np.abs(ranked[-1]) > 1e-9)
        np.testing.assert_array_equal(found[part][clear], best[clear])
        several += int((ranked[-2] > 0).sum())
    assert several > 30
    assert 0 < (found < 0).sum() < 300


def test_every_des_tile_with_a_possible_object_in_the_circle_is_found(
    des: Footprints, des_centres: NDArray[np.float64]
) -> None:
    rng = np.random.default_rng(1)
    own = rng.integers(0, len(des_centres), 500)
    objects = off_centre(*rng.uniform(-0.5, 0.5, (2, 500)) * DES_SIDE, des_centres[own])
    positions = SkyCoord(objects, unit="deg").directional_offset_by(
        rng.uniform(0, 360, 500) * u.deg, (radius := 10.0 ** rng.uniform(-4, 1, 500)) * u.deg
    )
    for number, ra, dec, reach in zip(own, positions.ra.deg, positions.dec.deg, radius, strict=True):
        near = des.near(float(ra), float(dec), float(reach) * (1 + 1e-9))
        assert number in near
        assert len(near) < len(des_centres) / 3
