"""Discovery: the recipe's patterns find the tiles and their files, and missing files are reported by tile."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from archive_builder.errors import RecipeError, TileError
from archive_builder.survey.discovery import Discovery, discover
from archive_builder.survey.recipe import Recipe


def recipe(root: Path, image: str = "{tile}_{band}.fits", catalog: str = "{tile}.csv", **survey: Any) -> Recipe:
    """Return a recipe of two bands for files under a folder."""
    return Recipe.model_validate(
        {
            "survey": {"name": "T", "root": root, "bands": ["g", "r"], "image": image, "zero_point": 30.0, **survey},
            "catalog": {"path": catalog, "object_id": "ID", "ra": "RA", "dec": "DEC"},
            "cutout": {"size": 64},
        }
    )


def make(root: Path, *names: str) -> None:
    """Make files of one byte."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def found(discovery: Discovery, root: Path) -> dict[str, list[str]]:
    """Return each complete tile's images and catalogue, relative to the root."""
    return {
        files.tile: [p.relative_to(root).as_posix() for p in (*(s.path for s in files.images.values()), files.catalog)]
        for files in discovery.tiles
    }


def test_tiles_are_the_matches_of_the_image_pattern(tmp_path: Path) -> None:
    make(tmp_path, *(f"{tile}{end}" for tile in ("A", "B-1") for end in ("_g.fits", "_r.fits", ".csv")))
    make(tmp_path, "A_z.fits", "README", "C_g.fits.part")
    discovery = discover(recipe(tmp_path))
    assert found(discovery, tmp_path) == {
        "A": ["A_g.fits", "A_r.fits", "A.csv"],
        "B-1": ["B-1_g.fits", "B-1_r.fits", "B-1.csv"],
    }
    assert discovery.incomplete == {}
    assert [list(files.images) for files in discovery.tiles] == [["g", "r"]] * 2


def test_repeated_placeholder_must_match_the_same_name(tmp_path: Path) -> None:
    make(tmp_path, *(f"A/A_r1_{end}" for end in ("g.fits.fz", "r.fits", "cat.fits")))
    make(tmp_path, "A/B_r1_g.fits", "B/A_r1_g.fits", "old/A_r1_g.fits")
    discovery = discover(recipe(tmp_path, "{tile}/{tile}_*_{band}.fits*", "{tile}/{tile}_*_cat.fits"))
    assert found(discovery, tmp_path) == {"A": ["A/A_r1_g.fits.fz", "A/A_r1_r.fits", "A/A_r1_cat.fits"]}
    assert discovery.incomplete == {}


def test_character_classes_and_question_marks_work_as_in_a_shell(tmp_path: Path) -> None:
    make(tmp_path, "A_v2_g.fits", "A_v2_r.fits", "A_v9_g.fits", "A_v2x_r.fits", "A.csv", "B_v8_g.fits", "B_v_r.fits")
    classes = discover(recipe(tmp_path, "{tile}_v[1-3]_{band}.fits"))
    assert found(classes, tmp_path) == {"A": ["A_v2_g.fits", "A_v2_r.fits", "A.csv"]}
    assert set(discover(recipe(tmp_path, "{tile}_v[!9]_{band}.fits")).incomplete) == {"B"}
    assert set(discover(recipe(tmp_path, "{tile}_v?_{band}.fits")).incomplete) == {"A", "B"}


def test_plain_and_fpacked_image_side_by_side_make_their_tile_incomplete(tmp_path: Path) -> None:
    make(tmp_path, "A_g.fits", "A_g.fits.fz", "A_r.fits", "A.csv", "B_g.fits", "B_r.fits.fz", "B.csv")
    discovery = discover(recipe(tmp_path, "{tile}_{band}.fits*"))
    assert set(found(discovery, tmp_path)) == {"B"}
    message = discovery.incomplete["A"]
    assert "A_g.fits and A_g.fits.fz" in message
    assert "band g" in message


@pytest.mark.parametrize(("missing", "what"), [("A_r.fits", "band r"), ("A.csv", "the catalogue")])
def test_tile_with_a_file_missing_is_incomplete(tmp_path: Path, missing: str, what: str) -> None:
    make(tmp_path, "A_g.fits", "A_r.fits", "A.csv", "B_g.fits", "B_r.fits", "B.csv")
    (tmp_path / missing).unlink()
    discovery = discover(recipe(tmp_path))
    assert set(found(discovery, tmp_path)) == {"B"}
    assert discovery.incomplete == {
        "A": f"no file for {what}: nothing matches {tmp_path / missing}: restore the file, or correct the pattern"
    }


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_columns_of_the_tile_table_can_be_used_in_the_patterns(tmp_path: Path, separator: str) -> None:
    make(tmp_path, *(f"{path}/{band}.fits" for path in ("p1/a", "p2/b") for band in "gr"), "cat-7.csv", "cat-8.csv")
    rows = [("run", "tile", "path"), ("7", "A", "p1/a"), ("8", "B", "p2/b")]
    (tmp_path / "tiles.csv").write_text("".join(separator.join(row) + "\r\n" for row in rows))
    discovery = discover(recipe(tmp_path, "{path}/{band}.fits", "cat-{run}.csv", tiles=tmp_path / "tiles.csv"))
    assert found(discovery, tmp_path) == {
        "A": ["p1/a/g.fits", "p1/a/r.fits", "cat-7.csv"],
        "B": ["p2/b/g.fits", "p2/b/r.fits", "cat-8.csv"],
    }


def test_numeric_tile_names_keep_their_leading_zeros(tmp_path: Path) -> None:
    names = ["0012", "12", "1e3", "007.50"]
    make(tmp_path, *(f"{name}{end}" for name in names for end in ("_g.fits", "_r.fits", ".csv")))
    (tmp_path / "tiles.csv").write_text("\ufefftile\n" + "\n".join(names), encoding="utf-8")
    by_table = discover(recipe(tmp_path, tiles=tmp_path / "tiles.csv"))
    assert sorted(found(by_table, tmp_path)) == sorted(names)
    assert found(discover(recipe(tmp_path)), tmp_path) == found(by_table, tmp_path)


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".hidden", "a b", "a*", "", "-x", "x" * 101])
def test_unsafe_tile_name_is_refused(tmp_path: Path, name: str) -> None:
    make(tmp_path, "A_g.fits", "A_r.fits", "A.csv")
    (tmp_path / "tiles.csv").write_text(f"tile,n\nA,1\n{name},2\n")
    discovery = discover(recipe(tmp_path, tiles=tmp_path / "tiles.csv"))
    assert set(found(discovery, tmp_path)) == {"A"}
    assert list(discovery.incomplete) == [name]
    assert "cannot be a tile's name" in discovery.incomplete[name]


@pytest.mark.parametrize("path", ["/etc", "../other", "a/../../b"])
def test_table_cannot_lead_out_of_the_surveys_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "tiles.csv").write_text(f"tile,path\nA,{path}\n")
    discovery = discover(recipe(tmp_path, "{path}/{band}.fits", tiles=tmp_path / "tiles.csv"))
    assert list(discovery.incomplete) == ["A"]
    assert repr(path) in discovery.incomplete["A"]


def test_unused_column_can_hold_any_text(tmp_path: Path) -> None:
    make(tmp_path, "A_g.fits", "A_r.fits", "A.csv")
    (tmp_path / "tiles.csv").write_text("tile,origin\nA,/archive/../A\n")
    discovery = discover(recipe(tmp_path, tiles=tmp_path / "tiles.csv"))
    assert set(found(discovery, tmp_path)) == {"A"}


def test_brackets_in_a_table_are_taken_literally(tmp_path: Path) -> None:
    make(tmp_path, "p[1]/g.fits", "p[1]/r.fits", "p1/g.fits", "p1/r.fits", "A.csv")
    (tmp_path / "tiles.csv").write_text("tile,path\nA,p[1]\n")
    discovery = discover(recipe(tmp_path, "{path}/{band}.fits", tiles=tmp_path / "tiles.csv"))
    assert found(discovery, tmp_path) == {"A": ["p[1]/g.fits", "p[1]/r.fits", "A.csv"]}


def test_brackets_in_a_pattern_are_escaped_as_in_glob(tmp_path: Path) -> None:
    make(tmp_path, "p[1]/A_g.fits", "p[1]/A_r.fits", "p1/B_g.fits", "A.csv", "B.csv")
    assert set(found(discover(recipe(tmp_path, "p[[]1]/{tile}_{band}.fits")), tmp_path)) == {"A"}
    assert set(found(discover(recipe(tmp_path, "p[!0]/{tile}_{band}.fits", bands=["g"])), tmp_path)) == {"B"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name,path\nA,x\n", "has no column tile (it has name, path)"),
        ("tile\nA\nB\nA\n", "lists a tile twice"),
        ("tile,path\nA\n", "cannot be read"),
        ("", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_error_names_an_unusable_tile_table(tmp_path: Path, table: str | None, message: str) -> None:
    path = tmp_path / "tiles.csv"
    if table is not None:
        path.write_text(table)
    with pytest.raises(RecipeError) as caught:
        discover(recipe(tmp_path, tiles=path))
    assert str(caught.value).startswith(f"tile table {path}: {message}")
    assert len(str(caught.value).splitlines()) == 1


def test_error_names_an_unknown_placeholder(tmp_path: Path) -> None:
    make(tmp_path, "A_g.fits")
    with pytest.raises(RecipeError, match=r"there is no \{night\}: use one of band, tile"):
        discover(recipe(tmp_path, "{night}/{tile}_{band}.fits"))


def test_pattern_without_tile_needs_a_table(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no \{tile\} and there is no tile table"):
        discover(recipe(tmp_path, "{band}.fits"))


def test_survey_without_tiles_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no tile found"):
        discover(recipe(tmp_path))


@pytest.mark.parametrize("name", ["A_g.fits", "A_r.fits", "A.csv"])
def test_fingerprint_changes_when_a_file_is_touched_or_grows(tmp_path: Path, name: str) -> None:
    make(tmp_path, "A_g.fits", "A_r.fits", "A.csv")
    (files,) = discover(recipe(tmp_path)).tiles
    before, path = files.fingerprint(), tmp_path / name
    assert discover(recipe(tmp_path)).tiles[0].fingerprint() == before
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    os.utime(path, ns=(time.time_ns(), times[1] + 1))
    assert files.fingerprint() != before
    path.write_bytes(b"xx")
    os.utime(path, ns=times)
    assert files.fingerprint() != before
    path.write_bytes(b"x")
    os.utime(path, ns=times)
    assert files.fingerprint() == before


def test_error_names_a_file_that_vanished(tmp_path: Path) -> None:
    make(tmp_path, "A_g.fits", "A_r.fits", "A.csv")
    (files,) = discover(recipe(tmp_path)).tiles
    (tmp_path / "A_r.fits").unlink()
    with pytest.raises(TileError, match=r"A_r\.fits: No such file"):
        files.fingerprint()
