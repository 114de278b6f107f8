"""A build of overlapping tiles that is killed and continued ends as an undisturbed build."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import execute
from overlaps import RECIPE, Rows, write_catalog, write_image

from archive_builder.builder.driver import build
from archive_builder.maintain.verify import verify

FULL = os.environ.get("ARCHIVE_BUILDER_FAULTS") == "full"

KILLS = 8 if FULL else 2
"""Number of killed builds, of a new archive and of a changed one in turn."""

LASTS = 3.0
"""Time of a build on an idle machine, s."""


def rows_of(version: int) -> dict[str, Rows]:
    """Return catalogues of four tiles with many shared IDs, which lie elsewhere in each version."""
    rng = np.random.default_rng(version)
    place = {n: (float(rng.uniform(0, 287)), float(rng.uniform(0, 95))) for n in range(60)}
    return {
        name: [(n, *xy) for n, xy in place.items() if 64 * k - 8 < xy[0] < 64 * k + 104]
        for k, name in enumerate("ABCD")
    }


def write(survey: Path, version: int, names: str = "ABCD") -> None:
    for name, rows in rows_of(version).items():
        if name in names:
            write_catalog(survey, name, rows)


def state(archive: Path) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """Return all places of the index, after a check of the whole archive."""
    assert list(verify(archive, deep=True)) == []
    return (
        execute(archive, "SELECT object_id, name, row, status FROM objects JOIN tiles USING (tile_id) ORDER BY 1"),
        execute(archive, "SELECT object_id, name FROM elsewhere JOIN tiles USING (tile_id) ORDER BY 1, 2"),
    )


@pytest.mark.parametrize("shared", [False, True])
def test_a_killed_and_continued_build_ends_as_an_undisturbed_one(tmp_path: Path, shared: bool) -> None:
    survey, chance, killed = tmp_path / "survey", random.Random(), 0
    survey.mkdir()
    (survey / "survey.toml").write_text(RECIPE.replace("{tile}.csv", "all.csv") if shared else RECIPE)
    for place, name in enumerate("ABCD"):
        write_image(survey, name, place)
    if shared:
        write_catalog(survey, "all", [row for rows in rows_of(0).values() for row in rows])
    else:
        write(survey, 0)
    build(survey / "survey.toml", tmp_path / "before")
    # Each change moves many objects between the tiles.
    if shared:
        write_image(survey, "B", 1.25)
    else:
        write(survey, 1, "BC")
    build(survey / "survey.toml", tmp_path / "after")
    for number in range(KILLS):
        archive = tmp_path / f"killed{number}"
        if number % 2:
            shutil.copytree(tmp_path / "before", archive)
        command = [sys.executable, "-m", "archive_builder", "build", survey / "survey.toml", archive, "--workers", "2"]
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(chance.uniform(0.2, LASTS if number else 0.6))  # the first build cannot end before
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert build(survey / "survey.toml", archive, workers=2).failures == {}
        assert state(archive) == state(tmp_path / "after")
        assert {path.name for path in archive.iterdir()} == {"build.lock", "index.sqlite", "shards"}
    assert killed > 0
