"""Shared fixtures: a small survey and its archive, made once."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import settings

from archive_builder.builder.driver import build
from archive_builder.maintain.verify import verify
from archive_builder.survey.demo import make_survey

assert hdf5plugin.version  # importing hdf5plugin registers Bitshuffle with h5py

# Machines are shared: an example must not fail for being slow.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

# Builds share the machine too: one worker by default.
os.environ["SLURM_CPUS_PER_TASK"] = "1"


def workers_of(pid: int) -> list[int]:
    """Return the worker processes of a command in the order of their start, from /proc."""
    workers = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # the process has ended
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                workers.append(int(child))
    return workers


def start_held_build(*arguments: object, workers: int) -> subprocess.Popen[bytes]:
    """Start a build, and stop its last worker before that worker has read its tile: the build runs until it is killed.

    Each worker has one tile, in the order of the tiles' names.
    """
    program = "from archive_builder.cli.main import main; main()"
    command = [sys.executable, "-c", program, "build", "--workers", str(workers), *map(str, arguments)]
    process = subprocess.Popen(command, start_new_session=True)
    while len(found := workers_of(process.pid)) < workers:
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(found[-1], signal.SIGSTOP)
    return process


@pytest.fixture(scope="session")
def held_build() -> Callable[..., subprocess.Popen[bytes]]:
    """Starts a build that runs until it is killed; see `start_held_build`."""
    return start_held_build


@pytest.fixture(scope="session", name="workers_of")
def workers_of_fixture() -> Callable[[int], list[int]]:
    """Returns the worker processes of a command."""
    return workers_of


@pytest.fixture(scope="session")
def demo_survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a survey of two tiles with 60 objects each, some in noise or over the hole. Do not change it."""
    folder = tmp_path_factory.mktemp("demo") / "survey"
    make_survey(folder, tiles=2, tile_size=500, objects=60, seed=2)
    return folder


@pytest.fixture(scope="session")
def demo_archive(demo_survey: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the archive of `demo_survey`. Do not change it."""
    archive = tmp_path_factory.mktemp("demo") / "archive"
    report = build(demo_survey / "survey.toml", archive, workers=1)
    assert (report.built, report.failures) == (2, {})
    # Tests loop over these objects, stored and skipped: the loops must not be empty.
    assert report.stored + sum(report.skipped.values()) == 120
    assert min(report.stored, report.skipped["noise"], report.skipped["blank"]) > 0
    return archive


@pytest.fixture
def survey_copy(demo_survey: Path, tmp_path: Path) -> Path:
    """Folder of a copy of `demo_survey` that the test may change."""
    return Path(shutil.copytree(demo_survey, tmp_path / "survey"))


@pytest.fixture(scope="session")
def same_archives() -> Callable[[Path, Path], None]:
    """Return a function that asserts that an archive is whole and equal to another in every value."""
    return assert_same_archives


def assert_same_archives(archive: Path, other: Path) -> None:
    assert list(verify(archive, deep=True)) == []
    rows = _rows(archive)
    assert rows
    assert rows == _rows(other)
    names = sorted(os.listdir(archive / "shards"))
    assert names
    assert names == sorted(os.listdir(other / "shards"))
    for name in names:
        here, there = _contents(archive / "shards" / name), _contents(other / "shards" / name)
        assert {"cutouts", "objects/object_id", "@tile"} <= here.keys()
        assert here.keys() == there.keys()
        for key in here:
            np.testing.assert_array_equal(here[key], there[key], err_msg=f"{name} {key}")


def _rows(archive: Path) -> dict[int, Any]:
    """Return tile, row and status of every object in the index."""
    question = "SELECT object_id, name, row, status FROM objects JOIN tiles USING (tile_id)"
    with closing(sqlite3.connect(archive / "index.sqlite")) as index:
        return {object_id: where for object_id, *where in index.execute(question)}


def _contents(shard: Path) -> dict[str, Any]:
    """Return all datasets and attributes of a shard."""
    found: dict[str, Any] = {}
    with h5py.File(shard) as file:
        file.visititems(lambda name, item: found.update({name: item[...]} if isinstance(item, h5py.Dataset) else {}))
        return found | {f"@{name}": np.asarray(value) for name, value in file.attrs.items()}
