"""Cutouts and objects by position, compared with astropy's cuts and separations, also at RA 0 and at a pole."""

import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D, NoOverlapError
from astropy.table import Table, vstack
from astropy.wcs import WCS
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from archive_builder import (
    Archive,
    CutoutTooLargeError,
    ObjectNotFoundError,
    PositionOutsideError,
    RequestError,
)
from archive_builder.builder.driver import build
from archive_builder.errors import ArchiveError
from archive_builder.serve.cutout import Cutout

SHAPE = HEIGHT, WIDTH = 300, 400
"""Height and width of the tiles, px."""

PIXEL_SCALE = 0.5
"""Pixel scale of the tiles, arcsec."""

SIZE = 90
"""Side of the archived cutouts, px."""

CHUNK = 128
"""Side of a chunk of a mosaic, px."""

CENTRES = {"WRAP-A": (359.99, 10.0), "WRAP-B": (0.02, 10.01), "POLE": (120.0, 89.99)}
"""RA and Dec of the tiles' reference points: two tiles overlap at RA 0, and one contains the pole."""

RECIPE = """\
[survey]
name = "Odd places"
root = "{root}"
bands = ["a", "b"]
image = "{{tile}}_{{band}}.fits"
zero_point = 30.0

[catalog]
path = "{{tile}}_{catalog}.csv"
object_id = "id"
ra = "ra"
dec = "dec"

[cutout]
size = {size}

[storage]
layout = "{layout}"
quantization = "lossless"
"""


def tile_wcs(name: str) -> WCS:
    """Return a tile's WCS: a tangent plane turned by 25 degrees, with its reference point off the tile's centre."""
    wcs = WCS(naxis=2)
    turn, step = np.radians(25.0), PIXEL_SCALE / 3600
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = CENTRES[name]
    wcs.wcs.crpix = [190.3, 160.8]
    wcs.wcs.cd = step * np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return wcs


def write_catalog(path: Path, first_id: int, x: NDArray, y: NDArray, wcs: WCS) -> None:
    ra, dec = wcs.all_pix2world(x, y, 0)
    Table({"id": first_id + np.arange(len(x)), "ra": ra, "dec": dec}).write(path)


@dataclass(frozen=True, repr=False)
class Places:
    """Archives of the same three tiles: a mosaic of many objects, a mosaic of few, and stamps."""

    dense: Archive
    sparse: Archive
    stamps: Archive
    images: dict[str, NDArray]
    """Image of each tile, (bands, ny, nx)."""
    wcs: dict[str, WCS]
    """WCS of each tile, read by astropy from the files."""
    catalog: Table
    """Objects of the dense archive, with their tile and pixel position."""
    written: dict[str, NDArray]
    """Chunks of the sparse archive that a cutout touches."""


def make_tiles(folder: Path) -> dict[str, NDArray]:
    """Write three tiles of noise, each with a full catalogue and a catalogue of two objects."""
    images = {}
    for number, name in enumerate(CENTRES):
        rng = np.random.default_rng(number)
        wcs = tile_wcs(name)
        images[name] = rng.normal(0, 1, (2, *SHAPE)).astype(np.float32)
        images[name][:, 40:60, 100:150] = np.nan
        for band, image in zip("ab", images[name], strict=True):
            fits.PrimaryHDU(image, wcs.to_header()).writeto(folder / f"{name}_{band}.fits")
        x, y = rng.uniform(-0.5, WIDTH - 0.5, 80), rng.uniform(-0.5, HEIGHT - 0.5, 80)
        x[:30], y[:30] = (axis.ravel() for axis in np.meshgrid(np.linspace(9, 390, 6), np.linspace(9, 290, 5)))
        x[70:], y[75:] = x[70:] + WIDTH, y[75:] + HEIGHT  # off the tile: a catalogue may have such objects
        write_catalog(folder / f"{name}_dense.csv", 1000 * number, x, y, wcs)
        write_catalog(
            folder / f"{name}_sparse.csv", 1000 * number, np.array([30.0, 250.0]), np.array([200.0, 128.0]), wcs
        )
    return images


def opened(folder: Path, name: str, catalog: str, size: int, layout: str) -> Archive:
    """Build an archive of the tiles."""
    recipe = folder / f"{name}.toml"
    recipe.write_text(RECIPE.format(root=folder / "tiles", catalog=catalog, size=size, layout=layout))
    report = build(recipe, folder / name)
    assert (report.built, report.failures) == (3, {})
    return Archive(folder / name)


def touched_chunks(wcs: WCS, catalog: Path, size: int) -> NDArray:
    """Return the chunks that the cutouts of a catalogue touch, found pixel by pixel."""
    objects, touched = Table.read(catalog), np.zeros(SHAPE, dtype=bool)
    for x, y in np.rint(wcs.all_world2pix(objects["ra"], objects["dec"], 0)).astype(int).T:
        low, left = max(0, y - size // 2), max(0, x - size // 2)
        touched[low : y - size // 2 + size, left : x - size // 2 + size] = True
    rows, columns = -(-HEIGHT // CHUNK), -(-WIDTH // CHUNK)
    padded = np.pad(touched, ((0, rows * CHUNK - HEIGHT), (0, columns * CHUNK - WIDTH)))
    return padded.reshape(rows, CHUNK, columns, CHUNK).any(axis=(1, 3))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    folder = tmp_path_factory.mktemp("positions")
    (folder / "tiles").mkdir()
    images = make_tiles(folder / "tiles")
    wcs = {name: WCS(fits.getheader(folder / "tiles" / f"{name}_a.fits")) for name in CENTRES}
    tables = []
    for name in CENTRES:
        tables.append(Table.read(folder / "tiles" / f"{name}_dense.csv"))
        tables[-1]["tile"] = name
        tables[-1]["x"], tables[-1]["y"] = wcs[name].all_world2pix(tables[-1]["ra"], tables[-1]["dec"], 0)
    made = Places(
        opened(folder, "dense", "dense", SIZE, "mosaic"),
        opened(folder, "sparse", "sparse", 20, "mosaic"),
        opened(folder, "stamps", "dense", SIZE, "stamps"),
        images,
        wcs,
        vstack(tables),
        {name: touched_chunks(wcs[name], folder / "tiles" / f"{name}_sparse.csv", 20) for name in CENTRES},
    )
    yield made
    for archive in (made.dense, made.sparse, made.stamps):
        archive.close()


def depths(places: Places, ra: float, dec: float) -> dict[str, float]:
    """Return the distance of a position from each tile's edge, px; negative outside."""
    found = {}
    for name, wcs in places.wcs.items():
        x, y = wcs.wcs_world2pix(ra, dec, 0)
        near = SkyCoord(ra, dec, unit="deg").separation(SkyCoord(*CENTRES[name], unit="deg")) < 1 * u.deg
        found[name] = min(x + 0.5, WIDTH - 0.5 - x, y + 0.5, HEIGHT - 0.5 - y) if near else -np.inf
    return found


def assert_is_the_tiles(cutout: Cutout, places: Places, x: float, y: float, shape: tuple[int, int]) -> None:
    """Assert that a cutout equals astropy's around the nearest pixel, bit for bit."""
    assert cutout.data.shape == (2, *shape)
    for image, data in zip(places.images[cutout.tile], cutout.data, strict=True):
        theirs = Cutout2D(image, (round(x), round(y)), shape, mode="partial", fill_value=np.nan)
        np.testing.assert_array_equal(data, theirs.data)


on_tile = st.tuples(st.sampled_from(list(CENTRES)), st.floats(-0.45, WIDTH - 0.55), st.floats(-0.45, HEIGHT - 0.55))
sides = st.one_of(st.integers(1, 60), st.integers(1, WIDTH))


def away_from_halves(*coordinates: float) -> bool:
    """Return True if no coordinate is so near the edge of a pixel that rounding errors matter."""
    return all(abs(value % 1 - 0.5) > 1e-6 for value in coordinates)


@settings(max_examples=150)
@given(place=on_tile, ny=sides, nx=sides)
def test_cutout_at_a_position_is_cutout2d_of_the_tile_where_it_lies_deepest_inside(
    places: Places, place: tuple[str, float, float], ny: int, nx: int
) -> None:
    name, x, y = place
    ra, dec = (float(value) for value in places.wcs[name].all_pix2world(x, y, 0))
    depth = depths(places, ra, dec)
    ranked = sorted(depth.values())
    assume(ranked[-1] - ranked[-2] > 1e-3)
    cutout = places.dense.at((ra, dec), size=(ny, nx))
    assert cutout.tile == max(depth, key=lambda tile: depth[tile])
    x, y = (float(value) for value in places.wcs[cutout.tile].all_world2pix(ra, dec, 0))
    assume(away_from_halves(x, y))
    assert_is_the_tiles(cutout, places, x, y, (ny, nx))
    assert (cutout.object_id, cutout.ra, cutout.dec) == (None, ra % 360, dec)
    on_cutout = np.array(cutout.wcs.world_to_pixel(cutout.coord))
    assert np.abs(on_cutout - (nx // 2, ny // 2)).max() <= 0.5 + 1e-5
    assert places.dense.reader.tile_name(int(places.dense.reader.tiles_at(ra, dec)[0])) == cutout.tile


def test_tiles_overlap_at_ra_0_and_the_pole_is_on_its_tile(places: Places) -> None:
    """The positions of the previous test include RA 0 and the pole."""
    depth = depths(places, 0.005, 10.005)
    assert min(depth["WRAP-A"], depth["WRAP-B"]) > 0
    assert depths(places, 0.0, 90.0)["POLE"] > 0
    assert places.dense.at((77.0, 90.0), size=3).tile == "POLE"
    for ra in (0.0, 360.0, -360.0, 720.0, 1e-12, -1e-12, 359.9999999999999):
        assert places.dense.at((ra, 10.005), size=3).tile in ("WRAP-A", "WRAP-B")


@pytest.mark.parametrize("name", CENTRES)
@pytest.mark.parametrize("off", [-0.02, 0.02])
def test_position_just_outside_a_tile_is_not_on_it_and_just_inside_is_found(
    places: Places, name: str, off: float
) -> None:
    along = np.linspace(-0.4, 0.4, 9)
    x = np.concatenate([along * WIDTH + WIDTH / 2] * 2 + [np.full(9, -0.5 - off), np.full(9, WIDTH - 0.5 + off)])
    y = np.concatenate([np.full(9, -0.5 - off), np.full(9, HEIGHT - 0.5 + off)] + [along * HEIGHT + HEIGHT / 2] * 2)
    lonely = 0
    for ra, dec in np.column_stack(places.wcs[name].all_pix2world(x, y, 0)):
        inside = [tile for tile, depth in depths(places, ra, dec).items() if depth > 0]
        lonely += not inside
        if inside:
            assert places.dense.at((ra, dec), size=1).tile in inside
        else:
            with pytest.raises(PositionOutsideError, match=r"lies on no tile") as caught:
                places.dense.at((ra, dec), size=1)
            assert "\n" not in str(caught.value)
            assert places.dense.reader.tiles_at(ra, dec).tolist() == [-1]
    assert (lonely > 0) == (off > 0)


def test_tile_with_a_wrong_footprint_in_the_index_serves_no_position(demo_archive: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(demo_archive, tmp_path / "archive"))
    with closing(sqlite3.connect(place / "index.sqlite")) as db, db:
        db.execute("UPDATE tiles SET footprint = '[[9, 9], [11, 9], [11, 11], [9, 11]]' WHERE tile_id = 1")
    with Archive(place) as archive, pytest.raises(ArchiveError, match="elsewhere on the sky than its shard: reindex"):
        archive.at((10.0, 10.0), size=1)


@pytest.mark.parametrize("frame", ["icrs", "galactic", "fk5", "barycentrictrueecliptic"])
def test_position_can_be_a_skycoord_of_any_frame(places: Places, frame: str) -> None:
    position = SkyCoord(0.003, 10.004, unit="deg").transform_to(frame)
    cutout, plain = places.dense.at(position, size=11), places.dense.at((0.003, 10.004), size=11)
    np.testing.assert_array_equal(cutout.data, plain.data)
    assert cutout.coord.separation(position) < 1e-6 * u.arcsec


@pytest.mark.parametrize(
    "position",
    [(1.0,), (1.0, 2.0, 3.0), "here", None, (np.nan, 0.0), (0.0, np.inf), (0.0, 90.1), ("a", "b"), 5, (None, 1.0)],
)
def test_invalid_position_is_refused_in_one_line(places: Places, position: object) -> None:
    for ask in (places.dense.at, places.dense.nearest, lambda p: places.dense.cone_search(p, "1 arcsec")):
        with pytest.raises(RequestError) as caught:
            ask(position)  # type: ignore[operator]
        assert "\n" not in str(caught.value)


# ---- cutouts larger than the stored pixels


def window_is_written(places: Places, tile: str, x: float, y: float, shape: tuple[int, int]) -> bool:
    """Return True if the sparse archive has all pixels of a window on the tile."""
    kept = np.kron(places.written[tile], np.ones((CHUNK, CHUNK), dtype=np.uint8))[:HEIGHT, :WIDTH]
    try:
        return bool(Cutout2D(kept, (round(x), round(y)), shape, mode="partial", fill_value=1).data.all())
    except NoOverlapError:
        return True


@settings(max_examples=150)
@given(place=on_tile, ny=sides, nx=sides)
def test_cutout_of_missing_pixels_is_refused_and_the_error_names_the_largest_size(
    places: Places, place: tuple[str, float, float], ny: int, nx: int
) -> None:
    name, x, y = place
    assume(away_from_halves(x, y))
    ra, dec = (float(value) for value in places.wcs[name].all_pix2world(x, y, 0))
    depth = depths(places, ra, dec)
    assume(depth[name] == max(depth.values()))
    if window_is_written(places, name, x, y, (ny, nx)):
        assert_is_the_tiles(places.sparse.at((ra, dec), size=(ny, nx)), places, x, y, (ny, nx))
        return
    with pytest.raises(CutoutTooLargeError) as caught:
        places.sparse.at((ra, dec), size=(ny, nx))
    assert "\n" not in str(caught.value)
    assert_largest_is_right(places, str(caught.value), (ra, dec), (name, x, y))


def assert_largest_is_right(
    places: Places, message: str, position: tuple[float, float], place: tuple[str, float, float]
) -> None:
    """Compare the largest size in an error with the archive's pixels."""
    name, x, y = place
    named = re.search(r"ask for at most (\d+) px", message)
    if named is None:
        assert "no cutout reaches that far" in message
        assert not window_is_written(places, name, x, y, (1, 1))
        return
    largest = int(named[1])
    assert_is_the_tiles(places.sparse.at(position, size=largest), places, x, y, (largest, largest))
    assert not window_is_written(places, name, x, y, (largest + 1, largest + 1))
    with pytest.raises(CutoutTooLargeError):
        places.sparse.at(position, size=largest + 1)


def test_cutout_larger_than_the_tile_is_refused_and_the_error_names_the_tiles_size(places: Places) -> None:
    position = tuple(float(value) for value in places.wcs["POLE"].all_pix2world(100, 100, 0))
    with pytest.raises(CutoutTooLargeError, match=r"ask for at most 400 px"):
        places.dense.at(position, size=WIDTH + 1)
    assert_is_the_tiles(places.dense.at(position, size=WIDTH), places, 100, 100, (WIDTH, WIDTH))


@settings(max_examples=60)
@given(number=st.integers(0, 1000), ny=st.integers(1, WIDTH), nx=st.integers(1, WIDTH))
def test_mosaic_serves_an_object_at_any_size_equal_to_cutout2d_of_the_tile(
    places: Places, number: int, ny: int, nx: int
) -> None:
    row = stored(places.catalog)[number % len(stored(places.catalog))]
    cutout = places.dense.get(int(row["id"]), size=(ny, nx))
    assert cutout.tile == row["tile"]
    assert_is_the_tiles(cutout, places, row["x"], row["y"], (ny, nx))


def stored(catalog: Table) -> Table:
    """Return the objects with their nearest pixel on their tile."""
    x, y = catalog["x"], catalog["y"]
    return catalog[(x > -0.5) & (x < WIDTH - 0.5) & (y > -0.5) & (y < HEIGHT - 0.5)]


def test_stamps_refuse_positions_and_larger_sizes(places: Places) -> None:
    object_id = int(stored(places.catalog)["id"][0])
    with pytest.raises(RequestError, match=r"cannot cut elsewhere: ask for the nearest object, or build a mosaic"):
        places.stamps.at((0.003, 10.004), size=3)
    for size in (SIZE + 1, (1, SIZE + 1), "2 arcmin"):
        with pytest.raises(CutoutTooLargeError, match=rf"ask for at most {SIZE} px"):
            places.stamps.get(object_id, size=size)
    np.testing.assert_array_equal(
        places.stamps.get(object_id, size=SIZE).data, places.dense.get(object_id, size=SIZE).data
    )


# ---- objects around a position


def brute_force(places: Places, ra: float, dec: float) -> tuple[NDArray, NDArray]:
    """Return the separation in arcsec of every object on or just off its tile, and these objects."""
    separation = SkyCoord(ra, dec, unit="deg").separation(
        SkyCoord(places.catalog["ra"], places.catalog["dec"], unit="deg")
    )
    return separation.arcsec, np.asarray(places.catalog["id"])


@settings(max_examples=80)
@given(
    place=on_tile,
    off=st.tuples(st.floats(-0.05, 0.05), st.floats(-0.05, 0.0)),
    radius=st.one_of(st.floats(0, 400), st.sampled_from([0.0, 3600.0, 180 * 3600.0])),
    layout=st.sampled_from(["dense", "stamps"]),
)
def test_cone_search_agrees_with_astropys_separations_and_sorts_by_distance(
    places: Places, place: tuple[str, float, float], off: tuple[float, float], radius: float, layout: str
) -> None:
    name, x, y = place
    ra, dec = (float(value) for value in places.wcs[name].all_pix2world(x, y, 0))
    ra, dec = ra + off[0], dec + off[1]
    on = set(stored(places.catalog)["id"].tolist())
    separation, ids = brute_force(places, ra, dec)
    wanted = {int(i): s for i, s in zip(ids, separation, strict=True) if s <= radius and i in on}
    assume(np.abs(separation - radius).min() > 1e-6)
    found = getattr(places, layout).cone_search((ra, dec), radius * u.arcsec)
    assert found["separation"].unit == u.arcsec
    assert (np.diff(found["separation"]) >= 0).all()
    inside = found[found["status"] == "stored"]
    assert {int(i) for i in inside["object_id"]} == set(wanted)
    np.testing.assert_allclose(inside["separation"], [wanted[int(i)] for i in inside["object_id"]], atol=1e-6)
    by_id = {int(row["id"]): row for row in places.catalog}
    for row in found:
        source = by_id[int(row["object_id"])]
        assert (row["ra"], row["dec"], row["tile"]) == (source["ra"], source["dec"], source["tile"])
        assert row["status"] == ("stored" if int(row["object_id"]) in on else "outside")


def test_cone_search_of_the_whole_sky_finds_every_object_once(places: Places) -> None:
    for radius in ("180 deg", 180 * u.deg, np.pi * u.rad):
        found = places.dense.cone_search((200.0, -45.0), radius)
        assert sorted(found["object_id"].tolist()) == sorted(places.catalog["id"].tolist())


def test_empty_cone_search_has_the_same_columns(places: Places) -> None:
    nothing, something = (places.dense.cone_search((ra, 10.0), "1 arcmin") for ra in (200.0, 0.0))
    assert (len(nothing), len(something) > 0) == (0, True)
    assert nothing.colnames == something.colnames == ["object_id", "ra", "dec", "tile", "status", "separation"]
    for name in ("object_id", "ra", "dec", "separation"):
        assert nothing[name].dtype == something[name].dtype


@settings(max_examples=60)
@given(place=on_tile)
def test_nearest_agrees_with_astropys_separations(places: Places, place: tuple[str, float, float]) -> None:
    name, x, y = place
    ra, dec = (float(value) for value in places.wcs[name].all_pix2world(x, y, 0))
    separation, ids = brute_force(places, ra, dec)
    first, second = np.sort(separation)[:2]
    assume(second - first > 1e-6)
    closest = int(ids[separation.argmin()])
    where = places.dense.nearest((ra, dec), radius=(first + 1e-4) * u.arcsec)
    assert where.object_id == closest
    assert where == places.dense.locate(closest)
    if first > 1e-3:
        with pytest.raises(ObjectNotFoundError, match=r"within .* of RA") as caught:
            places.dense.nearest((ra, dec), radius=(first - 1e-4) * u.arcsec)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("radius", ["wide", "1 kg", -1 * u.arcsec, "181 deg", np.nan * u.deg, 5, [1, 2] * u.deg, None])
def test_invalid_radius_is_refused_in_one_line(places: Places, radius: object) -> None:
    for ask in (places.dense.nearest, places.dense.cone_search):
        with pytest.raises(RequestError, match="radius") as caught:
            ask((0.0, 10.0), radius)
        assert "\n" not in str(caught.value)
