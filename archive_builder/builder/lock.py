"""One build of an archive at a time."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from archive_builder.errors import ArchiveError, one_line
from archive_builder.store.index import utc_now

LOCK_NAME = "build.lock"
"""The lock's file in the archive's folder."""


@dataclass(frozen=True)
class Holder:
    """Who holds an archive's lock, by what its file says."""

    host: str
    """The machine."""

    pid: int
    """The process there."""

    since: str
    """UTC, ISO 8601."""

    alive: bool | None
    """Whether that process is at work; None if it is another machine's."""


def holder_of(archive: Path) -> Holder | None:
    """Return who holds an archive's lock; None if nobody does. No build is hindered by the question."""
    try:
        descriptor = os.open(archive / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        said = _read(descriptor)
        host, pid, since = said.get("host"), said.get("pid"), said.get("since")
        if not (isinstance(host, str) and isinstance(pid, int) and pid > 0 and isinstance(since, str)):
            return None
        return Holder(host, pid, since, _is_held(descriptor, pid) if host == socket.gethostname() else None)
    finally:
        os.close(descriptor)


def _is_held(descriptor: int, pid: int) -> bool:
    """Tell whether a process of this machine is there and holds a lock."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    # It may be another process that has got this number. Trying the lock takes it for a moment, hence not before.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def _read(descriptor: int) -> dict[str, object]:
    """Return what a lock's file says of who holds it; nothing if nobody does."""
    try:
        said = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
    except (ValueError, RecursionError, OSError):
        return {}
    return said if isinstance(said, dict) else {}


class BuildLock:
    """Held while an archive is built.

    The operating system gives the lock of a process back when it dies, however it dies. Where the file system
    keeps locks to one host, what the file says of its holder stands in: a lock left by another host is not taken.

    Parameters
    ----------
    archive : Path
        The archive's folder.

    Raises
    ------
    ArchiveError
        Another build has it; the error names host, process and since when.
    """

    def __init__(self, archive: Path) -> None:
        self._path = archive / LOCK_NAME
        try:
            # Not through a link: what somebody else's archive leads to would be emptied.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(self._path, flags, 0o644)
        except OSError as error:
            raise ArchiveError(f"archive {archive}: its {LOCK_NAME} cannot be written: {one_line(error)}") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            holder = _read(self._descriptor)
            if holder and holder.get("host") != socket.gethostname():
                raise BlockingIOError
            self._write({"host": socket.gethostname(), "pid": os.getpid(), "since": utc_now()})
        except OSError as error:
            holder = _read(self._descriptor)
            os.close(self._descriptor)
            raise ArchiveError(self._refusal(archive, holder, error)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lock back; the file stays, empty."""
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def _refusal(self, archive: Path, holder: dict[str, object], error: OSError) -> str:
        if not isinstance(error, BlockingIOError):
            return f"archive {archive}: its {LOCK_NAME} cannot be locked: {one_line(error)}"
        if not holder:
            return f"archive {archive}: another build is just beginning: wait for it"
        return (
            f"archive {archive}: is being built by process {holder.get('pid')} on {holder.get('host')} since "
            f"{holder.get('since')}: wait for it, or if it is dead remove {self._path}"
        )

    def _write(self, holder: dict[str, object]) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(holder).encode(), 0)
