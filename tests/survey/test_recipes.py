"""Each recipe that ships builds a survey in that survey's layout, and every cutout equals one made with astropy."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.table import Table
from astropy.wcs import WCS
from helpers import run, tree
from numpy.typing import NDArray
from pyarrow import parquet

from archive_builder.builder.driver import build
from archive_builder.geometry import parse_shape
from archive_builder.serve.archive import Archive
from archive_builder.survey.demo.layouts import LAYOUTS, make_layout
from archive_builder.survey.fits_warnings import quiet_astropy
from archive_builder.survey.recipe import load_recipe
from archive_builder.survey.recipes import RECIPE_NAMES, recipe_text, shipped_recipe
from archive_builder.survey.zero_point import HeaderCard, zero_point

Image = NDArray[Any]

Objects = dict[Any, tuple[float, float]]
"""RA and Dec of objects by ID."""


@dataclass
class Answer:
    """One tile, read with astropy from the files alone."""

    header: fits.Header
    objects: Objects
    science: dict[str, Image] = field(default_factory=dict)
    zero_points: dict[str, float] = field(default_factory=dict)
    weight: dict[str, Image] = field(default_factory=dict)
    mask: dict[str, Image] = field(default_factory=dict)
    weights_are_relative: bool = False

    @property
    def wcs(self) -> WCS:
        with quiet_astropy():
            return WCS(self.header).celestial


def read(path: Path, hdu: str | int = 0) -> tuple[Image, fits.Header]:
    with quiet_astropy(), fits.open(path) as file:
        return file[hdu].data.copy(), file[hdu].header.copy()


def objects(table: Table, names: tuple[str, str, str]) -> Objects:
    """Return the objects of a table by ID; the parts of an ID in several columns are joined by a slash."""
    parts = names[0].split("/")
    joined = ["/".join(str(row[part]) for part in parts) for row in table]
    is_integer = len(parts) == 1 and table[parts[0]].dtype.kind == "i"
    ids = [int(text) for text in joined] if is_integer else joined
    return {i: (float(row[names[1]]), float(row[names[2]])) for i, row in zip(ids, table, strict=True)}


def rows_of(table: Table, column: str, tile: str) -> Table:
    return table[[str(value) == tile for value in table[column]]]


def no_zeros(data: Image) -> Image:
    return np.where(data == 0, np.nan, data)


def inverse(variance: Image) -> Image:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(1 / variance.astype(np.float64), nan=0.0)


def linear(path: Path) -> tuple[NDArray[np.float64], fits.Header]:
    """Return flux from the asinh scale, by the formula of the PS1 Image Cutout Service: two exponentials."""
    stored, header = read(path, 1)
    with fits.open(path) as file:
        cards = file[1].header
    x = stored.astype(np.float64) / 1.0857362
    return cards["BOFFSET"] + cards["BSOFTEN"] * (np.exp(x) - np.exp(-x)), header


# ---- one reader a survey


def des_dr2(root: Path) -> dict[str, Answer]:
    found = {}
    for name in ("DES0001-0541", "DES0003-5748"):
        table = Table.read(root / name / f"{name}_dr2_main.fits")
        names = ("COADD_OBJECT_ID", "ALPHAWIN_J2000", "DELTAWIN_J2000")
        answer = Answer(fits.Header(), objects(table, names))
        for band in "grizY":
            path = root / name / f"{name}_r4907p01_{band}.fits.fz"
            data, answer.header = read(path, "SCI")
            answer.science[band] = no_zeros(data)
            answer.zero_points[band] = 30.0
            answer.mask[band], answer.weight[band] = read(path, "MSK")[0], read(path, "WGT")[0]
        found[name] = answer
    return found


def legacy_dr10(root: Path) -> dict[str, Answer]:
    found = {}
    for folder in (root / "south/coadd/000").iterdir():
        stem = folder / f"legacysurvey-{folder.name}"
        table = Table.read(root / f"south/tractor/000/tractor-{folder.name}.fits")
        answer = Answer(fits.Header(), objects(table, ("release/brickid/objid", "ra", "dec")))
        mask = read(Path(f"{stem}-maskbits.fits.fz"), 1)[0]
        for band in "griz":
            data, answer.header = read(Path(f"{stem}-image-{band}.fits.fz"), 1)
            answer.science[band], answer.zero_points[band], answer.mask[band] = no_zeros(data), 22.5, mask
            answer.weight[band] = read(Path(f"{stem}-invvar-{band}.fits.fz"), 1)[0]
        found[folder.name] = answer
    return found


def _exposures(paths: dict[str, Path], magnitude: float, rows: Objects) -> Answer:
    answer = Answer(fits.Header(), rows)
    for band, path in paths.items():
        answer.science[band], answer.header = read(path, "IMAGE")
        answer.mask[band] = read(path, "MASK")[0]
        answer.weight[band] = inverse(read(path, "VARIANCE")[0])
        answer.zero_points[band] = magnitude
    return answer


def hsc_pdr3(root: Path) -> dict[str, Answer]:
    table, found = Table.read(root / "pdr3_wide_forced.fits"), {}
    for tile, patch in (("9813-404", "4,4"), ("9813-504", "5,4")):
        folder = "deepCoadd-results/HSC-{0}/9813/{1}/calexp-HSC-{0}-9813-{1}.fits"
        rows = objects(rows_of(table, "patch", tile.split("-")[1]), ("object_id", "ra", "dec"))
        found[tile] = _exposures({band: root / folder.format(band, patch) for band in "GRIZY"}, 27.0, rows)
    return found


def rubin(root: Path) -> dict[str, Answer]:
    table, found = Table(parquet.read_table(root / "objects.parquet").to_pydict()), {}
    for patch in (34, 35):
        paths = {}
        for band in "ugrizy":
            (paths[band],) = (root / f"deep_coadd/5063/{patch}/{band}").iterdir()
        rows = objects(rows_of(table, "patch", str(patch)), ("objectId", "coord_ra", "coord_dec"))
        found[f"5063_{patch}"] = _exposures(paths, 31.4, rows)
    return found


def panstarrs1(root: Path) -> dict[str, Answer]:
    table, found = Table.read(root / "stack_objects.csv"), {}
    for sub in ("061", "062"):
        rows = objects(rows_of(table, "skyCellID", str(int(sub))), ("objID", "raStack", "decStack"))
        answer = Answer(fits.Header(), rows)
        for band, exposure in zip("grizy", (731.0, 850.0, 915.0, 480.0, 660.0), strict=True):
            stem = root / f"rings.v3.skycell/1334/{sub}/rings.v3.skycell.1334.{sub}.stk.{band}.unconv"
            answer.science[band], answer.header = linear(Path(f"{stem}.fits"))
            answer.weight[band] = inverse(linear(Path(f"{stem}.wt.fits"))[0])
            answer.mask[band] = read(Path(f"{stem}.mask.fits"), 1)[0].astype(np.int64)
            answer.zero_points[band] = 25 + 2.5 * np.log10(exposure)
        found[f"1334.{sub}"] = answer
    return found


def sdss(root: Path) -> dict[str, Answer]:
    found = {}
    for name in ("011700.00+280000.0", "011900.00+280000.0"):
        table = Table.read(root / f"J{name}-photoprimary.csv")
        answer = Answer(fits.Header(), objects(table, ("objID", "ra", "dec")), weights_are_relative=True)
        for band in "ugriz":
            data, answer.header = read(root / f"J{name}-{band}.fits")
            answer.science[band], answer.zero_points[band] = no_zeros(data), 22.5
            answer.weight[band] = read(root / f"J{name}-{band}.weight.fits")[0]
        found[name] = answer
    return found


def kids(root: Path) -> dict[str, Answer]:
    found = {}
    for path in root.glob("KiDS_DR4.0_*_cat.fits"):
        name = path.name.split("_ugri")[0]
        rows = objects(Table.read(path), ("ID", "RAJ2000", "DECJ2000"))
        answer = Answer(fits.Header(), rows, weights_are_relative=True)
        data, answer.header = read(root / f"{name}_r_sci.fits")
        answer.science["r"], answer.zero_points["r"] = no_zeros(data), 0.0
        answer.weight["r"], answer.mask["r"] = (read(root / f"{name}_r_{kind}.fits")[0] for kind in ("wei", "msk"))
        found[name.removeprefix("KiDS_DR4.0_")] = answer
    return found


def two_mass(root: Path) -> dict[str, Answer]:
    table, found = Table.read(root / "fp_psc.csv"), {}
    for key, frame in (("1024501", "0186"), ("1024502", "0198")):
        answer = Answer(fits.Header(), objects(rows_of(table, "coadd_key", key), ("pts_key", "ra", "dec")))
        for band, expected in (("j", 20.9 + 0.91), ("h", 20.4 + 1.39), ("k", 19.9 + 1.85)):
            path = root / f"000502s/s056/image/{band}i056{frame}.fits.gz"
            answer.science[band], answer.header = read(path)
            answer.zero_points[band] = expected
        found[key] = answer
    return found


def wise(root: Path) -> dict[str, Answer]:
    table, found = Table.read(root / "allwise.csv"), {}
    vega = {"w1": 20.5 + 2.699, "w2": 19.5 + 3.339, "w3": 18.0 + 5.174, "w4": 13.0 + 6.620}
    for name in ("0000p000_ac51", "0015p000_ac51"):
        answer = Answer(fits.Header(), objects(rows_of(table, "coadd_id", name), ("cntr", "ra", "dec")))
        for band, expected in vega.items():
            stem = root / name[:2] / name[:4] / name / f"{name}-{band}"
            answer.science[band], answer.header = read(Path(f"{stem}-int-3.fits"))
            answer.weight[band] = inverse(read(Path(f"{stem}-unc-3.fits.gz"))[0].astype(np.float64) ** 2)
            answer.zero_points[band] = expected
        found[name] = answer
    return found


def euclid(root: Path) -> dict[str, Answer]:
    found = {}
    for name in ("102018211", "102018212"):
        (catalog,) = (root / "catalogs/MER_FINAL_CATALOG" / name).iterdir()
        answer = Answer(fits.Header(), objects(Table.read(catalog), ("OBJECT_ID", "RIGHT_ASCENSION", "DECLINATION")))
        planes = {path.name.split("_TILE")[0]: path for path in (root / "MER" / name / "VIS").iterdir()}
        answer.science["VIS"], answer.header = read(planes["EUC_MER_BGSUB-MOSAIC-VIS"])
        answer.weight["VIS"] = inverse(read(planes["EUC_MER_MOSAIC-VIS-RMS"])[0].astype(np.float64) ** 2)
        answer.mask["VIS"] = read(planes["EUC_MER_MOSAIC-VIS-FLAG"])[0]
        answer.zero_points["VIS"] = 24.6
        found[name] = answer
    return found


def vlass(root: Path) -> dict[str, Answer]:
    table, found = Table.read(root / "CIRADA_VLASS2QL_table1_components.csv"), {}
    for folder in (root / "VLASS2.1/T10t12").iterdir():
        tile = folder.name.split(".")[4]
        rows = objects(rows_of(table, "Subtile", tile), ("Component_name", "RA", "DEC"))
        image, header = read(folder / f"{folder.name}.I.iter1.image.pbcor.tt0.subim.fits")
        noise, _ = read(folder / f"{folder.name}.I.iter1.image.pbcor.tt0.rms.subim.fits")
        assert image.shape == (1, 1, 256, 256)
        answer = Answer(header, rows, {"S": image[0, 0]}, {"S": 8.9})
        answer.weight["S"] = inverse(noise[0, 0].astype(np.float64) ** 2)
        found[tile] = answer
    return found


READERS: dict[str, Callable[[Path], dict[str, Answer]]] = {
    "des-dr2": des_dr2,
    "legacy-dr10": legacy_dr10,
    "hsc-pdr3": hsc_pdr3,
    "rubin": rubin,
    "panstarrs1": panstarrs1,
    "sdss": sdss,
    "kids": kids,
    "2mass": two_mass,
    "wise": wise,
    "euclid": euclid,
    "vlass": vlass,
}


# ---- the comparison


def cut(data: Image, place: tuple[int, int], size: int, fill: float) -> Image:
    """Return the pixels around a pixel (x, y), `fill` off the tile."""
    return Cutout2D(data, place, (size, size), mode="partial", fill_value=fill, copy=True).data


def check_planes(cutout: Any, answer: Answer, place: tuple[int, int], size: int) -> None:
    for number, band in enumerate(cutout.bands):
        expected = cut(answer.science[band].astype(np.float64), place, size, np.nan)
        bound = cutout.step[band] / 2 * (1 + 1e-6) + 2e-7 * np.abs(expected)
        assert (np.isnan(cutout.data[number]) == np.isnan(expected)).all()
        known = np.isfinite(expected)
        assert (np.abs(cutout.data[number] - expected)[known] <= bound[known]).all()
        if answer.mask:
            np.testing.assert_array_equal(cutout.mask[number], cut(answer.mask[band].astype(np.int64), place, size, -1))
        if answer.weight:
            weight = cut(answer.weight[band].astype(np.float64), place, size, 0) * relative_factor(answer, band)
            np.testing.assert_allclose(cutout.weight[number], weight, rtol=0.011 if factor_is_exact(answer) else 0.25)


def factor_is_exact(answer: Answer) -> bool:
    return not answer.weights_are_relative


def relative_factor(answer: Answer, band: str) -> float:
    """Return the factor that makes the weights inverse variance by the noise of the tile, to the spread of that."""
    if factor_is_exact(answer):
        return 1.0
    data = answer.science[band][np.isfinite(answer.science[band])]
    noise = 1.4826 * np.median(np.abs(data - np.median(data)))
    weights = answer.weight[band]
    return float(1 / (np.median(weights[weights > 0]) * noise**2))


def test_a_recipe_ships_for_every_survey_of_the_list_and_every_layout() -> None:
    assert RECIPE_NAMES == tuple(READERS) == tuple(LAYOUTS)
    listed = "des-dr2 legacy-dr10 hsc-pdr3 rubin panstarrs1 sdss kids 2mass wise euclid vlass"
    assert " ".join(RECIPE_NAMES) == listed


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_cutouts_of_a_shipped_recipe_equal_those_made_with_astropy(name: str, tmp_path: Path) -> None:
    answers_of = READERS[name]
    root = tmp_path / "survey"
    tiles = 2
    recipe = make_layout(root, name, tiles=tiles, tile_size=256, objects=16, seed=3)
    assert recipe.read_text(encoding="utf-8") == recipe_text(name)
    report = build(recipe, tmp_path / "archive", workers=1)
    assert (report.built, report.failures) == (tiles, {})
    answers = answers_of(root)
    assert len(answers) == tiles
    scale = float(shipped_recipe(name).pixel_scale.removesuffix(" arcsec"))
    settings = load_recipe(recipe)
    size = parse_shape(settings.cutout.size, scale)[0]
    compared, stored = 0, set()
    with Archive(tmp_path / "archive") as archive:
        for tile, answer in answers.items():
            for object_id, (ra, dec) in answer.objects.items():
                x, y = answer.wcs.all_world2pix(ra, dec, 0)
                place = int(np.rint(x)), int(np.rint(y))
                blank = max(np.isnan(cut(data, place, size, np.nan)).mean() for data in answer.science.values())
                where = archive.locate(object_id)
                assert (where.tile, where.status == "stored") == (tile, blank <= settings.quality.max_blank_fraction)
                if where.status != "stored":
                    continue
                stored.add(object_id)
                cutout = archive.get(object_id)
                assert cutout.data.shape == (len(answer.science), size, size)
                assert cutout.bands == tuple(answer.science)
                assert (cutout.ra, cutout.dec) == pytest.approx((ra, dec), abs=1e-12)
                inside = cutout.wcs.all_world2pix(ra, dec, 0)
                np.testing.assert_allclose(inside, (x - place[0] + size // 2, y - place[1] + size // 2), atol=1e-5)
                assert [int(np.rint(at)) for at in inside] == [size // 2, size // 2]
                assert cutout.zero_points == pytest.approx(answer.zero_points, abs=1e-9)
                check_planes(cutout, answer, place, size)
                compared += 1
        assert set(archive.ids()) == stored
    assert compared == report.stored >= 8 * tiles


@pytest.mark.parametrize(("name", "files"), [("legacy-dr10", "*-image-i.*"), ("rubin", "deep_coadd_*_u_*")])
def test_tile_without_a_band_has_cutouts_in_the_others(name: str, files: str, tmp_path: Path) -> None:
    recipe = make_layout(tmp_path / "survey", name, tile_size=256, objects=8)
    (path,) = (tmp_path / "survey").rglob(files)
    path.unlink()
    report = build(recipe, tmp_path / "archive", workers=1)
    assert (report.built, report.stored, report.failures) == (1, 8, {})
    lost = path.name.split("-image-")[-1][0] if name == "legacy-dr10" else "u"
    with Archive(tmp_path / "archive") as archive:
        cutout = archive.get(archive.ids()[0])
        assert np.isnan(cutout[lost]).all()
        assert (cutout.weight[cutout.bands.index(lost)] == 0).all()
        assert all(np.isfinite(cutout[band]).any() for band in cutout.bands if band != lost)


def test_card_of_another_magnitude_system_gets_its_offset() -> None:
    header = fits.Header({"MAGZP": 20.5, "FLUXMAG0": 1e10})
    assert zero_point(HeaderCard(card="MAGZP", add=2.699), header, "a.fits") == pytest.approx(23.199)
    flux = HeaderCard(card="FLUXMAG0", meaning="flux of magnitude 0", add=-0.5)
    assert zero_point(flux, header, "a.fits") == pytest.approx(24.5)


@pytest.mark.parametrize("name", ["sdss", "kids"])
def test_relative_weights_keep_their_ratios(name: str, tmp_path: Path) -> None:
    root = tmp_path / "survey"
    tiles = 2 if name == "sdss" else 1
    build(make_layout(root, name, tiles=tiles, tile_size=256, objects=16, seed=3), tmp_path / "archive", workers=1)
    answer = next(iter(READERS[name](root).values()))
    ratios = []
    with Archive(tmp_path / "archive") as archive:
        for object_id in answer.objects.keys() & set(archive.ids()):
            cutout = archive.get(object_id)
            x, y = answer.wcs.all_world2pix(*answer.objects[object_id], 0)
            place = int(np.rint(x)), int(np.rint(y))
            band = cutout.bands[0]
            weight = cut(answer.weight[band].astype(np.float64), place, cutout.shape[0], 0)
            assert ((cutout.weight[0] > 0) == (weight > 0)).all()
            ratios.append((cutout.weight[0][weight > 0] / weight[weight > 0]).ravel())
    every = np.concatenate(ratios)
    assert every.max() / every.min() < 1.025


# ---- the commands


def test_list_names_every_recipe_with_survey_bands_and_scale() -> None:
    result = run("recipes")
    lines = result.stdout.splitlines()
    assert (result.exit_code, [line.split()[0] for line in lines]) == (0, ["name", *RECIPE_NAMES])
    assert "u g r i z y  0.2 arcsec" in next(line for line in lines if line.startswith("rubin"))
    records = json.loads(run("recipes", "--json").stdout)
    assert [record["name"] for record in records] == list(RECIPE_NAMES)
    assert all(set(record) == {"name", "survey", "bands", "pixel_scale", "needs"} for record in records)


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_recipe_is_printed_exactly(name: str) -> None:
    text = recipe_text(name)
    assert run("recipes", name).stdout == text
    record = json.loads(run("recipes", name, "--json").stdout)
    assert (record["text"], record["recipe"]) == (text, tomllib.loads(text))
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 120
    assert "# Sources: " in text
    assert shipped_recipe(name).recipe.survey.root == Path(".")


@pytest.mark.parametrize(
    ("wrong", "hint"), [("des", "did you mean des-dr2"), ("KIDS", "did you mean kids"), ("qq", "give one of des-dr2, ")]
)
def test_unknown_name_gives_one_line_with_the_nearest_one(wrong: str, hint: str) -> None:
    result = run("recipes", wrong)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: no recipe ships for {wrong}: {hint}")
    assert result.stderr.count("\n") == 1


def test_demo_writes_the_same_layout_again(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        result = run("demo", tmp_path / folder, "--layout", "2mass", "--tile-size", "128", "--objects", "5")
        assert result.exit_code == 0
        assert result.stdout.startswith("1 tile made: build their archive with: archive-builder build ")
    assert len(tree(tmp_path / "a")) == 6
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--layout", "eucid"], "no recipe ships for eucid: did you mean euclid?"),
        (["--layout", "kids", "--tiles", "3"], "3 tiles: the layout kids has 1 to 2 tiles"),
        (["--layout", "kids", "--tile-size", "64"], "a tile of 64 px: ask for 128 to 10000 px"),
        (["--layout", "kids", "--objects", "0"], "0 objects per tile: a tile of 256 px holds 1 to 655 objects"),
        (["--layout", "kids", "--seed", "-1"], "seed -1 is negative: give a seed of 0 or more"),
    ],
)
def test_wrong_layout_gives_one_line_and_makes_nothing(options: list[str], error: str, tmp_path: Path) -> None:
    result = run("demo", tmp_path / "a", *options)
    assert (result.exit_code, result.stderr) == (2, f"error: {error}\n")
    assert not (tmp_path / "a").exists()


def test_layout_is_not_written_into_a_folder_with_files(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("kept")
    result = run("demo", tmp_path, "--layout", "kids")
    assert (result.exit_code, "is not empty: give another folder" in result.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == [tmp_path / "kept.txt"]
