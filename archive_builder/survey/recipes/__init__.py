"""Recipes that ship with the package, for the file layouts of well-known surveys."""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from archive_builder.errors import RequestError
from archive_builder.survey.recipe import Recipe

RECIPE_NAMES = (
    *("des-dr2", "legacy-dr10", "hsc-pdr3", "rubin", "panstarrs1", "sdss"),
    *("kids", "2mass", "wise", "euclid", "vlass"),
)
"""Names of the recipes, in the order of the list."""

FACT = re.compile(r"^# (Survey|Pixel scale|Needs): (.+)$", re.MULTILINE)
"""First lines of a recipe that ships, in words."""


@dataclass(frozen=True)
class ShippedRecipe:
    """A recipe that ships with the package."""

    name: str
    """Short name: ``des-dr2``."""

    survey: str
    """Name of the survey and the release."""

    bands: tuple[str, ...]
    """Bands, in the order of storage."""

    pixel_scale: str
    """Pixel scale of the survey: ``0.263 arcsec``."""

    needs: str
    """Files that the recipe needs."""

    text: str
    """The recipe as it ships, TOML."""

    @property
    def values(self) -> dict[str, Any]:
        """The parsed recipe, as in the file."""
        return tomllib.loads(self.text)

    @property
    def recipe(self) -> Recipe:
        """The validated recipe; ``root`` is relative."""
        return Recipe.model_validate(self.values)


def shipped_recipes() -> list[ShippedRecipe]:
    """Return all recipes that ship, in the order of `RECIPE_NAMES`."""
    return [shipped_recipe(name) for name in RECIPE_NAMES]


def shipped_recipe(name: str) -> ShippedRecipe:
    """Return one recipe by its name.

    Raises
    ------
    RequestError
        No recipe has this name.

    Examples
    --------
    >>> shipped_recipe("kids").pixel_scale
    '0.2 arcsec'
    """
    text = recipe_text(name)
    facts = dict(FACT.findall(text))
    bands = tuple(tomllib.loads(text)["survey"]["bands"])
    return ShippedRecipe(name, facts["Survey"], bands, facts["Pixel scale"], facts["Needs"], text)


def recipe_text(name: str) -> str:
    """Return the text of a recipe that ships.

    Raises
    ------
    RequestError
        No recipe has this name.
    """
    if name not in RECIPE_NAMES:
        near = difflib.get_close_matches(name.lower(), RECIPE_NAMES, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(RECIPE_NAMES)}"
        raise RequestError(f"no recipe ships for {name}: {hint}")
    return (files(__name__) / f"{name}.toml").read_text(encoding="utf-8")
