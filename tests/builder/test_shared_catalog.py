"""One catalogue for all tiles: a row goes to the tile on which it lies deepest inside."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from astropy.wcs import WCS
from helpers import execute, run
from overlaps import GRID, RECIPE, SIDE, header, write_image
from pyarrow import parquet

from archive_builder.builder.driver import build, plan_changes
from archive_builder.builder.shared_catalog import deepest_tile
from archive_builder.errors import RecipeError
from archive_builder.geometry import sky_to_pixel
from archive_builder.maintain.verify import verify
from archive_builder.measure.owners import edge_depth
from archive_builder.survey.catalog import Catalog

ROWS = [
    (1, 30, 40),
    (2, 70, 40),
    (3, 90, 40),
    (4, 135, 40),
    (5, 150, 40),
    (6, 200, 40),
    (7, 400, 40),  # on no tile
    (8, np.nan, np.nan),
    (9, 10, 10),
    (9, 110, 45),  # deeper
]
OWNERS = {1: "A", 2: "A", 3: "B", 4: "B", 5: "C", 6: "C", 9: "B"}


def write_catalog(survey: Path, rows: list[tuple[float, ...]]) -> None:
    ids, x, y = np.array(rows).T
    ra, dec = GRID.all_pix2world(x, y, 0)
    table = {"ID": ids.astype(np.int64), "RA": ra, "DEC": dec}
    parquet.write_table(pa.table(table), survey / "targets.parquet")


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    """Folder of a survey of three overlapping tiles with one catalogue."""
    folder = tmp_path / "survey"
    folder.mkdir()
    (folder / "survey.toml").write_text(RECIPE.replace("{tile}.csv", "targets.parquet"))
    for place, name in enumerate("ABC"):
        write_image(folder, name, place)
    write_catalog(folder, ROWS)
    return folder


def owners(archive: Path) -> dict[int, str]:
    assert list(verify(archive, deep=True)) == []
    return dict(execute(archive, "SELECT object_id, name FROM objects JOIN tiles USING (tile_id)"))  # type: ignore[arg-type]


def test_a_row_goes_to_the_tile_on_which_it_lies_deepest_and_rows_on_no_tile_are_counted(
    survey: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    result = run("build", survey / "survey.toml", archive)
    assert result.exit_code == 0
    assert "catalogue rows left out: 1 on no tile, 1 without position" in result.stderr
    assert "7 objects stored; skipped: 1 elsewhere" in result.stdout
    assert owners(archive) == OWNERS
    assert sorted(path.name for path in archive.iterdir()) == ["build.lock", "index.sqlite", "shards"]
    again = json.loads(run("build", survey / "survey.toml", archive, "--json").stdout)
    assert (again["built"], again["unchanged"]) == (0, 3)
    assert again["left_out"] == {"on no tile": 1, "without position": 1, "without ID": 0}


def test_the_order_of_builds_and_workers_does_not_matter(survey: Path, tmp_path: Path) -> None:
    question = "SELECT object_id, name, row, status FROM objects JOIN tiles USING (tile_id) ORDER BY 1"
    build(survey / "survey.toml", tmp_path / "once", workers=2)
    for name in "CAB":
        build(survey / "survey.toml", tmp_path / "often", tiles=name)
    assert owners(tmp_path / "often") == OWNERS
    assert execute(tmp_path / "often", question) == execute(tmp_path / "once", question)


def test_a_removed_tile_makes_its_neighbours_due(survey: Path, tmp_path: Path) -> None:
    recipe, archive = survey / "survey.toml", tmp_path / "archive"
    build(recipe, archive)
    (survey / "B.fits").unlink()
    assert [task.reason for task in plan_changes(recipe, archive, prune=True).tasks] == ["with objects that moved"] * 2
    report = build(recipe, archive, prune=True)
    assert (report.built, report.failures, report.left_out["on no tile"]) == (2, {}, 2)
    assert owners(archive) == {1: "A", 2: "A", 3: "A", 4: "C", 5: "C", 6: "C", 9: "A"}


def test_a_moved_tile_makes_its_neighbours_due(survey: Path, tmp_path: Path) -> None:
    recipe, archive = survey / "survey.toml", tmp_path / "archive"
    build(recipe, archive)
    write_image(survey, "B", 1.25)  # 16 px farther from A
    reasons = {task.files.tile: task.reason for task in plan_changes(recipe, archive).tasks}
    assert reasons == {"B": "with changed files", "C": "with objects that moved"}
    assert build(recipe, archive, workers=2).failures == {}
    assert owners(archive) == {**OWNERS, 5: "B"}
    build(recipe, tmp_path / "fresh")
    assert owners(archive) == owners(tmp_path / "fresh")


def test_tiles_without_a_row_are_left_out(survey: Path, tmp_path: Path) -> None:
    recipe, archive = survey / "survey.toml", tmp_path / "archive"
    write_catalog(survey, ROWS[:3])
    result = run("build", recipe, archive)
    assert result.exit_code == 0
    assert "2 tiles to build (2 new), 0 unchanged, 1 without objects" in result.stderr
    assert owners(archive) == {1: "A", 2: "A", 3: "B"}
    write_catalog(survey, ROWS[:2])
    report = build(recipe, archive)
    assert list(report.failures) == ["B"]
    assert report.failures["B"].startswith("the catalogue has no more objects on this tile: remove")


def test_a_catalogue_that_cannot_be_read_is_one_error(survey: Path, tmp_path: Path) -> None:
    (survey / "targets.parquet").write_bytes(b"PAR1")
    with pytest.raises(RecipeError, match=r"^catalogue .*targets.parquet: cannot be read"):
        build(survey / "survey.toml", tmp_path / "archive")


def test_a_catalogue_that_changes_during_the_build_fails_the_tiles(survey: Path, tmp_path: Path) -> None:
    recipe, archive = survey / "survey.toml", tmp_path / "archive"
    report = build(recipe, archive, on_plan=lambda changes: write_catalog(survey, ROWS[:6]))
    assert list(report.failures) == ["A", "B", "C"]
    assert report.failures["A"].endswith("targets.parquet: changed during the build: build it again")
    assert build(recipe, archive).failures == {}
    assert owners(archive) == {n: tile for n, tile in OWNERS.items() if n != 9}


def test_a_plan_counts_the_objects_of_the_sampled_tiles(survey: Path) -> None:
    result = run("plan", survey / "survey.toml", "--sample", 3, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert sum(tile["objects"] for tile in told["sampled"]) == 8


@pytest.mark.parametrize("center", [(0.0, 0.0), (359.9, 60.0), (120.0, 89.95), (10.0, -89.99)])
def test_every_row_is_compared_with_every_tile_near_it(center: tuple[float, float]) -> None:
    rng = np.random.default_rng(4)
    tiles = [(WCS(header(place, *center)), (SIDE, SIDE)) for place in range(-3, 4)]
    rows = 4000
    ra = rng.uniform(0, 360, rows) if abs(center[1]) > 80 else (center[0] + rng.uniform(-0.2, 0.2, rows)) % 360
    dec = np.clip(center[1] + rng.uniform(-0.1, 0.1, rows), -90, 90)
    ra[::2], dec[::2] = tiles[2][0].all_pix2world(*rng.uniform(-20, 116, (2, rows // 2)), 0)
    tile, depth = deepest_tile(Catalog(np.arange(rows), ra, dec), tiles)
    every = np.array([edge_depth(*sky_to_pixel(wcs, shape, ra, dec), shape, 1.0) for wcs, shape in tiles])
    expected = np.where(every.max(axis=0) >= 0, every.argmax(axis=0), -1)
    assert (expected >= 0).sum() > 100
    np.testing.assert_array_equal(tile, expected)
    np.testing.assert_array_equal(depth, np.maximum(every.max(axis=0), -1))
