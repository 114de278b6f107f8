"""How much memory a worker takes for a tile, and how many workers fit into a budget.

A worker at work on a tile has, besides what Python and its libraries take (`BASE`):

- rows of one plane as they are stored, in slabs of `CHUNK` rows, while objects that need them are unsettled: those of
  the block, of half a cutout below it, of what is read ahead of it (a cutout, or the two and a half rows of noise cells
  that make the noise final), of a strip, and of two slabs that are only partly needed;
- a strip of all bands as it is read, in 4 bytes a pixel, twice where rows wait until a row of noise cells is whole;
- a strip of one band on its way from the file, and a slab on its way to the shard.

Weights and masks are read after the image, and the colour picture before it, strip by strip: they need no more. What
reading the catalogue takes is not counted: for one of 20 MB it is less than all this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archive_builder.builder.sweep import BLOCK, STRIP_ROWS
from archive_builder.errors import RequestError, TileError
from archive_builder.geometry import Shape
from archive_builder.store.rows import CHUNK
from archive_builder.survey.color_image import Picture
from archive_builder.survey.discovery import TileFiles
from archive_builder.survey.recipe import Recipe
from archive_builder.survey.tile import Tile

BASE = 200_000_000
"""Bytes of a worker without pixels: 165 MB at rest after its first tile, with 40,000 objects, and gaps between."""

FINISH = 70_000_000
"""Bytes that HDF5 takes while the virtual cutouts are made, when there are no pixels any more."""

DRIVER = 300_000_000
"""Bytes of the process that hands out the tiles and commits them, and of the one that watches over its children."""

LOWEST_STRIP = 16
"""Rows: below that, reading takes half as long again."""


@dataclass(frozen=True)
class Load:
    """What a build puts onto a machine."""

    workers: int
    """Processes."""

    memory: int
    """Bytes that each may take."""

    fewer: bool = False
    """Whether more were wanted than fit."""


def worker_memory(shape: Shape, recipe: Recipe, size: int, strip_rows: int, picture_rows: int = 0) -> int:
    """Return how many bytes a worker takes at most for a tile.

    Parameters
    ----------
    shape : (ny, nx)
        Of the tile.
    recipe : Recipe
    size : int
        Side of a cutout in pixels.
    strip_rows : int
        Rows read at a time.
    picture_rows : int
        Rows of the colour picture that are decoded together; 0 without one.
    """
    (ny, nx), bands, mesh = shape, len(recipe.survey.bands), recipe.quality.background_mesh
    ahead = max(size, 5 * mesh // 2)
    rows = min(BLOCK + size // 2 + ahead + strip_rows + 2 * CHUNK, -(-ny // CHUNK) * CHUNK)
    waiting = mesh if strip_rows % mesh else 0
    per_row = 4 * bands * nx
    sweep = per_row * (rows + max(strip_rows + 2 * waiting, CHUNK)) + 16 * nx * max(strip_rows, CHUNK)
    picture = 4 * nx * (2 * picture_rows + 2 * CHUNK) if picture_rows else 0
    return BASE + max(sweep, picture, FINISH)


def strip_that_fits(shape: Shape, recipe: Recipe, size: int, memory: int, picture_rows: int = 0) -> int:
    """Return how many rows of a tile a worker reads at a time to stay within its memory.

    Raises
    ------
    TileError
        Not even the lowest strip fits.
    """
    needs = _needs(shape, recipe, size, picture_rows)
    fitting = [rows for rows, need in needs.items() if need <= memory]
    if not fitting:
        least = min(needs.values())
        raise TileError(
            f"it takes {_gb(least)} of memory but a worker may take {_gb(memory)}: build it with more --memory"
            " or fewer --workers"
        )
    return max(fitting)


def share_out(
    tiles: Sequence[TileFiles], recipe: Recipe, size: int, budget: int, cpus: int, workers: int | None
) -> Load:
    """Share a budget out to workers, by the first of the tiles that can be opened.

    Parameters
    ----------
    tiles : sequence of TileFiles
    recipe : Recipe
    size : int
        Side of a cutout in pixels.
    budget : int
        Bytes, for all processes together.
    cpus : int
        Workers if nothing is said, if they fit.
    workers : int or None
        How many are wanted.

    Raises
    ------
    RequestError
        Not one worker fits.
    """
    wanted = min(workers or cpus, max(1, len(tiles)))
    need = _need_of_first(tiles, recipe, size)
    fitting = min(wanted, (budget - DRIVER) // need if need else wanted)
    if fitting < 1:
        raise RequestError(
            f"memory {_gb(budget)} is too little for one worker: a tile of this survey takes {_gb(need + DRIVER)}, "
            "of all processes together: give as much as --memory"
        )
    return Load(fitting, (budget - DRIVER) // fitting, fewer=fitting < wanted)


def _need_of_first(tiles: Sequence[TileFiles], recipe: Recipe, size: int) -> int:
    """Return the least that a worker needs for the first tile that can be opened; 0 if none can."""
    for files in tiles[:10]:
        try:
            with Tile(files.images, recipe.survey.image_hdu) as tile:
                return min(_needs(tile.shape, recipe, size, picture_rows(files, tile.shape)).values())
        except (TileError, OSError):  # its own build says what is wrong with it
            continue
    return 0


def picture_rows(files: TileFiles, shape: Shape) -> int:
    """Return how many rows of a tile's colour picture are decoded together; 0 if it has none."""
    if files.color is None:
        return 0
    with Picture(files.color, shape) as picture:
        return picture.strip_rows


def _needs(shape: Shape, recipe: Recipe, size: int, picture_rows: int) -> dict[int, int]:
    """Return what a worker takes, by how many rows it reads at a time."""
    # The usual numbers of rows, and whole rows of noise cells, which need not wait.
    mesh = recipe.quality.background_mesh
    heights = sorted({STRIP_ROWS, 64, 32, LOWEST_STRIP, mesh * max(1, STRIP_ROWS // mesh)})
    return {rows: worker_memory(shape, recipe, size, rows, picture_rows) for rows in heights}


def _gb(number: int) -> str:
    return f"{number / 1e9:.2f} GB"
