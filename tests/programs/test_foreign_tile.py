"""A tile of real galaxies, compressed, catalogued and coloured by other programs, needs only a recipe.

The pixels are HSC's: five bands of 69 x 57 px in the COSMOS field, repeated over a larger tile.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.stats import mad_std
from astropy.table import Table
from astropy.wcs import WCS
from numpy.typing import NDArray
from PIL import Image

from archive_builder import Archive
from archive_builder.errors import TileError
from archive_builder.survey.catalog import read_catalog
from archive_builder.survey.recipe import CatalogSection

BANDS = "grizy"
HEIGHT, WIDTH = 1100, 1300
PIXEL_SCALE = 0.168
"""Pixel scale of Hyper Suprime-Cam, arcsec."""

SIZE = 71
"""The recipe's 12 arcsec, px. The size is odd, so astropy's Cutout2D rounds like the rule of the cut."""

MESH = 128
"""Default side of a noise cell, px."""

Q = 16
"""Steps per noise RMS, for fpack and for the archive."""

NEIGHBOUR = 0.25
"""Weight of the adjacent pixels in the noise: the noise is correlated, as after resampling."""

SOURCE_EXTRACTOR = "source-extractor sex"
COLUMNS = (
    "NUMBER",
    "ALPHAWIN_J2000",
    "DELTAWIN_J2000",
    "XWIN_IMAGE",
    "YWIN_IMAGE",
    "X_IMAGE",
    "Y_IMAGE",
    "MAG_AUTO",
    "FLUX_RADIUS",
    "FLAGS",
)

DATA = Path(os.environ.get("ARCHIVE_BUILDER_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
"""Folder of the real image."""

RECIPE = """\
[survey]
name = "HSC COSMOS"
bands = ["g", "r", "i", "z", "y"]
image = "{tile}/calexp-{tile}-{band}.fits*"
color = "{tile}/{tile}_irg.tiff"
zero_point = 27.0

[catalog]
path = "{tile}/{tile}.cat"
object_id = "NUMBER"
ra = "ALPHAWIN_J2000"
dec = "DELTAWIN_J2000"

[cutout]
size = "12 arcsec"
"""


@dataclass(frozen=True)
class Foreign:
    """A survey of one tile, made by other programs, and its archive."""

    folder: Path
    """Folder of the tile in the survey, the input of the builder."""

    catalogs: dict[str, Path]
    """The same objects in both FITS formats of Source Extractor."""

    images: dict[str, NDArray[np.float32]]
    """Image of each band, from funpack."""

    wcs: WCS
    """WCS of the tile, read by astropy from funpack's output."""

    catalog: Table
    """Source Extractor's catalogue, from its plain FITS table."""

    rms: dict[str, NDArray[np.float32]]
    """Source Extractor's map of the background RMS of each band."""

    archive: Path


def real_image() -> NDArray[np.float32]:
    """Return the five bands (5, 69, 57) without their sky level."""
    path = DATA / "hsc_cosmos.npz"
    if not path.is_file():
        pytest.skip(f"{path} is missing")
    images = np.load(path)["images"]
    return images - np.median(images, axis=(1, 2), keepdims=True)


def lay_out(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Repeat an image (bands, ny, nx) over a tile of noise, flipped, turned and shifted at random.

    The weights of image and noise keep their sum at most as noisy as the image. A gain then doubles from one corner
    to the other, so the noise varies over the tile.
    """
    noise = rng.standard_normal((len(image), HEIGHT, WIDTH))
    for axis in (1, 2):
        noise += NEIGHBOUR * (np.roll(noise, 1, axis) + np.roll(noise, -1, axis))
    tile = noise / noise.std() * mad_std(image, axis=(1, 2))[:, None, None]
    ny, nx = image.shape[1:]
    ramp = [np.clip(np.minimum(np.arange(n), np.arange(n)[::-1]) / 6, 0, 1) for n in (ny, nx)]
    weight = np.outer(*(np.sin(np.pi / 2 * r) for r in ramp))
    margin = 40
    padded = np.pad(tile, ((0, 0), (margin, margin), (margin, margin)))
    for y in range(0, HEIGHT, 92):
        for x in range(0, WIDTH, 92):
            stamp, share = np.where(weight > 0, image, 0), weight
            if rng.random() < 0.5:
                stamp, share = stamp[..., ::-1], share[..., ::-1]
            turns = rng.integers(4)
            stamp, share = np.rot90(stamp, turns, (1, 2)), np.rot90(share, turns)
            y0, x0 = (int(start + rng.integers(-20, 20)) + margin - 10 for start in (y, x))
            place = np.s_[:, y0 : y0 + stamp.shape[1], x0 : x0 + stamp.shape[2]]
            room = padded[place]
            share = share[: room.shape[1], : room.shape[2]]
            room[...] = np.sqrt(1 - share**2) * room + share * stamp[:, : room.shape[1], : room.shape[2]]
    gain = 1 + 0.7 * np.linspace(0, 1, WIDTH) + 0.3 * np.linspace(0, 1, HEIGHT)[:, None]
    return (padded[:, margin:-margin, margin:-margin] * gain).astype(np.float32)


def tangent_plane() -> WCS:
    """Return a WCS in the COSMOS field, turned by 20 degrees."""
    wcs = WCS(naxis=2)
    turn, step = np.radians(20.0), PIXEL_SCALE / 3600
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.1, 2.2]
    wcs.wcs.crpix = [400.25, 700.75]
    wcs.wcs.cd = step * np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    wcs.wcs.radesys = "ICRS"
    return wcs


def pack(made: Path, folder: Path, tile: NDArray[np.float32], run) -> dict[str, Path]:
    """Put a tile's bands into ``folder`` like a survey, all but the last fpacked; return the uncompressed files."""
    unpacked = {}
    header = tangent_plane().to_header()
    for band, image in zip(BANDS, tile, strict=True):
        plain = made / f"calexp-{folder.name}-{band}.fits"
        fits.PrimaryHDU(image, header).writeto(plain)
        if band == BANDS[-1]:
            (folder / plain.name).write_bytes(plain.read_bytes())
            unpacked[band] = plain
            continue
        packed, unpacked[band] = folder / f"{plain.name}.fz", made / f"funpacked-{band}.fits"
        run("fpack", "-q", Q, "-O", packed, plain)
        run("funpack", "-O", unpacked[band], packed)
        assert packed.stat().st_size < plain.stat().st_size / 2
    return unpacked


def extract(image: Path, catalog: Path, kind: str, rms: Path, run) -> None:
    """Run Source Extractor: write an image's catalogue and its noise map."""
    columns = catalog.with_suffix(".param")
    columns.write_text("\n".join(COLUMNS) + "\n", encoding="utf-8")
    settings = {
        "CATALOG_NAME": catalog,
        "CATALOG_TYPE": kind,
        "PARAMETERS_NAME": columns,
        "FILTER": "N",
        "DETECT_MINAREA": 8,
        "DETECT_THRESH": 2.0,
        "MAG_ZEROPOINT": 27.0,
        "PIXEL_SCALE": 0,
        "BACK_SIZE": MESH,
        "BACK_FILTERSIZE": 3,
        "CHECKIMAGE_TYPE": "BACKGROUND_RMS",
        "CHECKIMAGE_NAME": rms,
        "VERBOSE_TYPE": "QUIET",
    }
    run(SOURCE_EXTRACTOR, image, *(word for key, value in settings.items() for word in (f"-{key}", value)))


def color(irg: list[Path], picture: Path, run) -> None:
    """Run STIFF: make the tile's colour picture like those of DES."""
    options = {"OUTFILE_NAME": picture, "IMAGE_TYPE": "TIFF", "COMPRESSION_TYPE": "JPEG", "WRITE_XML": "N"}
    words = (word for key, value in options.items() for word in (f"-{key}", value))
    run("stiff", *irg, *words, "-VERBOSE_TYPE", "QUIET", cwd=picture.parent)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory, run) -> Foreign:
    root = tmp_path_factory.mktemp("foreign")
    made, folder = root / "made", root / "survey" / "9813"
    made.mkdir()
    folder.mkdir(parents=True)
    unpacked = pack(made, folder, lay_out(real_image(), np.random.default_rng(20)), run)
    for band, path in unpacked.items():
        extract(path, made / f"{band}.cat", "FITS_1.0", made / f"rms-{band}.fits", run)
    catalogs = {"FITS_1.0": made / "i.cat", "FITS_LDAC": folder / "9813.cat"}
    extract(unpacked["i"], catalogs["FITS_LDAC"], "FITS_LDAC", made / "again.fits", run)
    color([unpacked[band] for band in "irg"], folder / "9813_irg.tiff", run)
    (root / "survey" / "survey.toml").write_text(RECIPE, encoding="utf-8")
    archive = root / "archive"
    run("archive-builder", "build", root / "survey" / "survey.toml", archive)
    return Foreign(
        folder=folder,
        catalogs=catalogs,
        images={band: fits.getdata(path) for band, path in unpacked.items()},
        wcs=WCS(fits.getheader(unpacked["i"])),
        catalog=Table.read(catalogs["FITS_1.0"], format="fits"),
        rms={band: fits.getdata(made / f"rms-{band}.fits") for band in BANDS},
        archive=archive,
    )


@pytest.fixture(scope="module")
def archive(foreign):
    with Archive(foreign.archive) as archive:
        yield archive


@pytest.fixture(scope="module")
def some(foreign):
    """A hundred random objects of the catalogue."""
    chosen = np.random.default_rng(1).choice(len(foreign.catalog), 100, replace=False)
    return foreign.catalog[np.sort(chosen)]


@pytest.mark.parametrize("kind", ["FITS_1.0", "FITS_LDAC"])
def test_both_formats_of_source_extractor_catalogues_are_read(foreign, kind):
    columns = CatalogSection(path="", object_id="NUMBER", ra="ALPHAWIN_J2000", dec="DELTAWIN_J2000")
    read = read_catalog(foreign.catalogs[kind], columns, "9813")
    np.testing.assert_array_equal(read.object_id, foreign.catalog["NUMBER"])
    np.testing.assert_array_equal(read.ra, foreign.catalog["ALPHAWIN_J2000"])
    np.testing.assert_array_equal(read.dec, foreign.catalog["DELTAWIN_J2000"])


def test_a_misspelt_column_gets_a_suggestion_from_the_object_table_of_an_ldac_catalogue(foreign):
    columns = CatalogSection(path="", object_id="NUMBERS", ra="ALPHAWIN_J2000", dec="DELTAWIN_J2000")
    with pytest.raises(TileError, match=r"no column NUMBERS: did you mean NUMBER\?"):
        read_catalog(foreign.catalogs["FITS_LDAC"], columns, "9813")


def test_every_object_of_a_source_extractor_ldac_catalogue_is_stored(foreign, archive):
    assert len(foreign.catalog) > 300
    assert {archive.locate(number).status for number in foreign.catalog["NUMBER"]} == {"stored"}


def test_cutouts_equal_astropys_cutouts_of_funpacked_tiles(foreign, archive, some):
    hanging = 0
    for row in some:
        cutout = archive.get(row["NUMBER"])
        place = foreign.wcs.all_world2pix(row["ALPHAWIN_J2000"], row["DELTAWIN_J2000"], 0)
        for band, data in zip(BANDS, cutout.data, strict=True):
            direct = Cutout2D(foreign.images[band], place, SIZE, mode="partial", fill_value=np.nan).data
            np.testing.assert_array_equal(np.isnan(data), np.isnan(direct))
            hanging += bool(np.isnan(data).any())
            assert np.nanmax(np.abs(data - direct.astype(np.float64))) <= cutout.step[band] / 2
    assert hanging > 0


def test_the_quantization_step_is_a_16th_of_source_extractors_noise(foreign, archive):
    cutout = archive.get(foreign.catalog["NUMBER"][0])
    for band in BANDS:
        # The step is rounded down, by at most 1 in 16, and comes from a sample of the cells, not from every pixel.
        wanted = np.median(foreign.rms[band]) / Q
        assert 0.9 * wanted < cutout.step[band] < 1.05 * wanted


def test_cutouts_have_the_sky_positions_of_source_extractor(foreign, archive, some):
    for row in some:
        cutout = archive.get(row["NUMBER"])
        assert (cutout.ra, cutout.dec) == (row["ALPHAWIN_J2000"], row["DELTAWIN_J2000"])
        on_cutout = cutout.wcs.all_world2pix(cutout.ra, cutout.dec, 0)
        on_tile = np.add(on_cutout, cutout.origin)
        np.testing.assert_allclose(on_tile, (row["XWIN_IMAGE"] - 1, row["YWIN_IMAGE"] - 1), atol=2e-3)
        np.testing.assert_allclose(on_cutout, SIZE // 2, atol=0.502)


def test_background_rms_at_objects_agrees_with_source_extractor(foreign, archive):
    x, y = (np.asarray(foreign.catalog[f"{axis}WIN_IMAGE"]) - 1 for axis in "XY")
    # Beyond the centres of the outermost cells Source Extractor extrapolates its spline; our noise is constant.
    inside = (np.minimum(x, y) > MESH / 2) & (x < WIDTH // MESH * MESH - MESH / 2) & (y < HEIGHT - MESH / 2)
    place = np.rint(y).astype(int), np.rint(x).astype(int)
    measured = [archive.get(number, size=1).rms for number in foreign.catalog["NUMBER"]]
    assert np.count_nonzero(inside) > 300
    for band in BANDS:
        ratio = np.array([rms[band] for rms in measured]) / foreign.rms[band][place]
        assert abs(np.median(ratio[inside]) - 1) < 0.002
        assert np.percentile(np.abs(ratio[inside] - 1), 95) < 0.02
        assert np.abs(ratio[inside] - 1).max() < 0.06
        assert np.abs(ratio - 1).max() < 0.2


def test_source_extractor_finds_the_object_in_its_fits_cutout(foreign, some, run, tmp_path):
    isolated = some[(some["FLAGS"] == 0) & (some["MAG_AUTO"] < np.median(some["MAG_AUTO"]))][:3]
    assert len(isolated) == 3
    for row in isolated:
        file = tmp_path / f"{row['NUMBER']}.fits"
        run("archive-builder", "get", foreign.archive, row["NUMBER"], "--bands", "i", "-o", file)
        extract(f"{file}[1]", tmp_path / "cutout.cat", "FITS_1.0", tmp_path / "rms.fits", run)
        found = Table.read(tmp_path / "cutout.cat", format="fits")
        offset = np.hypot(
            (found["ALPHAWIN_J2000"] - row["ALPHAWIN_J2000"]) * np.cos(np.radians(row["DELTAWIN_J2000"])),
            found["DELTAWIN_J2000"] - row["DELTAWIN_J2000"],
        )
        assert offset.min() * 3600 < 0.1 * PIXEL_SCALE


def test_stiffs_picture_is_the_tile_upside_down(foreign):
    with Image.open(foreign.folder / "9813_irg.tiff") as picture:
        assert (picture.mode, picture.size) == ("RGB", (WIDTH, HEIGHT))
        red = np.asarray(picture)[::-1, :, 0]
    bright = foreign.catalog["MAG_AUTO"] < np.percentile(foreign.catalog["MAG_AUTO"], 20)
    x, y = (np.rint(foreign.catalog[f"{axis}_IMAGE"][bright] - 1).astype(int) for axis in "XY")
    assert np.median(red[y, x]) > np.percentile(red, 95) > np.median(red[::-1][y, x])
