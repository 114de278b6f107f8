"""The list of a bulk request: which objects or positions, and how large, from CSV, ECSV, FITS or Parquet."""

from __future__ import annotations

import csv as text_csv
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from astropy.io import fits
from astropy.table import Table
from numpy.typing import NDArray
from pyarrow import csv, parquet

from archive_builder.errors import RequestError, TileError, one_line
from archive_builder.survey.catalog import READ_ERRORS, Columns, read_columns

ID_COLUMNS = ("COADD_OBJECT_ID", "COADD_OBJECTS_ID", "OBJECT_ID", "OBJECTID", "OBJID", "ID")
"""Columns taken for object IDs, the first that is there; upper or lower case does not matter."""

POSITION_COLUMNS = (
    ("RA", "DEC"),
    ("ALPHAWIN_J2000", "DELTAWIN_J2000"),
    ("ALPHA_J2000", "DELTA_J2000"),
    ("RA_J2000", "DEC_J2000"),
    ("RAJ2000", "DEJ2000"),
    ("RA_DEG", "DEC_DEG"),
)
"""Pairs of columns taken for RA and Dec in deg, the first that is there."""

SIZE_COLUMNS = ("XSIZE", "YSIZE")
"""Columns of a row's own size in arcmin, as in DES's bulk tool."""

NO_VALUE = ("", "nan", "null", "none", "na", "n/a", "--")
"""How a text says that there is no value, in lower case."""

QUOTED = 60
"""Characters of a text that is no ID that are kept, to be named in the manifest."""


class Outcome(IntEnum):
    """What became of a row of the list."""

    DONE = 0
    """It has its files."""
    FAILED = 1
    """Something is broken; the manifest says what."""
    NO_ID = 2
    """The row has none."""
    BAD_ID = 3
    """The row's ID is no 64-bit integer."""
    NO_POSITION = 4
    """RA or Dec is missing, or not on the sky."""
    BAD_SIZE = 5
    """XSIZE or YSIZE is less than a pixel, or no number."""
    NOT_FOUND = 6
    """The archive does not know the ID."""
    NOISE = 7
    """The object was skipped for noise."""
    BLANK = 8
    """The object was skipped because too much of its cutout has no data."""
    OUTSIDE = 9
    """The object was skipped because it lies off its tile."""
    OFF_TILES = 10
    """The position is on no tile of the archive."""
    TOO_LARGE = 11
    """The archive cannot serve this size."""


REASONS: dict[Outcome, str] = {
    Outcome.DONE: "",
    Outcome.FAILED: "failed",
    Outcome.NO_ID: "no ID",
    Outcome.BAD_ID: "not a 64-bit integer ID",
    Outcome.NO_POSITION: "no position on the sky",
    Outcome.BAD_SIZE: "not a size",
    Outcome.NOT_FOUND: "not in the archive",
    Outcome.NOISE: "skipped for noise",
    Outcome.BLANK: "skipped for blank",
    Outcome.OUTSIDE: "skipped for outside",
    Outcome.OFF_TILES: "on no tile",
    Outcome.TOO_LARGE: "larger than the archive can serve",
}
"""What the manifest and the summary say."""


@dataclass(frozen=True)
class ColumnNames:
    """Columns named by the user; those that are None are found by their usual names."""

    object_id: str | None = None
    ra: str | None = None
    dec: str | None = None


@dataclass(frozen=True)
class Sizes:
    """Every row's own size in arcmin; NaN in both where the row has none."""

    x: NDArray[np.float64]
    """Width, (N,)."""

    y: NDArray[np.float64]
    """Height, (N,)."""


@dataclass(frozen=True)
class RequestList:
    """What is asked for, a row each in the order of the list: IDs, or positions."""

    outcome: NDArray[np.uint8]
    """`Outcome` of rows that cannot be served whatever the archive holds; ``DONE`` for all others, (N,)."""

    object_id: NDArray[np.int64] | None = None
    """0 where the row has none; None for a list of positions, (N,)."""

    ra: NDArray[np.float64] | None = None
    """Deg, as given; None for a list of IDs, (N,)."""

    dec: NDArray[np.float64] | None = None
    """Deg, as given; None for a list of IDs, (N,)."""

    sizes: Sizes | None = None
    """None if the list has no column of sizes."""

    texts: dict[int, str] = field(default_factory=dict)
    """What stands in rows whose ID is not one."""

    def __len__(self) -> int:
        return len(self.outcome)

    def fingerprint(self) -> str:
        """Return a hash of what is asked for: the same for a CSV and a Parquet file of the same rows."""
        digest = hashlib.sha256(repr(sorted(self.texts.items())).encode())
        sizes = (self.sizes.x, self.sizes.y) if self.sizes else (None, None)
        for column in (self.outcome, self.object_id, self.ra, self.dec, *sizes):
            digest.update(b"-" if column is None else column.tobytes())
        return f"sha256:{digest.hexdigest()}"


ANY_COLUMNS = ColumnNames()
"""Columns by their usual names."""


def read_requests(path: Path, names: ColumnNames = ANY_COLUMNS) -> RequestList:
    """Read the list of a bulk request.

    Parameters
    ----------
    path : Path
        CSV, ECSV, FITS or Parquet. A blank line of a CSV file is a row without values, but not at its end.
    names : ColumnNames
        Columns to take; a list with IDs and positions is taken by its IDs, unless only positions are named.

    Raises
    ------
    RequestError
        The file cannot be read, or has no column of IDs or positions, or one of the wrong kind.
    """
    try:
        there, read = _open(path)
        chosen = _choose(there, names)
        columns = read([name for name in chosen if name])
        return _normalize(*(columns[name] if name else None for name in chosen))
    except (RequestError, TileError) as error:
        raise RequestError(f"list {path}: {error}") from None
    except (*READ_ERRORS, text_csv.Error) as error:
        raise RequestError(f"list {path}: cannot be read ({one_line(error)}): mend or replace the file") from None


Read: TypeAlias = Callable[[list[str]], Columns]
"""Reads columns by name."""


def _open(path: Path) -> tuple[Sequence[str], Read]:
    """Return the names of a file's columns, and what reads them."""
    suffixes = [s.lower() for s in path.suffixes if s.lower() not in (".gz", ".fz")]
    openers: dict[str, Callable[[Path], tuple[Sequence[str], Read]]] = {
        ".csv": _open_csv,
        ".txt": _open_csv,
        ".tsv": _open_csv,
        ".ecsv": _open_ecsv,
        ".parquet": _open_parquet,
        ".parq": _open_parquet,
        ".fits": _open_fits,
        ".fit": _open_fits,
    }
    suffix = suffixes[-1] if suffixes else ""
    if suffix not in openers:
        raise RequestError("cannot tell its kind from its name: end it in .csv, .parquet, .fits or .ecsv")
    return openers[suffix](path)


def _open_csv(path: Path) -> tuple[Sequence[str], Read]:
    """Open a CSV file with comma, semicolon or tab between the values, each value left the text it is."""
    with pa.input_stream(path, compression="detect") as stream:
        data = stream.read()
    end = data.find(b"\n") + 1 or len(data)
    line = data[:end].decode("utf-8-sig").strip("\r\n")
    separator = max(",;\t", key=line.count)
    names = [name.strip() for name in next(text_csv.reader(io.StringIO(line), delimiter=separator), [])]

    def read(wanted: list[str]) -> Columns:
        positions = [str(i) for i in range(len(names))]  # names may be repeated; positions are not
        chosen = [str(names.index(name)) for name in wanted]
        last = len(data)
        while last > end and data[last - 1] in b"\r\n":
            last -= 1
        if last == end:
            return {name: np.empty(0, dtype=str) for name in wanted}
        table = csv.read_csv(
            pa.BufferReader(pa.py_buffer(data).slice(end, last - end)),
            parse_options=csv.ParseOptions(delimiter=separator, ignore_empty_lines=False),
            read_options=csv.ReadOptions(column_names=positions),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(positions, pa.string()), include_columns=chosen
            ),
        )
        return {name: table[number] for name, number in zip(wanted, chosen, strict=True)}

    return names, read


def _open_ecsv(path: Path) -> tuple[Sequence[str], Read]:
    table = Table.read(path, format="ascii.ecsv")
    return table.colnames, lambda wanted: {name: np.ma.asarray(table[name]) for name in wanted}


def _open_parquet(path: Path) -> tuple[Sequence[str], Read]:
    return parquet.read_schema(path).names, lambda wanted: read_columns(path, wanted)


def _open_fits(path: Path) -> tuple[Sequence[str], Read]:
    with fits.open(path) as hdus:
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)]
        if not tables:
            raise RequestError("holds no table")
        names = max(tables, key=lambda hdu: hdu.header["NAXIS2"]).columns.names
    return names, lambda wanted: read_columns(path, wanted)


Chosen: TypeAlias = tuple[str | None, str | None, str | None, str | None, str | None]
"""Columns of ID, RA, Dec, width and height; None for what is not there or not wanted."""


def _choose(there: Sequence[str], names: ColumnNames) -> Chosen:
    """Find the columns to take."""
    if (names.ra is None) != (names.dec is None):
        raise RequestError("one column of a position was named: name the columns of both RA and Dec")
    sizes = _find(there, SIZE_COLUMNS[0]), _find(there, SIZE_COLUMNS[1])
    if names.object_id is not None:
        return _named(there, names.object_id), None, None, *sizes
    if names.ra is not None and names.dec is not None:
        return None, _named(there, names.ra), _named(there, names.dec), *sizes
    for candidate in ID_COLUMNS:
        if column := _find(there, candidate):
            return column, None, None, *sizes
    for ra, dec in POSITION_COLUMNS:
        if (ra_column := _find(there, ra)) and (dec_column := _find(there, dec)):
            return None, ra_column, dec_column, *sizes
    raise RequestError(
        f"has no column of object IDs ({', '.join(ID_COLUMNS)}) or positions (RA and DEC, ...), but "
        f"{', '.join(list(there)[:8]) or 'none at all'}: name them with --id-column, or --ra-column and --dec-column"
    )


def _named(there: Sequence[str], name: str) -> str:
    """Return a column that must be there."""
    column = _find(there, name)
    if column is None:
        raise RequestError(f"has no column {name}: it has {', '.join(list(there)[:8])}")
    return column


def _find(there: Sequence[str], name: str) -> str | None:
    """Return the column of this name, written so or in other case."""
    found = [column for column in there if column == name] or [c for c in there if c.lower() == name.lower()]
    if len(found) > 1:
        raise RequestError(f"has {len(found)} columns {name}: leave one")
    return found[0] if found else None


def _normalize(object_id: Any, ra: Any, dec: Any, x: Any, y: Any) -> RequestList:
    """Turn columns as they were read into a list of requests."""
    texts: dict[int, str] = {}
    if object_id is not None:
        ids, outcome = _object_ids(object_id, texts)
        sizes = _sizes(x, y, outcome)
        return RequestList(outcome, object_id=ids, sizes=sizes, texts=texts)
    alpha, delta = _numbers(ra, "RA"), _numbers(dec, "Dec")
    with np.errstate(invalid="ignore"):
        on_sky = (np.abs(alpha) <= 360) & (np.abs(delta) <= 90)
    outcome = np.where(on_sky, Outcome.DONE, Outcome.NO_POSITION).astype(np.uint8)
    return RequestList(outcome, ra=alpha, dec=delta, sizes=_sizes(x, y, outcome))


def _sizes(x: Any, y: Any, outcome: NDArray[np.uint8]) -> Sizes | None:
    """Return the rows' sizes, one side for both where only one is given; mark the rows whose size is none."""
    if x is None and y is None:
        return None
    sides = [_numbers(side, name) for side, name in ((x, "XSIZE"), (y, "YSIZE")) if side is not None]
    width = np.where(np.isnan(sides[0]), sides[-1], sides[0])
    height = np.where(np.isnan(sides[-1]), sides[0], sides[-1])
    bad = (width <= 0) | (height <= 0) | np.isinf(width) | np.isinf(height)
    outcome[bad & (outcome == Outcome.DONE)] = Outcome.BAD_SIZE
    return Sizes(width, height)


def _object_ids(column: Any, texts: dict[int, str]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return IDs as int64, never by way of float, and the outcome of those that are none."""
    if _is_text(column):
        return _ids_from_text(_as_arrow_text(column), texts)
    if _is_all_missing(column):
        return np.zeros(len(column), dtype=np.int64), np.full(len(column), Outcome.NO_ID, dtype=np.uint8)
    if column.ndim != 1 or column.dtype.kind not in "iu":
        raise RequestError(f"the column of IDs is {_kind(column)}, not integers of 64 bits, no digit lost")
    missing, values = np.ma.getmaskarray(column), np.ma.getdata(column)
    too_large = values > np.iinfo(np.int64).max if values.dtype.kind == "u" else np.zeros(len(values), dtype=bool)
    outcome = np.where(too_large, Outcome.BAD_ID, Outcome.DONE)
    outcome[missing] = Outcome.NO_ID
    texts.update({int(i): str(values[i]) for i in np.flatnonzero(outcome == Outcome.BAD_ID)})
    return np.where(outcome == Outcome.DONE, values, 0).astype(np.int64), outcome.astype(np.uint8)


def _ids_from_text(text: pa.Array, texts: dict[int, str]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Read IDs written as text: a sign, and up to 19 digits after any zeros."""
    text = pc.utf8_trim_whitespace(text)
    digits = pc.utf8_ltrim(pc.replace_substring_regex(text, r"^[+-]", ""), "0")
    # 19 digits fit an unsigned integer of 64 bits, if not always a signed one.
    well_formed = pc.and_(
        pc.match_substring_regex(text, r"^[+-]?[0-9]+$"), pc.match_substring_regex(digits, r"^[0-9]{0,19}$")
    )
    plain = pc.if_else(pc.and_(well_formed, pc.not_equal(digits, "")), digits, "0")
    magnitude, negative = (
        pc.cast(plain, pa.uint64()).to_numpy(),
        pc.starts_with(text, "-").to_numpy(zero_copy_only=False),
    )
    fits_in = magnitude <= np.where(negative, np.uint64(2**63), np.uint64(2**63 - 1))
    good = well_formed.to_numpy(zero_copy_only=False) & fits_in
    missing = pc.is_in(pc.utf8_lower(text), value_set=pa.array(NO_VALUE)).to_numpy(zero_copy_only=False)
    outcome = np.where(good, Outcome.DONE, np.where(missing, Outcome.NO_ID, Outcome.BAD_ID)).astype(np.uint8)
    texts.update({int(i): text[i].as_py()[:QUOTED] for i in np.flatnonzero(outcome == Outcome.BAD_ID)})
    # Two's complement: the unsigned magnitude, negated without a sign, is the signed number's bits.
    bits = np.where(negative, ~magnitude + np.uint64(1), magnitude)
    return np.where(good, bits, np.uint64(0)).view(np.int64), outcome


def _numbers(column: Any, name: str) -> NDArray[np.float64]:
    """Return a column as float64: NaN for what is missing, and infinite for a text that is no number."""
    if _is_text(column):
        return _numbers_from_text(_as_arrow_text(column))
    if _is_all_missing(column):
        return np.full(len(column), np.nan)
    if column.ndim != 1 or column.dtype.kind not in "iuf":
        raise RequestError(f"the column {name} is {_kind(column)}, not numbers")
    return np.asarray(np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan))


def _numbers_from_text(text: pa.Array) -> NDArray[np.float64]:
    text = pc.utf8_trim_whitespace(text)
    missing = pc.is_in(pc.utf8_lower(text), value_set=pa.array(NO_VALUE))
    number = pc.match_substring_regex(text, r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$")
    plain = pc.if_else(missing, "nan", pc.if_else(number, pc.utf8_ltrim(text, "+"), "inf"))
    return np.asarray(pc.cast(plain, pa.float64()).to_numpy())


def _is_text(column: Any) -> bool:
    return isinstance(column, pa.ChunkedArray) or column.dtype.kind in "SU"


def _as_arrow_text(column: Any) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        return pc.fill_null(column.combine_chunks(), "")
    if column.dtype.kind == "S":
        column = np.char.decode(np.ma.filled(column, b""), "utf-8")
    return pa.array(np.asarray(np.ma.filled(column, "")).astype(str).tolist(), pa.string())


def _is_all_missing(column: Any) -> bool:
    """Tell whether a column without a type holds nothing at all."""
    return bool(len(column) == 0 or (column.dtype.kind == "O" and all(value is None for value in column)))


def _kind(column: Any) -> str:
    return f"{column.dtype} of shape {column.shape}" if column.ndim != 1 else str(column.dtype)
