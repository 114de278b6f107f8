"""Where jobs run: this process, or worker processes of this machine."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import multiprocess as mp

from archive_builder.build.tile_job import TileJob, TileResult, run_job


def run_local(jobs: Iterable[TileJob], workers: int) -> Iterator[TileResult]:
    """Run jobs on this machine, a worker process each, and give their results as they come.

    A worker lives for many tiles. One that dies costs the tile it was at, which is reported as failed, and
    is replaced. Workers are spawned, not forked: neither HDF5 nor SQLite survives a fork unharmed.

    Parameters
    ----------
    jobs : iterable of TileJob
    workers : int
        How many processes.
    """
    waiting = iter(jobs)
    pool = [worker for worker in (_Worker() for _ in range(workers)) if worker.start_next(waiting)]
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


class _Worker:
    """A process that builds one tile after another."""

    def __init__(self) -> None:
        self._process: Any = None
        self.connection: Any = None
        self._job: TileJob | None = None

    def start_next(self, waiting: Iterator[TileJob]) -> bool:
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

    def _begin(self) -> None:
        """Start the process."""
        context = mp.get_context("spawn")
        self.connection, far_end = context.Pipe()
        self._process = context.Process(target=_work, args=(far_end,), daemon=True)
        self._process.start()
        far_end.close()

    def result(self) -> TileResult:
        """Take the result of the job handed out."""
        assert self._job is not None
        try:
            return self.connection.recv()  # type: ignore[no-any-return]
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            self.stop()
            return TileResult(self._job.files.tile, error=f"the worker process died ({_cause(code)})")

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self.connection.close()
            self._process.terminate()
            self._process.join()
            self._process = None


def _work(connection: Connection[Any, Any]) -> None:
    """Build the tiles that come through a connection until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the builder's to answer
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(run_job(job))


def _cause(code: int | None) -> str:
    """Say why a process ended."""
    if code == -signal.SIGKILL:
        return "killed: out of memory? Use fewer --workers"
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit status {code}"
