"""A bad row costs one row, and an object of two overlapping tiles is on the one where it lies deeper inside."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits
from helpers import execute, run
from overlaps import GRID, RECIPE, Rows, write_catalog, write_image

from archive_builder import Archive
from archive_builder.builder.driver import build, plan_changes
from archive_builder.errors import ObjectSkippedError
from archive_builder.maintain.reindex import reindex
from archive_builder.maintain.verify import verify

SKY = {"A": 0, "B": 1, "C": 2}
"""Places of the tiles along one row of the sky."""

CATALOGS: dict[str, Rows] = {
    # Columns 64 to 95 are on A and B, columns 128 to 159 on B and C. The middle of the first overlap is column 79.5.
    "A": [(1, 30, 40), (2, 70, 40), (3, 90, 40), (4, 80, 50), (9, 82, 60)],
    "B": [(2, 70, 40), (3, 90, 40), (4, 80, 50), (5, 110, 40), (6, 135, 40), (7, 150, 40)],
    "C": [(6, 135, 40), (7, 150, 40), (8, 200, 40), (9, 200, 60)],
}
OWNERS = {1: "A", 2: "A", 3: "B", 4: "B", 5: "B", 6: "B", 7: "C", 8: "C", 9: "C"}
"""Tile of each object: the one whose nearest edge is farther. Object 9 has two positions."""


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    """Folder of a survey of three overlapping tiles."""
    folder = tmp_path / "survey"
    folder.mkdir()
    (folder / "survey.toml").write_text(RECIPE)
    for name, rows in CATALOGS.items():
        write_image(folder, name, SKY[name])
        write_catalog(folder, name, rows)
    return folder


def places(archive: Path) -> dict[int, tuple[str, int, int]]:
    """Return tile, row and status of each object, after a check that index and shards agree."""
    assert list(verify(archive, deep=True)) == []
    found = execute(archive, "SELECT object_id, name, row, status, shard FROM objects JOIN tiles USING (tile_id)")
    for n, _, row, status, shard in found:
        with h5py.File(archive / shard) as file:
            assert file["skipped/object_id" if status else "objects/object_id"][row] == n
    return {n: (tile, row, status) for n, tile, row, status, _ in found}


def owners(archive: Path) -> dict[int, str]:
    return {n: tile for n, (tile, *_) in places(archive).items()}


def elsewhere(archive: Path) -> list[tuple[str, int]]:
    return execute(archive, "SELECT name, object_id FROM elsewhere JOIN tiles USING (tile_id) ORDER BY 1, 2")


def test_an_object_of_two_tiles_is_on_the_one_where_it_lies_deeper(survey: Path, tmp_path: Path) -> None:
    result = run("build", survey / "survey.toml", tmp_path / "archive")
    assert (result.exit_code, "9 objects stored; skipped: 6 elsewhere" in result.stdout) == (0, True)
    assert owners(tmp_path / "archive") == OWNERS
    assert elsewhere(tmp_path / "archive") == [("A", 3), ("A", 4), ("A", 9), ("B", 2), ("B", 7), ("C", 6)]
    told = json.loads(run("status", tmp_path / "archive", "--json").stdout)
    assert (told["stored"], told["skipped"], told["skipped_for"]["elsewhere"]) == (9, 6, 6)
    with Archive(tmp_path / "archive") as archive:
        assert len(archive) == 9
        assert archive.ids("any").tolist() == archive.ids().tolist() == list(range(1, 10))
        assert {n: archive.get(n).tile for n in OWNERS} == OWNERS
        near = archive.cone_search(tuple(GRID.all_pix2world(80, 50, 0)), "3 arcsec")
        assert (near["object_id"].tolist(), near["tile"].tolist()) == ([4], ["B"])


@pytest.mark.parametrize("order", ["ABC", "CBA", "BAC"])
def test_builds_of_one_tile_after_another_end_as_one_build_of_all(survey: Path, tmp_path: Path, order: str) -> None:
    recipe = survey / "survey.toml"
    build(recipe, tmp_path / "once", workers=2)
    for name in order:
        report = build(recipe, tmp_path / "often", tiles=[name])
        assert report.failures == {}
    assert places(tmp_path / "often") == places(tmp_path / "once")
    assert elsewhere(tmp_path / "often") == elsewhere(tmp_path / "once")
    assert plan_changes(recipe, tmp_path / "often").tasks == ()


def test_the_index_rebuilt_from_the_shards_decides_as_before(survey: Path, tmp_path: Path) -> None:
    recipe, archive = survey / "survey.toml", tmp_path / "archive"
    build(recipe, archive)
    before = places(archive), elsewhere(archive)
    (archive / "index.sqlite").unlink()
    reindex(archive)
    assert (places(archive), elsewhere(archive)) == before
    assert plan_changes(recipe, archive).tasks == ()


def test_a_changed_catalogue_makes_the_tiles_due_that_gain_or_lose_an_object(survey: Path, tmp_path: Path) -> None:
    recipe, archive = survey / "survey.toml", tmp_path / "archive"
    build(recipe, archive)
    write_catalog(survey, "C", [*CATALOGS["C"][1:], (3, 180, 45)])  # without 6, and with a deeper 3
    dry = run("build", recipe, archive, "--dry-run").stdout.splitlines()
    assert dry == [
        "build tile B: with objects that moved",
        "build tile C: with changed files",
        "2 tiles to build (1 with changed files, 1 with objects that moved), 1 unchanged",
    ]
    assert (archive / "shards" / "B.1.h5").exists()
    report = build(recipe, archive, workers=2)
    assert (report.built, report.unchanged, report.failures) == (2, 1, {})
    assert owners(archive) == {**OWNERS, 3: "C"}
    build(recipe, tmp_path / "fresh")
    assert places(archive) == places(tmp_path / "fresh")


def test_the_objects_of_a_removed_tile_go_to_its_neighbours(survey: Path, tmp_path: Path) -> None:
    recipe, archive = survey / "survey.toml", tmp_path / "archive"
    build(recipe, archive)
    (survey / "B.fits").unlink()
    (survey / "B.csv").unlink()
    assert build(recipe, archive).built == 0
    assert owners(archive) == OWNERS
    assert run("build", recipe, archive, "--prune", "--dry-run").stdout.splitlines() == [
        "build tile A: with objects that moved",
        "build tile C: with objects that moved",
        "gone from the survey: tile B",
        "2 tiles to build (2 with objects that moved), 0 unchanged, 1 gone from the survey",
    ]
    report = build(recipe, archive, prune=True)
    assert (report.built, report.failures, report.gone) == (2, {}, ("B",))
    assert owners(archive) == {1: "A", 2: "A", 3: "A", 4: "A", 6: "C", 7: "C", 8: "C", 9: "C"}


def test_a_killed_removal_is_continued_by_the_next_build(survey: Path, tmp_path: Path) -> None:
    recipe, archive = survey / "survey.toml", tmp_path / "archive"
    build(recipe, archive)
    for name in ("B.fits", "B.csv"):
        (survey / name).unlink()
    (archive / "shards" / "B.1.h5").unlink()
    # The build died after the tile was removed, and before its neighbours were committed.
    execute(archive, *(f"DELETE FROM {t} WHERE tile_id IN (SELECT tile_id FROM tiles WHERE name = 'B')"
                       for t in ("objects", "elsewhere", "tiles")))  # fmt: skip
    assert build(recipe, archive).built == 2
    assert owners(archive) == {1: "A", 2: "A", 3: "A", 4: "A", 6: "C", 7: "C", 8: "C", 9: "C"}


def test_a_build_of_one_tile_builds_the_tile_that_loses_an_object_too(survey: Path, tmp_path: Path) -> None:
    recipe, archive = survey / "survey.toml", tmp_path / "archive"
    for name in ("B.fits", "B.csv"):
        (survey / name).rename(tmp_path / name)
    build(recipe, archive)
    assert owners(archive) == {1: "A", 2: "A", 3: "A", 4: "A", 6: "C", 7: "C", 8: "C", 9: "C"}
    for name in ("B.fits", "B.csv"):
        (tmp_path / name).rename(survey / name)
    changes = plan_changes(recipe, archive, tiles="B")
    assert [(task.files.tile, task.reason) for task in changes.tasks] == [
        ("A", "with objects that moved"),
        ("B", "new"),
        ("C", "with objects that moved"),
    ]
    assert build(recipe, archive, tiles="B").built == 3
    assert owners(archive) == OWNERS


def test_a_changed_tile_that_is_not_requested_keeps_its_objects_until_it_is_built(survey: Path, tmp_path: Path) -> None:
    recipe, archive = survey / "survey.toml", tmp_path / "archive"
    build(recipe, archive, tiles="A")
    write_catalog(survey, "A", [*CATALOGS["A"], (11, 20, 20)])
    assert build(recipe, archive, tiles="B").built == 1
    assert owners(archive) == {**dict.fromkeys((1, 2, 3, 4, 9), "A"), **dict.fromkeys((5, 6, 7), "B")}
    assert build(recipe, archive).built == 3
    assert owners(archive) == {**OWNERS, 11: "A"}


def test_repeated_ids_fail_their_tile_if_the_recipe_says_so(survey: Path, tmp_path: Path) -> None:
    recipe, archive = survey / "survey.toml", tmp_path / "archive"
    strict = RECIPE.replace('dec = "DEC"', 'dec = "DEC"\nduplicates = "fail"')
    recipe.write_text(strict)
    report = build(recipe, archive)
    assert (report.built, sorted(report.failures)) == (1, ["B", "C"])
    assert (
        report.failures["B"] == "object 2 of tile B belongs to tile A already: list an ID in one tile's catalogue only"
    )
    write_catalog(survey, "A", [*CATALOGS["A"], CATALOGS["A"][0]])
    assert "object 1 is listed 2 times (1 IDs are repeated)" in build(recipe, archive, tiles="A").failures["A"]
    # With the default the failed tiles are built, and again without it they fail.
    recipe.write_text(RECIPE)
    assert build(recipe, archive).failures == {}
    assert owners(archive) == OWNERS
    recipe.write_text(strict)
    assert [task.reason for task in plan_changes(recipe, archive).tasks] == ["with repeated objects"] * 3


def test_a_bad_row_costs_one_row_and_is_counted_by_reason(survey: Path, tmp_path: Path) -> None:
    recipe, archive = survey / "survey.toml", tmp_path / "archive"
    good = CATALOGS["A"][0]
    bad: Rows = [(21, np.nan, np.nan), (22, np.nan, np.nan), ("", 30, 30), (1, 10, 10), (1, 32, 41)]
    write_catalog(survey, "A", [good, *bad])
    for name in "BC":
        (survey / f"{name}.fits").unlink()
    result = run("build", recipe, archive)
    assert result.exit_code == 0, result.output
    assert "tile A: 1 stored, 5 skipped" in result.stderr
    assert "1 objects stored; skipped: 2 without position, 2 elsewhere, 1 without ID" in result.stdout
    assert places(archive) == {1: ("A", 0, 0), 21: ("A", 2, 4), 22: ("A", 3, 4)}
    assert elsewhere(archive) == []
    with Archive(archive) as opened:
        assert opened.get(1).origin == (32 - 8, 41 - 8)  # the deepest of its three rows
        assert (opened.locate(21).status, opened.ids("position").tolist()) == ("position", [21, 22])
        with pytest.raises(
            ObjectSkippedError, match=r"^object 21 on tile A has no cutout: skipped without position on"
        ):
            opened.get(21)
        assert len(opened.cone_search(tuple(GRID.all_pix2world(32, 41, 0)), "2 deg")) == 1
    (tmp_path / "list.csv").write_text("object_id\n1\n21\n")
    exported = run("export", archive, tmp_path / "list.csv", "-o", tmp_path / "out")
    assert "1 skipped without position" in exported.stderr
    (archive / "index.sqlite").unlink()
    reindex(archive)
    assert list(verify(archive, deep=True)) == []
    assert "2 without position, 2 elsewhere, 1 without ID" in run("status", archive).stdout


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rows: [(n, np.nan, np.nan) for n, *_ in rows], "none of its 5 objects has a position on the sky"),
        (lambda rows: [("", x, y) for _, x, y in rows], "column ID "),
        (lambda rows: [(n, x + 5000, y) for n, x, y in rows], "none of the 5 catalogued objects lies on the tile"),
    ],
)
def test_a_catalogue_without_a_usable_row_fails_its_tile(
    survey: Path, tmp_path: Path, change: Callable[[Rows], Rows], reason: str
) -> None:
    write_catalog(survey, "A", change(CATALOGS["A"]))
    result = run("build", survey / "survey.toml", tmp_path / "archive")
    (error,) = (line for line in result.stderr.splitlines() if line.startswith("error: "))
    assert error.startswith("error: tile A: ")
    assert reason in error
    # Its neighbours have the objects of the overlap.
    assert owners(tmp_path / "archive") == {**{n: t for n, t in OWNERS.items() if n != 1}, 2: "B"}


def test_a_tile_that_cannot_be_read_keeps_the_objects_that_it_has(survey: Path, tmp_path: Path) -> None:
    recipe, archive = survey / "survey.toml", tmp_path / "archive"
    build(recipe, archive)
    content = (survey / "A.fits").read_bytes()
    write_catalog(survey, "A", [CATALOGS["A"][0], (5, 30, 30)])  # without 2; 5 lies less deep than on B
    (survey / "A.fits").write_bytes(content[:-2880])
    report = build(recipe, archive)
    assert set(report.failures) == {"A"}
    assert owners(archive) == OWNERS
    (survey / "A.fits").write_bytes(content)
    assert build(recipe, archive).failures == {}
    assert owners(archive) == {**OWNERS, 2: "B"}


def test_a_tile_waits_for_the_object_of_a_tile_that_fails_while_it_is_cut(survey: Path, tmp_path: Path) -> None:
    recipe, archive = survey / "survey.toml", tmp_path / "archive"
    build(recipe, archive)
    content = (survey / "A.fits").read_bytes()
    with fits.open(survey / "A.fits", mode="update") as hdus:
        hdus[0].data[50, 50] = 1e30  # too large for the quantization
    write_catalog(survey, "A", CATALOGS["A"][:1])  # object 2 is on B alone
    report = build(recipe, archive, workers=2)
    assert sorted(report.failures) == ["A", "B"]
    assert report.failures["B"] == (
        "object 2 of tile B is still on tile A, which failed: correct tile A, and build again"
    )
    assert owners(archive) == OWNERS
    (survey / "A.fits").write_bytes(content)
    assert build(recipe, archive).failures == {}
    assert owners(archive) == {**OWNERS, 2: "B"}


def test_a_catalogue_that_changes_after_the_decision_fails_its_tile_alone(survey: Path, tmp_path: Path) -> None:
    recipe, archive = survey / "survey.toml", tmp_path / "archive"
    report = build(recipe, archive, on_plan=lambda changes: write_catalog(survey, "B", CATALOGS["B"][:3]))
    assert report.failures == {"B": "the catalogue or the WCS of this tile changed during the build: build it again"}
    assert build(recipe, archive).failures == {}
    assert owners(archive) == {**{n: t for n, t in OWNERS.items() if n != 5}, 6: "C"}


def test_no_temporary_file_stays(survey: Path, tmp_path: Path) -> None:
    build(survey / "survey.toml", tmp_path / "archive")
    assert sorted(path.name for path in (tmp_path / "archive").iterdir()) == ["build.lock", "index.sqlite", "shards"]
    with closing(sqlite3.connect(tmp_path / "archive" / "index.sqlite")) as index:
        assert index.execute("SELECT count(*) FROM elsewhere").fetchone() == (6,)
