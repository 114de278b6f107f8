"""Images of other surveys' files: HDU, slice, compression, pixel scale, header."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.coordinates import FK4, FK5, ICRS, SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from archive_builder.errors import TileError
from archive_builder.geometry import pixel_to_sky
from archive_builder.survey.discovery import Source
from archive_builder.survey.image import Image
from archive_builder.survey.tile import ReadingRules, Tile

SHAPE = (60, 70)


def sky(**cards: Any) -> fits.Header:
    """Return the header of an image with a WCS."""
    first = {
        "CTYPE1": "RA---TAN",
        "CTYPE2": "DEC--TAN",
        "CRVAL1": 54.0,
        "CRVAL2": -28.0,
        "CRPIX1": 30.0,
        "CRPIX2": 20.0,
    }
    return fits.Header([*first.items(), ("CDELT1", -1e-4), ("CDELT2", 1e-4), *cards.items()])


def noise(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)


def rows_of(path: Path, hdu: str | int | None = None, cube_slice: int | None = None) -> NDArray[Any]:
    image = Image(Source(path, hdu, cube_slice))
    try:
        return image.rows(0, image.shape[0])
    finally:
        image.close()


def write(path: Path, *hdus: Any) -> Path:
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path, output_verify="ignore")
    return path


# ---- the choice of the image


def test_one_of_several_images_must_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", *(fits.ImageHDU(noise(n), sky(), name=name) for n, name in enumerate("gr")))
    with pytest.raises(TileError, match=r"a\.fits: has 2 images \(1 G, 2 R\): name one by survey\.image_hdu"):
        rows_of(path)
    np.testing.assert_array_equal(rows_of(path, "r"), noise(1))


def test_image_of_a_repeated_name_is_told_apart_by_its_version(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", *(fits.ImageHDU(noise(n), sky(), name="SCI", ver=n) for n in (1, 2)))
    with pytest.raises(TileError, match=r"has 2 HDUs SCI .*: set survey\.image_hdu to a number, or to NAME,EXTVER"):
        rows_of(path, "SCI")
    np.testing.assert_array_equal(rows_of(path, "sci,2"), noise(2))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("leading", [(1,), (1, 1)])
def test_degenerate_axes_are_left_out(tmp_path: Path, leading: tuple[int, ...], compressed: bool) -> None:
    data = noise(shape=(*leading, *SHAPE))
    cards = {"CTYPE3": "FREQ", "CRVAL3": 3e9, "CDELT3": 1e8, "CRPIX3": 1.0, "CUNIT3": "Hz", "PC3_3": 1.0}
    if len(leading) == 2:
        cards |= {"CTYPE4": "STOKES", "CRVAL4": 1.0, "CDELT4": 1.0, "CRPIX4": 1.0}
    kind = fits.CompImageHDU if compressed else fits.ImageHDU
    path = write(tmp_path / "a.fits", kind(data, sky(**cards)))
    with fits.open(path) as file:
        expected = file[1].data.reshape(SHAPE)
    np.testing.assert_array_equal(rows_of(path), expected)
    with Tile({"g": Source(path)}) as tile:
        header = tile.headers["SCI"][0]
        assert WCS(header).naxis == 2
        np.testing.assert_allclose(WCS(header).all_pix2world(5, 6, 0), WCS(sky()).all_pix2world(5, 6, 0))
        assert not [key for key in header if key.endswith(("3", "4"))]
        assert "Axis 3 of the tile: FREQ, CRVAL 3000000000.0, CUNIT Hz, CRPIX 1.0" in str(header["COMMENT"])


def test_two_dimensional_image_may_describe_further_axes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", fits.ImageHDU(noise(), sky(WCSAXES=3, CTYPE3="FREQ", CRVAL3=1.4e9, CRPIX3=1.0)))
    with Tile({"g": Source(path)}) as tile:
        assert (tile.wcs.naxis, tile.shape) == (2, SHAPE)


def test_sky_on_other_axes_is_refused(tmp_path: Path) -> None:
    header = fits.Header(
        {"CTYPE1": "FREQ", "CTYPE2": "RA---TAN", "CTYPE3": "DEC--TAN", "CDELT2": -1e-4, "CDELT3": 1e-4}
    )
    path = write(tmp_path / "a.fits", fits.ImageHDU(noise(shape=(60, 70, 1)), header))
    with pytest.raises(TileError, match=r"a\.fits: holds no 2-D image"):
        rows_of(path)


def test_band_may_be_a_slice_of_a_cube(tmp_path: Path) -> None:
    cube = noise(shape=(3, *SHAPE))
    path = write(tmp_path / "a.fits", fits.ImageHDU(cube, sky()))
    with Tile({"g": Source(path, None, 0), "r": Source(path, None, 2)}) as tile:
        np.testing.assert_array_equal(tile.read(0, 60), cube[[0, 2]])
    with pytest.raises(TileError, match=r"the cube has 3 slices, no slice 3: correct survey\.image_slice"):
        rows_of(path, None, 3)
    with pytest.raises(TileError, match=r"no 2-D image: name the slice of each band by survey\.image_slice"):
        rows_of(path)


def test_two_bands_of_the_same_image_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", fits.ImageHDU(noise(), sky(), name="SCI"))
    link = tmp_path / "b.fits"
    link.symlink_to(path)
    for other in (Source(path, 1), Source(link, "SCI")):
        with pytest.raises(TileError, match="band g and band r are the same image of this file"):
            Tile({"g": Source(path), "r": other})
    with pytest.raises(TileError, match="band g and the weights of band g are the same image"):
        Tile({"g": Source(path)}, planes={"WGT": {"g": Source(path, "SCI")}})


# ---- whole files in a compressed form


@pytest.mark.parametrize("name", ["a.fits", "a.fits.gz", "a.FITS.GZ", "a.fits.bz2", "a.dat"])
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_file_is_known_by_its_content(tmp_path: Path, pack: Callable[[bytes], bytes], name: str) -> None:
    plain = write(tmp_path / "plain.fits", fits.ImageHDU(noise(), sky()))
    path = tmp_path / name
    path.write_bytes(pack(plain.read_bytes()))
    np.testing.assert_array_equal(rows_of(path), noise())


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
@pytest.mark.parametrize("kept", [0.5, 0.98])
def test_truncated_compressed_file_is_refused(tmp_path: Path, pack: Callable[[bytes], bytes], kept: float) -> None:
    packed = pack(write(tmp_path / "plain.fits", fits.ImageHDU(noise(), sky())).read_bytes())
    path = tmp_path / "a.fits"
    path.write_bytes(packed[: int(kept * len(packed))])
    with pytest.raises(TileError, match=r"a\.fits: .*(replace|truncated)"):
        rows_of(path)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_truncated_image_in_a_whole_compressed_file_is_refused(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    content = write(tmp_path / "plain.fits", fits.ImageHDU(noise(), sky())).read_bytes()
    path = tmp_path / "a.fits.gz"
    path.write_bytes(pack(content[:-6000]))
    with pytest.raises(TileError, match=r"a\.fits\.gz: .*(replace|truncated)"):
        rows_of(path)


# ---- pixels


def asinh_pixels(flux: NDArray[Any], softening: float, offset: float) -> NDArray[np.float32]:
    return (2.5 / np.log(10) * np.arcsinh((flux - offset) / (2 * softening))).astype(np.float32)


@pytest.mark.parametrize("in_primary", [False, True])
def test_asinh_pixels_become_linear(tmp_path: Path, in_primary: bool) -> None:
    flux, cards = noise() * 100, {"BSOFTEN": 20.0, "BOFFSET": 5.0}
    image = fits.ImageHDU(asinh_pixels(flux, 20.0, 5.0), sky(**({} if in_primary else cards)))
    primary = fits.PrimaryHDU(header=fits.Header(cards) if in_primary else None)
    fits.HDUList([primary, image]).writeto(tmp_path / "a.fits")
    with Tile({"g": Source(tmp_path / "a.fits")}) as tile:
        np.testing.assert_allclose(tile.read(0, 60)[0], flux, rtol=1e-5, atol=1e-3)
        header = tile.headers["SCI"][0]
    # A reader of the cutout must not make its pixels linear again.
    assert not {"BSOFTEN", "BOFFSET"} & set(header)
    assert "Linear in flux; the tile has asinh, BSOFTEN 20.0, BOFFSET 5.0" in str(header["COMMENT"])


@pytest.mark.parametrize(
    "cards", [{"BSOFTEN": 20.0}, {"BOFFSET": 5.0}, {"BSOFTEN": 0.0, "BOFFSET": 1.0}, {"BSOFTEN": "x", "BOFFSET": 1.0}]
)
def test_asinh_pixels_without_their_scale_are_refused(tmp_path: Path, cards: dict[str, Any]) -> None:
    path = write(tmp_path / "a.fits", fits.ImageHDU(noise(), sky(**cards)))
    with pytest.raises(TileError, match=r"a\.fits: its pixels are not linear in flux \(BSOFTEN .*, BOFFSET .*\)"):
        rows_of(path)


@pytest.mark.parametrize(
    "unit",
    ["mag", "mag/arcsec2", "mag(AB)", "dex(Jy)", "dB", "ABmag", "MAG", "mags", "magnitude", "log(Jy)", "log10(adu)"],
)
def test_logarithmic_pixels_are_refused(tmp_path: Path, unit: str) -> None:
    path = write(tmp_path / "a.fits", fits.ImageHDU(noise(), sky(BUNIT=unit)))
    with pytest.raises(TileError, match=r"a\.fits: its pixels are in .*, not linear in flux"):
        rows_of(path)


@pytest.mark.parametrize(
    "unit", ["adu", "counts/s", "nanomaggy", "nanomaggies", "MJy/sr", "electron", "image", "catalog", "foo", ""]
)
def test_other_units_are_taken(tmp_path: Path, unit: str) -> None:
    path = write(tmp_path / "a.fits", fits.ImageHDU(noise(), sky(BUNIT=unit)))
    np.testing.assert_array_equal(rows_of(path), noise())


@pytest.mark.parametrize(
    ("method", "value", "kept"),
    [(-1, 0.0, False), (1, 0.0, False), (2, 0.0, True), (2, -99.0, False), (None, 0.0, True), (None, -99.0, True)],
)
def test_blank_value_that_the_compression_changes_is_refused(
    tmp_path: Path, method: int | None, value: float, kept: bool
) -> None:
    data = noise()
    data[10:30, 20:40] = value
    options = {"quantize_method": method, "quantize_level": 4} if method else {"quantize_level": 0}
    algorithm = "RICE_1" if method else "GZIP_1"
    path = write(tmp_path / "a.fits.fz", fits.CompImageHDU(data, sky(), compression_type=algorithm, **options))
    if not kept:
        with pytest.raises(TileError, match=rf"ZQUANTIZ = \w+\) does not keep pixels of survey\.blank_value {value:g}"):
            Tile({"g": Source(path)}, rules=ReadingRules(blank_value=value))
        return
    with Tile({"g": Source(path)}, rules=ReadingRules(blank_value=value)) as tile:
        np.testing.assert_array_equal(np.isnan(tile.read(0, 60)[0]), data == value)


BLANKS: dict[str, tuple[NDArray[Any], dict[str, Any], float]] = {
    "int32": (np.array(-999999999, np.int32), {}, -999999999.0),
    "largest int32": (np.array(2**31 - 1, np.int32), {}, 2147483647.0),
    "int16": (np.array(-32768, np.int16), {}, -32768.0),
    "float32": (np.array(-999.9, np.float32), {}, -999.9),
    "float64 from float32": (np.array(np.float32(-999.9), np.float64), {}, -999.9),
    "float64": (np.array(-999.9, np.float64), {}, -999.9),
    "scaled int32": (np.array(-9999, np.int32), {"BSCALE": 0.01}, -99.99),
    "asinh": (np.array(-5.0, np.float32), {"BSOFTEN": 3.0, "BOFFSET": 1.0}, -5.0),
}
"""Value of a hole in the file, cards, and value in the recipe."""


@pytest.mark.parametrize("name", BLANKS)
def test_blank_value_is_the_files_value_of_any_type(tmp_path: Path, name: str) -> None:
    hole, cards, value = BLANKS[name]
    data = np.random.default_rng(3).integers(0, 9, SHAPE).astype(hole.dtype)
    data[10:20, 30:40] = hole
    header = fits.Header(
        {"SIMPLE": True, "BITPIX": 8 * data.itemsize * (-1 if data.dtype.kind == "f" else 1), "NAXIS": 2}
    )
    header.update({"NAXIS1": SHAPE[1], "NAXIS2": SHAPE[0]})
    header.extend(sky(**cards), strip=False)
    content = header.tostring().encode() + data.astype(data.dtype.newbyteorder(">")).tobytes()
    path = tmp_path / "a.fits"
    path.write_bytes(content + bytes(-len(content) % 2880))
    with Tile({"g": Source(path)}, rules=ReadingRules(blank_value=value)) as tile:
        blank = np.isnan(tile.read(0, 60)[0])
    np.testing.assert_array_equal(blank, data == hole)
    assert blank.sum() == 100


def test_value_beyond_float32_is_refused_unless_blank(tmp_path: Path) -> None:
    data = noise().astype(np.float64)
    data[3, 4] = 1e300
    path = write(tmp_path / "a.fits", fits.ImageHDU(data, sky()))
    with Tile({"g": Source(path)}) as tile, pytest.raises(TileError, match=r"the pixel value 1e\+300 is too large"):
        tile.read(0, 60)
    with Tile({"g": Source(path)}, rules=ReadingRules(blank_value=1e300)) as tile:
        assert np.argwhere(np.isnan(tile.read(0, 60)[0])).tolist() == [[3, 4]]


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.int64])
def test_lossless_refuses_pixels_that_float32_rounds(tmp_path: Path, dtype: Any) -> None:
    data = (noise().astype(np.float64) * 1e8 + 0.123456789).astype(dtype)
    path = write(tmp_path / "a.fits", fits.ImageHDU(data, sky()))
    lossless = ReadingRules(lossless=True)
    with Tile({"g": Source(path)}, rules=lossless) as tile, pytest.raises(TileError, match=r"float32 cannot hold its"):
        tile.read(0, 60)
    exact = (noise() * 100).astype(np.int32).astype(dtype)
    path = write(tmp_path / "b.fits", fits.ImageHDU(exact, sky()))
    with Tile({"g": Source(path)}, rules=lossless) as tile:
        np.testing.assert_array_equal(tile.read(0, 60)[0], exact)


# ---- headers


BAD_CARDS = {
    "a line end": b"ORIGIN  = 'CASA 4.7.0 (r1)\n'",
    "a tab": b"TABBED  = 'a\tb'",
    "no quote": b"NOQUOTE = 'abc",
    "a number with two points": b"NUMBER  = 1.2.3",
    "a null": b"\x00\x00ULL   = 3",
    "a blank in the keyword": b"MY KEY  = 3",
    "not ASCII": b"COMMENT \xe9t\xe9",
    "a true in words": b"FLAG    = true",
    "no keyword": b"       = blank",
}


def with_cards(path: Path, *cards: bytes) -> Path:
    """Write an image, and put cards before the END of its header."""
    fits.PrimaryHDU(noise(), sky()).writeto(path)
    content = bytearray(path.read_bytes())
    end = content.find(b"END".ljust(80))
    text = b"".join(card.ljust(80) for card in cards) + b"END".ljust(80)
    content[end : end + len(text)] = text
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", BAD_CARDS)
def test_bad_card_costs_no_tile(tmp_path: Path, name: str) -> None:
    path = with_cards(tmp_path / "a.fits", BAD_CARDS[name], b"GOOD    = 7")
    with Tile({"g": Source(path)}) as tile:
        header = tile.headers["SCI"][0]
        assert header["GOOD"] == 7
        text = header.tostring()
        assert text.isascii()
        assert text.isprintable()
        assert all(re.fullmatch(r"[A-Z0-9_-]*|HIERARCH .*", keyword) for keyword in header)
        np.testing.assert_array_equal(tile.read(0, 60)[0], noise())


@pytest.mark.parametrize("card", [b"CRVAL1  = 12,5", b"CD1_1   = 'x\ny'", b"PV1_1   = 1.2.3"])
def test_bad_card_of_the_wcs_is_refused_by_its_name(tmp_path: Path, card: bytes) -> None:
    path = with_cards(tmp_path / "a.fits", card)
    keyword = card[:8].decode().strip()
    with pytest.raises(TileError, match=rf"a\.fits: its WCS cannot be used: the card {keyword} is not valid FITS"):
        Tile({"g": Source(path)})


@pytest.mark.parametrize(
    ("cards", "frame"),
    [
        ({"EQUINOX": "B1950"}, FK4(equinox="B1950")),
        ({"EQUINOX": "1950.0"}, FK4(equinox="B1950")),
        ({"EPOCH": "1950"}, FK4(equinox="B1950")),
        ({"EQUINOX": "J1975.0"}, FK5(equinox="J1975")),
        ({"EQUINOX": "J2000"}, ICRS()),
        ({"RADESYS": "J2000"}, ICRS()),
        ({"RADESYS": "ICRS", "EQUINOX": 0.0}, ICRS()),
        ({"EPOCH": "12/08/99"}, ICRS()),
        ({"RADESYS": "fk4"}, FK4(equinox="B1950")),
    ],
)
def test_equinox_in_text_is_read(tmp_path: Path, cards: dict[str, str], frame: Any) -> None:
    path = write(tmp_path / "a.fits", fits.ImageHDU(noise(), sky(**cards)))
    with Tile({"g": Source(path)}) as tile:
        found = SkyCoord(*pixel_to_sky(tile.wcs, 10, 20), unit="deg")
    expected = SkyCoord(*WCS(sky()).all_pix2world(10, 20, 0), unit="deg", frame=frame).icrs
    assert found.separation(expected).arcsec < 1e-6


@pytest.mark.parametrize("cards", [{"EQUINOX": "now"}, {"EQUINOX": 0.0}, {"EQUINOX": "12/08/99"}])
def test_impossible_equinox_is_refused(tmp_path: Path, cards: dict[str, Any]) -> None:
    path = write(tmp_path / "a.fits", fits.ImageHDU(noise(), sky(**cards)))
    with pytest.raises(TileError, match=r"a\.fits: .*EQUINOX"):
        Tile({"g": Source(path)})


def test_image_has_the_cards_of_its_primary_hdu(tmp_path: Path) -> None:
    cards = {"FLUXMAG0": 6.3e10, "FILTER": "HSC-I", "EXPTIME": 1200.0, "CRVAL1": 3.0, "EQUINOX": 1950.0, "OBJECT": "a"}
    primary = fits.PrimaryHDU(header=fits.Header(cards))
    image = fits.ImageHDU(noise(), sky(OBJECT="b"), name="SCI")
    fits.HDUList([primary, image]).writeto(tmp_path / "a.fits")
    with Tile({"g": Source(tmp_path / "a.fits")}) as tile:
        header = tile.headers["SCI"][0]
    assert (header["FLUXMAG0"], header["FILTER"], header["EXPTIME"]) == (6.3e10, "HSC-I", 1200.0)
    # Cards of the image come first, and no card of the primary HDU changes the WCS.
    assert (header["OBJECT"], header["CRVAL1"], "EQUINOX" in header) == ("b", 54.0, False)
