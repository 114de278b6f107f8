"""CPUs and memory of this machine that a build may use, by Slurm, control groups and the system."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from archive_builder.units import whole_number

MARGIN = 0.9
"""Default share of the free memory for a build: the page cache and other processes need the rest."""


def available_cpus(environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of CPUs this process may use, by its affinity and Slurm's allocation."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = _number(environment, "SLURM_CPUS_PER_TASK") or _number(environment, "SLURM_CPUS_ON_NODE")
    return min(cpus, given or cpus)


def worker_processes(workers: int | None) -> int:
    """Return the number of worker processes of a request: one per CPU if it names none.

    Raises
    ------
    RequestError
        The number is not a whole number, or less than 1.
    """
    return available_cpus() if workers is None else whole_number(workers, "workers", 1)


def available_memory(
    environment: Mapping[str, str] = os.environ, groups: Path = Path("/sys/fs/cgroup"), system: Path = Path("/proc")
) -> int:
    """Return the default memory of a build, bytes: the free memory, less a margin.

    The free memory is the least of the system's free memory, Slurm's allocation and the control groups' limits.
    """
    limits = [*_free(system), *_of_slurm(environment), *_of_groups(groups, system)]
    return int(min(limits, default=2 * 10**9) * MARGIN)


def _free(system: Path) -> Iterator[int]:
    """Yield the free memory of the system, bytes; its whole memory if the free part is unknown."""
    with suppress(OSError, IndexError, ValueError):
        text = (system / "meminfo").read_text(encoding="ascii")
        yield int(text.split("MemAvailable:")[1].split()[0]) * 1024
        return
    with suppress(OSError, ValueError):
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _of_slurm(environment: Mapping[str, str]) -> Iterator[int]:
    """Yield the job's memory on this node, bytes. Slurm counts in MiB; 0 means the whole node."""
    if node := _number(environment, "SLURM_MEM_PER_NODE"):
        yield node * 2**20
    if cpu := _number(environment, "SLURM_MEM_PER_CPU"):
        yield cpu * 2**20 * (_number(environment, "SLURM_CPUS_ON_NODE") or 1)


def _of_groups(groups: Path, system: Path) -> Iterator[int]:
    """Yield the limits of this process's control groups and their parents, bytes, for versions 1 and 2."""
    with suppress(OSError):
        for line in (system / "self/cgroup").read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                root, name = groups, "memory.max"
            elif "memory" in controllers.split(","):
                root, name = groups / "memory", "memory.limit_in_bytes"
            else:
                continue
            folder = root / path.strip("/")
            for above in (folder, *folder.parents):
                with suppress(OSError, ValueError):
                    yield int((above / name).read_text(encoding="ascii"))
                if above == root:
                    break


def _number(environment: Mapping[str, str], name: str) -> int | None:
    """Return an environment variable as a number; None if the value is not a whole number."""
    text = environment.get(name, "")
    return int(text) if text.isdecimal() else None
