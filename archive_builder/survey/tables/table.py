"""Interface of a table in a file; each format is a subclass."""

from __future__ import annotations

import csv
import difflib
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from typing import Any, NamedTuple
from xml.parsers.expat import ExpatError

import numpy as np
import pyarrow as pa
from astropy.io.fits import VerifyError
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from archive_builder.errors import TableError, one_line
from archive_builder.survey.fits_warnings import quiet_astropy
from archive_builder.survey.tables.columns import Column, Columns, carried, common, matches

_READ_ERRORS = (
    *(OSError, ValueError, TypeError, IndexError, EOFError, KeyError, AttributeError),
    *(pa.ArrowException, csv.Error, zlib.error, LZMAError, ExpatError, VerifyError, AstropyWarning),
)
"""Errors of the underlying readers for a damaged file."""


class Where(NamedTuple):
    """A filter of rows: those with this text in this column."""

    column: str
    """Column name."""

    value: str
    """Text, without spaces at its ends."""


@dataclass(frozen=True)
class Rest:
    """Columns of a table that a caller did not name."""

    columns: pa.Table
    """Columns by name in file order: text as written in a file without types, else typed values.

    A repeated name gets a number, and a column without a name is ``column`` and its number.
    """

    is_untyped: bool
    """True for a file without types (CSV): all columns are text."""

    left_out: tuple[str, ...]
    """Columns that a manifest cannot hold: vectors, and bytes that are not UTF-8 text."""


class TableFile(ABC):
    """A table in a file, opened by `open_table`.

    Attributes
    ----------
    path : Path
    names : tuple of str
        Column names in file order. A CSV file may repeat a name.
    units : dict of str to str
        Unit of each column that has one, as written in the file.
    rows : int or None
        Number of rows; None if only reading the rows would give it.
    """

    rows: int | None = None

    is_untyped = False
    """True for a format without types: every value is text."""

    def __init__(self, path: Path, holding: Collection[str]) -> None:
        self.path = path
        self.units: dict[str, str] = {}
        self.names = self._open(holding)

    def read(self, columns: Sequence[str], where: Where | None = None, *, text: bool = False) -> Columns:
        """Read some columns.

        Parameters
        ----------
        columns : sequence of str
            Column names.
        where : Where, optional
            Keep only these rows. A Parquet file's row groups without such rows are not read.
        text : bool
            In a file without types (CSV), return every value as text, and a blank line as a row of empty
            texts unless it is at the end. By default the values give the column its type, and blank lines
            are ignored.

        Returns
        -------
        dict of str to Column
            The columns by name, in the order of `columns`.

        Raises
        ------
        TableError
            The file cannot be read, lacks a column, or has two columns of a name.
        """
        wanted = list(dict.fromkeys([*columns, where.column] if where else columns))
        numbers = [self._number(name) for name in wanted]
        with table_errors():
            raw = self._read(numbers, where, text)
            found = {name: _common(column, name) for name, column in zip(wanted, raw, strict=True)}
            if where:
                rows = matches(found[where.column], where.value)
                found = {name: _take(column, rows) for name, column in found.items()}
        return {name: found[name] for name in columns}

    def read_all(self, columns: Sequence[str]) -> tuple[Columns, Rest]:
        """Read some columns like `read` with ``text=True``, and all others as they are, from one pass over the file.

        Raises
        ------
        TableError
            Same errors as `read`.
        """
        wanted = [self._number(name) for name in dict.fromkeys(columns)]
        others = [number for number in range(len(self.names)) if number not in wanted]
        vectors = self._vectors()
        readable = [number for number in others if number not in vectors]
        with table_errors():
            raw = dict(zip([*wanted, *readable], self._read([*wanted, *readable], None, True), strict=True))
            found = {self.names[number]: _common(raw[number], self.names[number]) for number in wanted}
            rest = {number: carried(raw[number]) for number in readable}
        labels = _labels(self.names)
        fields = {labels[number]: column for number, column in rest.items() if column is not None}
        left_out = [labels[number] for number in others if rest.get(number) is None]
        return found, Rest(pa.table(fields), self.is_untyped, tuple(left_out))

    def count(self, column: str) -> Counter[str] | None:
        """Count the rows by the text in one column.

        Returns
        -------
        Counter of str, or None
            Rows by text; None if the whole file would have to be read.

        Raises
        ------
        TableError
            The file cannot be read, or lacks the column.
        """
        return None

    @abstractmethod
    def _open(self, holding: Collection[str]) -> tuple[str, ...]:
        """Return the column names, and set `units`, and `rows` if known."""

    @abstractmethod
    def _read(self, numbers: list[int], where: Where | None, text: bool) -> list[Any]:
        """Return columns by their numbers, of Arrow or of astropy; rows that do not match `where` may remain."""

    def _vectors(self) -> Collection[int]:
        """Return the numbers of columns whose type already shows several values a row; they need not be read."""
        return ()

    def _number(self, name: str) -> int:
        """Return the number of a column."""
        if name not in self.names:
            near = difflib.get_close_matches(name, self.names, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(self.names[:8])}."
            raise TableError(f"has no column {name}: {hint} Correct the name in the recipe or in the file")
        if self.names.count(name) > 1:
            raise TableError(f"has {self.names.count(name)} columns {name}: leave one")
        return self.names.index(name)


@contextmanager
def table_errors() -> Iterator[None]:
    """Turn the errors of the underlying readers into one."""
    try:
        with quiet_astropy():
            yield
    except _READ_ERRORS as error:
        raise TableError(f"cannot be read ({one_line(error)}): repair or replace the file") from None


def _common(column: Any, name: str) -> Column:
    """Return a column in the common form; name a column that is not UTF-8."""
    try:
        return common(column)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise ValueError(f"column {name}: {one_line(error)}") from None


def _take(column: Column, rows: NDArray[np.bool_]) -> Column:
    """Return some rows of a column."""
    return column.filter(pa.array(rows)) if isinstance(column, pa.ChunkedArray) else column[rows]


def _labels(names: Sequence[str]) -> list[str]:
    """Return a different label for each column.

    Examples
    --------
    >>> _labels(["NOTE", "", "NOTE"])
    ['NOTE', 'column2', 'NOTE_2']
    """
    labels: list[str] = []
    for number, name in enumerate(names, 1):
        base = name or f"column{number}"
        label, copy = base, 2
        while label in labels or (label != base and label in names):
            label, copy = f"{base}_{copy}", copy + 1
        labels.append(label)
    return labels
