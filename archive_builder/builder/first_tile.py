"""Measures of a survey that are taken from its first readable tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from archive_builder import geometry
from archive_builder.errors import RecipeError, TileError, one_line
from archive_builder.survey.discovery import TileFiles
from archive_builder.survey.recipe import Recipe
from archive_builder.survey.tile import Tile

T = TypeVar("T")


def measure_first(tiles: Sequence[TileFiles], recipe: Recipe, measure: Callable[[TileFiles, Tile], T]) -> T:
    """Return a measure of the first tile that can be read.

    Parameters
    ----------
    tiles : sequence of TileFiles
    recipe : Recipe
    measure : callable
        Called with the files of a tile and with the open tile.

    Raises
    ------
    TileError
        No tile can be read: the error of the last one.
    """
    last = TileError("none is complete")
    for files in tiles:
        try:
            with Tile.of(files, recipe, planes=True) as tile:
                return measure(files, tile)
        except (TileError, OSError) as error:  # the build of that tile reports the error
            last = TileError(one_line(error))
    raise last


def size_in_pixels(recipe: Recipe, tiles: Sequence[TileFiles]) -> int:
    """Return the side of the cutouts in pixels, by the pixel scale of the first tile that can be read.

    Raises
    ------
    RecipeError
        The size is an angle, and no tile can be read.
    """
    size = recipe.cutout.size
    if isinstance(size, int):
        return size
    try:
        return measure_first(
            tiles, recipe, lambda files, tile: geometry.parse_shape(size, geometry.pixel_scale(tile.wcs))[0]
        )
    except TileError as error:
        raise RecipeError(f"cutout.size is {size}, but no tile can be read for its pixel scale: {error}") from None
