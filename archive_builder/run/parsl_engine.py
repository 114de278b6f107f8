"""Jobs on a cluster, by Parsl: its configuration says on which, and how workers are started there."""

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
from types import TracebackType
from typing import Any, Self, TypeVar

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
from archive_builder.run.engines import Lost, run_on_executor
from archive_builder.run.pool import ENVIRONMENT, environment

Job = TypeVar("Job")
Result = TypeVar("Result")

USUAL_RUN_DIR = "runinfo"
"""Where Parsl writes if a configuration does not say: into the current folder."""

USUAL_INTERCHANGE = ["interchange.py"]
"""How Parsl starts its interchange if a configuration does not say."""

FAILED = (JobState.FAILED, JobState.MISSING)
"""States of a block, a batch job that is, that never had workers."""


class ParslEngine:
    """Workers that Parsl starts. See `Engine`.

    Parameters
    ----------
    path : Path
        A Python file that makes a `parsl.config.Config` called ``config``.
    logs : Path
        Where Parsl writes, unless the configuration has a ``run_dir``: what was left there is removed. The workers'
        hosts must see it too: their keys are there.

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

    def __enter__(self) -> Self:
        """Do nothing: workers are asked for when there are jobs for them."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the batch jobs back and end what runs here."""
        self._environment.close()
        if self._kernel is None:
            return
        self._look()
        executors = _with_blocks(self._kernel)
        is_whole = all(map(_is_alive, executors))
        for executor in executors:
            if executor.bad_state_is_set or not is_whole:
                _cancel_blocks(executor)  # Parsl itself does not
        if is_whole:
            self._kernel.cleanup()  # it would wait for ever for an interchange that is gone

    def run(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result | Lost[Job]]:
        """Run jobs on Parsl's workers; see :meth:`archive_builder.run.engines.Engine.run`."""
        if not jobs:
            return
        if self._kernel is None:
            self._kernel = self._start()
        pool = ParslPoolExecutor(dfk=self._kernel)
        for job, future in run_on_executor(pool, function, jobs, self._look):
            outcome = self._outcome(job, future)
            yield outcome

    def _start(self) -> Any:
        """Start Parsl; it asks for workers as soon as jobs are submitted."""
        if self._config.run_dir == USUAL_RUN_DIR:
            shutil.rmtree(self._logs, ignore_errors=True)
            self._config.run_dir = str(self._logs)
        # Batch systems hand the environment on to the workers. Parsl starts them by a program's name, and who calls
        # archive-builder by its path has not put the folder on the PATH where that program is.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        self._environment.enter_context(environment({**ENVIRONMENT, "PATH": path}))
        try:
            return DataFlowKernel(self._config)
        except Exception as error:  # Parsl raises no kind of its own
            raise EngineError(f"parsl: cannot be started: {one_line(error)}: {self._hint()}") from None

    def _outcome(self, job: Job, future: Future[Result]) -> Result | Lost[Job]:
        """Return what came of a job.

        Raises
        ------
        EngineError
            It is not the job's fault, nor its worker's alone.
        """
        error = future.exception()
        if error is None:
            return future.result()
        if isinstance(error, ManagerLost | WorkerLost):
            return Lost(job, f"the worker process died on {error.hostname}")
        if isinstance(error, BadStateException):
            raise EngineError(f"parsl: no workers can be had: {_why(error)}: {self._hint()}")
        raise EngineError(f"parsl: a worker cannot run its job: {one_line(error)}: {self._hint()}")

    def _look(self) -> None:
        """Give up an executor whose interchange is dead: Parsl itself would wait on."""
        for executor in _with_blocks(self._kernel):
            if not (_is_alive(executor) or executor.bad_state_is_set):
                executor.set_bad_state_and_fail_all(RuntimeError("its interchange died"))

    def _hint(self) -> str:
        return f"see {self._config.run_dir}, mend {self._path} if it is to blame, and build again"


def _load(path: Path) -> Config:
    """Run a configuration file.

    Raises
    ------
    RequestError
        It cannot be read or run, or makes no configuration with executors of other processes.
    """
    if not path.is_file():
        raise RequestError(f"Parsl's configuration {path}: there is no such file")
    try:
        config = runpy.run_path(str(path)).get("config")
    except Exception as error:  # it is a program: anything may come of it
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        place = f" line {lines[-1]}:" if lines else ""
        raise RequestError(f"Parsl's configuration {path}:{place} {type(error).__name__}: {one_line(error)}") from None
    if not isinstance(config, Config):
        raise RequestError(f"Parsl's configuration {path}: makes no parsl.config.Config of the name config")
    for executor in config.executors:
        if isinstance(executor, ThreadPoolExecutor):  # which Parsl takes if none is given
            raise RequestError(
                f"Parsl's configuration {path}: has no executor but threads of this process: "
                "give it a parsl.executors.HighThroughputExecutor"
            )
        _make_safe(executor, config.strategy)
    return config


def _make_safe(executor: Any, strategy: str | None) -> None:
    """Have an executor end with the build, and have a build end that can get no workers any more."""
    if isinstance(executor, HighThroughputExecutor) and list(executor.interchange_launch_cmd) == USUAL_INTERCHANGE:
        module = "archive_builder.run.parsl_interchange"
        executor.interchange_launch_cmd = [sys.executable, "-m", module, str(os.getpid())]
    if getattr(executor, "block_error_handler", None) is simple_error_handler:
        executor.block_error_handler = _judge_without_scaling if strategy in (None, "none") else _judge


def _judge(executor: BlockProviderExecutor, status: dict[str, JobStatus]) -> None:
    """Give an executor up if none of its blocks could be started, or none of the last three.

    Parsl's usual handler asks the first only: where the batch system refuses further blocks after good ones, it
    would ask for them for ever.
    """
    simple_error_handler(executor, status)
    windowed_error_handler(executor, status)


def _judge_without_scaling(executor: BlockProviderExecutor, status: dict[str, JobStatus]) -> None:
    """Give an executor up as soon as all its blocks have ended, for no others will be started."""
    _judge(executor, status)
    if status and all(block.terminal for block in status.values()) and not executor.bad_state_is_set:
        reason = "its blocks have ended, and its strategy 'none' asks for no others"
        executor.set_bad_state_and_fail_all(RuntimeError(reason))


def _with_blocks(kernel: Any) -> list[Any]:
    """Return the executors that have batch jobs, or the like, at work."""
    return [executor for executor in kernel.executors.values() if isinstance(executor, BlockProviderExecutor)]


def _is_alive(executor: Any) -> bool:
    """Tell whether an executor's interchange runs, if it has one."""
    process = getattr(executor, "interchange_proc", None)
    return process is None or process.poll() is None


def _why(error: BadStateException) -> str:
    """Return why an executor was given up: of blocks that failed, what the last of them left behind."""
    executor = error.executor
    if not isinstance(executor.executor_exception, TooManyJobFailuresError):
        return one_line(executor.executor_exception)
    last = [block for block in executor.status_facade.values() if block.state in FAILED][-1]
    return " ".join(f"{last.message or ''} {last.stderr_summary or ''}".split())


def _cancel_blocks(executor: Any) -> None:
    """Cancel the batch jobs that may still be there."""
    status = executor.status_facade
    left = [
        job for block, job in executor.blocks_to_job_id.items() if block not in status or not status[block].terminal
    ]
    if left:
        executor.provider.cancel(left)
