"""An engine on a cluster, by Parsl: its configuration defines the cluster and the start of the workers."""

from __future__ import annotations

import os
import runpy
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from parsl.concurrent import ParslPoolExecutor
from parsl.config import Config
from parsl.dataflow.dflow import DataFlowKernel
from parsl.executors import HighThroughputExecutor, ThreadPoolExecutor
from parsl.executors.errors import BadStateException
from parsl.executors.high_throughput.errors import ManagerLost, WorkerLost
from parsl.executors.status_handling import BlockProviderExecutor
from parsl.jobs.error_handlers import simple_error_handler, windowed_error_handler
from parsl.jobs.errors import TooManyJobFailuresError
from parsl.jobs.states import JobState, JobStatus

from archive_builder.errors import EngineError, RequestError, one_line
from archive_builder.run.engine import Engine, Lost, run_on_executor
from archive_builder.run.pool import ENVIRONMENT, environment

Job = TypeVar("Job")
Result = TypeVar("Result")

USUAL_RUN_DIR = "runinfo"
"""Parsl's default for ``run_dir``: a folder in the current folder."""

USUAL_INTERCHANGE = ["interchange.py"]
"""Parsl's default command for its interchange."""

FAILED = (JobState.FAILED, JobState.MISSING)
"""States of a block (a batch job) that never had workers."""


class ParslEngine(Engine):
    """Workers that Parsl starts. See `Engine`.

    Parameters
    ----------
    path : Path
        Python file that defines a `parsl.config.Config` called ``config``.
    logs : Path
        Folder for Parsl's files, unless the configuration has a ``run_dir``; old files there are removed. The hosts
        of the workers must share it: it holds their keys.

    Raises
    ------
    RequestError
        The configuration cannot be used.
    """

    def __init__(self, path: Path, logs: Path) -> None:
        self._path, self._logs = path, logs
        self._config = _load(path)
        self._kernel: Any = None
        self._environment = ExitStack()

    def __exit__(self, *error: object) -> None:
        """Cancel the batch jobs, and end Parsl's processes on this machine."""
        self._environment.close()
        if self._kernel is None:
            return
        self._look()
        executors = _with_blocks(self._kernel)
        is_whole = all(map(_is_alive, executors))
        for executor in executors:
            if executor.bad_state_is_set or not is_whole:
                _cancel_blocks(executor)  # Parsl does not
        if is_whole:
            self._kernel.cleanup()  # waits forever for a dead interchange

    def run(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result | Lost[Job]]:
        """Run jobs on Parsl's workers; see `Engine.run`."""
        if not jobs:
            return
        if self._kernel is None:
            self._kernel = self._start()
        pool = ParslPoolExecutor(dfk=self._kernel)
        for job, future in run_on_executor(pool, function, jobs, self._look):
            outcome = self._outcome(job, future)
            yield outcome

    def _start(self) -> Any:
        """Start Parsl; it requests workers when jobs are submitted."""
        if self._config.run_dir == USUAL_RUN_DIR:
            shutil.rmtree(self._logs, ignore_errors=True)
            self._config.run_dir = str(self._logs)
        # Batch systems pass the environment to the workers. Parsl starts a worker by the name of a program: its folder
        # is not on the PATH if archive-builder was called by its full path.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        self._environment.enter_context(environment({**ENVIRONMENT, "PATH": path}))
        try:
            return DataFlowKernel(self._config)
        except Exception as error:  # Parsl has no error class of its own
            raise EngineError(f"parsl: cannot be started: {one_line(error)}: {self._hint()}") from None

    def _outcome(self, job: Job, future: Future[Result]) -> Result | Lost[Job]:
        """Return the outcome of a job.

        Raises
        ------
        EngineError
            The failure concerns more than the job and its worker.
        """
        error = future.exception()
        if error is None:
            return future.result()
        if isinstance(error, ManagerLost | WorkerLost):
            return Lost(job, f"the worker process died on {error.hostname}")
        if isinstance(error, BadStateException):
            raise EngineError(f"parsl: there are no workers: {_why(error)}: {self._hint()}")
        raise EngineError(f"parsl: a worker cannot run its job: {one_line(error)}: {self._hint()}")

    def _look(self) -> None:
        """Fail the jobs of an executor whose interchange is dead: Parsl would wait forever."""
        for executor in _with_blocks(self._kernel):
            if not (_is_alive(executor) or executor.bad_state_is_set):
                executor.set_bad_state_and_fail_all(RuntimeError("its interchange died"))

    def _hint(self) -> str:
        return f"see the logs in {self._config.run_dir}, correct {self._path} if needed, and build again"


def _load(path: Path) -> Config:
    """Return the configuration that a file defines.

    Raises
    ------
    RequestError
        The file cannot be read or run, or defines no configuration with executors of other processes.
    """
    if not path.is_file():
        raise RequestError(f"Parsl's configuration {path}: there is no such file")
    try:
        config = runpy.run_path(str(path)).get("config")
    except Exception as error:  # the file is a program and may raise anything
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        place = f" line {lines[-1]}:" if lines else ""
        raise RequestError(f"Parsl's configuration {path}:{place} {type(error).__name__}: {one_line(error)}") from None
    if not isinstance(config, Config):
        raise RequestError(f"Parsl's configuration {path}: defines no parsl.config.Config called config")
    for executor in config.executors:
        if isinstance(executor, ThreadPoolExecutor):  # Parsl's default
            raise RequestError(
                f"Parsl's configuration {path}: has an executor that runs threads of this process: "
                "give it a parsl.executors.HighThroughputExecutor"
            )
        _make_safe(executor, config.strategy)
    return config


def _make_safe(executor: Any, strategy: str | None) -> None:
    """Make an executor end with the build, and a build end that can no longer get workers."""
    if isinstance(executor, HighThroughputExecutor) and list(executor.interchange_launch_cmd) == USUAL_INTERCHANGE:
        module = "archive_builder.run.parsl_interchange"
        executor.interchange_launch_cmd = [sys.executable, "-m", module, str(os.getpid())]
    if getattr(executor, "block_error_handler", None) is simple_error_handler:
        executor.block_error_handler = _judge_without_scaling if strategy in (None, "none") else _judge


def _judge(executor: BlockProviderExecutor, status: dict[str, JobStatus]) -> None:
    """Fail an executor if none of its blocks could start, or none of the last three.

    Parsl's default handler checks the first condition only. If the batch system refuses further blocks after good
    ones, Parsl would request blocks forever.
    """
    simple_error_handler(executor, status)
    windowed_error_handler(executor, status)


def _judge_without_scaling(executor: BlockProviderExecutor, status: dict[str, JobStatus]) -> None:
    """Fail an executor when all its blocks have ended: Parsl starts no others without a strategy."""
    _judge(executor, status)
    if status and all(block.terminal for block in status.values()) and not executor.bad_state_is_set:
        reason = "its blocks have ended, and its strategy 'none' requests no others"
        executor.set_bad_state_and_fail_all(RuntimeError(reason))


def _with_blocks(kernel: Any) -> list[Any]:
    """Return the executors that run blocks, such as batch jobs."""
    return [executor for executor in kernel.executors.values() if isinstance(executor, BlockProviderExecutor)]


def _is_alive(executor: Any) -> bool:
    """Return True if an executor's interchange runs, or if the executor has none."""
    process = getattr(executor, "interchange_proc", None)
    return process is None or process.poll() is None


def _why(error: BadStateException) -> str:
    """Return the reason why an executor failed: for failed blocks, the messages of the last one."""
    executor = error.executor
    if not isinstance(executor.executor_exception, TooManyJobFailuresError):
        return one_line(executor.executor_exception)
    last = [block for block in executor.status_facade.values() if block.state in FAILED][-1]
    return " ".join(f"{last.message or ''} {last.stderr_summary or ''}".split())


def _cancel_blocks(executor: Any) -> None:
    """Cancel the batch jobs that may still run."""
    status = executor.status_facade
    left = [
        job for block, job in executor.blocks_to_job_id.items() if block not in status or not status[block].terminal
    ]
    if left:
        executor.provider.cancel(left)
