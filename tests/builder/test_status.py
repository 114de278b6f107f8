"""Status of an archive and of a running build, compared with the shards, SQLite and the process."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits
from helpers import execute, run

from archive_builder.builder.driver import build
from archive_builder.builder.lock import BuildLock, holder_of
from archive_builder.builder.status import archive_status
from archive_builder.errors import ArchiveError, DamagedIndexError
from archive_builder.survey.demo import make_survey

HOST = socket.gethostname()


def told(archive: Path) -> dict:
    return json.loads(run("status", archive, "--json").stdout)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a survey of two small tiles in two bands, with some skipped objects, and its archive."""
    folder = tmp_path_factory.mktemp("status")
    recipe = make_survey(folder / "survey", tiles=2, tile_size=400, objects=40, seed=2)
    lines = [line for line in recipe.read_text().splitlines() if not line.startswith("color ")]
    recipe.write_text("\n".join('bands = ["r", "i"]' if line.startswith("bands ") else line for line in lines))
    assert build(recipe, folder / "archive", workers=2).built == 2
    return folder


@pytest.fixture
def archive(place: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(place / "archive", tmp_path / "archive"))


# ---- contents


def test_counts_and_depth_equal_those_of_the_shards(place: Path) -> None:
    stored, reasons, depth = 0, dict.fromkeys(range(1, 6), 0), []
    for path in (place / "archive/shards").glob("*.h5"):
        with h5py.File(path) as shard:
            stored += len(shard["objects/object_id"])
            for reason in shard["skipped/reason"][...].tolist():
                reasons[reason] += 1
            rms = np.concatenate([shard["objects/rms"][...], shard["skipped/rms"][...]])
            area = math.pi * (1.95 / 2 / shard.attrs["pixel_scale"]) ** 2
            depth.append(30.0 - 2.5 * np.log10(5 * np.nanmedian(rms, axis=0) * math.sqrt(area)))
    answer = told(place / "archive")
    assert answer["stored"] == stored
    names = ("noise", "blank", "outside", "position", "elsewhere")
    assert answer["skipped_for"] == {**dict(zip(names, reasons.values(), strict=True)), "id": 0}
    assert 0 < answer["skipped"] == sum(reasons.values())
    np.testing.assert_allclose([answer["depth"][band] for band in "ri"], np.median(depth, axis=0), atol=1e-3)


def test_depth_agrees_with_the_noise_of_the_images(place: Path) -> None:
    """Compare with the noise of the images, measured without this package."""
    answer = told(place / "archive")
    for band in "ri":
        differences = []
        for path in sorted((place / "survey").glob(f"*/*_{band}.fits.fz")):
            image = fits.getdata(path, "SCI").astype(float)
            steps = (image[:, 4:] - image[:, :-4])[:, ::2]  # 4 px apart, so independent
            spread = np.nanpercentile(steps, [16, 84])
            differences.append((spread[1] - spread[0]) / 2 / math.sqrt(2))
        rough = 30.0 - 2.5 * math.log10(5 * np.mean(differences) * math.sqrt(math.pi) * 1.95 / 2 / 0.263)
        assert answer["depth"][band] == pytest.approx(rough, abs=0.35)


def test_status_does_not_read_the_objects(archive: Path) -> None:
    before = archive_status(archive)
    execute(archive, "DELETE FROM objects")
    assert archive_status(archive) == before


def test_status_shows_a_finished_build_with_its_speed(place: Path) -> None:
    state = told(place / "archive")["build"]
    counts = {key: state[key] for key in ("state", "rebuild", "planned", "built", "failed", "left")}
    assert counts == {
        "state": "finished",
        "rebuild": False,
        "planned": 2,
        "built": 2,
        "failed": 0,
        "left": 0,
    }
    assert state["seconds_left"] is None
    if state["seconds"]:
        assert state["objects_per_second"] == pytest.approx(80 / state["seconds"])
        assert state["tiles_per_hour"] == pytest.approx(7200 / state["seconds"])


def test_build_without_work_is_not_recorded_as_the_last_build(place: Path, archive: Path) -> None:
    before = archive_status(archive).build
    assert build(place / "survey/survey.toml", archive).unchanged == 2
    assert archive_status(archive).build == before


def test_status_names_failures_and_the_slowest_tiles(place: Path, tmp_path: Path) -> None:
    survey = Path(shutil.copytree(place / "survey", tmp_path / "survey"))
    bad = sorted(path.name for path in survey.iterdir() if path.is_dir())[0]
    next(survey.glob(f"{bad}/*_r.fits.fz")).unlink()
    archive = tmp_path / "archive"
    report = build(survey / "survey.toml", archive)
    status = archive_status(archive)
    assert status.failures == report.failures
    assert (status.build.built, status.build.failed, status.build.left) == (1, 1, 0)
    ((good, seconds),) = execute(archive, "SELECT name, seconds FROM tiles WHERE state = 'built'")
    assert status.slowest == {good: seconds}
    lines = run("status", archive).stdout.splitlines()
    assert lines[0] == "Demo: 1 tiles built, 1 failed"
    assert lines[-1] == f"tile {bad} failed: {report.failures[bad]}"
    assert any(line.startswith(f"slowest: {good} ") for line in lines)


def test_status_after_reindex_is_the_same_except_for_the_builds(place: Path, archive: Path) -> None:
    (archive / "index.sqlite").unlink()
    assert run("reindex", archive).exit_code == 0
    old, new = told(place / "archive"), told(archive)
    assert new["build"] is None
    assert new["slowest"] == {}
    for key in ("built", "stored", "skipped", "skipped_for", "bytes", "depth", "failures"):
        assert new[key] == old[key]


def test_index_of_an_older_version_is_refused_and_reindex_repairs_it(place: Path, archive: Path) -> None:
    execute(archive, "ALTER TABLE tiles DROP COLUMN depth")
    result = run("status", archive)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.endswith("reindex the archive\n")
    assert run("reindex", archive).exit_code == 0
    assert told(archive)["depth"] == told(place / "archive")["depth"]


@pytest.mark.parametrize(
    "change",
    [
        "skipped_for = '{}'",
        'skipped_for = \'{"noise": -1, "blank": 0, "outside": 0}\'',
        "skipped_for = NULL",
        "depth = '[1]'",
        "depth = '{\"r\": NaN}'",
        f"depth = '{{\"r\": 1{'0' * 5000}}}'",
        "seconds = 'long'",
        "built_at = 'yesterday'",
        "built_at = '2026-01-01T00:00:00'",
        "build_id = 'last'",
    ],
)
def test_invalid_values_of_a_tile_are_an_error_on_one_line(archive: Path, change: str) -> None:
    execute(archive, f"UPDATE tiles SET {change}")
    with pytest.raises(DamagedIndexError, match="reindex the archive"):
        archive_status(archive)
    assert run("status", archive).stderr.count("\n") == 1


@pytest.mark.parametrize(
    "change", ["started = 'then'", "started = '2026-01-01'", "finished = 7", "planned = -1", "planned = 'all'"]
)
def test_invalid_values_of_a_build_are_an_error(archive: Path, change: str) -> None:
    execute(archive, f"UPDATE builds SET {change}")
    with pytest.raises(DamagedIndexError, match="reindex the archive"):
        archive_status(archive)


# ---- a running build


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("the condition never became true")


@pytest.fixture
def at_work(
    place: Path, tmp_path: Path, held_build: Callable[..., subprocess.Popen[bytes]]
) -> Iterator[tuple[subprocess.Popen[bytes], Path, Path]]:
    """A running build with one of two tiles built; the worker of the other tile is stopped."""
    survey, archive = Path(shutil.copytree(place / "survey", tmp_path / "survey")), tmp_path / "archive"
    process = held_build(survey / "survey.toml", archive, workers=2)
    wait_for(lambda: (archive / "index.sqlite").is_file() and execute(archive, "SELECT * FROM tiles"))
    yield process, archive, survey
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_status_shows_the_process_and_the_remaining_work_of_a_running_build(
    at_work: tuple[subprocess.Popen[bytes], Path, Path],
) -> None:
    process, archive, _ = at_work
    wait_for(lambda: archive_status(archive).build.seconds >= 1)
    status = archive_status(archive)
    assert (status.lock.host, status.lock.pid, status.lock.alive) == (HOST, process.pid, True)
    state = status.build
    assert (state.state, state.planned, state.built, state.failed, state.left) == ("at work", 2, 1, 0, 1)
    assert state.objects_per_second == pytest.approx(40 / state.seconds)
    assert state.seconds_left == pytest.approx(state.seconds)  # the second tile takes as long as the first
    text = run("status", archive).stdout
    assert f"a build is running: process {process.pid} on {HOST} since {status.lock.since}\n" in text
    assert "  2 tiles to build: 1 built, 0 failed, 1 left (" in text
    assert process.poll() is None


def test_status_shows_a_killed_build_as_interrupted_and_the_next_as_finished(
    at_work: tuple[subprocess.Popen[bytes], Path, Path],
) -> None:
    process, archive, survey = at_work
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    status = archive_status(archive)
    assert status.lock.alive is False
    assert (status.build.state, status.build.left, status.build.seconds_left) == ("interrupted", 1, None)
    assert "build again with the same recipe to continue" in run("status", archive).stdout
    assert build(survey / "survey.toml", archive).built == 1
    status = archive_status(archive)
    assert (status.lock, status.build.state, status.build.planned, status.build.left) == (None, "finished", 1, 0)


def test_status_shows_an_unfinished_rebuild_and_the_unchanged_archive(
    place: Path, archive: Path, tmp_path: Path
) -> None:
    survey = Path(shutil.copytree(place / "survey", tmp_path / "survey"))
    recipe = survey / "survey.toml"
    recipe.write_text(recipe.read_text().replace("quantization = 16", "quantization = 4"))
    catalog = next(survey.glob("*/*_cat.fits"))
    catalog.write_bytes(b"")
    with pytest.raises(ArchiveError, match="is unchanged"):
        build(recipe, archive, force=True)
    status = archive_status(archive)
    assert (status.built, status.stored) == (2, archive_status(place / "archive").stored)
    assert status.failures.keys() == {catalog.parent.name}
    assert (status.build.rebuild, status.build.built, status.build.failed) == (True, 1, 1)
    assert "build again with the same recipe and --force to continue" in run("status", archive).stdout


# ---- the lock


def test_a_free_missing_or_invalid_lock_has_no_holder(archive: Path, tmp_path: Path) -> None:
    assert holder_of(archive) is None
    assert holder_of(tmp_path) is None
    for strange in (b"[]", b"{", b'{"host": 1, "pid": 2, "since": "3"}', b'{"host": "h", "pid": -1, "since": "s"}'):
        (archive / "build.lock").write_bytes(strange)
        assert holder_of(archive) is None


def test_another_process_with_the_pid_of_a_dead_build_is_not_the_holder(archive: Path) -> None:
    said = {"host": HOST, "pid": os.getpid(), "since": "2026-01-01T00:00:00+00:00"}
    (archive / "build.lock").write_text(json.dumps(said))
    assert holder_of(archive).alive is False
    with BuildLock(archive):  # the query does not keep the lock
        assert holder_of(archive).alive is True


def test_lock_of_another_host_is_reported(archive: Path) -> None:
    said = {"host": "elsewhere.example", "pid": 1, "since": "2026-01-01T00:00:00+00:00"}
    (archive / "build.lock").write_text(json.dumps(said))
    execute(archive, "UPDATE builds SET finished = NULL")
    status = archive_status(archive)
    assert (status.lock.alive, status.build.state) == (None, "at work")
    assert (
        "is running: process 1 on elsewhere.example since 2026-01-01T00:00:00+00:00, according to its lock"
        in run("status", archive).stdout
    )
