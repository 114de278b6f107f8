"""Numbers as people read them: counts, bytes, durations."""

from __future__ import annotations

from itertools import pairwise

BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
"""Powers of a thousand."""

DURATION_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
"""Seconds in each."""


def count(number: float) -> str:
    """Return a count: ``39,712``, and from ten million on ``399.2 M``."""
    return f"{number:,.0f}" if abs(number) < 1e7 else f"{number / 1e6:,.1f} M"


def size(number: float) -> str:
    """Return an amount of bytes with three or four digits: ``4.50 TB``, ``443 MB``."""
    unit = 0
    while abs(number) >= 999.5 and unit < len(BYTE_UNITS) - 1:
        number, unit = number / 1000, unit + 1
    digits = 0 if unit == 0 else 2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0
    return f"{number:,.{digits}f} {BYTE_UNITS[unit]}"


def duration(seconds: float) -> str:
    """Return a time in its two largest units: ``1 d 15 h``, ``3 min 12 s``, ``4.2 s``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    for (unit, name), (part, part_name) in pairwise(DURATION_UNITS):
        if round(seconds / part) * part >= unit:
            whole, rest = divmod(round(seconds / part) * part, unit)
            return f"{whole} {name} {rest // part} {part_name}" if rest else f"{whole} {name}"
    return f"{seconds:.0f} s"


def share(part: float, whole: float) -> str:
    """Return a part of a whole in per cent, to one digit."""
    return f"{100 * part / whole:.1f} %" if whole else "-"
