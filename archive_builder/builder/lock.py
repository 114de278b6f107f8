"""The lock of an archive: one build at a time."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from archive_builder.errors import ArchiveError, one_line
from archive_builder.store.file_locks import MOUNT, NO_LOCKS
from archive_builder.store.index import utc_now

LOCK_NAME = "build.lock"
"""File name of the lock in the archive's folder."""


@dataclass(frozen=True)
class Holder:
    """The process that holds an archive's lock, as named in the lock's file."""

    host: str
    """Host of the process."""

    pid: int
    """Process ID on that host."""

    since: str
    """Start of the build, UTC, ISO 8601."""

    alive: bool | None = None
    """True if the process runs and holds the lock; None if it is on another host."""


def holder_of(archive: Path) -> Holder | None:
    """Return the holder of an archive's lock; None if the lock is free. No build is disturbed."""
    try:
        descriptor = os.open(archive / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        holder = _parse_holder(_read(descriptor))
        if holder is None or holder.host != socket.gethostname():
            return holder
        return replace(holder, alive=_is_held(descriptor, holder.pid))
    finally:
        os.close(descriptor)


def _is_held(descriptor: int, pid: int) -> bool:
    """Return True if a process with this ID runs on this host and a process holds the lock."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    # Another process may have this ID by now. Trying the lock takes it for a moment, so this comes last.
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in NO_LOCKS  # without locks no build can run
    return False


def _read(descriptor: int) -> dict[str, object]:
    """Return the JSON object in a lock's file; empty if the file holds none."""
    try:
        values = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
    except (ValueError, RecursionError, OSError):
        return {}
    return values if isinstance(values, dict) else {}


def _parse_holder(values: dict[str, object]) -> Holder | None:
    host, pid, since = values.get("host"), values.get("pid"), values.get("since")
    if isinstance(host, str) and isinstance(pid, int) and pid > 0 and isinstance(since, str):
        return Holder(host, pid, since)
    return None


class BuildLock:
    """Lock of an archive, held during a build.

    The operating system releases the lock of a process when the process dies, however it dies. Some file systems keep
    locks to one host. There the lock's file protects the archive: a lock with another host's name is not taken.

    Parameters
    ----------
    archive : Path
        Folder of the archive.

    Raises
    ------
    ArchiveError
        Another build holds the lock: the error names host, process and start. Or the lock's file cannot be written.
    """

    def __init__(self, archive: Path) -> None:
        self._path = archive / LOCK_NAME
        try:
            # O_NOFOLLOW: a link in a foreign archive must not empty another file.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(self._path, flags, 0o644)
        except OSError as error:
            reason = f"its {LOCK_NAME} cannot be written: {one_line(error)}"
            raise ArchiveError(f"archive {archive}: {reason}: get write access to the folder") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._try_posix_lock()
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

    def __exit__(self, *_: object) -> None:
        """Release the lock; an empty file stays."""
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)

    def _try_posix_lock(self) -> None:
        """Take a POSIX lock for a moment: SQLite needs it for the index, and may wait a minute before it gives up."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
        except OSError as error:
            if error.errno in NO_LOCKS:
                raise  # any other error: NFS treats both kinds alike, and this process holds the other kind already

    def _refusal(self, archive: Path, holder: dict[str, object], error: OSError) -> str:
        if error.errno in NO_LOCKS:
            return f"archive {archive}: its file system has no file locks ({one_line(error)}): {MOUNT}"
        if not isinstance(error, BlockingIOError):
            return f"archive {archive}: its {LOCK_NAME} cannot be locked: {one_line(error)}"
        if not holder:
            return f"archive {archive}: another build is just starting: wait for its end"
        return (
            f"archive {archive}: is being built by process {holder.get('pid')} on {holder.get('host')} since "
            f"{holder.get('since')}: wait for it, or if it is dead remove {self._path}"
        )

    def _write(self, holder: dict[str, object]) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(holder).encode(), 0)
