"""The index as a file: opening, creating and replacing a SQLite database, and checking its tables."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from time import monotonic, sleep

from archive_builder.atomic import rename_durably, whole_file
from archive_builder.errors import ArchiveError
from archive_builder.store.file_locks import MOUNT, has_locks
from archive_builder.store.file_names import shard_files
from archive_builder.store.format import schema_text
from archive_builder.store.records import InvalidRecordError

BUSY_SECONDS = 60.0
"""Time that a reader waits for a commit, and the builder for a reader, s."""

JOURNAL_SECONDS = 2.0
"""Time that a reader without locks waits for the end of a commit, s. A commit of 40,000 rows takes some hundredths."""

BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_RECOVERY, sqlite3.SQLITE_BUSY_SNAPSHOT)
"""SQLite's codes for a lock of another process. ENOLCK is reported so too."""

LOCK_FAILED = (
    sqlite3.SQLITE_IOERR_LOCK,
    sqlite3.SQLITE_IOERR_RDLOCK,
    sqlite3.SQLITE_IOERR_UNLOCK,
    sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK,
    sqlite3.SQLITE_PROTOCOL,
)
"""SQLite's codes for a lock that the system refuses (``sqliteErrorFromPosixError`` in its os_unix.c)."""

TABLES = ("settings", "tiles", "builds", "objects", "elsewhere")
"""Tables of an index."""

Columns = frozenset[tuple[str, str, str, int]]
"""Table, name, type and hidden flag of every column."""


def open_index(path: Path, writable: bool) -> tuple[sqlite3.Connection, bool]:
    """Open an index, and undo a transaction that a killed build left half-written.

    Returns
    -------
    connection : sqlite3.Connection
    is_locked : bool
        False if the file system has no locks: every read must then run inside `read_without_locks`.

    Raises
    ------
    sqlite3.Error
        The file cannot be opened, or the transaction cannot be undone.
    ArchiveError
        The file system has no locks, and another process writes to the index or was killed in a commit.
    """
    if writable:
        return _connect(path, "mode=rw"), True
    # First without waiting: SQLite takes ENOLCK for the lock of another process, and would wait for its end.
    connection = _connect(path, "mode=ro", timeout=0.0)
    try:
        try:
            connection.execute("PRAGMA data_version").fetchone()
        except sqlite3.Error as error:
            if not is_refused_lock(error):
                raise
            if not has_locks(shard_files(path.parent)):
                connection.close()
                return _open_without_locks(path), False
            connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
            connection.execute("PRAGMA data_version").fetchone()
    except sqlite3.Error as error:
        connection.close()
        if not is_half_written(error):
            raise
        with closing(_connect(path, "mode=rw")) as writer:
            writer.execute("PRAGMA data_version").fetchone()
        return _connect(path, "mode=ro"), True
    connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
    return connection, True


def is_half_written(error: sqlite3.Error) -> bool:
    """Return True if SQLite must undo a transaction in the file first, and may not write."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_READONLY_ROLLBACK


def is_busy(error: sqlite3.Error) -> bool:
    """Return True if another process holds the lock, or the file system has no locks left."""
    return getattr(error, "sqlite_errorcode", None) in BUSY


def is_refused_lock(error: sqlite3.Error) -> bool:
    """Return True if SQLite did not get a lock, for whatever reason."""
    return is_busy(error) or getattr(error, "sqlite_errorcode", None) in LOCK_FAILED


def _open_without_locks(path: Path) -> sqlite3.Connection:
    # Not immutable=1: SQLite would then serve the rows of an unfinished transaction.
    connection = _connect(path, "mode=ro&nolock=1")
    try:
        with read_without_locks(path):
            connection.execute("PRAGMA data_version").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def read_without_locks(path: Path) -> Iterator[None]:
    """Check that an index did not change while the block read it.

    Without locks a commit may fall between two reads of the same query. A commit leaves a journal beside the index
    from before its first change until after its last one, and it changes the time of the file.

    Raises
    ------
    ArchiveError
        The file changed, or a journal lies beside it.
    """
    before = _settled_state(path)
    try:
        yield
    except Exception:  # perhaps due to pages of two versions
        _check_unchanged(path, before)
        raise
    _check_unchanged(path, before)


def _check_unchanged(path: Path, before: tuple[int, int, int]) -> None:
    if _journal(path).exists() or _state(path) != before:
        raise ArchiveError(f"index {path}: changed during the lookup, and its file system has no locks: retry")


def _settled_state(path: Path) -> tuple[int, int, int]:
    """Return the state of an index; wait for the end of a commit."""
    end = monotonic() + JOURNAL_SECONDS
    while _journal(path).exists():
        if monotonic() > end:
            raise ArchiveError(
                f"index {path}: its file system has no locks, and {_journal(path).name} lies beside it: wait for the "
                f"end of the build; if there is none, build again where the file system has locks: {MOUNT}"
            )
        sleep(0.01)
    return _state(path)


def _state(path: Path) -> tuple[int, int, int]:
    """Return inode, size and time of a file: together they change with every commit."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _connect(path: Path, options: str, timeout: float = BUSY_SECONDS) -> sqlite3.Connection:
    # Without check_same_thread: threads that share an Index take turns.
    uri = f"{path.absolute().as_uri()}?{options}"
    return sqlite3.connect(uri, uri=True, timeout=timeout, check_same_thread=False)


def create_index(path: Path) -> None:
    """Create an empty index, with all its tables or not at all."""
    _remove_journal(path)
    with whole_file(path, durable=True) as fresh, closing(_connect(fresh, "mode=rwc")) as connection:
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
    _journal(index).unlink(missing_ok=True)


def _journal(index: Path) -> Path:
    return index.with_name(f"{index.name}-journal")


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
