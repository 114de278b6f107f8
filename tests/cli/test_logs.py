"""``-q``, ``-v`` and ``--log-json`` of long-running commands."""

from __future__ import annotations

import json
import logging
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from helpers import run

from archive_builder.cli.logs import JsonHandler


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_build_logs_every_tile(demo_survey: Path, tmp_path: Path) -> None:
    started, recipe, log = datetime.now(UTC), demo_survey / "survey.toml", tmp_path / "log.jsonl"
    names = {path.name for path in demo_survey.glob("DEM*")}
    report = run("build", recipe, tmp_path / "archive", "--workers", 1, "-v", "--log-json", log, "--json")
    assert report.exit_code == 0, report.stderr
    stored = json.loads(report.stdout)["stored"]

    lines = lines_of(log)
    for line in lines:
        assert list(line)[:4] == ["time", "level", "logger", "message"]
        assert started - timedelta(seconds=1) <= datetime.fromisoformat(line["time"]) <= datetime.now(UTC)
        assert line["level"] == "INFO"
        assert line["logger"].startswith("archive_builder.")
    assert lines[0]["message"] == "2 tiles to build (2 new), 0 unchanged"
    assert [line["workers"] for line in lines if "workers" in line] == [1]
    assert {line["message"] for line in lines if line["message"].endswith(" starts")} == {
        f"tile {name} starts" for name in names
    }
    done = [line for line in lines if "tile" in line]
    assert {line["tile"] for line in done} == names
    assert sum(line["stored"] for line in done) == stored
    assert all(line["seconds"] > 0 for line in done)
    assert lines[-1]["built"] == 2
    assert report.stderr.splitlines() == [line["message"] for line in lines]

    quiet = run("build", recipe, tmp_path / "archive", "-q", "--log-json", log)
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    assert quiet.stdout == "0 tiles built, 2 unchanged, 0 failed\n"
    assert lines_of(log)[: len(lines)] == lines
    assert lines_of(log)[-1]["built"] == 0


@pytest.mark.parametrize("verbosity", ["-q", "-v", None])
def test_failed_tile_is_one_error_line_at_every_verbosity(
    verbosity: str | None, survey_copy: Path, tmp_path: Path
) -> None:
    image = min(survey_copy.glob("*/*_i.fits.fz"))
    image.write_bytes(image.read_bytes()[:20_000])
    tile, log = image.parent.name, tmp_path / "log.jsonl"
    options = [verbosity] if verbosity else []
    result = run(
        "build", survey_copy / "survey.toml", tmp_path / "archive", "--workers", 1, "--log-json", log, *options
    )
    assert result.exit_code == 1
    assert [line.startswith(f"error: tile {tile}: ") for line in result.stderr.splitlines()].count(True) == 1
    assert result.stderr.splitlines()[-1].startswith(f"error: tile {tile}: ")
    if verbosity == "-q":
        assert result.stderr.count("\n") == 1
    (failed,) = [line for line in lines_of(log) if line["level"] == "ERROR"]
    assert failed["tile"] == tile
    assert failed["message"].startswith(f"tile {tile}: failed: ")


@pytest.mark.parametrize("command", ["plan", "verify", "reindex", "export"])
def test_other_long_commands_have_the_same_options(
    command: str, demo_survey: Path, demo_archive: Path, tmp_path: Path
) -> None:
    archive = shutil.copytree(demo_archive, tmp_path / "archive")
    wanted = tmp_path / "list.csv"
    wanted.write_text("ID\n1\n")
    arguments: dict[str, list[object]] = {
        "plan": [demo_survey / "survey.toml", "--sample", 1],
        "verify": [archive, "--workers", 1],
        "reindex": [archive, "--workers", 1],
        "export": [archive, wanted, "-o", tmp_path / "out"],
    }
    status = 1 if command == "export" else 0  # the list names an unknown object
    log = tmp_path / "log.jsonl"
    told = run(command, *arguments[command], "-v", "--log-json", log, "--json")
    assert told.exit_code == status, told.stderr
    assert len(lines_of(log)) >= 1
    messages = [line["message"] for line in lines_of(log) if line["level"] == "INFO"]
    assert [line for line in told.stderr.splitlines() if not line.startswith("error: ")] == messages
    quiet = run(command, *arguments[command], "-q", "--json")
    assert (quiet.exit_code, quiet.stderr.count("\n")) == (status, status)
    assert type(json.loads(quiet.stdout)) is (list if command == "verify" else dict)


def test_error_that_ends_a_command_is_logged_and_printed_once(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    failed = run("verify", tmp_path, "-v", "--log-json", log)
    assert failed.exit_code == 2
    (line,) = lines_of(log)
    assert failed.stderr == f"error: {line['message']}\n"
    assert line["level"] == "ERROR"


def test_quiet_and_verbose_exclude_each_other(tmp_path: Path) -> None:
    wrong = run("verify", tmp_path, "-q", "-v")
    assert wrong.exit_code == 2
    assert "give -q or -v, not both" in wrong.stderr


def test_log_that_cannot_be_opened_is_a_wrong_request(demo_archive: Path, tmp_path: Path) -> None:
    wrong = run("verify", demo_archive, "--log-json", tmp_path)
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert wrong.stderr == f"error: log {tmp_path}: cannot be written (Is a directory): give another file\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_full_disk_ends_the_log_but_not_the_command(demo_archive: Path) -> None:
    result = run("verify", demo_archive, "--workers", 1, "--log-json", "/dev/full")
    assert (result.exit_code, result.stdout) == (0, "all is well\n")
    assert result.stderr == "warning: log /dev/full: ends here: cannot be written (No space left on device)\n"


def test_handlers_are_removed_after_the_command(demo_archive: Path, tmp_path: Path) -> None:
    package = logging.getLogger("archive_builder")
    before = package.level, list(package.handlers)
    assert any(isinstance(handler, logging.NullHandler) for handler in package.handlers)
    assert run("verify", demo_archive, "--workers", 1, "-v", "--log-json", tmp_path / "log").exit_code == 0
    assert (package.level, package.handlers) == before


def test_log_accepts_any_value_as_a_field(tmp_path: Path) -> None:
    handler = JsonHandler(tmp_path / "log")
    log = logging.getLogger("a test of its own")
    log.addHandler(handler)
    try:
        log.warning("%s\n%s", "two", "lines", extra={"path": tmp_path})
    finally:
        log.removeHandler(handler)
        handler.close()
    (line,) = lines_of(tmp_path / "log")
    assert (line["message"], line["path"]) == ("two\nlines", str(tmp_path))
