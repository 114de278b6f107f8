"""Verify, repair and reindex: every kind of damage is found, named and repaired; a good archive has no findings."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import multiprocess
import numpy as np
import pytest
from astropy.io import fits
from helpers import execute, restored, run

from archive_builder import Archive
from archive_builder.builder.driver import build
from archive_builder.errors import ArchiveError, NoArchiveError
from archive_builder.maintain import reindex as reindexing
from archive_builder.maintain import verify as verification
from archive_builder.maintain.reindex import reindex
from archive_builder.maintain.verify import Finding, verify
from archive_builder.run import pool as working
from archive_builder.survey.demo import make_survey

assert hdf5plugin.version  # importing hdf5plugin registers Bitshuffle with h5py

A, B = "DEM033600-280000", "DEM033604-280000"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a survey of two small tiles, with some skipped objects, and its archive."""
    folder = tmp_path_factory.mktemp("verify")
    recipe = make_survey(folder / "survey", tiles=2, tile_size=300, objects=30, seed=2)
    text = re.sub(r"(?m)^(color|min_depth) .*\n", "", recipe.read_text())
    text = re.sub(r"(?m)^bands = .*$", 'bands = ["g", "r"]', re.sub(r"(?m)^size = .*$", "size = 32", text))
    recipe.write_text(text.replace("max_blank_fraction = 0.5", "max_blank_fraction = 0.2"))
    report = build(recipe, folder / "archive")
    assert (report.built, report.failures) == (2, {})
    assert sum(report.skipped.values()) > 0
    return folder


@pytest.fixture
def archive(place: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(place / "archive", tmp_path / "archive"))


@pytest.fixture
def survey(place: Path, tmp_path: Path) -> Iterator[Path]:
    """The survey's folder, restored after the test."""
    with restored(place / "survey", tmp_path / "kept") as folder:
        yield folder


def findings(archive: Path, deep: bool = False, survey: Path | None = None) -> list[Finding]:
    return list(verify(archive, deep=deep, survey=survey and survey / "survey.toml"))


def shard(archive: Path, tile: str = A) -> Path:
    return archive / f"shards/{tile}.1.h5"


def table(archive: Path, name: str) -> list[tuple[Any, ...]]:
    """Return the rows of a table of the index, from SQLite."""
    connection = sqlite3.connect(archive / "index.sqlite")
    try:
        return sorted(connection.execute(f"SELECT * FROM {name}"))
    finally:
        connection.close()


def settings_of(archive: Path) -> dict[str, Any]:
    return {key: json.loads(value) for key, value in table(archive, "settings")}


def owners(archive: Path) -> set[tuple[Any, ...]]:
    """Return the index's objects with the names of their tiles; tile numbers may differ between indexes."""
    names = {row[0]: row[1] for row in table(archive, "tiles")}
    return {(n, names[tile], row, status) for n, tile, row, status in table(archive, "objects")}


def flip(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


def pixel_offset(path: Path) -> int:
    """Return the offset of the middle of the first chunk of pixels in the file."""
    with h5py.File(path) as file:
        chunk = file["pixels"].id.get_chunk_info(0)
        return int(chunk.byte_offset + chunk.size // 2)


def table_offset(path: Path, name: str) -> int:
    with h5py.File(path) as file:
        return int(file[name].id.get_chunk_info(0).byte_offset)


# ---- a good archive


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("with_survey", [False, True])
def test_good_archive_has_no_findings(place: Path, deep: bool, with_survey: bool) -> None:
    assert findings(place / "archive", deep, place / "survey" if with_survey else None) == []


def test_a_failed_tile_is_no_damage(place: Path, archive: Path) -> None:
    execute(archive, "INSERT INTO tiles (name, state, error) VALUES ('T', 'failed', 'no file')")
    assert findings(archive, deep=True) == []


def test_folder_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(NoArchiveError):
            list(verify(folder))
        assert run("verify", folder).exit_code == 2


# ---- shards


@pytest.mark.parametrize("deep", [False, True])
def test_missing_shard_is_reported_with_its_remedy(archive: Path, deep: bool) -> None:
    shard(archive).unlink()
    (finding,) = verify(archive, deep=deep)
    assert finding.what == f"shard {shard(archive)}: cannot be opened (No such file or directory): rebuild its tile"


def remove(archive: Path) -> None:
    shard(archive).unlink()


def truncate(archive: Path) -> None:
    os.truncate(shard(archive), shard(archive).stat().st_size - 1)


def cut_in_half(archive: Path) -> None:
    os.truncate(shard(archive), shard(archive).stat().st_size // 2)


def empty(archive: Path) -> None:
    shard(archive).write_bytes(b"")


def append(archive: Path) -> None:
    with shard(archive).open("ab") as file:
        file.write(b"more")


def other_tile(archive: Path) -> None:
    shutil.copy(shard(archive, B), shard(archive))


def other_generation(archive: Path) -> None:
    with h5py.File(shard(archive), "r+") as file:
        file.attrs["generation"] = 7


def other_format(archive: Path) -> None:
    with h5py.File(shard(archive), "r+") as file:
        del file["written"]


def other_size(archive: Path) -> None:
    with h5py.File(shard(archive), "r+") as file:
        recipe = json.loads(file.attrs["recipe"])
        recipe["cutout"]["size"] = 99
        del file.attrs["recipe"]
        file.attrs["recipe"] = np.bytes_(json.dumps(recipe))


def recipe_garbage(archive: Path) -> None:
    with h5py.File(shard(archive), "r+") as file:
        file.attrs["recipe"] = np.bytes_("{" * 3000)


def flip_table(archive: Path) -> None:
    flip(shard(archive), table_offset(shard(archive), "objects/object_id"))


SHALLOW = [remove, truncate, cut_in_half, empty, append, other_tile, other_generation, other_format, other_size]


@pytest.mark.parametrize("damage", [*SHALLOW, recipe_garbage, flip_table])
def test_damaged_shard_is_found_and_named_without_reading_its_pixels(
    archive: Path, damage: Callable[[Path], None]
) -> None:
    damage(archive)
    found = findings(archive)
    assert {finding.tile for finding in found} == {A}
    assert any(finding.kind == "shard" and str(shard(archive)) in finding.what for finding in found)
    assert all("\n" not in finding.what for finding in found)


def test_deep_verify_finds_a_flipped_byte_anywhere_in_a_shard(archive: Path) -> None:
    content = shard(archive).read_bytes()
    rng = np.random.default_rng(1)
    for offset in [0, len(content) - 1, *rng.integers(0, len(content), 20).tolist()]:
        flip(shard(archive), offset)
        found = findings(archive, deep=True)
        assert ("shard", A) in {(finding.kind, finding.tile) for finding in found}
        shard(archive).write_bytes(content)
    assert findings(archive, deep=True) == []


def test_only_deep_verify_finds_a_flipped_pixel(archive: Path) -> None:
    flip(shard(archive), pixel_offset(shard(archive)))
    assert findings(archive) == []
    (finding,) = findings(archive, deep=True)
    assert (finding.kind, finding.tile) == ("shard", A)
    assert "its checksum is not crc32:" in finding.what


# ---- the index


INDEX_DAMAGE = {
    "row": "UPDATE objects SET row = row + 1 WHERE object_id = (SELECT min(object_id) FROM objects)",
    "status": "UPDATE objects SET status = 3 WHERE object_id = (SELECT min(object_id) FROM objects)",
    "status unknown": "UPDATE objects SET status = 77 WHERE object_id = (SELECT min(object_id) FROM objects)",
    "tile": "UPDATE objects SET tile_id = 3 - tile_id WHERE object_id = (SELECT min(object_id) FROM objects)",
    "tile unknown": "UPDATE objects SET tile_id = 99 WHERE object_id = (SELECT min(object_id) FROM objects)",
    "row text": "UPDATE objects SET row = 'x' WHERE object_id = (SELECT min(object_id) FROM objects)",
    "row huge": "UPDATE objects SET row = 1e300 WHERE object_id = (SELECT min(object_id) FROM objects)",
    "extra object": "INSERT INTO objects VALUES (5, 1, 0, 0)",
    "missing object": "DELETE FROM objects WHERE object_id = (SELECT max(object_id) FROM objects)",
    "no objects": "DELETE FROM objects",
    "counts": f"UPDATE tiles SET stored = stored + 1, skipped = skipped - 1 WHERE name = '{A}'",
    "counts text": f"UPDATE tiles SET stored = 'many' WHERE name = '{A}'",
    "footprint": f"""UPDATE tiles SET footprint = '[[1, 1], [2, 1], [2, 2], [1, 2]]' WHERE name = '{A}'""",
    "footprint garbage": f"UPDATE tiles SET footprint = 'somewhere' WHERE name = '{A}'",
    "footprint short": f"UPDATE tiles SET footprint = '[[1, 2], [3]]' WHERE name = '{A}'",
    "footprint missing": f"UPDATE tiles SET footprint = NULL WHERE name = '{A}'",
    "reasons": f'UPDATE tiles SET skipped_for = \'{{"noise": 99, "blank": 0, "outside": 0}}\' WHERE name = \'{A}\'',
    "reasons garbage": f"UPDATE tiles SET skipped_for = '[' WHERE name = '{A}'",
    "reasons of another kind": f"UPDATE tiles SET skipped_for = '{{\"luck\": 1}}' WHERE name = '{A}'",
    "reasons missing": f"UPDATE tiles SET skipped_for = NULL WHERE name = '{A}'",
    "depth of other bands": f"UPDATE tiles SET depth = '{{\"H\": 20.0}}' WHERE name = '{A}'",
    "depth garbage": f"UPDATE tiles SET depth = '{{\"r\": \"deep\"}}' WHERE name = '{A}'",
    "fingerprint": f"UPDATE tiles SET input_fingerprint = '0123456789abcdef' WHERE name = '{A}'",
    "generation": f"UPDATE tiles SET generation = 2 WHERE name = '{A}'",
    "generation text": f"UPDATE tiles SET generation = 'first' WHERE name = '{A}'",
    "shard": f"UPDATE tiles SET shard = 'shards/other.h5' WHERE name = '{A}'",
    "shard outside": f"UPDATE tiles SET shard = '../../etc/passwd' WHERE name = '{A}'",
    "tile name": f"UPDATE tiles SET name = 'OTHER' WHERE name = '{A}'",
    "tile lost": f"DELETE FROM tiles WHERE name = '{A}'",
    "settings lost": "DELETE FROM settings",
    "settings garbage": "UPDATE settings SET value = '{' WHERE key = 'recipe'",
    "settings nested": f"UPDATE settings SET value = '{'[' * 5000}' WHERE key = 'recipe'",
    "settings odd": "UPDATE settings SET value = '7' WHERE key = 'recipe'",
    "size": "UPDATE settings SET value = '64' WHERE key = 'size'",
    "size text": "UPDATE settings SET value = '\"big\"' WHERE key = 'size'",
    "size lost": "DELETE FROM settings WHERE key = 'size'",
    "bands": "UPDATE settings SET value = '[\"r\", \"g\"]' WHERE key = 'bands'",
    "format": "UPDATE settings SET value = '99' WHERE key = 'format_version'",
}


@pytest.mark.parametrize("damage", INDEX_DAMAGE)
def test_damaged_index_is_found_and_rebuilt_from_the_shards_alone(place: Path, archive: Path, damage: str) -> None:
    execute(archive, INDEX_DAMAGE[damage])
    found = findings(archive)
    assert found
    assert all("\n" not in finding.what for finding in found)
    result = run("verify", archive)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    reindex(archive)
    assert findings(archive, deep=True) == []
    assert owners(archive) == owners(place / "archive")
    with Archive(archive) as mended, Archive(place / "archive") as good:
        stored = [n for n, _, _, status in owners(archive) if status == 0]
        np.testing.assert_array_equal(mended.get_many(stored), good.get_many(stored))


@pytest.mark.parametrize("damage", [name for name in INDEX_DAMAGE if name not in ("size", "bands")])
def test_index_damage_is_repaired_without_the_survey(archive: Path, damage: str) -> None:
    execute(archive, INDEX_DAMAGE[damage])
    if "shard" in {finding.kind for finding in findings(archive)}:
        pytest.skip("the shards may be damaged too")
    result = run("verify", archive, "--repair")
    assert (result.exit_code, result.stderr) == (0, "")
    assert findings(archive, deep=True) == []


def test_deep_verify_finds_a_depth_that_differs_from_the_shards(archive: Path) -> None:
    execute(archive, f"UPDATE tiles SET depth = replace(depth, '.', '1.') WHERE name = '{A}'")
    assert findings(archive) == []
    (finding,) = findings(archive, deep=True)
    assert (finding.kind, finding.tile) == ("index", A)
    reindex(archive)
    assert findings(archive, deep=True) == []


def test_missing_or_broken_index_is_found_and_rebuilt(place: Path, archive: Path) -> None:
    index = archive / "index.sqlite"
    content = index.read_bytes()
    for damage in (None, b"", b"garbage" * 1000, content[: len(content) // 2], content[:100]):
        index.unlink() if damage is None else index.write_bytes(damage)
        assert {finding.kind for finding in findings(archive)} == {"index"}
        assert run("verify", archive).exit_code == 1
        assert run("verify", archive, "--repair").exit_code == 0
        assert owners(archive) == owners(place / "archive")


def test_changed_object_ids_of_the_index_are_found(archive: Path) -> None:
    """Change object IDs inside the table. SQLite has no checksums: only the order and the shards reveal the change."""
    execute(archive, "UPDATE objects SET object_id = -object_id WHERE row = 3")
    assert findings(archive)


# ---- unknown files


def test_unknown_files_are_named_but_are_no_damage(archive: Path) -> None:
    (archive / "shards/other.1.h5").write_bytes(b"x")
    (archive / "shards/.T.1.h5.0123456789abcdef.99.part").write_bytes(b"x")
    (archive / "shards/notes.txt").write_text("mine")
    found = findings(archive, deep=True)
    assert [finding.kind for finding in found] == ["orphan"] * 3
    assert [finding.what.split(": ")[0] for finding in found] == [
        str(archive / "shards" / name) for name in (".T.1.h5.0123456789abcdef.99.part", "notes.txt", "other.1.h5")
    ]
    result = run("verify", archive)
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "all is well")


# ---- against the survey


def test_changed_pixels_of_the_survey_are_found_despite_equal_size_and_time(place: Path, survey: Path) -> None:
    path = survey / A / f"{A}_r1p01_r.fits.fz"
    stat = path.stat()
    # Another scale of the compressed rows leaves the file size unchanged.
    with fits.open(path, disable_image_compression=True, mode="update") as hdus:
        hdus["SCI"].data["ZSCALE"][:] *= 1.5
    assert path.stat().st_size == stat.st_size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert findings(place / "archive", deep=False, survey=survey) == []
    assert findings(place / "archive", deep=True) == []
    found = findings(place / "archive", deep=True, survey=survey)
    assert {(finding.kind, finding.tile) for finding in found} == {("shard", A)}
    assert all("is not as in the survey" in finding.what for finding in found)


def test_tiles_that_changed_or_vanished_in_the_survey_are_named_but_are_no_damage(place: Path, survey: Path) -> None:
    os.utime(survey / A / f"{A}_r1p01_cat.fits")
    shutil.rmtree(survey / B)
    found = findings(place / "archive", deep=True, survey=survey)
    assert [(finding.kind, finding.tile) for finding in found] == [("survey", A), ("survey", B)]
    result = run("verify", place / "archive", "--deep", "--survey", survey / "survey.toml")
    assert result.exit_code == 0


# ---- repair


def test_repair_rebuilds_damaged_shards_and_the_index(place: Path, archive: Path) -> None:
    flip(shard(archive, A), pixel_offset(shard(archive, A)))
    execute(archive, INDEX_DAMAGE["row"], INDEX_DAMAGE["extra object"])
    refused = run("verify", archive, "--deep", "--repair")
    assert refused.exit_code == 1
    assert "1 shards are damaged: give the survey's recipe as --survey" in refused.stderr
    result = run("verify", archive, "--deep", "--survey", place / "survey/survey.toml", "--repair")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "repaired: 0 problems left"
    assert owners(archive) == owners(place / "archive")
    assert sorted(path.name for path in (archive / "shards").iterdir()) == [f"{A}.2.h5", f"{B}.1.h5"]
    with Archive(archive) as mended, Archive(place / "archive") as good:
        stored = [n for n, _, _, status in owners(archive) if status == 0]
        np.testing.assert_array_equal(mended.get_many(stored), good.get_many(stored))


@pytest.mark.parametrize("damage", [remove, other_tile])
def test_repair_fixes_damage_of_shard_and_index_together(
    place: Path, archive: Path, damage: Callable[[Path], None]
) -> None:
    damage(archive)
    (archive / "index.sqlite").write_bytes(b"garbage" * 1000)
    result = run("verify", archive, "--survey", place / "survey/survey.toml", "--repair")
    assert result.exit_code == 0
    # A file that names another tile than its file name is not evidently of this archive, and stays.
    unclear = [] if damage is remove else [f"{archive}/shards/{A}.1.h5: is not in the index: {UNKNOWN}"]
    assert [finding.what for finding in findings(archive, deep=True, survey=place / "survey")] == unclear
    assert owners(archive) == owners(place / "archive")


def test_failed_repair_is_an_error_on_one_line(place: Path, archive: Path, survey: Path) -> None:
    remove(archive)
    shutil.rmtree(survey / A)
    result = run("verify", archive, "--survey", survey / "survey.toml", "--repair")
    assert result.exit_code != 0
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_several_processes_find_the_same_as_one(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "MOST_TOGETHER", 1)
    for tile, keep in ((A, 1000), (B, 2000)):
        path = archive / f"shards/{tile}.1.h5"
        path.write_bytes(path.read_bytes()[:keep])
    alone = list(verify(archive))
    assert [finding.tile for finding in alone] == [A, B]
    assert list(verify(archive, workers=2)) == alone


def test_shard_that_kills_its_reader_is_found_and_affects_no_other_shard(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FIFO without a writer replaces the shard: a process that opens it waits, and the test kills that process."""
    if not Path("/proc/self/wchan").exists() or os.getuid() != 0:
        pytest.skip("only root on Linux can read the wait channel of a process")
    monkeypatch.setattr(verification, "MOST_TOGETHER", 1)
    deadly = archive / f"shards/{B}.1.h5"
    deadly.unlink()
    os.mkfifo(deadly)
    findings: list[Finding] = []
    look = threading.Thread(target=lambda: findings.extend(verify(archive, workers=2)))
    look.start()
    killed: set[int] = set()
    while look.is_alive():
        for process in multiprocess.active_children():
            if process.pid not in killed and waits_for_a_pipe(process.pid):
                killed.add(process.pid)
                process.kill()
        time.sleep(0.05)
    assert len(killed) == 2
    assert [(finding.kind, finding.tile) for finding in findings] == [("shard", B)]
    assert "cannot be checked (the worker process died" in findings[0].what


def waits_for_a_pipe(pid: int | str) -> bool:
    """Return True if a process waits to open a FIFO."""
    try:
        return "wait_for_partner" in Path(f"/proc/{pid}/wchan").read_text()
    except OSError:
        return False


def test_command_line_prints_json_and_sets_its_exit_status(place: Path, archive: Path, tmp_path: Path) -> None:
    good = run("verify", archive, "--deep", "--json")
    assert (good.exit_code, json.loads(good.stdout)) == (0, [])
    assert run("verify", archive).stdout == "all is well\n"
    remove(archive)
    bad = run("verify", archive, "--json")
    assert bad.exit_code == 1
    (finding,) = json.loads(bad.stdout)
    assert (finding["kind"], finding["tile"]) == ("shard", A)
    assert str(shard(archive)) in finding["what"]
    assert bad.stderr == f"error: archive {archive}: 1 problems found: run verify --repair --survey RECIPE\n"
    deep = run("verify", archive, "--deep", "--survey", place / "survey/survey.toml")
    assert deep.stderr.endswith(f"run verify --deep --repair --survey {place / 'survey/survey.toml'}\n")
    mended = run("verify", archive, "--survey", place / "survey/survey.toml", "--repair", "--json")
    assert (mended.exit_code, mended.stderr) == (0, "repaired: 0 problems left\n")
    assert len(json.loads(mended.stdout)) == 1
    assert run("verify", archive, "--survey", tmp_path / "nothing.toml").exit_code == 2


# ---- reindex


def test_reindex_makes_the_same_index_as_the_build(place: Path, archive: Path) -> None:
    (archive / "index.sqlite").unlink()
    report = reindex(archive)
    assert (report.tiles, report.objects, report.left_out) == (2, 60, {})
    assert table(archive, "objects") == table(place / "archive", "objects")
    assert settings_of(archive) == settings_of(place / "archive")
    connection = sqlite3.connect(archive / "index.sqlite")
    connection.row_factory = sqlite3.Row
    connection.execute("ATTACH ? AS built", [str(place / "archive/index.sqlite")])
    tiles = connection.execute("SELECT * FROM main.tiles").fetchall()
    assert len(tiles) == 2
    for row in tiles:
        (other,) = connection.execute("SELECT * FROM built.tiles WHERE name = ?", [row["name"]])
        unlike = {key for key in row.keys() if row[key] != other[key]}  # noqa: SIM118
        assert unlike <= {"seconds", "peak_memory", "built_at", "build_id"}
    connection.close()
    assert build(place / "survey/survey.toml", archive).unchanged == 2


@pytest.mark.parametrize("damage", [cut_in_half, empty, other_tile, other_generation, recipe_garbage, flip_table])
def test_reindex_leaves_out_an_unusable_shard_and_names_the_reason(
    place: Path, archive: Path, damage: Callable[[Path], None]
) -> None:
    damage(archive)
    result = run("reindex", archive)
    assert (result.exit_code, result.stdout) == (0, "1 tiles and 30 objects indexed, 1 files left out\n")
    assert result.stderr.startswith(f"left out {A}.1.h5: ")
    assert {tile for _, tile, *_ in owners(archive)} == {B}
    assert [finding.kind for finding in findings(archive)] == ["orphan"]
    assert build(place / "survey/survey.toml", archive).built == 1
    assert owners(archive) == owners(place / "archive")
    # The new shard has a name of its own. The next build removes the old one if it still names itself.
    remedy = REPLACED if damage in (recipe_garbage, flip_table) else UNKNOWN
    assert [finding.what for finding in findings(archive, deep=True)] == [
        f"{archive}/shards/{A}.1.h5: is not in the index: {remedy}"
    ]
    assert build(place / "survey/survey.toml", archive).unchanged == 2
    assert [finding.kind for finding in findings(archive, deep=True)] == ["orphan"] * (remedy == UNKNOWN)


REPLACED, UNKNOWN = "the next build removes it", "no build accounts for it: move it elsewhere"
"""Remedies for unknown files among the shards."""


def copy_as(archive: Path, tile: str, generation: int, **attributes: Any) -> Path:
    """Make another generation of a tile's shard."""
    path = archive / f"shards/{tile}.{generation}.h5"
    shutil.copy(shard(archive, tile), path)
    with h5py.File(path, "r+") as file:
        file.attrs["generation"] = np.int64(generation)
        for name, value in attributes.items():
            del file.attrs[name]
            file.attrs[name] = value
    return path


def test_reindex_takes_the_newest_generation_by_number(archive: Path) -> None:
    for generation in (9, 10):
        copy_as(archive, A, generation)
    report = reindex(archive)
    assert sorted(report.left_out) == [f"{A}.1.h5", f"{A}.9.h5"]
    assert {row[4] for row in table(archive, "tiles")} == {f"shards/{A}.10.h5", f"shards/{B}.1.h5"}
    assert [finding.kind for finding in findings(archive)] == ["orphan"] * 2


def test_reindex_takes_an_older_shard_if_the_newest_is_damaged(place: Path, archive: Path) -> None:
    newest = copy_as(archive, A, 2)
    flip(newest, pixel_offset(newest))
    report = reindex(archive)
    assert list(report.left_out) == [newest.name]
    assert "are damaged" in report.left_out[newest.name]
    assert owners(archive) == owners(place / "archive")
    assert [finding.kind for finding in findings(archive, deep=True)] == ["orphan"]


def test_reindex_takes_the_newest_shard_if_all_are_damaged(archive: Path) -> None:
    paths = [shard(archive), copy_as(archive, A, 2)]
    for path in paths:
        flip(path, pixel_offset(path))
    report = reindex(archive)
    assert list(report.left_out) == [paths[0].name]
    assert {row[4] for row in table(archive, "tiles")} == {f"shards/{A}.2.h5", f"shards/{B}.1.h5"}


def test_reindex_takes_an_older_shard_if_the_newest_has_an_object_of_another_tile(place: Path, archive: Path) -> None:
    newest = copy_as(archive, A, 2)
    with h5py.File(newest, "r+") as file, h5py.File(shard(archive, B)) as other:
        moved = other["objects/object_id"][0]
        file["objects/object_id"][0] = moved
    report = reindex(archive)
    assert list(report.left_out) == [newest.name]
    assert f"object {moved} of tile {A} belongs to tile {B} already" in report.left_out[newest.name]
    assert owners(archive) == owners(place / "archive")


def test_several_processes_make_the_same_index_as_one(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (reindexing, working):
        monkeypatch.setattr(module, "MOST_TOGETHER", 1)
    copy_as(archive, A, 2)
    (archive / "shards/T.1.h5").write_bytes(b"garbage")
    alone = reindex(archive), table(archive, "objects"), table(archive, "tiles")
    told: list[object] = []
    assert (
        reindex(archive, workers=2, on_start=told.append, on_tile=told.append),
        table(archive, "objects"),
        table(archive, "tiles"),
    ) == alone
    assert told == [2, B, A]


def test_reindex_keeps_the_archives_settings_and_leaves_out_an_unfinished_rebuild(place: Path, archive: Path) -> None:
    with h5py.File(shard(archive)) as file:
        recipe = json.loads(file.attrs["recipe"])
    recipe["quality"]["max_blank_fraction"] = 0.9
    copy_as(archive, A, 2, recipe=np.bytes_(json.dumps(recipe, sort_keys=True)))
    report = reindex(archive)
    assert report.left_out == {f"{A}.2.h5": "was built with other settings than most"}
    assert owners(archive) == owners(place / "archive")
    assert settings_of(archive) == settings_of(place / "archive")


def test_reindex_of_shards_with_a_common_object_leaves_one_out_and_names_it(archive: Path) -> None:
    path = archive / "shards/T.1.h5"
    shutil.copy(shard(archive), path)
    with h5py.File(path, "r+") as file:
        del file.attrs["tile"]
        file.attrs["tile"] = np.bytes_("T")
    report = reindex(archive)
    assert list(report.left_out) == ["T.1.h5"]
    assert re.search(rf"object \d+ of tile T belongs to tile {A} already", report.left_out["T.1.h5"])


def test_reindex_without_readable_shards_is_refused_and_keeps_the_index(archive: Path, tmp_path: Path) -> None:
    before = (archive / "index.sqlite").read_bytes()
    for tile in (A, B):
        shard(archive, tile).write_bytes(b"garbage")
    with pytest.raises(ArchiveError, match="none of its shards can be read"):
        reindex(archive)
    assert (archive / "index.sqlite").read_bytes() == before
    with pytest.raises(NoArchiveError):
        reindex(tmp_path)


def test_open_readers_switch_to_the_new_index(archive: Path) -> None:
    with Archive(archive) as opened:
        n = next(n for n, _, _, status in owners(archive) if status == 0)
        before = opened.get(n).data
        reindex(archive)
        np.testing.assert_array_equal(opened.get(n).data, before)
