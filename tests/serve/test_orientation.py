"""Orientation of pictures: north up and east left for every WCS, the compass, and the resampling to exact north."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import Galactic, SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from reproject import reproject_interp

from archive_builder import Archive, Cutout, RequestError, Style
from archive_builder.serve.compass import SMALLEST, with_compass
from archive_builder.serve.orientation import SkyGrid
from archive_builder.serve.pictures import composite
from archive_builder.store.headers import TileHeaders

SCALE = 0.3 / 3600
"""Pixel scale, deg."""

GREY = Style(rgb="r")


def cd_matrix(angle: float, mirrored: bool, scale: float = SCALE) -> NDArray[np.float64]:
    """Return the CD matrix of an image turned by an angle, deg; at 0 deg north is up and east left."""
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return scale * np.array([[-cos, sin], [sin, cos]]) @ np.diag([-1.0 if mirrored else 1.0, 1.0])


def header(
    cd: NDArray[np.float64],
    centre: tuple[float, float],
    shape: tuple[int, int],
    origin: tuple[int, int] = (0, 0),
    *,
    swapped: bool = False,
    axes: tuple[str, str] = ("RA---TAN", "DEC--TAN"),
    **cards: object,
) -> fits.Header:
    """Return the header of a tile; the cutout at ``origin`` has its centre at ``centre``."""
    first, second = (2, 1) if swapped else (1, 2)
    values = {f"CTYPE{first}": axes[0], f"CTYPE{second}": axes[1]}
    values |= {f"CRVAL{first}": centre[0], f"CRVAL{second}": centre[1]}
    values |= {f"CRPIX{n + 1}": origin[n] + (shape[1 - n] + 1) / 2 for n in (0, 1)}
    values |= {f"CD{(first, second)[i]}_{j + 1}": cd[i, j] for i in (0, 1) for j in (0, 1)}
    return fits.Header(values | cards)


@pytest.fixture(scope="module")
def any_cutout(demo_archive: Path) -> Iterator[Cutout]:
    with Archive(demo_archive) as archive:
        yield archive.get(archive.ids()[0], size=4)


def made(
    base: Cutout, data: NDArray[np.float32], head: fits.Header, origin: tuple[int, int] = (0, 0), **more: object
) -> Cutout:
    """Return a cutout of these pixels, (bands, ny, nx), on a tile of this header, with noise 1."""
    bands = ("g", "r", "i")[: len(data)] if len(data) > 1 else ("r",)
    text = "\n".join(card.image for card in head.cards)
    return replace(
        base,
        data=data.astype(np.float32),
        bands=bands,
        rms=dict.fromkeys(bands, 1.0),
        origin=origin,
        headers=TileHeaders({"SCI": dict.fromkeys(bands, text)}),
        **{"planes": ("SCI",)} | more,
    )


def star_at(base: Cutout, head: fits.Header, shape: tuple[int, int], origin: tuple[int, int], sky: SkyCoord) -> Cutout:
    """Return a cutout of one star, placed by astropy."""
    x, y = WCS(head).world_to_pixel(sky)
    data = np.zeros((1, *shape))
    data[0, round(float(y)) - origin[1], round(float(x)) - origin[0]] = 1000
    return made(base, data, head, origin)


def brightest(picture: NDArray[np.uint8]) -> tuple[int, int]:
    row, column = np.unravel_index(picture.argmax(), picture.shape)
    return int(row), int(column)


POSITIONS = [(54.0, -28.0), (0.00001, 10.0), (359.99999, -60.0), (120.0, 89.99), (200.0, -89.99), (10.0, 0.0)]


def grid_of(wcs: WCS, shape: tuple[int, int]) -> SkyGrid:
    """Return the grid of a cutout that is the whole tile."""
    return SkyGrid.of(wcs, (0, 0), shape, "T", lambda: wcs)


@settings(max_examples=40, deadline=None)
@given(
    angle=st.one_of(st.floats(-180, 180), st.sampled_from([0.0, 44.9, 45.0, 90.0, -90.0, 180.0])),
    mirrored=st.booleans(),
    swapped=st.booleans(),
    centre=st.sampled_from(POSITIONS),
    origin=st.tuples(st.integers(-40, 5000), st.integers(-40, 5000)),
    scale=st.sampled_from([1e-3 / 3600, 0.3 / 3600, 30 / 3600]),
    frame=st.sampled_from(["icrs", "fk5", "galactic"]),
)
def test_star_north_of_the_centre_is_in_the_top_half_and_star_east_in_the_left_half(
    any_cutout: Cutout, angle, mirrored, swapped, centre, origin, scale, frame
) -> None:
    shape, middle = (41, 61), SkyCoord(*centre, unit="deg", frame="fk5" if frame == "fk5" else "icrs")
    axes, place, cards = ("RA---TAN", "DEC--TAN"), centre, {"RADESYS": frame.upper()}
    if frame == "galactic":
        of_galaxy = middle.transform_to(Galactic())
        axes, place, cards = ("GLON-TAN", "GLAT-TAN"), (of_galaxy.l.deg, of_galaxy.b.deg), {}
    head = header(cd_matrix(angle, mirrored, scale), place, shape, origin, swapped=swapped, axes=axes, **cards)
    for bearing, axis in ((0, 0), (90, 1)):
        sky = middle.directional_offset_by(bearing * u.deg, 15 * scale * u.deg)
        picture = star_at(any_cutout, head, shape, origin, sky).picture()
        assert sorted(picture.shape) == sorted(shape)
        place_found, size = brightest(picture)[axis], picture.shape[axis]
        assert place_found <= size // 2 - 10, (bearing, brightest(picture), picture.shape)  # 15 px cos 45 deg, rounded


def test_at_the_pole_itself_south_is_down(any_cutout: Cutout) -> None:
    for dec, row_of_pole in ((90.0, 10), (-90.0, 30)):
        for angle in (0, 90, 180, 270):
            head = header(cd_matrix(angle, False), (30.0, dec), (41, 41))
            ra = float(WCS(head).all_pix2world(20, 20, 0)[0])
            star = SkyCoord(ra, dec - np.sign(dec) * 10 * SCALE, unit="deg")
            row, column = brightest(star_at(any_cutout, head, (41, 41), (0, 0), star).picture(GREY))
            assert (row, column) == (40 - row_of_pole, 20)


EIGHT = [(quarters, is_flipped) for quarters in range(4) for is_flipped in (False, True)]


@pytest.mark.parametrize(("quarters", "is_flipped"), EIGHT)
@pytest.mark.parametrize("swapped", [False, True])
def test_all_eight_orientations_of_a_tile_give_the_same_picture_pixel_for_pixel(
    any_cutout: Cutout, quarters: int, is_flipped: bool, swapped: bool
) -> None:
    rng = np.random.default_rng(3)
    ny, nx = 30, 47
    data, color = rng.normal(0, 3, (3, ny, nx)), rng.integers(0, 256, (ny, nx, 3), dtype=np.uint8)
    y, x = np.mgrid[:ny, :nx]

    def turned(image: NDArray) -> NDArray:
        return np.rot90(image[:, ::-1] if is_flipped else image, quarters)

    old_x, old_y = turned(x), turned(y)
    steps = [[np.diff(old, axis=1)[0, 0], np.diff(old, axis=0)[0, 0]] for old in (old_x, old_y)]
    upright = made(any_cutout, data, header(cd_matrix(3, False), (54, -28), (ny, nx)))
    picture = np.ascontiguousarray(color[::-1])  # row 0 is the last row of the data
    upright = replace(upright, planes=("SCI", "COLOR"), read_plane=lambda plane: picture)
    other_data = np.stack([turned(image) for image in data])
    other_color = turned(color)[::-1]
    head = header(cd_matrix(3, False) @ np.array(steps), (54, -28), old_x.shape, swapped=swapped)
    other = made(any_cutout, other_data, head, planes=("SCI", "COLOR"), read_plane=lambda plane: other_color)
    for style in (Style(color="lupton"), Style(stretch=9.0, rgb="irg"), GREY):
        np.testing.assert_array_equal(other.picture(style), upright.picture(style))
    np.testing.assert_array_equal(other.picture(), picture)
    np.testing.assert_array_equal(upright.picture(), picture)


SIP = {"A_ORDER": 2, "A_2_0": 1e-4, "A_1_1": -2e-5, "B_ORDER": 2, "B_0_2": 2e-4}
"""Distortions of 0.2 px in the corners of an image of 60 px, and much larger ones far from the reference pixel."""


@pytest.mark.parametrize("angle", [0.0, 20.0, 75.0, -130.0])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("distortion", [{}, SIP], ids=["plain", "SIP"])
def test_rotation_to_north_equals_reproject_onto_a_tan_grid_of_the_same_centre_and_scale(
    any_cutout: Cutout, angle: float, mirrored: bool, distortion: dict[str, float]
) -> None:
    shape, origin = (40, 61), (-7, 300)
    axes = ("RA---TAN-SIP", "DEC--TAN-SIP") if distortion else ("RA---TAN", "DEC--TAN")
    cd, sky = cd_matrix(angle, mirrored), (359.9999, 60.0)
    head = header(cd, sky, shape, origin, axes=axes, RADESYS="ICRS", **distortion)
    data = np.random.default_rng(1).normal(0, 3, (3, *shape)).astype(np.float32)
    color = np.random.default_rng(2).integers(0, 256, (*shape, 3), dtype=np.uint8)
    cutout = made(any_cutout, data, head, origin, planes=("SCI", "COLOR"), read_plane=lambda plane: color[::-1])
    own = WCS(header(cd, sky, shape, axes=axes, RADESYS="ICRS", **distortion))
    is_turned = round(angle / 90) % 2 == 1
    ny, nx = shape[::-1] if is_turned else shape
    target = WCS(naxis=2)
    target.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    target.wcs.crval = own.all_pix2world((shape[1] - 1) / 2, (shape[0] - 1) / 2, 0)
    target.wcs.crpix = (nx + 1) / 2, (ny + 1) / 2
    scale = float(proj_plane_pixel_scales(own)[0])
    target.wcs.cdelt = -scale, scale
    expected = np.stack([reproject_interp((image, own), target, (ny, nx))[0] for image in data]).astype(np.float32)
    shown = cutout.picture(Style(color="lupton", rotate="north"))
    theirs = composite(expected[:, ::-1], cutout.bands, {}, cutout.rms)
    assert shown.shape == (ny, nx, 3)
    assert np.abs(shown.astype(int) - theirs).max() <= 1
    assert (shown[np.isnan(expected[0, ::-1])] == 0).all()
    channels = [reproject_interp((channel, own), target, (ny, nx))[0] for channel in np.moveaxis(color, -1, 0) * 1.0]
    colors = np.nan_to_num(np.stack(channels, axis=-1)[::-1])
    assert np.abs(cutout.picture(Style(rotate="north")) - colors).max() <= 0.51


def test_rotation_to_north_of_an_upright_tile_changes_nothing_beside_pixels_without_data(any_cutout: Cutout) -> None:
    data = np.random.default_rng(1).normal(0, 3, (3, 40, 61))
    data[:, 5:9, 5:9] = np.nan
    cutout = made(any_cutout, data, header(cd_matrix(0, False), (54, -28), (40, 61)))
    turned, resampled = (cutout.picture(Style(rotate=rotate)).astype(int) for rotate in ("quarter", "north"))
    assert np.abs(turned - resampled).max() <= 1
    assert (turned[31:35, 5:9] == 0).all()


@pytest.mark.parametrize("dec", [90.0, -90.0, 89.9999, -28.0])
def test_rotation_to_north_puts_north_exactly_up_at_the_poles_too(any_cutout: Cutout, dec: float) -> None:
    for angle in (0.0, 33.0, 200.0):
        head = header(cd_matrix(angle, False), (30.0, dec), (81, 81))
        grid = grid_of(WCS(head), (81, 81))
        target, _ = grid.north_up_grid()
        again = grid_of(target, (81, 81))
        east, north = again.steps * SCALE
        np.testing.assert_allclose((east, north), ((-1, 0), (0, 1)), atol=1e-4)
        centre = SkyCoord(*grid.centre, unit="deg")
        assert centre.separation(SkyCoord(*again.centre, unit="deg")).arcsec < 1e-6


@pytest.mark.parametrize("angle", [0.0, 12.0, 100.0, -170.0, 44.0])
@pytest.mark.parametrize("mirrored", [False, True])
def test_compass_points_as_astropy_says(any_cutout: Cutout, angle: float, mirrored: bool) -> None:
    shape, middle = (101, 141), SkyCoord(54.0, -28.0, unit="deg")
    head = header(cd_matrix(angle, mirrored), (54.0, -28.0), shape)
    grid = grid_of(WCS(head), shape)
    for bearing, direction in zip((90, 0), grid.directions("quarter"), strict=True):
        sky = middle.directional_offset_by(bearing * u.deg, 40 * SCALE * u.deg)
        picture = star_at(any_cutout, head, shape, (0, 0), sky).picture(GREY)
        (row, column), (ny, nx) = brightest(picture), picture.shape
        np.testing.assert_allclose(direction * 40, (column - (nx - 1) / 2, (ny - 1) / 2 - row), atol=0.75)
    np.testing.assert_array_equal(grid.directions("north"), [(-1, 0), (0, 1)])


@pytest.mark.parametrize("colors", [(), (3,)])
def test_compass_lies_in_the_lower_right_corner_and_its_arrows_meet_opposite_to_their_tips(
    colors: tuple[int, ...],
) -> None:
    left, right, up, down = (-1.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.0, -1.0)
    corners = {(left, up): (1, 1), (right, up): (1, 0), (left, down): (0, 1), (down, left): (0, 1), (up, left): (1, 1)}
    for directions, (low, far) in corners.items():
        black = np.zeros((300, 200, *colors), dtype=np.uint8)
        drawn = with_compass(black, np.array(directions))
        assert drawn.shape == black.shape
        assert not black.any()
        lit = (drawn if not colors else drawn[..., 0]) > 100
        rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
        assert rows[0] > 230
        assert columns[0] > 130
        assert max(300 - rows[-1], 200 - columns[-1]) < 20
        box = lit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        quarter = [[box[:8, :8], box[:8, -8:]], [box[-8:, :8], box[-8:, -8:]]]
        assert quarter[1 - low][1 - far].sum() == 0
        assert box.sum() > 60


def test_compass_changes_only_a_corner_and_needs_a_picture_large_enough(any_cutout: Cutout, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for side in (SMALLEST, 228):
        cutout = made(
            any_cutout, rng.normal(size=(3, side, side)), header(cd_matrix(30, True), (54, -28), (side, side))
        )
        plain, marked = (cutout.picture(Style(compass=compass)) for compass in (False, True))
        changed = np.argwhere((plain != marked).any(axis=-1))
        assert len(changed) > 30
        assert changed.min() > side * (0.0 if side == SMALLEST else 0.6)
        assert (marked[tuple(changed.T)].min(axis=-1) > 200).sum() > 10
    small = made(any_cutout, rng.normal(size=(3, 31, 50)), header(cd_matrix(0, False), (54, -28), (31, 50)))
    with pytest.raises(RequestError, match="a compass needs a picture of 32 px, not 50 x 31: give a larger size"):
        small.write(tmp_path / "c.png", compass=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "head",
    [
        header(np.ones((2, 2)) * SCALE, (54, -28), (9, 9)),
        header(np.array([[1.0, 1.0], [1.0, 1.0 + 1e-6]]) * SCALE, (54, -28), (9, 9)),
        header(cd_matrix(0, False), (54, -28), (9, 9), axes=("LINEAR", "LINEAR")),
        header(cd_matrix(0, False) * 40000, (54, -28), (9, 9), (300, 300), axes=("RA---AIT", "DEC--AIT"), CRPIX1=1),
    ],
    ids=["singular", "degenerate", "no sky", "off the projection"],
)
@pytest.mark.parametrize("rotate", ["quarter", "north"])
def test_wcs_without_a_direction_is_refused_in_one_line_that_names_the_tile(
    any_cutout: Cutout, head: fits.Header, rotate: str, tmp_path: Path
) -> None:
    origin = (300, 300) if "AIT" in head["CTYPE1"] else (0, 0)
    cutout = made(any_cutout, np.zeros((3, 9, 9)), head, origin)
    with pytest.raises(RequestError, match=rf"^tile {cutout.tile}: its WCS gives no north at pixel .*: correct the"):
        cutout.write(tmp_path / "c.png", rotate=rotate)
    assert list(tmp_path.iterdir()) == []
    assert cutout._repr_png_() is None


def test_files_of_pictures_are_turned_alike_and_arrays_are_not(any_cutout: Cutout, tmp_path: Path) -> None:
    shape = (20, 31)
    head = header(cd_matrix(90, False), (54.0, -28.0), shape)
    north = SkyCoord(54.0, -28.0, unit="deg").directional_offset_by(0 * u.deg, 8 * SCALE * u.deg)
    cutout = star_at(any_cutout, head, shape, (0, 0), north)
    for name in ("c.png", "c.jpg", "c.tiff"):
        cutout.write(tmp_path / name)
        with Image.open(tmp_path / name) as file:
            row, column = brightest(np.asarray(file))
            assert (file.size, file.mode) == ((20, 31), "L")
        assert abs(row - 7) <= 1
        assert abs(column - 10) <= 1
    for name in ("c.npy", "c.fits", "c.npz"):
        cutout.write(tmp_path / name)
        with pytest.raises(RequestError, match="never resampled: give rotate north with png, jpg, tiff only"):
            cutout.write(tmp_path / f"north_{name}", rotate="north")
        assert not (tmp_path / f"north_{name}").exists()
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), cutout.data)
