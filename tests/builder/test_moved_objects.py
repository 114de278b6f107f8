"""Objects that move to another tile's catalogue: the move succeeds, or the old state stays whole."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import h5py
import pytest
from helpers import restored

from archive_builder import Archive
from archive_builder.builder.driver import BuildReport, build
from archive_builder.maintain.verify import verify
from archive_builder.survey.demo import make_survey

Catalogs = dict[str, dict[int, tuple[float, float]]]
"""RA and Dec of each object of each tile."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a survey of three tiles A, B, C with five objects each in CSV catalogues, and its archive."""
    folder = tmp_path_factory.mktemp("moved")
    survey = folder / "survey"
    recipe = make_survey(survey, tiles=3, tile_size=256, objects=10, seed=2)
    text = re.sub(r"(?m)^(color|max_background_rms|min_depth|max_blank_fraction) .*\n", "", recipe.read_text())
    text = re.sub(r"(?m)^size = .*$", "size = 32", re.sub(r"(?m)^bands = .*$", 'bands = ["r"]', text))
    text = text.replace("{tile}/{tile}_*_{band}.fits*", "{tile}.fits.fz").replace(
        "{tile}/{tile}_*_cat.fits", "{tile}.csv"
    )
    recipe.write_text(re.sub(r'"(COADD_OBJECT_ID|ALPHAWIN_J2000|DELTAWIN_J2000)"', lambda m: f'"{m[1][0]}"', text))
    for letter, tile in zip("ABC", sorted(survey.glob("DEM*")), strict=True):
        next(tile.glob("*_r.fits.fz")).rename(survey / f"{letter}.fits.fz")
        shutil.rmtree(tile)
    # All objects lie in the corner that the three tiles share.
    write(
        survey,
        {
            tile: {n: (54.0075 + n * 1e-5, -27.993) for n in range(k, k + 5)}
            for k, tile in zip((10, 20, 30), "ABC", strict=True)
        },
    )
    report = build(recipe, folder / "archive")
    assert (report.built, report.failures) == (3, {})
    return folder


def forbid_repeats(survey: Path) -> None:
    """Make an ID in several catalogues an error."""
    recipe = survey / "survey.toml"
    recipe.write_text(recipe.read_text().replace("[catalog]", '[catalog]\nduplicates = "fail"'))


def write(survey: Path, catalogs: Catalogs) -> None:
    for tile, objects in catalogs.items():
        rows = [f"{n},{ra},{dec}" for n, (ra, dec) in objects.items()]
        (survey / f"{tile}.csv").write_text("\n".join(["C,A,D", *rows]) + "\n")


def read(survey: Path) -> Catalogs:
    catalogs: Catalogs = {}
    for path in survey.glob("*.csv"):
        rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
        catalogs[path.stem] = {int(n): (float(ra), float(dec)) for n, ra, dec in rows}
    return catalogs


@pytest.fixture
def survey(place: Path, tmp_path: Path) -> Iterator[Path]:
    """The survey's folder, restored after the test."""
    with restored(place / "survey", tmp_path / "kept") as folder:
        yield folder


@pytest.fixture
def archive(place: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(place / "archive", tmp_path / "archive"))


def move(catalogs: Catalogs, *moves: tuple[int, str, str]) -> None:
    for n, old, new in moves:
        catalogs[new][n] = catalogs[old].pop(n)


def shards(archive: Path) -> list[str]:
    return sorted(path.name for path in (archive / "shards").iterdir())


def owners(archive: Path) -> dict[int, str]:
    """Return each object's tile from SQLite, after a check that the shards agree."""
    connection = sqlite3.connect(archive / "index.sqlite")
    try:
        rows = connection.execute("SELECT object_id, name, row, status, shard FROM objects JOIN tiles USING (tile_id)")
        found = {n: (tile, row, status, shard) for n, tile, row, status, shard in rows}
    finally:
        connection.close()
    for n, (_, row, status, shard) in found.items():
        with h5py.File(archive / shard) as file:
            assert file["skipped/object_id" if status else "objects/object_id"][row] == n
    return {n: tile for n, (tile, *_) in found.items()}


def expected(catalogs: Catalogs) -> dict[int, str]:
    return {n: tile for tile, objects in catalogs.items() for n in objects}


def run(survey: Path, archive: Path, **options: object) -> BuildReport:
    report = build(survey / "survey.toml", archive, **options)  # type: ignore[arg-type]
    assert list(verify(archive, deep=True)) == []
    return report


@pytest.mark.parametrize("moves", [[(10, "A", "B")], [(20, "B", "A")], [(10, "A", "B"), (20, "B", "A")]])
def test_moved_object_arrives_in_either_build_order(
    survey: Path, archive: Path, moves: list[tuple[int, str, str]]
) -> None:
    catalogs = read(survey)
    move(catalogs, *moves)
    write(survey, {tile: catalogs[tile] for tile in "AB"})
    events: list[str] = []
    report = run(survey, archive, on_tile=lambda event: events.append(event.tile))
    assert (report.built, report.unchanged, report.failures) == (2, 1, {})
    assert sorted(events) == ["A", "B"]
    assert owners(archive) == expected(catalogs)
    assert shards(archive) == ["A.2.h5", "B.2.h5", "C.1.h5"]
    with Archive(archive) as opened:
        assert all(opened.get(n).tile == tile for n, tile in expected(catalogs).items())


@pytest.mark.parametrize("way", ["ABC", "CBA"])
def test_three_tiles_can_exchange_objects_in_a_circle(survey: Path, archive: Path, way: str) -> None:
    catalogs = read(survey)
    first = {"A": 10, "B": 20, "C": 30}
    move(catalogs, *((first[old], old, new) for old, new in zip(way, way[1:] + way[0], strict=True)))
    write(survey, catalogs)
    report = run(survey, archive, workers=2)
    assert (report.built, report.failures) == (3, {})
    assert owners(archive) == expected(catalogs)
    assert shards(archive) == ["A.2.h5", "B.2.h5", "C.2.h5"]


def test_two_tiles_can_exchange_all_their_objects(survey: Path, archive: Path) -> None:
    catalogs = read(survey)
    catalogs["A"], catalogs["C"] = catalogs["C"], catalogs["A"]
    write(survey, catalogs)
    assert run(survey, archive).failures == {}
    assert owners(archive) == expected(catalogs)


def test_object_still_on_its_old_tile_fails_the_new_tile_and_the_old_shard_stays(survey: Path, archive: Path) -> None:
    forbid_repeats(survey)
    before, catalogs = expected(read(survey)), read(survey)
    catalogs["B"][13] = catalogs["A"][13]
    write(survey, {"B": catalogs["B"]})
    report = run(survey, archive)
    assert (report.built, report.unchanged) == (0, 2)
    assert report.failures == {
        "B": "object 13 of tile B belongs to tile A already: list an ID in one tile's catalogue only"
    }
    assert owners(archive) == before
    assert shards(archive) == ["A.1.h5", "B.1.h5", "C.1.h5"]
    # When A no longer lists the object, the next build builds B.
    del catalogs["A"][13]
    write(survey, {"A": catalogs["A"]})
    assert run(survey, archive).failures == {}
    assert owners(archive) == expected(catalogs)


@pytest.mark.parametrize(("old", "new"), ["AB", "BA"])
def test_object_in_both_catalogues_stays_on_its_old_tile_when_both_are_built(
    survey: Path, archive: Path, old: str, new: str
) -> None:
    forbid_repeats(survey)
    before, catalogs = expected(read(survey)), read(survey)
    n = min(catalogs[old])
    catalogs[new][n] = catalogs[old][n]
    write(survey, {tile: catalogs[tile] for tile in "AB"})  # both files have a new modification time
    report = run(survey, archive)
    assert list(report.failures) == [new]
    assert f"object {n} of tile {new} belongs to tile {old} already" in report.failures[new]
    assert owners(archive) == before
    assert shards(archive) == sorted([f"{old}.2.h5", f"{new}.1.h5", "C.1.h5"])


def test_new_object_in_two_catalogues_goes_to_one_and_fails_the_other(survey: Path, archive: Path) -> None:
    forbid_repeats(survey)
    before, catalogs = expected(read(survey)), read(survey)
    for tile in "AB":
        catalogs[tile][99] = catalogs["A"][10]
    write(survey, {tile: catalogs[tile] for tile in "AB"})
    report = run(survey, archive, workers=2)
    ((loser, error),) = report.failures.items()
    winner = "AB".replace(loser, "")
    assert f"object 99 of tile {loser} belongs to tile {winner} already" in error
    assert owners(archive) == {**before, 99: winner}


@pytest.mark.parametrize(("old", "new"), ["AB", "BA"])
def test_failure_of_the_old_tile_fails_the_new_tile_and_the_archive_stays_unchanged(
    survey: Path, archive: Path, old: str, new: str
) -> None:
    forbid_repeats(survey)
    before, catalogs = expected(read(survey)), read(survey)
    n = min(catalogs[old])
    move(catalogs, (n, old, new))
    write(survey, {tile: catalogs[tile] for tile in "AB"})
    image = survey / f"{old}.fits.fz"
    kept = image.read_bytes()
    image.write_bytes(kept[:5000])
    report = run(survey, archive)
    assert set(report.failures) == {"A", "B"}
    assert str(image) in report.failures[old]
    assert f"object {n} of tile {new} is still on tile {old}, which failed" in report.failures[new]
    assert owners(archive) == before
    assert shards(archive) == ["A.1.h5", "B.1.h5", "C.1.h5"]
    image.write_bytes(kept)
    assert run(survey, archive).failures == {}
    assert owners(archive) == expected(catalogs)


def test_one_failed_tile_of_a_chain_fails_the_tiles_that_depend_on_it_and_no_object_is_lost(
    survey: Path, archive: Path
) -> None:
    forbid_repeats(survey)
    before, catalogs = expected(read(survey)), read(survey)
    move(catalogs, (10, "A", "B"), (20, "B", "C"), (30, "C", "A"))
    write(survey, catalogs)
    image = survey / "C.fits.fz"
    image.write_bytes(image.read_bytes()[:5000])
    report = run(survey, archive)
    assert set(report.failures) == {"A", "B", "C"}
    assert str(image) in report.failures["C"]
    assert owners(archive) == before
    assert shards(archive) == ["A.1.h5", "B.1.h5", "C.1.h5"]


def test_object_can_move_to_a_new_tile(survey: Path, archive: Path) -> None:
    catalogs = read(survey)
    shutil.copy(survey / "C.fits.fz", survey / "D.fits.fz")
    catalogs["D"] = {}
    move(catalogs, (30, "C", "D"), (31, "C", "D"))
    write(survey, {tile: catalogs[tile] for tile in "CD"})
    assert run(survey, archive).failures == {}
    assert owners(archive) == expected(catalogs)


def test_object_of_a_tile_missing_from_the_survey_moves_after_that_tile_is_pruned(survey: Path, archive: Path) -> None:
    forbid_repeats(survey)
    catalogs = read(survey)
    move(catalogs, (30, "C", "A"))
    del catalogs["C"]
    write(survey, {"A": catalogs["A"]})
    (survey / "C.csv").unlink()
    (survey / "C.fits.fz").unlink()
    kept = run(survey, archive)
    assert "object 30 of tile A belongs to tile C already" in kept.failures["A"]
    run(survey, archive, prune=True)
    assert run(survey, archive).failures == {}
    assert owners(archive) == expected(catalogs)
