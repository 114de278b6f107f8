"""The commands that give a recipe: ``recipes``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from archive_builder.cli.options import as_json, example

if TYPE_CHECKING:
    from archive_builder.survey.recipes import ShippedRecipe

HEADINGS = ("name", "survey", "bands", "pixel scale", "needs")
"""Columns of the list of recipes."""


@click.command(
    "recipes",
    short_help="List the recipes for well-known surveys, or print one.",
    epilog=example("archive-builder recipes", "archive-builder recipes des-dr2 > survey.toml"),
)
@click.argument("name", required=False)
@as_json
def recipes_command(name: str | None, as_json: bool) -> None:
    """List the recipes that ship for well-known surveys, or print the recipe NAME.

    A recipe says in its first lines which files it needs, where they are, and how to lay them out.
    """
    from archive_builder.survey.recipes import shipped_recipe, shipped_recipes

    if name is None:
        found = shipped_recipes()
        click.echo(json.dumps([_facts(recipe) for recipe in found]) if as_json else _table(found))
        return
    recipe = shipped_recipe(name)
    if as_json:
        click.echo(json.dumps({**_facts(recipe), "recipe": recipe.values, "text": recipe.text}))
    else:
        click.echo(recipe.text, nl=False)


def _facts(recipe: ShippedRecipe) -> dict[str, Any]:
    """Return one line of the list as plain values."""
    return {
        "name": recipe.name,
        "survey": recipe.survey,
        "bands": recipe.bands,
        "pixel_scale": recipe.pixel_scale,
        "needs": recipe.needs,
    }


def _table(recipes: Sequence[ShippedRecipe]) -> str:
    """Return the list of recipes as a table with aligned columns."""
    rows = [HEADINGS, *((r.name, r.survey, " ".join(r.bands), r.pixel_scale, r.needs) for r in recipes)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEADINGS) - 1)]
    return "\n".join("  ".join([*(row[k].ljust(widths[k]) for k in range(len(widths))), row[-1]]) for row in rows)
