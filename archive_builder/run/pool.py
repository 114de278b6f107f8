"""Worker processes of this machine that run jobs one after another; a failure is a result too."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Self, TypeVar

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
"""Environment of a worker: one thread a process, and freed memory goes back to the system."""

MOST_TOGETHER = 64
"""Maximum items in a batch: the transfer of smaller batches to another process costs more than it gains."""

BYTES_TOGETHER = 1 << 28
"""Approximate size of the files that are read for a batch, bytes."""

UNGUARDED = 78
"""Exit status of a worker whose script would start workers again."""


def run_jobs(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    workers: int,
    lost: Callable[[Job, str], Result],
) -> Iterator[Result]:
    """Run a function on every job in worker processes, and yield the results as they finish.

    A worker runs many jobs. A worker that dies costs its current job, and is replaced. Workers are spawned, not
    forked: HDF5 and SQLite do not survive a fork. So a script must make this call under
    ``if __name__ == "__main__"``.

    Parameters
    ----------
    function : callable
        Importable by name. It returns its failures: an exception ends its worker.
    jobs : iterable
    workers : int
        Worker processes.
    lost : callable
        Return the result of a job whose worker died, from the job and the cause.

    Raises
    ------
    RequestError
        The script lacks that ``if``, and calls :func:`end_if_starting` before this function.
    """
    with Workers() as pool:
        yield from pool.run(function, jobs, workers, lost)


class Workers:
    """Worker processes that stay for the next call of `run`, as a context manager: leaving it ends them."""

    def __init__(self) -> None:
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.stop()

    def run(
        self,
        function: Callable[[Job], Result],
        jobs: Iterable[Job],
        workers: int,
        lost: Callable[[Job, str], Result],
    ) -> Iterator[Result]:
        """Run a function on every job; see :func:`run_jobs`. Processes above the number of ``workers`` end."""
        waiting = iter(jobs)
        self.resize(workers)
        busy = [worker for worker in self._workers if worker.start_next(function, waiting)]
        try:
            while busy:
                for connection in mp.connection.wait([worker.connection for worker in busy]):
                    worker = next(w for w in busy if w.connection is connection)
                    yield worker.result(lost)
                    if not worker.start_next(function, waiting):
                        busy.remove(worker)
        finally:
            for worker in busy:
                worker.stop()

    def resize(self, workers: int) -> None:
        """Keep at most this number of processes, and make room for this number."""
        for worker in self._workers[workers:]:
            worker.stop()
        self._workers = [*self._workers[:workers], *(_Worker() for _ in range(workers - len(self._workers)))]


def run_in_batches(
    function: Callable[[Sequence[Job]], list[Result]],
    items: Sequence[Job],
    together: int,
    workers: int,
    lost: Callable[[Job, str], Result],
) -> Iterator[Result]:
    """Run a function on batches of items in worker processes, and yield the results in the order of the items.

    Use batches for items that are too small for a transfer to another process each. With one batch, or one worker,
    all items run in this process.

    Parameters
    ----------
    function : callable
        See :func:`run_jobs`; returns one result for each item of a batch.
    items : sequence
    together : int
        Items in a batch.
    workers : int
        Maximum worker processes.
    lost : callable
        Return the result of an item whose worker died. The other items of its batch run again, one by one.
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
    """End this process if it is a worker that still imports the script which started the workers.

    Such a worker must not run the script again. The process that started the worker raises an error. Call this first
    in each function that starts workers.
    """
    if getattr(mp.process.current_process(), "_inheriting", False):  # the flag that multiprocessing itself checks
        os._exit(UNGUARDED)


def files_together(sizes: Sequence[int]) -> int:
    """Return the number of files in a batch of :func:`run_in_batches`, from their sizes in bytes."""
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
    """Run the items of a batch one by one in one process: this finds the item that kills its worker."""

    def lost_one(job: Sequence[Job], cause: str) -> list[Result]:
        return [lost(job[0], cause)]

    for results in run_jobs(function, [[item] for item in batch], 1, lost_one):
        yield from results


class _Worker:
    """A process that runs one job after another."""

    def __init__(self) -> None:
        self._process: Any = None
        self.connection: Any = None
        self._job: Any = None

    def start_next(self, function: Callable[[Job], Result], waiting: Iterator[Job]) -> bool:
        """Send the next job, to a new process if the old one has ended; return False if no job is left."""
        self._job = next(waiting, None)
        if self._job is None:
            return False
        if self._process is None:
            self._begin()
        try:
            self.connection.send((function, self._job))
        except ConnectionError:  # the process died between two jobs
            self.stop()
            self._begin()
            self.connection.send((function, self._job))
        return True

    def result(self, lost: Callable[[Any, str], Result]) -> Result:
        """Return the result of the current job."""
        assert self._job is not None
        try:
            return self.connection.recv()  # type: ignore[no-any-return]
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            self.stop()
            if code == UNGUARDED:
                raise RequestError(
                    "the script starts worker processes, and each of them imports the script: "
                    "make the call under if __name__ == '__main__'"
                ) from None
            return lost(self._job, f"the worker process died ({_cause(code)})")

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
        process = context.Process(target=_work, args=(far_end,), daemon=True)
        with environment(ENVIRONMENT), _deaf_to_ctrl_c():
            process.start()
            self._process = process
        far_end.close()


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that the block starts."""
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
    """Block Ctrl-C in the processes that the block starts, from their first moment; here Ctrl-C waits for its end."""
    resource_tracker.ensure_running()  # its start with the first process would end the block
    pressed: list[tuple[int, Any]] = []
    handler = signal.getsignal(signal.SIGINT)
    # Another thread may take the signal, whatever the mask of this one. Only the main thread may set a handler.
    waits = callable(handler) and threading.current_thread() is threading.main_thread()
    if waits:
        signal.signal(signal.SIGINT, lambda *event: pressed.append(event))
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if waits:
            signal.signal(signal.SIGINT, handler)
    if pressed and callable(handler):
        handler(*pressed[0])


def _work(connection: Connection[Any, Any]) -> None:
    """Run the jobs from a connection, each with its function, until the connection is closed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            function, job = connection.recv()
        except EOFError:
            return
        connection.send(function(job))


def _end_with_parent() -> None:
    """End this process when its parent is dead: no process would take its results."""
    mp.parent_process().join()
    os._exit(1)


def _cause(code: int | None) -> str:
    """Return the cause of a process's end."""
    if code == -signal.SIGKILL:
        return "killed: out of memory? Use fewer --workers"
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit status {code}"
