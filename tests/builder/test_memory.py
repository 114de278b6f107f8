"""Memory of a build: the forecast of a worker's peak, and the number of workers that fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from archive_builder.builder.memory import share_out, strip_that_fits, worker_memory
from archive_builder.cli.main import main
from archive_builder.errors import RequestError, TileError
from archive_builder.run.machine import available_cpus, available_memory
from archive_builder.run.pool import run_jobs
from archive_builder.survey.demo import make_survey
from archive_builder.survey.discovery import discover
from archive_builder.survey.recipe import Recipe, load_recipe


def test_smallest_memory_limit_applies(tmp_path: Path) -> None:
    def limits(group: str, version: str, **environment: str) -> int:
        (tmp_path / "proc/self").mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc/meminfo").write_text("MemTotal: 9000000 kB\nMemAvailable:    8000000 kB\n")
        (tmp_path / "proc/self/cgroup").write_text(version + "/a/b\n")
        inside, name = ("", "memory.max") if version == "0::" else ("memory", "memory.limit_in_bytes")
        folder = tmp_path / "groups" / inside / "a"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(group)
        return round(available_memory(environment, tmp_path / "groups", tmp_path / "proc") / 0.9)

    assert limits("max", "0::") == 8_192_000_000
    assert limits("3000000000", "0::") == 3_000_000_000
    assert limits("2000000000", "4:memory:") == 2_000_000_000
    assert limits("max", "0::", SLURM_MEM_PER_NODE="1000") == 1000 * 2**20
    assert limits("max", "0::", SLURM_MEM_PER_CPU="1000", SLURM_CPUS_ON_NODE="2") == 2000 * 2**20
    assert limits("max", "0::", SLURM_MEM_PER_NODE="0") == 8_192_000_000


def test_cpu_count_is_the_allocated_one() -> None:
    assert available_cpus({}) == len(os.sched_getaffinity(0))
    assert available_cpus({"SLURM_CPUS_PER_TASK": "1"}) == 1


def recipe_with(survey: Path, tmp_path: Path, layout: str, quantization: str, planes: str) -> Path:
    text = (survey / "survey.toml").read_text().split("[storage]")[0].replace('root = "."', f'root = "{survey}"')
    text += f'[storage]\nlayout = "{layout}"\nquantization = {quantization}\nplanes = {planes}\n'
    (tmp_path / "recipe.toml").write_text(text)
    return tmp_path / "recipe.toml"


@pytest.fixture(scope="module")
def wide_survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a survey with tiles large enough to outweigh the memory of an idle worker."""
    folder = tmp_path_factory.mktemp("wide")
    make_survey(folder, tiles=2, tile_size=2500, objects=300)
    return folder


@pytest.mark.parametrize(
    ("layout", "quantization", "planes"),
    [("mosaic", "16", '["WGT", "MSK"]'), ("stamps", '"lossless"', "[]")],
)
def test_worker_takes_at_most_the_forecast_memory(
    wide_survey: Path, tmp_path: Path, layout: str, quantization: str, planes: str
) -> None:
    path = recipe_with(wide_survey, tmp_path, layout, quantization, planes)
    # In a process of its own: this process holds the memory of other tests.
    command = [sys.executable, "-m", "archive_builder", "build", path, tmp_path / "archive", "--workers", "1", "--json"]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (report["built"], report["failures"]) == (2, {})
    foretold = worker_memory((2500, 2500), load_recipe(path), 228, 128, 128)
    assert 0.5 * foretold < report["peak_memory"] < foretold


def test_memory_budget_limits_the_workers(demo_survey: Path) -> None:
    recipe = load_recipe(demo_survey / "survey.toml")
    tiles = discover(recipe).tiles

    def workers(budget: float, wanted: int | None = None) -> int:
        return share_out(tiles * 4, recipe, 228, int(budget), wanted or 6).workers

    assert workers(64e9) == 6
    assert workers(64e9, 3) == 3
    few = workers(1e9)
    assert 1 <= few < 6
    assert share_out(tiles * 4, recipe, 228, int(1e9), 6).memory * few <= 1e9
    with pytest.raises(
        RequestError, match=r"memory 200 MB is too little for one worker: give at least \d+ MB as --memory"
    ):
        workers(2e8)


def test_strips_are_lower_when_memory_is_short(demo_survey: Path) -> None:
    usual = load_recipe(demo_survey / "survey.toml")
    recipe: Recipe = usual.model_copy(update={"quality": usual.quality.model_copy(update={"background_mesh": 16})})
    shape = (10_000, 40_000)
    plenty = strip_that_fits(shape, recipe, 228, 2**40)
    scarce = strip_that_fits(shape, recipe, 228, worker_memory(shape, recipe, 228, plenty) - 1)
    with pytest.raises(TileError, match="the tile takes"):  # a mask of 64 flags needs 8 bytes a pixel
        strip_that_fits(shape, recipe, 228, worker_memory(shape, recipe, 228, plenty), 0, 8)
    assert plenty == 128
    assert scarce < plenty
    with pytest.raises(TileError, match=r"takes 1\.\d\d GB of memory, a worker may use 100 MB"):
        strip_that_fits(shape, recipe, 228, 10**8)


def test_command_line_keeps_the_memory_limit_and_prints_the_reduced_workers(demo_survey: Path, tmp_path: Path) -> None:
    def run(memory: str, archive: str) -> object:
        arguments = ["build", str(demo_survey / "survey.toml"), str(tmp_path / archive), "--workers", "2"]
        return CliRunner().invoke(main, [*arguments, "--memory", memory])

    too_little = run("200MB", "a")
    assert (too_little.exit_code, too_little.stderr.count("\n")) == (2, 1)
    assert "is too little for one worker" in too_little.stderr
    assert list((tmp_path / "a/shards").iterdir()) == []
    tight = run("750MB", "b")
    assert tight.exit_code == 0
    assert "1 workers instead of 2" in tight.stderr


def count_threads(_: object) -> tuple[int, int, int]:
    """Return a worker's number of threads, without those of jemalloc, and the sizes of Arrow's pools."""
    import numpy as np

    np.ones((200, 200)) @ np.ones((200, 200))
    names = [Path(f"/proc/self/task/{task}/comm").read_text() for task in os.listdir("/proc/self/task")]
    return sum("jemalloc" not in name for name in names), pa.cpu_count(), pa.io_thread_count()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux only")
def test_worker_has_one_working_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "4")
    code = "import numpy, os; print(len(os.listdir('/proc/self/task')))"
    free = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if int(free.stdout) == 1:
        pytest.skip("numpy starts no threads here")
    ((threads, cpu, io),) = run_jobs(count_threads, [1], 1, lambda job, cause: pytest.fail(cause))
    assert (threads, cpu, io) == (2, 1, 1)  # the second thread waits for the parent's end
    assert os.environ["OMP_NUM_THREADS"] == "4"
