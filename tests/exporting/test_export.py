"""Bulk exports: an answer for every row, files and packs for other programs, and repeats that only add files."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from click.testing import CliRunner, Result
from helpers import tree
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from archive_builder import Archive, ArchiveBuilderError, RequestError
from archive_builder.builder.driver import build
from archive_builder.cli.main import main
from archive_builder.exporting.export import export
from archive_builder.exporting.plan import ROWS_PER_JOB, job_edges
from archive_builder.serve.style import Style
from archive_builder.store.shard_reader import Shard


def objects(archive: Path) -> dict[str, list[int]]:
    """Return the archive's object IDs by status, read from SQLite."""
    with sqlite3.connect(archive / "index.sqlite") as index:
        rows = index.execute("SELECT status, object_id FROM objects ORDER BY object_id").fetchall()
    kinds = ("stored", "noise", "blank", "outside")
    return {kind: [object_id for status, object_id in rows if status == i] for i, kind in enumerate(kinds)}


def write_list(path: Path, header: str, rows: list[Any]) -> Path:
    path.write_text("\n".join([header, *(str(row) for row in rows)]) + "\n")
    return path


def manifest(folder: Path) -> list[dict[str, str]]:
    """Return the rows of manifest.csv, after a check that manifest.parquet has the same rows."""
    with (folder / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    other = parquet.read_table(folder / "manifest.parquet").to_pylist()
    assert [list(row) for row in other] == [list(row) for row in rows]
    for row, twin in zip(rows, other, strict=True):
        for column, value in twin.items():
            text = row[column]
            assert text == ("" if value is None else text and str(value)) or float(text) == value
    return rows


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["export", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def mixed(demo_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path, Path, Result]:
    """A list with every kind of row: its rows, its path, its export and the result of the command."""
    folder = tmp_path_factory.mktemp("mixed")
    kinds = objects(demo_archive)
    stored = [f"{object_id},," for object_id in kinds["stored"]]
    a, b = kinds["stored"][:2]
    odd = [
        f"{a},,",
        f"{a},0.2,0.1",
        f"{a},0.1,",
        f"{a},,0.1",
        f"{b},0.1,0.1",
        ",,",
        "",
        "x7,,",
        "9223372036854775807,,",
    ]
    odd += [f"{b},-1,1", f"{b},0,1", f"{b},1e-6,1", f"{b},inf,1", f"{b},1e9,1", f"{b},nan,nan", "-12,,", f"{2**63},,"]
    odd += [f"{object_id},," for kind in ("noise", "blank") for object_id in kinds[kind]]
    rows = [stored[i] for i in np.random.default_rng(1).permutation(len(stored))] + odd
    path = write_list(folder / "list.csv", "ID,XSIZE,YSIZE", rows)
    result = run(demo_archive, path, "-o", folder / "out", "--size", 40, "--bands", "ig", "--workers", 2)
    return rows, path, folder / "out", result


def test_every_row_is_answered_in_the_order_of_the_list(mixed: Any, demo_archive: Path) -> None:
    rows, _, folder, _ = mixed
    kinds = objects(demo_archive)
    answers = manifest(folder)
    assert [int(answer["row"]) for answer in answers] == list(range(len(rows)))
    expected = {str(object_id): "" for object_id in kinds["stored"]}
    expected |= {str(object_id): f"skipped for {kind}" for kind in ("noise", "blank") for object_id in kinds[kind]}
    for row, answer in zip(rows, answers, strict=True):
        object_id, x, _ = row.split(",") if row else ("", "", "")
        if x in ("-1", "0", "1e-6"):
            reason = "not a size"
        elif x == "inf":
            reason = "not a size: XSIZE 'inf': give arcmin"
        elif x == "1e9":
            reason = "larger than the archive can serve"
        elif object_id in ("x7", str(2**63)):
            reason = f"not a 64-bit integer ID: '{object_id}'"
        else:
            reason = expected.get(object_id, "not in the archive") if object_id else "no ID"
        assert answer["reason"] == reason
        assert answer["status"] == ("failed" if reason else "done")
        assert answer["object_id"] == ("" if reason.startswith("not a 64") else object_id)
        assert bool(answer["file"]) == bool(answer["ny"]) == (not reason)
        assert answer["tile"] or object_id not in expected or reason.startswith("not a size")


def test_a_failed_row_gives_exit_status_one_and_one_line_of_counts(mixed: Any) -> None:
    rows, _, folder, result = mixed
    answers = manifest(folder)
    failed = [answer for answer in answers if answer["status"] == "failed"]
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {len(failed)} of {len(rows)} rows have no cutout: 2 no ID, 2 not a 64-bit")
    assert f"{len(rows) - len(failed)} of {len(rows)} rows served" in result.stdout


def test_files_hold_the_pixels_of_their_object_at_the_requested_size(mixed: Any, demo_archive: Path) -> None:
    rows, _, folder, _ = mixed
    with Archive(demo_archive) as archive:
        compared = 0
        for row, answer in zip(rows, manifest(folder), strict=True):
            if answer["status"] == "failed":
                continue
            object_id, x, y = row.split(",")
            sides = [side for side in (y, x) if side not in ("", "nan")]
            shape = tuple(round(float(s) * 60 / 0.263) for s in (sides[0], sides[-1])) if sides else (40, 40)
            assert (int(answer["ny"]), int(answer["nx"])) == shape
            with fits.open(folder / answer["file"]) as hdus:
                assert [hdu.name for hdu in hdus if hdu.name.startswith("SCI")] == ["SCI_i", "SCI_g"]
                assert hdus["SCI_i"].header["OBJECT"] == object_id
                read = np.stack([hdus["SCI_i"].data, hdus["SCI_g"].data])
            np.testing.assert_array_equal(read, archive.get(int(object_id), size=shape, bands="ig").data)
            compared += 1
    assert compared == len(objects(demo_archive)["stored"]) + 6 > 6


def test_rows_of_one_object_share_a_file_only_at_the_same_size(mixed: Any, demo_archive: Path) -> None:
    rows, _, folder, _ = mixed
    a, b = objects(demo_archive)["stored"][:2]
    files: dict[str, set[str]] = {}
    for row, answer in zip(rows, manifest(folder), strict=True):
        files.setdefault(row, set()).add(answer["file"])
    home = f"{a // 1000}/{a}"
    assert files[f"{a},,"] == {f"{home}.fits"}  # two rows share this file
    assert files[f"{a},0.2,0.1"] == {f"{home}_46x23.fits"}
    assert files[f"{a},0.1,"] == files[f"{a},,0.1"] == {f"{home}_23x23.fits"}
    assert files[f"{b},0.1,0.1"] == {f"{b // 1000}/{b}_23x23.fits"}
    there = set(tree(folder)) - {"export.json", "manifest.csv", "manifest.parquet"}
    assert there == {name for names in files.values() for name in names} - {""}


def test_a_repeat_writes_the_missing_files_and_gives_the_same_tree(
    mixed: Any, demo_archive: Path, tmp_path: Path
) -> None:
    _, path, folder, _ = mixed
    before, copy = tree(folder), shutil.copytree(folder, tmp_path / "out")
    first, second, third = [copy / answer["file"] for answer in manifest(folder)[:3]]
    untouched = third.stat().st_mtime_ns
    first.unlink()
    second.write_bytes(b"")  # a power failure can leave an empty file
    (copy / "manifest.csv").unlink()
    (first.parent / f".{first.name}.0123456789abcdef.123.part").write_bytes(b"half")
    again = run(demo_archive, path, "-o", copy, "--size", "40px", "--bands", "ig", "--json")
    report = json.loads(again.stdout)
    assert (report["made"], report["kept"]) == (2, len(before) - 3 - 2)
    assert sum(report["failures"].values()) + report["done"] == report["rows"]
    assert tree(copy) == before
    assert third.stat().st_mtime_ns == untouched


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--size", "41"], r"size was \[40, 40\], is \[41, 41\]"),
        (["--bands", "gi"], r'bands was \["i", "g"\], is \["g", "i"\]'),
        (["--format", "npy"], r'formats was \["fits"\], is \["npy"\]'),
        (["--prefix", "p"], r'prefix was "", is "p"'),
        (["--pack", "webdataset"], r'pack was null, is "webdataset"'),
        (["--rgb", "zrg"], "style was"),
        (["--stretch", "60"], r'style was .*"stretch": "auto".*, is .*"stretch": 60\.0'),
        (["--compass"], r'style was .*"compass": false.*, is .*"compass": true'),
    ],
)
def test_a_repeat_with_other_options_is_refused(mixed: Any, demo_archive: Path, options: list[str], says: str) -> None:
    _, path, folder, _ = mixed
    before = tree(folder)
    result = run(demo_archive, path, "-o", folder, "--size", "40", "--bands", "ig", *options)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert re.search(says, result.stderr)
    assert tree(folder) == before


def test_a_repeat_with_another_list_is_refused(mixed: Any, demo_archive: Path, tmp_path: Path) -> None:
    _, _, folder, _ = mixed
    with pytest.raises(RequestError, match="the list is different: give a new folder"):
        export(demo_archive, write_list(tmp_path / "l.csv", "ID", [1]), folder, size=40, bands="ig")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["LIST", "--bands", "gQ"], "no band 'Q'"),
        (["LIST", "--bands", "gg"], "once"),
        (["LIST", "--size", "0"], "size"),
        (["LIST", "--size", "a lot"], "size"),
        (["LIST", "--format", "gif"], "gif"),
        (["LIST", "--rotate", "north"], "fits holds the archive's pixels, never resampled: give rotate north with png"),
        (["LIST", "--rotate", "north", "--pack", "hdf5"], "hdf5 holds the archive's pixels, never resampled"),
        (["LIST", "--rotate", "north", "--format", "png", "--format", "npy"], "npy holds the archive's pixels"),
        (["LIST", "--stretch", "wide"], "'wide' is neither auto nor a number"),
        (["LIST", "--sizee", "5"], "No such option '--sizee'. Did you mean '--size'?"),
        (["LIST", "--pack", "zip"], "zip"),
        (["LIST", "--prefix", "../x"], "prefix"),
        (["LIST", "--id-column", "NAME"], "NAME"),
        (["LIST", "--ra-column", "NAME"], "RA and Dec"),
        (["gone.csv"], "gone.csv"),
    ],
)
def test_a_wrong_request_gives_exit_status_two_and_no_folder(
    demo_archive: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    path = write_list(tmp_path / "list.csv", "ID", [1])
    result = run(demo_archive, *(path if a == "LIST" else a for a in arguments), "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_export_is_refused_and_stays_unchanged(demo_archive: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path / "list.csv", "ID", [1])
    with pytest.raises(RequestError, match=r"holds list\.csv and is not an export"):
        export(demo_archive, path, tmp_path)
    assert os.listdir(tmp_path) == ["list.csv"]


def test_a_second_export_into_the_same_folder_is_refused(demo_archive: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path / "list.csv", "ID", [1])
    (tmp_path / "out").mkdir()
    descriptor = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(ArchiveBuilderError, match="another export is running in this folder"):
        export(demo_archive, path, tmp_path / "out")
    os.close(descriptor)


def test_a_completely_served_list_gives_exit_status_zero_in_every_format(demo_archive: Path, tmp_path: Path) -> None:
    ids = objects(demo_archive)["stored"][:3]
    assert len(ids) == 3
    path = write_list(tmp_path / "list.csv", "ID", ids)
    formats = ["fits", "fits-bands", "png", "jpg", "tiff", "npy", "npz"]
    options = [word for kind in formats for word in ("--format", kind)]
    result = run(demo_archive, path, "-o", tmp_path / "out", *options, "--size", "30", "--prefix", "des_")
    assert (result.exit_code, "error" in result.stderr) == (0, False)
    for object_id, answer in zip(ids, manifest(tmp_path / "out"), strict=True):
        stem = f"{object_id // 1000}/des_{object_id}"
        endings = [".fits", *(f"_{band}.fits" for band in "grizY"), ".png", ".jpg", ".tiff", ".npy", ".npz"]
        assert answer["file"].split(";") == [stem + ending for ending in endings]
        home = tmp_path / "out" / stem
        data = np.load(f"{home}.npy")
        assert (data.shape, data.dtype) == ((5, 30, 30), np.float32)
        np.testing.assert_array_equal(np.load(f"{home}.npz")["data"], data)
        for band, image in zip("grizY", data, strict=True):
            np.testing.assert_array_equal(fits.getdata(f"{home}_{band}.fits", f"SCI_{band}"), image)
        for ending in (".png", ".jpg", ".tiff"):
            with Image.open(f"{home}{ending}") as picture:
                assert (picture.size, picture.mode) == ((30, 30), "RGB")


@pytest.mark.parametrize("color", ["survey", "lupton"])
def test_exported_pictures_are_those_of_the_cutouts_in_every_style(
    demo_archive: Path, tmp_path: Path, color: str
) -> None:
    (object_id,) = objects(demo_archive)["stored"][:1]
    path = write_list(tmp_path / "list.csv", "ID", [object_id])
    for number, style in enumerate(
        [Style(color=color), Style(color=color, rotate="north"), Style(color=color, compass=True)]  # type: ignore[arg-type]
    ):
        report = export(demo_archive, path, tmp_path / str(number), formats=["jpeg", "png"], size=(40, 50), style=style)
        assert (report.done, report.made) == (1, 2)
        with Archive(demo_archive) as archive:
            expected = archive.get(object_id, size=(40, 50)).picture(style)
        (png,), (jpg,) = ((tmp_path / str(number)).rglob(pattern) for pattern in ("*.png", "*.jpg"))
        np.testing.assert_array_equal(np.asarray(Image.open(png)), expected)
        file = io.BytesIO()
        Image.fromarray(expected).save(file, "JPEG", quality=90, subsampling=0)
        np.testing.assert_array_equal(np.asarray(Image.open(jpg)), np.asarray(Image.open(file)))


def test_an_hdf5_pack_has_every_cutout_once_at_the_place_in_the_manifest(demo_archive: Path, tmp_path: Path) -> None:
    ids = objects(demo_archive)["stored"]
    path = write_list(tmp_path / "list.csv", "ID", [*ids[::-1], ids[3], 5])
    report = export(demo_archive, path, tmp_path / "out", size=(20, 30), pack="hdf5", prefix="p")
    assert (report.rows, report.done, report.failures) == (len(ids) + 2, len(ids) + 1, {"not in the archive": 1})
    answers = manifest(tmp_path / "out")
    with Archive(demo_archive) as archive, h5py.File(tmp_path / "out" / "p00000.h5") as piece:
        assert list(piece.attrs["bands"]) == list("grizY")
        assert (piece["cutouts"].shape, piece["cutouts"].dtype) == ((len(ids), 5, 20, 30), np.float32)
        assert sorted(piece["object_id"][...]) == ids
        for answer in answers[:-1]:
            place, object_id = int(answer["place"]), int(answer["object_id"])
            assert (answer["file"], piece["object_id"][place]) == ("p00000.h5", object_id)
            np.testing.assert_array_equal(piece["cutouts"][place], archive.get(object_id, size=(20, 30)).data)
            first = int(piece["request_row"][place])
            assert answers[first]["object_id"] == answer["object_id"]
            assert first <= int(answer["row"])
        coord = archive.get(ids[0]).coord
        where = list(piece["object_id"]).index(ids[0])
        assert (piece["ra"][where], piece["dec"][where]) == (coord.ra.deg, coord.dec.deg)
    before = tree(tmp_path / "out")
    assert export(demo_archive, path, tmp_path / "out", size=(20, 30), pack="hdf5", prefix="p").made == 0
    assert tree(tmp_path / "out") == before


def test_one_damaged_cutout_of_an_hdf5_pack_leaves_the_others_readable(demo_archive: Path, tmp_path: Path) -> None:
    archive_path = tmp_path / "archive"
    shutil.copytree(demo_archive, archive_path)
    ids = objects(demo_archive)["stored"]
    with Archive(archive_path) as archive:
        victim = archive.locate(ids[0])
        with h5py.File(victim.shard) as shard:
            x, y = (int(shard[f"objects/{axis}"][victim.row]) for axis in "xy")
            chunk = shard["pixels"].id.get_chunk_info_by_coord((0, y // 128 * 128, x // 128 * 128))
    with victim.shard.open("r+b") as file:
        file.seek(chunk.byte_offset + chunk.size // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0xFF]))
    path = write_list(tmp_path / "list.csv", "ID", ids)
    report = export(archive_path, path, tmp_path / "out", size=8, pack="hdf5")
    assert set(report.failures) == {"failed"}
    assert 1 <= report.failures["failed"] < len(ids) / 2
    assert "damaged" in str(report.first_error)
    failed = {int(row["object_id"]) for row in manifest(tmp_path / "out") if row["status"] != "done"}
    assert ids[0] in failed
    packed = []
    with Archive(demo_archive) as good:
        for piece_path in sorted((tmp_path / "out").glob("*.h5")):
            with h5py.File(piece_path) as piece:
                packed += piece["object_id"][...].tolist()
                np.testing.assert_array_equal(piece["cutouts"][...], good.get_many(piece["object_id"][...], size=8))
    assert sorted(packed) == sorted(set(ids) - failed)


def test_an_hdf5_pack_of_several_sizes_is_refused_in_one_line(demo_archive: Path, tmp_path: Path) -> None:
    first, second, third = objects(demo_archive)["stored"][:3]
    path = write_list(tmp_path / "list.csv", "ID,XSIZE", [f"{first},0.1", f"{second},0.2", f"{third},"])
    with pytest.raises(RequestError, match=r"the list has 3 sizes.*of one size"):
        export(demo_archive, path, tmp_path / "out", pack="hdf5")
    path = write_list(tmp_path / "list.csv", "ID,XSIZE", [f"{first},0.1", f"{second},0.1", f"{third},-1"])
    assert export(demo_archive, path, tmp_path / "out", pack="hdf5").failures == {"not a size": 1}
    with h5py.File(tmp_path / "out" / "00000.h5") as piece:
        assert piece["cutouts"].shape == (2, 5, 23, 23)


def test_positions_are_cut_named_and_packed_like_objects(demo_archive: Path, tmp_path: Path) -> None:
    ids = objects(demo_archive)["stored"][:2]
    with Archive(demo_archive) as archive:
        places = [(archive.get(i).ra, archive.get(i).dec) for i in ids]
        cutouts = [archive.at(place, size=24).data for place in places]
    rows = [f"{ra!r},{dec!r}" for ra, dec in places] + [
        f"{places[0][0] - 360!r},{places[0][1]!r}",
        "10,80",
        ",3",
        "1,99",
    ]
    path = write_list(tmp_path / "list.csv", "RA,DEC", rows)
    reasons = ["", "", "", "on no tile", "no position on the sky", "no position on the sky"]
    result = run(demo_archive, path, "-o", tmp_path / "out", "--format", "npy", "--size", 24)
    assert result.exit_code == 1
    answers = manifest(tmp_path / "out")
    assert [answer["reason"] for answer in answers] == reasons
    assert [answer["ra"] for answer in answers] == [row.split(",")[0] for row in rows]
    assert answers[2]["file"] == answers[0]["file"]  # RA minus 360 deg
    for answer, place, data in zip(answers, places, cutouts, strict=False):
        np.testing.assert_array_equal(np.load(tmp_path / "out" / answer["file"]), data)
        hours, sign = place[0] / 15, "-" if place[1] < 0 else "+"
        assert answer["file"].startswith(f"DESJ{int(hours):02d}{int(hours * 60) % 60:02d}{sign}")
    result = run(demo_archive, path, "-o", tmp_path / "tar", "--pack", "webdataset", "--format", "npy", "--size", 24)
    assert [answer["reason"] for answer in manifest(tmp_path / "tar")] == reasons
    check_tar(tmp_path / "tar", cutouts)


def test_an_hdf5_pack_of_positions_has_the_pixels_at_each_position(demo_archive: Path, tmp_path: Path) -> None:
    with Archive(demo_archive) as archive:
        assert (
            archive.reader.settings.has_color
        )  # a picture in the survey's colours needs no pixels, but an HDF5 pack needs them
        sky = [(archive.get(i).ra, archive.get(i).dec) for i in objects(demo_archive)["stored"][:3]]
        cutouts = {position: archive.at(position, size=24).data for position in sky}
    path = write_list(tmp_path / "list.csv", "RA,DEC", [f"{ra!r},{dec!r}" for ra, dec in sky])
    assert export(demo_archive, path, tmp_path / "out", pack="hdf5", size=24).done == len(sky)
    with h5py.File(tmp_path / "out" / "00000.h5") as piece:
        there = list(zip(piece["ra"][...].tolist(), piece["dec"][...].tolist(), strict=True))
        assert sorted(there) == sorted(sky)
        assert "object_id" not in piece
        for position, data in zip(there, piece["cutouts"][...], strict=True):
            np.testing.assert_array_equal(data, cutouts[position])


def check_tar(folder: Path, cutouts: list[np.ndarray]) -> None:
    """Compare a WebDataset, read like its usual readers: files with one name up to the first dot form a sample."""
    samples: dict[str, dict[str, bytes]] = {}
    with tarfile.open(folder / "00000.tar") as piece:
        for member in piece:
            assert (member.mtime, member.uid, member.gid) == (0, 0, 0)
            key, ending = member.name.split(".", 1)
            file = piece.extractfile(member)
            assert file is not None
            samples.setdefault(key, {})[ending] = file.read()
    assert len(samples) == len(cutouts) > 0
    assert len(manifest(folder)) >= len(cutouts)
    for answer, data in zip(manifest(folder), cutouts, strict=False):
        sample = samples[answer["place"]]
        assert answer["file"] == "00000.tar"
        assert sorted(sample) == ["json", "npy"]
        np.testing.assert_array_equal(np.load(io.BytesIO(sample["npy"])), data)
        described = json.loads(sample["json"])
        assert described["request_row"] == int(answer["row"])
        assert (described["ra"], described["dec"]) == pytest.approx((float(answer["ra"]), float(answer["dec"])))


def test_a_broken_shard_fails_its_rows_until_it_is_restored(demo_archive: Path, tmp_path: Path) -> None:
    archive = shutil.copytree(demo_archive, tmp_path / "archive")
    ids = objects(archive)["stored"]
    path = write_list(tmp_path / "list.csv", "ID", ids)
    shard = min((archive / "shards").iterdir())
    with Shard(shard) as opened:
        lost = set(opened.objects.object_id.tolist())
    good = shard.read_bytes()
    shard.write_bytes(good[:1000])
    report = export(archive, path, tmp_path / "out", formats=["npy"], size=8)
    assert report.failures == {"failed": len(lost)}
    assert report.first_error is not None
    assert shard.name in report.first_error
    answers = manifest(tmp_path / "out")
    assert {int(answer["object_id"]) for answer in answers if answer["status"] == "failed"} == lost
    assert all(shard.name in answer["reason"] for answer in answers if answer["status"] == "failed")
    shard.write_bytes(good)
    report = export(archive, path, tmp_path / "out", formats=["npy"], size=8)
    assert (report.failures, report.made, report.kept) == ({}, len(lost), len(ids) - len(lost))


def test_an_archive_of_stamps_refuses_positions(demo_survey: Path, tmp_path: Path) -> None:
    recipe = (demo_survey / "survey.toml").read_text().replace('root = "."', f'root = "{demo_survey}"')
    changed = re.sub(r"(?m)^layout\s*=.*$", 'layout = "stamps"', recipe)
    assert changed != recipe
    (tmp_path / "survey.toml").write_text(changed)
    build(tmp_path / "survey.toml", tmp_path / "archive")
    path = write_list(tmp_path / "list.csv", "RA,DEC", ["54,-28"])
    result = run(tmp_path / "archive", path, "-o", tmp_path / "out")
    assert (result.exit_code, "give object IDs" in result.stderr) == (2, True)


def test_a_picture_without_its_bands_fails_with_a_reason_in_the_manifest(demo_archive: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path / "list.csv", "ID", objects(demo_archive)["stored"][:1])
    options = {"formats": ["fits", "png"], "bands": "gi", "size": 8, "style": Style(rgb="irg")}
    assert export(demo_archive, path, tmp_path / "out", **options).failures == {"failed": 1}
    assert "the cutout has no band 'r'" in manifest(tmp_path / "out")[0]["reason"]
    assert set(tree(tmp_path / "out")) == {"export.json", "manifest.csv", "manifest.parquet"}


OWN = 'ID,NOTE,code,mag,tile,"a/b"\n'
"""Header of a list with own columns; the manifest has a column ``tile``."""


def own_list(archive: Path, path: Path) -> list[int]:
    """Write a list of three records, one of an unknown object, with own columns; return the IDs."""
    a, b = objects(archive)["stored"][:2]
    notes = f'{a},"see also\n1005, and ""7""",007,20.50,here,\n5,,1,,,1\n{b}, x ,12,nan,there,2\n'
    path.write_text(OWN + notes)
    return [a, 5, b]


def test_the_manifest_carries_the_lists_own_columns(demo_archive: Path, tmp_path: Path) -> None:
    ids = own_list(demo_archive, tmp_path / "list.csv")
    export(demo_archive, tmp_path / "list.csv", tmp_path / "out", formats=["npy"], size=8)
    with (tmp_path / "out" / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    known = ["row", "object_id", "status", "reason", "file", "tile", "ny", "nx"]
    assert list(rows[0]) == [*known, "NOTE", "code", "mag", "list_tile", "a/b"]
    assert [row["object_id"] for row in rows] == [str(object_id) for object_id in ids]
    assert [[row[name] for name in list(row)[8:]] for row in rows] == [
        ['see also\n1005, and "7"', "007", "20.50", "here", ""],
        ["", "1", "", "", "1"],
        [" x ", "12", "nan", "there", "2"],
    ]
    table = parquet.read_table(tmp_path / "out" / "manifest.parquet")
    assert table.column_names == list(rows[0])
    assert [str(kind) for kind in table.schema.types[8:]] == ["string", "string", "double", "string", "int64"]
    assert table["a/b"].to_pylist() == [None, 1, 2]
    assert table["mag"].to_pylist()[:2] == [20.5, None]


def test_typed_columns_of_a_list_keep_their_types(demo_archive: Path, tmp_path: Path) -> None:
    ids = objects(demo_archive)["stored"][:2]
    day = datetime(2026, 1, 2, tzinfo=UTC)
    own = {"flag": [True, None], "when": [day, None], "price": [Decimal("1.50"), None], "n": pa.array([1, None], "u1")}
    parquet.write_table(pa.table({"ID": ids, **own, "vector": [[1, 2], [3]]}), tmp_path / "list.parquet")
    export(demo_archive, tmp_path / "list.parquet", tmp_path / "out", formats=["npy"], size=8)
    table = parquet.read_table(tmp_path / "out" / "manifest.parquet")
    assert {name: table[name].to_pylist() for name in table.column_names[8:]} == {
        "flag": [True, None],
        "when": [day, None],
        "price": [Decimal("1.50"), None],
        "n": [1, None],
    }
    with (tmp_path / "out" / "manifest.csv").open(newline="") as file:
        rows = [list(row.values())[8:] for row in csv.DictReader(file)]
    assert rows == [["true", "2026-01-02 00:00:00.000000Z", "1.50", "1"], ["", "", "", ""]]


def test_an_hdf5_pack_has_the_own_columns_of_the_first_row_of_each_cutout(demo_archive: Path, tmp_path: Path) -> None:
    a, _, b = own_list(demo_archive, tmp_path / "list.csv")
    with (tmp_path / "list.csv").open("a") as file:
        file.write(f"{b},again,,,,\n")
    export(demo_archive, tmp_path / "list.csv", tmp_path / "out", size=8, pack="hdf5")
    with h5py.File(tmp_path / "out" / "00000.h5") as piece:
        order = [list(piece["object_id"]).index(object_id) for object_id in (a, b)]
        assert set(piece["list"]) == {"NOTE", "code", "mag", "tile", "a_b"}
        assert list(piece["list/NOTE"].asstr()[:][order]) == ['see also\n1005, and "7"', " x "]
        np.testing.assert_array_equal(piece["list/mag"][:][order], [20.5, np.nan])
        missing = piece["list/a_b"].attrs["missing"]
        assert piece["list/a_b"][:][order].tolist() == [missing, 2] == [-(2**63), 2]
        assert piece["list/a_b"].dtype == np.int64


def test_a_webdataset_has_the_own_columns_in_its_json(demo_archive: Path, tmp_path: Path) -> None:
    a, _, b = own_list(demo_archive, tmp_path / "list.csv")
    export(demo_archive, tmp_path / "list.csv", tmp_path / "out", size=8, pack="webdataset")
    with tarfile.open(tmp_path / "out" / "00000.tar") as piece:
        read = [json.load(piece.extractfile(f"{object_id}.json"))["list"] for object_id in (a, b)]  # type: ignore[arg-type]
    assert read == [
        {"NOTE": 'see also\n1005, and "7"', "code": "007", "mag": 20.5, "tile": "here", "a/b": None},
        {"NOTE": " x ", "code": "12", "mag": None, "tile": "there", "a/b": 2},
    ]


@pytest.mark.parametrize("pack", ["hdf5", "webdataset"])
def test_a_pack_is_not_continued_with_other_own_columns(demo_archive: Path, tmp_path: Path, pack: str) -> None:
    own_list(demo_archive, tmp_path / "list.csv")
    options = {"size": 8, "pack": pack}
    export(demo_archive, tmp_path / "list.csv", tmp_path / "out", **options)
    assert export(demo_archive, tmp_path / "list.csv", tmp_path / "out", **options).made == 0
    text = (tmp_path / "list.csv").read_text()
    (tmp_path / "list.csv").write_text(text.replace("there", "elsewhere"))
    with pytest.raises(RequestError, match="the list has other values in its own columns, which the pack holds: give"):
        export(demo_archive, tmp_path / "list.csv", tmp_path / "out", **options)


def test_files_are_continued_with_other_own_columns(demo_archive: Path, tmp_path: Path) -> None:
    ids = objects(demo_archive)["stored"][:2]
    assert export(demo_archive, write_list(tmp_path / "l.csv", "ID", ids), tmp_path / "out", size=8).made == 2
    noted = write_list(tmp_path / "l.csv", "ID,NOTE", [f"{object_id},x" for object_id in ids])
    assert export(demo_archive, noted, tmp_path / "out", size=8).kept == 2
    assert [row["NOTE"] for row in manifest(tmp_path / "out")] == ["x", "x"]


def test_a_position_that_cannot_be_read_stands_in_the_manifest_as_written(demo_archive: Path, tmp_path: Path) -> None:
    path = write_list(tmp_path / "list.csv", "RA,DEC", ["3h99m,-28:00:00", "03:36:00,-28:00:00", ",1", "1,inf"])
    result = run(demo_archive, path, "-o", tmp_path / "out", "--size", 8)
    assert "1 of 4 rows served" in result.stdout
    rows = manifest(tmp_path / "out")
    assert [(row["ra"], row["dec"]) for row in rows] == [("", "-28"), ("54", "-28"), ("", "1"), ("1", "")]
    forms = "give RA in deg or h:m:s, Dec in deg or d:m:s"
    assert [row["reason"] for row in rows] == [
        f"no position on the sky: RA '3h99m', Dec '-28:00:00': {forms}",
        "",
        "no position on the sky",
        f"no position on the sky: RA '1', Dec 'inf': {forms}",
    ]


def test_a_list_is_piped_into_the_command(demo_archive: Path, tmp_path: Path) -> None:
    ids = objects(demo_archive)["stored"][:2]
    text = "".join(f"{word}\n" for word in ["ID", *ids])
    arguments = ["export", str(demo_archive), "-", "-o", str(tmp_path / "out"), "--size", "8"]
    program = "import sys; from archive_builder.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, "2 of 2 rows served; 2 files made" in done.stdout) == (0, True), done.stderr
    again = CliRunner().invoke(main, arguments, input=text)
    assert "0 files made, 2 kept" in again.stdout
    refused = CliRunner().invoke(main, arguments, input="NAME\nx\n")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: list from standard input: has no column of object IDs")


def test_an_empty_list_gives_exit_status_zero_and_an_empty_manifest(demo_archive: Path, tmp_path: Path) -> None:
    result = run(demo_archive, write_list(tmp_path / "list.csv", "ID", []), "-o", tmp_path / "out")
    assert result.exit_code == 0
    assert manifest(tmp_path / "out") == []


@settings(deadline=None, max_examples=100)
@given(
    tiles=st.lists(st.lists(st.sampled_from([1, 2, 30, 700, 2500]), min_size=1, max_size=8), max_size=12),
)
def test_jobs_keep_the_rows_of_an_object_together_and_have_similar_sizes(tiles: list[list[int]]) -> None:
    counts = [(number, count) for number, objects in enumerate(tiles) for count in objects]
    tile = np.repeat([number for number, _ in counts], [count for _, count in counts]).astype(np.int32)
    place = np.repeat(np.arange(len(counts)), [count for _, count in counts])
    edges = job_edges(tile, place)
    assert (edges[0], edges[-1]) == (0, len(place))
    assert all(place[edge - 1] != place[edge] for edge in edges[1:-1])
    for first, end in pairwise(edges):
        assert end - first <= ROWS_PER_JOB or len(set(place[first:end])) == 1
    for first, end in zip(edges[:-2], edges[2:], strict=True):
        assert end - first > ROWS_PER_JOB // 2
