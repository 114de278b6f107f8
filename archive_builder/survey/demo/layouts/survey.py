"""The synthetic survey of a layout, with the recipe that ships for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from archive_builder.survey.demo.layouts import des, euclid, ipac, kids, legacy, lsst, panstarrs, sdss, vlass
from archive_builder.survey.demo.layouts.scene import Scene, draw_scene
from archive_builder.survey.recipes import recipe_text

SMALLEST_TILE = 128
"""Minimum side of a tile, px: one cell of the background mesh."""


@dataclass(frozen=True)
class Layout:
    """Files of one survey."""

    write: Callable[[Path, Sequence[Scene]], None]
    """Writes the files of all tiles below a folder."""

    most_tiles: int = 2
    """Number of tiles whose names the layout knows."""


LAYOUTS: Mapping[str, Layout] = {
    "des-dr2": Layout(des.write_survey),
    "legacy-dr10": Layout(legacy.write_survey),
    "hsc-pdr3": Layout(lsst.write_hsc),
    "rubin": Layout(lsst.write_rubin),
    "panstarrs1": Layout(panstarrs.write_survey),
    "sdss": Layout(sdss.write_survey),
    "kids": Layout(kids.write_survey),
    "2mass": Layout(ipac.write_2mass),
    "wise": Layout(ipac.write_wise),
    "euclid": Layout(euclid.write_survey),
    "vlass": Layout(vlass.write_survey),
}
"""Layouts by the name of the recipe that ships."""


def make_layout(
    directory: Path, layout: str, *, tiles: int = 1, tile_size: int = 256, objects: int = 40, seed: int = 1
) -> Path:
    """Write a synthetic survey in the layout of a well-known one, with the recipe that ships for this one.

    Parameters
    ----------
    directory : Path
        Folder of the survey; missing or empty.
    layout : str
        One of `LAYOUTS`.
    tiles : int
        Number of tiles, at most `Layout.most_tiles`; they do not overlap.
    tile_size : int
        Side of a tile, px.
    objects : int
        Catalogued objects per tile.
    seed : int
        Seed of the random numbers.

    Returns
    -------
    Path
        The recipe, ``directory/survey.toml``, byte for byte as it ships. It is written last.

    Raises
    ------
    ValueError
        An argument is out of range, or no layout has this name.
    FileExistsError
        The directory is not empty.
    """
    text = recipe_text(layout)
    _check(layout, tiles, tile_size, objects, seed)
    if directory.exists() and any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty: give another folder")
    directory.mkdir(parents=True, exist_ok=True)
    LAYOUTS[layout].write(directory, [draw_scene(number, tile_size, objects, seed) for number in range(tiles)])
    recipe = directory / "survey.toml"
    recipe.write_text(text, encoding="utf-8")
    return recipe


def _check(layout: str, tiles: int, tile_size: int, objects: int, seed: int) -> None:
    most = LAYOUTS[layout].most_tiles
    if not 1 <= tiles <= most:
        raise ValueError(f"{tiles} tiles: the layout {layout} has 1 to {most} tiles")
    if not SMALLEST_TILE <= tile_size <= 10_000:
        raise ValueError(f"a tile of {tile_size} px: ask for {SMALLEST_TILE} to 10000 px")
    if not 1 <= objects <= tile_size**2 // 100:
        raise ValueError(
            f"{objects} objects per tile: a tile of {tile_size} px holds 1 to {tile_size**2 // 100} objects"
        )
    if seed < 0:
        raise ValueError(f"seed {seed} is negative: give a seed of 0 or more")
