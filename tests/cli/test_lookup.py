"""The command ``get``: band names of several letters, negative IDs, options of pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.table import Table
from helpers import run
from PIL import Image

from archive_builder import Archive, Style, build
from archive_builder.survey.demo import make_survey

NAMES = {"g": "F435W", "r": "F606W", "i": "F814W", "z": "F105W", "Y": "F160W"}


@pytest.fixture(scope="module")
def hubble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archive of the demo survey with Hubble's band names, without colour pictures."""
    folder = tmp_path_factory.mktemp("hubble")
    recipe = make_survey(folder / "survey", tiles=1, tile_size=400, objects=20, seed=3)
    for band, name in NAMES.items():
        (image,) = recipe.parent.glob(f"*/*_{band}.fits.fz")
        image.rename(image.with_name(image.name.replace(f"_{band}.", f"_{name}.")))
    text = recipe.read_text(encoding="utf-8")
    text = re.sub(r"(?m)^(bands\s*=).*$", rf"\1 {json.dumps(list(NAMES.values()))}", text)
    text = re.sub(r"(?m)^(color|max_background_rms|min_depth)\s*=.*$", "", text)
    recipe.write_text(text, encoding="utf-8")
    report = build(recipe, folder / "archive")
    assert (report.built, report.failures) == (1, {})
    return folder / "archive"


@pytest.fixture(scope="module")
def object_id(hubble: Path) -> int:
    with Archive(hubble) as archive:
        return int(next(archive.batches(size=8)).object_id[0])


def test_get_accepts_names_with_commas_or_one_name(hubble: Path, object_id: int, tmp_path: Path) -> None:
    with Archive(hubble) as archive:
        whole = archive.get(object_id).data
    names = list(NAMES.values())
    for bands in ("F814W,F435W", "F160W", ",".join(names)):
        done = run("get", hubble, object_id, "--bands", bands, "-o", tmp_path / "c.npy", "--json")
        assert done.exit_code == 0, done.stderr
        wanted = bands.split(",")
        assert json.loads(done.stdout)["bands"] == wanted
        np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), whole[[names.index(band) for band in wanted]])


def test_composite_accepts_names_with_commas(hubble: Path, object_id: int, tmp_path: Path) -> None:
    rgb = ("F160W", "F814W", "F606W")
    done = run("get", hubble, object_id, "--rgb", ",".join(rgb), "-o", tmp_path / "c.png")
    assert done.exit_code == 0, done.stderr
    with Archive(hubble) as archive:
        expected = archive.get(object_id).picture(Style(rgb=rgb))
        others = [archive.get(object_id).picture(Style(rgb=form)) for form in (list(rgb), np.array(rgb), ",".join(rgb))]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "c.png")), expected)
    np.testing.assert_array_equal(others, [expected] * 3)
    assert Style(rgb=np.array(rgb)) == Style(rgb=list(rgb)) == Style(rgb=rgb)


def test_export_accepts_names_with_commas(hubble: Path, object_id: int, tmp_path: Path) -> None:
    wanted = tmp_path / "list.csv"
    wanted.write_text(f"ID\n{object_id}\n")
    options = ("--format", "npy", "--format", "png", "--bands", "F606W,F160W,F814W", "--rgb", "F160W,F814W,F606W")
    done = run("export", hubble, wanted, "-o", tmp_path / "out", *options, "--json")
    assert (done.exit_code, json.loads(done.stdout)["done"]) == (0, 1), done.stderr
    (path,) = (tmp_path / "out").rglob("*.npy")
    with Archive(hubble) as archive:
        cutout = archive.get(object_id, bands=("F606W", "F160W", "F814W"))
    np.testing.assert_array_equal(np.load(path), cutout.data)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--bands", "F606W,F115W", "has no band 'F115W': it has F435W, F606W, F814W, F105W, F160W"),
        ("--bands", "gri", "has no band 'gri': it has F435W"),
        ("--rgb", "F160W,F115W,F606W", "the cutout has no band 'F115W': it has F435W"),
        ("--rgb", "F160W,F606W,F814W,F435W", "a picture takes one, two or three bands, not 4"),
    ],
)
def test_unknown_band_is_a_wrong_request(
    option: str, value: str, words: str, hubble: Path, object_id: int, tmp_path: Path
) -> None:
    wrong = run("get", hubble, object_id, option, value, "-o", tmp_path / "c.png")
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (2, 1)
    assert words in wrong.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pack", [[], ["--pack", "webdataset"]])
def test_wrong_composite_is_reported_as_the_reason_of_its_rows(
    pack: list[str], hubble: Path, object_id: int, tmp_path: Path
) -> None:
    wanted = tmp_path / "list.csv"
    wanted.write_text(f"ID\n{object_id}\n")
    options = ("--format", "png", "--rgb", "F160W,F606W,F814W,F435W", "--json")
    failed = run("export", hubble, wanted, "-o", tmp_path / "out", *options, *pack)
    assert failed.exit_code == 1, failed.stderr
    report = json.loads(failed.stdout)
    assert (report["done"], report["failures"]) == (0, {"failed": 1})
    assert report["first_error"] == "a picture takes one, two or three bands, not 4: give irg, for example"


@pytest.fixture(scope="module")
def negative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archive of the demo survey with negative object IDs."""
    folder = tmp_path_factory.mktemp("negative")
    recipe = make_survey(folder / "survey", tiles=1, tile_size=400, objects=20, seed=3)
    (catalog,) = recipe.parent.glob("*/*_cat.fits")
    objects = Table.read(catalog)
    objects["COADD_OBJECT_ID"] = -np.arange(1001, 1021)
    objects.write(catalog, overwrite=True)
    text = re.sub(r"(?m)^(max_background_rms|min_depth|max_blank_fraction)\s*=.*$", "", recipe.read_text())
    recipe.write_text(text)
    assert build(recipe, folder / "archive").stored == 20
    return folder / "archive"


@pytest.mark.parametrize("number", [-1003, -1020])
def test_negative_id_needs_no_quoting(number: int, negative: Path, tmp_path: Path) -> None:
    with Archive(negative) as archive:
        expected = archive.get(number).data
    file = tmp_path / "c.npy"
    for words in (
        ["get", negative, number, "-o", file],
        ["get", "-o", file, "--json", negative, number],
        ["get", negative, "-o", file, "--minimum", "-5", number, "--rgb", "irg"],
        ["get", "-o", file, "--", negative, number],
    ):
        done = run(*words)
        assert done.exit_code == 0, done.stderr
        np.testing.assert_array_equal(np.load(file), expected)
        file.unlink()
    assert run("get", negative, -7, "-o", file).stderr.startswith("error: object -7 is not in the archive")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ARCHIVE", -1003, "--sizee", 64], "No such option '--sizee'. Did you mean '--size'?"),
        (["ARCHIVE", 5, "--sizee", -64], "No such option '--sizee'. Did you mean '--size'?"),
        (["--sizee", 64, "ARCHIVE", -1003], "No such option '--sizee'. Did you mean '--size'?"),
        (["ARCHIVE", "--sizee=64", -1003], "No such option '--sizee'. Did you mean '--size'?"),
        (["ARCHIVE", -1003, "-x"], "No such option '-x'"),
        (["ARCHIVE", -1003, -1004], "unexpected extra argument (-1004)"),
        (["ARCHIVE"], "Missing argument 'OBJECT_ID'"),
        (["ARCHIVE", "-10a"], "object ID '-10a' is not a 64-bit integer"),
        (["ARCHIVE", -1003, "--size", -64], "size '-64' is not a whole number of pixels above zero"),
    ],
)
def test_mistyped_option_beside_a_negative_id_is_named(
    words: list[object], says: str, negative: Path, tmp_path: Path
) -> None:
    wrong = run("get", *(negative if word == "ARCHIVE" else word for word in words), "-o", tmp_path / "c.fits")
    assert wrong.exit_code == 2
    assert says in wrong.stderr
    assert list(tmp_path.iterdir()) == []


def test_export_of_negative_ids_makes_their_files(negative: Path, tmp_path: Path) -> None:
    wanted = tmp_path / "list.csv"
    wanted.write_text("ID\n-1003\n-1004\n")
    done = run("export", negative, wanted, "-o", tmp_path / "out", "--format", "jpg", "--json")
    assert (done.exit_code, json.loads(done.stdout)["done"]) == (0, 2), done.stderr
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.jpg")) == ["-1003.jpg", "-1004.jpg"]


@pytest.mark.parametrize(
    ("options", "style"),
    [
        ([], {}),
        (["--stretch", "auto", "--softening", "2"], {"softening": 2.0}),
        (["--stretch", "30", "--minimum", "-2"], {"stretch": 30.0, "minimum": -2.0}),
        (["--minimum", "-5"], {"minimum": -5.0}),
        (["--rotate", "north", "--compass"], {"rotate": "north", "compass": True}),
        (["--rgb", "F814W"], {"rgb": "F814W"}),
    ],
)
def test_options_of_a_picture_are_the_fields_of_its_style(
    options: list[str], style: dict[str, Any], hubble: Path, object_id: int, tmp_path: Path
) -> None:
    done = run("get", hubble, object_id, *options, "-o", tmp_path / "c.png")
    assert done.exit_code == 0, done.stderr
    with Archive(hubble) as archive, Image.open(tmp_path / "c.png") as file:
        np.testing.assert_array_equal(np.asarray(file), archive.get(object_id).picture(Style(**style)))


def test_picture_in_grey_has_one_channel_in_every_format(hubble: Path, object_id: int, tmp_path: Path) -> None:
    for name, kind in (("c.png", "PNG"), ("c.jpg", "JPEG"), ("c.jpeg", "JPEG"), ("c.tif", "TIFF")):
        for option in ("--bands", "--rgb"):
            done = run("get", hubble, object_id, option, "F814W", "--size", 40, "-o", tmp_path / name)
            assert done.exit_code == 0, done.stderr
            with Image.open(tmp_path / name) as file:
                assert (file.format, file.mode, file.size) == (kind, "L", (40, 40))
