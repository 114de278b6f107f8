"""Objects of one tile: IDs and positions from a catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archive_builder.errors import TableError, TileError
from archive_builder.survey.angles import FORMS, Quantity, read_angles
from archive_builder.survey.recipe import CatalogSection
from archive_builder.survey.tables import Column, Where, as_text, holds_integers, holds_text, kind, open_table

EQUATORIAL = ("icrs", "fk5", "fk4")
"""Frames with RA and Dec; the others have longitude and latitude."""


@dataclass(frozen=True)
class Catalog:
    """The objects of one tile.

    Attributes
    ----------
    object_id : ndarray of int64, (N,)
    ra, dec : ndarray of float64, (N,)
        Deg, ICRS; both NaN for a row without a position on the sky.
    without_id : int
        Rows without an ID: they are left out.
    """

    object_id: NDArray[np.int64]
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    without_id: int = 0

    @property
    def has_position(self) -> NDArray[np.bool_]:
        """True for a row with a position on the sky, (N,)."""
        return np.isfinite(self.ra)


def read_catalog(path: Path, columns: CatalogSection, tile: str) -> Catalog:
    """Read a tile's objects.

    Parameters
    ----------
    path : Path
        A table in any format of `archive_builder.survey.tables`.
    columns : CatalogSection
        Columns to read.
    tile : str
        Only rows of this tile are kept if ``columns.tile`` names a column.

    Raises
    ------
    TileError
        The file cannot be read, or a column is missing, of the wrong kind or in an unknown unit. The tile has no
        objects, or none has an ID, or none has a position on the sky. An ID is repeated and ``columns.duplicates`` is
        ``fail``.
    """
    names = [columns.object_id, columns.ra, columns.dec]
    where = Where(columns.tile, tile) if columns.tile else None
    try:
        file = open_table(path, [*names, where.column] if where else names)
        table = file.read(names, where)
        object_id, has_id = _object_ids(table[columns.object_id], columns.object_id)
        longitude: Quantity = "RA" if columns.frame in EQUATORIAL else "longitude"
        ra = _degrees(table[columns.ra], columns.ra, file.units.get(columns.ra), longitude)
        dec = _degrees(table[columns.dec], columns.dec, file.units.get(columns.dec), "latitude")
        catalog = _checked(object_id, *to_icrs(ra, dec, columns.frame), has_id)
        if columns.duplicates == "fail":
            _check_ids_are_unique(catalog.object_id)
        return catalog
    except (TableError, TileError) as error:
        raise TileError(f"catalogue {path}: {error}") from None


def _checked(
    object_id: NDArray[np.int64], ra: NDArray[np.float64], dec: NDArray[np.float64], has_id: NDArray[np.bool_]
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


def _object_ids(column: Column, name: str) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return IDs as int64, and True where a row has one; refuse IDs that passed through float or do not fit."""
    if len(column) == 0:
        raise TileError("has no objects for this tile: correct the catalogue, or remove the tile from the survey")
    if not holds_integers(column):
        raise TileError(f"column {name} is {kind(column)}, not integers: give 64-bit integer IDs with every digit")
    has_id = ~np.ma.getmaskarray(column)
    if not has_id.any():
        raise TileError(f"column {name} has no value in any of its {len(column)} rows: fill them in")
    if column.max() > np.iinfo(np.int64).max:
        raise TileError(f"column {name} holds {column.max()}, more than a signed 64-bit integer can hold")
    return np.asarray(np.ma.filled(column, 0), dtype=np.int64), has_id


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
    from astropy.coordinates import SkyCoord

    ra, dec = longitude.copy(), latitude.copy()
    with np.errstate(invalid="ignore"):
        valid = (np.abs(longitude) <= 360) & (np.abs(latitude) <= 90)
    name = "barycentricmeanecliptic" if frame == "ecliptic" else frame
    icrs = SkyCoord(longitude[valid], latitude[valid], unit="deg", frame=name).icrs
    ra[valid], dec[valid] = icrs.ra.deg, icrs.dec.deg
    return ra, dec


def _check_ids_are_unique(object_id: NDArray[np.int64]) -> None:
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
