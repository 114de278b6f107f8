"""Whole rebuilds with other settings: conditions for their continuation, and their dry runs."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from archive_builder.builder.driver import build, plan_changes
from archive_builder.builder.memory import Load
from archive_builder.errors import ArchiveError
from archive_builder.maintain.reindex import reindex
from archive_builder.maintain.repair import repair
from archive_builder.maintain.verify import verify


@pytest.fixture
def archive(demo_archive: Path, tmp_path: Path) -> Path:
    """Copy of the archive that the test may change."""
    return Path(shutil.copytree(demo_archive, tmp_path / "archive"))


def with_other_settings(survey: Path) -> Path:
    recipe = survey / "survey.toml"
    text = recipe.read_text()
    assert text.count("quantization = 16") == 1
    recipe.write_text(text.replace("quantization = 16", "quantization = 4"))
    return recipe


def interrupt_rebuild(recipe: Path, archive: Path, broken: str) -> None:
    """Leave an unfinished whole rebuild with one failed tile, then restore the survey."""
    (catalog,) = recipe.parent.glob(f"{broken}/*_cat.fits")
    content = catalog.read_bytes()
    catalog.write_bytes(b"no catalogue")
    with pytest.raises(ArchiveError, match=rf"is unchanged: 1 of its tiles .*\({broken}: "):
        build(recipe, archive, force=True)
    catalog.write_bytes(content)


def tile_states(index: Path) -> dict[str, str]:
    """Return each tile's state, from SQLite."""
    with closing(sqlite3.connect(index)) as connection:
        return dict(connection.execute("SELECT name, state FROM tiles"))


def test_unfinished_rebuild_in_another_format_is_not_continued(survey_copy: Path, archive: Path) -> None:
    recipe, broken = with_other_settings(survey_copy), min(tile_states(archive / "index.sqlite"))
    interrupt_rebuild(recipe, archive, broken)
    assert sorted(tile_states(archive / "index.next.sqlite").values()) == ["built", "failed"]
    assert len(plan_changes(recipe, archive, force=True).tasks) == 1
    with closing(sqlite3.connect(archive / "index.next.sqlite")) as connection, connection:
        assert connection.execute("UPDATE settings SET value = '0' WHERE key = 'format_version'").rowcount == 1
    assert [task.reason for task in plan_changes(recipe, archive, force=True).tasks] == ["new", "new"]
    report = build(recipe, archive, force=True)
    assert (report.built, report.unchanged, report.failures) == (2, 0, {})
    assert list(verify(archive, deep=True)) == []


def test_tile_only_in_the_rebuild_and_missing_from_the_survey_is_reported_and_kept(
    survey_copy: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    old, new = sorted(path.name for path in survey_copy.iterdir() if path.is_dir())
    assert build(survey_copy / "survey.toml", archive, tiles=[old]).built == 1
    recipe = with_other_settings(survey_copy)
    interrupt_rebuild(recipe, archive, old)
    shutil.rmtree(survey_copy / new)
    assert plan_changes(recipe, archive, force=True).gone == (new,)
    report = build(recipe, archive, force=True)
    assert (report.built, report.gone, report.pruned) == (1, (new,), False)
    assert tile_states(archive / "index.sqlite") == {old: "built", new: "built"}
    assert list(verify(archive, deep=True)) == []


def test_unfinished_index_and_its_journal_are_removed_and_no_other_journal(demo_survey: Path, archive: Path) -> None:
    unfinished = archive / ".index.sqlite.0123456789abcdef.99.part"
    journal, foreign = archive / f"{unfinished.name}-journal", archive / "notes-journal"
    for path in (unfinished, journal, foreign):
        path.write_bytes(b"x")
    assert build(demo_survey / "survey.toml", archive).unchanged == 2
    assert [path.exists() for path in (unfinished, journal, foreign)] == [False, False, True]


# ---- paths and workers


def test_paths_may_be_text_and_the_default_is_one_worker_per_cpu(
    demo_survey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    loads: list[Load] = []
    recipe, archive = str(demo_survey / "survey.toml"), str(tmp_path / "archive")
    assert len(plan_changes(recipe, archive).tasks) == 2
    assert build(recipe, archive, memory=2 * 10**9, on_load=loads.append).built == 2
    assert [load.workers for load in loads] == [min(2, len(os.sched_getaffinity(0)))]
    assert reindex(archive).tiles == 2
    findings = list(verify(archive, deep=True, survey=recipe))
    assert findings == []
    report = repair(archive, findings, recipe)
    assert report is not None
    assert (report.built, report.unchanged) == (0, 2)
