"""Units and human-readable numbers: sizes, angles, memory in; counts, bytes, durations out.

astropy's units take as long to import as all the rest of a small command: functions that need them import them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from numbers import Integral
from typing import TYPE_CHECKING, Literal, TypeAlias

from archive_builder.errors import RequestError, reason_words

if TYPE_CHECKING:
    from astropy import units as u

Length: TypeAlias = "int | str | u.Quantity"
"""One side of a cutout: pixels, a text such as ``"0.5arcmin"``, or an angle."""

BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
"""Powers of a thousand."""

MEMORY_UNITS = {
    "": 1,
    "K": 2**10,
    "M": 2**20,
    "G": 2**30,
    "T": 2**40,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
"""Bytes of a unit in `parse_memory`. One letter means powers of 1024, as in Slurm, and so does KiB to TiB."""

DURATION_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
"""Seconds in each unit."""


def parse_memory(text: str) -> int:
    """Return an amount of memory in bytes: ``2GB``, ``8GiB``, ``500MB``, ``2000000000``.

    Raises
    ------
    RequestError
        The text is not an amount of memory.

    Examples
    --------
    >>> parse_memory("8GiB")
    8589934592
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*)\s*([KMGT]?)(iB|B)?\s*", text, re.IGNORECASE)
    if match is None or not float(match[1]) > 0:
        raise RequestError(f"memory {text!r} is not an amount of memory: give it as 2GB, 8GiB or 500MB")
    decimal = (match[3] or "").upper() == "B" and match[2]
    return int(float(match[1]) * MEMORY_UNITS[match[2].upper() + ("B" if decimal else "")])


def parse_length(length: Length) -> tuple[float, Literal["px", "arcsec"]]:
    """Return one side of a cutout as a number of pixels or of arcsec.

    Parameters
    ----------
    length : int, str or Quantity
        Pixels (``64``, ``"64"``, ``"64px"``) or an angle (``"0.5arcmin"``, ``30 * u.arcsec``).

    Returns
    -------
    value : float
    unit : ``"px"`` or ``"arcsec"``

    Raises
    ------
    RequestError
        The text cannot be read, or its unit is neither.

    Examples
    --------
    >>> parse_length("0.5arcmin")
    (30.0, 'arcsec')
    """
    if type(length) is int:  # the usual case; creating a Quantity is slow
        return length, "px"
    from astropy import units as u

    try:
        # astropy spells the unit "pix"
        quantity = u.Quantity(re.sub(r"px\s*$", "pix", length) if isinstance(length, str) else length)
    except (TypeError, ValueError):
        raise RequestError(f"size {length!r} cannot be read: give pixels or an angle such as 0.5arcmin") from None
    if quantity.isscalar and quantity.unit.is_equivalent(u.arcsec):
        return float(quantity.to_value(u.arcsec)), "arcsec"
    if quantity.isscalar and quantity.unit in (u.dimensionless_unscaled, u.pix):
        return float(quantity.value), "px"
    raise RequestError(f"size {length!r} is neither pixels nor an angle: give 64 or 0.5arcmin, for example")


def to_degrees(radius: u.Quantity | str) -> float:
    """Return a radius in deg.

    Parameters
    ----------
    radius : Quantity or str
        An angle from 0 to 180 deg, ``"1 arcmin"`` for example.

    Raises
    ------
    RequestError
        The radius is not an angle, or not in this range.
    """
    from astropy import units as u

    try:
        limit = float(u.Quantity(radius).to_value(u.deg))
    except (TypeError, ValueError):
        raise RequestError(f"radius {radius!r} is not an angle: give 1 arcmin, for example") from None
    if not 0 <= limit <= 180:
        raise RequestError(f"radius {radius!r} is not between 0 and 180 deg")
    return limit


def whole_number(value: object, name: str, least: int) -> int:
    """Return a whole number of a request after a check.

    Raises
    ------
    RequestError
        The value is not a whole number, or less than the least.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise RequestError(f"{name} is {value!r}: give a whole number, {least} or more")
    return int(value)


def names(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return the names of a request; a single text is one name."""
    return (given,) if isinstance(given, str) else tuple(given)


def by_reason(counts: Mapping[str, int]) -> str:
    """Return counts by reason as text: ``106 for noise, 3 without position``; ``none`` if all are 0."""
    return ", ".join(f"{number} {reason_words(reason)}" for reason, number in counts.items() if number) or "none"


def count(number: float) -> str:
    """Return a count as text: ``39,712``, and in millions from ten million on: ``399.2 M``."""
    return f"{number:,.0f}" if abs(number) < 1e7 else f"{number / 1e6:,.1f} M"


def size(number: float) -> str:
    """Return an amount of bytes as text with three or four digits: ``4.50 TB``, ``443 MB``."""
    unit = 0
    while abs(number) >= 999.5 and unit < len(BYTE_UNITS) - 1:
        number, unit = number / 1000, unit + 1
    digits = 0 if unit == 0 else 2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0
    return f"{number:,.{digits}f} {BYTE_UNITS[unit]}"


def duration(seconds: float) -> str:
    """Return a duration as text in its two largest units: ``1 d 15 h``, ``3 min 12 s``, ``4.2 s``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    for (unit, name), (part, part_name) in pairwise(DURATION_UNITS):
        if round(seconds / part) * part >= unit:
            whole, rest = divmod(round(seconds / part) * part, unit)
            return f"{whole} {name} {rest // part} {part_name}" if rest else f"{whole} {name}"
    return f"{seconds:.0f} s"


def share(part: float, whole: float) -> str:
    """Return a part of a whole in per cent with one decimal; ``-`` if the whole is 0."""
    return f"{100 * part / whole:.1f} %" if whole else "-"
