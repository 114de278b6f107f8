"""Archives of other surveys' images: frames, headers, zero points, weights, missing bands, types of pixels."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from astropy.coordinates import FK4, SkyCoord
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from helpers import run
from numpy.typing import NDArray

from archive_builder import Archive, build, reindex, verify
from archive_builder.builder.driver import BuildReport, plan_changes
from archive_builder.builder.one_tile import TileJob, run_job
from archive_builder.serve.style import Style
from archive_builder.survey.discovery import discover
from archive_builder.survey.fits_warnings import quiet_astropy
from archive_builder.survey.recipe import load_recipe

SIDE = 160
SCALE = 0.5 / 3600
IDS = np.arange(101, 107)
XY = np.array([(20, 30), (80, 80), (130, 40), (60, 120), (100, 61), (140, 140)], dtype=float)


def noise(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 2, (SIDE, SIDE)).astype(np.float32)


def sky(**cards: Any) -> fits.Header:
    """Return a header with a WCS around RA 54, Dec -28."""
    first = {"CTYPE1": "RA---TAN", "CRVAL1": 54.0, "CRPIX1": 80.5, "CDELT1": -SCALE}
    second = {"CTYPE2": "DEC--TAN", "CRVAL2": -28.0, "CRPIX2": 80.5, "CDELT2": SCALE}
    return fits.Header({**first, **second, **cards})


def icrs(header: fits.Header, frame: Any = "icrs", swap: bool = False) -> SkyCoord:
    """Return the sky positions of the objects, by astropy."""
    with quiet_astropy():
        world = WCS(header).celestial if header.get("WCSAXES", 2) > 2 else WCS(header)
    native = world.all_pix2world(XY, 0)[:, :: -1 if swap else 1]
    return SkyCoord(*native.T, unit="deg", frame=frame).icrs


def write_survey(
    folder: Path,
    images: Mapping[str, Any],
    positions: SkyCoord,
    *,
    bands: tuple[str, ...] = (),
    survey: str = "zero_point = 30.0",
    more: str = "",
) -> Path:
    """Write a survey of one tile, and return its recipe.

    Parameters
    ----------
    images : mapping of str to HDU or HDUList
        FITS file of each band.
    survey, more : str
        Lines of ``[survey]``, and lines at the end of the recipe.
    """
    (folder / "T1").mkdir(parents=True)
    for band, hdus in images.items():
        hdus.writeto(folder / "T1" / f"{band}.fits")
    Table({"ID": IDS, "RA": positions.ra.deg, "DEC": positions.dec.deg}).write(folder / "T1" / "cat.fits")
    names = ", ".join(f'"{band}"' for band in bands or images)
    recipe = folder / "survey.toml"
    recipe.write_text(
        f'[survey]\nname = "Other"\nbands = [{names}]\nimage = "{{tile}}/{{band}}.fits"\n{survey}\n'
        '[catalog]\npath = "{tile}/cat.fits"\nobject_id = "ID"\nra = "RA"\ndec = "DEC"\n'
        f"[cutout]\nsize = 21\n{more}\n"
    )
    return recipe


def built(recipe: Path, archive: Path, stored: int = len(IDS)) -> BuildReport:
    """Build an archive without failures."""
    report = build(recipe, archive, workers=1)
    assert (report.failures, report.stored) == ({}, stored)
    assert list(verify(archive, deep=True, survey=recipe)) == []
    return report


def refused(recipe: Path, archive: Path) -> str:
    """Return the error of the tile, one line; the tile is built in this process."""
    loaded = load_recipe(recipe)
    found = discover(loaded)
    error = found.incomplete.get("T1")
    if error is None:
        (archive / "shards").mkdir(parents=True)
        error = run_job(TileJob(found.tiles[0], loaded, 21, archive, 1)).error
        assert list((archive / "shards").iterdir()) == []
    assert error is not None
    assert "\n" not in error
    return error


FRAMES: dict[str, tuple[dict[str, Any], Any, bool]] = {
    "FK4": ({"EQUINOX": 1950.0}, FK4(equinox="B1950"), False),
    "FK5 J2000": ({"EQUINOX": 2000.0}, "icrs", False),
    "galactic": ({"CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"}, "galactic", False),
    "ecliptic": ({"CTYPE1": "ELON-SIN", "CTYPE2": "ELAT-SIN"}, "barycentricmeanecliptic", False),
    "supergalactic": ({"CTYPE1": "SLON-TAN", "CTYPE2": "SLAT-TAN"}, "supergalactic", False),
    "latitude first": (
        {"CTYPE1": "DEC--TAN", "CTYPE2": "RA---TAN", "CRVAL1": -28.0, "CRVAL2": 54.0, "CDELT2": -SCALE},
        "icrs",
        True,
    ),
    "four axes": ({"WCSAXES": 4, "CTYPE3": "FREQ", "CRVAL3": 3e9, "CTYPE4": "STOKES", "CRVAL4": 1.0}, "icrs", False),
}


@pytest.fixture(scope="module", params=["mosaic", "stamps"])
def framed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Archive]:
    """Return a layout and an archive with a tile in each frame, of objects ``100 * tile + number``."""
    folder = tmp_path_factory.mktemp("frames")
    recipe = write_survey(folder / "s", {}, icrs(sky()), bands=("g",), more=f'[storage]\nlayout = "{request.param}"')
    shutil.rmtree(folder / "s" / "T1")
    for number, (cards, frame, swap) in enumerate(FRAMES.values(), start=1):
        tile = folder / "s" / f"T{number}"
        tile.mkdir()
        header = sky(**cards)
        fits.PrimaryHDU(noise(number), header).writeto(tile / "g.fits")
        positions = icrs(header, frame, swap)
        table = {"ID": 100 * number + np.arange(len(XY)), "RA": positions.ra.deg, "DEC": positions.dec.deg}
        Table(table).write(tile / "cat.fits")
    built(recipe, folder / "a", stored=len(FRAMES) * len(XY))
    return request.param, Archive(folder / "a")


@pytest.mark.parametrize("name", FRAMES)
def test_objects_are_cut_where_their_icrs_position_is(framed: tuple[str, Archive], name: str) -> None:
    layout, archive = framed
    cards, frame, swap = FRAMES[name]
    number = list(FRAMES).index(name) + 1
    objects = zip(100 * number + np.arange(len(XY)), XY.astype(int), icrs(sky(**cards), frame, swap), strict=True)
    for object_id, (x, y), position in objects:
        cutout = archive.get(int(object_id))
        assert (cutout.tile, cutout.origin) == (f"T{number}", (x - 10, y - 10))
        assert position.separation(cutout.coord).arcsec < 1e-6
        # The cutout's own WCS, read by astropy alone, puts the object at the centre.
        found = cutout.wcs.all_pix2world(10, 10, 0)[:: -1 if swap else 1]
        assert position.separation(SkyCoord(*found, unit="deg", frame=frame).icrs).arcsec < 1e-3
        if layout == "mosaic" and frame != "icrs":  # the tiles in ICRS overlap
            np.testing.assert_array_equal(archive.at(position, size=21).data, cutout.data)
        assert object_id in archive.cone_search(position, "1 arcsec")["object_id"]
    turned = archive.get(100 * number + 1).picture(Style(rotate="north", color="lupton"))
    assert (turned > 0).mean() > 0.6  # corners outside the cutout are black


def plate_solution() -> fits.Header:
    """Return the header of a DSS image: astropy takes the plate solution before CTYPE and CRVAL."""
    plate = {"PLTRAH": 10, "PLTRAM": 0, "PLTRAS": 0.0, "PLTDECSN": "+", "PLTDECD": 2, "PLTDECM": 0, "PLTDECS": 0.0}
    plate |= {"CNPIX1": 6900, "CNPIX2": 6900, "XPIXELSZ": 15.0, "YPIXELSZ": 15.0, "PPO3": 105000.0, "PPO6": 105000.0}
    plate |= dict.fromkeys(("PPO1", "PPO2", "PPO4", "PPO5"), 0.0)
    terms = {f"AMD{axis}{n}": 67.2 if n == 1 else 0.0 for n in range(1, 21) for axis in "XY"}
    return sky(CRVAL1=150.0, CRVAL2=2.0, CDELT1=-2.8e-4, CDELT2=2.8e-4, EQUINOX=2000.0, **plate, **terms)


def test_cut_moves_the_plate_solution_of_dss(tmp_path: Path) -> None:
    header = plate_solution()
    recipe = write_survey(tmp_path / "s", {"r": fits.PrimaryHDU(noise(), header)}, icrs(header))
    built(recipe, tmp_path / "a")
    with Archive(tmp_path / "a") as archive:
        for object_id, position in zip(IDS, icrs(header), strict=True):
            cutout = archive.get(int(object_id))
            x, y = WCS(cutout.header("r")).all_world2pix(position.ra.deg, position.dec.deg, 0)
            np.testing.assert_allclose((x, y), (10, 10), atol=1e-3)


def test_header_that_a_cut_cannot_move_fails_its_tile(tmp_path: Path) -> None:
    # A table of distortions is outside the header, and so is not in a cutout.
    header = sky(CPDIS1="LOOKUP", CPDIS2="LOOKUP")
    header["DP1"], header["DP2"] = "NAXES: 2", "NAXES: 2"
    recipe = write_survey(tmp_path / "s", {"g": fits.PrimaryHDU(noise(), header)}, icrs(sky()))
    assert "its WCS cannot be used" in refused(recipe, tmp_path / "a")


def test_verify_finds_a_header_of_another_position(tmp_path: Path) -> None:
    recipe = write_survey(tmp_path / "s", {"g": fits.PrimaryHDU(noise(), sky())}, icrs(sky()))
    built(recipe, tmp_path / "a")
    (shard,) = (tmp_path / "a" / "shards").glob("*.h5")
    with h5py.File(shard, "r+") as file:
        text = file["headers"][0].decode()
        assert "80.5" in text
        file["headers"][0] = text.replace("CRPIX1  =                 80.5", "CRPIX1  =                 81.5").encode()
    with h5py.File(shard) as file:
        assert "81.5" in file["headers"][0].decode()
    reindex(tmp_path / "a", workers=1)  # the index takes the new checksum
    found = [finding.what for finding in verify(tmp_path / "a", deep=True, survey=recipe)]
    assert any("is not where the survey has it" in what for what in found), found


# ---- headers and zero points

ZERO_POINTS: dict[str, tuple[str, float, float]] = {
    "a number": ("zero_point = 22.5", 22.5, 22.5),
    "a number for each band": ("zero_point = { g = 22.5, r = 23.0 }", 22.5, 23.0),
    "a card": ('zero_point = "MAGZP"', 25.25, 25.5),
    "a card of the primary HDU": ('zero_point = "PRIMZP"', 27.0, 27.0),
    "a flux": ('zero_point = { card = "FLUXMAG0", as = "flux of magnitude 0" }', 2.5 * math.log10(6.3e10), 27.0),
    "an exposure": ('zero_point = { number = 25.0, exposure = "EXPTIME" }', 30.0, 25 + 2.5 * math.log10(200)),
    "a column": ('zero_point = "{zp}"\ntiles = "tiles.csv"', 21.75, 21.75),
    "a column for each band": ('zero_point = "{zp_{band}}"\ntiles = "tiles.csv"', 20.5, 20.25),
    "several rules": ('zero_point = { g = "MAGZP", r = 24.0 }', 25.25, 24.0),
}


def files_with_zero_points() -> dict[str, fits.HDUList]:
    found = {}
    for seed, (band, cards) in enumerate(
        {
            "g": {"MAGZP": 25.25, "FLUXMAG0": 6.3e10, "EXPTIME": 100.0},
            "r": {"MAGZP": 25.5, "FLUXMAG0": 10**10.8, "EXPTIME": 200.0},
        }.items()
    ):
        primary = fits.PrimaryHDU(header=fits.Header({"PRIMZP": 27.0, "FILTER": band.upper()}))
        found[band] = fits.HDUList([primary, fits.ImageHDU(noise(seed), sky(**cards), name="SCI")])
    return found


@pytest.mark.parametrize("name", ZERO_POINTS)
def test_zero_point_follows_its_rule(tmp_path: Path, name: str) -> None:
    line, g, r = ZERO_POINTS[name]
    recipe = write_survey(tmp_path / "s", files_with_zero_points(), icrs(sky()), survey=line)
    (tmp_path / "s" / "tiles.csv").write_text("tile,zp,zp_g,zp_r\nT1,21.75,20.5,20.25\n")
    built(recipe, tmp_path / "a")
    with Archive(tmp_path / "a") as archive:
        cutout = archive.get(102)
        assert cutout.zero_points == pytest.approx({"g": g, "r": r})
        assert cutout.zero_point == (pytest.approx(g) if g == r else pytest.approx({"g": g, "r": r}))
        assert [cutout.header(band)["PHOTZP"] for band in "gr"] == pytest.approx([g, r])
        assert [cutout.header(band)["FILTER"] for band in "gr"] == ["G", "R"]
        assert archive.get(102, bands="r").zero_point == pytest.approx(r)


def test_depth_is_in_the_zero_point_of_its_band(tmp_path: Path) -> None:
    # 5 sigma in an aperture of 1.95": the same pixels are 3 mag deeper in r.
    recipe = write_survey(
        tmp_path / "s",
        {band: fits.PrimaryHDU(noise(), sky()) for band in "gr"},
        icrs(sky()),
        survey="zero_point = { g = 25.0, r = 28.0 }",
        more="[quality]\nmin_depth = { r = 23.0 }",
    )
    (tmp_path / "s" / "T1" / "r.fits").unlink()
    fits.PrimaryHDU(noise(1), sky()).writeto(tmp_path / "s" / "T1" / "r.fits")
    report = built(recipe, tmp_path / "a")
    assert report.skipped["noise"] == 0
    expected = 28.0 - 2.5 * math.log10(5 * 2 * math.sqrt(math.pi * (1.95 / 2) ** 2 / 0.5**2))
    with h5py.File(next((tmp_path / "a" / "shards").glob("*.h5"))) as file:
        assert file.attrs["zero_point"].tolist() == [25.0, 28.0]
        rms = float(np.median(file["objects/rms"][:, 1]))
    assert 28.0 - 2.5 * math.log10(5 * rms * math.sqrt(math.pi * 0.975**2 / 0.25)) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('zero_point = "MISSING"', "g.fits: has no card MISSING for the zero point"),
        ('zero_point = "FILTER"', "g.fits: has no number in the card (but 'G') FILTER for the zero point"),
        ('zero_point = { number = 25.0, exposure = "DARK" }', "g.fits: the card DARK is 0, not above zero"),
    ],
)
def test_zero_point_that_cannot_be_read_names_file_and_card(tmp_path: Path, line: str, message: str) -> None:
    files = files_with_zero_points()
    files["g"][1].header["DARK"] = 0.0
    recipe = write_survey(tmp_path / "s", files, icrs(sky()), survey=line)
    assert message in refused(recipe, tmp_path / "a")


@pytest.mark.parametrize(
    ("before", "after"),
    [("image_hdu = 1", "image_hdu = 2"), ('ra = "RA"', 'ra = "RA2"'), ("[cutout]", 'frame = "fk4"\n[cutout]')],
)
def test_another_way_to_read_the_files_makes_the_tile_due(tmp_path: Path, before: str, after: str) -> None:
    images = [fits.ImageHDU(noise(n), sky()) for n in range(2)]
    recipe = write_survey(
        tmp_path / "s",
        {"g": fits.HDUList([fits.PrimaryHDU(), *images])},
        icrs(sky()),
        survey="zero_point = 30.0\nimage_hdu = 1",
    )
    table = Table.read(tmp_path / "s" / "T1" / "cat.fits")
    table["RA2"] = table["RA"]
    table.write(tmp_path / "s" / "T1" / "cat.fits", overwrite=True)
    built(recipe, tmp_path / "a")
    recipe.write_text(recipe.read_text().replace(before, after))
    for contents in (False, True):
        due = plan_changes(recipe, tmp_path / "a", contents=contents)
        assert [task.files.tile for task in due.tasks] == ["T1"]


# ---- weights and masks

KINDS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "inverse variance": lambda ivar: ivar,
    "variance": lambda ivar: 1 / ivar,
    "rms": lambda ivar: 1 / np.sqrt(ivar),
    "weight": lambda ivar: 1234.5 * ivar,
}


@pytest.mark.parametrize("own_file", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_any_kind_are_served_as_inverse_variance(tmp_path: Path, kind: str, own_file: bool) -> None:
    ivar = np.random.default_rng(3).uniform(0.2, 0.3, (SIDE, SIDE))
    with np.errstate(divide="ignore"):
        stored = KINDS[kind](ivar).astype(np.float32)
    stored[70:75, 70:75] = 0.0
    stored[75:80, 70:75] = np.nan
    stored[80:85, 70:75] = -1.0
    plane = fits.ImageHDU(stored, fits.Header({"WCOMMENT": "mine"}), name="PLANE")
    image = fits.ImageHDU(noise(), sky(), name="SCI")
    files = fits.HDUList([fits.PrimaryHDU(), image, *([] if own_file else [plane])])
    where = 'image = "{tile}/{band}.w.fits"' if own_file else 'hdu = "PLANE"'
    recipe = write_survey(
        tmp_path / "s",
        {"g": files},
        icrs(sky()),
        survey='zero_point = 30.0\nimage_hdu = "SCI"',
        more=f'[planes.weight]\n{where}\nkind = "{kind}"',
    )
    if own_file:
        fits.HDUList([fits.PrimaryHDU(), plane]).writeto(tmp_path / "s" / "T1" / "g.w.fits")
    built(recipe, tmp_path / "a")
    expected = ivar.copy()
    if kind == "weight":  # relative: the median of its inverse variance is that of the noise
        expected *= 1 / (np.median(ivar) * 4)
    expected[70:85, 70:75] = 0
    with Archive(tmp_path / "a") as archive:
        cutout = archive.get(102)
        x, y = cutout.origin
        window = expected[y : y + 21, x : x + 21]
        tolerance = 0.15 if kind == "weight" else 0.0105  # the noise of the sample, and 1%
        np.testing.assert_allclose(cutout.weight[0], window, rtol=tolerance)
        np.testing.assert_array_equal(cutout.weight[0] == 0, window == 0)
        hdus = cutout.to_hdus()
        assert hdus["WGT_g"].header["WCOMMENT"] == "mine"
        assert "WCOMMENT" not in hdus["SCI_g"].header
        np.testing.assert_allclose(WCS(hdus["WGT_g"].header).wcs.crpix, cutout.wcs.wcs.crpix)


def test_one_mask_serves_all_bands_with_64_flags(tmp_path: Path) -> None:
    flags = np.random.default_rng(5).integers(0, 2**62, (SIDE, SIDE), dtype=np.int64)
    recipe = write_survey(
        tmp_path / "s",
        {band: fits.PrimaryHDU(noise(n), sky()) for n, band in enumerate("gr")},
        icrs(sky()),
        more='[planes.mask]\nimage = "{tile}/flags.fits"',
    )
    fits.PrimaryHDU(flags).writeto(tmp_path / "s" / "T1" / "flags.fits")
    built(recipe, tmp_path / "a")
    with Archive(tmp_path / "a") as archive:
        cutout = archive.get(101, size=61)  # hangs over the edge
        assert cutout.mask.dtype == np.int64
        x, y = cutout.origin
        assert (x, y) == (-10, 0)
        np.testing.assert_array_equal(cutout.mask[:, :, 10:], [flags[:61, :51]] * 2)
        assert (cutout.mask[:, :, :10] == -1).all()
        assert cutout.to_hdus()["MSK_r"].header["BITPIX"] == 64


def test_weights_of_another_place_fail_the_tile(tmp_path: Path) -> None:
    recipe = write_survey(
        tmp_path / "s",
        {"g": fits.PrimaryHDU(noise(), sky())},
        icrs(sky()),
        more='[planes.weight]\nimage = "{tile}/w.fits"',
    )
    fits.PrimaryHDU(noise(1) ** 2, sky(CRPIX1=90.5)).writeto(tmp_path / "s" / "T1" / "w.fits")
    assert "the WCS of band g's weights is off band g's by 10 px" in refused(recipe, tmp_path / "a")


@pytest.mark.parametrize("scale", [1e-20, 1e25])
def test_weights_beyond_float32_fail_the_tile(tmp_path: Path, scale: float) -> None:
    recipe = write_survey(
        tmp_path / "s",
        {"g": fits.PrimaryHDU(noise() * np.float32(scale), sky())},
        icrs(sky()),
        more='[planes.weight]\nimage = "{tile}/w.fits"\nkind = "rms"',
    )
    fits.PrimaryHDU(np.full((SIDE, SIDE), 2 * scale)).writeto(tmp_path / "s" / "T1" / "w.fits")
    assert "w.fits: float32 cannot hold the inverse variance" in refused(recipe, tmp_path / "a")


# ---- missing bands


def test_missing_band_is_nan_with_weight_0_and_mask_minus_1(tmp_path: Path) -> None:
    def file(seed: int) -> fits.HDUList:
        extra = [fits.ImageHDU(np.full((SIDE, SIDE), n, np.int32 if n == 7 else np.float32)) for n in (3, 7)]
        return fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(noise(seed), sky()), *extra])

    recipe = write_survey(
        tmp_path / "s",
        {"g": file(0), "i": file(1)},
        icrs(sky()),
        bands=("g", "r", "i"),
        survey='zero_point = { g = 30.0, r = 29.0, i = 30.0 }\nimage_hdu = 1\nmissing_bands = "blank"',
        more="[quality]\nmax_blank_fraction = 0.3\nmax_background_rms = { g = 9.0 }\n"
        "[planes.weight]\nhdu = 2\n[planes.mask]\nhdu = 3",
    )
    built(recipe, tmp_path / "a")
    with Archive(tmp_path / "a") as archive:
        cutout = archive.get(102)
        assert np.isnan(cutout["r"]).all()
        assert np.isfinite(cutout["g"]).all()
        assert (cutout.weight[1] == 0).all()
        assert (cutout.mask[1] == -1).all()
        assert [int(cutout.mask[n].max()) for n in (0, 2)] == [7, 7]
        hdus = cutout.to_hdus()
        np.testing.assert_allclose(WCS(hdus["SCI_r"].header).wcs.crval, (54.0, -28.0))


def test_tile_may_lack_a_band_with_its_planes(tmp_path: Path) -> None:
    hdus = [
        fits.ImageHDU(noise(), sky(), name="g"),
        fits.ImageHDU(np.full((SIDE, SIDE), 5, np.int16), name="g_M"),
    ]
    recipe = write_survey(
        tmp_path / "s",
        {"all": fits.HDUList([fits.PrimaryHDU(), *hdus])},
        icrs(sky()),
        bands=("g", "r"),
        survey='zero_point = { g = 25.0, r = 27.0 }\nimage_hdu = "{band}"\nmissing_bands = "blank"',
        more='[planes.mask]\nhdu = "{band}_M"',
    )
    recipe.write_text(recipe.read_text().replace("{tile}/{band}.fits", "{tile}/all.fits"))
    report = built(recipe, tmp_path / "a")
    assert report.missing == {"r": 1}
    with Archive(tmp_path / "a") as archive:
        cutout = archive.get(102)
        assert cutout.zero_points == {"g": 25.0, "r": 27.0}
        assert (cutout.mask[0] == 5).all()
        assert (cutout.mask[1] == -1).all()
    shown = run("build", recipe, tmp_path / "b", "--workers", 1)
    assert "blank bands, of 1 tiles: r on 1\n" in shown.stdout


def test_verify_refuses_a_recipe_of_other_settings_and_says_what_was_not_compared(tmp_path: Path) -> None:
    recipe = write_survey(tmp_path / "s", {"g": fits.PrimaryHDU(noise(), sky())}, icrs(sky()))
    built(recipe, tmp_path / "a")
    other = tmp_path / "s" / "other.toml"
    other.write_text(recipe.read_text().replace("zero_point", "blank_value = 0.0\nzero_point"))
    shown = run("verify", tmp_path / "a", "--deep", "--survey", other)
    assert (shown.exit_code, "survey.blank_value was null, is 0.0" in shown.stderr) == (2, True)
    (tmp_path / "s" / "T1" / "g.fits").touch()
    shown = run("verify", tmp_path / "a", "--deep", "--survey", recipe)
    assert shown.stdout.splitlines()[-1] == "no problems found, but 1 tiles were not compared with the survey"


def test_missing_band_fails_its_tile_by_default_and_a_tile_without_bands_always(tmp_path: Path) -> None:
    recipe = write_survey(
        tmp_path / "s",
        {"g": fits.PrimaryHDU(noise(), sky())},
        icrs(sky()),
        bands=("g", "r"),
        survey="zero_point = 30.0",
    )
    assert "no file for band r" in refused(recipe, tmp_path / "a")
    recipe.write_text(recipe.read_text().replace("zero_point", 'missing_bands = "blank"\nzero_point'))
    built(recipe, tmp_path / "b")
    (tmp_path / "s" / "tiles.csv").write_text("tile\nT1\nT2\n")
    (tmp_path / "s" / "T2").mkdir()
    recipe.write_text(recipe.read_text().replace("zero_point", 'tiles = "tiles.csv"\nzero_point'))
    report = build(recipe, tmp_path / "c", workers=1)
    assert list(report.failures) == ["T2"]
    assert "no band has a file" in report.failures["T2"]


def test_band_that_appears_later_makes_its_tile_due(tmp_path: Path) -> None:
    recipe = write_survey(
        tmp_path / "s",
        {"g": fits.PrimaryHDU(noise(), sky())},
        icrs(sky()),
        bands=("g", "r"),
        survey='zero_point = 30.0\nmissing_bands = "blank"',
    )
    built(recipe, tmp_path / "a")
    assert build(recipe, tmp_path / "a", workers=1).unchanged == 1
    fits.PrimaryHDU(noise(1), sky()).writeto(tmp_path / "s" / "T1" / "r.fits")
    assert build(recipe, tmp_path / "a", workers=1).built == 1
    with Archive(tmp_path / "a") as archive:
        assert np.isfinite(archive.get(102)["r"]).all()


def test_hdu_of_a_band_may_be_missing(tmp_path: Path) -> None:
    images = [fits.ImageHDU(noise(n), sky(), name=band) for n, band in enumerate("gi")]
    (tmp_path / "s").mkdir()
    recipe = write_survey(
        tmp_path / "s" / "x",
        {"all": fits.HDUList([fits.PrimaryHDU(), *images])},
        icrs(sky()),
        bands=("g", "r", "i"),
        survey='zero_point = 30.0\nimage_hdu = "{band}"\nmissing_bands = "blank"',
    )
    recipe.write_text(recipe.read_text().replace("{tile}/{band}.fits", "{tile}/all.fits"))
    built(recipe, tmp_path / "a")
    with Archive(tmp_path / "a") as archive:
        cutout = archive.get(102)
        assert [bool(np.isnan(cutout[band]).all()) for band in "gri"] == [False, True, False]
        x, y = cutout.origin
        np.testing.assert_allclose(cutout["i"], noise(1)[y : y + 21, x : x + 21], atol=0.08)


# ---- types of pixels


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.int64])
@pytest.mark.parametrize("compressed", [False, True])
def test_pixels_that_float32_rounds_by_more_than_half_a_step_are_refused(
    tmp_path: Path, dtype: Any, compressed: bool
) -> None:
    if compressed and dtype is np.int64:
        pytest.skip("FITS has no compression of 64-bit integers")
    data = (noise().astype(np.float64) * (0.01 if dtype is np.float64 else 4) + 2e9).astype(dtype)
    options = {"quantize_level": 0, "compression_type": "GZIP_1"} if dtype is np.float64 else {}
    image = fits.CompImageHDU(data, sky(), **options) if compressed else fits.ImageHDU(data, sky())
    recipe = write_survey(tmp_path / "s", {"g": fits.HDUList([fits.PrimaryHDU(), image])}, icrs(sky()))
    message = refused(recipe, tmp_path / "a")
    assert "band g: float32 would round its pixels by up to " in message
    assert "more than half a quantization step" in message


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.int16])
def test_pixels_that_float32_holds_are_taken_with_a_bright_star(tmp_path: Path, dtype: Any) -> None:
    data = (noise().astype(np.float64) * 8 + 1000).astype(dtype)
    if dtype is not np.int16:
        data[40, 131] = 123456789  # beyond the 24 bits of float32: one pixel costs no tile
    recipe = write_survey(tmp_path / "s", {"g": fits.PrimaryHDU(data, sky())}, icrs(sky()))
    built(recipe, tmp_path / "a")
    with Archive(tmp_path / "a") as archive:
        cutout = archive.get(103)
        x, y = cutout.origin
        window = data[y : y + 21, x : x + 21].astype(np.float64)
        np.testing.assert_allclose(cutout["g"], window, rtol=6e-8, atol=cutout.step["g"] / 2)


@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_lossless_says_no_where_it_cannot_be(tmp_path: Path, dtype: Any) -> None:
    data = (noise().astype(np.float64) * 1e9).astype(dtype)
    lossless = '[storage]\nquantization = "lossless"'
    recipe = write_survey(tmp_path / "s", {"g": fits.PrimaryHDU(data, sky())}, icrs(sky()), more=lossless)
    message = refused(recipe, tmp_path / "a")
    assert f"float32 cannot hold its {np.dtype(dtype)} values exactly, so the archive cannot be lossless" in message


def test_two_bands_of_one_image_are_refused(tmp_path: Path) -> None:
    recipe = write_survey(tmp_path / "s", {"g": fits.PrimaryHDU(noise(), sky())}, icrs(sky()), bands=("g", "r"))
    (tmp_path / "s" / "T1" / "r.fits").symlink_to(tmp_path / "s" / "T1" / "g.fits")
    assert "band g and band r are the same image of this file" in refused(recipe, tmp_path / "a")


def test_archive_of_a_whole_sky_map_is_searched_by_its_wcs(tmp_path: Path) -> None:
    header = sky(CTYPE1="RA---AIT", CTYPE2="DEC--AIT", CRVAL1=150.0, CRVAL2=0.0, CDELT1=-2.5, CDELT2=2.5)
    positions = SkyCoord([150, 200, 100, 300, 10, 150], [0, 40, -40, 10, -5, 60], unit="deg")
    recipe = write_survey(tmp_path / "s", {"g": fits.PrimaryHDU(noise(), header)}, positions)
    built(recipe, tmp_path / "a")
    with Archive(tmp_path / "a") as archive:
        for object_id, position in zip(IDS, positions, strict=True):
            x, y = WCS(header).all_world2pix(position.ra.deg, position.dec.deg, 0)
            cutout = archive.at(position, size=5)
            assert cutout.origin == (round(float(x)) - 2, round(float(y)) - 2)
            np.testing.assert_array_equal(cutout.data, archive.get(int(object_id), size=5).data)
