"""An engine on the ranks of an MPI program, by mpi4py."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, TypeVar

import mpi4py

from archive_builder.errors import EngineError, RequestError, one_line
from archive_builder.run.engine import Engine, Lost, run_on_executor

Job = TypeVar("Job")
Result = TypeVar("Result")

assert mpi4py  # importing mpi4py.MPI starts MPI, so that import comes later


class MpiEngine(Engine):
    """The ranks that ``mpiexec`` started: the first hands out jobs, all others run them. See `Engine`.

    An MPI program cannot continue without one of its ranks: when one dies, ``mpiexec`` ends them all. So this engine
    returns no lost jobs.
    """

    def __init__(self) -> None:
        self._context: Any = None
        self._pool: Any = None

    def __enter__(self) -> Self:
        """Start MPI. All ranks but the first never return from here: they run jobs until the end, and exit."""
        try:
            from mpi4py import MPI
            from mpi4py.futures import MPICommExecutor
        except (ImportError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]  # the other lines list the places searched
            raise RequestError(
                f"--engine mpi: {reason}: load your site's MPI, or get one by: pip install mpich"
            ) from None
        if MPI.COMM_WORLD.Get_size() < 2:
            raise RequestError(
                "--engine mpi: there is one process, which only hands out jobs: for four workers run "
                "mpiexec -n 5 archive-builder build ..."
            )
        self._context = MPICommExecutor(MPI.COMM_WORLD, root=0)
        self._pool = self._context.__enter__()
        if self._pool is None:
            sys.exit(0)
        return self

    def __exit__(self, *error: object) -> None:
        """Let the other ranks exit, each after its current job."""
        self._pool.shutdown(cancel_futures=True)
        self._context.__exit__(*error)

    def run(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result | Lost[Job]]:
        """Run jobs on the other ranks; see `Engine.run`."""
        for _, future in run_on_executor(self._pool, function, jobs):
            if error := future.exception():
                raise EngineError(f"mpi: a rank cannot run its job: {type(error).__name__}: {one_line(error)}")
            yield future.result()
