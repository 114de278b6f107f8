"""A tile's colour picture, as STIFF makes it."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from archive_builder.errors import TileError, one_line
from archive_builder.geometry import Shape


def read_picture(path: Path, shape: Shape) -> Image.Image:
    """Read a tile's colour picture; its first row is the sky's top.

    Parameters
    ----------
    path : Path
        A TIFF, PNG or JPEG.
    shape : (ny, nx)
        Of the tile, which the picture must have too.

    Returns
    -------
    PIL.Image.Image
        8-bit RGB.

    Raises
    ------
    TileError
        The file cannot be read, or is not the tile's size.
    """
    # Pillow refuses large pictures by their size alone, and a tile is one; here the size is known beforehand.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with warnings.catch_warnings():
            # Of a damaged file it also warns, before it gives up or goes on.
            warnings.simplefilter("ignore", UserWarning)
            with Image.open(path, formats=["TIFF", "PNG", "JPEG"]) as picture:
                if picture.size != shape[::-1]:
                    raise TileError(
                        f"{path}: the colour picture is {picture.size[0]} x {picture.size[1]} px but the tile "
                        f"{shape[1]} x {shape[0]}: make it anew, or leave out survey.color"
                    )
                if picture.mode not in ("RGB", "RGBA", "L"):
                    raise TileError(
                        f"{path}: the colour picture is of mode {picture.mode}, not 8-bit RGB: make it anew"
                    )
                return picture.convert("RGB") if picture.mode != "RGB" else _loaded(picture)
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise TileError(f"{path}: the colour picture cannot be read ({one_line(error)}): make it anew") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _loaded(picture: Image.Image) -> Image.Image:
    """Return a picture with its pixels read; they outlive the file."""
    picture.load()
    return picture
