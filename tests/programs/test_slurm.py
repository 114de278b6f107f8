"""Builds on a real Slurm, by Parsl and by MPI: the archive is the same, even if jobs or the driver die.

``ops/cluster/one-node-slurm start`` starts a Slurm of one machine, which is enough.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import give_up

from archive_builder.builder.driver import build
from archive_builder.survey.demo import make_survey

CLUSTER = Path(__file__).parents[2] / "ops/cluster"
BESIDE_PYTHON = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])

SameArchives = Callable[[Path, Path], None]


@pytest.fixture(scope="module")
def partition() -> str:
    """Name of a partition of the running Slurm."""
    try:
        done = subprocess.run(["sinfo", "--noheader", "--format=%R"], capture_output=True, text=True)
    except FileNotFoundError:
        give_up("Slurm is not installed")
    if done.returncode != 0:
        give_up(f"no Slurm is at work: bash {CLUSTER}/one-node-slurm start")
    return done.stdout.split()[0]


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a survey of six small tiles."""
    folder = tmp_path_factory.mktemp("slurm") / "survey"
    make_survey(folder, tiles=6, tile_size=500, objects=60, seed=6)
    return folder


@pytest.fixture(scope="module")
def peace(survey: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the survey's archive, built by local workers."""
    archive = tmp_path_factory.mktemp("peace") / "archive"
    assert build(survey / "survey.toml", archive, workers=2).built == 6
    return archive


@pytest.fixture
def config(partition: str, tmp_path: Path) -> Path:
    """The configuration of ``ops/cluster`` for this Slurm: two jobs of one worker, fast detection of dead workers."""
    if not find_spec("parsl"):
        give_up("parsl is not installed")
    text = (CLUSTER / "parsl_slurm.py").read_text()
    changes = {"PARTITION": repr(partition), "JOBS": "2", "CORES": "1", "MEMORY": "1", "ADDRESS": "'127.0.0.1'"}
    for name, value in changes.items():
        text, n = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value}", text)
        assert n == 1, name
    text = re.sub(r"heartbeat_period=\d+", "heartbeat_period=1", text)
    text = re.sub(r"heartbeat_threshold=\d+", "heartbeat_threshold=6", text)
    # Slurm knows a job by its name: this name is unique to the test.
    text = text.replace('label="slurm"', f'label="{tmp_path.name}"')
    path = tmp_path / "parsl_config.py"
    path.write_text(text)
    return path


def jobs(config: Path) -> dict[str, str]:
    """Return the Slurm jobs of this test, number to state."""
    lines = subprocess.run(["squeue", "--noheader", "--format=%i %T %j"], capture_output=True, text=True).stdout
    found = (line.split(maxsplit=2) for line in lines.splitlines())
    return {number: state for number, state, name in found if config.parent.name in name}


def wait_until(happened: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    while not happened():
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.1)


@pytest.fixture
def start(config: Path, survey: Path, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Return a function that starts a build by Parsl; kill all builds and jobs after the test."""
    begun: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "archive_builder", "build", str(survey / "survey.toml")]
        options = [str(tmp_path / "archive"), "--engine", "parsl", "--parsl-config", str(config)]
        pipe = subprocess.PIPE
        begun.append(subprocess.Popen([*command, *options], cwd=tmp_path, stdout=pipe, stderr=pipe, text=True))
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.communicate()
    for number in jobs(config):
        subprocess.run(["scancel", number])


def drafts(archive: Path) -> list[Path]:
    return list(archive.glob("shards/.*.part"))


def assert_ends_well(process: subprocess.Popen[str]) -> str:
    """Wait for a successful end of a build; return its stdout."""
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return stdout


def clear(archive: Path) -> None:
    """Remove the drafts of dead workers, like the next build."""
    for draft in drafts(archive):
        draft.unlink()


def test_build_driven_from_a_batch_job_makes_the_same_archive(
    config: Path, survey: Path, peace: Path, partition: str, tmp_path: Path, same_archives: SameArchives
) -> None:
    script = [str(CLUSTER / "driver.sbatch"), str(survey / "survey.toml"), str(tmp_path / "archive"), str(config)]
    options = ["--wait", f"--partition={partition}", f"--output={tmp_path}/output"]
    environment = {**os.environ, "PATH": BESIDE_PYTHON}
    done = subprocess.run(["sbatch", *options, *script, "--json"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, (tmp_path / "output").read_text()
    assert json.loads((tmp_path / "output").read_text().splitlines()[-1])["built"] == 6
    same_archives(tmp_path / "archive", peace)
    wait_until(lambda: not jobs(config))


def test_mpi_in_a_batch_job_makes_the_same_archive(
    survey: Path, peace: Path, partition: str, tmp_path: Path, same_archives: SameArchives
) -> None:
    if not find_spec("mpi4py"):
        give_up("mpi4py is not installed")
    script = [str(CLUSTER / "mpi.sbatch"), str(survey / "survey.toml"), str(tmp_path / "archive")]
    options = ["--wait", "--ntasks=2", f"--partition={partition}", f"--output={tmp_path}/output"]
    environment = {**os.environ, "PATH": BESIDE_PYTHON}
    done = subprocess.run(["sbatch", *options, *script, "--json"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, (tmp_path / "output").read_text()
    assert json.loads((tmp_path / "output").read_text().splitlines()[-1])["built"] == 6
    same_archives(tmp_path / "archive", peace)


def test_tiles_of_a_cancelled_job_are_retried_elsewhere(
    start: Callable[[], subprocess.Popen[str]], config: Path, peace: Path, tmp_path: Path, same_archives: SameArchives
) -> None:
    process, archive = start(), tmp_path / "archive"
    wait_until(lambda: drafts(archive), process)
    worker = int(drafts(archive)[0].name.split(".")[-2])
    (number,) = re.findall(rb"SLURM_JOB_ID=(\d+)", Path(f"/proc/{worker}/environ").read_bytes())
    subprocess.run(["scancel", number.decode()], check=True)
    assert "retried after a worker died" in assert_ends_well(process)
    clear(archive)
    same_archives(archive, peace)
    wait_until(lambda: not jobs(config))


def test_jobs_end_after_a_kill_of_the_driver_and_the_next_build_completes_the_archive(
    start: Callable[[], subprocess.Popen[str]], config: Path, peace: Path, tmp_path: Path, same_archives: SameArchives
) -> None:
    process, archive = start(), tmp_path / "archive"
    wait_until(lambda: drafts(archive), process)
    process.kill()
    process.wait()
    assert jobs(config)
    assert_ends_well(start())  # independent of the old workers
    wait_until(lambda: not jobs(config))
    clear(archive)
    same_archives(archive, peace)


def test_a_terminated_build_cancels_its_jobs(
    start: Callable[[], subprocess.Popen[str]], config: Path, tmp_path: Path
) -> None:
    process = start()
    wait_until(lambda: drafts(tmp_path / "archive"), process)
    process.terminate()
    _, stderr = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in stderr
    assert "RUNNING" not in jobs(config).values()
    wait_until(lambda: not jobs(config))


def test_a_build_ends_with_slurms_message_if_slurm_refuses_its_jobs(
    start: Callable[[], subprocess.Popen[str]], config: Path, tmp_path: Path
) -> None:
    config.write_text(re.sub(r"(?m)^PARTITION = .*$", "PARTITION = 'no-such'", config.read_text()))
    process = start()
    _, stderr = process.communicate()
    assert process.returncode == 1
    line = stderr.splitlines()[-1]
    assert line.startswith("error: parsl: there are no workers: ")
    assert "invalid partition specified: no-such" in line
    assert str(config) in line
