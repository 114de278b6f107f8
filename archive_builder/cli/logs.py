"""Log messages of a command: as text on stderr, as JSON lines in a file.

The commands print their progress, warnings and errors themselves; the log has them for the file only. Other messages go
to stderr with ``-v``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

import click

from archive_builder.errors import ArchiveBuilderError, RequestError, one_line, printable

PACKAGE = "archive_builder"
"""Name of the logger above all others of this package."""

OWN = "archive_builder.cli"
"""Name of the logger above those of this folder."""

log = logging.getLogger(__name__)


class Verbosity(Enum):
    """Amount of text on stderr."""

    QUIET = logging.ERROR
    """Errors only."""

    USUAL = logging.WARNING
    """Progress, warnings and errors."""

    VERBOSE = logging.INFO
    """A message for each step."""


class StderrHandler(logging.Handler):
    """Writes messages as lines on stderr, above a progress bar."""

    def __init__(self, verbosity: Verbosity) -> None:
        super().__init__(verbosity.value)
        self._verbose = verbosity is Verbosity.VERBOSE

    def filter(self, record: logging.LogRecord) -> bool:
        """Return False for messages that the command prints itself."""
        shown_elsewhere = record.name.startswith(OWN) and (record.levelno > logging.INFO or not self._verbose)
        return not shown_elsewhere

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message."""
        import sys

        from tqdm import tqdm

        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        tqdm.write(printable(f"{level}{record.getMessage()}"), file=sys.stderr)


class JsonHandler(logging.Handler):
    """Appends messages to a file, one JSON object a line, each in one write.

    Raises
    ------
    RequestError
        The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(logging.INFO)
        self._path = path
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise RequestError(f"log {path}: cannot be written ({one_line(error)}): give another file") from None

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message; a disk that is full ends the log, not the command."""
        if self._file.closed:
            return
        try:
            self._file.write((json.dumps(json_fields(record), default=str) + "\n").encode())
        except OSError as error:
            self._file.close()
            click.echo(f"warning: log {self._path}: ends here: cannot be written ({one_line(error)})", err=True)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def json_fields(record: logging.LogRecord) -> dict[str, object]:
    """Return a message as fields: time, level, logger, message, and those the message came with.

    Examples
    --------
    >>> json_fields(record)
    {'time': '2026-03-01T12:00:00.000+00:00', 'level': 'INFO', 'logger': 'archive_builder.cli.building',
     'message': 'tile DEM1: 369 stored, 31 skipped', 'tile': 'DEM1', 'stored': 369, 'skipped': 31, 'seconds': 3.1}
    """
    return {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname,
        "logger": record.name,
        "message": record.getMessage(),
        **{name: value for name, value in vars(record).items() if name not in _STANDARD},
    }


@contextmanager
def logs(verbosity: Verbosity, json_path: Path | None) -> Iterator[None]:
    """Handle the package's log messages in a context, and log the error that ends it.

    Parameters
    ----------
    verbosity : Verbosity
    json_path : Path or None
        File for JSON lines.

    Raises
    ------
    RequestError
        The file cannot be opened.
    """
    package = logging.getLogger(PACKAGE)
    handlers: list[logging.Handler] = [StderrHandler(verbosity), *([JsonHandler(json_path)] if json_path else [])]
    with ExitStack() as undo:
        undo.callback(package.setLevel, package.level)
        package.setLevel(min(handler.level for handler in handlers))
        for handler in handlers:
            undo.callback(handler.close)
            undo.callback(package.removeHandler, handler)
            package.addHandler(handler)
        try:
            yield
        except ArchiveBuilderError as error:
            log.error("%s", error)
            raise
        except KeyboardInterrupt:
            log.error("interrupted")
            raise
