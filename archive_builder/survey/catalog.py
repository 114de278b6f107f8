"""Objects of one tile: IDs and positions from a catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archive_builder.errors import TableError, TileError
from archive_builder.survey.recipe import CatalogSection
from archive_builder.survey.tables import Column, Where, holds_integers, holds_numbers, kind, open_table


@dataclass(frozen=True)
class Catalog:
    """The objects of one tile.

    Attributes
    ----------
    object_id : ndarray of int64, (N,)
    ra, dec : ndarray of float64, (N,)
        Deg, ICRS; finite.
    """

    object_id: NDArray[np.int64]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]


def read_catalog(path: Path, columns: CatalogSection, tile: str) -> Catalog:
    """Read a tile's objects.

    Parameters
    ----------
    path : Path
        A table in any format of `archive_builder.survey.tables`; FITS if the ending is of none.
    columns : CatalogSection
        Columns to read.
    tile : str
        Only rows of this tile are kept if ``columns.tile`` names a column.

    Raises
    ------
    TileError
        The file cannot be read, or a column is missing or of the wrong kind. An ID is missing, repeated or not
        an integer. A position is not on the sky. The tile has no objects.
    """
    names = [columns.object_id, columns.ra, columns.dec]
    where = Where(columns.tile, tile) if columns.tile else None
    try:
        table = open_table(path, [*names, where.column] if where else names, otherwise="fits").read(names, where)
        ids, ra, dec = (table[name] for name in names)
        return _checked(_object_ids(ids, columns.object_id), _degrees(ra, columns.ra), _degrees(dec, columns.dec))
    except (TableError, TileError) as error:
        raise TileError(f"catalogue {path}: {error}") from None


def _checked(object_id: NDArray[np.int64], ra: NDArray[np.float64], dec: NDArray[np.float64]) -> Catalog:
    """Return a catalogue of unique IDs and positions on the sky."""
    _check_ids_are_unique(object_id)
    _check_positions(ra, dec, object_id)
    return Catalog(object_id, ra, dec)


def _object_ids(column: Column, name: str) -> NDArray[np.int64]:
    """Return IDs as int64; refuse any that passed through float or do not fit."""
    if len(column) == 0:
        raise TileError("has no objects for this tile: correct the catalogue, or remove the tile from the survey")
    if not holds_integers(column):
        raise TileError(f"column {name} is {kind(column)}, not integers: give 64-bit integer IDs with every digit")
    if np.ma.is_masked(column):
        raise TileError(f"column {name} has no value in {int(np.ma.getmaskarray(column).sum())} rows: fill them in")
    if column.max() > np.iinfo(np.int64).max:
        raise TileError(f"column {name} holds {column.max()}, more than a signed 64-bit integer can hold")
    return np.asarray(column, dtype=np.int64)


def _degrees(column: Column, name: str) -> NDArray[np.float64]:
    """Return a coordinate as float64, NaN where it is missing."""
    if not holds_numbers(column):
        raise TileError(f"column {name} is {kind(column)}, not numbers: give degrees")
    return np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan)


def _check_ids_are_unique(object_id: NDArray[np.int64]) -> None:
    values, counts = np.unique(object_id, return_counts=True)
    if counts.max() > 1:
        raise TileError(
            f"object {values[counts > 1][0]} is listed {counts[counts > 1][0]} times "
            f"({int((counts > 1).sum())} IDs are repeated): keep one row for each ID"
        )


def _check_positions(ra: NDArray[np.float64], dec: NDArray[np.float64], object_id: NDArray[np.int64]) -> None:
    bad = ~(np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90) & (np.abs(ra) <= 360))
    if bad.any():
        first = np.flatnonzero(bad)[0]
        raise TileError(
            f"{int(bad.sum())} objects have no position on the sky (first: object {object_id[first]} at "
            f"RA {ra[first]}, Dec {dec[first]}): give RA and Dec in deg, or remove these rows"
        )
