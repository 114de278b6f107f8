"""Memory, sampled from /proc, and CPU time of all processes below this one."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType

INTERVAL = 0.1
"""Time between two samples, s."""


class Usage:
    """Watch the descendants of this process, without the process itself, while the context is open.

    Attributes
    ----------
    own : int
        Peak of the private memory (``RssAnon + RssShmem``), summed over the processes, bytes.
    resident : int
        The same peak with mapped files (libraries, images), counted in each process, bytes.
    cpu_seconds : float
        CPU time, user and system, of all processes that have ended, s. The times of the cores are added.
    """

    def __init__(self) -> None:
        self.own = self.resident = 0
        self.cpu_seconds = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Usage:
        self.cpu_seconds -= _cpu_seconds_below()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        self.cpu_seconds += _cpu_seconds_below()

    def _watch(self) -> None:
        while not self._over.wait(INTERVAL):
            sizes = [_sizes(pid) for pid in family(os.getpid())[1:]]
            self.own = max(self.own, sum(own for own, _ in sizes))
            self.resident = max(self.resident, sum(resident for _, resident in sizes))


def family(pid: int) -> list[int]:
    """Return a process and all its descendants. Any of its threads may have started them."""
    try:
        lists = [path.read_text(encoding="ascii") for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return [pid]
    children = " ".join(lists).split()
    return [pid, *(one for child in children for one in family(int(child)))]


def _cpu_seconds_below() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _sizes(pid: int) -> tuple[int, int]:
    """Return the private memory of a process, and the same with mapped files, bytes; zeros if the process has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0, 0
    fields = dict(line.split(":", 1) for line in text.splitlines())
    own, files = (
        sum(int(fields[key].split()[0]) * 1024 for key in keys if key in fields)
        for keys in (("RssAnon", "RssShmem"), ("RssFile",))
    )
    return own, own + files
