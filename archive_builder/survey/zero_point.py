"""The zero point of a tile's band: a number, or a rule that takes the number from a header or the tile table."""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeAlias

from astropy.io import fits
from pydantic import BaseModel, ConfigDict, Field

from archive_builder.errors import TileError


class _Rule(BaseModel):
    """A rule in a recipe: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class HeaderCard(_Rule):
    """A zero point from a card of the image's header, or else of the primary HDU's."""

    card: str = Field(min_length=1)
    """Keyword."""

    meaning: Literal["zero point", "flux of magnitude 0"] = Field("zero point", alias="as")
    """Meaning of the card's value: the zero point, mag, or the flux of an object of magnitude 0, image units."""

    add: Annotated[float, Field(allow_inf_nan=False, strict=True)] = 0.0
    """Magnitudes to add: AB minus Vega for a card in Vega magnitudes."""


class Exposure(_Rule):
    """A zero point for an image in counts of one exposure: ``number + 2.5 log10(exposure time)``."""

    number: Annotated[float, Field(allow_inf_nan=False, strict=True)]
    """Zero point for one second, AB mag."""

    exposure: str = Field(min_length=1)
    """Keyword of the exposure time, s."""


FilledRule: TypeAlias = float | str | HeaderCard | Exposure
"""A rule without placeholders: a text is the keyword of a header card."""


def zero_point(rule: FilledRule, header: fits.Header, where: str) -> float:
    """Return the zero point of an image, AB mag.

    Parameters
    ----------
    rule : float, str, HeaderCard or Exposure
    header : Header
        Header of the image, with the cards of the primary HDU.
    where : str
        Path of the file, for messages.

    Raises
    ------
    TileError
        The header lacks the card, or its value cannot be used.

    Examples
    --------
    >>> zero_point(HeaderCard(card="FLUXMAG0", meaning="flux of magnitude 0"), fits.Header({"FLUXMAG0": 1e9}), "a.fits")
    22.5
    """
    if isinstance(rule, float | int):
        return float(rule)
    if isinstance(rule, str):
        return _number(header, rule, where)
    if isinstance(rule, Exposure):
        return rule.number + 2.5 * math.log10(_positive(header, rule.exposure, where))
    if rule.meaning == "zero point":
        return _number(header, rule.card, where) + rule.add
    return 2.5 * math.log10(_positive(header, rule.card, where)) + rule.add


def _number(header: fits.Header, keyword: str, where: str) -> float:
    """Return the number of a card."""
    value = header.get(keyword)
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        found = "has no card" if value is None else f"has no number in the card (but {value!r})"
        raise TileError(f"{where}: {found} {keyword} for the zero point: correct survey.zero_point or the header")
    return number


def _positive(header: fits.Header, keyword: str, where: str) -> float:
    """Return the number of a card, which must be above zero."""
    number = _number(header, keyword, where)
    if number <= 0:
        raise TileError(f"{where}: the card {keyword} is {number:g}, not above zero: correct the header")
    return number
