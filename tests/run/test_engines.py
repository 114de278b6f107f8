"""Engines: every engine builds the same archive, lost tiles are retried, and no process is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import pytest
from click.testing import CliRunner
from helpers import give_up

from archive_builder.builder.driver import build
from archive_builder.builder.one_tile import TileJob, build_tile
from archive_builder.cli.main import main
from archive_builder.errors import RequestError
from archive_builder.maintain.verify import verify
from archive_builder.run.engine import Lost, run_with_retries
from archive_builder.run.engines import choose_engine
from archive_builder.survey.demo import make_survey
from archive_builder.survey.discovery import discover
from archive_builder.survey.recipe import load_recipe

BESIDE_PYTHON = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])

PARSL_CONFIG = """
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider
config = Config(
    executors=[
        HighThroughputExecutor(
            label="here",
            address="127.0.0.1",
            cores_per_worker=1e-6,
            max_workers_per_node=2,
            heartbeat_period=1,
            heartbeat_threshold=5,
            drain_period=DRAIN_PERIOD,
            provider=LocalProvider(init_blocks=1, max_blocks=1, worker_init=WORKER_INIT),
        )
    ],
    strategy=STRATEGY,
    strategy_period=0.2,
)
"""


def parsl_config(folder: Path, **changes: str | int) -> Path:
    """Write a configuration for two workers on this machine; return its path."""
    values = {"WORKER_INIT": "", "STRATEGY": "simple", "DRAIN_PERIOD": None, **changes}
    path = folder / "parsl_config.py"
    path.write_text("".join(f"{name} = {value!r}\n" for name, value in values.items()) + PARSL_CONFIG)
    return path


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a survey of four small tiles."""
    folder = tmp_path_factory.mktemp("engines") / "survey"
    recipe = make_survey(folder, tiles=4, tile_size=300, objects=20, seed=5)
    recipe.write_text(recipe.read_text().replace('bands = ["g", "r", "i", "z", "Y"]', 'bands = ["r", "i"]'))
    return folder


@pytest.fixture(scope="module")
def peace(survey: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the survey's archive, built by local workers without interruption."""
    archive = tmp_path_factory.mktemp("peace") / "archive"
    assert build(survey / "survey.toml", archive).built == 4
    return archive


class Run:
    """A build by the command line, in its own folder; all its processes carry a mark in their environment."""

    def __init__(self, engine: str, survey: Path, folder: Path, *options: str) -> None:
        self.archive, self.folder = folder / "archive", folder / "started here"
        self.folder.mkdir(exist_ok=True)
        self.mark = f"ARCHIVE_BUILDER_TEST={uuid4().hex}"
        name, value = self.mark.split("=")
        self.process = subprocess.Popen(
            [*self.command(engine, folder), str(survey / "survey.toml"), str(self.archive), *options],
            cwd=self.folder,
            env={**os.environ, name: value},
            start_new_session=True,
            # A background shell ignores Ctrl-C, and its child processes inherit that.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @staticmethod
    def command(engine: str, folder: Path) -> list[str]:
        build = [sys.executable, "-m", "archive_builder", "build", "--engine", engine]
        if engine == "parsl":
            config = folder / "parsl_config.py"
            return [*build, "--parsl-config", str(config if config.exists() else parsl_config(folder))]
        if engine == "mpi":
            return [str(shutil.which("mpiexec", path=BESIDE_PYTHON)), "-n", "3", *build]
        return [*build, "--workers", "2"]

    def end(self) -> tuple[int, str, str]:
        """Return exit status, stdout and stderr."""
        stdout, stderr = self.process.communicate()
        return self.process.returncode, stdout, stderr

    def processes(self) -> list[int]:
        """Return the running processes, found by the mark or by the session: some processes overwrite the mark."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                state, _, _, session = (path / "stat").read_text(errors="replace").rpartition(")")[2].split()[:4]
                ours = int(session) == self.process.pid or self.mark.encode() in (path / "environ").read_bytes()
                if ours and state != "Z":
                    found.append(int(path.name))
        return found

    def wait_until(self, happened: Callable[[], object]) -> None:
        while not happened():
            assert self.process.poll() is None, self.end()
            time.sleep(0.01)

    def writer(self) -> int | None:
        """Return the process ID of a worker that is writing a shard."""
        for path in self.archive.glob("shards/.*.h5.*.part"):
            worker = int(path.name.split(".")[-2])
            if worker in self.processes():
                return worker
        return None

    def wait_for_writer(self) -> int:
        """Return the process ID of a worker that is writing a shard, stopped during the write."""
        while True:
            self.wait_until(self.writer)
            if worker := self.writer():
                os.kill(worker, signal.SIGSTOP)
                if self.writer() == worker:
                    return worker
                os.kill(worker, signal.SIGCONT)

    def wait_for_all_processes(self) -> None:
        while self.processes():
            time.sleep(0.05)


Start = Callable[..., Run]
SameArchives = Callable[[Path, Path], None]


@pytest.fixture
def start(survey: Path, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a build; kill all processes after the test."""
    runs: list[Run] = []

    def begin(engine: str, *options: str, survey: Path = survey) -> Run:
        if engine == "parsl" and not find_spec("parsl"):
            give_up("parsl is not installed")
        if engine == "mpi" and not (find_spec("mpi4py") and shutil.which("mpiexec", path=BESIDE_PYTHON)):
            give_up("mpi4py or mpiexec is not installed")
        runs.append(Run(engine, survey, tmp_path, *options))
        return runs[-1]

    yield begin
    for run in runs:
        for process in run.processes():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        run.end()


every_engine = pytest.mark.parametrize("engine", ["local", "parsl", "mpi"])


@every_engine
def test_every_engine_builds_the_same_archive_and_leaves_nothing_behind(
    engine: str, start: Start, peace: Path, same_archives: SameArchives
) -> None:
    run = start(engine, "--json")
    status, stdout, stderr = run.end()
    assert status == 0, stderr
    report = json.loads(stdout)
    assert (report["built"], report["retried"], report["failures"]) == (4, 0, {})
    assert [line.split("]")[0] for line in stderr.splitlines()[1:]] == ["[1/4", "[2/4", "[3/4", "[4/4"]
    same_archives(run.archive, peace)
    assert list(run.folder.iterdir()) == []
    run.wait_for_all_processes()


@every_engine
def test_tile_with_bad_files_fails_alone_and_is_not_retried(
    engine: str, start: Start, survey: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(survey, tmp_path / "broken"))
    image = min(broken.glob("*/*_i.fits.fz"))
    image.write_bytes(image.read_bytes()[:20_000])
    run = start(engine, "--json", survey=broken)
    status, stdout, stderr = run.end()
    assert status == 1, stderr
    report = json.loads(stdout)
    assert (report["built"], report["retried"]) == (3, 0)
    assert list(report["failures"]) == [image.parent.name]
    assert stderr.splitlines()[-1].startswith(f"error: tile {image.parent.name}: ")


@pytest.mark.parametrize("engine", ["local", "parsl"])
def test_tile_of_a_dead_worker_is_retried(engine: str, start: Start, peace: Path, same_archives: SameArchives) -> None:
    run = start(engine)
    os.kill(run.wait_for_writer(), signal.SIGKILL)
    status, stdout, stderr = run.end()
    assert status == 0, stderr
    assert stdout.startswith("4 tiles built, 0 unchanged, 0 failed; 1 retried after a worker died\n")
    leftovers = list(run.archive.glob("shards/.*.part"))
    assert len(leftovers) == 1
    leftovers[0].unlink()
    same_archives(run.archive, peace)


@pytest.mark.parametrize("engine", ["local", "parsl"])
def test_tile_of_a_dead_worker_fails_if_no_retries_are_left(
    engine: str, start: Start, peace: Path, same_archives: SameArchives
) -> None:
    run = start(engine, "--retries", "0")
    os.kill(run.wait_for_writer(), signal.SIGKILL)
    status, stdout, stderr = run.end()
    assert status == 1
    assert stdout.startswith("3 tiles built, 0 unchanged, 1 failed\n")
    assert "worker process died" in stderr.splitlines()[-1]
    assert start(engine).end()[0] == 0
    same_archives(run.archive, peace)


def test_mpi_ends_if_a_rank_dies_and_a_second_run_completes_the_archive(
    start: Start, peace: Path, same_archives: SameArchives
) -> None:
    run = start("mpi")
    os.kill(run.wait_for_writer(), signal.SIGKILL)
    assert run.end()[0] > 2
    run.wait_for_all_processes()
    assert start("mpi").end()[0] == 0
    same_archives(run.archive, peace)


@every_engine
def test_no_worker_outlives_a_killed_driver_and_the_next_build_completes_the_archive(
    engine: str, start: Start, peace: Path, same_archives: SameArchives
) -> None:
    run = start(engine)
    worker = run.wait_for_writer()
    os.kill(driver_of(run), signal.SIGKILL)
    os.kill(worker, signal.SIGCONT)
    run.wait_for_all_processes()
    assert start(engine).end()[0] == 0
    same_archives(run.archive, peace)


def driver_of(run: Run) -> int:
    """Return the process that holds the build's lock."""
    return int(json.loads((run.archive / "build.lock").read_text())["pid"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("engine", ["local", "parsl"])
def test_a_signal_ends_the_build_and_all_its_workers(
    engine: str, number: signal.Signals, start: Start, peace: Path, same_archives: SameArchives
) -> None:
    run = start(engine)
    run.wait_until(run.writer)
    if number == signal.SIGINT:
        os.killpg(run.process.pid, number)  # like Ctrl-C in a terminal
    else:
        run.process.send_signal(number)
    status, _, stderr = run.end()
    assert status == 128 + number
    assert "Traceback" not in stderr
    run.wait_for_all_processes()
    assert (run.archive / "build.lock").read_text() == ""
    assert start(engine).end()[0] == 0
    same_archives(run.archive, peace)


# ---- Parsl as a whole fails


@pytest.mark.parametrize("strategy", ["simple", "none"])
def test_workers_that_do_not_start_end_the_build(strategy: str, start: Start, tmp_path: Path) -> None:
    parsl_config(tmp_path, WORKER_INIT="echo no such module >&2; exit 3", STRATEGY=strategy)
    status, _, stderr = start("parsl").end()
    assert status == 1
    assert stderr.splitlines()[-1].startswith("error: parsl: there are no workers: ")
    assert "no such module" in stderr


def test_workers_without_this_package_end_the_build(start: Start, tmp_path: Path) -> None:
    other = tmp_path / "other/archive_builder"
    other.mkdir(parents=True)
    for name in ("__init__.py", "builder.py"):
        (other / name).touch()
    parsl_config(tmp_path, WORKER_INIT=f"export PYTHONPATH={other.parent}")
    status, _, stderr = start("parsl").end()
    assert status == 1
    assert "error: parsl: a worker cannot run its job: No module named 'archive_builder.builder" in stderr


def test_interchange_that_dies_ends_the_build(start: Start, peace: Path, same_archives: SameArchives) -> None:
    run = start("parsl")
    worker = run.wait_for_writer()
    (interchange,) = [n for n in run.processes() if "HTEX interchange" in Path(f"/proc/{n}/cmdline").read_text()]
    os.kill(interchange, signal.SIGKILL)
    os.kill(worker, signal.SIGCONT)
    status, _, stderr = run.end()
    assert status == 1
    assert stderr.splitlines()[-1].startswith("error: parsl: there are no workers: its interchange died: see ")
    run.wait_for_all_processes()
    assert start("parsl").end()[0] == 0
    same_archives(run.archive, peace)


def test_blocks_that_end_and_are_not_replaced_end_the_build(start: Start, tmp_path: Path) -> None:
    parsl_config(tmp_path, STRATEGY="none", DRAIN_PERIOD=1)
    run = start("parsl")
    status, _, stderr = run.end()
    assert status == 1
    assert "there are no workers: its blocks have ended, and its strategy 'none' requests no others: see" in stderr
    run.wait_for_all_processes()


# ---- a living worker that is believed dead


def start_zombie(survey: Path, archive: Path) -> subprocess.Popen[bytes]:
    """Build a tile of generation 1 outside any build; return the process, stopped during its write."""
    program = (
        "import sys; from pathlib import Path\n"
        "from archive_builder.builder.one_tile import TileJob, build_tile\n"
        "from archive_builder.survey.discovery import discover\n"
        "from archive_builder.survey.recipe import load_recipe\n"
        "recipe = load_recipe(Path(sys.argv[1]))\n"
        "build_tile(TileJob(discover(recipe).tiles[0], recipe, 228, Path(sys.argv[2]), 1))\n"
    )
    (archive / "shards").mkdir(parents=True, exist_ok=True)
    zombie = subprocess.Popen([sys.executable, "-c", program, str(survey / "survey.toml"), str(archive)])
    while not any(archive.glob(f"shards/.*.{zombie.pid}.part")):
        assert zombie.poll() is None
        time.sleep(0.001)
    zombie.send_signal(signal.SIGSTOP)
    return zombie


@pytest.mark.parametrize("began", ["before the next build", "while it is at work"])
def test_worker_wrongly_believed_dead_does_not_damage_a_later_build(
    began: str, survey: Path, peace: Path, tmp_path: Path, same_archives: SameArchives
) -> None:
    archive = tmp_path / "archive"
    zombies = [start_zombie(survey, archive)] if began == "before the next build" else []
    report = build(
        survey / "survey.toml",
        archive,
        on_plan=lambda changes: None if zombies else zombies.append(start_zombie(survey, archive)),
    )
    assert report.built == 4
    zombies[0].send_signal(signal.SIGCONT)
    zombies[0].wait()
    assert {finding.kind for finding in verify(archive, deep=True)} <= {"orphan"}
    assert build(survey / "survey.toml", archive).unchanged == 4
    same_archives(archive, peace)


def test_two_workers_on_one_tile_write_to_two_files(survey: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    recipe = load_recipe(survey / "survey.toml")
    job = TileJob(discover(recipe).tiles[0], recipe, 228, tmp_path, 1)
    drafts = [build_tile(job).draft for _ in range(2)]
    assert len(set(drafts)) == 2
    assert sorted(drafts) == sorted(f"shards/{name}" for name in os.listdir(tmp_path / "shards"))
    assert not any(draft.endswith(".h5") for draft in drafts)


def test_shard_outside_the_drivers_file_system_is_an_error_that_names_the_remedy(survey: Path, tmp_path: Path) -> None:
    class Elsewhere(Here):
        def run(self, function: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Any]:
            for result in super().run(function, jobs):
                (tmp_path / "archive" / result.draft).unlink()
                yield result

    report = build(survey / "survey.toml", tmp_path / "archive", engine=Elsewhere())
    assert len(report.failures) == 4
    for error in report.failures.values():
        assert "was made but is not here: keep the archive in a folder that all workers share" in error


# ---- retries


class Here:
    """An engine that runs jobs in this process and loses some of them at first."""

    def __init__(self, loses: dict[Any, int] | None = None) -> None:
        self.loses = dict(loses or {})
        self.log: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def run(self, function: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Any]:
        for job in jobs:
            self.log.append(job)
            if isinstance(job, int) and self.loses.get(job, 0):
                self.loses[job] -= 1
                yield Lost(job, "of old age")
            else:
                yield function(job)


def test_lost_jobs_are_retried_after_all_others_up_to_the_given_number() -> None:
    engine, retried = Here({2: 1, 3: 9}), []
    outcomes = list(run_with_retries(engine, str, [1, 2, 3, 4], 2, retried.append))
    assert outcomes == ["1", "4", "2", Lost(3, "of old age")]
    assert engine.log == [1, 2, 3, 4, 2, 3, 3]
    assert [lost.job for lost in retried] == [2, 3, 3]


# ---- invalid requests


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "there is no such file"),
        ("config = 1", "defines no parsl.config.Config called config"),
        ("\n\nraise ValueError('one\\ntwo')", "line 3: ValueError: one two"),
        ("def (", "SyntaxError: invalid syntax"),
        ("import no_such_module", "line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("from parsl.config import Config\nconfig = Config()", "has an executor that runs threads of this process"),
    ],
)
def test_unusable_parsl_configuration_is_an_error_on_one_line(
    config: str | None, words: str, survey: Path, tmp_path: Path
) -> None:
    if not find_spec("parsl"):
        give_up("parsl is not installed")
    path = tmp_path / "config.py"
    if config is not None:
        path.write_text(config)
    line = refusal(survey, tmp_path, "--engine", "parsl", "--parsl-config", str(path))
    assert line.startswith(f"error: Parsl's configuration {path}: ")
    assert words in line


def test_engine_and_configuration_must_go_together(survey: Path, tmp_path: Path) -> None:
    for options in (["--engine", "parsl"], ["--parsl-config", "x.py"], ["--engine", "mpi", "--parsl-config", "x.py"]):
        assert "--engine parsl and --parsl-config FILE go together" in refusal(survey, tmp_path, *options)


def test_memory_option_is_refused_for_workers_on_other_machines(survey: Path, tmp_path: Path) -> None:
    if not find_spec("parsl"):
        give_up("parsl is not installed")
    options = ["--engine", "parsl", "--parsl-config", str(parsl_config(tmp_path)), "--memory", "2GB"]
    assert "memory is for workers of this machine" in refusal(survey, tmp_path, *options)


def refusal(survey: Path, folder: Path, *options: str) -> str:
    """Return the error line of a build that is refused before it creates the archive."""
    arguments = ["build", str(survey / "survey.toml"), str(folder / "archive"), *options]
    result = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert not (folder / "archive").exists()
    return result.stderr


def test_mpi_with_one_rank_is_refused_and_the_error_names_the_command(survey: Path, tmp_path: Path) -> None:
    if not find_spec("mpi4py"):
        give_up("mpi4py is not installed")
    command = [sys.executable, "-m", "archive_builder", "build", "--engine", "mpi", str(survey / "survey.toml")]
    done = subprocess.run([*command, str(tmp_path / "archive")], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "mpiexec -n 5 archive-builder build" in done.stderr or "pip install mpich" in done.stderr
    assert not (tmp_path / "archive").exists()


@pytest.mark.parametrize(("engine", "package"), [("parsl", "parsl"), ("mpi", "mpi4py")])
def test_missing_package_of_an_engine_is_an_error_with_the_remedy(
    engine: str, package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"archive_builder.run.{engine}_engine", raising=False)
    config = tmp_path / "config.py" if engine == "parsl" else None
    with pytest.raises(RequestError, match=rf"{engine} needs {package}: pip install '\.\[{engine}\]'"):
        choose_engine(engine, parsl_config=config, archive=tmp_path)
