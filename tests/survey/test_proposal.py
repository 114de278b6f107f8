"""A recipe proposed for a folder builds the archive, or marks each line that a person must complete."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from helpers import execute, run, tree

from archive_builder.builder.driver import build
from archive_builder.errors import RecipeError
from archive_builder.serve.archive import Archive
from archive_builder.survey.demo.layouts import make_layout
from archive_builder.survey.proposal import propose_recipe
from archive_builder.survey.proposal.names import families, tile_in, tile_names
from archive_builder.survey.proposal.walk import list_files
from archive_builder.survey.recipe import load_recipe


def objects_of(archive: Path) -> list[tuple[Any, ...]]:
    return execute(archive, "SELECT object_id FROM objects ORDER BY object_id")


def image(path: Path, band: str = "g", shape: tuple[int, int] = (64, 64), **cards: Any) -> Path:
    """Write a small image with a WCS."""
    sky = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 54.0, "CRVAL2": -28.0, "CRPIX1": 32.0, "CRPIX2": 32.0}
    step = {"CDELT1": -1e-4, "CDELT2": 1e-4}
    data = np.random.default_rng(len(band)).normal(0, 2, shape).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(data, fits.Header([*sky.items(), *step.items(), *cards.items()])).writeto(path)
    return path


def catalog(path: Path, first: int = 1) -> Path:
    Table({"ID": np.arange(first, first + 3), "RA": [54.0, 54.001, 54.0], "DEC": [-28.0, -28.0, -28.001]}).write(path)
    return path


# ---- recipes that build


def test_proposal_for_the_demo_builds_the_same_objects(survey_copy: Path, demo_archive: Path, tmp_path: Path) -> None:
    (survey_copy / "survey.toml").unlink()
    before = tree(survey_copy)
    result = run("init", survey_copy)
    assert result.exit_code == 0
    assert "2 tiles in g, r, i, z, Y: check " in result.stdout
    after = tree(survey_copy)
    text = after.pop("survey.toml").decode()
    assert after == before
    assert "FINISH: " not in text.replace("begin with # FINISH:", "")
    for finding in ("1 SCI: 500 x 500", "MAGZERO = 30.0", "pixel scale 0.263 arcsec", 'hdu = "WGT"', "ALPHAWIN_J2000"):
        assert finding in text
    report = build(survey_copy / "survey.toml", tmp_path / "archive", workers=1)
    assert (report.built, report.failures) == (2, {})
    assert objects_of(tmp_path / "archive") == objects_of(demo_archive)
    assert len(objects_of(demo_archive)) == 120


@pytest.mark.parametrize("layout", ["des-dr2", "euclid", "rubin", "sdss"])
def test_proposal_for_a_layout_builds_the_cutouts_of_its_shipped_recipe(layout: str, tmp_path: Path) -> None:
    recipe = make_layout(tmp_path / "survey", layout, tiles=2, tile_size=256, objects=8)
    build(recipe, tmp_path / "shipped", workers=1)
    recipe.unlink()
    proposal = propose_recipe(tmp_path / "survey")
    assert (proposal.tiles, proposal.known, proposal.unfinished) == (2, (layout,), ())
    report = build(proposal.recipe, tmp_path / "proposed", workers=1)
    assert (report.built, report.failures) == (2, {})
    assert objects_of(tmp_path / "proposed") == objects_of(tmp_path / "shipped")
    with Archive(tmp_path / "proposed") as proposed, Archive(tmp_path / "shipped") as shipped:
        compared = 0
        for object_id in shipped.ids():
            expected, found = shipped.get(object_id), proposed.get(object_id)
            assert (found.bands, found.zero_points) == (expected.bands, expected.zero_points)
            known = np.isfinite(expected.data)  # only the shipped recipe knows that 0 is no data
            step = max([*expected.step.values(), *found.step.values()])
            assert np.abs(found.data - expected.data)[known].max() <= step
            compared += 1
    assert compared >= 4


def test_bands_may_be_hdus_of_one_file(tmp_path: Path) -> None:
    for tile in ("T0001", "T0002"):
        path = image(tmp_path / f"{tile}.fits", BUNIT="nJy")
        header = fits.getheader(path)
        hdus = [fits.ImageHDU(np.full((64, 64), n, np.float32), header) for n in range(3)]
        for hdu, band in zip(hdus, "gri", strict=True):
            hdu.header["EXTNAME"] = band  # astropy's argument would write it in upper case
        fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path, overwrite=True)
        catalog(tmp_path / f"{tile}_cat.csv", first=int(tile[1:]) * 10)
    proposal = propose_recipe(tmp_path)
    survey = load_recipe(proposal.recipe).survey
    assert (survey.bands, survey.image_hdu, survey.zero_point) == (("g", "r", "i"), "{band}", 31.4)
    assert (proposal.tiles, proposal.unfinished) == (2, ())


def test_one_tile_with_brackets_in_its_path(tmp_path: Path) -> None:
    for band in "gr":
        image(tmp_path / "run[1]" / f"F0123_{band}.fits", band, MAGZERO=25.0)
    catalog(tmp_path / "run[1]" / "F0123_cat.fits")
    proposal = propose_recipe(tmp_path)
    assert (proposal.tiles, proposal.bands, proposal.unfinished) == (1, ("g", "r"), ())
    report = build(proposal.recipe, tmp_path / "archive", workers=1)
    assert (report.built, report.failures) == (1, {})


# ---- recipes to finish


@pytest.mark.parametrize(
    ("layout", "lines"),
    [
        ("hsc-pdr3", ["no part of names like deepCoadd-results/HSC-G/9813/4,4/", "zero_point = 30.0"]),
        ("kids", ["the bands of tile 181.5 differ in size (u 128 x 124, g 128 x 128, r 128 x 127, i 128 x 126)"]),
        ("wise", ['zero_point = { card = "MAGZP", add = 0.0 }   # in Vega magnitudes']),
        ("vlass", ['bands = ["r"]', "object_id = "]),
        ("2mass", ['bands = ["r"]']),
        ("panstarrs1", ["zero_point = 30.0"]),
    ],
)
def test_lines_that_the_files_do_not_tell_are_marked(layout: str, lines: list[str], tmp_path: Path) -> None:
    make_layout(tmp_path / "survey", layout, tiles=2, tile_size=128, objects=8).unlink()
    result = run("init", tmp_path / "survey")
    assert result.exit_code == 0
    assert f"see archive-builder recipes {layout}" in result.stdout
    text = (tmp_path / "survey" / "survey.toml").read_text(encoding="utf-8")
    assert f"#   archive-builder recipes {layout}\n" in text
    for line in lines:
        assert f"\n# FINISH: {line}" in text
        assert f"to finish: {line}" in result.stdout
    if layout != "kids":  # whose recipe is valid, but not its images
        with pytest.raises(RecipeError, match="missing key"):
            load_recipe(tmp_path / "survey" / "survey.toml")


def test_column_that_repeats_or_is_no_integer_is_not_proposed_as_id(tmp_path: Path) -> None:
    image(tmp_path / "T001_g.fits", MAGZERO=25.0)
    image(tmp_path / "T001_r.fits", MAGZERO=25.0)
    Table({"ID": [1.5, 2.5], "NUMBER": [1, 1], "ra": [54.0, 54.0], "dec": [-28.0, -28.0]}).write(tmp_path / "T001.csv")
    proposal = propose_recipe(tmp_path)
    assert [line.split(" =")[0] for line in proposal.unfinished] == ["object_id"]
    text = proposal.recipe.read_text(encoding="utf-8")
    assert "# column ID is float64, no IDs" in text
    assert "# column NUMBER repeats values: no ID of an object" in text


def test_unreadable_files_are_comments(tmp_path: Path) -> None:
    for band in "gr":
        image(tmp_path / f"T001_{band}.fits", band, MAGZERO=25.0)
    catalog(tmp_path / "T001_cat.csv")
    (tmp_path / "broken_a.fits").write_bytes((tmp_path / "T001_g.fits").read_bytes()[:300])
    (tmp_path / "text.fits").write_text("not FITS")
    (tmp_path / "empty.fits").touch()
    (tmp_path / "empty.fits.gz").write_bytes(b"\x1f\x8b\x08")
    (tmp_path / "cat.parquet").write_bytes(b"PAR1")
    (tmp_path / "cat.ecsv").write_bytes(b"\xff\xfe")
    os.mkfifo(tmp_path / "pipe.fits")
    (tmp_path / "away.fits").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "with{brace}.fits").touch()
    (tmp_path / "line\nend.fits").touch()
    result = run("init", tmp_path)
    assert (result.exit_code, result.stderr) == (0, "")
    text = (tmp_path / "survey.toml").read_text(encoding="utf-8")
    for name in ("broken_a.fits", "text.fits", "empty.fits", "empty.fits.gz"):
        assert f"# cannot be read: {name}: " in text
    assert "# cat.parquet: cannot be read (" in text
    assert "# cat.ecsv: is UTF-16 text: save it as UTF-8" in text
    assert "# left out, a pattern cannot hold its name: with{brace}.fits" in text
    assert "# left out, a pattern cannot hold its name: line\\nend.fits" in text
    assert "1 tile in g, r: check " in result.stdout


def test_damaged_headers_give_a_proposal(tmp_path: Path) -> None:
    whole = image(tmp_path / "whole" / "T001_g.fits", FILTER="g DECam", MAGZERO=25.0).read_bytes()
    random = np.random.default_rng(4)
    for number in range(30):
        damaged = bytearray(whole)
        for place in random.integers(0, 1500, 20):
            damaged[place] = int(random.integers(32, 127))
        (tmp_path / f"T{number:03d}_g.fits").write_bytes(bytes(damaged[: int(random.integers(1000, len(damaged)))]))
    proposal = propose_recipe(tmp_path)
    assert proposal.recipe.read_text(encoding="utf-8").count("cannot be read: ") >= 1


def test_folder_of_unreadable_files_gives_a_recipe_to_finish(tmp_path: Path) -> None:
    (tmp_path / "a.fits").write_text("not FITS")
    proposal = propose_recipe(tmp_path)
    assert proposal.tiles == 0
    assert proposal.unfinished[0].startswith("no image with sky coordinates was found")


# ---- refusals


def test_recipe_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    image(tmp_path / "T001_g.fits")
    path = tmp_path / "survey.toml"
    for make in (lambda: path.write_text("mine"), lambda: path.symlink_to("nowhere"), path.mkdir):
        make()
        result = run("init", tmp_path)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr == f"error: {path}: is there already: edit it, or move it away and run the command again\n"
        if path.is_symlink() or path.is_file():
            assert path.is_symlink() or path.read_text() == "mine"
            path.unlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["T001_g.fits", "survey.toml"]


def test_recipe_that_appears_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "T001_g.fits")
    link = os.link

    def late(source: Path, target: Path) -> None:
        target.write_text("theirs")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    result = run("init", tmp_path)
    assert (result.exit_code, "is there already" in result.stderr) == (2, True)
    assert (tmp_path / "survey.toml").read_text() == "theirs"
    assert len(list(tmp_path.iterdir())) == 2


def test_recipe_is_written_on_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(tmp_path / "T001_g.fits")

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert run("init", tmp_path).exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["T001_g.fits", "survey.toml"]


def test_incomplete_tiles_are_named_but_not_all(tmp_path: Path) -> None:
    for number in range(10, 18):
        image(tmp_path / f"T{number}_g.fits", MAGZERO=25.0)
        catalog(tmp_path / f"T{number}_cat.csv", first=number * 10)
    image(tmp_path / "T10_r.fits", MAGZERO=25.0)
    proposal = propose_recipe(tmp_path)
    assert (proposal.tiles, proposal.bands, len(proposal.unfinished)) == (1, ("g", "r"), 6)
    assert proposal.unfinished[0].startswith("tile T11: no file for band r: nothing matches ")
    assert proposal.unfinished[-1] == "2 more tiles are not complete"
    assert "tiles without some band: T11 (r), T12 (r), " in proposal.recipe.read_text(encoding="utf-8")


def test_folder_without_fits_files_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "file").write_text("x")
    for folder, reason in (
        (tmp_path, "holds no FITS file: give the folder of a survey's files"),
        (tmp_path / "missing", "is not a folder: give the folder of a survey's files"),
        (tmp_path / "file", "is not a folder: give the folder of a survey's files"),
    ):
        result = run("init", folder)
        assert (result.exit_code, result.stderr) == (2, f"error: {folder}: {reason}\n")
    assert not (tmp_path / "survey.toml").exists()


def test_json_gives_the_proposal(tmp_path: Path) -> None:
    for band in "gr":
        image(tmp_path / f"T001_{band}.fits", band)
    catalog(tmp_path / "T001.csv")
    record = json.loads(run("init", tmp_path, "--json").stdout)
    unfinished = ["zero_point = 30.0   # AB magnitude of one image unit; no card or unit tells it"]
    assert record == {
        "recipe": str(tmp_path / "survey.toml"),
        "tiles": 0,
        "bands": ["g", "r"],
        "unfinished": unfinished,
        "known": [],
    }


def test_walk_is_bounded(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"a{number}.fits").touch()
    assert list_files(tmp_path).is_complete
    few = list_files(tmp_path, most=3)
    assert (len(few.fits), few.is_complete) == (3, False)
    deep = tmp_path.joinpath(*"123456789")
    deep.mkdir(parents=True)
    (deep / "b.fits").touch()
    found = list_files(tmp_path)
    assert (len(found.fits), found.is_complete) == (5, False)
    shutil.rmtree(tmp_path / "1")
    assert list_files(tmp_path).is_complete


# ---- names


@pytest.mark.parametrize(
    ("names", "pattern", "tiles", "bands"),
    [
        (
            ["DES0001-0541_r4907p01_{}.fits.fz", "DES0003-5748_r4907p02_{}.fits.fz"],
            "{tile}_*_{band}.fits.fz",
            ("DES0001-0541", "DES0003-5748"),
            "grz",
        ),
        (
            ["coadd/000/0001m002/ls-0001m002-image-{}.fits.fz", "coadd/001/0011m002/ls-0011m002-image-{}.fits.fz"],
            "coadd/*/{tile}/ls-{tile}-image-{band}.fits.fz",
            ("0001m002", "0011m002"),
            "grz",
        ),
        (
            ["s.v3.skycell.1334.061.stk.{}.unconv.fits", "s.v3.skycell.0812.010.stk.{}.unconv.fits"],
            "s.v3.skycell.{tile}.stk.{band}.unconv.fits",
            ("0812.010", "1334.061"),
            "gry",
        ),
        (["{}/tile_1.fits", "{}/tile_2.fits"], "{band}/tile_{tile}.fits", ("1", "2"), "gry"),
        (["alpha/alpha_{}.fits", "beta/beta_{}.fits"], "{tile}/{tile}_{band}.fits", ("alpha", "beta"), "uz"),
        (["f150w_{}_01.fits", "f150w_{}_02.fits"], "f150w_{band}_{tile}.fits", ("01", "02"), "gr"),
    ],
)
def test_names_tell_tiles_and_bands(names: list[str], pattern: str, tiles: tuple[str, ...], bands: str) -> None:
    (family,) = families([name.format(band) for name in names for band in bands])
    found = tile_names(family)
    assert found is not None
    assert (found.pattern, found.tiles, family.bands) == (pattern, tiles, tuple(bands))


def test_kinds_of_files_are_told_apart() -> None:
    names = [f"T{n}_{band}{kind}.fits" for n in range(10, 14) for band in "gri" for kind in ("", ".wt", ".mask")]
    found = families([*names, "T10_cat.fits", "T11_cat.fits", "T12_cat.fits", "T13_cat.fits"])
    assert sorted(len(family.files) for family in found) == [4, 12, 12, 12]


def test_tile_in_a_name_is_whole() -> None:
    assert tile_in("deep_5063_34_20250434.fits", {"34", "5063_34"}) == "5063_34"
    assert tile_in("deep_20250434.fits", {"34"}) == ""
