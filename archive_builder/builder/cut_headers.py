"""Check of the headers that cutouts of a tile will have: their WCS must be the tile's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from archive_builder.errors import TileError, one_line
from archive_builder.geometry import pixel_to_sky, sky_to_pixel
from archive_builder.store.headers import HeaderTemplate, image_cards
from archive_builder.survey.fits_warnings import quiet_astropy
from archive_builder.survey.headers import WCS_CARDS
from archive_builder.survey.tile import WCS_TOLERANCE, Tile


def header_texts(tile: Tile) -> dict[str, list[str]]:
    """Return the header of each band's image as text, by plane, one card a line."""
    return {
        plane: [header.tostring(sep="\n", endcard=False, padding=False) for header in headers]
        for plane, headers in tile.headers.items()
    }


def check_cut_headers(tile: Tile, headers: Sequence[str], size: int) -> None:
    """Compare the WCS of cutouts with the tile's, in two windows of the tile and every band.

    A cut moves CRPIX and a few further cards. The header of some formats holds the position of the pixels in other
    cards: the sky of their cutouts would be wrong.

    Parameters
    ----------
    tile : Tile
    headers : sequence of str
        Header of each band's image, one card a line.
    size : int
        Side of a cutout, px.

    Raises
    ------
    TileError
        A cutout's WCS differs from the tile's by more than `archive_builder.survey.tile.WCS_TOLERANCE`.
    """
    ny, nx = tile.shape
    seen: set[tuple[str, ...]] = set()
    for band, text in zip(tile.bands, headers, strict=True):
        solution = tuple(card for card in text.split("\n") if WCS_CARDS.fullmatch(card[:8].rstrip()))
        if solution in seen:
            continue  # the bands of most surveys have the same WCS
        seen.add(solution)
        for origin in ((nx // 4, ny // 3), (nx // 2 + 1, ny - ny // 4)):
            offset = cut_offset(tile, text, origin, size)
            if not offset <= WCS_TOLERANCE:
                raise TileError(
                    f"band {band}: the WCS of a cutout would be off the tile's by {offset:.3g} px, because the tile's "
                    "header holds positions in cards that a cut cannot move: replace its WCS by one with CRPIX"
                )


def cut_offset(tile: Tile, text: str, origin: tuple[int, int], size: int) -> float:
    """Return the largest distance between a cutout's WCS and the tile's, px; NaN if the cutout has no usable WCS.

    Parameters
    ----------
    tile : Tile
    text : str
        Header of the tile's image as the archive stores it, one card a line.
    origin : tuple of int
        First column and row of the cutout on the tile.
    size : int
        Side of the cutout, px.

    Raises
    ------
    TileError
        The header of the cutout cannot be parsed.
    """
    inside = np.array([0.0, (size - 1) / 2, size - 1.0])
    x, y = (axis.ravel() for axis in np.meshgrid(inside, inside))
    ra, dec = pixel_to_sky(tile.wcs, x + origin[0], y + origin[1])
    on_sky = np.isfinite(ra)
    try:
        with quiet_astropy():
            cards = HeaderTemplate.of_tile(text).fill(image_cards("SCI", (size, size), -32), origin, [])
            wcs = WCS(fits.Header.fromstring(cards))
            back_x, back_y = sky_to_pixel(wcs, (size, size), ra[on_sky], dec[on_sky])
    except Exception as error:  # astropy raises many classes for a header that it cannot use
        raise TileError(f"the header of a cutout cannot be used ({one_line(error)}): correct the header") from None
    return float(np.hypot(back_x - x[on_sky], back_y - y[on_sky]).max(initial=0.0))
