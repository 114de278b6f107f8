"""The engine: one interface for the places where jobs run, and retries of lost jobs.

An engine takes a function and jobs, and returns the outcome of each job when the job finishes. An engine knows nothing
of tiles.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from itertools import islice
from typing import Generic, Protocol, Self, TypeVar

from archive_builder.run.pool import Workers

Job = TypeVar("Job")
Result = TypeVar("Result")

log = logging.getLogger(__name__)

SUBMITTED = 2000
"""Maximum jobs submitted at once: more than the workers of any site, few enough for the memory."""

GLANCE = 1.0
"""Time between two checks that an engine is alive, s."""


@dataclass(frozen=True)
class Lost(Generic[Job]):
    """Outcome of a job whose worker died."""

    job: Job
    """The job. The worker may have finished it before it died."""

    cause: str
    """Cause of the worker's death."""


class Engine(Protocol):
    """A place where jobs run, as a context manager.

    Entering an engine makes sure that it can run jobs. Leaving it ends its processes and batch jobs, finished or not.
    """

    def __enter__(self) -> Self:
        """Prepare to run jobs; usually there is nothing to do.

        Raises
        ------
        RequestError
            The engine cannot run jobs as requested.
        """
        return self

    def __exit__(self, *error: object) -> None:
        """End processes and batch jobs; running jobs are cancelled. Usually there is nothing to do."""
        return

    def run(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result | Lost[Job]]:
        """Run a function on every job, and yield the outcome of each job when it finishes.

        Parameters
        ----------
        function : callable
            Importable by name. It returns its failures: an exception ends more than its job.
        jobs : sequence
            Jobs made of plain values: an engine may send them to another host.

        Raises
        ------
        EngineError
            The engine as a whole has failed: no more outcomes follow.
        """


def run_with_retries(
    engine: Engine,
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    retries: int,
    on_retry: Callable[[Lost[Job]], None] = lambda lost: None,
) -> Iterator[Result | Lost[Job]]:
    """Run jobs; when all have finished, run the lost ones again.

    A worker believed dead may still run its job: the function must allow two runs of a job at the same time.

    Parameters
    ----------
    engine : Engine
    function : callable
        See :meth:`Engine.run`.
    jobs : sequence
    retries : int
        Maximum retries of a lost job.
    on_retry : callable
        Called with each lost job that runs again.
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


class LocalEngine(Engine):
    """Worker processes of this machine, kept from one run to the next. See :class:`Engine`.

    Parameters
    ----------
    workers : int
        Maximum worker processes.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool = Workers()

    def resize(self, workers: int) -> None:
        """Change the maximum number of worker processes, between two runs; processes above this number end."""
        self._workers = workers
        self._pool.resize(workers)

    def __exit__(self, *error: object) -> None:
        """End the processes."""
        self._pool.__exit__(*error)

    def run(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result | Lost[Job]]:
        """Run jobs in worker processes; see :meth:`Engine.run`."""
        lost: Callable[[Job, str], Result | Lost[Job]] = Lost
        return self._pool.run(function, map(_announced, jobs), self._workers, lost)


def _announced(job: Job) -> Job:
    """Log that a worker takes a job, unless the job's text is empty."""
    if text := str(job):
        log.info("%s starts", text)
    return job


def run_on_executor(
    executor: Executor,
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    look: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Job, Future[Result]]]:
    """Submit jobs to an executor, and yield each job with its finished future.

    Parameters
    ----------
    executor : concurrent.futures.Executor
    function : callable
    jobs : iterable
        At most `SUBMITTED` jobs are submitted at a time.
    look : callable
        Called at least every `GLANCE` seconds; it may set an error on futures that can no longer finish.
    """
    waiting, out = iter(jobs), dict[Future[Result], Job]()
    while True:
        out |= {executor.submit(function, job): job for job in islice(waiting, SUBMITTED - len(out))}
        if not out:
            return
        done, _ = wait(out, timeout=GLANCE, return_when=FIRST_COMPLETED)
        yield from ((out.pop(future), future) for future in done)
        look()
