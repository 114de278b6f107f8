"""Ctrl-C: one line that says how to continue, exit status 130, and a whole archive."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from archive_builder.cli import checking
from archive_builder.cli.main import main
from archive_builder.survey.demo import make_survey

CONTINUES = "interrupted: run the same command again to continue from here"


def interrupt(arguments: list[object], ready: Callable[[], bool]) -> tuple[int, str, str]:
    """Run a command and press Ctrl-C when ``ready`` is true; return exit status, stdout and stderr."""
    process = subprocess.Popen(
        [sys.executable, "-m", "archive_builder", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A background shell ignores Ctrl-C, and its child processes inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    while not ready():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    stdout, stderr = process.communicate()
    return process.returncode, stdout, stderr


def messages(log: Path) -> list[str]:
    text = log.read_text(encoding="utf-8") if log.exists() else ""
    return [json.loads(line)["message"] for line in text.splitlines(keepends=True) if line.endswith("\n")]


def test_interrupted_build_prints_how_to_continue_and_continues(
    tmp_path: Path, same_archives: Callable[[Path, Path], None]
) -> None:
    recipe = make_survey(tmp_path / "survey", tiles=3, tile_size=400, objects=30, seed=5)
    log, archive = tmp_path / "log", tmp_path / "archive"
    command: list[object] = ["build", recipe, archive, "--workers", 1, "--log-json", log]
    status, stdout, stderr = interrupt(command, lambda: any("stored" in message for message in messages(log)))
    assert (status, stdout) == (130, "")
    assert stderr.splitlines()[-1] == CONTINUES
    assert "Traceback" not in stderr
    assert messages(log)[-1] == "interrupted"
    done = sum("stored" in message for message in messages(log))
    assert done >= 1

    again = CliRunner().invoke(main, [str(argument) for argument in [*command[:5], "--json"]])
    assert again.exit_code == 0, again.stderr
    report = json.loads(again.stdout)
    assert report["built"] + report["unchanged"] == 3
    assert report["unchanged"] >= done
    whole = tmp_path / "whole"
    assert CliRunner().invoke(main, ["build", str(recipe), str(whole)]).exit_code == 0
    same_archives(archive, whole)


def test_interrupted_export_prints_how_to_continue_and_continues(demo_archive: Path, tmp_path: Path) -> None:
    from archive_builder import Archive

    with Archive(demo_archive) as archive:
        ids = next(archive.batches(size=8)).object_id.tolist()
    wanted, out = tmp_path / "list.csv", tmp_path / "out"
    wanted.write_text("\n".join(["ID", *map(str, ids)]))
    command: list[object] = ["export", demo_archive, wanted, "-o", out, "--format", "png", "--size", 200]
    status, stdout, stderr = interrupt(command, lambda: any(out.rglob("*.png")))
    assert (status, stdout) == (130, "")
    assert stderr.splitlines()[-1] == CONTINUES
    assert "Traceback" not in stderr
    assert not (out / "manifest.csv").exists()

    again = CliRunner().invoke(main, [str(argument) for argument in [*command, "--json"]])
    assert again.exit_code == 0, again.stderr
    report = json.loads(again.stdout)
    assert report["done"] == len(ids)
    assert report["kept"] >= 1


def test_interrupted_plan_leaves_no_files(demo_survey: Path, tmp_path: Path) -> None:
    work, log = tmp_path / "work", tmp_path / "log"
    work.mkdir()
    command: list[object] = ["plan", demo_survey / "survey.toml", "--work", work, "--log-json", log]
    status, stdout, stderr = interrupt(command, lambda: any(work.iterdir()))
    assert (status, stdout) == (130, "")
    assert stderr.splitlines()[-1] == "interrupted: nothing was changed"
    assert list(work.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [([], "interrupted: nothing was changed"), (["--repair"], CONTINUES)],
)
def test_interrupted_verify_prints_whether_the_archive_changed(
    options: list[str], text: str, demo_archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from archive_builder.maintain import repair
    from archive_builder.maintain.verify import Finding

    def press(*arguments: object) -> None:
        raise KeyboardInterrupt

    if options:
        monkeypatch.setattr(checking, "_findings", lambda *arguments: [Finding("index", "is damaged")])
        monkeypatch.setattr(repair, "repair", press)
    else:
        monkeypatch.setattr(checking, "_findings", press)
    result = CliRunner().invoke(main, ["verify", str(demo_archive), "--workers", "1", *options])
    assert (result.exit_code, result.stderr) == (130, f"{text}\n")
