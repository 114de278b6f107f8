"""The whole synthetic survey, and its recipe."""

from __future__ import annotations

from math import ceil, sqrt
from pathlib import Path

from archive_builder.survey.demo.camera import BACKGROUND_RMS, BANDS, PIXEL_SCALE, ZERO_POINT
from archive_builder.survey.demo.files import QUANTIZE_LEVEL, make_tile
from archive_builder.survey.demo.tiles import lay_out

SMALLEST_TILE = 256
"""Minimum side of a tile, px: a cutout of an arcminute (228 px) and two background cells (128 px) fit."""

MAX_RMS_R = 3.8

MIN_DEPTH_I = 24.15
"""Thresholds of the recipe: 1.45 times the typical background RMS. Only the shallow corner of a tile fails them."""


def make_survey(directory: Path, *, tiles: int = 4, tile_size: int = 1000, objects: int = 400, seed: int = 1) -> Path:
    """Write a synthetic survey: a recipe, and for each tile images in five bands, a colour picture and a catalogue.

    The same arguments give the same files, byte for byte.

    Parameters
    ----------
    directory : Path
        Folder of the survey, created if missing. It must not hold a survey.
    tiles : int
        Number of tiles, on a near-square grid of overlapping neighbours.
    tile_size : int
        Side of a tile, px of 0.263 arcsec; 10000 in DES.
    objects : int
        Exact number of catalogued objects per tile; 40000 in DES. An object is only in the catalogue of the tile
        with the greatest distance between the object and the tile edge.
    seed : int
        Seed of the random numbers; another seed gives another sky.

    Returns
    -------
    Path
        The recipe, ``directory/survey.toml``. It is written last: if it exists, the survey is complete.

    Raises
    ------
    ValueError
        An argument is out of range.
    FileExistsError
        The directory holds a survey or a part of one.
    """
    _check(tiles, tile_size, objects, seed)
    recipe = directory / "survey.toml"
    if recipe.exists() or any(directory.glob("DEM*")):
        raise FileExistsError(f"{directory} already holds a synthetic survey: remove it, or give another folder")
    layout = lay_out(tiles, tile_size, seed)
    for tile in layout:
        make_tile(directory / tile.name, tile, layout, objects)
    recipe.write_text(_recipe_text(), encoding="utf-8")
    return recipe


def _check(tiles: int, tile_size: int, objects: int, seed: int) -> None:
    if tiles < 1:
        raise ValueError(f"{tiles} tiles: ask for at least one tile")
    if tile_size < SMALLEST_TILE:
        raise ValueError(f"a tile of {tile_size} px is too small for a cutout: ask for at least {SMALLEST_TILE} px")
    if not 1 <= objects <= tile_size**2 // 100:
        most = tile_size**2 // 100
        raise ValueError(f"{objects} objects per tile: a tile of {tile_size} px holds 1 to {most} objects")
    if seed < 0:
        raise ValueError(f"seed {seed} is negative: give a seed of 0 or more")
    if ceil(sqrt(tiles)) * tile_size * PIXEL_SCALE / 3600.0 > 90.0:
        raise ValueError(f"{tiles} tiles of {tile_size} px span more than 90 degrees: ask for fewer tiles")


def _recipe_text() -> str:
    """Return the recipe of the survey that `make_survey` writes."""
    bands, typical_rms = ", ".join(f'"{band}"' for band in BANDS), BACKGROUND_RMS["r"]
    return f"""\
# Recipe of a synthetic survey in the file layout of the Dark Energy Survey.

[survey]
name = "Demo"
root = "."                                # relative to this file
bands = [{bands}]
image = "{{tile}}/{{tile}}_*_{{band}}.fits*"    # glob; plain, gzipped or fpacked
image_hdu = "SCI"                         # its MSK and WGT are found in the same file
color = "{{tile}}/{{tile}}_*_irg.tiff"        # optional: the tile's colour picture
zero_point = {ZERO_POINT}                         # AB magnitude of one count

[catalog]
path = "{{tile}}/{{tile}}_*_cat.fits"         # FITS, VOTable, CSV, Parquet, ...
object_id = "COADD_OBJECT_ID"             # 64-bit integers
ra = "ALPHAWIN_J2000"
dec = "DELTAWIN_J2000"

[cutout]
size = "1 arcmin"                         # or pixels; here 228 px of {PIXEL_SCALE} arcsec

[quality]                                 # an object is skipped if any of these fails
max_background_rms = {{ r = {MAX_RMS_R} }}          # counts; {typical_rms} is typical
min_depth = {{ i = {MIN_DEPTH_I} }}                 # AB mag, 5 sigma; both fail in a corner of each tile
max_blank_fraction = 0.5                  # of the cutout pixels; the first tile has a hole

[storage]
layout = "mosaic"                         # each pixel is stored once; or "stamps"
quantization = {QUANTIZE_LEVEL:.0f}                         # steps per background RMS; or "lossless"
"""
