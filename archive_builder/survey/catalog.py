"""Objects of one tile: IDs and positions from a catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from archive_builder.errors import TableError, TileError
from archive_builder.frames import transformed
from archive_builder.object_ids import KINDS, LONGEST_ID, IdKind, ObjectIds
from archive_builder.survey.angles import FORMS, Quantity, read_angles
from archive_builder.survey.recipe import CatalogSection
from archive_builder.survey.tables import (
    Column,
    Columns,
    TableFile,
    Where,
    as_text,
    holds_integers,
    holds_text,
    kind,
    open_table,
)

EQUATORIAL = ("icrs", "fk5", "fk4")
"""Frames with RA and Dec; the others have longitude and latitude."""


@dataclass(frozen=True)
class Catalog:
    """The objects of one tile.

    Attributes
    ----------
    object_id : ndarray of int64 or str, (N,)
    ra, dec : ndarray of float64, (N,)
        Deg, ICRS; both NaN for a row without a position on the sky.
    without_id : int
        Rows without an ID: they are left out.
    """

    object_id: ObjectIds
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    without_id: int = 0

    @property
    def has_position(self) -> NDArray[np.bool_]:
        """True for a row with a position on the sky, (N,)."""
        return np.isfinite(self.ra)


def read_catalog(path: Path, columns: CatalogSection, tile: str, id_kind: IdKind | None = None) -> Catalog:
    """Read a tile's objects.

    Parameters
    ----------
    path : Path
        A table in any format of `archive_builder.survey.tables`.
    columns : CatalogSection
        Columns to read.
    tile : str
        Only rows of this tile are kept if ``columns.tile`` names a column.
    id_kind : str, optional
        Kind of the archive's IDs (default: the kind of this catalogue).

    Raises
    ------
    TileError
        The file cannot be read, or a column is missing, of the wrong kind or in an unknown unit. The IDs are of another
        kind than the archive's. The tile has no
        objects, or none has an ID, or none has a position on the sky. An ID is repeated and ``columns.duplicates`` is
        ``fail``.
    """
    names = [*columns.id_columns, columns.ra, columns.dec]
    where = Where(columns.tile, tile) if columns.tile else None
    try:
        file = open_table(path, [*names, where.column] if where else names)
        table = file.read(names, where)
        object_id, has_id = _object_ids(file, table, columns, tile, where, id_kind)
        longitude: Quantity = "RA" if columns.frame in EQUATORIAL else "longitude"
        ra = _degrees(table[columns.ra], columns.ra, file.units.get(columns.ra), longitude)
        dec = _degrees(table[columns.dec], columns.dec, file.units.get(columns.dec), "latitude")
        catalog = _checked(object_id, *to_icrs(ra, dec, columns.frame), has_id)
        if columns.duplicates == "fail":
            _check_ids_are_unique(catalog.object_id)
        return catalog
    except (TableError, TileError) as error:
        raise TileError(f"catalogue {path}: {error}") from None


def read_id_kind(path: Path, columns: CatalogSection, tile: str) -> IdKind:
    """Return the kind of a tile's object IDs.

    Raises
    ------
    TileError
        The file cannot be read, or the column of the IDs is missing, empty or of another kind.
    """
    if columns.joins_ids:
        return "text"
    (name,) = columns.id_columns
    where = Where(columns.tile, tile) if columns.tile else None
    try:
        file = open_table(path, [name, where.column] if where else [name])
        table = file.read([name], where)
        _check_ids(table[name], name)
        return _kind_of_ids(table[name], _texts_as_written(file, table, [name], where)[0] if file.is_untyped else None)
    except (TableError, TileError) as error:
        raise TileError(f"catalogue {path}: {error}") from None


def _kind_of_ids(column: Column, written: pa.ChunkedArray | None) -> IdKind:
    """Return the kind of a column of IDs.

    Parameters
    ----------
    column : Column
    written : ChunkedArray or None
        The column as written, for a file without types: a zero before another digit makes the IDs text.
    """
    if holds_text(column):
        return "text"
    has_zeros = written is not None and pc.any(pc.match_substring_regex(written, r"^[+-]?0[0-9]")).as_py()
    return "text" if has_zeros else "integer"


def _checked(
    object_id: ObjectIds, ra: NDArray[np.float64], dec: NDArray[np.float64], has_id: NDArray[np.bool_]
) -> Catalog:
    """Return the rows with an ID; a position that is not on the sky becomes NaN."""
    object_id, ra, dec = object_id[has_id], ra[has_id], dec[has_id]
    on_sky = _on_sky(ra, dec)
    if not on_sky.any():
        raise TileError(
            f"none of its {len(ra)} objects has a position on the sky (first: object {object_id[0]} at "
            f"RA {ra[0]}, Dec {dec[0]}): give RA and Dec in deg"
        )
    return Catalog(object_id, np.where(on_sky, ra, np.nan), np.where(on_sky, dec, np.nan), int((~has_id).sum()))


def _object_ids(
    file: TableFile, table: Columns, columns: CatalogSection, tile: str, where: Where | None, wanted: IdKind | None
) -> tuple[ObjectIds, NDArray[np.bool_]]:
    """Return IDs as int64 or str, and True where a row has one; refuse IDs that passed through float or do not fit."""
    names = columns.id_columns
    has_id = np.logical_and.reduce([_check_ids(table[name], name) for name in names])
    if not has_id.any():
        raise TileError(f"no row has a value in each of the columns {', '.join(names)}: fill them in")
    texts = _texts_as_written(file, table, names, where) if columns.joins_ids or file.is_untyped else None
    if not columns.joins_ids:
        found = _kind_of_ids(table[names[0]], texts and texts[0])
        # In a file without types the values gave the column its type: text IDs may all be digits on one tile.
        if wanted not in (None, found) and not (file.is_untyped and wanted == "text"):
            raise TileError(
                f"column {names[0]} is {KINDS[found]}, but the IDs of the archive are {KINDS[wanted or found]}: "
                "give the IDs of all tiles one kind"
            )
        if found == "integer" and wanted != "text":
            return _integers(table[names[0]], names[0]), has_id
    texts = texts or [as_text(table[names[0]])]
    for name, text in zip(names[:-1], texts, strict=False):
        if pc.any(pc.match_substring(text, "/")).as_py():
            raise TileError(f"column {name} has a / in a part of an ID: put the column last in catalog.object_id")
    joined = pc.binary_join_element_wise(*([tile] if columns.unique_within else []), *texts, "/")
    ids = pc.if_else(pa.array(has_id), joined, "")
    _check_text(ids, ", ".join(names))
    return np.array(ids.to_pylist(), dtype=np.str_), has_id


def _check_ids(column: Column, name: str) -> NDArray[np.bool_]:
    """Return True where a column of IDs has a value; refuse a column that holds neither integers nor text."""
    if len(column) == 0:
        raise TileError("has no objects for this tile: correct the catalogue, or remove the tile from the survey")
    if not (holds_integers(column) or holds_text(column)):
        raise TileError(
            f"column {name} is {kind(column)}, neither integers nor text: give 64-bit integer IDs with every digit"
        )
    has_value = pc.not_equal(column, "").to_numpy() if holds_text(column) else ~np.ma.getmaskarray(column)
    if not has_value.any():
        raise TileError(f"column {name} has no value in any of its {len(column)} rows: fill them in")
    return np.asarray(has_value, dtype=bool)


def _integers(column: Column, name: str) -> NDArray[np.int64]:
    """Return integer IDs as int64."""
    if column.max() > np.iinfo(np.int64).max:
        raise TileError(f"column {name} holds {column.max()}, more than a signed 64-bit integer can hold")
    return np.asarray(np.ma.filled(column, 0), dtype=np.int64)


def _texts_as_written(
    file: TableFile, table: Columns, names: Sequence[str], where: Where | None
) -> list[pa.ChunkedArray]:
    """Return columns of IDs as text: in a file without types as written, with zeros at the start."""
    if not file.is_untyped or all(holds_text(table[name]) for name in names):
        return [as_text(table[name]) for name in names]
    again = {name: as_text(column) for name, column in file.read([*table], where, text=True).items()}
    rows = len(table[names[0]])
    if len(again[names[0]]) != rows:  # a blank line is a row of empty texts here, and no row otherwise
        is_row = pc.not_equal(pc.binary_join_element_wise(*again.values(), ""), "")
        again = {name: column.filter(is_row) for name, column in again.items()}
    if len(again[names[0]]) != rows:
        raise TileError("has blank lines, and rows without any value: remove the blank lines")
    return [again[name] for name in names]


def _check_text(ids: pa.ChunkedArray, name: str) -> None:
    """Refuse text IDs that the index or the shard cannot hold."""
    for bad, trouble in (
        (pc.match_substring_regex(ids, r"\p{Cc}"), "has a control character: remove it"),
        (pc.greater(pc.binary_length(ids), LONGEST_ID), f"is longer than {LONGEST_ID} bytes: give shorter IDs"),
    ):
        if pc.any(bad).as_py():
            raise TileError(f"column {name}: ID {ids.filter(bad)[0].as_py()[:60]!r} {trouble}")


def _degrees(column: Column, name: str, unit: str | None, quantity: Quantity) -> NDArray[np.float64]:
    """Return a coordinate in deg, NaN where it is missing, infinite for a text that cannot be read.

    Raises
    ------
    TileError
        No text of the column can be read, or the unit is unknown.
    """
    degrees = read_angles(column, name, unit, quantity)
    if holds_text(column) and np.isinf(degrees).any() and not np.isfinite(degrees).any():
        unread = as_text(column).filter(np.isinf(degrees))
        raise TileError(
            f"column {name} holds {unread[0].as_py()!r} ({len(unread)} values cannot be read): give {FORMS[quantity]}"
        )
    return degrees


def to_icrs(
    longitude: NDArray[np.float64], latitude: NDArray[np.float64], frame: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return positions as RA and Dec in ICRS.

    Parameters
    ----------
    longitude, latitude : ndarray of float64, (N,)
        Deg. Positions that are not on the sky stay as they are.
    frame : str
        ``icrs``; ``fk5`` of J2000, taken as ICRS unchanged: they agree to 0.1 arcsec, and many files mean ICRS;
        ``fk4`` of B1950; ``galactic``; ``supergalactic``; ``ecliptic``, mean and barycentric of J2000.

    Returns
    -------
    ra, dec : ndarray of float64, (N,)
        Deg, ICRS.
    """
    if frame in ("icrs", "fk5"):
        return longitude, latitude
    ra, dec = longitude.copy(), latitude.copy()
    with np.errstate(invalid="ignore"):
        valid = (np.abs(longitude) <= 360) & (np.abs(latitude) <= 90)
    name = "barycentricmeanecliptic" if frame == "ecliptic" else frame
    ra[valid], dec[valid] = transformed(name, "icrs", longitude[valid], latitude[valid])
    return ra, dec


def _check_ids_are_unique(object_id: ObjectIds) -> None:
    values, counts = np.unique(object_id, return_counts=True)
    if counts.max() > 1:
        raise TileError(
            f"object {values[counts > 1][0]} is listed {counts[counts > 1][0]} times "
            f"({int((counts > 1).sum())} IDs are repeated): keep one row for each ID"
        )


def _on_sky(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return True for positions on the sky, deg, (N,)."""
    with np.errstate(invalid="ignore"):
        return np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90) & (np.abs(ra) <= 360)
