"""Worker processes of this machine that take jobs one after another; a failure is a result too."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

import multiprocess as mp
from multiprocess import resource_tracker

from archive_builder.errors import RequestError

Job = TypeVar("Job")
Result = TypeVar("Result")

ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS"), "1"),
    **dict.fromkeys(("NUMEXPR_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "BLOSC_NTHREADS", "ARROW_IO_THREADS"), "1"),
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
"""Set before a worker's Python starts: a process has one thread, and gives back the memory it no longer needs."""


MOST_TOGETHER = 64
"""Items of a batch, at most: fewer small ones are not worth the way to another process."""

BYTES_TOGETHER = 1 << 28
"""Of the files that are read for a batch, about."""

UNGUARDED = 78
"""How a worker ends whose script calls again what started it."""


def run_jobs(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    workers: int,
    lost: Callable[[Job, str], Result],
) -> Iterator[Result]:
    """Run a function on every job in worker processes, and give the results as they come.

    A worker lives for many jobs. One that dies costs the job it was at, and is replaced. Workers are spawned,
    not forked: neither HDF5 nor SQLite survives a fork unharmed. So a script that comes here must do it under
    ``if __name__ == "__main__"``.

    Parameters
    ----------
    function : callable
        Importable by name; what it raises ends its worker, so it had better return its failures.
    jobs : iterable
    workers : int
        How many processes.
    lost : callable
        Gives the result of a job whose worker died, from the job and the cause.

    Raises
    ------
    RequestError
        The script is without that ``if``, and calls :func:`end_if_starting` on its way here.
    """
    waiting = iter(jobs)
    pool = [w for w in (_Worker(function, lost) for _ in range(workers)) if w.start_next(waiting)]
    try:
        while pool:
            for connection in mp.connection.wait([worker.connection for worker in pool]):
                worker = next(w for w in pool if w.connection is connection)
                yield worker.result()
                if not worker.start_next(waiting):
                    pool.remove(worker)
    finally:
        for worker in pool:
            worker.stop()


def run_in_batches(
    function: Callable[[Sequence[Job]], list[Result]],
    items: Sequence[Job],
    together: int,
    workers: int,
    lost: Callable[[Job, str], Result],
) -> Iterator[Result]:
    """Run a function on batches of items in worker processes, and give the results in the order of the items.

    This is for items so small that each alone is not worth the way to another process. With one batch, or one worker,
    it is all done in this process.

    Parameters
    ----------
    function : callable
        As for :func:`run_jobs`; it returns one result for each item of a batch.
    items : sequence
    together : int
        How many items are one batch.
    workers : int
        How many processes, at most.
    lost : callable
        Gives the result of an item whose worker died. The others of its batch are done again, one by one.
    """
    batches = [items[first : first + together] for first in range(0, len(items), together)]
    workers = min(workers, len(batches))
    if workers <= 1:
        for batch in batches:
            yield from function(batch)
        return
    done: dict[int, list[Result] | None] = {}
    first = 0
    for number, results in run_jobs(partial(_run_batch, function), list(enumerate(batches)), workers, _lose_batch):
        done[number] = results
        while first in done:
            answer = done.pop(first)
            yield from _one_by_one(function, batches[first], lost) if answer is None else answer
            first += 1


def end_if_starting() -> None:
    """End this process if it is a worker that has come no further than to import the script that wanted workers.

    It is not to do all over again what the script does; who started it raises an error that says what is wrong. To be
    called first by whatever starts workers.
    """
    if getattr(mp.process.current_process(), "_inheriting", False):  # as multiprocessing itself finds it out
        os._exit(UNGUARDED)


def files_together(sizes: Sequence[int]) -> int:
    """Return how many files of these sizes are one batch of :func:`run_in_batches` that reads them."""
    return max(1, min(MOST_TOGETHER, BYTES_TOGETHER * len(sizes) // max(sum(sizes), 1)))


def _run_batch(
    function: Callable[[Sequence[Job]], list[Result]], job: tuple[int, Sequence[Job]]
) -> tuple[int, list[Result] | None]:
    number, batch = job
    return number, function(batch)


def _lose_batch(job: tuple[int, Sequence[Job]], cause: str) -> tuple[int, None]:
    return job[0], None


def _one_by_one(
    function: Callable[[Sequence[Job]], list[Result]], batch: Sequence[Job], lost: Callable[[Job, str], Result]
) -> Iterator[Result]:
    """Find out which item of a batch it was that a worker died of, in one process."""

    def lost_one(job: Sequence[Job], cause: str) -> list[Result]:
        return [lost(job[0], cause)]

    for results in run_jobs(function, [[item] for item in batch], 1, lost_one):
        yield from results


class _Worker(Generic[Job, Result]):
    """A process that does one job after another."""

    def __init__(self, function: Callable[[Job], Result], lost: Callable[[Job, str], Result]) -> None:
        self._function, self._lost = function, lost
        self._process: Any = None
        self.connection: Any = None
        self._job: Job | None = None

    def start_next(self, waiting: Iterator[Job]) -> bool:
        """Hand out the next job, with a new process if the old one is gone; False if there is none left."""
        self._job = next(waiting, None)
        if self._job is None:
            self.stop()
            return False
        if self._process is None:
            self._begin()
        try:
            self.connection.send(self._job)
        except ConnectionError:  # it died while it had nothing to do
            self.stop()
            self._begin()
            self.connection.send(self._job)
        return True

    def result(self) -> Result:
        """Take the result of the job handed out."""
        assert self._job is not None
        try:
            return self.connection.recv()  # type: ignore[no-any-return]
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            self.stop()
            if code == UNGUARDED:
                raise RequestError(
                    "this starts processes, each of which imports the script that calls it: "
                    "call it under if __name__ == '__main__': there"
                ) from None
            return self._lost(self._job, f"the worker process died ({_cause(code)})")

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self.connection.close()
            self._process.terminate()
            self._process.join()
            self._process = None

    def _begin(self) -> None:
        """Start the process."""
        context = mp.get_context("spawn")
        self.connection, far_end = context.Pipe()
        self._process = context.Process(target=_work, args=(self._function, far_end), daemon=True)
        with environment(ENVIRONMENT), _deaf_to_ctrl_c():
            self._process.start()
        far_end.close()


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Have processes that are started meanwhile find these variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Have processes that are started meanwhile not hear Ctrl-C, not even before they can say so themselves."""
    resource_tracker.ensure_running()  # which would end this when it is started with the first process
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(function: Callable[[Any], Any], connection: Connection[Any, Any]) -> None:
    """Do the jobs that come through a connection until it is closed; Ctrl-C is for who handed them out."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(function(job))


def _end_with_parent() -> None:
    """End this process when the one that handed the jobs out is dead: nobody would take what it makes."""
    mp.parent_process().join()
    os._exit(1)


def _cause(code: int | None) -> str:
    """Say why a process ended."""
    if code == -signal.SIGKILL:
        return "killed: out of memory? Use fewer --workers"
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit status {code}"
