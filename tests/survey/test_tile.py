"""A tile's pixels equal astropy's, and bands that do not fit together are refused."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS, FITSFixedWarning
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from archive_builder.errors import TileError
from archive_builder.geometry import sky_to_pixel
from archive_builder.survey.discovery import Source
from archive_builder.survey.tile import ReadingRules, Tile

SHAPE = 61, 83
SCALE = 0.263 / 3600


def header(ctype: str = "TAN", **cards: Any) -> fits.Header:
    """Return the header of a WCS in the middle of the image."""
    values = {
        "CTYPE1": f"RA---{ctype}",
        "CTYPE2": f"DEC--{ctype}",
        "CRVAL1": 54.0,
        "CRVAL2": -28.0,
        "CRPIX1": 42.0,
        "CRPIX2": 31.0,
        "CD1_1": -SCALE,
        "CD1_2": 0.0,
        "CD2_1": 0.0,
        "CD2_2": SCALE,
    }
    return fits.Header({**values, **cards})


# Coefficients that move the corners of the image by several pixels.
TPV = header("TPV", PV1_0=1e-5, PV1_1=1.01, PV1_2=0.02, PV1_4=3.0, PV1_7=40.0, PV2_1=0.99, PV2_5=-2.0)
SIP = header("TAN-SIP", A_ORDER=2, B_ORDER=2, A_2_0=1e-3, A_0_2=-4e-4, B_1_1=8e-4, B_0_2=5e-4)
PROJECTIONS = pytest.mark.parametrize("cards", [header(), TPV, SIP], ids=["TAN", "TPV", "SIP"])


def sky(dtype: str = "float32") -> NDArray[Any]:
    """Return an image of noise on a slope, with one bright pixel."""
    image = np.random.default_rng(5).normal(100, 20, SHAPE) + np.arange(SHAPE[1])
    image[20, 30] = 2500
    return np.rint(image).clip(0, 250).astype(dtype) if dtype == "uint8" else image.astype(dtype)


def write(path: Path, *hdus: Any) -> Path:
    """Write a FITS file with an empty primary HDU."""
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


def plain(path: Path, data: NDArray[Any]) -> Path:
    return write(path, fits.ImageHDU(data, header(), name="SCI"))


def gzipped(path: Path, data: NDArray[Any]) -> Path:
    target = path.with_suffix(".fits.gz")
    target.write_bytes(gzip.compress(plain(path, data).read_bytes()))
    return target


def fpacked(path: Path, data: NDArray[Any]) -> Path:
    return write(path.with_suffix(".fits.fz"), fits.CompImageHDU(data, header(), name="SCI", quantize_level=16))


def primary(path: Path, data: NDArray[Any]) -> Path:
    fits.PrimaryHDU(data, header()).writeto(path)
    return path


def raw_image(path: Path, data: NDArray[Any], cards: fits.Header) -> Path:
    """Write integers unscaled, for any BSCALE and BZERO."""
    first = {"SIMPLE": True, "BITPIX": 8 * data.itemsize, "NAXIS": 2, "NAXIS1": SHAPE[1], "NAXIS2": SHAPE[0]}
    pixels = data.astype(data.dtype.newbyteorder(">")).tobytes()
    text = fits.Header([*first.items(), *cards.cards]).tostring()
    path.write_bytes(text.encode() + pixels + bytes(-len(pixels) % 2880))
    return path


def by_fpack(path: Path) -> Path:
    """Compress an image with fpack, the program most surveys use."""
    if shutil.which("fpack") is None:
        pytest.skip("CFITSIO's fpack is not installed")
    subprocess.run(["fpack", path], check=True)
    return path.with_suffix(".fits.fz")


COMPRESS: dict[str, Callable[[Path], Path]] = {"plain": Path, "fpack": by_fpack}


def whole(path: Path, hdu: str | int | None = None, **rules: Any) -> NDArray[np.float32]:
    """Return the whole image of a one-band tile."""
    with Tile({"g": Source(path, hdu)}, rules=ReadingRules(**rules)) as tile:
        return tile.read(0, tile.shape[0])[0]


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64", "uint16", "uint32"])
@pytest.mark.parametrize("form", [plain, gzipped, fpacked, primary])
def test_pixels_equal_those_of_getdata(tmp_path: Path, form: Callable[[Path, NDArray[Any]], Path], dtype: str) -> None:
    path = form(tmp_path / "a.fits", sky(dtype))
    expected = fits.getdata(path).astype(np.float32)
    pixels = whole(path)
    assert (pixels.dtype, pixels.dtype.isnative) == (np.float32, True)
    np.testing.assert_array_equal(pixels, expected)
    # A quantization step is a sixteenth of the noise RMS of 20.
    np.testing.assert_allclose(pixels, sky(dtype), atol=1.3 if form is fpacked else 1e-4)


@pytest.mark.parametrize("form", [plain, gzipped, fpacked])
@given(bounds=st.tuples(st.integers(0, SHAPE[0]), st.integers(0, SHAPE[0])).map(sorted))
def test_any_strip_equals_that_part_of_the_whole_image(
    tmp_path_factory: pytest.TempPathFactory, form: Callable[[Path, NDArray[Any]], Path], bounds: list[int]
) -> None:
    path = tmp_path_factory.getbasetemp() / f"strip-{form.__name__}.fits"
    written = {plain: path, gzipped: path.with_suffix(".fits.gz"), fpacked: path.with_suffix(".fits.fz")}[form]
    if not written.exists():
        form(path, sky())
    with Tile({"g": Source(written)}) as tile:
        strip = tile.read(*bounds)
    np.testing.assert_array_equal(strip, [fits.getdata(written)[slice(*bounds)]])


@pytest.mark.parametrize("form", ["plain", "fpack"])
@pytest.mark.parametrize(("bzero", "bscale"), [(32768, 1), (-3.5, 1), (10, 0.25)])
def test_scaled_integers_are_read_as_physical_values(tmp_path: Path, form: str, bzero: float, bscale: float) -> None:
    stored = np.random.default_rng(1).integers(-30000, 30000, SHAPE).astype(np.int16)
    path = raw_image(tmp_path / "a.fits", stored, header(BSCALE=bscale, BZERO=bzero))
    np.testing.assert_array_equal(whole(COMPRESS[form](path)), np.float32(bscale) * stored + np.float32(bzero))


@pytest.mark.parametrize("bzero", [0, 2, 32768])
@pytest.mark.parametrize("form", ["plain", "fpack"])
def test_blank_integers_are_no_data(tmp_path: Path, form: str, bzero: int) -> None:
    data = sky("int16")
    data[5:9, 7:11] = -999
    path = raw_image(tmp_path / "a.fits", data, header(BLANK=-999, BZERO=bzero))
    expected = np.where(data == -999, np.nan, data.astype(np.float32) + bzero)
    np.testing.assert_array_equal(whole(COMPRESS[form](path)), expected)


def test_blank_integers_compressed_by_astropy_are_no_data(tmp_path: Path) -> None:
    data = sky("int32")
    data[5:9, 7:11] = -999
    path = write(tmp_path / "a.fits.fz", fits.CompImageHDU(data, header(BLANK=-999)))
    np.testing.assert_array_equal(whole(path), np.where(data == -999, np.nan, data).astype(np.float32))


@pytest.mark.parametrize("form", [plain, gzipped, fpacked])
def test_nan_is_no_data(tmp_path: Path, form: Callable[[Path, NDArray[Any]], Path]) -> None:
    data = sky()
    data[3:5, 10:70] = data[40] = np.nan
    np.testing.assert_array_equal(np.isnan(whole(form(tmp_path / "a.fits", data))), np.isnan(data))


def test_blank_value_is_no_data(tmp_path: Path) -> None:
    data = sky()
    data[12, 3:50] = 0
    data[13, 0] = np.nan
    path = plain(tmp_path / "a.fits", data)
    np.testing.assert_array_equal(whole(path, blank_value=0.0), np.where(data == 0, np.nan, data))
    np.testing.assert_array_equal(whole(path), data)


def sources(paths: dict[str, Path]) -> dict[str, Source]:
    """Return the image of each band, the only one of its file."""
    return {band: Source(path) for band, path in paths.items()}


def test_hdu_is_found_by_name_or_by_number(tmp_path: Path) -> None:
    table = fits.BinTableHDU.from_columns([fits.Column("n", "J", array=[1, 2])], name="LIST")
    images = [
        fits.ImageHDU(np.full(SHAPE, n, np.float32), header(), name=name) for n, name in enumerate(["SCI", "WGT"])
    ]
    cube = fits.ImageHDU(np.zeros((2, 3, 4), np.float32), name="CUBE")
    path = write(tmp_path / "a.fits", table, cube, *images)
    assert [whole(path, hdu)[0, 0] for hdu in ("SCI", "wgt", 3, 4, "4")] == [0, 1, 0, 1, 1]
    with pytest.raises(TileError, match=r"a\.fits: has 2 images \(3 SCI, 4 WGT\): name one by survey\.image_hdu"):
        whole(path)


@pytest.mark.parametrize("hdu", ["WGT", 7])
def test_error_for_a_missing_hdu_lists_the_hdus(tmp_path: Path, hdu: str | int) -> None:
    path = plain(tmp_path / "a.fits", sky())
    with pytest.raises(TileError, match=rf"a\.fits: has no HDU {hdu} \(it has 0 PRIMARY, 1 SCI\)"):
        whole(path, hdu)


def test_hdu_without_an_image_is_refused(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.fits", sky())
    with pytest.raises(TileError, match=r"a\.fits: HDU 0 is not a 2-D image"):
        whole(path, 0)


def test_image_without_sky_coordinates_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", fits.ImageHDU(sky()))
    with pytest.raises(TileError, match=r"a\.fits: the image has no sky coordinates"):
        whole(path)


@PROJECTIONS
def test_positions_agree_with_astropys_wcs(tmp_path: Path, cards: fits.Header) -> None:
    path = write(tmp_path / "a.fits.fz", fits.CompImageHDU(sky(), cards))
    y, x = np.random.default_rng(2).uniform(-0.5, np.array(SHAPE) - 0.5, (500, 2)).T
    independent = WCS(cards)
    ra, dec = independent.all_pix2world(x, y, 0)
    with Tile({"g": Source(path)}) as tile:
        found = sky_to_pixel(tile.wcs, tile.shape, ra, dec)
        np.testing.assert_allclose(tile.wcs.all_pix2world(x, y, 0), (ra, dec), rtol=0, atol=1e-9 * SCALE)
    np.testing.assert_allclose(found, independent.all_world2pix(ra, dec, 0), rtol=0, atol=1e-9)
    np.testing.assert_allclose(found, (x, y), rtol=0, atol=2e-4)  # astropy inverts SIP to 1e-4 px


@PROJECTIONS
def test_far_side_of_the_sky_is_not_on_the_tile(cards: fits.Header) -> None:
    ra, dec = np.array([234.0, 54.0, 54.0, 0.0, 55.0]), np.array([28.0, 62.0, 28.0, 90.0, -28.0])
    x, y = sky_to_pixel(WCS(cards), SHAPE, ra, dec)
    assert np.isnan(x).all()
    assert np.isnan(y).all()
    x, y = sky_to_pixel(WCS(cards), SHAPE, np.append(ra, 54.0), np.append(dec, -28.0))
    assert np.flatnonzero(np.isfinite(x)).tolist() == [5]


@pytest.mark.parametrize(("cards", "offset"), [({"CRPIX1": 42.02}, 0.02), ({"CRPIX2": 30.98}, 0.02)])
def test_bands_shifted_by_more_than_a_hundredth_of_a_pixel_are_refused(
    tmp_path: Path, cards: dict[str, float], offset: float
) -> None:
    paths = {band: tmp_path / f"{band}.fits" for band in "gri"}
    for band, path in paths.items():
        write(path, fits.ImageHDU(sky(), header(**(cards if band == "r" else {}))))
    with pytest.raises(TileError, match=rf"band r's WCS is off band g's by {offset} px"):
        Tile(sources(paths))


def test_bands_rotated_about_the_centre_are_refused(tmp_path: Path) -> None:
    paths = {band: tmp_path / f"{band}.fits" for band in "gr"}
    write(paths["g"], fits.ImageHDU(sky(), header()))
    write(paths["r"], fits.ImageHDU(sky(), header(CD1_2=1e-3 * SCALE, CD2_1=1e-3 * SCALE)))
    with pytest.raises(TileError, match=r"off band g's by 0\.05\d* px"):  # 51 px to the corner x 1e-3
        Tile(sources(paths))


def test_bands_at_different_sky_positions_are_refused(tmp_path: Path) -> None:
    paths = {band: tmp_path / f"{band}.fits" for band in "gr"}
    write(paths["g"], fits.ImageHDU(sky(), header()))
    write(paths["r"], fits.ImageHDU(sky(), header(CRVAL1=234.0, CRVAL2=28.0)))
    with pytest.raises(TileError, match="band r's WCS is off band g's"):
        Tile(sources(paths))


def test_bands_shifted_by_less_are_accepted(tmp_path: Path) -> None:
    paths = {band: tmp_path / f"{band}.fits" for band in "gr"}
    write(paths["g"], fits.ImageHDU(sky(), header()))
    write(paths["r"], fits.ImageHDU(sky(), header(CRPIX1=42.005)))
    with Tile(sources(paths)) as tile:
        assert tile.wcs.wcs.crpix[0] == 42.0
        assert [h["CRPIX1"] for h in tile.headers["SCI"]] == [42.0, 42.005]


def test_bands_of_different_shapes_are_refused(tmp_path: Path) -> None:
    paths = {band: tmp_path / f"{band}.fits" for band in "gr"}
    write(paths["g"], fits.ImageHDU(sky(), header()))
    write(paths["r"], fits.ImageHDU(sky()[:-1], header()))
    with pytest.raises(TileError, match="band r is 83 x 60 px but band g is 83 x 61"):
        Tile(sources(paths))


def test_unusual_headers_give_no_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # In these tests a warning is an error.
    old = header(
        **{"DATE-OBS": "12/08/99", "RADECSYS": "FK5", "EQUINOX": 2000.0, "A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-3}
    )
    assert whole(write(tmp_path / "a.fits", fits.ImageHDU(sky(), old))).shape == SHAPE
    assert capfd.readouterr() == ("", "")
    with pytest.warns(FITSFixedWarning):
        WCS(old)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The same image in each file format."""
    forms = {".fits": plain, ".fits.gz": gzipped, ".fits.fz": fpacked}
    return {end: form(tmp_path_factory.mktemp("whole") / "a.fits", sky()).read_bytes() for end, form in forms.items()}


def data_end(content: bytes) -> int:
    """Return the number of bytes up to the end of the last pixel, or of a gzip stream without its padding."""
    if content.startswith(b"\x1f\x8b"):
        return len(content) - 32
    with fits.open(io.BytesIO(content), disable_image_compression=True) as hdus:
        cards = hdus[1].header
        size = abs(cards["BITPIX"]) // 8 * (cards["PCOUNT"] + cards["NAXIS1"] * cards["NAXIS2"])
        return int(hdus[1].fileinfo()["datLoc"]) + size


FORMS = pytest.mark.parametrize("end", [".fits", ".fits.gz", ".fits.fz"])
PLACES = st.floats(0, 1, exclude_max=True)
"""Positions in a file, as fractions of its length."""


# astropy may leave a damaged file to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@FORMS
@given(place=PLACES)
@example(place=1 - 1e-12)
def test_image_truncated_anywhere_is_refused(
    tmp_path_factory: pytest.TempPathFactory, images: dict[str, bytes], end: str, place: float
) -> None:
    path = tmp_path_factory.getbasetemp() / f"short{end}"
    path.write_bytes(images[end][: int(place * data_end(images[end]))])
    with pytest.raises(TileError, match=rf"short{end}: "):
        whole(path)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@FORMS
@given(flips=st.lists(st.tuples(PLACES, st.integers(1, 255)), min_size=1, max_size=4))
def test_damage_to_an_image_fails_its_tile_at_most(
    tmp_path_factory: pytest.TempPathFactory, images: dict[str, bytes], end: str, flips: list[tuple[float, int]]
) -> None:
    content = bytearray(images[end])
    for place, bits in flips:
        content[int(place * len(content))] ^= bits
    path = tmp_path_factory.getbasetemp() / f"damaged{end}"
    path.write_bytes(content)
    try:
        pixels = whole(path)
    except TileError as error:
        assert str(error).splitlines() == [str(error)]
        assert str(path) in str(error) or "band g" in str(error)
    else:
        assert pixels.dtype == np.float32


@pytest.mark.parametrize("hdu", [None, "SCI", 1])
def test_gzipped_image_with_a_damaged_header_is_refused_instead_of_hanging(
    tmp_path: Path, images: dict[str, bytes], hdu: str | int | None
) -> None:
    # astropy finds a corrupted HDU at the start of this file again and again.
    content = bytearray(images[".fits"])
    assert content[29] == ord("T")  # SIMPLE = T
    content[29] = ord("%")
    path = tmp_path / "a.fits.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(TileError, match=r"a\.fits\.gz: cannot be read as FITS"):
        whole(path, hdu)
