"""A small survey and its archive, made once, for all tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import settings

from archive_builder.build.builder import build
from archive_builder.survey.demo import make_survey

# Machines are shared: no example may fail for being slow.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


@pytest.fixture(scope="session")
def demo_survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a survey of two tiles with 60 objects each, some in noise or over the hole; not to be changed."""
    folder = tmp_path_factory.mktemp("demo") / "survey"
    make_survey(folder, tiles=2, tile_size=500, objects=60, seed=2)
    return folder


@pytest.fixture(scope="session")
def demo_archive(demo_survey: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the archive of `demo_survey`; not to be changed."""
    archive = tmp_path_factory.mktemp("demo") / "archive"
    report = build(demo_survey / "survey.toml", archive, workers=1)
    assert (report.built, report.failures) == (2, {})
    return archive


@pytest.fixture
def survey_copy(demo_survey: Path, tmp_path: Path) -> Path:
    """Folder of a copy of `demo_survey` for one test to change."""
    return Path(shutil.copytree(demo_survey, tmp_path / "survey"))
