"""Jobs on the ranks of an MPI program, by mpi4py."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import mpi4py

from archive_builder.errors import EngineError, RequestError, one_line
from archive_builder.run.engines import Lost, run_on_executor

Job = TypeVar("Job")
Result = TypeVar("Result")

assert mpi4py  # MPI itself begins when mpi4py.MPI is imported: not before it is needed


class MpiEngine:
    """The ranks that ``mpiexec`` started: the first hands out jobs, all others do them. See `Engine`.

    MPI knows no program that goes on without one of its ranks: when one dies, ``mpiexec`` ends them all. No job is
    ever lost alone.
    """

    def __init__(self) -> None:
        self._context: Any = None
        self._pool: Any = None

    def __enter__(self) -> Self:
        """Make ready; all ranks but the first never come back from here: they do jobs until there are no more."""
        try:
            from mpi4py import MPI
            from mpi4py.futures import MPICommExecutor
        except (ImportError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]  # the others are where it was looked for
            raise RequestError(
                f"--engine mpi: {reason}: load your site's MPI, or get one by: pip install mpich"
            ) from None
        if MPI.COMM_WORLD.Get_size() < 2:
            raise RequestError(
                "--engine mpi: there is one process, which would only hand out tiles: start it as "
                "mpiexec -n 5 archive-builder build ... for four workers"
            )
        self._context = MPICommExecutor(MPI.COMM_WORLD, root=0)
        self._pool = self._context.__enter__()
        if self._pool is None:
            sys.exit(0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the other ranks go, each after the job it is at."""
        self._pool.shutdown(cancel_futures=True)
        self._context.__exit__(kind, value, trace)

    def run(self, function: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[Result | Lost[Job]]:
        """Run jobs on the other ranks; see :meth:`archive_builder.run.engines.Engine.run`."""
        for _, future in run_on_executor(self._pool, function, jobs):
            if error := future.exception():
                raise EngineError(f"mpi: a rank cannot run its job: {type(error).__name__}: {one_line(error)}")
            yield future.result()
