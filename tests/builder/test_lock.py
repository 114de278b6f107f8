"""The lock of an archive: one build at a time; readers are not affected."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from helpers import run

from archive_builder import Archive
from archive_builder.builder.driver import build
from archive_builder.builder.lock import BuildLock
from archive_builder.errors import ArchiveError
from archive_builder.maintain.verify import verify
from archive_builder.survey.demo import make_survey

HOST = socket.gethostname()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a survey of two small tiles and its archive."""
    folder = tmp_path_factory.mktemp("lock")
    recipe = make_survey(folder / "survey", tiles=2, tile_size=256, objects=10, seed=2)
    text = re.sub(r"(?m)^(color|max_background_rms|min_depth|max_blank_fraction) .*\n", "", recipe.read_text())
    recipe.write_text(re.sub(r"(?m)^size = .*$", "size = 32", re.sub(r"(?m)^bands = .*$", 'bands = ["r"]', text)))
    assert build(recipe, folder / "archive").built == 2
    return folder


@pytest.fixture
def archive(place: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(place / "archive", tmp_path / "archive"))


@pytest.fixture
def recipe(place: Path) -> Path:
    return place / "survey/survey.toml"


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("the condition never became true")


def refusal(result: Result) -> str:
    """Return the single error line of a command that was refused."""
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


# ---- a running build


@pytest.fixture(scope="module")
def held(
    place: Path, tmp_path_factory: pytest.TempPathFactory, held_build: Callable[..., subprocess.Popen[bytes]]
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A running build of a copy of the archive, with a stopped worker; and the copy."""
    folder = tmp_path_factory.mktemp("held")
    archive = Path(shutil.copytree(place / "archive", folder / "archive"))
    process = held_build("--force", place / "survey/survey.toml", archive, workers=1)
    yield process, archive
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_second_build_is_refused_and_the_error_names_the_holder_and_the_start_time(
    held: tuple[subprocess.Popen[bytes], Path], recipe: Path
) -> None:
    process, archive = held
    before = {path.name for path in archive.rglob("*")}
    told = [
        refusal(run("build", recipe, archive)),
        refusal(run("build", recipe, archive, "--force", "--prune")),
        refusal(run("reindex", archive)),
    ]
    assert len(set(told)) == 1
    since = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"
    expected = rf"is being built by process {process.pid} on {re.escape(HOST)} since {since}: wait for it"
    assert re.search(expected, told[0])
    assert {path.name for path in archive.rglob("*")} == before
    assert process.poll() is None


def test_readers_and_dry_runs_work_during_a_build(held: tuple[subprocess.Popen[bytes], Path], recipe: Path) -> None:
    _, archive = held
    with Archive(archive) as opened:
        assert sum(len(batch.object_id) for batch in opened.batches()) == 20
    assert [finding.kind for finding in verify(archive, deep=True)] == []
    assert run("status", archive).exit_code == 0
    assert run("build", recipe, archive, "--dry-run").exit_code == 0


def test_next_build_takes_the_lock_of_a_killed_build_after_its_workers_end(
    held: tuple[subprocess.Popen[bytes], Path], recipe: Path, workers_of: Callable[[int], list[int]]
) -> None:
    process, archive = held
    (worker,) = workers_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)  # the driver alone, like the kernel when memory runs out
    process.wait()
    os.kill(worker, signal.SIGCONT)
    assert json.loads((archive / "build.lock").read_text())["pid"] == process.pid
    # A surviving worker could put its shard in place of the next build's shard.
    wait_for(lambda: not Path(f"/proc/{worker}").exists() or "State:\tZ" in Path(f"/proc/{worker}/status").read_text())
    assert build(recipe, archive).failures == {}
    assert (archive / "build.lock").read_bytes() == b""
    assert list(verify(archive, deep=True)) == []


# ---- other holders of a lock


def hold(folder: Path, ready: object, over: object) -> None:
    with BuildLock(folder):
        ready.set()  # type: ignore[attr-defined]
        over.wait()  # type: ignore[attr-defined]


def test_one_process_holds_the_lock_and_frees_it_at_its_end(archive: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, over = context.Event(), context.Event()
    process = context.Process(target=hold, args=(archive, ready, over))
    process.start()
    ready.wait()
    with pytest.raises(ArchiveError, match=rf"by process {process.pid} on {re.escape(HOST)} since "):
        BuildLock(archive)
    over.set()
    process.join()
    with BuildLock(archive), pytest.raises(ArchiveError, match=f"by process {os.getpid()} on"):
        BuildLock(archive)
    with BuildLock(archive):
        pass


def test_two_archives_have_separate_locks(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with BuildLock(archive), BuildLock(tmp_path / "other"):
        for locked in (archive, tmp_path / "other"):
            with pytest.raises(ArchiveError, match=f"by process {os.getpid()} on"):
                BuildLock(locked)


def test_failed_build_releases_the_lock(archive: Path, recipe: Path) -> None:
    result = run("build", recipe, archive, "--tile", "NOWHERE")
    assert result.exit_code == 2
    assert run("build", recipe, archive).exit_code == 0


def test_lock_of_another_host_is_refused_and_the_error_names_the_file_to_remove(archive: Path, recipe: Path) -> None:
    lock = archive / "build.lock"
    said = json.dumps({"host": "elsewhere.example", "pid": 4711, "since": "2026-01-02T03:04:05+00:00"})
    lock.write_text(said)
    for arguments in (["build", recipe, archive], ["reindex", archive]):
        told = refusal(run(*arguments))
        assert told == (
            f"error: archive {archive}: is being built by process 4711 on elsewhere.example since "
            f"2026-01-02T03:04:05+00:00: wait for it, or if it is dead remove {lock}\n"
        )
    assert lock.read_text() == said
    with Archive(archive) as opened:
        assert opened.size == 32
    lock.unlink()
    assert run("build", recipe, archive).exit_code == 0


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\n", b"not JSON", b"\xff\xfe\x00", b"[1, 2]", b"null", b"[" * 5000, b'{"host": "' + b"x" * 10_000],
    ids=["empty", "newline", "text", "bytes", "list", "null", "nested", "cut off"],
)
def test_build_takes_a_lock_file_with_garbage(archive: Path, garbage: bytes) -> None:
    lock = archive / "build.lock"
    lock.write_bytes(garbage)
    with BuildLock(archive):
        assert json.loads(lock.read_text())["pid"] == os.getpid()
    assert lock.read_bytes() == b""


def test_lock_file_with_invalid_values_is_refused_in_one_line(archive: Path) -> None:
    (archive / "build.lock").write_text(json.dumps({"host": "a\nb\x1b[31m", "pid": [1], "since": None}))
    assert refusal(run("reindex", archive)).isprintable() is False  # because of the newline at the end
    assert refusal(run("reindex", archive))[:-1].isprintable()


def test_lock_that_links_to_another_file_is_refused_and_that_file_stays(
    archive: Path, recipe: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_text("a year's work")
    (archive / "build.lock").unlink()
    (archive / "build.lock").symlink_to(precious)
    for arguments in (["build", recipe, archive], ["reindex", archive]):
        assert "build.lock" in refusal(run(*arguments))
    assert precious.read_text() == "a year's work"


def test_error_names_an_archive_that_cannot_be_locked(tmp_path: Path, recipe: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert f"archive {tmp_path / 'file'}" in refusal(run("build", recipe, tmp_path / "file"))
    (tmp_path / "archive/build.lock").mkdir(parents=True)
    assert f"archive {tmp_path / 'archive'}" in refusal(run("build", recipe, tmp_path / "archive"))
