"""A tile's colour picture in its shard: small JPEG pictures side by side, each decoded by itself."""

from __future__ import annotations

import io
from collections.abc import Callable

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from archive_builder.errors import ArchiveError, one_line
from archive_builder.geometry import Shape, window_pieces
from archive_builder.store.layout import write_table
from archive_builder.store.lru import Lru

SIDE = 128
"""Side of one JPEG in pixels: the chunks of ``/pixels`` are as large."""

QUALITY = 85
"""JPEG quality, colours at full resolution: 46 MB for a tile of 10,000 px whose STIFF picture has 108 MB.

At 90 it would be 70 MB; halving the colours' resolution at 95 takes 56 MB for no smaller an error.
"""

JPEG_CHUNK = 1 << 16
"""Bytes of JPEGs in one chunk of the dataset."""

CACHED = 256
"""Decoded pictures kept per open shard, 12 MB."""

READ_AT_ONCE = 1 << 24
"""Bytes read at once by who reads all of them."""

NO_PICTURE = (
    OSError,
    UnidentifiedImageError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow raises for a file that is no JPEG, or one that claims to be enormous."""


def write_color(group: h5py.Group, rows: Callable[[int, int], Image.Image], shape: Shape) -> None:
    """Cut a picture up into squares of `SIDE` pixels, row by row from the sky's bottom, and write a JPEG each.

    Writes ``jpeg``, all of them end to end, and ``start``, where each begins and the last one ends. Each one's own
    first row is the sky's bottom too.

    Parameters
    ----------
    group : h5py.Group
    rows : callable
        Gives some of the picture's rows, from the first to before the last; its row 0 is the sky's top, as a TIFF's
        of STIFF is.
    shape : (ny, nx)
        Of the picture.
    """
    height, width = shape
    jpeg = group.create_dataset("jpeg", (0,), np.uint8, maxshape=(None,), chunks=(JPEG_CHUNK,), fletcher32=True)
    start = [0]
    for y in range(0, height, SIDE):
        strip = rows(height - min(y + SIDE, height), height - y)
        jpegs = [_jpeg(strip.crop((x, 0, min(x + SIDE, width), strip.height))) for x in range(0, width, SIDE)]
        jpeg.resize(start[-1] + sum(map(len, jpegs)), axis=0)
        jpeg[start[-1] :] = np.frombuffer(b"".join(jpegs), dtype=np.uint8)
        for one in jpegs:
            start.append(start[-1] + len(one))
    write_table(group, "start", np.array(start, dtype=np.int64))


def _jpeg(square: Image.Image) -> bytes:
    """Return a square as a JPEG, upside down."""
    file = io.BytesIO()
    square.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


class ColorReader:
    """The colour picture of an open shard.

    Parameters
    ----------
    group : h5py.Group
    shape : (ny, nx)
        Of the tile.
    """

    def __init__(self, group: h5py.Group, shape: Shape) -> None:
        self._jpeg, self._start = group["jpeg"], group["start"][...]
        self._shape = shape
        self._columns = -(-shape[1] // SIDE)
        self._squares: Lru[int, NDArray[np.uint8]] = Lru(CACHED)

    def read(self, x0: int, y0: int, shape: Shape) -> NDArray[np.uint8]:
        """Read a window of the picture.

        Returns
        -------
        ndarray of uint8, (ny, nx, 3)
            The first row is the sky's bottom, as in FITS; black off the tile.

        Raises
        ------
        ArchiveError
            The picture is damaged.
        """
        out = np.zeros((*shape, 3), dtype=np.uint8)
        for row, column, inside, place in window_pieces(x0, y0, shape, self._shape, SIDE):
            out[place] = self._squares.get(row * self._columns + column, self._read_square)[inside]
        return out

    def read_through(self) -> None:
        """Read every byte of the JPEGs."""
        for first in range(0, len(self._jpeg), READ_AT_ONCE):
            self._jpeg[first : first + READ_AT_ONCE]

    def _size(self, number: int) -> tuple[int, int]:
        """Return the width and height that a square must have."""
        row, column = divmod(number, self._columns)
        return min(SIDE, self._shape[1] - column * SIDE), min(SIDE, self._shape[0] - row * SIDE)

    def _read_square(self, number: int) -> NDArray[np.uint8]:
        """Return one decoded square."""
        try:
            data = self._jpeg[self._start[number] : self._start[number + 1]]
            with Image.open(io.BytesIO(data.tobytes()), formats=["JPEG"]) as picture:
                if picture.size != self._size(number):
                    raise ArchiveError(f"a square of {picture.size} px")
                return np.asarray(picture.convert("RGB"))
        except NO_PICTURE as error:
            raise ArchiveError(one_line(error)) from None
