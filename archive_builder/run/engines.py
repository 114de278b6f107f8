"""Where jobs run: one interface, what stands behind it by name, and what happens to jobs that get lost.

An engine is handed a function and jobs, and hands back what comes of each as it finishes. It knows nothing of tiles.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from archive_builder.errors import RequestError
from archive_builder.run.pool import run_jobs

Job = TypeVar("Job")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

PARSL_FOLDER = "parsl"
"""The folder in an archive in which Parsl keeps the logs of the last build."""

SUBMITTED = 2000
"""Jobs an engine is given at once: more than any site has workers, and few enough to be forgotten without loss."""

GLANCE = 1.0
"""Seconds between two looks at whether an engine is still alive."""


@dataclass(frozen=True)
class Lost(Generic[Job]):
    """What comes of a job whose worker died."""

    job: Job
    """The job: as far as anybody knows it was not done."""

    cause: str
    """Why the worker died."""


class Engine(Protocol):
    """Where jobs run.

    Entering it makes sure that it can run jobs at all; leaving it gives back what it holds - processes, batch jobs -
    whether or not all is done.
    """

    def __enter__(self) -> Self:
        """Make ready.

        Raises
        ------
        RequestError
            It cannot run jobs as it was asked for.
        """

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give back what is held; jobs that still run are given up."""

    def run(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result | Lost[Job]]:
        """Run a function on every job, and yield what comes of each as it finishes.

        Parameters
        ----------
        function : callable
            Importable by name; it had better return its failures, for what it raises ends more than its job.
        jobs : sequence
            Of plain values: they may be sent to another host.

        Raises
        ------
        EngineError
            The engine as a whole has failed: no more can come.
        """


def choose_engine(name: str, *, parsl_config: Path | None, archive: Path) -> Engine | None:
    """Return an engine by its name; None for processes of this machine, whose number follows from its memory.

    Parameters
    ----------
    name : str
        One of `archive_builder.choices.ENGINES`.
    parsl_config : Path or None
        A Python file that makes Parsl's ``config``.
    archive : Path
        The archive's folder: Parsl's logs go there, for all hosts share it.

    Raises
    ------
    RequestError
        What is asked for makes no sense, or is not installed.
    """
    if (name == "parsl") != (parsl_config is not None):
        raise RequestError("--engine parsl and --parsl-config FILE go together: give both or neither")
    try:
        if parsl_config is not None:
            from archive_builder.run.parsl_engine import ParslEngine

            return ParslEngine(parsl_config, archive.absolute() / PARSL_FOLDER)
        if name == "mpi":
            from archive_builder.run.mpi_engine import MpiEngine

            return MpiEngine()
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing not in ("parsl", "mpi4py"):
            raise
        raise RequestError(f"--engine {name} needs {missing}: pip install '.[{name}]'") from None
    return None


def run_with_retries(
    engine: Engine,
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    retries: int,
    on_retry: Callable[[Lost[Job]], None] = lambda lost: None,
) -> Iterator[Result | Lost[Job]]:
    """Run jobs, and after all others those once more that were lost, up to so many times.

    A worker believed dead may be alive and at its job still: the function must bear being run twice at once.
    """
    for left in range(retries, -1, -1):
        again = []
        for outcome in engine.run(function, jobs):
            if isinstance(outcome, Lost) and left:
                on_retry(outcome)
                again.append(outcome.job)
            else:
                yield outcome
        jobs = again


class LocalEngine:
    """Processes of this machine. See :class:`Engine`."""

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def __enter__(self) -> Self:
        """Do nothing: :meth:`run` starts the processes."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: :meth:`run` ends them."""

    def run(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result | Lost[Job]]:
        """Run jobs in processes of their own; see :meth:`Engine.run`."""
        lost: Callable[[Job, str], Result | Lost[Job]] = Lost
        return run_jobs(function, map(_announced, jobs), self._workers, lost)


def _announced(job: Job) -> Job:
    """Log that a worker takes a job."""
    log.info("%s starts", job)
    return job


def run_on_executor(
    executor: Executor,
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    look: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Job, Future[Result]]]:
    """Submit jobs to an executor, and yield each with its future when that is done.

    Parameters
    ----------
    executor : concurrent.futures.Executor
    function : callable
    jobs : iterable
        Taken as they are needed: never more than `SUBMITTED` are out.
    look : callable
        Called every now and then, to have futures fail from which nothing can come any more.
    """
    waiting, out = iter(jobs), dict[Future[Result], Job]()
    while True:
        out |= {executor.submit(function, job): job for job in islice(waiting, SUBMITTED - len(out))}
        if not out:
            return
        done, _ = wait(out, timeout=GLANCE, return_when=FIRST_COMPLETED)
        yield from ((out.pop(future), future) for future in done)
        look()
