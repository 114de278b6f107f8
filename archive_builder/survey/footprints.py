"""Tile footprints under survey-specific column names of the tile table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from archive_builder.survey.discovery import tile_table
from archive_builder.survey.recipe import Recipe

BOXES = (
    ("rall", "decll", "raur", "decur"),
    ("racmin", "deccmin", "racmax", "deccmax"),
    ("ramin", "decmin", "ramax", "decmax"),
    ("ra_min", "dec_min", "ra_max", "dec_max"),
)
"""Columns of two opposite corners, deg, in any case; the RA may wrap through 360."""

CENTRES = (("ra_cent", "dec_cent"), ("ra_center", "dec_center"), ("racen", "deccen"), ("ra", "dec"))
"""Columns of the centre, deg, in any case."""


def tile_corners(recipe: Recipe, side: float) -> tuple[dict[str, NDArray[np.float64]], str]:
    """Return the footprints of tiles from the tile table.

    Parameters
    ----------
    recipe : Recipe
    side : float
        Side of a tile, deg; used if the table has only centres.

    Returns
    -------
    corners : dict of str to ndarray, (4, 2)
        RA and Dec in deg by tile; empty without a tile table, or if the table has no columns of positions.
    columns : str
        Names of the columns used; empty if none.
    """
    rows = tile_table(recipe) if recipe.survey.tiles else {}
    names = {name.lower(): name for name in next(iter(rows.values()), {})}
    for wanted in (*BOXES, *CENTRES):
        if set(wanted) <= names.keys():
            columns = [names[name] for name in wanted]
            found = {tile: _corners(row, columns, side) for tile, row in rows.items()}
            return {tile: at for tile, at in found.items() if np.isfinite(at).all()}, ", ".join(columns)
    return {}, ""


def _corners(row: Mapping[str, str], columns: list[str], side: float) -> NDArray[np.float64]:
    """Return the corners of one row, deg, NaN where a value is missing."""
    values = np.array([_number(row[column]) for column in columns])
    if len(values) == 2:
        half = side / 2 / np.array([np.cos(np.radians(values[1])), 1.0])
        (west, south), (east, north) = values - half, values + half
    else:
        west, south, east, north = values
        east = west + (east - west + 180.0) % 360.0 - 180.0
    return np.array([(west, south), (east, south), (east, north), (west, north)])


def _number(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        return float("nan")
