"""What the processes that are measured take: memory, sampled while they run, and CPU time of all below this one."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import TracebackType

INTERVAL = 0.1
"""Seconds between two samples."""


class Usage:
    """Watches the processes below this one, this one left out, while the context is open.

    Attributes
    ----------
    own : int
        Bytes, at most at one time, summed over the processes: what is theirs alone (``RssAnon + RssShmem``).
    resident : int
        The same with the files that they have mapped, libraries and images, once for each process.
    cpu_seconds : float
        Of all that have ended, user and system, on however many cores.
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
    """Return a process and all its descendants, whichever of its threads started them."""
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
    """Return what a process has in memory in bytes: its own, and with mapped files; nothing if it has just ended."""
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
