"""The commands that give a recipe: ``recipes`` and ``init``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archive_builder.cli.options import a_path, as_json, example
from archive_builder.errors import printable

if TYPE_CHECKING:
    from archive_builder.survey.proposal import Proposal
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


@click.command(
    "init",
    short_help="Propose a recipe for a folder of files.",
    epilog=example("archive-builder init survey"),
)
@click.argument("folder", type=a_path)
@as_json
def init_command(folder: Path, as_json: bool) -> None:
    """Write FOLDER/survey.toml from the names and headers of the files in FOLDER, for you to check and finish.

    The recipe has the findings as comments: bands, HDUs, WCS, zero-point cards, weights and masks, columns of
    catalogues. Lines to complete begin with "# FINISH:". A file that is there is never replaced.
    """
    from archive_builder.survey.proposal import propose_recipe

    proposal = propose_recipe(folder)
    values = {**asdict(proposal), "recipe": str(proposal.recipe)}
    click.echo(json.dumps(values) if as_json else _summary(proposal))


def _summary(proposal: Proposal) -> str:
    """Return the result of ``init`` in lines."""
    lines = [f"{proposal.recipe}: like {name}: see archive-builder recipes {name}" for name in proposal.known]
    lines += [printable(f"{proposal.recipe}: to finish: {line}") for line in proposal.unfinished]
    if proposal.tiles:
        bands = ", ".join(proposal.bands)
        found = f"{proposal.tiles} tile{'s' if proposal.tiles > 1 else ''} in {bands}"
        lines.append(f"{found}: check {proposal.recipe}, then archive-builder build {proposal.recipe} ARCHIVE")
    return "\n".join(lines)
