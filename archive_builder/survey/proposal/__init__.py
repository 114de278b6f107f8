"""A recipe proposed from what lies in a folder of files: ``archive-builder init``."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from archive_builder.atomic import temporary_path
from archive_builder.errors import ArchiveBuilderError, RecipeError, RequestError, one_line
from archive_builder.survey.discovery import discover
from archive_builder.survey.proposal.findings import Findings, find
from archive_builder.survey.proposal.text import recipe_of, unfinished
from archive_builder.survey.recipe import load_recipe

RECIPE_NAME = "survey.toml"

MOST_INCOMPLETE = 5
"""Maximum number of incomplete tiles in a proposal."""


@dataclass(frozen=True)
class Proposal:
    """A recipe that was written for a folder."""

    recipe: Path
    """The file."""

    tiles: int
    """Tiles that the recipe finds complete; 0 if it is not finished."""

    bands: tuple[str, ...]
    """Bands found."""

    unfinished: tuple[str, ...]
    """Lines that a person must complete, or the reason why the recipe finds no tile."""

    known: tuple[str, ...]
    """Recipes that ship for files like these."""


def propose_recipe(folder: Path) -> Proposal:
    """Write ``folder/survey.toml`` from the names and headers of the files below the folder.

    Parameters
    ----------
    folder : Path
        A folder of FITS images and catalogues. No pixels are read.

    Raises
    ------
    RequestError
        The folder cannot be read, has a recipe, or holds no FITS file.
    ArchiveBuilderError
        The recipe cannot be written.
    """
    path = folder / RECIPE_NAME
    if not folder.is_dir():
        raise RequestError(f"{folder}: is not a folder: give the folder of a survey's files")
    _refuse_existing(path)
    found = find(folder)
    text = recipe_of(found)
    _write_new(path, text)
    return _checked(path, found, text)


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise RequestError(f"{path}: is there already: edit it, or move it away and run the command again")


def _write_new(path: Path, text: str) -> None:
    """Write a file whole or not at all, never over an existing one."""
    temporary = temporary_path(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        try:
            os.link(temporary, path)  # unlike a rename, never over a file that appeared meanwhile
        except FileExistsError:
            _refuse_existing(path)
        except OSError:  # a file system without hard links
            _refuse_existing(path)
            temporary.rename(path)
    except OSError as error:
        raise ArchiveBuilderError(f"{path}: cannot be written: {one_line(error)}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def _checked(path: Path, found: Findings, text: str) -> Proposal:
    """Return the proposal, with the tiles that its recipe finds."""
    missing, tiles = unfinished(text), 0
    if not missing:
        try:
            discovery = discover(load_recipe(path))
            tiles = len(discovery.tiles)
            missing = [f"tile {name}: {reason}" for name, reason in discovery.incomplete.items()]
            if len(missing) > MOST_INCOMPLETE:
                missing[MOST_INCOMPLETE:] = [f"{len(missing) - MOST_INCOMPLETE} more tiles are not complete"]
        except RecipeError as error:
            missing = [str(error)]
    return Proposal(path, tiles, found.bands, tuple(missing), tuple(name for name, _ in found.known))
