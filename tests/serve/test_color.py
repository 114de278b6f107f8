"""Colour: the survey's own picture with north up, and Lupton's composite in the right colours."""

import io
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.visualization import make_lupton_rgb
from astropy.wcs import WCS
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from archive_builder import Archive, RequestError
from archive_builder.builder.driver import build
from archive_builder.builder.one_tile import TileJob, run_job
from archive_builder.errors import TileError
from archive_builder.serve import pictures
from archive_builder.serve.cutout import Cutout
from archive_builder.serve.pictures import GALAXY
from archive_builder.serve.style import Style
from archive_builder.store.color import write_color
from archive_builder.store.contents import Contents
from archive_builder.store.shard_reader import Shard
from archive_builder.survey.color_image import Picture
from archive_builder.survey.demo import make_survey
from archive_builder.survey.discovery import discover
from archive_builder.survey.recipe import load_recipe

SIDE = 400
"""Side of the tile, px: slightly more than three JPEG squares."""

SKY = 20
"""Grey level of the artificial picture's background."""

COLORS = {"low left": (250, 30, 30), "low right": (30, 250, 30), "top left": (40, 40, 250), "top right": (240, 240, 30)}
"""Colour of the single square in each quarter of the tile."""

TOLERANCE = 40
"""Greatest change in the middle of a single-colour square after two JPEG compressions, grey levels."""


def edit(recipe: Path, **values: str) -> Path:
    """Change keys of a recipe, with values in TOML syntax; an empty value removes the key. Return the path."""
    text = recipe.read_text()
    for key, value in values.items():
        text, n = re.subn(rf"(?m)^{key}\s*=.*\n", f"{key} = {value}\n" if value else "", text)
        assert n == 1, key
    recipe.write_text(text)
    return recipe


def quarter(x: float, y: float) -> str:
    """Return the quarter of the tile with a pixel, named by the FITS axes."""
    return f"{'low' if y < SIDE / 2 else 'top'} {'left' if x < SIDE / 2 else 'right'}"


def pixel_positions(folder: Path) -> dict[int, tuple[int, int]]:
    """Return the nearest pixel x, y of each catalogued object, from astropy."""
    objects = Table.read(next(folder.glob("*_cat.fits")))
    wcs = WCS(fits.getheader(next(folder.glob("*_i.fits.fz")), "SCI"))
    x, y = wcs.all_world2pix(objects["ALPHAWIN_J2000"], objects["DELTAWIN_J2000"], 0)
    places = np.rint(np.column_stack([x, y])).astype(int).tolist()
    return {int(i): (px, py) for i, (px, py) in zip(objects["COADD_OBJECT_ID"], places, strict=True)}


def choose(places: dict[int, tuple[int, int]]) -> dict[str, int]:
    """Return an object with room for a square in each quarter."""
    roomy = {i: (x, y) for i, (x, y) in places.items() if 3 < x < SIDE - 4 and 3 < y < SIDE - 4}
    return {quarter(x, y): i for i, (x, y) in sorted(roomy.items())}


def picture_of_squares(places: dict[int, tuple[int, int]], chosen: dict[str, int]) -> NDArray[np.uint8]:
    """Paint a tile with a square of 5 px on each chosen object; the first row is the sky's top."""
    image = np.full((SIDE, SIDE, 3), SKY, dtype=np.uint8)
    for name, object_id in chosen.items():
        x, y = places[object_id]
        row = SIDE - 1 - y
        image[row - 2 : row + 3, x - 2 : x + 3] = COLORS[name]
    return image


class Squares:
    """An archive of one tile; its colour picture has a square on one object of each quarter."""

    def __init__(self, folder: Path, compression: str, layout: str) -> None:
        recipe = make_survey(folder / "survey", tiles=1, tile_size=SIDE, objects=80, seed=5)
        text = re.sub(r"(?m)^(max_background_rms|min_depth|max_blank_fraction) .*\n", "", recipe.read_text())
        recipe.write_text(text)
        edit(recipe, layout=f'"{layout}"', size="60")
        (tile,) = (folder / "survey").glob("DEM*")
        self.places = pixel_positions(tile)
        self.chosen = choose(self.places)
        self.image = picture_of_squares(self.places, self.chosen)
        options = {"quality": 95, "subsampling": 0} if compression == "jpeg" else {}
        Image.fromarray(self.image).save(next(tile.glob("*.tiff")), compression=compression, **options)
        report = build(recipe, folder / "archive")
        assert (report.stored, report.failures) == (80, {})
        self.archive = Archive(folder / "archive")

    def expected(self, cutout: Cutout) -> NDArray[np.int64]:
        """Cut the artificial picture, black off the tile."""
        x0, y0 = cutout.origin
        ny, nx = cutout.shape
        padded = np.pad(self.image[::-1].astype(np.int64), ((SIDE, SIDE), (SIDE, SIDE), (0, 0)))
        return padded[y0 + SIDE : y0 + SIDE + ny, x0 + SIDE : x0 + SIDE + nx][::-1]


@pytest.fixture(scope="module", params=["jpeg mosaic", "tiff_lzw stamps"])
def squares(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Squares]:
    made = Squares(tmp_path_factory.mktemp("color"), *request.param.split())
    assert len(made.chosen) == 4
    yield made
    made.archive.close()


@pytest.mark.parametrize("size", [None, 31, (21, 48)])
@pytest.mark.parametrize("ending", [None, "png", "tiff", "lzw"])
def test_square_is_on_its_object_in_a_picture_with_north_up(
    squares: Squares, tmp_path: Path, size: int | tuple[int, int] | None, ending: str | None
) -> None:
    for name, object_id in squares.chosen.items():
        cutout = squares.archive.get(object_id, size=size)
        if ending is None:
            shown = cutout.color
        else:
            path = tmp_path / f"{object_id}.{ending.replace('lzw', 'tiff')}"
            cutout.write(path, compression="lzw" if ending == "lzw" else "jpeg")
            with Image.open(path) as file:
                shown = np.asarray(file)
        ny, nx = cutout.shape
        assert (shown.shape, shown.dtype) == ((ny, nx, 3), np.uint8)
        x, y = squares.places[object_id]
        row, column = ny - 1 - (y - cutout.origin[1]), x - cutout.origin[0]
        assert abs(row - ny / 2) <= 1
        middle = shown[row - 1 : row + 2, column - 1 : column + 2].astype(int)
        assert np.abs(middle - COLORS[name]).max() <= TOLERANCE
        brightness = shown.astype(int).max(axis=-1)
        lit = np.argwhere(brightness > 130)
        near = lit[np.abs(lit - (row, column)).max(axis=1) <= 6]
        np.testing.assert_allclose(near.mean(axis=0), (row, column), atol=0.5)
        assert len(near) == pytest.approx(25, abs=8)


def test_picture_of_a_cutout_is_the_tiles_within_jpegs_error_and_black_off_the_tile(squares: Squares) -> None:
    hanging, squares_crossed = 0, set()
    for object_id in squares.places:
        cutout = squares.archive.get(object_id)
        expected = squares.expected(cutout)
        off = (expected == 0).all(axis=-1)
        assert (cutout.color[off] == 0).all()
        assert (cutout.color[~off] > 0).any(axis=-1).all()
        assert np.abs(cutout.color - expected).mean() < 3
        hanging += bool(off.any())
        squares_crossed.add(tuple((n + 60) // 128 - n // 128 for n in cutout.origin))
    assert hanging > 5
    assert squares_crossed >= {(0, 0), (1, 0), (0, 1), (1, 1)}


def test_smaller_picture_is_the_middle_of_the_larger_pixel_for_pixel(squares: Squares) -> None:
    for object_id in squares.chosen.values():
        whole, part = squares.archive.get(object_id), squares.archive.get(object_id, size=(17, 22))
        ny = whole.shape[0]
        row = ny - (part.origin[1] - whole.origin[1]) - 17
        column = part.origin[0] - whole.origin[0]
        np.testing.assert_array_equal(part.color, whole.color[row : row + 17, column : column + 22])


def test_picture_and_composite_have_the_same_orientation(demo_archive: Path) -> None:
    with Archive(demo_archive) as archive:
        table = archive.cone_search((54.0, -28.0), "1 deg")
        some = table["object_id"][table["status"] == "stored"][:10]
        assert len(some) == 10
        for object_id in some:
            cutout = archive.get(int(object_id))
            survey, lupton = (cutout.picture(Style(color=color)).sum(axis=-1) for color in ("survey", "lupton"))
            scores = [
                np.corrcoef(survey.ravel(), flip.ravel())[0, 1] for flip in (lupton, lupton[::-1], lupton[:, ::-1])
            ]
            assert scores[0] > max(scores[1:])
            assert scores[0] > 0.5


def damage_picture(path: Path, kind: str) -> None:
    with Image.open(path) as file:
        image = file.convert("RGB")
    if kind == "wrong size":
        image.resize((SIDE - 1, SIDE)).save(path)
    elif kind == "palette":
        image.convert("P").save(path, compression="raw")
    elif kind == "16 bit":
        Image.fromarray(np.zeros((SIDE, SIDE), dtype=np.uint16)).save(path)
    elif kind == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "a few bytes":
        path.write_bytes(path.read_bytes()[:100])
    elif kind == "no picture":
        path.write_text("no picture")
    elif kind == "empty":
        path.write_bytes(b"")


@pytest.fixture(scope="module")
def small_survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a survey of two tiles; tests may damage one picture."""
    folder = tmp_path_factory.mktemp("pictures") / "survey"
    make_survey(folder, tiles=2, tile_size=SIDE, objects=5, seed=6)
    return folder


@pytest.fixture
def picture_file(small_survey: Path) -> Iterator[Path]:
    """The first tile's picture, restored after the test."""
    path = sorted(small_survey.glob("*/*.tiff"))[0]
    content = path.read_bytes()
    yield path
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("wrong size", "is 399 x 400 px but the tile 400 x 400"),
        ("palette", "has mode P, not 8-bit RGB"),
        ("16 bit", "has mode I;16, not 8-bit RGB"),
        ("truncated", "cannot be read"),
        ("a few bytes", "cannot be read"),
        ("no picture", "cannot be read"),
        ("empty", "cannot be read"),
    ],
)
def test_unusable_picture_fails_its_tile_with_one_line(
    small_survey: Path, picture_file: Path, tmp_path: Path, kind: str, words: str
) -> None:
    damage_picture(picture_file, kind)
    recipe = load_recipe(small_survey / "survey.toml")
    (tmp_path / "shards").mkdir()
    result = run_job(TileJob(discover(recipe).tiles[0], recipe, 228, tmp_path, 1))
    assert result.error is not None
    assert result.error.startswith(f"{picture_file}: the colour picture ")
    assert words in result.error
    assert "\n" not in result.error
    assert list((tmp_path / "shards").iterdir()) == []


def test_missing_picture_fails_only_its_tile(small_survey: Path, picture_file: Path, tmp_path: Path) -> None:
    picture_file.unlink()
    report = build(small_survey / "survey.toml", tmp_path / "archive")
    assert report.built == 1
    assert list(report.failures) == [picture_file.parent.name]
    assert "no file for the colour picture" in report.failures[picture_file.parent.name]


def test_picture_in_grey_or_with_transparency_is_read_as_rgb(tmp_path: Path) -> None:
    ramp = np.arange(200, dtype=np.uint8).reshape(10, 20)
    for mode in ("L", "RGBA"):
        Image.fromarray(ramp).convert(mode).save(tmp_path / "p.tiff")
        with Picture(tmp_path / "p.tiff", (10, 20)) as picture:
            np.testing.assert_array_equal(np.asarray(picture.rows(0, 10)), np.repeat(ramp[..., None], 3, axis=-1))
    with pytest.raises(TileError, match="20 x 10 px but the tile 10 x 20"):
        Picture(tmp_path / "p.tiff", (20, 10))


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"compression": "jpeg", "quality": 95, "subsampling": 2}),
        ("RGB", {"compression": "jpeg", "quality": 95, "subsampling": 0}),
        ("RGB", {"compression": "tiff_lzw", "tiffinfo": {317: 2}}),
        ("RGB", {"compression": "tiff_adobe_deflate"}),
        ("RGBA", {"compression": "packbits"}),
        ("L", {"compression": "tiff_lzw"}),
    ],
)
def test_rows_read_in_strips_equal_pillows_whole_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, options: dict[str, object]
) -> None:
    monkeypatch.setattr(TiffImagePlugin, "STRIP_SIZE", 3000)  # bytes
    noise = np.random.default_rng(5).integers(0, 256, (150, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(tmp_path / "p.tiff", **options)  # type: ignore[arg-type]
    with Image.open(tmp_path / "p.tiff") as file:
        expected = np.asarray(file.convert("RGB"))
    with Picture(tmp_path / "p.tiff", (150, 90)) as picture:
        assert picture.strip_rows < 40
        for top, bottom in ((0, 150), (0, 1), (7, 90), (149, 150), (64, 128)):
            np.testing.assert_array_equal(np.asarray(picture.rows(top, bottom)), expected[top:bottom])


@pytest.mark.parametrize("name", ["p.png", "p.jpg", "turned.tiff"])
def test_file_without_strips_is_read_at_once(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (150, 90, 3), dtype=np.uint8)
    options = {"compression": "tiff_lzw", "tiffinfo": {274: 3}} if name == "turned.tiff" else {}
    Image.fromarray(noise).save(tmp_path / name, **options)  # type: ignore[arg-type]
    with Image.open(tmp_path / name) as file, Picture(tmp_path / name, (150, 90)) as picture:
        assert picture.strip_rows == 150
        np.testing.assert_array_equal(np.asarray(picture.rows(7, 90)), np.asarray(file)[7:90])


@settings(max_examples=25)
@given(width=st.integers(1, 300), height=st.integers(1, 300))
def test_jpegs_of_a_picture_of_any_size_reproduce_the_picture(width: int, height: int) -> None:
    # A plane: JPEG keeps a plane well, and each pixel value identifies its position.
    x, y = np.arange(width) * 255 / 300, np.arange(height)[:, None] * 255 / 300
    image = np.stack(np.broadcast_arrays(x, y, x * 0 + y * 0 + 77), axis=-1).astype(np.uint8)
    picture, again = Image.fromarray(image), np.zeros_like(image)
    with h5py.File(io.BytesIO(), "w") as file:
        write_color(file, lambda top, bottom: picture.crop((0, top, width, bottom)), (height, width))
        jpegs, start = file["jpeg"][...].tobytes(), file["start"][...].tolist()
    number = pairwise(start)
    for bottom in range(0, height, 128):
        for left in range(0, width, 128):
            with Image.open(io.BytesIO(jpegs[slice(*next(number))])) as square:
                part = np.asarray(square)
            again[::-1][bottom : bottom + 128, left : left + 128] = part
    assert list(number) == []
    assert np.abs(again.astype(int) - image).max() <= 12


@pytest.fixture(scope="module")
def colorless(small_survey: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """An archive made without the survey's pictures."""
    folder = tmp_path_factory.mktemp("colorless")
    recipe = folder / "survey.toml"
    recipe.write_text((small_survey / "survey.toml").read_text())
    edit(recipe, color="", root=f'"{small_survey}"')
    assert build(recipe, folder / "archive").failures == {}
    with Archive(folder / "archive") as archive:
        yield archive


LUPTON = Style(stretch=60.0)
"""Lupton's composite of fluxes."""


def composite(cutout: Cutout, style: Style = LUPTON) -> NDArray[np.uint8]:
    """Return the composite of a cutout on the demo survey's tiles, which have north up."""
    zero_points = cutout.zero_points
    return pictures.composite(cutout.data[:, ::-1], cutout.bands, zero_points, cutout.rms, style)


def first_cutout(archive: Archive, **form: object) -> Cutout:
    table = archive.cone_search((54.0, -28.0), "1 deg")
    return archive.get(int(table["object_id"][table["status"] == "stored"][0]), **form)  # type: ignore[arg-type]


def test_error_without_survey_pictures_names_the_recipes_key(colorless: Archive, tmp_path: Path) -> None:
    cutout = first_cutout(colorless)
    assert cutout.planes == ("SCI",)
    for ask in (
        lambda: cutout.color,
        lambda: cutout.picture(Style(color="survey")),
        lambda: cutout.write(tmp_path / "c.png", color="survey"),
    ):
        with pytest.raises(RequestError, match=r"survey\.color"):
            ask()
    assert list(tmp_path.iterdir()) == []


def test_picture_without_survey_pictures_is_a_composite_luptons_if_the_stretch_is_a_number(
    colorless: Archive, tmp_path: Path
) -> None:
    cutout = first_cutout(colorless, size=40)
    for style in ({"stretch": 60.0}, {}):
        cutout.write(tmp_path / "c.png", **style)
        with Image.open(tmp_path / "c.png") as file:
            np.testing.assert_array_equal(np.asarray(file), composite(cutout, Style(**style)))
    red, green, blue = (np.nan_to_num(cutout.data[cutout.bands.index(band)] * GALAXY[band], nan=-5) for band in "irg")
    with np.errstate(invalid="ignore"):
        theirs = make_lupton_rgb(red, green, blue, minimum=-5, stretch=60, Q=8)
    np.testing.assert_array_equal(composite(cutout), theirs[::-1])


def test_named_composite_bands_give_a_composite_even_with_survey_pictures(demo_archive: Path) -> None:
    with Archive(demo_archive) as archive:
        cutout = first_cutout(archive, size=60)
        np.testing.assert_array_equal(cutout.picture(), cutout.color)
        for rgb in ("irg", "zrg"):
            np.testing.assert_array_equal(cutout.picture(Style(rgb=rgb)), composite(cutout, Style(rgb=rgb)))


def test_bands_of_a_composite_may_have_long_names(colorless: Archive) -> None:
    cutout = first_cutout(colorless, size=30, bands="gri")
    names = ("F606W", "F814W", "F160W")
    renamed = replace(cutout, bands=names, zero_points=dict.fromkeys(names, 30.0))
    for rgb in ("F160W,F814W,F606W", ("F160W", "F814W", "F606W")):
        shown = composite(renamed, Style(rgb=rgb, stretch=60.0))
        red, green, blue = (np.nan_to_num(cutout.data[number], nan=-5) for number in (2, 1, 0))
        with np.errstate(invalid="ignore"):
            theirs = make_lupton_rgb(red, green, blue, minimum=-5, stretch=60, Q=8)
        np.testing.assert_array_equal(shown, theirs[::-1])


def made_up(colorless: Archive, fluxes: dict[str, float]) -> Cutout:
    """Return a cutout of 5 x 4 px: a source of these fluxes in the second row from below, the third row blank."""
    cutout = first_cutout(colorless, size=(5, 4), bands="".join(fluxes))
    data = np.zeros((len(fluxes), 5, 4), dtype=np.float32)
    data[:, 1] = np.array(list(fluxes.values()))[:, None]
    data[:, 2] = np.nan
    return replace(cutout, data=data)


def test_galaxy_is_nearly_white_blue_star_is_bluish_and_blank_is_dark(colorless: Archive) -> None:
    galaxy = {band: 300 / GALAXY[band] for band in "gri"}
    for fluxes, is_white in ((galaxy, True), (galaxy | {"g": 3 * galaxy["g"]}, False)):
        shown = composite(made_up(colorless, fluxes)).astype(int)
        assert shown.shape == (5, 4, 3)
        red, green, blue = shown[3, 0]  # the second row from below
        assert shown[2].max() == 0
        assert shown[[0, 1, 4]].max() < 60
        if is_white:
            assert min(red, green, blue) > 150
            assert max(red, green, blue) - min(red, green, blue) <= 3
        else:
            assert blue > 1.5 * max(red, green)


def test_composite_does_not_depend_on_the_surveys_zero_point(colorless: Archive) -> None:
    cutout = first_cutout(colorless, size=50)
    dimmer = replace(
        cutout, data=cutout.data / 100, zero_points={band: zero - 5 for band, zero in cutout.zero_points.items()}
    )
    difference = composite(cutout).astype(int) - composite(dimmer)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize(
    ("rgb", "words"),
    [
        ("irgz", "takes one, two or three bands, not 4"),
        ("irggg", "takes one, two or three bands, not 5"),
        ("", "no band is given"),
        ("iru", "the cutout has no band 'u'"),
    ],
)
def test_composite_takes_at_most_three_known_bands(colorless: Archive, rgb: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        composite(first_cutout(colorless, size=5), Style(rgb=rgb))


@pytest.mark.parametrize("style", [Style(), LUPTON])
def test_one_band_is_grey_and_two_bands_are_red_and_blue(colorless: Archive, tmp_path: Path, style: Style) -> None:
    cutout = first_cutout(colorless, size=(30, 41), bands="rzg")
    for name, one in (("rzg", replace(style, rgb="z")), ("z", style)):
        some = first_cutout(colorless, size=(30, 41), bands=name)
        grey = some.picture(one)
        assert (grey.shape, grey.dtype) == ((30, 41), np.uint8)
        three = composite(cutout, replace(style, rgb="zzz"))
        np.testing.assert_array_equal(np.repeat(grey[..., None], 3, axis=-1), three)
        assert len(np.unique(grey)) > 20
    for kind, mode in (("png", "L"), ("jpg", "L"), ("tiff", "L")):
        cutout.write(tmp_path / f"c.{kind}", rgb="z", stretch=style.stretch)
        with Image.open(tmp_path / f"c.{kind}") as file:
            assert (file.mode, file.size) == (mode, (41, 30))
    two = first_cutout(colorless, size=(30, 41), bands="rz").picture(style)
    np.testing.assert_array_equal(two, cutout.picture(replace(style, rgb="zr")))
    red, green, blue = two.astype(int).transpose(2, 0, 1)
    above_black = np.minimum(red, blue) > 0
    assert above_black.sum() > 100
    assert np.abs(green - (red + blue) / 2)[above_black].max() <= 1
    assert np.abs(red - blue).max() > 20


def test_cutout_without_a_band_has_no_composite(colorless: Archive, tmp_path: Path) -> None:
    cutout = first_cutout(colorless, size=5, bands=())
    with pytest.raises(RequestError, match="the cutout has no band: a composite needs at least one"):
        cutout.write(tmp_path / "c.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("bands", "red_first"),
    [("griz", "irg"), ("Yzrg", None), ("rzY", "Yzr"), ("zrg", "zrg"), ("Yzi", "Yzi"), ("irg", "irg")],
)
def test_three_bands_are_shown_with_the_reddest_as_red_and_the_bluest_as_blue(
    colorless: Archive, bands: str, red_first: str | None
) -> None:
    fluxes = dict.fromkeys(bands, 0.0)
    order = [channel_of(colorless, fluxes, band) for band in bands]
    shown = [band for channel, band in sorted((c, b) for c, b in zip(order, bands, strict=True) if c is not None)]
    wavelengths = ["grizY".index(band) for band in shown]
    assert wavelengths == sorted(wavelengths, reverse=True)
    assert len(shown) == 3
    if red_first is not None:
        assert shown == list(red_first)


def channel_of(colorless: Archive, fluxes: dict[str, float], band: str) -> int | None:
    """Return the channel that shows a source of one band only; None if no channel or several do."""
    source = composite(made_up(colorless, fluxes | {band: 1000.0}))[3, 0].astype(int)
    return int(source.argmax()) if source.max() > 100 and np.sum(source > 100) == 1 else None


def test_picture_is_readable_after_the_archive_closes_and_its_shard_lists_it(squares: Squares) -> None:
    with Archive(squares.archive.path) as archive:
        cutout = archive.get(squares.chosen["low left"])
    np.testing.assert_array_equal(cutout.color, squares.archive.get(squares.chosen["low left"]).color)
    (path,) = (squares.archive.path / "shards").iterdir()
    with Shard(path) as shard, h5py.File(path) as plain:
        assert shard.info.planes == ("SCI", "COLOR")
        assert Contents(plain).violations() == []
