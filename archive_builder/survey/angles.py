"""Angles in table columns: their units, and sexagesimal text."""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from archive_builder.errors import TableError
from archive_builder.survey.tables import Column, holds_numbers, holds_text, is_missing, kind

Quantity: TypeAlias = Literal["RA", "longitude", "latitude", "size"]
"""Kind of an angle. RA may be in hours, and is in hours in sexagesimal text; a size is never sexagesimal."""

FORMS = {
    "RA": "deg or h:m:s",
    "longitude": "deg or d:m:s",
    "latitude": "deg or d:m:s",
    "size": "arcmin",
}
"""Forms of each quantity, for messages."""

NO_UNIT = ("", "none", "null", "-", "--", "unitless", "1")
"""Texts that name no unit, in lower case."""

SEXAGESIMAL_UNITS = {"h:m:s": "hourangle", "hms": "hourangle", "d:m:s": "deg", "dms": "deg"}
"""Units of sexagesimal columns in some archives, VizieR's for example."""

_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"
"""A decimal number."""

_SEXAGESIMAL = (
    r"^(?P<sign>[+-]?)(?P<whole>[0-9]+)\s*(?P<mark>[hd:°\s])\s*"
    r"(?:(?P<minutes>[0-9]+)\s*[m:'′\s]\s*(?P<seconds>[0-9]+\.?[0-9]*)\s*(?:s|\"|″|'')?"
    r"|(?P<rest>[0-9]+\.?[0-9]*)\s*[m'′]?)$"
)
"""Hours or degrees, minutes, and seconds if any: ``3:36:00.5``, ``-28d00m``, ``3 36 00``, ``+28°15'30"``."""


def read_angles(column: Column, name: str, unit: str | None, quantity: Quantity) -> NDArray[np.float64]:
    """Return a column of angles in deg, or of sizes in arcmin.

    Parameters
    ----------
    column : Column
        Numbers, or text: decimal or, except for sizes, sexagesimal. Letters in the text (``3h36m``, ``54d``) decide
        over the unit.
    name : str
        Column name, for errors.
    unit : str, optional
        Unit in the file; without it, numbers are in deg, sizes in arcmin, and sexagesimal RA is in hours.
    quantity : Quantity
        Kind of the angle.

    Returns
    -------
    ndarray of float64, (N,)
        NaN for a missing value, infinite for a text that cannot be read.

    Raises
    ------
    TableError
        The column has another unit, or holds no angles.

    Examples
    --------
    >>> read_angles(np.array([0.5]), "RA", "rad", "RA")
    array([28.64788976])
    """
    factor = _factor(name, unit, quantity)
    if holds_text(column):
        return _from_text(column, factor, _in_hours(unit, quantity), quantity)
    if not (holds_numbers(column) or len(column) == 0):
        raise TableError(f"column {name} is {kind(column)}, not numbers: give {FORMS[quantity]}, one value a row")
    numbers = np.ma.filled(np.ma.asarray(column).astype(np.float64), np.nan)
    return np.asarray(numbers if factor == 1 else numbers * factor)


def _factor(name: str, unit: str | None, quantity: Quantity) -> float:
    """Return the factor from a unit to deg, or to arcmin for a size."""
    text = _bare(unit)
    if text.lower() in NO_UNIT:
        return 1.0
    from astropy import units as u

    to = u.arcmin if quantity == "size" else u.deg
    text = SEXAGESIMAL_UNITS.get(text.lower(), text)
    for spelling in (text, text.lower(), text.lower().removesuffix("s"), text.lower().removesuffix(".")):
        try:
            found = u.Unit(spelling)
        except (ValueError, TypeError):
            continue
        if found == u.hour and quantity == "RA":
            found = u.hourangle
        if found.is_equivalent(u.deg):
            return float(found.to(to))
    raise TableError(
        f"column {name} has the unit {text!r}, which is not a unit of {quantity}: convert the values to "
        f"{'arcmin' if quantity == 'size' else 'deg'}, or correct the unit in the file"
    )


def _bare(unit: str | None) -> str:
    """Return a unit without brackets and quotes around it; VizieR writes ``"h:m:s"`` in quotes."""
    text = (unit or "").strip()
    if match := re.fullmatch(r"\[(.+)\]|\((.+)\)|\"(.+)\"", text):
        return str(match[match.lastindex or 0]).strip()
    return text


def _in_hours(unit: str | None, quantity: Quantity) -> bool | None:
    """Return True if sexagesimal text without letters is in hours, False if in deg, None if the unit forbids it."""
    text = _bare(unit)
    if quantity == "size":
        return None
    if text.lower() in NO_UNIT:
        return quantity == "RA"
    return {15.0: True, 1.0: False}.get(round(_factor("", unit, quantity), 9))


def _from_text(text: pa.ChunkedArray, factor: float, in_hours: bool | None, quantity: Quantity) -> NDArray[np.float64]:
    """Read angles written as text."""
    text = pc.replace_substring(text, "\N{MINUS SIGN}", "-")
    is_number = pc.match_substring_regex(text, _NUMBER)
    plain = pc.if_else(pa.array(is_missing(text)), "nan", pc.if_else(is_number, pc.utf8_ltrim(text, "+"), "inf"))
    values = np.array(pc.cast(plain, pa.float64()).to_numpy())
    values = values if factor == 1 else values * factor
    others = np.isposinf(values) & ~is_number.to_numpy()
    if in_hours is not None and others.any():
        values[others] = _sexagesimal(text.filter(pa.array(others)), in_hours, quantity)
    return values


def _sexagesimal(text: pa.ChunkedArray, in_hours: bool, quantity: Quantity) -> NDArray[np.float64]:
    """Return sexagesimal texts in deg, infinite where a text is none."""
    # Letters in upper case, and a unit behind a plain number (54d, 3.5h), stay unread: no catalogue has them.
    parts = pc.extract_regex(text.combine_chunks(), _SEXAGESIMAL)
    fields = [pc.fill_null(pc.struct_field(parts, name), "") for name in ("whole", "minutes", "seconds", "rest")]
    whole, minutes, seconds, rest = (
        pc.cast(pc.if_else(pc.equal(part, ""), "0", part), pa.float64()).to_numpy() for part in fields
    )
    sign, mark = (pc.fill_null(pc.struct_field(parts, name), "") for name in ("sign", "mark"))
    is_marked_h, is_marked_d = (np.isin(mark.to_numpy(zero_copy_only=False), m) for m in (["h"], ["d", "°"]))
    is_hours = is_marked_h | (in_hours & ~is_marked_d)
    good = parts.is_valid().to_numpy(zero_copy_only=False) & (minutes < 60) & (seconds < 60) & (rest < 60)
    good &= ~(is_marked_h & (quantity != "RA"))
    # One rounding each, so that 3:36:00 is exactly 54.
    degrees = (whole * 3600 + (minutes + rest) * 60 + seconds) / np.where(is_hours, 240.0, 3600.0)
    return np.where(good, np.where(sign.to_numpy(zero_copy_only=False) == "-", -degrees, degrees), np.inf)
