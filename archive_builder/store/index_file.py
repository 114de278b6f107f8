"""The index as a file: opening, creating and replacing a SQLite database, and checking its tables."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path

from archive_builder.atomic import rename_durably, whole_file
from archive_builder.store.format import schema_text
from archive_builder.store.records import InvalidRecordError

BUSY_SECONDS = 60.0
"""Time that a reader waits for a commit, and the builder for a reader, s."""

TABLES = ("settings", "tiles", "builds", "objects", "elsewhere")
"""Tables of an index."""

Columns = frozenset[tuple[str, str, str, int]]
"""Table, name, type and hidden flag of every column."""


def open_index(path: Path, writable: bool) -> sqlite3.Connection:
    """Open an index, and undo a transaction that a killed build left half-written.

    Raises
    ------
    sqlite3.Error
        The file cannot be opened, or the transaction cannot be undone.
    """
    if not writable:
        connection = _connect(path, "ro")
        try:
            connection.execute("PRAGMA data_version").fetchone()
            return connection
        except sqlite3.Error as error:
            connection.close()
            if not is_half_written(error):
                raise
        with closing(_connect(path, "rw")) as writer:
            writer.execute("PRAGMA data_version").fetchone()
    return _connect(path, "rw" if writable else "ro")


def is_half_written(error: sqlite3.Error) -> bool:
    """Return True if SQLite must undo a transaction in the file first, and may not write."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_READONLY_ROLLBACK


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # Without check_same_thread: threads that share an Index take turns.
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)


def create_index(path: Path) -> None:
    """Create an empty index, with all its tables or not at all."""
    _remove_journal(path)
    with whole_file(path, durable=True) as fresh, closing(_connect(fresh, "rwc")) as connection:
        connection.executescript(schema_text("index.sql"))


def replace_index(fresh: Path, index: Path) -> None:
    """Replace an index by a new one."""
    _remove_journal(index)
    rename_durably(fresh, index)


def remove_index(path: Path) -> None:
    """Remove an index and its journal."""
    _remove_journal(path)
    path.unlink()


def _remove_journal(index: Path) -> None:
    """Remove the journal of an index before another file takes the name: SQLite would apply it to that file."""
    index.with_name(f"{index.name}-journal").unlink(missing_ok=True)


def check_tables(connection: sqlite3.Connection) -> None:
    """Refuse other tables than those of the schema, and views, triggers and virtual tables.

    Raises
    ------
    InvalidRecordError
        The tables are not those of an index.
    """
    if _columns_of(connection) != _expected_columns():
        raise InvalidRecordError("its tables are not those of an index")


def _columns_of(connection: sqlite3.Connection) -> Columns | None:
    """Return the columns of an index's tables; None if there are views, triggers or virtual tables."""
    items = connection.execute("SELECT type, sql FROM sqlite_master WHERE type != 'index'")
    if any(kind != "table" or not str(sql).upper().startswith("CREATE TABLE") for kind, sql in items):
        return None
    query = "SELECT name, type, hidden FROM pragma_table_xinfo(?)"
    return frozenset((name, *column) for name in TABLES for column in connection.execute(query, [name]))


@cache
def _expected_columns() -> Columns | None:
    with closing(sqlite3.connect(":memory:")) as empty:
        empty.executescript(schema_text("index.sql"))
        return _columns_of(empty)
