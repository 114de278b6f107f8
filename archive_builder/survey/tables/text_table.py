"""Tables of plain text: CSV with any usual separator, columns between spaces, and SExtractor's catalogues."""

from __future__ import annotations

import csv as python_csv
import io
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any

import pyarrow as pa
from astropy.table import Table
from pyarrow import csv

from archive_builder.errors import TableError
from archive_builder.survey.tables.content import BOM, unpacked
from archive_builder.survey.tables.table import TableFile, Where

SEPARATORS = ",;\t|"
"""Separators between values; columns between spaces are read if the header has none of these."""

HEADER = 1 << 20
"""Maximum length of the header, bytes."""

_SAMPLE = 1 << 16
"""Bytes that show the separator."""

BLOCKS = (1 << 20, 1 << 25, 1 << 30)
"""Bytes read at once; a larger size is tried if one record is longer. The first is pyarrow's default."""

_QUOTED = re.compile(rf'(?<![^{SEPARATORS}\s])"(?:[^"]|"")*"')
"""A quoted value: a quote inside a value is an ordinary character."""

_NAME = re.compile(r"|[^\W\d][^\s:]*")
"""A name of a column in a commented header; empty for the name ``#``."""

_DATA = re.compile(r"|[-+.\d].*")
"""A value that is no column name: missing, or a number."""

_NUMBER = re.compile(r"[-+]?[.\d]+([eE][-+]?\d+)?")
"""A number."""

_SEXTRACTOR = re.compile(r"#\s*(\d+)\s+\S+")
"""Line of SExtractor's header: number and name of a column."""


@dataclass(frozen=True)
class Layout:
    """Place and form of the records in a text."""

    names: tuple[str, ...]
    """Column names."""

    separator: str
    """Separator between values; a space for columns between any number of spaces."""

    lines: int
    """Number of lines before the first record."""

    has_records: bool
    """False if the text ends there."""

    units: dict[str, str] = field(default_factory=dict)
    """Units by column."""


class TextTable(TableFile):
    """A table of plain text."""

    is_untyped = True

    def _open(self, holding: Collection[str]) -> tuple[str, ...]:
        with unpacked(self.path) as file:
            self._layout = layout(file)
        self.units = self._layout.units
        return self._layout.names

    def _read(self, numbers: list[int], where: Where | None, text: bool) -> list[Any]:
        last = len(self.names) - 1
        as_text = {*numbers, last} if text else {self.names.index(where.column)} if where else set()
        # The last column shows whether the file ends inside a quoted value.
        types = {str(number): pa.binary() for number in (as_text if last in numbers else {*as_text, last})}
        if not self._layout.has_records:  # pyarrow refuses an empty file
            return [pa.chunked_array([], types.get(str(number), pa.null())) for number in numbers]
        table, end = self._all_records([*dict.fromkeys([*numbers, last])], types, not text)
        _check_quotes(table[str(last)], end)
        if text:
            table = table.slice(0, table.num_rows - end.blank_lines)
        return [table[str(number)] for number in numbers]

    def _all_records(
        self, numbers: list[int], types: dict[str, pa.DataType], skip_blank: bool
    ) -> tuple[pa.Table, _WatchedEnd]:
        """Return columns of all records, of any length."""
        for size in BLOCKS[:-1]:
            try:
                return self._records(numbers, types, size, skip_blank)
            except pa.ArrowInvalid as error:
                if "straddl" not in str(error):
                    raise
        return self._records(numbers, types, BLOCKS[-1], skip_blank)

    def _records(
        self, numbers: list[int], types: dict[str, pa.DataType], size: int, skip_blank: bool
    ) -> tuple[pa.Table, _WatchedEnd]:
        """Return columns of all records by their numbers, and the end of the file."""
        with unpacked(self.path) as file:
            for _ in range(self._layout.lines):
                file.readline()
            spaced = self._layout.separator == " "
            watched = _WatchedEnd(_without_spaces(file) if spaced else file)
            table = csv.read_csv(
                watched,
                # A name may be repeated, a number is not.
                read_options=csv.ReadOptions(column_names=[str(n) for n in range(len(self.names))], block_size=size),
                parse_options=csv.ParseOptions(
                    delimiter="\t" if spaced else self._layout.separator,
                    ignore_empty_lines=skip_blank,
                    newlines_in_values=True,
                ),
                convert_options=csv.ConvertOptions(
                    column_types=types, include_columns=[str(number) for number in numbers]
                ),
            )
            return table, watched


def layout(file: IO[bytes]) -> Layout:
    """Return the layout of a text, read from its start.

    Comment lines (``#``) and blank lines may stand before the header, which may be such a comment itself. A header
    is CSV like the records: a quoted name may hold separators and line ends.

    Raises
    ------
    ValueError
        The text has no header, or is not UTF-8.
    TableError
        No line ends in a line feed.
    """
    comments: list[str] = []
    lines = 0
    for line in file:
        text = (line if lines else line.removeprefix(BOM)).decode()
        if text.strip() and not text.startswith("#"):
            start = text.encode() + file.read(HEADER)
            break
        comments += [text.strip()] if text.strip() else []
        lines += 1
    else:
        start = b""
    if b"\r" in start.rstrip() and b"\n" not in start:
        raise TableError("has lines that end in a carriage return alone: save it with line feeds")
    return _sextractor(comments, start, lines) or _with_header(comments, start, lines)


def _with_header(comments: list[str], start: bytes, lines: int) -> Layout:
    """Return the layout of a text with one line of column names, the last comment or the first record."""
    separator = _separator(start[:_SAMPLE].decode(errors="replace") or "".join(comments[-1:])[1:])
    first, length = _record(start, separator)
    comment, _ = _record("".join(comments[-1:])[1:].encode(), separator)
    is_header = comment and (not first or (len(comment) == len(first) and all(map(_NAME.fullmatch, comment))))
    if is_header and (not first or any(map(_DATA.fullmatch, first))):
        return Layout(tuple(comment), separator, lines, bool(start))
    if not first:
        raise ValueError("no column names in its first line")
    end = sum(map(len, islice(io.BytesIO(start), length)))
    return Layout(tuple(first), separator, lines + length, len(start) > end)


def _sextractor(comments: list[str], start: bytes, lines: int) -> Layout | None:
    """Return the layout of a catalogue with a comment line for each column, or None for any other text."""
    first = next((n for n, line in enumerate(comments) if _SEXTRACTOR.match(line)), len(comments))
    described = comments[first:]
    numbers = [int(match[1]) for line in described if (match := _SEXTRACTOR.match(line))]
    record = start.split(b"\n", 1)[0].decode()
    is_whole = len(numbers) == len(described) > 0 and numbers == sorted(set(numbers)) and numbers[0] == 1
    if not is_whole or len(record.split()) < numbers[-1] or not _NUMBER.fullmatch(record.split()[0]):
        return None
    head = Table.read([*described, record], format="ascii.sextractor", guess=False)
    units = {name: str(head[name].unit) for name in head.colnames if head[name].unit is not None}
    return Layout(tuple(head.colnames), " ", lines, True, units)


def _separator(text: str) -> str:
    """Return the separator of a text from its first record, quoted values left out."""
    header, _, rest = _QUOTED.sub('""', text).partition("\n")
    if found := max(SEPARATORS, key=header.count) if any(s in header for s in SEPARATORS) else "":
        return found
    record = rest.partition("\n")[0].split()
    words = header.split()
    return " " if len(words) > 1 and (not record or len(record) == len(words)) else ","


def _record(text: bytes, separator: str) -> tuple[list[str], int]:
    """Return the values of the first record, stripped, and its number of lines."""
    lines = (line.decode() for line in io.BytesIO(text))
    if separator == " ":
        lines = (line.strip() for line in lines)
    reader = python_csv.reader(lines, delimiter=separator, skipinitialspace=True)
    record = next(reader, [])
    return [value.strip() for value in record], reader.line_num


def _without_spaces(file: IO[bytes]) -> IO[bytes]:
    """Return records between spaces as records between tabs."""
    out = io.StringIO()
    writer = python_csv.writer(out, delimiter="\t", lineterminator="\n")
    for line in (line.decode() for line in file):
        if '"' in line:
            writer.writerow(next(python_csv.reader([line.strip()], delimiter=" ", skipinitialspace=True)))
        else:
            out.write("\t".join(line.split()) + "\n")
    return io.BytesIO(out.getvalue().encode())


class _WatchedEnd(io.RawIOBase):
    """A file that is read once to its end; keeps the last line ends, and the last character before."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._line_ends = b""
        self._has_content = False
        self.last = b""
        """The last character that is no space and no line end."""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read(size)
        content = data.rstrip(b"\r\n")
        self._line_ends = data[len(content) :] if content else self._line_ends + data
        self._has_content |= bool(content)
        self.last = content.rstrip(b" \t")[-1:] or self.last
        return data

    @property
    def blank_lines(self) -> int:
        """Number of blank lines at the end of the text read so far; the first line end belongs to the last row."""
        return max(len(self._line_ends.replace(b"\r\n", b"\n")) - self._has_content, 0)


def _check_quotes(column: pa.ChunkedArray, end: _WatchedEnd) -> None:
    """Refuse a text that ends inside a quoted value: its last value holds all records from the quote on.

    Only the last column can hold them: anywhere else, pyarrow misses the columns that follow.
    """
    if len(column) == 0 or end.last == b'"' or not _holds_text(column.type):
        return
    last = column.slice(len(column) - 1).cast(pa.binary()).to_pylist()[0]
    if last is not None and b"\n" in last:
        raise TableError(
            f"record {len(column)} has a quote without its closing quote: close the quote, or double a quote in a text"
        )


def _holds_text(of: pa.DataType) -> bool:
    return bool(pa.types.is_string(of) or pa.types.is_binary(of))
