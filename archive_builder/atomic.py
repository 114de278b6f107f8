"""Writing a file whole or not at all, and flushing the file to the disk."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from archive_builder.errors import ArchiveBuilderError, one_line

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.\d+\.part(-journal)?")
"""Names that :func:`temporary_path` gives, and those of the journals that SQLite writes beside such a file."""


def temporary_path(path: Path) -> Path:
    """Return a name beside ``path`` for the file while it is written.

    No other process writes to this name, on any host: it holds a random number.

    Examples
    --------
    >>> temporary_path(Path("shards/A.1.h5"))
    PosixPath('shards/.A.1.h5.1f0e8c6b5a493827.4711.part')
    """
    return path.with_name(f".{path.name}.{token_hex(8)}.{os.getpid()}.part")


@contextmanager
def whole_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Write a file under a temporary name, and rename it when the block ends without an error.

    Parameters
    ----------
    path : Path
        The file's final name. An existing file is replaced.
    durable : bool
        Flush the file and its new name to the disk.

    Yields
    ------
    Path
        The temporary name to write to. A file left there by an error is removed.

    Examples
    --------
    >>> with whole_file(Path("manifest.csv"), durable=True) as temporary:
    ...     temporary.write_text("row,status")
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        if durable:
            sync(temporary)
            rename_durably(temporary, path)
        else:
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises
    ------
    ArchiveBuilderError
        The file cannot be written.
    """
    try:
        with whole_file(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise ArchiveBuilderError(f"{path}: cannot be written: {one_line(error)}") from None


def rename_durably(path: Path, new: Path) -> None:
    """Rename a file that is on the disk already, in its folder, and flush the folder. An existing file is replaced."""
    path.replace(new)
    sync(new.parent)


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
