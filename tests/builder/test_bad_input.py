"""A tile with bad files fails alone, with a reason on one line, and is built after the files are repaired."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from click.testing import Result
from helpers import run

GOOD, BAD = "DEM033600-280000", "DEM033607-280000"

BIG_ID = 2**53 + 1
"""The smallest ID that a 64-bit float cannot hold."""


def band(tile: Path, letter: str = "r") -> Path:
    return tile / f"{tile.name}_r1p01_{letter}.fits.fz"


def catalogue(tile: Path) -> Path:
    return tile / f"{tile.name}_r1p01_cat.fits"


def errors(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


def shards(archive: Path) -> list[str]:
    """Return the names of all files in the folder of shards, hidden ones too."""
    return sorted(path.name for path in (archive / "shards").iterdir())


def fetch(archive: Path, shard: str, out: Path) -> Any:
    """Return the cutout of a shard's first object, written by the command `get`."""
    with h5py.File(archive / "shards" / shard) as file:
        object_id = int(file["objects/object_id"][0])
    assert run("get", archive, object_id, "-o", out).exit_code == 0
    return np.load(out)


# ---- kinds of damage to a tile


def edit_catalogue(change: Callable[[Table], Table | None]) -> Callable[[Path], None]:
    """Return a damage that changes the catalogue."""

    def damage(tile: Path) -> None:
        table = Table.read(catalogue(tile))
        changed = change(table)
        (table if changed is None else changed).write(catalogue(tile), overwrite=True)

    return damage


def hours(table: Table) -> None:
    table["ALPHAWIN_J2000"] /= 15


def no_position(table: Table) -> None:
    table["DELTAWIN_J2000"] = np.nan


def truncate(fraction: float) -> Callable[[Path], None]:
    def damage(tile: Path) -> None:
        content = band(tile).read_bytes()
        band(tile).write_bytes(content[: int(fraction * len(content))])

    return damage


def overwrite(path: Callable[[Path], Path], content: bytes) -> Callable[[Path], None]:
    return lambda tile: (path(tile).write_bytes(content), None)[1]


def rename_hdu(tile: Path) -> None:
    with fits.open(band(tile), mode="update", disable_image_compression=True) as hdus:
        hdus["SCI"].header["EXTNAME"] = "IMAGE"


def cut_a_row(tile: Path) -> None:
    data, header = fits.getdata(band(tile), "SCI", header=True)
    fits.ImageHDU(data[:-1], header, name="SCI").writeto(band(tile), overwrite=True)


def shift_the_wcs(tile: Path) -> None:
    with fits.open(band(tile), mode="update", disable_image_compression=True) as hdus:
        hdus["SCI"].header["CRPIX1"] += 1


def spoil_the_heap(tile: Path) -> None:
    """Overwrite the compressed pixels; the headers and tables stay."""
    with fits.open(band(tile), disable_image_compression=True) as hdus:
        cards, length = hdus["SCI"].header, hdus["SCI"].header["PCOUNT"]
        start = hdus["SCI"].fileinfo()["datLoc"] + cards["NAXIS1"] * cards["NAXIS2"]
    content = bytearray(band(tile).read_bytes())
    content[start : start + length] = noise(length)
    band(tile).write_bytes(content)


def noise(length: int) -> bytes:
    return np.random.default_rng(3).bytes(length)


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing band": (lambda tile: band(tile).unlink(), rf"no file for band r: nothing matches .*{BAD}_\*_r"),
    "missing catalogue": (lambda tile: catalogue(tile).unlink(), "no file for the catalogue"),
    "two files of a band": (lambda tile: shutil.copy(band(tile), tile / f"{BAD}_2_r.fits"), "2 files for band r"),
    "image cut in a header": (truncate(0.01), r"_r\.fits\.fz: has no HDU SCI .* replace the file"),
    **{f"image cut at {f}": (truncate(f), r"_r\.fits\.fz: the file is truncated") for f in (0.2, 0.6, 0.98)},
    "image of nothing": (overwrite(band, b""), r"_r\.fits\.fz: cannot be read"),
    "image of noise": (overwrite(band, noise(100_000)), r"_r\.fits\.fz: cannot be read"),
    "pixels of noise": (spoil_the_heap, r"_r\.fits\.fz: rows \d+ to \d+ cannot be read .* replace it"),
    "image in another HDU": (rename_hdu, r"_r\.fits\.fz: has no HDU SCI \(it has 0 PRIMARY, 1 IMAGE, 2 MSK"),
    "band of another shape": (cut_a_row, "band r is 500 x 499 px but band g is 500 x 500"),
    "band of another place": (shift_the_wcs, "band r's WCS is off band g's by 1 px"),
    "no ID column": (
        edit_catalogue(lambda table: table.rename_column("COADD_OBJECT_ID", "COADD_ID")),
        r"_cat\.fits: has no column COADD_OBJECT_ID: did you mean COADD_ID\?",
    ),
    "RA in hours": (
        edit_catalogue(hours),
        "none of the 60 catalogued objects lies on the tile.* check that RA is in deg, not in hours",
    ),
    "no position": (
        edit_catalogue(no_position),
        r"_cat\.fits: none of its 60 objects has a position on the sky \(first: object 353",
    ),
    "no object": (edit_catalogue(lambda table: table[:0]), r"_cat\.fits: has no objects"),
    "catalogue of nothing": (overwrite(catalogue, b""), r"_cat\.fits: cannot be read"),
    "catalogue of noise": (overwrite(catalogue, noise(9_000)), r"_cat\.fits: cannot be read"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_bad_tile_fails_alone_and_is_built_after_its_repair(
    demo_survey: Path, survey_copy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], what: str
) -> None:
    damage, reason = DAMAGE[what]
    archive, recipe = tmp_path / "archive", survey_copy / "survey.toml"
    damage(survey_copy / BAD)
    first = run("build", recipe, archive)
    assert first.exit_code == 1
    (error,) = errors(first)
    assert re.match(rf"error: tile {BAD}: .*{reason}", error)
    assert not re.search("Traceback|bug:|worker process died", first.output)
    assert shards(archive) == [f"{GOOD}.1.h5"]
    assert fetch(archive, f"{GOOD}.1.h5", tmp_path / "good.npy").shape == (5, 228, 228)
    told = json.loads(run("status", archive, "--json").stdout)
    assert (told["built"], told["stored"] + told["skipped"]) == (1, 60)
    assert told["failures"] == {BAD: error.removeprefix(f"error: tile {BAD}: ")}
    assert f"tile {BAD} failed: " in run("status", archive).stdout

    shutil.rmtree(survey_copy / BAD)
    shutil.copytree(demo_survey / BAD, survey_copy / BAD)
    second = run("build", recipe, archive)
    assert (second.exit_code, errors(second)) == (0, [])
    assert [name.split(".")[0] for name in shards(archive)] == [GOOD, BAD]
    assert fetch(archive, shards(archive)[1], tmp_path / "bad.npy").shape == (5, 228, 228)
    told = json.loads(run("status", archive, "--json").stdout)
    assert (told["built"], told["stored"] + told["skipped"], told["failures"]) == (2, 120, {})
    assert capfd.readouterr() == ("", "")  # the workers printed nothing either


def test_ids_above_2_to_the_53_stay_distinct(survey_copy: Path, tmp_path: Path) -> None:
    for tile, offset in ((GOOD, 0), (BAD, 60)):
        table = Table.read(catalogue(survey_copy / tile))
        table["COADD_OBJECT_ID"] = BIG_ID + offset + np.arange(60)
        table.write(catalogue(survey_copy / tile), overwrite=True)
    assert run("build", survey_copy / "survey.toml", tmp_path / "archive").exit_code == 0
    found = []
    for name in shards(tmp_path / "archive"):
        with h5py.File(tmp_path / "archive" / "shards" / name) as file:
            found += [*file["objects/object_id"][...], *file["skipped/object_id"][...]]
    assert sorted(found) == list(range(BIG_ID, BIG_ID + 120))


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_fail_their_own_tile_at_most(
    survey_copy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    for path in (*(band(survey_copy / BAD, letter) for letter in "gri"), catalogue(survey_copy / BAD)):
        content = bytearray(path.read_bytes())
        for place in rng.integers(len(content), size=2 if path.suffix == ".fits" else 30):
            content[place] ^= rng.integers(1, 256)
        path.write_bytes(content)
    result = run("build", survey_copy / "survey.toml", tmp_path / "archive")
    # Some damage decodes to other pixels. Nothing can detect that.
    assert result.exit_code == len(errors(result)) <= 1
    assert all(line.startswith(f"error: tile {BAD}: ") for line in errors(result))
    assert not re.search("Traceback|bug:|worker process died", result.output)
    assert shards(tmp_path / "archive") == [f"{GOOD}.1.h5", f"{BAD}.1.h5"][: 2 - result.exit_code]
    assert capfd.readouterr() == ("", "")
