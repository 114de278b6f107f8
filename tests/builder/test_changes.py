"""Decisions of a build: the present survey is compared with the archive of the last build."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from astropy.table import Table
from helpers import execute, restored, run

from archive_builder import Archive
from archive_builder.builder.driver import build
from archive_builder.errors import ArchiveError, RecipeError
from archive_builder.maintain.verify import verify
from archive_builder.survey.demo import make_survey

A, B, C = "DEM033600-280000", "DEM033600-275910", "DEM033604-280000"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a survey of three small tiles, and its archive."""
    folder = tmp_path_factory.mktemp("changes")
    recipe = make_survey(folder / "survey", tiles=3, tile_size=256, objects=20, seed=2)
    text = re.sub(r"(?m)^(color|max_background_rms|min_depth|max_blank_fraction) .*\n", "", recipe.read_text())
    text = re.sub(r"(?m)^bands = .*$", 'bands = ["g", "r"]', text)
    recipe.write_text(re.sub(r"(?m)^size = .*$", "size = 32", text))
    for path in [*folder.glob("survey/*/*_[izY].fits.fz"), *folder.glob("survey/*/*.tiff")]:
        path.unlink()
    assert sorted(path.name for path in (folder / "survey").iterdir() if path.is_dir()) == sorted([A, B, C])
    report = build(recipe, folder / "archive")
    assert (report.built, report.failures) == (3, {})
    return folder


@pytest.fixture
def survey(place: Path, tmp_path: Path) -> Iterator[Path]:
    """The survey's folder, restored after the test. A copy would have other paths."""
    with restored(place / "survey", tmp_path / "kept") as folder:
        yield folder


@pytest.fixture
def archive(place: Path, tmp_path: Path) -> Path:
    """Copy of the archive that the test may change."""
    return Path(shutil.copytree(place / "archive", tmp_path / "archive"))


def recipe_of(survey: Path, **values: str) -> Path:
    """Change keys of the recipe, with values in TOML syntax; return the recipe's path."""
    recipe = survey / "survey.toml"
    for key, value in values.items():
        text, n = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", recipe.read_text())
        assert n == 1, key
        recipe.write_text(text)
    return recipe


def plan(survey: Path, archive: Path, *options: str) -> dict[str, Any]:
    """Return the plan that ``build --dry-run --json`` prints."""
    result = run("build", survey / "survey.toml", archive, "--dry-run", "--json", *options)
    assert result.exit_code == 0, result.stderr
    return dict(json.loads(result.stdout))


def nothing_to_do(n: int = 3) -> dict[str, Any]:
    return {"build": {}, "unchanged": n, "incomplete": {}, "gone": []}


def generations(archive: Path) -> dict[str, int]:
    """Return each tile's generation, from the names of the files."""
    names = [path.name.rsplit(".", 2) for path in (archive / "shards").iterdir()]
    assert len({name for name, *_ in names}) == len(names)
    return {name: int(generation) for name, generation, _ in names}


def everything_below(folder: Path) -> dict[str, tuple[int, str]]:
    """Return the modification time and a checksum of every file below a folder."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder",
        )
        for path in [folder, *folder.rglob("*")]
    }


def query(archive: Path, statement: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(archive / "index.sqlite")
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def catalogue(survey: Path, tile: str) -> Path:
    return survey / tile / f"{tile}_r1p01_cat.fits"


def ids_of(survey: Path, tile: str) -> list[int]:
    return [int(n) for n in Table.read(catalogue(survey, tile))["COADD_OBJECT_ID"]]


def all_ids(survey: Path) -> list[int]:
    return [n for tile in (A, B, C) for n in ids_of(survey, tile)]


def sound(archive: Path, orphans: int = 0) -> None:
    kinds = [finding.kind for finding in verify(archive, deep=True)]
    assert kinds == ["orphan"] * orphans


def image(survey: Path, tile: str) -> Path:
    return survey / tile / f"{tile}_r1p01_g.fits.fz"


# ---- changes of a tile's files


def shrink_catalogue(survey: Path) -> None:
    table = Table.read(catalogue(survey, B))
    table[1:].write(catalogue(survey, B), overwrite=True)


def touch_image(survey: Path) -> None:
    stat = image(survey, B).stat()
    os.utime(image(survey, B), ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def rename_image(survey: Path) -> None:
    image(survey, B).rename(image(survey, B).with_name(f"{B}_r2p01_g.fits.fz"))


def change_contents_secretly(survey: Path) -> None:
    """Change an object's position, then restore the file's modification time."""
    path = catalogue(survey, B)
    stat = path.stat()
    table = Table.read(path)
    table["DELTAWIN_J2000"][0] += 1e-4
    table.write(path, overwrite=True)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)


@pytest.mark.parametrize("change", [shrink_catalogue, touch_image, rename_image])
def test_only_the_tile_with_a_file_of_other_size_time_or_name_is_built(
    survey: Path, archive: Path, change: Any
) -> None:
    change(survey)
    assert plan(survey, archive) == {**nothing_to_do(2), "build": {B: "with changed files"}}
    report = build(survey / "survey.toml", archive)
    assert (report.built, report.unchanged, report.failures) == (1, 2, {})
    assert generations(archive) == {A: 1, B: 2, C: 1}
    assert {row[0] for row in query(archive, "SELECT object_id FROM objects")} == set(all_ids(survey))
    assert plan(survey, archive) == nothing_to_do()
    sound(archive)


def test_new_tile_is_built_and_the_plan_names_the_reason(survey: Path, tmp_path: Path) -> None:
    archive = tmp_path / "new"
    assert plan(survey, archive)["build"] == dict.fromkeys([A, B, C], "new")
    assert build(survey / "survey.toml", archive, tiles=[A, C]).built == 2
    assert plan(survey, archive) == {**nothing_to_do(2), "build": {B: "new"}}
    result = run("build", survey / "survey.toml", archive)
    assert result.stderr.splitlines()[0] == "1 tiles to build (1 new), 2 unchanged"
    assert result.stdout.splitlines()[0] == "1 tiles built, 2 unchanged, 0 failed"
    assert generations(archive) == {A: 1, B: 1, C: 1}


def test_changed_contents_of_equal_size_and_time_are_noticed_only_with_hash(survey: Path, archive: Path) -> None:
    first = build(survey / "survey.toml", archive, contents=True)
    assert (first.built, first.unchanged) == (0, 3)
    assert all(len(row[0]) == 16 for row in query(archive, "SELECT input_hash FROM tiles"))
    change_contents_secretly(survey)
    assert plan(survey, archive) == nothing_to_do()
    assert build(survey / "survey.toml", archive).built == 0
    assert plan(survey, archive, "--hash") == {**nothing_to_do(2), "build": {B: "with changed contents"}}
    assert build(survey / "survey.toml", archive, contents=True).built == 1
    assert generations(archive) == {A: 1, B: 2, C: 1}
    assert plan(survey, archive, "--hash") == nothing_to_do()
    (dec,) = [float(row["DELTAWIN_J2000"]) for row in Table.read(catalogue(survey, B))[:1]]
    with h5py.File(archive / f"shards/{B}.2.h5") as shard:
        assert dec in np.concatenate([shard["objects/dec"][...], shard["skipped/dec"][...]])


def test_hash_builds_nothing_for_touched_files_of_equal_contents_and_records_their_times(
    survey: Path, archive: Path
) -> None:
    build(survey / "survey.toml", archive, contents=True)
    before = dict(query(archive, "SELECT name, input_fingerprint FROM tiles"))
    touch_image(survey)
    assert plan(survey, archive)["build"] == {B: "with changed files"}
    report = build(survey / "survey.toml", archive, contents=True)
    assert (report.built, report.unchanged) == (0, 3)
    after = dict(query(archive, "SELECT name, input_fingerprint FROM tiles"))
    assert {name for name in after if after[name] != before[name]} == {B}
    assert plan(survey, archive) == nothing_to_do()
    sound(archive)


def test_failed_tile_is_retried_by_the_next_build(survey: Path, archive: Path) -> None:
    kept = image(survey, B).read_bytes()
    stat = image(survey, B).stat()
    image(survey, B).write_bytes(kept[: len(kept) // 2])
    report = build(survey / "survey.toml", archive)
    assert list(report.failures) == [B]
    image(survey, B).write_bytes(kept)
    os.utime(image(survey, B), ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert plan(survey, archive) == {**nothing_to_do(2), "build": {B: "failed before"}}
    assert build(survey / "survey.toml", archive).built == 1
    assert query(archive, f"SELECT state, error FROM tiles WHERE name = '{B}'") == [("built", None)]
    sound(archive)


def test_tile_without_its_shard_is_built(survey: Path, archive: Path) -> None:
    (archive / f"shards/{B}.1.h5").unlink()
    assert plan(survey, archive) == {**nothing_to_do(2), "build": {B: "without their shard"}}
    assert build(survey / "survey.toml", archive).built == 1
    sound(archive)


def test_force_rebuilds_unchanged_tiles_and_tile_limits_the_build_to_the_named_ones(
    survey: Path, archive: Path
) -> None:
    assert plan(survey, archive, "--force")["build"] == dict.fromkeys([A, B, C], "forced")
    assert plan(survey, archive, "--force", "--tile", B, "--tile", C)["build"] == dict.fromkeys([B, C], "forced")
    assert plan(survey, archive, "--tile", B) == nothing_to_do(1)
    touch_image(survey)
    assert plan(survey, archive, "--tile", A) == nothing_to_do(1)
    report = build(survey / "survey.toml", archive, tiles=[C], force=True)
    assert (report.built, report.unchanged, report.gone) == (1, 0, ())
    assert generations(archive) == {A: 1, B: 1, C: 2}
    sound(archive)


# ---- missing or incomplete tiles


def test_tile_missing_from_the_survey_is_reported_and_kept_until_pruned(survey: Path, archive: Path) -> None:
    ids = {tile: ids_of(survey, tile) for tile in (A, B, C)}
    shutil.rmtree(survey / C)
    assert plan(survey, archive) == {**nothing_to_do(2), "gone": [C]}
    told = run("build", survey / "survey.toml", archive, "--dry-run").stdout.splitlines()
    assert told == [f"gone from the survey: tile {C}", "0 tiles to build, 2 unchanged, 1 gone from the survey"]
    kept = run("build", survey / "survey.toml", archive)
    assert (kept.exit_code, kept.stdout.split(", ", 3)[3]) == (0, "1 gone from the survey and kept (--prune)\n")
    with Archive(archive) as opened:
        assert all(opened.locate(n).tile == C for n in ids[C])
        assert opened.get(ids[C][0]).data.shape == (2, 32, 32)
    removed = run("build", survey / "survey.toml", archive, "--prune")
    assert "1 gone from the survey and removed" in removed.stdout
    assert generations(archive) == {A: 1, B: 1}
    assert query(archive, "SELECT name FROM tiles ORDER BY name") == [(B,), (A,)]
    assert {row[0] for row in query(archive, "SELECT object_id FROM objects")} == {*ids[A], *ids[B]}
    assert plan(survey, archive) == nothing_to_do(2)
    sound(archive)


def test_pruning_finds_the_objects_of_a_shard_that_cannot_be_read(survey: Path, archive: Path) -> None:
    others = {*ids_of(survey, A), *ids_of(survey, B)}
    shutil.rmtree(survey / C)
    (archive / f"shards/{C}.1.h5").write_bytes(b"garbage")
    assert build(survey / "survey.toml", archive, prune=True).pruned
    assert {row[0] for row in query(archive, "SELECT object_id FROM objects")} == others
    sound(archive)


def test_prune_of_some_tiles_removes_nothing(survey: Path, archive: Path) -> None:
    shutil.rmtree(survey / C)
    report = build(survey / "survey.toml", archive, tiles=[A], prune=True)
    assert report.gone == ()
    assert generations(archive) == {A: 1, B: 1, C: 1}


def test_incomplete_tile_keeps_its_good_shard_and_is_still_served(survey: Path, archive: Path) -> None:
    ids = ids_of(survey, B)
    with Archive(archive) as opened:
        before = opened.get_many(ids)
    image(survey, B).unlink()
    told = plan(survey, archive)
    assert (told["build"], told["unchanged"], list(told["incomplete"])) == ({}, 2, [B])
    assert told["incomplete"][B].startswith("no file for band g: nothing matches ")
    result = run("build", survey / "survey.toml", archive, "--prune")
    assert result.exit_code == 1
    assert f"error: tile {B}: no file for band g" in result.stderr
    assert generations(archive) == {A: 1, B: 1, C: 1}
    with Archive(archive) as opened:
        np.testing.assert_array_equal(opened.get_many(ids), before)
    sound(archive)


# ---- dry runs


def test_dry_run_changes_no_file(survey: Path, archive: Path, tmp_path: Path) -> None:
    shrink_catalogue(survey)
    image(survey, A).unlink()
    before = everything_below(tmp_path), everything_below(survey)
    for options in ((), ("--hash",), ("--force",), ("--force", "--tile", B), ("--prune",)):
        plan(survey, archive, *options)
        plan(survey, tmp_path / "nowhere/archive", *options)
    recipe_of(survey, size="48")
    assert plan(survey, archive, "--force")["build"] == {B: "new", C: "new"}
    assert everything_below(tmp_path) == before[0]
    recipe_of(survey, size="32")
    assert everything_below(survey).keys() == before[1].keys()
    assert not (tmp_path / "nowhere").exists()


def test_dry_run_refuses_the_requests_that_a_build_refuses(survey: Path, archive: Path, tmp_path: Path) -> None:
    for arguments in ([archive, "--tile", "NOWHERE"], [tmp_path / "new", "--tile", "NOWHERE"]):
        result = run("build", survey / "survey.toml", *arguments, "--dry-run")
        assert result.exit_code == 2
        assert result.stderr.startswith("error: the survey has no tile NOWHERE")
    recipe_of(survey, size="48")
    result = run("build", survey / "survey.toml", archive, "--dry-run")
    assert result.exit_code == 2
    assert "cutout.size was 32, is 48" in result.stderr
    recipe_of(survey, size="32")
    (archive / "index.sqlite").unlink()
    result = run("build", survey / "survey.toml", archive, "--dry-run")
    assert result.exit_code == 1
    assert "archive-builder reindex" in result.stderr


# ---- other settings


def test_other_settings_are_refused_and_the_error_lists_the_differences(survey: Path, archive: Path) -> None:
    before = everything_below(archive)
    recipe_of(survey, size="48", quantization='"lossless"', zero_point="31.5")
    for options in ({}, {"tiles": [A], "force": True}, {"contents": True, "prune": True}):
        with pytest.raises(RecipeError) as caught:
            build(survey / "survey.toml", archive, **options)  # type: ignore[arg-type]
        told = str(caught.value)
        assert "\n" not in told
        assert "cutout.size was 32, is 48; " in told
        assert '; storage.quantization was 16.0, is "lossless"; ' in told
        assert "; survey.zero_point was 30.0, is 31.5: restore the recipe, " in told
        assert "--force" in told
    after = everything_below(archive)
    assert {name: what for name, what in after.items() if name not in (".", "build.lock")} == {
        name: what for name, what in before.items() if name not in (".", "build.lock")
    }


def sizes(archive: Path) -> set[int]:
    """Return the cutout sizes of the shards in the index, read with h5py."""
    found = set()
    for (shard,) in query(archive, "SELECT shard FROM tiles"):
        with h5py.File(archive / shard) as file:
            found.add(int(file.attrs["size"]))
    return found


def test_rebuild_with_other_settings_switches_the_whole_archive_in_one_step_at_its_end(
    survey: Path, archive: Path
) -> None:
    ids = all_ids(survey)
    recipe_of(survey, size="48")
    seen = []

    def look(event: object) -> None:
        with Archive(archive) as opened:
            seen.append(opened.get_many(ids, missing="blank").shape)
        assert sizes(archive) == {32}

    with Archive(archive) as reader:
        assert reader.size == 32
        report = build(survey / "survey.toml", archive, force=True, on_tile=look)
        assert (report.built, report.failures) == (3, {})
        assert seen == [(60, 2, 32, 32)] * 3
        assert sizes(archive) == {48}
        assert reader.get_many(ids, missing="blank").shape == (60, 2, 48, 48)
    assert generations(archive) == {A: 2, B: 2, C: 2}
    assert sorted(path.name for path in archive.iterdir()) == ["build.lock", "index.sqlite", "shards"]
    sound(archive)
    assert plan(survey, archive) == nothing_to_do()


def test_rebuild_with_a_failed_tile_leaves_the_archive_unchanged_and_can_continue(survey: Path, archive: Path) -> None:
    ids, kept = all_ids(survey), catalogue(survey, C).read_bytes()
    recipe_of(survey, size="48")
    catalogue(survey, C).write_bytes(b"no catalogue")
    with pytest.raises(
        ArchiveError, match=rf"is unchanged: 1 of its tiles cannot be built with the new settings \({C}: "
    ):
        build(survey / "survey.toml", archive, force=True)
    assert sizes(archive) == {32}
    sound(archive, orphans=2)
    with Archive(archive) as opened:
        assert opened.get_many(ids, missing="blank").shape == (60, 2, 32, 32)
    catalogue(survey, C).write_bytes(kept)
    assert plan(survey, archive, "--force") == {**nothing_to_do(2), "build": {C: "failed before"}}
    report = build(survey / "survey.toml", archive, force=True)
    assert (report.built, report.unchanged, report.failures) == (1, 2, {})
    assert sizes(archive) == {48}
    assert {row[0] for row in query(archive, "SELECT object_id FROM objects")} == set(ids)
    sound(archive)


def test_killed_rebuild_is_continued_or_abandoned(
    survey: Path, archive: Path, tmp_path: Path, held_build: Callable[..., subprocess.Popen[bytes]]
) -> None:
    ids = all_ids(survey)
    recipe_of(survey, size="48")
    process = held_build("--force", survey / "survey.toml", archive, workers=3)
    while len(list((archive / "shards").glob("[!.]*.h5"))) < 5:  # three old ones, and two of the rebuild
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert sizes(archive) == {32}
    sound(archive, orphans=2)
    # The killed build may or may not have recorded its second tile.
    copy = Path(shutil.copytree(archive, tmp_path / "copy"))

    report = build(survey / "survey.toml", archive, force=True)
    assert report.built + report.unchanged == 3
    assert 1 <= report.built <= 2
    assert sizes(archive) == {48}
    assert {row[0] for row in query(archive, "SELECT object_id FROM objects")} == set(ids)
    assert len(generations(archive)) == 3
    sound(archive)

    recipe_of(survey, size="32")
    report = build(survey / "survey.toml", copy)
    assert (report.built, report.unchanged) == (0, 3)
    assert generations(copy) == {A: 1, B: 1, C: 1}
    assert sorted(path.name for path in copy.iterdir()) == ["build.lock", "index.sqlite", "shards"]
    sound(copy)


def test_unfinished_rebuild_with_outdated_settings_starts_again(survey: Path, archive: Path) -> None:
    kept = catalogue(survey, C).read_bytes()
    recipe_of(survey, size="48")
    catalogue(survey, C).write_bytes(b"no catalogue")
    with pytest.raises(ArchiveError, match="is unchanged"):
        build(survey / "survey.toml", archive, force=True)
    catalogue(survey, C).write_bytes(kept)
    recipe_of(survey, size="40")
    report = build(survey / "survey.toml", archive, force=True)
    assert (report.built, report.unchanged) == (3, 0)
    assert sizes(archive) == {40}
    assert len(generations(archive)) == 3
    sound(archive)


def test_rebuild_removes_tiles_that_the_survey_lost_only_with_prune(survey: Path, archive: Path) -> None:
    before = everything_below(archive / "shards")
    recipe_of(survey, size="48")
    shutil.rmtree(survey / C)
    assert plan(survey, archive, "--force") == {**nothing_to_do(0), "build": {A: "new", B: "new"}, "gone": [C]}
    result = run("build", survey / "survey.toml", archive, "--force")
    assert result.exit_code == 1
    assert f"1 of its tiles are gone from the survey ({C}) " in result.stderr
    assert everything_below(archive / "shards") == before
    sound(archive)
    result = run("build", survey / "survey.toml", archive, "--force", "--prune")
    assert result.stdout.splitlines()[0].endswith(", 0 failed, 1 gone from the survey and removed")
    assert generations(archive) == {A: 2, B: 2}
    assert sizes(archive) == {48}
    sound(archive)


# ---- files of others


def copied(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def as_generation(source: Path, target: Path) -> None:
    """Copy a shard by hand, and let it name itself by its file name."""
    shutil.copyfile(source, target)
    tile, generation = target.name.removesuffix(".h5").rsplit(".", 1)
    with h5py.File(target, "r+") as file:
        for name, value in {"tile": np.bytes_(tile), "generation": np.int64(generation)}.items():
            del file.attrs[name]
            file.attrs[name] = value


FOREIGN: dict[str, Callable[[Path, Path], object]] = {
    "notes.h5": lambda _, target: h5py.File(target, "w").close(),
    "notes.txt": lambda _, target: target.write_text("mine"),
    f"{A}.1.backup.h5": copied,
    f"{A}.1.h5.bak": copied,
    f"{A}.01.h5": copied,
    f"{A}.2.h5": as_generation,  # no build was killed
    f"{A}.3.h5": lambda _, target: target.write_text("not HDF5"),
    f"{B}.2.h5": copied,
    f"{A}.7.h5": as_generation,
    "OTHER.1.h5": as_generation,
    "LINK.1.h5": lambda _, target: target.symlink_to("notes.txt"),
    f".{A}.1.h5.0123456789abcdef.99": copied,
    ".notes.h5.0123456789abcdef.99.part": copied,
    f".{C}.9.h5.0123456789abcdef.99.part": lambda _, target: target.symlink_to("notes.txt"),
    f"{C}.5.h5": lambda _, target: target.mkdir(),
    f".{C}.8.h5.0123456789abcdef.99.part": lambda _, target: target.mkdir(),
}
"""Items among the shards that no build made, or that nothing accounts for."""


def put_foreign_items(archive: Path) -> None:
    for name, make in FOREIGN.items():
        make(archive / f"shards/{A}.1.h5", archive / "shards" / name)
    (archive / ".plot.png.0123456789abcdef.99.part").write_text("of another program")


def in_index(archive: Path) -> dict[str, int]:
    return dict(execute(archive, "SELECT name, generation FROM tiles"))


def test_no_build_removes_or_replaces_a_file_of_others(survey: Path, archive: Path) -> None:
    put_foreign_items(archive)
    before = everything_below(archive / "shards")
    result = run("build", survey / "survey.toml", archive)
    assert (result.exit_code, result.stdout) == (0, "0 tiles built, 3 unchanged, 0 failed\n")
    first = sorted(FOREIGN)[0]
    assert result.stderr.splitlines()[0] == (
        f"warning: {archive / 'shards'}: {len(FOREIGN)} files that no build accounts for stay there ({first}): "
        "move them elsewhere"
    )
    assert everything_below(archive / "shards") == before
    assert run("build", survey / "survey.toml", archive, "--force").exit_code == 0
    # Used names are skipped.
    assert in_index(archive) == {A: 4, B: 3, C: 2}
    recipe_of(survey, size="48")
    assert run("build", survey / "survey.toml", archive, "--force").exit_code == 0
    assert in_index(archive) == {A: 5, B: 4, C: 3}
    assert (archive / ".plot.png.0123456789abcdef.99.part").read_text() == "of another program"
    after = everything_below(archive / "shards")
    # Copies under the name of a generation that the archive has replaced are leftovers.
    replaced = {f"{A}.2.h5"}
    for name in FOREIGN.keys() - replaced:
        ours = {path: content for path, content in before.items() if Path(path).name == name}
        assert ours.items() <= after.items(), name


def test_verify_names_each_unknown_file_with_its_remedy(archive: Path) -> None:
    put_foreign_items(archive)
    draft = archive / f"shards/.{A}.2.h5.0123456789abcdef.99.part"
    draft.write_bytes(b"half a shard")
    found = {finding.what for finding in verify(archive) if finding.kind == "orphan"}
    foreign = {
        f"{archive / 'shards' / name}: is not in the index: no build accounts for it: move it elsewhere"
        for name in FOREIGN
    }
    assert found == foreign | {f"{draft}: is not in the index: the next build removes it"}


def test_a_folder_in_place_of_an_index_is_an_error_that_names_the_folder(survey: Path, archive: Path) -> None:
    recipe = recipe_of(survey, size="48")
    commands = {"index.fresh.sqlite": ("reindex", archive), "index.next.sqlite": ("build", recipe, archive, "--force")}
    for name, command in commands.items():
        (archive / name).mkdir()
        result = run(*command)
        reason = "cannot be used (Is a directory): check that it is a file with write access"
        assert (result.exit_code, result.stderr) == (1, f"error: index {archive / name}: {reason}\n")
        (archive / name).rmdir()
    sound(archive)


def test_leftovers_of_a_killed_build_are_removed(survey: Path, archive: Path) -> None:
    """A killed build leaves a draft, a shard that it placed but did not commit, and a shard that it replaced."""
    run("build", survey / "survey.toml", archive, "--force")
    assert generations(archive) == {A: 2, B: 2, C: 2}
    shards = archive / "shards"
    before = sorted(path.name for path in shards.iterdir())
    as_generation(shards / f"{A}.2.h5", shards / f"{A}.1.h5")
    as_generation(shards / f"{A}.2.h5", shards / f"{A}.3.h5")
    (shards / f".{A}.3.h5.0123456789abcdef.99.part").write_bytes(b"half a shard")
    for name in (".index.sqlite", ".index.fresh.sqlite"):
        (archive / f"{name}.0123456789abcdef.99.part-journal").write_bytes(b"half a journal")
    execute(archive, "UPDATE builds SET finished = NULL")
    assert run("build", survey / "survey.toml", archive).exit_code == 0
    assert sorted(path.name for path in shards.iterdir()) == before
    assert sorted(path.name for path in archive.iterdir()) == ["build.lock", "index.sqlite", "shards"]
    sound(archive)


# ---- a lost index


def test_build_without_an_index_beside_shards_names_reindex_and_removes_nothing(survey: Path, archive: Path) -> None:
    (archive / "index.sqlite").unlink()
    before = everything_below(archive / "shards")
    for options in ((), ("--force",), ("--tile", A), ("--prune",)):
        result = run("build", survey / "survey.toml", archive, *options)
        assert result.exit_code == 1
        assert result.stderr == (
            f"error: archive {archive}: has shards but the index is missing: run archive-builder reindex {archive}\n"
        )
    assert everything_below(archive / "shards") == before
    assert not (archive / "index.sqlite").exists()
    assert run("reindex", archive).exit_code == 0
    assert plan(survey, archive) == nothing_to_do()
