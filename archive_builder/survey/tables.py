"""The one reader of tables: columns of FITS, ECSV, CSV and Parquet files in one common form.

A further format is one more subclass of `TableFile` and its endings in `FORMATS`.
"""

from __future__ import annotations

import bz2
import csv as python_csv
import difflib
import gzip
import io
import stat
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from astropy.io import fits
from astropy.io.fits import VerifyError
from astropy.table import Table
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray
from pyarrow import csv, parquet

from archive_builder.errors import TableError, one_line
from archive_builder.survey.fits_warnings import quiet_astropy

Column: TypeAlias = NDArray[Any] | pa.ChunkedArray
"""Values of a column, in file order.

Integers are a NumPy array, masked if values are missing. Floats are a NumPy array, NaN where values are missing.
Text is an Arrow array of stripped strings, empty where values are missing: a NumPy array would give every row the
length of the longest text. Any other kind is a NumPy array; `kind` names it. All are in native byte order.
"""

Columns: TypeAlias = dict[str, Column]
"""Columns of a table by name."""

COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".fz": open}
"""Endings of compressed files, and the function that opens such a file. A FITS reader unpacks ``.fz`` itself."""

_READ_ERRORS = (
    *(OSError, ValueError, TypeError, IndexError, EOFError, KeyError),
    *(pa.ArrowException, python_csv.Error, zlib.error, VerifyError, AstropyWarning),
)
"""Errors of the underlying readers for a damaged file."""


class Where(NamedTuple):
    """A filter of rows: those with this text in this column."""

    column: str
    """Column name."""

    value: str
    """Text, without spaces at its ends."""


class TableFile(ABC):
    """A table in a file, opened by `open_table`.

    Attributes
    ----------
    path : Path
    names : tuple of str
        Column names in file order. A CSV file may repeat a name.
    rows : int or None
        Number of rows; None if only reading the rows would give it.
    """

    rows: int | None = None

    def __init__(self, path: Path, holding: Collection[str]) -> None:
        self.path = path
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
        for name in wanted:
            self._check(name)
        with _table_errors():
            found = self._read(wanted, where, text)
            if where:
                rows = _matches(found[where.column], where.value)
                found = {name: _take(column, rows) for name, column in found.items()}
        return {name: found[name] for name in columns}

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
        """Return the column names, and set `rows` if known."""

    @abstractmethod
    def _read(self, wanted: list[str], where: Where | None, text: bool) -> Columns:
        """Read these columns, which exist; rows that do not match `where` may remain."""

    def _check(self, name: str) -> None:
        if name not in self.names:
            near = difflib.get_close_matches(name, self.names, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(self.names[:8])}."
            raise TableError(f"has no column {name}: {hint} Correct the name in the recipe or in the file")
        if self.names.count(name) > 1:
            raise TableError(f"has {self.names.count(name)} columns {name}: leave one")


def open_table(path: Path, holding: Collection[str] = (), otherwise: Literal["fits", "csv"] | None = None) -> TableFile:
    """Open a table.

    Parameters
    ----------
    path : Path
        The ending of its name gives the format: see `FORMATS` and `COMPRESSED`.
    holding : collection of str
        Columns that tell the table in a FITS file with several tables: the first table that has them all, else
        the largest. SExtractor's LDAC has another table before the catalogue.
    otherwise : {"fits", "csv"}, optional
        Format of a file with any other ending.

    Raises
    ------
    TableError
        The format is unknown, the file cannot be read, or it holds no table.

    Examples
    --------
    >>> table = open_table(Path("cat.fits"))
    >>> table.names, table.rows
    (('ID', 'RA', 'DEC'), 40000)
    >>> table.read(["ID"])["ID"].dtype
    dtype('int64')
    """
    endings = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in COMPRESSED]
    ending = endings[-1] if endings else ""
    kind = FORMATS.get(ending) or FORMATS.get(f".{otherwise}")
    if kind is None:
        raise TableError("the file name does not tell the format: end the name in .csv, .parquet, .fits or .ecsv")
    with _table_errors():
        if not stat.S_ISREG(path.stat().st_mode):
            raise TableError("is not a regular file: give the file of a table")
        return kind(path, holding)


def holds_text(column: Column) -> bool:
    """Return True for a column of text."""
    return isinstance(column, pa.ChunkedArray)


def holds_integers(column: Column) -> bool:
    """Return True for a column of one integer a row."""
    return not isinstance(column, pa.ChunkedArray) and column.ndim == 1 and column.dtype.kind in "iu"


def holds_numbers(column: Column) -> bool:
    """Return True for a column of one integer or float a row."""
    return not isinstance(column, pa.ChunkedArray) and column.ndim == 1 and column.dtype.kind in "iuf"


def as_text(column: Column) -> pa.ChunkedArray:
    """Return a column of any kind as text, empty where values are missing."""
    if isinstance(column, pa.ChunkedArray):
        return column
    return pa.chunked_array([["" if value is None else str(value) for value in column.tolist()]], pa.string())


def kind(column: Column) -> str:
    """Return the kind of a column's values for a message: ``text``, ``float64``, ``int32 of shape (9, 2)``."""
    if isinstance(column, pa.ChunkedArray):
        return "text"
    return str(column.dtype) if column.ndim == 1 else f"{column.dtype} of shape {column.shape}"


@contextmanager
def _table_errors() -> Iterator[None]:
    """Turn the errors of the underlying readers into one."""
    try:
        with quiet_astropy():
            yield
    except _READ_ERRORS as error:
        raise TableError(f"cannot be read ({one_line(error)}): repair or replace the file") from None


def _matches(column: Column, value: str) -> NDArray[np.bool_]:
    """Return which rows hold a text."""
    return np.asarray(pc.equal(as_text(column), value).to_numpy(), dtype=bool)


def _take(column: Column, rows: NDArray[np.bool_]) -> Column:
    """Return some rows of a column."""
    return column.filter(pa.array(rows)) if isinstance(column, pa.ChunkedArray) else column[rows]


# ---- the formats


class _Fits(TableFile):
    """One table of a FITS file."""

    def _open(self, holding: Collection[str]) -> tuple[str, ...]:
        with fits.open(self.path, memmap=False) as hdus:
            tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
            if not tables:
                raise TableError("holds no table: give the file of the table")
            named = [hdu for hdu in tables if holding and set(holding) <= set(hdu.columns.names)]
            chosen = named[0] if named else max(tables, key=lambda hdu: hdu.header["NAXIS2"])
            self._hdu = hdus.index(chosen)
            if self.path.suffix.lower() not in COMPRESSED:
                self.rows = int(chosen.header["NAXIS2"])
            return tuple(str(name or "") for name in chosen.columns.names)  # a damaged header may lack names

    def _read(self, wanted: list[str], where: Where | None, text: bool) -> Columns:
        with fits.open(self.path, memmap=False) as hdus:
            table = Table.read(hdus[self._hdu])
        return {name: _from_astropy(table[name]) for name in wanted}


class _Ecsv(TableFile):
    """A table in astropy's enhanced CSV."""

    def _open(self, holding: Collection[str]) -> tuple[str, ...]:
        lines = []
        with _unpacked(self.path) as file:
            for line in file:
                lines.append(line.decode().rstrip("\r\n"))
                if not lines[-1].startswith("#"):
                    break
        return tuple(Table.read(lines, format="ascii.ecsv").colnames)

    def _read(self, wanted: list[str], where: Where | None, text: bool) -> Columns:
        table = Table.read(self.path, format="ascii.ecsv")
        return {name: _from_astropy(table[name]) for name in wanted}


class _Csv(TableFile):
    """A CSV table with comma, semicolon or tab between the values."""

    def _open(self, holding: Collection[str]) -> tuple[str, ...]:
        with _unpacked(self.path) as file:
            line = file.readline()
        self._has_rows = line.endswith(b"\n")
        header = line.decode("utf-8-sig").strip("\r\n")
        self._separator = max(",;\t", key=header.count)
        names = next(python_csv.reader(io.StringIO(header), delimiter=self._separator), [])
        if not names:
            raise ValueError("no column names in its first line")
        return tuple(name.strip() for name in names)

    def _read(self, wanted: list[str], where: Where | None, text: bool) -> Columns:
        columns = {name: str(self.names.index(name)) for name in wanted}  # a name may be repeated, a number is not
        as_they_are = wanted if text else [where.column] if where else []
        types = {columns[name]: pa.string() for name in as_they_are}
        if not self._has_rows:  # pyarrow refuses a file without a line end
            return {name: _from_arrow(pa.chunked_array([], types.get(columns[name], pa.null()))) for name in wanted}
        with _unpacked(self.path) as file:
            watched = _WatchedEnd(file)
            table = csv.read_csv(
                watched,
                parse_options=csv.ParseOptions(delimiter=self._separator, ignore_empty_lines=not text),
                read_options=csv.ReadOptions(column_names=[str(n) for n in range(len(self.names))], skip_rows=1),
                convert_options=csv.ConvertOptions(column_types=types, include_columns=list(columns.values())),
            )
        if text:
            table = table.slice(0, table.num_rows - watched.blank_lines)
        return {name: _from_arrow(table[number]) for name, number in columns.items()}


class _WatchedEnd(io.RawIOBase):
    """A file that is read once, from its start, and the blank lines at its end."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._line_ends = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        content = data.rstrip(b"\r\n")
        self._line_ends = data[len(content) :] if content else self._line_ends + data
        return data

    @property
    def blank_lines(self) -> int:
        """Number of blank lines at the end of the text read so far; the first line end belongs to the last row."""
        return max(len(self._line_ends.replace(b"\r\n", b"\n")) - 1, 0)


class _Parquet(TableFile):
    """A Parquet table.

    The file is read group by group and without threads: pyarrow's reader of whole tables may wait for ever for a
    damaged file.
    """

    def _open(self, holding: Collection[str]) -> tuple[str, ...]:
        with parquet.ParquetFile(self.path, pre_buffer=False) as file:
            self.rows = int(file.metadata.num_rows)
            return tuple(file.schema_arrow.names)

    def _read(self, wanted: list[str], where: Where | None, text: bool) -> Columns:
        with parquet.ParquetFile(self.path, pre_buffer=False) as file:
            if where is None:
                table = file.read_row_groups(list(range(file.num_row_groups)), columns=wanted, use_threads=False)
            else:
                table = _filtered(file, wanted, where)
        return {name: _from_arrow(table[name]) for name in wanted}

    def count(self, column: str) -> Counter[str]:
        self._check(column)
        counts: Counter[str] = Counter()
        with _table_errors(), parquet.ParquetFile(self.path, read_dictionary=[column], pre_buffer=False) as file:
            for number in range(file.num_row_groups):
                values = file.read_row_group(number, columns=[column], use_threads=False)[column]
                for value, rows in (pair.values() for pair in pc.value_counts(values).to_pylist()):
                    counts["" if value is None else str(value).strip()] += rows
        return counts


def _filtered(file: parquet.ParquetFile, wanted: list[str], where: Where) -> pa.Table:
    """Return the matching rows; only one row group is in memory at once."""
    parts = [file.schema_arrow.empty_table().select(wanted)]
    for number in range(file.num_row_groups):
        if _may_hold(file.metadata.row_group(number), where):
            group = file.read_row_group(number, columns=wanted, use_threads=False)
            parts.append(group.filter(pa.array(_matches(_from_arrow(group[where.column]), where.value))))
    return pa.concat_tables(parts)


def _may_hold(group: parquet.RowGroupMetaData, where: Where) -> bool:
    """Return False if the range of a row group's values excludes a text."""
    columns = (group.column(number) for number in range(group.num_columns))
    ranges = [column.statistics for column in columns if column.path_in_schema == where.column]
    if not ranges or ranges[0] is None or not ranges[0].has_min_max or not isinstance(ranges[0].min, str):
        return True
    low, high = ranges[0].min, ranges[0].max
    # The range is of texts with their spaces, and not of missing values, which match an empty text.
    return not where.value or low[:1].isspace() or bool(low.rstrip() <= where.value <= high)


FORMATS: dict[str, type[TableFile]] = {
    ".csv": _Csv,
    ".txt": _Csv,
    ".tsv": _Csv,
    ".ecsv": _Ecsv,
    ".parquet": _Parquet,
    ".parq": _Parquet,
    ".fits": _Fits,
    ".fit": _Fits,
}
"""Formats by the ending of the file name, in lower case."""


# ---- the common form


def _unpacked(path: Path) -> IO[bytes]:
    """Open a file for reading, decompressed."""
    file: IO[bytes] = COMPRESSED.get(path.suffix.lower(), open)(path, "rb")
    return file


def _from_arrow(column: pa.ChunkedArray) -> Column:
    """Return an Arrow column in the common form; integers never pass through float."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type):
        return np.ma.masked_array(np.zeros(len(column), dtype=np.int64), mask=True)
    if any(of_type(column.type) for of_type in _TEXT_TYPES):
        return pc.utf8_trim_whitespace(pc.fill_null(column.cast(pa.string()), ""))
    if column.null_count and pa.types.is_integer(column.type):
        values = pc.fill_null(column, 0).to_numpy()
        return np.ma.masked_array(values, mask=column.is_null().to_numpy())
    return np.asarray(column.to_numpy())


_TEXT_TYPES = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)


def _from_astropy(column: Any) -> Column:
    """Return a column of an astropy table in the common form."""
    array: Any = np.ma.asarray(column)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind in "SU" and array.ndim == 1:
        texts = pa.array(array.filled("")).cast(pa.string())
        return pc.utf8_trim_whitespace(pa.chunked_array([texts], pa.string()))
    if array.dtype.kind == "f":
        return np.asarray(array.filled(np.nan))
    return array if np.ma.is_masked(array) else np.asarray(array)
