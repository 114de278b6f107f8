"""Layouts of well-known surveys among the files of a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from archive_builder.survey.discovery import PLACEHOLDER
from archive_builder.survey.recipes import ShippedRecipe, shipped_recipes


def known_surveys(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the name of each recipe that ships and fits files of these names, and how well it fits.

    Parameters
    ----------
    names : sequence of str
        Paths relative to the folder, with ``/``.
    """
    for shipped in shipped_recipes():
        pattern = _expression(shipped)
        whole = re.compile(pattern)
        part = re.compile(f"(?:.*/)?{pattern.rsplit('/', 1)[-1]}")
        if any(whole.fullmatch(name) for name in names):
            yield shipped.name, f"the files are named and laid out as those of {shipped.survey}"
        elif any(part.fullmatch(name) for name in names):
            yield shipped.name, f"the files are named as those of {shipped.survey}, in other folders"


def _expression(shipped: ShippedRecipe) -> str:
    """Return the pattern of the images as a regular expression."""
    survey = shipped.recipe.survey
    bands = "(?:" + "|".join(map(re.escape, survey.bands)) + ")"
    tile = r"[^/]*\d[^/]*"  # every survey of the list has digits in the names of its tiles
    pieces = []
    for piece in re.split(r"(\{[^}]*\}|\*)", survey.image):
        if piece == "{band}":
            pieces.append(bands)
        elif piece == "{tile}":
            pieces.append(tile)
        elif piece == "*":
            pieces.append("[^/]*")
        elif piece == "{path}":
            pieces.append(r"\d{6}[ns]/s\d{3}/image")
        elif PLACEHOLDER.fullmatch(piece):
            pieces.append(tile)
        else:
            pieces.append(re.escape(piece))
    return "".join(pieces)
