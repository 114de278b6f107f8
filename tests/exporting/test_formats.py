"""Every file format of a cutout, read back by other libraries: fitsio, Pillow, tifffile, numpy."""

import io
import re
import resource
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fitsio
import numpy as np
import pytest
import tifffile
from astropy.io import fits
from astropy.wcs import WCS
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from archive_builder import Archive, ArchiveBuilderError, RequestError
from archive_builder.builder.driver import build
from archive_builder.cli.main import main
from archive_builder.serve.cutout import FORMATS, Cutout
from archive_builder.serve.pictures import jpeg_bytes, png_bytes, tiff_bytes
from archive_builder.serve.style import Style
from archive_builder.store.headers import TileHeaders
from archive_builder.survey.demo import make_survey
from archive_builder.survey.discovery import Source
from archive_builder.survey.tile import Tile

BANDS = "grizY"
CENTRE = (54.0, -28.0)
TAN = "CTYPE1  = 'RA---TAN'\nCTYPE2  = 'DEC--TAN'\nCRVAL1  = 54.0\nCRVAL2  = -28.0\nCD1_1   = -7E-5\nCD2_2   = 7E-5"


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a survey of one tile; its recipe keeps all planes."""
    folder = tmp_path_factory.mktemp("formats") / "survey"
    recipe = make_survey(folder, tiles=1, tile_size=400, objects=60, seed=3)
    recipe.write_text(recipe.read_text() + 'planes = ["WGT", "MSK"]\n')
    return folder


@pytest.fixture(scope="module")
def archive(survey: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    path = tmp_path_factory.mktemp("formats") / "archive"
    assert build(survey / "survey.toml", path).failures == {}
    with Archive(path) as opened:
        yield opened


def stored(archive: Archive) -> list[int]:
    """Return the IDs of all objects with a cutout, the most central first."""
    table = archive.cone_search(CENTRE, "1 deg")
    return [int(object_id) for object_id in table["object_id"][table["status"] == "stored"]]


@pytest.fixture
def cutout(archive: Archive) -> Cutout:
    """A non-square cutout with bands in an unusual order."""
    return archive.get(stored(archive)[0], size=(60, 81), bands="Yir")


def source(survey: Path, band: str, plane: str) -> tuple[NDArray, fitsio.FITSHDR]:
    """Return an image of the tile and its header, as cfitsio decompresses them."""
    (path,) = survey.glob(f"*/*_{band}.fits.fz")
    return fitsio.read(str(path), ext=plane, header=True)


def window(image: NDArray, cutout: Cutout, off: float) -> NDArray:
    """Cut the window of a cutout out of a padded tile."""
    margin = 300
    y, x = cutout.origin[1] + margin, cutout.origin[0] + margin
    ny, nx = cutout.shape
    return np.pad(image, margin, constant_values=off)[y : y + ny, x : x + nx]


def same_bits(one: NDArray, other: NDArray) -> bool:
    """Return True if float32 arrays are equal bit by bit, in any byte order."""
    bits = [np.ascontiguousarray(array, dtype=np.float32).view(np.uint32) for array in (one, other)]
    return np.array_equal(*bits)


@pytest.mark.parametrize("number", [0, 30, -1])
@pytest.mark.parametrize("size", [None, 1, (40, 77)])
def test_fitsio_reads_every_image_of_a_fits_file(
    archive: Archive, survey: Path, tmp_path: Path, number: int, size: int | tuple[int, int] | None
) -> None:
    cutout = archive.get(stored(archive)[number], size=size)
    cutout.write(tmp_path / "c.fits")
    with fitsio.FITS(str(tmp_path / "c.fits")) as file:
        names = [hdu.get_extname() for hdu in file]
        assert names == ["", *(f"{plane}_{band}" for band in BANDS for plane in ("SCI", "WGT", "MSK"))]
        for band, data in zip(BANDS, cutout.data, strict=True):
            science, weight, mask = (file[f"{plane}_{band}"].read() for plane in ("SCI", "WGT", "MSK"))
            assert same_bits(science, data)
            assert mask.dtype.itemsize == 4
            np.testing.assert_array_equal(mask, window(source(survey, band, "MSK")[0], cutout, -1))
            true_weight = window(source(survey, band, "WGT")[0], cutout, 0)
            np.testing.assert_allclose(weight, true_weight, rtol=0.0101, atol=0)


def test_fitsio_reads_the_description_of_the_cutout_from_its_header(
    archive: Archive, survey: Path, tmp_path: Path
) -> None:
    some = stored(archive)[::20]
    assert len(some) == 3
    for object_id in some:
        cutout = archive.get(object_id, size=(40, 77))
        cutout.write(tmp_path / "c.fits")
        primary = fitsio.read_header(str(tmp_path / "c.fits"), ext=0)
        for band in BANDS:
            tile = source(survey, band, "SCI")[1]
            for plane in ("SCI", "WGT", "MSK"):
                header = fitsio.read_header(str(tmp_path / "c.fits"), ext=f"{plane}_{band}")
                for axis in (1, 2):
                    assert header[f"CRPIX{axis}"] == tile[f"CRPIX{axis}"] - cutout.origin[axis - 1]
                    assert header[f"CRVAL{axis}"] == tile[f"CRVAL{axis}"]
                assert (header["NAXIS1"], header["NAXIS2"]) == (77, 40)
                assert header["BAND"] == band
                assert header["FILTER"] == tile["FILTER"]
                assert ("QSTEP" in header, "BKGRMS" in header) == (plane == "SCI", plane == "SCI")
                for card in (header, primary):
                    assert str(card["OBJECT"]).strip() == str(object_id)
                    assert (card["OBJ_RA"], card["OBJ_DEC"]) == (cutout.ra, cutout.dec)
                    assert card["TILE"] == next(survey.glob("DEM*")).name
                    assert (card["CUTX0"], card["CUTY0"], card["ARCHGEN"]) == (*cutout.origin, 1)


def test_qstep_and_bkgrms_of_a_header_hold_for_its_pixels(archive: Archive, tmp_path: Path) -> None:
    archive.get(stored(archive)[0]).write(tmp_path / "c.fits")
    for band in BANDS:
        pixels, header = fitsio.read(str(tmp_path / "c.fits"), ext=f"SCI_{band}", header=True)
        steps = pixels[np.isfinite(pixels)] / header["QSTEP"]
        np.testing.assert_array_equal(steps, np.rint(steps))
        below = np.nanmedian(pixels) - np.nanpercentile(pixels, 16)  # one RMS of Gaussian noise
        assert header["BKGRMS"] == pytest.approx(below, rel=0.25)
        assert header["BKGRMS"] / 24 < header["QSTEP"] < header["BKGRMS"] / 8


def test_one_band_files_hold_the_images_of_the_whole_file(cutout: Cutout, tmp_path: Path) -> None:
    paths = [tmp_path / f"{band}.fits" for band in cutout.bands]
    for band, path in zip(cutout.bands, paths, strict=True):
        path.write_bytes(cutout.to_bytes((band,)))
    cutout.write(tmp_path / "whole.fits")
    for band, path in zip(cutout.bands, paths, strict=True):
        with fitsio.FITS(str(path)) as one, fitsio.FITS(str(tmp_path / "whole.fits")) as whole:
            assert [hdu.get_extname() for hdu in one[1:]] == [f"{plane}_{band}" for plane in ("SCI", "WGT", "MSK")]
            for hdu in one[1:]:
                same = whole[hdu.get_extname()]
                assert hdu.read().tobytes() == same.read().tobytes()
                assert [str(card) for card in hdu.read_header().records()] == [
                    str(card) for card in same.read_header().records()
                ]


def cut_header(cards: str, origin: tuple[int, int] = (100, 20)) -> fits.Header:
    """Return the header of a cutout of a tile with further cards."""
    template = TileHeaders({"SCI": {"g": f"{TAN}\n{cards}"}}).template("g")
    return fits.Header.fromstring(template.fill([], origin, []))


def test_alternate_wcs_moves_with_the_cut_with_and_without_its_own_crpix() -> None:
    linear = "CTYPE1A = 'LINEAR'\nCTYPE2A = 'LINEAR'\nCRVAL1A = 4000.0\nCRVAL2A = 8000.0"
    for pixel, first in (("\nCRPIX1A = 1.0\nCRPIX2A = 1.0", 4000.0), ("", 4001.0)):
        wcs = WCS(cut_header(linear + pixel), key="A")
        np.testing.assert_allclose(wcs.all_pix2world(7, 9, 0), (first + 107, first + 4000 + 29))


def test_physical_coordinates_of_iraf_and_ds9_equal_the_tiles() -> None:
    header = cut_header("LTV1    = -30.0\nLTV2    = 5\nLTM1_1  = 0.5\nLTM2_2  = 1.0")
    # physical = (image - LTV) / LTM, with image pixels from 1
    assert ((1 - header["LTV1"]) / header["LTM1_1"], 1 - header["LTV2"]) == ((101 + 30) / 0.5, 21 - 5)


@pytest.mark.parametrize(
    "card",
    ["CRPIX1P = 'abc'", "CRPIX1P =", "foo     = 3", "FOO=3 / no space", "A B     = 3", "FOO     = not quoted"],
)
def test_invalid_card_does_not_prevent_a_cutout_header(card: str) -> None:
    template = TileHeaders({"SCI": {"g": f"{TAN}\n{card}"}}).template("g")
    text = template.fill([], (100, 20), [])
    assert len(text) % 80 == 0
    assert re.search(r"CRPIX2  = +-20\.0 ", text)


def test_card_that_astropy_cannot_parse_is_left_out(tmp_path: Path) -> None:
    sky = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 54.0, "CRVAL2": -28.0, "CDELT1": -1e-4, "CDELT2": 1e-4}
    cards = fits.Header({**sky, "SEEING": 1.5, "MARKER": 1, "GAIN": 2.0})
    fits.PrimaryHDU(np.zeros((9, 9), dtype=np.float32), cards).writeto(tmp_path / "t.fits")
    content = (tmp_path / "t.fits").read_bytes()
    start = content.index(b"MARKER  =")
    (tmp_path / "t.fits").write_bytes(content[:start] + b"CONTINUE  'of no string'".ljust(80) + content[start + 80 :])
    with Tile({"g": Source(tmp_path / "t.fits")}) as tile:
        header = tile.headers["SCI"][0]
    assert (header["GAIN"], "SEEING" in header) == (2.0, False)  # CONTINUE makes both lines one card
    assert "of no string" not in header.tostring()


def test_png_is_an_8_bit_rgb_picture_of_the_cutouts_size(cutout: Cutout, tmp_path: Path) -> None:
    for color in ("survey", "lupton"):
        cutout.write(tmp_path / "c.png", color=color)
        with Image.open(tmp_path / "c.png") as picture:
            assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (81, 60))
            if color == "survey":
                np.testing.assert_array_equal(np.asarray(picture), cutout.color)


@pytest.mark.parametrize(
    ("style", "tag"), [({}, "JPEG"), ({"compression": "lzw"}, "LZW"), ({"compression": "none"}, "NONE")]
)
def test_tiff_is_an_8_bit_rgb_picture_with_the_requested_compression(
    cutout: Cutout, tmp_path: Path, style: dict[str, str], tag: str
) -> None:
    cutout.write(tmp_path / "c.tiff", **style)
    with Image.open(tmp_path / "c.tiff") as picture:
        assert (picture.format, picture.mode, picture.size) == ("TIFF", "RGB", (81, 60))
        pixels = np.asarray(picture).astype(int)
    assert np.abs(pixels - cutout.color).mean() <= (4 if tag == "JPEG" else 0)
    with tifffile.TiffFile(tmp_path / "c.tiff") as file:
        (page,) = file.pages
        assert (page.compression.name, page.shape, page.bitspersample) == (tag, (60, 81, 3), 8)
        assert "DateTime" not in page.tags
        if tag == "NONE":
            np.testing.assert_array_equal(page.asarray(), cutout.color)


def test_jpeg_has_quality_90_and_full_colour_resolution(cutout: Cutout, tmp_path: Path) -> None:
    cutout.write(tmp_path / "c.jpg")
    expected = tmp_path / "expected.jpg"
    Image.fromarray(cutout.color).save(expected, quality=90, subsampling="4:4:4")
    assert (tmp_path / "c.jpg").read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("color", [(), (3,)])
def test_picture_too_large_for_a_jpeg_is_refused_in_one_line(color: tuple[int, ...]) -> None:
    wide, high = (np.zeros((*shape, *color), dtype=np.uint8) for shape in ((2, 65501), (65501, 2)))
    for encode in (
        lambda: jpeg_bytes(wide),
        lambda: jpeg_bytes(high),
        lambda: tiff_bytes(wide, "jpeg"),
    ):
        with pytest.raises(RequestError, match=r"^a JPEG has at most 65500 px a side, not 65501: give png"):
            encode()
    for content in (tiff_bytes(wide, "lzw"), tiff_bytes(high, "jpeg"), png_bytes(wide), jpeg_bytes(high[1:])):
        with Image.open(io.BytesIO(content)) as picture:
            assert max(picture.size) in (65500, 65501)


def test_npy_holds_the_cutouts_pixels(cutout: Cutout, tmp_path: Path) -> None:
    cutout.write(tmp_path / "c.npy")
    data = np.load(tmp_path / "c.npy", allow_pickle=False)
    assert data.dtype == np.float32
    assert same_bits(data, cutout.data)


def test_npz_has_all_planes_by_name(cutout: Cutout, tmp_path: Path) -> None:
    cutout.write(tmp_path / "c.npz")
    with np.load(tmp_path / "c.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"data", "bands", "object_id", "ra", "dec", "weight", "mask", "color"}
        assert same_bits(arrays["data"], cutout.data)
        assert same_bits(arrays["weight"], cutout.weight)
        np.testing.assert_array_equal(arrays["mask"], cutout.mask)
        np.testing.assert_array_equal(arrays["color"], cutout.color)
        assert arrays["bands"].tolist() == ["Y", "i", "r"]
        values = arrays["object_id"][()], arrays["ra"][()], arrays["dec"][()]
        assert values == (cutout.object_id, cutout.ra, cutout.dec)
    with zipfile.ZipFile(tmp_path / "c.npz") as file:
        assert {member.date_time for member in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_npz_of_a_position_has_no_object_id(archive: Archive, tmp_path: Path) -> None:
    archive.at(CENTRE, size=10).write(tmp_path / "c.npz")
    with np.load(tmp_path / "c.npz") as arrays:
        assert "object_id" not in arrays
        assert (arrays["ra"][()], arrays["dec"][()]) == CENTRE


@pytest.mark.parametrize("ending", FORMATS)
def test_file_written_twice_has_the_same_bytes(archive: Archive, tmp_path: Path, ending: str) -> None:
    object_id = stored(archive)[5]
    archive.get(object_id, size=50).write(tmp_path / f"one.{ending}")
    with Archive(archive.path) as again:
        again.get(object_id, size=50).write(tmp_path / f"two.{ending}")
    assert (tmp_path / f"one.{ending}").read_bytes() == (tmp_path / f"two.{ending}").read_bytes()


@pytest.mark.parametrize("name", ["c.fit", "c", "c.fits.gz", "png", ".fits", "c.PNG.", "c.gif"])
def test_unknown_ending_is_refused_with_the_known_ones(cutout: Cutout, tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match=r"end it in \.fits, \.png, \.jpg, \.tiff, \.npy, \.npz$"):
        cutout.write(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "same_as"),
    [("C.FITS", "fits"), ("c.tif", "tiff"), ("c.Tiff", "tiff"), ("c.PNG", "png"), ("c.JPEG", "jpg")],
)
def test_ending_may_be_in_upper_case_and_have_another_spelling(
    cutout: Cutout, tmp_path: Path, name: str, same_as: str
) -> None:
    for path in (tmp_path / name, tmp_path / f"other.{same_as}"):
        cutout.write(path)
    assert (tmp_path / name).read_bytes() == (tmp_path / f"other.{same_as}").read_bytes()


@pytest.mark.parametrize(
    "style",
    [
        {"compression": "zip"},
        {"color": "blue"},
        {"stretch": 0.0},
        {"stretch": -1.0},
        {"stretch": float("nan")},
        {"softening": -1.0},
        {"softening": float("inf")},
        {"minimum": float("nan")},
        {"stretch": "wide"},
        {"stretch": None},
        {"rotate": "south"},
    ],
)
def test_invalid_style_of_a_picture_is_refused_in_one_line(
    cutout: Cutout, tmp_path: Path, style: dict[str, object]
) -> None:
    with pytest.raises(RequestError, match=r"give a stretch|give one of") as caught:
        cutout.write(tmp_path / "c.tiff", **style)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_command_line_refuses_an_invalid_style_in_one_line(archive: Archive, tmp_path: Path) -> None:
    words = ["get", str(archive.path), str(stored(archive)[0]), "-o", str(tmp_path / "c.png"), "--stretch", "0"]
    failed = CliRunner().invoke(main, words)
    assert (failed.exit_code, failed.stderr.count("\n")) == (2, 1)
    assert "stretch" in failed.stderr


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Limit the size of files; the operating system then refuses longer files, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["missing/c.fits", "file/c.png", "folder.npz", f"{'x' * 250}.fits"])
def test_file_that_cannot_be_written_is_an_error_on_one_line_and_leaves_no_file(
    cutout: Cutout, tmp_path: Path, name: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.npz").mkdir()
    before = everything(tmp_path)
    with pytest.raises(ArchiveBuilderError, match=r"c?x*\.?[a-z]*: cannot be written: [A-Z]") as caught:
        cutout.write(tmp_path / name)
    assert not isinstance(caught.value, RequestError)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert everything(tmp_path) == before


def test_full_disk_leaves_the_old_file_unchanged(cutout: Cutout, tmp_path: Path) -> None:
    (tmp_path / "c.fits").write_bytes(b"old")
    with (
        files_of_at_most(5000),
        pytest.raises(ArchiveBuilderError, match=r"c\.fits: cannot be written: File too large"),
    ):
        cutout.write(tmp_path / "c.fits")
    assert everything(tmp_path) == {"c.fits": b"old"}


@pytest.mark.parametrize("ending", FORMATS)
def test_existing_file_is_replaced_whole(archive: Archive, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"c.{ending}"
    archive.get(stored(archive)[0], size=120).write(path)
    long = path.stat().st_size
    cutout = archive.get(stored(archive)[1], size=8)
    cutout.write(path)
    assert path.stat().st_size < long
    assert path.read_bytes() == FORMATS[ending](cutout, Style())
    assert list(tmp_path.iterdir()) == [path]
