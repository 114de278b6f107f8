"""Content of a file: decompressed bytes, and the format that they show."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from archive_builder.errors import TableError

COMPRESSIONS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
"""First bytes of compressed files, and the function that opens such a file."""

HEAD = 1 << 16
"""Bytes that tell the format."""

BOM = b"\xef\xbb\xbf"
"""Byte order mark of UTF-8."""

_STARTS = {b"SIMPLE  =": "fits", b"PAR1": "parquet", b"\\": "ipac", b"|": "ipac", b"# %ECSV": "ecsv"}
"""Formats by their first bytes."""

_REFUSED = {
    b"PK\x03\x04": "is a ZIP or Excel file: unpack it, or save the sheet as CSV",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd: unpack it",
    b"\x1f\x9d": "is compressed with compress: unpack it",
    b"\xff\xfe": "is UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "is UTF-16 text: save it as UTF-8",
    b"\x89HDF": "is an HDF5 file: save the table as Parquet, FITS or CSV",
}
"""Errors by the first bytes of a file that no reader knows."""


def unpacked(path: Path) -> IO[bytes]:
    """Open a file for reading, decompressed if its content is compressed, whatever its name."""
    with path.open("rb") as file:
        start = file.read(6)
    opened: IO[bytes] = next((way for mark, way in COMPRESSIONS.items() if start.startswith(mark)), open)(path, "rb")
    return opened


def is_packed(path: Path) -> bool:
    """Return True if the content of a file is compressed."""
    return begins_with(path, COMPRESSIONS)


def begins_with(path: Path, marks: Iterable[bytes]) -> bool:
    """Return True if the first six bytes of a file begin with one of these marks."""
    with path.open("rb") as file:
        return file.read(6).startswith(tuple(marks))


def read_text(path: Path) -> str:
    """Return the text of a file, decompressed, without a byte order mark."""
    with unpacked(path) as file:
        return file.read().decode("utf-8-sig")


def format_of(head: bytes) -> str | None:
    """Return the format that the first bytes of a file show.

    Returns
    -------
    ``"fits"``, ``"parquet"``, ``"votable"``, ``"ipac"``, ``"ecsv"``, ``"text"``, or None
        ``"text"`` for any other text, None for any other bytes and for an empty file.

    Raises
    ------
    TableError
        The file is of a well-known kind that is no table, or is not UTF-8.
    """
    for mark, message in _REFUSED.items():
        if head.startswith(mark):
            raise TableError(message)
    text = head.removeprefix(BOM).lstrip()
    if found := next((name for mark, name in _STARTS.items() if text.startswith(mark)), None):
        return found
    if text.startswith(b"<"):
        if re.search(rb"<(\w+:)?VOTABLE[\s>]", text):
            return "votable"
        if re.match(rb"<(!doctype )?html", text, re.IGNORECASE):
            raise TableError("is a web page, not a table: download the table again")
    if re.match(rb"(\x00[^\x00]){2}|([^\x00]\x00){2}", head):
        raise TableError("is UTF-16 text: save it as UTF-8")
    return "text" if text and not re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", head) else None
