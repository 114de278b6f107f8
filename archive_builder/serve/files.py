"""Files that are there whole or not at all, and many of them written while the next ones are made."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from archive_builder.errors import ArchiveBuilderError, one_line

THREADS = 2
"""That write: one waits for the disk while the other makes the next file."""

WAITING = 8
"""Files that may wait to be written, 1 MB each at 228 px in five bands."""


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it: it is there whole or not at all.

    Raises
    ------
    ArchiveBuilderError
        The file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):  # it may be the folder's fault that neither can be done
            temporary.unlink()
        raise ArchiveBuilderError(f"{path}: cannot be written: {one_line(error)}") from None


class FileWriter:
    """Writes files in the background, as :func:`write_whole` does; leaving its context waits for all of them.

    The disk is at work while the processor makes the next files. Little waits: what fills up memory or what
    fails is noticed a few files later.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS)
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._threads:
            while kind is None and self._waiting:
                self._waiting.popleft().result()

    def put(self, path: Path, content: bytes) -> None:
        """Have a file written; its folder is made if it is not there.

        Raises
        ------
        ArchiveBuilderError
            This file or an earlier one cannot be written.
        """
        self._waiting.append(self._threads.submit(_write, path, content))
        while len(self._waiting) > WAITING:
            self._waiting.popleft().result()


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArchiveBuilderError(f"{path.parent}: cannot be made: {one_line(error)}") from None
    write_whole(path, content)
