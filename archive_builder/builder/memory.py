"""Memory model of a worker, and the number of workers that fit into a budget.

A worker on a tile holds, besides Python and its libraries (`BASE`):

- rows of one plane in stored form, in slabs of `CHUNK` rows, while unsettled objects need them: the rows of the block,
  of half a cutout below the block, of the rows read ahead (a cutout, or the two and a half rows of noise cells that
  make the noise final), of a strip, and of two slabs that are only partly needed;
- a strip of all bands as read, 4 bytes a pixel, twice where rows wait until a row of noise cells is complete; 8 bytes
  for a mask of 64 flags;
- a strip of one band on its way from the file, and a slab on its way to the shard.

Weights and masks are read after the image, and the colour picture before the image, strip by strip: they need no more.
The model leaves out the catalogue: reading one of 20 MB takes less than all this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archive_builder import units
from archive_builder.builder.first_tile import measure_first
from archive_builder.builder.sweep import BLOCK, STRIP_ROWS
from archive_builder.errors import RequestError, TileError
from archive_builder.geometry import Shape
from archive_builder.store.rows import CHUNK
from archive_builder.survey.color_image import Picture
from archive_builder.survey.discovery import TileFiles
from archive_builder.survey.recipe import Recipe
from archive_builder.survey.tile import Tile

BASE = 200_000_000
"""Memory of a worker without pixels, bytes: 165 MB at rest after a tile of 40,000 objects, and gaps between."""

FINISH = 70_000_000
"""Memory of HDF5 while it creates the virtual cutouts, bytes; the pixels are freed by then."""

DRIVER = 300_000_000
"""Memory of the process that hands out and commits the tiles, and of its resource tracker, bytes."""

LOWEST_STRIP = 16
"""Lowest strip, rows: with lower strips, reading takes 1.5 times as long."""

TRIED = 10
"""Tiles that are tried for the first that can be read."""


@dataclass(frozen=True)
class Load:
    """Workers of a build on this machine."""

    workers: int
    """Worker processes."""

    memory: int
    """Maximum memory of each worker, bytes."""

    fewer: bool = False
    """True if fewer workers fit than requested."""


def worker_memory(
    shape: Shape, recipe: Recipe, size: int, strip_rows: int, picture_rows: int = 0, pixel_bytes: int = 4
) -> int:
    """Return the maximum memory of a worker on a tile, bytes.

    Parameters
    ----------
    shape : (ny, nx)
        Shape of the tile, px.
    recipe : Recipe
    size : int
        Side of a cutout, px.
    strip_rows : int
        Rows read at a time.
    picture_rows : int
        Rows of the colour picture that are decoded together; 0 without a picture.
    pixel_bytes : int
        Bytes of a pixel in stored form: 4, or 8 for a mask of 64 flags.
    """
    (ny, nx), bands, mesh = shape, len(recipe.survey.bands), recipe.quality.background_mesh
    ahead = max(size, 5 * mesh // 2)
    rows = min(BLOCK + size // 2 + ahead + strip_rows + 2 * CHUNK, -(-ny // CHUNK) * CHUNK)
    waiting = mesh if strip_rows % mesh else 0
    per_row = pixel_bytes * bands * nx
    sweep = per_row * (rows + max(strip_rows + 2 * waiting, CHUNK)) + 16 * nx * max(strip_rows, CHUNK)
    picture = 4 * nx * (2 * picture_rows + 2 * CHUNK) if picture_rows else 0
    return BASE + max(sweep, picture, FINISH)


def strip_that_fits(
    shape: Shape, recipe: Recipe, size: int, memory: int, picture_rows: int = 0, pixel_bytes: int = 4
) -> int:
    """Return the number of rows to read at a time for a worker to stay within its memory.

    Raises
    ------
    TileError
        The lowest strip does not fit.
    """
    needs = _needs(shape, recipe, size, picture_rows, pixel_bytes)
    fitting = [rows for rows, need in needs.items() if need <= memory]
    if not fitting:
        least = min(needs.values())
        raise TileError(
            f"the tile takes {units.size(least)} of memory, a worker may use {units.size(memory)}: "
            "give more --memory or fewer --workers"
        )
    return max(fitting)


def share_out(tiles: Sequence[TileFiles], recipe: Recipe, size: int, budget: int, workers: int) -> Load:
    """Return the workers that fit into a budget, by the first of the tiles that can be read.

    Parameters
    ----------
    tiles : sequence of TileFiles
        Tiles to build.
    recipe : Recipe
    size : int
        Side of a cutout, px.
    budget : int
        Memory of all processes together, bytes.
    workers : int
        Maximum workers, 1 or more.

    Raises
    ------
    RequestError
        Not one worker fits.
    """
    wanted = min(workers, max(1, len(tiles)))
    need = _first_need(tiles, recipe, size)
    fitting = min(wanted, (budget - DRIVER) // need if need else wanted)
    if fitting < 1:
        raise RequestError(
            f"memory {units.size(budget)} is too little for one worker: "
            f"give at least {units.size(1.01 * (need + DRIVER))} as --memory"
        )
    return Load(fitting, (budget - DRIVER) // fitting, fewer=fitting < wanted)


def _first_need(tiles: Sequence[TileFiles], recipe: Recipe, size: int) -> int:
    """Return the least memory of a worker on the first tile that can be read, bytes; 0 if none can."""

    def least(files: TileFiles, tile: Tile) -> int:
        rows = picture_rows(files, tile.shape)
        return min(_needs(tile.shape, recipe, size, rows, tile.pixel_bytes()).values())

    try:
        return measure_first(tiles[:TRIED], recipe, least)
    except TileError:
        return 0


def picture_rows(files: TileFiles, shape: Shape) -> int:
    """Return the number of rows of a tile's colour picture that are decoded together; 0 without a picture."""
    if files.color is None:
        return 0
    with Picture(files.color, shape) as picture:
        return picture.strip_rows


def _needs(shape: Shape, recipe: Recipe, size: int, picture_rows: int, pixel_bytes: int) -> dict[int, int]:
    """Return the maximum memory of a worker in bytes, by the number of rows read at a time."""
    # Whole rows of noise cells need not wait.
    mesh = recipe.quality.background_mesh
    heights = sorted({STRIP_ROWS, 64, 32, LOWEST_STRIP, mesh * max(1, STRIP_ROWS // mesh)})
    return {rows: worker_memory(shape, recipe, size, rows, picture_rows, pixel_bytes) for rows in heights}
