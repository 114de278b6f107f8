"""One build of an archive at a time."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from archive_builder.errors import ArchiveError, one_line
from archive_builder.store.index import utc_now

LOCK_NAME = "build.lock"
"""The lock's file in the archive's folder."""


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
            holder = self._holder()
            if holder and holder.get("host") != socket.gethostname():
                raise BlockingIOError
            self._write({"host": socket.gethostname(), "pid": os.getpid(), "since": utc_now()})
        except OSError as error:
            holder = self._holder()
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

    def _holder(self) -> dict[str, object]:
        """Return what the file says of who holds it; nothing if nobody does."""
        try:
            said = json.loads(os.pread(self._descriptor, 4096, 0) or b"{}")
        except (ValueError, RecursionError):
            return {}
        return said if isinstance(said, dict) else {}

    def _write(self, holder: dict[str, object]) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(holder).encode(), 0)
