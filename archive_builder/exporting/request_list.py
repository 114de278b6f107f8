"""The list of a bulk request: objects or positions, and cutout sizes."""

from __future__ import annotations

import hashlib
import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from archive_builder.errors import RequestError, TableError, one_line
from archive_builder.exporting.own_columns import NO_COLUMNS, OwnColumns
from archive_builder.survey.angles import FORMS, read_angles
from archive_builder.survey.tables import (
    Column,
    TableFile,
    as_text,
    holds_integers,
    holds_text,
    is_missing,
    kind,
    open_table,
)

log = logging.getLogger(__name__)

STDIN = Path("-")
"""Name of a list that is read from standard input."""

ID_COLUMNS = ("COADD_OBJECT_ID", "COADD_OBJECTS_ID", "OBJECT_ID", "OBJECTID", "OBJID", "ID")
"""Usual names of the column of object IDs, in order of preference; any case."""

POSITION_COLUMNS = (
    ("RA", "DEC"),
    ("ALPHAWIN_J2000", "DELTAWIN_J2000"),
    ("ALPHA_J2000", "DELTA_J2000"),
    ("RA_J2000", "DEC_J2000"),
    ("RAJ2000", "DEJ2000"),
    ("RA_DEG", "DEC_DEG"),
)
"""Usual names of the columns of RA and Dec in order of preference; any case."""

SIZE_COLUMNS = ("XSIZE", "YSIZE")
"""Columns of the cutout size of each row, arcmin if the file gives no unit, as in DES's bulk tool."""

QUOTED = 60
"""Maximum characters of an invalid value in the manifest."""


class Outcome(IntEnum):
    """Result of a row of the list; the values are stored in the manifest."""

    DONE = 0
    """The files are written."""
    FAILED = 1
    """An error occurred; the manifest has its text."""
    NO_ID = 2
    """The row has no ID."""
    BAD_ID = 3
    """The ID is not a 64-bit integer."""
    NO_POSITION = 4
    """RA or Dec is missing, or not on the sky."""
    BAD_SIZE = 5
    """XSIZE or YSIZE is less than a pixel, or not a number."""
    NOT_FOUND = 6
    """The ID is not in the archive."""
    NOISE = 7
    """The object was skipped for noise."""
    BLANK = 8
    """The object was skipped: too many blank pixels in its cutout."""
    OUTSIDE = 9
    """The object was skipped: it lies outside its tile."""
    OFF_TILES = 10
    """The position is on no tile of the archive."""
    TOO_LARGE = 11
    """The archive cannot serve this size."""
    POSITION = 12
    """The object was skipped: its catalogue gives no position on the sky."""


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
    Outcome.POSITION: "skipped without position",
}
"""Text of each outcome in the manifest and the summary."""


@dataclass(frozen=True)
class ColumnNames:
    """Columns named by the user; None for a column to find by its usual names."""

    object_id: str | None = None
    ra: str | None = None
    dec: str | None = None


@dataclass(frozen=True)
class Sizes:
    """Cutout sizes of all rows, arcmin; NaN in both where a row has none."""

    x: NDArray[np.float64]
    """Width, (N,)."""

    y: NDArray[np.float64]
    """Height, (N,)."""


@dataclass(frozen=True)
class RequestList:
    """The requests in the order of the list: object IDs, or positions."""

    outcome: NDArray[np.uint8]
    """`Outcome` of rows that no archive can serve, ``DONE`` for all others; (N,)."""

    object_id: NDArray[np.int64] | None = None
    """Object IDs, 0 where a row has none; None for a list of positions; (N,)."""

    ra: NDArray[np.float64] | None = None
    """RA, deg; NaN if missing, infinite if unreadable; None for a list of IDs; (N,)."""

    dec: NDArray[np.float64] | None = None
    """Dec, deg; NaN if missing, infinite if unreadable; None for a list of IDs; (N,)."""

    sizes: Sizes | None = None
    """Cutout sizes; None if the list has no column of sizes."""

    texts: dict[int, str] = field(default_factory=dict)
    """Invalid IDs, positions and sizes as written, in quotes, by row."""

    own: OwnColumns = NO_COLUMNS
    """All other columns of the list."""

    def __len__(self) -> int:
        return len(self.outcome)

    def fingerprint(self) -> str:
        """Return a hash of the requests; a CSV and a Parquet file of the same rows have the same hash.

        The list's own columns are no part of it: see `OwnColumns.fingerprint`.
        """
        digest = hashlib.sha256(repr(sorted(self.texts.items())).encode())
        sizes = (self.sizes.x, self.sizes.y) if self.sizes else (None, None)
        for column in (self.outcome, self.object_id, self.ra, self.dec, *sizes):
            digest.update(b"-" if column is None else column.tobytes())
        return f"sha256:{digest.hexdigest()}"


ANY_COLUMNS = ColumnNames()
"""All columns by their usual names."""


def read_requests(path: Path, names: ColumnNames = ANY_COLUMNS) -> RequestList:
    """Read the list of a bulk request.

    Parameters
    ----------
    path : Path
        A table in any format of `archive_builder.survey.tables`; ``-`` for standard input. A blank line of a CSV file
        is a row without values, except at the end.
    names : ColumnNames
        Columns to use. A list with IDs and positions is a list of IDs, unless `names` names only positions.

    Raises
    ------
    RequestError
        The file cannot be read, or a column of IDs or positions is missing, of the wrong kind or in an unknown unit.
    """
    place = "list from standard input" if path == STDIN else f"list {path}"
    try:
        with _on_disk(path) as file:
            table = open_table(file)
            chosen = _choose(table.names, names)
            columns, rest = table.read_all([name for name in chosen if name])
        requests = _normalize(table, chosen, columns, OwnColumns.of(rest))
    except (RequestError, TableError) as error:
        raise RequestError(f"{place}: {error}") from None
    if rest.left_out:
        log.warning(
            "%s: left out of the manifest: %s (not one number or UTF-8 text a row)", place, ", ".join(rest.left_out)
        )
    return requests


@contextmanager
def _on_disk(path: Path) -> Iterator[Path]:
    """Yield the path of a list; standard input is copied to a temporary file, because a Parquet reader must seek."""
    if path != STDIN:
        yield path
        return
    with tempfile.NamedTemporaryFile(prefix="archive_builder_list_") as copy:
        try:
            shutil.copyfileobj(sys.stdin.buffer, copy)
            copy.flush()
        except OSError as error:
            raise RequestError(f"cannot be copied to {copy.name} ({one_line(error)}): make room there") from None
        yield Path(copy.name)


class Chosen(NamedTuple):
    """Names of the columns to use; None for a missing or unwanted column."""

    object_id: str | None
    """Object ID."""

    ra: str | None
    """RA."""

    dec: str | None
    """Dec."""

    x: str | None
    """Width."""

    y: str | None
    """Height."""


def _choose(there: Sequence[str], names: ColumnNames) -> Chosen:
    """Return the columns to read."""
    if (names.ra is None) != (names.dec is None):
        raise RequestError("only one of the columns of RA and Dec is named: name both")
    sizes = _find(there, SIZE_COLUMNS[0]), _find(there, SIZE_COLUMNS[1])
    if names.object_id is not None:
        return Chosen(_named(there, names.object_id), None, None, *sizes)
    if names.ra is not None and names.dec is not None:
        return Chosen(None, _named(there, names.ra), _named(there, names.dec), *sizes)
    for candidate in ID_COLUMNS:
        if column := _find(there, candidate):
            return Chosen(column, None, None, *sizes)
    for ra, dec in POSITION_COLUMNS:
        if (ra_column := _find(there, ra)) and (dec_column := _find(there, dec)):
            return Chosen(None, ra_column, dec_column, *sizes)
    raise RequestError(
        f"has no column of object IDs ({', '.join(ID_COLUMNS)}) or positions (RA and DEC, ...); it has "
        f"{', '.join(there[:8])}: name the columns with --id-column, or --ra-column and --dec-column"
    )


def _named(there: Sequence[str], name: str) -> str:
    """Return the column of a name that the user gave."""
    column = _find(there, name)
    if column is None:
        raise RequestError(f"has no column {name}: name one of {', '.join(there[:8])}")
    return column


def _find(there: Sequence[str], name: str) -> str | None:
    """Return the column of this name, in the same case if possible, else in any."""
    found = [column for column in there if column == name] or [c for c in there if c.lower() == name.lower()]
    if len(found) > 1:
        raise RequestError(f"has {len(found)} columns {name}: leave one")
    return found[0] if found else None


def _normalize(table: TableFile, chosen: Chosen, columns: dict[str, Column], own: OwnColumns) -> RequestList:
    """Return the columns of a table as a list of requests."""
    texts: dict[int, str] = {}
    if chosen.object_id is not None:
        ids, outcome = _object_ids(columns[chosen.object_id], texts)
        sizes = _sizes(table, chosen, columns, outcome, texts)
        return RequestList(outcome, object_id=ids, sizes=sizes, texts=texts, own=own)
    assert chosen.ra is not None
    assert chosen.dec is not None
    ra = read_angles(columns[chosen.ra], chosen.ra, table.units.get(chosen.ra), "RA")
    dec = read_angles(columns[chosen.dec], chosen.dec, table.units.get(chosen.dec), "latitude")
    with np.errstate(invalid="ignore"):
        on_sky = (np.abs(ra) <= 360) & (np.abs(dec) <= 90)
    outcome = np.where(on_sky, Outcome.DONE, Outcome.NO_POSITION).astype(np.uint8)
    unread = np.flatnonzero(np.isinf(ra) | np.isinf(dec))
    positions = zip(_quoted(columns[chosen.ra], unread), _quoted(columns[chosen.dec], unread), strict=True)
    for row, (alpha, delta) in zip(unread.tolist(), positions, strict=True):
        texts[row] = f"RA {alpha}, Dec {delta}: give RA in {FORMS['RA']}, Dec in {FORMS['latitude']}"
    return RequestList(
        outcome, ra=ra, dec=dec, sizes=_sizes(table, chosen, columns, outcome, texts), texts=texts, own=own
    )


def _quoted(column: Column, rows: NDArray[np.intp]) -> list[str]:
    """Return the values of some rows in quotes, as written."""
    texts = as_text(column.take(pa.array(rows)) if isinstance(column, pa.ChunkedArray) else column[rows])
    return [repr(text[:QUOTED]) for text in texts.to_pylist()]


def _sizes(
    table: TableFile, chosen: Chosen, columns: dict[str, Column], outcome: NDArray[np.uint8], texts: dict[int, str]
) -> Sizes | None:
    """Return the cutout sizes, square where only one side is given; mark rows with an impossible size."""
    sides = []
    for name in (chosen.x, chosen.y):
        if name is not None:
            sides.append(read_angles(columns[name], name, table.units.get(name), "size"))
            unread = np.flatnonzero(np.isinf(sides[-1]) & (outcome == Outcome.DONE))
            for row, text in zip(unread.tolist(), _quoted(columns[name], unread), strict=True):
                texts.setdefault(row, f"{name} {text}: give {FORMS['size']}")
    if not sides:
        return None
    width = np.where(np.isnan(sides[0]), sides[-1], sides[0])
    height = np.where(np.isnan(sides[-1]), sides[0], sides[-1])
    bad = (width <= 0) | (height <= 0) | np.isinf(width) | np.isinf(height)
    outcome[bad & (outcome == Outcome.DONE)] = Outcome.BAD_SIZE
    return Sizes(width, height)


def _object_ids(column: Column, texts: dict[int, str]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return IDs as int64, never through float, and the outcome of each row; add invalid IDs to `texts`."""
    if holds_text(column):
        return _ids_from_text(column, texts)
    if not (holds_integers(column) or len(column) == 0):
        raise RequestError(f"the column of IDs is {kind(column)}, not integers: give 64-bit IDs with every digit")
    missing, values = np.ma.getmaskarray(column), np.ma.getdata(column)
    too_large = (values > np.iinfo(np.int64).max) & ~missing
    outcome = np.where(missing, Outcome.NO_ID, np.where(too_large, Outcome.BAD_ID, Outcome.DONE)).astype(np.uint8)
    texts.update({int(i): repr(str(values[i])) for i in np.flatnonzero(too_large)})
    return np.where(outcome == Outcome.DONE, values, 0).astype(np.int64), outcome


def _ids_from_text(text: pa.ChunkedArray, texts: dict[int, str]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Read IDs written as text: a sign, and up to 19 digits after any zeros."""
    digits = pc.utf8_ltrim(pc.replace_substring_regex(text, r"^[+-]", ""), "0")
    # 19 digits fit an unsigned integer of 64 bits, if not always a signed one.
    well_formed = pc.and_(
        pc.match_substring_regex(text, r"^[+-]?[0-9]+$"), pc.match_substring_regex(digits, r"^[0-9]{0,19}$")
    )
    plain = pc.if_else(pc.and_(well_formed, pc.not_equal(digits, "")), digits, "0")
    magnitude, negative = pc.cast(plain, pa.uint64()).to_numpy(), pc.starts_with(text, "-").to_numpy()
    fits_in = magnitude <= np.where(negative, np.uint64(2**63), np.uint64(2**63 - 1))
    good = well_formed.to_numpy() & fits_in
    outcome = np.where(good, Outcome.DONE, np.where(is_missing(text), Outcome.NO_ID, Outcome.BAD_ID)).astype(np.uint8)
    bad = outcome == Outcome.BAD_ID
    invalid = pc.utf8_slice_codeunits(text.filter(pa.array(bad)), 0, QUOTED).to_pylist()
    texts.update(zip(np.flatnonzero(bad).tolist(), map(repr, invalid), strict=True))
    # Two's complement: the unsigned magnitude, negated without a sign, is the signed number's bits.
    bits = np.where(negative, ~magnitude + np.uint64(1), magnitude)
    return np.where(good, bits, np.uint64(0)).view(np.int64), outcome
