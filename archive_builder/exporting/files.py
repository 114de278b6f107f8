"""Writing files in the background while the next files are made."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from archive_builder.atomic import write_whole
from archive_builder.errors import ArchiveBuilderError, one_line

THREADS = 2
"""Threads that write: one waits for the disk while the other makes the next file."""

WAITING = 8
"""Maximum files in the queue, 1 MB each at 228 px in five bands."""


class FileWriter:
    """Writer of whole files in the background. Leaving its context waits for all files.

    The disk writes while the processor makes the next files. At most `WAITING` files wait, so an error shows a few
    files later at most.
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
        """Write a file in the background, and create its folder if necessary.

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
        raise ArchiveBuilderError(f"{path.parent}: cannot be created: {one_line(error)}") from None
    write_whole(path, content)
