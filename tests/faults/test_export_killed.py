"""Killed exports: every file is whole, and a repeat gives the tree of an uninterrupted export."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import tree

COMMAND = (sys.executable, "-c", "from archive_builder.cli.main import main; main()", "export")
KILLS = 3


def start(archive: Path, path: Path, folder: Path, options: list[str]) -> subprocess.Popen[bytes]:
    """Start an export in its own process group."""
    command = [*COMMAND, str(archive), str(path), "-o", str(folder), "--workers", "2", *options]
    return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def names(folder: Path) -> set[Path]:
    return set(folder.rglob("*/*")) | set(folder.glob("*.tar*")) | set(folder.glob(".*.tar*"))


def wait_for_news(folder: Path, before: set[Path], process: subprocess.Popen[bytes]) -> None:
    """Wait until an export has made a new file or has ended."""
    while names(folder) == before and process.poll() is None:
        time.sleep(0.005)


@pytest.fixture(scope="module")
def long_list(demo_archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A list of about 1,300 cutouts: each object at many sizes, with a few unknown objects."""
    with sqlite3.connect(demo_archive / "index.sqlite") as index:
        ids = [row[0] for row in index.execute("SELECT object_id FROM objects")]
    rows = [f"{object_id},{side / 100}" for side in range(5, 17) for object_id in [*ids, 17]]
    random.Random(3).shuffle(rows)
    path = tmp_path_factory.mktemp("long") / "list.csv"
    path.write_text("\n".join(["ID,XSIZE", *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    "options", [["--format", "npy", "--format", "fits"], ["--pack", "webdataset"]], ids=["files", "webdataset"]
)
def test_an_export_killed_at_any_instant_and_repeated_has_the_same_bytes(
    demo_archive: Path, long_list: Path, tmp_path: Path, options: list[str]
) -> None:
    undisturbed = start(demo_archive, long_list, tmp_path / "peace", options)
    wait_for_news(tmp_path / "peace", set(), undisturbed)
    began = time.monotonic()
    assert undisturbed.wait() == 1  # the list has an unknown object
    lasted = time.monotonic() - began
    peace = tree(tmp_path / "peace")
    assert len(peace) > 3

    chance, folder, cut_short = random.Random(), tmp_path / "war", 0
    for _ in range(KILLS):
        before = names(folder)
        process = start(demo_archive, long_list, folder, options)
        wait_for_news(folder, before, process)
        time.sleep(chance.uniform(0, lasted / KILLS))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        there = {name: content for name, content in tree(folder).items() if not name.endswith(".part")}
        assert there.items() <= peace.items()
        cut_short += "manifest.csv" not in there
    assert cut_short
    assert start(demo_archive, long_list, folder, options).wait() == 1
    assert tree(folder) == peace


def test_a_killed_worker_fails_its_rows_and_a_repeat_serves_them(
    demo_archive: Path, long_list: Path, tmp_path: Path, workers_of: Callable[[int], list[int]]
) -> None:
    folder = tmp_path / "out"
    process = start(demo_archive, long_list, folder, ["--format", "npy"])
    wait_for_news(folder, set(), process)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    assert process.wait() == 1
    assert not [name for name in tree(folder) if name.endswith(".part")]
    manifest = (folder / "manifest.csv").read_text()
    assert "the worker process died" in manifest
    assert len(manifest.splitlines()) == len(long_list.read_text().splitlines())
    assert start(demo_archive, long_list, folder, ["--format", "npy"]).wait() == 1
    again = (folder / "manifest.csv").read_text()
    assert "died" not in again
    assert not [name for name in tree(folder) if name.endswith(".part")]
    peace = tmp_path / "peace"
    assert start(demo_archive, long_list, peace, ["--format", "npy"]).wait() == 1
    assert tree(folder) == tree(peace)
