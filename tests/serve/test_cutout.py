"""A cutout as a Python object: repr, bands, identity, astropy's CCDData, and a notebook's picture."""

import io
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.io import fits
from astropy.nddata import CCDData, InverseVariance
from astropy.wcs import WCS
from PIL import Image

from archive_builder import Archive, Cutout, RequestError
from archive_builder.builder.driver import build
from archive_builder.serve.pictures import composite
from archive_builder.store.headers import TileHeaders
from archive_builder.survey.demo import make_survey

SIDE = 256
"""Side of the tile, px."""


@pytest.fixture
def cutout(demo_archive: Path) -> Iterator[Cutout]:
    with Archive(demo_archive) as archive:
        yield archive.get(archive.ids()[0], size=(20, 30))


def test_repr_is_one_line(demo_archive: Path, cutout: Cutout) -> None:
    assert repr(cutout) == (
        f"<Cutout of object {cutout.object_id}: 5 x 20 x 30, tile {cutout.tile}, bands g, r, i, z, Y>"
    )
    with Archive(demo_archive) as archive:
        at = archive.at((cutout.ra, cutout.dec), size=4, bands="g")
    assert repr(at) == f"<Cutout of RA {cutout.ra:.6f}, Dec {cutout.dec:.6f}: 1 x 4 x 4, tile {at.tile}, bands g>"


def test_indexing_by_a_band_name_gives_a_view_of_the_pixels(cutout: Cutout) -> None:
    for number, band in enumerate("grizY"):
        np.testing.assert_array_equal(cutout[band], cutout.data[number])
        assert np.shares_memory(cutout[band], cutout.data)
        assert cutout[band].shape == (20, 30)
    for unknown in ("u", "gr", "", 0):
        with pytest.raises(RequestError, match="no band"):
            cutout[unknown]  # type: ignore[index]


def test_a_cutout_equals_only_itself_and_can_be_in_a_set(cutout: Cutout) -> None:
    same = pickle.loads(pickle.dumps(cutout))
    np.testing.assert_array_equal(same.data, cutout.data)
    assert cutout == cutout
    assert cutout != same
    assert len({cutout, cutout, same}) == 2


def test_fits_file_can_have_some_bands_only(cutout: Cutout) -> None:
    for bands in ("Y,g", "Yg", ["Y", "g"], np.array(["Y", "g"])):
        with fits.open(io.BytesIO(cutout.to_bytes(bands))) as hdus:
            assert [hdu.name for hdu in hdus[1:]] == ["SCI_Y", "SCI_g"]
            np.testing.assert_array_equal([hdu.data for hdu in hdus[1:]], cutout.data[[4, 0]])
    with pytest.raises(RequestError, match="no band 'u'"):
        cutout.to_bytes("gu")


# ---- CCDData


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Archive]]:
    """A survey of one tile, and its archive with weights and masks, bit for bit."""
    folder = tmp_path_factory.mktemp("nddata")
    recipe = make_survey(folder / "survey", tiles=1, tile_size=SIDE, objects=30, seed=4)
    lines = [
        'quantization = "lossless"' if line.startswith("quantization") else line
        for line in recipe.read_text().splitlines()
        if not line.startswith(("max_background_rms", "min_depth", "max_blank_fraction"))
    ]
    recipe.write_text("\n".join([*lines, 'planes = ["WGT", "MSK"]', ""]))
    assert build(recipe, folder / "archive").failures == {}
    with Archive(folder / "archive") as archive:
        yield folder / "survey", archive


def window(image: np.ndarray, cutout: Cutout, off: float) -> np.ndarray:
    """Cut the window of a cutout out of a padded image of the tile."""
    x0, y0 = (n + SIDE for n in cutout.origin)
    return np.pad(image, SIDE, constant_values=off)[y0 : y0 + cutout.shape[0], x0 : x0 + cutout.shape[1]]


@pytest.mark.parametrize("band", ["g", "Y"])
def test_nddata_has_the_pixels_weights_flags_and_wcs_of_the_survey(kept: tuple[Path, Archive], band: str) -> None:
    survey, archive = kept
    (path,) = survey.glob(f"*/*_{band}.fits.fz")
    image, weight, flags = (fits.getdata(path, name) for name in ("SCI", "WGT", "MSK"))
    header = fits.getheader(path, "SCI")
    masked = flagged = 0
    for object_id in archive.ids():
        cutout = archive.get(object_id, size=(90, 70), bands="gY")
        ccd = cutout.to_nddata(band)
        assert isinstance(ccd, CCDData)
        np.testing.assert_array_equal(ccd.data, window(image, cutout, np.nan))
        assert isinstance(ccd.uncertainty, InverseVariance)
        weights = window(np.where(np.isnan(image), 0, weight), cutout, 0)
        np.testing.assert_array_equal(ccd.uncertainty.array, weights)
        np.testing.assert_array_equal(ccd.mask, np.isnan(window(image, cutout, np.nan)) | (weights == 0))
        np.testing.assert_array_equal(ccd.flags, window(flags, cutout, -1))
        assert (ccd.unit, ccd.uncertainty.unit) == (u.adu, u.adu**-2)
        ours = ccd.wcs.pixel_to_world_values(3, 5)
        theirs = WCS(header).pixel_to_world_values(3 + cutout.origin[0], 5 + cutout.origin[1])
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)
        assert ccd.meta["BAND"] == band
        masked += int(ccd.mask.sum())
        flagged += int((ccd.flags > 0).sum())
    assert min(masked, flagged) > 0
    with pytest.raises(RequestError, match="no band r"):
        cutout.to_nddata("r")


def test_nddata_of_an_archive_without_planes_masks_only_the_blank_pixels(demo_archive: Path) -> None:
    with Archive(demo_archive) as archive:
        blank = [c for c in map(archive.get, archive.ids()) if np.isnan(c["r"]).any()]
        assert blank
        for cutout in blank:
            ccd = cutout.to_nddata("r")
            assert (ccd.uncertainty, ccd.flags) == (None, None)
            np.testing.assert_array_equal(ccd.mask, np.isnan(cutout["r"]))


@pytest.mark.parametrize(
    ("card", "unit"),
    [
        ("BUNIT   = 'nJy     '", u.nJy),
        ("BUNIT   = 'electron / s'", u.electron / u.s),
        ("BUNIT   = 'MJy/sr'", u.MJy / u.sr),
        ("BUNIT   = 'bananas per night'", u.dimensionless_unscaled),
        ("BUNIT   = '        '", u.dimensionless_unscaled),
        ("BUNIT   = 5", u.dimensionless_unscaled),
        ("BUNIT   = T", u.dimensionless_unscaled),
        ("OTHER   = 'adu'", u.dimensionless_unscaled),
    ],
)
def test_unit_of_nddata_is_the_headers_if_valid(cutout: Cutout, card: str, unit: u.UnitBase) -> None:
    wcs = "CTYPE1  = 'RA---TAN'\nCTYPE2  = 'DEC--TAN'\nCRVAL1  = 54.0\nCRVAL2  = -28.0\nCD1_1   = -7E-5\nCD2_2   = 7E-5"
    other = replace(cutout, headers=TileHeaders({"SCI": dict.fromkeys(cutout.bands, f"{wcs}\n{card}")}))
    assert other.to_nddata("i").unit == unit


# ---- in a notebook


def shown(cutout: Cutout) -> np.ndarray:
    content = cutout._repr_png_()
    assert content is not None
    with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
        return np.asarray(picture)


def test_a_notebook_shows_the_surveys_picture_or_a_composite(cutout: Cutout) -> None:
    np.testing.assert_array_equal(shown(cutout), cutout.color)
    colorless = replace(cutout, planes=("SCI",))
    zero_points = cutout.zero_points
    expected = composite(cutout.data[:, ::-1], cutout.bands, zero_points, cutout.rms)  # the demo's north is up
    np.testing.assert_array_equal(shown(colorless), expected)


def test_a_notebook_shows_one_band_in_grey_and_no_picture_without_a_band(cutout: Cutout) -> None:
    image = shown(replace(cutout, planes=("SCI",), data=cutout.data[3:4], bands=cutout.bands[3:4]))
    assert image.shape == (20, 30)
    assert len(np.unique(image)) > 10
    assert replace(cutout, planes=("SCI",), data=cutout.data[:0], bands=())._repr_png_() is None
